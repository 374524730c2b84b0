"""Hashing and adding, or reading, by one kernel: which hashes there is one for, and how it is called.

The kernels are Triton's (:mod:`nwsketch.backends.triton_kernels`), imported where they are asked for. Cells
are those of :mod:`nwsketch.backends.torch_hashing`, exactly; sums agree to rounding.
"""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nwsketch.backends.base import Plan
from nwsketch.backends.torch_hashing import TorchHasher, as_tensor, shrunk

#: Channels, at most, of which a program keeps sums in its registers.
MOST_CHANNELS = 16
#: Rows of a program, and repetitions that it adds to.
ROWS, SPAN = 32, 64
#: Repetitions times channels of a tile of cells, hashes of a tile of products, or blocks of factors.
CELLS, COLUMNS, BLOCKS = 128, 64, 16
#: Features, or chunks of them, that are multiplied at a time.
DEPTH = 16
#: What float64 rounds a number by, relative to it, at most.
UNIT = 2.0**-53
#: Features in a chunk, and repetitions that share a block of factors (nwsketch.hashing.projections).
ORDER = 8


def is_fusible(plan: Plan, device: torch.device) -> bool:
    """Return whether there is a kernel for the hashes of a plan, and Triton to run it on a device.

    Parameters
    ----------
    plan : Plan
    device : torch.device
        A GPU; or the CPU where Triton interprets its kernels (``TRITON_INTERPRET=1``), which is for tests.
    """
    runs = device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return runs and plan.form in _PREPARED and importlib.util.find_spec("triton") is not None


class FusedHasher:
    """The fused kernel of one plan on one device.

    Parameters
    ----------
    plan : Plan
        One that :func:`is_fusible`.
    hasher : TorchHasher
        Of the same plan, on the device.
    """

    def __init__(self, plan: Plan, hasher: TorchHasher) -> None:
        self._plan, self._hasher = plan, hasher
        self._hashes = plan.multipliers.shape[1] // plan.n_repetitions
        self._kernel, self._arguments = _PREPARED[plan.form](plan, hasher)

    def add(self, tables: Tensor, x: Tensor, values: Tensor) -> None:
        """Add values to the cells of rows, in place.

        Parameters
        ----------
        tables : Tensor of shape (n_repetitions, n_buckets, n_channels), float64, contiguous
        x : Tensor of shape (n_rows, n_features), float32 or float64
        values : Tensor of shape (n_rows, n_channels), float64
        """
        n_spans = -(-self._plan.n_repetitions // SPAN)
        self._launch(tables, x, n_spans, span=SPAN, own=values.contiguous(), READ=False)

    def read(
        self, tables: Tensor, x: Tensor, n_groups: int, own: Tensor | None, unit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what the cells of rows hold, summed over the repetitions of every group.

        Parameters
        ----------
        tables, x
            As for :meth:`add`.
        n_groups : int
            Divides ``n_repetitions``.
        own : Tensor of shape (n_rows, n_channels), float64, or None
            Left out of every cell that is read.
        unit : Tensor of shape (), float64
            What counts are multiplied by before they are squared.

        Returns
        -------
        sums : Tensor of shape (n_rows, n_groups, n_channels), float64
        squares : Tensor of shape (n_rows, n_groups), float64
            Of the counts; (n_rows, 0) where codes are not rehashed.
        """
        sums = tables.new_empty((len(x), n_groups, tables.shape[2]))
        squares = tables.new_empty((len(x), n_groups if self._plan.rehashed else 0))
        self._launch(
            tables,
            x,
            n_groups,
            span=self._plan.n_repetitions // n_groups,
            own=None if own is None else own.contiguous(),
            sums=sums,
            squares_out=squares,
            unit_in=unit,
            READ=True,
        )
        return sums, squares

    def _launch(self, tables: Tensor, x: Tensor, n_groups: int, **arguments: Any) -> None:
        if len(x) == 0:
            return
        plan, n_channels = self._plan, tables.shape[2]
        if plan.form == "sign_projection" and x.dtype == torch.float64:
            x = shrunk(x)
        shape = {
            "n_rows": len(x),
            "n_features": plan.n_features,
            "n_repetitions": plan.n_repetitions,
            "n_buckets": plan.n_buckets,
            "n_channels": n_channels,
            "n_groups": n_groups,
        }
        answers = dict.fromkeys(("sums", "squares_out", "unit_in"))
        # Kernels are started on the current device, which that of a tensor need not be. (PyTorch leaves this
        # context without annotations.)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            self._kernel[-(-len(x) // ROWS), n_groups](
                x,
                *x.stride(),
                tables=tables,
                multipliers=self._hasher.multipliers,
                shifts=self._hasher.shifts,
                HASHES=self._hashes,
                REHASHED=plan.rehashed,
                ROWS=ROWS,
                enable_fp_fusion=False,
                **shape,
                **self._arguments,
                **self._tiles(n_channels),
                **(answers | arguments),
            )

    def _tiles(self, n_channels: int) -> dict[str, int]:
        """Return the sizes of tiles, powers of two that the registers of so many warps have room for."""
        padded = power_of_two(n_channels)
        if self._plan.form == "grid":
            repetitions = min(power_of_two(self._plan.n_repetitions), CELLS // padded)
            return {"PADDED": padded, "REPETITIONS": repetitions, "num_warps": 8}
        inner = self._arguments["INNER"]
        columns = COLUMNS if inner == 1 else BLOCKS
        at_once = min(power_of_two(self._hashes), columns)
        outer = max(min(columns // at_once, CELLS // padded // inner), 1)
        n_warps = 8 if inner == 1 else 4
        return {"PADDED": padded, "HASHES_AT_ONCE": at_once, "OUTER": outer, "num_warps": n_warps}


def power_of_two(number: int) -> int:
    """Return the least power of two that is no less than a positive integer."""
    return 1 << (number - 1).bit_length()


def _grids(plan: Plan, hasher: TorchHasher) -> tuple[Any, dict[str, Any]]:
    """Return the kernel of grids, and what it is told of a plan."""
    from nwsketch.backends.triton_kernels.grid import grid_kernel

    return grid_kernel, {name: hasher.arrays[name] for name in ("scales", "offsets")}


def _projections(plan: Plan, hasher: TorchHasher) -> tuple[Any, dict[str, Any]]:
    """Return the kernel of projections, and what it is told of a plan.

    With u = :data:`UNIT`, products and the sums in order are off by n_features u sum_j |x_j d_j| each. If
    there are factors, let s be the scaled row, m = sum_j |s_j|, and g the Gaussians of a block. As
    H / sqrt(8) is a rotation, and no turned feature exceeds its chunk's share of m, no more than m ||g|| is
    ever added up. So the sums in order are off by n_features u m ||g||; the directions, which were computed
    from the factors, by (14 + n_copies) u m ||g||; the products by (11 + n_chunks) u m ||g||: scaling and
    three levels of additions 4, the Gaussians over sqrt(8) 2, products and their sums n_chunks + 1, three
    levels 3, the length 1. Here all is taken twice, and a copy is a chunk. (Higham, "Accuracy and Stability
    of Numerical Algorithms", 2002, chapters 3 and 24.)
    """
    from nwsketch.backends.triton_kernels.projection import projection_kernel

    floors, factored = plan.form == "floor_projection", "gaussians" in plan.arrays
    factors: dict[str, Any] = dict.fromkeys(("scales", "gaussians", "lengths"))
    n_blocks = n_chunks = 0
    if factored:
        gaussians = plan.arrays["gaussians"]
        n_blocks, n_chunks = gaussians.shape[0], gaussians.shape[1] // ORDER
        factors["scales"] = hasher.arrays["scales"]
        factors["gaussians"] = as_tensor((gaussians / math.sqrt(ORDER)).T, hasher.device)
        lengths = plan.arrays["lengths"] if floors else np.ones(plan.multipliers.shape[1])
        factors["lengths"] = as_tensor(lengths, hasher.device) if floors else None
        n_terms, largest = 2 * n_chunks + 25, np.linalg.norm(gaussians, axis=1).max() * lengths
    else:
        n_terms, largest = plan.n_features, np.abs(plan.arrays["directions"]).max(axis=0)
    return projection_kernel, factors | {
        "directions": hasher.arrays["directions"],
        "errors": as_tensor(2 * UNIT * (plan.n_features + n_terms) * largest, hasher.device),
        "offsets": hasher.arrays["offsets"] if floors else None,
        "n_chunks": n_chunks,
        "n_blocks": n_blocks,
        "FLOORS": floors,
        "INNER": ORDER if factored else 1,
        "DEPTH": DEPTH,
    }


_PREPARED = {"grid": _grids, "floor_projection": _projections, "sign_projection": _projections}
