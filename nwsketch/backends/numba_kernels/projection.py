"""Cells of projections: float32 products, with float64 wherever rounding could change a cell.

A cell is defined by the float64 projection whose features are added from first to last (exact.py). float32
products differ from it by at most a bound that numba_hashing.py computes; the few projections that lie within
that bound of an edge are computed again in float64. So a row's cells are exact, whatever the batch, the
threads and the machine.

Rows are loaded in panels (panels.py), the cells of eight repetitions at a time made of them (signs.py,
floors.py), and only codes are written.
"""

from collections import namedtuple

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.exact import exact_floor_code, exact_sign_code
from nwsketch.backends.numba_kernels.floors import RULERS, hash_by_floors, hash_by_floors_by_few, load_rulers
from nwsketch.backends.numba_kernels.join import to_bucket, to_buckets
from nwsketch.backends.numba_kernels.panels import FEW, PADDING, aligned, load_panel
from nwsketch.backends.numba_kernels.signs import WORD, join_signs, pack_signs, pack_signs_by_few
from nwsketch.backends.numba_kernels.vectors import LANES, ORDER, pointer

#: Panels that are loaded before any is hashed, if their features take at most so many floats: a repetition's
#: codes are written in longer pieces then. A few bytes here and there would cost much of the time.
PANELS, LOADED_FLOATS = 32, 2**16

#: The arguments of projection_codes that tell what is hashed, arrays by pointers; ``n_blocks`` and
#: ``per_repetition`` are the blocks of a stack and the hashes of a repetition.
Hashes = namedtuple(
    "Hashes",
    "directions coefficients lengths starts high_multipliers high_shifts high_sums carries exponents bounds "
    "errors offsets multipliers shifts by_chunk n_blocks per_repetition n_repetitions",
)

_0 = np.uint64(0)


@njit(nogil=True, cache=True, error_model="numpy")
def projection_codes(
    rows,  # in   (n_rows, n_features) float32 or float64
    begin,  # the rows wanted: begin <= row < end
    end,
    largest_norm,  # see load_panel; smaller rows have fixed points of at least LEAST_DIGITS
    directions,  # in   (n_features, n_hashes) float64, in Fortran's order: needed one at a time, and whole
    scales,  # in   see load_panel
    coefficients,  # in   float32, flat; of every stack of ORDER repetitions as many blocks as a repetition
    # has hashes, and if these are odd a copy of the last; of a block one per column if by_chunk, else ORDER
    lengths,  # in   (n_blocks, ORDER) float32, flat: what the projections of a block are multiplied by
    starts,  # in   (n_blocks, ORDER) float32, flat: what sums begin with
    high_multipliers,  # in   (n_blocks, ORDER) uint32, flat: high halves of multipliers
    high_shifts,  # in   (n_stacks * ORDER,) uint32
    high_sums,  # in   (n_stacks * ORDER,) uint32: less the sum of a repetition's high multipliers
    carries,  # in   (n_stacks, 2, ORDER) float32, flat: n_buckets times the largest carry from low halves of
    # joined cells, by norm, and what has to be added to it; if by_chunk, the same for all of a stack
    exponents,  # in   (n_blocks,) uint32: positions are divided by 2 to their power; 0 where directions have
    # factors
    bounds,  # in   see load_rulers
    errors,  # in   (n_blocks, ORDER) float32, flat: largest error of a projection of a row of norm 1, without
    # its offset; if signs are wanted (n_blocks,), of any projection of a block
    by_chunk,  # whether directions have factors
    offsets,  # in   (n_hashes,) float64, in [0, 1); like lengths and what follows up to bounds not read if
    # signs are wanted
    signs,  # whether cells are signs, else floors, which are always rehashed
    multipliers,  # in   (1, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,  # the repetitions wanted: first <= repetition < last
    last,
    codes,  # out  (last - first, n_rows) uint16 or uint32, of which the rows wanted are written
):
    n_stacks = -(-shifts.size // ORDER)
    hashes = Hashes(
        pointer(directions, _0),
        pointer(coefficients, _0),
        pointer(lengths, _0),
        pointer(starts, _0),
        pointer(high_multipliers, _0),
        pointer(high_shifts, _0),
        pointer(high_sums, _0),
        pointer(carries, _0),
        pointer(exponents, _0),
        pointer(bounds, _0),
        pointer(errors, _0),
        pointer(offsets, _0),
        pointer(multipliers, _0),
        pointer(shifts, _0),
        by_chunk,
        errors.size // (n_stacks if signs else n_stacks * ORDER),
        directions.shape[1] // shifts.size,
        shifts.size,
    )
    by_few = by_chunk and scales.size <= FEW * ORDER
    n_floats = scales.size * LANES
    n_panels = max(min(LOADED_FLOATS // n_floats, PANELS, -(-(end - begin) // LANES)), 1)
    all_features = aligned(np.empty(n_panels * n_floats + PADDING, np.float32))
    all_norms, in_float64 = np.empty(n_panels * LANES, np.float32), np.empty(n_panels * LANES, np.bool_)
    all_rulers = np.empty(RULERS * all_norms.size, np.uint32)
    all_words = aligned(np.empty(ORDER * n_panels * LANES + PADDING, np.uint32))
    all_joined = aligned(np.empty(ORDER * n_panels * LANES + PADDING, np.uint64))
    for start in range(begin, end, n_panels * LANES):
        size = min(n_panels * LANES, end - start)
        n_loaded = -(-size // LANES)  # panels, the last of which may not be full
        features, norms = all_features[: n_loaded * n_floats], all_norms[: n_loaded * LANES]
        words, joined = all_words[: ORDER * norms.size], all_joined[: ORDER * norms.size]
        for v in range(n_loaded):
            own = slice(v * LANES, (v + 1) * LANES)
            load_panel(
                rows,
                start + own.start,
                min(start + own.stop, start + size),
                scales,
                by_chunk,
                largest_norm,
                features[v * n_floats : (v + 1) * n_floats],
                norms[own],
                in_float64[own],
            )
        own_rows, rulers = rows[start : start + size], all_rulers[: RULERS * norms.size]
        if not signs:
            load_rulers(norms, bounds, rulers)
        for stack in range(first // ORDER, -(-last // ORDER)):
            if signs:
                for o in range(min(ORDER, shifts.size - stack * ORDER) if rehashed else 0):
                    joined[o * norms.size : (o + 1) * norms.size] = shifts[stack * ORDER + o]
                for k in range(0, hashes.per_repetition, WORD):
                    end_of_word = min(k + WORD, hashes.per_repetition)
                    if by_few:
                        pack_signs_by_few(own_rows, features, norms, hashes, stack, k, end_of_word, words)
                    else:
                        pack_signs(own_rows, features, norms, hashes, stack, k, end_of_word, words)
                    if rehashed:
                        join_signs(words, hashes, stack, k, end_of_word, joined)
                for repetition in range(max(first, stack * ORDER), min(last, (stack + 1) * ORDER)):
                    place = (repetition - stack * ORDER) * norms.size
                    part = codes[repetition - first, start : start + size]
                    if rehashed:
                        to_buckets(joined[place : place + size], n_buckets, rehashed, part)
                    else:
                        _copy(words[place : place + size], part)
            else:
                wanted = (n_buckets, stack, first, last, start, codes)
                if by_few:
                    hash_by_floors_by_few(own_rows, features, norms, rulers, hashes, *wanted)
                else:
                    hash_by_floors(own_rows, features, norms, rulers, hashes, *wanted)
        for i in range(size):
            if in_float64[i]:
                _hash_exactly(rows[start + i], hashes, signs, n_buckets, rehashed, first, codes[:, start + i])


@njit(nogil=True, cache=True, error_model="numpy")
def _copy(words, codes):
    for i in range(np.uint64(codes.size)):
        codes[i] = words[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _hash_exactly(row, hashes, signs, n_buckets, rehashed, first, codes):
    # In float64, a row that float32 is of no use for; codes of the repetitions from ``first`` on.
    for k in range(codes.size):
        if signs:
            code = exact_sign_code(pointer(row, _0), row.size, hashes, first + k)
        else:
            code = exact_floor_code(pointer(row, _0), row.size, hashes, first + k)
        codes[k] = to_bucket(code, n_buckets, rehashed)
