"""From scores to examples and their weights: one pure function for each policy, NumPy alone.

``m`` examples of ``n`` are drawn by their probabilities p (with replacement), or so that example i is among
them with probability pi (without). The weights 1 / (n p) and m / (n pi) make the plain mean of weight * g
over a draw an unbiased estimate of the mean of g over all examples. (Hansen & Hurwitz, Annals of
Mathematical Statistics 14, 1943; Horvitz & Thompson, JASA 47, 1952.)

Scores of any kind are accepted: a negative one counts as 0, NaN as the mean of the others (nothing is
known), infinity as the largest finite one; where that leaves nothing above 0, all count alike. An example
of probability 0 is never drawn, so estimates leave it out: mix a uniform share in (:func:`mixture`) unless a
score of 0 is to mean just that. Everything takes O(n) or O(n log n) time and a few arrays of n numbers.
"""

from __future__ import annotations

from numbers import Integral
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Draw",
    "clip",
    "dynamic_random",
    "effective_size",
    "inclusion_probabilities",
    "mixture",
    "probabilities",
    "proportional",
    "systematic",
    "threshold",
    "top_k",
    "usable",
    "variance_ratio",
    "with_replacement",
    "without_replacement",
]

Array = NDArray[np.float64]


class Draw(NamedTuple):
    """Examples, in random order unless the policy says otherwise, and their weights.

    Attributes
    ----------
    rows : ndarray of shape (n_drawn,), int64
    weights : ndarray of shape (n_drawn,), float64
    """

    rows: NDArray[np.int64]
    weights: Array


# -- from scores to probabilities -----------------------------------------------------------------


def usable(scores: ArrayLike) -> Array:
    """Return scores as finite numbers of at least 0, not all 0; the module tells what becomes of others.

    Parameters
    ----------
    scores : array-like of shape (n,)

    Returns
    -------
    ndarray of shape (n,), float64
        A copy, divided by the largest: within [0, 1].

    Raises
    ------
    ValueError
        If there are no scores, or not one number for each example.
    """
    values = np.array(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"scores has shape {values.shape}: give one number per example, (n,).")
    if values.min() >= 0 and 0 < (largest := values.max()) < np.inf:  # no NaN either
        values /= largest
        return values
    unknown = np.isnan(values)
    np.maximum(values, 0.0, out=values)  # NaN stays
    values[unknown] = 0.0
    infinite = np.isinf(values)
    if infinite.any():
        values[infinite] = 0.0
        values[infinite] = values.max() or 1.0
    largest = values.max()
    if largest > 0:
        values /= largest  # sums and powers of huge scores stay in range
    else:
        values[~unknown] = 1.0
    if unknown.any():
        values[unknown] = 1.0 if unknown.all() else values[~unknown].mean()
    return values


def clip(scores: ArrayLike, quantile: float) -> Array:
    """Lower the largest scores to a quantile: the largest losses are often wrong labels.

    Parameters
    ----------
    scores : array-like of shape (n,)
    quantile : float
        Within (0, 1]. Of the :func:`usable` scores; 1 lowers none.

    Returns
    -------
    ndarray of shape (n,), float64
        Within [0, 1].
    """
    values = usable(scores)
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile={quantile!r} is out of range: give a number within (0, 1].")
    return np.minimum(values, np.quantile(values, quantile))


def proportional(scores: ArrayLike, exponent: float = 1.0) -> Array:
    """Return probabilities in proportion to a power of the scores.

    Parameters
    ----------
    scores : array-like of shape (n,)
    exponent : float, default=1.0
        At least 0. 1 has the least variance if scores are gradient norms without error; less is wiser the
        noisier they are; 0 is uniform.

    Returns
    -------
    ndarray of shape (n,), float64
        Sums to 1.
    """
    if not 0 <= exponent < np.inf:
        raise ValueError(f"exponent={exponent!r} is out of range: give a finite number of at least 0.")
    powers = usable(scores) ** exponent
    return np.asarray(powers / powers.sum())


def mixture(probabilities: Array, uniform_share: float) -> Array:
    """Mix probabilities with uniform ones, so that no weight exceeds 1 / ``uniform_share``.

    Parameters
    ----------
    probabilities : ndarray of shape (n,), float64
        Sums to 1.
    uniform_share : float
        Within [0, 1].

    Returns
    -------
    ndarray of shape (n,), float64
        Sums to 1.
    """
    if not 0 <= uniform_share <= 1:
        raise ValueError(f"uniform_share={uniform_share!r} is out of range: give a number within [0, 1].")
    return (1.0 - uniform_share) * probabilities + uniform_share / len(probabilities)


def probabilities(
    scores: ArrayLike, exponent: float = 1.0, uniform_share: float = 0.0, quantile: float | None = None
) -> Array:
    """Clip, take in proportion to a power, mix: what the sampler and the selector draw by.

    Parameters
    ----------
    scores : array-like of shape (n,)
    exponent : float, default=1.0
        See :func:`proportional`.
    uniform_share : float, default=0.0
        See :func:`mixture`.
    quantile : float or None, default=None
        See :func:`clip`; None does not clip.

    Returns
    -------
    ndarray of shape (n,), float64
        Sums to 1.
    """
    clipped = scores if quantile is None else clip(scores, quantile)
    return mixture(proportional(clipped, exponent), uniform_share)


def inclusion_probabilities(probabilities: Array, n_draws: int) -> Array:
    """Return with which probability each example is in a draw of fixed size without replacement.

    In proportion to ``probabilities``, but at most 1: what an example would have beyond that goes to the
    others, in proportion again. If fewer than ``n_draws`` have a probability above 0, these are certain and
    the others share the rest equally.

    Parameters
    ----------
    probabilities : ndarray of shape (n,), float64
        Not negative, not all 0.
    n_draws : int
        Within [1, n].

    Returns
    -------
    ndarray of shape (n,), float64
        Sums to ``n_draws``.

    Raises
    ------
    ValueError
        If there are fewer examples than draws.
    """
    n_rows = len(probabilities)
    _check_draws(n_draws, n_rows)
    n_positive = int(np.count_nonzero(probabilities))
    if n_positive <= n_draws:
        left = (n_draws - n_positive) / max(n_rows - n_positive, 1)
        return np.where(probabilities > 0, 1.0, left)
    total = probabilities.sum()
    if n_draws * probabilities.max() <= total:  # none is certain
        return np.minimum(probabilities * (n_draws / total), 1.0)
    ascending = np.sort(probabilities)
    # If the k largest are certain, the k-th next must not exceed its share of what is left to draw.
    sums = np.cumsum(ascending)[::-1][:n_draws]
    remaining = n_draws - np.arange(n_draws)
    fits = remaining * ascending[::-1][:n_draws] <= sums
    n_certain = int(np.argmax(fits)) if fits.any() else n_draws - 1
    return np.minimum(probabilities * (remaining[n_certain] / sums[n_certain]), 1.0)


# -- policies -------------------------------------------------------------------------------------


def with_replacement(probabilities: Array, n_draws: int, rng: np.random.Generator) -> Draw:
    """Draw ``n_draws`` times independently; weights 1 / (n p).

    Parameters
    ----------
    probabilities : ndarray of shape (n,), float64
        Not negative, not all 0.
    n_draws : int
        At least 1.
    rng : numpy.random.Generator

    Returns
    -------
    Draw
    """
    _check_draws(n_draws, np.inf)
    cumulative = np.cumsum(probabilities)
    total = cumulative[-1]
    points = np.minimum(rng.random(n_draws) * total, np.nextafter(total, 0.0))
    points.sort()  # neighbours in memory are searched one after the other
    rows = rng.permutation(np.searchsorted(cumulative, points, side="right"))
    return Draw(rows, total / (len(probabilities) * probabilities[rows]))


def without_replacement(probabilities: Array, n_draws: int, rng: np.random.Generator) -> Draw:
    """Draw ``n_draws`` different examples; weights m / (n pi), pi of :func:`inclusion_probabilities`.

    Parameters
    ----------
    probabilities : ndarray of shape (n,), float64
        Not negative, not all 0.
    n_draws : int
        Within [1, n].
    rng : numpy.random.Generator

    Returns
    -------
    Draw
    """
    included = inclusion_probabilities(probabilities, n_draws)
    rows = systematic(included, n_draws, rng)
    return Draw(rows, n_draws / (len(included) * included[rows]))


def systematic(included: Array, n_draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw ``n_draws`` different examples, each with its inclusion probability.

    Examples lie end to end on a line in random order, each as long as its probability, and points at
    distance 1 with a random start pick theirs. (Madow, Annals of Mathematical Statistics 20, 1949.)

    Parameters
    ----------
    included : ndarray of shape (n,), float64
        Of :func:`inclusion_probabilities`.
    n_draws : int
        Their sum.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (n_draws,), int64
        In random order.
    """
    order = rng.permutation(len(included))
    lengths = included[order]
    if not lengths.all():
        order, lengths = order[lengths > 0], lengths[lengths > 0]
    ends = np.cumsum(lengths)
    ends *= n_draws / ends[-1]
    steps = np.arange(n_draws)
    picked = np.searchsorted(ends, rng.random() + steps, side="right")
    # An example of length 1 may seem a rounding error longer, and be hit twice: its neighbour is meant.
    picked = np.maximum.accumulate(picked - steps) + steps
    picked = np.minimum(picked, len(order) - n_draws + steps)
    return rng.permutation(order[picked])  # as picked, short examples come first and last too often


def threshold(scores: ArrayLike, level: float, rng: np.random.Generator) -> Draw:
    """Accept every example by itself with probability p = min(1, score / level); weights 1 / p.

    The number of examples accepted is random, as if they came one by one. The *sum* of weight * g over them
    estimates the sum of g over all.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Negative ones and NaN are never accepted, infinite ones always.
    level : float
        Positive: scores from here on are certain.
    rng : numpy.random.Generator

    Returns
    -------
    Draw
        Rows in ascending order.
    """
    if not 0 < level < np.inf:
        raise ValueError(f"level={level!r} is out of range: give a positive, finite number.")
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores has shape {values.shape}: give one number per example, (n,).")
    with np.errstate(over="ignore"):
        accepted = np.minimum(np.nan_to_num(values, nan=0.0) / level, 1.0)
    rows = np.flatnonzero(rng.random(len(values)) < accepted)
    return Draw(rows, 1.0 / accepted[rows])


def dynamic_random(n_rows: int, n_draws: int, rng: np.random.Generator) -> Draw:
    """Draw a uniform subset, a new one each time: the baseline that a policy must beat. Weights 1.

    Parameters
    ----------
    n_rows, n_draws : int
        ``n_draws`` within [1, n_rows].
    rng : numpy.random.Generator

    Returns
    -------
    Draw
    """
    _check_draws(n_draws, n_rows)
    return Draw(rng.choice(n_rows, n_draws, replace=False), np.ones(n_draws))


def top_k(scores: ArrayLike, n_draws: int, rng: np.random.Generator) -> Draw:
    """Take the examples of the largest scores, equal ones at random; weights 1.

    **Biased**: means over the draw estimate nothing about all examples, and no weight can mend that, as
    examples of small scores are never drawn. Wrong labels are drawn first.

    Parameters
    ----------
    scores : array-like of shape (n,)
    n_draws : int
        Within [1, n].
    rng : numpy.random.Generator

    Returns
    -------
    Draw
    """
    values = usable(scores)
    _check_draws(n_draws, len(values))
    order = rng.permutation(len(values))
    largest = np.argpartition(values[order], len(values) - n_draws)[len(values) - n_draws :]
    return Draw(rng.permutation(order[largest]), np.ones(n_draws))


# -- how good a draw is ----------------------------------------------------------------------------


def variance_ratio(values: Array, weights: Array, seen_with: Array | float = 1.0) -> float:
    """Estimate the variance of a weighted mini-batch against that of a uniform one of the same size.

    A step takes weight * g with probability proportional to 1 / weight, so its second moment is the mean of
    weight * g^2 over all examples; that of a uniform step is the mean of g^2. (The square of the mean
    gradient, which is common to both, is left out: it is small beside them.)

    Parameters
    ----------
    values : ndarray of shape (n_seen,)
        Magnitudes g, or losses in their place.
    weights : ndarray of shape (n_seen,)
        Weights that the policy gives to these examples; infinite if it never draws them.
    seen_with : ndarray of shape (n_seen,) or 1.0, default=1.0
        Weights that they were drawn with.

    Returns
    -------
    float
        Below 1 if the policy pays; NaN if nothing was seen, or all values are 0.
    """
    largest = np.abs(values).max(initial=0.0)
    if largest == 0:
        return float("nan")
    squares = seen_with * (values / largest) ** 2
    with np.errstate(invalid="ignore"):  # infinite weights of examples that are never drawn
        return float(np.where(squares > 0, weights * squares, 0.0).sum() / squares.sum())


def effective_size(weights: Array) -> float:
    """Return how many equally weighted examples would have a mean as variable (Kish); NaN for none.

    Parameters
    ----------
    weights : ndarray of shape (n_drawn,)

    Returns
    -------
    float
        The sum of the weights, squared, by the sum of their squares.
    """
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else float("nan")


def _check_draws(n_draws: int, most: float) -> None:
    if not isinstance(n_draws, Integral) or not 1 <= n_draws <= most:
        raise ValueError(f"n_draws={n_draws!r} is out of range: give an integer from 1 to {most}.")
