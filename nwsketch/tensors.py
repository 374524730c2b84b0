"""PyTorch tensors beside NumPy arrays, without importing PyTorch: who has a tensor has imported it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

Method = TypeVar("Method", bound=Callable[..., Any])


def uncompiled(method: Method) -> Method:
    """Let a caller's ``torch.compile`` step over a method, which learns and checks as no graph could."""

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None or not torch.compiler.is_compiling():
            return method(*arguments, **options)
        return torch.compiler.disable(method)(*arguments, **options)

    return cast(Method, call)


def is_tensor(values: Any) -> bool:
    """Return whether ``values`` is a PyTorch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def to_host(values: Any) -> Any:
    """Return a tensor as an array (float16 and bfloat16 as float32), anything else as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(values, torch.Tensor):
        return values
    if values.layout is not torch.strided:
        raise ValueError(
            f"A tensor of layout {values.layout} is not taken: give a dense one, .to_dense(), or a SciPy "
            "matrix in CSR."
        )
    if values.is_meta:
        raise ValueError("A tensor on device meta holds no values: give one on 'cpu' or 'cuda'.")
    if values.is_floating_point() and values.element_size() < 4:
        values = values.float()
    return values.numpy(force=True)


def like(given: Any, values: Any) -> Any:
    """Return values as a tensor on the device of ``given`` if that is a tensor, else as an array."""
    if not is_tensor(given):
        return to_host(values)
    import torch

    if isinstance(values, np.ndarray) and not values.flags.writeable:
        values = values.copy()  # of memory that is mapped from a file, say: a tensor could be written to
    return torch.as_tensor(values, device=given.device)


def joined(parts: list[Any], shape: tuple[int, ...]) -> Any:
    """Return arrays, or tensors, one after the other; zeros of ``shape`` if there are none."""
    if parts and is_tensor(parts[0]):
        import torch

        return torch.cat(parts)
    return np.concatenate(parts) if parts else np.zeros(shape)
