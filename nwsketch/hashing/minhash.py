"""MinHash: the Jaccard similarity of the non-zero columns as a collision probability.

Broder, "On the Resemblance and Containment of Documents" (1997). Columns are ordered by a
64-bit mixing function of the column and a random seed, which stands in for a random
permutation without storing one per hash.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwsketch.hashing.base import HashFamily, HashParameters, register


def mix(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers (the finaliser of SplitMix64; Steele, Lea & Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


@register
class MinHash(HashFamily):
    """``kernel="jaccard"``: size of the intersection over size of the union of non-zero columns.

    Two rows without a non-zero column are equal (similarity 1); such a row and any other
    have similarity 0.
    """

    name = "jaccard"
    distance = "jaccard"

    def n_values(self, n_features: int) -> int:
        """Return the number of columns, and one more for the empty set."""
        return n_features + 1

    def draw(
        self,
        rng: np.random.Generator,
        n_features: int,
        n_repetitions: int,
        hashes_per_repetition: int,
        bandwidth: NDArray[np.float64],
    ) -> HashParameters:
        """Draw one 64-bit seed per hash; the bandwidth plays no part."""
        n_hashes = n_repetitions * hashes_per_repetition
        return HashParameters("minhash", {"seeds": rng.integers(0, 2**64, n_hashes, dtype=np.uint64)})

    def cells(self, X: NDArray[Any], parameters: HashParameters) -> NDArray[np.int64]:
        """Return 1 + the non-zero column that comes first in the hash's order, or 0 if there is none."""
        columns = mix(np.arange(1, X.shape[1] + 1, dtype=np.uint64))
        ranks = mix(columns ^ parameters.arrays["seeds"][:, np.newaxis])
        cells = np.zeros((X.shape[0], len(ranks), 1), dtype=np.int64)
        for i, row in enumerate(X):
            present = np.flatnonzero(row)
            if len(present):
                cells[i, :, 0] = 1 + present[ranks[:, present].argmin(axis=1)]
        return cells

    def collision_probability(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return 1 - t, t the Jaccard distance."""
        return 1.0 - distance
