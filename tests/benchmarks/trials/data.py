"""The sets of data, as tensors that nets read, with what a sketch is to hash of them."""

import gzip
from collections import Counter
from collections.abc import Callable
from csv import DictReader
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix

from trials.nets import BagNet, ConvNet, TabularNet, TextNet

N_WORDS, LONGEST = 8_192, 32
WIDTH_OF_TEXT = 128


class Part(NamedTuple):
    """Some rows: what the net reads, and their classes."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def rows(self, which):
        """Return these rows alone."""
        return Part(self.inputs[which], self.labels[which])


@dataclass(frozen=True)
class Task:
    """A set of data, ready to train on.

    Parameters
    ----------
    train, tune, test : Part
        Rates are chosen on ``tune``; the timed runs are evaluated on ``test``. Both learn from ``train``.
    n_classes : int
    make_net : callable
        Returns a new net, drawn by torch's generator.
    features : callable
        Takes inputs, returns the rows that a sketch hashes, as an array. Its time is charged.
    is_corrupt : ndarray of bool or None
        Training rows whose label is known to be wrong.
    """

    train: Part
    tune: Part
    test: Part
    n_classes: int
    make_net: Callable
    features: Callable
    is_corrupt: np.ndarray | None = None


def flatten_images(inputs):
    """Return images as rows of numbers from 0 to 1."""
    return inputs.reshape(len(inputs), -1).numpy().astype(np.float32) / 255


def expand_table(inputs, n_numbers, levels):
    """Return numbers and, in place of each category's number, one column per level."""
    table = inputs.numpy()
    rows = np.zeros((len(table), n_numbers + sum(levels)), dtype=np.float32)
    rows[:, :n_numbers] = table[:, :n_numbers]
    starts = n_numbers + np.cumsum([0, *levels[:-1]])
    rows[np.arange(len(table))[:, np.newaxis], table[:, n_numbers:].astype(np.intp) + starts] = 1.0
    return rows


def embed_texts(inputs):
    """Return the random projection of every text's word counts; frequent words count less."""
    texts = inputs.numpy()
    lengths = (texts != 0).sum(axis=1)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    counts = csr_matrix((np.ones(ends[-1], dtype=np.float32), texts[texts != 0], ends), (len(texts), N_WORDS))
    frequency = np.bincount(counts.indices, minlength=N_WORDS) + 1.0
    directions = np.random.default_rng(0).normal(size=(N_WORDS, WIDTH_OF_TEXT))
    return counts @ (directions / np.sqrt(frequency)[:, np.newaxis]).astype(np.float32)


def load_fashion_mnist(folder):
    with np.load(folder / "fashion_mnist.npz", allow_pickle=False) as arrays:
        parts = [
            Part(torch.from_numpy(arrays[f"X_{name}"]), torch.from_numpy(arrays[f"y_{name}"]).long())
            for name in ("train", "test")
        ]
    return parts, 10, partial(ConvNet, 10), flatten_images


def load_sst2(folder):
    """Texts split at blanks; the most frequent words of the training part are numbered from 2, others are 1.

    Rates are tuned on the small validation part: most training phrases are parts of others, so that rows held
    out of them would reward learning by heart.
    """
    with gzip.open(folder / "sst2.csv.gz", "rt", encoding="utf-8", newline="") as stream:
        rows = list(DictReader(stream))
    texts = [row["text"].split() or [""] for row in rows]
    splits = np.array([row["split"] for row in rows])
    is_train = splits == "train"
    words = Counter(word for text, kept in zip(texts, is_train, strict=True) if kept for word in text)
    numbers = {word: i for i, (word, _) in enumerate(words.most_common(N_WORDS - 2), start=2)}
    inputs = torch.zeros(len(texts), LONGEST, dtype=torch.int64)
    for i, text in enumerate(texts):
        inputs[i, : len(text)] = torch.tensor([numbers.get(word, 1) for word in text[:LONGEST]])
    everything = Part(inputs, torch.tensor([int(row["label"]) for row in rows]))
    parts = [everything.rows(np.flatnonzero(splits == name)) for name in ("train", "val", "test")]
    return parts, 2, partial(TextNet, N_WORDS, 2, LONGEST), embed_texts


def load_adult(folder):
    """Six numbers, standardised (capital gain and loss as logarithms), and seven categories."""
    with np.load(folder / "adult.npz", allow_pickle=False) as arrays:
        names = [name.split("_")[0] for name in arrays["feature_names"].tolist()]
        tables, labels = ([arrays[f"{key}_{part}"] for part in ("train", "test")] for key in ("X", "y"))
    categories = list(dict.fromkeys(names[6:]))
    columns = [[i for i, name in enumerate(names) if name == category and i >= 6] for category in categories]
    tables = [
        np.hstack([table[:, :6], *(table[:, where].argmax(axis=1, keepdims=True) for where in columns)])
        for table in tables
    ]
    return _tabular(tables, labels, 6, [len(where) for where in columns], (3, 4))


def load_kddcup99(folder):
    """38 numbers as logarithms, standardised, and three categories; a quarter of each class is held out.

    Seven rows of ten are copies of others, so that most test rows have a copy in the training part.
    """
    with np.load(folder / "kddcup99_10pct.npz", allow_pickle=False) as arrays:
        table, labels, categories = arrays["X"], arrays["y"], arrays["cat_idx"]
    numbers = [i for i in range(table.shape[1]) if i not in categories]
    levels = [int(table[:, i].max()) + 1 for i in categories]
    table = np.hstack([table[:, numbers], table[:, categories]])
    parts = part_off(labels, 4)
    n_numbers = len(numbers)
    return _tabular(
        [table[which] for which in parts],
        [labels[which] for which in parts],
        n_numbers,
        levels,
        range(n_numbers),
    )


def _tabular(tables, labels, n_numbers, levels, logarithms):
    tables = [table.astype(np.float32) for table in tables]
    for table in tables:
        table[:, list(logarithms)] = np.log1p(table[:, list(logarithms)])
    mean, scale = tables[0][:, :n_numbers].mean(axis=0), tables[0][:, :n_numbers].std(axis=0)
    for table in tables:
        table[:, :n_numbers] = np.clip((table[:, :n_numbers] - mean) / np.where(scale > 0, scale, 1.0), -5, 5)
    n_classes = int(labels[0].max()) + 1
    parts = [
        Part(torch.from_numpy(table), torch.from_numpy(y.astype(np.int64)))
        for table, y in zip(tables, labels, strict=True)
    ]
    return (
        parts,
        n_classes,
        partial(TabularNet, n_numbers, levels, n_classes),
        partial(expand_table, n_numbers=n_numbers, levels=levels),
    )


def make_up(folder, n_rows=6_000):
    """Made-up rows: four clusters, of which one is rare, and a category that says little. For ``--smoke``."""
    rng = np.random.default_rng(0)
    labels = rng.choice(4, size=n_rows, p=[0.6, 0.25, 0.12, 0.03])
    numbers = rng.normal(size=(4, 8))[labels] + rng.normal(size=(n_rows, 8))
    table = np.hstack([numbers, rng.integers(5, size=(n_rows, 1))])
    n_train = n_rows * 2 // 3
    return _tabular([table[:n_train], table[n_train:]], [labels[:n_train], labels[n_train:]], 8, [5], ())


LOADERS = {
    "fashion_mnist": load_fashion_mnist,
    "sst2": load_sst2,
    "kddcup99": load_kddcup99,
    "adult": load_adult,
    "made_up": make_up,
    "made_up_stream": make_up,
}


def part_off(labels, every):
    """Return most rows, and one in ``every`` of each class (its second row too), in random order."""
    order = np.random.default_rng(0).permutation(len(labels))
    rank = np.empty(len(order), dtype=np.int64)  # among the rows of its class
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        rank[mine] = np.arange(len(mine))
    is_held_out = (rank % every == 1)[order]
    return order[~is_held_out], order[is_held_out]


def load(folder, name, settings, stress):
    """Return the task of a set, with as many rows as its settings say, under stress."""
    (train, *tune, test), n_classes, make_net, features = LOADERS[name](folder)
    kept, held_out = part_off(train.labels.numpy(), 10)
    if tune:  # the source has a part for it
        kept = np.concatenate([kept, held_out])
    tune = tune[0] if tune else train.rows(held_out)
    train = train.rows(kept[: settings.n_train])
    if settings.net == "bag":
        make_net = partial(BagNet, N_WORDS, n_classes)
    if settings.width is not None:
        make_net = partial(make_net, width=settings.width)
    train, is_corrupt = stress.spoil(train, n_classes)
    return Task(train, tune, test, n_classes, make_net, features, is_corrupt)
