"""From rows to codes with numba: which kernel hashes what, and the arrays that it wants.

The kernels are serial; a caller may hand disjoint ranges of rows, or of repetitions, to several threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from nwsketch.backends.base import Array, Codes, Plan
from nwsketch.backends.numba_kernels.grid import grid_codes, sparse_grid_codes
from nwsketch.backends.numba_kernels.minhash import minhash_codes
from nwsketch.backends.numba_kernels.projection import projection_codes, sparse_projection_codes
from nwsketch.backends.numba_kernels.structured import (
    BLOCKS,
    CHUNKS,
    ORDER,
    structured_codes,
)

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
        if plan.form.endswith("projection"):
            if "gaussians" in plan.arrays:
                self._prepare_factors()
            else:
                self._prepare_directions()

    def prepare(self, X: Any) -> Any:
        """Return rows as the kernels want them: C-contiguous, or the arrays of CSR.

        Parameters
        ----------
        X : ndarray or canonical CSR of shape (n_rows, n_features), or Codes
        """
        if isinstance(X, np.ndarray) and self._takes_arrays:
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
        arrays = self._plan.arrays
        grids = (begin, end, arrays["scales"], arrays["offsets"], *self._join, first, last, codes)
        if isinstance(rows, tuple):
            sparse_grid_codes(*rows, *grids)
        else:
            grid_codes(rows, *grids)

    def _hash_minhash(self, rows: Any, begin: int, end: int, first: int, last: int, codes: CodeArray) -> None:
        minhash_codes(*rows, begin, end, self._plan.arrays["seeds"], *self._join, first, last, codes)

    def _hash_projection(
        self, rows: Any, begin: int, end: int, first: int, last: int, codes: CodeArray
    ) -> None:
        arrays = self._plan.arrays
        directions, signs = arrays["directions"], self._plan.form == "sign_projection"
        offsets = np.empty(0) if signs else arrays["offsets"]
        wanted = (*self._join, first, last, codes)
        if isinstance(rows, tuple):
            sparse_projection_codes(*rows, begin, end, directions, offsets, signs, *wanted)
            return
        products = (rows, begin, end, self._largest_norm, directions, *self._factors)
        kernel = structured_codes if "gaussians" in arrays else projection_codes
        kernel(*products, offsets, signs, self._errors, *wanted)

    def _prepare_directions(self) -> None:
        """Round the directions to float32, and bound what that and a float32 product can cost."""
        directions = self._plan.arrays["directions"]
        norms = column_norms(directions)
        error = 1.01 * (directions.shape[0] / 4 + 9) * 2.0**-24  # see numba_kernels/projection.py
        if self._plan.form == "sign_projection":  # a sign does not change with the length
            rounded = directions / np.where(norms > 0, norms, 1.0)
            self._largest_norm = 1e37
            errors = np.full(len(norms), error)
        else:
            rounded, largest = directions, norms.max()
            self._largest_norm = 2.0**61 / max(largest, 1.0) if largest < 1e30 else 0.0
            errors = error * norms
        n_features, n_hashes = directions.shape
        padded = np.zeros((-(-n_features // 4) * 4, n_hashes + 3), dtype=np.float32)
        with np.errstate(over="ignore"):
            padded[:n_features, :n_hashes] = rounded
            self._errors: Any = errors.astype(np.float32)
        self._factors: tuple[Array, ...] = (padded,)

    def _prepare_factors(self) -> None:
        """Round the factors of the directions to float32, and bound what float32 can cost.

        With u = 2^-24, x the scaled row, g the Gaussians of a block and n chunks, rounding x costs u of its
        norm, each of the three levels of the transform u more, rounding g / sqrt(8) u, the products u, their
        sums by threes and over all chunks 2 u + n / 3 u, the levels of the last transform 3 u: all of
        sum_j |g_j| |(H x)_j| / sqrt(8) <= ||g|| ||x||. Rounding a length and multiplying by it costs 2 u,
        the addition of an offset and what float64 adds to the reference less than 2 u. (Higham, "Accuracy
        and Stability of Numerical Algorithms", 2002, chapters 3 and 24.)
        """
        gaussians, scales = self._plan.arrays["gaussians"], self._plan.arrays["scales"]
        n_blocks, n_padded = gaussians.shape
        n_chunks = -(-n_padded // (CHUNKS * ORDER)) * CHUNKS
        coefficients = np.zeros((n_blocks + BLOCKS - 1, n_chunks * ORDER), dtype=np.float32)
        coefficients[:n_blocks, :n_padded] = gaussians / np.sqrt(ORDER)
        norms = np.linalg.norm(gaussians, axis=1)
        if self._plan.form == "sign_projection":
            lengths, norm = np.empty(0), norms.max()
        else:
            lengths = self._plan.arrays["lengths"]
            by_stack = norms.reshape(-1, len(lengths) // self._plan.n_repetitions)
            norm = (lengths * by_stack.repeat(ORDER, axis=0).ravel()[: len(lengths)]).max()
        error = 1.01 * (n_chunks / CHUNKS + 15) * 2.0**-24 * norm
        self._errors = np.float32(error)
        # Signs stand until float32 overflows; every floor is too close to an edge long before.
        self._largest_norm = 1e35 if self._plan.form == "sign_projection" else 0.25 / error
        self._factors = (scales, coefficients, lengths)


def column_norms(directions: Array) -> Array:
    """Return the length of every column, also where squares would overflow or underflow."""
    largest = np.abs(directions).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    return np.asarray(unit * np.sqrt(((directions / unit) ** 2).sum(axis=0)))
