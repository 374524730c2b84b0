"""A picture of the records: the metric against seconds, a line per arm with a band of one deviation."""

import numpy as np

from trials.evaluation import RISING
from trials.records import group
from trials.reports import Comparison
from trials.statistics import curve

N_MOMENTS = 200
#: Of matplotlib's cycle: further lines are dashed.
N_COLOURS = 10


def draw(records, settings, file, metric=None, clock="seconds"):
    """Write a picture, one panel per set and stress.

    Parameters
    ----------
    records : list of dict
    settings : dict of Settings
    file : Path
    metric, clock : str
        As for the tables.
    """
    from matplotlib import use

    use("Agg")
    from matplotlib import pyplot

    groups = group(record for record in records if record["phase"] == "timed")
    figure, panels = pyplot.subplots(
        1, max(len(groups), 1), figsize=(7 * max(len(groups), 1), 5), squeeze=False, layout="constrained"
    )
    for panel, ((name, stress), found) in zip(panels[0], groups.items(), strict=False):
        comparison = Comparison(found, settings[name], metric, clock)
        draw_panel(panel, comparison)
        panel.set_title(f"{name}, {stress}" if stress else name)
    figure.savefig(file, dpi=90)
    pyplot.close(figure)


def draw_panel(panel, comparison):
    """Draw the arms of one comparison; a line ends with the first of its runs."""
    late = []
    for i, arm in enumerate(comparison.arms):
        runs = comparison.runs[arm].values()
        curves = [curve(run, comparison.metric, comparison.clock) for run in runs]
        end = min(times[-1] for times, _ in curves)
        moments = np.linspace(max(times[0] for times, _ in curves), end, N_MOMENTS)
        values = np.array([np.interp(moments, *each) for each in curves])
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)
        style = "-" if i < N_COLOURS else "--"
        (line,) = panel.plot(moments, mean, style, label=f"{arm} (n = {len(values)})")
        panel.fill_between(moments, mean - spread, mean + spread, alpha=0.06, color=line.get_color())
        late.append(mean[N_MOMENTS // 4 :])
    # The start of a run, and an arm that is late, would leave no room for differences at the end.
    ends = np.quantile(np.concatenate(late), (0.15, 1.0) if comparison.metric in RISING else (0.0, 0.85))
    margin = 0.15 * np.ptp(ends)
    panel.set_ylim(ends[0] - margin, ends[1] + margin)
    panel.axhline(comparison.target, color="grey", linestyle=":", label="target")
    panel.set_xlabel(comparison.clock.replace("_", " "))
    panel.set_ylabel(comparison.metric.replace("_", " "))
    panel.legend(fontsize=8)
