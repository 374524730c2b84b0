"""Codes from floors of projections, mended where float32 is not sure of them.

Positions, projections plus their offsets, become fixed points, and cells are joined in 32 bits, all in
registers (fixed_points.py). Rows that are anywhere nearer to an edge than their error are joined again, with
such cells made in float64; rows whose carry is in doubt are joined again, whole.
"""

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.exact import exact_cell
from nwsketch.backends.numba_kernels.fixed_points import DIGITS, below, carry_margins, near_edges, point
from nwsketch.backends.numba_kernels.join import to_bucket
from nwsketch.backends.numba_kernels.panels import PADDING, PAIR, aligned, project_pair, project_pair_by_few
from nwsketch.backends.numba_kernels.vectors import (
    LANES,
    ORDER,
    align_stack,
    as_words,
    bits,
    block_of,
    lanes_not_above,
    least,
    lesser,
    load,
    masked,
    multiply_add,
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
def _margins(norms, v, hashes, stack, n_buckets):
    by_norm, constant = hashes.carries[np.uint64(2 * stack)], hashes.carries[np.uint64(2 * stack + 1)]
    return carry_margins(load(norms, np.uint64(v) * _LANES), by_norm, constant, n_buckets)


def _flooring(project, by_few):
    """Return hash_by_floors for few chunks, or for whatever there is, and for the function that projects.

    Fixed points that few operations make are not kept in case any is in doubt, but made again then.
    """

    @njit(nogil=True, cache=True, error_model="numpy")
    def make_points(features, n_columns, rulers, hashes, stack, v, points):
        # Those of the panel's rows by all hashes of the stack.
        center = _ruler(rulers, v, CENTER)
        for k in range(0, hashes.n_blocks, PAIR):
            block = stack * hashes.n_blocks + k
            one, other = _starts(hashes, block), _starts(hashes, block + 1)
            one, other = project(
                one, other, features, v, n_columns, hashes.coefficients, block, hashes.by_chunk
            )
            store_block(points, np.uint64(k) * _BLOCK, _LANES, _fixed_points(center, one, hashes, block))
            other = _fixed_points(center, other, hashes, block + 1)
            store_block(points, np.uint64(k + 1) * _BLOCK, _LANES, other)

    @njit(nogil=True, cache=True, error_model="numpy", inline="always")
    def join_block(joined, nearest, projections, center, n_digits, mask, hashes, block, k, points):
        # The joined cells of a block, and the least of what lies behind its points, or of what was less.
        own = _fixed_points(center, projections, hashes, block)
        if by_few:
            cells = shift_right(own, block_of(n_digits))
        else:
            store_block(points, np.uint64(k) * _BLOCK, _LANES, own)
            n_digits = n_digits - splat(hashes.exponents[np.uint64(block)])
            mask = below(n_digits)
            cells = subtract(shift_right(own, block_of(n_digits)), block_of(shift_right(center, n_digits)))
        multipliers = splat_block(hashes.high_multipliers, np.uint64(block) * _ORDER)
        return multiply_add(cells, multipliers, joined), lesser(least(own, mask), nearest)

    @njit(nogil=True, cache=True, error_model="numpy")
    def hash_by_floors(
        rows,  # in   (n_rows, n_features): those of the panels
        features,  # in   (n_panels * n_columns * LANES,) float32: see load_panel
        norms,  # in   (n_panels * LANES,) float32
        rulers,  # in   (n_panels * RULERS * LANES,) uint32: see load_rulers
        hashes,  # see projection.Hashes
        shifts,  # in   (n_repetitions,) uint64
        n_buckets,  # uint64
        stack,  # the ORDER repetitions wanted, ...
        first,  # ... but for those outside first <= repetition < last
        last,
        start,  # the place of the first row in codes
        codes,  # out  (last - first, n_rows) uint16 or uint32
    ):
        align_stack()
        n_columns, n_blocks = features.size // norms.size, hashes.n_blocks
        first_repetition = stack * ORDER
        all_codes, some_codes = codes.reshape(-1), np.empty(ORDER * LANES, codes.dtype)
        points = aligned(np.empty(n_blocks * ORDER * LANES + PADDING, np.uint32))
        sums = np.empty(ORDER * LANES, np.uint32)
        all_wanted = first <= first_repetition and first_repetition + ORDER <= last
        for v in range(norms.size // LANES):
            center, n_digits = _ruler(rulers, v, CENTER), _ruler(rulers, v, N_DIGITS)
            mask = below(n_digits)
            joined, nearest = splat_block(hashes.high_shifts, np.uint64(first_repetition)), mask
            if by_few:  # what stands for zero is taken off at once
                high_sums = splat_block(hashes.high_sums, np.uint64(first_repetition))
                joined = multiply_add(block_of(shift_right(center, n_digits)), high_sums, joined)
            for k in range(0, n_blocks, PAIR):
                block = stack * n_blocks + k
                one, other = _starts(hashes, block), _starts(hashes, block + 1)
                one, other = project(
                    one, other, features, v, n_columns, hashes.coefficients, block, hashes.by_chunk
                )
                joined, nearest = join_block(
                    joined, nearest, one, center, n_digits, mask, hashes, block, k, points
                )
                joined, nearest = join_block(
                    joined, nearest, other, center, n_digits, mask, hashes, block + 1, k + 1, points
                )
            doubts = lanes_not_above(nearest, _ruler(rulers, v, DOUBTFUL))
            doubts |= near_edges(joined, _margins(norms, v, hashes, stack, n_buckets), n_buckets)
            if (v + 1) * LANES <= rows.shape[0] and all_wanted:
                place = np.uint64((first_repetition - first) * codes.shape[1] + start + v * LANES)
                store_buckets_of_high(all_codes, place, np.uint64(codes.shape[1]), joined, n_buckets)
            else:
                store_buckets_of_high(some_codes, _0, _LANES, joined, n_buckets)
                for repetition in range(max(first, first_repetition), min(last, first_repetition + ORDER)):
                    for i in range(min(LANES, rows.shape[0] - v * LANES)):
                        code = some_codes[(repetition - first_repetition) * LANES + i]
                        codes[repetition - first, start + v * LANES + i] = code
            if doubts != 0:  # arrays one by one: a tuple of them takes a twentieth of the time of all panels
                store_block(sums, _0, _LANES, joined)
                if by_few:
                    make_points(features, n_columns, rulers, hashes, stack, v, points)
                _mend(
                    rows,
                    norms,
                    rulers,
                    hashes,
                    shifts,
                    n_buckets,
                    stack,
                    first,
                    last,
                    start,
                    v,
                    sums,
                    points,
                    codes,
                )

    return hash_by_floors


hash_by_floors, hash_by_floors_by_few = _flooring(project_pair, False), _flooring(project_pair_by_few, True)


@njit(nogil=True, cache=True, error_model="numpy")
def _mend(
    rows,  # in   see hash_by_floors
    norms,
    rulers,
    hashes,
    shifts,
    n_buckets,
    stack,
    first,
    last,
    start,
    v,  # the panel
    joined,  # in   (ORDER * LANES,) uint32: high halves of its joined cells
    points,  # in   (n_blocks * ORDER * LANES,) uint32: its fixed points
    codes,  # in/out  those that may be others are mended
):
    # In a function of its own, lest registers be kept free for what is rare.
    n_digits, doubtful = _ruler(rulers, v, N_DIGITS), _ruler(rulers, v, DOUBTFUL)
    margins = _margins(norms, v, hashes, stack, n_buckets)
    for repetition in range(max(first, stack * ORDER), min(last, (stack + 1) * ORDER)):
        o = np.uint64(repetition - stack * ORDER)
        nearest = below(n_digits)
        for k in range(hashes.per_repetition):
            exponent = splat(hashes.exponents[np.uint64(stack * hashes.n_blocks + k)])
            own = load(points, (np.uint64(k) * _ORDER + o) * _LANES)
            nearest = lesser(masked(own, below(n_digits - exponent)), nearest)
        doubts = lanes_not_above(nearest, doubtful)
        doubts |= near_edges(block_of(load(joined, o * _LANES)), margins, n_buckets)
        for i in range(min(LANES, rows.shape[0] - v * LANES) if doubts != 0 else 0):
            if doubts >> np.uint64(i) & _1 and norms[v * LANES + i] > 0:
                row, ruler = rows[v * LANES + i], rulers[v * RULERS * LANES + i :: LANES]
                own_points = points[np.int64(o) * LANES + i :: ORDER * LANES]
                code = _join_again(row, ruler, own_points, hashes, repetition, shifts[repetition])
                codes[repetition - first, start + v * LANES + i] = to_bucket(code, n_buckets, True)


@njit(nogil=True, cache=True, error_model="numpy")
def _join_again(
    row,
    ruler,  # in   (>= RULERS,) uint32: see load_rulers
    points,  # in   (>= n_blocks,) uint32: the row's fixed points, of this repetition
    hashes,
    repetition,
    code,  # what cells are added to
):  # uint64
    for k in range(hashes.per_repetition):
        h = repetition * hashes.per_repetition + k
        n_digits = ruler[N_DIGITS] - hashes.exponents[repetition // ORDER * hashes.n_blocks + k]
        if points[k] & ((np.uint32(1) << n_digits) - np.uint32(1)) > ruler[DOUBTFUL]:
            cell = np.int64(points[k] >> n_digits) - np.int64(ruler[CENTER] >> n_digits)
        else:
            cell = exact_cell(row, hashes.directions, hashes.offsets, h)
        code += np.uint64(cell) * hashes.multipliers[0, h]
    return code


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
        # In units of the last digit, rounded up, and half a unit for rounding the sum.
        error = multiply_add(norm, splat(bounds[1]), splat(bounds[2])) * reals(
            (n_digits + offset) * lowest_exponent
        )
        units = as_words(lesser(error, splat(np.float32(2.0**DIGITS))) + splat(np.float32(1.5)))
        store(rulers, place + np.uint64(CENTER) * _LANES, center + units)
        store(rulers, place + np.uint64(N_DIGITS) * _LANES, n_digits)
        store(rulers, place + np.uint64(DOUBTFUL) * _LANES, units + units)
