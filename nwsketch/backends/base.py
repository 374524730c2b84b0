"""What a backend is handed and what it does: the contract, free of any library."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Called with the number of rows done since the last call.
Progress = Callable[[int], object]


class State(NamedTuple):
    """All that a sketch has learnt, as arrays or as the tensors of a device.

    Large batches, merges and the like replace it as a whole; a small batch is written into it by one
    compiled call. So no error or signal leaves it incomplete. A thread that reads while another adds a
    small batch may see a part of that batch: :attr:`Backend.n_changes` tells it.

    Attributes
    ----------
    tables : ndarray of shape (n_repetitions, n_buckets, n_outputs + 1), float64
        Weighted targets and, last, weights, summed over the rows of every bucket.
    totals : ndarray of shape (n_outputs + 3,), float64
        The same sums over all rows; then the weight ever added (rows that were forgotten do not
        lower it: it is the scale of rounding errors) and the number of rows.
    """

    tables: Any
    totals: Any

    @property
    def n_rows(self) -> int:
        """Number of rows added minus number of rows forgotten."""
        return int(self.totals[-1])

    @property
    def weight_ever_added(self) -> float:
        """Sum of the weights of all rows ever added, decayed like the tables."""
        return float(self.totals[-2])

    @property
    def unit(self) -> float:
        """A power of two that brings counts to the order of 1, so that their squares stay in range."""
        return math.ldexp(1.0, min(-math.frexp(self.weight_ever_added)[1], 1000))

    @property
    def channel_totals(self) -> Any:
        """Sums over all rows of the weighted targets and, last, of the weights."""
        return self.totals[:-2]


class Codes:
    """Rows that are hashed already: every method of a sketch takes them in place of X.

    Parameters
    ----------
    array : array or tensor of shape (n_repetitions, n_samples), integers
        The bucket of every row in every repetition.
    as_given : bool, default=True
        Whether the rows themselves were of this kind, and answers are to be; False if arrays were hashed to
        a tensor.

    Attributes
    ----------
    array, as_given
    """

    def __init__(self, array: Any, as_given: bool = True) -> None:
        self.array = array
        self.as_given = as_given

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.array.shape[1])

    @property
    def shape(self) -> tuple[int]:
        """The number of rows, as a tuple: codes tell nothing of the features."""
        return (len(self),)

    def __getitem__(self, rows: Any) -> Codes:
        """Return the codes of some rows: a view for a slice, else a copy."""
        return Codes(self.array[:, rows], self.as_given)

    def __setitem__(self, rows: Any, codes: Codes) -> None:
        """Replace the codes of some rows."""
        self.array[:, rows] = codes.array


class Plan(Protocol):
    """How rows are hashed; ``nwsketch.hashing.HashPlan`` is the one implementation."""

    n_features: int
    n_repetitions: int
    n_buckets: int
    rehashed: bool
    offsets: NDArray[np.uint32]
    multipliers: NDArray[np.uint64]
    shifts: NDArray[np.uint64]

    @property
    def form(self) -> str:
        """Name of the arithmetic of the elementary hashes."""

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays of that arithmetic."""

    def codes(self, X: Any, labels: NDArray[np.intp] | None = None) -> NDArray[np.uint32]:
        """Hash rows by plain NumPy: (n_repetitions, n_samples)."""


class Backend(Protocol):
    """Hashes rows and keeps tables, for one plan. X, validated by the caller, may be :class:`Codes`."""

    rules: type[Any]
    """How sums become answers: :class:`nwsketch.backends.aggregation.Rules`, or a subclass."""

    place: str
    """Names library and device: the states of two backends of the same place can be added."""
    n_changes: int
    """How often a state was changed in place, times two; odd while one is, or if an interrupt ended that."""
    takes_tensors: bool
    """Whether tensors need not be brought to the host first."""
    farthest: float
    """Tensors with values of this magnitude or more must be hashed by :meth:`codes_on_host`."""

    def empty_state(self, n_outputs: int) -> State:
        """Return the state of a sketch that has seen no row."""

    def to_host(self, state: State) -> State:
        """Return a state as NumPy arrays."""

    def from_host(self, state: State) -> State:
        """Return a state of NumPy arrays as the backend's own."""

    def is_shared(self, state: State) -> bool:
        """Return whether the arrays of a state must not be changed, as others may hold them."""

    def frozen(self, state: State) -> State:
        """Return a state; from now on rows are not added to it in place, but to a copy."""

    def codes(self, X: Any, n_threads: int, labels: NDArray[np.intp] | None = None) -> Any:
        """Return the bucket of every row, moved by its label, in every repetition.

        Unsigned integers, (n_repetitions, n_samples).
        """

    def add(
        self, state: State, X: Any, y: Array, weights: Array | None, n_threads: int, progress: Progress | None
    ) -> State:
        """Return the state after rows were added; ``state`` itself may be changed or not."""

    def subtract(self, state: State, X: Any, y: Array, weights: Array | None, n_threads: int) -> State:
        """Return the state after rows were taken away; ``state`` itself stays as it is."""

    def sums(self, state: State, X: Any, n_groups: int, own: Array | None, n_threads: int) -> tuple[Any, Any]:
        """Return what the rows' buckets hold, summed over the repetitions of every group.

        ``own``, of shape (n_samples, n_outputs + 1), is taken off every bucket read. The result
        is (n_samples, n_groups, n_outputs + 1) sums and (n_samples, n_groups) sums of squared counts,
        the counts multiplied by ``state.unit``; (n_samples, 0) where codes are not rehashed, as nobody
        needs to know the noise of collisions then.
        """

    def values(self, y: Array, weights: Array | None) -> Any:
        """Return what every row adds to its cells: (n_samples, n_outputs + 1), weights last."""

    def codes_on_host(self, X: Any) -> Codes:
        """Hash rows on the host, one by one and exactly."""

    def hashed(self, X: Any, n_threads: int) -> Any:
        """Return the codes of rows that will be needed several times, to hand to the two methods below."""

    def add_channel(self, state: State, rows: Any, values: Array, channel: int) -> None:
        """Add ``values``, of shape (n_samples,), to one channel of the buckets of the rows, in place."""

    def backfit(self, state: State, rows: Any, weights: Array, residuals: Array, ridge: float) -> None:
        """Refit the first ``len(residuals)`` channels, one repetition after the other, in place.

        With n_b the weight in a bucket, s_b the weighted sum of the residuals of its rows, R the number
        of repetitions and B_b the table's entry, B_b / R becomes (s_b + n_b B_b / R) / (n_b + ridge R):
        the ridge regression of what the other repetitions leave over. ``residuals``, of shape
        (n_outputs, n_samples), follow. Rows of weight 0 are only predicted.
        """
