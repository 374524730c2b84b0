"""What a sampler drew in an epoch, example by example: numbers for pictures and tests of one's own."""

from __future__ import annotations

from typing import NamedTuple

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
