"""CSR rows: the cost follows the non-zeros, not the features.

Rows of 100,000 features, at four densities, are learnt and predicted by sketches of 64 repetitions of one
hash on one thread; the hashes are drawn beforehand. "ns/nz" is the time of a call divided by the number of
non-zeros; beside it stands that of rows with as many non-zeros among 10,000 features. (A difference is the
memory's: the parameters of a feature are 512 bytes, 1.5 KiB for laplacian, and those of 100,000 features lie
beyond the cache. Where a row has few non-zeros, each bears more of what a row costs, such as adding to the
tables.) "dense" is what learning a dense row of 100,000 features would take, extrapolated: a hundred times
what a dense row of 1,000 takes. Medians of three calls, each after an untimed one.

    python tests/benchmarks/sparse_rows.py            # a minute or two
    python tests/benchmarks/sparse_rows.py --smoke    # a tenth of the features and fewer rows, seconds
"""

import argparse
import statistics
import time
from functools import partial

import numpy as np
from scipy.sparse import csr_array

from nwsketch import NadarayaWatsonSketch

KERNELS = ("laplacian", "l2", "angular", "jaccard")
DENSITIES = (1e-4, 3e-4, 1e-3, 3e-3)
N_REPETITIONS = 64
N_RUNS = 3
LINE = "{:10s} {:>8s} {:>7s} {:>8s} {:>9s} {:>7s} {:>8s} {:>9s} {:>7s} {:>8s} {:>11s} {:>7s}"


def make_rows(n_rows, n_features, n_non_zeros, rng):
    """Return CSR rows of so many non-zeros each, one in every stretch of equal length."""
    starts = np.arange(n_non_zeros) * (n_features // n_non_zeros)
    indices = starts + rng.integers(0, n_features // n_non_zeros, (n_rows, n_non_zeros))
    indptr = np.arange(n_rows + 1) * n_non_zeros
    return csr_array((rng.standard_normal(indices.size), indices.ravel(), indptr), shape=(n_rows, n_features))


def seconds(function):
    """Return the median of the calls' seconds."""
    times = []
    for _ in range(N_RUNS):
        function()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def time_sketch(sketch, X):
    """Return seconds of learning and of predicting the rows."""
    y = np.ones(X.shape[0])
    return seconds(partial(sketch.update, X, y)), seconds(partial(sketch.query, X))


def make_sketch(kernel, n_features):
    bandwidth = 10.0 if kernel != "laplacian" else 100.0
    return NadarayaWatsonSketch(
        n_features, kernel=kernel, bandwidth=bandwidth, n_repetitions=N_REPETITIONS, n_jobs=1, random_state=0
    )


def measure(kernel, n_features, n_total):
    """Print a line for every density; rows of ``n_total`` non-zeros are learnt and predicted at each."""
    rng = np.random.default_rng(0)
    wide, narrow, dense = (make_sketch(kernel, n_features // part) for part in (1, 10, 100))
    few = max(n_total // n_features * 40, 40)
    filled = rng.standard_normal((few, n_features // 100)) * (rng.random((few, n_features // 100)) < 0.5)
    as_dense = 100 * time_sketch(dense, filled)[0] / few
    for density in DENSITIES:
        n_non_zeros = round(density * n_features)
        n_rows = n_total // n_non_zeros
        times = [
            seconds / n_rows
            for sketch, d in ((wide, n_features), (narrow, n_features // 10))
            for seconds in time_sketch(sketch, make_rows(n_rows, d, n_non_zeros, rng))
        ]
        learn, predict, learn_narrow, predict_narrow = (1e6 * seconds for seconds in times)
        numbers = [
            f"{number:.1f}" if number < 1000 else f"{number:.0f}"
            for row, other in ((learn, learn_narrow), (predict, predict_narrow))
            for number in (row, 1000 * row / n_non_zeros, 1000 * other / n_non_zeros)
        ]
        size = (f"{density:g}", f"{n_non_zeros}", f"{n_rows:,}")
        ratio = 1e6 * as_dense / learn
        print(LINE.format(kernel, *size, *numbers, f"{1e6 * as_dense:,.0f}", f"{ratio:,.0f}"), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    n_features, n_total = (10_000, 40_000) if parser.parse_args().smoke else (100_000, 1_000_000)
    narrow = f"d={n_features // 10:,}"
    print(f"1 thread, {n_features:,} features, {N_REPETITIONS} repetitions")
    print(LINE.format(*[""] * 4, "learn", "", narrow, "predict", "", narrow, "dense", "times"))
    row = ("us/row", "ns/nz", "ns/nz")
    print(LINE.format("", "density", "nz/row", "rows", *row, *row, "us/row", "as long"))
    for kernel in KERNELS:
        measure(kernel, n_features, n_total)


if __name__ == "__main__":
    main()
