"""Kernels between blocks of rows, and kernel sums made of such blocks in bounded memory.

Every block of queries meets every block of training rows in one tile: NumPy and compiled
distances fill it, NumPy applies the profile of the kernel, a matrix product adds it up. Tiles do
not depend on the number of threads, which share out the blocks of queries: neither do results.

A pair of rows of 10 features costs one core about 5 ns with the Laplacian kernel
(tests/benchmarks/kernels.py): the distance, an exponential and a share of the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nwsketch.backends.threads import run_ranges, single_threaded_blas
from nwsketch.exact_kernels import distances, normalise_rows, sparse_distances
from nwsketch.hashing import HashFamily, RandomBinning
from nwsketch.hashing.base import Distance

Array = NDArray[np.float64]

#: Rows on either side of a tile: 512 KiB of float64, which a core's own cache holds.
QUERIES_PER_TILE = 64
ROWS_PER_TILE = 1024
#: Values that a dense block may hold, so that wide rows come in smaller blocks.
VALUES_PER_BLOCK = 2**17
#: Distances (or their squares) beyond this count as this: a profile may square or scale them.
LARGEST_DISTANCE = 1e300
#: scikit-learn's kernels that refuse sparse rows.
DENSE_KERNELS = frozenset({"additive_chi2", "chi2"})


class PairwiseKernel(Protocol):
    """A kernel between two blocks of rows.

    Attributes
    ----------
    is_logarithm : bool
        Whether calls return the logarithm of the kernel, which cannot underflow.
    """

    @property
    def is_logarithm(self) -> bool:
        """See above."""

    def takes_sparse(self) -> bool:
        """Return whether blocks may be CSR."""

    def prepare(self, rows: Any) -> Any:
        """Return a block as calls want it: work that is done once per block and not once per pair."""

    def __call__(self, queries: Any, rows: Any) -> Array:
        """Return a new array of shape (n_queries, n_rows) for two prepared blocks, both dense or both CSR."""


def _negative(t: Array) -> Array:
    return np.negative(t, out=t)


def _half_square(t: Array) -> Array:
    return -0.5 * t**2


@dataclass(frozen=True)
class ClosedFormKernel:
    """A function of a distance between rows, raised to a power.

    Parameters
    ----------
    distance : {"cityblock", "euclidean", "angle", "jaccard"}
    profile : callable
        From distances to kernel values, or to their logarithms.
    is_logarithm : bool
        Which of the two.
    power : int
        The kernel is raised to it.
    bandwidth : ndarray of shape (n_features,) or None
        What the features are divided by.
    """

    distance: Distance
    profile: Callable[[Array], Array]
    is_logarithm: bool
    power: int
    bandwidth: Array | None

    @classmethod
    def from_family(cls, family: HashFamily, power: int, bandwidth: Array | None) -> ClosedFormKernel:
        """Return the kernel of a hash family: its collision probability, to a power.

        Parameters
        ----------
        family : HashFamily
        power : int
        bandwidth : ndarray of shape (n_features,) or None

        Raises
        ------
        ValueError
            If the family states no distance.
        """
        if family.distance is None:
            raise ValueError(
                f"The hash family {family.name!r} has no kernel in closed form; set its attribute distance "
                "and override collision_probability to use it with the exact estimator."
            )
        if type(family) is RandomBinning:
            return cls(family.distance, _negative, True, power, bandwidth)
        return cls(family.distance, family.collision_probability, False, power, bandwidth)

    @classmethod
    def gaussian(cls, power: int, bandwidth: Array) -> ClosedFormKernel:
        """Return exp(-t^2 / 2), t the Euclidean distance in units of the bandwidth, to a power.

        Parameters
        ----------
        power : int
        bandwidth : ndarray of shape (n_features,)
        """
        return cls("euclidean", _half_square, True, power, bandwidth)

    def takes_sparse(self) -> bool:
        """Return True."""
        return True

    def prepare(self, rows: Any) -> Any:
        """Divide by the bandwidth, then normalise for angles, or mark the non-zeros for Jaccard."""
        if isinstance(rows, np.ndarray):
            dense = np.array(rows, dtype=np.float64, order="C")
            if self.bandwidth is not None:
                dense /= self.bandwidth
            self._transform(dense.reshape(-1), np.arange(0, dense.size + 1, dense.shape[1]))
            return dense
        values = rows.data.astype(np.float64)
        if self.bandwidth is not None:
            values /= self.bandwidth[rows.indices]
        self._transform(values, rows.indptr)
        return sparse.csr_array((values, rows.indices, rows.indptr), shape=rows.shape)

    def _transform(self, values: Array, indptr: NDArray[Any]) -> None:
        if self.distance == "angle":
            normalise_rows(values, indptr)
        elif self.distance == "jaccard":
            np.not_equal(values, 0, out=values)

    def __call__(self, queries: Any, rows: Any) -> Array:
        """Return the kernel, or its logarithm, between prepared blocks."""
        values = self.profile(self._distances(queries, rows))
        if self.power == 1:
            return values
        return values * self.power if self.is_logarithm else values**self.power

    def _distances(self, queries: Any, rows: Any) -> Array:
        if self.distance == "cityblock":
            return _sums(queries, rows, squared=False)
        if self.distance == "euclidean":
            return np.sqrt(_sums(queries, rows, squared=True))
        if self.distance == "angle":
            # Kahan's formula (2006, "How Futile are Mindless Assessments of Roundoff", section 12):
            # exact for equal and for opposite rows, where an arc cosine loses half of the digits; a
            # zero row is at pi / 2 to every other and at 0 to itself.
            apart = _sums(queries, rows, squared=True)
            opposite = _sums(queries, -rows, squared=True)
            return 2.0 * np.arctan2(np.sqrt(apart), np.sqrt(opposite))
        in_one = _sums(queries, rows, squared=False)
        sizes = (np.asarray(block.sum(axis=1)) for block in (queries, rows))
        union = (in_one + np.add.outer(*sizes)) / 2
        return np.divide(in_one, union, out=np.zeros_like(union), where=union > 0)


def _sums(queries: Any, rows: Any, *, squared: bool) -> Array:
    """Return the sums of magnitudes, or of squares, of the differences between prepared rows."""
    out = np.empty((queries.shape[0], rows.shape[0]))
    if isinstance(rows, np.ndarray):
        distances(queries, np.ascontiguousarray(rows.T), squared, out)
    else:
        blocks = (part for block in (queries, rows) for part in (block.data, block.indices, block.indptr))
        sparse_distances(*blocks, rows.shape[1], squared, out)
    return np.minimum(out, LARGEST_DISTANCE, out=out)


@dataclass(frozen=True)
class SklearnKernel:
    """A kernel of :func:`sklearn.metrics.pairwise.pairwise_kernels`, raised to a power.

    Parameters
    ----------
    metric : str or callable
    power : int
    parameters : dict
        Passed on.
    """

    metric: str | Callable[..., float]
    power: int
    parameters: dict[str, Any] = field(default_factory=dict)
    is_logarithm = False

    def takes_sparse(self) -> bool:
        """Return False for the few kernels that scikit-learn knows for dense rows alone."""
        return not isinstance(self.metric, str) or self.metric not in DENSE_KERNELS

    def prepare(self, rows: Any) -> Any:
        """Return the rows as float64."""
        return rows.astype(np.float64, copy=False)

    def __call__(self, queries: Any, rows: Any) -> Array:
        """Return the kernel between two blocks.

        Raises
        ------
        ValueError
            If it is not finite.
        """
        from sklearn.metrics.pairwise import pairwise_kernels  # here, as it takes a while

        values = np.asarray(pairwise_kernels(queries, rows, metric=self.metric, **self.parameters))
        if not np.isfinite(values).all():
            raise ValueError(
                f"kernel={self.metric!r} returned NaN or infinity for a pair of rows; make it finite "
                "there, or transform X so that it is."
            )
        return values if self.power == 1 else values**self.power


def kernel_sums(
    kernel: PairwiseKernel,
    queries: Any,
    rows: Any,
    values: Array,
    *,
    own: NDArray[np.int64] | None = None,
    guarded: bool,
    n_threads: int,
) -> Array:
    """Return ``sum_i k(q, x_i) values_i`` for every query q.

    Parameters
    ----------
    kernel : PairwiseKernel
    queries : ndarray or CSR of shape (n_queries, n_features)
    rows : ndarray or CSR of shape (n_rows, n_features)
    values : ndarray of shape (n_rows, n_channels), float64
    own : ndarray of shape (n_queries,), int64, or None
        The row that each query leaves out; -1 for none.
    guarded : bool
        Whether the sums of a query may all be multiplied by one positive number that keeps them
        from underflow: the inverse of its largest kernel value. Ratios of sums are the same.
    n_threads : int

    Returns
    -------
    ndarray of shape (n_queries, n_channels), float64
    """
    as_csr = kernel.takes_sparse() and sparse.issparse(queries) and sparse.issparse(rows)
    largest = ROWS_PER_TILE if as_csr else max(16, VALUES_PER_BLOCK // rows.shape[1])
    per_query_block, per_row_block = min(QUERIES_PER_TILE, largest), min(ROWS_PER_TILE, largest)
    sums = np.zeros((queries.shape[0], values.shape[1]))

    def add_query_blocks(first_block: int, last_block: int) -> None:
        for begin in range(first_block * per_query_block, last_block * per_query_block, per_query_block):
            block = slice(begin, begin + per_query_block)
            prepared = kernel.prepare(_block(queries, block, as_csr))
            left_out = None if own is None else own[block]
            add_rows(prepared, left_out, sums[block])

    def add_rows(prepared: Any, left_out: NDArray[np.int64] | None, sums: Array) -> None:
        maximum = np.full((len(sums), 1), -np.inf if guarded else 0.0)
        for begin in range(0, rows.shape[0], per_row_block):
            block = slice(begin, begin + per_row_block)
            tile = kernel(prepared, kernel.prepare(_block(rows, block, as_csr)))
            if left_out is not None:
                here = np.flatnonzero((left_out >= begin) & (left_out < begin + per_row_block))
                tile[here, left_out[here] - begin] = -np.inf if kernel.is_logarithm else 0.0
            if kernel.is_logarithm:
                if guarded:
                    _shift(tile, maximum, sums)
                np.exp(tile, out=tile)
            sums += tile @ values[block]

    with single_threaded_blas():
        run_ranges(add_query_blocks, math.ceil(queries.shape[0] / per_query_block), n_threads)
    return sums


def _shift(tile: Array, maximum: Array, sums: Array) -> None:
    """Subtract the largest logarithm so far, and bring ``maximum`` and the sums so far in line."""
    new = np.maximum(maximum, tile.max(axis=1, keepdims=True))
    # A query that has left out the only row so far has no maximum yet.
    shift = np.where(np.isneginf(new), 0.0, new)
    sums *= np.exp(maximum - shift)
    tile -= shift
    maximum[:] = new


def _block(X: Any, block: slice, as_csr: bool) -> Any:
    rows = X[block]
    return rows if as_csr or isinstance(rows, np.ndarray) else rows.toarray()
