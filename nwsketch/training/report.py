"""What a sampler tells of an epoch: its draw, example by example, and its metrics for those who log them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class EpochReport(NamedTuple):
    """The draw of one epoch, and the losses that came of it; of several processes, of this one.

    Attributes
    ----------
    rows : ndarray of shape (n_drawn,), int64
        Examples drawn, in their order.
    weights : ndarray of shape (n_drawn,), float64
        The weights that they came with.
    labels : ndarray of shape (n_drawn,), int64, or None
        Their classes, numbered in ascending order; None if the sampler knows none.
    class_sizes : ndarray of shape (n_classes,), int64, or None
        Number of examples of every class in the whole data set.
    predicted : ndarray of shape (n_seen,), float64
        Losses that were expected before they were seen; NaN where nothing was known.
    losses : ndarray of shape (n_seen,), float64
        Losses then reported, in the order of the reports; those that were not finite are left out.
    """

    rows: NDArray[np.int64]
    weights: Array
    labels: NDArray[np.int64] | None
    class_sizes: NDArray[np.int64] | None
    predicted: Array
    losses: Array


def split_metrics(metrics: Mapping[str, Any], prefix: str) -> tuple[dict[str, float], dict[str, str]]:
    """Return numbers and texts apart, as loggers want them.

    Parameters
    ----------
    metrics : mapping
        What ``metrics()`` returned.
    prefix : str
        Put before every name, with a slash.

    Returns
    -------
    numbers : dict of str to float
        NaN where nothing is known.
    texts : dict of str to str

    Examples
    --------
    >>> split_metrics({"mode": "sampled", "largest_weight": 2}, "sampler")
    ({'sampler/largest_weight': 2.0}, {'sampler/mode': 'sampled'})
    """
    texts = {f"{prefix}/{name}": value for name, value in metrics.items() if isinstance(value, str)}
    numbers = {f"{prefix}/{name}": float(v) for name, v in metrics.items() if not isinstance(v, str)}
    return numbers, texts
