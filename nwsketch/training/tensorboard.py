"""A sampler's metrics in TensorBoard (the extra ``tensorboard``, which PyTorch's ``SummaryWriter`` needs)."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

from nwsketch.training.report import split_metrics


def log_metrics(writer: Any, metrics: Any, step: int, prefix: str = "sampler") -> None:
    """Write the metrics of a sampler: numbers as scalars, and how it drew, and why, as texts.

    Parameters
    ----------
    writer : torch.utils.tensorboard.SummaryWriter
        Or whatever has ``add_scalar(name, number, step)`` and ``add_text(name, text, step)``.
    metrics : SketchSampler or dict
        A sampler at the end of an epoch, or what its ``metrics()`` returned there. NaN, where nothing is
        known, is left out.
    step : int
        The epoch, or the number of training steps.
    prefix : str, default="sampler"
        The group that the names come under.
    """
    known = metrics if isinstance(metrics, Mapping) else metrics.metrics()
    numbers, texts = split_metrics(known, prefix)
    for name, number in numbers.items():
        if not isnan(number):
            writer.add_scalar(name, number, step)
    for name, text in texts.items():
        writer.add_text(name, text, step)
