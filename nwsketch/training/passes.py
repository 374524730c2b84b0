"""A sampler as the loaders of other libraries should see it: theirs to iterate, not to replace or to save."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from nwsketch.training.dataset import WeightedIndex
from nwsketch.training.sampler import SketchSampler


class Passes(DistributedSampler[WeightedIndex]):
    """The passes of a :class:`~nwsketch.training.SketchSampler`, one after the other.

    Its base class tells Lightning that the processes share the draw already, so that it is not replaced. Its
    empty state tells torchdata to save nothing with every batch, and to skip nothing when it resumes: the
    state of the sampler is saved by who knows which losses were reported.

    Parameters
    ----------
    sampler : SketchSampler

    Attributes
    ----------
    sampler : SketchSampler
    goes_on : bool
        Whether a new iterator goes on with an epoch that is not over, rather than begin the next one.
    """

    def __init__(self, sampler: SketchSampler) -> None:
        self.sampler = sampler
        self.goes_on = False

    def __iter__(self) -> Iterator[WeightedIndex]:
        """Begin an epoch once the first example is asked for: loaders make more iterators than they use."""
        if self.goes_on:
            self.sampler.resume_epoch()
        yield from self.sampler

    def __len__(self) -> int:
        """Return the number of examples of a pass."""
        return len(self.sampler)

    def drop_remainder(self, loader: DataLoader[Any]) -> None:
        """Take the present epoch for over if a loader leaves out what remains of it.

        Parameters
        ----------
        loader : DataLoader
        """
        if loader.drop_last and self.sampler.remaining < (loader.batch_size or 1):
            self.sampler.finish_epoch()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing to be saved."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing.

        Parameters
        ----------
        state : dict
        """
