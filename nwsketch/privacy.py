"""Differential privacy: a sketch's tables with noise, so that no single row shows in what is published.

Adding or removing one row of weight at most 1 and of targets at most Y_j in magnitude changes one bucket in
each of R repetitions: its count by at most 1, its sum of target j by at most Y_j. In units of the grids below
the change is at most ``steps`` in every channel, and noise of scale ``steps * R * (1 + n_outputs) / epsilon``
in each makes the tables epsilon-differentially private. docs/privacy.md derives that and what follows:

- Sums are rounded to a grid, and the noise is a whole number of its steps (:mod:`nwsketch.discrete_noise`).
  Rounding adds at most one step to a change, which ``steps`` counts.
- Sums were rounded before, too, while they were added up in floating point: two sums that differ by one row
  may differ by more than it. The bound of that, for at most ``most_rows`` rows, is counted as well.
- Everything else that a sketch tells is made of the noisy tables: totals, number of rows, what is empty.
"""

from __future__ import annotations

import math
from fractions import Fraction
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwsketch.backends import State
from nwsketch.backends.aggregation import RELATIVE_TOLERANCE
from nwsketch.backends.base import Array
from nwsketch.discrete_noise import BLOCK_SIZE, LARGEST_SCALE, discrete_laplace
from nwsketch.inputs import as_float
from nwsketch.tensors import like

#: Rows that a sketch may have learnt and forgotten, if nothing else is said: what sums in floating point may
#: be off by enlarges the noise by 1.6 per cent then.
MOST_ROWS = 2**23
#: A bound on a target is 2^10 to 2^11 steps of its grid: rounding enlarges the noise by 0.1 per cent at most.
STEPS_PER_BOUND = 2**10
#: Bounds on targets within these are far from where floating-point numbers end.
LEAST_BOUND, LARGEST_BOUND = 1e-250, 1e250
#: Standard deviations of its noise that a count must exceed to count as rows: a ratio of two numbers that are
#: hardly more than noise says less than the mean of all targets (tests/benchmarks/privacy.py).
NOISE_ERRORS = 3.0
#: What sums may exceed by rounding before they are said to break a bound.
SLACK = 1e-6


class Privacy(NamedTuple):
    """What a sketch with noise promises.

    Attributes
    ----------
    epsilon : float
        Of one added or removed row.
    target_bound : ndarray of shape (n_outputs,)
        What the targets were promised not to exceed in magnitude; no answer does.
    noise : ndarray of shape (n_outputs + 1,)
        Standard deviation of the noise in one cell of every channel, weights last.
    """

    epsilon: float
    target_bound: Array
    noise: Array

    def within_bounds(self, answers: Any, empty: str | float) -> Any:
        """Clip answers to the bounds, except where they are the number that stands for no rows.

        Where it is the mean of all targets that stands for none, and noise drowns even their total weight,
        the answer is 0, the middle of the bounds.
        """
        bound = like(answers, self.target_bound)
        clipped = answers.clip(-bound, bound)
        if empty == "mean":
            clipped[clipped != clipped] = 0.0
        elif empty != "nan":
            clipped[answers == float(empty)] = float(empty)
        return clipped


class Grid(NamedTuple):
    """Where noise is added, channel by channel.

    Attributes
    ----------
    widths : ndarray of shape (n_channels,)
        Powers of two.
    steps : tuple of n_channels ints
        By how many widths one row moves a cell, at most.
    scales : tuple of n_channels ints
        Scale of the noise, in widths.
    """

    widths: Array
    steps: tuple[int, ...]
    scales: tuple[int, ...]


def check_epsilon(epsilon: Any) -> float:
    """Return a positive, finite number."""
    if not isinstance(epsilon, Real) or isinstance(epsilon, bool) or not 0 < float(epsilon) < math.inf:
        raise ValueError(f"epsilon={epsilon!r} is out of range: give a positive, finite number.")
    return float(epsilon)


def check_target_bound(target_bound: ArrayLike, n_outputs: int) -> Array:
    """Return one bound per output: (n_outputs,)."""
    bounds = as_float("target_bound", target_bound)
    if bounds.ndim and bounds.shape != (n_outputs,):
        raise ValueError(
            f"target_bound has shape {bounds.shape}: give one number, or one per output, ({n_outputs},)."
        )
    wrong = ~((bounds >= LEAST_BOUND) & (bounds <= LARGEST_BOUND))
    if wrong.any():
        raise ValueError(
            f"target_bound holds {bounds[wrong].flat[0]}: give what no target exceeds in magnitude, within "
            f"[{LEAST_BOUND:g}, {LARGEST_BOUND:g}]."
        )
    return np.array(np.broadcast_to(bounds, n_outputs))


def make_grid(bounds: Array, epsilon: float, n_repetitions: int, most_rows: int) -> Grid:
    """Choose grids, and the noise on them.

    Parameters
    ----------
    bounds : ndarray of shape (n_channels,)
        Most that one row adds to a cell; 1 for the weights, which come last.
    epsilon : float
    n_repetitions : int
    most_rows : int
        Most rows that were ever learnt or forgotten.

    Returns
    -------
    Grid

    Raises
    ------
    ValueError
        If the noise would be too large to be drawn.
    """
    exponents = np.frexp(bounds / STEPS_PER_BOUND)[1] - 1
    widths = np.ldexp(1.0, exponents)
    # Two sums of at most most_rows numbers, in any order: each operation rounds by 2^-53 of at most that many
    # bounds, in each of the two.
    rounding = Fraction(most_rows**2, 2**52)
    steps, scales = [], []
    for bound, width in zip(bounds, widths, strict=True):
        change = Fraction(float(bound)) * (1 + rounding) / Fraction(float(width))
        steps.append(math.floor(change) + 1)
        scales.append(math.ceil(steps[-1] * n_repetitions * len(bounds) / Fraction(epsilon)))
    if max(scales) > LARGEST_SCALE:
        raise ValueError(
            f"epsilon={epsilon!r} is too small: with n_repetitions={n_repetitions} and most_rows={most_rows} "
            "the noise would drown everything. Give a larger epsilon or a smaller most_rows, or fit with "
            "fewer repetitions."
        )
    return Grid(widths, tuple(steps), tuple(scales))


def on_grid(tables: Array, grid: Grid, channel: int) -> NDArray[np.int64]:
    """Return one channel of the tables as integers: rounded sums, in widths of the grid."""
    return np.rint(tables[..., channel] / grid.widths[channel]).astype(np.int64)


def standard_deviation(scale: int) -> float:
    """Return that of the discrete Laplace distribution."""
    return math.sqrt(0.5) / math.sinh(0.5 / scale)


def require_within_bounds(state: State, bounds: Array, most_rows: int) -> None:
    """Refuse a sketch whose sums show that a promise about its rows does not hold.

    That they do not show it is no proof: a row beyond its bounds may hide among others.
    """
    if state.n_rows > most_rows:
        raise ValueError(
            f"The sketch has learnt {state.n_rows} rows, more than most_rows={most_rows}: give a number that "
            "no data set of this kind exceeds."
        )
    if state.channel_totals[-1] > state.n_rows * (1 + SLACK):
        raise ValueError(
            f"{state.n_rows} rows weigh {state.channel_totals[-1]:.6g}, so that some weigh more than 1: "
            "divide sample_weight by its largest possible value."
        )
    counts = state.tables[..., -1]
    for output, bound in enumerate(bounds[:-1]):
        beyond = np.abs(state.tables[..., output]) > bound * (counts + SLACK * max(state.n_rows, 1))
        if beyond.any():
            raise ValueError(
                f"A bucket holds targets of output {output} beyond target_bound={bound:g}: clip y to the "
                "bound before learning it, or give a bound that every possible target keeps."
            )


def privatized(
    state: State,
    epsilon: float,
    target_bound: Array,
    *,
    n_groups: int,
    most_rows: int,
) -> tuple[State, Privacy]:
    """Return tables with noise, and all else made of them.

    Parameters
    ----------
    state : State
        On the host; not changed.
    epsilon : float
    target_bound : ndarray of shape (n_outputs,)
    n_groups : int
        Groups of repetitions whose answers are formed apart.
    most_rows : int
        Most rows that were ever learnt or forgotten.

    Returns
    -------
    state : State
        The number of rows is the noisy total weight, rounded, and 0 if that is negative. If noise drowns
        it, the total of the targets is 0, so that their mean is the middle of the bounds. The "weight ever
        added", which tells how little weight counts as none, is such that a count within
        :data:`NOISE_ERRORS` standard deviations of its noise does.
    privacy : Privacy

    Raises
    ------
    ValueError
        If the sums show that a row is beyond its bounds, or the noise would be too large to be drawn.
    """
    bounds = np.append(target_bound, 1.0)
    require_within_bounds(state, bounds, most_rows)
    n_repetitions = len(state.tables)
    grid = make_grid(bounds, epsilon, n_repetitions, most_rows)
    tables = np.empty_like(state.tables)
    step = max(BLOCK_SIZE // tables.shape[1], 1)
    for start in range(0, n_repetitions, step):
        block = slice(start, start + step)
        for channel, scale in enumerate(grid.scales):
            cells = on_grid(state.tables[block], grid, channel)
            cells += discrete_laplace(cells.size, scale).reshape(cells.shape)
            tables[block, :, channel] = cells * grid.widths[channel]
    noise = np.array([standard_deviation(scale) for scale in grid.scales]) * grid.widths
    sums = tables.sum(axis=1).mean(axis=0)
    weight = max(float(sums[-1]), 0.0)
    if weight <= NOISE_ERRORS * float(noise[-1]) * math.sqrt(tables.shape[1] / n_repetitions):
        sums[:-1] = 0.0
    drowned = NOISE_ERRORS * float(noise[-1]) * math.sqrt(n_groups / n_repetitions)
    totals = np.array([*sums, max(weight, drowned / RELATIVE_TOLERANCE), round(weight)])
    return State(tables, totals), Privacy(epsilon, target_bound, noise)


def require_sums_alone(*, bandwidth: bool, trend: bool, uncertainty: bool, half_life: bool) -> None:
    """Raise ValueError if an estimator learnt from the rows what noise on its sums does not hide."""
    if half_life:
        raise ValueError(
            "With a half-life every row changes the weights of all rows before it, beyond what noise hides. "
            "Fit with half_life=None."
        )
    remedies = {
        "a bandwidth": (bandwidth, "a numeric bandwidth, chosen without looking at these rows"),
        "a trend": (trend, "trend=None"),
        "squares of the targets": (uncertainty, "uncertainty=False"),
    }
    for learnt, (is_so, remedy) in remedies.items():
        if is_so:
            raise ValueError(
                f"This estimator learnt {learnt} from its rows, which noise on its tables would not protect: "
                f"fit with {remedy}."
            )


def require_exact(privacy: Privacy | None, operation: str) -> None:
    """Raise ValueError if a sketch holds noise, and rows cannot be added to it or taken away."""
    if privacy is not None:
        raise ValueError(
            f"{operation} needs a sketch without noise, and this one was privatized: rows added to it would "
            "not be protected. Work on the original and privatize that again, which spends epsilon again; or "
            "privatize a sketch of the new rows alone and merge the two."
        )


def merged(mine: Privacy | None, theirs: Privacy | None) -> Privacy | None:
    """Return what the sum of two sketches promises, whose rows are not the same.

    Raises
    ------
    ValueError
        If one of them has noise and the other has none.
    """
    if mine is None or theirs is None:
        if mine is not theirs:
            raise ValueError(
                "Cannot merge a privatized sketch with one that is not: the rows of the latter would not be "
                "protected. Privatize both."
            )
        return None
    return Privacy(
        max(mine.epsilon, theirs.epsilon),
        np.maximum(mine.target_bound, theirs.target_bound),
        np.hypot(mine.noise, theirs.noise),
    )
