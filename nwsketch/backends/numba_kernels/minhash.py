"""MinHash over the non-zero columns of CSR rows: the column of least mixed rank.

Work per non-zero and hash: one 64-bit mixing function (two multiplies), vectorised over the hashes.
"""

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.join import SPARSE_ROWS, to_buckets_of_tile


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def mix(key):  # uint64 -> uint64: the finaliser of SplitMix64
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@njit(nogil=True, cache=True, error_model="numpy")
def _add_column(column, cell, seeds, ranks, cells):
    for h in range(seeds.size):
        rank = mix(column ^ seeds[h])
        comes_first = rank < ranks[h]
        cells[h] = cell if comes_first else cells[h]  # selects, not a branch, which would not vectorise
        ranks[h] = rank if comes_first else ranks[h]


@njit(nogil=True, cache=True, error_model="numpy")
def minhash_codes(
    data,  # in   (n_non_zeros,) float64: CSR rows, columns ascending; stored zeros do not count
    indices,  # in   (n_non_zeros,)
    indptr,  # in   (n_rows + 1,)
    begin,  # the rows wanted: begin <= row < end
    end,
    seeds,  # in   (n_hashes,) uint64
    multipliers,  # in   (1, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,
    last,
    codes,  # out  (last - first, n_rows) uint16 or uint32, of which the rows wanted are written
):
    per_repetition = seeds.size // shifts.size
    first_hash, last_hash = first * per_repetition, last * per_repetition
    ranks = np.empty(last_hash - first_hash, np.uint64)
    cells = np.empty(last_hash - first_hash, np.uint64)
    tile = np.empty((last - first, min(SPARSE_ROWS, end - begin)), np.uint64)
    for start in range(begin, end, SPARSE_ROWS):
        size = min(SPARSE_ROWS, end - start)
        for i in range(size):
            ranks[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
            cells[:] = 0
            for position in range(indptr[start + i], indptr[start + i + 1]):
                if data[position] == 0:
                    continue
                cell = np.uint64(indices[position]) + np.uint64(1)
                _add_column(mix(cell), cell, seeds[first_hash:last_hash], ranks, cells)
            for repetition in range(first, last):
                code = shifts[repetition]
                for h in range(repetition * per_repetition, (repetition + 1) * per_repetition):
                    code += cells[h - first_hash] * multipliers[0, h]
                tile[repetition - first, i] = code
        to_buckets_of_tile(tile, start, size, n_buckets, rehashed, codes)
