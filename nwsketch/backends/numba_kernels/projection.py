"""Cells of projections: float32 products, with float64 wherever rounding could change a cell.

A cell is defined by the float64 projection whose features are added from first to last. The float32 product
differs from it by at most (n_features / 4 + 9) 2^-24 ||x|| ||direction||, to first order: sums of four
products, added up one after the other, with or without fused multiply-add; it also covers the conversion of
both factors to float32 and the float64 sum's own error. The few projections that lie within that bound of an
edge are computed again in float64. So a row's cells are exact, whatever the batch and the threads.

Products are made for a tile of rows (transposed, in the first-level cache) and some sixteen directions at a
time, and turned into cells before the next: nothing but codes goes to memory. This is for l1, and for few
features; other directions have factors (structured.py).
"""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.join import SPARSE_ROWS, to_buckets, to_buckets_of_tile

#: Rows handled at a time: their products stay in the first-level cache, their features mostly in the second.
TILE = 256
#: Directions multiplied at a time, or more if a repetition has more.
GROUP = 16
#: Rows of a smaller norm are left to float64: their float32 products might underflow.
SMALLEST_NORM = 1e-25
#: Rounding of an offset to float32 and of its sum with a projection below 1 (four units).
OFFSET_ERROR = np.float32(2.0**-22)
#: Values beyond HUGE shrink a row before its signs are taken (as in nwsketch.hashing.angular).
HUGE, SHRINK = 2.0**900, 2.0**-200
#: Fused multiply-add is covered by the error bound; no other liberty is taken.
PRODUCT_MATH = {"contract"}


@njit(nogil=True, cache=True, error_model="numpy")
def _load(
    rows,  # in   (n_rows, n_features) float32 or float64
    largest_norm,  # rows at or above this norm are left to float64: float32 might overflow
    features,  # out  (padded_features, n_rows) float32, of which the first n_features are written
    norms,  # out  (n_rows,) float32, rounded up; infinity marks a row for float64
):
    for i in range(rows.shape[0]):
        square = 0.0
        for j in range(rows.shape[1]):
            square += np.float64(rows[i, j]) ** 2
            features[j, i] = np.float32(rows[i, j])
        norm = math.sqrt(square)
        usual = SMALLEST_NORM < norm < largest_norm
        norms[i] = np.float32(norm * 1.000001) if usual else np.float32(np.inf)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=PRODUCT_MATH)
def _add_four_by_four(features, directions, j, h, products):
    a0, a1, a2, a3 = directions[j, h], directions[j, h + 1], directions[j, h + 2], directions[j, h + 3]
    j1, j2, j3 = j + 1, j + 2, j + 3
    b0, b1, b2, b3 = directions[j1, h], directions[j1, h + 1], directions[j1, h + 2], directions[j1, h + 3]
    c0, c1, c2, c3 = directions[j2, h], directions[j2, h + 1], directions[j2, h + 2], directions[j2, h + 3]
    d0, d1, d2, d3 = directions[j3, h], directions[j3, h + 1], directions[j3, h + 2], directions[j3, h + 3]
    xa, xb, xc, xd = features[j], features[j1], features[j2], features[j3]
    p0, p1, p2, p3 = products[0], products[1], products[2], products[3]
    for i in range(p0.size):
        a, b, c, d = xa[i], xb[i], xc[i], xd[i]
        p0[i] += a0 * a + b0 * b + c0 * c + d0 * d
        p1[i] += a1 * a + b1 * b + c1 * c + d1 * d
        p2[i] += a2 * a + b2 * b + c2 * c + d2 * d
        p3[i] += a3 * a + b3 * b + c3 * c + d3 * d


@njit(nogil=True, cache=True, error_model="numpy")
def _project(
    features,  # in   (padded_features, n_rows) float32: a multiple of 4, zeros last
    directions,  # in   (padded_features, >= h + n_wanted + 3) float32
    h,  # the first direction wanted
    n_wanted,
    products,  # out  (>= n_wanted + 3, n_rows) float32
):
    products[:] = 0
    for g in range(0, n_wanted, 4):
        for j in range(0, features.shape[0], 4):
            _add_four_by_four(features, directions, j, h + g, products[g : g + 4])


@njit(nogil=True, cache=True, error_model="numpy")
def exact_projection(row, shrink, directions, h):
    total = 0.0
    for j in range(row.size):
        total += np.float64(row[j]) * shrink * directions[j, h]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def exact_shrink(row):  # the power of two that keeps sums over the row from overflowing: mostly 1
    for x in row:
        if abs(np.float64(x)) > HUGE:
            return SHRINK
    return 1.0


@njit(nogil=True, cache=True, error_model="numpy")
def exact_sign_code(row, directions, multipliers, shift, first_hash, last_hash):
    code, shrink = shift, exact_shrink(row)
    for h in range(first_hash, last_hash):
        if exact_projection(row, shrink, directions, h) >= 0:
            code += multipliers[0, h]
    return code


@njit(nogil=True, cache=True, error_model="numpy")
def exact_floor_code(row, directions, offsets, multipliers, shift, first_hash, last_hash):
    code = shift
    for h in range(first_hash, last_hash):
        cell = math.floor(exact_projection(row, 1.0, directions, h) + offsets[h])
        code += np.uint64(np.int64(cell)) * multipliers[0, h]
    return code


@njit(nogil=True, cache=True, error_model="numpy")
def _any_within(margins, norms):  # whether a row is too close to an edge, or left to float64
    n_within = 0
    for i in range(margins.size):
        n_within += 0 if margins[i] > 0 and norms[i] < np.inf else 1
    return n_within > 0


@njit(nogil=True, cache=True, error_model="numpy")
def _add_signs(p, norms, error, multiplier, joined, margins):
    for i in range(p.size):
        joined[i] += multiplier if p[i] >= np.float32(0) else multiplier ^ multiplier
        margins[i] = lesser(abs(p[i]) - norms[i] * error, margins[i])


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def lesser(a, b):  # min() would look for NaN first, and not vectorise
    return a if a < b else b


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def floor_and_margin(position, error):  # the cell, as it is joined, and how far beyond errors the edges are
    cell = np.floor(position)
    below = position - cell
    margin = lesser(below, np.float32(1) - below) - (error + OFFSET_ERROR)
    return np.uint64(np.int64(cell)), margin


@njit(nogil=True, cache=True, error_model="numpy")
def _add_floors(p, norms, error, offset, multiplier, joined, margins):
    for i in range(p.size):
        cell, margin = floor_and_margin(p[i] + offset, norms[i] * error)
        margins[i] = lesser(margin, margins[i])
        joined[i] += cell * multiplier


@njit(nogil=True, cache=True, error_model="numpy")
def _add_four_floors(p, norms, errors, offsets, multipliers, h, joined, margins):
    p0, p1, p2, p3 = p[0], p[1], p[2], p[3]
    e0, e1, e2, e3 = errors[h], errors[h + 1], errors[h + 2], errors[h + 3]
    o0, o1 = np.float32(offsets[h]), np.float32(offsets[h + 1])
    o2, o3 = np.float32(offsets[h + 2]), np.float32(offsets[h + 3])
    m0, m1, m2, m3 = multipliers[0, h], multipliers[0, h + 1], multipliers[0, h + 2], multipliers[0, h + 3]
    for i in range(joined.size):
        norm = norms[i]
        c0, margin0 = floor_and_margin(p0[i] + o0, norm * e0)
        c1, margin1 = floor_and_margin(p1[i] + o1, norm * e1)
        c2, margin2 = floor_and_margin(p2[i] + o2, norm * e2)
        c3, margin3 = floor_and_margin(p3[i] + o3, norm * e3)
        margin = lesser(lesser(margin0, margin1), lesser(margin2, margin3))
        margins[i] = lesser(margin, margins[i])
        joined[i] += (c0 * m0 + c1 * m1) + (c2 * m2 + c3 * m3)


@njit(nogil=True, cache=True, error_model="numpy")
def projection_codes(
    rows,  # in   (n_rows, n_features) float32 or float64
    begin,  # the rows wanted: begin <= row < end
    end,
    largest_norm,  # see _load; cells of smaller rows fit 64 bits
    directions,  # in   (n_features, n_hashes) float64
    rounded_directions,  # in   (padded_features, n_hashes + 3) float32: the same, and zeros
    offsets,  # in   (n_hashes,) float64, in [0, 1); not read if signs are wanted
    signs,  # whether cells are signs (of directions that may be shortened), else floors
    errors,  # in   (n_hashes,) float32: largest error of a product of a row of norm 1
    multipliers,  # in   (1, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,  # the repetitions wanted: first <= repetition < last
    last,
    codes,  # out  (last - first, n_rows) uint16 or uint32, of which the rows wanted are written
):
    per_repetition = directions.shape[1] // shifts.size
    together = max(GROUP // per_repetition, 1)  # repetitions whose products are made at a time
    width = max(min(TILE, end - begin), 1)
    # Always used at full width: a slice of columns would not be contiguous, and loops not vectorised.
    features, norms = np.zeros((rounded_directions.shape[0], width), np.float32), np.empty(width, np.float32)
    products, margins = (
        np.empty((together * per_repetition + 3, width), np.float32),
        np.empty(width, np.float32),
    )
    joined = np.empty(width, np.uint64)
    for start in range(begin, end, width):
        size = min(width, end - start)
        tile = rows[start : start + size]
        _load(tile, largest_norm, features, norms)
        for repetition in range(first, last):
            h = repetition * per_repetition
            lane = (repetition - first) % together * per_repetition
            if lane == 0:
                n_wanted = min(together, last - repetition) * per_repetition
                _project(features, rounded_directions, h, n_wanted, products)
            margins[:] = np.inf
            joined[:] = shifts[repetition]
            k = 0
            while k < per_repetition:
                p, error, multiplier = products[lane + k :], errors[h + k], multipliers[0, h + k]
                if signs:
                    _add_signs(p[0], norms, error, multiplier, joined, margins)
                elif k + 4 <= per_repetition:
                    _add_four_floors(p, norms, errors, offsets, multipliers, h + k, joined, margins)
                    k += 3
                else:
                    offset = np.float32(offsets[h + k])
                    _add_floors(p[0], norms, error, offset, multiplier, joined, margins)
                k += 1
            if _any_within(margins, norms):
                for i in range(size):
                    if margins[i] > 0 and norms[i] < np.inf:
                        continue
                    row, shift = tile[i], shifts[repetition]
                    if signs:
                        joined[i] = exact_sign_code(
                            row, directions, multipliers, shift, h, h + per_repetition
                        )
                    elif norms[i] == np.inf:
                        joined[i] = exact_floor_code(
                            row, directions, offsets, multipliers, shift, h, h + per_repetition
                        )
                    else:
                        for k in range(per_repetition):
                            position = products[lane + k, i] + np.float32(offsets[h + k])
                            cell, margin = floor_and_margin(position, norms[i] * errors[h + k])
                            if not margin > 0:
                                exact = math.floor(
                                    exact_projection(row, 1.0, directions, h + k) + offsets[h + k]
                                )
                                joined[i] += (np.uint64(np.int64(exact)) - cell) * multipliers[0, h + k]
            to_buckets(joined[:size], n_buckets, rehashed, codes[repetition - first, start : start + size])


@njit(nogil=True, cache=True, error_model="numpy")
def _add_feature(x, directions, projections):
    for h in range(projections.size):
        projections[h] += x * directions[h]


@njit(nogil=True, cache=True, error_model="numpy")
def sparse_projection_codes(
    data,  # in   (n_non_zeros,) float64: CSR rows, columns ascending
    indices,  # in   (n_non_zeros,)
    indptr,  # in   (n_rows + 1,)
    begin,  # the rows wanted: begin <= row < end
    end,
    directions,  # in   (n_features, n_hashes) float64
    offsets,  # in   (n_hashes,) float64; not read if signs are wanted
    signs,  # whether cells are signs (else floors)
    multipliers,  # in   (1, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,
    last,
    codes,  # out  (last - first, n_rows) uint16 or uint32, of which the rows wanted are written
):
    per_repetition = directions.shape[1] // shifts.size
    first_hash, last_hash = first * per_repetition, last * per_repetition
    projections = np.empty(last_hash - first_hash)
    tile = np.empty((last - first, min(SPARSE_ROWS, end - begin)), np.uint64)
    for start in range(begin, end, SPARSE_ROWS):
        size = min(SPARSE_ROWS, end - start)
        for i in range(size):
            projections[:] = 0.0
            columns = range(indptr[start + i], indptr[start + i + 1])
            shrink = exact_shrink(data[columns.start : columns.stop]) if signs else 1.0
            for position in columns:
                own = directions[indices[position], first_hash:last_hash]
                _add_feature(data[position] * shrink, own, projections)
            for repetition in range(first, last):
                code = shifts[repetition]
                for h in range(repetition * per_repetition, (repetition + 1) * per_repetition):
                    if signs:
                        code += multipliers[0, h] if projections[h - first_hash] >= 0 else np.uint64(0)
                    else:
                        cell = math.floor(projections[h - first_hash] + offsets[h])
                        code += np.uint64(np.int64(cell)) * multipliers[0, h]
                tile[repetition - first, i] = code
        to_buckets_of_tile(tile, start, size, n_buckets, rehashed, codes)
