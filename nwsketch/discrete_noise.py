"""Integers from the discrete Laplace distribution, exactly, by the operating system's random bits.

P(k) is proportional to exp(-abs(k) / scale) over all integers k. Nothing here is a floating-point number:
every decision compares integers, so that the bits of the output tell nothing but the integer drawn (Mironov,
"On Significance of the Least Significant Bits for Differential Privacy", CCS 2012, shows what the bits of a
floating-point Laplace sampler give away). The algorithms are 1 and 2 of Canonne, Kamath & Steinke, "The
Discrete Gaussian for Differential Privacy", NeurIPS 2020, arXiv:2004.00010, whose loops run here over many
draws at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: Gives as many uniform 64-bit words as it is asked for.
Words = Callable[[int], NDArray[np.uint64]]

#: Scales up to here keep every product that is formed on the way below 2^63.
LARGEST_SCALE = 2**46
#: Draws that are made at a time.
BLOCK_SIZE = 2**18
#: Candidates that are made for every draw that is still wanted; some 63 per cent of them are taken.
CANDIDATES = 1.65


def system_words(n_words: int) -> NDArray[np.uint64]:
    """Return uniform 64-bit words from the operating system's cryptographic generator: (n_words,)."""
    return np.frombuffer(os.urandom(8 * n_words), dtype=np.uint64)


def discrete_laplace(size: int, scale: int, words: Words = system_words) -> NDArray[np.int64]:
    """Draw from the discrete Laplace distribution.

    Parameters
    ----------
    size : int
        Number of draws.
    scale : int
        Within [1, LARGEST_SCALE]: P(k) is proportional to exp(-abs(k) / scale).
    words : callable
        Source of random bits. Only tests have a reason to give another.

    Returns
    -------
    ndarray of shape (size,), int64
        Independent. The time taken depends on the draws, as with every rejection sampler.
    """
    draws = np.empty(size, dtype=np.int64)
    for start in range(0, size, BLOCK_SIZE):
        _fill(draws[start : start + BLOCK_SIZE], scale, words)
    return draws


def _fill(draws: NDArray[np.int64], scale: int, words: Words) -> None:
    n_done = 0
    while n_done < draws.size:
        found = _candidates(int(CANDIDATES * (draws.size - n_done)) + 16, scale, words)
        taken = found[: draws.size - n_done]
        draws[n_done : n_done + taken.size] = taken
        n_done += taken.size


def _candidates(n: int, scale: int, words: Words) -> NDArray[np.int64]:
    """Return at most ``n`` draws: those that rejection leaves of as many attempts."""
    remainders = _uniform(scale, n, words)
    remainders = remainders[_bernoulli_exp(remainders, scale, words)]
    magnitudes = (remainders + np.uint64(scale) * _geometric(remainders.size, words)).astype(np.int64)
    negative = (words(magnitudes.size) & np.uint64(1)).astype(bool)
    kept = ~(negative & (magnitudes == 0))  # or zero would be drawn twice as often
    return np.where(negative, -magnitudes, magnitudes)[kept]


def _uniform(bound: int, n: int, words: Words) -> NDArray[np.uint64]:
    """Return uniform integers within [0, bound), bound at most 2^63: (n,)."""
    drawn = words(n)
    largest = np.uint64(2**64 // bound * bound - 1)  # words beyond it would favour small remainders
    beyond = np.flatnonzero(drawn > largest)
    if beyond.size:
        drawn = drawn.copy()
        while beyond.size:
            drawn[beyond] = words(beyond.size)
            beyond = beyond[drawn[beyond] > largest]
    return drawn % np.uint64(bound)


def _bernoulli_exp(numerators: NDArray[np.uint64], denominator: int, words: Words) -> NDArray[np.bool_]:
    """Return True with probability exp(-numerator / denominator), for ratios within [0, 1].

    The first k at which a chance of ratio / k fails is odd with that probability: the sum
    1 - ratio + ratio^2 / 2! - ... is the series of exp(-ratio).
    """
    is_odd = np.empty(numerators.size, dtype=bool)
    going, k = np.arange(numerators.size), 1
    while going.size:
        succeeds = _uniform(k * denominator, going.size, words) < numerators[going]
        is_odd[going[~succeeds]] = k % 2 == 1
        going, k = going[succeeds], k + 1
    return is_odd


def _geometric(n: int, words: Words) -> NDArray[np.uint64]:
    """Return how often a chance of exp(-1) succeeds in a row: (n,)."""
    counts = np.zeros(n, dtype=np.uint64)
    going = np.arange(n)
    while going.size:
        going = going[_bernoulli_exp(np.ones(going.size, dtype=np.uint64), 1, words)]
        counts[going] += np.uint64(1)
    return counts
