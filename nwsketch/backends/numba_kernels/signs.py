"""Signs of projections, packed into bits as they are made, and mended where float32 is not sure of them."""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.exact import exact_shrink, exact_sign
from nwsketch.backends.numba_kernels.panels import (
    PAIR,
    by_pointers,
    project_pair,
    project_pair_by_few,
    row_of,
)
from nwsketch.backends.numba_kernels.vectors import (
    LANES,
    ORDER,
    align_stack,
    bits,
    block_of,
    first_lane,
    lanes_not_above,
    least,
    lesser,
    load,
    multiply_add,
    opposite_bits,
    pointer,
    reals,
    shift_in_signs,
    splat,
    store_block,
)

#: Signs that are packed into one integer; a multiple of PAIR.
WORD = 32

_0, _1, _ORDER, _LANES = np.uint64(0), np.uint64(1), np.uint64(ORDER), np.uint64(LANES)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _least_magnitude(projections):  # as bits without a sign, magnitudes are in order, NaN above infinity
    return reals(least(bits(projections), splat(np.uint32(2**31 - 1))))


def _packing(project):
    """Return pack_signs for one of the functions that project."""

    @njit(nogil=True, cache=True, error_model="numpy")
    def pack_signs(
        rows,  # in   (n_rows, n_features): those of the panels
        features,  # in   (n_panels * n_columns * LANES,) float32: see load_panel
        norms,  # in   (n_panels * LANES,) float32
        hashes,  # see projection.Hashes
        stack,  # the ORDER repetitions wanted
        first,  # the hashes wanted of each: first <= k < last, up to WORD
        last,
        words,  # out  (ORDER * n_panels * LANES,) uint32: bit k - first is 1 unless projection k is negative
    ):
        align_stack()
        n_columns, n_rows = features.size // norms.size, np.uint64(norms.size)
        n_bits, first_block = last - first, stack * hashes.n_blocks + first
        mask = block_of(splat(np.uint32((np.uint64(1) << np.uint64(n_bits)) - np.uint64(1))))
        top = n_bits + n_bits % PAIR - PAIR  # a block that is one too many is a copy, and masked away
        nothing = block_of(splat(np.float32(0)))
        errors, panels = hashes.errors, by_pointers(rows, features, norms)
        doubts, projections = np.empty(WORD, np.uint64), np.empty(PAIR * ORDER * LANES, np.float32)
        for v in range(norms.size // LANES):
            i = np.uint64(v) * _LANES
            row_norms = load(norms, i)
            signs = block_of(splat(np.uint32(0)))
            any_doubt = np.uint64(0)
            for k in range(top, -1, -PAIR):  # what is shifted in first becomes the highest bit
                block = np.uint64(first_block + k)
                one, other = project(nothing, nothing, features, v, n_columns, hashes, block)
                signs = shift_in_signs(shift_in_signs(signs, other), one)
                near = multiply_add(row_norms, splat(-errors[block]), _least_magnitude(one))
                near_too = multiply_add(row_norms, splat(-errors[block + _1]), _least_magnitude(other))
                doubts[np.uint64(k)] = lanes_not_above(lesser(near, near_too), splat(np.float32(0)))
                any_doubt |= doubts[np.uint64(k)]
            store_block(words, i, n_rows, opposite_bits(signs, mask))
            if any_doubt != 0:
                doubtful, scratch = pointer(doubts, _0), pointer(projections, _0)
                _mend(panels, n_rows, hashes, stack, v, doubtful, first, n_bits, scratch, pointer(words, i))

    return pack_signs


pack_signs, pack_signs_by_few = _packing(project_pair), _packing(project_pair_by_few)


@njit(nogil=True, cache=True, error_model="numpy")
def _mend(
    panels,
    stride,  # words of a repetition
    hashes,
    stack,
    v,  # the panel
    doubts,  # in   pointer, uint64: bit i of element k is 1 if of the panel's row i a projection by hash
    # first + k or first + k + 1 lies within its error of zero; one element for every PAIR
    first,
    n_bits,  # hashes wanted of each repetition
    projections,  # scratch  pointer: PAIR * ORDER * LANES float32
    words,  # in/out  pointer, uint32: the panel's; bits are turned where signs were wrong
):
    # In a function of its own, lest registers be kept free for what is rare: projections are made again.
    nothing = block_of(splat(np.float32(0)))
    for pair in range(0, n_bits, PAIR):
        if doubts[pair] == 0:
            continue
        block = stack * hashes.n_blocks + first + pair
        one, other = project_pair(nothing, nothing, panels.features, v, panels.n_columns, hashes, block)
        store_block(projections, _0, _LANES, one)
        store_block(projections, _ORDER * _LANES, _LANES, other)
        lanes = doubts[pair]
        while lanes != 0:
            i = first_lane(lanes)
            lanes &= lanes - _1
            if v * LANES + i >= panels.n_rows:
                break
            row = row_of(panels, v, i)
            shrink, norm = exact_shrink(row, panels.n_features), panels.norms[v * LANES + i]
            for k in range(min(PAIR, n_bits - pair)):
                for o in range(min(ORDER, hashes.n_repetitions - stack * ORDER)):
                    z = projections[(k * ORDER + o) * LANES + i]
                    if abs(z) > norm * hashes.errors[block + k]:
                        continue
                    h = (stack * ORDER + o) * hashes.per_repetition + first + pair + k
                    is_one = exact_sign(row, panels.n_features, shrink, hashes, h)
                    if is_one != (math.copysign(1.0, z) > 0):
                        words[np.uint64(o) * stride + np.uint64(i)] ^= np.uint32(1) << np.uint32(pair + k)


@njit(nogil=True, cache=True, error_model="numpy")
def join_signs(
    words,  # in   see pack_signs
    hashes,
    stack,
    first,
    last,
    joined,  # in/out  (ORDER * n_panels * LANES,) uint64
):
    n_rows = words.size // ORDER
    for o in range(min(ORDER, hashes.n_repetitions - stack * ORDER)):
        for k in range(first, last):
            multiplier = hashes.multipliers[(stack * ORDER + o) * hashes.per_repetition + k]
            bit = np.uint32(1) << np.uint32(k - first)
            for i in range(np.uint64(o * n_rows), np.uint64((o + 1) * n_rows)):
                joined[i] += multiplier if words[i] & bit else multiplier ^ multiplier
