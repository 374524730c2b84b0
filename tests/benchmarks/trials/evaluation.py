"""How good a net is: accuracy, its mean over classes, average precision, and the log loss."""

import numpy as np
import torch
from torch.nn import functional

#: Metrics of which more is better, and the one of which less is.
RISING = ("accuracy", "balanced_accuracy", "average_precision")
METRICS = (*RISING, "log_loss")


@torch.no_grad()
def predict(model, inputs, batch_size=4096):
    """Return the logits of all rows: (n_rows, n_classes)."""
    was_training = model.training
    model.eval()
    logits = torch.cat([model(inputs[i : i + batch_size]) for i in range(0, len(inputs), batch_size)])
    model.train(was_training)
    return logits


def average_precision(is_positive, scores):
    """Return the average precision of one class: the mean over its rows of the precision at their scores.

    Equal to scikit-learn's, ties included, but the rows of the class alone are ranked: most classes have few.
    """
    everything, mine = np.sort(scores), np.sort(scores[is_positive])
    n_above = len(everything) - np.searchsorted(everything, mine)
    n_mine_above = len(mine) - np.searchsorted(mine, mine)
    return float((n_mine_above / n_above).mean())


def evaluate(model, part):
    """Return the metrics of a net on held-out rows.

    Average precision is the mean over the classes present; of two classes, that of the second.
    """
    logits = predict(model, part.inputs, 256 if part.inputs.dtype == torch.uint8 else 4096)  # as fits caches
    labels, predicted = part.labels.numpy(), logits.argmax(dim=1).numpy()
    is_right = predicted == labels
    counts = np.bincount(labels, minlength=logits.shape[1])
    present = np.flatnonzero(counts)
    found = np.bincount(labels, weights=is_right, minlength=len(counts))
    chances = torch.softmax(logits, dim=1).numpy().T.copy()
    positive = [1] if len(counts) == 2 else present
    return {
        "accuracy": float(is_right.mean()),
        "balanced_accuracy": float((found[present] / counts[present]).mean()),
        "average_precision": float(np.mean([average_precision(labels == k, chances[k]) for k in positive])),
        "log_loss": float(functional.cross_entropy(logits, part.labels)),
    }
