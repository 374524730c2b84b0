"""From the points of runs to times, targets, and differences with their intervals."""

import numpy as np
from scipy import stats

from trials.evaluation import RISING


def curve(record, metric, clock="seconds"):
    """Return times and values of the evaluations that recorded a metric."""
    points = [point for point in record["points"] if metric in point]
    return np.array([point[clock] for point in points]), np.array([point[metric] for point in points])


def target_of(finals, metric):
    """Return the mean final metric of the uniform arm, less (for a loss: plus) one standard deviation."""
    spread = float(np.std(finals, ddof=1)) if len(finals) > 1 else 0.0
    return float(np.mean(finals)) + (-spread if metric in RISING else spread)


def time_to(times, values, target, metric):
    """Return when an evaluation first showed the target; NaN if none did."""
    hits = np.flatnonzero(values >= target if metric in RISING else values <= target)
    return float(times[hits[0]]) if len(hits) else float("nan")


def value_at(times, values, moment):
    """Return what the last evaluation up to a moment showed; NaN if there was none."""
    done = np.flatnonzero(times <= moment)
    return float(values[done[-1]]) if len(done) else float("nan")


def interval(values):
    """Return mean and half-width of its 95 per cent interval by Student's t; NaN of fewer than two."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return (float(values[0]) if len(values) else float("nan")), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def speed_up(ours, theirs):
    """Return how many times sooner we reached the target, from paired times.

    The geometric mean of the ratios of the pairs of which both reached it, with the ends of its 95 per cent
    interval by Student's t on logarithms, and the number of those pairs. To be read with the misses: a run
    that never arrives is in no ratio.

    Parameters
    ----------
    ours, theirs : array-like of shape (n_seeds,)
        NaN for a miss.

    Returns
    -------
    ratio, low, high : float
    n_pairs : int
    """
    ratios = np.log(np.asarray(theirs, dtype=float) / np.asarray(ours, dtype=float))
    ratios = ratios[np.isfinite(ratios)]
    mean, half = interval(ratios)
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half)), len(ratios)
