"""What a step of the selector spends its time on, compiled."""

import math
from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def subtract(
    rows: Any,  # in   (n_rows, n_features) float32 or float64
    centre: Any,  # in   (n_features,) of the same type
    out: Any,  # out  (n_rows, n_features) of the same type
) -> Any:
    """Subtract the centre from rows; return whether all differences are finite."""
    wrong = 0
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            value = rows[i, j] - centre[j]
            out[i, j] = value
            wrong |= value - value != 0  # infinite, or NaN
    return wrong == 0


@njit(nogil=True, cache=True, error_model="numpy")
def draw(
    scores: Any,  # in   (n_rows,) float64
    exponent: float,
    uniform_share: float,
    order: Any,  # in   (n_rows,) int64: a random permutation
    start: float,  # random, within [0, 1)
    rows: Any,  # out  (n_draws,) int64
    weights: Any,  # out  (n_draws,) float32
) -> Any:
    """Do what ``policies.without_replacement(policies.probabilities(...))`` does, on scores that are usable.

    Returns whether it did: a score that is not a finite number of at least 0, or fewer rows above 0 than are
    to be drawn, is left to the policies.
    """
    n_rows, n_draws = scores.size, rows.size
    largest, n_positive = 0.0, 0
    for score in scores:
        if not 0 <= score < math.inf:
            return False
        largest = max(largest, score)
    if largest == 0:
        return False
    shares = np.empty(n_rows)
    total = 0.0
    for i in range(n_rows):
        share = scores[i] / largest
        shares[i] = share if exponent == 1 else share**exponent
        total += shares[i]
    for i in range(n_rows):
        shares[i] = (1.0 - uniform_share) * (shares[i] / total) + uniform_share / n_rows
        n_positive += shares[i] > 0
    if n_positive <= n_draws:
        return False
    # The largest are certain; what they would have beyond 1 makes others so, until nothing changes.
    factor, n_certain, before = 0.0, 0, -1
    while n_certain != before:
        before, rest = n_certain, 0.0
        for share in shares:
            rest += share if share * factor < 1 else 0.0
        factor = max(factor, (n_draws - n_certain) / rest)
        n_certain = 0
        for share in shares:
            n_certain += share * factor >= 1
    end, n_drawn = 0.0, 0
    for i in order:
        included = min(shares[i] * factor, 1.0)
        end += included
        if included > 0 and n_drawn < n_draws and start + n_drawn < end:
            rows[n_drawn] = i
            weights[n_drawn] = n_draws / (n_rows * included)
            n_drawn += 1
    return n_drawn == n_draws  # if not, rounding has left the end of the line short of the last point
