"""What makes a corrected sketch better: other corrections, kernels, windows, bandwidths, features, sizes.

The study behind docs/smoothness.md and nwsketch/correction.py. Every variant differs in one thing from
variant (a): random binning, 512 repetitions of 2,048 buckets, backfitting with a ridge that halves from round
to round, as the estimator does it. How it is measured, alike for every variant:

- At most 8,000 training rows and 3,000 test rows, drawn by the seed, standardised; features are divided by
  the bandwidths that ``learn_proportions`` finds on the training rows, once per set and seed for each
  distance (all kernels of the city-block distance share theirs, "l2" has those of its own distance).
- The overall factor (powers of two), the rounds and whatever else a variant leaves open are chosen by R2 on a
  fifth of the training rows, the same for all variants; then it learns all training rows.
- R2 is that of the test rows, the mean over the seeds. The difference to (a) is the mean over sets; beside
  it stands its standard error as the seeds tell it. "other hashes" shows what chance does.
- "CPU" is the processor time of one fit with what was chosen, hashing included, in units of (a)'s, sums
  over all sets; a ratio below 0.9 or above 1.1 means something. "MB" are the tables.

    python tests/benchmarks/smoothness.py --data-dir DIR --results FILE   # all of it: 15 minutes; resumes
    python tests/benchmarks/smoothness.py --smoke                         # made-up data, 10 s: does it run?
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from accuracy import print_row, read_results, with_progress
from defaults import SETS, load
from numba import njit
from sklearn.datasets import make_friedman1
from sklearn.metrics import r2_score
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from nwsketch.backends import get_backend
from nwsketch.bandwidth import scale_bandwidth
from nwsketch.correction import HELD_OUT, MOST_ROUNDS, PATIENCE, ridges
from nwsketch.hashing import HashParameters, RandomBinning
from nwsketch.proportions import learn_proportions
from nwsketch.sketch import NadarayaWatsonSketch
from nwsketch.trend import fit_trend

STUDY_SETS = ("elevators", "california_housing", "protein", "kin40k", "bike_hourly")
SMOKE_SET = "friedman1"
MOST_TRAIN_ROWS, MOST_TEST_ROWS = 8_000, 3_000
N_BUCKETS = 2_048
#: Furthest that a search for the factor goes from its start, in binary logarithms.
REACH = 8
CONSTANT_RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)
NORMALISED_RIDGES = (0.0001, 0.001, 0.01, 0.1)
TWICING_ROUNDS, GRADIENT_ROUNDS, GRADIENT_PATIENCE = 10, 100, 5
#: Most rounds of backfitting where it is given more than the estimator allows.
MANY_ROUNDS = 24
#: Kernel masses, in rows, at which a back-off trusts the narrow buckets.
MASSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
N_LEVELS = 4
#: Windows on random binning, and the largest ones, are tried with at most so many features.
MOST_WINDOWED_FEATURES = 8


# -- rows ---------------------------------------------------------------------------------------


class Data:
    """One split of a set; its rows in units of learnt bandwidths."""

    def __init__(self, folder, name, seed, n_repetitions):
        if name == SMOKE_SET:
            X, y = make_friedman1(n_samples=900, n_features=6, noise=1.0, random_state=seed)
            X, y, X_test, y_test = X[:600], y[:600], X[600:], y[600:]
        else:
            X, y, X_test, y_test = load(folder, name, seed, MOST_TRAIN_ROWS, MOST_TEST_ROWS)
        self.seed, self.n_repetitions = seed, n_repetitions
        self._X, self._X_test, self.y_test = X, X_test, (y_test - y.mean()) / y.std()
        self.y = (y - y.mean()) / y.std()
        n_held_out = int(len(y) * HELD_OUT)  # as choose_rounds holds them out
        self.held_out = np.random.default_rng(seed).permutation(len(y))[:n_held_out]
        self.learnt = np.ones(len(y))
        self.learnt[self.held_out] = 0.0
        self._scaled = {}

    def rows(self, distance="cityblock", output=None):
        """Return training and test rows, divided by learnt bandwidths after an optional transform."""
        if (distance, output) not in self._scaled:
            X, X_test = self._X, self._X_test
            if output is not None:
                transform = QuantileTransformer(
                    n_quantiles=min(1000, len(X)), output_distribution=output, random_state=self.seed
                ).fit(X)
                scaler = StandardScaler().fit(transform.transform(X))
                X, X_test = (scaler.transform(transform.transform(rows)) for rows in (X, X_test))
            start = scale_bandwidth(X, None, distance)
            targets = self.y[:, np.newaxis]
            found = learn_proportions(X, targets, None, start, distance=distance, random_state=self.seed)
            self._scaled[distance, output] = X / found.bandwidth, X_test / found.bandwidth
        return self._scaled[distance, output]

    @cached_property
    def n_features(self):
        return self._X.shape[1]

    def held_out_r2(self, predictions):
        return r2_score(self.y[self.held_out], predictions)


@dataclass(frozen=True)
class Outcome:
    """R2 on test rows, CPU seconds of the fit, bytes of the tables, and what was chosen."""

    r2: float
    seconds: float
    n_bytes: int
    chosen: dict


@dataclass(frozen=True)
class Variant:
    """One line of the table.

    Parameters
    ----------
    run : callable
        Takes a :class:`Data`, returns an :class:`Outcome`.
    kept : str
        What became of it, see docs/smoothness.md.
    most_features : int or None
        Sets with more features are left out.
    """

    run: Callable
    kept: str
    most_features: int | None = None


def climb(judge, start):
    """Return exponent and choice of the best score; ``judge(exponent)`` returns a score and a choice."""
    tried = {start + step: judge(start + step) for step in (-1, 0, 1)}
    while True:
        best = max(tried, key=lambda exponent: tried[exponent][0])
        if best not in (min(tried), max(tried)) or abs(best - start) >= REACH:
            return best, tried[best][1]
        further = best - 1 if best == min(tried) else best + 1
        tried[further] = judge(further)


def make_sketch(data, exponent, seed=None, **parameters):
    """Return an empty sketch of the study's size, unless the parameters say otherwise."""
    defaults = {"n_repetitions": data.n_repetitions, "n_buckets": N_BUCKETS, "n_jobs": 1}
    parameters = defaults | parameters
    seed = data.seed if seed is None else seed
    return NadarayaWatsonSketch(data.n_features, bandwidth=2.0**exponent, random_state=seed, **parameters)


# -- what the estimator itself can do -------------------------------------------------------------


def corrected(
    data,
    *,
    start=2,
    distance="cityblock",
    output=None,
    trend=False,
    more_repetitions=1,
    seed=None,
    **parameters,
):
    """Backfitting as the estimator does it, with other parameters, hashes, features or targets."""
    X, X_test = data.rows(distance, output)
    y = data.y[:, np.newaxis]
    parameters["n_repetitions"] = int(data.n_repetitions * more_repetitions)
    learnt_trend = fit_trend(X, y, None) if trend else None
    left = y if learnt_trend is None else y - learnt_trend.predict(X)

    def judge(exponent):
        rounds = make_sketch(data, exponent, **parameters).choose_rounds(X, left)
        return rounds.score, rounds.n_rounds

    exponent, n_rounds = climb(judge, start)
    begin = time.process_time()
    # With another seed choose_rounds would hold out other rows: let only the hashes of the fit differ.
    sketch = make_sketch(data, exponent, seed, **parameters).correct(X, left, n_rounds=n_rounds)
    seconds = time.process_time() - begin
    predictions = sketch.query(X_test)
    if learnt_trend is not None:
        predictions += learnt_trend.predict(X_test)
    chosen = {"exponent": exponent, "n_rounds": n_rounds}
    return Outcome(r2_score(data.y_test, predictions), seconds, sketch.tables.nbytes, chosen)


def projected(data, *, hashes, **parameters):
    """The kernel "l2": as many hashes per repetition, started at about the reach of the laplacian kernel."""
    start = round(np.log2(4 * hashes / np.sqrt(data.n_features)))
    return corrected(
        data, start=start, distance="euclidean", kernel="l2", hashes_per_repetition=hashes, **parameters
    )


def plain(data, *, more_repetitions=1):
    """The sketch without correction."""
    n_repetitions = data.n_repetitions * more_repetitions
    X, X_test = data.rows()
    train = data.learnt > 0

    def judge(exponent):
        sketch = make_sketch(data, exponent, n_repetitions=n_repetitions).update(X[train], data.y[train])
        return data.held_out_r2(sketch.query(X[data.held_out])), None

    exponent, _ = climb(judge, 1)
    begin = time.process_time()
    sketch = make_sketch(data, exponent, n_repetitions=n_repetitions).update(X, data.y)
    seconds = time.process_time() - begin
    r2 = r2_score(data.y_test, sketch.query(X_test))
    return Outcome(r2, seconds, sketch.tables.nbytes, {"exponent": exponent})


# -- several bandwidths -----------------------------------------------------------------------------


class ChangedBinning(RandomBinning):
    """Random binning whose scales are multiplied by what ``change(rng, shape)`` draws; for dense rows."""

    def __init__(self, change, offset=1.0):
        self._change, self._offset = change, offset

    def draw(self, rng, n_features, n_repetitions, hashes_per_repetition, bandwidth):
        arrays = super().draw(rng, n_features, n_repetitions, hashes_per_repetition, bandwidth).arrays
        scales = arrays["scales"] * self._change(rng, arrays["scales"].shape)
        offsets = arrays["offsets"] * self._offset
        return HashParameters("grid", {"scales": scales, "offsets": offsets}, cells_per_hash=n_features)


def mix(rng, shape):
    """Repetitions at 1/2, 1/sqrt(2), ... 2 times the bandwidth in turn."""
    return np.resize(2.0 ** np.linspace(1, -1, 5), shape[1])


def wide_first(rng, shape):
    """The same, sorted: every round goes from the widest repetition to the narrowest."""
    return 2.0 ** np.linspace(-1, 1, shape[1])


def heavy_tails(rng, shape):
    """Every width of every grid times a log-normal number."""
    return np.exp(rng.standard_normal(shape))


def half_of_the_features(rng, shape):
    """Every repetition looks at about half of the features."""
    return np.where(rng.random(shape) < 0.5, 1.0, 1e-9)


def backing_off(data, *, gradually):
    """Plain sketches of nested grids; those of wide cells answer where those of narrow ones cannot.

    At once: the narrowest level at which the kernel mass of a query exceeds a threshold answers. Gradually:
    every level counts the answer of the next wider one as that many rows.
    """
    X, X_test = data.rows()
    train = data.learnt > 0

    def make_levels(exponent, X, y):
        # An offset uniform in the widest cell, the same at each level: cells of a level are pairs of cells of
        # the level before.
        families = [
            ChangedBinning(lambda rng, shape: 1.0, offset=2.0 ** (N_LEVELS - 1 - level))
            for level in range(N_LEVELS)
        ]
        return [
            make_sketch(data, exponent + level, kernel=family).update(X, y)
            for level, family in enumerate(families)
        ]

    def combine(sums, mass, mean):
        answer = np.full(len(sums[0]), mean)
        for targets, counts in (level.T for level in reversed(sums)):
            if gradually:
                counts = np.maximum(counts, 0.0)
                answer = (targets + mass * answer) / (counts + mass)
            else:
                answer = np.where(counts > mass, targets / np.where(counts > mass, counts, 1.0), answer)
        return answer

    def judge(exponent):
        levels = make_levels(exponent, X[train], data.y[train])
        sums = [level.channel_sums(X[data.held_out]) for level in levels]
        mean = data.y[train].mean()
        return max((data.held_out_r2(combine(sums, mass, mean)), mass) for mass in MASSES)

    exponent, mass = climb(judge, 0)
    begin = time.process_time()
    levels = make_levels(exponent, X, data.y)
    seconds = time.process_time() - begin
    predictions = combine([level.channel_sums(X_test) for level in levels], mass, data.y.mean())
    n_bytes = sum(level.tables.nbytes for level in levels)
    r2 = r2_score(data.y_test, predictions)
    return Outcome(r2, seconds, n_bytes, {"exponent": exponent, "mass": mass})


# -- other solvers, on the codes of the same hashes ---------------------------------------------------
#
# A solver is a generator: it takes codes (n_repetitions, n_rows), windows of the same shape or None, targets,
# weights (1 for rows to learn, 0 for others) and an option; it yields predictions of all rows, after every
# round.


@njit(nogil=True, cache=True)
def apply_kernel(codes, values, table, out):
    """Set ``out`` to the sketched kernel matrix times ``values``."""
    out[:] = 0.0
    for r in range(codes.shape[0]):
        row_codes = codes[r]
        table[:] = 0.0
        for i in range(row_codes.size):
            table[row_codes[i]] += values[i]
        for i in range(row_codes.size):
            out[i] += table[row_codes[i]]
    out /= codes.shape[0]


@njit(nogil=True, cache=True)
def windowed_round(codes, windows, weights, ridge, residuals, shares, sums, squares):
    """Refit every table to the residuals, as the estimator does; a row counts as much as its window."""
    n_repetitions = codes.shape[0]
    for r in range(n_repetitions):
        row_codes, row_windows, share = codes[r], windows[r], shares[r]
        sums[:] = 0.0
        squares[:] = 0.0
        for i in range(row_codes.size):
            value = weights[i] * row_windows[i]
            sums[row_codes[i]] += value * residuals[i]
            squares[row_codes[i]] += value * row_windows[i]
        for b in range(share.size):
            if squares[b] > 0.0:
                new = (sums[b] + squares[b] * share[b]) / (squares[b] + ridge * n_repetitions)
                sums[b] = new - share[b]
                share[b] = new
        for i in range(row_codes.size):
            residuals[i] -= row_windows[i] * sums[row_codes[i]]


def centred(y, weights):
    """Return the mean of the learnt targets and their deviations from it, 0 for other rows."""
    mean = y @ weights / weights.sum()
    return mean, (y - mean) * weights


def twicing(codes, windows, y, weights, option):
    """Smooth the residuals by D^-1 K again and again."""
    table, smooth, degrees = np.empty(N_BUCKETS), np.empty(len(y)), np.empty(len(y))
    mean, left = centred(y, weights)
    apply_kernel(codes, weights, table, degrees)
    predictions = np.zeros(len(y))
    degrees = np.where(degrees > 0, degrees, 1.0)
    for _ in range(TWICING_ROUNDS):
        apply_kernel(codes, left, table, smooth)
        predictions += smooth / degrees
        left -= weights * smooth / degrees
        yield mean + predictions


def conjugate_gradients(codes, windows, y, weights, ridge, *, normalised):
    """Solve (A + ridge I) u = b; A = K and b = y, or A = D^-1/2 K D^-1/2 and b = D^1/2 y."""
    table, product, degrees = np.empty(N_BUCKETS), np.empty(len(y)), np.ones(len(y))
    if normalised:
        apply_kernel(codes, weights, table, degrees)
        degrees = np.where(degrees > 0, degrees, 1.0)
    roots = np.sqrt(degrees)
    mean, left = centred(y, weights)
    left *= roots
    direction, predictions = left.copy(), np.zeros(len(y))
    for _ in range(GRADIENT_ROUNDS):
        apply_kernel(codes, direction / roots, table, product)
        squares = left @ left
        images = weights * product / roots + ridge * direction
        step = squares / (direction @ images)
        predictions += step * product
        left -= step * images
        direction = left + (left @ left / squares) * direction
        yield mean + predictions / degrees


def constant_backfitting(codes, windows, y, weights, ridge):
    """The estimator's backfitting, its ridge not halved from round to round."""
    return windowed_backfitting(codes, windows, y, weights, sequence=[ridge] * MOST_ROUNDS)


def windowed_backfitting(codes, windows, y, weights, option=None, *, sequence=None):
    """The estimator's backfitting, rows and queries weighted by their windows."""
    windows = np.ones(codes.shape, dtype=np.float32) if windows is None else windows
    shares = np.zeros((len(codes), N_BUCKETS))
    sums, squares = np.empty(N_BUCKETS), np.empty(N_BUCKETS)
    mean = y @ weights / weights.sum()
    residuals = y - mean
    for ridge in ridges(MOST_ROUNDS) if sequence is None else sequence:
        windowed_round(codes, windows, weights, ridge, residuals, shares, sums, squares)
        yield y - residuals


def cosine_windows(plan, X):
    """Return the product of sqrt(2) cos(pi u) over the cells of a row, u the distance to a cell's middle."""
    windows = np.empty((plan.n_repetitions, len(X)), dtype=np.float32)
    for start in range(0, len(X), 500):
        rows = X[start : start + 500]
        if plan.form == "grid":
            positions = rows[:, :, np.newaxis] * plan.arrays["scales"] + plan.arrays["offsets"]
            factors = np.sqrt(2) * np.sin(np.pi * (positions - np.floor(positions)))
            windows[:, start : start + 500] = factors.prod(axis=1).T
        else:
            positions = rows @ plan.arrays["directions"] + plan.arrays["offsets"]
            factors = np.sqrt(2) * np.sin(np.pi * (positions - np.floor(positions)))
            by_repetition = factors.reshape(len(rows), plan.n_repetitions, -1)
            windows[:, start : start + 500] = by_repetition.prod(axis=2).T
    return windows


def hashed(plan, X, windowed):
    """Return the codes of the rows, and their windows if asked for."""
    codes = get_backend("numba", None, plan).codes(X, 1).astype(np.uint16)
    return codes, cosine_windows(plan, X) if windowed else None


def solved(
    data,
    solver,
    options=(None,),
    *,
    patience=PATIENCE,
    windowed=False,
    start=2,
    distance="cityblock",
    **parameters,
):
    """Correct by a solver of the study; choose factor, option and rounds."""
    X, X_test = data.rows(distance)

    def judge(exponent):
        codes, windows = hashed(make_sketch(data, exponent, **parameters).plan, X, windowed)
        best = (-np.inf, None)
        for option in options:
            of_option = -np.inf
            since = 0
            path = solver(codes, windows, data.y, data.learnt, option)
            for n_rounds, predictions in enumerate(path, start=1):
                score = data.held_out_r2(predictions[data.held_out])
                best = max(best, (score, (option, n_rounds)), key=lambda pair: pair[0])
                since = 0 if score > of_option else since + 1
                of_option = max(of_option, score)
                if since > patience:
                    break
        return best

    def run(plan, X, y, weights):
        rounds = solver(*hashed(plan, X, windowed), y, weights, option)
        for _ in range(n_rounds):
            predictions = next(rounds)
        return predictions

    exponent, (option, n_rounds) = climb(judge, start)
    sketch = make_sketch(data, exponent, **parameters)
    begin = time.process_time()
    run(sketch.plan, X, data.y, np.ones(len(X)))
    seconds = time.process_time() - begin
    is_learnt = np.repeat([1.0, 0.0], [len(X), len(X_test)])
    y = np.concatenate([data.y, np.zeros(len(X_test))])
    predictions = run(sketch.plan, np.vstack([X, X_test]), y, is_learnt)[len(X) :]
    chosen = {"exponent": exponent, "option": option, "n_rounds": n_rounds}
    return Outcome(r2_score(data.y_test, predictions), seconds, sketch.tables.nbytes, chosen)


def windowed_projections(data, *, hashes, more_repetitions=1):
    """Weighted LSH: "l2" with cosine windows; wider, as a window reaches less far than its cell."""
    return solved(
        data,
        windowed_backfitting,
        windowed=True,
        start=round(np.log2(8 * hashes / np.sqrt(data.n_features))),
        distance="euclidean",
        kernel="l2",
        hashes_per_repetition=hashes,
        n_repetitions=data.n_repetitions * more_repetitions,
    )


# -- the table --------------------------------------------------------------------------------------

BASE = "(a) as it is"
VARIANTS = {
    BASE: Variant(corrected, "yes"),
    "(a) other hashes": Variant(lambda data: corrected(data, seed=data.seed + 1000), ""),
    "(b) no correction": Variant(plain, "option"),
    "(b) no correction, 2048 repetitions": Variant(partial(plain, more_repetitions=4), "option"),
    "(b) twicing, 10 rounds": Variant(partial(solved, solver=twicing, patience=TWICING_ROUNDS), "no"),
    "(b) conjugate gradients, D^-1/2 K D^-1/2": Variant(
        partial(
            solved,
            solver=partial(conjugate_gradients, normalised=True),
            options=NORMALISED_RIDGES,
            patience=GRADIENT_PATIENCE,
        ),
        "no",
    ),
    "(b) conjugate gradients, K": Variant(
        partial(
            solved,
            solver=partial(conjugate_gradients, normalised=False),
            options=CONSTANT_RIDGES,
            patience=GRADIENT_PATIENCE,
        ),
        "no",
    ),
    "(b) backfitting, constant ridge": Variant(
        partial(solved, solver=constant_backfitting, options=CONSTANT_RIDGES), "no"
    ),
    "(b) backfitting, more rounds": Variant(
        partial(solved, solver=partial(windowed_backfitting, sequence=[*ridges(MANY_ROUNDS)])), "no"
    ),
    "(c) l2, 1 hash": Variant(partial(projected, hashes=1), "option"),
    "(c) l2, 4 hashes": Variant(partial(projected, hashes=4), "option"),
    "(c) l2, 8 hashes": Variant(partial(projected, hashes=8), "option"),
    "(c) l2, 16 hashes": Variant(partial(projected, hashes=16), "option"),
    "(c) l2, 8 hashes, 1024 repetitions": Variant(partial(projected, hashes=8, more_repetitions=2), "option"),
    "(c) l2, 8 hashes, 2048 repetitions": Variant(partial(projected, hashes=8, more_repetitions=4), "option"),
    "(c) laplacian, 2 hashes": Variant(partial(corrected, start=3, hashes_per_repetition=2), "option"),
    "(c) laplacian, 4 hashes": Variant(partial(corrected, start=4, hashes_per_repetition=4), "option"),
    "(d) window, l2, 4 hashes": Variant(partial(windowed_projections, hashes=4), "no"),
    "(d) window, l2, 8 hashes": Variant(partial(windowed_projections, hashes=8), "no"),
    "(d) window, l2, 8 hashes, 1024 repetitions": Variant(
        partial(windowed_projections, hashes=8, more_repetitions=2), "no"
    ),
    "(d) window, l2, 8 hashes, 2048 repetitions": Variant(
        partial(windowed_projections, hashes=8, more_repetitions=4), "no", MOST_WINDOWED_FEATURES
    ),
    "(d) window, laplacian": Variant(
        partial(solved, solver=windowed_backfitting, windowed=True, start=3), "no", MOST_WINDOWED_FEATURES
    ),
    "(e) bandwidths x 1/2 to 2, mixed": Variant(partial(corrected, kernel=ChangedBinning(mix)), "no"),
    "(e) bandwidths x 1/2 to 2, wide first": Variant(
        partial(corrected, kernel=ChangedBinning(wide_first)), "no"
    ),
    "(e) heavy-tailed widths": Variant(partial(corrected, kernel=ChangedBinning(heavy_tails)), "no"),
    "(e) half of the features each": Variant(
        partial(corrected, start=1, kernel=ChangedBinning(half_of_the_features)), "no"
    ),
    "(e) back-off at once, no correction": Variant(partial(backing_off, gradually=False), "no"),
    "(e) back-off gradually, no correction": Variant(partial(backing_off, gradually=True), "no"),
    "(f) quantile transform, normal": Variant(partial(corrected, output="normal"), "no"),
    "(f) quantile transform, uniform": Variant(partial(corrected, output="uniform"), "no"),
    "(g) 256 repetitions": Variant(partial(corrected, more_repetitions=0.5), "option"),
    "(g) 1024 repetitions": Variant(partial(corrected, more_repetitions=2), "option"),
    "(g) 2048 repetitions": Variant(partial(corrected, more_repetitions=4), "option"),
    "(h) 1024 buckets": Variant(partial(corrected, n_buckets=1024), "option"),
    "(h) 4096 buckets": Variant(partial(corrected, n_buckets=4096), "option"),
    "(h) 8192 buckets": Variant(partial(corrected, n_buckets=8192), "option"),
    "(h) 16384 buckets": Variant(partial(corrected, n_buckets=16384), "option"),
    "(i) linear trend": Variant(partial(corrected, trend=True), "option"),
}


def run_study(folder, names, variants, n_seeds, n_repetitions, file):
    """Measure what ``file`` does not hold yet; return all records, each written as soon as it is known."""
    records = read_results(file) if file else []
    done = {(record["seed"], record["set"], record["variant"]) for record in records}
    keys = [(seed, name, variant) for seed in range(n_seeds) for name in names for variant in variants]
    loaded, data = None, None
    for seed, name, variant in with_progress([key for key in keys if key not in done]):
        if loaded != (seed, name):
            loaded, data = (seed, name), Data(folder, name, seed, n_repetitions)
        most = VARIANTS[variant].most_features
        if most is not None and data.n_features > most:
            continue
        record = {"set": name, "variant": variant, "seed": seed}
        record |= vars(VARIANTS[variant].run(data))
        records.append(record)
        if file:
            with open(file, "a") as lines:
                lines.write(json.dumps(record) + "\n")
    return records


def print_table(records):
    """Print the table in Markdown."""
    names = [name for name in (*SETS, SMOKE_SET) if any(record["set"] == name for record in records)]
    print_row(["variant", *names, "difference to (a)", "CPU", "MB", "kept"])
    print_row(["---", *["--:"] * (len(names) + 3), "---"])
    found = {(record["variant"], record["set"], record["seed"]): record for record in records}
    for variant in VARIANTS:
        mine = [record for record in records if record["variant"] == variant]
        if not mine:
            continue
        pairs = [(record, found.get((BASE, record["set"], record["seed"]))) for record in mine]
        pairs = [(record, base) for record, base in pairs if base is not None]
        gains = {name: [r["r2"] - b["r2"] for r, b in pairs if r["set"] == name] for name in names}
        gains = {name: values for name, values in gains.items() if values}
        scores = [[record["r2"] for record in mine if record["set"] == name] for name in names]
        cells = [f"{np.mean(values):.3f}" if values else "" for values in scores]
        difference, ratio = "", ""
        if pairs and variant != BASE:
            difference = f"{np.mean([np.mean(values) for values in gains.values()]):+.3f}"
            if min(len(values) for values in gains.values()) > 1:
                squares = [np.var(values, ddof=1) / len(values) for values in gains.values()]
                difference += f" ± {np.sqrt(np.sum(squares)) / len(gains):.3f}"
        if pairs:
            ratio = sum(r["seconds"] for r, _ in pairs) / sum(b["seconds"] for _, b in pairs)
            ratio = f"{ratio:.1f}"
        mega = f"{mine[0]['n_bytes'] / 1e6:.1f}"
        print_row([variant, *cells, difference, ratio, mega, VARIANTS[variant].kept])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NWSKETCH_DATA"))
    parser.add_argument("--results", type=Path, help="file of JSON lines to go on with")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=STUDY_SETS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds")
    parser.add_argument("--smoke", action="store_true", help="made-up data, one seed, 32 repetitions")
    options = parser.parse_args()
    n_repetitions = 512
    if options.smoke:
        options.sets, options.seeds, n_repetitions = [SMOKE_SET], 1, 32
    elif not options.data_dir:
        parser.error("name the folder of the real data sets by --data-dir or NWSKETCH_DATA")
    folder = options.data_dir and Path(options.data_dir)
    with threadpool_limits(1):
        records = run_study(
            folder, options.sets, options.variants, options.seeds, n_repetitions, options.results
        )
    print_table(records)


if __name__ == "__main__":
    main()
