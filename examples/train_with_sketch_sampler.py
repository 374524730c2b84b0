"""
==================================
Train on the examples that matter
==================================

Trains a network twice: on examples drawn uniformly, and on examples drawn by
:class:`nwsketch.training.SketchSampler` (from a stream: :class:`nwsketch.training.StreamSelector`). Prints
a table with a line per epoch, and saves a picture of accuracy against wall-clock time.

It needs the extras ``plot`` and ``torch``. ``digits`` comes with scikit-learn. The other sets are read from
the folder that ``--data-dir`` (or the environment variable NWSKETCH_DATA) names: ``fashion_mnist``
(convolutional net), ``sst2`` (embedding bag), ``adult`` (embeddings of categories) and ``kddcup99`` (one
pass over a stream: one of four examples is trained on). ``training_data.py`` beside this file holds loaders
and nets.

How it is measured:

- Both arms start from the same net, take the same number of steps on batches of the same size, and let the
  learning rate of Adam fall to 0 along a cosine over them. An epoch is half of the examples.
- "seconds" are wall-clock since the arm began, evaluation left out; making features, hashing, scoring,
  drawing and updating are in. What compiles or imports does so before the clock starts.
- "accuracy" is that on the test part, of imbalanced sets (adult, kddcup99) the balanced one.
- "ess" is the effective sample size as a share of the examples drawn, "rank" Spearman's correlation of the
  expected with the seen losses, "cost" the share of the time that choosing took. Of the stream, a line
  stands for a tenth of the pass.

It is one run of one seed: differences of a few tenths of a per cent are chance (try others by ``--seed``).
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, balanced_accuracy_score

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, RandomSampler, TensorDataset
    from training_data import LOADERS, Task
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: pip install 'nwsketch[plot,torch]'") from error

from nwsketch.training import SketchSampler, StreamSelector
from nwsketch.training.policies import effective_size

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

CANDIDATES = 4  # from a stream, for each example trained on
LINES = 10  # in the table, of a stream
COLUMNS = ("arm", "epoch", "mode", "ess", "rank", "cost", "accuracy", "seconds")
LINE = "{:<8} {:>5} {:<8} {:>6} {:>6} {:>6} {:>9} {:>8}"


def train_on_samples(run):
    """Train on a data set that is seen many times: the loop of README."""
    x, y = run.task.train
    dataset, n_drawn = TensorDataset(x, y), len(y) // 2
    sampler, uniform = None, RandomSampler(dataset, num_samples=n_drawn, generator=run.generator)
    if run.arm == "sketch":
        sampler = SketchSampler(run.task.features(x), labels=y, num_samples=n_drawn, seed=run.seed)
    loader = DataLoader(
        dataset if sampler is None else sampler.wrap(dataset),
        batch_size=run.task.batch_size,
        sampler=uniform if sampler is None else sampler,
    )
    run.plan(run.task.epochs * len(loader))
    for _ in range(run.task.epochs):
        for batch in loader:
            index, weight, (x, y) = batch if sampler is not None else (None, torch.ones(()), batch)
            losses = run.step(x, y, weight)
            if sampler is not None:
                sampler.update(index, losses)
        seen = {"mode": "uniform"} if sampler is None else sampler.metrics()
        run.report(
            seen["mode"],
            seen.get("effective_sample_size", n_drawn) / n_drawn,
            seen.get("rank_correlation", np.nan),
            seen.get("overhead_share", 0.0),
        )


def train_on_stream(run):
    """Train on a stream, of which no example comes back."""
    x, y = run.task.train
    n_select = run.task.batch_size
    batches = list(zip(x.split(CANDIDATES * n_select), y.split(CANDIDATES * n_select), strict=True))[:-1]
    selector = StreamSelector(n_labels=run.task.n_classes, seed=run.seed)
    run.plan(len(batches))
    spent, notes = 0.0, []
    for number, (x, y) in enumerate(batches, start=1):
        mode, start = "uniform", time.perf_counter()
        if run.arm == "sketch":
            mode = "uniform" if selector.is_warming_up else "sampled"
            rows, weights, codes = selector.select(run.task.features(x), y, n_select=n_select)
            rows, weights = torch.from_numpy(rows), torch.from_numpy(weights)
        else:
            rows = torch.randperm(len(x), generator=run.generator)[:n_select]
            weights = torch.ones(n_select)
        spent += time.perf_counter() - start
        losses = run.step(x[rows], y[rows], weights)
        if run.arm == "sketch":
            start = time.perf_counter()
            selector.update(codes, losses)
            spent += time.perf_counter() - start
        notes.append((weights.numpy(), losses.numpy()))
        if number * LINES // len(batches) > (number - 1) * LINES // len(batches):
            weights, losses = (np.concatenate(part) for part in zip(*notes, strict=True))
            # A weight falls as the expected loss rises.
            rank = np.nan if np.ptp(weights) == 0 else spearmanr(-weights, losses).statistic
            run.report(mode, effective_size(weights) / len(weights), rank, spent / run.seconds())
            notes = []


class Run:
    """One arm: its net, its clock, and what it reports."""

    def __init__(self, task, arm, seed):
        torch.manual_seed(seed)
        self.task, self.arm, self.seed = task, arm, seed
        self.net = task.make_net()
        self.generator = torch.Generator().manual_seed(seed)
        self.curve = []  # seconds and accuracies
        self.bar = None
        self.apart = 0.0  # seconds of evaluations
        self.start = time.perf_counter()

    def plan(self, n_steps):
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=2e-3)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, n_steps)
        if tqdm is not None:  # on a terminal alone
            self.bar = tqdm(total=n_steps, desc=self.arm, unit="step", leave=False, disable=None)

    def step(self, x, y, weight):
        """Take a step by the weighted mean of the losses; return the losses themselves."""
        losses = cross_entropy(self.net(x), y, reduction="none")
        (weight * losses).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.bar is not None:
            self.bar.update()
        return losses.detach()

    def seconds(self):
        return time.perf_counter() - self.start - self.apart

    def report(self, mode, ess, rank, cost):
        """Evaluate, off the clock, and print a line."""
        seconds, start = self.seconds(), time.perf_counter()
        x, y = self.task.test
        self.net.eval()
        with torch.inference_mode():
            predicted = torch.cat([self.net(part).argmax(dim=1) for part in x.split(2_000)])
        self.net.train()
        score = balanced_accuracy_score if self.task.is_imbalanced else accuracy_score
        self.curve.append((seconds, score(y, predicted)))
        shown = ["-" if np.isnan(value) else f"{value:.3f}" for value in (ess, rank, cost)]
        line = LINE.format(
            self.arm, len(self.curve), mode, *shown, f"{self.curve[-1][1]:.4f}", f"{seconds:.2f}"
        )
        print(line, flush=True) if self.bar is None else self.bar.write(line)
        self.apart += time.perf_counter() - start


def rehearse(n_classes):
    """Train and sample once on a few rows, so that no clock counts compilation or imports."""
    x, y = torch.randn(64, 16), torch.arange(64) % n_classes
    task = Task((x, y), (x, y), lambda: torch.nn.Linear(16, n_classes), None, n_classes, 1, 64)
    rehearsal = Run(task, "uniform", 0)
    rehearsal.plan(1)
    rehearsal.step(x, y, 1.0)
    rehearsal.bar = rehearsal.bar and rehearsal.bar.close()
    sampler = SketchSampler(x, labels=y, num_samples=32, warmup_epochs=0, switch=None, seed=0)
    for index, weight, _ in DataLoader(sampler.wrap(TensorDataset(x)), sampler=sampler, batch_size=32):
        sampler.update(index, weight)
    sampler.metrics()
    selector = StreamSelector(n_labels=n_classes, warmup=1, seed=0)
    for _ in range(2):
        selector.update(selector.select(x, y, n_select=16).codes, torch.rand(16))


def draw(runs, title, output):
    """Draw accuracy against wall-clock time."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for run in runs:
        axes.plot(*zip(*run.curve, strict=True), marker=".", label=run.arm)
    name = "balanced accuracy" if runs[0].task.is_imbalanced else "accuracy"
    axes.set(xlabel="seconds of training, without evaluation", ylabel=f"{name} on the test part", title=title)
    axes.legend()
    figure.savefig(output, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[1])
    parser.add_argument("--dataset", choices=LOADERS, default="digits")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NWSKETCH_DATA") or None)
    parser.add_argument("--epochs", type=int, help="default: as the set asks for; a stream has one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default="train_with_sketch_sampler.png")
    options = parser.parse_args()
    if options.dataset != "digits" and options.data_dir is None:
        parser.error(f"{options.dataset} is no part of scikit-learn: name its folder by --data-dir")
    if options.data_dir and not Path(options.data_dir).is_dir():
        parser.error(f"--data-dir {options.data_dir} is no folder")
    torch.set_num_threads(options.threads)
    task = LOADERS[options.dataset](options.data_dir and Path(options.data_dir))
    task.epochs = task.epochs if options.epochs is None else options.epochs
    rehearse(task.n_classes)
    print(f"{options.dataset}: {len(task.train[1]):,} examples, {options.threads} threads")
    print(LINE.format(*COLUMNS), flush=True)
    runs = []
    for arm in ("uniform", "sketch"):
        run = Run(task, arm, options.seed)
        (train_on_stream if task.is_stream else train_on_samples)(run)
        if run.bar is not None:
            run.bar.close()
        runs.append(run)
    for run in runs:
        seconds, accuracy = run.curve[-1]
        print(f"{run.arm}: {accuracy:.4f} after {seconds:.2f} s")
    draw(runs, options.dataset, options.output)
    print(f"picture: {options.output}")


if __name__ == "__main__":
    main()
