"""Tables in Markdown of what the records say."""

import numpy as np

from trials.evaluation import RISING
from trials.records import arms_in, best_rate, final, group
from trials.statistics import curve, interval, speed_up, target_of, time_to, value_at

UNIFORM = "uniform"
#: A speed-up is claimed only against all of these that were run.
RIVALS = (UNIFORM, "uniform at budget", "dynamic random")
MOMENTS = (0.25, 0.5, 1.0)


def print_row(cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def print_head(cells):
    print_row(cells)
    print_row(["---", *["--:"] * (len(cells) - 1)])


def with_half_width(values, sign=False):
    """Return the mean and the half-width of its 95 per cent interval, as text."""
    mean, half = interval(values)
    text = f"{mean:+.4f}" if sign else f"{mean:.4f}"
    return text if np.isnan(half) else f"{text} ± {half:.4f}"


def misses(times):
    """Return how many runs missed the target, as text."""
    return f"{int(np.isnan(times).sum())} of {len(times)}"


def mean_time(times):
    return "" if np.isnan(times).all() else f"{np.nanmean(times):.1f}"


class Comparison:
    """The timed runs of one set under one stress, by arm and seed, and the target that follows from them.

    Parameters
    ----------
    records : list of dict
        Of one set and stress.
    settings : Settings
    metric : str or None
        None for that of the settings.
    clock : {"seconds", "cpu_seconds"}
    """

    def __init__(self, records, settings, metric=None, clock="seconds"):
        self.records, self.settings, self.clock = records, settings, clock
        self.metric = metric or settings.metric
        self.arms = arms_in(records)
        self.runs = {arm: {} for arm in self.arms}
        for record in records:
            if record["phase"] == "timed":
                self.runs[record["arm"]][record["seed"]] = record
        finals = [final(record, self.metric) for record in self.runs.get(UNIFORM, {}).values()]
        self.target = target_of(finals, self.metric) if finals else float("nan")

    def times(self, arm, seeds):
        """Return the times to the target."""
        return np.array(
            [
                time_to(*curve(self.runs[arm][seed], self.metric, self.clock), self.target, self.metric)
                for seed in seeds
            ]
        )

    def pairs(self, arm, other):
        """Return the seeds that both arms were run with."""
        return sorted(set(self.runs[arm]) & set(self.runs[other]))

    def gaps(self, arm, metric):
        """Return the final metrics of an arm less those of uniform, of paired seeds."""
        seeds = self.pairs(arm, UNIFORM)
        return [
            final(self.runs[arm][seed], metric) - final(self.runs[UNIFORM][seed], metric) for seed in seeds
        ]

    def at(self, arm, share):
        """Return the metrics at a share of the time that uniform took, of paired seeds."""
        values = []
        for seed in self.pairs(arm, UNIFORM):
            moment = share * self.runs[UNIFORM][seed]["points"][-1][self.clock]
            values.append(value_at(*curve(self.runs[arm][seed], self.metric, self.clock), moment))
        return values


def print_comparison(comparison):
    """Print what every arm reached, and when."""
    metric = comparison.metric.replace("_", " ")
    if UNIFORM not in comparison.runs:
        print("The uniform arm was not run: there is no target.\n")
        return
    print(f"Target: {metric} {comparison.target:.4f}. Paired: less uniform's, 95 per cent by Student's t.\n")
    shares = [f"at {share:.0%} of uniform's time" for share in MOMENTS]
    print_head(["arm", "n", "rate", "rows trained on", "seconds", f"final {metric}", "paired", *shares])
    for arm in comparison.arms:
        runs = list(comparison.runs[arm].values())
        ends = [run["points"][-1] for run in runs]
        rate = best_rate(comparison.records, comparison.settings, arm)
        at_edge = rate in (min(comparison.settings.rates), max(comparison.settings.rates))
        print_row(
            [
                arm,
                len(runs),
                f"{runs[0]['rate']:g}" + ("*" if at_edge else ""),
                f"{np.mean([end['samples'] for end in ends]):,.0f}",
                f"{np.mean([end[comparison.clock] for end in ends]):.1f}",
                with_half_width([end[comparison.metric] for end in ends]),
                "" if arm == UNIFORM else with_half_width(comparison.gaps(arm, comparison.metric), sign=True),
                *(f"{np.mean(comparison.at(arm, share)):.4f}" for share in MOMENTS),
            ]
        )
    print("\n\\* at the edge of the rates tried.\n")
    rivals = [rival for rival in RIVALS if rival in comparison.runs]
    heads = [f"times sooner than {rival} (pairs)" for rival in rivals]
    print_head(["arm", "n", "seconds to target", "misses", *heads, "overhead"])
    for arm in comparison.arms:
        runs = comparison.runs[arm]
        times = comparison.times(arm, sorted(runs))
        overheads = [run["overhead_seconds"] / run["points"][-1]["seconds"] for run in runs.values()]
        cells = [arm, len(runs), mean_time(times), misses(times)]
        cells += [ratio_text(comparison, arm, rival) for rival in rivals]
        print_row([*cells, f"{np.mean(overheads):.1%}"])
    print()
    print_verdict(comparison)


def count_firsts(ours, theirs):
    """Return in how many pairs we reached the target and the rival later or never."""
    return int(np.sum(np.nan_to_num(ours, nan=np.inf) < np.nan_to_num(theirs, nan=np.inf)))


def ratio_text(comparison, arm, rival):
    """Return how many times sooner an arm arrives than a rival, the interval, and how often it is first."""
    if arm == rival:
        return ""
    seeds = comparison.pairs(arm, rival)
    ours, theirs = comparison.times(arm, seeds), comparison.times(rival, seeds)
    ratio, low, high, n = speed_up(ours, theirs)
    text = f"{ratio:.2f} " if n else ""
    text += f"[{low:.2f}, {high:.2f}] " if n > 1 else ""
    return f"{text}({n}), first {count_firsts(ours, theirs)} of {len(seeds)}"


def is_sooner(comparison, arm, rival):
    """Return whether an arm may be called faster than a rival.

    Either it was first in all of at least five pairs (a sign test of 3 per cent); or it missed the target in
    no more of the paired runs than the rival did, and the interval of the ratio lies above 1.
    """
    seeds = comparison.pairs(arm, rival)
    ours, theirs = comparison.times(arm, seeds), comparison.times(rival, seeds)
    if len(seeds) >= 5 and count_firsts(ours, theirs) == len(seeds):
        return True
    return bool(np.isnan(ours).sum() <= np.isnan(theirs).sum() and speed_up(ours, theirs)[1] > 1)


def print_verdict(comparison):
    """Say of which arms the records show that they are faster than all that must be beaten."""
    rivals = [rival for rival in RIVALS if rival in comparison.runs]
    found = {arm: [is_sooner(comparison, arm, rival) for rival in rivals] for arm in comparison.arms}
    faster = [arm for arm in comparison.arms if arm not in rivals and all(found[arm])]
    print(f"Faster than {', '.join(rivals)}, as far as these runs show: {', '.join(faster) or 'none'}.\n")


def print_all_metrics(comparison):
    """Print the final value of every metric, and what the draws were like."""
    metrics = [*RISING, "log_loss"]
    draws = ("effective share", "largest weight", "rank correlation", "variance ratio", "wrong labels drawn")
    print_head(["final, mean", *(metric.replace("_", " ") for metric in metrics), *draws])
    for arm in comparison.arms:
        runs = list(comparison.runs[arm].values())
        cells = [f"{np.mean([final(run, metric) for run in runs]):.4f}" for metric in metrics]
        cells.append(f"{np.mean([run['effective_share'] for run in runs]):.2f}")
        for name, form in (("largest_weight", ".1f"), ("rank_correlation", ".2f"), ("variance_ratio", ".2f")):
            values = [epoch[name] for run in runs for epoch in run["told"] if epoch.get(name) is not None]
            values = [value for value in values if np.isfinite(value)]
            cells.append(format(np.mean(values), form) if values else "")
        wrong = [run["corrupt_share"] for run in runs if run["corrupt_share"] is not None]
        print_row([arm, *cells, f"{np.mean(wrong):.1%}" if wrong else ""])
    print()


def print_tables(records, settings, metric=None, clock="seconds"):
    """Print the tables of all sets and kinds of stress that the records hold."""
    for (name, stress), found in group(records).items():
        comparison = Comparison(found, settings[name], metric, clock)
        if not comparison.arms:
            print(f"{name}: no timed run yet, {len(found)} of tuning.\n")
            continue
        threads = {record["threads"] for record in found}
        print(f"### {name}" + (f", {stress}" if stress else ""))
        print(f"\n{clock.replace('_', ' ')}; threads: {', '.join(map(str, sorted(threads)))}.", end=" ")
        print_comparison(comparison)
        print_all_metrics(comparison)
