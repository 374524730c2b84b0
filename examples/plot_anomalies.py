"""
==================================
Anomalies: rows without neighbours
==================================

``kernel_sum`` estimates the sum of the kernel between a query and all rows learnt: an unnormalised density.
Where it is low nothing alike was seen, so it serves as a score of anomalies: learnt in one pass, in fixed
memory, in time that does not depend on the number of rows, from streams and with merging too. No target is
needed: any will do.

Learnt are normal rows alone; scored are others, normal and not. Beside the sketch stand its exact
counterpart, scikit-learn's IsolationForest, and LocalOutlierFactor, which keeps all rows.

- ``moons``: two crescents; anomalies are uniform over the square about them.
- ``digits``: handwritten digits 0 to 8 are normal, 9 is not.
- ``breast_cancer``: benign tumours are normal, malignant ones are not.

How it is measured: features are standardised by the normal rows; half of the normal rows (of the moons:
20,000) are learnt. The figure is the area under the ROC curve; "seconds" that of fit and score on the moons,
code compiled before. Nothing is tuned: bandwidths are those of ``bandwidth="scale"``, the others have
scikit-learn's defaults.
"""

import argparse
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, make_moons
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler

from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketchRegressor

LINE = "{:<20} {:>8} {:>8} {:>14} {:>9}"


def moons(rng):
    """Return normal rows to learn, rows to score, and whether these are anomalies."""
    normal = make_moons(22_000, noise=0.08, random_state=0)[0]
    low, high = normal.min(axis=0), normal.max(axis=0)
    strange = rng.uniform(low - 0.5, high + 0.5, (2_000, 2))
    return normal[:20_000], np.vstack([normal[20_000:], strange]), np.repeat([False, True], 2_000)


def halved(X, is_strange, rng):
    """Learn half of the normal rows, score the others."""
    normal = rng.permutation(np.flatnonzero(~is_strange))
    learnt, rest = np.split(normal, [len(normal) // 2])
    scored = np.concatenate([rest, np.flatnonzero(is_strange)])
    return X[learnt], X[scored], is_strange[scored]


def make_sets():
    rng = np.random.default_rng(0)
    digits, cancer = load_digits(), load_breast_cancer()
    return {
        "moons": moons(rng),
        "digits": halved(digits.data, digits.target == 9, rng),
        "breast_cancer": halved(cancer.data, cancer.target == 0, rng),
    }


def make_models(n_threads):
    return {
        "sketch, kernel_sum": NadarayaWatsonSketchRegressor(n_jobs=n_threads, random_state=0),
        "exact, kernel_sum": NadarayaWatsonRegressor(n_jobs=n_threads),
        "IsolationForest": IsolationForest(n_jobs=n_threads, random_state=0),
        "LocalOutlierFactor": LocalOutlierFactor(novelty=True, n_jobs=n_threads),
    }


def fit(model, X):
    """Fit a model on normal rows; return a function that says how normal rows are."""
    if hasattr(model, "score_samples"):
        return clone(model).fit(X).score_samples
    return clone(model).fit(X, np.zeros(len(X))).kernel_sum


def draw(models, sets, output):
    """Draw the score of the sketch and of the forest over the square about the moons."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    learnt, scored, is_strange = sets["moons"]
    scale = StandardScaler().fit(learnt)
    learnt, scored = scale.transform(learnt), scale.transform(scored)
    low, high = scored.min(axis=0), scored.max(axis=0)
    lines = [np.linspace(*ends, 120) for ends in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for ax, name in zip(axes, ("sketch, kernel_sum", "IsolationForest"), strict=True):
        how_normal = fit(models[name], learnt)
        values = how_normal(grid.reshape(-1, 2)).reshape(120, 120)
        filled = ax.contourf(*lines, values.T, levels=20)
        figure.colorbar(filled, ax=ax)
        lowest = np.argsort(how_normal(scored))[: is_strange.sum()]
        ax.plot(*scored[~is_strange][::4].T, ".", color="white", markersize=1.5, label="normal")
        ax.plot(*scored[lowest][::4].T, ".", color="red", markersize=1.5, label="lowest scores")
        ax.set_title(name)
        ax.legend(facecolor="0.6")
    figure.savefig(output, dpi=120)
    print(f"picture: {output}")


def main():
    parser = argparse.ArgumentParser(description="Anomalies: rows without neighbours.")
    parser.add_argument("--output", type=Path, default="anomalies.png")
    parser.add_argument("--threads", type=int, default=joblib.cpu_count())
    options = parser.parse_args()
    models, sets = make_models(options.threads), make_sets()
    print(LINE.format("model", *sets, "seconds"), flush=True)
    for name, model in models.items():
        fit(model, sets["moons"][0][:100])(sets["moons"][1][:100])  # code is compiled off the clock
        areas, seconds = [], []
        for learnt, scored, is_strange in sets.values():
            scale = StandardScaler().fit(learnt)
            learnt, scored = scale.transform(learnt), scale.transform(scored)
            start = time.perf_counter()
            how_normal = fit(model, learnt)(scored)
            seconds.append(time.perf_counter() - start)
            areas.append(roc_auc_score(is_strange, -how_normal))
        print(LINE.format(name, *(f"{area:.3f}" for area in areas), f"{seconds[0]:.2f}"), flush=True)
    draw(models, sets, options.output)


if __name__ == "__main__":
    main()
