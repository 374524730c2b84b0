"""What the sketch checks of tensors at its border: as :mod:`nwsketch.inputs`, waiting for a GPU once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nwsketch.inputs import as_float, check_largest_sum, check_least_weight, not_finite
from nwsketch.tensors import is_tensor

#: Values of X looked at together, to bound the memory of temporary copies.
CHUNK_SIZE = 2**26


def as_rows(X: Tensor, n_features: int) -> Tensor:
    """Return rows as float32 or float64, without gradients; float16 and bfloat16 as float32."""
    if X.device.type not in ("cpu", "cuda"):
        raise ValueError(f"X is on device {str(X.device)!r}: give a tensor on 'cpu' or 'cuda'.")
    if X.ndim != 2 or X.shape[1] != n_features:
        raise ValueError(
            f"X has shape {tuple(X.shape)}, but this sketch has n_features={n_features}: give rows of that "
            f"width, (n_samples, {n_features})."
        )
    return _as_real("X", X)


def as_targets(y: Any, X: Tensor, n_outputs: int) -> Tensor:
    """Return targets as (n_rows, n_outputs), float64, where the rows are."""
    targets = _as_real("y", _beside("y", y, X)).double()
    flat = targets.reshape(-1, 1) if targets.ndim == 1 else targets
    if flat.shape != (len(X), n_outputs):
        raise ValueError(
            f"y has shape {tuple(targets.shape)}, but X has {len(X)} rows and the sketch {n_outputs} "
            f"outputs: give y as ({len(X)}, {n_outputs})."
        )
    return flat


def as_weights(sample_weight: Any, X: Tensor) -> Tensor:
    """Return one weight per row, float64, where the rows are."""
    weights = _as_real("sample_weight", _beside("sample_weight", sample_weight, X)).double()
    if weights.shape != (len(X),):
        raise ValueError(
            f"sample_weight has shape {tuple(weights.shape)}: give one weight per row, ({len(X)},)."
        )
    return weights


def _beside(name: str, values: Any, X: Tensor) -> Tensor:
    """Return an array as a tensor where X is; a tensor must be there."""
    if not is_tensor(values):
        array = as_float(name, values)
        return torch.as_tensor(array if array.flags.writeable else array.copy(), device=X.device)
    if values.device != X.device:
        raise ValueError(
            f"X is on {X.device}, but {name} on {values.device}: give {name}.to({str(X.device)!r})."
        )
    return values


def _as_real(name: str, values: Tensor) -> Tensor:
    if values.layout != torch.strided:
        raise ValueError(
            f"{name} is a tensor of layout {values.layout}: give a dense one, {name}.to_dense(), or a SciPy "
            "matrix in CSR."
        )
    if values.is_complex():
        raise ValueError(f"{name} has dtype {values.dtype}: give real numbers.")
    values = values.detach()
    if values.dtype in (torch.float32, torch.float64):
        return values
    return values.float() if values.is_floating_point() else values.double()


def check_values(X: Tensor, y: Tensor | None, weights: Tensor | None, weight_before: Any = 0.0) -> float:
    """Refuse values that are not finite, negative weights, and sums that could overflow.

    Parameters
    ----------
    X : Tensor of shape (n_rows, n_features)
    y : Tensor of shape (n_rows, n_outputs), or None
    weights : Tensor of shape (n_rows,), or None
    weight_before : float or Tensor of shape ()
        Weight that the sketch has learnt.

    Returns
    -------
    float
        The largest magnitude in X. All that is asked of the device is asked at once.
    """
    if X.numel() == 0:
        return 0.0
    none = X.new_zeros((), dtype=torch.float64)
    asked = [
        largest_magnitude(X).double(),
        none if y is None else largest_magnitude(y),
        none if weights is None else weights.min(),
        none if weights is None else largest_magnitude(weights),
        none + len(X) if weights is None else weights.sum(),
        torch.as_tensor(weight_before, dtype=torch.float64).to(X.device),
    ]
    row, target, least, largest, weight, before = torch.stack(asked).tolist()
    for name, magnitude in (("X", row), ("y", target)):
        if not math.isfinite(magnitude):
            raise not_finite(name)
    check_least_weight(least, math.isfinite(largest))
    if y is not None:
        check_largest_sum(target, before + weight)
    return row


def largest_magnitude(values: Tensor, dim: int | None = None) -> Tensor:
    """Return the largest magnitude, NaN if there is one, without a copy of the values."""
    least, largest = torch.aminmax(values, dim=dim)
    return torch.maximum(-least, largest)


def moments(X: Tensor, shares: Tensor) -> tuple[NDArray[np.float64], ...]:
    """Return the largest magnitude of every feature, and its weighted mean and variance in units of that."""
    largest = largest_magnitude(X, dim=0).double()
    unit = torch.where(largest > 0, largest, 1.0)
    step = max(CHUNK_SIZE // X.shape[1], 1)
    chunks = [slice(start, start + step) for start in range(0, len(X), step)]
    means, variances = torch.zeros_like(unit), torch.zeros_like(unit)
    for rows in chunks:
        means += shares[rows] @ (X[rows] / unit)
    for rows in chunks:
        variances += shares[rows] @ (X[rows] / unit - means) ** 2
    return tuple(each.cpu().numpy() for each in (largest, means, variances))
