"""States that ``torch.save`` writes and ``torch.load`` reads without unpickling code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def as_tensors(state: Any) -> Any:
    """Copy a nested dict, with every array as a tensor."""
    if isinstance(state, dict):
        return {name: as_tensors(value) for name, value in state.items()}
    return torch.from_numpy(state.copy()) if isinstance(state, np.ndarray) else state


def as_arrays(state: Any) -> Any:
    """Copy a nested dict, with every tensor as an array."""
    if isinstance(state, dict):
        return {name: as_arrays(value) for name, value in state.items()}
    return state.cpu().numpy().copy() if isinstance(state, torch.Tensor) else state
