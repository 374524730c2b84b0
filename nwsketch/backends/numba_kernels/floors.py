"""Codes from floors of projections, mended where float32 is not sure of them.

Cells are joined in 64 bits, of which only the high 32 choose the bucket. So no more than 32 bits of every
multiplier are joined while the cells are in registers. What the others would carry over is at most a margin
that is known; rows that lie so near to the next bucket are joined again, whole.
"""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.exact import exact_projection
from nwsketch.backends.numba_kernels.join import to_bucket
from nwsketch.backends.numba_kernels.panels import (
    PADDING,
    PAIR,
    aligned,
    project_pair,
    project_pair_by_few,
)
from nwsketch.backends.numba_kernels.vectors import (
    LANES,
    ORDER,
    align_stack,
    bits,
    block_of,
    greater,
    greatest_magnitude,
    lanes_not_above,
    load,
    multiply_add,
    splat,
    splat_block,
    store_block,
    store_buckets_of_high,
    subtract,
)

#: What is added to a float32 below 2^22, lest it have digits behind the point, and its bits.
ROUND = np.float32(1.5 * 2**23)
ROUND_BITS = 0x4B400000

_0, _1, _ORDER, _LANES = np.uint64(0), np.uint64(1), np.uint64(ORDER), np.uint64(LANES)
_BLOCK = np.uint64(ORDER * LANES)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _starts(hashes, block):  # what the sums of a block begin with, so that projections include offsets
    return splat_block(hashes.starts, np.uint64(block) * _ORDER)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _cells(projections, hashes, block):
    # The whole numbers nearest to the positions, plus ROUND: as bits, a whole number plus ROUND_BITS. And how
    # far the positions are from them, with signs.
    lengths = splat_block(hashes.lengths, np.uint64(block) * _ORDER)
    cells = multiply_add(projections, lengths, block_of(splat(ROUND)))
    return cells, multiply_add(projections, lengths, subtract(block_of(splat(ROUND)), cells))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _join(joined, cells, hashes, block):
    return multiply_add(bits(cells), splat_block(hashes.high_multipliers, np.uint64(block) * _ORDER), joined)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _as_number(cell):  # int64
    return np.int64(cell) - np.int64(ROUND_BITS)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _reach(distances, hashes, block, norms):  # the longest, errors included
    error, own_error = splat(hashes.errors[np.uint64(block)]), splat(hashes.offset_errors[np.uint64(block)])
    return multiply_add(error, norms, greatest_magnitude(distances)) + own_error


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _lanes_near_edges(joined, margins, v, n_buckets):
    # Bit i is 1 if by any of these joined cells the panel's row i is as near to the edge of a bucket as its
    # margin is wide.
    margin, nothing = load(margins, np.uint64(v) * _LANES), splat(np.uint32(0))
    places = multiply_add(joined, block_of(splat(np.uint32(n_buckets))), block_of(nothing - margin))
    return lanes_not_above(block_of(nothing - margin - margin), places)


def _flooring(by_few):
    """Return hash_by_floors for few chunks, or for whatever there is."""

    @njit(nogil=True, cache=True, error_model="numpy")
    def hash_by_floors(
        rows,  # in   (n_rows, n_features): those of the panels
        features,  # in   (n_panels * n_columns * LANES,) float32: see load_panel
        norms,  # in   (n_panels * LANES,) float32
        margins,  # in   (n_panels * LANES,) uint32: see load_margins
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
        taken = aligned(np.empty(n_blocks * ORDER * LANES + PADDING, np.uint32))
        sums = aligned(np.empty(ORDER * LANES + PADDING, np.uint32))
        scratch = aligned(np.empty(PAIR * ORDER * LANES + PADDING, np.float32))
        doubts = np.empty(n_blocks, np.uint64)
        changes, changed = np.zeros(ORDER * LANES, np.uint64), np.zeros(ORDER, np.uint64)
        all_codes, some_codes = codes.reshape(-1), np.empty(ORDER * LANES, codes.dtype)
        all_wanted = first <= first_repetition and first_repetition + ORDER <= last
        for v in range(norms.size // LANES):
            row_norms = load(norms, np.uint64(v) * _LANES)
            joined = splat_block(hashes.high_shifts, np.uint64(first_repetition))
            any_doubt = _0
            for k in range(0, n_blocks, PAIR):
                block = stack * n_blocks + k
                one, other = _starts(hashes, block), _starts(hashes, block + 1)
                if by_few:
                    one, other = project_pair_by_few(
                        one, other, features, v, n_columns, hashes.coefficients, block
                    )
                else:
                    one, other = project_pair(
                        one, other, features, v, n_columns, hashes.coefficients, block, hashes.by_chunk
                    )
                cells, distances = _cells(one, hashes, block)
                reach = _reach(distances, hashes, block, row_norms)
                joined = _join(joined, cells, hashes, block)
                store_block(taken, np.uint64(k) * _BLOCK, _LANES, bits(cells))
                cells, distances = _cells(other, hashes, block + 1)
                reach = greater(reach, _reach(distances, hashes, block + 1, row_norms))
                joined = _join(joined, cells, hashes, block + 1)
                store_block(taken, np.uint64(k + 1) * _BLOCK, _LANES, bits(cells))
                doubts[np.uint64(k)] = lanes_not_above(splat(np.float32(0.5)), reach)
                any_doubt |= doubts[np.uint64(k)]
            near = _lanes_near_edges(joined, margins, v, n_buckets)
            if (v + 1) * LANES <= rows.shape[0] and all_wanted:
                place = np.uint64((first_repetition - first) * codes.shape[1] + start + v * LANES)
                store_buckets_of_high(all_codes, place, np.uint64(codes.shape[1]), joined, n_buckets)
            else:
                store_buckets_of_high(some_codes, _0, _LANES, joined, n_buckets)
                for repetition in range(max(first, first_repetition), min(last, first_repetition + ORDER)):
                    for i in range(min(LANES, rows.shape[0] - v * LANES)):
                        code = some_codes[(repetition - first_repetition) * LANES + i]
                        codes[repetition - first, start + v * LANES + i] = code
            if any_doubt != 0:
                near |= _mend(
                    rows, features, norms, hashes, stack, v, doubts, scratch, taken, changes, changed
                )
            if near != 0:
                store_block(sums, _0, _LANES, joined)
                n_here = min(LANES, rows.shape[0] - v * LANES)
                for repetition in range(max(first, first_repetition), min(last, first_repetition + ORDER)):
                    _join_again(
                        hashes,
                        shifts,
                        n_buckets,
                        repetition,
                        margins,
                        v,
                        n_here,
                        taken,
                        sums,
                        changes,
                        changed,
                        start,
                        repetition - first,
                        codes,
                    )
                changes[:], changed[:] = 0, 0

    return hash_by_floors


hash_by_floors, hash_by_floors_by_few = _flooring(False), _flooring(True)


@njit(nogil=True, cache=True, error_model="numpy")
def load_margins(
    norms,  # in   (n_rows,) float32: see load_panel
    carries,  # in   (2,) float64: largest carry from the low halves of joined cells: some, and some by norm
    n_buckets,
    margins,  # out  (n_rows,) uint32, in 1/2^32 of a bucket: largest carry, or half a bucket if that is more
):
    for i in range(norms.size):
        margin = (carries[0] + norms[i] * carries[1]) * n_buckets
        margins[i] = np.uint32(2.0**31) if margin >= 2.0**31 else np.uint32(margin) + np.uint32(1)


@njit(nogil=True, cache=True, error_model="numpy")
def _join_again(
    hashes,
    shifts,
    n_buckets,
    repetition,
    margins,  # in   (n_panels * LANES,) uint32
    v,  # the panel
    n_rows,  # of the panel
    cells,  # in   (n_blocks * ORDER * LANES,) uint32: as they were taken
    sums,  # in   (ORDER * LANES,) uint32: high halves, joined
    changes,  # in   (ORDER * LANES,) uint64: what to add to the joined cells
    changed,  # in   (ORDER,) uint64: bit i is 1 if that is anything for row i
    start,  # the place of the first row of all panels in codes
    own,  # that of the repetition
    codes,  # in/out  of rows whose bucket may be another: those are joined whole
):
    o = repetition % ORDER
    doubt = changed[o] | _lanes_near_edges(block_of(load(sums, np.uint64(o) * _LANES)), margins, v, n_buckets)
    for i in range(n_rows):
        if doubt >> np.uint64(i) & _1:
            code = shifts[repetition] + changes[o * LANES + i]
            for k in range(hashes.per_repetition):
                cell = _as_number(cells[(k * ORDER + o) * LANES + i])
                code += np.uint64(cell) * hashes.multipliers[0, repetition * hashes.per_repetition + k]
            codes[own, start + v * LANES + i] = to_bucket(code, n_buckets, True)


@njit(nogil=True, cache=True, error_model="numpy")
def _mend(
    rows,
    features,
    norms,
    hashes,
    stack,
    v,  # the panel
    doubts,  # in   (n_blocks,) uint64: bit i of element k is 1 if of the panel's row i a projection by hash k
    # or k + 1 lies within its error of an edge; one element for every PAIR
    distances,  # out  (PAIR * ORDER * LANES,) float32: scratch
    cells,  # out  (n_blocks * ORDER * LANES,) uint32: as they were taken, of the pairs in doubt
    changes,  # in/out  (ORDER * LANES,) uint64: what to add to the joined cells
    changed,  # in/out  (ORDER,) uint64: bit i is set if that is anything for row i
):  # those bits of all repetitions
    # In a function of its own, lest registers be kept free for what is rare: cells are made again.
    n_columns, any_changed = features.size // norms.size, _0
    for pair in range(0, hashes.n_blocks, PAIR):
        if doubts[pair] == 0:
            continue
        block = stack * hashes.n_blocks + pair
        one, other = project_pair(
            _starts(hashes, block),
            _starts(hashes, block + 1),
            features,
            v,
            n_columns,
            hashes.coefficients,
            block,
            hashes.by_chunk,
        )
        own, one = _cells(one, hashes, block)
        others, other = _cells(other, hashes, block + 1)
        store_block(cells, np.uint64(pair) * _BLOCK, _LANES, bits(own))
        store_block(cells, np.uint64(pair + 1) * _BLOCK, _LANES, bits(others))
        store_block(distances, _0, _LANES, one)
        store_block(distances, _BLOCK, _LANES, other)
        for i in range(min(LANES, rows.shape[0] - v * LANES)):
            if not doubts[pair] >> np.uint64(i) & _1:
                continue
            row, norm = rows[v * LANES + i], norms[v * LANES + i]
            for k in range(min(PAIR, hashes.per_repetition - pair)):
                error = norm * hashes.errors[block + k] + hashes.offset_errors[block + k]
                for o in range(min(ORDER, hashes.n_repetitions - stack * ORDER)):
                    if abs(distances[(k * ORDER + o) * LANES + i]) + error < np.float32(0.5):
                        continue
                    h = (stack * ORDER + o) * hashes.per_repetition + pair + k
                    exact = math.floor(exact_projection(row, 1.0, hashes.directions, h) + hashes.offsets[h])
                    taken = _as_number(cells[((pair + k) * ORDER + o) * LANES + i])
                    if np.int64(exact) != taken:
                        changes[o * LANES + i] += (
                            np.uint64(np.int64(exact) - taken) * hashes.multipliers[0, h]
                        )
                        changed[o] |= _1 << np.uint64(i)
                        any_changed |= changed[o]
    return any_changed
