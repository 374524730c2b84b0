"""Cells of projections: float32 products, with float64 wherever rounding could change a cell.

A cell is defined by the float64 projection whose features are added from first to last. The
float32 product differs from it by at most (n_features + 4) 2^-23 ||x|| ||direction|| (twice the
usual bound for sums in any order, with or without fused multiply-add; it also covers the
conversion of both factors to float32 and the float64 sum's own error). The few projections that lie
within that bound of an edge are computed again in float64. So a row's cells are exact, whatever the
batch and the threads.

Products are made for a tile of rows (transposed, in the first-level cache) and sixteen directions
at a time, and turned into cells before the next: nothing but codes goes to memory. Cells included,
that takes 1.5 to 1.9 times a BLAS product of the same size (tests/benchmarks/kernels.py).
"""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.join import to_bucket, to_buckets

#: Rows whose features, products and margins fit the first-level cache together.
TILE = 256
#: Directions multiplied at a time: a multiple of 4, the number that share loads of the features.
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
    directions,  # in   (padded_features, n_hashes + GROUP) float32
    h,  # the first of GROUP directions
    products,  # out  (GROUP, n_rows) float32
):
    products[:] = 0
    for g in range(0, GROUP, 4):
        for j in range(0, features.shape[0], 4):
            _add_four_by_four(features, directions, j, h + g, products[g : g + 4])


@njit(nogil=True, cache=True, error_model="numpy")
def _exact_projection(row, shrink, directions, h):
    total = 0.0
    for j in range(row.size):
        total += np.float64(row[j]) * shrink * directions[j, h]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _shrink(row):  # the power of two that keeps sums over the row from overflowing: mostly 1
    for x in row:
        if abs(np.float64(x)) > HUGE:
            return SHRINK
    return 1.0


@njit(nogil=True, cache=True, error_model="numpy")
def _any_close(margins, norms, error):  # whether a row is too close to zero, or marked for float64
    n_close = 0
    for i in range(margins.size):
        n_close += 0 if margins[i] > norms[i] * error else 1
    return n_close > 0


@njit(nogil=True, cache=True, error_model="numpy")
def _add_signs(p, multiplier, joined, margins):
    for i in range(joined.size):
        joined[i] += multiplier if p[i] >= np.float32(0) else multiplier ^ multiplier
        margin = abs(p[i])
        margins[i] = margin if margin < margins[i] else margins[i]  # min() would not vectorise


@njit(nogil=True, cache=True, error_model="numpy")
def _exact_sign_code(row, directions, multipliers, shift, first_hash, last_hash):
    code, shrink = shift, _shrink(row)
    for h in range(first_hash, last_hash):
        if _exact_projection(row, shrink, directions, h) >= 0:
            code += multipliers[0, h]
    return code


@njit(nogil=True, cache=True, error_model="numpy")
def sign_codes(
    rows,  # in   (n_rows, n_features) float32 or float64
    largest_norm,  # see _load
    directions,  # in   (n_features, n_hashes) float64
    unit_directions,  # in   (padded_features, n_hashes + GROUP) float32: the same at length 1, and zeros
    error,  # float32: largest error of a product of a row of norm 1
    multipliers,  # in   (1, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,
    last,
    codes,  # out  (last - first, n_rows) uint32
):
    n_rows = rows.shape[0]
    per_repetition = directions.shape[1] // shifts.size
    width = max(min(TILE, n_rows), 1)
    # Always used at full width: a slice of columns would not be contiguous, and loops not vectorised.
    features, norms = np.zeros((unit_directions.shape[0], width), np.float32), np.empty(width, np.float32)
    products, margins = np.empty((GROUP, width), np.float32), np.empty(width, np.float32)
    joined = np.empty(width, np.uint64)
    for start in range(0, n_rows, width):
        size = min(width, n_rows - start)
        tile = rows[start : start + size]
        _load(tile, largest_norm, features, norms)
        for h in range(first * per_repetition, last * per_repetition):
            lane = (h - first * per_repetition) % GROUP
            if lane == 0:
                _project(features, unit_directions, h, products)
            repetition, k = h // per_repetition, h % per_repetition
            part = codes[repetition - first, start : start + size]
            if k == 0:
                margins[:] = np.inf
                joined[:] = shifts[repetition]
                part[:] = 0
            if rehashed:
                _add_signs(products[lane], multipliers[0, h], joined, margins)
            else:  # codes of 32 bits: twice as many at a time
                _add_signs(products[lane], np.uint32(multipliers[0, h]), part, margins)
            if k < per_repetition - 1:
                continue
            if rehashed:
                to_buckets(joined[:size], n_buckets, rehashed, part)
            if not _any_close(margins, norms, error):
                continue
            for i in range(size):
                if not margins[i] > norms[i] * error:
                    shift = shifts[repetition]
                    code = _exact_sign_code(tile[i], directions, multipliers, shift, h - k, h + 1)
                    part[i] = to_bucket(code, n_buckets, rehashed)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_floors(p, norms, offset, error, multiplier, joined, margins):
    for i in range(p.size):
        position = p[i] + offset
        cell = np.floor(position)
        below = position - cell
        above = np.float32(1) - below
        margin = (below if below < above else above) - (norms[i] * error + OFFSET_ERROR)
        margins[i] = margin if margin < margins[i] else margins[i]
        joined[i] += np.uint64(np.int64(np.int32(cell))) * multiplier


@njit(nogil=True, cache=True, error_model="numpy")
def _exact_floor_code(row, directions, offsets, multipliers, shift, first_hash, last_hash):
    code = shift
    for h in range(first_hash, last_hash):
        cell = math.floor(_exact_projection(row, 1.0, directions, h) + offsets[h])
        code += np.uint64(np.int64(cell)) * multipliers[0, h]
    return code


@njit(nogil=True, cache=True, error_model="numpy")
def floor_codes(
    rows,  # in   (n_rows, n_features) float32 or float64
    largest_norm,  # see _load
    directions,  # in   (n_features, n_hashes) float64
    rounded_directions,  # in   (padded_features, n_hashes + GROUP) float32: the same, and zeros
    offsets,  # in   (n_hashes,) float64, in [0, 1)
    errors,  # in   (n_hashes,) float32: largest error of a product of a row of norm 1
    multipliers,  # in   (1, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,
    last,
    codes,  # out  (last - first, n_rows) uint32
):
    n_rows = rows.shape[0]
    per_repetition = directions.shape[1] // shifts.size
    width = max(min(TILE, n_rows), 1)
    # Always used at full width: a slice of columns would not be contiguous, and loops not vectorised.
    features, norms = np.zeros((rounded_directions.shape[0], width), np.float32), np.empty(width, np.float32)
    products, margins = np.empty((GROUP, width), np.float32), np.empty(width, np.float32)
    joined = np.empty(width, np.uint64)
    for start in range(0, n_rows, width):
        size = min(width, n_rows - start)
        tile = rows[start : start + size]
        _load(tile, largest_norm, features, norms)
        for h in range(first * per_repetition, last * per_repetition):
            lane = (h - first * per_repetition) % GROUP
            if lane == 0:
                _project(features, rounded_directions, h, products)
            repetition, k = h // per_repetition, h % per_repetition
            if k == 0:
                margins[:] = np.inf
                joined[:] = shifts[repetition]
            offset = np.float32(offsets[h])
            _add_floors(products[lane], norms, offset, errors[h], multipliers[0, h], joined, margins)
            if k < per_repetition - 1:
                continue
            part = codes[repetition - first, start : start + size]
            to_buckets(joined[:size], n_buckets, rehashed, part)
            if not _any_close(margins, norms, np.float32(0)):
                continue
            for i in range(size):
                if not margins[i] > 0 or norms[i] == np.inf:
                    shift, last_hash = shifts[repetition], h + 1
                    code = _exact_floor_code(
                        tile[i], directions, offsets, multipliers, shift, h - k, last_hash
                    )
                    part[i] = to_bucket(code, n_buckets, rehashed)


@njit(nogil=True, cache=True, error_model="numpy")
def sparse_projection_codes(
    data,  # in   (n_non_zeros,) float64: CSR rows, columns ascending
    indices,  # in   (n_non_zeros,)
    indptr,  # in   (n_rows + 1,)
    directions,  # in   (n_features, n_hashes) float64
    offsets,  # in   (n_hashes,) float64; not read if signs are wanted
    signs,  # whether cells are signs (else floors)
    multipliers,  # in   (1, n_hashes) uint64
    shifts,  # in   (n_repetitions,) uint64
    n_buckets,
    rehashed,
    first,
    last,
    codes,  # out  (last - first, n_rows) uint32
):
    per_repetition = directions.shape[1] // shifts.size
    begin, end = first * per_repetition, last * per_repetition
    projections = np.empty(end - begin)
    for i in range(indptr.size - 1):
        projections[:] = 0.0
        shrink = _shrink(data[indptr[i] : indptr[i + 1]]) if signs else 1.0
        for position in range(indptr[i], indptr[i + 1]):
            j, x = indices[position], data[position] * shrink
            for h in range(begin, end):
                projections[h - begin] += x * directions[j, h]
        for repetition in range(first, last):
            code = shifts[repetition]
            for h in range(repetition * per_repetition, (repetition + 1) * per_repetition):
                if signs:
                    code += multipliers[0, h] if projections[h - begin] >= 0 else np.uint64(0)
                else:
                    cell = math.floor(projections[h - begin] + offsets[h])
                    code += np.uint64(np.int64(cell)) * multipliers[0, h]
            codes[repetition - first, i] = to_bucket(code, n_buckets, rehashed)
