"""Where does drawing by expected loss pay? Speed-up on made-up data, one property changed at a time.

The rows lie in 100 clusters of 10 classes. Known, and changed one by one from the setting in the middle:

- imbalance: the rarest class has one row for so many of the most frequent one (classes between: geometric);
- redundancy: so large a share of the rows lies in 10 clusters, the rest in the other 90, alike;
- label noise: so large a share of the training labels is wrong, those of the test rows never;
- passes: so often is each row seen; there are fewer rows in return, and the work is the same. A single pass
  is a stream: of 128 candidates 64 are trained on.

The sketch trains on half of the rows in every epoch. Uniform draws are given budgets from a fifth to one and a
half of the rows, each with a rate that falls to zero over that budget, and at each two learning rates, as the
sketch is. The speed-up is the time that uniform takes for what the sketch reaches: times are proportional to
rows, and what choosing costs is charged. In brackets: the same by rows alone. A ">" says that no budget did.

"variance ratio" is what ``switch="auto"`` goes by, as it was when it first decided; a stream has none.

    python tests/benchmarks/where_it_pays.py --results FILE --picture PICTURE   # resumes
    python tests/benchmarks/where_it_pays.py --table FILE --picture PICTURE
    python tests/benchmarks/where_it_pays.py --smoke
"""

import argparse
import json
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
MIDDLE = {"imbalance": 1.0, "redundancy": 0.5, "label noise": 0.0, "passes": 4}
LEVELS = {
    "imbalance": (1.0, 10.0, 100.0),
    "redundancy": (0.1, 0.5, 0.9, 0.97),
    "label noise": (0.0, 0.1, 0.2, 0.4),
    "passes": (1, 2, 4, 8, 16),
}
RATES = (0.003, 0.01)
BUDGETS = (0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5)
SHARE = 0.5
#: The metric that decides, and the one that is shown beside it.
METRICS = ("log_loss", "balanced_accuracy")
SKETCH = "sketch"


def levels(n_rows, every=1):
    """Return the cases: every level (or one in so many) of every property, the others as in the middle."""
    cases = {}
    for knob, values in LEVELS.items():
        for value in values[::every]:
            cases[knob, value] = MIDDLE | {knob: value, "rows": n_rows}
    return cases


def make_up(case, seed):
    """Return training rows as a case describes them, and test rows of the same clusters with right labels."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(N_CLASSES * PER_CLASS, N_FEATURES))
    class_of = np.repeat(np.arange(N_CLASSES), PER_CLASS)
    frequency = np.where(np.arange(len(centres)) % PER_CLASS == 0, case["redundancy"], 0.0)
    frequency = frequency / N_CLASSES + np.where(frequency == 0, 1 - case["redundancy"], 0.0) / 90
    frequency *= case["imbalance"] ** (-class_of / (N_CLASSES - 1))
    parts = []
    for n_rows in (case["rows"] // case["passes"], N_TEST):
        cluster = rng.choice(len(centres), size=n_rows, p=frequency / frequency.sum())
        rows = centres[cluster] + 0.7 * rng.normal(size=(n_rows, N_FEATURES))
        parts.append(
            Part(torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(class_of[cluster].astype(np.int64)))
        )
    return parts


def prepare(case, seed):
    """Return the task and the settings of a case."""
    train, test = make_up(case, seed)
    train, is_corrupt = Stress(label_noise=case["label noise"]).spoil(train, N_CLASSES)
    features = partial(expand_table, n_numbers=N_FEATURES, levels=[])
    net = partial(TabularNet, N_FEATURES, [], N_CLASSES)
    task = Task(train, test, test, N_CLASSES, net, features, is_corrupt)
    is_stream = case["passes"] == 1
    arm = "uniform at budget"
    variants = {f"uniform {budget}": {"of": arm, "budget": budget} for budget in BUDGETS}
    variants[SKETCH] = {"of": "sketch" if is_stream else "sketch and last losses"}
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


def measure(cases, n_seeds, file):
    """Train what the file does not hold yet; return all records."""
    records = read_results(file) if file else []
    if file:
        end_last_line(file)
    done = {(record["knob"], record["level"], record["seed"]) for record in records}
    wanted = [(*key, seed) for seed in range(n_seeds) for key in cases if (*key, seed) not in done]
    is_warm = set()
    for knob, level, seed in with_progress(wanted, "where it pays"):
        task, settings = prepare(cases[knob, level], seed)
        if settings.n_candidates not in is_warm:
            warm_up(task, settings, SKETCH, Stress())
            is_warm.add(settings.n_candidates)
        for arm in settings.variants:
            for rate in RATES:
                if arm == "uniform 1.5" and settings.n_candidates:
                    continue  # no row comes twice
                result = run(task, settings, arm, rate, seed, Stress(), tuning=True)
                record = {"knob": knob, "level": level, "seed": seed, "arm": arm, "rate": rate}
                record |= {"end": result["points"][-1], "overhead": result["overhead_seconds"]}
                record["ratios"] = [epoch.get("variance_ratio") for epoch in result["told"]]
                record["modes"] = [epoch.get("mode") for epoch in result["told"]]
                record["corrupt_share"] = result["corrupt_share"]
                records.append(record)
        if file:
            for record in records[-len(settings.variants) * len(RATES) :]:
                if (record["knob"], record["level"], record["seed"]) == (knob, level, seed):
                    append(file, json.dumps(record))
    return records


def best(records, arm, metric):
    """Return mean metric, mean CPU seconds and mean rows of an arm, at the rate that is best over its seeds."""
    found = []
    for rate in RATES:
        ends = [record["end"] for record in records if record["arm"] == arm and record["rate"] == rate]
        if ends:
            found.append([np.mean([end[key] for end in ends]) for key in (metric, "cpu_seconds", "samples")])
    if not found:
        return None
    sign = 1 if metric == "log_loss" else -1
    return min(found, key=lambda each: sign * each[0])


def speed_up(records, metric):
    """Return how much longer uniform takes for what the sketch reaches, by time and by rows, and if it did.

    Between budgets the metric is interpolated along the logarithm of rows.
    """
    uniform = [each for budget in BUDGETS if (each := best(records, f"uniform {budget}", metric))]
    reached, seconds, rows = best(records, SKETCH, metric)
    sign = -1 if metric == "log_loss" else 1
    values = np.maximum.accumulate([sign * each[0] for each in uniform])
    per_row = np.sum([each[1] for each in uniform]) / np.sum([each[2] for each in uniform])
    wanted = np.exp(np.interp(sign * reached, values, np.log([each[2] for each in uniform])))
    return wanted * per_row / seconds, wanted / rows, bool(sign * reached <= values[-1])


def first_ratio(records):
    """Return the variance ratio by which the sampler first decided, and the share of runs that it sampled in."""
    runs = [record for record in records if record["arm"] == SKETCH and record["modes"][0] is not None]
    found = [ratio for run in runs for ratio in run["ratios"][1:2] if ratio is not None and np.isfinite(ratio)]
    sampled = ["sampled" in run["modes"] for run in runs]
    return (float(np.mean(found)) if found else float("nan")), (np.mean(sampled) if runs else float("nan"))


def print_table(records):
    heads = [f"speed-up by {metric.replace('_', ' ')}" for metric in METRICS]
    print_head(["property", "level", "n", "variance ratio", "runs sampled", *heads, "overhead"])
    for knob in LEVELS:
        for level in dict.fromkeys(record["level"] for record in records if record["knob"] == knob):
            mine = [record for record in records if (record["knob"], record["level"]) == (knob, level)]
            ours = [record for record in mine if record["arm"] == SKETCH]
            ratio, sampled = first_ratio(mine)
            cells = [knob, f"{level:g}", len({record["seed"] for record in mine})]
            cells += ["", ""] if np.isnan(sampled) else [f"{ratio:.2f}", f"{sampled:.0%}"]
            for metric in METRICS:
                by_time, by_rows, did = speed_up(mine, metric)
                cells.append(f"{'' if did else '> '}{by_time:.2f} ({by_rows:.2f})")
            overhead = np.sum([run["overhead"] for run in ours]) / np.sum([run["end"]["seconds"] for run in ours])
            print_row([*cells, f"{overhead:.0%}"])
    print()


def draw(records, file):
    """Write a picture: speed-up against each property, by time and by rows."""
    from matplotlib import use

    use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(LEVELS), figsize=(14, 3.4), sharey=True, layout="constrained")
    for panel, knob in zip(panels, LEVELS, strict=True):
        mine = [record for record in records if record["knob"] == knob]
        values = list(dict.fromkeys(record["level"] for record in mine))
        found = [speed_up([r for r in mine if r["level"] == value], METRICS[0]) for value in values]
        panel.plot(range(len(values)), [each[1] for each in found], "o--", label="by rows")
        panel.plot(range(len(values)), [each[0] for each in found], "o-", label="by time")
        panel.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        panel.axhline(1.0, color="grey", linestyle=":")
        panel.set_xlabel(knob)
    panels[0].set_ylabel("times faster than uniform")
    panels[0].legend(fontsize=8)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="file of JSON lines to go on with")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a results file")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--rows", type=int, default=48_000, help="rows that full training sees, all passes together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="few rows, one seed")
    options = parser.parse_args()
    if options.table:
        records = read_results(options.table)
    else:
        torch.set_num_threads(1)
        threadpool_limits(1)
        cases, n_seeds = levels(options.rows), options.seeds
        if options.smoke:
            cases, n_seeds = levels(3_200, every=4), 1
        records = measure(cases, n_seeds, options.results)
    print_table(records)
    if options.picture:
        draw(records, options.picture)


if __name__ == "__main__":
    main()
