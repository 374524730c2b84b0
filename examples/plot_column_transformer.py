"""
===============================
In a pipeline, tuned by a grid
===============================

Tables rarely come as numbers of one scale. Here a :class:`~sklearn.compose.ColumnTransformer` scales the
numbers and encodes the categories, :class:`nwsketch.NadarayaWatsonSketchRegressor` follows, and
:class:`~sklearn.model_selection.GridSearchCV` tries kernels and bandwidths, as with any other estimator of
scikit-learn. Beside the grid stands ``bandwidth="loo_per_feature"``, which learns one bandwidth for each
column while it is fitted, and needs no grid.

The table is made up: the price of 6,000 used cars by age, kilometres, power, brand and fuel. Brand and fuel
are strings; the kilometres of every tenth car are missing.

How it is measured: 1,500 cars are held out; the grid is judged by three folds of the others. "seconds" are
those of all fits and predictions that choosing took, and of the last fit.
"""

import argparse
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nwsketch import NadarayaWatsonSketchRegressor

NUMBERS, CATEGORIES = [0, 1, 2], [3, 4]  # columns; with a data frame their names
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
LINE = "{:<22} {:>9} {:>9} {:>8}  {}"


def used_cars(n_rows=6_000, seed=0):
    """Return a table of objects, as it may come from a file, and prices in thousands."""
    rng = np.random.default_rng(seed)
    age, power = rng.uniform(0, 15, n_rows), rng.normal(100, 30, n_rows)
    kilometres = 14_000 * age * rng.lognormal(0, 0.4, n_rows)
    brand = rng.choice(["Ardea", "Bruma", "Corvo", "Dorado"], n_rows, p=[0.4, 0.3, 0.2, 0.1])
    fuel = rng.choice(["petrol", "diesel", "battery"], n_rows, p=[0.5, 0.3, 0.2])
    new = 8 + 0.12 * power + 9 * (brand == "Dorado") + 4 * (brand == "Corvo") + 6 * (fuel == "battery")
    loss = np.exp(-(0.09 + 0.05 * (fuel == "battery")) * age - kilometres / 600_000)
    price = new * loss * rng.lognormal(0, 0.06, n_rows)
    kilometres[rng.random(n_rows) < 0.1] = np.nan
    return np.column_stack([age, kilometres, power, brand, fuel]).astype(object), price


def make_model(n_threads, **parameters):
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS),
            ("categories", OneHotEncoder(sparse_output=False), CATEGORIES),
        ]
    )
    sketch = NadarayaWatsonSketchRegressor(n_repetitions=512, n_jobs=n_threads, random_state=0)
    return make_pipeline(columns, sketch.set_params(**parameters))


def fit(name, model, data, described):
    """Fit, and print a line of the table."""
    X_train, X_test, y_train, y_test = data
    start = time.perf_counter()
    model.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    chosen_by = getattr(model, "best_score_", None)
    score = model[-1].loo_score_ if chosen_by is None else chosen_by
    r2 = r2_score(y_test, model.predict(X_test))
    print(LINE.format(name, f"{score:.3f}", f"{r2:.3f}", f"{seconds:.2f}", described(model)), flush=True)
    return model


def draw(search, learnt, output):
    """Draw the scores of the grid, and what the search of the sketch itself tried."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    from nwsketch.plotting import BandwidthDisplay

    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    results = search.cv_results_
    for kernel in np.unique(results["param_nadarayawatsonsketchregressor__kernel"].data.astype(str)):
        which = results["param_nadarayawatsonsketchregressor__kernel"].data == kernel
        axes[0].errorbar(
            results["param_nadarayawatsonsketchregressor__bandwidth"].data[which].astype(float),
            results["mean_test_score"][which],
            results["std_test_score"][which],
            marker="o",
            label=kernel,
        )
    axes[0].set_xscale("log", base=2)
    axes[0].set(xlabel="bandwidth", ylabel="R2 of three folds", title="GridSearchCV")
    axes[0].legend()
    BandwidthDisplay.from_estimator(learnt, ax=axes[1:])
    names = [name.split("__")[-1] for name in learnt[:-1].get_feature_names_out()]
    axes[1].set_title("bandwidth='loo_per_feature': overall width")
    axes[2].set_title("and the way to the widths of the columns")
    axes[2].legend(names, fontsize="small")
    figure.savefig(output, dpi=120)
    print(f"picture: {output}")


def main():
    parser = argparse.ArgumentParser(description="In a pipeline, tuned by a grid.")
    parser.add_argument("--output", type=Path, default="column_transformer.png")
    parser.add_argument("--threads", type=int, default=joblib.cpu_count())
    options = parser.parse_args()
    data = train_test_split(*used_cars(), test_size=1_500, random_state=0)
    sketch = "nadarayawatsonsketchregressor"
    grid = [
        {f"{sketch}__kernel": ["laplacian"], f"{sketch}__bandwidth": BANDWIDTHS},
        {
            f"{sketch}__kernel": ["l2"],
            f"{sketch}__hashes_per_repetition": [4],  # with one this kernel falls slowly
            f"{sketch}__bandwidth": BANDWIDTHS,
        },
    ]
    search = GridSearchCV(make_model(options.threads), grid, cv=3)
    print(LINE.format("model", "R2 inside", "R2 test", "seconds", "chosen"))
    fit(
        "grid of 10",
        search,
        data,
        lambda model: ", ".join(
            f"{name.split('__')[1]}={value}" for name, value in model.best_params_.items()
        ),
    )
    learnt = fit(
        "loo_per_feature",
        make_model(options.threads, bandwidth="loo_per_feature"),
        data,
        lambda model: f"widths from {model[-1].bandwidth_.min():.2g} to {model[-1].bandwidth_.max():.2g}",
    )
    fit(
        "and bias correction",
        make_model(options.threads, bandwidth="loo_per_feature", bias_correction="auto"),
        data,
        lambda model: f"{model[-1].n_rounds_} rounds",
    )
    draw(search, learnt, options.output)


if __name__ == "__main__":
    main()
