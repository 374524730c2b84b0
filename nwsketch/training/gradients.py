"""A score per example that costs no backward pass: the gradient of the last layer."""

from __future__ import annotations

import torch


@torch.no_grad()
def gradient_norm_bound(
    logits: torch.Tensor, targets: torch.Tensor, embeddings: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the norm of every example's cross-entropy gradient at the last layer.

    With p = softmax(logits) and y the target as a distribution, the gradient with respect to the logits is
    p - y. Its norm bounds that of the whole gradient up to a factor that hardly depends on the example
    (Katharopoulos & Fleuret, "Not All Samples Are Created Equal", ICML 2018, arXiv:1803.00942, section 3.2).
    Times the norm of the example's embedding it is the norm of the gradient of the last layer's matrix.

    Parameters
    ----------
    logits : tensor of shape (n_samples, n_classes)
    targets : tensor of shape (n_samples,), int64, or of shape (n_samples, n_classes)
        Classes, or distributions over them.
    embeddings : tensor of shape (n_samples, n_units) or None, default=None
        What the last layer reads.

    Returns
    -------
    tensor of shape (n_samples,), float32
        Not negative, without a gradient; to be given to ``update`` in place of losses.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> from nwsketch.training import gradient_norm_bound
    >>> gradient_norm_bound(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])).round(decimals=2)
    tensor([0.0000, 0.7100])
    """
    n_rows = len(logits)
    if logits.ndim != 2 or targets.shape not in ((n_rows,), logits.shape):
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and targets {tuple(targets.shape)}: give "
            "(n_samples, n_classes), and (n_samples,) or the same."
        )
    if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != n_rows):
        raise ValueError(f"embeddings has shape {tuple(embeddings.shape)}: give ({n_rows}, n_units).")
    difference = torch.softmax(logits.float(), dim=1)
    if targets.ndim == 2:
        difference = difference - targets
    else:
        difference[torch.arange(n_rows, device=logits.device), targets] -= 1.0
    norms = torch.linalg.vector_norm(difference, dim=1)
    return norms if embeddings is None else norms * torch.linalg.vector_norm(embeddings.float(), dim=1)
