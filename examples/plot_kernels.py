"""
============================================
A kernel is the chance of being hashed alike
============================================

Every kernel of the sketch is the probability that two rows fall into the same cell of a random hash. So a
kernel can be measured: draw many hashes, and count how often two rows meet. Here each family of
:mod:`nwsketch.hashing` draws 20,000 of them; dots are the shares of hashes that meet, lines the closed forms
that :class:`nwsketch.NadarayaWatsonRegressor` computes with. :doc:`The theory pages </theory/kernels>` derive
them.
"""

import matplotlib.pyplot as plt
import numpy as np

from nwsketch.hashing import get_family

N_HASHES = 20_000


def share_of_meetings(kernel, rows, others, hashes_per_repetition=1):
    """Return how often each row meets its partner, over N_HASHES codes of so many hashes each."""
    family = get_family(kernel)
    n_features = rows.shape[1]
    parameters = family.draw(
        np.random.default_rng(0), n_features, N_HASHES, hashes_per_repetition, np.ones(n_features)
    )
    alike = family.cells(rows, parameters) == family.cells(others, parameters)
    codes = alike.reshape(len(rows), N_HASHES, -1)  # all cells of a code must agree
    return codes.all(axis=2).mean(axis=1)


def two_errors(shares):
    """Return two standard errors of the measured shares."""
    return 2 * np.sqrt(shares * (1 - shares) / N_HASHES)


# %%
# One hash of each family
# -----------------------
#
# Pairs of rows with two features, further and further apart; for ``"angular"`` at growing angles; for
# ``"jaccard"`` sets of ten that share fewer and fewer members. Bars are two standard errors.

distances = np.linspace(0, 4, 17)
origin = np.zeros((len(distances), 2))
directions = {"laplacian": [0.7, 0.3], "l1": [0.7, 0.3], "l2": [0.8, 0.6]}  # of length 1 in each metric

angles = np.linspace(0, np.pi, 17)
on_circle = np.column_stack([np.cos(angles), np.sin(angles)])

n_shared = np.arange(11)
sets = np.zeros((2, len(n_shared), 20))
for pair, shared in enumerate(n_shared):
    sets[0, pair, :10] = 1
    sets[1, pair, 10 - shared : 20 - shared] = 1

pairs = {
    kernel: (distances, origin, np.outer(distances, direction)) for kernel, direction in directions.items()
}
pairs["angular"] = angles, on_circle, np.tile([1.0, 0.0], (len(angles), 1))
pairs["jaccard"] = 1 - n_shared / (20 - n_shared), sets[0], sets[1]
names = {
    "laplacian": "city-block distance / h",
    "l1": "city-block distance / h",
    "l2": "Euclidean distance / h",
    "angular": "angle",
    "jaccard": "1 - intersection / union",
}

figure, panels = plt.subplots(2, 3, figsize=(11, 6.5), layout="constrained", sharey=True)
for axes, (kernel, (t, rows, others)) in zip(panels.flat, pairs.items(), strict=False):
    shares = share_of_meetings(kernel, rows, others)
    fine = np.linspace(0, t.max(), 200)
    family = get_family(kernel)
    axes.plot(fine, family.collision_probability(fine), label="closed form")
    axes.errorbar(t, shares, two_errors(shares), fmt=".", color="black", label="hashes that meet")
    axes.set(title=f'kernel="{kernel}"', xlabel=names[kernel])
    print(f"{kernel:<10} largest difference: {np.abs(shares - family.collision_probability(t)).max():.4f}")
panels[0, 0].set_ylabel("k")
panels[1, 0].set_ylabel("k")
panels[0, 0].legend()
panels[1, 2].axis("off")
plt.show()

# %%
# Several hashes in one code
# --------------------------
#
# ``hashes_per_repetition`` independent hashes are joined into one code, which is alike only if all of them
# are: the kernel is raised to that power, and narrows.

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
for n_joined in (1, 2, 4, 8, 16):
    shares = share_of_meetings("angular", on_circle, pairs["angular"][2], n_joined)
    (line,) = axes.plot(angles, (1 - angles / np.pi) ** n_joined, label=f"{n_joined}")
    axes.errorbar(angles, shares, two_errors(shares), fmt=".", color=line.get_color())
axes.set(title='kernel="angular"', xlabel="angle", ylabel="k")
axes.legend(title="hashes_per_repetition")
plt.show()
