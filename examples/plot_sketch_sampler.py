"""
=========================================
Watching a sampler choose what to learn
=========================================

:class:`nwsketch.training.SketchSampler` draws the examples that a network trains on by the loss that a sketch
expects of them. :class:`nwsketch.plotting.SamplerDisplay` shows how that goes: whether losses are foreseen,
how unequal the weights are and how much the draw is worth, which classes are drawn, and what it all costs.
(For a race against uniform sampling by the clock see ``train_with_sketch_sampler.py``.)

The set is made up: three classes in 20 features, of which the third is rare and lies among the second. A
small network learns it from half of the examples an epoch. It needs PyTorch, and says so where there is none.

Columns of the table: "mode", how the epoch was drawn; "worth", the effective sample size as a share of the
examples drawn; "rank", Spearman's correlation of the expected with the seen losses; "cost", the overhead as a
share of the time of training so far; "accuracy", balanced, on 3,000 further examples, of the net after the
epoch; "uniform", that of the same net trained on uniform draws of the same size.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import balanced_accuracy_score

try:
    import torch
except ImportError:
    torch = None

N_ROWS, N_TEST, N_EPOCHS, BATCH_SIZE = 12_000, 3_000, 8, 100
CLASSES = ("common", "frequent", "rare")
LINE = "{:>5}  {:<8} {:>6} {:>6} {:>6} {:>9} {:>9}"


def make_rows(seed=0):
    """Return rows and classes, float32 and int64: the last N_TEST are for testing."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, N_ROWS + N_TEST, p=[0.7, 0.26, 0.04])
    X = rng.normal(size=(len(labels), 20))
    X[:, 0] += 5.0 * (labels > 0)
    X[:, 1:4] += 1.3 * (labels == 2)[:, np.newaxis]
    return X.astype(np.float32), labels


def make_net(seed):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    return net, torch.optim.Adam(net.parameters(), lr=1e-3)


def train(net, optimizer, batches, learn=None):
    """Train for an epoch by the weighted means of the losses; ``learn`` is told the losses."""
    for index, weight, (x, y) in batches:
        losses = torch.nn.functional.cross_entropy(net(x), y, reduction="none")
        (weight * losses).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if learn is not None:
            learn(index, losses.detach())


def accuracy(net, x, y):
    with torch.inference_mode():
        return balanced_accuracy_score(y, net(x).argmax(dim=1))


def uniform_batches(x, y, rng):
    rows = torch.from_numpy(rng.choice(len(y), len(y) // 2, replace=False))
    for index in rows.split(BATCH_SIZE):
        yield index, torch.ones(len(index)), (x[index], y[index])


def draw(sampler, history, output):
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    from nwsketch.plotting import SamplerDisplay

    display = SamplerDisplay.from_sampler(sampler, history, class_names=CLASSES)
    display.figure_.savefig(output, dpi=120)
    print(f"picture: {output}")


def main():
    parser = argparse.ArgumentParser(description="Watching a sampler choose what to learn.")
    parser.add_argument("--output", type=Path, default="sketch_sampler.png")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if torch is None:
        print('nothing to watch: PyTorch is not installed (pip install "nwsketch[torch]")')
        return
    from torch.utils.data import DataLoader, TensorDataset

    from nwsketch.training import SketchSampler

    torch.set_num_threads(options.threads)
    rehearsal = SketchSampler(
        torch.eye(9), labels=torch.arange(9) % 3, num_samples=3, warmup_epochs=0, switch=None, seed=0
    )
    for index, weight, _ in DataLoader(rehearsal.wrap(TensorDataset(torch.eye(9))), sampler=rehearsal):
        rehearsal.update(index, weight)  # code is compiled off the clock
    X, labels = make_rows()
    x, y = torch.from_numpy(X[:N_ROWS]), torch.from_numpy(labels[:N_ROWS])
    test = torch.from_numpy(X[N_ROWS:]), labels[N_ROWS:]
    sampler = SketchSampler(x, labels=y, num_samples=N_ROWS // 2, seed=0)
    loader = DataLoader(sampler.wrap(TensorDataset(x, y)), batch_size=BATCH_SIZE, sampler=sampler)
    net, optimizer = make_net(0)
    plain, plain_optimizer = make_net(0)
    rng, history = np.random.default_rng(0), []
    print(LINE.format("epoch", "mode", "worth", "rank", "cost", "accuracy", "uniform"), flush=True)
    for epoch in range(N_EPOCHS):
        train(net, optimizer, loader, sampler.update)
        history.append(sampler.metrics())
        train(plain, plain_optimizer, uniform_batches(x, y, rng))
        said = history[-1]
        shares = (
            said["effective_sample_size"] / len(sampler),
            said["rank_correlation"],
            said["overhead_share"],
        )
        shown = ["-" if np.isnan(share) else f"{share:.2f}" for share in shares]
        accuracies = (f"{accuracy(each, *test):.4f}" for each in (net, plain))
        print(LINE.format(epoch, said["mode"], *shown, *accuracies), flush=True)
    draw(sampler, history, options.output)


if __name__ == "__main__":
    main()
