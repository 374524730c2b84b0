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
from nwsketch.backends.numba_kernels.fixed_points import LARGEST, LEAST_DIGITS
from nwsketch.backends.numba_kernels.grid import grid_codes, sparse_grid_codes
from nwsketch.backends.numba_kernels.grid_blocks import BLOCK, grid_codes_by_block
from nwsketch.backends.numba_kernels.minhash import minhash_codes
from nwsketch.backends.numba_kernels.panels import FEW, FEW_FEATURES, MANY, PAIR
from nwsketch.backends.numba_kernels.projection import projection_codes
from nwsketch.backends.numba_kernels.sparse_projection import sparse_projection_codes
from nwsketch.backends.numba_kernels.vectors import FUSED, ORDER

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
            exact = (*self._grids, *self._join[1:3], *wanted)
            if end - begin < BLOCK:  # with fewer arrays to hand over, which is felt where rows come singly
                grid_codes(rows, begin, end, *exact)
            else:
                grid_codes_by_block(rows, begin, end, *self._short_grids, *exact)

    def _hash_minhash(self, rows: Any, begin: int, end: int, first: int, last: int, codes: CodeArray) -> None:
        minhash_codes(*rows, begin, end, self._plan.arrays["seeds"], *self._join, first, last, codes)

    def _hash_projection(
        self, rows: Any, begin: int, end: int, first: int, last: int, codes: CodeArray
    ) -> None:
        if isinstance(rows, tuple):
            signs = self._plan.form == "sign_projection"
            offsets = self._plan.arrays.get("offsets", np.empty(0))
            exact = (self._plan.arrays["directions"], offsets, signs, *self._join)
            sparse_projection_codes(*rows, begin, end, *exact, first, last, codes)
        else:
            projection_codes(rows, begin, end, *self._projections, *self._join[1:], first, last, codes)

    def _prepare_grids(self) -> None:
        """Copy what belongs to a hash into one piece; round it to float32, too, and bound what is lost.

        For float32 features are measured in units of their own, the means of their widths' inverses. High
        halves of multipliers are joined; low ones, l, carry over sum |l| |cell| at most, and a cell is less
        than 1 larger than the feature times its scale.
        """
        scales, n_repetitions = self._plan.arrays["scales"], self._plan.n_repetitions
        grids = (scales, self._plan.arrays["offsets"], self._plan.multipliers)
        self._grids = tuple(np.asfortranarray(array) for array in grids)
        units = scales.mean(axis=1)
        scales = np.divide(scales.T, units, out=np.zeros_like(scales.T), where=units > 0)
        high, low = _halves(self._plan.multipliers.T)
        reaches, low = scales.reshape(n_repetitions, -1).max(axis=1), np.abs(low)
        # 1 for the floor, 1/2 for rounding the shift
        carries = _joined(low * scales, n_repetitions), _joined(low, n_repetitions) + 1.5
        self._short_grids = (
            units,
            LARGEST / max(reaches.max(), 1e-30),
            scales.astype(np.float32).ravel(),
            self._plan.arrays["offsets"].T.astype(np.float32).ravel(),
            high.astype(np.uint32).ravel(),
            ((self._plan.shifts + np.uint64(2**31)) >> np.uint64(32)).astype(np.uint32),
            (np.uint64(0) - _joined(high, n_repetitions)).astype(np.uint32),
            (1.00001 * reaches).astype(np.float32),
            (1.00001 * self._plan.n_buckets * np.stack(carries, axis=1)).astype(np.float32).ravel(),
        )

    def _prepare_projections(self) -> None:
        """Round the directions, or their factors, to float32, and bound what float32 can cost.

        Let u = 2^-24. A row x, scaled, is rounded: u of its norm. A product with an element of a direction
        costs u of itself for every sum that it takes part in, once more if it is rounded before it is added,
        and u for rounding the direction. If that has factors, products are of Gaussians g of a block by
        transformed chunks, sum_j |g_j| |(H x)_j| / sqrt(8) <= ||g|| ||x||, whatever g_j is weighed with; each
        of the three levels of both transforms adds u. Rounding a length costs u. Roundings of roundings, and
        those of the reference, in float64, cost less than the hundredth by which u is taken larger. What sums
        of floors begin with takes part in all this.
        (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, chapters 3 and 24.)
        """
        arrays, n_repetitions = self._plan.arrays, self._plan.n_repetitions
        directions, by_chunk = arrays["directions"].T, "gaussians" in arrays
        signs = self._plan.form == "sign_projection"
        offsets, multipliers = arrays.get("offsets", np.empty(0)), self._plan.multipliers
        norms = np.empty(0) if signs and by_chunk else column_norms(arrays["directions"])
        if not signs and not by_chunk:
            # A code is a sum over hashes, in whatever order. By length those of a block are alike, and none
            # is given the bounds of another that is much longer.
            order = _argsort_repetitions(norms, n_repetitions)
            directions, norms, offsets = directions[order], norms[order], offsets[order]
            multipliers = multipliers[:, order]
        directions = np.ascontiguousarray(directions).T  # the kernels want one at a time, and whole
        if by_chunk:
            scales, n_terms = arrays["scales"], len(arrays["scales"]) // ORDER
            gaussians = arrays["gaussians"].reshape(-1, directions.shape[1] // n_repetitions, len(scales))
            n_roundings = _n_roundings(n_terms, FEW).repeat(ORDER) + 9
            blocks = gaussians / np.sqrt(ORDER)
            sizes = np.linalg.norm(gaussians * n_roundings, axis=2, keepdims=True)
        else:
            scales, n_terms = np.ones(len(directions)), len(directions)
            blocks = _by_block((directions / np.where(norms > 0, norms, 1.0)).T, n_repetitions)
            n_roundings = _n_roundings(n_terms, FEW if n_terms <= FEW_FEATURES else MANY) + 3
            sizes = np.linalg.norm(blocks * n_roundings, axis=3)
            blocks = blocks.swapaxes(2, 3)
        unit = 1.01 * 2.0**-24
        errors = unit * sizes  # of projections, not times length, of rows of norm 1
        if signs:  # which do not change with the length
            largest_norm = 1e35
            own: list[Any] = [np.empty(0, dtype) for dtype in "ffIIIfIf"]
            own.append(_flat(errors.max(axis=2)))
        else:
            lengths = _by_block(arrays["lengths"] if by_chunk else norms, n_repetitions)
            with np.errstate(over="ignore", invalid="ignore"):  # whatever is not finite is left to float64
                hashes = (directions, norms, offsets, multipliers[0])
                largest_norm, own = self._prepare_floors(
                    *hashes, scales, lengths, errors * lengths, unit * n_roundings.max()
                )
        own += [by_chunk, offsets, signs, multipliers]  # set at once: several threads may do all this
        self._projections = (largest_norm, directions, scales, _flat(blocks), *own)

    def _prepare_floors(
        self,
        directions: Array,
        norms: Array,
        offsets: Array,
        multipliers: NDArray[np.uint64],
        scales: Array,
        lengths: Array,
        errors: Array,
        unit: float,
    ) -> tuple[float, list[Any]]:
        """Return the largest norm that float32 is good for, and what projection_codes wants from lengths on.

        Positions of a block are divided by a power of two if they may be larger than those of others, whose
        fixed points would otherwise lose digits; in structured blocks, which are much alike, they are not.
        """
        n_repetitions, by_chunk = self._plan.n_repetitions, "gaussians" in self._plan.arrays
        # The norm that is known is that of a row's scaled copies, projections are of the row itself.
        n_padded = -(-len(directions) // ORDER) * ORDER if by_chunk else len(directions)
        widths = column_norms(scales.reshape(-1, n_padded))[: len(directions), np.newaxis]
        width = widths.max() or 1.0
        if widths.min() < width:  # features have bandwidths of their own
            directions = np.divide(
                directions, widths / width, out=np.zeros_like(directions), where=widths > 0
            )
            norms = column_norms(directions)
        reaches = _by_block(norms / width, n_repetitions).max(axis=2)
        reach = reaches.max()
        if not by_chunk:
            reach = max(reaches.min(), reach / 2.0**LEAST_DIGITS)
        exponents = np.ceil(np.log2(np.maximum(reaches, reach) / reach)) if reach > 0 else 0 * reaches
        units = 2.0**exponents
        starts, sizes = self._starts(offsets, lengths, by_chunk)
        errors = 1.00001 * errors / units[..., np.newaxis]
        bounds = [1.00001 * reach, errors.max(), 1.00001 * (unit * sizes / units).max()]
        largest_norm = LARGEST / max(reach, 1e-30) if reach < 1e30 else 0.0
        return largest_norm, [
            _flat(lengths / units[..., np.newaxis]),
            _flat(starts),
            *self._high_halves(directions, offsets, multipliers, width),
            _in_pairs(exponents).astype(np.uint32).ravel(),
            np.array(bounds, np.float32),
            _flat(errors),
        ]

    def _starts(self, offsets: Array, lengths: Array, by_chunk: bool) -> tuple[Array, Array]:
        """Return what sums begin with, so that projections times length hold offsets, and its size.

        The sums of a block that has factors are transformed once more, so what they begin with is
        transformed back.
        """
        offsets = _by_block(offsets, self._plan.n_repetitions)
        starts = np.divide(offsets, lengths, out=np.zeros_like(offsets), where=lengths > 0)
        sizes = np.abs(starts)
        if by_chunk:
            starts = starts @ hadamard(ORDER) / ORDER
            sizes = np.abs(starts).sum(axis=2, keepdims=True)
        return starts, np.where(lengths > 0, sizes * lengths, np.inf).max(axis=2)

    def _high_halves(
        self, directions: Array, offsets: Array, multipliers: NDArray[np.uint64], width: float
    ) -> list[NDArray[Any]]:
        """Return 32 bits of multipliers, shifts and sums of multipliers, and what the rest carries over.

        A multiplier is 2^32 of its high half and a low one, which may be negative. A cell is its projection
        plus the offset less a part of 1, half of which is taken for granted. So the low halves, joined, are a
        sum of projections, in other words one by a sum of directions; what is known, which shifts take on;
        and the other halves of the parts. Carries are multiplied by ``n_buckets``, and by norm of rows
        ``width`` times as long.
        """
        n_repetitions = self._plan.n_repetitions
        high, low = _halves(multipliers)
        known = _joined(low * (offsets - 0.5), n_repetitions)
        known += self._plan.shifts / 2.0**32
        shifts = np.floor(known + 0.5).astype(np.int64).astype(np.uint32)
        lows = (low / width).reshape(n_repetitions, 1, -1)
        sums = lows @ directions.T.reshape(n_repetitions, -1, len(directions))
        # 1 for the floor, 1/2 for rounding the shift
        carries = column_norms(sums[:, 0].T), _joined(np.abs(low), n_repetitions) / 2 + 1.5
        by_stack = np.stack([_by_block(carry, n_repetitions)[:, 0] for carry in carries], axis=1)
        if "gaussians" in self._plan.arrays:  # those of a stack are much alike
            by_stack[:] = by_stack.max(axis=2, keepdims=True)
        blocks = _in_pairs(_by_block(high.astype(np.uint32), n_repetitions))
        blocks[:, high.size // n_repetitions :] = 0
        high_sums = (np.uint64(0) - _joined(high, n_repetitions)).astype(np.uint32)
        return [
            blocks.ravel(),
            *(_by_block(values, n_repetitions).ravel() for values in (shifts, high_sums)),
            (1.00001 * self._plan.n_buckets * by_stack).astype(np.float32).ravel(),
        ]


def _halves(multipliers: NDArray[np.uint64]) -> tuple[NDArray[Any], Array]:
    """Return multipliers as 32 high bits and, in units of the last of these, the rest: from -1/2 to 1/2."""
    high = (multipliers + np.uint64(2**31)) >> np.uint64(32)
    return high, multipliers.astype(np.uint32).view(np.int32) / 2.0**32


def _argsort_repetitions(values: Array, n_repetitions: int) -> NDArray[np.intp]:
    """Return the order of all hashes in which values increase within every repetition."""
    own = values.reshape(n_repetitions, -1)
    firsts = np.arange(n_repetitions)[:, np.newaxis] * own.shape[1]
    return np.asarray((own.argsort(axis=1) + firsts).ravel())


def _joined(values: NDArray[Any], n_repetitions: int) -> NDArray[Any]:
    """Return the sums over the hashes, or terms, of every repetition."""
    return values.reshape(n_repetitions, -1).sum(axis=1)


def _n_roundings(n_terms: int, together: int) -> NDArray[np.intp]:
    """Return how often each product is rounded, so many being added before that is added to the rest."""
    places, groups = np.arange(n_terms) % together, np.arange(n_terms) // together
    sizes = np.minimum(n_terms - groups * together, together)
    return np.asarray(sizes - places + groups[-1] - np.maximum(groups - 1, 0) + (not FUSED))


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
