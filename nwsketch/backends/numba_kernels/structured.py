"""Cells of projections whose directions have factors: eight hashes for little more than one product.

See nwsketch.hashing.projections for the factors, and projection.py for the promise kept here too: float32
products, their error bounded, and float64 wherever it could change a cell. Per row and hash d / 8 fused
multiply-adds and 3 additions, instead of d: tests/benchmarks/kernels.py measures what it takes.

Rows are handled 64 at a time, one feature after the other in memory, so that every loop runs over rows
and vectorises. Every loop reads and writes one flat array at offsets that the compiler knows, with
unsigned indices, which it need not check for negative ones.
"""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.join import to_bucket, to_buckets
from nwsketch.backends.numba_kernels.projection import (
    OFFSET_ERROR,
    PRODUCT_MATH,
    SMALLEST_NORM,
    exact_floor_code,
    exact_projection,
    exact_shrink,
    exact_sign_code,
    lesser,
)

#: Rows handled at a time. Their products, 8 KiB, and their features stay in the first-level cache.
ROWS = 64
#: Hashes in a block, features in a chunk: the order of the Hadamard matrix.
ORDER = 8
#: Rows that are loaded at a time, feature by feature: so few that their lines, of sixteen features, stay in
#: the first-level cache also where they lie a power of two apart.
LOADED = 16
#: Tiles of rows whose features, up to so many floats, are loaded before any is hashed: a repetition's codes
#: are written in longer pieces then. Written 128 bytes here and there, they would cost a third of the time.
TILES, LOADED_FLOATS = 8, 2**16
#: Chunks and blocks that are multiplied at a time: twelve factors and four sums fit the registers.
CHUNKS, BLOCKS = 3, 4
#: Signs that are packed into one integer before they are joined into a rehashed code.
WORD = 32

#: Elements that scratch arrays have more than they need: vectors of 64 bytes that straddle cache lines would
#: take twice as long.
PADDING = 16

_R1, _R2, _R3, _R4, _R5, _R6, _R7 = (np.uint64(i * ROWS) for i in range(1, 8))
_CHUNK = np.uint64(ORDER * ROWS)  # floats of a chunk, or of a block, in the flat arrays
_ROWS, _ORDER = np.uint64(ROWS), np.uint64(ORDER)


@njit(nogil=True, cache=True, error_model="numpy")
def _aligned(buffer):  # all but PADDING elements, from the beginning of a cache line on
    start = (-buffer.ctypes.data % 64) // buffer.itemsize
    return buffer[start : start + buffer.size - PADDING]


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _transform(a0, a1, a2, a3, a4, a5, a6, a7):
    # H a, H the Hadamard matrix of order 8 (scipy.linalg.hadamard): 24 additions.
    b0, b1, b2, b3 = a0 + a1, a0 - a1, a2 + a3, a2 - a3
    b4, b5, b6, b7 = a4 + a5, a4 - a5, a6 + a7, a6 - a7
    a0, a1, a2, a3 = b0 + b2, b1 + b3, b0 - b2, b1 - b3
    a4, a5, a6, a7 = b4 + b6, b5 + b7, b4 - b6, b5 - b7
    return a0 + a4, a1 + a5, a2 + a6, a3 + a7, a0 - a4, a1 - a5, a2 - a6, a3 - a7


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _least(a0, a1, a2, a3, a4, a5, a6, a7):
    low, high = lesser(lesser(a0, a1), lesser(a2, a3)), lesser(lesser(a4, a5), lesser(a6, a7))
    return lesser(low, high)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _floor(position):  # the cell, as the kernels join it, and the distance to its nearer edge
    cell = np.floor(position)
    below = position - cell
    return np.uint64(np.int64(cell)), lesser(below, np.float32(1) - below)


@njit(nogil=True, cache=True, error_model="numpy")
def _transform_chunks(features, n_chunks):
    for c in range(np.uint64(n_chunks)):
        u = features[c * _CHUNK : (c + np.uint64(1)) * _CHUNK]
        for i in range(_ROWS):
            z = _transform(
                u[i], u[_R1 + i], u[_R2 + i], u[_R3 + i], u[_R4 + i], u[_R5 + i], u[_R6 + i], u[_R7 + i]
            )
            u[i], u[_R1 + i], u[_R2 + i], u[_R3 + i] = z[0], z[1], z[2], z[3]
            u[_R4 + i], u[_R5 + i], u[_R6 + i], u[_R7 + i] = z[4], z[5], z[6], z[7]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _add_squares(
    features,  # in   (n_chunks * ORDER * ROWS,) float32
    n_chunks,
    squares,  # out  (ROWS,) float64: squared norms; bounds alone depend on their last bits
):
    squares[:] = 0
    for c in range(np.uint64(n_chunks)):
        u = features[c * _CHUNK : (c + np.uint64(1)) * _CHUNK]
        for i in range(_ROWS):
            a0, a1, a2, a3 = float(u[i]), float(u[_R1 + i]), float(u[_R2 + i]), float(u[_R3 + i])
            a4, a5, a6, a7 = float(u[_R4 + i]), float(u[_R5 + i]), float(u[_R6 + i]), float(u[_R7 + i])
            four = a0 * a0 + a1 * a1 + a2 * a2 + a3 * a3
            squares[i] += four + a4 * a4 + a5 * a5 + a6 * a6 + a7 * a7


@njit(nogil=True, cache=True, error_model="numpy")
def _load(
    rows,  # in   (n_rows, n_features) float32 or float64: up to ROWS rows
    scales,  # in   (>= n_features,) float64: what features are multiplied by
    largest_norm,  # above this norm (of the scaled row) float32 is of no use
    features,  # out  (n_chunks * ORDER * ROWS,) float32: the scaled rows, every chunk transformed
    norms,  # out  (ROWS,) float32: norms of the scaled rows, rounded up; 0 for those in float64
    in_float64,  # out  (ROWS,) bool: rows whose codes must be computed by other means
    squares,  # scratch (ROWS,) float64
):
    n_rows, n_features = rows.shape
    n_padded = -(-n_features // ORDER) * ORDER
    n_copies = scales.size // n_padded
    features[:] = 0
    norms[:] = 0
    in_float64[:] = False
    for copy in range(n_copies):
        for first in range(0, n_rows, LOADED):
            part = rows[first : first + LOADED]
            for j in range(np.uint64(n_features)):
                k = np.uint64(copy * n_padded) + j
                scale = scales[k]
                feature = features[k * _ROWS + np.uint64(first) : (k + np.uint64(1)) * _ROWS]
                for i in range(np.uint64(part.shape[0])):
                    feature[i] = np.float32(np.float64(part[i, j]) * scale)
    _add_squares(features, scales.size // ORDER, squares)
    for i in range(ROWS):
        norm = math.sqrt(squares[i])
        in_float64[i] = i < n_rows and not SMALLEST_NORM < norm < largest_norm
        if in_float64[i] or i >= n_rows:  # anything that is far from an edge will do
            for j in range(scales.size):
                features[j * ROWS + i] = 1
        else:
            norms[i] = np.float32(norm * 1.000001)
    _transform_chunks(features, features.size // (ORDER * ROWS))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=PRODUCT_MATH)
def _fold(
    features,  # in   (n_chunks * ORDER * ROWS,) float32
    chunk,  # the first of CHUNKS chunks
    coefficients,  # in   (n_blocks, n_chunks * ORDER) float32
    block,  # the first of BLOCKS blocks
    sums,  # out  (BLOCKS * ORDER * ROWS,) float32: sum over chunks of coefficient * feature
):
    g0, g1 = coefficients[block], coefficients[block + 1]
    g2, g3 = coefficients[block + 2], coefficients[block + 3]
    x = features[chunk * ORDER * ROWS : (chunk + CHUNKS) * ORDER * ROWS]
    for j in range(_ORDER):
        k0 = np.uint64(chunk) * _ORDER + j
        k1, k2 = k0 + _ORDER, k0 + _ORDER + _ORDER
        a0, b0, c0 = g0[k0], g0[k1], g0[k2]
        a1, b1, c1 = g1[k0], g1[k1], g1[k2]
        a2, b2, c2 = g2[k0], g2[k1], g2[k2]
        a3, b3, c3 = g3[k0], g3[k1], g3[k2]
        p0 = j * _ROWS
        p1, p2, p3 = p0 + _CHUNK, p0 + _CHUNK + _CHUNK, p0 + _CHUNK + _CHUNK + _CHUNK
        if chunk == 0:
            for i in range(_ROWS):
                a, b, c = x[p0 + i], x[p1 + i], x[p2 + i]
                sums[p0 + i] = a0 * a + b0 * b + c0 * c
                sums[p1 + i] = a1 * a + b1 * b + c1 * c
                sums[p2 + i] = a2 * a + b2 * b + c2 * c
                sums[p3 + i] = a3 * a + b3 * b + c3 * c
        else:
            for i in range(_ROWS):
                a, b, c = x[p0 + i], x[p1 + i], x[p2 + i]
                sums[p0 + i] += a0 * a + b0 * b + c0 * c
                sums[p1 + i] += a1 * a + b1 * b + c1 * c
                sums[p2 + i] += a2 * a + b2 * b + c2 * c
                sums[p3 + i] += a3 * a + b3 * b + c3 * c


@njit(nogil=True, cache=True, error_model="numpy")
def _pack_signs(
    v,  # in   (ORDER * ROWS,) float32: the sums of a block
    bit,  # uint32, a power of two: where the signs go
    norms,  # in   (ROWS,) float32
    error,  # float32: largest error of a projection of a row of norm 1
    words,  # out  (ORDER * ROWS,) uint32
):  # the number of rows with a projection within the error of zero
    none, n_within = bit ^ bit, 0
    for i in range(_ROWS):
        z0, z1, z2, z3, z4, z5, z6, z7 = _transform(
            v[i], v[_R1 + i], v[_R2 + i], v[_R3 + i], v[_R4 + i], v[_R5 + i], v[_R6 + i], v[_R7 + i]
        )
        margin = _least(abs(z0), abs(z1), abs(z2), abs(z3), abs(z4), abs(z5), abs(z6), abs(z7))
        n_within += 0 if margin > norms[i] * error else 1
        words[i] |= bit if z0 >= 0 else none
        words[_R1 + i] |= bit if z1 >= 0 else none
        words[_R2 + i] |= bit if z2 >= 0 else none
        words[_R3 + i] |= bit if z3 >= 0 else none
        words[_R4 + i] |= bit if z4 >= 0 else none
        words[_R5 + i] |= bit if z5 >= 0 else none
        words[_R6 + i] |= bit if z6 >= 0 else none
        words[_R7 + i] |= bit if z7 >= 0 else none
    return n_within


@njit(nogil=True, cache=True, error_model="numpy")
def _projections(v, i):  # of row i, by all hashes of a block
    return _transform(
        v[i],
        v[ROWS + i],
        v[2 * ROWS + i],
        v[3 * ROWS + i],
        v[4 * ROWS + i],
        v[5 * ROWS + i],
        v[6 * ROWS + i],
        v[7 * ROWS + i],
    )


@njit(nogil=True, cache=True, error_model="numpy")
def _mend_signs(v, rows, directions, first_hash, step, n_hashes, bit, norms, error, words):
    # Signs of projections within the error of zero, again, in float64. Hashes: first_hash + o * step.
    for i in range(rows.shape[0]):
        z = _projections(v, i)
        for o in range(n_hashes):
            if not abs(z[o]) > norms[i] * error:
                row, position = rows[i], o * ROWS + i
                z_exact = exact_projection(row, exact_shrink(row), directions, first_hash + o * step)
                words[position] = (words[position] & ~bit) | (bit if z_exact >= 0 else bit ^ bit)


@njit(nogil=True, cache=True, error_model="numpy")
def _join_words(
    words,  # in   (ORDER * ROWS,) uint32: signs of some hashes of every repetition
    multipliers,  # in   (1, n_hashes) uint64
    first_hash,  # that of bit 0 of the first repetition
    step,  # from one repetition to the next
    n_bits,
    n_repetitions,  # of the ORDER ones; the others do not exist
    joined,  # out  (ORDER * ROWS,) uint64
):
    for o in range(n_repetitions):
        for k in range(n_bits):
            multiplier, bit = multipliers[0, first_hash + o * step + k], np.uint32(1) << np.uint32(k)
            for i in range(np.uint64(o) * _ROWS, np.uint64(o + 1) * _ROWS):
                joined[i] += multiplier if words[i] & bit else multiplier ^ multiplier


@njit(nogil=True, cache=True, error_model="numpy")
def _add_floors(
    v,  # in   (ORDER * ROWS,) float32: the sums of a block
    lengths,  # in   (ORDER,) float32
    offsets,  # in   (ORDER,) float32
    multipliers,  # in   (ORDER,) uint64
    norms,  # in   (ROWS,) float32
    error,  # float32: largest error of a projection of a row of norm 1
    joined,  # out  (ORDER * ROWS,) uint64
):  # the number of rows with a projection within the error of an edge
    l0, l1, l2, l3 = lengths[0], lengths[1], lengths[2], lengths[3]
    l4, l5, l6, l7 = lengths[4], lengths[5], lengths[6], lengths[7]
    o0, o1, o2, o3 = offsets[0], offsets[1], offsets[2], offsets[3]
    o4, o5, o6, o7 = offsets[4], offsets[5], offsets[6], offsets[7]
    m0, m1, m2, m3 = multipliers[0], multipliers[1], multipliers[2], multipliers[3]
    m4, m5, m6, m7 = multipliers[4], multipliers[5], multipliers[6], multipliers[7]
    n_within = 0
    for i in range(_ROWS):
        z0, z1, z2, z3, z4, z5, z6, z7 = _transform(
            v[i], v[_R1 + i], v[_R2 + i], v[_R3 + i], v[_R4 + i], v[_R5 + i], v[_R6 + i], v[_R7 + i]
        )
        c0, b0 = _floor(z0 * l0 + o0)
        c1, b1 = _floor(z1 * l1 + o1)
        c2, b2 = _floor(z2 * l2 + o2)
        c3, b3 = _floor(z3 * l3 + o3)
        c4, b4 = _floor(z4 * l4 + o4)
        c5, b5 = _floor(z5 * l5 + o5)
        c6, b6 = _floor(z6 * l6 + o6)
        c7, b7 = _floor(z7 * l7 + o7)
        n_within += 0 if _least(b0, b1, b2, b3, b4, b5, b6, b7) > norms[i] * error + OFFSET_ERROR else 1
        joined[i] += c0 * m0
        joined[_R1 + i] += c1 * m1
        joined[_R2 + i] += c2 * m2
        joined[_R3 + i] += c3 * m3
        joined[_R4 + i] += c4 * m4
        joined[_R5 + i] += c5 * m5
        joined[_R6 + i] += c6 * m6
        joined[_R7 + i] += c7 * m7
    return n_within


@njit(nogil=True, cache=True, error_model="numpy")
def _mend_floors(
    v, rows, directions, lengths, offsets, multipliers, first_hash, step, n_hashes, norms, error, joined
):
    # Cells of projections within the error of an edge, again, in float64. Hashes: first_hash + o * step.
    for i in range(rows.shape[0]):
        z = _projections(v, i)
        for o in range(n_hashes):
            h = first_hash + o * step
            cell, margin = _floor(z[o] * np.float32(lengths[h]) + np.float32(offsets[h]))
            if not margin > norms[i] * error + OFFSET_ERROR:
                exact = math.floor(exact_projection(rows[i], 1.0, directions, h) + offsets[h])
                joined[o * ROWS + i] += (np.uint64(np.int64(exact)) - cell) * multipliers[0, h]


@njit(nogil=True, cache=True, error_model="numpy")
def _hash_tile(
    rows,  # in   (n_rows, n_features): up to ROWS rows
    features,  # in   see _load
    norms,  # in   see _load
    first_stack,  # the stacks of ORDER repetitions wanted
    last_stack,
    directions,
    coefficients,
    lengths,
    offsets,
    signs,
    error,
    multipliers,
    shifts,
    n_buckets,
    rehashed,
    first,
    last,
    start,  # the place of the first row in codes
    sums,  # scratch (BLOCKS * ORDER * ROWS,) float32
    words,  # scratch (ORDER * ROWS,) uint32
    joined,  # scratch (ORDER * ROWS,) uint64
    own_lengths,  # scratch (ORDER,) float32
    own_offsets,  # scratch (ORDER,) float32
    own_multipliers,  # scratch (ORDER,) uint64
    codes,  # out
):
    step = directions.shape[1] // shifts.size  # hashes of a repetition, and blocks of a stack
    for b in range(first_stack * step, last_stack * step):
        lane = (b - first_stack * step) % BLOCKS
        if lane == 0:
            for chunk in range(0, coefficients.shape[1] // ORDER, CHUNKS):
                _fold(features, chunk, coefficients, b, sums)
        v = sums[lane * ORDER * ROWS : (lane + 1) * ORDER * ROWS]
        stack, k = b // step, b % step
        n_hashes = min(ORDER, shifts.size - stack * ORDER)
        h = stack * ORDER * step + k  # and h + step, h + 2 step, ...: the hashes of this block
        if k == 0 and rehashed:
            for o in range(n_hashes):
                joined[o * ROWS : (o + 1) * ROWS] = shifts[stack * ORDER + o]
        if signs:
            place = k % WORD
            if place == 0:
                words[:] = 0
            bit = np.uint32(1) << np.uint32(place)
            if _pack_signs(v, bit, norms, error, words) > 0:
                _mend_signs(v, rows, directions, h, step, n_hashes, bit, norms, error, words)
            if rehashed and (place == WORD - 1 or k == step - 1):
                _join_words(words, multipliers, h - place, step, place + 1, n_hashes, joined)
        else:
            for o in range(n_hashes):
                own_lengths[o] = lengths[h + o * step]
                own_offsets[o] = offsets[h + o * step]
                own_multipliers[o] = multipliers[0, h + o * step]
            if _add_floors(v, own_lengths, own_offsets, own_multipliers, norms, error, joined) > 0:
                _mend_floors(
                    v,
                    rows,
                    directions,
                    lengths,
                    offsets,
                    multipliers,
                    h,
                    step,
                    n_hashes,
                    norms,
                    error,
                    joined,
                )
        if k < step - 1:
            continue
        for repetition in range(max(first, stack * ORDER), min(last, stack * ORDER + n_hashes)):
            offset = (repetition - stack * ORDER) * ROWS
            part = codes[repetition - first, start : start + rows.shape[0]]
            if rehashed:
                to_buckets(joined[offset : offset + part.size], n_buckets, rehashed, part)
            else:
                signs_of_rows = words[offset : offset + part.size]
                for i in range(np.uint64(part.size)):
                    part[i] = signs_of_rows[i]


@njit(nogil=True, cache=True, error_model="numpy")
def structured_codes(
    rows,  # in   (n_rows, n_features) float32 or float64
    begin,  # the rows wanted: begin <= row < end
    end,
    largest_norm,  # see _load; cells of smaller rows fit 64 bits
    directions,  # in   (n_features, n_hashes) float64
    scales,  # in   (>= n_features,) float64
    coefficients,  # in   (>= n_blocks + BLOCKS - 1, n_chunks * ORDER) float32, n_chunks a multiple of CHUNKS
    lengths,  # in   (n_hashes,) float64: what projections are multiplied by; not read if signs are wanted
    offsets,  # in   (n_hashes,) float64, in [0, 1); not read if signs are wanted
    signs,  # whether cells are signs, else floors, which are always rehashed
    error,  # float32: largest error of a projection of a scaled row of norm 1
    multipliers,  # in   (1, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,  # the repetitions wanted: first <= repetition < last
    last,
    codes,  # out  (last - first, n_rows) uint16 or uint32, of which the rows wanted are written
):
    per_repetition = directions.shape[1] // shifts.size
    n_floats = coefficients.shape[1] * ROWS
    n_tiles = max(min(LOADED_FLOATS // n_floats, TILES), 1)
    features = _aligned(np.empty(n_tiles * n_floats + PADDING, np.float32))
    norms = _aligned(np.empty(n_tiles * ROWS + PADDING, np.float32))
    in_float64 = np.empty(n_tiles * ROWS, np.bool_)
    squares = np.empty(ROWS)
    sums = _aligned(np.empty(BLOCKS * ORDER * ROWS + PADDING, np.float32))
    words = _aligned(np.empty(ORDER * ROWS + PADDING, np.uint32))
    joined = _aligned(np.empty(ORDER * ROWS + PADDING, np.uint64))
    own_lengths, own_offsets = np.zeros(ORDER, np.float32), np.zeros(ORDER, np.float32)
    own_multipliers = np.zeros(ORDER, np.uint64)
    last_stack = -(-last // ORDER)
    step = BLOCKS // math.gcd(BLOCKS, per_repetition)  # so many stacks that their blocks fill whole folds
    for begin_of_tiles in range(begin, end, n_tiles * ROWS):
        end_of_tiles = min(begin_of_tiles + n_tiles * ROWS, end)
        for t, start in enumerate(range(begin_of_tiles, end_of_tiles, ROWS)):
            _load(
                rows[start : min(start + ROWS, end)],
                scales,
                largest_norm,
                features[t * n_floats : (t + 1) * n_floats],
                norms[t * ROWS : (t + 1) * ROWS],
                in_float64[t * ROWS : (t + 1) * ROWS],
                squares,
            )
        for stack in range(first // ORDER, last_stack, step):
            for t, start in enumerate(range(begin_of_tiles, end_of_tiles, ROWS)):
                _hash_tile(
                    rows[start : min(start + ROWS, end)],
                    features[t * n_floats : (t + 1) * n_floats],
                    norms[t * ROWS : (t + 1) * ROWS],
                    stack,
                    min(stack + step, last_stack),
                    directions,
                    coefficients,
                    lengths,
                    offsets,
                    signs,
                    error,
                    multipliers,
                    shifts,
                    n_buckets,
                    rehashed,
                    first,
                    last,
                    start,
                    sums,
                    words,
                    joined,
                    own_lengths,
                    own_offsets,
                    own_multipliers,
                    codes,
                )
        for i in range(begin_of_tiles, end_of_tiles):
            if in_float64[i - begin_of_tiles]:
                for repetition in range(first, last):
                    h, shift = repetition * per_repetition, shifts[repetition]
                    if signs:
                        code = exact_sign_code(rows[i], directions, multipliers, shift, h, h + per_repetition)
                    else:
                        code = exact_floor_code(
                            rows[i], directions, offsets, multipliers, shift, h, h + per_repetition
                        )
                    codes[repetition - first, i] = to_bucket(code, n_buckets, rehashed)
