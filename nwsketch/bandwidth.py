"""Bandwidths: what ``bandwidth=`` stands for, and the rule behind ``"scale"``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from nwsketch.inputs import Array, check_bandwidth
from nwsketch.tensors import is_tensor, like

#: The ``c`` of :func:`scale_bandwidth`; docs/defaults.md tells how it was chosen.
SCALE_FACTOR = 1 / 6
#: Standard deviations below this multiple of a feature's largest magnitude are rounding errors.
CONSTANT = 1e-12
#: Standard deviations below this could not be inverted; such features count as constant.
SMALLEST = 1e-280
#: Values of X looked at together, to bound the memory of temporary copies.
CHUNK_SIZE = 2**20
#: Significant bits of a standard deviation, in units of the largest magnitude: sums in another order,
#: or on another device, differ far beyond.
SIGNIFICANT_BITS = 28


@dataclass(frozen=True)
class Moments:
    """Weighted means and variances of features, so kept that huge and tiny values stay in range.

    Attributes
    ----------
    weight : float
        Sum of the weights of the rows; 0 if they weigh nothing.
    largest : ndarray of shape (n_features,), float64
        The largest magnitude of every feature among rows that weigh something.
    means, variances : ndarray of shape (n_features,), float64
        In units of ``largest`` and of its square; zeros if the rows weigh nothing.
    """

    weight: float
    largest: Array
    means: Array
    variances: Array

    def merge(self, other: Moments) -> Moments:
        """Return the moments of all rows of two parts (Chan, Golub & LeVeque, 1983).

        Parameters
        ----------
        other : Moments

        Returns
        -------
        Moments
        """
        largest = np.maximum(self.largest, other.largest)
        unit = np.where(largest > 0, largest, 1.0)
        mine, theirs = self.largest / unit, other.largest / unit
        weight = self.weight + other.weight
        share = other.weight / weight if weight > 0 else 0.0
        gap = other.means * theirs - self.means * mine
        within = (1 - share) * self.variances * mine**2 + share * other.variances * theirs**2
        return Moments(
            weight, largest, self.means * mine + share * gap, within + share * (1 - share) * gap**2
        )

    def deviations(self) -> Array:
        """Return the standard deviations, 0 where they are but rounding: (n_features,).

        They are rounded to 28 bits in units of ``largest``, so that rows hash alike whether their variances
        were added up at once, by parts or on a GPU.
        """
        mantissas, exponents = np.frexp(np.sqrt(self.variances))
        deviations = np.ldexp(np.round(np.ldexp(mantissas, SIGNIFICANT_BITS)), exponents - SIGNIFICANT_BITS)
        varies = (deviations > CONSTANT) & (deviations * self.largest > SMALLEST)
        return np.where(varies, deviations * self.largest, 0.0)


def resolve_bandwidth(
    bandwidth: str | float | ArrayLike,
    X: Any,
    sample_weight: Array | None = None,
    distance: str | None = "cityblock",
) -> Array:
    """Return one bandwidth per feature.

    Parameters
    ----------
    bandwidth : "scale", float or array-like of shape (n_features,)
        See :func:`scale_bandwidth` for ``"scale"``.
    X : ndarray or sparse matrix of shape (n_samples, n_features)
        Finite rows.
    sample_weight : ndarray of shape (n_samples,) or None, default=None
    distance : str or None, default="cityblock"
        The kernel's distance.

    Returns
    -------
    ndarray of shape (n_features,), float64

    Raises
    ------
    ValueError
        If the shape does not fit the rows, or a number is not positive and finite.
    """
    n_features = X.shape[1]
    if isinstance(bandwidth, str):
        if bandwidth != "scale":
            raise ValueError(f"Unknown bandwidth {bandwidth!r}: choose 'scale', a number or one per feature.")
        return scale_bandwidth(X, sample_weight, "euclidean" if distance == "euclidean" else "cityblock")
    return check_bandwidth(bandwidth, n_features)


def scale_bandwidth(
    X: Any,
    sample_weight: Array | None = None,
    distance: Literal["cityblock", "euclidean"] = "cityblock",
) -> Array:
    """Derive bandwidths from the weighted variances of the features alone.

    With s_j the standard deviation of feature j and m the number of features that vary (at least 1),

    - h_j = m c s_j for kernels of the city-block distance,
    - h_j = sqrt(m c) s_j for kernels of the Euclidean distance,

    c = 1/6. A constant feature counts as s_j = 1. The distance of two typical rows grows as m or as
    sqrt(m); in units of these bandwidths it does not depend on the number of features.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
        Finite rows; sparse input is not densified.
    sample_weight : ndarray of shape (n_samples,) or None, default=None
        Not negative, not all zero. Weight 2 counts as a row given twice, weight 0 as none.
    distance : {"cityblock", "euclidean"}, default="cityblock"

    Returns
    -------
    ndarray of shape (n_features,), float64
    """
    return scale_by_deviations(feature_deviations(X, sample_weight), distance)


def scale_by_deviations(
    deviations: Array, distance: Literal["cityblock", "euclidean"] = "cityblock"
) -> Array:
    """Derive the bandwidths of :func:`scale_bandwidth` from standard deviations, 0 for constant features.

    Parameters
    ----------
    deviations : ndarray of shape (n_features,), float64
    distance : {"cityblock", "euclidean"}, default="cityblock"

    Returns
    -------
    ndarray of shape (n_features,), float64
    """
    reach = SCALE_FACTOR * max(int(np.count_nonzero(deviations)), 1)
    factor = np.sqrt(reach) if distance == "euclidean" else reach
    return factor * np.where(deviations > 0, deviations, 1.0)


def feature_deviations(X: Any, sample_weight: Array | None) -> Array:
    """Return the weighted standard deviation of every feature, 0 where that is but rounding.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,) or None

    Returns
    -------
    ndarray of shape (n_features,), float64
    """
    return feature_moments(X, sample_weight).deviations()


def feature_moments(X: Any, sample_weight: Any = None) -> Moments:
    """Return the weighted moments of every feature.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
        Finite rows, at least one.
    sample_weight : ndarray of shape (n_samples,) or None, default=None
        Finite and not negative.

    Returns
    -------
    Moments
    """
    weights = np.ones(X.shape[0]) if sample_weight is None else sample_weight
    moments: Any = _sparse_moments if issparse(X) else _dense_moments
    if is_tensor(X):
        from nwsketch.torch_inputs import moments

        weights = like(X, weights)
    weight, there = float(weights.sum()), weights > 0
    if not weight > 0:
        nothing = np.zeros(X.shape[1])
        return Moments(weight, nothing, nothing, nothing)
    if not there.all():
        X, weights = X[there], weights[there]
    return Moments(weight, *moments(X, weights / weight))


def weighted_deviations(y: Array, sample_weight: Array | None) -> Array:
    """Return the weighted standard deviation of every column.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_outputs)
    sample_weight : ndarray of shape (n_samples,) or None

    Returns
    -------
    ndarray of shape (n_outputs,)
        0 for a column that is constant up to rounding.
    """
    weights = np.ones(len(y)) if sample_weight is None else sample_weight
    largest, _, variances = _dense_moments(y, weights / weights.sum())
    deviations = np.sqrt(variances)
    return np.where(deviations > CONSTANT, largest * deviations, 0.0)


def _dense_moments(X: NDArray[Any], shares: Array) -> tuple[Array, Array, Array]:
    """Return the largest magnitude of every feature, and its mean and variance in units of that."""
    largest = np.maximum(X.max(axis=0), -X.min(axis=0)).astype(np.float64)
    # In units of the largest magnitude, squares of huge and of tiny values stay in range.
    unit = np.where(largest > 0, largest, 1.0)
    step = max(CHUNK_SIZE // X.shape[1], 1)
    chunks = [slice(start, start + step) for start in range(0, X.shape[0], step)]
    means, variances = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    # C order and no BLAS: the sums, down to the last bit, depend on the values alone.
    for rows in chunks:
        means += (shares[rows, np.newaxis] * np.divide(X[rows], unit, order="C")).sum(axis=0)
    for rows in chunks:
        deviations = np.divide(X[rows], unit, order="C") - means
        variances += (shares[rows, np.newaxis] * deviations**2).sum(axis=0)
    return largest, means, variances


def _sparse_moments(X: Any, shares: Array) -> tuple[Array, Array, Array]:
    """Do the same for canonical CSR rows, at the cost of their non-zeros."""
    n_features = X.shape[1]
    largest = abs(X).max(axis=0).toarray().ravel().astype(np.float64)
    values = X.data / largest[X.indices].clip(min=np.finfo(np.float64).tiny)
    by_value = np.repeat(shares, np.diff(X.indptr))
    means: Any = np.bincount(X.indices, by_value * values, n_features)
    spreads = by_value * (values - means[X.indices]) ** 2
    present = np.bincount(X.indices, minlength=n_features)
    zeros = np.where(
        present == X.shape[0], 0.0, np.maximum(1.0 - np.bincount(X.indices, by_value, n_features), 0.0)
    )
    return largest, means, np.bincount(X.indices, spreads, n_features) + zeros * means**2
