"""MinHash over the non-zero columns of CSR rows: the column of least mixed rank.

Work per non-zero and hash: one 64-bit mixing function (two multiplies), vectorised over the hashes.
"""

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.join import to_bucket


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def mix(key):  # uint64 -> uint64: the finaliser of SplitMix64
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@njit(nogil=True, cache=True, error_model="numpy")
def minhash_codes(
    data,  # in   (n_non_zeros,) float64: CSR rows, columns ascending; stored zeros do not count
    indices,  # in   (n_non_zeros,)
    indptr,  # in   (n_rows + 1,)
    seeds,  # in   (n_hashes,) uint64
    multipliers,  # in   (1, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,
    last,
    codes,  # out  (last - first, n_rows) uint32
):
    per_repetition = seeds.size // shifts.size
    begin, end = first * per_repetition, last * per_repetition
    ranks = np.empty(end - begin, np.uint64)
    cells = np.empty(end - begin, np.uint64)
    for i in range(indptr.size - 1):
        ranks[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
        cells[:] = 0
        for position in range(indptr[i], indptr[i + 1]):
            if data[position] == 0:
                continue
            cell = np.uint64(indices[position]) + np.uint64(1)
            column = mix(cell)
            for h in range(begin, end):
                rank = mix(column ^ seeds[h])
                if rank < ranks[h - begin]:
                    ranks[h - begin] = rank
                    cells[h - begin] = cell
        for repetition in range(first, last):
            code = shifts[repetition]
            for h in range(repetition * per_repetition, (repetition + 1) * per_repetition):
                code += cells[h - begin] * multipliers[0, h]
            codes[repetition - first, i] = to_bucket(code, n_buckets, rehashed)
