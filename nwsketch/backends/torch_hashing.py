"""From rows to codes with PyTorch: the cells of a plan, exactly, on any device.

A cell is defined by float64 arithmetic in a fixed order (see the families in ``nwsketch.hashing``). Grids and
minima are computed in just that order. A projection is a matrix product, which adds in an order of its own:
the two differ by at most 2 n_features u sum_j |x_j d_j|, u = 2^-53, and the few projections that lie so near
an edge are added up again, feature by feature. (Higham, "Accuracy and Stability of Numerical Algorithms",
2002, chapter 3.)

Nothing here waits for a GPU: there, the projections to mend are gathered into room for a fixed number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from nwsketch.backends.base import Codes, Plan
from nwsketch.backends.numba_hashing import Hasher, column_norms

#: Projections in a chunk, at most; those of them that can be mended on a GPU, and how many may be expected
#: for that to be enough.
MOST_HASHES, ROOM, EXPECTED = 2**28, 4096, 64.0
#: Rows with larger values are shrunk before their signs are taken (as in nwsketch.hashing.angular).
HUGE, SHRINK = 2.0**900, 2.0**-200


class TorchHasher:
    """The hashes of one plan on one device.

    Parameters
    ----------
    plan : Plan
    device : torch.device

    Attributes
    ----------
    device : torch.device
    arrays : dict of str to Tensor
        Those of the plan that are computed with.
    multipliers, shifts : Tensor
        The plan's, as int64 of the same bits.
    farthest : float
        The magnitude from which on values must be hashed on the host: their cells are so far out, and float64
        so coarse there, that more projections than a GPU has room for would have to be mended.
    """

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self._plan, self.device = plan, device
        self._on_host = Hasher(plan)
        used = {name: array for name, array in plan.arrays.items() if name not in ("gaussians", "lengths")}
        self.arrays = {name: as_tensor(array, device) for name, array in used.items()}
        self.multipliers = as_tensor(plan.multipliers, device)
        self.shifts = as_tensor(plan.shifts, device)
        self._offsets = as_tensor(plan.offsets, device)
        self.farthest = math.inf
        if "directions" in plan.arrays:
            norms = column_norms(plan.arrays["directions"])
            factor = 2.02 * plan.n_features * 2.0**-53
            self._errors = as_tensor(factor * norms, device)
            if plan.form == "floor_projection" and device.type == "cuda":
                self.farthest = EXPECTED / (
                    2 * MOST_HASHES * factor * math.sqrt(plan.n_features) * norms.mean()
                )

    def codes(self, X: Any, labels: Any = None) -> Tensor:
        """Return the bucket of every row in every repetition.

        Parameters
        ----------
        X : Tensor of shape (n_rows, n_features), ndarray, canonical CSR or Codes
            Float32 or float64. Sparse rows, and those of families without arithmetic of their own, are
            hashed on the host.
        labels : ndarray or Tensor of shape (n_rows,), or None

        Returns
        -------
        Tensor of shape (n_repetitions, n_rows), int64
        """
        if isinstance(X, Codes):
            codes = as_tensor(X.array, self.device).long()
        elif issparse(X) or self._plan.form == "cells":
            codes = as_tensor(self.on_host(X.cpu().numpy() if isinstance(X, Tensor) else X), self.device)
        else:
            codes = self._joined(as_tensor(X, self.device).double())
        if labels is not None:
            moves = self._offsets[as_tensor(labels, self.device)].T
            codes = (codes + moves) % self._plan.n_buckets
        return codes

    def on_host(self, X: Any) -> Any:
        """Return the codes of an array, or of canonical CSR, as an array."""
        codes = np.empty((self._plan.n_repetitions, X.shape[0]), dtype=self._on_host.code_type)
        self._on_host.hash(self._on_host.prepare(X), 0, X.shape[0], 0, len(codes), codes)
        return codes

    def _joined(self, x: Tensor) -> Tensor:
        n_repetitions = self._plan.n_repetitions
        terms = {
            "grid": self._grid_terms,
            "floor_projection": self._floor_terms,
            "sign_projection": self._sign_terms,
            "minhash": self._minhash_terms,
        }[self._plan.form](x)
        joined = terms.view(len(x), n_repetitions, -1).sum(dim=2) + self.shifts
        if self._plan.rehashed:  # multiply-shift of unsigned integers: sign bits are masked off
            joined = ((_high(joined) * self._plan.n_buckets) >> 32) & 0xFFFFFFFF
        return joined.T.contiguous()

    def _grid_terms(self, x: Tensor) -> Tensor:
        scales, offsets = self.arrays["scales"], self.arrays["offsets"]
        terms = x.new_zeros((len(x), scales.shape[1]), dtype=torch.int64)
        position = x.new_empty(terms.shape)
        for j in range(x.shape[1]):
            # One operation at a time: a fused multiply-add rounds once where the reference rounds twice.
            torch.mul(x[:, j : j + 1], scales[j], out=position)
            position.add_(offsets[j]).floor_()
            terms += position.long().mul_(self.multipliers[j])
        return terms

    def _floor_terms(self, x: Tensor) -> Tensor:
        offsets = self.arrays["offsets"]
        positions, errors = self._projections(x)
        positions += offsets
        errors += positions.abs() * 2.0**-52  # the addition of an offset rounds too
        self._mend(x, positions, (positions - positions.round()).abs() <= errors, offsets)
        return positions.floor_().long().mul_(self.multipliers[0])

    def _sign_terms(self, x: Tensor) -> Tensor:
        x = shrunk(x)
        projections, errors = self._projections(x)
        self._mend(x, projections, projections.abs() <= errors, None)
        return (projections >= 0) * self.multipliers[0]

    def _projections(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return projections, and what each may be off by at most."""
        directions = self.arrays["directions"]
        largest = x.abs().amax(dim=1, keepdim=True)
        unit = torch.where(largest > 0, largest, 1.0)  # squares stay in range
        norms = unit * torch.linalg.vector_norm(x / unit, dim=1, keepdim=True)
        # Products below 1e-300 may underflow; a row of zeros projects to zero in any order.
        errors = (norms * self._errors).clamp_(min=1e-300).masked_fill_(largest == 0, -1.0)
        return x @ directions, errors

    def _mend(self, x: Tensor, projections: Tensor, within: Tensor, offsets: Tensor | None) -> None:
        """Add up again, in order, the projections that are marked; in place."""
        if within.numel() == 0:
            return
        # On a GPU, where the number is not known here, what room is left over mends the first one once more.
        on_gpu = is_on_gpu(x)
        marked = torch.nonzero_static(within, size=ROOM, fill_value=0) if on_gpu else torch.nonzero(within)
        rows, hashes = marked.unbind(dim=1)
        exact = x.new_zeros(len(rows))
        for j in range(x.shape[1]):
            exact += x[rows, j] * self.arrays["directions"][j, hashes]
        projections[rows, hashes] = exact if offsets is None else exact + offsets[hashes]

    def _minhash_terms(self, x: Tensor) -> Tensor:
        seeds = self.arrays["seeds"]
        columns = _mix(torch.arange(1, x.shape[1] + 1, device=x.device))
        best = torch.full((len(x), len(seeds)), torch.iinfo(torch.int64).max, device=x.device)
        cells = torch.zeros_like(best)
        for j in range(x.shape[1]):
            rank = _mix(columns[j] ^ seeds) ^ torch.iinfo(torch.int64).min  # ordered as if unsigned
            first = (x[:, j : j + 1] != 0) & ((rank < best) | (cells == 0))
            best = torch.where(first, rank, best)
            cells.masked_fill_(first, j + 1)
        return cells.mul_(self.multipliers[0])


def shrunk(x: Tensor) -> Tensor:
    """Return float64 rows with huge ones made smaller, which changes no sign, so that no sum overflows."""
    largest = x.abs().amax(dim=1, keepdim=True)
    return x * torch.ones_like(largest).masked_fill_(largest > HUGE, SHRINK)


def is_on_gpu(x: Tensor) -> bool:
    """Return whether to ask for a number would keep a GPU waiting."""
    return x.is_cuda


def as_tensor(values: Any, device: torch.device) -> Tensor:
    """Return an array or a tensor as a tensor on a device; not a copy if it is one already."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "u":
            values = values.astype(np.int64)
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return values.to(device)


def _high(values: Tensor) -> Tensor:
    return (values >> 32) & 0xFFFFFFFF


def _mix(keys: Tensor) -> Tensor:
    """Scramble 64-bit integers, as ``nwsketch.hashing.minhash.mix`` does."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys = (keys ^ _shifted(keys, shift)) * (factor - 2**64)
    return keys ^ _shifted(keys, 31)


def _shifted(values: Tensor, n_bits: int) -> Tensor:
    """Return values shifted to the right, zeros coming in."""
    return (values >> n_bits) & ((1 << (64 - n_bits)) - 1)
