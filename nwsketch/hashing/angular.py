"""Sign random projections: the angular kernel as a collision probability.

Charikar, "Similarity Estimation Techniques from Rounding Algorithms" (STOC 2002), section 3:
the signs of x and q on a Gaussian direction agree with probability 1 - angle(x, q) / pi.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwsketch.hashing.base import HashFamily, HashParameters, register
from nwsketch.hashing.projections import (
    gaussian_directions,
    repetitions_together,
    sequential_projections,
)

#: Rows with a value beyond this are shrunk before they are projected, which changes no sign.
HUGE, SHRINK = 2.0**900, 2.0**-200


@register
class Angular(HashFamily):
    """``kernel="angular"``: k(x, q) = 1 - angle(x, q) / pi.

    The zero vector projects to 0 and counts as positive: it meets itself with probability 1
    and any other row with probability 1/2, as if at a right angle to everything.
    """

    name = "angular"
    distance = "angle"

    def n_values(self, n_features: int) -> int:
        """Return 2: a sign."""
        return 2

    def draw(
        self,
        rng: np.random.Generator,
        n_features: int,
        n_repetitions: int,
        hashes_per_repetition: int,
        bandwidth: NDArray[np.float64],
    ) -> HashParameters:
        """Draw Gaussian directions; the bandwidth plays no part."""
        arrays = gaussian_directions(rng, n_features, n_repetitions, hashes_per_repetition, own_lengths=False)
        together = repetitions_together(arrays)
        return HashParameters("sign_projection", arrays, repetitions_together=together)

    def cells(self, X: NDArray[Any], parameters: HashParameters) -> NDArray[np.int64]:
        """Return ``x @ directions[:, h] >= 0`` as 0 or 1."""
        X = X.astype(np.float64)
        largest = np.abs(X).max(axis=1, initial=0.0, keepdims=True)
        X *= np.where(largest > HUGE, SHRINK, 1.0)  # or sums might overflow
        projections = sequential_projections(X, parameters.arrays["directions"])
        return (projections >= 0).astype(np.int64)[:, :, np.newaxis]

    def collision_probability(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return 1 - t / pi, t the angle in radians."""
        return 1.0 - distance / np.pi
