"""Cells and their joins in 32 bits, and which of them are in doubt.

To a position float32 adds a number so large that the sum is a fixed point: of its bits the high ones count
cells, the low ones tell how far the cell's edge is. Those that are nearer to an edge than their error must be
made again in float64.

Cells are joined in 64 bits, of which only the high 32 choose the bucket. So no more than 32 bits of every
multiplier are joined while the cells are in registers. What the others would carry over is at most a margin
that is known; rows that lie so near to the next bucket must be joined again, whole.
"""

import numpy as np
from numba import njit

from nwsketch.backends.numba_kernels.vectors import (
    FUSED,
    as_words,
    bits,
    block_of,
    lanes_not_above,
    lesser,
    multiply_add,
    shift_right,
    splat,
    subtract,
)

#: Digits of a fixed point, before the point and behind it.
DIGITS = 22
#: Units of the last digit that a fixed point is rounded by; a quarter more where a product is rounded before.
ROUNDING = np.float32(0.5 if FUSED else 0.75)
#: Rows whose fixed points would have fewer digits behind the point are left to float64. (Blocks of hashes may
#: be given so many less: see exponents in projection_codes.)
LEAST_DIGITS = 8
#: The largest projection, without its offset and with room for rounding, that has so many.
LARGEST = 2.0 ** (DIGITS - LEAST_DIGITS) - 3.0


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def point(
    sizes,  # vector of float32 from 1 to 2 ** DIGITS: no position is larger
):  # words: the bits of what is added to positions to make fixed points, and how many digits those have
    lowest_exponent, offset = splat(np.uint32(2**23)), splat(np.uint32(127))
    # All positions are less than 2^n from zero. To 1.5 * 2^(n + 1) they are added.
    n = shift_right(bits(sizes), splat(np.uint32(23))) - splat(np.uint32(126))
    center = (n + offset + splat(np.uint32(1))) * lowest_exponent + splat(np.uint32(2**22))
    return center, splat(np.uint32(DIGITS)) - n


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def below(n_digits):  # 2 ** n_digits - 1
    return shift_right(splat(np.uint32(2**DIGITS - 1)), splat(np.uint32(DIGITS)) - n_digits)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def carry_margins(sizes, by_size, constant):  # blocks
    # The largest carry from low halves of joined cells in 1/2^32 of a bucket, ``sizes * by_size + constant``,
    # or half a bucket if that is more; near_edges adds 2^7, up to which larger float32 are rounded.
    below_half = block_of(splat(np.float32(2.0**31 - 2**7)))  # the largest float32 that is
    return as_words(lesser(multiply_add(sizes, by_size, constant), below_half))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def near_edges(joined, margins, n_buckets):
    # uint64: bit i is 1 if any of row i's joined cells are as near to the edge of a bucket as its margin: all
    # are if there are 2^32 buckets.
    nothing = block_of(splat(np.uint32(0)))
    opposite = subtract(block_of(splat(np.uint32(2**32 - 2**7))), margins)
    places = multiply_add(joined, block_of(splat(np.uint32(n_buckets))), opposite)
    return lanes_not_above(subtract(opposite, subtract(nothing, opposite)), places)
