"""What choosing examples costs, in per cent of the training that it serves.

- sampler: Fashion-MNIST, 28x28; conv 3x3x32, pool, conv 3x3x64, pool, linear 128, linear 10; batches of 128;
  two passes, in four epochs of half of the examples: two are the warm-up, two are drawn by scores.
  The share is that of ``metrics()``: hashing all features once, scoring, drawing and updating, of all time
  from the sampler's making to its last batch.
- stream: kddcup99, 118 columns; MLP of 256-256, Adam; 256 rows trained on of 1,024 candidates. Rows are
  hashed by their 38 numbers, as selections are no better with the categories.
  ``StreamSelector.select`` and ``update`` against the training step of the same batch (forward, backward,
  Adam), summed over blocks of four steps; the median over the blocks.

Sets are read from the folder that ``--data-dir`` (or the environment variable NWSKETCH_DATA) names; without,
made-up rows of the same shape take their place. Kernels are compiled, and nets warmed up, before any clock
starts. Bars: 2 and 15 per cent, with 2 threads.

    python tests/benchmarks/sampler_overhead.py                     # minutes
    python tests/benchmarks/sampler_overhead.py --only stream       # seconds
    python tests/benchmarks/sampler_overhead.py --smoke             # small sizes, seconds; bars do not count
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from nwsketch.training import SketchSampler, StreamSelector

BATCH, CANDIDATES, BLOCK = 128, 4, 4
N_NUMBERS = 38  # the first columns of the stream; categories' levels follow
N_SELECTED = 256
N_IMAGES, N_ROWS = 60_000, 400_000
BARS = {"sampler": 2.0, "stream": 15.0}


def images(folder, n_rows):
    """Return images from 0 to 1, their classes, and where they come from."""
    if folder is not None:
        with np.load(folder / "fashion_mnist.npz", allow_pickle=False) as arrays:
            X, y = arrays["X_train"][:n_rows] / np.float32(255), arrays["y_train"][:n_rows]
        return torch.from_numpy(X).unsqueeze(1), torch.from_numpy(y.astype(np.int64)), "Fashion-MNIST"
    rng = torch.Generator().manual_seed(0)
    X = torch.rand(n_rows, 1, 28, 28, generator=rng)
    return X, torch.randint(10, (n_rows,), generator=rng), "made-up images"


def connections(folder, n_rows):
    """Return 38 standardised numbers and 80 columns of categories' levels, classes, and their origin."""
    if folder is not None:
        with np.load(folder / "kddcup99_10pct.npz", allow_pickle=False) as arrays:
            table, y, categories = arrays["X"][:n_rows], arrays["y"][:n_rows], arrays["cat_idx"]
            levels = [table[:, [i]] == np.arange(arrays["X"][:, i].max() + 1) for i in categories]
        numbers = np.log1p(np.delete(table, categories, axis=1))
        spread = numbers.std(axis=0)
        numbers = (numbers - numbers.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        X = np.hstack([np.clip(numbers, -5, 5), *levels]).astype(np.float32)
        return torch.from_numpy(X), torch.from_numpy(y.astype(np.int64)), "kddcup99"
    rng = torch.Generator().manual_seed(0)
    return (
        torch.randn(n_rows, 118, generator=rng),
        torch.randint(23, (n_rows,), generator=rng),
        "made-up rows",
    )


def conv_net():
    first = nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    last = nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)
    return nn.Sequential(*first, *second, *last)


def mlp(n_features, n_classes):
    hidden = nn.Linear(n_features, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(256, n_classes))


def train(net, optimizer, x, y, weight):
    losses = cross_entropy(net(x), y, reduction="none")
    (weight * losses).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return losses.detach()


def sampled_epochs(X, y, n_epochs):
    """Train by a sampler; return what its metrics tell."""
    torch.manual_seed(0)
    net = conv_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    features = X.reshape(len(X), -1)
    sampler = SketchSampler(features, labels=y, num_samples=len(y) // 2, switch=None, seed=0)
    loader = DataLoader(sampler.wrap(TensorDataset(X, y)), batch_size=BATCH, sampler=sampler)
    for _ in range(n_epochs):
        for index, weight, (inputs, targets) in loader:
            sampler.update(index, train(net, optimizer, inputs, targets, weight))
    return sampler.metrics()


def measure_sampler(folder, n_rows):
    X, y, origin = images(folder, n_rows)
    some = min(len(y), 2 * BATCH)
    sampled_epochs(X[:some], y[:some], 4)
    metrics = sampled_epochs(X, y, 4)
    share = 100 * metrics["overhead_share"]
    text = (
        f"{origin}, {len(y):,} examples, last epoch {metrics['mode']}, "
        f"{metrics['overhead_seconds']:.2f} s of choosing"
    )
    return share, text


def measure_stream(folder, n_rows, n_blocks):
    X, y, origin = connections(folder, n_rows)
    torch.manual_seed(0)
    numbers = X[:, :N_NUMBERS].contiguous()
    net = mlp(X.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.Adam(net.parameters())
    selector = StreamSelector(n_labels=int(y.max()) + 1, seed=0)
    n_candidates = CANDIDATES * N_SELECTED
    n_steps, n_batches = n_blocks * BLOCK, len(y) // n_candidates
    n_before, seconds = 8 * BLOCK, []  # steps of which no clock is kept: the warm-up is among them
    for step in range(n_before + n_steps):
        start = step % n_batches * n_candidates
        x, labels = X[start : start + n_candidates], y[start : start + n_candidates]
        features = numbers[start : start + n_candidates]
        began = time.perf_counter()
        rows, weights, codes = selector.select(features, labels, n_select=N_SELECTED)
        selected = time.perf_counter()
        chosen = torch.from_numpy(rows)
        batch, targets, weights = x[chosen], labels[chosen], torch.from_numpy(weights)
        ready = time.perf_counter()
        losses = train(net, optimizer, batch, targets, weights)
        trained = time.perf_counter()
        selector.update(codes, losses)
        if step >= n_before:
            seconds.append((selected - began, time.perf_counter() - trained, trained - ready))
    blocks = np.array(seconds).reshape(n_blocks, BLOCK, 3).sum(axis=1)
    share = 100 * statistics.median((blocks[:, 0] + blocks[:, 1]) / blocks[:, 2])
    select, update, training = (1e3 * np.median(blocks, axis=0) / BLOCK).tolist()
    text = f"{origin}; a step: select {select:.2f} ms, update {update:.2f} ms, training {training:.2f} ms"
    return share, text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("NWSKETCH_DATA") or None)
    parser.add_argument("--only", choices=BARS, help="one of the two")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    folder = None if options.data_dir is None or options.smoke else Path(options.data_dir)
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads")
    print(f"{'':8s} {'overhead':>9s} {'bar':>6s}", flush=True)
    for name, bar in BARS.items():
        if options.only not in (None, name):
            continue
        if name == "sampler":
            share, text = measure_sampler(folder, 512 if options.smoke else N_IMAGES)
        else:
            share, text = measure_stream(
                folder, 8_192 if options.smoke else N_ROWS, 4 if options.smoke else 80
            )
        verdict = "" if options.smoke else "met" if share <= bar else "missed"
        print(f"{name:8s} {share:7.2f} % {bar:4.0f} % {verdict:>7s}  {text}", flush=True)


if __name__ == "__main__":
    main()
