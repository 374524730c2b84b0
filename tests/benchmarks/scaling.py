"""Time and memory as the number of rows grows: the sketch beside the exact estimator and KernelRidge.

Rows of 8 features are generated in chunks and streamed through ``partial_fit``; only learning is timed.
Predictions are for 20,000 fixed queries by the sketch, 500 by the others: medians of 5 calls after a
first that is not counted. "model MB" is what the fitted model keeps; "peak MB" is the largest resident
size of the process up to then, libraries (some 200 MB), the chunk of rows and compiled code included.

    python tests/benchmarks/scaling.py            # 10^4 to 10^7 rows, some minutes
    python tests/benchmarks/scaling.py --smoke    # 10^3 and 10^4 rows, seconds
"""

import argparse
import resource
import statistics
import sys
import time

import numpy as np
from sklearn.kernel_ridge import KernelRidge
from threadpoolctl import threadpool_limits

from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketchRegressor

N_THREADS = 2
N_FEATURES = 8
CHUNK = 500_000
MOST_ROWS = {"KernelRidge": 10_000, "exact NW": 1_000_000}
LINE = "{:12s} {:>12s} {:>10s} {:>12s} {:>12s} {:>16s} {:>10s} {:>9s}"


def chunks(n_rows):
    """Yield rows and targets of a smooth function with noise, always the same ones."""
    rng = np.random.default_rng(0)
    for start in range(0, n_rows, CHUNK):
        X = rng.standard_normal((min(CHUNK, n_rows - start), N_FEATURES))
        yield X, np.sin(X[:, 0]) + X[:, 1] ** 2 + 0.1 * rng.standard_normal(len(X))


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def time_predict(model, n_queries):
    """Return seconds per query."""
    queries = np.random.default_rng(1).standard_normal((n_queries, N_FEATURES))
    model.predict(queries)
    return statistics.median(seconds(lambda: model.predict(queries)) for _ in range(5)) / n_queries


def megabytes(*arrays):
    return sum(array.nbytes for array in arrays) / 1e6


def measure_sketch(n_rows):
    model = NadarayaWatsonSketchRegressor(bandwidth=2.0, n_jobs=N_THREADS, random_state=0)
    fit = sum(seconds(lambda X=X, y=y: model.partial_fit(X, y)) for X, y in chunks(n_rows))
    return fit, time_predict(model, 20_000), model.sketch_.nbytes / 1e6


def measure_exact(n_rows):
    X, y = (np.concatenate(parts) for parts in zip(*chunks(n_rows), strict=True))
    model = NadarayaWatsonRegressor(bandwidth=2.0, n_jobs=N_THREADS)
    fit = seconds(lambda: model.fit(X, y))
    return fit, time_predict(model, 500), megabytes(model.X_, model.y_, model.sample_weight_)


def measure_ridge(n_rows):
    X, y = (np.concatenate(parts) for parts in zip(*chunks(n_rows), strict=True))
    model = KernelRidge(kernel="laplacian", gamma=0.5)
    fit = seconds(lambda: model.fit(X, y))
    return fit, time_predict(model, 500), megabytes(model.X_fit_, model.dual_coef_)


def peak_megabytes():
    """Return the largest resident size of this process so far (kilobytes on Linux, bytes on macOS)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    sizes = (10**3, 10**4) if parser.parse_args().smoke else (10**4, 10**5, 10**6, 10**7)
    measures = {"sketch": measure_sketch, "exact NW": measure_exact, "KernelRidge": measure_ridge}
    print(f"{N_THREADS} threads, {N_FEATURES} features")
    header = ("", "rows", "fit s", "fit us/row", "/ first", "predict us/row", "/ first", "model MB")
    print(LINE.format(*header), "  peak MB")
    with threadpool_limits(N_THREADS, user_api="blas"):
        for name, measure in measures.items():
            measure(100)  # compile
            first = None
            for n_rows in sizes:
                if n_rows > MOST_ROWS.get(name, n_rows):
                    continue
                fit, predict, model_megabytes = measure(n_rows)
                first = first or (fit / n_rows, predict)
                numbers = (
                    f"{n_rows:,}",
                    f"{fit:.3f}",
                    f"{fit / n_rows * 1e6:.3f}",
                    f"{fit / n_rows / first[0]:.2f}",
                    f"{predict * 1e6:.2f}",
                    f"{predict / first[1]:.2f}",
                    f"{model_megabytes:.1f}",
                )
                print(LINE.format(name, *numbers), f"{peak_megabytes():9.0f}", flush=True)


if __name__ == "__main__":
    main()
