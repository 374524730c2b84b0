"""What the sketch checks at its border; inside, everything trusts it. Errors name cause, value and remedy."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from nwsketch.hashing import LARGEST_CELL
from nwsketch.magnitudes import all_finite, largest_magnitude

Array = NDArray[np.float64]

#: Sums of weighted targets stay below this: 10,000 repetitions of them do not overflow.
LARGEST_SUM = 1e303
#: What to do instead of giving a sketch negative weights.
FORGET = "To take rows away again call forget(X, y, sample_weight)."


def check_integer(name: str, value: object, least: int) -> int:
    """Return ``value`` as an int of at least ``least``."""
    if type(value) is int and value >= least:
        return value
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} is out of range: give an integer of at least {least}.")
    return int(value)


def check_table_size(shape: tuple[int, int, int], most_bytes: int) -> None:
    """Refuse tables of ``shape`` (repetitions, buckets, channels) over the memory limit."""
    n_bytes = 8 * math.prod(shape)
    if n_bytes > most_bytes:
        raise ValueError(
            f"The tables would take {n_bytes / 2**30:.3g} GiB (n_repetitions={shape[0]} x "
            f"n_buckets={shape[1]} x {shape[2]} channels x 8 bytes), over the limit of "
            f"{most_bytes / 2**30:.3g} GiB: choose fewer buckets or repetitions, or raise "
            "nwsketch.sketch.MAX_TABLE_BYTES."
        )


def check_bandwidth(bandwidth: float | ArrayLike, n_features: int) -> Array:
    """Return one positive, finite bandwidth per feature: (n_features,), a copy."""
    values = np.asarray(bandwidth, dtype=np.float64)
    if values.ndim > 0 and values.shape != (n_features,):
        raise ValueError(
            f"bandwidth has shape {values.shape}, but there are {n_features} features: give one number, or "
            f"one per feature, ({n_features},)."
        )
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        raise ValueError(f"bandwidth holds {values[wrong].flat[0]}: give positive, finite numbers.")
    return np.array(np.broadcast_to(values, n_features))


def check_rows(X: Any, n_features: int) -> Any:
    """Return finite rows as a float32 or float64 array, or as canonical CSR of such."""
    sparse = bool(issparse(X))
    X = canonical_csr(X.tocsr()) if sparse else np.asarray(X)
    if X.ndim != 2 or X.shape[1] != n_features:
        raise ValueError(
            f"X has shape {X.shape}, but this sketch has n_features={n_features}: give rows of that width, "
            f"(n_samples, {n_features})."
        )
    _require_real("X", X.dtype)
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float64)
    if not all_finite(X.data if sparse else X):
        raise not_finite("X")
    return X


def not_finite(name: str) -> ValueError:
    """Return the error that rows, or their targets, hold NaN or infinity."""
    return ValueError(f"{name} holds NaN or infinity: remove or impute those rows first.")


def canonical_csr(X: Any) -> Any:
    """Return CSR rows with columns ascending and no column twice; the input is not changed."""
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def check_codes(codes: Any, n_repetitions: int, n_buckets: int) -> None:
    """Refuse codes that are not of tables of this shape."""
    if getattr(codes.dtype, "kind", "u") not in "iu":  # PyTorch's types have none
        raise ValueError(f"These codes are of dtype {codes.dtype}: give what hash(X) returned, integers.")
    least, largest = (int(codes.min()), int(codes.max())) if math.prod(codes.shape) else (0, 0)
    if len(codes) != n_repetitions or least < 0 or largest >= n_buckets:
        raise ValueError(
            f"These codes are of {len(codes)} repetitions and buckets from {least} to {largest}, but the "
            f"tables are {n_repetitions} x {n_buckets}: give what hash(X) of this sketch returned."
        )


def check_labels(labels: ArrayLike, n_rows: int, n_labels: int) -> NDArray[np.intp]:
    """Return one label per row, within [0, n_labels)."""
    array = np.asarray(labels)
    if array.shape != (n_rows,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"labels has shape {array.shape} and dtype {array.dtype}: give one integer per row, ({n_rows},)."
        )
    if n_rows and not (array.min() >= 0 and array.max() < n_labels):
        raise ValueError(
            f"labels run from {array.min()} to {array.max()}, but this sketch has n_labels={n_labels}: "
            f"number them from 0, or make the sketch with n_labels={int(array.max()) + 1}."
        )
    return array.astype(np.intp, copy=False)


def check_targets(y: ArrayLike, n_rows: int, n_outputs: int) -> Array:
    """Return finite targets as (n_rows, n_outputs)."""
    targets = as_float("y", y)
    shape = targets.shape
    targets = targets.reshape(-1, 1) if targets.ndim == 1 else targets
    if targets.shape != (n_rows, n_outputs):
        raise ValueError(
            f"y has shape {shape}, but X has {n_rows} rows and the sketch {n_outputs} outputs: give y as "
            f"({n_rows}, {n_outputs})."
        )
    if not all_finite(targets):
        raise not_finite("y")
    return targets


def check_weights(sample_weight: ArrayLike, n_rows: int, remedy: str = FORGET) -> Array:
    """Return one finite, non-negative weight per row: (n_rows,). A negative one is answered by ``remedy``."""
    weights = as_float("sample_weight", sample_weight)
    if weights.shape != (n_rows,):
        raise ValueError(f"sample_weight has shape {weights.shape}: give one weight per row, ({n_rows},).")
    if weights.size:
        check_least_weight(weights.min(), all_finite(weights), remedy)
    return weights


def check_least_weight(least: float, finite: bool, remedy: str = FORGET) -> None:
    """Refuse weights of which not all are finite, or of which the least is negative."""
    if not finite:
        raise ValueError("sample_weight holds NaN or infinity: give finite weights.")
    if least < 0:
        raise ValueError(f"sample_weight holds {least:.3g}: weights cannot be negative. {remedy}")


def as_float(name: str, values: ArrayLike) -> Array:
    """Return real numbers as float64."""
    array = np.asarray(values)
    if array.dtype != object:  # which may hold numbers: the conversion tells
        _require_real(name, array.dtype)
    return array.astype(np.float64, copy=False)


def _require_real(name: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {dtype}: give real numbers.")


def check_sums(y: Array, weights: Array | None, weight_before: float) -> None:
    """Refuse targets and weights whose sums could overflow."""
    if y.size:
        weight = float(len(y)) if weights is None else _total(weights)
        check_largest_sum(largest_magnitude(y), weight_before + weight)


def check_largest_sum(target: float, weight: float) -> None:
    """Refuse a target and a total weight whose product could overflow."""
    largest = weight * max(target, 1.0)  # infinity if that overflows
    if not largest < LARGEST_SUM:
        raise ValueError(
            f"Sums of sample_weight and of sample_weight * y could reach {largest:.3g} and overflow: divide "
            "sample_weight, or y, by a large number."
        )


def _total(weights: Array) -> float:
    with np.errstate(over="ignore"):
        return float(weights.sum())


def harmless_magnitude(cells_per_unit: Array) -> float:
    """Return below which magnitude no value, whatever its feature, is refused by :func:`check_cells`."""
    with np.errstate(over="ignore", divide="ignore"):
        return float(LARGEST_CELL / cells_per_unit.sum())


def check_cells(X: Any, cells_per_unit: Array, harmless: float) -> None:
    """Refuse values so large, for their bandwidth, that their cells could not be told apart.

    ``X`` is trusted otherwise; ``cells_per_unit`` is that of the hash plan, and ``harmless`` its
    :func:`harmless_magnitude`: one bound for all features is quick to check, and seldom too coarse.
    """
    sparse = bool(issparse(X))
    values = X.data if sparse else X
    if harmless == np.inf or values.size == 0 or largest_magnitude(values) < harmless:
        return
    if sparse:
        largest = abs(X).max(axis=0).toarray().ravel().astype(np.float64)
    else:
        largest = np.maximum(X.max(axis=0), -X.min(axis=0)).astype(np.float64)
    with np.errstate(over="ignore"):
        cells = largest * cells_per_unit
        total = cells.sum()
    if not total < LARGEST_CELL:
        feature = int(cells.argmax())
        raise ValueError(
            f"X holds a value of magnitude {largest[feature]:.3g} in feature {feature}, where its cell index "
            f"could reach {cells[feature]:.3g} and would overflow (2**53). Scale X, for example with "
            "StandardScaler, or give a larger bandwidth."
        )
