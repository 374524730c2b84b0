"""Time and memory as the number of rows grows: the sketch beside the exact estimator and KernelRidge.

Rows of 8 features are generated in chunks and streamed through ``partial_fit``; only learning is timed.
Predictions are for 20,000 fixed queries by the sketch, 500 by the others: medians of 7 calls, the models of
one kind in turn; "/ largest" is the ratio to the model of the most rows. "model MB" is what the fitted model
keeps; "peak MB" is the largest resident size of the process after the fit: libraries (some 300 MB), a chunk
of rows and the sketches of the smaller sizes included.

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
N_RUNS = 7
LINE = "{:12s} {:>12s} {:>10s} {:>12s} {:>16s} {:>10s} {:>9s} {:>9s}"


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


def fit_sketch(n_rows):
    model = NadarayaWatsonSketchRegressor(bandwidth=2.0, n_jobs=N_THREADS, random_state=0)
    fit = sum(seconds(lambda X=X, y=y: model.partial_fit(X, y)) for X, y in chunks(n_rows))
    return model, fit, model.sketch_.nbytes


def fit_whole(model, n_rows, kept):
    """Fit a model that wants all rows at once; ``kept`` names the arrays that it keeps."""
    X, y = (np.concatenate(parts) for parts in zip(*chunks(n_rows), strict=True))
    fit = seconds(lambda: model.fit(X, y))
    return model, fit, sum(getattr(model, name).nbytes for name in kept)


def fit_exact(n_rows):
    model = NadarayaWatsonRegressor(bandwidth=2.0, n_jobs=N_THREADS)
    return fit_whole(model, n_rows, ("X_", "y_", "sample_weight_"))


def fit_ridge(n_rows):
    return fit_whole(KernelRidge(kernel="laplacian", gamma=0.5), n_rows, ("X_fit_", "dual_coef_"))


def time_predict(models, n_queries):
    """Return microseconds per query of every model: medians of calls in turn, each after an untimed one."""
    queries = np.random.default_rng(1).standard_normal((n_queries, N_FEATURES))
    times = [[] for _ in models]
    for _ in range(N_RUNS):
        for model, measured in zip(models, times, strict=True):
            model.predict(queries)
            measured.append(seconds(lambda model=model: model.predict(queries)))
    return [statistics.median(measured) / n_queries * 1e6 for measured in times]


def peak_megabytes():
    """Return the largest resident size of this process so far (kilobytes on Linux, bytes on macOS)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    sizes = (10**3, 10**4) if parser.parse_args().smoke else (10**4, 10**5, 10**6, 10**7)
    arms = {
        "sketch": (fit_sketch, 20_000),
        "exact NW": (fit_exact, 500),
        "KernelRidge": (fit_ridge, 500),
    }
    print(f"{N_THREADS} threads, {N_FEATURES} features")
    header = ("", "rows", "fit s", "fit us/row", "predict us/row", "/ largest", "model MB", "peak MB")
    print(LINE.format(*header))
    with threadpool_limits(N_THREADS, user_api="blas"):
        for name, (fit_model, n_queries) in arms.items():
            time_predict([fit_model(100)[0]], 10)  # compile
            rows = [n_rows for n_rows in sizes if n_rows <= MOST_ROWS.get(name, n_rows)]
            models, fits, n_bytes, peaks = [], [], [], []
            for n_rows in rows:
                model, fit, size = fit_model(n_rows)
                models.append(model)
                fits.append(fit)
                n_bytes.append(size)
                peaks.append(peak_megabytes())
            predicts = time_predict(models, n_queries)
            for n_rows, fit, predict, size, peak in zip(rows, fits, predicts, n_bytes, peaks, strict=True):
                numbers = (
                    f"{n_rows:,}",
                    f"{fit:.3f}",
                    f"{fit / n_rows * 1e6:.3f}",
                    f"{predict:.2f}",
                    f"{predict / predicts[-1]:.2f}",
                    f"{size / 1e6:.1f}",
                    f"{peak:.0f}",
                )
                print(LINE.format(name, *numbers), flush=True)


if __name__ == "__main__":
    main()
