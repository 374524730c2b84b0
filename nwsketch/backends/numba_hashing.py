"""From rows to codes with numba: which kernel hashes what, and the arrays that it wants.

The kernels are serial; a caller may hand disjoint ranges of rows, or of repetitions, to several threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard
from scipy.sparse import csr_array, issparse

from nwsketch.backends.base import Array, Codes, Plan
from nwsketch.backends.numba_kernels.floors import ROUND_BITS
from nwsketch.backends.numba_kernels.grid import grid_codes, sparse_grid_codes
from nwsketch.backends.numba_kernels.minhash import minhash_codes
from nwsketch.backends.numba_kernels.panels import CHUNKS_TOGETHER, FEATURES_TOGETHER, PAIR
from nwsketch.backends.numba_kernels.projection import projection_codes
from nwsketch.backends.numba_kernels.sparse_projection import sparse_projection_codes
from nwsketch.backends.numba_kernels.vectors import ORDER

#: Rows that a family without compiled arithmetic is given at a time (dense, also if X is sparse).
PLAIN_ROWS = 256

CodeArray = NDArray[Any]
#: Called with rows, a range of rows, a range of repetitions, and codes (n_in_range, n_rows) to fill.
Hash = Callable[[Any, int, int, int, int, CodeArray], None]


class Hasher:
    """The hashes of one plan.

    Parameters
    ----------
    plan : Plan

    Attributes
    ----------
    code_type : type
        uint16 if it can number all buckets, else uint32.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.code_type = np.uint16 if plan.n_buckets <= 2**16 else np.uint32
        self._join = (plan.multipliers, plan.shifts, np.uint64(plan.n_buckets), plan.rehashed)
        hashes: dict[str, Hash] = {
            "grid": self._hash_grid,
            "floor_projection": self._hash_projection,
            "sign_projection": self._hash_projection,
            "minhash": self._hash_minhash,
        }
        self._hash = hashes.get(plan.form, self._hash_plainly)
        self._takes_arrays = plan.form in hashes and plan.form != "minhash"  # which wants CSR
        self._is_ready = False  # for dense rows: sparse ones need none of the copies below

    def prepare(self, X: Any) -> Any:
        """Return rows as the kernels want them: C-contiguous, or the arrays of CSR.

        Parameters
        ----------
        X : ndarray or canonical CSR of shape (n_rows, n_features), or Codes
        """
        if isinstance(X, np.ndarray) and self._takes_arrays:
            if not self._is_ready:
                self._prepare_grids() if self._plan.form == "grid" else self._prepare_projections()
                self._is_ready = True
            return np.ascontiguousarray(X)
        if isinstance(X, Codes) or self._hash == self._hash_plainly:
            return X
        if self._plan.form == "minhash" and not issparse(X):
            X = csr_array(X)
        rows: Any = X
        return rows.data.astype(np.float64, copy=False), rows.indices, rows.indptr

    def hash(self, rows: Any, begin: int, end: int, first: int, last: int, codes: CodeArray) -> None:
        """Fill ``codes[r - first, i]`` for rows begin <= i < end and repetitions first <= r < last.

        Parameters
        ----------
        rows
            What :meth:`prepare` returned.
        begin, end, first, last : int
        codes : ndarray of shape (last - first, n_rows)
            C-contiguous, of :attr:`code_type` or larger.
        """
        if isinstance(rows, Codes):
            codes[:, begin:end] = rows.array[first:last, begin:end]
        else:
            self._hash(rows, begin, end, first, last, codes)

    def _hash_plainly(self, X: Any, begin: int, end: int, first: int, last: int, codes: CodeArray) -> None:
        for start in range(begin, end, PLAIN_ROWS):
            stop = min(start + PLAIN_ROWS, end)
            rows: Any = X[start:stop]
            if not isinstance(rows, np.ndarray):
                rows = rows.toarray()
            codes[:, start:stop] = self._plan.codes(rows)[first:last]

    def _hash_grid(self, rows: Any, begin: int, end: int, first: int, last: int, codes: CodeArray) -> None:
        wanted = (first, last, codes)
        if isinstance(rows, tuple):
            grids = self._plan.arrays["scales"], self._plan.arrays["offsets"]
            sparse_grid_codes(*rows, begin, end, *grids, *self._join, *wanted)
        else:
            grid_codes(rows, begin, end, *self._grids, *self._join[1:3], *wanted)

    def _hash_minhash(self, rows: Any, begin: int, end: int, first: int, last: int, codes: CodeArray) -> None:
        minhash_codes(*rows, begin, end, self._plan.arrays["seeds"], *self._join, first, last, codes)

    def _hash_projection(
        self, rows: Any, begin: int, end: int, first: int, last: int, codes: CodeArray
    ) -> None:
        signs = self._plan.form == "sign_projection"
        offsets = np.empty(0) if signs else self._plan.arrays["offsets"]
        wanted = (offsets, signs, *self._join, first, last, codes)
        if isinstance(rows, tuple):
            sparse_projection_codes(*rows, begin, end, self._plan.arrays["directions"], *wanted)
        else:
            projection_codes(rows, begin, end, *self._projections, self._errors, self._by_chunk, *wanted)

    def _prepare_grids(self) -> None:
        """Copy what belongs to a hash into one piece."""
        grids = (self._plan.arrays["scales"], self._plan.arrays["offsets"], self._plan.multipliers)
        self._grids = tuple(np.asfortranarray(array) for array in grids)

    def _prepare_projections(self) -> None:
        """Round the directions, or their factors, to float32, and bound what float32 can cost.

        Let u = 2^-24. A row x, scaled, is rounded: u of its norm. Products with a direction of norm 1 and
        their sums, t terms of n at a time, cost (t + n / t) u of both norms, rounding the direction u. If it
        has factors, n counts chunks, the products are of Gaussians g of a block by transformed chunks, and
        bounded by sum_j |g_j| |(H x)_j| / sqrt(8) <= ||g|| ||x||; each of the three levels of both
        transforms adds u. Rounding a length and multiplying by it costs 2 u; what float64 adds to the
        reference, less than u. What sums of floors begin with takes part in all this. (Higham, "Accuracy and
        Stability of Numerical Algorithms", 2002, chapters 3 and 24.)
        """
        arrays, n_repetitions = self._plan.arrays, self._plan.n_repetitions
        directions = np.asfortranarray(arrays["directions"])  # the kernels want one at a time, and whole
        signs, by_chunk = self._plan.form == "sign_projection", "gaussians" in arrays
        norms = column_norms(directions)
        if by_chunk:
            scales, n_terms, together = arrays["scales"], len(arrays["scales"]) // ORDER, CHUNKS_TOGETHER
            gaussians = arrays["gaussians"].reshape(-1, len(norms) // n_repetitions, len(scales))
            blocks, sizes = gaussians / np.sqrt(ORDER), np.linalg.norm(gaussians, axis=2)
        else:
            scales, n_terms, together = np.ones(len(directions)), len(directions), FEATURES_TOGETHER
            blocks = _by_block((directions / np.where(norms > 0, norms, 1.0)).T, n_repetitions)
            blocks, sizes = blocks.swapaxes(2, 3), np.ones(blocks.shape[:2])
        n_roundings = min(n_terms, together) + n_terms / together + (11 if by_chunk else 5)
        unit = 1.01 * n_roundings * 2.0**-24
        largest = sizes  # projections, times length, of rows of norm 1, by any hash of a block
        if signs:  # which do not change with the length
            largest_norm = 1e35
            own: list[NDArray[Any]] = [np.empty(0, dtype) for dtype in "ffIIdf"]
        else:
            lengths = _by_block(arrays["lengths"] if by_chunk else norms, n_repetitions)
            largest = sizes * lengths.max(axis=2)
            largest_norm = 2.0**61 / max(largest.max(), 1.0) if largest.max() < 1e30 else 0.0
            starts, sizes_of_starts = self._starts(lengths, by_chunk)
            own = [_flat(lengths), _flat(starts), *self._high_halves(sizes[..., np.newaxis] * lengths)]
            own.append(_flat(unit * sizes_of_starts + 2.0**-22))  # four units: distances, and these sums
        self._projections = (largest_norm, directions, scales, _flat(blocks), *own)
        self._errors, self._by_chunk = _flat(unit * largest), by_chunk

    def _starts(self, lengths: Array, by_chunk: bool) -> tuple[Array, Array]:
        """Return what sums begin with, so that projections times length hold offsets, and its size.

        Offsets are less 0.5, so that cells are the nearest whole numbers. The sums of a block that has
        factors are transformed once more, so what they begin with is transformed back.
        """
        offsets = _by_block(self._plan.arrays["offsets"] - 0.5, self._plan.n_repetitions)
        with np.errstate(over="ignore", invalid="ignore"):  # whatever is not finite is left to float64
            starts = np.divide(offsets, lengths, out=np.zeros_like(offsets), where=lengths > 0)
            sizes = np.abs(starts)
            if by_chunk:
                starts = starts @ hadamard(ORDER) / ORDER
                sizes = np.abs(starts).sum(axis=2, keepdims=True)
            return starts, np.where(lengths > 0, sizes * lengths, np.inf).max(axis=2)

    def _high_halves(self, largest: Array) -> list[NDArray[Any]]:
        """Return 32 bits of multipliers and of shifts, and bounds of what the rest would carry over.

        A multiplier is 2^32 of its high half and a low one, which may be negative. Cells are at most 1
        further from zero than projections (``largest``, of rows of norm 1): half for the offset, half for
        rounding. They come as ROUND plus the cell.
        """
        multipliers = _by_block(self._plan.multipliers[0], self._plan.n_repetitions)
        shifts = _by_block(self._plan.shifts, self._plan.n_repetitions)[:, 0] >> np.uint64(32)
        high = (multipliers + np.uint64(2**31)) >> np.uint64(32)
        low = np.abs((multipliers - (high << np.uint64(32))).astype(np.int64)) / 2.0**32
        by_norm = 1.01 * (low * largest).sum(axis=1).max()
        carries = np.array(
            [2.0 + low.sum(axis=1).max(), by_norm]
        )  # of a shift less than 1, and 1 for the floor
        shifts -= high.sum(axis=1) * np.uint64(ROUND_BITS)
        high = _in_pairs(high.astype(np.uint32))
        high[:, multipliers.shape[1] :] = 0
        return [high.ravel(), shifts.astype(np.uint32).ravel(), carries]


def _by_block(values: NDArray[Any], n_repetitions: int) -> NDArray[Any]:
    """Return values of all hashes, (n_hashes, ...), as (n_stacks, hashes of a repetition, ORDER, ...).

    Repetitions that the last stack lacks are copies of others: zeros would lie at an edge, and be mended.
    """
    by_repetition = values.reshape(n_repetitions, -1, *values.shape[1:])
    wanted = np.arange(-(-n_repetitions // ORDER) * ORDER) % n_repetitions
    return by_repetition[wanted].reshape(-1, ORDER, *by_repetition.shape[1:]).swapaxes(1, 2)


def _in_pairs(blocks: NDArray[Any]) -> NDArray[Any]:
    """Return the blocks of all stacks, (n_stacks, n_blocks, ...), with a copy of the last if they are odd."""
    return np.concatenate([blocks, blocks[:, blocks.shape[1] - blocks.shape[1] % PAIR :]], axis=1)


def _flat(blocks: NDArray[Any]) -> NDArray[np.float32]:
    """Return blocks in pairs as one flat array of float32."""
    with np.errstate(over="ignore"):
        return _in_pairs(blocks).astype(np.float32).ravel()


def column_norms(directions: Array) -> Array:
    """Return the length of every column, also where squares would overflow or underflow."""
    largest = np.abs(directions).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    return np.asarray(unit * np.sqrt(((directions / unit) ** 2).sum(axis=0)))
