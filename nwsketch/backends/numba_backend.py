"""The numba backend: blocks of rows, handed to compiled kernels by a small thread pool.

Adding rows splits the repetitions among threads, reading splits the rows; in both cases a
thread hashes what it needs, so that nothing is shared and nothing waits within a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from nwsketch.backends.base import Array, Plan, Progress, State
from nwsketch.backends.numba_kernels.backfit import accumulate_channel, backfit
from nwsketch.backends.numba_kernels.grid import grid_codes, sparse_grid_codes
from nwsketch.backends.numba_kernels.minhash import minhash_codes
from nwsketch.backends.numba_kernels.projection import (
    GROUP,
    floor_codes,
    sign_codes,
    sparse_projection_codes,
)
from nwsketch.backends.numba_kernels.tables import (
    accumulate,
    accumulate_totals,
    commit,
    look_up,
    look_up_others,
)
from nwsketch.backends.threads import run_ranges

#: A block of rows holds about this many codes, or values of X, at a time.
BLOCK_SIZE = 2**23
#: Work (codes) below which a second thread costs more than it saves.
SERIAL_SIZE = 2**13
#: Rows that a family without compiled arithmetic is given at a time (dense, also if X is sparse).
PLAIN_ROWS = 256
#: The codes of rows that are hashed again and again are kept if they take at most as many bytes.
KEPT_BYTES = 2**31

Codes = NDArray[np.uint32]
#: Fills codes (last - first, n_rows) of the repetitions first <= r < last.
Hash = Callable[[Any, int, int, Codes], None]


class NumbaBackend:
    """Sketches on the CPU (implements :class:`nwsketch.backends.base.Backend`).

    Parameters
    ----------
    plan : Plan
        How rows are hashed.
    """

    devices = frozenset({"cpu"})

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._join = (plan.multipliers, plan.shifts, np.uint64(plan.n_buckets), plan.rehashed)
        hashes: dict[str, Hash] = {
            "grid": self._hash_grid,
            "floor_projection": self._hash_projection,
            "sign_projection": self._hash_projection,
            "minhash": self._hash_minhash,
        }
        self._hash = hashes.get(plan.form, self._hash_plainly)
        if plan.form.endswith("projection"):
            self._prepare_projection()

    # -- the contract -------------------------------------------------------------------------

    def empty_state(self, n_outputs: int) -> State:
        """Return the state of a sketch that has seen no row."""
        tables = np.zeros((self._plan.n_repetitions, self._plan.n_buckets, n_outputs + 1))
        return State(tables, np.zeros(n_outputs + 3))

    def codes(self, X: Any, n_threads: int) -> Codes:
        """Return the bucket of every row in every repetition: (n_repetitions, n_samples)."""
        blocks = [self._block_codes(X[rows], n_threads) for rows in self._blocks(X)]
        if len(blocks) == 1:
            return blocks[0]
        return np.hstack([np.empty((self._plan.n_repetitions, 0), dtype=np.uint32), *blocks])

    def add(
        self,
        state: State,
        X: Any,
        y: Array,
        weights: Array | None,
        n_threads: int,
        progress: Progress | None = None,
    ) -> State:
        """Return the state after rows were added.

        A batch smaller than a table is hashed first and then added in place by one compiled
        call, which no signal can interrupt. A larger one is added to a copy: whatever stops it
        on the way leaves ``state`` as it was.
        """
        if X.shape[0] < min(self._plan.n_buckets, self._block_rows(X)):
            values = _values(y, weights, 1.0)
            codes = self._block_codes(X, n_threads)
            if not state.tables.flags.writeable:  # mapped from a file, as joblib does
                state = State(state.tables.copy(), state.totals.copy())
            commit(codes, values, *state)
            if progress is not None:
                progress(X.shape[0])
            return state
        if state.n_rows == 0 and state.weight_ever_added == 0:
            state = self.empty_state(y.shape[1])
        else:
            state = State(state.tables.copy(), state.totals.copy())
        self._accumulate(state, X, y, weights, 1.0, n_threads, progress)
        return state

    def subtract(self, state: State, X: Any, y: Array, weights: Array | None, n_threads: int) -> State:
        """Return the state after rows were taken away; ``state`` itself stays as it is."""
        state = State(state.tables.copy(), state.totals.copy())
        self._accumulate(state, X, y, weights, -1.0, n_threads, None)
        return state

    def sums(
        self, state: State, X: Any, n_groups: int, own: Array | None, n_threads: int
    ) -> tuple[Array, Array]:
        """Return what the rows' buckets hold, summed over the repetitions of every group."""
        n_channels = state.tables.shape[2]
        sums = np.zeros((X.shape[0], n_groups, n_channels))
        squares = np.zeros((X.shape[0], n_groups))
        n_repetitions = self._plan.n_repetitions

        for block in self._blocks(X):

            def read(first: int, last: int, start: int = block.start) -> None:
                rows = slice(start + first, start + last)
                codes = np.empty((n_repetitions, last - first), dtype=np.uint32)
                self._hash(X[rows], 0, n_repetitions, codes)
                if own is None:
                    look_up(codes, state.tables, state.unit, sums[rows], squares[rows])
                else:
                    look_up_others(codes, state.tables, state.unit, own[rows], sums[rows], squares[rows])

            self._run(read, block.stop - block.start, block.stop - block.start, n_threads)
        return sums, squares

    def hashed(self, X: Any, n_threads: int) -> HashedRows:
        """Return the codes of rows that will be needed several times."""
        return HashedRows(self, X, n_threads)

    def add_channel(self, state: State, rows: HashedRows, values: Array, channel: int) -> None:
        """Add one value per row to one channel of its buckets, in place."""
        for first, codes in rows:

            def add(begin: int, end: int, first: int = first, codes: Any = codes) -> None:
                accumulate_channel(codes[begin:end], values, first + begin, channel, state.tables)

            self._run(add, len(codes), values.size, rows.n_threads)

    def backfit(self, state: State, rows: HashedRows, weights: Array, residuals: Array, ridge: float) -> None:
        """Refit the tables, one repetition after the other, to the residuals; both in place."""
        changes = np.empty((len(residuals), self._plan.n_buckets))
        for first, codes in rows:

            def refit(begin: int, end: int, first: int = first, codes: Any = codes) -> None:
                for k in range(begin, end):
                    backfit(codes, weights, first, k, ridge, residuals[k], changes[k], state.tables)

            self._run(refit, len(residuals), weights.size, rows.n_threads)

    # -- blocks and threads -------------------------------------------------------------------

    def _block_rows(self, X: Any) -> int:
        widest = max(self._plan.n_repetitions, 1 if issparse(X) else X.shape[1])
        return int(min(max(BLOCK_SIZE // widest, 64), 2**16))

    def _blocks(self, X: Any) -> Iterator[slice]:
        step = self._block_rows(X)
        for start in range(0, X.shape[0], step):
            yield slice(start, min(start + step, X.shape[0]))

    def _run(self, task: Callable[[int, int], None], n_items: int, n_rows: int, n_threads: int) -> None:
        """Split ``n_items`` (rows or repetitions) among threads, if the work is worth it."""
        small = n_rows * self._plan.n_repetitions < SERIAL_SIZE
        run_ranges(task, n_items, 1 if small else n_threads)

    def _block_codes(self, X: Any, n_threads: int) -> Codes:
        codes = np.empty((self._plan.n_repetitions, X.shape[0]), dtype=np.uint32)
        self._run(
            lambda first, last: self._hash(X, first, last, codes[first:last]),
            self._plan.n_repetitions,
            X.shape[0],
            n_threads,
        )
        return codes

    def _accumulate(
        self,
        state: State,
        X: Any,
        y: Array,
        weights: Array | None,
        sign: float,
        n_threads: int,
        progress: Progress | None,
    ) -> None:
        """Add rows (``sign`` 1) to a state that nobody else sees, or take them away (-1)."""
        for rows in self._blocks(X):
            block = X[rows]
            values = _values(y[rows], None if weights is None else weights[rows], sign)

            def learn(first: int, last: int, block: Any = block, values: Array = values) -> None:
                codes = np.empty((last - first, block.shape[0]), dtype=np.uint32)
                self._hash(block, first, last, codes)
                accumulate(codes, values, first, last, state.tables)

            self._run(learn, self._plan.n_repetitions, block.shape[0], n_threads)
            accumulate_totals(values, sign, state.totals)
            if progress is not None:
                progress(block.shape[0])

    # -- hashing: one method per form ---------------------------------------------------------

    def _hash_plainly(self, X: Any, first: int, last: int, codes: Codes) -> None:
        for start in range(0, X.shape[0], PLAIN_ROWS):
            rows: Any = X[start : start + PLAIN_ROWS]
            if not isinstance(rows, np.ndarray):
                rows = rows.toarray()
            codes[:, start : start + PLAIN_ROWS] = self._plan.codes(rows)[first:last]

    def _hash_grid(self, X: Any, first: int, last: int, codes: Codes) -> None:
        arrays = self._plan.arrays
        grids = (arrays["scales"], arrays["offsets"], *self._join, first, last, codes)
        if issparse(X):
            sparse_grid_codes(*_csr(X), *grids)
        else:
            grid_codes(np.ascontiguousarray(X.T, dtype=np.float64), *grids)

    def _hash_minhash(self, X: Any, first: int, last: int, codes: Codes) -> None:
        rows = X if issparse(X) else csr_array(X)
        minhash_codes(*_csr(rows), self._plan.arrays["seeds"], *self._join, first, last, codes)

    def _prepare_projection(self) -> None:
        """Round the directions to float32, and bound what that and a float32 product can cost."""
        directions = self._plan.arrays["directions"]
        norms = _column_norms(directions)
        error = (directions.shape[0] + 4) * 2.0**-23
        if self._plan.form == "sign_projection":  # a sign does not change with the length
            rounded = directions / np.where(norms > 0, norms, 1.0)
            self._largest_norm = 1e37
            self._errors = np.float32(error)
        else:
            rounded, largest = directions, norms.max()
            self._largest_norm = 1e37 / max(largest, 1.0) if largest < 1e30 else 0.0
            with np.errstate(over="ignore"):
                self._errors = (error * norms).astype(np.float32)
        n_features, n_hashes = directions.shape
        padded = -(-n_features // 4) * 4
        self._rounded = np.zeros((padded, n_hashes + GROUP), dtype=np.float32)
        with np.errstate(over="ignore"):
            self._rounded[:n_features, :n_hashes] = rounded

    def _hash_projection(self, X: Any, first: int, last: int, codes: Codes) -> None:
        arrays = self._plan.arrays
        signs = self._plan.form == "sign_projection"
        wanted = (*self._join, first, last, codes)
        if issparse(X):
            offsets = np.empty(0) if signs else arrays["offsets"]
            sparse_projection_codes(*_csr(X), arrays["directions"], offsets, signs, *wanted)
            return
        rows = np.ascontiguousarray(X)
        products = (rows, self._largest_norm, arrays["directions"], self._rounded)
        if signs:
            sign_codes(*products, self._errors, *wanted)
        else:
            floor_codes(*products, arrays["offsets"], self._errors, *wanted)


class HashedRows:
    """Codes of rows by blocks of repetitions: kept if they are small, made anew each time if not.

    Parameters
    ----------
    backend : NumbaBackend
    X : ndarray or canonical CSR of shape (n_samples, n_features)
    n_threads : int
        Threads for hashing, and for what is done with the codes.
    """

    def __init__(self, backend: NumbaBackend, X: Any, n_threads: int) -> None:
        self.n_threads = n_threads
        self._backend, self._X = backend, X
        self._type = np.uint16 if backend._plan.n_buckets <= 2**16 else np.uint32
        n_codes = backend._plan.n_repetitions * X.shape[0]
        self._kept: list[tuple[int, NDArray[Any]]] | None = None
        if n_codes * np.dtype(self._type).itemsize <= KEPT_BYTES:
            self._kept = list(self._make())

    def __iter__(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the number of the first repetition of a block, and its codes (n_in_block, n_samples)."""
        return iter(self._make() if self._kept is None else self._kept)

    def _make(self) -> Iterator[tuple[int, NDArray[Any]]]:
        n_repetitions, n_rows = self._backend._plan.n_repetitions, self._X.shape[0]
        step = max(BLOCK_SIZE // max(n_rows, 1), self.n_threads)
        for first in range(0, n_repetitions, step):
            last = min(first + step, n_repetitions)
            kept = np.empty((last - first, n_rows), dtype=self._type)

            def fill(begin: int, end: int, first: int = first, kept: Any = kept) -> None:
                codes = np.empty((end - begin, n_rows), dtype=np.uint32)
                self._backend._hash(self._X, first + begin, first + end, codes)
                kept[begin:end] = codes

            self._backend._run(fill, last - first, n_rows, self.n_threads)
            yield first, kept


def _column_norms(directions: Array) -> Array:
    """Return the length of every column, also where squares would overflow or underflow."""
    largest = np.abs(directions).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    return np.asarray(unit * np.sqrt(((directions / unit) ** 2).sum(axis=0)))


def _values(y: Array, weights: Array | None, sign: float) -> Array:
    """Return what a row adds to its cells: weight * targets and, last, the weight."""
    values = np.empty((y.shape[0], y.shape[1] + 1))
    values[:, -1] = sign if weights is None else sign * weights
    np.multiply(y, values[:, -1:], out=values[:, :-1])
    return values


def _csr(X: Any) -> tuple[Array, NDArray[Any], NDArray[Any]]:
    return X.data.astype(np.float64, copy=False), X.indices, X.indptr
