"""Uniform draws without replacement that go on where the last one ended."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class UniformPasses:
    """All examples in random order, then all in another one, and so on; handed out in pieces.

    Parameters
    ----------
    n_rows : int
    rng : numpy.random.Generator

    Attributes
    ----------
    order : ndarray of shape (n_rows,), int64
        The present permutation; empty before the first.
    position : int
        How much of it has been handed out.
    """

    def __init__(self, n_rows: int, rng: np.random.Generator) -> None:
        self._n_rows, self._rng = n_rows, rng
        self.order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.position = 0

    def take(self, n_wanted: int) -> NDArray[np.int64]:
        """Return the next ``n_wanted`` examples: (n_wanted,), each once until all have had their turn."""
        pieces = []
        while n_wanted:
            if self.position == len(self.order):
                self.order, self.position = self._rng.permutation(self._n_rows), 0
            piece = self.order[self.position : self.position + n_wanted]
            self.position += len(piece)
            n_wanted -= len(piece)
            pieces.append(piece)
        return np.concatenate([np.empty(0, dtype=np.int64), *pieces])

    def state(self) -> dict[str, Any]:
        """Return the present permutation, and how far it has come."""
        return {"order": self.order, "position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another one stood; its generator is restored by whoever owns it.

        Parameters
        ----------
        state : dict
        """
        self.order, self.position = state["order"], state["position"]
