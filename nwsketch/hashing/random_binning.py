"""Random binning features: the Laplacian kernel as a collision probability.

Rahimi & Recht, "Random Features for Large-Scale Kernel Machines" (NeurIPS 2007), section 4:
a grid whose widths follow Gamma(shape 2, scale h) and whose offsets are uniform puts two
points at distance t into one cell with probability exp(-t / h) per feature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwsketch.hashing.base import HashFamily, HashParameters, register


@register
class RandomBinning(HashFamily):
    """``kernel="laplacian"``: k(x, q) = exp(-sum_j abs(x_j - q_j) / h_j).

    With every h_j = h it equals ``sklearn.metrics.pairwise.laplacian_kernel(gamma=1/h)``.
    The offset of every grid lies in [0, 1), so a feature of value 0 falls into cell 0 and
    rows in CSR format cost only their non-zeros.
    """

    name = "laplacian"
    distance = "cityblock"
    takes_bandwidth = True

    def draw(
        self,
        rng: np.random.Generator,
        n_features: int,
        n_repetitions: int,
        hashes_per_repetition: int,
        bandwidth: NDArray[np.float64],
    ) -> HashParameters:
        """Draw one grid per feature and hash: widths Gamma(2, h_j), uniform offsets."""
        shape = (n_features, n_repetitions * hashes_per_repetition)
        with np.errstate(over="ignore"):  # a width beyond all numbers has one cell
            widths = rng.gamma(2.0, 1.0, shape) * bandwidth[:, np.newaxis]
        # A generator may return 0.0 (with probability of about 1e-32): keep the scale finite.
        scales = 1.0 / np.maximum(widths, 1e-300)
        arrays = {"scales": scales, "offsets": rng.random(shape)}
        return HashParameters("grid", arrays, cells_per_hash=n_features)

    def cells(self, X: NDArray[Any], parameters: HashParameters) -> NDArray[np.int64]:
        """Return ``floor(x[j] * scales[j, h] + offsets[j, h])`` for every hash h and feature j."""
        scales, offsets = parameters.arrays["scales"].T, parameters.arrays["offsets"].T
        positions = X.astype(np.float64)[:, np.newaxis, :] * scales + offsets
        return np.floor(positions).astype(np.int64)

    def collision_probability(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return exp(-t), t the city-block distance in units of the bandwidth."""
        return np.exp(-distance)

    def cells_per_unit(self, parameters: HashParameters) -> NDArray[np.float64]:
        """Return the largest scale of every feature."""
        return parameters.arrays["scales"].max(axis=1)
