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
from nwsketch.hashing.projections import (
    divided_scales,
    gaussian_directions,
    repetitions_together,
    sequential_projections,
)


class _PStableProjection(HashFamily):
    """Floor of a p-stable projection; subclasses bring the law and the collision probability."""

    takes_bandwidth = True

    @abstractmethod
    def _draw_directions(
        self, rng: np.random.Generator, n_features: int, n_repetitions: int, hashes_per_repetition: int
    ) -> dict[str, NDArray[np.float64]]:
        """Draw directions of independent p-stable coordinates, and their factors if they have any."""

    def draw(
        self,
        rng: np.random.Generator,
        n_features: int,
        n_repetitions: int,
        hashes_per_repetition: int,
        bandwidth: NDArray[np.float64],
    ) -> HashParameters:
        """Draw directions (divided by the bandwidths) and uniform offsets."""
        arrays = self._draw_directions(rng, n_features, n_repetitions, hashes_per_repetition)
        together = repetitions_together(arrays)
        with np.errstate(over="ignore"):
            directions = arrays["directions"] / bandwidth[:, np.newaxis]
        arrays["directions"] = np.clip(directions, -1e300, 1e300)  # finite, however narrow the bandwidth
        if "scales" in arrays:
            if (arrays["directions"] == directions).all():
                arrays["scales"] = divided_scales(arrays["scales"], bandwidth)
            else:  # clipped: not what the factors yield
                arrays = {"directions": arrays["directions"]}
        arrays["offsets"] = rng.random(n_repetitions * hashes_per_repetition)
        return HashParameters("floor_projection", arrays, repetitions_together=together)

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

    def _draw_directions(
        self, rng: np.random.Generator, n_features: int, n_repetitions: int, hashes_per_repetition: int
    ) -> dict[str, NDArray[np.float64]]:
        return gaussian_directions(rng, n_features, n_repetitions, hashes_per_repetition, own_lengths=True)

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

    def _draw_directions(
        self, rng: np.random.Generator, n_features: int, n_repetitions: int, hashes_per_repetition: int
    ) -> dict[str, NDArray[np.float64]]:
        return {"directions": rng.standard_cauchy((n_features, n_repetitions * hashes_per_repetition))}

    def collision_probability(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return 2 atan(1 / t) / pi - (t / pi) log(1 + 1 / t^2); 1 at t = 0."""
        t = np.maximum(distance, 1e-150)  # there the kernel is 1 within rounding, and 1 / t^2 finite
        with np.errstate(under="ignore"):
            probability = 2 / np.pi * np.arctan(1 / t) - t / np.pi * np.log1p((1 / t) ** 2)
        return np.clip(probability, 0.0, 1.0)
