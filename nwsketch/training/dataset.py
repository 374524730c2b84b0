"""The user's data set as the sampler's batches see it: every sample with its index and weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

REMEDY = "DataLoader(sampler.wrap(dataset), sampler=sampler, ...)"


class WeightedIndex(NamedTuple):
    """What the sampler yields: row and weight travel together, also to workers that prefetch.

    Attributes
    ----------
    row : int
    weight : float
    """

    row: int
    weight: float


class WeightedDataset:
    """A map-style data set whose samples come as (index, weight, sample).

    Parameters
    ----------
    dataset : map-style data set
        Its ``__getitems__`` is used where it has one, and its ``state_dict``, by loaders that save it.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of examples of the data set."""
        return len(self.dataset)

    def __getitem__(self, drawn: WeightedIndex) -> tuple[int, np.float32, Any]:
        """Return one sample; the weight is of float32, as a Python float would be collated to float64."""
        return self.__getitems__([drawn])[0]

    def __getitems__(self, drawn: Sequence[WeightedIndex]) -> list[tuple[int, np.float32, Any]]:
        """Return the samples of a batch."""
        if not all(isinstance(each, WeightedIndex) for each in drawn):
            raise TypeError(
                f"A wrapped data set was asked for {drawn[0]!r}, which carries no weight: give the loader "
                f"the sampler too, {REMEDY}."
            )
        rows = [each.row for each in drawn]
        fetch = getattr(self.dataset, "__getitems__", None)
        samples = [self.dataset[row] for row in rows] if fetch is None else fetch(rows)
        return [
            (each.row, np.float32(each.weight), sample) for each, sample in zip(drawn, samples, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the data set, empty if it has none."""
        return self.dataset.state_dict() if hasattr(self.dataset, "state_dict") else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the data set, if it has any.

        Parameters
        ----------
        state : dict
        """
        if hasattr(self.dataset, "load_state_dict"):
            self.dataset.load_state_dict(state)


class WeightedCollate:
    """A ``collate_fn`` of one's own for batches of (index, weight, sample).

    Parameters
    ----------
    collate_fn : callable
        Takes a list of samples, as without the sampler.

    Examples
    --------
    >>> import torch
    >>> from nwsketch.training import WeightedCollate
    >>> collate = WeightedCollate(lambda texts: " ".join(texts))
    >>> collate([(3, 0.5, "a"), (7, 2.0, "b")])
    (tensor([3, 7]), tensor([0.5000, 2.0000]), 'a b')
    """

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, batch: Sequence[tuple[int, Any, Any]]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Return (index int64, weight float32, what ``collate_fn`` makes of the samples)."""
        indices, weights, samples = zip(*batch, strict=True)
        return (
            torch.tensor(indices, dtype=torch.int64),
            torch.tensor(np.array(weights, dtype=np.float32)),
            self.collate_fn(list(samples)),
        )
