"""
==============================
Bias: what a smoother flattens
==============================

A weighted average flattens peaks, and at the edge of the data it sees rows on one side only.
``bias_correction`` turns the average into the ridge regression that :class:`sklearn.kernel_ridge.KernelRidge`
would find with the sketch's kernel, in the same tables; ``trend="linear"`` lets the sketch learn what a
straight line leaves over. :doc:`The theory pages </theory/correction>` say how.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.kernel_ridge import KernelRidge

from nwsketch import NadarayaWatsonSketchRegressor
from nwsketch.correction import FIRST_RIDGE

BANDWIDTH = 1.0


def truth(x):
    """Return a slope with waves that grow shorter."""
    return x + 1.5 * np.sin(x**2 / 2)


rng = np.random.default_rng(0)
X = np.sort(rng.uniform(0, 6, size=(1_500, 1)), axis=0)
y = truth(X[:, 0]) + 0.3 * rng.standard_normal(len(X))
grid = np.linspace(-1, 7, 801)[:, np.newaxis]
inside = (grid[:, 0] >= 0) & (grid[:, 0] <= 6)

# %%
# Round by round
# --------------
#
# Every round halves the ridge, so the first rounds find what is smooth and later ones what is fine. The
# dashed line is KernelRidge with the exact kernel and the ridge of the last round. ``"auto"`` chooses the
# number of rounds on rows that are held out.

figure, panels = plt.subplots(2, 2, figsize=(10, 7), layout="constrained", sharex=True, sharey=True)
for axes, rounds in zip(panels.flat, (None, 1, 5, "auto"), strict=True):
    model = NadarayaWatsonSketchRegressor(bandwidth=BANDWIDTH, bias_correction=rounds, random_state=0)
    predictions = model.fit(X, y).predict(grid)
    error = np.sqrt(np.mean((predictions - truth(grid[:, 0]))[inside] ** 2))
    axes.plot(X[:, 0], y, ".", color="0.8", markersize=2)
    axes.plot(grid[:, 0], truth(grid[:, 0]), color="0.4", linewidth=1, label="truth")
    axes.plot(grid[:, 0], predictions, label="sketch")
    if rounds is not None:
        ridge = FIRST_RIDGE * 0.5 ** (model.n_rounds_ - 1)
        solved = KernelRidge(kernel="laplacian", gamma=1 / BANDWIDTH, alpha=ridge).fit(X, y - y.mean())
        curve = solved.predict(grid) + y.mean()
        axes.plot(
            grid[:, 0], curve, "--", color="black", linewidth=1, label=f"KernelRidge, alpha={ridge:.2g}"
        )
        apart = np.sqrt(np.mean((predictions - curve)[inside] ** 2))
        print(f"{rounds!r}: {model.n_rounds_} rounds, RMSE {error:.3f}; to KernelRidge {apart:.3f}")
    else:
        print(f"None: RMSE {error:.3f}")
    axes.set_title(f"bias_correction={rounds!r}: RMSE {error:.2f}")
    axes.set_ylim(-2, 9)
    axes.legend(fontsize="small")
plt.show()

# %%
# A trend for the slope
# ---------------------
#
# Outside of the data a plain sketch answers with what is nearest, and then with the mean of all targets. A
# trend goes on.

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
axes.plot(X[:, 0], y, ".", color="0.8", markersize=2)
wide = np.linspace(-4, 10, 801)[:, np.newaxis]
for trend in (None, "linear"):
    model = NadarayaWatsonSketchRegressor(
        bandwidth=BANDWIDTH, bias_correction="auto", trend=trend, random_state=0
    ).fit(X, y)
    axes.plot(wide[:, 0], model.predict(wide), label=f"trend={trend!r}")
axes.set(xlabel="x", ylabel="prediction")
axes.legend()
plt.show()
