"""Cells by their definition: in float64, of projections with the features added from first to last.

A row's cells are these, whatever computes them; float32 decides only where it is sure (see projection.py and
grid_blocks.py).
"""

import math

import numpy as np
from numba import njit

#: Values beyond HUGE shrink a row before its signs are taken (as in nwsketch.hashing.angular).
HUGE, SHRINK = 2.0**900, 2.0**-200


@njit(nogil=True, cache=True, error_model="numpy")
def exact_projection(row, shrink, directions, h):
    total = 0.0
    for j in range(row.size):
        total += np.float64(row[j]) * shrink * directions[j, h]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def exact_cell(row, directions, offsets, h):  # int64
    return np.int64(math.floor(exact_projection(row, 1.0, directions, h) + offsets[h]))


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
        code += np.uint64(exact_cell(row, directions, offsets, h)) * multipliers[0, h]
    return code


@njit(nogil=True, cache=True, error_model="numpy")
def exact_grid_code(row, scales, offsets, multipliers, shift, first_hash, last_hash):
    code = shift
    for h in range(first_hash, last_hash):
        for j in range(row.size):
            cell = np.int64(math.floor(row[j] * scales[j, h] + offsets[j, h]))
            code += np.uint64(cell) * multipliers[j, h]
    return code
