"""Whether the sizes that suggest_size returns keep their promise, and how much they leave over.

For every set, kernel, wanted error (in standard deviations of the target) and confidence: a pilot of 1,024
repetitions and 300 rows held out from it give a size; estimators of that size with other hashes are
compared with the exact one of the same kernel and bandwidth, on the covered rows. "no mass" counts rows
near which the pilot sees nothing. "failures" is the share of errors above the wanted one, to be held
against "allowed" (1 - confidence). "quantile" is the quantile of the errors at the confidence, in units of
the wanted error, and "hardest" that of the tenth of the covered rows with the largest mean error, which
the size is made for: its square is about the share of the size that would have done for them. Sizes above
8,192 repetitions are printed and not measured.

    python tests/benchmarks/size_bound.py                    # friedman1 and diabetes, half a minute
    python tests/benchmarks/size_bound.py --data-dir DIR     # three real sets (or set NWSKETCH_DATA)
    python tests/benchmarks/size_bound.py --smoke            # few seeds, small sets, seconds

Real sets are NAME.npz with arrays X and y; at most 10,000 rows of them are learnt.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketchRegressor
from nwsketch.size import suggest_size

REAL_SETS = ("california_housing", "kin40k", "protein")
MOST_ROWS, MOST_QUERIES = 10_000, 300
#: Hashes per repetition, and the multiple of the default bandwidth (a power narrows the kernel).
KERNELS = {"laplacian": (1, 1), "l2": (8, 4)}
WANTED = ((0.4, 0.9), (0.2, 0.9), (0.2, 0.99), (0.1, 0.9), (0.05, 0.9))
MOST_REPETITIONS = 8192
LINE = "{:18s} {:>10s} {:>6s} {:>11s} {:>12s} {:>7s} {:>8s} {:>8s} {:>8s} {:>9s} {:>9s} {:>8s}"
HEADER = (
    "set",
    "kernel",
    "error",
    "confidence",
    "repetitions",
    "groups",
    "covered",
    "no mass",
    "allowed",
    "failures",
    "quantile",
    "hardest",
)


def load(folder, name, n_rows):
    """Return standardised rows and targets: to learn from, and queries."""
    if name == "friedman1":
        X, y = make_friedman1(n_samples=5_000, n_features=5, noise=1.0, random_state=0)
    elif name == "diabetes":
        X, y = load_diabetes(return_X_y=True)
    else:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            X, y = arrays["X"].astype(float), arrays["y"].astype(float)
    X, queries, y, _ = train_test_split(X, y, test_size=0.2, random_state=0)
    X, y, queries = X[:n_rows], y[:n_rows], queries[:MOST_QUERIES]
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), y / y.std(), scaler.transform(queries)


def print_kernel(name, rows, kernel, power, multiple, wanted, n_seeds):
    X, y, queries = rows
    shape = {"kernel": kernel, "hashes_per_repetition": power}
    bandwidth = NadarayaWatsonRegressor(**shape).fit(X, y).bandwidth_ * multiple
    shape["bandwidth"] = bandwidth
    expected = NadarayaWatsonRegressor(**shape).fit(X, y).predict(queries)
    pilot = NadarayaWatsonSketchRegressor(**shape, random_state=0).fit(X, y)
    for error, confidence in wanted:
        asked = (name, kernel, f"{error:g}", f"{confidence:g}")
        try:
            size = suggest_size(pilot, queries, error, confidence)
        except ValueError as refusal:
            print(
                LINE.format(*asked, *[""] * 8).rstrip(), " refused:", str(refusal).split(",")[0], flush=True
            )
            continue
        numbers = [
            f"{size.n_repetitions:,}",
            f"{size.n_groups}",
            f"{size.covered.mean():.2f}",
            f"{size.n_without_mass}",
            f"{1 - confidence:.3f}",
        ]
        if size.n_repetitions > MOST_REPETITIONS:
            print(LINE.format(*asked, *numbers, "", "", "").rstrip(), flush=True)
            continue
        errors = []
        for seed in range(1, n_seeds + 1):
            model = NadarayaWatsonSketchRegressor(
                **shape,
                aggregation="median_of_means",
                n_repetitions=size.n_repetitions,
                n_groups=size.n_groups,
                random_state=seed,
            )
            errors.append(np.abs(model.fit(X, y).predict(queries) - expected)[size.covered])
        errors = np.array(errors) / error
        hardest = errors[:, np.argsort(errors.mean(axis=0))[-max(errors.shape[1] // 10, 1) :]]
        measured = (
            f"{np.mean(errors > 1):.4f}",
            *(f"{np.quantile(e, confidence):.2f}" for e in (errors, hardest)),
        )
        print(LINE.format(*asked, *numbers, *measured), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NWSKETCH_DATA"))
    parser.add_argument("--seeds", type=int, default=10, help="refits of every size")
    parser.add_argument("--smoke", action="store_true", help="small, to see that it runs")
    options = parser.parse_args()
    names = ["friedman1", "diabetes"]
    if options.data_dir and not options.smoke:
        names += REAL_SETS
    n_rows, wanted, n_seeds = MOST_ROWS, WANTED, options.seeds
    if options.smoke:
        n_rows, wanted, n_seeds = 500, WANTED[:2], 2
    print("errors in standard deviations of the target")
    print(LINE.format(*HEADER))
    for name in names:
        rows = load(options.data_dir and Path(options.data_dir), name, n_rows)
        for kernel, (power, multiple) in KERNELS.items():
            print_kernel(name, rows, kernel, power, multiple, wanted, n_seeds)


if __name__ == "__main__":
    main()
