"""What a step of the selector spends its time on, compiled.

A training step leaves nothing of the interpreter in the caches, so that every Python function called here
costs a microsecond or two: a step makes few calls, and each does much.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from nwsketch.backends.aggregation import NOISE_ERRORS, RELATIVE_TOLERANCE
from nwsketch.backends.numba_kernels.aggregation import divide
from nwsketch.backends.numba_kernels.tables import commit, look_up


@njit(nogil=True, cache=True, error_model="numpy")
def centre_rows(
    rows: Any,  # in   (n_rows, n_features) float32 or float64
    centre: Any,  # in   (n_features,) of the same type
    labels: Any,  # in   (n_rows,) int64, or nothing
    n_labels: int,
    out: Any,  # out  (n_rows, n_features) of the same type: rows less the centre
) -> Any:
    """Subtract the centre from rows; return whether that is finite, and whether labels are in range."""
    wrong, beyond = 0, 0
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            value = rows[i, j] - centre[j]
            out[i, j] = value
            wrong |= value - value != 0  # infinite, or NaN
    for label in labels:
        beyond |= not 0 <= label < n_labels
    return wrong == 0, beyond == 0


@njit(nogil=True, cache=True, error_model="numpy")
def expect(
    codes: Any,  # in   (n_repetitions, n_rows) uint16 or uint32
    tables: Any,  # in   (n_repetitions, n_buckets, 2) float64: losses and weights
    totals: Any,  # in   (4,) float64
    n_buckets: float,  # that share the totals by chance; infinity if every code has its own
    scores: Any,  # out  (n_rows,) float64
) -> Any:
    """Do what ``sketch.query(codes)`` does by means and with ``empty="mean"``."""
    n_repetitions, n_rows = codes.shape
    ever_added, totals = totals[2], totals[:2]
    tolerance = RELATIVE_TOLERANCE * ever_added
    unit = math.ldexp(1.0, min(-math.frexp(ever_added)[1], 1000))  # see State.unit
    sums, squares = np.zeros((n_rows, 1, 2)), np.zeros((n_rows, 1 if n_buckets < np.inf else 0))
    warmth = look_up(codes, tables, unit, sums, squares)
    ratios = scores.reshape(n_rows, 1, 1)
    divide(
        sums, squares, totals.reshape(1, 2), n_repetitions, n_buckets, unit, NOISE_ERRORS, tolerance, ratios
    )
    mean = totals[0] / totals[1] if totals[1] > tolerance else np.nan
    for i in range(n_rows):
        if np.isnan(scores[i]):
            scores[i] = mean
    return warmth


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


@njit(nogil=True, cache=True, error_model="numpy")
def choose(
    codes: Any,  # in   see expect, up to n_buckets
    tables: Any,
    totals: Any,
    n_buckets: float,
    exponent: float,  # in   see draw, up to start
    uniform_share: float,
    order: Any,
    start: float,
    places: Any,  # in   (n_draws,) int64: a random permutation
    rows: Any,  # out  (n_draws,) int64, in that order
    weights: Any,  # out  (n_draws,) float32
    codes_of_rows: Any,  # out  (n_repetitions, n_draws) of the type of codes
) -> Any:
    """Look the scores up and draw by them; return what :func:`draw` does."""
    scores = np.empty(codes.shape[1])
    warmth = expect(codes, tables, totals, n_buckets, scores)
    drawn, drawn_weights = np.empty_like(rows), np.empty_like(weights)
    done = draw(scores, exponent, uniform_share, order, start, drawn, drawn_weights)
    for k in range(rows.size):
        rows[k], weights[k] = drawn[places[k]], drawn_weights[places[k]]
    if done:
        for r in range(codes.shape[0]):
            for k in range(rows.size):
                codes_of_rows[r, k] = codes[r, rows[k]]
    return done, warmth


@njit(nogil=True, cache=True, error_model="numpy")
def learn(
    codes: Any,  # in   (n_repetitions, n_rows), integers; not trusted
    losses: Any,  # in   (n_rows,) float32 or float64
    weight: float,  # of each row
    largest_sum: float,  # that targets may add up to
    tables: Any,  # out  (n_repetitions, n_buckets, 2) float64
    totals: Any,  # out  (4,) float64
) -> Any:
    """Do what ``sketch.update`` does, in one call that no signal can interrupt.

    Returns whether it did: codes of other tables, and losses that are not finite, or so large that sums could
    overflow, are left to others.
    """
    if codes.shape != (tables.shape[0], losses.size):
        return False, 0.0
    beyond = 0
    for code in codes.reshape(-1):
        beyond |= not 0 <= code < tables.shape[1]
    if beyond:
        return False, 0.0
    values, largest = np.empty((losses.size, 2)), 1.0
    for i in range(losses.size):
        loss = np.float64(losses[i])
        values[i, 0], values[i, 1] = loss * weight, weight
        largest = max(largest, abs(loss)) if loss - loss == 0 else np.inf
    if not largest * (totals[2] + losses.size * weight) < largest_sum:
        return False, 0.0
    return True, commit(codes, values, tables, totals)
