"""The nets: images, words, tables with categories."""

import torch
from torch import nn
from torch.nn import functional


class ConvNet(nn.Module):
    """Two convolutions and two linear layers, for images of 28x28 bytes; ``width`` channels at first."""

    def __init__(self, n_classes, width=32):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.hidden, self.last = nn.Linear(2 * width * 7 * 7, 4 * width), nn.Linear(4 * width, n_classes)

    def forward(self, images):
        x = images.unsqueeze(1).float() / 255 - 0.286
        x = functional.max_pool2d(self.first(x).relu(), 2)
        x = functional.max_pool2d(self.second(x).relu(), 2)
        return self.last(self.hidden(x.flatten(1)).relu())


class BagNet(nn.Module):
    """The mean over the embeddings of a text's words, through a hidden layer; 0 is padding."""

    def __init__(self, n_words, n_classes, width=64):
        super().__init__()
        self.words = nn.EmbeddingBag(n_words, width, mode="mean", padding_idx=0)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_classes))

    def forward(self, texts):
        return self.layers(self.words(texts))


class TextNet(nn.Module):
    """A transformer of one layer over word numbers; 0 is padding. The mean over words is classified."""

    def __init__(self, n_words, n_classes, longest, width=64):
        super().__init__()
        self.words = nn.Embedding(n_words, width, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(longest, width))
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True)
        self.last = nn.Linear(width, n_classes)

    def forward(self, texts):
        texts = texts[:, : int((texts != 0).sum(dim=1).max())]
        padding = texts == 0
        x = self.words(texts) + self.places[: texts.shape[1]]
        x = self.layer(x, src_key_padding_mask=padding).masked_fill(padding.unsqueeze(2), 0.0)
        return self.last(x.sum(dim=1) / (~padding).sum(dim=1, keepdim=True))


class TabularNet(nn.Module):
    """Numbers, and embeddings of categories, through two hidden layers.

    The last columns of the input are the categories' numbers, ``levels`` of them each.
    """

    def __init__(self, n_numbers, levels, n_classes, width=256):
        super().__init__()
        self.n_numbers = n_numbers
        sizes = [min(16, (n + 1) // 2) for n in levels]
        self.embeddings = nn.ModuleList(nn.Embedding(*pair) for pair in zip(levels, sizes, strict=True))
        self.layers = nn.Sequential(
            nn.Linear(n_numbers + sum(sizes), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, n_classes),
        )

    def forward(self, rows):
        codes = rows[:, self.n_numbers :].long()
        parts = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        return self.layers(torch.cat([rows[:, : self.n_numbers], *parts], dim=1))
