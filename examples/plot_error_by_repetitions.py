"""
==========================================
The error falls as 1 / sqrt(n_repetitions)
==========================================

A sketch estimates the exact Nadaraya-Watson average of :class:`nwsketch.NadarayaWatsonRegressor` by the mean
over its repetitions. Here both learn the same 2,000 rows with the same kernel; the distance between their
answers at 200 queries is averaged over eight draws of the hashes. Its logarithm falls along a line of slope
-1/2: four times the repetitions, half the error.
"""

import matplotlib.pyplot as plt
import numpy as np

from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketchRegressor

KERNELS = {
    "laplacian": {"bandwidth": 0.5},
    "l2": {"bandwidth": 0.5},
    "l1": {"bandwidth": 0.2},
    "angular": {"hashes_per_repetition": 8},
}
SIZES = 2 ** np.arange(4, 13)
N_SEEDS = 8

rng = np.random.default_rng(0)
X, queries = rng.standard_normal((2_000, 3)), rng.standard_normal((200, 3))
y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.3 * rng.standard_normal(len(X))


def mean_error(exact, n_repetitions, settings):
    """Return the mean distance to the exact answers, over queries and draws of the hashes."""
    errors = [
        np.abs(
            NadarayaWatsonSketchRegressor(n_repetitions=n_repetitions, random_state=seed, **settings)
            .fit(X, y)
            .predict(queries)
            - exact
        ).mean()
        for seed in range(N_SEEDS)
    ]
    return np.mean(errors)


figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
for kernel, settings in KERNELS.items():
    settings = {"kernel": kernel, **settings}
    exact = NadarayaWatsonRegressor(**settings).fit(X, y).predict(queries)
    errors = [mean_error(exact, int(size), settings) for size in SIZES]
    slope = np.polyfit(np.log(SIZES), np.log(errors), 1)[0]
    axes.plot(SIZES, errors, "o-", markersize=4, label=f"{kernel}: slope {slope:.2f}")
    print(f"{kernel:<10} slope {slope:+.3f}")
axes.plot(SIZES, 0.4 / np.sqrt(SIZES), "--", color="0.4", label="slope -1/2")
axes.set(xscale="log", yscale="log", xlabel="n_repetitions", ylabel="mean |sketch - exact|")
axes.legend()
plt.show()
