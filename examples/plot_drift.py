"""
==================
A world that moves
==================

A stream of rows whose function changes at once in the middle, and slowly after that. Four estimators learn it
batch by batch, and predict every batch before they learn it: one that remembers everything, one whose rows
count half after ``half_life`` later rows, one that keeps the last rows alone (``SlidingWindowRegressor``),
and one that never learns again after the first quarter.

What to expect: n rows after a change, the share of old evidence is 2^(-n / h) with a half-life of h,
max(0, 1 - n / w) with a window of w, and N / (N + n) for an estimator that learnt N rows before and forgets
none. Forgetting has a price: with fewer rows that count, a prediction is noisier. A half-life averages over
about 2 h / ln 2 = 2.9 h rows (the square of the sum of the weights over the sum of their squares), a window
over w. So h and w are chosen such that both average over about as many.

The rows are made up: x uniform on the unit square, the target sin(6 x_0 + phase) + noise. The phase jumps by
a half turn in the middle, and turns slowly in the last third. Printed is the root mean squared error of the
predictions by fifths of the stream, and, after the jump, how much of the old wave is left beside what the
closed forms above say.
"""

import argparse
from pathlib import Path

import numpy as np

from nwsketch import NadarayaWatsonSketchRegressor, SlidingWindowRegressor

N_BATCHES, BATCH = 150, 200
JUMP, TURN = 75, 100
HALF_LIFE, WINDOW = 1_000, 3_000
NOISE = 0.1


def phase(step):
    """Return the phase of the wave at a batch."""
    return np.pi * (step >= JUMP) + 3 * np.pi * np.maximum(step - TURN, 0) / (N_BATCHES - TURN)


def truth(X, step):
    return np.sin(6 * X[:, 0] + phase(step))


def make_models(seed):
    parameters = {"bandwidth": 0.15, "n_repetitions": 256, "n_buckets": 1024, "random_state": seed}
    return {
        "everything": NadarayaWatsonSketchRegressor(**parameters),
        f"half-life {HALF_LIFE:,}": NadarayaWatsonSketchRegressor(**parameters, half_life=HALF_LIFE),
        f"window {WINDOW:,}": SlidingWindowRegressor(
            NadarayaWatsonSketchRegressor(**parameters), window=WINDOW
        ),
        "first part": NadarayaWatsonSketchRegressor(**parameters),
    }


def run(seed):
    """Return errors (per model, one per batch) and what is left of the jump after it."""
    rng = np.random.default_rng(seed)
    models = make_models(seed)
    errors = {name: np.zeros(N_BATCHES) for name in models}
    left = {name: np.full(N_BATCHES, np.nan) for name in models}
    queries = rng.uniform(0.1, 0.9, size=(500, 2))
    before = {}
    for step in range(N_BATCHES):
        X = rng.uniform(size=(BATCH, 2))
        y = truth(X, step) + NOISE * rng.standard_normal(BATCH)
        if step == JUMP:
            before = {name: model.predict(queries) for name, model in models.items()}
        for name, model in models.items():
            if step:
                errors[name][step] = np.sqrt(np.mean((model.predict(X) - truth(X, step)) ** 2))
            if JUMP <= step <= TURN:
                # The smoother turns the wave into a flatter one, and its opposite into the opposite of that.
                wave = before[name]
                left[name][step] = (1 + model.predict(queries) @ wave / (wave @ wave)) / 2
            if name != "first part" or step < JUMP // 2:
                model.partial_fit(X, y)
    return errors, left


def expected_left(n_rows):
    """Return the closed forms of what is left, in the order of the models."""
    n_before = JUMP * BATCH
    return n_before / (n_before + n_rows), 0.5 ** (n_rows / HALF_LIFE), max(1 - n_rows / WINDOW, 0.0), 1.0


def print_tables(errors, left):
    fifths = np.array_split(np.arange(1, N_BATCHES), 5)
    print(f"{'root mean squared error':24}" + "".join(f"{f'fifth {k + 1}':>12}" for k in range(5)))
    for name, values in errors.items():
        print(f"{name:24}" + "".join(f"{np.sqrt(np.mean(values[part] ** 2)):12.3f}" for part in fifths))
    steps = [JUMP + n // BATCH for n in (0, 400, 1000, 2000, 3000, 5000)]
    print()
    print(f"{'left, rows after':24}" + "".join(f"{(step - JUMP) * BATCH:>15,}" for step in steps))
    for i, (name, values) in enumerate(left.items()):
        cells = [f"{values[s]:.3f} ({expected_left((s - JUMP) * BATCH)[i]:.3f})" for s in steps]
        print(f"{name:24}" + "".join(f"{cell:>15}" for cell in cells))
    print("In brackets what the closed forms say.")


def draw(errors, left, output):
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 7), layout="constrained")
    rows = np.arange(N_BATCHES) * BATCH
    for i, name in enumerate(errors):
        above.plot(rows[1:], errors[name][1:], label=name, color=f"C{i}")
        below.plot(rows - JUMP * BATCH, left[name], color=f"C{i}", label=name)
        since = np.arange(0, (TURN - JUMP) * BATCH + 1, 50)
        shares = [expected_left(n)[i] for n in since]
        below.plot(since, shares, "--", color="0.3", linewidth=0.7, label="closed form" if i == 0 else None)
    above.axvline(JUMP * BATCH, color="0.6", linewidth=0.7)
    above.axvspan(TURN * BATCH, N_BATCHES * BATCH, color="0.95", label="slow turn")
    above.set(xlabel="rows", ylabel="root mean squared error", title="Predicted before learnt")
    below.set(xlim=(0, (TURN - JUMP) * BATCH), xlabel="rows after the jump", ylabel="share of the old wave")
    for axes in (above, below):
        axes.legend(fontsize="small")
    figure.savefig(output, dpi=120)
    print(f"picture: {output}")


def main():
    parser = argparse.ArgumentParser(
        description="Four estimators on a stream whose function changes; print errors and save a picture."
    )
    parser.add_argument("--output", type=Path, default="drift.png")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    errors, left = run(options.seed)
    print_tables(errors, left)
    draw(errors, left, options.output)


if __name__ == "__main__":
    main()
