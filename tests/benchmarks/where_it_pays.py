"""Where does drawing by expected loss pay? Speed-up on made-up data, one property changed at a time.

The rows lie in 100 clusters of 10 classes. Known, and changed one by one from the setting in the middle:

- imbalance: the rarest class has one row for so many of the most frequent one (classes between: geometric);
- redundancy: so large a share of the rows lies in 10 clusters, the rest in the other 90, alike;
- label noise: so large a share of the training labels is wrong, those of the test rows never;
- passes: so often is each row seen; there are fewer rows in return, and the work is the same. A single pass
  is a stream: of 128 candidates 64 are trained on.

The sketch trains on half of the rows in every epoch. Uniform draws are given budgets from 0.4 to 1.5 of the
rows, each with a rate that falls to zero over that budget, and at each two learning rates, as the sketch is.
The speed-up is the time that uniform takes for what the sketch reaches: times are proportional to rows, and
what choosing costs is charged. In brackets: the same by rows alone. A ">" says that no budget reached it.

"unweighted" leaves out the weights that keep gradients unbiased. "twice the batch" takes as many steps as the
sketch, each on a batch of twice the rows, without choosing: by rows alone, and counted as if it had trained
on half of them, it tells what a weighted draw could bring. "variance ratio" is what ``switch="auto"`` goes
by, of the epoch after the warm-up, and "epochs sampled" what it made of it; a stream has neither. "rule" is
what the variance ratio r lets expect of the unbiased sketch, by rows: 1 + (1 - r) / 4. The quarter was found
on this very table, by log loss.

    python tests/benchmarks/where_it_pays.py --results FILE --picture PICTURE   # resumes
    python tests/benchmarks/where_it_pays.py --table FILE --picture PICTURE
    python tests/benchmarks/where_it_pays.py --smoke
"""

import argparse
import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accuracy import read_results
from threadpoolctl import threadpool_limits
from time_to_accuracy import with_progress
from trials.data import Part, Task, expand_table
from trials.nets import TabularNet
from trials.records import append, end_last_line
from trials.reports import print_head, print_row
from trials.settings import Settings
from trials.stress import Stress
from trials.training import run, warm_up

N_CLASSES, PER_CLASS, N_FEATURES, N_TEST, BATCH_SIZE = 10, 10, 16, 10_000, 64
#: Of the rows around the centres of their clusters, whose own spread is 1.
SPREAD = 0.5
MIDDLE = {"imbalance": 1.0, "redundancy": 0.5, "label noise": 0.0, "passes": 4}
LEVELS = {
    "imbalance": (1.0, 30.0, 1000.0),
    "redundancy": (0.1, 0.5, 0.98),
    "label noise": (0.0, 0.2, 0.4),
    "passes": (1, 2, 4, 16),
}
RATES = (0.005, 0.015)
BUDGETS = (0.4, 0.5, 0.7, 1.0, 1.5)
SHARE = 0.5
#: The metric that decides, and the one that is shown beside it.
METRICS = ("log_loss", "balanced_accuracy")
SKETCH = "sketch"
#: Our arms by name, and the power that their weights are taken to.
OURS = {SKETCH: 1.0, "unweighted": 0.0}
#: All rows, in batches of 1 / SHARE the size: as many steps as the sketch takes.
LARGER = "twice the batch"


def case_of(knob, level):
    """Return what the rows are like if one property has this level, and the others are as in the middle."""
    return MIDDLE | {knob: level}


def all_cases(every=1):
    """Return every case once: all levels of each property, or one in so many."""
    cases = [case_of(knob, level) for knob, values in LEVELS.items() for level in values[::every]]
    return [case for i, case in enumerate(cases) if case not in cases[:i]]


def make_up(case, n_rows, seed):
    """Return training rows as a case describes them, and test rows of the same clusters.

    All passes together go through ``n_rows`` rows.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(N_CLASSES * PER_CLASS, N_FEATURES))
    class_of = np.repeat(np.arange(N_CLASSES), PER_CLASS)
    frequency = np.where(np.arange(len(centres)) % PER_CLASS == 0, case["redundancy"], 0.0)
    frequency = frequency / N_CLASSES + np.where(frequency == 0, 1 - case["redundancy"], 0.0) / 90
    frequency *= case["imbalance"] ** (-class_of / (N_CLASSES - 1))
    parts = []
    for size in (n_rows // case["passes"], N_TEST):
        cluster = rng.choice(len(centres), size=size, p=frequency / frequency.sum())
        rows = centres[cluster] + SPREAD * rng.normal(size=(size, N_FEATURES))
        labels = class_of[cluster].astype(np.int64)
        parts.append(Part(torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(labels)))
    return parts


def prepare(case, n_rows, seed):
    """Return the task and the settings of a case."""
    train, test = make_up(case, n_rows, seed)
    train, is_corrupt = Stress(label_noise=case["label noise"]).spoil(train, N_CLASSES)
    features = partial(expand_table, n_numbers=N_FEATURES, levels=[])
    net = partial(TabularNet, N_FEATURES, [], N_CLASSES)
    task = Task(train, test, test, N_CLASSES, net, features, is_corrupt)
    is_stream = case["passes"] == 1
    arm = "uniform at budget"
    variants = {f"uniform {budget}": {"of": arm, "budget": budget} for budget in BUDGETS}
    ours = "sketch" if is_stream else "sketch and last losses"
    variants |= {name: {"of": ours, "weight_power": power} for name, power in OURS.items()}
    settings = Settings(
        METRICS[0],
        BATCH_SIZE,
        list(RATES),
        SHARE,
        epochs=case["passes"],
        n_candidates=2 * BATCH_SIZE if is_stream else None,
        sketch={"warmup": 2048} if is_stream else {"warmup_epochs": 0.25},
        variants=variants,
    )
    return task, settings


def measure(cases, n_rows, n_seeds, file):
    """Train what the file does not hold yet; return all records, one for each case and seed."""
    records = read_results(file) if file else []
    if file:
        end_last_line(file)
    done = [(record["case"], record["seed"]) for record in records]
    wanted = [(case, seed) for seed in range(n_seeds) for case in cases if (case, seed) not in done]
    is_warm = set()
    for case, seed in with_progress(wanted, "where it pays"):
        task, settings = prepare(case, n_rows, seed)
        if settings.n_candidates not in is_warm:
            warm_up(task, settings, SKETCH, Stress())
            is_warm.add(settings.n_candidates)
        runs = []
        for arm, rate in itertools.product(settings.variants, RATES):
            if not (
                settings.n_candidates and arm == f"uniform {BUDGETS[-1]}"
            ):  # no row of a stream comes twice
                runs.append(train(task, settings, arm, rate, seed))
        larger = replace(settings, batch_size=int(BATCH_SIZE / SHARE), variants={LARGER: {"of": "uniform"}})
        runs += [train(task, larger, LARGER, rate, seed) for rate in RATES]
        records.append({"case": case, "seed": seed, "runs": runs})
        if file:
            append(file, json.dumps(records[-1]))
    return records


def train(task, settings, arm, rate, seed):
    """Train once; return what is to be recorded."""
    result = run(task, settings, arm, rate, seed, Stress(), tuning=True)
    return {
        "arm": arm,
        "rate": rate,
        "end": result["points"][-1],
        "overhead": result["overhead_seconds"],
        "ratios": [epoch.get("variance_ratio") for epoch in result["told"]],
        "modes": [epoch.get("mode") for epoch in result["told"]],
    }


def runs_of(records, knob, level):
    """Return the runs of a case, of all seeds."""
    return [run for record in records if record["case"] == case_of(knob, level) for run in record["runs"]]


def best(runs, arm, metric):
    """Return mean metric, CPU seconds and rows of an arm, at the rate that is best over its seeds."""
    found = []
    for rate in RATES:
        ends = [run["end"] for run in runs if run["arm"] == arm and run["rate"] == rate]
        if ends:
            found.append([np.mean([end[key] for end in ends]) for key in (metric, "cpu_seconds", "samples")])
    if not found:
        return None
    sign = 1 if metric == "log_loss" else -1
    return min(found, key=lambda each: sign * each[0])


def speed_up(runs, arm, metric):
    """Return how much longer uniform takes for what an arm reaches, by time and by rows, and if it did.

    Between budgets the metric is interpolated along the logarithm of rows.
    """
    uniform = [each for budget in BUDGETS if (each := best(runs, f"uniform {budget}", metric))]
    reached, seconds, rows = best(runs, arm, metric)
    sign = -1 if metric == "log_loss" else 1
    values = np.maximum.accumulate([sign * each[0] for each in uniform])
    per_row = np.sum([each[1] for each in uniform]) / np.sum([each[2] for each in uniform])
    wanted = np.exp(np.interp(sign * reached, values, np.log([each[2] for each in uniform])))
    rows = rows * SHARE if arm == LARGER else rows
    return wanted * per_row / seconds, wanted / rows, bool(sign * reached <= values[-1])


def first_ratio(runs):
    """Return the mean variance ratio of the second epoch, and the share of the later ones sampled."""
    ours = [run for run in runs if run["arm"] == SKETCH and len(run["modes"]) > 1]
    if not ours:
        return float("nan"), float("nan")
    sampled = [mode == "sampled" for run in ours for mode in run["modes"][1:]]
    return float(np.mean([run["ratios"][1] for run in ours])), float(np.mean(sampled))


def expected(ratio):
    """Return the speed-up by rows that a variance ratio lets expect."""
    return 1 + (1 - ratio) / 4


def print_table(records):
    bounds = [f"{LARGER}: by {metric.replace('_', ' ')}" for metric in METRICS]
    heads = [f"{arm}: by {metric.replace('_', ' ')}" for arm in OURS for metric in METRICS]
    print_head(
        ["property", "level", "n", "variance ratio", "epochs sampled", "rule", *heads, "overhead", *bounds]
    )
    for knob, levels in LEVELS.items():
        for level in levels:
            mine = runs_of(records, knob, level)
            if not mine:
                continue
            ours = [run for run in mine if run["arm"] == SKETCH]
            ratio, sampled = first_ratio(mine)
            cells = [knob, f"{level:g}", len(ours) // len(RATES)]
            is_known = not np.isnan(sampled)
            cells += [f"{ratio:.2f}", f"{sampled:.0%}", f"{expected(ratio):.2f}"] if is_known else [""] * 3
            for arm, metric in itertools.product(OURS, METRICS):
                by_time, by_rows, did = speed_up(mine, arm, metric)
                cells.append(f"{'' if did else '> '}{by_time:.2f} ({by_rows:.2f})")
            whole = np.sum([run["end"]["seconds"] for run in ours])
            cells.append(f"{np.sum([run['overhead'] for run in ours]) / whole:.0%}")
            for metric in METRICS:
                _, by_rows, did = speed_up(mine, LARGER, metric)
                cells.append(f"{'' if did else '> '}{by_rows:.2f}")
            print_row(cells)
    print()


def draw(records, file):
    """Write a picture: speed-up against each property, by time and by rows."""
    from matplotlib import use

    use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        len(METRICS), len(LEVELS), figsize=(13, 6), sharey=True, squeeze=False, layout="constrained"
    )
    for (row, metric), (column, knob) in itertools.product(enumerate(METRICS), enumerate(LEVELS)):
        panel = panels[row, column]
        values = [value for value in LEVELS[knob] if runs_of(records, knob, value)]
        for arm, colour in zip(OURS, ("C0", "C1"), strict=True):
            found = [speed_up(runs_of(records, knob, value), arm, metric) for value in values]
            places = range(len(values))
            panel.plot(places, [each[1] for each in found], "o--", color=colour, label=f"{arm}, by rows")
            panel.plot(places, [each[0] for each in found], "o-", color=colour, label=f"{arm}, by time")
        panel.set_xticks(places, [f"{value:g}" for value in values])
        panel.axhline(1.0, color="grey", linestyle=":")
        panel.set_xlabel(knob)
        panels[row, 0].set_ylabel(f"times faster, by {metric.replace('_', ' ')}")
    panels[0, 0].legend(fontsize=7)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="file of JSON lines to go on with")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a results file")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--rows", type=int, default=32_000, help="of full training, all passes together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="few rows, one seed")
    options = parser.parse_args()
    if options.table:
        records = read_results(options.table)
    else:
        torch.set_num_threads(1)
        threadpool_limits(1)
        cases, n_rows, n_seeds = all_cases(), options.rows, options.seeds
        if options.smoke:
            cases, n_rows, n_seeds = all_cases(every=3), 3_200, 1
        records = measure(cases, n_rows, n_seeds, options.results)
    print_table(records)
    if options.picture:
        draw(records, options.picture)


if __name__ == "__main__":
    main()
