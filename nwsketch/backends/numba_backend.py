"""The numba backend: blocks of rows, handed to compiled kernels by a small thread pool.

Hashing and reading split the rows of a block among threads, adding splits the repetitions, so that every
thread writes only what belongs to it. A block is as large as keeps its codes to some tens of megabytes: the
more rows pass, the less it costs to bring each repetition's table into the cache.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from nwsketch.backends.aggregation import Rules
from nwsketch.backends.base import Array, Codes, Plan, Progress, State
from nwsketch.backends.numba_hashing import CodeArray, Hasher
from nwsketch.backends.numba_kernels.backfit import accumulate_channel, backfit
from nwsketch.backends.numba_kernels.tables import (
    accumulate,
    accumulate_totals,
    commit,
    look_up,
    look_up_others,
    salt,
)
from nwsketch.backends.numba_kernels.vectors import ORDER
from nwsketch.backends.threads import run_pieces, run_ranges

#: A block of rows holds about this many codes, or values of X that must be copied, but no more rows than
#: that. All blocks of a call share the memory of their codes, which would be mapped anew for each otherwise.
BLOCK_SIZE, BLOCK_ROWS = 3 * 2**22, 2**17
#: Work (codes) below which a second thread costs more than it saves.
SERIAL_SIZE = 2**13
#: A thread takes its work in pieces, the smallest being this part of it, but none of fewer codes.
PIECES, PIECE_SIZE = 24, 2**16
#: Float64 values in a page: memory is mapped page by page, when it is first written to.
PAGE = 2**9
#: New tables of so many are worth being mapped by threads.
MAPPED_SIZE = 2**20
#: The codes of rows that are hashed again and again are kept if they take at most as many bytes.
KEPT_BYTES = 2**31


class NumbaBackend:
    """Sketches on the CPU (implements :class:`nwsketch.backends.base.Backend`).

    Parameters
    ----------
    plan : Plan
        How rows are hashed.
    device : {"cpu"} or None, default=None
        The CPU.
    """

    rules = Rules
    place = "numba"
    takes_tensors = False
    farthest = math.inf

    def __init__(self, plan: Plan, device: str | None = None) -> None:
        if device not in (None, "cpu"):
            raise ValueError(
                f"backend='numba' does not run on device={device!r}: choose device='cpu', or backend='torch'."
            )
        self.n_changes = 0
        self._plan = plan
        self._hasher = Hasher(plan)
        self._frozen: Callable[[], Array | None] = lambda: None

    # -- the contract -------------------------------------------------------------------------

    def empty_state(self, n_outputs: int) -> State:
        """Return the state of a sketch that has seen no row."""
        tables = np.zeros((self._plan.n_repetitions, self._plan.n_buckets, n_outputs + 1))
        return State(tables, np.zeros(n_outputs + 3))

    def to_host(self, state: State) -> State:
        """Return a state as arrays, which it is."""
        return state

    def from_host(self, state: State) -> State:
        """Return a state of arrays as this backend's own, which it is."""
        return state

    def is_shared(self, state: State) -> bool:
        """Return whether the arrays of a state must not be changed: frozen, or mapped from a file."""
        return self._frozen() is state.tables or not state.tables.flags.writeable

    def frozen(self, state: State) -> State:
        """Return a state; from now on rows are not added to it in place, but to a copy."""
        self._frozen = weakref.ref(state.tables)
        return state

    def codes(self, X: Any, n_threads: int, labels: NDArray[np.intp] | None = None) -> CodeArray:
        """Return the bucket of every row, moved by its label: (n_repetitions, n_samples)."""
        rows, n_repetitions = self._hasher.prepare(X), self._plan.n_repetitions
        codes = np.empty((n_repetitions, X.shape[0]), dtype=self._hasher.code_type)

        def fill(begin: int, end: int) -> None:
            self._hasher.hash(rows, begin, end, 0, n_repetitions, codes)
            if labels is not None:
                salt(labels, self._plan.offsets, self._plan.n_buckets, begin, end, codes)

        self._run(fill, X.shape[0], X.shape[0], n_threads)
        return codes

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
        on the way leaves ``state`` as it was. So is one that comes first and touches most pages of
        large tables: to map their memory takes long, and threads share that with hashing.
        """
        maps = _is_new(state) and state.tables.size >= MAPPED_SIZE
        least = self._plan.n_buckets // PAGE if maps else self._plan.n_buckets
        if X.shape[0] < min(least, self._block_rows(X)):
            values = self.values(y, weights)
            codes = self._block_codes(X, n_threads)
            if self.is_shared(state):
                state = State(state.tables.copy(), state.totals.copy())
            self.n_changes |= 1
            try:
                commit(codes, values, *state)
            finally:
                self.n_changes += 1
            if progress is not None:
                progress(X.shape[0])
            return state
        if _is_new(state):
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
        squares = np.zeros((X.shape[0], n_groups if self._plan.rehashed else 0))
        n_repetitions = self._plan.n_repetitions
        scratch = self._scratch(X)

        for block in self._blocks(X):

            def read(first: int, last: int, start: int = block.start) -> None:
                rows = slice(start + first, start + last)
                codes = scratch[first * n_repetitions : last * n_repetitions].reshape(n_repetitions, -1)
                self._hasher.hash(self._hasher.prepare(X[rows]), 0, last - first, 0, n_repetitions, codes)
                if own is None:
                    look_up(codes, state.tables, state.unit, sums[rows], squares[rows])
                else:
                    look_up_others(codes, state.tables, state.unit, own[rows], sums[rows], squares[rows])

            self._run(read, block.stop - block.start, block.stop - block.start, n_threads)
        return sums, squares

    def values(self, y: Array, weights: Array | None) -> Array:
        """Return what every row adds to its cells: (n_samples, n_outputs + 1)."""
        values = np.empty((y.shape[0], y.shape[1] + 1))
        _fill_values(y, weights, 1.0, values)
        return values

    def codes_on_host(self, X: Any) -> Codes:
        """Hash rows on the host; every row is here already."""
        return Codes(self.codes(X, 1))

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
        if isinstance(X, Codes):
            return min(max(BLOCK_SIZE // self._plan.n_repetitions, 64), BLOCK_ROWS)
        as_they_are = issparse(X) or (X.flags.c_contiguous and self._plan.form != "minhash")
        widest = max(self._plan.n_repetitions, 1 if as_they_are else X.shape[1])  # other rows are copied
        return min(max(BLOCK_SIZE // widest, 64), BLOCK_ROWS)

    def _blocks(self, X: Any) -> Iterator[slice]:
        n_rows = X.shape[0]
        n_blocks = -(-n_rows // self._block_rows(X))  # alike in size: a short one takes each table, too
        for block in range(n_blocks):
            yield slice(n_rows * block // n_blocks, n_rows * (block + 1) // n_blocks)

    def _run(
        self,
        task: Callable[[int, int], None],
        n_items: int,
        n_rows: int,
        n_threads: int,
        in_pieces: bool = False,
    ) -> None:
        """Split ``n_items`` (rows or repetitions) among threads, if the work is worth it.

        Hashing and adding are done ``in_pieces``. (Reading is not: every piece reads all tables in.)
        """
        work = n_rows * self._plan.n_repetitions
        n_threads = 1 if work < SERIAL_SIZE else min(n_threads, n_items)
        per_thread = min(work // PIECE_SIZE // max(n_threads, 1), PIECES)
        if in_pieces and n_threads > 1 and per_thread > 1:
            run_pieces(task, n_items, n_threads, n_threads * per_thread)
        else:
            run_ranges(task, n_items, n_threads)

    def _scratch(self, X: Any) -> CodeArray:
        """Return memory for the codes of any block of X."""
        n_rows = min(self._block_rows(X), X.shape[0])
        return np.empty(self._plan.n_repetitions * n_rows, dtype=self._hasher.code_type)

    def _block_codes(
        self,
        X: Any,
        n_threads: int,
        scratch: CodeArray | None = None,
        prepare: Callable[[int, int], None] | None = None,
    ) -> CodeArray:
        """Hash a block of rows, into ``scratch`` if that is given; whoever hashes rows prepares them, too."""
        rows, n_repetitions = self._hasher.prepare(X), self._plan.n_repetitions
        scratch = self._scratch(X) if scratch is None else scratch
        codes = scratch[: n_repetitions * X.shape[0]].reshape(n_repetitions, X.shape[0])

        def hash_rows(begin: int, end: int) -> None:
            if prepare is not None:
                prepare(begin, end)
            self._hasher.hash(rows, begin, end, 0, n_repetitions, codes)

        self._run(hash_rows, X.shape[0], X.shape[0], n_threads, in_pieces=True)
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
        scratch = self._scratch(X)
        values = np.empty((min(self._block_rows(X), X.shape[0]), y.shape[1] + 1))
        for block in self._blocks(X):
            own_weights, n_rows = None if weights is None else weights[block], block.stop - block.start
            self._accumulate_block(
                state, X[block], y[block], own_weights, sign, n_threads, scratch, values[:n_rows]
            )
            if progress is not None:
                progress(n_rows)

    def _accumulate_block(
        self,
        state: State,
        X: Any,
        y: Array,
        weights: Array | None,
        sign: float,
        n_threads: int,
        scratch: CodeArray,
        values: Array,
    ) -> None:
        """Add a block of rows, with memory for its codes and values."""
        is_new, n_repetitions = _is_new(state), self._plan.n_repetitions

        def prepare(begin: int, end: int) -> None:
            # While others hash, one maps the memory of new tables: two at once, adding, would take longer.
            if is_new and begin == 0:
                state.tables.reshape(-1)[::PAGE] = 0.0
            rows = slice(begin, end)
            _fill_values(y[rows], None if weights is None else weights[rows], sign, values[rows])

        codes = self._block_codes(X, n_threads, scratch, prepare)

        def learn(first: int, last: int) -> None:
            accumulate(codes[first:last], values, first, state.tables)
            if first == 0:
                accumulate_totals(values, sign, state.totals)

        self._run(learn, n_repetitions, X.shape[0], n_threads, in_pieces=True)


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
        self._backend, self._rows, self._n_rows = backend, backend._hasher.prepare(X), X.shape[0]
        n_codes = backend._plan.n_repetitions * self._n_rows
        self._kept: list[tuple[int, CodeArray]] | None = None
        if n_codes * np.dtype(backend._hasher.code_type).itemsize <= KEPT_BYTES:
            self._kept = list(self._make())

    def __iter__(self) -> Iterator[tuple[int, CodeArray]]:
        """Yield the number of the first repetition of a block, and its codes (n_in_block, n_samples)."""
        return iter(self._make() if self._kept is None else self._kept)

    def _make(self) -> Iterator[tuple[int, CodeArray]]:
        hasher, n_repetitions = self._backend._hasher, self._backend._plan.n_repetitions
        step = max(BLOCK_SIZE // max(self._n_rows, 1) // ORDER, 1) * ORDER
        for first in range(0, n_repetitions, step):
            last = min(first + step, n_repetitions)
            codes = np.empty((last - first, self._n_rows), dtype=hasher.code_type)

            def fill(begin: int, end: int, first: int = first, last: int = last, codes: Any = codes) -> None:
                hasher.hash(self._rows, begin, end, first, last, codes)

            self._backend._run(fill, self._n_rows, self._n_rows, self.n_threads)
            yield first, codes


def _is_new(state: State) -> bool:
    """Return whether no row was ever added."""
    return state.n_rows == 0 and state.weight_ever_added == 0


def _fill_values(y: Array, weights: Array | None, sign: float, values: Array) -> None:
    """Fill in what rows add to their cells: weight * targets and, last, the weight."""
    values[:, -1] = sign if weights is None else sign * weights
    np.multiply(y, values[:, -1:], out=values[:, :-1])
