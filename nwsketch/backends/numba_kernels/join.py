"""From joined cells to buckets, shared by the hash kernels.

Cells are joined in unsigned 64-bit arithmetic that wraps: ``code = shift + sum multiplier * cell``.
"""

import numpy as np
from numba import njit

#: Sparse rows whose codes are written together. Written row by row they would go to as many cache lines as
#: there are repetitions, often a power of two apart, and drive each other out of the cache.
SPARSE_ROWS = 64


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def to_bucket(
    code,  # uint64: joined cells
    n_buckets,  # uint64
    rehashed,  # whether the code must be folded into the table, or is the bucket itself
):
    if rehashed:
        return np.uint32(((code >> np.uint64(32)) * n_buckets) >> np.uint64(32))
    return np.uint32(code)


@njit(nogil=True, cache=True, error_model="numpy")
def to_buckets(
    joined,  # in   (n_rows,) uint64
    n_buckets,
    rehashed,
    codes,  # out  (n_rows,) uint16 or uint32
):
    for i in range(joined.size):
        codes[i] = to_bucket(joined[i], n_buckets, rehashed)


@njit(nogil=True, cache=True, error_model="numpy")
def to_buckets_of_tile(
    joined,  # in   (n_in_range, >= size) uint64
    start,  # the place of the first of the rows
    size,  # how many rows there are
    n_buckets,
    rehashed,
    codes,  # out  (n_in_range, n_rows) uint16 or uint32
):
    for repetition in range(codes.shape[0]):
        to_buckets(joined[repetition, :size], n_buckets, rehashed, codes[repetition, start : start + size])
