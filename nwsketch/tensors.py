"""PyTorch tensors beside NumPy arrays, without importing PyTorch: who has a tensor has imported it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def is_tensor(values: Any) -> bool:
    """Return whether ``values`` is a PyTorch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def to_host(values: Any) -> Any:
    """Return a tensor as an array (float16 and bfloat16 as float32), anything else as it is."""
    if not is_tensor(values):
        return values
    values = values.detach()
    if values.is_floating_point() and values.element_size() < 4:
        values = values.float()
    return values.cpu().numpy()


def like(given: Any, values: Any) -> Any:
    """Return values as a tensor on the device of ``given`` if that is a tensor, else as an array."""
    if not is_tensor(given):
        return to_host(values)
    import torch

    return torch.as_tensor(values, device=given.device)


def joined(parts: list[Any], shape: tuple[int, ...]) -> Any:
    """Return arrays, or tensors, one after the other; zeros of ``shape`` if there are none."""
    if parts and is_tensor(parts[0]):
        import torch

        return torch.cat(parts)
    return np.concatenate(parts) if parts else np.zeros(shape)
