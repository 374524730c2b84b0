"""
=============================
Meetings by chance, taken off
=============================

There are more codes than buckets, so codes are hashed once more, and rows that have nothing to do with a
query land in its bucket with probability 1 / W (W: ``n_buckets``). A bucket then holds more than the kernel
sum, on average by (1 - k) / W for every row. The sketch takes that off: it reads (C - T / W) / (1 - 1 / W)
for a count C, T being the weight of all rows. :doc:`The theory pages </theory/estimator>` derive it.
"""

import matplotlib.pyplot as plt
import numpy as np

from nwsketch import NadarayaWatsonSketch

N_ROWS, N_REPETITIONS = 1_000, 4_000
WIDTHS = 2 ** np.arange(2, 12)

rng = np.random.default_rng(0)
X = rng.uniform(-3, 3, size=(N_ROWS, 2))
query = np.array([[0.5, -0.5]])
truth = np.exp(-np.abs(X - query).sum(axis=1) / 0.2).sum()

as_held, as_read, errors = [], [], []
for n_buckets in WIDTHS:
    sketch = NadarayaWatsonSketch(
        2, bandwidth=0.2, n_repetitions=N_REPETITIONS, n_buckets=int(n_buckets), random_state=0
    )
    sketch.update(X, np.zeros(N_ROWS))
    buckets = sketch.hash(query).array[:, 0]
    counts = sketch.tables[np.arange(N_REPETITIONS), buckets, -1]
    as_held.append(counts.mean())
    as_read.append(sketch.kernel_sum(query)[0])
    errors.append(counts.std() / (1 - 1 / n_buckets) / np.sqrt(N_REPETITIONS))

print(f"exact kernel sum: {truth:.2f}")
print("buckets    mean count    less what chance adds    its standard error")
for row in zip(WIDTHS, as_held, as_read, errors, strict=True):
    print("{:7d} {:13.2f} {:24.2f} {:21.2f}".format(*row))

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
axes.plot(WIDTHS, as_held, "o-", label="mean count C")
axes.plot(WIDTHS, truth + (N_ROWS - truth) / WIDTHS, ":", color="0.3", label="K + (T - K) / W")
axes.errorbar(WIDTHS, as_read, 2 * np.array(errors), fmt="s-", label="(C - T / W) / (1 - 1 / W)")
axes.axhline(truth, linestyle="--", color="black", label="exact kernel sum K")
axes.set(xscale="log", yscale="log", xlabel="n_buckets (W)", ylabel="kernel sum at the query")
axes.legend()
plt.show()

# %%
# The correction costs no bias, but noise is left: narrow tables have larger standard errors, which more
# repetitions cure.
