"""
============================================
Median of means: failures fall exponentially
============================================

With ``aggregation="median_of_means"`` the repetitions are cut into groups, each group answers with its own
ratio, and the median of these is the prediction. It is off by more than a given error only if at least half
of the groups are. So with groups of a fixed size, failures fall exponentially in the number of groups. Here a
group is 8 repetitions, a failure an error above 1.3 times the median error of a group, and the failures of
medians over 1 to 33 groups are counted. :doc:`The theory pages </theory/estimator>` derive the bound;
measured shares may lie above it by their noise.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import binom

from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketch

BANDWIDTH, N_BUCKETS, GROUP_SIZE, N_DRAWS = 0.5, 256, 8, 12
NUMBERS_OF_GROUPS = np.arange(1, 34, 4)

rng = np.random.default_rng(0)
X = rng.standard_normal((1_000, 3))
y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.3 * rng.standard_normal(len(X))
query = np.array([[0.3, -0.2, 0.5]])
exact = NadarayaWatsonRegressor(bandwidth=BANDWIDTH).fit(X, y).predict(query)[0]

# %%
# What many independent groups answer
# -----------------------------------
#
# The sums in the query's buckets of 12 sketches of 4,096 repetitions, less what chance adds, group by group.
# A group whose count is not above 0 has no answer; here it counts as one that is too high.

answers = []
for seed in range(N_DRAWS):
    sketch = NadarayaWatsonSketch(
        3, bandwidth=BANDWIDTH, n_repetitions=4_096, n_buckets=N_BUCKETS, random_state=seed
    )
    sketch.update(X, y)
    held = sketch.tables[np.arange(4_096), sketch.hash(query).array[:, 0]]
    sums = held - np.array([y.sum(), len(X)]) / N_BUCKETS
    by_group = sums.reshape(-1, GROUP_SIZE, 2).mean(axis=1)
    answers.append(np.where(by_group[:, 1] > 0, by_group[:, 0] / by_group[:, 1], np.inf))
gaps = np.concatenate(answers) - exact
tolerated = 1.3 * np.median(np.abs(gaps))
above, below = np.mean(gaps > tolerated), np.mean(gaps < -tolerated)
print(f"{len(gaps)} groups; tolerated error {tolerated:.3f}; too high: {above:.3f}, too low: {below:.3f}")

# %%
# Failures of their medians
# -------------------------
#
# Groups are shuffled 200 times and cut into lots; the median of a lot fails if it is too far off.


def failures(n_groups):
    """Return the share of lots of so many groups whose median is off by more than is tolerated."""
    n_lots = len(gaps) // n_groups
    shuffles = (rng.permutation(gaps)[: n_lots * n_groups].reshape(n_lots, n_groups) for _ in range(200))
    return np.mean([np.abs(np.median(lots, axis=1)) > tolerated for lots in shuffles])


measured = np.array([failures(n_groups) for n_groups in NUMBERS_OF_GROUPS])
half = (NUMBERS_OF_GROUPS + 1) // 2
bound = binom.sf(half - 1, NUMBERS_OF_GROUPS, above) + binom.sf(half - 1, NUMBERS_OF_GROUPS, below)
for row in zip(NUMBERS_OF_GROUPS, measured, bound, strict=True):
    print("{:3d} groups: {:.4f} of the medians fail; bound {:.4f}".format(*row))

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
axes.plot(NUMBERS_OF_GROUPS, measured, "o", label="medians that fail")
axes.plot(NUMBERS_OF_GROUPS, bound, "-", label="bound, from how often one group fails")
axes.set(yscale="log", xlabel="number of groups", ylabel="failure rate")
axes.legend()
plt.show()
