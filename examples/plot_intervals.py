"""
=================================
Intervals that hold what they say
=================================

``predict(X, return_std=True)`` tells how far a new target may lie from the prediction. This turns it into 90
per cent intervals: on rows that the fit has not seen, the quantile of ``|y - prediction| / std`` is the
multiple of ``std`` that covers 90 per cent of them. With the (n + 1) of split-conformal prediction (Lei,
G'Sell, Rinaldo, Tibshirani & Wasserman, "Distribution-Free Predictive Inference for Regression", JASA 113,
2018) a new row from the same source is covered with a probability of at least 90 per cent, however good or
bad the standard deviations are. What good ones bring is narrow intervals where the target is certain and wide
ones where it is not. Beside them stand intervals of one width for all rows, calibrated in the same way.

Two made-up sets, whose noise differs from place to place, are there by default. ``--data-dir`` (or the
environment variable NWSKETCH_DATA) names a folder of ``.npz`` files with X and y, and replaces them by the
real sets listed in ``REAL_SETS``.

How it is measured:

- The seed draws the split: at most 5,000 test rows, and at most 20,000 rows to learn from, of which a fifth
  calibrates and is not fitted.
- "coverage" is the share of test rows within their intervals; "hard third" that of the third of the test rows
  with the largest standard deviation; "width" the mean width in units of the constant one. "score" is the
  interval score of Gneiting & Raftery (JASA 102, 2007) in the same way: the width, and 20 times the distance
  of what lies outside. Below 1 the standard deviations pay. Means over the seeds, and the least and the
  largest coverage.
"""

import argparse
import os
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import make_friedman1
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from nwsketch import NadarayaWatsonSketchRegressor

REAL_SETS = ("bike_hourly", "california_housing", "kin40k", "protein")
MOST_ROWS, MOST_TEST_ROWS = 20_000, 5_000
COVERAGE = 0.9
COLUMNS = (
    "set",
    "R2",
    "coverage",
    "least - largest",
    "hard third",
    "width",
    "score",
    "constant",
    "hard third",
)
LINE = "{:<18} {:>6} {:>9} {:>16} {:>11} {:>6} {:>6} {:>9} {:>11}"


def waves(seed):
    """One feature: a wave whose noise grows from left to right."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 10, size=(6_000, 1))
    return X, np.sin(X[:, 0]) + (0.05 + 0.06 * X[:, 0]) * rng.standard_normal(len(X))


def friedman(seed):
    """Ten features, of which five matter; the noise grows with the fifth."""
    X, y = make_friedman1(n_samples=10_000, n_features=10, random_state=seed)
    noise = np.random.default_rng(seed).standard_normal(len(X))
    return X, y + (0.3 + 3 * X[:, 4]) * noise


def load_real(folder, name):
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return arrays["X"].astype(float), arrays["y"].astype(float)


def split(X, y, seed):
    """Return rows to fit, to calibrate and to test, and their targets."""
    test_size = min(MOST_TEST_ROWS, len(X) // 5)
    X, X_test, y, y_test = train_test_split(X, y, test_size=test_size, random_state=seed)
    rows = train_test_split(X[:MOST_ROWS], y[:MOST_ROWS], test_size=0.2, random_state=seed)
    return (*rows, X_test, y_test)


def conformal_quantile(scores):
    """Return the least score that covers a new row with probability COVERAGE."""
    rank = int(np.ceil(COVERAGE * (len(scores) + 1)))
    return np.sort(scores)[rank - 1] if rank <= len(scores) else np.inf


class IntervalModel:
    """A sketch whose standard deviations are calibrated by held-out rows."""

    def __init__(self, seed, n_threads):
        sketch = NadarayaWatsonSketchRegressor(
            bandwidth="loo_per_feature",
            bias_correction="auto",
            uncertainty=True,
            n_jobs=n_threads,
            random_state=seed,
        )
        self.pipeline = make_pipeline(StandardScaler(), sketch)

    def fit(self, X, y, X_calibration, y_calibration):
        self.pipeline.fit(X, y)
        predictions, deviations = self.predict(X_calibration)
        gaps = np.abs(y_calibration - predictions)
        # A standard deviation may be 0; an interval has some width nevertheless.
        self.least = 0.1 * np.median(deviations)
        self.multiple = conformal_quantile(gaps / np.maximum(deviations, self.least))
        self.constant = conformal_quantile(gaps)
        return self

    def predict(self, X):
        return self.pipeline.predict(X, return_std=True)

    def predict_half_widths(self, X):
        """Return predictions and half the widths of their intervals."""
        predictions, deviations = self.predict(X)
        return predictions, self.multiple * np.maximum(deviations, self.least)


def interval_score(gaps, halves):
    """Return the mean interval score; ``gaps`` are distances between targets and predictions."""
    return np.mean(2 * halves + 2 / (1 - COVERAGE) * np.maximum(gaps - halves, 0))


def measure(X, y, seed, n_threads):
    """Fit, calibrate and test; return the numbers of the table and what the picture shows."""
    X, X_calibration, y, y_calibration, X_test, y_test = split(X, y, seed)
    model = IntervalModel(seed, n_threads).fit(X, y, X_calibration, y_calibration)
    predictions, halves = model.predict_half_widths(X_test)
    gaps = np.abs(y_test - predictions)
    hard = halves >= np.quantile(halves, 2 / 3)
    numbers = {
        "R2": r2_score(y_test, predictions),
        "coverage": np.mean(gaps <= halves),
        "hard": np.mean((gaps <= halves)[hard]),
        "width": np.mean(halves) / model.constant,
        "score": interval_score(gaps, halves) / interval_score(gaps, model.constant),
        "constant": np.mean(gaps <= model.constant),
        "constant hard": np.mean((gaps <= model.constant)[hard]),
    }
    return numbers, (X_test, y_test, predictions, halves, model.constant)


def print_row(name, runs):
    """Print means over the seeds."""
    means = {column: np.mean([run[column] for run in runs]) for column in runs[0]}
    coverages = [run["coverage"] for run in runs]
    shares = [f"{means[column]:.1%}" for column in ("coverage", "hard", "constant", "constant hard")]
    spread = f"{min(coverages):.1%} - {max(coverages):.1%}"
    r2, width, score = f"{means['R2']:.3f}", f"{means['width']:.2f}", f"{means['score']:.2f}"
    print(LINE.format(name, r2, shares[0], spread, shares[1], width, score, *shares[2:]), flush=True)


def draw(pictures, output):
    """Draw the intervals of every set: along its one feature, or over the predictions."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    figure, rows = plt.subplots(1, len(pictures), figsize=(6 * len(pictures), 4), layout="constrained")
    for axes, (name, (X, y, predictions, halves, constant)) in zip(
        np.atleast_1d(rows), pictures.items(), strict=True
    ):
        if X.shape[1] == 1:
            order = np.argsort(X[:, 0])
            place, middle, half = X[order, 0], predictions[order], halves[order]
            axes.plot(place, y[order], ".", color="0.6", markersize=2, label="test rows")
            axes.fill_between(place, middle - half, middle + half, alpha=0.4, label="90 per cent")
            axes.plot(place, middle, label="prediction")
            axes.plot(place, middle - constant, "--", color="0.3", linewidth=0.7, label="constant width")
            axes.plot(place, middle + constant, "--", color="0.3", linewidth=0.7)
            axes.set_xlabel("x")
        else:
            order = np.argsort(halves)
            axes.plot(
                np.abs(y - predictions)[order], ".", color="0.6", markersize=2, label="|y - prediction|"
            )
            axes.plot(halves[order], label="half of the interval")
            axes.axhline(constant, linestyle="--", color="0.3", linewidth=0.7, label="constant width")
            axes.set_ylim(0, np.quantile(np.abs(y - predictions), 0.995))
            axes.set_xlabel("test rows, by the width of their intervals")
        axes.set_title(name)
        axes.legend(fontsize="small")
    figure.savefig(output, dpi=120)
    print(f"picture: {output}")


def main():
    parser = argparse.ArgumentParser(
        description="Calibrate intervals of the sketch; print how well they cover and save a picture."
    )
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NWSKETCH_DATA") or None)
    parser.add_argument("--output", type=Path, default="intervals.png")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--threads", type=int, default=joblib.cpu_count())
    options = parser.parse_args()
    if options.data_dir and not Path(options.data_dir).is_dir():
        parser.error(f"--data-dir {options.data_dir} is no folder")
    if options.data_dir:
        folder = Path(options.data_dir)
        tasks = {name: lambda seed, name=name: load_real(folder, name) for name in REAL_SETS}
    else:
        tasks = {"waves": waves, "friedman1": friedman}
    pictures = {}
    print(LINE.format(*COLUMNS), flush=True)
    with threadpool_limits(options.threads):
        for name, make in tasks.items():
            runs = []
            for seed in range(options.seeds):
                numbers, picture = measure(*make(seed), seed, options.threads)
                runs.append(numbers)
                pictures.setdefault(name, picture)
            print_row(name, runs)
    draw(pictures, options.output)


if __name__ == "__main__":
    main()
