"""Rows in panels, and their products with directions, sums in registers.

A panel holds as many rows as a vector has lanes, one feature after the other in memory. It is multiplied by
two blocks of eight hashes at a time, in registers (vectors.py). Directions either stand in the coefficients
as they are, or have factors (nwsketch.hashing.projections): every chunk of eight features is then transformed
when it is loaded, and the sum of the chunks, times coefficients, once more. That takes d / 8 fused
multiply-adds and 3 additions per row and hash instead of d. (tests/benchmarks/kernels.py measures it.)
"""

import math
from collections import namedtuple

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.vectors import (
    LANES,
    ORDER,
    add,
    add_products,
    block_of,
    load,
    load_block,
    load_column,
    multiply_add,
    narrowed,
    pointer,
    splat,
    splat_block,
    store,
    store_block,
    widened,
)

#: Blocks that are multiplied at a time: their sums, and what is made of them, fit the registers.
PAIR = 2
#: Products that are added one after the other before they are added to the sum of those before: errors of
#: sums grow with the number of terms, and this cuts it. FEW of chunks, and of features if these are no more
#: than FEW_FEATURES, else MANY: the sum of the root of n sums of as many has the least error.
FEW, FEW_FEATURES, MANY = 8, 128, 32
#: Rows of a smaller norm are left to float64: their float32 products might underflow.
SMALLEST_NORM = 1e-25
#: Elements that scratch arrays have more than they need: vectors of 64 bytes that straddle cache lines would
#: take twice as long.
PADDING = 16

#: Panels by pointers: as they are handed to what is called for a few of their codes.
Panels = namedtuple("Panels", "rows n_rows n_features features n_columns norms")

_CHUNK = np.uint64(ORDER * LANES)  # floats of a chunk of features, of a panel
_0, _1, _ORDER, _LANES = np.uint64(0), np.uint64(1), np.uint64(ORDER), np.uint64(LANES)


@njit(nogil=True, cache=True, error_model="numpy")
def aligned(buffer):  # all but PADDING elements, from the beginning of a cache line on
    start = (-buffer.ctypes.data % 64) // buffer.itemsize
    return buffer[start : start + buffer.size - PADDING]


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def by_pointers(
    rows,  # in   (n_rows, n_features): those of the panels
    features,  # in   (n_panels * n_columns * LANES,) float32: see load_panel
    norms,  # in   (n_panels * LANES,) float32
):
    n_columns = features.size // norms.size
    return Panels(
        pointer(rows, _0), rows.shape[0], rows.shape[1], pointer(features, _0), n_columns, pointer(norms, _0)
    )


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def row_of(panels, v, i):  # pointer to row i of panel v
    return pointer(panels.rows, np.uint64((v * LANES + i) * panels.n_features))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _transform(a0, a1, a2, a3, a4, a5, a6, a7):
    # H a, H the Hadamard matrix of order 8 (scipy.linalg.hadamard): 24 additions.
    b0, b1, b2, b3 = a0 + a1, a0 - a1, a2 + a3, a2 - a3
    b4, b5, b6, b7 = a4 + a5, a4 - a5, a6 + a7, a6 - a7
    a0, a1, a2, a3 = b0 + b2, b1 + b3, b0 - b2, b1 - b3
    a4, a5, a6, a7 = b4 + b6, b5 + b7, b4 - b6, b5 - b7
    return a0 + a4, a1 + a5, a2 + a6, a3 + a7, a0 - a4, a1 - a5, a2 - a6, a3 - a7


@njit(nogil=True, cache=True, error_model="numpy")
def _transform_chunks(features, p, n_chunks):  # of the panel that begins at p, in place
    for _ in range(n_chunks):
        a0, a1, a2, a3, a4, a5, a6, a7 = load_block(features, p, _LANES)
        store_block(features, p, _LANES, _transform(a0, a1, a2, a3, a4, a5, a6, a7))
        p += _CHUNK


@njit(nogil=True, cache=True, error_model="numpy")
def _scale_rows(rows, begin, width, scales, panel, squares):  # LANES of them; also their squares, added up
    n_features, width = np.uint64(rows.shape[1]), np.uint64(width)
    source, sums = pointer(rows, np.uint64(begin) * n_features), splat(0.0)
    for copy in range(np.uint64(scales.size) // width):
        for j in range(n_features):
            k = copy * width + j
            scaled = narrowed(widened(load_column(source, j, n_features)) * splat(scales[k]))
            store(panel, k * _LANES, scaled)
            sums = multiply_add(widened(scaled), widened(scaled), sums)
        panel[(copy * width + n_features) * _LANES : (copy + _1) * width * _LANES] = 0
    store(squares, _0, sums)


@njit(nogil=True, cache=True, error_model="numpy")
def load_panel(
    rows,  # in   (n_rows, n_features) float32 or float64
    begin,  # the rows wanted: begin <= row < end, up to LANES
    end,
    scales,  # in   (n_columns,) float64, n_columns >= n_features: what features are multiplied by
    by_chunk,  # whether directions have factors: n_columns is a multiple of ORDER then
    largest_norm,  # above this norm (of the scaled row) float32 is of no use
    panel,  # out  (n_columns * LANES,) float32: the scaled rows, again and again; every chunk transformed
    norms,  # out  (LANES,) float32: norms of the scaled rows, rounded up; 0 for those in float64
    in_float64,  # out  (LANES,) bool: rows whose codes must be computed by other means
):
    squares, n_features = np.empty(LANES), rows.shape[1]
    width = -(-n_features // ORDER) * ORDER if by_chunk else n_features
    if end - begin == LANES:
        _scale_rows(rows, begin, width, scales, panel, squares)
    else:
        filled = np.zeros((LANES, n_features), rows.dtype)
        filled[: end - begin] = rows[begin:end]
        _scale_rows(filled, 0, width, scales, panel, squares)
    for i in range(LANES):
        norm = math.sqrt(squares[i])
        in_float64[i] = begin + i < end and not SMALLEST_NORM < norm < largest_norm
        if in_float64[i] or begin + i >= end:  # anything that is far from an edge will do
            norms[i] = 0
            for column in range(scales.size):
                panel[column * LANES + i] = 1
        else:
            norms[i] = np.float32(norm * 1.000001)
    if by_chunk:
        _transform_chunks(panel, _0, scales.size // ORDER)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _add_chunks(one, other, features, p, coefficients, j, distance, n_chunks):
    # Chunks times coefficients are added to the sums of the block whose coefficients begin at j, and to those
    # of the block that is ``distance`` on.
    for _ in range(n_chunks):
        one, other = add_products(one, other, features, p, _LANES, coefficients, j, distance)
        j += _ORDER
        p += _CHUNK
    return one, other


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _add_features(one, other, features, p, coefficients, j, distance, n_features):
    # As _add_chunks, but every feature has coefficients of its own.
    for _ in range(n_features):
        x = block_of(load(features, p))
        one = multiply_add(splat_block(coefficients, j), x, one)
        other = multiply_add(splat_block(coefficients, j + distance), x, other)
        j += _ORDER
        p += _LANES
    return one, other


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def project_pair_by_few(one, other, features, v, n_features, hashes, first_block):
    # project_pair, number for number, where directions have factors and chunks are few.
    distance, n_chunks = np.uint64(n_features), np.uint64(n_features) // _ORDER
    p, j = np.uint64(v) * distance * _LANES, np.uint64(first_block) * distance
    one, other = _add_chunks(one, other, features, p, hashes.coefficients, j, distance, n_chunks)
    a0, a1, a2, a3, a4, a5, a6, a7 = one
    b0, b1, b2, b3, b4, b5, b6, b7 = other
    return _transform(a0, a1, a2, a3, a4, a5, a6, a7), _transform(b0, b1, b2, b3, b4, b5, b6, b7)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _project_features(one, other, features, p, coefficients, j, n_features, step):
    distance = n_features * _ORDER
    one, other = _add_features(one, other, features, p, coefficients, j, distance, min(step, n_features))
    for done in range(step, n_features, step):
        q, k, n = p + done * _LANES, j + done * _ORDER, min(step, n_features - done)
        nothing = block_of(splat(np.float32(0)))
        a, b = _add_features(nothing, nothing, features, q, coefficients, k, distance, n)
        one, other = add(one, a), add(other, b)
    return one, other


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def project_pair(
    one,  # block of what the sums of the one block begin with ...
    other,  # ... and of the other
    features,  # in   panels, one after the other: see load_panel
    v,  # which panel
    n_features,  # of a row of the panel
    hashes,  # see projection.Hashes
    first_block,  # of two
):  # the projections of the rows by the hashes of the one block, and of the other
    n_features, coefficients = np.uint64(n_features), hashes.coefficients
    p = np.uint64(v) * n_features * _LANES
    if not hashes.by_chunk:
        j = np.uint64(first_block) * n_features * _ORDER
        if n_features <= np.uint64(FEW_FEATURES):
            return _project_features(one, other, features, p, coefficients, j, n_features, np.uint64(FEW))
        return _project_features(one, other, features, p, coefficients, j, n_features, np.uint64(MANY))
    step, n_steps, j = np.uint64(FEW), n_features // _ORDER, np.uint64(first_block) * n_features
    one, other = _add_chunks(one, other, features, p, coefficients, j, n_features, min(step, n_steps))
    for done in range(step, n_steps, step):
        q, k, n = p + done * _CHUNK, j + done * _ORDER, min(step, n_steps - done)
        nothing = block_of(splat(np.float32(0)))
        a, b = _add_chunks(nothing, nothing, features, q, coefficients, k, n_features, n)
        one, other = add(one, a), add(other, b)
    a0, a1, a2, a3, a4, a5, a6, a7 = one
    b0, b1, b2, b3, b4, b5, b6, b7 = other
    return _transform(a0, a1, a2, a3, a4, a5, a6, a7), _transform(b0, b1, b2, b3, b4, b5, b6, b7)
