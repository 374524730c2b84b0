"""What the training loop hands over, checked: arrays, or tensors of any device, without importing torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwsketch.tensors import is_tensor, to_host


def as_index(index: Any, n_rows: int) -> NDArray[np.int64]:
    """Return the indices of a batch, a copy, each within [0, n_rows)."""
    rows = np.array(to_host(index))
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(
            f"index has shape {rows.shape} and dtype {rows.dtype}: give the first part of a batch "
            "(index, weight, sample)."
        )
    if rows.size and not (rows.min() >= 0 and rows.max() < n_rows):
        raise ValueError(f"index runs from {rows.min()} to {rows.max()}, but there are {n_rows} examples.")
    return rows.astype(np.int64)


def check_losses(losses: Any, n_rows: int) -> None:
    """Refuse anything but one number for each of ``n_rows`` examples. Looks at the shape alone."""
    shape = tuple(np.shape(losses) if not is_tensor(losses) else losses.shape)
    if shape == ():
        raise ValueError(
            "losses is a single number, as if reduced already: give one loss per example (reduction='none') "
            "and take the mean of weight * loss yourself."
        )
    if shape != (n_rows,):
        raise ValueError(
            f"losses has shape {shape}, but {n_rows} examples were named: give one number per example, "
            f"({n_rows},); reduce losses per token or pixel to one first."
        )


def as_losses(losses: Any) -> NDArray[np.float64]:
    """Return checked losses as float64, a copy."""
    values = np.asarray(to_host(losses))
    if values.dtype.kind not in "fiub":
        raise ValueError(f"losses has dtype {values.dtype}: give real numbers.")
    return np.array(values, dtype=np.float64)


def check_factor(name: str, value: float) -> None:
    """Refuse factors outside (0, 1]."""
    if not 0 < value <= 1:
        raise ValueError(f"{name}={value!r} is out of range: give a number within (0, 1].")
