"""Bandwidths per feature, learnt by descending the exact leave-one-out error.

A feature that tells nothing gets a wide bandwidth, one that tells much a narrow one. In units of the
bandwidths to start from, with s_j the inverse bandwidth of feature j, d_ik the distance of rows i
and k, and a_ik the share of row k in the prediction p_i of row i from all others::

    d_ik = sum_j s_j |x_ij - x_kj|             city-block distance, kernel exp(-d)
    d_ik = sum_j s_j^2 (x_ij - x_kj)^2 / 2     Euclidean distance, kernel exp(-d)
    a_ik = w_k exp(-d_ik) / sum_l w_l exp(-d_il)
    E    = sum_i w_i (p_i - y_i)^2,  dE / dd_ik = 2 w_i (p_i - y_i) a_ik (p_i - y_k)

and the chain rule leads on to log s_j. Adam (Kingma & Ba, 2015) follows the gradient over random
minibatches: a few hundred rows are each predicted from a few thousand. Rows held out from them decide
after how many steps to stop, whether to go only half of the way, and whether to go it at all.

A step costs time in proportion to features times pairs of rows, whose number does not grow with the
data. All of it is in float32, relative to the nearest row: relative errors below 1e-5, far below the noise
of a minibatch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from nwsketch.backends.threads import run_ranges
from nwsketch.proportions_kernels import add_distances, average, below_least, gather, pull

Array = NDArray[np.float64]

#: Steps of the descent, and the length of the first ones: an inverse bandwidth changes by at most so
#: much in its logarithm. The length falls to a twentieth along half a cosine.
N_STEPS = 100
STEP_LENGTH = 0.15
#: Parts of the descent after which the held-out rows are asked.
CHECKS = (0.1, 0.2, 0.4, 0.7, 1.0)
#: Parts of the way, in logarithms, from one number to what was learnt: with few rows, with many.
SHARES, SHARES_OF_MANY = (1.0, 0.5), (1.0,)
#: What all inverse bandwidths together are multiplied by, nearest to 1 first: of equals it wins.
FACTORS = np.exp2(sorted(range(-3, 7), key=abs))
NEAR_FACTORS = np.exp2([0.0, 0.5, -0.5, 1.0])
LAST_FACTORS = np.exp2([0.0, 0.25, -0.25, 0.5, -0.5])
#: A log inverse bandwidth stays within these, in units of the bandwidths to start from.
LEAST_LOG, LARGEST_LOG = -12.0, 8.0
#: Of Adam: memory of the gradient and of its squares, and what keeps a division by it defined.
DECAY, SQUARES_DECAY, TINY = 0.9, 0.99, 1e-8

#: Rows that are looked at, if there are more; fewer where they are wide.
MOST_ROWS, MOST_VALUES = 2**14, 2**23
#: Sparse rows are made dense up to this width.
MOST_SPARSE_FEATURES = 2000
#: With fewer rows of positive weight than this, one number is all that can be learnt.
LEAST_ROWS = 50
#: Up to so many rows every row is held out once, in folds; above, a fifth is, and at most MOST_HELD_OUT.
MOST_ROWS_IN_FOLDS, N_FOLDS = 1000, 4
MOST_HELD_OUT = 1000
#: Rows predicted in a step, and from how many; the same to score held-out rows, and to fix the overall
#: factor at last.
QUERIES_PER_STEP, ROWS_PER_STEP = 256, 2304
ROWS_PER_CHECK = 4096
QUERIES_AT_LAST, ROWS_AT_LAST = 1024, 8192
#: Pairs times features beyond which both become fewer, though not fewer than LEAST_QUERIES, LEAST_ROWS_EACH.
WORK_PER_STEP, WORK_PER_CHECK, WORK_AT_LAST = 6e7, 6e8, 1.2e9
LEAST_QUERIES, LEAST_ROWS_EACH = 96, 1024
#: What was learnt is kept if it beats one number by so many standard errors of the difference.
MARGIN = 1.0

#: Values of a tile of distances: 256 KiB of float32, which a core's own cache holds.
VALUES_PER_TILE = 2**16
#: Values beyond this count as this, so that squares stay within float32.
LARGEST_VALUE = 1e13
#: Targets further from their mean than so many standard deviations count as at that distance: a few huge
#: ones would decide everything, and not the same way on the next rows.
LARGEST_TARGET = 5.0
#: Deviations below this, in units of the largest magnitude, are rounding errors.
CONSTANT = 1e-12


@dataclass(frozen=True)
class Proportions:
    """Bandwidths per feature, and how they were found.

    Attributes
    ----------
    bandwidth : ndarray of shape (n_features,)
        What was learnt, or ``start`` times one number if held-out rows did not favour it. Its overall
        factor is the best one by the exact leave-one-out error on at most 8,192 rows.
    path : ndarray of shape (n_steps + 1, n_features)
        Bandwidths before the descent and after each of its steps; one row if there was no descent.
    checks : ndarray of shape (n_checks,), int
        After which steps the held-out rows were asked; the first is 0: one number.
    scores : ndarray of shape (n_checks,)
        R2 of the held-out rows at those steps, each with its best overall factor; the mean over
        several outputs. NaN where R2 is not defined.
    step : int
        The step chosen; 0 for one number.
    share : float
        How far to go from one number to that step, in logarithms: 0.5 or 1; 0 for one number.
    """

    bandwidth: Array
    path: Array
    checks: NDArray[np.int64]
    scores: Array
    step: int
    share: float

    @property
    def is_learnt(self) -> bool:
        """Whether the proportions differ from those of the start."""
        return self.step > 0


class Rows(NamedTuple):
    """Rows with targets and weights, of one floating-point type.

    Attributes
    ----------
    values : ndarray of shape (n_rows, n_features)
        Features, in units of the bandwidths to start from.
    targets : ndarray of shape (n_rows, n_outputs)
    weights : ndarray of shape (n_rows,)
        Positive.
    """

    values: NDArray[Any]
    targets: NDArray[Any]
    weights: NDArray[Any]

    def take(self, chosen: NDArray[np.int64]) -> Rows:
        """Return some of the rows.

        Parameters
        ----------
        chosen : ndarray of shape (n_chosen,), int64
        """
        return Rows(*(part[chosen] for part in self))


class Problem(NamedTuple):
    """Which rows are predicted from which, and with what distance.

    Attributes
    ----------
    queries : Rows
    rows : Rows
    own : ndarray of shape (n_queries,), int64
        The row that a query leaves out, with all of its weight; -1 for none.
    squared : bool
        Euclidean distance or city-block.
    n_threads : int
    """

    queries: Rows
    rows: Rows
    own: NDArray[np.int64]
    squared: bool
    n_threads: int


def learn_proportions(
    X: Any,
    y: Array,
    sample_weight: Array | None,
    start: Array,
    *,
    distance: Literal["cityblock", "euclidean"] = "cityblock",
    random_state: int | None = None,
    n_threads: int = 1,
    n_steps: int = N_STEPS,
) -> Proportions:
    """Learn one bandwidth per feature.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
        Finite rows. At most 16,384 of them are looked at, and made dense if they are sparse.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Finite targets; every output counts in units of its standard deviation, and none further than
        5 of them from its mean.
    sample_weight : ndarray of shape (n_samples,) or None
        Not negative, not all zero. Weight 0 counts as no row. A row that is left out is left out with
        all of its weight, whereas of a row that is given twice the other one stays.
    start : ndarray of shape (n_features,)
        Positive bandwidths to start from, such as those of
        :func:`~nwsketch.bandwidth.scale_bandwidth`. A feature that does not vary keeps its own, up
        to the overall factor.
    distance : {"cityblock", "euclidean"}, default="cityblock"
        The distance of the kernel. Whatever the kernel is, its place is taken by exp(-d) or
        exp(-d^2 / 2), which are smooth in the bandwidths: the proportions between features carry over to
        others of the same distance, the overall factor does not.
    random_state : int or None, default=None
        Draws the minibatches. The same integer gives the same bits with any number of threads.
    n_threads : int, default=1
    n_steps : int, default=100
        Length of the descent; with fewer the steps are no longer.

    Returns
    -------
    Proportions

    Raises
    ------
    ValueError
        If X is sparse and has more than 2,000 features.
    """
    if bool(issparse(X)) and X.shape[1] > MOST_SPARSE_FEATURES:
        raise ValueError(
            f"Bandwidths per feature are learnt on dense rows, and sparse X has {X.shape[1]} features, more "
            f"than {MOST_SPARSE_FEATURES}: give a numeric bandwidth, or bandwidth='loo'."
        )
    rng = np.random.default_rng(random_state)
    rows = _standardise(X, y, sample_weight, start, rng)
    return _Search(rows, start, distance == "euclidean", n_threads, rng).run(n_steps)


def error_and_gradient(log_inverse: Array, problem: Problem) -> tuple[float, Array]:
    """Return the weighted mean of the squared errors, and its gradient.

    Parameters
    ----------
    log_inverse : ndarray of shape (n_features,)
        log s: logarithms of inverse bandwidths.
    problem : Problem

    Returns
    -------
    error : float
        Sum over the outputs.
    gradient : ndarray of shape (n_features,)
        With respect to ``log_inverse``.
    """
    queries = problem.queries
    scaled, features, weighted = _scale(log_inverse, problem)
    shares = queries.weights.astype(np.float64) / queries.weights.sum(dtype=np.float64)
    blocks = _blocks(problem)
    gradients = np.zeros((len(blocks), len(log_inverse)))
    errors = np.zeros(len(blocks))

    def add_blocks(first: int, last: int) -> None:
        for number in range(first, last):
            block = blocks[number]
            tile = _below_least(scaled, features, problem, block)
            np.exp(tile, out=tile)
            mass, predictions = _average(tile, problem.rows.weights, weighted)
            residuals = predictions - queries.targets[block]
            own_shares = shares[block, np.newaxis]
            errors[number] = (own_shares * residuals.astype(np.float64) ** 2).sum()
            slopes = 2 * own_shares * residuals / np.where(mass > 0, mass, 1)[:, np.newaxis]
            pull(tile, problem.rows.weights, weighted, predictions, slopes.astype(tile.dtype))
            gather(tile, scaled[block], features, problem.squared, gradients[number])

    run_ranges(add_blocks, len(blocks), problem.n_threads)
    return float(errors.sum()), gradients.sum(axis=0) * (2 if problem.squared else 1)


def squared_errors(log_inverse: Array, factors: Array, problem: Problem) -> Array:
    """Return the squared error of every query at several multiples of the inverse bandwidths.

    Parameters
    ----------
    log_inverse : ndarray of shape (n_features,)
    factors : ndarray of shape (n_factors,)
    problem : Problem

    Returns
    -------
    ndarray of shape (n_factors, n_queries)
        Sums over the outputs; not weighted.
    """
    queries = problem.queries
    scaled, features, weighted = _scale(log_inverse, problem)
    blocks = _blocks(problem)
    errors = np.zeros((len(factors), len(queries.values)))

    def add_blocks(first: int, last: int) -> None:
        for block in blocks[first:last]:
            tile = _below_least(scaled, features, problem, block)
            kernel = np.empty_like(tile)
            for factor, out in zip(factors, errors, strict=True):
                np.multiply(tile, tile.dtype.type(factor**2 if problem.squared else factor), out=kernel)
                np.exp(kernel, out=kernel)
                _, predictions = _average(kernel, problem.rows.weights, weighted)
                residuals = (predictions - queries.targets[block]).astype(np.float64)
                out[block] = (residuals**2).sum(axis=1)

    run_ranges(add_blocks, len(blocks), problem.n_threads)
    return errors


class _Search:
    """The descents, and the choice between their steps by rows held out from them."""

    def __init__(
        self, rows: Rows, start: Array, squared: bool, n_threads: int, rng: np.random.Generator
    ) -> None:
        self.rows, self.start, self.squared, self.n_threads, self.rng = rows, start, squared, n_threads, rng
        n_rows = len(rows.values)
        self.order = rng.permutation(n_rows)
        n_held_out = min(n_rows // 5, MOST_HELD_OUT)
        in_folds = n_rows <= MOST_ROWS_IN_FOLDS
        folds = np.array_split(self.order, N_FOLDS) if in_folds else [self.order[:n_held_out]]
        self.folds = [fold for fold in folds if fold.size]
        self.held_out = [self._leave_out_each(fold, ROWS_PER_CHECK, WORK_PER_CHECK) for fold in self.folds]
        self.queries = [problem.queries for problem in self.held_out]
        self.weights = np.concatenate([queries.weights for queries in self.queries]).astype(np.float64)

    def run(self, n_steps: int) -> Proportions:
        """Search, and return what was found."""
        zero = np.zeros(len(self.start))
        coarse, _ = self._best_factor([zero] * len(self.folds), FACTORS)
        factor, one_errors = self._best_factor([zero] * len(self.folds), coarse * NEAR_FACTORS)
        one = zero + np.log(factor)
        if len(self.order) < LEAST_ROWS:
            return self._result(one, one[np.newaxis], [0], [self._mean(one_errors)], 0, 0.0)

        paths = [self._descend(np.setdiff1d(self.order, fold), one, n_steps) for fold in self.folds]
        checks = sorted({math.ceil(part * n_steps) for part in CHECKS})
        shares = SHARES if len(self.folds) > 1 else SHARES_OF_MANY
        found = {
            (step, share): self._best_factor([_mix(one, path[step], share) for path in paths], NEAR_FACTORS)
            for step in checks
            for share in shares
        }
        means = {choice: self._mean(errors) for choice, (_, errors) in found.items()}
        scores = [self._mean(one_errors), *(min(means[step, share] for share in shares) for step in checks)]
        step, share = min(means, key=lambda choice: means[choice])
        factor, errors = found[step, share]
        path = paths[0] if len(paths) == 1 else self._descend(self.order, one, n_steps)
        if not self._is_better(one_errors - errors):
            return self._result(one, path, [0, *checks], scores, 0, 0.0)
        learnt = _mix(one, path[step], share) + np.log(factor)
        return self._result(learnt, path, [0, *checks], scores, step, share)

    def _descend(self, train: NDArray[np.int64], log_inverse: Array, n_steps: int) -> Array:
        """Return the log inverse bandwidths before the descent and after each step."""
        n_queries, n_rows = _limit(
            min(QUERIES_PER_STEP, len(train)), min(ROWS_PER_STEP, len(train)), len(self.start), WORK_PER_STEP
        )
        own = np.arange(n_queries)
        path = np.repeat(log_inverse[np.newaxis], n_steps + 1, axis=0)
        momentum, squares = np.zeros(len(self.start)), np.zeros(len(self.start))
        for step in range(1, n_steps + 1):
            rows = self.rows.take(self.rng.permutation(train)[:n_rows])
            queries = Rows(*(part[:n_queries] for part in rows))
            problem = Problem(queries, rows, own, self.squared, self.n_threads)
            _, gradient = error_and_gradient(path[step - 1], problem)
            momentum += (1 - DECAY) * (gradient - momentum)
            squares += (1 - SQUARES_DECAY) * (gradient**2 - squares)
            direction = momentum / (1 - DECAY**step)
            size = np.sqrt(squares / (1 - SQUARES_DECAY**step)) + TINY
            length = STEP_LENGTH * (0.05 + 0.95 * (1 + math.cos(math.pi * (step - 1) / n_steps)) / 2)
            path[step] = np.clip(path[step - 1] - length * direction / size, LEAST_LOG, LARGEST_LOG)
        return path

    def _leave_out_each(self, chosen: NDArray[np.int64], n_rows: int, work: float) -> Problem:
        """Predict chosen rows, each from the others and from more rows, as far as the limits allow."""
        n_queries, n_rows = _limit(len(chosen), min(n_rows, len(self.order)), len(self.start), work)
        others = self.order[~np.isin(self.order, chosen)]
        rows = self.rows.take(np.concatenate([chosen, others])[:n_rows])
        queries = Rows(*(part[:n_queries] for part in rows))
        return Problem(queries, rows, np.arange(n_queries), self.squared, self.n_threads)

    def _best_factor(self, log_inverses: list[Array], factors: Array) -> tuple[float, Array]:
        """Return the best overall factor on the held-out rows, and their squared errors with it.

        Every fold has inverse bandwidths of its own.
        """
        pairs = zip(log_inverses, self.held_out, strict=True)
        errors = np.hstack([squared_errors(log_inverse, factors, problem) for log_inverse, problem in pairs])
        best = int((errors @ self.weights).argmin())
        return float(factors[best]), errors[best]

    def _mean(self, errors: Array) -> float:
        return float(errors @ self.weights / self.weights.sum())

    def _is_better(self, gains: Array) -> bool:
        """Return whether the mean gain lies above its standard error, times MARGIN."""
        shares = self.weights / self.weights.sum()
        mean = shares @ gains
        return bool(mean > MARGIN * np.sqrt(shares**2 @ (gains - mean) ** 2))

    def _result(
        self, log_inverse: Array, path: Array, checks: list[int], errors: list[float], step: int, share: float
    ) -> Proportions:
        """Fix the overall factor by as many rows as time allows, and put the result together."""
        problem = self._leave_out_each(self.order[:QUERIES_AT_LAST], ROWS_AT_LAST, WORK_AT_LAST)
        means = squared_errors(log_inverse, LAST_FACTORS, problem) @ problem.queries.weights.astype(float)
        log_inverse = log_inverse + np.log(LAST_FACTORS[int(means.argmin())])
        targets = np.concatenate([queries.targets for queries in self.queries]).astype(np.float64)
        centred = targets - self.weights @ targets / self.weights.sum()
        variance = self._mean((centred**2).sum(axis=1))
        scores = 1 - np.array(errors) / variance if variance > 0 else np.full(len(errors), np.nan)
        return Proportions(
            bandwidth=self.start / np.exp(log_inverse),
            path=self.start / np.exp(path),
            checks=np.array(checks),
            scores=scores,
            step=step,
            share=share,
        )


def _mix(one: Array, learnt: Array, share: float) -> Array:
    return one + share * (learnt - one)


def _limit(n_queries: int, n_rows: int, n_features: int, work: float) -> tuple[int, int]:
    """Return fewer queries and rows, in equal parts, where pairs times features exceed ``work``."""
    excess = math.sqrt(n_queries * n_rows * n_features / work)
    if excess <= 1:
        return n_queries, n_rows
    n_queries = min(n_queries, max(LEAST_QUERIES, int(n_queries / excess)))
    return n_queries, max(n_queries, min(n_rows, max(LEAST_ROWS_EACH, int(n_rows / excess))))


def _standardise(
    X: Any, y: Array, sample_weight: Array | None, start: Array, rng: np.random.Generator
) -> Rows:
    """Draw the rows to look at, and bring features, targets and weights to the order of 1, in float32."""
    weights = np.ones(X.shape[0]) if sample_weight is None else sample_weight
    chosen = np.flatnonzero(weights > 0)
    most = min(MOST_ROWS, max(LEAST_ROWS_EACH, MOST_VALUES // X.shape[1]))
    if len(chosen) > most:
        chosen = rng.choice(chosen, most, replace=False)
    X, weights = X[chosen], weights[chosen] / weights[chosen].max()
    values = np.asarray(X.toarray() if bool(issparse(X)) else X, dtype=np.float64)
    with np.errstate(over="ignore"):
        values = np.clip(values / start, -LARGEST_VALUE, LARGEST_VALUE)
    values -= values.mean(axis=0)
    weights = np.maximum(weights / weights.mean(), np.finfo(np.float32).tiny)
    targets = y.reshape(len(y), -1)[chosen]
    targets = targets / np.maximum(np.abs(targets).max(axis=0), np.finfo(np.float64).tiny)
    targets -= weights @ targets / weights.sum()
    deviations = np.sqrt(weights @ targets**2 / weights.sum())
    targets /= np.where(deviations > CONSTANT, deviations, 1.0)
    targets = np.clip(targets, -LARGEST_TARGET, LARGEST_TARGET)
    return Rows(*(np.ascontiguousarray(part, dtype=np.float32) for part in (values, targets, weights)))


def _scale(log_inverse: Array, problem: Problem) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the queries in units of the bandwidths, the rows likewise, transposed, and weighted targets."""
    rows = problem.rows
    inverse = np.exp(log_inverse) * (math.sqrt(0.5) if problem.squared else 1.0)
    inverse = inverse.astype(rows.values.dtype)
    features = np.ascontiguousarray((rows.values * inverse).T)
    return problem.queries.values * inverse, features, np.ascontiguousarray(rows.targets.T * rows.weights)


def _blocks(problem: Problem) -> list[slice]:
    """Cut the queries so that tiles fit the cache: by their shape alone, whatever the threads."""
    n_queries = len(problem.queries.values)
    size = max(1, VALUES_PER_TILE // len(problem.rows.values))
    return [slice(begin, min(begin + size, n_queries)) for begin in range(0, n_queries, size)]


def _below_least(
    scaled: NDArray[Any], features: NDArray[Any], problem: Problem, block: slice
) -> NDArray[Any]:
    """Return minus the distances of a block of queries to the rows, counted from each one's nearest.

    So the kernel of the nearest row is 1 and no sum of them vanishes; a query that leaves out the only
    row has -inf everywhere, and is predicted by 0, the mean of the targets.
    """
    own = problem.own[block]
    tile = np.zeros((len(own), features.shape[1]), features.dtype)
    leaving = np.flatnonzero(own >= 0)
    tile[leaving, own[leaving]] = np.inf
    add_distances(scaled[block], features, problem.squared, tile)
    below_least(tile)
    return tile


def _average(
    kernel: NDArray[Any], weights: NDArray[Any], weighted: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the kernel sums of the weights, and the predictions."""
    mass = np.empty(len(kernel), kernel.dtype)
    predictions = np.empty((len(kernel), len(weighted)), kernel.dtype)
    average(kernel, weights, weighted, mass, predictions)
    return mass, predictions
