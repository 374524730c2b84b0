"""The compiled piece of the aggregation: serial, without checks, GIL released.

One pass over the sums, each row and group by itself: a prediction of one row costs a microsecond or two,
where as many NumPy calls as the arithmetic takes would cost thirty. What it takes is divisions and roots.
"""

import math

import numpy as np
from numba import njit

_1, _2 = np.uint64(1), np.uint64(2)


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
    if last == 1 and totals.shape[0] == 1:
        _divide_alike(sums, squares, totals[0], n_repetitions, n_buckets, unit, n_errors, tolerance, ratios)
        return
    for i in range(sums.shape[0]):
        total = totals[min(i, totals.shape[0] - 1)]
        least_error = _error_by_chance(total[last], n_buckets, n_repetitions)
        for g in range(sums.shape[1]):
            count, threshold = sums[i, g, last] / n_repetitions, tolerance
            if n_buckets < np.inf:
                error = _error(count, squares[i, g], n_repetitions, unit, least_error)
                threshold = _larger(n_errors * error, tolerance)
            excess = count - total[last] / n_buckets
            for c in range(last):
                above = sums[i, g, c] / n_repetitions - total[c] / n_buckets
                ratios[i, g, c] = above / excess if excess > threshold else np.nan


@njit(nogil=True, cache=True, error_model="numpy")
def _divide_alike(sums, squares, total, n_repetitions, n_buckets, unit, n_errors, tolerance, ratios):
    # One target, the same totals for all rows: one loop without a branch, which LLVM makes vector code of, in
    # about an eighth of the time that two targets take above (tests/benchmarks/kernels.py).
    pairs, flat_squares, flat = sums.reshape(-1), squares.reshape(-1), ratios.reshape(-1)
    least_error = _error_by_chance(total[1], n_buckets, n_repetitions)
    target, weight, rehashed = total[0] / n_buckets, total[1] / n_buckets, n_buckets < np.inf
    for i in range(np.uint64(flat.size)):
        count, threshold = pairs[_2 * i + _1] / n_repetitions, tolerance
        if rehashed:
            error = _error(count, flat_squares[i], n_repetitions, unit, least_error)
            threshold = _larger(n_errors * error, tolerance)
        excess, above = count - weight, pairs[_2 * i] / n_repetitions - target
        ratio = above / excess
        flat[i] = ratio if excess > threshold else np.nan


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _error(count, squared, n_repetitions, unit, least):  # the standard error of a count
    variance = _larger(squared / n_repetitions - (count * unit) ** 2, 0.0)
    return _larger(math.sqrt(variance / _larger(n_repetitions - 1.0, 1.0)) / unit, least)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _error_by_chance(weight, n_buckets, n_repetitions):  # of a count whose rows are there by chance alone
    return weight / (n_buckets * math.sqrt(n_repetitions))


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _larger(one, other):  # max, unlike which it is not a branch
    return one if one > other else other
