"""Codes from floors of projections, mended where float32 is not sure of them."""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.exact import exact_projection
from nwsketch.backends.numba_kernels.panels import PADDING, PAIR, aligned, project_pair
from nwsketch.backends.numba_kernels.vectors import (
    LANES,
    ORDER,
    as_long_words,
    as_words,
    block_of,
    distance,
    greater,
    greatest,
    lanes_not_above,
    load,
    multiply_add,
    nearest,
    splat,
    splat_block,
    store_block,
    store_buckets,
)

#: Rounding of an offset to float32 and of its sum with a projection below 1 (four units).
OFFSET_ERROR = np.float32(2.0**-22)

_0, _ORDER, _LANES, _BLOCK = np.uint64(0), np.uint64(ORDER), np.uint64(LANES), np.uint64(ORDER * LANES)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _positions(projections, hashes, block):
    # Relative to the middle of a cell: it is the nearest whole number, and its edges lie half from it.
    h = np.uint64(block) * _ORDER
    return multiply_add(projections, splat_block(hashes.lengths, h), splat_block(hashes.middles, h))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _reach(positions, cells, hashes, block, norms):  # from the cells' middles, errors included: the longest
    errors = splat_block(hashes.errors, np.uint64(block) * _ORDER)
    return greatest(multiply_add(errors, block_of(norms), distance(positions, cells)))


@njit(nogil=True, cache=True, error_model="numpy")
def hash_by_floors(
    rows,  # in   (n_rows, n_features): those of the panels
    features,  # in   (n_panels * n_columns * LANES,) float32: see load_panel
    norms,  # in   (n_panels * LANES,) float32
    hashes,  # see projection.Hashes
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,  # uint64
    stack,  # the ORDER repetitions wanted, ...
    first,  # ... but for those outside first <= repetition < last
    last,
    start,  # the place of the first row in codes
    codes,  # out  (last - first, n_rows) uint16 or uint32
):
    n_columns, n_blocks = features.size // norms.size, hashes.n_blocks
    first_repetition = stack * ORDER
    cells = aligned(np.empty(n_blocks * ORDER * LANES + PADDING, np.uint32))
    changes = aligned(np.zeros(ORDER * LANES + PADDING, np.uint64))
    all_codes, last_codes = codes.reshape(-1), np.empty(LANES, codes.dtype)
    for v in range(norms.size // LANES):
        row_norms = load(norms, np.uint64(v) * _LANES)
        any_unsure = np.uint64(0)
        for k in range(0, n_blocks, PAIR):
            block = stack * n_blocks + k
            one, other = project_pair(features, v, n_columns, hashes.coefficients, block, hashes.by_chunk)
            one, other = _positions(one, hashes, block), _positions(other, hashes, block + 1)
            own, others = nearest(one), nearest(other)
            reach = greater(
                _reach(one, own, hashes, block, row_norms),
                _reach(other, others, hashes, block + 1, row_norms),
            )
            store_block(cells, np.uint64(k) * _BLOCK, _LANES, as_words(own))
            store_block(cells, np.uint64(k + 1) * _BLOCK, _LANES, as_words(others))
            unsure = lanes_not_above(splat(np.float32(0.5) - OFFSET_ERROR), reach)
            if unsure != 0:
                _mend(rows, features, norms, hashes, stack, v, unsure, k, cells, changes)
            any_unsure |= unsure
        for repetition in range(max(first, first_repetition), min(last, first_repetition + ORDER)):
            o = np.uint64(repetition - first_repetition)
            code = splat(shifts[repetition]) + load(changes, o * _LANES)
            term = np.uint64(stack * n_blocks) * _ORDER + o
            for c in range(o * _LANES, np.uint64(n_blocks) * _BLOCK, _BLOCK):
                cell = as_long_words(load(cells, c))
                code = multiply_add(cell, splat(hashes.block_multipliers[term]), code)
                term += _ORDER
            if (v + 1) * LANES <= rows.shape[0]:
                place = (repetition - first) * codes.shape[1] + start + v * LANES
                store_buckets(all_codes, np.uint64(place), code, n_buckets)
            else:
                store_buckets(last_codes, _0, code, n_buckets)
                for i in range(rows.shape[0] - v * LANES):
                    codes[repetition - first, start + v * LANES + i] = last_codes[i]
        if any_unsure != 0:
            changes[:] = 0


@njit(nogil=True, cache=True, error_model="numpy")
def _mend(
    rows,
    features,
    norms,
    hashes,
    stack,
    v,  # the panel
    unsure,  # uint64: bit i is 1 if a projection of the panel's row i lies within its error of an edge
    first,  # of PAIR hashes of each repetition
    cells,  # in   (n_blocks * ORDER * LANES,) uint32: as they were taken
    changes,  # in/out  (ORDER * LANES,) uint64: what to add to the joined cells
):
    # In a function of its own, lest registers be kept free for what is rare: positions are made again.
    positions = np.empty(PAIR * ORDER * LANES, np.float32)
    first_block = stack * hashes.n_blocks + first
    n_columns = features.size // norms.size
    one, other = project_pair(features, v, n_columns, hashes.coefficients, first_block, hashes.by_chunk)
    store_block(positions, _0, _LANES, _positions(one, hashes, first_block))
    store_block(positions, _ORDER * _LANES, _LANES, _positions(other, hashes, first_block + 1))
    for i in range(min(LANES, rows.shape[0] - v * LANES)):
        if not unsure >> np.uint64(i) & np.uint64(1):
            continue
        row, norm = rows[v * LANES + i], norms[v * LANES + i]
        for k in range(min(PAIR, hashes.per_repetition - first)):
            for o in range(min(ORDER, hashes.n_repetitions - stack * ORDER)):
                position = positions[(k * ORDER + o) * LANES + i]
                error = norm * hashes.errors[(first_block + k) * ORDER + o] + OFFSET_ERROR
                if np.float32(0.5) - abs(position - np.rint(position)) > error:
                    continue
                h = (stack * ORDER + o) * hashes.per_repetition + first + k
                exact = math.floor(exact_projection(row, 1.0, hashes.directions, h) + hashes.offsets[h])
                taken = np.int64(np.int32(cells[((first + k) * ORDER + o) * LANES + i]))
                changes[o * LANES + i] += np.uint64(np.int64(exact) - taken) * hashes.multipliers[0, h]
