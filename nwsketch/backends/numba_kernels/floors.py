"""Codes from floors of projections, mended where float32 is not sure of them.

Positions, projections plus their offsets, become fixed points, and cells are joined in 32 bits, all in
registers (fixed_points.py). A cell whose position is nearer to its edge than its error is made again in
float64, and what was joined is corrected; cells whose carry is in doubt are joined again, in 64 bits.
"""

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.exact import exact_cell
from nwsketch.backends.numba_kernels.fixed_points import (
    DIGITS,
    ROUNDING,
    below,
    carry_margins,
    near_edges,
    point,
)
from nwsketch.backends.numba_kernels.join import to_bucket
from nwsketch.backends.numba_kernels.panels import (
    PADDING,
    PAIR,
    aligned,
    by_pointers,
    project_pair,
    project_pair_by_few,
    row_of,
)
from nwsketch.backends.numba_kernels.vectors import (
    LANES,
    ORDER,
    align_stack,
    as_words,
    bits,
    block_of,
    first_lane,
    lanes_not_above,
    least,
    lesser,
    load,
    load_block,
    masked,
    multiply_add,
    pointer,
    reals,
    shift_right,
    splat,
    splat_block,
    store,
    store_block,
    store_buckets_of_high,
    subtract,
)

#: What there is of a row besides its features, a vector each for a panel: see load_rulers.
CENTER, N_DIGITS, DOUBTFUL, RULERS = 0, 1, 2, 3

_0, _1, _ORDER, _LANES = np.uint64(0), np.uint64(1), np.uint64(ORDER), np.uint64(LANES)
_BLOCK = np.uint64(ORDER * LANES)
_CENTER, _N_DIGITS, _DOUBTFUL = (np.uint64(which) * _LANES for which in (CENTER, N_DIGITS, DOUBTFUL))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _ruler(rulers, v, which):
    return load(rulers, np.uint64(v * RULERS + which) * _LANES)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _starts(hashes, block):  # what the sums of a block begin with, so that projections include offsets
    return splat_block(hashes.starts, np.uint64(block) * _ORDER)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _fixed_points(center, projections, hashes, block):
    lengths = splat_block(hashes.lengths, np.uint64(block) * _ORDER)
    return bits(multiply_add(projections, lengths, block_of(reals(center))))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _margins(norms, v, hashes, stack):  # of the repetitions of a stack
    sizes, first = block_of(load(norms, np.uint64(v) * _LANES)), np.uint64(2 * stack * ORDER)
    return carry_margins(
        sizes, splat_block(hashes.carries, first), splat_block(hashes.carries, first + _ORDER)
    )


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _margins_of(norms, v, hashes, stack, o):  # of one, eight times
    sizes, first = block_of(load(norms, np.uint64(v) * _LANES)), np.uint64(2 * stack * ORDER + o)
    by_norm, constant = splat(hashes.carries[first]), splat(hashes.carries[first + _ORDER])
    return carry_margins(sizes, block_of(by_norm), block_of(constant))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _own_cells(panels, rulers, hashes, stack, v, o, i, k, points):
    # The cell of row i by hash k of repetition o of a stack: int64, as it was joined; int64, as it is; and
    # whether it may be another, by the error of its own hash, which may be much less than the largest of all.
    block, own = stack * hashes.n_blocks + k, points[(k * ORDER + o) * LANES + i]
    n_digits = rulers[N_DIGITS * LANES + i] - hashes.exponents[block]
    mask = (np.uint32(1) << n_digits) - np.uint32(1)
    behind, cell = own & mask, np.int64(own >> n_digits) - np.int64(rulers[CENTER * LANES + i] >> n_digits)
    doubtful = rulers[DOUBTFUL * LANES + i]  # points were made larger by half of it: there is the edge
    if behind > doubtful:
        return cell, cell, False
    error = panels.norms[v * LANES + i] * hashes.errors[block * ORDER + o] + hashes.bounds[2]
    units = error * np.float32(np.uint32(1) << rulers[N_DIGITS * LANES + i]) + ROUNDING
    distance = np.int64(behind) - np.int64(doubtful >> np.uint32(1))
    return cell, cell - np.int64(distance < 0), abs(distance) <= np.int64(units) or doubtful > mask


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _mend_block(panels, rulers, hashes, stack, v, k, points, joined):  # see mend_cells
    block = stack * hashes.n_blocks + k
    mask = below(load(rulers, _N_DIGITS) - splat(hashes.exponents[block]))
    for o in range(min(ORDER, hashes.n_repetitions - stack * ORDER)):
        own = load(points, np.uint64((k * ORDER + o) * LANES))
        doubts = lanes_not_above(masked(own, mask), load(rulers, _DOUBTFUL))
        while doubts != 0:
            i = first_lane(doubts)
            doubts &= doubts - _1
            if panels.norms[v * LANES + i] > 0:
                joined_cell, cell, doubtful = _own_cells(panels, rulers, hashes, stack, v, o, i, k, points)
                if doubtful:
                    h = (stack * ORDER + o) * hashes.per_repetition + k
                    cell = exact_cell(row_of(panels, v, i), panels.n_features, hashes, h)
                missing = np.uint32(cell - joined_cell)
                joined[o * LANES + i] += missing * hashes.high_multipliers[block * ORDER + o]


@njit(nogil=True, cache=True, error_model="numpy")
def _join_again(panels, rulers, hashes, stack, v, o, i, points):
    # uint64: all bits of the joined cells of row i of a panel, of repetition o of a stack.
    repetition = stack * ORDER + o
    code = hashes.shifts[repetition]
    for k in range(hashes.per_repetition):
        h = repetition * hashes.per_repetition + k
        _, cell, doubtful = _own_cells(panels, rulers, hashes, stack, v, o, i, k, points)
        if doubtful:
            cell = exact_cell(row_of(panels, v, i), panels.n_features, hashes, h)
        code += np.uint64(cell) * hashes.multipliers[h]
    return code


def _flooring(project, by_few):
    """Return hash_by_floors for few chunks, or for whatever there is, and for the function that projects."""

    @njit(nogil=True, cache=True, error_model="numpy", inline="always")
    def project_blocks(features, n_columns, hashes, block, v):
        one, other = _starts(hashes, block), _starts(hashes, block + 1)
        return project(one, other, features, v, n_columns, hashes, block)

    @njit(nogil=True, cache=True, error_model="numpy", inline="always")
    def join_block(joined, projections, center, n_digits, mask, hashes, block, k, points):
        # The joined cells of a block, and the least of what lies behind its points.
        own = _fixed_points(center, projections, hashes, block)
        if by_few:
            cells = shift_right(own, block_of(n_digits))
        else:
            store_block(points, np.uint64(k) * _BLOCK, _LANES, own)
            n_digits = n_digits - splat(hashes.exponents[np.uint64(block)])
            mask = below(n_digits)
            cells = subtract(shift_right(own, block_of(n_digits)), block_of(shift_right(center, n_digits)))
        multipliers = splat_block(hashes.high_multipliers, np.uint64(block) * _ORDER)
        return multiply_add(cells, multipliers, joined), least(own, mask)

    @njit(nogil=True, cache=True, error_model="numpy", inline="always")
    def make_points(panels, rulers, hashes, stack, v, pair, points):  # those of the panel by two blocks
        block, place = stack * hashes.n_blocks + pair * PAIR, np.uint64(pair * PAIR) * _BLOCK
        center = load(rulers, _CENTER)
        one, other = project_blocks(panels.features, panels.n_columns, hashes, block, v)
        store_block(points, place, _LANES, _fixed_points(center, one, hashes, block))
        store_block(points, place + _BLOCK, _LANES, _fixed_points(center, other, hashes, block + 1))

    # What is rare is in functions of its own, lest registers be kept free for it. Points that few operations
    # make are not kept for it either, but made again.

    @njit(nogil=True, cache=True, error_model="numpy")
    def mend_cells(
        panels,
        rulers,  # in   pointer: the panel's
        hashes,
        stack,
        v,  # the panel
        doubts,  # in   pointer, uint64: bit i of element k is 1 if a point of row i by block PAIR * k or the
        # next is in doubt
        points,  # scratch, or in  pointer: n_blocks * ORDER * LANES uint32, those by few chunks made here
        joined,  # in/out  pointer, ORDER * LANES uint32: high halves of joined cells
    ):
        for pair in range(hashes.n_blocks // PAIR):
            if doubts[pair] != 0:
                if by_few:
                    make_points(panels, rulers, hashes, stack, v, pair, points)
                for k in range(pair * PAIR, min((pair + 1) * PAIR, hashes.per_repetition)):
                    _mend_block(panels, rulers, hashes, stack, v, k, points, joined)

    @njit(nogil=True, cache=True, error_model="numpy")
    def mend_carries(
        panels,
        rulers,  # in   pointer: the panel's
        hashes,
        n_buckets,
        stack,
        first,
        last,
        v,  # the panel
        points,  # scratch  as that of mend_cells
        joined,  # in   pointer, ORDER * LANES uint32: high halves of joined cells
        stride,  # codes of a repetition
        codes,  # in/out  pointer: the panel's, of which those that may be others are mended
    ):
        if by_few:
            for pair in range(hashes.n_blocks // PAIR):
                make_points(panels, rulers, hashes, stack, v, pair, points)
        for repetition in range(max(first, stack * ORDER), min(last, (stack + 1) * ORDER)):
            o = repetition - stack * ORDER
            margins = _margins_of(panels.norms, v, hashes, stack, o)
            doubts = near_edges(block_of(load(joined, np.uint64(o) * _LANES)), margins, n_buckets)
            while doubts != 0:
                i = first_lane(doubts)
                doubts &= doubts - _1
                if panels.norms[v * LANES + i] > 0:
                    code = _join_again(panels, rulers, hashes, stack, v, o, i, points)
                    codes[(repetition - first) * stride + i] = to_bucket(code, n_buckets, True)

    @njit(nogil=True, cache=True, error_model="numpy")
    def hash_by_floors(
        rows,  # in   (n_rows, n_features): those of the panels
        features,  # in   (n_panels * n_columns * LANES,) float32: see load_panel
        norms,  # in   (n_panels * LANES,) float32
        rulers,  # in   (n_panels * RULERS * LANES,) uint32: see load_rulers
        hashes,  # see projection.Hashes
        n_buckets,  # uint64
        stack,  # the ORDER repetitions wanted, ...
        first,  # ... but for those outside first <= repetition < last
        last,
        start,  # the place of the first row in codes
        codes,  # out  (last - first, n_rows) uint16 or uint32
    ):
        align_stack()
        panels, n_blocks = by_pointers(rows, features, norms), hashes.n_blocks
        first_repetition = stack * ORDER
        all_codes, some_codes = codes.reshape(-1), np.empty(ORDER * LANES, codes.dtype)
        points = aligned(np.empty(n_blocks * ORDER * LANES + PADDING, np.uint32))
        doubts = np.empty(n_blocks // PAIR, np.uint64)
        sums = np.empty(ORDER * LANES, np.uint32)
        all_wanted = first <= first_repetition and first_repetition + ORDER <= last
        for v in range(norms.size // LANES):
            center, n_digits = _ruler(rulers, v, CENTER), _ruler(rulers, v, N_DIGITS)
            mask, doubtful, any_doubt = below(n_digits), _ruler(rulers, v, DOUBTFUL), _0
            joined = splat_block(hashes.high_shifts, np.uint64(first_repetition))
            if by_few:  # what stands for zero is taken off at once
                high_sums = splat_block(hashes.high_sums, np.uint64(first_repetition))
                joined = multiply_add(block_of(shift_right(center, n_digits)), high_sums, joined)
            for pair in range(n_blocks // PAIR):
                block = stack * n_blocks + pair * PAIR
                one, other = project_blocks(features, panels.n_columns, hashes, block, v)
                k = pair * PAIR
                joined, near = join_block(joined, one, center, n_digits, mask, hashes, block, k, points)
                joined, near_too = join_block(
                    joined, other, center, n_digits, mask, hashes, block + 1, k + 1, points
                )
                doubts[np.uint64(pair)] = lanes_not_above(lesser(near, near_too), doubtful)
                any_doubt |= doubts[np.uint64(pair)]
            own_rulers = pointer(rulers, np.uint64(v * RULERS) * _LANES)
            scratch, own_sums = pointer(points, _0), pointer(sums, _0)
            if any_doubt != 0:
                store_block(sums, _0, _LANES, joined)
                own_doubts = pointer(doubts, _0)
                mend_cells(panels, own_rulers, hashes, stack, v, own_doubts, scratch, own_sums)
                joined = load_block(sums, _0, _LANES)
            if (v + 1) * LANES <= rows.shape[0] and all_wanted:
                place = np.uint64((first_repetition - first) * codes.shape[1] + start + v * LANES)
                store_buckets_of_high(all_codes, place, np.uint64(codes.shape[1]), joined, n_buckets)
            else:
                store_buckets_of_high(some_codes, _0, _LANES, joined, n_buckets)
                for repetition in range(max(first, first_repetition), min(last, first_repetition + ORDER)):
                    for i in range(min(LANES, rows.shape[0] - v * LANES)):
                        code = some_codes[(repetition - first_repetition) * LANES + i]
                        codes[repetition - first, start + v * LANES + i] = code
            margins = _margins_of(norms, v, hashes, stack, 0) if by_few else _margins(norms, v, hashes, stack)
            if near_edges(joined, margins, n_buckets) != 0:
                store_block(sums, _0, _LANES, joined)
                wanted = (n_buckets, stack, first, last)
                own_codes = pointer(all_codes, np.uint64(start + v * LANES))
                places = (scratch, own_sums, codes.shape[1], own_codes)
                mend_carries(panels, own_rulers, hashes, *wanted, v, *places)

    return hash_by_floors


hash_by_floors, hash_by_floors_by_few = _flooring(project_pair, False), _flooring(project_pair_by_few, True)


@njit(nogil=True, cache=True, error_model="numpy")
def load_rulers(
    norms,  # in   (n_panels * LANES,) float32: see load_panel
    bounds,  # in   (3,) float32: the largest position of a row of norm 1, without its offset; the largest
    # error of that; and of what the offset adds
    rulers,  # out  (n_panels * RULERS * LANES,) uint32
):
    # Of every row of a panel: CENTER, as bits, what is added to positions to make fixed points of them;
    # N_DIGITS, how many there are behind the point; DOUBTFUL, the largest number that those may be if the
    # cell may be another.
    lowest_exponent, offset = splat(np.uint32(2**23)), splat(np.uint32(127))
    for v in range(norms.size // LANES):
        norm, place = load(norms, np.uint64(v) * _LANES), np.uint64(v * RULERS) * _LANES
        center, n_digits = point(multiply_add(norm, splat(bounds[0]), splat(np.float32(2))))
        # In units of the last digit; what is in doubt is at a whole number of them, so this is rounded down.
        error = multiply_add(norm, splat(bounds[1]), splat(bounds[2])) * reals(
            (n_digits + offset) * lowest_exponent
        )
        units = as_words(lesser(error, splat(np.float32(2.0**DIGITS))) + splat(ROUNDING))
        store(rulers, place + np.uint64(CENTER) * _LANES, center + units)
        store(rulers, place + np.uint64(N_DIGITS) * _LANES, n_digits)
        store(rulers, place + np.uint64(DOUBTFUL) * _LANES, units + units)
