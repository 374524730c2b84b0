"""Cells by their definition: in float64, of projections with the features added from first to last.

A row's cells are these, whatever computes them; float32 decides only where it is sure (see projection.py and
grid_blocks.py).
"""

import math

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.vectors import pointer

#: Values beyond HUGE shrink a row before its signs are taken (as in nwsketch.hashing.angular).
HUGE, SHRINK = 2.0**900, 2.0**-200


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _direction(hashes, n_features, h):  # pointer: that of hash h of all (hashes: see projection.Hashes)
    return pointer(hashes.directions, np.uint64(h * n_features))


@njit(nogil=True, cache=True, error_model="numpy")
def _exact_projection(row, n_features, shrink, direction):
    total = 0.0
    for j in range(n_features):
        total += np.float64(row[j]) * shrink * direction[j]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _quick_projection(row, n_features, shrink, direction):
    # Two float64: the same sum in whatever order is quickest, and by how much it may differ for that. (Added
    # one by one, as they are by definition, terms wait for each other.) Sums of n terms in two orders differ
    # by n u of their magnitudes at most, u being the spacing of float64 at 1 (Higham, "Accuracy and Stability
    # of Numerical Algorithms", 2002, section 4.2), and by some more if an offset, or little, is added.
    total, size = 0.0, 0.0
    for j in range(n_features):
        term = np.float64(row[j]) * shrink * direction[j]
        total += term
        size += abs(term)
    return total, (n_features + 8) * 2.0**-52 * (size + 1.0)


@njit(nogil=True, cache=True, error_model="numpy")
def _exact_cell(row, n_features, direction, offset):
    total, error = _quick_projection(row, n_features, 1.0, direction)
    cell = np.floor(total + offset - error)
    if cell != np.floor(total + offset + error):  # or neither is a number
        cell = np.floor(_exact_projection(row, n_features, 1.0, direction) + offset)
    return np.int64(cell)


@njit(nogil=True, cache=True, error_model="numpy")
def _exact_sign(row, n_features, shrink, direction):
    total, error = _quick_projection(row, n_features, shrink, direction)
    if not abs(total) > error:
        total = _exact_projection(row, n_features, shrink, direction)
    return total >= 0


# What is handed on are few numbers, not a tuple of all that a hash may need.


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def exact_cell(
    row,  # in   pointer: n_features numbers
    n_features,
    hashes,
    h,  # which hash of all
):  # int64
    return _exact_cell(row, n_features, _direction(hashes, n_features, h), hashes.offsets[h])


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def exact_sign(
    row,  # in   pointer: n_features numbers
    n_features,
    shrink,  # what they are multiplied by: see exact_shrink
    hashes,
    h,  # which hash of all
):  # bool: whether the projection is not negative
    return _exact_sign(row, n_features, shrink, _direction(hashes, n_features, h))


@njit(nogil=True, cache=True, error_model="numpy")
def exact_shrink(row, n_features):  # the power of two that keeps sums over the row from overflowing: mostly 1
    for j in range(n_features):
        if abs(np.float64(row[j])) > HUGE:
            return SHRINK
    return 1.0


@njit(nogil=True, cache=True, error_model="numpy")
def exact_sign_code(row, n_features, hashes, repetition):
    code, first = hashes.shifts[repetition], repetition * hashes.per_repetition
    shrink = exact_shrink(row, n_features)
    for h in range(first, first + hashes.per_repetition):
        if exact_sign(row, n_features, shrink, hashes, h):
            code += hashes.multipliers[h]
    return code


@njit(nogil=True, cache=True, error_model="numpy")
def exact_floor_code(row, n_features, hashes, repetition):
    code, first = hashes.shifts[repetition], repetition * hashes.per_repetition
    for h in range(first, first + hashes.per_repetition):
        code += np.uint64(exact_cell(row, n_features, hashes, h)) * hashes.multipliers[h]
    return code


@njit(nogil=True, cache=True, error_model="numpy")
def exact_grid_code(row, scales, offsets, multipliers, shift, first_hash, last_hash):
    code = shift
    for h in range(first_hash, last_hash):
        for j in range(row.size):
            cell = np.int64(math.floor(row[j] * scales[j, h] + offsets[j, h]))
            code += np.uint64(cell) * multipliers[j, h]
    return code
