"""Gaussian directions that can be multiplied fast, and the plain product that defines every projection.

Eight independent Gaussian projections cost eight products of the row. Eight that are only uncorrelated
cost little more than one: cut the row into chunks of eight features, turn every chunk by H diag(signs) (H:
the Hadamard matrix of order 8), multiply it by independent Gaussians, add the chunks up and turn the
sum by H once more: z = H sum_c (g_c * (H (signs_c * x_c))) / sqrt(8). Each of the eight numbers is a
Gaussian projection of the row, exactly: its direction has independent N(0, 1) coordinates, as H / sqrt(8) is
a rotation. (Padding the row to a single chunk of a power of two gives the well-known
H diag(g) H diag(signs): Yu, Suresh, Choromanski, Holtmann-Rice & Kumar, "Orthogonal Random Features",
NeurIPS 2016, section 4; small chunks waste no output and draw more Gaussians.)

The eight belong to eight repetitions, and the hashes of one repetition to blocks with Gaussians of their
own. So the hashes of a code are independent and collision probabilities are exact powers. The directions of
repetitions that share a block are uncorrelated, not independent: whether two rows collide is correlated,
which widens the spread of estimates, the more the fewer chunks there are (beside independent directions
the variance grows by at most a third in most cases and by 1.6 for signs of rows with a single non-zero
feature: tests/test_projections.py). The length of a direction matters to floors, not to signs; all eight of
a block would have the same, so that floors give each a length of its own: a Gaussian vector is a uniform
direction times an independent length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

#: Features in a chunk and hashes in a block.
ORDER = 8
#: A row is repeated as often as its chunks fit into so many (a backend may multiply as many anyway), each
#: copy with signs and Gaussians of its own: repetitions that share a block have the less in common.
FULL_CHUNKS = 3
HADAMARD = hadamard(ORDER, dtype=np.float64)


def sequential_projections(X: NDArray[Any], directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Project rows in float64, adding the features from first to last.

    A matrix product adds in an order that depends on the shape of the batch; the order here
    is fixed, so that a row's cell never depends on the rows around it.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    directions : ndarray of shape (n_features, n_hashes)

    Returns
    -------
    ndarray of shape (n_samples, n_hashes), float64
    """
    projections = np.zeros((X.shape[0], directions.shape[1]))
    for column, direction in zip(X.T.astype(np.float64), directions, strict=True):
        projections += column[:, np.newaxis] * direction
    return projections


def gaussian_directions(
    rng: np.random.Generator,
    n_features: int,
    n_repetitions: int,
    hashes_per_repetition: int,
    *,
    own_lengths: bool,
) -> dict[str, NDArray[np.float64]]:
    """Draw Gaussian directions, with their factors if there are so many features that these pay.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_features, n_repetitions, hashes_per_repetition : int
    own_lengths : bool
        Whether the directions of a block have lengths of their own.

    Returns
    -------
    dict of str to ndarray
        ``"directions"`` of shape (n_features, n_repetitions * hashes_per_repetition): each has
        independent standard normal coordinates. From :data:`ORDER` features on also its factors, n_padded
        being the next multiple of :data:`ORDER` times the number of copies of a row: ``"scales"`` of shape
        (n_padded,), +1 or -1 over the root of that number, and ``"gaussians"`` of shape (n_blocks, n_padded).
        Block t K + k yields hash k of the repetitions 8 t to 8 t + 7, K being ``hashes_per_repetition``.
        With lengths of their own, ``"lengths"`` of shape (n_repetitions * hashes_per_repetition,): what
        the eight of a block are multiplied by.
    """
    if n_features < ORDER:
        shape = (n_features, n_repetitions * hashes_per_repetition)
        return {"directions": rng.standard_normal(shape)}
    n_stacks, n_chunks = -(-n_repetitions // ORDER), -(-n_features // ORDER)
    n_copies = max(FULL_CHUNKS // n_chunks, 1)
    scales = rng.choice([-1.0, 1.0], n_copies * n_chunks * ORDER) / np.sqrt(n_copies)
    gaussians = rng.standard_normal((n_stacks, hashes_per_repetition, n_copies * n_chunks, 1, ORDER))
    directions = np.empty((n_features, n_repetitions, hashes_per_repetition))
    for stack, own in enumerate(gaussians):
        repetitions = slice(stack * ORDER, min((stack + 1) * ORDER, n_repetitions))
        outputs = HADAMARD[: repetitions.stop - repetitions.start]
        turned = own * outputs @ HADAMARD  # (hashes_per_repetition, n_chunks, n_outputs, ORDER)
        turned *= scales.reshape(-1, 1, ORDER) / np.sqrt(ORDER)
        turned = turned.reshape(-1, n_copies, n_chunks, len(outputs), ORDER).sum(axis=1)
        by_feature = turned.transpose(1, 3, 2, 0).reshape(n_chunks * ORDER, len(outputs), -1)
        directions[:, repetitions] = by_feature[:n_features]
    factors = {"scales": scales, "gaussians": gaussians.reshape(n_stacks * hashes_per_repetition, -1)}
    if own_lengths:
        norms = np.linalg.norm(factors["gaussians"], axis=1).reshape(n_stacks, hashes_per_repetition)
        wanted = np.sqrt(rng.chisquare(gaussians.size / norms.size, (n_repetitions, hashes_per_repetition)))
        lengths = wanted / norms.repeat(ORDER, axis=0)[:n_repetitions]
        directions *= lengths
        factors["lengths"] = lengths.ravel()
    return {"directions": directions.reshape(n_features, -1)} | factors


def repetitions_together(arrays: dict[str, NDArray[np.float64]]) -> int:
    """Return how many repetitions share Gaussians: a block's, if the directions have factors."""
    return ORDER if "gaussians" in arrays else 1


def divided_scales(scales: NDArray[np.float64], bandwidth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scales of directions whose features are divided by bandwidths.

    Parameters
    ----------
    scales : ndarray of shape (n_padded,)
        See :func:`gaussian_directions`.
    bandwidth : ndarray of shape (n_features,)

    Returns
    -------
    ndarray of shape (n_padded,)
    """
    widths = np.ones(-(-len(bandwidth) // ORDER) * ORDER)
    widths[: len(bandwidth)] = bandwidth
    return (scales.reshape(-1, len(widths)) / widths).ravel()
