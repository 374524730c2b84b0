"""The compiled piece of the aggregation: serial, without checks, GIL released.

One pass over the sums, each row and group by itself: a prediction of one row costs a microsecond or two,
where as many NumPy calls as the arithmetic takes would cost thirty.
"""

import math

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def divide(
    sums,  # in   (n_rows, n_groups, n_channels) float64: over the repetitions of a group; weights last
    squares,  # in   (n_rows, n_groups) float64: sums of squared counts, in units of unit; else not read
    totals,  # in   (n_rows or 1, n_channels) float64: over all rows
    n_repetitions,  # in a group
    n_buckets,  # float64: that share the totals by chance; infinity if every code has its own
    unit,  # float64
    n_errors,  # standard errors that a count must exceed
    tolerance,  # a count up to here is empty
    ratios,  # out  (n_rows, n_groups, n_channels - 1) float64: NaN where the count is empty
):
    last = sums.shape[2] - 1
    for i in range(sums.shape[0]):
        total = totals[min(i, totals.shape[0] - 1)]
        for g in range(sums.shape[1]):
            count = sums[i, g, last] / n_repetitions
            threshold = tolerance
            if n_buckets < np.inf:
                variance = max(squares[i, g] / n_repetitions - (count * unit) ** 2, 0.0)
                error = math.sqrt(variance / max(n_repetitions - 1, 1)) / unit
                error = max(error, total[last] / (n_buckets * math.sqrt(n_repetitions)))
                threshold = max(n_errors * error, tolerance)
            excess = count - total[last] / n_buckets
            for c in range(last):
                above = sums[i, g, c] / n_repetitions - total[c] / n_buckets
                ratios[i, g, c] = above / excess if excess > threshold else np.nan
