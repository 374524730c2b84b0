"""Cells of random grids: floor(x * scale + offset), one per feature.

Work per row, repetition and feature: one multiply, add, floor, conversion and 64-bit multiply,
vectorised over the rows of a tile; about as fast as computing the cells alone.
"""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.join import TILE, to_bucket, to_buckets


@njit(nogil=True, cache=True, error_model="numpy")
def _add_cells(x, scale, offset, multiplier, joined):
    for i in range(x.size):
        joined[i] += np.uint64(np.int64(math.floor(x[i] * scale + offset))) * multiplier


@njit(nogil=True, cache=True, error_model="numpy")
def grid_codes(
    features,  # in   (n_features, n_rows) float64
    scales,  # in   (n_features, n_hashes) float64
    offsets,  # in   (n_features, n_hashes) float64, in [0, 1)
    multipliers,  # in   (n_features, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,  # the repetitions wanted: first <= repetition < last
    last,
    codes,  # out  (last - first, n_rows) uint32
):
    n_features, n_rows = features.shape
    per_repetition = scales.shape[1] // shifts.size
    joined = np.empty(TILE, np.uint64)
    for start in range(0, n_rows, TILE):
        stop = min(start + TILE, n_rows)
        tile = joined[: stop - start]
        for repetition in range(first, last):
            tile[:] = shifts[repetition]
            for h in range(repetition * per_repetition, (repetition + 1) * per_repetition):
                for j in range(n_features):
                    _add_cells(features[j, start:stop], scales[j, h], offsets[j, h], multipliers[j, h], tile)
            to_buckets(tile, n_buckets, rehashed, codes[repetition - first, start:stop])


@njit(nogil=True, cache=True, error_model="numpy")
def sparse_grid_codes(
    data,  # in   (n_non_zeros,) float64: CSR rows
    indices,  # in   (n_non_zeros,)
    indptr,  # in   (n_rows + 1,)
    scales,  # in   (n_features, n_hashes) float64
    offsets,  # in   (n_features, n_hashes) float64, in [0, 1): a zero lies in cell 0
    multipliers,  # in   (n_features, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,
    last,
    codes,  # out  (last - first, n_rows) uint32
):
    per_repetition = scales.shape[1] // shifts.size
    begin, end = first * per_repetition, last * per_repetition
    joined = np.empty(end - begin, np.uint64)
    for i in range(indptr.size - 1):
        joined[:] = 0
        for position in range(indptr[i], indptr[i + 1]):
            j, x = indices[position], data[position]
            for h in range(begin, end):
                cell = np.uint64(np.int64(math.floor(x * scales[j, h] + offsets[j, h])))
                joined[h - begin] += cell * multipliers[j, h]
        for repetition in range(first, last):
            code = shifts[repetition]
            for k in range(per_repetition):
                code += joined[(repetition - first) * per_repetition + k]
            codes[repetition - first, i] = to_bucket(code, n_buckets, rehashed)
