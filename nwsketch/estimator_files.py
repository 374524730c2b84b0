"""What a file keeps of a fitted estimator beside its sketch: parameters, and what its fit found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nwsketch.bandwidth_search import BandwidthPath
from nwsketch.half_life import Clock
from nwsketch.hashing import HashFamily
from nwsketch.inputs import check_bandwidth, check_integer
from nwsketch.sketch import NadarayaWatsonSketch
from nwsketch.storage import SketchFileError
from nwsketch.storage.container import Arrays
from nwsketch.storage.sketches import sketch_values
from nwsketch.storage.values import Decoder, Encoder, take
from nwsketch.trend import LinearTrend

#: Attributes by which scikit-learn keeps how an estimator is to be used; a file does not.
SETTINGS = {"_metadata_request", "_sklearn_output_config"}
RECORDS = {"LinearTrend": LinearTrend, "BandwidthPath": BandwidthPath, "Clock": Clock}


def estimator_values(estimator: Any) -> tuple[dict[str, Any], Arrays]:
    """Return what a file keeps of a fitted estimator.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor

    Returns
    -------
    values : dict
        For JSON.
    arrays : dict of str to ndarray

    Raises
    ------
    SketchFileError
        If it has parameters or attributes that a file does not keep.
    """
    parameters = estimator.get_params(deep=False)
    attributes = dict(vars(estimator))  # at once: another thread may learn meanwhile
    left_out = parameters.keys() | SETTINGS
    learnt = {name: value for name, value in attributes.items() if name not in left_out}
    sketch, arrays = sketch_values(learnt.pop("sketch_").__getstate__())
    unknown = learnt.keys() - CHECKS.keys()
    if unknown:
        raise SketchFileError(
            f"A file cannot keep the attributes {sorted(unknown)} of this estimator: delete them, or use "
            "pickle."
        )
    encode = Encoder(arrays).encode
    values = {
        "sketch": sketch,
        "parameters": {name: encode(name, value) for name, value in parameters.items()},
        "learnt": {name: encode(name, value) for name, value in learnt.items()},
    }
    return values, arrays


def estimator_from_values(
    cls: type[Any], values: dict[str, Any], arrays: Arrays, kernel: HashFamily | None, device: str | None
) -> Any:
    """Return the estimator that :func:`estimator_values` told of.

    Parameters
    ----------
    cls : type
    values : dict
        Not trusted.
    arrays : dict of str to ndarray
    kernel : HashFamily or None
        Takes the place of the family that a file names.
    device : str or None
        If one is given, the sketch will be on the CPU.

    Returns
    -------
    NadarayaWatsonSketchRegressor

    Raises
    ------
    ValueError
        If there is no such estimator.
    """
    decode = Decoder(arrays, RECORDS, kernel).decode
    told = take(values, "parameters", dict)
    unknown = told.keys() - cls._get_param_names()
    if unknown:
        raise SketchFileError(
            f"It has parameters that are not known here ({sorted(unknown)!r:.80}): upgrade nwsketch."
        )
    estimator = cls(**{name: decode(value) for name, value in told.items()})
    sketch = NadarayaWatsonSketch._from_file(take(values, "sketch", dict), arrays, kernel, device)
    learnt = {name: decode(value) for name, value in take(values, "learnt", dict).items()}
    if not REQUIRED <= learnt.keys() <= CHECKS.keys():
        raise SketchFileError(f"It has learnt {sorted(learnt)!r:.200}, not {sorted(REQUIRED)} at least.")
    for name, value in learnt.items():
        if not CHECKS[name](value, sketch, learnt):
            raise SketchFileError(f"What it learnt does not fit together: {name}={value!r:.80}.")
    if sketch.n_labels or sketch.n_outputs != learnt["_n_targets"] * (2 if learnt["_has_moments"] else 1):
        raise SketchFileError(f"Its sketch has {sketch.n_labels} labels and {sketch.n_outputs} outputs.")
    vars(estimator).update(learnt | {"sketch_": sketch})
    return estimator


def _is_array(value: Any, *shape: int) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.float64
        and value.shape == shape
        and bool(np.isfinite(value).all())
    )


def _is_integer(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _is_bandwidth(value: Any, sketch: NadarayaWatsonSketch, learnt: dict[str, Any]) -> bool:
    if value is None:
        return not sketch.family.takes_bandwidth
    return _is_array(value, sketch.n_features) and check_bandwidth(value, sketch.n_features) is not None


def _is_trend(value: Any, sketch: NadarayaWatsonSketch, learnt: dict[str, Any]) -> bool:
    n_targets = check_integer("_n_targets", learnt["_n_targets"], 1)
    return value is None or (
        isinstance(value, LinearTrend)
        and _is_array(value.coef, sketch.n_features, n_targets)
        and _is_array(value.intercept, n_targets)
    )


def _is_path(value: Any, sketch: NadarayaWatsonSketch, learnt: dict[str, Any]) -> bool:
    if not isinstance(value, BandwidthPath):
        return False
    return all(
        isinstance(part, np.ndarray) and part.dtype == np.float64 and part.shape[1:] == tail
        for part, tail in zip(value, [(sketch.n_features,), (), (sketch.n_features,)], strict=True)
        if part is not None
    )


def _is_clock(value: Any, sketch: NadarayaWatsonSketch, learnt: dict[str, Any]) -> bool:
    return value is None or (
        isinstance(value, Clock)
        and all(type(number) in (int, float) and math.isfinite(number) for number in value)
        and value.half_life > 0
    )


def _are_names(value: Any, sketch: NadarayaWatsonSketch, learnt: dict[str, Any]) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object and value.shape == (sketch.n_features,)


#: For every attribute that a fit may leave: is this value one, beside this sketch and the others?
CHECKS: dict[str, Callable[[Any, NadarayaWatsonSketch, dict[str, Any]], bool]] = {
    "_clock": _is_clock,
    "_finds_bandwidth": lambda value, sketch, learnt: type(value) is bool,
    "_has_moments": lambda value, sketch, learnt: type(value) is bool,
    "_place": lambda value, sketch, learnt: (
        type(value) is tuple and len(value) == 2 and all(type(name) in (str, type(None)) for name in value)
    ),
    "_flat_targets": lambda value, sketch, learnt: (
        type(value) is bool and (not value or learnt["_n_targets"] == 1)
    ),
    "_n_targets": lambda value, sketch, learnt: _is_integer(value, 1),
    "_drawn_seed": lambda value, sketch, learnt: _is_integer(value, 0),
    "_fill": lambda value, sketch, learnt: (
        value in ("mean", "nan") or (type(value) in (int, float) and isinstance(float(value), float))
    ),
    "trend_": _is_trend,
    "bandwidth_": _is_bandwidth,
    "n_rounds_": lambda value, sketch, learnt: (
        (value is None) == (sketch.correction is None) and (value is None or _is_integer(value, 1))
    ),
    "n_features_in_": lambda value, sketch, learnt: type(value) is int and value == sketch.n_features,
    "feature_names_in_": _are_names,
    "loo_score_": lambda value, sketch, learnt: type(value) is float,
    "bandwidth_path_": _is_path,
}
REQUIRED = CHECKS.keys() - {"feature_names_in_", "loo_score_", "bandwidth_path_"}
