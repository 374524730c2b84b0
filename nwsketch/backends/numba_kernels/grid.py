"""Cells of random grids: floor(x * scale + offset), one per feature.

Work per row, repetition and feature: one multiply, add, floor, conversion and 64-bit multiply, vectorised
over the rows of a tile, four features at a time, so that partial codes are read and written a quarter as
often. Flat arrays and unsigned indices: see structured.py.
"""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.join import SPARSE_ROWS, to_buckets, to_buckets_of_tile

#: Rows handled at a time: their partial codes, and their features if there are few, stay in the first cache.
ROWS = 256
#: Few rows are padded to a multiple of this, as many as a vector holds.
LANES = 8

_R0, _R1, _R2, _R3 = (np.uint64(i * ROWS) for i in range(4))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _term(x, scale, offset, multiplier):
    return np.uint64(np.int64(math.floor(x * scale + offset))) * multiplier


@njit(nogil=True, cache=True, error_model="numpy")
def _add_cells(x, scale, offset, multiplier, n_rows, joined):
    for i in range(n_rows):
        joined[i] += _term(x[i], scale, offset, multiplier)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_cells_of_four(x, scales, offsets, multipliers, j, h, n_rows, joined):
    s0, s1, s2, s3 = scales[j, h], scales[j + 1, h], scales[j + 2, h], scales[j + 3, h]
    o0, o1, o2, o3 = offsets[j, h], offsets[j + 1, h], offsets[j + 2, h], offsets[j + 3, h]
    m0, m1, m2, m3 = multipliers[j, h], multipliers[j + 1, h], multipliers[j + 2, h], multipliers[j + 3, h]
    for i in range(n_rows):
        joined[i] += (_term(x[i], s0, o0, m0) + _term(x[_R1 + i], s1, o1, m1)) + (
            _term(x[_R2 + i], s2, o2, m2) + _term(x[_R3 + i], s3, o3, m3)
        )


@njit(nogil=True, cache=True, error_model="numpy")
def grid_codes(
    rows,  # in   (n_rows, n_features) float32 or float64
    begin,  # the rows wanted: begin <= row < end
    end,
    scales,  # in   (n_features, n_hashes) float64
    offsets,  # in   (n_features, n_hashes) float64, in [0, 1)
    multipliers,  # in   (n_features, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,  # the repetitions wanted: first <= repetition < last
    last,
    codes,  # out  (last - first, n_rows) uint16 or uint32, of which the rows wanted are written
):
    n_features = rows.shape[1]
    per_repetition = scales.shape[1] // shifts.size
    joined, features = np.empty(ROWS, np.uint64), np.zeros(n_features * ROWS)
    for start in range(begin, end, ROWS):
        size = min(ROWS, end - start)
        n_rows = np.uint64(-(-size // LANES) * LANES)
        for i in range(size):
            for j in range(n_features):
                features[j * ROWS + i] = rows[start + i, j]
        for repetition in range(first, last):
            joined[:size] = shifts[repetition]
            for h in range(repetition * per_repetition, (repetition + 1) * per_repetition):
                for j in range(0, n_features - 3, 4):
                    _add_cells_of_four(
                        features[j * ROWS :], scales, offsets, multipliers, j, h, n_rows, joined
                    )
                for j in range(n_features - n_features % 4, n_features):
                    _add_cells(
                        features[j * ROWS :], scales[j, h], offsets[j, h], multipliers[j, h], n_rows, joined
                    )
            to_buckets(joined[:size], n_buckets, rehashed, codes[repetition - first, start : start + size])


@njit(nogil=True, cache=True, error_model="numpy")
def _add_cells_of_feature(x, scales, offsets, multipliers, joined):
    for h in range(joined.size):
        joined[h] += _term(x, scales[h], offsets[h], multipliers[h])


@njit(nogil=True, cache=True, error_model="numpy")
def sparse_grid_codes(
    data,  # in   (n_non_zeros,) float64: CSR rows
    indices,  # in   (n_non_zeros,)
    indptr,  # in   (n_rows + 1,)
    begin,  # the rows wanted: begin <= row < end
    end,
    scales,  # in   (n_features, n_hashes) float64
    offsets,  # in   (n_features, n_hashes) float64, in [0, 1): a zero lies in cell 0
    multipliers,  # in   (n_features, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,
    last,
    codes,  # out  (last - first, n_rows) uint16 or uint32, of which the rows wanted are written
):
    per_repetition = scales.shape[1] // shifts.size
    first_hash, last_hash = first * per_repetition, last * per_repetition
    joined = np.empty(last_hash - first_hash, np.uint64)
    tile = np.empty((last - first, min(SPARSE_ROWS, end - begin)), np.uint64)
    for start in range(begin, end, SPARSE_ROWS):
        size = min(SPARSE_ROWS, end - start)
        for i in range(size):
            joined[:] = 0
            for position in range(indptr[start + i], indptr[start + i + 1]):
                j = indices[position]
                _add_cells_of_feature(
                    data[position],
                    scales[j, first_hash:last_hash],
                    offsets[j, first_hash:last_hash],
                    multipliers[j, first_hash:last_hash],
                    joined,
                )
            for repetition in range(last - first):
                code = shifts[first + repetition]
                for k in range(repetition * per_repetition, (repetition + 1) * per_repetition):
                    code += joined[k]
                tile[repetition, i] = code
        to_buckets_of_tile(tile, start, size, n_buckets, rehashed, codes)
