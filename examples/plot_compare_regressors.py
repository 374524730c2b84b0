"""
=========================================
The sketch beside other kernel regressors
=========================================

Fits :class:`nwsketch.NadarayaWatsonSketchRegressor` as it comes, with a tuned bandwidth, and with learnt
bandwidths and bias correction, beside the exact :class:`nwsketch.NadarayaWatsonRegressor`, KernelRidge and
k nearest neighbours; prints a table and saves a picture.

Two sets come with scikit-learn: ``diabetes``, and a photo of which half the pixels are hidden (from the
position of a pixel to its three colours). ``--data-dir`` (or the environment variable NWSKETCH_DATA) names
a folder of ``.npz`` files with X and y, and replaces them by the real sets listed in ``REAL_SETS``.

How it is measured, alike for every estimator:

- inputs and targets are standardised inside the pipeline (KernelRidge has no intercept);
- the split into training and held-out rows is random with a fixed seed; at most 10,000 rows are held out;
- what is tuned is chosen by R2 on 1,000 of the training rows (a quarter, if that is less) after fitting
  the others, then fitted on all; "tune s" is the time that this took. Held-out rows play no part in it.
  The corrected sketch tunes itself while it is fitted;
- KernelRidge, whose memory grows with the square of the rows and whose time with the cube, learns from
  10,000 random training rows and is tuned on 2,000. Everything else learns from all training rows;
- "bytes" are those of the pickled fitted pipeline; "fit s" and "predict s" are wall-clock times in one
  process, on the number of threads that is printed. Code is compiled before the clock starts.
"""

import argparse
import os
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_sample_image
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score
from sklearn.model_selection import ParameterGrid, train_test_split
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketchRegressor

REAL_SETS = ("california_housing", "kin40k", "protein", "sgemm_gpu")
MOST_HELD_OUT = 10_000
COLUMNS = ("set", "estimator", "rows", "R2", "tune s", "fit s", "predict s", "bytes", "chosen")
LINE = "{:<18} {:<18} {:>8} {:>6} {:>8} {:>8} {:>9} {:>12}  {}"


@dataclass
class Task:
    """Rows to learn from and rows held out, in random order; ``widths`` are the bandwidths to try."""

    name: str
    X_train: np.ndarray
    X_test: np.ndarray
    y_train: np.ndarray
    y_test: np.ndarray
    widths: tuple
    window: np.ndarray | None = None  # the part of a photo to restore, NaN for the held-out pixels

    def restored(self, colours):
        picture = self.window.copy()
        picture[np.isnan(picture)] = np.clip(colours, 0, 1).ravel()
        return picture


@dataclass
class Arm:
    """An estimator, what to try when tuning it, and how many rows it can stand."""

    name: str
    estimator: object
    candidates: list
    most_rows: int | None = None
    most_tuning_rows: int | None = None

    def model(self, settings):
        pipeline = make_pipeline(StandardScaler(), clone(self.estimator).set_params(**settings))
        return TransformedTargetRegressor(pipeline, transformer=StandardScaler(), check_inverse=False)


def split(name, X, y):
    test_size = min(MOST_HELD_OUT, len(X) // 4)
    rows = train_test_split(X, y, test_size=test_size, random_state=0)
    return Task(name, *rows, widths=(0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0))


def photo():
    """Hide half of the pixels of a photo; those of a window in its middle are to be restored."""
    image = load_sample_image("china.jpg") / 255.0
    positions = np.indices(image.shape[:2]).reshape(2, -1).T.astype(float)
    colours = image.reshape(-1, 3)
    known = np.random.default_rng(0).permutation(len(colours))[: len(colours) // 2]
    is_hidden = np.ones(len(colours), dtype=bool)
    is_hidden[known] = False
    in_window = ((positions >= (90, 260)) & (positions < (230, 400))).all(axis=1)
    window = np.where(is_hidden[:, np.newaxis], np.nan, colours)[in_window].reshape(140, 140, 3)
    hidden = np.flatnonzero(is_hidden & in_window)
    rows = positions[known], positions[hidden], colours[known], colours[hidden]
    return Task("photo", *rows, widths=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32), window=window)


def load_real(folder, name):
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return split(name, arrays["X"].astype(float), arrays["y"].astype(float))


def arms(task, n_threads):
    bandwidths = list(ParameterGrid({"bandwidth": task.widths}))
    sketch = NadarayaWatsonSketchRegressor(random_state=0, n_jobs=n_threads)
    corrected = clone(sketch).set_params(bandwidth="loo_per_feature", bias_correction="auto")
    exact = NadarayaWatsonRegressor(kernel="laplacian", n_jobs=n_threads)
    smoothness = {"alpha": (0.01, 0.1, 1.0)}
    # The same bandwidths h for KernelRidge: exp(-t / h) and exp(-t^2 / (2 h^2)).
    ridge = [
        {"kernel": ["laplacian"], "gamma": [1 / h for h in task.widths[2:]], **smoothness},
        {"kernel": ["rbf"], "gamma": [0.5 / h**2 for h in task.widths[2:]], **smoothness},
    ]
    neighbors = {"n_neighbors": (2, 4, 8, 16, 32), "weights": ("uniform", "distance")}
    return [
        Arm("sketch, defaults", sketch, [{}]),
        Arm("sketch, tuned", sketch, bandwidths),
        Arm("sketch, corrected", corrected, [{}]),
        Arm("exact NW, tuned", exact, bandwidths),
        Arm("KernelRidge, tuned", KernelRidge(), list(ParameterGrid(ridge)), 10_000, 2_000),
        Arm("k-NN, tuned", KNeighborsRegressor(n_jobs=n_threads), list(ParameterGrid(neighbors))),
    ]


def tune(arm, task):
    """Return the candidate with the best R2 on a part of the training rows."""
    if len(arm.candidates) == 1:
        return arm.candidates[0]
    n_judged = min(1_000, len(task.X_train) // 4)
    learnt = slice(n_judged, None if arm.most_tuning_rows is None else n_judged + arm.most_tuning_rows)
    scores = []
    for number, candidate in enumerate(arm.candidates, start=1):
        show_progress(f"{task.name}: {arm.name}: {number} of {len(arm.candidates)}")
        model = arm.model(candidate).fit(task.X_train[learnt], task.y_train[learnt])
        scores.append(model.score(task.X_train[:n_judged], task.y_train[:n_judged]))
    return arm.candidates[int(np.argmax(scores))]


def predict(model, X):
    # In parts, because KernelRidge holds the kernel between its rows and all that it is given.
    return np.concatenate([model.predict(X[start : start + 5_000]) for start in range(0, len(X), 5_000)])


def measure(arm, task):
    """Tune, fit and predict; return a row of the table and the predictions."""
    start = time.perf_counter()
    chosen = tune(arm, task)
    tuned = time.perf_counter()
    show_progress(f"{task.name}: {arm.name}: fit and predict")
    X, y = task.X_train[: arm.most_rows], task.y_train[: arm.most_rows]
    model = arm.model(chosen).fit(X, y)
    fitted = time.perf_counter()
    predictions = predict(model, task.X_test)
    predicted = time.perf_counter()
    times = tuned - start, fitted - tuned, predicted - fitted
    shown = (
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in chosen.items()
    )
    score, n_bytes = r2_score(task.y_test, predictions), len(pickle.dumps(model))
    row = (task.name, arm.name, len(X), score, *times, n_bytes, ", ".join(shown))
    return dict(zip(COLUMNS, row, strict=True)), predictions


def show_progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def print_row(row):
    show_progress("")
    formats = {int: "{:,}", float: "{:.3f}", str: "{}"}
    print(LINE.format(*(formats[type(value)].format(value) for value in row.values())).rstrip(), flush=True)


def compile_kernels(n_threads):
    """Run every estimator once on a few rows, so that no clock counts compilation."""
    rng = np.random.default_rng(0)
    for n_outputs in (1, 3):
        X, y = rng.standard_normal((64, 3)), rng.standard_normal((64, n_outputs)).squeeze()
        for arm in arms(split("warm up", X, y), n_threads):
            arm.model(arm.candidates[0]).fit(X, y).predict(X)


def draw(rows, pictures, output):
    """Draw R2 and times of every estimator, and below them the restored photo."""
    names = list(dict.fromkeys(row["estimator"] for row in rows))
    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure = plt.figure(figsize=(12, 6.5 if pictures else 4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(4, 2.5 if pictures else 0.01))
    for axes, column in zip(upper.subplots(1, 3), ("R2", "fit s", "predict s"), strict=True):
        for place, name in enumerate(names):
            values = [row[column] for row in rows if row["estimator"] == name]
            axes.bar(np.arange(len(sets)) + 0.14 * place, values, 0.13, label=name)
        axes.set_xticks(np.arange(len(sets)) + 0.35, sets, rotation=15)
        axes.set_title("R2 on held-out rows" if column == "R2" else f"{column[:-2]}, seconds")
        axes.set_yscale("linear" if column == "R2" else "log")
    upper.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    for place, (name, picture) in enumerate(pictures.items(), start=1):
        axes = lower.add_subplot(1, len(pictures), place)
        axes.imshow(picture)
        axes.set_title(name, fontsize="medium")
        axes.set_axis_off()
    figure.savefig(output, dpi=120)


def main():
    parser = argparse.ArgumentParser(
        description="Fit the sketch beside other kernel regressors; print a table and save a picture."
    )
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NWSKETCH_DATA") or None)
    parser.add_argument("--output", type=Path, default="compare_regressors.png")
    parser.add_argument("--threads", type=int, default=joblib.cpu_count())
    options = parser.parse_args()
    if options.data_dir and not Path(options.data_dir).is_dir():
        parser.error(f"--data-dir {options.data_dir} is no folder")
    if options.data_dir:
        tasks = (load_real(options.data_dir, name) for name in REAL_SETS)
    else:
        tasks = (split("diabetes", *load_diabetes(return_X_y=True)), photo())
    rows, pictures = [], {}
    with threadpool_limits(options.threads):
        compile_kernels(options.threads)
        print(f"threads: {options.threads}")
        print(LINE.format(*COLUMNS), flush=True)
        for task in tasks:
            if task.window is not None:
                pictures["half of the pixels"] = np.nan_to_num(task.window, nan=1.0)
            for arm in arms(task, options.threads):
                row, predictions = measure(arm, task)
                print_row(row)
                rows.append(row)
                if task.window is not None:
                    pictures[arm.name] = task.restored(predictions)
    draw(rows, pictures, options.output)
    print(f"picture: {options.output}")


if __name__ == "__main__":
    main()
