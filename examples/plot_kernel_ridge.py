"""
===================================
Beside KernelRidge, as rows grow
===================================

:class:`~sklearn.kernel_ridge.KernelRidge` keeps all rows and solves for as many unknowns: its memory grows
with the square of the rows, its time with the cube. :class:`nwsketch.NadarayaWatsonSketchRegressor` reads
each row once; with ``bias_correction`` it is a ridge regression with the same kernel, in eight rounds over
the rows, in tables of fixed size. This fits all three on more and more rows of ``make_friedman1`` with noise
of standard deviation 1; the last line tells what the true function would score.

How it is measured: all have the Laplacian kernel with the bandwidth of ``bandwidth="scale"``, times two for
the ridge regressions; ``alpha`` of KernelRidge is 0.1. "R2" is that of 2,000 further rows. "seconds" are
wall-clock of ``fit``, code compiled before; "peak MB" is the most memory that a second fit had allocated at a
time beyond the rows (``tracemalloc``); "kept MB" the pickled size of the fitted model. KernelRidge stops
where its matrix would take more than ``--most-rows``.
"""

import argparse
import pickle
import time
import tracemalloc
from pathlib import Path

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.datasets import make_friedman1
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score
from threadpoolctl import threadpool_limits

from nwsketch import NadarayaWatsonSketchRegressor
from nwsketch.bandwidth import scale_bandwidth

SIZES = (500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000)
N_TEST = 2_000
COLUMNS = ("model", "rows", "R2", "seconds", "peak MB", "kept MB")
LINE = "{:<18} {:>7} {:>7} {:>8} {:>8} {:>8}"
MEASURES = {"R2": "R2", "seconds": "seconds to fit", "peak MB": "peak of memory, MB"}


def make_models(X, n_threads):
    """Return models of the same kernel; features are divided by their bandwidth first for KernelRidge."""
    bandwidth = scale_bandwidth(X, None, "cityblock")
    sketch = NadarayaWatsonSketchRegressor(n_repetitions=512, n_jobs=n_threads, random_state=0)
    ridge = KernelRidge(kernel="laplacian", alpha=0.1, gamma=1.0 / (2 * bandwidth.mean()))
    return {
        "KernelRidge": ridge,
        "sketch": clone(sketch).set_params(bandwidth=bandwidth),
        "sketch, corrected": clone(sketch).set_params(bandwidth=2 * bandwidth, bias_correction=8),
    }


def measure(model, X, y, X_test, y_test):
    """Fit twice: for the clock, and for the memory."""
    start = time.perf_counter()
    fitted = clone(model).fit(X, y)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    try:
        clone(model).fit(X, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    r2 = r2_score(y_test, fitted.predict(X_test))
    return {"R2": r2, "seconds": seconds, "peak MB": peak / 1e6, "kept MB": len(pickle.dumps(fitted)) / 1e6}


def draw(curves, output):
    """Draw every measure against the rows."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for ax, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for name, numbers in curves.items():
            ax.plot(list(numbers), [each[measure] for each in numbers.values()], marker="o", label=name)
        ax.set(xscale="log", xlabel="rows", ylabel=label, yscale="linear" if measure == "R2" else "log")
    axes[0].legend()
    figure.savefig(output, dpi=120)
    print(f"picture: {output}")


def main():
    parser = argparse.ArgumentParser(description="Beside KernelRidge, as rows grow.")
    parser.add_argument("--output", type=Path, default="kernel_ridge.png")
    parser.add_argument("--most-rows", type=int, default=4_000, help="of KernelRidge")
    parser.add_argument("--threads", type=int, default=joblib.cpu_count())
    options = parser.parse_args()
    X, y = make_friedman1(n_samples=max(SIZES) + N_TEST, n_features=5, noise=1.0, random_state=0)
    X, y, X_test, y_test = X[:-N_TEST], y[:-N_TEST], X[-N_TEST:], y[-N_TEST:]
    curves = {}
    print(LINE.format(*COLUMNS), flush=True)
    with threadpool_limits(options.threads):
        for model in make_models(X, options.threads).values():  # code is compiled off the clock
            clone(model).fit(X[:50], y[:50]).predict(X[:50])
        for n_rows in SIZES:
            for name, model in make_models(X[:n_rows], options.threads).items():
                if name == "KernelRidge" and n_rows > options.most_rows:
                    continue
                numbers = measure(model, X[:n_rows], y[:n_rows], X_test, y_test)
                curves.setdefault(name, {})[n_rows] = numbers
                r2, seconds, *megabytes = numbers.values()
                shown = (f"{r2:.3f}", f"{seconds:.3f}", *(f"{each:.1f}" for each in megabytes))
                print(LINE.format(name, f"{n_rows:,}", *shown), flush=True)
    print(f"R2 of the true function: {1 - 1 / np.var(y_test):.3f}")  # its noise has variance 1
    draw(curves, options.output)


if __name__ == "__main__":
    main()
