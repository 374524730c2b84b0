"""The PyTorch backend: chunks of rows, all repetitions at once, on a GPU or the CPU.

Tables, totals and codes are tensors on one device, and nothing is copied to the host unless it is asked for.
An update makes new tables and replaces the old ones when it has succeeded: whatever stops it, an interrupt or
a lack of memory, leaves all as it was, and room for two copies of the tables is needed.

A row's cells in all repetitions are added to, and read, by one scatter and one gather. On a GPU a scatter
adds in any order, so that sums may differ in the last bits from call to call; under
``torch.use_deterministic_algorithms(True)`` they are sorted first and do not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import Tensor

from nwsketch.backends.base import Codes, Plan, Progress, State
from nwsketch.backends.torch_fused import MOST_CHANNELS, FusedHasher, is_fusible
from nwsketch.backends.torch_hashing import MOST_HASHES, TorchHasher, as_tensor, is_on_gpu
from nwsketch.backends.torch_rules import TorchRules, scale_of

#: Bytes that hashing takes per row and hash, and per row and feature; adding and reading per row, repetition
#: and channel: at most.
HASH_BYTES, VALUE_BYTES, CELL_BYTES = 48, 40, 40
#: Share of the free memory of a GPU that a chunk may take, and the bytes on the CPU.
FREE_SHARE, HOST_BYTES = 0.25, 2**27

#: Whether rows are hashed and their cells added to, or read, by one kernel of Triton's on a GPU, where it is
#: installed and has one for the hashes (see :mod:`nwsketch.backends.torch_fused`); assign to it to change it.
FUSED = False

Method = TypeVar("Method", bound=Callable[..., Any])


def untracked(method: Method) -> Method:
    """Let a method compute without gradients, on plain tensors, and as one step of a compiled caller."""

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        # Tensors made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            return method(*arguments, **options)

    # PyTorch leaves this decorator without annotations.
    return torch.compiler.disable(call)  # type: ignore[no-untyped-call]


class TorchBackend:
    """Sketches by PyTorch (implements :class:`nwsketch.backends.base.Backend`).

    Parameters
    ----------
    plan : Plan
        How rows are hashed.
    device : str or None, default=None
        ``"cpu"``, ``"cuda"`` or ``"cuda:<number>"``; None takes a GPU if there is one.
    """

    rules = TorchRules
    takes_tensors = True
    n_changes = 0

    def __init__(self, plan: Plan, device: str | None = None) -> None:
        self.device = usable_device(device)
        self._plan = plan
        self.place = f"torch on {self.device}"
        self._hasher = TorchHasher(plan, self.device)
        self.farthest = self._hasher.farthest

    # -- the contract -------------------------------------------------------------------------

    @untracked
    def empty_state(self, n_outputs: int) -> State:
        """Return the state of a sketch that has seen no row."""
        shape = (self._plan.n_repetitions, self._plan.n_buckets, n_outputs + 1)
        tables = torch.zeros(shape, dtype=torch.float64, device=self.device)
        return State(tables, tables.new_zeros(n_outputs + 3))

    @untracked
    def to_host(self, state: State) -> State:
        """Return a state as arrays."""
        return State(*(part.cpu().numpy() for part in state))

    @untracked
    def from_host(self, state: State) -> State:
        """Return a state of arrays as this backend's own."""
        return State(*(torch.tensor(part, device=self.device) for part in state))

    def is_shared(self, state: State) -> bool:
        """Return whether the tensors of a state must not be changed: here they never are."""
        return True

    def frozen(self, state: State) -> State:
        """Return a state; rows are never added to it in place."""
        return state

    @untracked
    def codes(self, X: Any, n_threads: int, labels: NDArray[np.intp] | None = None) -> Tensor:
        """Return the bucket of every row, moved by its label: (n_repetitions, n_samples), int32 if enough."""
        small = torch.int32 if self._plan.n_buckets <= 2**31 else torch.int64
        codes = torch.empty((self._plan.n_repetitions, X.shape[0]), dtype=small, device=self.device)
        for rows in self._chunks(X, 1):
            codes[:, rows] = self._hasher.codes(X[rows], None if labels is None else labels[rows]).to(small)
        return codes

    @untracked
    def add(
        self,
        state: State,
        X: Any,
        y: Any,
        weights: Any,
        n_threads: int,
        progress: Progress | None = None,
    ) -> State:
        """Return the state after rows were added; ``state`` itself stays as it is."""
        return self._accumulated(state, X, y, weights, 1.0, progress)

    @untracked
    def subtract(self, state: State, X: Any, y: Any, weights: Any, n_threads: int) -> State:
        """Return the state after rows were taken away; ``state`` itself stays as it is."""
        return self._accumulated(state, X, y, weights, -1.0, None)

    @untracked
    def sums(self, state: State, X: Any, n_groups: int, own: Any, n_threads: int) -> tuple[Tensor, Tensor]:
        """Return what the rows' buckets hold, summed over the repetitions of every group."""
        n_rows, n_repetitions, n_channels = X.shape[0], self._plan.n_repetitions, state.tables.shape[2]
        sums = state.tables.new_zeros((n_rows, n_groups, n_channels))
        squares = sums.new_zeros((n_rows, n_groups if self._plan.rehashed else 0))
        unit = scale_of(state.totals)
        fused = self._fused(X, n_channels)
        for rows in self._chunks(X, n_channels, fused is not None):
            if fused is not None:
                some = None if own is None else own[rows]
                x = as_tensor(X[rows], self.device)
                sums[rows], squares[rows] = fused.read(state.tables, x, n_groups, some, unit)
                continue
            codes = self._hasher.codes(X[rows])
            index = codes[..., None].expand(-1, -1, n_channels)
            cells = torch.gather(state.tables, 1, index)  # (n_repetitions, n_rows, n_channels)
            if own is not None:
                cells -= own[rows]
            grouped = cells.view(n_groups, n_repetitions // n_groups, -1, n_channels)
            sums[rows] = grouped.sum(dim=1).transpose(0, 1)
            if self._plan.rehashed:
                squares[rows] = grouped[..., -1].mul(unit).square().sum(dim=1).T
        return sums, squares

    @untracked
    def values(self, y: Any, weights: Any) -> Tensor:
        """Return what every row adds to its cells: (n_samples, n_outputs + 1)."""
        y = as_tensor(y, self.device)
        weights = y.new_ones(len(y)) if weights is None else as_tensor(weights, self.device)
        return torch.cat([weights[:, None] * y, weights[:, None]], dim=1)

    def codes_on_host(self, X: Any) -> Codes:
        """Hash rows on the host, one by one and exactly."""
        return Codes(self._hasher.on_host(X.cpu().numpy() if isinstance(X, Tensor) else X))

    def hashed(self, X: Any, n_threads: int) -> Tensor:
        """Return the codes of rows that will be needed several times."""
        return self.codes(X, n_threads)

    @untracked
    def add_channel(self, state: State, rows: Tensor, values: Any, channel: int) -> None:
        """Add one value per row to one channel of its buckets, in place."""
        added = as_tensor(values, self.device)
        for codes, table in zip(rows, state.tables, strict=True):
            table[:, channel].index_add_(0, codes, added)

    @untracked
    def backfit(self, state: State, rows: Tensor, weights: Any, residuals: Any, ridge: float) -> None:
        """Refit the tables, one repetition after the other, to the residuals; both in place."""
        n_repetitions, heavy = self._plan.n_repetitions, as_tensor(weights, self.device)
        left = as_tensor(residuals, self.device)
        for codes, table in zip(rows, state.tables, strict=True):
            counts = table[:, -1]
            for output, rest in enumerate(left):
                share = table[:, output] / n_repetitions
                change = torch.zeros_like(share).index_add_(0, codes, heavy * rest)
                change = (change + counts * share) / (counts + ridge * n_repetitions) - share
                table[:, output] += change * n_repetitions
                rest -= change.index_select(0, codes)
        residuals[...] = left.cpu().numpy()

    # -- chunks -------------------------------------------------------------------------------

    def _chunks(self, X: Any, n_channels: int, fused: bool = False) -> Iterator[slice]:
        # A fused kernel keeps neither projections nor codes.
        n_hashes = 0 if fused else self._plan.multipliers.shape[1]
        per_row = n_hashes * HASH_BYTES + self._plan.n_features * VALUE_BYTES
        per_row += self._plan.n_repetitions * n_channels * CELL_BYTES
        room = free_bytes(self.device) * FREE_SHARE if self.device.type == "cuda" else 0.0
        step = max(int(max(room, HOST_BYTES)) // per_row, 1)
        step = min(step, max(MOST_HASHES // max(n_hashes, 1), 1))
        for start in range(0, X.shape[0], step):
            yield slice(start, min(start + step, X.shape[0]))

    def _fused(self, X: Any, n_channels: int) -> FusedHasher | None:
        """Return what hashes rows and visits their cells at once, if that is wanted and can be."""
        hashed_before = isinstance(X, Codes) or issparse(X)
        # Nothing orders the additions of a kernel's programs.
        if not FUSED or hashed_before or torch.are_deterministic_algorithms_enabled():
            return None
        return self._fused_hasher if n_channels <= MOST_CHANNELS else None

    @functools.cached_property
    def _fused_hasher(self) -> FusedHasher | None:
        return FusedHasher(self._plan, self._hasher) if is_fusible(self._plan, self.device) else None

    def _accumulated(
        self, state: State, X: Any, y: Any, weights: Any, sign: float, progress: Progress | None
    ) -> State:
        tables, totals = state.tables.clone(), state.totals.clone()
        fused = self._fused(X, tables.shape[2])
        for rows in self._chunks(X, tables.shape[2], fused is not None):
            values = sign * self.values(y[rows], None if weights is None else weights[rows])
            if fused is not None:
                fused.add(tables, as_tensor(X[rows], self.device), values)
            else:
                self._scatter(tables, self._hasher.codes(X[rows]), values)
            totals[:-2] = in_order(totals[:-2], values)
            if sign > 0:
                totals[-2] = in_order(totals[-2], values[:, -1])
            totals[-1] += sign * len(values)
            if progress is not None:
                progress(len(values))
        return State(tables, totals)

    def _scatter(self, tables: Tensor, codes: Tensor, values: Tensor) -> None:
        n_repetitions, n_buckets, n_channels = tables.shape
        if torch.are_deterministic_algorithms_enabled():
            first = torch.arange(n_repetitions, device=codes.device)[:, None] * n_buckets
            cells = tables.view(-1, n_channels)
            repeated = values.repeat(n_repetitions, 1)
            cells.index_put_(((codes + first).flatten(),), repeated, accumulate=True)
            return
        for channel in range(n_channels):
            added = values[:, channel].expand(n_repetitions, -1)
            tables[..., channel].scatter_add_(1, codes, added)


def in_order(before: Tensor, values: Tensor) -> Tensor:
    """Add rows to sums: on the CPU one after the other, so that it does not matter how they were cut."""
    if is_on_gpu(values):  # a running sum is not deterministic there
        return before + values.sum(dim=0)
    return torch.cat([before[None], values]).cumsum(dim=0)[-1]


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU; what PyTorch holds and nobody uses is free too."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held


def usable_device(device: str | None) -> torch.device:
    """Return the device called so, or the best there is.

    Raises
    ------
    ValueError
        If there is none of that name here, or it has no float64.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown: choose 'cpu', 'cuda' or 'cuda:<number>'.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(
            f"device={device!r} is not supported, as sums are kept in float64: choose 'cpu' or 'cuda'."
        )
    if chosen.type == "cuda":
        n_devices = torch.cuda.device_count()
        if not n_devices:
            raise ValueError(
                f"device={device!r} was asked for, but PyTorch finds no CUDA device here: choose "
                "device='cpu', or install a CUDA build of PyTorch and a driver."
            )
        if (chosen.index or 0) >= n_devices:
            raise ValueError(
                f"device={device!r} was asked for, but the last CUDA device here is cuda:{n_devices - 1}."
            )
        if chosen.index is None:  # the current one, also when another is current later
            return torch.device("cuda", torch.cuda.current_device())
    return chosen
