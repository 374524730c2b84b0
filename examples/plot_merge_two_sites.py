"""
===============================
Merging sketches from two sites
===============================

Two sites have measured the same quantity, each in its own part of the country and with its own precision, and
neither may hand out its rows. Each fits a sketch with the same parameters, a numeric bandwidth and the same
integer ``random_state``; the sketches travel, and are added: ``merge``. The outcome is what one sketch of all
rows would hold, up to rounding, whoever adds whom. (A sketch is no anonymisation: it holds sums of few rows.)

Where a sketch has seen no rows it says so, if ``empty="nan"``: the white parts of the maps.

How it is measured: "R2" on places of the whole country; places without an answer count as the mean of the
targets. "answered" is the share of them with an answer. "differs" is the largest difference of the
predictions from those of one sketch fitted on the rows of both sites.
"""

import argparse
import pickle
from copy import deepcopy
from pathlib import Path

import joblib
import numpy as np
from sklearn.metrics import r2_score

from nwsketch import NadarayaWatsonSketchRegressor

LINE = "{:<12} {:>8} {:>7} {:>9} {:>10} {:>12} {:>12}"
COLUMNS = ("sketch of", "rows", "R2", "answered", "differs", "row bytes", "sketch bytes")


def truth(places):
    """Return the quantity at places within [0, 1] x [0, 1]."""
    x, y = places.T
    return np.sin(7 * x) * np.cos(5 * y) + 0.8 * x * y


def observe(n_rows, centre, spread, noise, seed):
    """Return the rows of one site: places about its centre, and noisy values."""
    rng = np.random.default_rng(seed)
    places = rng.normal(centre, spread, (3 * n_rows, 2))
    places = places[((places > 0) & (places < 1)).all(axis=1)][:n_rows]
    return places, truth(places) + noise * rng.standard_normal(len(places))


def make_sketch(n_threads):
    return NadarayaWatsonSketchRegressor(
        bandwidth=0.03, n_repetitions=256, n_buckets=1024, empty="nan", n_jobs=n_threads, random_state=0
    )


def draw(maps, sites, output):
    """Draw the predictions of every sketch, and where the rows of the sites lie."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    figure, axes = plt.subplots(1, len(maps), figsize=(4 * len(maps), 4), layout="constrained")
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        side = round(len(values) ** 0.5)
        shown = ax.imshow(
            values.reshape(side, side).T, origin="lower", extent=(0, 1, 0, 1), vmin=-1.2, vmax=1.6
        )
        ax.set_title(name)
    for (places, _), colour in zip(sites, ("black", "white"), strict=True):
        axes[-1].plot(*places[::200].T, ".", color=colour, markersize=2)
    figure.colorbar(shown, ax=axes)
    figure.savefig(output, dpi=120)
    print(f"picture: {output}")


def main():
    parser = argparse.ArgumentParser(description="Merging sketches from two sites.")
    parser.add_argument("--output", type=Path, default="merge_two_sites.png")
    parser.add_argument("--threads", type=int, default=joblib.cpu_count())
    options = parser.parse_args()
    north = observe(100_000, (0.35, 0.75), 0.16, 0.2, seed=1)
    south = observe(150_000, (0.65, 0.3), 0.16, 0.4, seed=2)
    both = tuple(np.concatenate(part) for part in zip(north, south, strict=True))
    sketches = {
        name: make_sketch(options.threads).fit(*rows)
        for name, rows in {"north": north, "south": south}.items()
    }
    # What travels are bytes; what arrives is added to what is there.
    arrived = pickle.loads(pickle.dumps(sketches["south"]))
    sketches["merged"] = deepcopy(sketches["north"]).merge(arrived)
    pooled = make_sketch(options.threads).fit(*both)

    grid = np.stack(np.meshgrid(*[np.linspace(0.005, 0.995, 80)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    expected = pooled.predict(grid)
    maps = {}
    print(LINE.format(*COLUMNS))
    for name, rows in {"north": north, "south": south, "merged": both}.items():
        maps[name] = sketches[name].predict(grid)
        known = ~np.isnan(maps[name])
        r2 = r2_score(truth(grid), np.where(known, maps[name], rows[1].mean()))
        differs = "-"
        if name == "merged":
            assert np.array_equal(known, ~np.isnan(expected))
            differs = f"{np.nanmax(np.abs(maps[name] - expected)):.1e}"
        sizes = sum(part.nbytes for part in rows), len(pickle.dumps(sketches[name]))
        print(
            LINE.format(
                name,
                f"{len(rows[1]):,}",
                f"{r2:.3f}",
                f"{known.mean():.1%}",
                differs,
                *(f"{size:,}" for size in sizes),
            )
        )
    draw(maps | {"truth, and rows": truth(grid)}, (north, south), options.output)


if __name__ == "__main__":
    main()
