"""Processes that train together: one draw for all, shards of it, and evidence that all share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed


class Ranks:
    """The processes of a job, as the sampler talks to them.

    Messages are of the host, over a gloo group of their own, so that they cannot mix with those of the model.
    Making it is a collective call: every process of ``torch.distributed`` has to.

    Attributes
    ----------
    rank : int
        Number of this process; number 0 draws for all.
    size : int
        Number of processes.

    Raises
    ------
    RuntimeError
        If ``torch.distributed`` is not initialised.
    """

    def __init__(self) -> None:
        if not is_distributed():
            raise RuntimeError(
                "torch.distributed is not initialised: call torch.distributed.init_process_group first, or "
                "give ranks=None to train in one process."
            )
        self._group = distributed.new_group(backend="gloo")
        self.rank: int = distributed.get_rank(self._group)
        self.size: int = distributed.get_world_size(self._group)

    def broadcast(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return what process 0 gave.

        Parameters
        ----------
        array : ndarray
            Of the same shape and dtype in every process.
        """
        tensor = torch.from_numpy(np.array(array))
        distributed.broadcast(tensor, 0, group=self._group)
        return tensor.numpy()

    def add_up(self, *arrays: NDArray[Any]) -> None:
        """Replace arrays by their sums over all processes, in place.

        Parameters
        ----------
        *arrays : ndarray
            Of the same shapes and dtypes in every process.
        """
        for array in arrays:
            distributed.all_reduce(torch.from_numpy(array), group=self._group)

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Join arrays of all processes along their last axis, one item of each in turn.

        So what the processes report of their shards comes in the order of the draw.

        Parameters
        ----------
        array : ndarray
            The lengths of the last axis may differ.
        """
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, array, group=self._group)
        turns = np.concatenate([np.arange(part.shape[-1]) for part in parts])
        return np.concatenate(parts, axis=-1)[..., np.argsort(turns, kind="stable")]


def is_distributed() -> bool:
    """Return whether this process is one of several of ``torch.distributed``."""
    ready = distributed.is_available() and distributed.is_initialized()
    return ready and distributed.get_world_size() > 1
