"""What both estimators check at their border: scikit-learn's validation, and ours of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.utils.validation import validate_data

from nwsketch.inputs import FORGET, canonical_csr, check_weights
from nwsketch.magnitudes import all_finite
from nwsketch.tensors import is_tensor, to_host

#: How X is taken: in its own precision if that is a floating-point one, and sparse as CSR.
X_OPTIONS: dict[str, Any] = {"accept_sparse": "csr", "dtype": [np.float64, np.float32]}
#: How y is taken: as numbers, of one output or more.
Y_OPTIONS: dict[str, Any] = {"multi_output": True, "y_numeric": True}


@contextmanager
def unchanged_on_error(estimator: Any) -> Iterator[None]:
    """Restore an estimator's attributes if anything, an interrupt too, ends the block early."""
    before = dict(estimator.__dict__)
    try:
        yield
    except BaseException:
        estimator.__dict__ = before  # at once, also for other threads
        raise


def validate_rows(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    *,
    reset: bool,
    remedy: str = FORGET,
    tensors: bool = False,
) -> tuple[Any, NDArray[np.float64], NDArray[np.float64] | None]:
    """Validate rows, their targets and their weights.

    Parameters
    ----------
    estimator : BaseEstimator
    X, y, sample_weight
        As the user gave them.
    reset : bool
        Whether the estimator learns its features from X, or X has to have them.
    remedy : str
        What to do instead of giving a negative weight.
    tensors : bool
        Whether tensors stay tensors, or are brought to the host.

    Returns
    -------
    X : ndarray or canonical CSR of shape (n_samples, n_features), float32 or float64
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
    sample_weight : ndarray of shape (n_samples,) or None, float64
        If X is a tensor and stays one, so are the others, on its device; the sketch checks their values.
    """
    if tensors and is_tensor(X):
        return _validate_tensors(estimator, X, y, sample_weight, reset=reset)
    X, y, sample_weight = _unlisted(to_host(X)), _unlisted(to_host(y)), to_host(sample_weight)
    plain = _are_rows(X)
    both_plain = plain and _are_targets(y, len(X))
    if reset or not (both_plain and _has_known_features(X, estimator)):
        options = Y_OPTIONS | X_OPTIONS | {"ensure_all_finite": not plain}
        if both_plain:
            options = {"skip_check_array": True}
        # scikit-learn sums X to see whether it is finite, and may overflow where X does not.
        with np.errstate(over="ignore", invalid="ignore"):
            X, y = validate_data(estimator, X, y, reset=reset, **options)
    targets = np.asarray(y.toarray() if issparse(y) else y, dtype=np.float64)
    weights = None
    if sample_weight is not None:
        given = np.asarray(sample_weight)
        weights = check_weights(
            np.full(len(targets), given) if given.ndim == 0 else given, len(targets), remedy
        )
    return canonical_csr(X) if issparse(X) else X, targets, weights


def validate_queries(estimator: Any, X: Any, *, tensors: bool = False, reset: bool = False) -> Any:
    """Validate rows without targets; arguments and result are as of :func:`validate_rows`."""
    if tensors and is_tensor(X):
        return _tensor_rows(estimator, X, reset=reset)
    X = _unlisted(to_host(X))
    plain = _are_rows(X)
    if plain and not reset and _has_known_features(X, estimator):
        return X
    options = {"skip_check_array": True} if plain else X_OPTIONS
    with np.errstate(over="ignore", invalid="ignore"):
        X = validate_data(estimator, X, reset=reset, **options)
    return canonical_csr(X) if issparse(X) else X


def checks_values(X: Any) -> bool:
    """Return whether the sketch has to look at the values of X, a tensor not assumed to be finite."""
    return is_tensor(X) and not get_config()["assume_finite"]


def _tensor_rows(estimator: Any, X: Any, *, reset: bool) -> Any:
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D tensor instead: give rows, (n_samples, n_features); a single "
            "one as X.reshape(1, -1)."
        )
    if X.shape[1] == 0 or (len(X) == 0 and reset):
        missing = "feature(s)" if X.shape[1] == 0 else "sample(s)"
        raise ValueError(
            f"Found array with 0 {missing} (shape={tuple(X.shape)}) while a minimum of 1 is required."
        )
    from nwsketch.torch_inputs import as_rows

    validate_data(estimator, X, reset=reset, skip_check_array=True)  # the number of features, or their names
    return as_rows(X, X.shape[1])


def _validate_tensors(estimator: Any, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> Any:
    from nwsketch.torch_inputs import as_targets, as_weights

    X = _tensor_rows(estimator, X, reset=reset)
    if np.ndim(y) not in (1, 2):
        raise ValueError(
            f"y has {np.ndim(y)} dimensions: give targets as (n_samples,) or (n_samples, n_outputs)."
        )
    flat = np.ndim(y) == 1
    targets = as_targets(y, X, 1 if flat else np.shape(y)[-1])
    if sample_weight is not None and np.ndim(sample_weight) == 0:
        sample_weight = np.full(len(X), float(sample_weight))
    weights = None if sample_weight is None else as_weights(sample_weight, X)
    return X, targets.reshape(-1) if flat else targets, weights


def _unlisted(values: Any) -> Any:
    """Return a list of numbers as the array that scikit-learn would make of it, anything else as it is."""
    if type(values) is not list:
        return values
    try:
        array = np.asarray(values)
    except ValueError:  # of unequal lengths: scikit-learn has the words for it
        return values
    return array.astype(np.float64, copy=False) if array.dtype.kind in "fiub" else values


def _has_known_features(X: Any, estimator: Any) -> bool:
    """Return whether plain rows are as wide as those learnt, whose features had no names to warn of."""
    known = getattr(estimator, "n_features_in_", None)
    return X.shape[1] == known and not hasattr(estimator, "feature_names_in_")


def _are_rows(X: Any) -> bool:
    """Return whether scikit-learn would hand these rows back as they are: to find out takes it longer."""
    return _is_plain(X) and X.ndim == 2


def _are_targets(y: Any, n_rows: int) -> bool:
    """Return whether scikit-learn would hand these targets back as they are."""
    return _is_plain(y) and y.ndim in (1, 2) and len(y) == n_rows


def _is_plain(values: Any) -> bool:
    """Return whether ``values`` is a NumPy array, no subclass, of finite numbers in a precision of ours."""
    return (
        type(values) is np.ndarray
        and values.dtype in X_OPTIONS["dtype"]
        and values.size > 0
        and (get_config()["assume_finite"] or all_finite(values))
    )
