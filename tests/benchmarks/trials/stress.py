"""Stress: wrong labels, classes made rare, inputs changed at random."""

from dataclasses import asdict, dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Stress:
    """What is done to the training part; the tuning and test parts stay as they are.

    Parameters
    ----------
    label_noise : float
        Share of the labels that are replaced by another class, each alike.
    imbalance : float
        The first class keeps all its rows, the last one in ``imbalance``, those between in geometric steps.
    augment : bool
        Batches of images are mirrored and shifted by up to two pixels; a tenth of the words of a text
        becomes unknown. Charged, as part of loading.
    """

    label_noise: float = 0.0
    imbalance: float = 1.0
    augment: bool = False

    def spoil(self, train, n_classes):
        """Return the training part under stress, and which of its labels are wrong (None: none are)."""
        rng = np.random.default_rng(1)
        if self.imbalance > 1:
            kept = self.imbalance ** -(train.labels.numpy() / max(n_classes - 1, 1))
            train = train.rows(np.flatnonzero(rng.random(len(kept)) < kept))
        if self.label_noise == 0:
            return train, None
        is_corrupt = rng.random(len(train.labels)) < self.label_noise
        labels = train.labels.clone()
        moved = torch.from_numpy(rng.integers(1, n_classes, size=int(is_corrupt.sum())))
        labels[is_corrupt] = (labels[is_corrupt] + moved) % n_classes
        return train._replace(labels=labels), is_corrupt

    def change(self, inputs, rng):
        """Return a batch as the net is to see it."""
        if not self.augment:
            return inputs
        if inputs.dtype == torch.uint8:
            padded = torch.nn.functional.pad(inputs, (2, 2, 2, 2))
            down, right = rng.integers(5, size=2)  # one shift for the batch, as it is cheap
            images = padded[:, down : down + inputs.shape[1], right : right + inputs.shape[2]]
            mirrored = torch.from_numpy(rng.random(len(images)) < 0.5)
            return torch.where(mirrored[:, None, None], images.flip(2), images)
        if inputs.dtype == torch.int64:
            is_dropped = torch.from_numpy(rng.random(inputs.shape) < 0.1) & (inputs != 0)
            return inputs.masked_fill(is_dropped, 1)
        raise SystemExit("--augment is for images and texts: leave it out for this set.")

    def told(self):
        """Return what differs from no stress, for the record."""
        return {key: value for key, value in asdict(self).items() if value != getattr(Stress(), key)}
