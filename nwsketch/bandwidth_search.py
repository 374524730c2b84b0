"""``bandwidth="loo"`` and ``"loo_per_feature"``: bandwidths that do best on rows left out.

The descent of :mod:`nwsketch.proportions` finds the proportions between features with the exact estimator.
The overall factor is the sketch's own to choose: at the bandwidth that is best for the exact estimator
most buckets of a query are empty, and the fewer the repetitions, the wider the best bandwidth. So
sketches (of the size wanted, unless they are corrected) are fitted at several factors, and judged

- without bias correction by their exact leave-one-out error, which costs one look-up per row: its own
  share is taken off its buckets (see :meth:`NadarayaWatsonSketch.loo_query`);
- with bias correction on held-out rows, for every number of rounds at once (see
  :func:`nwsketch.correction.choose_rounds`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nwsketch.backends.base import Array
from nwsketch.backends.threads import run_ranges
from nwsketch.bandwidth import scale_bandwidth
from nwsketch.proportions import learn_proportions

if TYPE_CHECKING:
    from nwsketch.sketch import NadarayaWatsonSketch

#: Rows that a sketch learns from while factors are compared: this many, or an eighth if that is more.
LEAST_ROWS, SHARE_OF_ROWS = 5_000, 1 / 8
#: Repetitions, at most, of the corrected sketches that are compared: their best bandwidth hardly depends on
#: the number, that of a plain sketch does.
MOST_REPETITIONS = 512
#: Rows that are left out one by one.
MOST_LEFT_OUT = 3_000
#: Binary logarithms of the factors tried first; if the best is the first or last one, others follow.
EXPONENTS = (0.0, 1.0, 2.0, 3.0)
#: Distance from the start, in binary logarithms, from which on no further factors follow.
FURTHEST = 10.0


class BandwidthPath(NamedTuple):
    """What a search tried.

    Attributes
    ----------
    bandwidths : ndarray of shape (n_tried, n_features)
        Those learnt, then those proportional to ``"scale"``; in ascending order of their factor.
    scores : ndarray of shape (n_tried,)
        R2 of rows left out.
    descent : ndarray of shape (n_steps + 1, n_features) or None
        Bandwidths along the descent that looked for the proportions, its start first; None for ``"loo"``.
    """

    bandwidths: Array
    scores: Array
    descent: Array | None


class Found(NamedTuple):
    """The outcome of a search.

    Attributes
    ----------
    bandwidth : ndarray of shape (n_features,)
    score : float
        R2 of rows left out; the mean over the outputs.
    path : BandwidthPath
    """

    bandwidth: Array
    score: float
    path: BandwidthPath


#: Scores by the binary logarithm of a factor.
Tried = dict[float, float]


class Judge:
    """Scores bandwidths by rows left out.

    Parameters
    ----------
    make_sketch : callable
        Returns an empty sketch with the bandwidths that it is called with.
    X : ndarray or canonical CSR of shape (n_samples, n_features)
    y : ndarray of shape (n_samples, n_outputs)
    weights : ndarray of shape (n_samples,)
    deviations : ndarray of shape (n_outputs,)
        Standard deviations that R2 refers to.
    corrected : bool
        Whether the sketches are corrected.
    n_rounds : int or None
        Rounds of the correction; None looks for the best number.
    seed : int
        Draws the rows that are looked at, and the minibatches.
    n_threads : int
    """

    def __init__(
        self,
        make_sketch: Callable[[Array], NadarayaWatsonSketch],
        X: Any,
        y: Array,
        weights: Array,
        deviations: Array,
        corrected: bool,
        n_rounds: int | None,
        seed: int,
        n_threads: int,
    ) -> None:
        most = max(LEAST_ROWS, int(SHARE_OF_ROWS * len(y)))
        some = _subsample(seed, weights, most)
        self._rows = X[some], y[some], weights[some]
        self._make_sketch, self._deviations = make_sketch, deviations
        self._corrected, self._n_rounds = corrected, n_rounds
        self._n_threads = n_threads

    def search_factor(self, start: Array, to_beat: float = -np.inf) -> Tried:
        """Climb over factors of ``start``, unless none of the first ones beats a score.

        Returns
        -------
        Tried
            Scores by the binary logarithm of the factor.
        """
        tried: Tried = {}

        def judge(exponents: list[float]) -> None:
            def judge_some(first: int, last: int) -> None:
                for exponent in exponents[first:last]:
                    n_threads = max(self._n_threads // len(exponents), 1)
                    tried[exponent] = self._score(start * 2.0**exponent, n_threads)

            run_ranges(judge_some, len(exponents), self._n_threads)

        judge([*EXPONENTS])
        if tried[best_of(tried)] > to_beat:
            while (edge := best_of(tried)) in (min(tried), max(tried)) and abs(edge) < FURTHEST:
                outwards = -1.0 if edge == min(tried) else 1.0
                judge([edge + outwards, edge + 2 * outwards])
            centre = best_of(tried)
            judge([centre - 0.5, centre + 0.5])
        return tried

    def _score(self, bandwidth: Array, n_threads: int) -> float:
        sketch = self._make_sketch(bandwidth)
        sketch.n_jobs = n_threads
        X, y, weights = self._rows
        if self._corrected:
            rounds = sketch.choose_rounds(
                X,
                y,
                weights,
                n_rounds=self._n_rounds,
                stride=2,
                deviations=self._deviations,
                check_input=False,
            )
            return rounds.score
        sketch.update(X, y, weights, check_input=False)
        return loo_score(sketch, X, y, weights, self._deviations)


def best_of(tried: Tried) -> float:
    """Return the exponent of the best score; of equals, the widest."""
    return max(tried, key=lambda exponent: (np.nan_to_num(tried[exponent], nan=-np.inf), exponent))


def search_bandwidth(
    make_sketch: Callable[[Array], NadarayaWatsonSketch],
    X: Any,
    y: Array,
    weights: Array | None,
    *,
    deviations: Array,
    distance: Literal["cityblock", "euclidean"],
    per_feature: bool,
    corrected: bool,
    n_rounds: int | None,
    seed: int,
    n_threads: int,
) -> Found:
    """Find the bandwidths that do best on rows left out.

    Parameters
    ----------
    make_sketch : callable
        Returns an empty sketch with the bandwidths that it is called with.
    X : ndarray or canonical CSR of shape (n_samples, n_features)
    y : ndarray of shape (n_samples, n_outputs)
    weights : ndarray of shape (n_samples,) or None
    deviations : ndarray of shape (n_outputs,)
        Standard deviations that R2 refers to.
    distance : {"cityblock", "euclidean"}
        That of the kernel.
    per_feature : bool
        Whether to learn the proportions between features. If the descent finds none that do better, or
        the sketch does better with those of ``"scale"``, these are kept.
    corrected : bool
        Whether the sketch will be corrected.
    n_rounds : int or None
        Rounds of the correction; None looks for the best number.
    seed : int
        Draws the rows that are looked at, and the minibatches.
    n_threads : int

    Returns
    -------
    Found
    """
    weights = np.ones(len(y)) if weights is None else weights
    judge = Judge(make_sketch, X, y, weights, deviations, corrected, n_rounds, seed, n_threads)
    starts, descent = [scale_bandwidth(X, weights, distance)], None
    if per_feature:
        learnt = learn_proportions(
            X, y, weights, starts[0], distance=distance, random_state=seed, n_threads=n_threads
        )
        descent = learnt.path
        if learnt.is_learnt:
            starts.append(learnt.bandwidth)
    best, searches = -np.inf, []
    for start in reversed(starts):  # what was learnt goes first: one number mostly cannot beat it
        tried = judge.search_factor(start, best)
        best = max(best, tried[best_of(tried)])
        searches.append((start, tried))
    start, tried = max(searches, key=lambda search: search[1][best_of(search[1])])
    exponent = best_of(tried)
    score = tried[exponent]
    path = BandwidthPath(
        np.array([start * 2.0**exponent for start, tried in searches for exponent in sorted(tried)]),
        np.array([tried[exponent] for _, tried in searches for exponent in sorted(tried)]),
        descent,
    )
    return Found(start * 2.0**exponent, score, path)


def loo_score(
    sketch: NadarayaWatsonSketch, X: Any, y: Array, weights: Array | None, deviations: Array
) -> float:
    """Return R2 of learnt rows, each predicted from all others; the mean over the outputs.

    Rows without an answer (``empty="nan"``) are scored as if it were the mean.

    Parameters
    ----------
    sketch : NadarayaWatsonSketch
        Has learnt the rows, and is not corrected.
    X : ndarray or canonical CSR of shape (n_samples, n_features)
        At most :data:`MOST_LEFT_OUT` of the rows are left out.
    y : ndarray of shape (n_samples, n_outputs)
    weights : ndarray of shape (n_samples,) or None
    deviations : ndarray of shape (n_scored,)
        Standard deviations of as many of the first outputs, which R2 refers to.

    Returns
    -------
    float
    """
    weights = np.ones(len(y)) if weights is None else weights
    some = _subsample(sketch.random_state, weights, MOST_LEFT_OUT)
    X, y, weights = X[some], y[some], weights[some]
    empty: Literal["mean"] | None = "mean" if sketch.empty == "nan" else None
    answers = sketch.loo_query(X, y, weights, empty=empty, check_input=False)
    residuals = (y - answers)[:, : deviations.size]
    errors = np.average((residuals / np.where(deviations > 0, deviations, 1.0)) ** 2, axis=0, weights=weights)
    return float(1.0 - errors.mean())


def _subsample(seed: int, weights: Array, most: int) -> Any:
    """Return the positions of at most ``most`` rows of positive weight, in ascending order."""
    rows = np.flatnonzero(weights)
    if rows.size <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
