"""What both estimators check at their border: scikit-learn's validation, and ours of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils.validation import validate_data

from nwsketch.inputs import FORGET, canonical_csr, check_weights

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
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise


def validate_rows(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    *,
    reset: bool,
    remedy: str = FORGET,
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

    Returns
    -------
    X : ndarray or canonical CSR of shape (n_samples, n_features), float32 or float64
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
    sample_weight : ndarray of shape (n_samples,) or None, float64
    """
    if reset or not (_needs_no_validation(X, estimator) and _are_targets(y, len(X))):
        # scikit-learn sums X to see whether it is finite, and may overflow where X does not.
        with np.errstate(over="ignore", invalid="ignore"):
            X, y = validate_data(estimator, X, y, reset=reset, **Y_OPTIONS, **X_OPTIONS)
    targets = np.asarray(y.toarray() if issparse(y) else y, dtype=np.float64)
    weights = None
    if sample_weight is not None:
        given = np.asarray(sample_weight)
        weights = check_weights(
            np.full(len(targets), given) if given.ndim == 0 else given, len(targets), remedy
        )
    return canonical_csr(X) if issparse(X) else X, targets, weights


def validate_queries(estimator: Any, X: Any) -> Any:
    """Validate rows that are asked about; returned as by :func:`validate_rows`."""
    if _needs_no_validation(X, estimator):
        return X
    with np.errstate(over="ignore", invalid="ignore"):
        X = validate_data(estimator, X, reset=False, **X_OPTIONS)
    return canonical_csr(X) if issparse(X) else X


def _needs_no_validation(X: Any, estimator: Any) -> bool:
    """Return whether scikit-learn would hand these rows back as they are: to find out takes it longer."""
    return (
        _is_plain(X)
        and X.ndim == 2
        and X.shape[1] == getattr(estimator, "n_features_in_", None)
        and not hasattr(estimator, "feature_names_in_")  # without which X causes a warning
    )


def _are_targets(y: Any, n_rows: int) -> bool:
    """Return whether scikit-learn would hand these targets back as they are."""
    return _is_plain(y) and y.ndim in (1, 2) and len(y) == n_rows


def _is_plain(values: Any) -> bool:
    """Return whether ``values`` is a NumPy array, no subclass, of finite numbers in a precision of ours."""
    return (
        type(values) is np.ndarray
        and values.dtype in X_OPTIONS["dtype"]
        and values.size > 0
        and bool(np.isfinite(values).all())
    )
