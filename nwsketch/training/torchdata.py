"""torchdata's loader that saves its state, with a sampler that counts losses (the extra ``torchdata``)."""

from __future__ import annotations

from typing import Any

try:
    from torchdata.stateful_dataloader import StatefulDataLoader
except ImportError as error:
    raise ImportError(
        'nwsketch.training.torchdata needs torchdata: pip install "nwsketch[torchdata]"'
    ) from error

from nwsketch.training import SketchSampler
from nwsketch.training.passes import Passes


class SketchDataLoader(StatefulDataLoader):
    """A ``StatefulDataLoader`` whose state holds that of its sampler, after the last ``sampler.update``.

    The loader by itself would save the sampler with every batch that is prefetched, before the losses of
    those under way are known, and a resumed run would draw others.

    Parameters
    ----------
    dataset : WeightedDataset
        ``sampler.wrap(dataset)``.
    sampler : SketchSampler
    **options : dict
        Of ``StatefulDataLoader``, except for those that replace the sampler.

    Raises
    ------
    TypeError
        If the sampler is another one.
    ValueError
        If ``snapshot_every_n_steps`` is not 1, its default.

    Examples
    --------
    >>> import torch
    >>> from nwsketch.training import SketchSampler
    >>> from nwsketch.training.torchdata import SketchDataLoader
    >>> x = torch.randn(1000, 5)
    >>> sampler = SketchSampler(x, num_samples=500, seed=0)
    >>> loader = SketchDataLoader(sampler.wrap(x), sampler=sampler, batch_size=100)
    >>> for n_batches, (index, weight, rows) in enumerate(loader, 1):
    ...     sampler.update(index, rows.square().sum(1))
    ...     if n_batches == 2:
    ...         break
    >>> state = loader.state_dict()
    >>> loader.load_state_dict(state)  # or, in another process, that of a loader made as this one was
    >>> len(list(loader))
    3
    """

    def __init__(self, dataset: Any, *, sampler: SketchSampler, **options: Any) -> None:
        if not isinstance(sampler, SketchSampler):
            raise TypeError(
                f"sampler is a {type(sampler).__name__}: give a SketchSampler, or others to torchdata's own "
                "StatefulDataLoader."
            )
        steps = options.get("snapshot_every_n_steps", 1)
        if steps != 1:
            raise ValueError(
                f"snapshot_every_n_steps={steps!r} would resume after older batches than those whose losses "
                "the sampler knows: leave it at 1. Only state_dict() saves the sampler, not every step."
            )
        super().__init__(dataset, sampler=Passes(sampler), **options)

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to go on: to be called after ``sampler.update``, between two batches.

        Returns
        -------
        dict
            Of tensors, numbers and strings, unless the data set adds something else.
        """
        self.sampler.drop_remainder(self)
        return {"loader": super().state_dict(), "sampler": self.sampler.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state; the next pass goes on where it was left, in the middle of an epoch too.

        Parameters
        ----------
        state : dict
            Of a loader with the same options, and a sampler made with the same arguments.

        Raises
        ------
        ValueError
            If the sampler's state is of another one.
        """
        self.sampler.sampler.load_state_dict(state["sampler"])
        # An epoch that is over is not gone through once more: the sampler knows, and begins the next one.
        super().load_state_dict(state["loader"] | {"_iterator_finished": False})
