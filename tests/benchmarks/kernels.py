"""The compiled kernels one by one, on one thread: what their docstrings say of their speed.

- hashing by signs (100 repetitions of 15) beside the float32 matrix product of the same size by BLAS;
- adding to and reading from tables, beside the same loops without streaming each table in first;
- the exact estimator, Laplacian kernel, 10 features: nanoseconds per pair of rows.

Medians of seven calls, each after an untimed one.

    python tests/benchmarks/kernels.py            # half a minute
    python tests/benchmarks/kernels.py --smoke    # small sizes, to see that it runs
"""

import argparse
import statistics
import time

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from nwsketch import NadarayaWatsonRegressor
from nwsketch.backends import get_backend
from nwsketch.backends.numba_kernels.projection import TILE
from nwsketch.backends.numba_kernels.tables import accumulate, look_up
from nwsketch.hashing import HashPlan, get_family

N_REPETITIONS = 100


def nanoseconds(function, n_items):
    """Return nanoseconds per item."""
    times = []
    for _ in range(7):
        function()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / n_items * 1e9


def hashing(n_rows):
    print(f"\n{'signs, ns per hash':24s} {'nwsketch':>9s} {'product':>9s} {'ratio':>6s}")
    rng = np.random.default_rng(0)
    for n_features in (18, 64, 256):
        plan = HashPlan(
            get_family("angular"),
            n_features=n_features,
            n_repetitions=N_REPETITIONS,
            hashes_per_repetition=15,
            n_buckets=2**15,
            bandwidth=np.ones(n_features),
            seed=0,
        )
        backend = get_backend("numba", None, plan)
        X = rng.standard_normal((n_rows, n_features), dtype=np.float32)
        directions = np.ascontiguousarray(plan.arrays["directions"].T, dtype=np.float32)

        def multiply(X=X, directions=directions):
            for start in range(0, len(X), TILE):
                directions @ X[start : start + TILE].T

        ours = nanoseconds(lambda X=X, backend=backend: backend.codes(X, 1), n_rows * 1500)
        product = nanoseconds(multiply, n_rows * 1500)
        print(f"{f'{n_features} features':24s} {ours:9.3f} {product:9.3f} {ours / product:6.2f}", flush=True)


@njit(nogil=True)
def accumulate_cold(codes, values, tables):
    for repetition in range(codes.shape[0]):
        row_codes, table = codes[repetition], tables[repetition]
        for i in range(row_codes.size):
            table[row_codes[i], 0] += values[i, 0]
            table[row_codes[i], 1] += values[i, 1]


@njit(nogil=True)
def look_up_cold(codes, tables, sums, squares):
    for repetition in range(codes.shape[0]):
        row_codes, table = codes[repetition], tables[repetition]
        for i in range(row_codes.size):
            count = table[row_codes[i], 1]
            sums[i, 0, 0] += table[row_codes[i], 0]
            sums[i, 0, 1] += count
            squares[i, 0] += count * count


def tables(n_rows):
    print(f"\n{'tables, ns per cell':24s} {'add':>9s} {'cold':>9s} {'look up':>9s} {'cold':>9s}")
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n_rows, 2))
    sums, squares = np.zeros((n_rows, 1, 2)), np.zeros((n_rows, 1))
    for n_buckets in (2**11, 2**14, 2**15):
        codes = rng.integers(0, n_buckets, (N_REPETITIONS, n_rows)).astype(np.uint32)
        cells = np.zeros((N_REPETITIONS, n_buckets, 2))
        results = [
            nanoseconds(function, codes.size)
            for function in (
                lambda codes=codes, cells=cells: accumulate(codes, values, 0, cells),
                lambda codes=codes, cells=cells: accumulate_cold(codes, values, cells),
                lambda codes=codes, cells=cells: look_up(codes, cells, 1.0, sums, squares),
                lambda codes=codes, cells=cells: look_up_cold(codes, cells, sums, squares),
            )
        ]
        numbers = " ".join(f"{result:9.2f}" for result in results)
        print(f"{f'{n_buckets} buckets':24s} {numbers}", flush=True)


def exact(n_rows):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, 10))
    model = NadarayaWatsonRegressor(bandwidth=1.0, n_jobs=1).fit(X, X[:, 0])
    result = nanoseconds(lambda: model.predict(X), n_rows**2)
    print(f"\nexact, laplacian, 10 features, ns per pair {result:6.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    smoke = parser.parse_args().smoke
    print("1 thread")
    with threadpool_limits(1, user_api="blas"):
        hashing(512 if smoke else 32_768)
        tables(512 if smoke else 32_768)
        exact(500 if smoke else 5_000)


if __name__ == "__main__":
    main()
