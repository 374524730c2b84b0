"""What limits the speed-up, and what was tried against it: remedies on the rows held out for tuning.

Every remedy of ``ablation.toml`` is one change to an arm of ``time_to_accuracy.py``, of the sketch unless it
says otherwise. Each is trained at every learning rate of the set and with the same seeds, none of which is
among those of the timed runs, and evaluated once, at its end, on the rows held out for tuning: the test rows
are not looked at. Shown is the rate that is best over the seeds.

    python tests/benchmarks/ablation.py --data-dir DIR --sets adult --results FILE   # resumes
    python tests/benchmarks/ablation.py --table FILE                    # Markdown tables
    python tests/benchmarks/ablation.py --data-dir DIR --sets adult --scores   # what scores are worth
    python tests/benchmarks/ablation.py --smoke                         # made-up data: does it run?
"""

import argparse
import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accuracy import read_results
from threadpoolctl import threadpool_limits
from time_to_accuracy import SETTINGS, with_progress
from trials.data import load
from trials.records import append, end_last_line, final, is_better, slim
from trials.reports import print_head, print_row
from trials.settings import read_settings
from trials.stress import Stress
from trials.training import run, warm_up

REMEDIES = Path(__file__).with_suffix(".toml")
#: Seeds from here on; the tuning seed and those of timed runs lie apart.
FIRST_SEED = 2_000
#: What is reported of the draws, by its name in ``told``.
TOLD = ("rank_correlation", "variance_ratio", "evidence_age")


def read_remedies(file):
    """Return, for each set, the remedies by name and the rates that they are tried at (None: the set's)."""
    with open(file, "rb") as stream:
        tables = tomllib.load(stream)
    return {name: (table["remedies"], table.get("rates")) for name, table in tables.items()}


def prepare(settings, title, options):
    """Return the settings and the stress under which a remedy is tried, as the arm named ``title``.

    ``settings`` and ``stress`` among the options change those of the set; ``of`` names the arm.
    """
    options = dict(options)
    changes, stress = options.pop("settings", {}), Stress(**options.pop("stress", {}))
    settings = replace(settings, **changes)
    options.setdefault("of", "sketch and last losses" if settings.n_candidates is None else "sketch")
    return replace(settings, variants={title: options}), stress


def summary(result):
    """Return what is kept of a run: its end, and the mean over epochs of what the arm told."""
    found = {}
    for name in TOLD:
        values = [epoch[name] for epoch in result["told"] if np.isfinite(epoch.get(name, np.nan))]
        found[name] = float(np.mean(values)) if values else None
    kept = ("points", "overhead_seconds", "effective_share", "corrupt_share")
    return found | {key: result[key] for key in kept}


def measure(folder, name, settings, remedies, rates, n_seeds, file):
    """Try what the file does not hold yet of one set; return all records of the set."""
    records = [record for record in read_results(file) if record["set"] == name] if file else []
    if file:
        end_last_line(file)
    tasks, warm = {}, set()

    def common(title, options):
        chosen, stress = prepare(settings, title, options)
        return chosen, stress, {"set": name, "remedy": title, "settings": chosen.fingerprint(), "of": options}

    done = {(r["remedy"], r["settings"], json.dumps(r["of"]), r["seed"], r["rate"]) for r in records}
    wanted = []
    for i in range(n_seeds):
        for title, options in remedies.items():
            chosen, stress, told = common(title, options)
            for rate in rates or chosen.rates:
                key = (title, told["settings"], json.dumps(options), FIRST_SEED + i, rate)
                if key not in done:
                    wanted.append((FIRST_SEED + i, rate, chosen, stress, told))
    for seed, rate, chosen, stress, told in with_progress(wanted, name):
        key = json.dumps(stress.told()), chosen.n_train, chosen.net, chosen.width
        if key not in tasks:
            tasks[key] = load(folder, name, chosen, stress)
        if told["remedy"] not in warm:
            warm_up(tasks[key], chosen, told["remedy"], stress)
            warm.add(told["remedy"])
        result = run(tasks[key], chosen, told["remedy"], rate, seed, stress, tuning=True)
        record = told | {"seed": seed, "rate": rate} | slim(summary(result))
        records.append(record)
        if file:
            append(file, json.dumps(record))
    return records


def print_table(name, records, settings):
    """Print a line for each remedy of a set, by the rate that is best over its seeds."""
    metric = settings.metric
    print(f"### {name}: {metric.replace('_', ' ')} on rows held out for tuning\n")
    heads = ["remedy", "n", "rate", "final", "deviation", "log loss", "rows", "seconds", "CPU seconds"]
    print_head([*heads, "overhead", "effective share", "rank correlation", "variance ratio", "wrong labels"])
    for title in dict.fromkeys(record["remedy"] for record in records):
        mine = [record for record in records if record["remedy"] == title]
        by_rate = {rate: [r for r in mine if r["rate"] == rate] for rate in sorted({r["rate"] for r in mine})}
        best = None
        for rate, runs in by_rate.items():
            mean = np.mean([final(run, metric) for run in runs])
            if best is None or np.isnan(best[1]) or is_better(metric, mean, best[1]):
                best = rate, mean
        runs = by_rate[best[0]]
        ends = [run["points"][-1] for run in runs]
        values = [end[metric] for end in ends]

        def average(key, form, runs=runs):
            found = [run[key] for run in runs if run[key] is not None]
            return format(np.mean(found), form) if found else ""

        seconds = [end["seconds"] for end in ends]
        print_row(
            [
                title,
                len(runs),
                f"{best[0]:g}",
                f"{np.mean(values):.4f}",
                f"{np.std(values, ddof=1):.4f}" if len(values) > 1 else "",
                f"{np.mean([end['log_loss'] for end in ends]):.4f}",
                f"{np.mean([end['samples'] for end in ends]):,.0f}",
                f"{np.mean(seconds):.2f}",
                f"{np.mean([end['cpu_seconds'] for end in ends]):.2f}",
                f"{np.mean([run['overhead_seconds'] for run in runs]) / np.mean(seconds):.1%}",
                average("effective_share", ".2f"),
                average("rank_correlation", ".2f"),
                average("variance_ratio", ".2f"),
                average("corrupt_share", ".1%"),
            ]
        )
    print()


def print_scores(folder, name, settings):
    """Print how well scores go with the true losses and gradient norms, after some epochs of a uniform run.

    A stream is gone through as if its first 60,000 rows came back, four times.
    """
    if settings.n_candidates:
        settings = replace(settings, n_candidates=None, n_train=60_000, epochs=4, share=0.5)
    settings = replace(settings, variants={"watched": {"of": "watched"}})
    rate = sorted(settings.rates)[1]
    task = load(folder, name, settings, Stress())
    told = run(task, settings, "watched", rate, FIRST_SEED, Stress(), tuning=True)["told"]
    print(f"### {name}: what scores are worth, of {len(told)} epochs of uniform draws, rate {rate:g}\n")
    titles = [key for key, value in told[-1].items() if isinstance(value, dict)]
    print_head(["scores", "after epoch", *told[-1][titles[0]]])
    for title in titles:
        for epoch in sorted({0, len(told) // 2 - 1, len(told) - 1}):
            if title in told[epoch]:
                cells = [f"{value:.2f}" for value in told[epoch][title].values()]
                print_row([title, epoch + 1, *cells])
    print()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NWSKETCH_DATA"))
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="of time_to_accuracy.py")
    parser.add_argument("--remedies", type=Path, default=REMEDIES, help="TOML file, one table per set")
    parser.add_argument("--results", type=Path, help="file of JSON lines to go on with")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a results file")
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--only", nargs="+", help="names of remedies; all of the set's, if left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scores", action="store_true", help="print what scores are worth, and nothing else")
    parser.add_argument("--smoke", action="store_true", help="made-up data, one seed")
    return parser, parser.parse_args()


def main():
    parser, options = parse()
    settings, remedies = read_settings(options.settings), read_remedies(options.remedies)
    if options.table:
        records = read_results(options.table)
        for name in dict.fromkeys(record["set"] for record in records):
            print_table(name, [record for record in records if record["set"] == name], settings[name])
        return
    smoke = [name for name in remedies if name.startswith("made_up")]
    if options.smoke:
        options.sets, options.seeds = smoke, 1
    elif not options.data_dir:
        parser.error("name the folder of the real data sets by --data-dir or NWSKETCH_DATA")
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    folder = options.data_dir and Path(options.data_dir)
    for name in options.sets or [name for name in remedies if name not in smoke]:
        if options.scores or options.smoke:
            print_scores(folder, name, settings[name])
        if options.scores:
            continue
        tried, rates = remedies[name]
        if options.only:
            tried = {title: tried[title] for title in options.only}
        records = measure(folder, name, settings[name], tried, rates, options.seeds, options.results)
        print_table(name, records, settings[name])


if __name__ == "__main__":
    main()
