"""Cells of random grids, of many rows: in float32, with float64 where that is in doubt.

Rows are loaded in blocks of eight vectors, one feature after the other in memory; a block's cells of a
repetition are made and joined in registers, as fixed points (fixed_points.py). Per row, repetition and
feature: a multiply-add, a shift, a 32-bit multiply-add, a mask and a minimum. Codes in doubt, some in ten
thousand, are made again in float64; so are rows that do not fill a block, and blocks of too large numbers.
"""

from collections import namedtuple

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.exact import exact_grid_code
from nwsketch.backends.numba_kernels.fixed_points import below, carry_margins, near_edges, point
from nwsketch.backends.numba_kernels.grid import grid_codes
from nwsketch.backends.numba_kernels.join import to_bucket
from nwsketch.backends.numba_kernels.panels import PADDING, aligned
from nwsketch.backends.numba_kernels.vectors import (
    LANES,
    ORDER,
    align_stack,
    bits,
    block_of,
    first_lane,
    lanes_not_above,
    larger_magnitude,
    lesser,
    load,
    load_block,
    load_column,
    masked,
    multiply_add,
    narrowed,
    pointer,
    reals,
    shift_right,
    splat,
    store,
    store_block,
    store_buckets_of_high,
    widened,
)

#: Rows of a block.
BLOCK = ORDER * LANES
#: Blocks that are loaded before any is hashed, if their features take at most so many floats: a repetition's
#: codes are written in longer pieces then.
BLOCKS, LOADED_FLOATS = 4, 2**15
#: The largest error of a fixed point, rounded up, in units of its last digit: 1/2 for rounding it, 1/2 for
#: what it begins with, 1/2 for the feature and the scale together, 1/4 where products are rounded, too.
ERROR = 2

#: What float32 needs of the grids: see grid_codes_by_block.
Grids = namedtuple("Grids", "scales offsets multipliers shifts sums reaches carries")

_0, _1, _LANES, _BLOCK = np.uint64(0), np.uint64(1), np.uint64(LANES), np.uint64(BLOCK)


@njit(nogil=True, cache=True, error_model="numpy")
def grid_codes_by_block(
    rows,  # in   (n_rows, n_features) float32 or float64
    begin,  # the rows wanted: begin <= row < end
    end,
    units,  # in   (n_features,) float64: what features are multiplied by when they are loaded
    limit,  # blocks of larger numbers would have less than LEAST_DIGITS, and too many codes in doubt
    short_scales,  # in   (n_terms,) float32: divided by units; terms are all features of the first hash, then
    # those of the second, ...
    short_offsets,  # in   (n_terms,) float32
    high_multipliers,  # in   (n_terms,) uint32: high halves of multipliers
    high_shifts,  # in   (n_repetitions,) uint32
    high_sums,  # in   (n_repetitions,) uint32: less the sum of a repetition's high multipliers
    reaches,  # in   (n_repetitions,) float32: largest of the short scales
    carries,  # in   (n_repetitions, 2) float32, flat: n_buckets times the largest carry of joined cells, by
    # the largest feature, and what has to be added to it
    scales,  # in   this and what follows: see grid_codes
    offsets,
    multipliers,
    shifts,
    n_buckets,
    first,
    last,
    codes,
):
    grids = Grids(short_scales, short_offsets, high_multipliers, high_shifts, high_sums, reaches, carries)
    in_float64, wanted = (scales, offsets, multipliers, shifts), (n_buckets, first, last, codes)
    width = rows.shape[1] * BLOCK
    n_blocks = max(min(LOADED_FLOATS // width, BLOCKS, (end - begin) // BLOCK), 1)
    features = aligned(np.empty(n_blocks * width + PADDING, np.float32))
    sizes = np.empty(n_blocks, np.float32)
    start = begin
    while end - start >= BLOCK:
        n_loaded = min((end - start) // BLOCK, n_blocks)
        for b in range(n_loaded):
            sizes[b] = _load_block(rows, start + b * BLOCK, units, features[b * width : (b + 1) * width])
        _hash_blocks(rows, start, features, sizes[:n_loaded], limit, grids, in_float64, *wanted)
        for b in range(n_loaded):
            place = start + b * BLOCK
            if not sizes[b] < limit:
                grid_codes(rows, place, place + BLOCK, *in_float64, *wanted)
        start += n_loaded * BLOCK
    if start < end:
        grid_codes(rows, start, end, *in_float64, *wanted)


@njit(nogil=True, cache=True, error_model="numpy")
def _load_block(
    rows,
    start,  # the first row of the block
    units,
    features,  # out  (n_features * BLOCK,) float32
):  # float32: the largest number, rounded up
    n_features, largest = np.uint64(rows.shape[1]), splat(0.0)
    for v in range(np.uint64(ORDER)):
        source = pointer(rows, (np.uint64(start) + v * _LANES) * n_features)
        for j in range(n_features):
            x = widened(load_column(source, j, n_features)) * splat(units[j])
            store(features, j * _BLOCK + v * _LANES, narrowed(x))
            largest = larger_magnitude(largest, x)
    magnitudes = np.empty(LANES)
    store(magnitudes, _0, largest)
    return np.float32(magnitudes.max() * 1.000001)


@njit(nogil=True, cache=True, error_model="numpy")
def _hash_blocks(
    rows,
    start,  # the first row of the first block
    features,  # in   (>= n_blocks * n_features * BLOCK,) float32: see _load_block
    sizes,  # in   (n_blocks,) float32: no feature of a block is larger
    limit,
    grids,
    in_float64,
    n_buckets,
    first,
    last,
    codes,
):
    align_stack()
    n_rows, width = np.uint64(codes.shape[1]), np.uint64(rows.shape[1]) * _BLOCK
    n_terms = np.uint64(grids.scales.size // grids.shifts.size)  # of a repetition
    all_codes = codes.reshape(-1)
    joins, nearests = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    for r in range(np.uint64(first), np.uint64(last)):
        first_term = r * n_terms
        for b in range(sizes.size):
            if not sizes[b] < limit:
                continue
            size = splat(sizes[b])
            center, n_digits = point(multiply_add(size, splat(grids.reaches[r]), splat(np.float32(2))))
            mask, begins = below(n_digits), reals(center + splat(np.uint32(ERROR)))
            # What stands for zero is taken off at once.
            zeros = shift_right(center, n_digits)
            joined = block_of(multiply_add(zeros, splat(grids.sums[r]), splat(grids.shifts[r])))
            nearest, t = block_of(mask), first_term
            while t < first_term + n_terms:
                for p in range(np.uint64(b) * width, np.uint64(b + 1) * width, _BLOCK):
                    scale, begins_here = splat(grids.scales[t]), begins + splat(grids.offsets[t])
                    x = load_block(features, p, _LANES)
                    points = bits(multiply_add(x, block_of(scale), block_of(begins_here)))
                    cells = shift_right(points, block_of(n_digits))
                    joined = multiply_add(cells, block_of(splat(grids.multipliers[t])), joined)
                    nearest = lesser(masked(points, block_of(mask)), nearest)
                    t += _1
            place = start + b * BLOCK
            at = (r - np.uint64(first)) * n_rows + np.uint64(place)
            store_buckets_of_high(all_codes, at, _LANES, joined, n_buckets)
            by_size, constant = splat(grids.carries[r + r]), splat(grids.carries[r + r + _1])
            margins = carry_margins(block_of(size), block_of(by_size), block_of(constant))
            if _doubts(nearest, joined, margins, n_buckets) != 0:
                store_block(joins, _0, _LANES, joined)
                store_block(nearests, _0, _LANES, nearest)
                _mend(rows, place, nearests, joins, margins[0], in_float64, n_buckets, r, at, all_codes)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _doubts(nearest, joined, margins, n_buckets):
    # uint64: bit i is 1 if any of row i's cells may be another, or the carry of any of its joined cells.
    doubtful = block_of(splat(np.uint32(2 * ERROR)))
    return lanes_not_above(nearest, doubtful) | near_edges(joined, margins, n_buckets)


@njit(nogil=True, cache=True, error_model="numpy")
def _mend(
    rows,
    place,  # the first row of the block
    nearest,  # in   (BLOCK,) uint32: the least of what lies behind a row's points
    joined,  # in   (BLOCK,) uint32: high halves of its joined cells
    margin,  # vector, the same for all
    in_float64,
    n_buckets,
    repetition,
    at,  # the place of the block's first code
    codes,  # in/out  those that may be others are mended
):
    # In a function of its own, lest registers be kept free for what is rare.
    scales, offsets, multipliers, shifts = in_float64
    per_repetition = scales.shape[1] // shifts.size
    grids = (scales, offsets, multipliers, shifts[repetition])
    hashes = (repetition * per_repetition, (repetition + 1) * per_repetition)
    for v in range(0, BLOCK, LANES):
        own, joins = load(nearest, np.uint64(v)), load(joined, np.uint64(v))
        doubts = _doubts(block_of(own), block_of(joins), block_of(margin), n_buckets)
        while doubts != 0:
            i = v + first_lane(doubts)
            doubts &= doubts - _1
            code = exact_grid_code(rows[place + i], *grids, *hashes)
            codes[at + np.uint64(i)] = to_bucket(code, n_buckets, True)
