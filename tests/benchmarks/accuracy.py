"""Accuracy on the 12 regression sets of the data folder: the sketch beside its rivals, all tuned alike.

How it is measured, alike for every arm:

- Split: 80/20 at random by seed, except for blogfeedback, which has a split of its own (later posts);
  gas_turbine_nox is split within its training years, as its test years are a shift on which every kernel
  method fails. At most 4,000 test rows, drawn at random. blogfeedback is predicted as log1p(y), as its
  counts are heavy-tailed; the run times of sgemm_gpu are logarithms as they are stored.
- Features and targets are standardised by the training part (so KernelRidge needs no intercept).
- Tuning: a configuration is fitted on training rows and scored by R2 on others: a fifth of the training
  part, at most 1,500 rows, the same for every arm. One after the other, until ``--budget`` CPU seconds are
  spent (what was begun is ended, so the first always counts) or none is left. The best is fitted once more
  on all training rows that the arm can stand. Test rows play no part in it.
- A trial learns from at most 2,500 rows for KernelRidge, from all for k nearest neighbours, from at
  most 10,000 for the others.
  KernelRidge, whose memory grows with the square of the rows and whose time with the cube, learns from
  10,000 rows in the end, exact Nadaraya-Watson from 30,000, all others from all.
- Seconds are those of all processors together (``time.process_time``), so that other work on the machine
  counts little; code is compiled before the clock starts. Threads of BLAS and OpenMP that wait for each
  other count too: on a machine that does other work, ``--threads 1`` is fair. "MB" is the size of the
  pickled model, without the standardisation.

    python tests/benchmarks/accuracy.py --data-dir DIR --results FILE   # all of it: hours; resumes
    python tests/benchmarks/accuracy.py --table FILE                    # Markdown tables of what is there
    python tests/benchmarks/accuracy.py --smoke                         # made-up data, seconds: does it run?
"""

import argparse
import itertools
import json
import os
import pickle
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numba
import numpy as np
from defaults import SETS, load
from scipy import stats
from scipy.linalg import LinAlgWarning
from sklearn.datasets import make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from nwsketch import KernelBandwidthScaler, NadarayaWatsonRegressor, NadarayaWatsonSketchRegressor

MOST_TEST_ROWS = 4_000
MOST_HELD_OUT = 1_500
MOST_TUNING_ROWS = 10_000
SMOKE_SET = "friedman1"
GAMMAS = tuple(2.0**k for k in range(-9, 6))  # times 1 / n_features
ALPHAS = tuple(10.0**k for k in range(-6, 2))


@dataclass(frozen=True)
class Context:
    """What an estimator may depend on besides its configuration."""

    seed: int
    n_threads: int
    n_features: int
    budget: float


class Grid:
    """A grid, walked from a sensible start: first in wide steps, then around the best so far.

    Parameters
    ----------
    start : dict
        The configuration tried first.
    strides : dict
        Steps between the points tried first, for each axis that is walked in wide steps; the others stay
        at the start at first.
    **axes : tuple
        The values of every parameter, in order: neighbours should do alike.
    """

    def __init__(self, start, strides, **axes):
        self.names, self.axes = tuple(axes), tuple(axes.values())
        self.start = tuple(axes[name].index(start[name]) for name in axes)
        self.strides = tuple(strides.get(name) for name in axes)

    def propose(self, trials, rng):
        """Return the next configuration, or None if all were tried; ``trials`` are pairs with their R2."""
        points = list(itertools.product(*(range(len(axis)) for axis in self.axes)))
        scores = {self._point(configuration): score for configuration, score in trials}
        left = [points[i] for i in rng.permutation(len(points)) if points[i] not in scores]
        centre, coarse = self.start, [point for point in left if self._is_coarse(point)]
        if not coarse and scores:
            centre, coarse = max(scores, key=scores.get), left
        if not coarse:
            return None
        point = min(coarse, key=lambda point: sum(abs(i - j) for i, j in zip(point, centre, strict=True)))
        return {name: axis[i] for name, axis, i in zip(self.names, self.axes, point, strict=True)}

    def _point(self, configuration):
        return tuple(
            axis.index(configuration[name]) for name, axis in zip(self.names, self.axes, strict=True)
        )

    def _is_coarse(self, point):
        steps = zip(point, self.start, self.strides, strict=True)
        return all(i == j if stride is None else (i - j) % stride == 0 for i, j, stride in steps)


class RandomSearch:
    """A start, then random draws without end: ``draws`` maps parameters to functions of a generator."""

    def __init__(self, start, **draws):
        self.start, self.draws = start, draws

    def propose(self, trials, rng):
        """Return the next configuration."""
        return {name: draw(rng) for name, draw in self.draws.items()} if trials else self.start


class Series:
    """A few configurations, tried in the order given."""

    def __init__(self, *configurations):
        self.configurations = configurations

    def propose(self, trials, rng):
        """Return the next configuration, or None if all were tried."""
        return self.configurations[len(trials)] if len(trials) < len(self.configurations) else None


@dataclass(frozen=True)
class Arm:
    """One competitor.

    Parameters
    ----------
    make : callable
        Takes a :class:`Context` and, by keyword, a configuration; returns an unfitted regressor.
    search : object with ``propose(trials, rng)`` or None, default=None
        Where configurations come from. None: the arm has none, or tunes itself in ``fit``; there is no
        trial, and the tuning is part of the time of the fit.
    most_rows, most_tuning_rows : int or None, default=None
        Rows that the fit and a trial learn from at most; None means all.
    make_scales : callable or None, default=None
        Takes a :class:`Context`, returns an unfitted transformer. It learns from the rows of the fit (held
        out ones too, but no test row) before the trials, at the expense of their budget; they and the fit see
        transformed features.
    least_rows : int, default=0
        Sets with fewer rows are left out.
    final : callable
        Takes the number of rows; returns what the fit on all rows adds to the configuration.
    """

    make: Callable
    search: object = None
    most_rows: int | None = None
    most_tuning_rows: int | None = None
    make_scales: Callable | None = None
    least_rows: int = 0
    final: Callable = lambda n_rows: {}


def make_exact(context, bandwidth):
    return NadarayaWatsonRegressor(
        kernel="laplacian", bandwidth=bandwidth * context.n_features, n_jobs=context.n_threads
    )


def make_kernel_ridge(kernel):
    def make(context, gamma, alpha):
        return KernelRidge(kernel=kernel, gamma=gamma / context.n_features, alpha=alpha)

    return make


def make_nystroem(context, gamma, alpha):
    features = Nystroem(gamma=gamma / context.n_features, n_components=1000, random_state=context.seed)
    return make_pipeline(features, Ridge(alpha=alpha))


def make_fourier(context, gamma, alpha):
    features = RBFSampler(gamma=gamma / context.n_features, n_components=1000, random_state=context.seed)
    return make_pipeline(features, Ridge(alpha=alpha))


def make_boosting(context, **configuration):
    return HistGradientBoostingRegressor(
        max_iter=2000, early_stopping=True, n_iter_no_change=20, random_state=context.seed, **configuration
    )


def make_neighbours(context, **configuration):
    return KNeighborsRegressor(n_jobs=context.n_threads, **configuration)


class GrowingNystroem(Nystroem):
    """Nystroem features whose number grows once all rows are there: tuned fast, fitted long."""

    def fit(self, X, y=None):
        """Choose 1,000 landmarks from up to 10,000 rows, 3,000 from more."""
        self.n_components = 1000 if len(X) <= MOST_TUNING_ROWS else 3000
        return super().fit(X, y)


def make_growing_nystroem(context, gamma, alpha):
    features = GrowingNystroem(gamma=gamma / context.n_features, random_state=context.seed)
    return make_pipeline(features, Ridge(alpha=alpha))


def make_sketch(**parameters):
    """Return a function that makes a sketch with some parameters fixed, others from a configuration."""

    def make(context, kernel="laplacian", trend=None, **shape):
        return NadarayaWatsonSketchRegressor(
            kernel=kernel,
            hashes_per_repetition=8 if kernel == "l2" else 1,
            trend=trend,
            n_jobs=context.n_threads,
            random_state=context.seed,
            **parameters | shape,
        )

    return make


def many_repetitions(n_rows):
    """Return as many repetitions as fit 128 MiB of tables and, at so many rows, a minute."""
    shape = (16384, 512) if n_rows <= 40_000 else (8192, 1024)
    return dict(zip(("n_repetitions", "n_buckets"), shape, strict=True))


def make_scaler(distance):
    def make(context):
        return KernelBandwidthScaler(distance=distance, n_jobs=context.n_threads, random_state=context.seed)

    return make


def kernel_ridge_grid():
    start = {"gamma": 0.5, "alpha": 1e-2}
    return Grid(start, {"gamma": 3, "alpha": 3}, gamma=GAMMAS, alpha=ALPHAS)


def features_grid():
    start = {"gamma": 0.5, "alpha": 1e-2}
    return Grid(start, {"gamma": 3}, gamma=GAMMAS, alpha=ALPHAS)


ARMS = {
    "sketch, default": Arm(make_sketch()),
    "sketch, loo": Arm(make_sketch(bandwidth="loo")),
    "sketch, loo per feature": Arm(make_sketch(bandwidth="loo_per_feature")),
    "corrected, loo": Arm(make_sketch(bandwidth="loo", bias_correction="auto")),
    "corrected, loo per feature": Arm(make_sketch(bandwidth="loo_per_feature", bias_correction="auto")),
    "corrected, tuned, many repetitions": Arm(
        make_sketch(bandwidth="loo_per_feature", bias_correction="auto", n_buckets=1024),
        Series(
            {"kernel": "laplacian", "trend": None},
            {"kernel": "laplacian", "trend": "linear"},
            {"kernel": "l2", "trend": None},
            {"kernel": "l2", "trend": "linear"},
        ),
        most_tuning_rows=MOST_TUNING_ROWS,
        final=many_repetitions,
    ),
    "exact NW": Arm(
        make_exact,
        Grid(
            {"bandwidth": 2.0**-4}, {"bandwidth": 4}, bandwidth=tuple(2.0 ** (k / 2) for k in range(-20, 3))
        ),
        most_rows=30_000,
        most_tuning_rows=MOST_TUNING_ROWS,
    ),
    "KernelRidge rbf": Arm(
        make_kernel_ridge("rbf"), kernel_ridge_grid(), most_rows=10_000, most_tuning_rows=2_500
    ),
    "KernelRidge laplacian": Arm(
        make_kernel_ridge("laplacian"), kernel_ridge_grid(), most_rows=10_000, most_tuning_rows=2_500
    ),
    "KernelRidge rbf, our scales": Arm(
        make_kernel_ridge("rbf"),
        kernel_ridge_grid(),
        most_rows=10_000,
        most_tuning_rows=2_500,
        make_scales=make_scaler("euclidean"),
    ),
    "KernelRidge laplacian, our scales": Arm(
        make_kernel_ridge("laplacian"),
        kernel_ridge_grid(),
        most_rows=10_000,
        most_tuning_rows=2_500,
        make_scales=make_scaler("cityblock"),
    ),
    "Nystroem(3000) + Ridge": Arm(
        make_growing_nystroem, features_grid(), most_tuning_rows=MOST_TUNING_ROWS, least_rows=30_000
    ),
    "Nystroem(1000) + Ridge": Arm(make_nystroem, features_grid(), most_tuning_rows=MOST_TUNING_ROWS),
    "RBFSampler(1000) + Ridge": Arm(make_fourier, features_grid(), most_tuning_rows=MOST_TUNING_ROWS),
    "HistGradientBoosting": Arm(
        make_boosting,
        RandomSearch(
            {"learning_rate": 0.1, "max_leaf_nodes": 31, "min_samples_leaf": 20, "l2_regularization": 0.0},
            learning_rate=lambda rng: float(np.exp(rng.uniform(np.log(0.03), np.log(0.3)))),
            max_leaf_nodes=lambda rng: int(rng.choice((7, 15, 31, 63, 127, 255))),
            min_samples_leaf=lambda rng: int(rng.choice((3, 5, 10, 20, 40, 80))),
            l2_regularization=lambda rng: float(rng.choice((0.0, 0.1, 1.0, 10.0))),
            max_features=lambda rng: float(rng.choice((0.3, 0.5, 0.7, 1.0))),
        ),
        most_tuning_rows=MOST_TUNING_ROWS,
    ),
    "k nearest neighbours": Arm(
        make_neighbours,
        Grid(
            {"n_neighbors": 8, "weights": "distance", "p": 2},
            {"n_neighbors": 4},
            n_neighbors=(1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 45, 64, 90, 128),
            weights=("distance", "uniform"),
            p=(1, 2),
        ),
    ),
}


@dataclass(frozen=True)
class Split:
    """A set divided by a seed: rows to learn from, in random order, and rows to test on."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def load_split(folder, name, seed):
    """Read a set of the data folder, or make up that of ``--smoke``; standardise features and target."""
    if name == SMOKE_SET:
        X, y = make_friedman1(2000, noise=1.0, random_state=seed)
        X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=seed)
    else:
        X, y, X_test, y_test = load(folder, name, seed, most_test_rows=MOST_TEST_ROWS)
    if name == "blogfeedback":
        y, y_test = np.log1p(y), np.log1p(y_test)
    mean, deviation = y.mean(), y.std()
    return Split(X, (y - mean) / deviation, X_test, (y_test - mean) / deviation)


def timed(function, *arguments):
    """Return what ``function`` returns, and the CPU seconds that it took."""
    start = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - start


def tune(arm, X, y, context):
    """Return the arm's best configuration, its held-out R2, the number of trials and their CPU seconds.

    A configuration that fails, or whose predictions are not finite, counts as a trial and is not chosen.
    """
    rng = np.random.default_rng(context.seed)
    n_held_out = min(MOST_HELD_OUT, len(X) // 5)
    X_held_out, y_held_out = X[-n_held_out:], y[-n_held_out:]
    X, y = X[:-n_held_out][: arm.most_tuning_rows], y[:-n_held_out][: arm.most_tuning_rows]

    def score(configuration):
        try:
            predictions = arm.make(context, **configuration).fit(X, y).predict(X_held_out)
        except (ArithmeticError, np.linalg.LinAlgError):
            return -np.inf
        return r2_score(y_held_out, predictions) if np.isfinite(predictions).all() else -np.inf

    trials, seconds = [], 0.0
    while not trials or seconds < context.budget:
        configuration = arm.search.propose(trials, rng)
        if configuration is None:
            break
        value, trial_seconds = timed(score, configuration)
        trials.append((configuration, value))
        seconds += trial_seconds
    best, held_out_r2 = max(trials, key=lambda trial: trial[1])
    return best, held_out_r2, len(trials), seconds


def measure(arm, split, context):
    """Tune, fit and test an arm on one split; return the record of it."""
    warm_up(arm, split, context)
    X, y, scales, scale_seconds = split.X, split.y, None, 0.0
    if arm.make_scales is not None:
        learn = arm.make_scales(context).fit
        scales, scale_seconds = timed(learn, X[: arm.most_rows], y[: arm.most_rows])
        X = scales.transform(X)
    best, held_out_r2, n_trials, tune_seconds = {}, None, 0, 0.0
    if arm.search is not None:
        left = replace(context, budget=context.budget - scale_seconds)
        best, held_out_r2, n_trials, tune_seconds = tune(arm, X, y, left)
    X, y = X[: arm.most_rows], y[: arm.most_rows]
    model, fit_seconds = timed(arm.make(context, **best, **arm.final(len(X))).fit, X, y)

    def predict():
        return model.predict(split.X_test if scales is None else scales.transform(split.X_test))

    predictions, predict_seconds = timed(predict)
    return {
        "r2": r2_score(split.y_test, predictions),
        "held_out_r2": held_out_r2,
        "tune_s": tune_seconds + scale_seconds,
        "n_trials": n_trials,
        "fit_s": fit_seconds,
        "predict_s": predict_seconds * 1e4 / len(split.X_test),
        "bytes": len(pickle.dumps(model)) + (0 if scales is None else len(pickle.dumps(scales))),
        "n_rows": len(X),
        "chosen": best,
    }


def warm_up(arm, split, context):
    """Have code compiled and threads started before the clock is."""
    X, y = split.X[:200], split.y[:200]
    if arm.make_scales is not None:
        X = arm.make_scales(context).fit(X, y).transform(X)
    start = {} if arm.search is None else arm.search.propose([], np.random.default_rng(0))
    arm.make(context, **start).fit(X, y).predict(X)


def read_results(file):
    """Return the records of a results file; a last line cut off by an interrupt is left out."""
    records = []
    for line in Path(file).read_text().splitlines() if Path(file).exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def with_progress(keys):
    """Show a bar, where the output is a terminal and tqdm is installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return keys
    return tqdm(keys, unit=" fits", disable=None)


def run(folder, names, arms, n_seeds, budget, n_threads, file):
    """Measure what ``file`` does not hold yet, all sets for a seed before the next; return all records.

    Every record is written as soon as it is known, so that an interrupt costs one arm on one set.
    """
    records = read_results(file) if file else []
    if any((record["budget"], record["threads"]) != (budget, n_threads) for record in records):
        raise SystemExit(f"{file} has results for another --budget or --threads; give another file.")
    if file and file.exists() and not file.read_text().endswith("\n"):
        with open(file, "a") as lines:
            lines.write("\n")
    done = {(record["seed"], record["set"], record["arm"]) for record in records}
    wanted = [key for key in itertools.product(range(n_seeds), names, arms) if key not in done]
    loaded, split = None, None
    for seed, name, arm in with_progress(wanted):
        if loaded != (seed, name):
            loaded, split = (seed, name), load_split(folder, name, seed)
        if len(split.X) < ARMS[arm].least_rows:
            continue
        context = Context(seed, n_threads, split.X.shape[1], budget)
        record = {"set": name, "arm": arm, "seed": seed, "budget": budget, "threads": n_threads}
        record |= measure(ARMS[arm], split, context)
        records.append(record)
        if file:
            with open(file, "a") as lines:
                lines.write(json.dumps(record) + "\n")
    return records


def with_half_width(values):
    """Return the mean and the half-width of its 95 per cent interval by Student's t, as text."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def print_row(cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


OURS = "corrected, tuned, many repetitions"
RIVALS = {
    "KernelRidge": ("KernelRidge rbf", "KernelRidge laplacian"),
    "HistGradientBoosting": ("HistGradientBoosting",),
    "Nystroem": ("Nystroem(1000) + Ridge", "Nystroem(3000) + Ridge"),
    "exact NW": ("exact NW",),
    "k-NN": ("k nearest neighbours",),
}


def print_verdicts(records):
    """Print our best sketch's R2 less that of each rival (of several arms the better), by paired seeds."""
    found = {(record["set"], record["arm"], record["seed"]): record["r2"] for record in records}
    names = [name for name in SETS if (name, OURS, 0) in found]
    if not names:
        return
    print_row([f"{OURS}: R2 less that of", *RIVALS])
    print_row(["---", *["--:"] * len(RIVALS)])
    verdicts = {rival: [] for rival in RIVALS}
    for name in names:
        cells = [name]
        for rival, arms in RIVALS.items():
            seeds = [seed for seed in range(100) if (name, OURS, seed) in found]
            seeds = [seed for seed in seeds if (name, arms[0], seed) in found]
            arms = [arm for arm in arms if all((name, arm, seed) in found for seed in seeds)]
            scores = [[found[name, arm, seed] for seed in seeds] for arm in arms]
            if not seeds or not scores:
                cells.append("")
                continue
            gaps = np.array([found[name, OURS, seed] for seed in seeds]) - max(scores, key=np.mean)
            verdicts[rival].append(gaps.mean())
            cells.append(("+" if gaps.mean() >= 0 else "") + with_half_width(gaps))
        print_row(cells)
    print()
    for rival, gaps in verdicts.items():
        if gaps:
            print(
                f"At or above {rival} on {np.sum(np.array(gaps) >= 0)} of {len(gaps)} sets; furthest below: "
                f"{max(-min(gaps), 0):.3f}."
            )
    print()


def print_tables(records):
    """Print verdicts, R2 of all arms on all sets, then a table for every set; Markdown, means over seeds."""
    print_verdicts(records)
    names = [name for name in (*SETS, SMOKE_SET) if any(record["set"] == name for record in records)]
    arms = list(dict.fromkeys([*ARMS, *(record["arm"] for record in records)]))
    arms = [arm for arm in arms if any(record["arm"] == arm for record in records)]
    cells = {key: [] for key in itertools.product(names, arms)}
    for record in records:
        cells[record["set"], record["arm"]].append(record)
    print_row(["R2", *arms])
    print_row(["---", *["--:"] * len(arms)])
    for name in names:
        found = [[record["r2"] for record in cells[name, arm]] for arm in arms]
        print_row([name, *(f"{np.mean(values):.3f}" if values else "" for values in found)])
    columns = ("tune_s", "n_trials", "fit_s", "predict_s", "bytes", "n_rows")
    for name in names:
        print()
        print_row([name, "seeds", "R2", "tune s", "trials", "fit s", "predict s per 10^4", "MB", "rows"])
        print_row(["---", *["--:"] * (len(columns) + 2)])
        for arm in arms:
            found = cells[name, arm]
            if not found:
                continue
            means = {column: np.mean([record[column] for record in found]) for column in columns}
            times = (f"{means[column]:.2f}" for column in ("fit_s", "predict_s"))
            print_row(
                [
                    arm,
                    len(found),
                    with_half_width([record["r2"] for record in found]),
                    f"{means['tune_s']:.1f}",
                    f"{means['n_trials']:.0f}",
                    *times,
                    f"{means['bytes'] / 1e6:.1f}",
                    f"{means['n_rows']:,.0f}",
                ]
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NWSKETCH_DATA"))
    parser.add_argument("--results", type=Path, help="file of JSON lines to go on with")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a results file")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--budget", type=float, default=6, help="CPU seconds of tuning")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="made-up data, one seed, a second of tuning")
    options = parser.parse_args()
    if options.table:
        return print_tables(read_results(options.table))
    if options.smoke:
        options.sets, options.seeds, options.budget, options.threads = [SMOKE_SET], 1, 0.5, 1
    elif not options.data_dir:
        parser.error("name the folder of the real data sets by --data-dir or NWSKETCH_DATA")
    # Not a context: nwsketch sets the threads of BLAS for itself while its own are at work.
    threadpool_limits(options.threads)
    numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    # Nystroem says that a small set has fewer rows than landmarks; small alphas are part of the grid.
    warnings.filterwarnings("ignore", message="n_components > n_samples")
    warnings.filterwarnings("ignore", category=LinAlgWarning)
    folder = options.data_dir and Path(options.data_dir)
    what = (options.sets, options.arms, options.seeds, options.budget, options.threads, options.results)
    return print_tables(run(folder, *what))


if __name__ == "__main__":
    main()
