"""The compiled kernels one by one, on one thread: what their docstrings say of their speed.

- hashing (100 repetitions of 15) beside the float32 matrix product of the same size by BLAS;
- hashing beside the same without mending, as if float32 made no error: no bit or cell is made again in
  float64, and no carry is looked at again;
- adding to and reading from tables, beside the same loops without streaming each table in first, and
  reading from a copy of the tables in float32, with how many rows must be read before the copy has paid;
- the largest magnitude in 2^22 numbers, beside what NumPy takes for a sum, and for a maximum and a minimum;
- answers from sums, of one target, which have a loop of their own, and of two;
- the exact estimator, Laplacian kernel, 10 features: nanoseconds per pair of rows.

Medians of seven calls, each after an untimed one; with and without mending, of the ratios of thirty calls by
turns.

    python tests/benchmarks/kernels.py            # a minute
    python tests/benchmarks/kernels.py --smoke    # small sizes, to see that it runs
"""

import argparse
import statistics
import time
from functools import partial

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from nwsketch import NadarayaWatsonRegressor
from nwsketch.backends import get_backend
from nwsketch.backends.aggregation import ratios
from nwsketch.backends.numba_hashing import Hasher
from nwsketch.backends.numba_kernels.tables import accumulate, look_up
from nwsketch.hashing import HashPlan, get_family
from nwsketch.magnitudes import largest_magnitude

N_REPETITIONS = 100
CHUNK = 256


def nanoseconds(function, n_items):
    """Return nanoseconds per item."""
    times = []
    for _ in range(7):
        function()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / n_items * 1e9


def by_turns(functions, n_rounds):
    """Return the seconds of each function's calls, of which the first of all is not timed."""
    seconds = [[] for _ in functions]
    for _ in range(n_rounds + 1):
        for function, own in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            own.append(time.perf_counter() - start)
    return [own[1:] for own in seconds]


def hashing(n_rows):
    kernels = ("angular", "l2", "l1")
    titles = " ".join(f"{kernel:>9s} {'ratio':>6s}" for kernel in kernels)
    print(f"\n{'ns per hash':24s} {'product':>9s} {titles}")
    rng = np.random.default_rng(0)
    for n_features in (5, 18, 64, 256):
        X = rng.standard_normal((n_rows, n_features), dtype=np.float32)
        directions = rng.standard_normal((N_REPETITIONS * 15, n_features), dtype=np.float32)
        products = np.empty((len(directions), CHUNK), dtype=np.float32)

        def multiply(X=X, directions=directions, products=products):
            for start in range(0, len(X), CHUNK):
                np.matmul(directions, X[start : start + CHUNK].T, out=products)

        product = nanoseconds(multiply, n_rows * 1500)
        cells = [f"{product:9.3f}"]
        for kernel in kernels:
            plan = HashPlan(
                get_family(kernel),
                n_features=n_features,
                n_repetitions=N_REPETITIONS,
                hashes_per_repetition=15,
                n_buckets=2**15,
                bandwidth=np.full(
                    n_features, np.sqrt(2 * n_features) if kernel == "l2" else 2.0 * n_features
                ),
                seed=0,
            )
            backend = get_backend("numba", None, plan)
            ours = nanoseconds(lambda backend=backend, X=X: backend.codes(X, 1), n_rows * 1500)
            cells.append(f"{ours:9.3f} {ours / product:6.2f}")
        print(f"{f'{n_features} features':24s} {' '.join(cells)}", flush=True)


def without_mending(plan, rows):
    """Return a hasher of dense projections that takes float32 to be exact, but for rounding fixed points."""
    hasher = Hasher(plan)
    hasher.prepare(rows)
    *others, carries, exponents, bounds, errors, by_chunk, offsets, signs, multipliers = hasher._projections
    bounds = np.append(bounds[:1], np.zeros_like(bounds[1:]))  # reach, errors
    none = np.zeros_like(carries), exponents, bounds, np.zeros_like(errors)
    hasher._projections = (*others, *none, by_chunk, offsets, signs, multipliers)
    return hasher


def mending(n_rows):
    kernels, features = ("angular", "l2", "l1"), (18, 64, 256, 784)
    print(f"\n{'with / without mending':24s} {' '.join(f'{kernel:>9s}' for kernel in kernels)}")
    for n_features in features:
        X = np.random.default_rng(0).standard_normal((n_rows, n_features), dtype=np.float32)
        costs = []
        for kernel in kernels:
            bandwidth = np.full(n_features, 2.0 * n_features if kernel == "l1" else np.sqrt(2 * n_features))
            shape = {"n_repetitions": N_REPETITIONS, "hashes_per_repetition": 15, "n_buckets": 2**15}
            plan = HashPlan(get_family(kernel), n_features=n_features, **shape, bandwidth=bandwidth, seed=0)
            hashers = Hasher(plan), without_mending(plan, X)
            rows = hashers[0].prepare(X)
            codes = np.empty((N_REPETITIONS, n_rows), hashers[0].code_type)
            tasks = [partial(h.hash, rows, 0, n_rows, 0, N_REPETITIONS, codes) for h in hashers]
            times = by_turns(tasks, 30)
            costs.append(statistics.median(mended / plain for mended, plain in zip(*times, strict=True)))
        numbers = " ".join(f"{cost:9.3f}" for cost in costs)
        print(f"{f'{n_features} features':24s} {numbers}", flush=True)


@njit(nogil=True)
def accumulate_cold(codes, values, tables):
    for repetition in range(codes.shape[0]):
        row_codes, table = codes[repetition], tables[repetition]
        for i in range(row_codes.size):
            table[row_codes[i], 0] += values[i, 0]
            table[row_codes[i], 1] += values[i, 1]


@njit(nogil=True)
def look_up_cold(codes, tables, sums):
    for repetition in range(codes.shape[0]):
        row_codes, table = codes[repetition], tables[repetition]
        for i in range(row_codes.size):
            total, count = table[row_codes[i], 0], table[row_codes[i], 1]
            before, count_before = sums[i, 0, 0], sums[i, 0, 1]
            sums[i, 0, 0] = before + total
            sums[i, 0, 1] = count_before + count


def tables(n_rows):
    titles = ("add", "cold", "look up", "cold", "float32", "pays after")
    print(f"\n{'tables, ns per cell':24s} {' '.join(f'{title:>9s}' for title in titles)} rows")
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n_rows, 2))
    sums, squares = np.zeros((n_rows, 1, 2)), np.zeros((n_rows, 0))
    for n_buckets in (2**11, 2**14, 2**15, 2**16):
        codes = rng.integers(0, n_buckets, (N_REPETITIONS, n_rows)).astype(np.uint16)
        cells = np.zeros((N_REPETITIONS, n_buckets, 2))
        copy = cells.astype(np.float32)
        add, add_slow, read, read_slow, read_copy = (
            nanoseconds(function, codes.size)
            for function in (
                lambda codes=codes, cells=cells: accumulate(codes, values, 0, cells),
                lambda codes=codes, cells=cells: accumulate_cold(codes, values, cells),
                lambda codes=codes, cells=cells: look_up(codes, cells, 1.0, sums, squares),
                lambda codes=codes, cells=cells: look_up_cold(codes, cells, sums),
                lambda codes=codes, copy=copy: look_up(codes, copy, 1.0, sums, squares),
            )
        )
        copying = nanoseconds(lambda cells=cells: cells.astype(np.float32), N_REPETITIONS)
        rows = f"{copying / (read - read_copy):9,.0f}" if read > read_copy else "    never"
        numbers = " ".join(f"{result:9.2f}" for result in (add, add_slow, read, read_slow, read_copy))
        print(f"{f'{n_buckets} buckets':24s} {numbers} {rows}", flush=True)


def magnitudes(n_values):
    print(f"\n{'magnitudes, ns per value':24s} {'ours':>9s} {'sum':>9s} {'extremes':>9s}")
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        values = rng.standard_normal(n_values, dtype=dtype)
        functions = (largest_magnitude, np.sum, lambda values: (values.max(), values.min()))
        seconds = [nanoseconds(partial(function, values), n_values) for function in functions]
        numbers = " ".join(f"{result:9.3f}" for result in seconds)
        print(f"{np.dtype(dtype).name:24s} {numbers}", flush=True)


def answers(n_rows):
    rng = np.random.default_rng(0)
    numbers = []
    for n_targets in (1, 2):
        counts = rng.integers(1, 1000, (n_rows, 1, 1)).astype(np.float64)
        sums = np.concatenate([counts * rng.standard_normal((n_rows, 1, n_targets)), counts], axis=2)
        arguments = {"n_repetitions": 128, "n_buckets": 2**14, "unit": 1.0, "tolerance": 0.0}
        ask = partial(ratios, sums, counts[:, 0] ** 2 / 100, sums.sum(axis=(0, 1)), **arguments)
        numbers.append(nanoseconds(ask, n_rows))
    titles = f"{'1 target':>9s} {'2 targets':>9s}"
    print(f"\n{'answers, ns per row':24s} {titles}\n{'':24s} {numbers[0]:9.2f} {numbers[1]:9.2f}", flush=True)


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
        mending(512 if smoke else 2_048)
        tables(512 if smoke else 32_768)
        answers(512 if smoke else 65_536)
        magnitudes(2**16 if smoke else 2**22)
        exact(500 if smoke else 5_000)


if __name__ == "__main__":
    main()
