"""Cells of random grids: floor(x * scale + offset), one per feature, in float64.

Rows are loaded in panels, one feature after the other in memory; a panel's cells of a repetition
are joined in registers (vectors.py). Per row, repetition and feature: one multiply, add, floor, conversion
and 64-bit multiply. Whole blocks of rows take less time in float32, where that is sure: see grid_blocks.py.
"""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.join import SPARSE_ROWS, to_buckets_of_tile
from nwsketch.backends.numba_kernels.vectors import (
    LANES,
    as_long_words,
    floor,
    load,
    multiply_add,
    splat,
    store_buckets,
)

#: Panels that are loaded before any is hashed, if their features take at most so many floats: a repetition's
#: codes are written in longer pieces then.
PANELS, LOADED_FLOATS = 16, 2**15

_0, _1, _LANES = np.uint64(0), np.uint64(1), np.uint64(LANES)


@njit(nogil=True, cache=True, error_model="numpy")
def grid_codes(
    rows,  # in   (n_rows, n_features) float32 or float64
    begin,  # the rows wanted: begin <= row < end
    end,
    scales,  # in   (n_features, n_hashes) float64, in Fortran's order
    offsets,  # in   (n_features, n_hashes) float64, in [0, 1), in Fortran's order
    multipliers,  # in   (n_features, n_hashes) uint64, in Fortran's order
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,  # uint64
    first,  # the repetitions wanted: first <= repetition < last
    last,
    codes,  # out  (last - first, n_rows) uint16 or uint32, of which the rows wanted are written
):
    n_features, n_rows = np.uint64(rows.shape[1]), np.uint64(codes.shape[1])
    n_terms = np.uint64(scales.shape[1] // shifts.size) * n_features  # of a repetition
    all_scales, all_offsets = scales.T.reshape(-1), offsets.T.reshape(-1)
    all_multipliers, all_codes = multipliers.T.reshape(-1), codes.reshape(-1)
    width = n_features * _LANES  # of a panel
    n_panels = max(min(LOADED_FLOATS // (rows.shape[1] * LANES), PANELS, -(-(end - begin) // LANES)), 1)
    features = np.zeros(np.uint64(n_panels) * width)
    last_codes = np.empty(LANES, codes.dtype)
    for start in range(begin, end, n_panels * LANES):
        size = min(n_panels * LANES, end - start)
        for i in range(size):
            place = np.uint64(i // LANES) * width + np.uint64(i % LANES)
            for j in range(n_features):
                features[place + j * _LANES] = rows[start + i, j]
        for repetition in range(first, last):
            place, shift = (
                np.uint64(repetition - first) * n_rows + np.uint64(start),
                splat(shifts[repetition]),
            )
            first_term = np.uint64(repetition) * n_terms
            for v in range(-(-size // LANES)):
                code, t = shift, first_term
                panel = np.uint64(v) * width
                while t < first_term + n_terms:
                    for p in range(panel, panel + width, _LANES):
                        position = load(features, p) * splat(all_scales[t]) + splat(all_offsets[t])
                        code = multiply_add(as_long_words(floor(position)), splat(all_multipliers[t]), code)
                        t += _1
                if (v + 1) * LANES <= size:
                    store_buckets(all_codes, place, code, n_buckets)
                    place += _LANES
                else:
                    store_buckets(last_codes, _0, code, n_buckets)
                    for i in range(size - v * LANES):
                        codes[repetition - first, start + v * LANES + i] = last_codes[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _add_cells_of_feature(x, scales, offsets, multipliers, joined):
    for h in range(joined.size):
        cell = np.int64(math.floor(x * scales[h] + offsets[h]))
        joined[h] += np.uint64(cell) * multipliers[h]


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
