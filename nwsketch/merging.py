"""When two sketches may be merged, and what to say when they may not."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from nwsketch.hashing import get_family
from nwsketch.inputs import check_bandwidth

#: What must be equal, in the order in which a difference is looked for.
SHAPE = ("n_features", "n_outputs", "hashes_per_repetition", "n_repetitions", "n_buckets", "n_labels")


def require_equal(name: str, mine: Any, theirs: Any, remedy: str) -> None:
    """Raise ValueError unless two values of the parameter ``name`` are equal."""
    if not np.array_equal(mine, theirs):
        raise ValueError(
            f"Cannot merge sketches with different hashes: {name}={_shown(mine)} and "
            f"{name}={_shown(theirs)}. {remedy}"
        )


def require_same_hashes(mine: Any, theirs: Any) -> None:
    """Raise ValueError unless two sketches hash every row alike.

    Parameters
    ----------
    mine, theirs : NadarayaWatsonSketch
        The fingerprint of their hashes decides; the parameters tell what to change.
    """
    for name in SHAPE:
        require_equal(name, getattr(mine, name), getattr(theirs, name), "Fit both with the same value.")
    require_equal("kernel", mine.family.name, theirs.family.name, "Fit both with the same kernel.")
    require_equal(
        "bandwidth",
        mine.bandwidth,
        theirs.bandwidth,
        "Fit one with the bandwidth of the other (bandwidth=other.bandwidth_).",
    )
    require_equal(
        "random_state", mine.random_state, theirs.random_state, "Fit both with the same integer random_state."
    )
    if mine.plan.fingerprint() != theirs.plan.fingerprint():
        raise ValueError(
            "Cannot merge sketches with different hashes: the parameters agree, the drawn hashes do not. "
            "Make both with the same versions of nwsketch, NumPy and the hash family."
        )


def require_same_parameters(mine: Any, other: Any) -> None:
    """Raise ValueError if an unfitted regressor could not have learnt what a fitted one has.

    Parameters
    ----------
    mine, other : NadarayaWatsonSketchRegressor
    """
    theirs = other.sketch_
    remedy = "Give both the same value."
    require_equal("kernel", get_family(mine.kernel).name, theirs.family.name, remedy)
    for name in ("hashes_per_repetition", "n_repetitions"):
        require_equal(name, getattr(mine, name), getattr(theirs, name), remedy)
    if theirs.plan.rehashed or (mine.n_buckets is not None and mine.n_buckets < theirs.n_buckets):
        require_equal("n_buckets", mine.n_buckets, theirs.n_buckets, remedy)
    if not isinstance(mine.bandwidth, str):
        bandwidth = check_bandwidth(mine.bandwidth, theirs.n_features)
        require_equal("bandwidth", bandwidth, theirs.bandwidth, remedy)
    if isinstance(mine.random_state, Integral):
        require_equal("random_state", mine.random_state, theirs.random_state, "Give both the same integer.")
    if (mine.bias_correction is None) != (theirs.correction is None):
        require_equal("bias_correction", mine.bias_correction, other.n_rounds_, remedy)
    require_equal("uncertainty", mine.uncertainty, other._has_moments, remedy)
    require_equal("half_life", mine.half_life, half_life_of(other), remedy)
    require_equal("trend", mine.trend, None if other.trend_ is None else "linear", remedy)


def require_same_names(mine: Any, theirs: Any) -> None:
    """Raise ValueError if two fitted regressors know their features by different names."""
    names, others = (getattr(each, "feature_names_in_", None) for each in (mine, theirs))
    if names is not None and others is not None and list(names) != list(others):
        raise ValueError(
            f"Cannot merge: feature names {list(names)} and {list(others)} differ. Fit both on the same "
            "columns in the same order."
        )


def require_same_channels(mine: Any, theirs: Any) -> None:
    """Raise ValueError if two fitted regressors learn different sums: of squares too, or of more outputs."""
    remedy = "Fit both with the same value."
    require_equal("uncertainty", mine._has_moments, theirs._has_moments, remedy)
    require_equal("half_life", half_life_of(mine), half_life_of(theirs), remedy)
    require_equal("n_outputs", mine._n_targets, theirs._n_targets, "Fit both with as many outputs.")


def half_life_of(fitted: Any) -> float | None:
    """Return the half-life that a regressor was fitted with."""
    return None if fitted._clock is None else float(fitted._clock.half_life)


def require_same_trend(mine: Any, theirs: Any) -> None:
    """Raise ValueError if two fitted regressors subtract different trends (None: none at all)."""
    same = (mine is None) == (theirs is None) and all(map(np.array_equal, mine or (), theirs or ()))
    if not same:
        raise ValueError(
            "Cannot merge: each part has a trend of its own, found by its own first rows, and sketches of "
            "what different trends leave over do not add up. Start every part as a copy (copy.deepcopy) of "
            "one estimator fitted with the trend, forget its rows in all but one, and go on with "
            "partial_fit; or use trend=None."
        )


def _shown(value: Any) -> str:
    return np.array2string(value, precision=4, threshold=6) if isinstance(value, np.ndarray) else repr(value)
