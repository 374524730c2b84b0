"""Records of runs as JSON lines, and the runs that are still wanted: an interrupt costs one run."""

import itertools

from trials.evaluation import RISING

#: Seed of the runs that choose the learning rates; those reported have the seeds from ``first_seed`` on.
TUNING_SEED = 1_000

#: What is kept of what an arm told after an epoch.
TOLD = ("seconds", "mode", "largest_weight", "rank_correlation", "variance_ratio")


def end_last_line(file):
    """End a line that an interrupt cut off, so that the next record has one of its own."""
    if file.exists() and not file.read_text().endswith("\n"):
        append(file, "")


def append(file, line):
    """Write one line, at once."""
    with open(file, "a") as lines:
        lines.write(line + "\n")


def slim(value):
    """Return a record with floats of six digits, and of what arms told the numbers that tables show."""
    if isinstance(value, dict):
        return {
            key: [{name: slim(each.get(name)) for name in TOLD if name in each} for each in item]
            if key == "told"
            else slim(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [slim(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def key_of(record):
    """Return what tells runs of a set apart."""
    return record["phase"], record["arm"], record["seed"], record["rate"]


def is_better(metric, value, other):
    """Return whether a value of a metric is better than another one."""
    return value > other if metric in RISING else value < other


def final(record, metric):
    """Return the metric at the end of a run."""
    return record["points"][-1][metric]


def tuning_keys(settings, arms):
    """Return the runs that choose rates, in order: every arm alike."""
    return [("tune", arm, TUNING_SEED, rate) for arm in arms for rate in settings.rates]


def best_rate(records, settings, arm):
    """Return the rate that tuned best; None unless all were tried."""
    found = {
        record["rate"]: record for record in records if record["phase"] == "tune" and record["arm"] == arm
    }
    if any(rate not in found for rate in settings.rates):
        return None
    best = settings.rates[0]
    for rate in settings.rates[1:]:
        ours, theirs = (final(found[key], settings.metric) for key in (rate, best))
        # NaN, of a run that diverged, is no better than anything, and anything is better than it.
        if is_better(settings.metric, ours, theirs) or theirs != theirs:
            best = rate
    return best


def timed_keys(settings, arms, rates):
    """Return the timed runs, in order: all arms of a seed before the next, each seed from another arm on."""
    keys = []
    for i in range(settings.seeds):
        first, seed = i % len(arms), settings.first_seed + i
        keys += [("timed", arm, seed, rates[arm]) for arm in (*arms[first:], *arms[:first])]
    return keys


def missing(records, keys):
    """Return the keys that have no record yet."""
    done = {key_of(record) for record in records}
    return [key for key in keys if key not in done]


def group(records):
    """Return records by set and stress, in order of appearance: ``{(set, stress as text): records}``."""
    groups = {}
    for record in records:
        stress = ", ".join(f"{key} {value}" for key, value in record["stress"].items())
        groups.setdefault((record["set"], stress), []).append(record)
    return groups


def arms_in(records):
    """Return the arms that were timed, in the order of tuning."""
    timed = {record["arm"] for record in records if record["phase"] == "timed"}
    named = dict.fromkeys(itertools.chain((record["arm"] for record in records), timed))
    return [arm for arm in named if arm in timed]
