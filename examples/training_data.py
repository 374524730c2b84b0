"""Data and nets for ``train_with_sketch_sampler.py``: every loader returns a :class:`Task`."""

import gzip
from collections import Counter
from collections.abc import Callable
from csv import DictReader
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

N_WORDS, LONGEST_TEXT, TEXT_FEATURES = 8_192, 32, 128


@dataclass
class Task:
    """What to train on, which net, and what the sketch is to hash.

    ``train`` and ``test`` are pairs of inputs and classes. ``make_net`` returns a new net; ``features`` makes
    of inputs the rows that a sketch hashes. An epoch is half of the rows, except of a stream: that is
    read once.
    """

    train: tuple
    test: tuple
    make_net: Callable
    features: Callable
    n_classes: int
    epochs: int
    batch_size: int
    is_stream: bool = False
    is_imbalanced: bool = False  # which is judged by balanced accuracy


def digits(folder):
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, test_size=0.25, stratify=y, random_state=0)
    net = partial(mlp, 64, 64, 10)
    return Task(pair(X_train, y_train), pair(X_test, y_test), net, flat, 10, epochs=20, batch_size=32)


def fashion_mnist(folder):
    """Images of clothes, for a convolutional net."""
    with np.load(folder / "fashion_mnist.npz", allow_pickle=False) as arrays:
        parts = [
            pair(arrays[f"X_{part}"][:, np.newaxis] / np.float32(255), arrays[f"y_{part}"])
            for part in ("train", "test")
        ]
    return Task(*parts, conv_net, flat, 10, epochs=8, batch_size=128)


def sst2(folder):
    """Phrases of film reviews: numbers of their words (0 is padding, 1 a rare word), for an embedding bag."""
    with gzip.open(folder / "sst2.csv.gz", "rt", encoding="utf-8", newline="") as stream:
        rows = list(DictReader(stream))
    by_part = {part: [row for row in rows if row["split"] == part] for part in ("train", "test")}
    counts = Counter(word for row in by_part["train"] for word in row["text"].split())
    numbers = {word: number for number, (word, _) in enumerate(counts.most_common(N_WORDS - 2), start=2)}

    def encode(rows):
        inputs = np.zeros((len(rows), LONGEST_TEXT), dtype=np.int64)
        for i, row in enumerate(rows):
            words = [numbers.get(word, 1) for word in row["text"].split()[:LONGEST_TEXT]] or [1]
            inputs[i, : len(words)] = words
        return pair(inputs, [int(row["label"]) for row in rows])

    parts = (encode(by_part[part]) for part in ("train", "test"))
    return Task(*parts, BagNet, project_words, 2, epochs=8, batch_size=128)


def kddcup99(folder):
    """Network connections, as a stream: 38 numbers, and a column for each level of three categories."""
    with np.load(folder / "kddcup99_10pct.npz", allow_pickle=False) as arrays:
        table, labels, categories = arrays["X"], arrays["y"].astype(int), arrays["cat_idx"]
    numbers = np.log1p(np.delete(table, categories, axis=1))
    levels = [table[:, [i]] == np.arange(table[:, i].max() + 1) for i in categories]
    order = np.random.default_rng(0).permutation(len(table))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    rows = np.hstack([standardise(numbers, train), *levels]).astype(np.float32)
    n_classes = int(labels.max()) + 1
    parts = pair(rows[train], labels[train]), pair(rows[test], labels[test])
    net = partial(mlp, rows.shape[1], 256, n_classes)
    return Task(*parts, net, flat, n_classes, epochs=1, batch_size=256, is_stream=True, is_imbalanced=True)


def adult(folder):
    """Census rows: six numbers and seven categories, which the net embeds and the sketch sees one-hot."""
    with np.load(folder / "adult.npz", allow_pickle=False) as arrays:
        names = [name.split("_")[0] for name in arrays["feature_names"].tolist()]
        table = np.vstack([arrays["X_train"], arrays["X_test"]])
        labels = np.concatenate([arrays["y_train"], arrays["y_test"]])
        n_train = len(arrays["X_train"])
    table[:, 3:5] = np.log1p(table[:, 3:5])  # capital gain and loss
    numbers = standardise(table[:, :6], slice(n_train))
    columns = [[i for i in range(6, len(names)) if names[i] == name] for name in dict.fromkeys(names[6:])]
    levels = [len(where) for where in columns]
    inputs = np.column_stack([numbers, *(table[:, where].argmax(axis=1) for where in columns)])
    inputs = inputs.astype(np.float32)
    parts = pair(inputs[:n_train], labels[:n_train]), pair(inputs[n_train:], labels[n_train:])
    net, features = partial(TabularNet, 6, levels), partial(one_hot, 6, levels)
    return Task(*parts, net, features, 2, epochs=8, batch_size=128, is_imbalanced=True)


LOADERS = {load.__name__: load for load in (digits, fashion_mnist, sst2, kddcup99, adult)}


def pair(inputs, labels):
    inputs = np.asarray(inputs)
    inputs = inputs.astype(np.int64 if inputs.dtype.kind in "iu" else np.float32)
    return torch.from_numpy(inputs), torch.from_numpy(np.asarray(labels).astype(np.int64))


def standardise(numbers, train):
    mean, scale = numbers[train].mean(axis=0), numbers[train].std(axis=0)
    return np.clip((numbers - mean) / np.where(scale > 0, scale, 1.0), -5, 5)


# -- what a sketch hashes -------------------------------------------------------------------------


def flat(inputs):
    return inputs.reshape(len(inputs), -1)


def one_hot(n_numbers, levels, inputs):
    categories = inputs[:, n_numbers:].long()
    hot = [nn.functional.one_hot(categories[:, i], n) for i, n in enumerate(levels)]
    return torch.hstack([inputs[:, :n_numbers], *hot])


def project_words(inputs):
    """Return the sum of random vectors, one for each word of a text; frequent words count less."""
    frequency = torch.bincount(inputs.ravel(), minlength=N_WORDS) + 1.0
    vectors = torch.randn(N_WORDS, TEXT_FEATURES, generator=torch.Generator().manual_seed(0))
    vectors /= frequency.sqrt()[:, None]
    vectors[0] = 0.0
    return nn.functional.embedding_bag(inputs, vectors, mode="sum")


# -- nets -----------------------------------------------------------------------------------------


def mlp(n_features, width, n_classes):
    hidden = nn.Linear(n_features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(width, n_classes))


def conv_net():
    first = nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(
        *first, *second, nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)
    )


class BagNet(nn.Module):
    """The mean of a text's word embeddings, through a hidden layer."""

    def __init__(self, width=64):
        super().__init__()
        self.words = nn.EmbeddingBag(N_WORDS, width, mode="mean", padding_idx=0)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, texts):
        return self.layers(self.words(texts))


class TabularNet(nn.Module):
    """Numbers, and an embedding of each category, through two hidden layers."""

    def __init__(self, n_numbers, levels):
        super().__init__()
        sizes = [min(16, (n + 1) // 2) for n in levels]
        self.n_numbers = n_numbers
        self.embeddings = nn.ModuleList(nn.Embedding(*shape) for shape in zip(levels, sizes, strict=True))
        self.layers = mlp(n_numbers + sum(sizes), 128, 2)

    def forward(self, rows):
        categories = rows[:, self.n_numbers :].long()
        embedded = [embed(categories[:, i]) for i, embed in enumerate(self.embeddings)]
        return self.layers(torch.hstack([rows[:, : self.n_numbers], *embedded]))
