"""Does sampling by a sketch train faster? Time to accuracy, by a clock that charges everything.

How it is measured, alike for every arm of a set (``time_to_accuracy.toml`` holds the settings):

- Rows: a tenth of every class of the training part is held out for tuning, unless the source has a part for
  it; the arms learn from the others, as many as the settings say. Batches are gathered from tensors in
  memory, the fastest loading there is, so that what a sampler takes beside training weighs most.
- Rates: three learning rates, on one seed that is not among those reported; the best by the final metric
  on the rows for tuning. Every run decays its rate to zero over its own rows.
- Timed runs: one after the other, all arms of a seed before the next seed, each seed from another arm on. The
  net of a seed is the same for all arms.
- The clock starts before the first batch, with code compiled: making the arm (features, hashing), scoring,
  drawing, loading, training and updating are charged, the uniform warm-up too. Evaluations are not.
- The target is the mean final metric of the uniform arm less one standard deviation over its seeds.
- "times sooner" is the geometric mean over those pairs of seeds of which both runs reached the target, with
  its 95 per cent interval; a run that misses is in no ratio, but in the count of who was first. An arm is
  said to be faster only if it is so against uniform, uniform at the same number of rows, and dynamic random.

    python tests/benchmarks/time_to_accuracy.py --data-dir DIR --sets adult --results FILE   # resumes
    python tests/benchmarks/time_to_accuracy.py --table FILE                    # Markdown tables
    python tests/benchmarks/time_to_accuracy.py --table FILE --picture PICTURE  # and a picture
    python tests/benchmarks/time_to_accuracy.py --smoke                         # made-up data: does it run?
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from accuracy import read_results
from threadpoolctl import threadpool_limits
from trials.data import load
from trials.evaluation import METRICS
from trials.pictures import draw
from trials.records import append, best_rate, end_last_line, missing, slim, timed_keys, tuning_keys
from trials.reports import print_tables
from trials.settings import read_settings
from trials.stress import Stress
from trials.training import arms_of, run, warm_up

SETTINGS = Path(__file__).with_suffix(".toml")
SMOKE_SETS = ("made_up", "made_up_stream")


def with_progress(keys, name):
    """Show a bar, where the output is a terminal and tqdm is installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return keys
    return tqdm(keys, desc=name, unit=" runs", disable=None)


def measure(folder, name, settings, arms, stress, threads, file):
    """Measure what the file does not hold yet of one set; return the records of the set under this stress.

    Every record is written as soon as it is known, so that an interrupt costs one run.
    """
    common = {
        "set": name,
        "stress": stress.told(),
        "threads": threads,
        "settings": settings.fingerprint(),
    }
    records = [record for record in read_results(file) if record["set"] == name] if file else []
    records = [record for record in records if record["stress"] == common["stress"]]
    if any(record[key] != value for record in records for key, value in common.items()):
        raise SystemExit(f"{file} has results of {name} for other settings or threads; give another file.")
    if file:
        end_last_line(file)
    task, warm = None, set()

    def carry_out(keys, title):
        nonlocal task
        for phase, arm, seed, rate in with_progress(missing(records, keys), title):
            task = load(folder, name, settings, stress) if task is None else task
            if arm not in warm:
                warm_up(task, settings, arm, stress)
                warm.add(arm)
            result = run(task, settings, arm, rate, seed, stress, tuning=phase == "tune")
            record = common | {"phase": phase, "arm": arm, "seed": seed, "rate": rate} | slim(result)
            records.append(record)
            if file:
                append(file, json.dumps(record))

    carry_out(tuning_keys(settings, arms), f"{name}, tuning")
    rates = {arm: best_rate(records, settings, arm) for arm in arms}
    carry_out(timed_keys(settings, arms, rates), f"{name}, timed")
    return records


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NWSKETCH_DATA"))
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="TOML file, one table per set")
    parser.add_argument("--results", type=Path, help="file of JSON lines to go on with")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a results file")
    parser.add_argument("--picture", type=Path, help="with --table: draw the results too")
    parser.add_argument("--metric", choices=METRICS, help="for tables and pictures, in place of the set's")
    parser.add_argument("--clock", choices=("seconds", "cpu_seconds"), default="seconds")
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--arms", nargs="+", help="all of the set's, if left out")
    parser.add_argument("--seeds", type=int, help="in place of the settings' number")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--label-noise", type=float, default=0.0, help="share of training labels made wrong")
    parser.add_argument("--imbalance", type=float, default=1.0, help="the last class keeps a row in so many")
    parser.add_argument("--augment", action="store_true", help="shift and mirror images, drop words")
    parser.add_argument("--smoke", action="store_true", help="made-up data, two seeds")
    return parser, parser.parse_args()


def main():
    parser, options = parse()
    settings = read_settings(options.settings)
    show = {"metric": options.metric, "clock": options.clock}
    if options.table:
        records = read_results(options.table)
        print_tables(records, settings, **show)
        if options.picture:
            draw(records, settings, options.picture, **show)
        return
    if options.smoke:
        options.sets, options.threads = SMOKE_SETS, 1
    elif not options.data_dir:
        parser.error("name the folder of the real data sets by --data-dir or NWSKETCH_DATA")
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    stress = Stress(options.label_noise, options.imbalance, options.augment)
    records = []
    for name in options.sets or [name for name in settings if name not in SMOKE_SETS]:
        if name not in settings:
            parser.error(f"{options.settings} has no table of {name}, but of {', '.join(settings)}")
        chosen = replace(settings[name], seeds=options.seeds or settings[name].seeds)
        arms = options.arms or list(arms_of(chosen))
        folder = options.data_dir and Path(options.data_dir)
        records += measure(folder, name, chosen, arms, stress, options.threads, options.results)
    print_tables(records, settings, **show)
    if options.picture:
        draw(records, settings, options.picture, **show)


if __name__ == "__main__":
    main()
