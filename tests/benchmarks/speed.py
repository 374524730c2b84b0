"""Speed of learning and predicting, as ratios to what the arithmetic itself costs.

Every ratio is measured side by side in one run: what is timed and its baselines in turn, five times (twenty
for scaling), each right after untimed calls of its own for a fifth of a second; medians are quoted. Baselines
use as many threads as the estimator.

- product: the bare float32 matrix product of the dense projection, 1,500 directions, in chunks of 256 rows,
  each thread its share of the directions, into memory that is there already;
- cells: a compiled loop that only computes the grid cells, floor(x * scale + offset), in the precision named;
- gather: a compiled loop that only adds up the cells that a prediction reads, repetition by repetition, after
  streaming each table in; what predicting takes beyond hashing the same rows is divided by it;
- KernelRidge.fit on the same rows;
- scaling: seconds on one thread over seconds on two; the bar is a least share of the product's.

    python tests/benchmarks/speed.py                    # some minutes
    python tests/benchmarks/speed.py --record FILE      # writes the ratios to FILE too (JSON), by section
    python tests/benchmarks/speed.py --smoke            # small sizes, seconds
    python tests/benchmarks/speed.py --smoke --guard FILE   # fails if a ratio is over twice the recorded one
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from numba import njit
from sklearn.kernel_ridge import KernelRidge
from threadpoolctl import threadpool_limits

from nwsketch import NadarayaWatsonSketchRegressor
from nwsketch.backends.numba_kernels.tables import warm
from nwsketch.backends.threads import run_ranges, single_threaded_blas

N_THREADS = 2
N_RUNS = 5
WARM_UP = 0.2  # seconds: so long threads of BLAS spin on, and slow down the two fits that follow
CHUNK = 256
TOLERANCE = 2.0  # how much worse than recorded a ratio may be before the guard fails


def measure(*functions):
    """Return the median seconds of each function, called in turn."""
    return [statistics.median(times) for times in all_seconds(functions, N_RUNS)]


def all_seconds(functions, n_runs):
    """Return the seconds of each function's runs, called in turn.

    Every timed call follows untimed ones of the same function, at least one: what ran before it (threads of
    BLAS spin on for a while after their work, caches hold another's data) is no part of the comparison.
    """
    seconds = [[] for _ in functions]
    for _ in range(n_runs):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            while time.perf_counter() - start < WARM_UP:
                function()
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return seconds


class Report:
    """The table, printed line by line, and its ratios."""

    def __init__(self):
        self.ratios = {}
        print(f"{N_THREADS} threads")
        print(f"{'':52s} {'nwsketch':>11s} {'baseline':>11s} {'ratio':>7s} {'bar':>6s}")

    def add(self, title, ours, baseline, bar=None, *, least=False, unit="s"):
        """Print a line; ``bar`` is the largest ratio wanted, or the least one."""
        ratio = ours / baseline
        self.ratios[title] = 1 / ratio if least else ratio  # so that more is worse
        verdict = "" if bar is None else "met" if (ratio >= bar if least else ratio <= bar) else "missed"
        limit = "" if bar is None else f"{bar:6.3g}"
        seconds = f"{ours:9.4f} {unit} {baseline:9.4f} {unit}"
        print(f"{title:52s} {seconds} {ratio:7.3g} {limit:>6s}  {verdict}", flush=True)


def product(X, directions, n_threads):
    """Multiply rows by directions in chunks that stay in the cache, nothing else."""

    def multiply(first, last):
        wanted = np.ascontiguousarray(directions[:, first:last].T)
        results = np.empty((last - first, CHUNK), dtype=np.float32)
        for start in range(0, len(X), CHUNK):
            rows = X[start : start + CHUNK]
            np.matmul(wanted, rows.T, out=results[:, : len(rows)])

    with single_threaded_blas():
        run_ranges(multiply, directions.shape[1], n_threads)


def blas_product(X, directions):
    """Multiply in large chunks, threaded by BLAS."""
    with threadpool_limits(N_THREADS, user_api="blas"):
        for start in range(0, len(X), 4096):
            X[start : start + 4096] @ directions


def make_model(kernel, n_features, n_jobs=N_THREADS):
    """100 repetitions of 15 projections; bandwidths that suit standard normal rows."""
    bandwidth = {"l2": np.sqrt(2 * n_features), "l1": 2.0 * n_features}
    parameters = {}
    if kernel in bandwidth:
        parameters["bandwidth"] = float(bandwidth[kernel])
    shape = {"n_repetitions": 100, "hashes_per_repetition": 15, "n_buckets": 2**15}
    return NadarayaWatsonSketchRegressor(kernel=kernel, n_jobs=n_jobs, random_state=0, **shape | parameters)


@njit(nogil=True)
def _gather(codes, tables, sums):
    warmth = 0.0
    for repetition in range(codes.shape[0]):
        row_codes, table = codes[repetition], tables[repetition]
        warmth += warm(table, row_codes.size)
        for i in range(row_codes.size):
            total, count = table[row_codes[i], 0], table[row_codes[i], 1]
            before, count_before = sums[i, 0], sums[i, 1]
            sums[i, 0] = before + total
            sums[i, 1] = count_before + count
    return warmth


def gather(codes, tables, sums):
    """Add up the cells of all rows, each thread its share of them."""
    run_ranges(
        lambda first, last: _gather(codes[:, first:last], tables, sums[first:last]), codes.shape[1], N_THREADS
    )


def projections(report, n_features, n_rows, bar, others):
    """Fit and predict by signs, and fit by floors, beside the matrix product."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_features), dtype=np.float32)
    y = rng.standard_normal(n_rows)
    directions = rng.standard_normal((n_features, 1500), dtype=np.float32)
    models = {kernel: make_model(kernel, n_features).fit(X[:10], y[:10]) for kernel in ("angular", *others)}
    angular = models["angular"]
    functions = [
        partial(angular.predict, X),
        partial(product, X, directions, N_THREADS),
        partial(blas_product, X, directions),
        partial(angular.fit, X, y),
        *(partial(models[kernel].fit, X, y) for kernel in others),
    ]
    predict, bare, blas, fit, *seconds = measure(*functions)
    size = f"{n_rows:,} x {n_features}"
    report.add(f"angular, fit {size} / product", fit, bare, bar)
    report.add(f"angular, predict {size} / product", predict, bare, bar)
    report.add(f"angular, fit {size} / BLAS, large chunks", fit, blas)
    for kernel, other in zip(others, seconds, strict=True):
        if kernel == "l2":
            report.add(f"l2, fit {size} / angular", other, fit, 1.3)
        else:
            report.add(f"l1, fit {size} / product", other, bare, 2.0)


def reading(report, X, model, title):
    """What predicting takes beyond hashing, beside a bare gather."""
    sketch = model.sketch_
    block = sketch._backend._block_codes  # as many rows as fit a block, hashed as predict hashes them
    codes = block(X, N_THREADS)
    sums = np.zeros((len(X), 2))
    predict, hashing, bare = measure(
        partial(model.predict, X), partial(block, X, N_THREADS), partial(gather, codes, sketch.tables, sums)
    )
    report.add(title, predict - hashing, bare, 1.5)


def scaling(report, n_rows):
    """Fitting and the product, on one thread and on two.

    What a second thread is worth changes from one second to the next on a machine whose cores are shared
    with others, so the medians are of many rounds' ratios.
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, 18), dtype=np.float32)
    y = rng.standard_normal(n_rows)
    directions = rng.standard_normal((18, 1500), dtype=np.float32)
    models = [make_model("angular", 18, n_jobs=n_jobs).fit(X[:10], y[:10]) for n_jobs in (1, N_THREADS)]
    functions = [
        *(partial(model.fit, X, y) for model in models),
        *(partial(product, X, directions, n) for n in (1, N_THREADS)),
    ]
    rounds = list(zip(*all_seconds(functions, 4 * N_RUNS), strict=True))
    gains = [(fit / fit_two, bare / bare_two) for fit, fit_two, bare, bare_two in rounds]
    ours, products = (statistics.median(side) for side in zip(*gains, strict=True))
    title = f"angular, {n_rows:,} x 18, scaling of fit, and of the product"
    report.add(title, ours, products, 0.9, least=True, unit=" ")


@njit(nogil=True)
def _cells_of_tile(x, scale, offset, cells):
    for i in range(x.size):
        cells[i] += np.floor(x[i] * scale + offset)


@njit(nogil=True)
def _cells_alone(features, scales, offsets, first, last, cells):
    for start in range(0, features.shape[1], cells.size):
        stop = min(start + cells.size, features.shape[1])
        for repetition in range(first, last):
            for j in range(features.shape[0]):
                scale, offset = scales[j, repetition], offsets[j, repetition]
                _cells_of_tile(features[j, start:stop], scale, offset, cells[: stop - start])


def laplacian(report, n_learn):
    """128 repetitions, 8 features."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_learn, 8))
    y = rng.standard_normal(n_learn)
    model = NadarayaWatsonSketchRegressor(
        bandwidth=1.0, n_repetitions=128, n_buckets=2**14, n_jobs=N_THREADS, random_state=0
    )
    model.fit(X[:10], y[:10])
    arrays = model.sketch_.plan.arrays
    for dtype, bar in ((np.float64, 2.0), (np.float32, None)):
        features = np.ascontiguousarray(X.T, dtype=dtype)
        scales, offsets = (arrays[key].astype(dtype) for key in ("scales", "offsets"))

        def cells(features=features, scales=scales, offsets=offsets, dtype=dtype):
            run_ranges(
                lambda first, last: _cells_alone(
                    features, scales, offsets, first, last, np.zeros(1024, dtype)
                ),
                128,
                N_THREADS,
            )

        fit, bare = measure(partial(model.fit, X, y), cells)
        report.add(f"laplacian, fit {n_learn:,} x 8 / {np.dtype(dtype)} cells", fit, bare, bar)
    queries = X[: min(n_learn, 2**16)]
    reading(report, queries, model, f"laplacian, read {len(queries):,} x 128 / gather")


def default(report, n_learn):
    """The default estimator beside kernel ridge regression."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_learn, 10))
    y = rng.standard_normal(n_learn)
    model = NadarayaWatsonSketchRegressor(n_jobs=N_THREADS, random_state=0)
    ridge = KernelRidge(kernel="laplacian")
    with threadpool_limits(N_THREADS):
        fit, slow = measure(partial(model.fit, X, y), partial(ridge.fit, X, y))
    report.add(f"default, fit {n_learn:,} x 10 / KernelRidge.fit", fit, slow, 0.01)


def guard(ratios, recorded):
    """Say which ratios are over twice those recorded; return whether any is."""
    worse = {
        title: ratio for title, ratio in ratios.items() if ratio > TOLERANCE * recorded.get(title, np.inf)
    }
    for title, ratio in worse.items():
        print(f"{title}: {ratio:.3g} is over {TOLERANCE:g} times the recorded {recorded[title]:.3g}")
    unknown = sorted(set(ratios) ^ set(recorded))
    if unknown:
        print(f"Record the ratios anew, the titles have changed: {unknown}")
    return bool(worse or unknown)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the ratios to this JSON file")
    parser.add_argument("--guard", type=Path, metavar="FILE", help="compare the ratios with those recorded")
    options = parser.parse_args()
    report = Report()
    if options.smoke:
        projections(report, 18, 20_000, None, ("l2", "l1"))
        projections(report, 256, 4_000, None, ())
        laplacian(report, 50_000)
        default(report, 2_000)
    else:
        projections(report, 18, 400_000, 0.7, ("l2", "l1"))
        projections(report, 64, 100_000, 0.5, ("l2", "l1"))
        projections(report, 256, 60_000, 0.45, ("l2", "l1"))
        projections(report, 784, 30_000, 0.7, ("l2", "l1"))
        model = make_model("angular", 18)
        rng = np.random.default_rng(0)
        X = rng.standard_normal((2**16, 18), dtype=np.float32)
        reading(report, X, model.fit(X, X[:, 0]), f"angular, read {len(X):,} x 100 / gather")
        laplacian(report, 1_000_000)
        default(report, 10_000)
        scaling(report, 400_000)
    section = "smoke" if options.smoke else "full"
    if options.record:
        kept = json.loads(options.record.read_text()) if options.record.exists() else {}
        rounded = {title: round(ratio, 4) for title, ratio in report.ratios.items()}
        options.record.write_text(json.dumps(kept | {section: rounded}, indent=2) + "\n")
    if options.guard:
        sys.exit(guard(report.ratios, json.loads(options.guard.read_text())[section]))


if __name__ == "__main__":
    main()
