"""The largest magnitude among many numbers, which also tells whether all of them are finite.

Of floating-point numbers without their signs, bits are ordered as the numbers are, infinity above all others
and NaN above infinity (IEEE 754, 2019, section 3.4). So one pass over the bits, as integers, finds the
largest and answers both questions, in about half the time that NumPy takes for a sum, or for a maximum and a
minimum (tests/benchmarks/kernels.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Fewer numbers are left to NumPy, which is called faster.
MANY = 2**16
#: Integers of as many bits.
INTEGERS: dict[Any, Any] = {np.dtype(np.float32): np.uint32, np.dtype(np.float64): np.uint64}


def all_finite(values: NDArray[Any]) -> bool:
    """Return whether no value is NaN or infinity; integers are finite."""
    if values.size < MANY:
        return bool(np.isfinite(values).all())
    return bool(np.isfinite(largest_magnitude(values)))


def largest_magnitude(values: NDArray[Any]) -> float:
    """Return the largest magnitude of at least one value; NaN if there is one."""
    integer = INTEGERS.get(values.dtype) if values.size >= MANY else None
    if integer is None or not values.flags.forc:
        return max(float(values.max()), -float(values.min()))
    unsigned = np.array([np.iinfo(integer).max >> 1], integer)
    largest = _largest_bits(values.ravel(order="K").view(integer), unsigned[0])
    return float(np.array([largest], integer).view(values.dtype)[0])


@njit(nogil=True, cache=True, error_model="numpy")
def _largest_bits(
    bits,  # in   (n_values,) uint32 or uint64: those of float32 or float64
    unsigned,  # of the same type: all bits but that of the sign
):
    largest = unsigned ^ unsigned
    for i in range(bits.size):
        own = bits[i] & unsigned
        largest = own if own > largest else largest
    return largest
