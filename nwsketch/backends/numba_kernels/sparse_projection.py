"""Cells of projections of sparse rows: in float64, feature by feature, at the cost of the non-zeros."""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.exact import exact_shrink
from nwsketch.backends.numba_kernels.join import SPARSE_ROWS, to_buckets_of_tile


@njit(nogil=True, cache=True, error_model="numpy")
def _add_feature(x, directions, projections):
    for h in range(projections.size):
        projections[h] += x * directions[h]


@njit(nogil=True, cache=True, error_model="numpy")
def sparse_projection_codes(
    data,  # in   (n_non_zeros,) float64: CSR rows, columns ascending
    indices,  # in   (n_non_zeros,)
    indptr,  # in   (n_rows + 1,)
    begin,  # the rows wanted: begin <= row < end
    end,
    directions,  # in   (n_features, n_hashes) float64
    offsets,  # in   (n_hashes,) float64; not read if signs are wanted
    signs,  # whether cells are signs (else floors)
    multipliers,  # in   (1, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,
    last,
    codes,  # out  (last - first, n_rows) uint16 or uint32, of which the rows wanted are written
):
    per_repetition = directions.shape[1] // shifts.size
    first_hash, last_hash = first * per_repetition, last * per_repetition
    projections = np.empty(last_hash - first_hash)
    tile = np.empty((last - first, min(SPARSE_ROWS, end - begin)), np.uint64)
    for start in range(begin, end, SPARSE_ROWS):
        size = min(SPARSE_ROWS, end - start)
        for i in range(size):
            projections[:] = 0.0
            columns = range(indptr[start + i], indptr[start + i + 1])
            shrink = exact_shrink(data[columns.start : columns.stop], len(columns)) if signs else 1.0
            for position in columns:
                own = directions[indices[position], first_hash:last_hash]
                _add_feature(data[position] * shrink, own, projections)
            for repetition in range(first, last):
                code = shifts[repetition]
                for h in range(repetition * per_repetition, (repetition + 1) * per_repetition):
                    if signs:
                        code += multipliers[0, h] if projections[h - first_hash] >= 0 else np.uint64(0)
                    else:
                        cell = math.floor(projections[h - first_hash] + offsets[h])
                        code += np.uint64(np.int64(cell)) * multipliers[0, h]
                tile[repetition - first, i] = code
        to_buckets_of_tile(tile, start, size, n_buckets, rehashed, codes)
