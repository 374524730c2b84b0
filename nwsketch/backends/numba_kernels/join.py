"""From joined cells to buckets, shared by the hash kernels.

Cells are joined in unsigned 64-bit arithmetic that wraps: ``code = shift + sum multiplier * cell``.
"""

import numpy as np
from numba import njit


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
