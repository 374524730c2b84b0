"""Bias correction: ridge regression on the buckets of a sketch, solved by backfitting.

A kernel smoother flattens slopes and peaks. The remedy keeps the sketch, its size and its look-up,
and changes what its tables hold. Read as features, the buckets of R repetitions are R one-hot vectors
per row, whose inner products divided by R are the kernel as the sketch sees it. A corrected
sketch predicts offset + mean_r B_r[h_r(q)] with the tables B that minimise

    sum_i w_i (y_i - f(x_i))^2 + (ridge / R) sum_r sum_b B_r[b]^2:

the ridge regression that ``KernelRidge(alpha=ridge)`` would find with that kernel, in O(n R) time a
round and without a matrix. Within one repetition no two buckets share a row, so refitting one
table to what the others leave over has a closed form, and going through the repetitions in turn is
block Gauss-Seidel: backfitting (Buja, Hastie & Tibshirani, "Linear Smoothers and Additive Models",
Annals of Statistics 17, 1989). Every refit lowers the objective above, so a round can only lower it.

The ridge halves from round to round, from :data:`FIRST_RIDGE` on: the first rounds find what is smooth,
later ones what is fine, and the number of rounds is the one thing to choose. The tables start from
where the wider ridge left them, which is why one pass per ridge is enough. (Trials on real data,
tests/benchmarks/smoothness.py: better than many rounds with one ridge, and than twicing or conjugate
gradients on the normalised smoother D^-1 K, whose ridge grows with the density of the data.)

A corrected sketch is a solution, not a sum: rows cannot be added to it or taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwsketch.backends import Backend, State
from nwsketch.backends.base import Array
from nwsketch.inputs import check_sums
from nwsketch.tensors import like

#: Ridge of the first round, in units of KernelRidge's alpha; it halves from round to round.
FIRST_RIDGE = 16.0
#: The ridge falls no further than to this part of the first one: 0 would divide empty buckets by 0.
LEAST_PART_OF_RIDGE = 2.0**-1000
#: Most rounds that ``"auto"`` tries; the ridge is 2.4e-4 by then.
MOST_ROUNDS = 17
#: Rounds for the squares of what a correction leaves over: chance makes them far noisier than targets.
ROUNDS_OF_SQUARES = 2
#: Rounds in a row without a better held-out score that ``"auto"`` puts up with; it stops at the next one.
PATIENCE = 2
#: Share of the rows that are held out to choose the number of rounds, ...
HELD_OUT = 0.2
#: ... in turn, until all have been, if there are fewer rows than this; only once if there are more.
FEW_ROWS = 2_000
#: Rows that are looked at, at most, to choose the number of rounds.
MOST_ROWS = 50_000


class Correction(NamedTuple):
    """What a corrected sketch remembers.

    Attributes
    ----------
    offset : ndarray of shape (n_outputs,)
        Added to every prediction: the weighted mean of the targets, and of the squares if they are learnt.
    n_rounds : int
        Rounds of backfitting.
    """

    offset: Array
    n_rounds: int


class Rounds(NamedTuple):
    """How well every number of rounds did on held-out rows.

    Attributes
    ----------
    n_rounds : int
        The best number of rounds.
    score : float
        R2 on held-out rows after as many, the mean over the outputs.
    scores : ndarray of shape (n_tried,)
        R2 after 1, 2, ... rounds, or after every ``stride``-th of them (see :func:`ridges`). NaN if fewer
        than 4 rows have weight.
    inflation : ndarray of shape (n_outputs,)
        Mean squared error of held-out rows over that of learnt rows, at the best number.
    """

    n_rounds: int
    score: float
    scores: Array
    inflation: Array


def ridges(n_rounds: int, stride: int = 1) -> Iterator[float]:
    """Yield the ridge of every round, or of every ``stride``-th one and the last."""
    return (
        FIRST_RIDGE * max(0.5**k, LEAST_PART_OF_RIDGE)
        for k in range((n_rounds - 1) % stride, n_rounds, stride)
    )


def require_additive(correction: Correction | None, operation: str) -> None:
    """Raise ValueError if a sketch is corrected, and so no longer a sum over its rows."""
    if correction is not None:
        raise ValueError(
            f"{operation} needs a sketch that is a sum over its rows, and a bias correction makes it a "
            "solution for all rows at once: fit anew on all rows, or with bias_correction=None."
        )


def corrected(
    backend: Backend,
    rows: Any,
    y: Array,
    weights: Array,
    *,
    n_outputs: int,
    n_rounds: int,
    inflation: Array | None,
) -> tuple[State, Correction]:
    """Return what a sketch holds after it learnt the rows with a correction; see its method ``correct``.

    Parameters
    ----------
    backend : Backend
    rows
        The rows' codes, as ``backend.hashed`` returns them.
    y : ndarray of shape (n_samples, n_corrected)
    weights : ndarray of shape (n_samples,)
    n_outputs : int
        Outputs of the sketch: ``n_corrected``, or twice as many with ``inflation``.
    n_rounds : int
    inflation : ndarray of shape (n_corrected,) or None
        What the squared residuals are multiplied by before they are learnt, by backfitting too: their
        weighted average, at the wide bandwidths of a corrected sketch, is nearly the same everywhere. None
        learns none.

    Returns
    -------
    state : State
        The totals are those of the targets themselves.
    correction : Correction
    """
    state, offset, residuals = fit_rounds(backend, rows, y, weights, n_outputs, n_rounds)
    values = [*y.T]
    if inflation is not None:
        with np.errstate(over="ignore"):
            squares = inflation[:, np.newaxis] * residuals**2
        check_sums(squares.T, weights, 0.0)
        learnt = fit_rounds(backend, rows, squares.T, weights, len(squares), ROUNDS_OF_SQUARES)
        state.tables[..., len(values) : 2 * len(values)] = learnt[0].tables[..., :-1]
        offset = np.concatenate([offset, learnt[1]])
        values += [*squares]
    totals = [*(weights @ np.column_stack(values)), weights.sum(), weights.sum(), len(y)]
    return State(state.tables, like(state.tables, np.array(totals))), Correction(offset, n_rounds)


def fit_rounds(
    backend: Backend,
    rows: Any,
    y: Array,
    weights: Array,
    n_outputs: int,
    n_rounds: int,
    after_round: Callable[[Array], bool] | None = None,
    stride: int = 1,
) -> tuple[State, Array, Array]:
    """Fit the tables of an empty state to the rows.

    Parameters
    ----------
    backend : Backend
    rows
        The rows' codes, as ``backend.hashed`` returns them.
    y : ndarray of shape (n_samples, n_corrected)
    weights : ndarray of shape (n_samples,)
        0 for rows that are only predicted.
    n_outputs : int
        Outputs of the sketch; those beyond ``n_corrected`` stay 0.
    n_rounds : int
    after_round : callable or None
        Called with the residuals after every round; True ends the fit.
    stride : int, default=1
        Skip rounds: see :func:`ridges`.

    Returns
    -------
    state : State
    offset : ndarray of shape (n_corrected,)
    residuals : ndarray of shape (n_corrected, n_samples)
    """
    state = backend.empty_state(n_outputs)
    backend.add_channel(state, rows, weights, n_outputs)
    offset = weights @ y / weights.sum()
    residuals = np.ascontiguousarray((y - offset).T)
    unit = np.abs(residuals).max(axis=1, keepdims=True)  # sums of huge targets stay in range
    unit[unit == 0.0] = 1.0
    residuals /= unit
    for ridge in ridges(n_rounds, stride):
        backend.backfit(state, rows, weights, residuals, ridge)
        if after_round is not None and after_round(residuals * unit):
            break
    state.tables[..., : len(unit)] *= like(state.tables, unit[:, 0])
    return state, offset, residuals * unit


def choose_rounds(
    backend: Backend,
    X: Any,
    y: Array,
    weights: Array,
    deviations: Array,
    *,
    n_rounds: int | None,
    stride: int,
    seed: int,
    n_threads: int,
) -> Rounds:
    """Choose the number of rounds by rows that are held out.

    Leaving a row out by subtraction, as for a plain sketch, is not possible: every entry of the
    tables depends on its target.

    Parameters
    ----------
    backend : Backend
        Lends its hashes.
    X : ndarray or canonical CSR of shape (n_samples, n_features)
    y : ndarray of shape (n_samples, n_outputs)
    weights : ndarray of shape (n_samples,)
        Not all zero.
    deviations : ndarray of shape (n_outputs,)
        Standard deviations that R2 refers to.
    n_rounds : int or None
        Look at this number alone.
    stride : int
        Skip rounds: see :func:`ridges`.
    seed : int
        Draws the rows that are held out.
    n_threads : int

    Returns
    -------
    Rounds
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(weights))
    order = order[:MOST_ROWS]
    X, y, weights = X[order], y[order], weights[order]
    y = y - np.average(y, axis=0, weights=weights)
    y = y / np.where(deviations > 0, deviations, 1.0)  # every output counts alike
    n_held_out = max(int(len(order) * HELD_OUT), 1)
    n_folds = 1 if len(order) >= FEW_ROWS else -(-len(order) // n_held_out)
    if len(order) < 4:  # nothing to hold out: the smoothest correction
        return Rounds(n_rounds or 1, np.nan, np.full(1, np.nan), np.ones(y.shape[1]))
    rows = backend.hashed(X, n_threads)
    paths, shares = [], []
    for fold in range(n_folds):
        held_out = slice(fold * n_held_out, (fold + 1) * n_held_out)
        learnt = weights.copy()
        learnt[held_out] = 0.0
        paths.append(_errors_by_round(backend, rows, y, learnt, weights - learnt, n_rounds, stride))
        shares.append(weights[held_out].sum())
    length = min(len(path) for path in paths)
    errors = np.average([path[:length] for path in paths], axis=0, weights=shares)
    scores = 1.0 - errors[:, 0].mean(axis=1)
    best = length - 1 if n_rounds is not None else int(np.argmax(scores))
    held_out_error, learnt_error = errors[best]
    inflation = np.divide(held_out_error, learnt_error, out=np.ones(y.shape[1]), where=learnt_error > 0)
    chosen = best * stride + (MOST_ROUNDS - 1) % stride + 1 if n_rounds is None else n_rounds
    return Rounds(chosen, float(scores[best]), scores, np.maximum(inflation, 1.0))


def _errors_by_round(
    backend: Backend,
    rows: Any,
    y: Array,
    learnt: Array,
    held_out: Array,
    n_rounds: int | None,
    stride: int,
) -> NDArray[np.float64]:
    """Return mean squared errors, of held-out rows and of learnt ones: (n_rounds, 2, n_outputs)."""
    path: list[Array] = []
    best = np.inf
    stale = 0

    def record(residuals: Array) -> bool:
        nonlocal best, stale
        squares = residuals**2
        path.append(np.array([squares @ held_out / held_out.sum(), squares @ learnt / learnt.sum()]))
        score = float(np.sum(path[-1][0]))
        stale = 0 if score < best else stale + 1
        best = min(best, score)
        return n_rounds is None and stale * stride > PATIENCE

    fit_rounds(backend, rows, y, learnt, y.shape[1], n_rounds or MOST_ROUNDS, record, stride)
    return np.array(path)
