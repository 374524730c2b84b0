"""An hour of random operations on a sketch, beside a plain NumPy model of the same sketch.

Rows are learnt (a few or many, with weights or without), forgotten, merged, decayed; the sketch is saved and
loaded, pickled, copied; queries and kernel sums are asked. The model beside it takes the buckets from the
hash plan's NumPy reference, holds sums of its own and answers as ``tests/naive_sketch.py`` does. After every
operation some of it is compared, and every hundredth time all of it. Whatever differs by more than rounding
is a mismatch, and ends the run. From time to time the sketch starts anew, of another kernel and size.

A line a minute tells operations, mismatches and memory. Flat memory means: from the first third of the run
to its end the resident memory grows by less than 32 MiB. The first operations, in which kernels are compiled
and whatever else is made once is made, are compared like all others, but the minutes count from their end.

    python tests/benchmarks/soak.py                     # an hour
    python tests/benchmarks/soak.py --minutes 1         # what CI runs
    python tests/benchmarks/soak.py --seed 7            # a run that failed, again: its first lines told the
    seed
"""

import argparse
import copy
import os
import pickle
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from naive_sketch import NaiveSketch

from nwsketch import NadarayaWatsonSketch
from nwsketch.backends.aggregation import NOISE_ERRORS
from nwsketch.hashing import registered_families

#: Rounding, relative to the largest number that went in.
TOLERANCE = 1e-9
#: Growth of memory from the first third to the end that counts as flat, in bytes.
FLAT = 2**25
WARM_UP = 5000  # operations before the clock starts: ten sketches
MOST_BATCHES = 12  # that a sketch holds; beyond, one is forgotten
QUERIES = 5


class Model(NaiveSketch):
    """The plain sketch, which also forgets, decays and merges, and knows how many rows it holds."""

    def __init__(self, plan, n_groups):
        super().__init__(plan, n_groups)
        self.n_rows = 0

    def learn(self, X, y, weights, sign=1):
        if len(y):  # the hash plan's reference takes one row at least
            self.update(X, y, sign * weights)
        self.n_rows += sign * len(y)

    def decay(self, factor):
        for sums in (self.sums, self.counts):
            for cell in sums:
                sums[cell] *= factor
        self.total_sum *= factor
        self.total_count *= factor

    def merge(self, other):
        for mine, theirs in ((self.sums, other.sums), (self.counts, other.counts)):
            for cell, value in theirs.items():
                mine[cell] += value
        self.total_sum += other.total_sum
        self.total_count += other.total_count
        self.n_rows += other.n_rows

    def tables(self):
        """Return the tables as the sketch holds them."""
        tables = np.zeros((self.plan.n_repetitions, self.plan.n_buckets, 2))
        for channel, sums in enumerate((self.sums, self.counts)):
            for cell, value in sums.items():
                tables[(*cell, channel)] = value
        return tables


class Mismatch(Exception):
    """The sketch and the model differ."""


class Soak:
    """A sketch, its model, and the batches that it holds: rows, targets, weights as they are by now."""

    def __init__(self, rng, folder):
        self.rng, self.folder, self.counts = rng, folder, Counter()
        self.start()

    def start(self):
        """Begin anew, with another kernel and size."""
        rng = self.rng
        self.n_features = int(rng.choice([1, 3, 9, 17]))
        groups = int(rng.choice([1, 4]))
        self.settings = {
            "kernel": str(rng.choice(registered_families())),
            "bandwidth": float(rng.uniform(0.5, 4.0)),
            "hashes_per_repetition": int(rng.integers(1, 4)),
            "n_repetitions": 4 * int(rng.integers(1, 7)),
            "n_buckets": int(rng.choice([16, 61, 256])),
            "aggregation": "mean" if groups == 1 else "median_of_means",
            "n_groups": groups,
            "empty": "nan",
            "random_state": int(rng.integers(2**31)),
            "n_jobs": int(rng.integers(1, 3)),
        }
        self.sketch = self.empty_sketch()
        self.model, self.batches = Model(self.sketch.plan, groups), []
        self.scale = 1.0  # the largest weight times target that went in, and all weights

    def empty_sketch(self):
        return NadarayaWatsonSketch(self.n_features, **self.settings)

    def make_batch(self):
        n_rows = int(self.rng.choice([0, 1, 2, 7, 30, 300], p=[0.02, 0.3, 0.3, 0.2, 0.15, 0.03]))
        X = self.rng.normal(size=(n_rows, self.n_features)) * (
            self.rng.random((n_rows, self.n_features)) < 0.7
        )
        y = self.rng.normal(size=n_rows) + 3.0
        weights = self.rng.uniform(0.1, 2.0, n_rows) if self.rng.random() < 0.5 else np.ones(n_rows)
        return X, y, weights

    # -- operations -------------------------------------------------------------------------------

    def update(self):
        X, y, weights = self.make_batch()
        as_given = None if (weights == 1).all() and self.rng.random() < 0.5 else weights
        rows = self.sketch.hash(X) if self.rng.random() < 0.1 else X
        self.sketch.update(rows, y, as_given)
        self.learnt(X, y, weights)

    def learnt(self, X, y, weights):
        self.model.learn(X, y, weights)
        self.batches.append((X, y, weights))
        self.scale += float((weights * (np.abs(y) + 1)).sum())

    def forget(self):
        if self.batches:
            X, y, weights = self.batches.pop(self.rng.integers(len(self.batches)))
            self.sketch.forget(X, y, weights)
            self.model.learn(X, y, weights, sign=-1)
            if not self.model.n_rows:  # the sketch drops what rounding left; so must the model
                self.model, self.scale = Model(self.sketch.plan, self.model.n_groups), 1.0

    def decay(self):
        factor = float(self.rng.uniform(0.5, 1.0))
        self.sketch.decay(factor)
        self.model.decay(factor)
        self.batches = [(X, y, weights * factor) for X, y, weights in self.batches]

    def merge(self):
        X, y, weights = self.make_batch()
        self.sketch.merge(self.empty_sketch().update(X, y, weights))
        other = Model(self.sketch.plan, self.model.n_groups)
        other.learn(X, y, weights)
        self.model.merge(other)
        self.batches.append((X, y, weights))
        self.scale += float((weights * (np.abs(y) + 1)).sum())

    def save_and_load(self):
        path, number = self.folder / "sketch", int(self.rng.integers(2**31))
        self.sketch.save(path, extra={"number": number})
        self.sketch, extra = NadarayaWatsonSketch.load_with_extra(path)
        self.compare("what was saved with it", extra["number"], number)

    def copy(self):
        by = (copy.copy, lambda sketch: pickle.loads(pickle.dumps(sketch)))[self.rng.integers(2)]
        before, self.sketch = self.sketch, by(self.sketch)
        before.update(*self.make_batch())  # which must not reach the copy

    def query(self):
        X, _, _ = self.batches[self.rng.integers(len(self.batches))] if self.batches else self.make_batch()
        queries = np.vstack(
            [X[:QUERIES], self.rng.normal(size=(2, self.n_features)), np.full((1, self.n_features), 1e5)]
        )
        sums = [self.model.kernel_sum(x) for x in queries]
        self.compare("kernel_sum", self.sketch.kernel_sum(queries), sums, self.scale)
        # A ratio is compared where its denominator is not what rounding left of it.
        answers = np.array([self.model.query(x, NOISE_ERRORS) for x in queries])
        given, firm = self.sketch.query(queries)[:, 0], np.abs(sums) > 1e-4 * self.scale
        both = firm & np.isfinite(answers) & np.isfinite(given)
        self.compare("query", given[both], answers[both], 1e3)
        self.counts["answers compared"] += int(both.sum())

    # -- comparisons ------------------------------------------------------------------------------

    def compare(self, name, mine, theirs, scale=1.0):
        mine, theirs = np.asarray(mine, dtype=float), np.asarray(theirs, dtype=float)
        wrong = ~(np.abs(mine - theirs) <= TOLERANCE * scale)
        if wrong.any():
            raise Mismatch(f"{name}: {mine[wrong][:3]} instead of {theirs[wrong][:3]} ({self.settings})")

    def compare_all(self):
        self.compare("rows", self.sketch.n_samples_seen, self.model.n_rows)
        self.compare("total weight", self.sketch.total_weight, self.model.total_count, self.scale)
        self.compare("tables", self.sketch.tables, self.model.tables(), self.scale)

    def step(self, number):
        names = ("update", "forget", "merge", "decay", "save_and_load", "copy", "query")
        name = str(self.rng.choice(names, p=[0.3, 0.17, 0.08, 0.05, 0.06, 0.04, 0.3]))
        if len(self.batches) > MOST_BATCHES:
            name = "forget"
        getattr(self, name)()
        self.counts[name] += 1
        self.compare("rows", self.sketch.n_samples_seen, self.model.n_rows)
        self.compare("total weight", self.sketch.total_weight, self.model.total_count, self.scale)
        if number % 100 == 0:
            self.compare_all()
        if number % 500 == 0:
            self.start()


def resident_bytes():
    """Return the memory of this process that is in use now; NaN where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="of a run that is to be done again")
    options = parser.parse_args()
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if options.seed is None else options.seed
    print(f"seed {seed}, {options.minutes:g} minutes", flush=True)
    start, number, told, memory = time.monotonic(), 0, 0.0, []
    mismatch = None
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(np.random.default_rng(seed), Path(folder))
        while mismatch is None and (passed := (time.monotonic() - start) / 60) < options.minutes:
            number += 1
            try:
                soak.step(number)
            except Mismatch as error:
                mismatch = error
            if number <= WARM_UP:
                start = time.monotonic()
            if passed - told >= min(1.0, options.minutes / 20):
                told = passed
                memory.append((passed, resident_bytes()))
                print(
                    f"{passed:6.1f} min: {number} operations, 0 mismatches, {memory[-1][1] / 2**20:.1f} MiB",
                    flush=True,
                )
    print(", ".join(f"{name}: {n}" for name, n in sorted(soak.counts.items())))
    if mismatch is not None:
        print(f"MISMATCH at operation {number}: {mismatch}\nto see it again: --seed {seed}")
        sys.exit(1)
    times, sizes = np.array(memory[len(memory) // 3 :]).T
    growth = np.polyfit(times, sizes, 1)[0] * np.ptp(times)
    print(
        f"memory by a line through the last two thirds: {growth / np.ptp(times) * 60 / 2**20:+.2f} MiB an "
        "hour"
    )
    flat = not growth > FLAT
    print(
        f"{number} operations, 0 mismatches, memory {'flat' if flat else 'NOT FLAT'}: {growth / 2**20:+.2f} "
        "MiB"
    )
    sys.exit(not flat)


if __name__ == "__main__":
    main()
