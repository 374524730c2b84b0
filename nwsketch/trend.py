"""A linear trend under the smoother: the sketch learns what a hyperplane leaves over.

A kernel smoother knows nothing beyond the data and pulls every slope towards a mean. A trend takes
the slope off first and adds it again to every answer. It is found once, by the first rows, and frozen:
so rows can still be added one by one, forgotten and merged, and a merge of different trends is refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from nwsketch.backends.base import Array

#: Ridge on standardised features: next to nothing for many rows, a guard for few and for copies of a column.
ALPHA = 1.0


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
    """Fit a weighted ridge regression on standardised features.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features)
    y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,) or None

    Returns
    -------
    LinearTrend
        In the units of X.
    """
    X = X.astype(np.float64)
    scaler = StandardScaler(with_mean=False).fit(X, sample_weight=sample_weight)
    ridge = Ridge(alpha=ALPHA).fit(scaler.transform(X), y, sample_weight=sample_weight)
    coef = np.atleast_2d(ridge.coef_).T / scaler.scale_[:, np.newaxis]
    return LinearTrend(coef, np.atleast_1d(np.asarray(ridge.intercept_, dtype=np.float64)))
