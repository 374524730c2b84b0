"""From the sums that a query reads to one prediction.

Let C_r and S_r be what repetition r's bucket of the query holds, T and T_y the totals, W the
number of buckets. Rehashing puts every unrelated row into the query's bucket with probability
1/W, so (C_r - T/W) / (1 - 1/W) is an unbiased estimate of the kernel sum; likewise for S_r.
(arXiv:2311.13583 and the published code leave this bias in.)

The difference may be noise: of the buckets of a query without neighbours some hold
unrelated rows, and a ratio of two such noises can be anything. So a denominator counts as empty
unless it exceeds :data:`NOISE_ERRORS` standard errors, which the spread over the repetitions
tells. If one of several repetitions holds rows and the others none, the excess is less than one
standard error: a prediction needs the support of several. The spread of few repetitions may be
small by chance (that of one is nothing), so the error of a mean over n of them counts as T / W / sqrt(n)
at least: as if unrelated rows came in lots of T / W.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Literal

import numpy as np

from nwsketch.backends.base import Array, State
from nwsketch.backends.numba_kernels.aggregation import divide

#: Standard errors that a debiased denominator must exceed to count as rows and not as noise.
NOISE_ERRORS = 1.0
#: A bucket that holds less than this share of the weight ever added is empty: what rounding
#: leaves behind when rows are forgotten.
RELATIVE_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Rules:
    """How the sums that a query reads become its answer.

    Parameters
    ----------
    aggregation : {"mean", "median_of_means"}
    n_groups : int
        Groups of ``"median_of_means"``; divides ``n_repetitions``.
    empty : {"mean", "nan"} or float
        See :func:`fill_empty`.
    n_repetitions : int
    n_buckets : int or None
        Width of the tables if codes are rehashed; None if every code has a bucket of its own.

    Raises
    ------
    ValueError
        If a choice is unknown, or the groups would be of unequal size.
    """

    aggregation: Literal["mean", "median_of_means"]
    n_groups: int
    empty: Literal["mean", "nan"] | float
    n_repetitions: int
    n_buckets: int | None

    def __post_init__(self) -> None:
        """Validate."""
        if self.aggregation not in ("mean", "median_of_means"):
            raise ValueError(f"Unknown aggregation {self.aggregation!r}: choose 'mean' or 'median_of_means'.")
        if self.aggregation == "median_of_means" and self.n_repetitions % self.n_groups:
            raise ValueError(
                f"n_groups={self.n_groups} does not divide n_repetitions={self.n_repetitions}: median of "
                "means needs groups of equal size."
            )
        is_number = isinstance(self.empty, Real) and not isinstance(self.empty, bool)
        if self.empty not in ("mean", "nan") and not is_number:
            raise ValueError(f"Unknown empty={self.empty!r}: choose 'mean', 'nan' or a number.")

    @property
    def groups(self) -> int:
        """Number of groups whose answers are formed apart: 1 for ``"mean"``."""
        return self.n_groups if self.aggregation == "median_of_means" else 1

    def regress(self, sums: Array, squares: Array, totals: Array, state: State) -> Array:
        """Return predictions: (n_samples, n_outputs). See :func:`ratios` for the arguments."""
        tolerance = tolerated(state)
        by_group = ratios(
            sums,
            squares,
            totals,
            n_repetitions=self.n_repetitions // self.groups,
            n_buckets=self.n_buckets,
            unit=state.unit,
            tolerance=tolerance,
        )
        return fill_empty(median_over_groups(by_group), totals, self.empty, tolerance)

    def standard_errors(self, sums: Array, squares: Array, state: State) -> Array:
        """Return the standard errors of ratios of means, by the spread of groups of repetitions.

        A ratio S / C differs from the true m by the mean of (S_r - m C_r) / C, to first order.

        Parameters
        ----------
        sums : ndarray of shape (n_samples, n_groups, n_outputs + 1)
            Sums over the repetitions of every group.
        squares : ndarray of shape (n_samples, n_groups)
            See :func:`ratios`.
        state : State

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            0 where nothing supports an answer, NaN for a single group.
        """
        n_groups = sums.shape[1]
        if n_groups == 1:
            return np.full((sums.shape[0], sums.shape[2] - 1), np.nan)
        means = sums * (n_groups / self.n_repetitions)
        if self.n_buckets is not None:
            means = means - state.channel_totals / self.n_buckets
        overall = means.mean(axis=1, keepdims=True)
        answers = ratios(
            sums.sum(axis=1, keepdims=True),
            squares.sum(axis=1, keepdims=True),
            state.channel_totals,
            n_repetitions=self.n_repetitions,
            n_buckets=self.n_buckets,
            unit=state.unit,
            tolerance=tolerated(state),
        )
        counts = np.where(np.isnan(answers[..., :1]), np.inf, overall[..., -1:])
        gaps = means[..., :-1] - overall[..., :-1] / counts * means[..., -1:]
        errors = gaps / counts
        unit = np.abs(errors).max(axis=(0, 1), initial=0.0)  # squares of huge targets stay in range
        unit = np.where(unit > 0, unit, 1.0)
        return np.asarray((errors / unit).std(axis=1, ddof=1) * unit / np.sqrt(n_groups))

    def kernel_sums(self, sums: Array, totals: Array) -> Array:
        """Return kernel sums of all channels, unbiased under ``"mean"``: (n_samples, n_outputs + 1)."""
        means = sums / (self.n_repetitions // self.groups)
        if self.n_buckets is not None:
            unrelated = (totals / self.n_buckets)[..., np.newaxis, :]
            means = (means - unrelated) / (1.0 - 1.0 / self.n_buckets)
        return median_over_groups(means)


def divisor_from(number: int, least: int) -> int:
    """Return the smallest divisor of ``number`` that is at least ``least``, or ``number`` if that is less."""
    return next(divisor for divisor in range(min(least, number), number + 1) if number % divisor == 0)


def tolerated(state: State) -> float:
    """Return the weight that rounding may have left where rows were forgotten."""
    return RELATIVE_TOLERANCE * state.weight_ever_added


def ratios(
    sums: Array,
    squares: Array,
    totals: Array,
    *,
    n_repetitions: int,
    n_buckets: int | None,
    unit: float,
    tolerance: float,
) -> Array:
    """Divide the debiased weighted sums of every group by its debiased counts.

    Parameters
    ----------
    sums : ndarray of shape (n_samples, n_groups, n_outputs + 1)
        Sums over the repetitions of a group; weights last.
    squares : ndarray of shape (n_samples, n_groups)
        Sums of squared counts, the counts multiplied by ``unit``; not read if ``n_buckets`` is None.
    totals : ndarray of shape (n_outputs + 1,) or (n_samples, n_outputs + 1)
        Sums over all rows, for each query alike or one by one.
    n_repetitions : int
        Number of repetitions in a group.
    n_buckets : int or None
        Width of the tables if codes were rehashed; None if every code has a bucket of its own.
    unit : float
        A power of two that keeps the squares in range.
    tolerance : float
        Counts (averaged over the repetitions) up to here are empty.

    Returns
    -------
    ndarray of shape (n_samples, n_groups, n_outputs), float64
        NaN where the denominator is empty.
    """
    answers = np.empty((*sums.shape[:2], sums.shape[2] - 1))
    divide(
        np.ascontiguousarray(sums),
        np.ascontiguousarray(squares),
        totals.reshape(-1, sums.shape[2]),
        n_repetitions,
        float(n_buckets or np.inf),
        unit,
        NOISE_ERRORS,
        tolerance,
        answers,
    )
    return answers


def median_over_groups(values: Array) -> Array:
    """Return the median over axis 1, in which NaN abstains; NaN where all abstain.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_groups, n_channels)

    Returns
    -------
    ndarray of shape (n_samples, n_channels)
    """
    if values.shape[1] == 1:
        return values[:, 0]
    ordered = np.sort(values, axis=1)  # NaN last
    n_valid = np.count_nonzero(~np.isnan(values), axis=1)[:, np.newaxis]
    lower = np.take_along_axis(ordered, np.maximum(n_valid - 1, 0) // 2, axis=1)
    upper = np.take_along_axis(ordered, n_valid // 2, axis=1)
    return ((lower + upper) / 2)[:, 0]


def fill_empty(predictions: Array, totals: Array, empty: str | float, tolerance: float) -> Array:
    """Replace NaN, the prediction of queries without rows, by what ``empty`` says.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples, n_outputs)
    totals : ndarray of shape (n_outputs + 1,) or (n_samples, n_outputs + 1)
    empty : {"mean", "nan"} or float
        ``"mean"``: the weighted mean of all targets, NaN if no weight is left.
    tolerance : float
        Weight up to which nothing is left.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
    """
    if empty == "nan":
        return predictions
    missing = np.isnan(predictions)
    if not np.count_nonzero(missing):
        return predictions
    if empty == "mean":
        weight = totals[..., -1:]
        weight = np.where(weight > tolerance, weight, np.nan)
        return np.where(missing, totals[..., :-1] / weight, predictions)
    return np.where(missing, float(empty), predictions)
