"""What a part of the rows contributes to a fit, and how contributions add up; knows no engine.

An engine (:mod:`nwsketch.dask`, :mod:`nwsketch.spark`) cuts the rows into parts and takes three steps:

1. :func:`prepared` checks on the driver what can be checked there, and draws the seed;
2. where :func:`needs_moments`, :func:`moments_of` every part, :func:`merged`, tell the bandwidths
   (:func:`with_scale`);
3. :func:`learnt_of` every part, :func:`merged`, become what the estimator has learnt (:func:`finished`).

What leaves a worker are moments and sketches, never rows. No step changes what it was given, as an engine may
repeat it after a worker was lost.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import numpy as np
from sklearn.base import clone

from nwsketch.bandwidth import Moments, feature_moments, scale_by_deviations
from nwsketch.hashing import get_family
from nwsketch.inputs import Array
from nwsketch.regressor import NadarayaWatsonSketchRegressor
from nwsketch.validation import unchanged_on_error, validate_rows

#: X, y and the weights (or None) of a part of the rows, or of a batch of it.
Rows = tuple[Any, Any, Any]
#: Contributions that are merged at a time: what a worker holds at once, beside what it is learning.
SPLIT_EVERY = 4


def prepared(
    estimator: NadarayaWatsonSketchRegressor, n_features: int, n_outputs: int
) -> NadarayaWatsonSketchRegressor:
    """Return an unfitted copy for the workers, whose seed is drawn.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
        Stays as it is, but for a ``random_state`` that is a generator.
    n_features, n_outputs : int

    Returns
    -------
    NadarayaWatsonSketchRegressor
        With one thread where the number is left open, as workers are many already.

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of range, or asks for what a part of the rows cannot tell.
    """
    _require_distributable(estimator)
    model = _of_one_thread(clone(estimator))
    seed = estimator._seed()  # if drawn here, it may be beyond what random_state takes
    model.set_params(verbose=0, random_state=seed % 2**32 if estimator.random_state is None else seed)
    # A rehearsal: what is wrong with the parameters shows here and not on the workers.
    clone(model).fit(np.zeros((1, n_features)), np.zeros((1, n_outputs)))
    return model


def _require_distributable(estimator: Any) -> None:
    if not isinstance(estimator, NadarayaWatsonSketchRegressor):
        raise TypeError(
            f"{type(estimator).__name__} does not learn from parts of the rows: give a "
            "NadarayaWatsonSketchRegressor, whose sketches add up. (Of a pipeline, its last step; scale the "
            "columns before.)"
        )
    if isinstance(estimator.bandwidth, str) and estimator.bandwidth != "scale":
        raise ValueError(
            f"bandwidth={estimator.bandwidth!r} is chosen by rows left out, and a worker has but part of "
            "the rows: fit on a sample on one machine first, and set bandwidth=sample.bandwidth_."
        )
    if estimator.half_life is not None:
        raise ValueError(
            f"half_life={estimator.half_life!r} weighs rows by their order, which parts do not have: set "
            "half_life=None, and give sample_weight by age."
        )
    if estimator.trend is not None:
        raise ValueError(
            f"trend={estimator.trend!r} is fitted to all rows at once: set trend=None. A linear model of "
            "your own can be subtracted from y before, and added to the predictions."
        )
    if estimator.bias_correction is not None:
        raise ValueError(
            f"bias_correction={estimator.bias_correction!r} adjusts all rows together, round after round: "
            "set bias_correction=None, or fit on a sample on one machine."
        )


def _of_one_thread(estimator: NadarayaWatsonSketchRegressor) -> NadarayaWatsonSketchRegressor:
    if estimator.n_jobs is None:
        estimator.set_params(n_jobs=1)
    return estimator


def needs_moments(estimator: NadarayaWatsonSketchRegressor) -> bool:
    """Return whether the bandwidths depend on the rows, which have to be read once more for them."""
    return isinstance(estimator.bandwidth, str) and get_family(estimator.kernel).takes_bandwidth


def moments_of(estimator: NadarayaWatsonSketchRegressor, batches: Iterable[Rows]) -> Moments | None:
    """Return the moments of the features over a part of the rows.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
        As :func:`prepared`.
    batches : iterable of (X, y, sample_weight)
        The part, in batches; some may be empty.

    Returns
    -------
    Moments or None
        None if there are no rows.
    """
    model = clone(estimator)
    rows = (validate_rows(model, *batch, reset=True) for batch in _not_empty(batches))
    return merged(feature_moments(X, weights) for X, _, weights in rows)


def learnt_of(
    estimator: NadarayaWatsonSketchRegressor, batches: Iterable[Rows]
) -> NadarayaWatsonSketchRegressor | None:
    """Return an estimator that has learnt a part of the rows.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
        As :func:`prepared`, with bandwidths that do not depend on the rows.
    batches : iterable of (X, y, sample_weight)
        The part, in batches; some may be empty, or weigh nothing.

    Returns
    -------
    NadarayaWatsonSketchRegressor or None
        None if there are no rows.
    """
    model = None
    for X, y, sample_weight in _not_empty(batches):
        if model is None:
            model = clone(estimator)
            if sample_weight is not None and not np.any(sample_weight):
                model.fit(X, y).forget(X, y)  # as fit refuses rows that weigh nothing, even if others do not
        model.partial_fit(X, y, sample_weight)
    return model


def _not_empty(batches: Iterable[Rows]) -> Iterable[Rows]:
    return (rows for rows in batches if rows[0].shape[0] or len(rows[1]))


def merged(contributions: Iterable[Any]) -> Any:
    """Add up contributions of parts, by their ``merge``; none of them is changed.

    Parameters
    ----------
    contributions : iterable of Moments, NadarayaWatsonSketchRegressor or None

    Returns
    -------
    Moments, NadarayaWatsonSketchRegressor or None
        None if all are.
    """
    first, *others = [part for part in contributions if part is not None] or [None]
    total = deepcopy(first) if others else first
    for other in others:
        total = total.merge(other)
    return total


def with_scale(
    estimator: NadarayaWatsonSketchRegressor, moments: Moments | None
) -> NadarayaWatsonSketchRegressor:
    """Return an unfitted copy with the bandwidths that ``"scale"`` stands for.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
    moments : Moments or None
        Of all rows.

    Returns
    -------
    NadarayaWatsonSketchRegressor
    """
    moments = _of_some_weight(moments, None if moments is None else moments.weight)
    distance = get_family(estimator.kernel).distance
    bandwidth = scale_by_deviations(
        moments.deviations(), "euclidean" if distance == "euclidean" else "cityblock"
    )
    return clone(estimator).set_params(bandwidth=bandwidth)


def finished(
    estimator: NadarayaWatsonSketchRegressor, learnt: NadarayaWatsonSketchRegressor | None
) -> NadarayaWatsonSketchRegressor:
    """Let an estimator know what the workers have learnt, in place of what it knew.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
        The user's; its parameters stay as they are.
    learnt : NadarayaWatsonSketchRegressor or None
        From all rows.

    Returns
    -------
    estimator : NadarayaWatsonSketchRegressor

    Raises
    ------
    ValueError
        If there were no rows, or they weigh nothing; what the estimator knew is kept then.
    """
    learnt = _of_some_weight(learnt, None if learnt is None else learnt.sketch_.total_weight)
    with unchanged_on_error(estimator):
        for name in [name for name in vars(estimator) if name.endswith("_")]:
            delattr(estimator, name)
        estimator.merge(learnt)
        estimator._finds_bandwidth |= needs_moments(estimator)  # the workers were given numbers
        return estimator


def _of_some_weight(contribution: Any, weight: float | None) -> Any:
    """Return what all rows contributed, unless the fit of one process would refuse these rows."""
    if weight is None:
        raise ValueError("There are no rows: all parts of X are empty.")
    if not weight > 0:
        raise ValueError("sample_weight sums to zero: there is nothing to learn. Give a positive weight.")
    return contribution


def for_workers(estimator: NadarayaWatsonSketchRegressor) -> NadarayaWatsonSketchRegressor:
    """Return a copy of a fitted estimator that predicts on workers, by one thread if the number is open."""
    model = _of_one_thread(deepcopy(estimator))
    model.sketch_.n_jobs = model.n_jobs
    return model


def predicted(estimator: NadarayaWatsonSketchRegressor, X: Any) -> Array:
    """Predict a part of the rows, which may be empty.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
        Fitted.
    X : array-like or sparse matrix of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
    """
    return estimator.predict(X) if X.shape[0] else np.empty((0, *shape_of_prediction(estimator)))


def shape_of_prediction(estimator: NadarayaWatsonSketchRegressor) -> tuple[int, ...]:
    """Return the shape of one prediction: () if y was flat, else (n_outputs,)."""
    return () if estimator._flat_targets else (estimator._n_targets,)


def packed(contribution: Any) -> bytes:
    """Return a contribution as bytes, for engines that move nothing else between their own workers."""
    return pickle.dumps(contribution, protocol=5)


def unpacked(data: bytes | bytearray) -> Any:
    """Return the contribution that :func:`packed` made bytes of. Trusts them: they are a pickle."""
    return pickle.loads(data)
