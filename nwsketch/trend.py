"""A linear trend under the smoother: the sketch learns what a hyperplane leaves over.

A kernel smoother knows nothing beyond the data and pulls every slope towards a mean. A trend takes
the slope off first and adds it again to every answer. It is found once, by the first rows, and frozen:
so rows can still be added one by one, forgotten and merged, and a merge of different trends is refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import diags_array, issparse

from nwsketch.backends.base import Array
from nwsketch.bandwidth import feature_deviations, weighted_deviations

#: Ridges on features of unit variance, of which generalised cross-validation chooses: a few outlying rows in
#: thinly spread columns would otherwise tilt the hyperplane for all queries beyond them.
ALPHAS = np.logspace(-2, 5, 15)
#: Rows that it looks at, at most, and needs at least.
MOST_ROWS, LEAST_ROWS = 5_000, 10


class LinearTrend(NamedTuple):
    """A frozen hyperplane per output.

    Attributes
    ----------
    coef : ndarray of shape (n_features, n_outputs)
    intercept : ndarray of shape (n_outputs,)
    """

    coef: Array
    intercept: Array

    def predict(self, X: Any) -> Array:
        """Return the trend at every row: (n_samples, n_outputs)."""
        return np.asarray(X @ self.coef, dtype=np.float64) + self.intercept


def fit_trend(X: Any, y: Array, sample_weight: Array | None) -> LinearTrend:
    """Fit a weighted ridge regression on features of unit variance.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features)
    y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,) or None

    Returns
    -------
    LinearTrend
        In the units of X. The ridge does not depend on the weights: rows that weigh next to nothing have
        next to no trend.
    """
    from sklearn.linear_model import Ridge, RidgeCV  # here, as it takes a while

    X = X.astype(np.float64)
    shares = np.full(len(y), 1 / len(y)) if sample_weight is None else sample_weight / sample_weight.sum()
    deviations, units = feature_deviations(X, sample_weight), weighted_deviations(y, sample_weight)
    inverse = np.divide(1.0, deviations, out=np.zeros_like(deviations), where=deviations > 0)
    diagonal: Any = diags_array(inverse)
    scaled = X @ diagonal if issparse(X) else X * inverse  # constant features vanish
    offset = shares @ y
    left = np.divide(y - offset, units, out=np.zeros_like(y), where=units > 0)
    alpha: Any = 1.0
    rows = np.arange(len(y)) if sample_weight is None else np.flatnonzero(sample_weight)
    if rows.size >= LEAST_ROWS:
        if rows.size > MOST_ROWS:
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
        weights = None if sample_weight is None else sample_weight[rows]
        search = RidgeCV(ALPHAS, alpha_per_target=y.shape[1] > 1)
        alpha = search.fit(scaled[rows], left[rows], sample_weight=weights).alpha_
    ridge = Ridge(alpha=alpha).fit(scaled, left, sample_weight=sample_weight)
    coef = np.atleast_2d(ridge.coef_).T * inverse[:, np.newaxis] * units
    return LinearTrend(coef, offset + np.atleast_1d(np.asarray(ridge.intercept_, dtype=np.float64)) * units)
