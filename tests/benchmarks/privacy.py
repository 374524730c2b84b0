"""What differential privacy costs: R2 of privatized sketches against epsilon and the number of repetitions.

Nothing that a private sketch is made with may come from the private rows. So 2,000 rows of every set count as
public: they give the scaling of the features and their bandwidths (KernelBandwidthScaler), the bounds of the
target (their range, a tenth wider on both sides; private targets are clipped to it) and a factor of the
bandwidths, the best of four, for every number of repetitions and epsilon: the one that predicts half of the
public rows best from the other half, with as much noise per row as the private rows will have. "chosen"
chooses the number of repetitions in the same way. The other rows but 5,000 are private, and learnt; R2 is
that of these 5,000. The seed draws the split and the hashes; the noise is new every time. Means over the
seeds, and half the 95 per cent interval of the mean (Student's t).

    python tests/benchmarks/privacy.py --data-dir DIR   # two real sets, 5 seeds (or set NWSKETCH_DATA)
    python tests/benchmarks/privacy.py                  # friedman1
    python tests/benchmarks/privacy.py --smoke          # friedman1, few rows, seconds
"""

import argparse
import os
from pathlib import Path

import numpy as np
from accuracy import print_row
from scipy import stats
from sklearn.datasets import make_friedman1
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nwsketch import KernelBandwidthScaler, NadarayaWatsonSketch

REAL_SETS = ("california_housing", "sgemm_gpu")
N_PUBLIC, MOST_TEST_ROWS = 2_000, 5_000
N_BUCKETS = 512
SIZES = (4, 16, 64, 256, 1024)
EPSILONS = (0.1, 0.3, 1.0, 3.0, 10.0, np.inf)
FACTORS = (1.0, 3.0, 9.0, 27.0)


def load(folder, name):
    """Return all rows of a set."""
    if name == "friedman1":
        return make_friedman1(n_samples=40_000, n_features=5, noise=1.0, random_state=0)
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return arrays["X"].astype(float), arrays["y"].astype(float)


def split(X, y, seed):
    """Return public, private and test rows, scaled by what the public ones tell; targets within [-1, 1]."""
    order = np.random.default_rng(seed).permutation(len(y))
    n_public = min(N_PUBLIC, len(y) // 5)
    n_test = min(MOST_TEST_ROWS, len(y) // 5)
    public = order[:n_public]
    scaler = make_pipeline(StandardScaler(), KernelBandwidthScaler(random_state=seed))
    X = scaler.fit(X[public], y[public]).transform(X)
    middle, half = (y[public].max() + y[public].min()) / 2, 0.6 * np.ptp(y[public])
    y = (y - middle) / half
    parts = public, order[n_public:-n_test], order[-n_test:]
    return [(X[part], y[part] if part is parts[2] else y[part].clip(-1, 1)) for part in parts]


def learn(rows, n_repetitions, factor, seed):
    """Return a sketch of some rows."""
    X, y = rows
    sketch = NadarayaWatsonSketch(
        X.shape[1], bandwidth=factor, n_repetitions=n_repetitions, n_buckets=N_BUCKETS, random_state=seed
    )
    return sketch.update(X, y)


def score(sketch, epsilon, rows):
    """Return R2 on rows of a sketch with noise; without for an infinite epsilon."""
    private = sketch if np.isinf(epsilon) else sketch.privatize(epsilon, 1.0)
    return r2_score(rows[1], private.query(rows[0])[:, 0])


def simulate(public, n_private, n_repetitions, seed):
    """Return R2 on half of the public rows for every factor and epsilon: (n_factors, n_epsilons)."""
    half = len(public[1]) // 2
    first, second = ([part[:half] for part in public], [part[half:] for part in public])
    found = np.zeros((len(FACTORS), len(EPSILONS)))
    for i, factor in enumerate(FACTORS):
        sketch = learn(first, n_repetitions, factor, seed)
        for j, epsilon in enumerate(EPSILONS):
            found[i, j] = score(sketch, epsilon * n_private / half, second)
    return found


def measure(X, y, seed, sizes):
    """Return R2 on test rows: (n_sizes + 1, n_epsilons), that of the chosen sizes last."""
    public, private, test = split(X, y, seed)
    scores, expected = np.zeros((2, len(sizes), len(EPSILONS)))
    for i, n_repetitions in enumerate(sizes):
        simulated = simulate(public, len(private[1]), n_repetitions, seed)
        best = simulated.argmax(axis=0)
        expected[i] = simulated.max(axis=0)
        for factor in np.unique(best):
            sketch = learn(private, n_repetitions, FACTORS[factor], seed)
            for j in np.flatnonzero(best == factor):
                scores[i, j] = score(sketch, EPSILONS[j], test)
    chosen = np.take_along_axis(scores, expected.argmax(axis=0)[np.newaxis], axis=0)
    return np.vstack([scores, chosen]), len(private[1])


def print_set(folder, name, n_seeds, sizes, n_rows=None):
    """Measure one set and print its table in Markdown."""
    X, y = load(folder, name)
    runs = [measure(X[:n_rows], y[:n_rows], seed, sizes) for seed in range(n_seeds)]
    scores = np.array([run[0] for run in runs])
    halves = np.zeros(scores.shape[1:])
    if n_seeds > 1:
        halves = stats.t.ppf(0.975, n_seeds - 1) * scores.std(axis=0, ddof=1) / np.sqrt(n_seeds)
    titles = ["no noise" if np.isinf(epsilon) else f"epsilon {epsilon:g}" for epsilon in EPSILONS]
    print_row([f"{name}, {runs[0][1]:,} private rows", *titles])
    print_row(["---", *["--:"] * len(EPSILONS)])
    for label, means, half in zip([*sizes, "chosen"], scores.mean(axis=0), halves, strict=True):
        cells = (f"{mean:.3f} ± {h:.3f}" for mean, h in zip(means, half, strict=True))
        print_row([f"{label} repetitions" if label != "chosen" else label, *cells])
    print(flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NWSKETCH_DATA") or None)
    parser.add_argument("--sets", nargs="+", choices=REAL_SETS, default=REAL_SETS)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--smoke", action="store_true", help="few rows of friedman1, one seed")
    options = parser.parse_args()
    if options.smoke:
        print_set(None, "friedman1", 1, SIZES[:2], 3_000)
        return
    for name in options.sets if options.data_dir else ("friedman1",):
        print_set(options.data_dir and Path(options.data_dir), name, options.seeds, SIZES)


if __name__ == "__main__":
    main()
