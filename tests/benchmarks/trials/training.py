"""One run of one arm: the same training loop for all, and a clock that charges all but evaluations."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from nwsketch.training import gradient_norm_bound, policies
from trials.arms import MAP_ARMS, Context, SkipBackward
from trials.clock import Clock
from trials.evaluation import evaluate, predict
from trials.streams import STREAM_ARMS
from trials.watching import Watched

#: Arms that are run only where a variant asks for them.
ONLY_AS_VARIANTS = {"skip backward": SkipBackward, "watched": Watched}


def arms_of(settings):
    """Return all arms of a set by name, with their options: those of its kind, and its variants."""
    known = MAP_ARMS if settings.n_candidates is None else STREAM_ARMS
    arms = {name: (make, {}) for name, make in known.items()}
    known = known | ONLY_AS_VARIANTS
    for name, options in settings.variants.items():
        options = dict(options)
        arms[name] = (known[options.pop("of")], options)
    return arms


def make_optimiser(model, settings, rate):
    if settings.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    return torch.optim.Adam(model.parameters(), lr=rate)


def run(task, settings, arm_name, rate, seed, stress, tuning=False):
    """Train one net; return what is to be recorded.

    The seed draws the net, alike for all arms, and the order and draws of the arm. The rate is decayed to
    zero along a half cosine over the arm's own number of rows. Evaluations come after as many rows for every
    arm, before the first step, and at the end; the clock stands still meanwhile.

    Parameters
    ----------
    task : Task
    settings : Settings
    arm_name : str
    rate : float
    seed : int
    stress : Stress
    tuning : bool
        Whether to evaluate on the tuning part rather than on the test part, and at the end alone.

    Returns
    -------
    dict
        ``points``, each with ``samples``, ``seconds``, ``cpu_seconds`` and the metrics; ``overhead_seconds``;
        ``told``, what the arm itself said after every epoch.
    """
    torch.manual_seed(seed)
    model = task.make_net()
    optimiser = make_optimiser(model, settings, rate)
    inputs, labels = task.train
    loading = np.random.default_rng(seed)
    part = task.tune if tuning else task.test
    n_rows = len(labels)
    apart = n_rows if tuning else max(settings.epochs * n_rows // settings.evaluations, 1)

    def losses_of(rows, as_norms=False):
        rows = torch.from_numpy(rows)
        logits = predict(model, inputs[rows])
        if as_norms:
            return gradient_norm_bound(logits, labels[rows])
        return functional.cross_entropy(logits, labels[rows], reduction="none")

    make, options = arms_of(settings)[arm_name]
    points, told, weights_seen, n_seen, n_corrupt = [], [], [], 0, 0
    clock = Clock()

    def note():
        with clock.paused():
            spent = {"samples": n_seen, "seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds}
            points.append(spent | evaluate(model, part))

    with clock.measured():
        arm = make(Context(settings, inputs, labels, task.n_classes, task.features, losses_of, seed, options))
    if not tuning:
        note()
    for epoch in range(settings.epochs):
        batches, n_before = arm.batches(epoch), n_seen
        while True:
            with clock.measured():
                batch = next(batches, None)
            if batch is None:
                break
            rows, weights = batch
            done = (epoch + (n_seen - n_before) / arm.n_planned) / settings.epochs
            for group in optimiser.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done))
            chosen = torch.from_numpy(rows)
            targets = labels[chosen]
            logits = model(stress.change(inputs[chosen], loading))
            losses = functional.cross_entropy(logits, targets, reduction="none")
            loss = losses.mean() if weights is None else (torch.from_numpy(weights) * losses).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with clock.measured():
                seen = gradient_norm_bound(logits.detach(), targets) if arm.wants_gradients else losses
                arm.observe(rows, seen.detach())
            n_seen += len(rows)
            if task.is_corrupt is not None:
                n_corrupt += int(task.is_corrupt[rows].sum())
            if weights is not None:
                weights_seen.append(weights)
            if n_seen // apart > (n_seen - len(rows)) // apart and not tuning:
                note()
        with clock.paused():
            told.append({"seconds": clock.seconds} | arm.metrics())
    if points and points[-1]["samples"] == n_seen:
        points.pop()
    note()
    weights_seen = np.concatenate(weights_seen or [np.ones(1)])
    return {
        "points": points,
        "overhead_seconds": clock.overhead,
        "effective_share": policies.effective_size(weights_seen) / len(weights_seen),
        "corrupt_share": None if task.is_corrupt is None else n_corrupt / n_seen,
        "told": told,
    }


def warm_up(task, settings, arm_name, stress):
    """Have code compiled before the clock starts: a short run on a few of the rows."""
    n_rows = min(len(task.train.labels), max(4 * settings.batch_size, 2 * (settings.n_candidates or 0)))
    few = task.train.rows(slice(0, n_rows))
    corrupt = None if task.is_corrupt is None else task.is_corrupt[:n_rows]
    short = replace(
        task,
        train=few,
        tune=task.tune.rows(slice(0, 64)),
        test=task.test.rows(slice(0, 64)),
        is_corrupt=corrupt,
    )
    sketch = settings.sketch | ({"warmup": 1} if settings.n_candidates else {"warmup_epochs": 0})
    run(short, replace(settings, epochs=2, sketch=sketch), arm_name, settings.rates[0], 0, stress)
