"""p-stable projections: the l2 and l1 kernels as collision probabilities.

Datar, Immorlica, Indyk & Mirrokni, "Locality-Sensitive Hashing Scheme Based on p-Stable
Distributions" (SoCG 2004), section 3.2: h(x) = floor((a . x + b) / h), a drawn from a
p-stable law (Gaussian for p = 2, Cauchy for p = 1), b uniform in [0, h).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from nwsketch.hashing.base import HashFamily, HashParameters, register


def sequential_projections(X: NDArray[Any], directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Project rows in float64, adding the features from first to last.

    A matrix product adds in an order that depends on the shape of the batch; the order here
    is fixed, so that a row's cell never depends on the rows around it.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    directions : ndarray of shape (n_features, n_hashes)

    Returns
    -------
    ndarray of shape (n_samples, n_hashes), float64
    """
    projections = np.zeros((X.shape[0], directions.shape[1]))
    for column, direction in zip(X.T.astype(np.float64), directions, strict=True):
        projections += column[:, np.newaxis] * direction
    return projections


class _PStableProjection(HashFamily):
    """Floor of a p-stable projection; subclasses bring the law and the collision probability."""

    takes_bandwidth = True

    @abstractmethod
    def _draw_directions(self, rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Draw independent p-stable coordinates."""

    def draw(
        self, rng: np.random.Generator, n_features: int, n_hashes: int, bandwidth: NDArray[np.float64]
    ) -> HashParameters:
        """Draw directions (divided by the bandwidths) and uniform offsets."""
        with np.errstate(over="ignore"):
            directions = self._draw_directions(rng, (n_features, n_hashes)) / bandwidth[:, np.newaxis]
        directions = np.clip(directions, -1e300, 1e300)  # finite, however narrow the bandwidth
        return HashParameters("floor_projection", {"directions": directions, "offsets": rng.random(n_hashes)})

    def cells(self, X: NDArray[Any], parameters: HashParameters) -> NDArray[np.int64]:
        """Return ``floor(x @ directions[:, h] + offsets[h])`` for every hash h."""
        projections = sequential_projections(X, parameters.arrays["directions"])
        return np.floor(projections + parameters.arrays["offsets"]).astype(np.int64)[:, :, np.newaxis]

    def cells_per_unit(self, parameters: HashParameters) -> NDArray[np.float64]:
        """Return the largest coordinate of any direction along every feature."""
        return np.abs(parameters.arrays["directions"]).max(axis=1)


@register
class GaussianProjection(_PStableProjection):
    """``kernel="l2"``: a function of the Euclidean distance (p = 2)."""

    name = "l2"
    distance = "euclidean"

    def _draw_directions(self, rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
        return rng.standard_normal(shape)

    def collision_probability(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return erf(1 / (t sqrt 2)) - sqrt(2 / pi) t (1 - exp(-1 / (2 t^2))); 1 at t = 0."""
        t = np.maximum(distance, 1e-150)  # there the kernel is 1 within rounding, and 1 / t^2 finite
        with np.errstate(under="ignore"):
            gap = -np.expm1(-((np.sqrt(0.5) / t) ** 2))
            return erf(np.sqrt(0.5) / t) - np.sqrt(2 / np.pi) * t * gap


@register
class CauchyProjection(_PStableProjection):
    """``kernel="l1"``: a heavy-tailed function of the city-block distance (p = 1)."""

    name = "l1"
    distance = "cityblock"

    def _draw_directions(self, rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
        return rng.standard_cauchy(shape)

    def collision_probability(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return 2 atan(1 / t) / pi - (t / pi) log(1 + 1 / t^2); 1 at t = 0."""
        t = np.maximum(distance, 1e-150)  # there the kernel is 1 within rounding, and 1 / t^2 finite
        with np.errstate(under="ignore"):
            probability = 2 / np.pi * np.arctan(1 / t) - t / np.pi * np.log1p((1 / t) ** 2)
        return np.clip(probability, 0.0, 1.0)
