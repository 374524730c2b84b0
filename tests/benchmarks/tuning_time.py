"""What the learnt bandwidths and the correction cost, beside tuning KernelRidge on the same rows.

10,000 rows of 20 features (friedman1, of which 5 matter), 5,000 test rows. KernelRidge is tuned as users
do it: GridSearchCV over 5 x 4 values of gamma and alpha, 3 folds, both kernels; the sketch tunes itself
in ``fit``. Prints seconds by the clock and of all processors together, their share of KernelRidge's, and R2.

    python tests/benchmarks/tuning_time.py             # some minutes, nearly all of them KernelRidge
    python tests/benchmarks/tuning_time.py --sketch    # the sketch alone
    python tests/benchmarks/tuning_time.py --smoke     # 1,000 rows: does it run?
"""

import argparse
import time

import numpy as np
from sklearn.datasets import make_friedman1
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale

from nwsketch import NadarayaWatsonSketchRegressor

BAR_SECONDS, BAR_SHARE = 2.0, 0.1
GRID = {"gamma": [2.0**k / 20 for k in (-4, -2, 0, 2, 4)], "alpha": [1e-3, 1e-2, 1e-1, 1.0]}
SKETCHES = {
    "sketch, scale": {},
    "sketch, loo": {"bandwidth": "loo"},
    "sketch, loo per feature": {"bandwidth": "loo_per_feature"},
    "corrected, loo per feature": {"bandwidth": "loo_per_feature", "bias_correction": "auto"},
}


def measure(model, X, y, X_test, y_test):
    """Return seconds by the clock, of all processors, and R2."""
    clock, cpu = time.perf_counter(), time.process_time()
    model.fit(X, y)
    return time.perf_counter() - clock, time.process_time() - cpu, model.score(X_test, y_test)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sketch", action="store_true", help="leave KernelRidge out")
    parser.add_argument("--smoke", action="store_true", help="few rows")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    n_rows = 1_000 if options.smoke else 10_000
    X, y = make_friedman1(n_rows + 5_000, n_features=20, noise=1.0, random_state=0)
    X, y = scale(X), scale(y)
    rows = X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:]
    found = {}
    for name, parameters in SKETCHES.items():
        model = NadarayaWatsonSketchRegressor(n_jobs=options.threads, random_state=0, **parameters)
        measure(model, X[:300], y[:300], X[:9], y[:9])  # compile
        runs = [measure(model, *rows) for _ in range(3)]
        found[name] = np.median(runs, axis=0)
    if not options.sketch:
        for kernel in ("rbf", "laplacian"):
            found[f"KernelRidge {kernel}, tuned"] = measure(
                GridSearchCV(KernelRidge(kernel=kernel), GRID, cv=3), *rows
            )
    best = min((found[name][1] for name in found if "Ridge" in name), default=np.nan)
    print(f"{n_rows:,} x 20, {options.threads} threads; sketches: median of 3")
    print(f"{'':30s}{'clock s':>10s}{'CPU s':>10s}{'/ KernelRidge':>15s}{'R2':>8s}")
    for name, (clock, cpu, r2) in found.items():
        print(f"{name:30s}{clock:10.2f}{cpu:10.2f}{cpu / best:15.4f}{r2:8.3f}")
    clock, cpu, _ = found["corrected, loo per feature"]
    print(f"learnt bandwidths and correction, clock: {clock:.2f} s (bar {BAR_SECONDS:.0f} s)")
    print(f"share of KernelRidge's tuning and fit, CPU: {cpu / best:.4f} (bar {BAR_SHARE})")


if __name__ == "__main__":
    main()
