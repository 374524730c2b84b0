"""Speed of learning and predicting, as ratios to what the arithmetic itself costs.

Every ratio is measured side by side in one run: the estimator and its baselines in turn, five times,
each right after an untimed call of its own; medians are quoted.
Baselines use as many threads as the estimator.

- angular: the bare float32 matrix product of the same projection, in the same chunks of rows by the
  same threads ("product"), and in chunks of 4096 rows by the threads of BLAS itself ("BLAS");
- laplacian: a compiled loop that only computes the grid cells, floor(x * scale + offset);
- default: ``KernelRidge.fit`` on the same rows.

    python tests/benchmarks/speed.py            # the issue's sizes, a minute or two
    python tests/benchmarks/speed.py --smoke    # small, seconds: does it run?
"""

import argparse
import statistics
import time

import numpy as np
from numba import njit
from sklearn.kernel_ridge import KernelRidge
from threadpoolctl import threadpool_limits

from nwsketch import NadarayaWatsonSketchRegressor
from nwsketch.backends.numba_kernels.projection import TILE as CHUNK
from nwsketch.backends.threads import run_ranges, single_threaded_blas

N_THREADS = 2


def measure(*functions, n_runs):
    """Return the median seconds of each function, called in turn.

    Every timed call follows an untimed one of the same function: what ran before it (threads of BLAS spin
    on for a while after their work, caches hold another's data) is no part of the comparison.
    """
    seconds = [[] for _ in functions]
    for _ in range(n_runs):
        for function, times in zip(functions, seconds, strict=True):
            function()
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def report(title, ours, baseline, bar):
    """Print one line of the table; ``bar`` is the largest ratio wanted."""
    ratio = ours / baseline
    verdict = "met" if ratio <= bar else "missed"
    print(f"{title:58s} {ours:9.4f} s {baseline:9.4f} s {ratio:9.3g} {bar:9.3g}  {verdict}", flush=True)


def product(X, directions, n_threads):
    """The matrix products of the projection in chunks of rows that stay in the cache, nothing else.

    Every thread multiplies its share of the directions by BLAS, as the estimator's threads do.
    """

    def multiply(first, last):
        wanted = directions[:, first:last].T
        for start in range(0, len(X), CHUNK):
            wanted @ X[start : start + CHUNK].T

    with single_threaded_blas():
        run_ranges(multiply, directions.shape[1], n_threads)


def blas_product(X, directions):
    """The same products in large chunks, threaded by BLAS."""
    with threadpool_limits(N_THREADS, user_api="blas"):
        for start in range(0, len(X), 4096):
            X[start : start + 4096] @ directions


def angular(n_learn, n_predict, n_runs):
    """100 repetitions of 15 signs, 18 features."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_learn, 18), dtype=np.float32)
    y = rng.standard_normal(n_learn)
    queries = rng.standard_normal((n_predict, 18), dtype=np.float32)
    model = NadarayaWatsonSketchRegressor(
        kernel="angular",
        n_repetitions=100,
        hashes_per_repetition=15,
        n_buckets=2**15,
        n_jobs=N_THREADS,
        random_state=0,
    )
    model.fit(X[:10], y[:10])
    directions = model.sketch_.plan.arrays["directions"].astype(np.float32)
    name = "angular 100 x 15, {} {:,} x 18, / {}"
    fit, bare, blas = measure(
        lambda: model.fit(X, y),
        lambda: product(X, directions, N_THREADS),
        lambda: blas_product(X, directions),
        n_runs=n_runs,
    )
    report(name.format("fit", n_learn, "product"), fit, bare, 2.5)
    report(name.format("fit", n_learn, "BLAS"), fit, blas, 2.5)
    predict, bare, blas = measure(
        lambda: model.predict(queries),
        lambda: product(queries, directions, N_THREADS),
        lambda: blas_product(queries, directions),
        n_runs=n_runs,
    )
    report(name.format("predict", n_predict, "product"), predict, bare, 2.5)
    report(name.format("predict", n_predict, "BLAS"), predict, blas, 2.5)


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


def laplacian(n_learn, n_runs):
    """128 repetitions, 8 features."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_learn, 8))
    y = rng.standard_normal(n_learn)
    model = NadarayaWatsonSketchRegressor(
        bandwidth=1.0, n_repetitions=128, n_buckets=2**14, n_jobs=N_THREADS, random_state=0
    )
    model.fit(X[:10], y[:10])
    arrays = model.sketch_.plan.arrays
    for dtype, bar in ((np.float64, 6.0), (np.float32, 6.0)):
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

        fit, bare = measure(lambda: model.fit(X, y), cells, n_runs=n_runs)
        report(f"laplacian 128, fit {n_learn:,} x 8, / {np.dtype(dtype)} cells", fit, bare, bar)


def default(n_learn, n_runs):
    """The default estimator beside kernel ridge regression."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_learn, 10))
    y = rng.standard_normal(n_learn)
    model = NadarayaWatsonSketchRegressor(n_jobs=N_THREADS, random_state=0)
    ridge = KernelRidge(kernel="laplacian")
    with threadpool_limits(N_THREADS):
        fit, slow = measure(lambda: model.fit(X, y), lambda: ridge.fit(X, y), n_runs=n_runs)
    report(f"default, fit {n_learn:,} x 10, / KernelRidge.fit", fit, slow, 0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    smoke = parser.parse_args().smoke
    print(f"{N_THREADS} threads")
    print(f"{'':58s} {'nwsketch':>11s} {'baseline':>11s} {'ratio':>9s} {'bar':>9s}")
    n_runs = 2 if smoke else 5
    angular(*(20_000, 5_000) if smoke else (400_000, 100_000), n_runs)
    laplacian(20_000 if smoke else 1_000_000, n_runs)
    default(1_000 if smoke else 10_000, n_runs)


if __name__ == "__main__":
    main()
