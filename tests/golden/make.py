"""Write the golden files of the present version of the format, once: later versions must read them.

A file for each kernel and for each kind of estimator, as small as they come, and ``answers.npz``: the
queries, and what was predicted when the files were written. Golden files are never written anew: a new
version of the format gets a folder of its own.

    python tests/golden/make.py
"""

import sys
from pathlib import Path

import numpy as np

from nwsketch import NadarayaWatsonSketch, NadarayaWatsonSketchRegressor
from nwsketch.hashing import registered_families
from nwsketch.storage.container import VERSION

FOLDER = Path(__file__).resolve().parent
SMALL = {"n_repetitions": 8, "n_buckets": 16, "random_state": 1}
N_FEATURES = 9


def make_rows(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, N_FEATURES)) * (rng.random((60, N_FEATURES)) < 0.6)
    return X, X[:, 0] - X[:, 1]


def make():
    """Yield names and what has learnt."""
    X, y = make_rows(0)
    weights = np.linspace(0.5, 2, 60)
    for kernel in registered_families():
        sketch = NadarayaWatsonSketch(N_FEATURES, kernel=kernel, bandwidth=2.0, **SMALL)
        yield f"sketch_{kernel}", sketch.update(X, y, weights)
    codes = NadarayaWatsonSketch(
        N_FEATURES, kernel="angular", n_repetitions=8, n_buckets=None, random_state=1
    )
    yield "sketch_every_code", codes.update(X, y, weights)
    medians = NadarayaWatsonSketch(N_FEATURES, aggregation="median_of_means", n_groups=4, empty=-1.0, **SMALL)
    yield "sketch_medians", medians.update(X, y).decay(0.5)
    corrected = NadarayaWatsonSketch(N_FEATURES, kernel="l2", bandwidth=4.0, **SMALL)
    yield "sketch_corrected", corrected.correct(X, y, weights, n_rounds=3)
    private = NadarayaWatsonSketch(N_FEATURES, bandwidth=2.0, **SMALL).update(X, y)
    yield "sketch_private", private.privatize(1.0, 8.0)
    settings = {
        "plain": {},
        "loo": {"bandwidth": "loo"},
        "trend": {"trend": "linear", "uncertainty": True, "empty": "nan"},
        "corrected": {"bias_correction": 2, "kernel": "l2", "uncertainty": True},
        "half_life": {"half_life": 30.0},
    }
    for name, parameters in settings.items():
        yield f"regressor_{name}", NadarayaWatsonSketchRegressor(**SMALL, **parameters).fit(X, y, weights)


def main():
    folder = FOLDER / f"v{VERSION}"
    if folder.exists():
        sys.exit(f"{folder} is there already: golden files are never written anew.")
    folder.mkdir()
    queries, _ = make_rows(1)
    answers = {"queries": queries}
    for name, model in make():
        model.save(folder / name, extra={"name": name})
        ask = model.query if name.startswith("sketch") else model.predict
        answers[name] = ask(queries)
    np.savez_compressed(folder / "answers.npz", **answers)
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:7d} bytes  {path.name}")


if __name__ == "__main__":
    main()
