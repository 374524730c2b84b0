"""How many repetitions and groups a wanted error takes: the bound behind ``suggest_size``.

Repetitions that are drawn together (``repetitions_together`` of :class:`nwsketch.hashing.HashParameters`)
are not independent; their means are, and "repetition" below stands for such a mean where there is one.

Let d_r be the weight and e_r the weighted targets that repetition r holds for a query, less what
rehashing adds on average (see :mod:`nwsketch.backends.aggregation`); K and M their expectations, m = M / K
the exact Nadaraya-Watson regression, eps the wanted error. A group of n repetitions answers with the ratio
of the means of e_r and d_r. With Z_r = e_r - m d_r, whose expectation is 0, that ratio is above m + eps
only if the mean of Z_r - eps d_r is at least 0: it would have to exceed its expectation by eps K. With
v the variance of (Z_r - eps d_r) / (eps K) and b the third absolute central moment in units of v^1.5,

    P(above) <= v / (v + n)                           (Cantelli)
    P(above) <= Phi(-sqrt(n / v)) + .4748 b / sqrt(n) (Berry, Esseen; constant: Shevtsova [1]_)

and likewise below, with + eps d_r. With rehashing, a group may also abstain: if D, the mean of its d_r,
is within one standard error of 0, so that n D^2 <= the mean of d_r^2, or within the floor T / W / sqrt(n).
Where K / 2 is above the floor, that takes D <= K / 2 (Cantelli; Maurer [2]_, since counts are not
negative) or a mean of d_r^2 of n K^2 / 4 (Cantelli once more).

The median of G answers, G odd, is too high only if at least (G + 1) / 2 groups are too high or abstain,
so if each is with probability p at most, P(median too high) <= P(Bin(G, p) >= (G + 1) / 2), exactly.
All of this holds for the true moments; they are estimated from the spread over the repetitions of a
fitted estimator, with K taken one standard error lower than it was seen.

References
----------
.. [1] I. Shevtsova, "On the absolute constants in the Berry-Esseen type inequalities for identically
   distributed summands", arXiv:1111.6554.
.. [2] A. Maurer, "A bound on the deviation probability for sums of non-negative random variables",
   Journal of Inequalities in Pure and Applied Mathematics 4(1), 2003.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr
from sklearn.utils.validation import check_is_fitted

from nwsketch.backends.aggregation import NOISE_ERRORS, tolerated
from nwsketch.backends.threads import count_threads
from nwsketch.regressor import NadarayaWatsonSketchRegressor
from nwsketch.tensors import to_host
from nwsketch.validation import validate_queries

Array = NDArray[np.float64]

#: Fewer repetitions tell too little of their spread.
LEAST_PILOT = 32
#: A kernel sum must exceed so many standard errors to count as mass, and is taken so many lower.
MASS_ERRORS, CAUTION_ERRORS = 3.0, 1.0
#: Constant of the Berry-Esseen bound for summands of one distribution.
BERRY_ESSEEN = 0.4748
#: Sizes that are searched: repetitions in a group, and (odd) numbers of groups.
MOST_REPETITIONS, MOST_GROUPS = 2**40, 199
#: Values read from the tables at a time.
BLOCK_SIZE = 2**20


class SuggestedSize(NamedTuple):
    """A size, and what it covers.

    Parameters
    ----------
    n_repetitions : int
        A multiple of ``n_groups``.
    n_groups : int
        Odd: an even number would fail no less often than the odd one below it.
    covered : ndarray of shape (n_samples,), bool
        Rows of X for which the bound holds at this size.
    n_without_mass : int
        Rows of X near which nothing was learnt, as far as the estimator can tell: no size is known to
        help them.
    """

    n_repetitions: int
    n_groups: int
    covered: NDArray[np.bool_]
    n_without_mass: int


def suggest_size(
    estimator: NadarayaWatsonSketchRegressor,
    X: Any,
    error: float,
    confidence: float,
    *,
    coverage: float = 0.9,
) -> SuggestedSize:
    """Turn a wanted error into ``n_repetitions`` and ``n_groups`` of ``aggregation="median_of_means"``.

    With hashes drawn anew, an estimator of this size and otherwise the same parameters differs at a
    covered row by more than ``error`` from the exact Nadaraya-Watson regression with probability
    ``1 - confidence`` at most. That is a bound, so the failures seen are usually far fewer.
    It says nothing of the error against the truth, which no size takes below that of the
    exact regression.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
        Fitted, with any number of repetitions from 32 on: a pilot, from whose tables the local kernel
        mass and its spread are estimated. The more it has, the more rows are seen to have mass, and the
        less caution is added. Without bias correction. With a trend, the regression is that of what the
        trend leaves over.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Queries like those to come: some hundred to some thousand rows.
    error : float
        Largest difference from the exact regression, in units of the target; above 0.
    confidence : float
        Probability, for each query by itself and for all its outputs together, that the error is no
        larger; within (0, 1).
    coverage : float, default=0.9
        Share of the rows of X that this must hold for; within (0, 1]. Rows in sparse regions take
        many times the repetitions of the others.

    Returns
    -------
    SuggestedSize
        The least product of the two, of those that the bound allows.

    Raises
    ------
    TypeError
        If ``estimator`` is of another class.
    ValueError
        If it is not fitted, corrected or too small a pilot; if too many rows have no kernel mass, or a
        parameter is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from nwsketch import NadarayaWatsonSketchRegressor
    >>> from nwsketch.size import suggest_size
    >>> X = np.random.default_rng(0).uniform(-3, 3, size=(5000, 2))
    >>> pilot = NadarayaWatsonSketchRegressor(bandwidth=1.0, random_state=0).fit(X, np.sin(X[:, 0]))
    >>> size = suggest_size(pilot, X[:500], error=0.2, confidence=0.95)
    >>> size.n_repetitions % size.n_groups
    0
    >>> model = pilot.set_params(
    ...     aggregation="median_of_means", n_repetitions=size.n_repetitions, n_groups=size.n_groups
    ... ).fit(X, np.sin(X[:, 0]))
    """
    _require_suitable(estimator)
    if not (math.isfinite(error) and error > 0):
        raise ValueError(f"error={error!r} is out of range: give a number above 0, in units of the target.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} is out of range: give a number between 0 and 1.")
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage={coverage!r} is out of range: give a share of the rows, within (0, 1].")
    X = validate_queries(estimator, X)
    # With uncertainty=True further sums follow those of the targets.
    n_targets = getattr(estimator, "_n_targets", estimator.sketch_.n_outputs)
    spread = _measure(estimator.sketch_, X, n_targets, error)

    n_rows = X.shape[0]
    n_wanted = math.ceil(coverage * n_rows - 1e-9)  # .9 * 10 rows are 9, whatever the rounding
    n_without = n_rows - int(np.count_nonzero(spread.has_mass))
    if n_rows - n_without < n_wanted:
        raise ValueError(
            f"{n_without} of {n_rows} rows of X have no kernel mass that can be told from noise, but "
            f"coverage={coverage} allows {n_rows - n_wanted}. No number of repetitions is known to help: fit "
            "with a wider bandwidth, or with more repetitions to see fainter mass, or lower coverage."
        )
    # Each output, above and below, gets an equal part of the failures that are allowed.
    found = _search(spread, n_wanted, (1.0 - confidence) / (2 * n_targets))
    if found is None:
        raise ValueError(
            f"error={error} is out of reach: it would take more than 2**40 repetitions. Give a larger error."
        )
    n_each, n_groups, failures = found
    together = estimator.sketch_.plan.parameters.repetitions_together
    covered = np.zeros(n_rows, dtype=np.bool_)
    covered[spread.has_mass] = spread.group_failures(n_each) <= failures
    return SuggestedSize(n_each * together * n_groups, n_groups, covered, n_without)


class Spread(NamedTuple):
    """Moments over the repetitions, in units of the kernel mass K; rows are those that have mass.

    Attributes
    ----------
    has_mass : ndarray of shape (n_samples,), bool
    variances, thirds : ndarray of shape (n_rows, 2 * n_targets)
        Of (Z_r -+ eps d_r) / (eps K): the variance v, and the third absolute central moment / v^1.5.
    count_variances : ndarray of shape (n_rows,)
        Variance of d_r / K.
    count_squares : ndarray of shape (n_rows,)
        Mean square of what a bucket holds, chance collisions included.
    squares, square_variances : ndarray of shape (n_rows,)
        Mean and variance of (d_r / K)^2.
    floors : ndarray of shape (n_rows,)
        What chance collisions add, T / W / K. Without rehashing all columns about counts are 0.
    """

    has_mass: NDArray[np.bool_]
    variances: Array
    thirds: Array
    count_variances: Array
    count_squares: Array
    squares: Array
    square_variances: Array
    floors: Array

    def group_failures(self, n: int) -> Array:
        """Bound the probability that a group of ``n`` repetitions is too high (or too low) or abstains.

        Parameters
        ----------
        n : int

        Returns
        -------
        ndarray of shape (n_rows,)
            The largest of all outputs and both directions. It falls as n grows.
        """
        chebyshev = self.variances / (self.variances + n)
        with np.errstate(divide="ignore"):
            normal = ndtr(-np.sqrt(n / self.variances)) + BERRY_ESSEEN * self.thirds / math.sqrt(n)
        return np.minimum(chebyshev, normal).max(axis=1) + self._abstentions(n)

    def _abstentions(self, n: int) -> Array:
        """Bound the probability that the mean of d_r does not exceed the noise threshold."""
        quarter = n / 4  # n (K / 2)^2
        with np.errstate(divide="ignore"):
            few = np.minimum(
                self.count_variances / (self.count_variances + quarter),
                np.exp(-quarter / 2 / self.count_squares),
            )
        excess = quarter / max(NOISE_ERRORS, 1.0) ** 2 - self.squares
        noisy = self.square_variances / (self.square_variances + n * excess**2)
        bounded = (excess > 0) & (quarter > self.floors**2)
        return np.minimum(np.where(bounded, few + noisy, self.squares > 0), 1.0)


def _measure(sketch: Any, X: Any, n_targets: int, error: float) -> Spread:
    """Read what every repetition holds for the rows, block by block, and reduce it to moments."""
    X = sketch._queries(X, check_input=False)
    step = max(BLOCK_SIZE // (sketch.n_repetitions * (sketch.n_outputs + 1)), 1)
    # Huge weights or targets overflow to moments that no size satisfies.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        blocks = [
            _moments(sketch, X[start : start + step], n_targets, error)
            for start in range(0, X.shape[0], step)
        ]
    return Spread(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def _moments(sketch: Any, X: Any, n_targets: int, error: float) -> Spread:
    state, together = sketch._state, sketch.plan.parameters.repetitions_together
    # Every repetition a group of its own: (n_rows, n_repetitions, n_channels).
    sums, _ = sketch._backend.sums(state, X, sketch.n_repetitions, None, count_threads(sketch.n_jobs))
    sums = to_host(sums)
    by_chance = to_host(state.channel_totals) * (sketch.plan.rehashed / sketch.n_buckets)
    sums -= by_chance
    n_repetitions = sketch.n_repetitions // together
    sums = sums[:, : n_repetitions * together].reshape(len(sums), n_repetitions, together, -1)
    each_count, sums = sums[..., -1], sums.mean(axis=2)
    counts, targets = sums[..., -1], sums[..., :n_targets]

    means = counts.mean(axis=1)
    errors = (counts * state.unit).std(axis=1, ddof=1) / state.unit / math.sqrt(n_repetitions)
    has_mass = means > np.maximum(MASS_ERRORS * errors, 2 * tolerated(state))
    counts, targets = counts[has_mass], targets[has_mass]
    mass = (means - CAUTION_ERRORS * errors)[has_mass]
    averages = targets.mean(axis=1) / means[has_mass, np.newaxis]

    counts /= mass[:, np.newaxis]
    # The query sums the squares of single repetitions, so each counts for itself.
    squares = ((each_count[has_mass] / mass[:, np.newaxis, np.newaxis]) ** 2).mean(axis=2) / together
    # Z_r / (eps K); the average in place of m makes its mean 0.
    targets = targets / (error * mass[:, np.newaxis, np.newaxis])
    targets -= averages[:, np.newaxis, :] / error * counts[..., np.newaxis]
    sides = np.concatenate([targets - counts[..., np.newaxis], targets + counts[..., np.newaxis]], axis=2)
    variances = sides.var(axis=1, ddof=1)
    thirds = (np.abs(sides - sides.mean(axis=1, keepdims=True)) ** 3).mean(axis=1)
    thirds = np.where(variances > 0, thirds / variances**1.5, 0.0)

    # Without rehashing there is no threshold: only groups that hold nothing abstain, and those
    # count as too high and as too low above.
    threshold = float(sketch.plan.rehashed)
    floors = by_chance[-1] / mass
    held = counts + floors[:, np.newaxis]
    about_counts = (
        counts.var(axis=1, ddof=1),
        (held**2).mean(axis=1),
        squares.mean(axis=1),
        squares.var(axis=1, ddof=1),
        floors,
    )
    return Spread(has_mass, variances, thirds, *(threshold * moments for moments in about_counts))


def _search(spread: Spread, n_wanted: int, failures: float) -> tuple[int, int, float] | None:
    """Find the least n * G that covers enough rows.

    Returns
    -------
    tuple of (n, G, failure probability of a group that G forgives), or None
    """
    best = None
    n_most = MOST_REPETITIONS
    for n_groups in range(1, MOST_GROUPS + 1, 2):
        majority = (n_groups + 1) / 2
        # The p at which P(Bin(G, p) >= majority), an incomplete beta function, is what is allowed.
        forgiven = float(betaincinv(majority, majority, failures))

        def suffices(n: int, forgiven: float = forgiven) -> bool:
            return int(np.count_nonzero(spread.group_failures(n) <= forgiven)) >= n_wanted

        if best is not None:
            n_most = (best[0] * best[1] - 1) // n_groups  # only what is less than the best so far
        if n_most < 1 or not suffices(n_most):
            continue
        too_few, enough = 0, n_most
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if suffices(middle) else (middle, enough)
        best = enough, n_groups, forgiven
    return best


def _require_suitable(estimator: Any) -> None:
    """Refuse what the bound is not about."""
    if not isinstance(estimator, NadarayaWatsonSketchRegressor):
        raise TypeError(
            f"estimator is a {type(estimator).__name__}: give a fitted NadarayaWatsonSketchRegressor (of a "
            "pipeline, its last step, with X as that step gets it)."
        )
    check_is_fitted(estimator)
    sketch = estimator.sketch_
    if getattr(sketch, "correction", None) is not None:
        raise ValueError(
            "The bound is about the plain average, and a fit with bias_correction is another one. Fit a "
            "copy with bias_correction=None."
        )
    least = LEAST_PILOT * sketch.plan.parameters.repetitions_together
    if sketch.n_repetitions < least:
        raise ValueError(
            f"n_repetitions={sketch.n_repetitions} are too few to tell their spread: fit a pilot with "
            f"at least {least}, better several hundred."
        )
