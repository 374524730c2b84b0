"""How good a net is: accuracy, its mean over classes, average precision, and the log loss."""

import numpy as np
import torch
from sklearn.metrics import average_precision_score
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


def evaluate(model, part, all_of_them=True):
    """Return the metrics of a net on held-out rows.

    Average precision sorts all rows for every class (the mean over those present is given; of two classes
    that of the second): with more than two classes it is left out unless ``all_of_them`` are wanted.
    """
    logits = predict(model, part.inputs)
    labels, predicted = part.labels.numpy(), logits.argmax(dim=1).numpy()
    is_right = predicted == labels
    counts = np.bincount(labels, minlength=logits.shape[1])
    present = np.flatnonzero(counts)
    found = np.bincount(labels, weights=is_right, minlength=len(counts))
    metrics = {
        "accuracy": float(is_right.mean()),
        "balanced_accuracy": float((found[present] / counts[present]).mean()),
        "log_loss": float(functional.cross_entropy(logits, part.labels)),
    }
    if all_of_them or len(counts) == 2:
        scores = torch.softmax(logits.double(), dim=1).numpy()
        positive = [1] if len(counts) == 2 else present
        precision = [average_precision_score(labels == label, scores[:, label]) for label in positive]
        metrics["average_precision"] = float(np.mean(precision))
    return metrics
