"""From cells to buckets: joining the cells of a repetition into one table index.

If the family has at most ``n_buckets`` distinct codes, the code itself is the bucket.
Otherwise codes are rehashed by vector multiply-shift (Dietzfelbinger, "Universal Hashing and
k-Wise Independent Random Variables via Integer Arithmetic without Primes", STACS 1996;
Thorup, "High Speed Hashing for Integers and Strings", 2015, section 3.3):

    bucket = ((sum_k multiplier_k * cell_k + shift mod 2^64) >> 32) * n_buckets >> 32

The top 32 bits are pairwise independent and uniform for cells that differ by less than 2^33,
so two different codes meet with probability 1 / n_buckets (to within n_buckets / 2^64). The
sum is linear in the cells, so that sparse rows skip their zeros.

Rows may also be told apart by a label: every label moves the codes of a repetition by an offset of its own,
modulo ``n_buckets``. The offsets are random where codes are rehashed, so that rows of two labels still meet
with probability 1 / n_buckets; elsewhere every label has its own stretch of a wider table.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwsketch.hashing.base import Form, HashFamily, HashParameters

#: Buckets are numbered by 32-bit integers.
MOST_BUCKETS = 2**32


class HashPlan:
    """Everything that turns a row into one bucket per repetition; drawn once, then constant.

    Parameters
    ----------
    family : HashFamily
    n_features, n_repetitions, hashes_per_repetition : int
    n_buckets : int or None
        Width of the tables; None keeps every code.
    bandwidth : ndarray of shape (n_features,), float64
    seed : int or sequence of int
        Seed of the NumPy generator that draws the parameters.
    n_labels : int, default=0
        Number of labels that rows may be told apart by; 0 if they have none.

    Attributes
    ----------
    parameters : HashParameters
    cells_per_unit : ndarray of shape (n_features,)
        See :meth:`HashFamily.cells_per_unit`.
    multipliers : ndarray of shape (cells_per_hash, n_repetitions * hashes_per_repetition), uint64
    shifts : ndarray of shape (n_repetitions,), uint64
    offsets : ndarray of shape (n_labels, n_repetitions), uint32
        What a label adds to the codes, modulo ``n_buckets``.
    n_buckets : int
        Width of the tables: as asked for, or the number of codes if there are fewer.
    rehashed : bool
        Whether different codes may share a bucket.

    Raises
    ------
    ValueError
        If ``n_buckets`` is None and the family's codes are unbounded, or too many to be numbered; if the
        family promises fewer values than its form yields.
    """

    def __init__(
        self,
        family: HashFamily,
        *,
        n_features: int,
        n_repetitions: int,
        hashes_per_repetition: int,
        n_buckets: int | None,
        bandwidth: NDArray[np.float64],
        seed: int,
        n_labels: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        n_hashes = n_repetitions * hashes_per_repetition
        self.family = family
        self.n_features = n_features
        self.n_repetitions = n_repetitions
        self.hashes_per_repetition = hashes_per_repetition
        self.parameters = family.draw(rng, n_features, n_repetitions, hashes_per_repetition, bandwidth)
        self.cells_per_unit = np.broadcast_to(family.cells_per_unit(self.parameters), n_features)

        n_cells = self.parameters.cells_per_hash * hashes_per_repetition
        n_values, n_codes = self._count_codes(n_labels)
        if n_buckets is None:
            if n_codes is None:
                raise ValueError(
                    f"n_buckets=None keeps every code, but the codes of kernel={family.name!r} are "
                    "unbounded; give n_buckets as an integer."
                )
            if n_codes > MOST_BUCKETS:
                raise ValueError(
                    f"n_buckets=None keeps every code, but kernel={family.name!r} with "
                    f"hashes_per_repetition={hashes_per_repetition} has {n_values}^{n_cells} codes"
                    f"{f' for each of {n_labels} labels' if n_labels else ''}; give n_buckets as an integer."
                )
            n_buckets = n_codes
        self.rehashed = n_codes is None or n_codes > n_buckets
        self.n_buckets = n_buckets if self.rehashed else int(n_codes or 1)
        self._n_values = n_values or 0  # 0 is not read: unbounded cells are rehashed
        shape = (self.parameters.cells_per_hash, n_hashes)
        if self.rehashed:
            self.multipliers = rng.integers(0, 2**64, shape, dtype=np.uint64)
            self.shifts = rng.integers(0, 2**64, n_repetitions, dtype=np.uint64)
            self.offsets = rng.integers(0, n_buckets, (n_labels, n_repetitions), dtype=np.uint32)
        else:
            self.multipliers, self.shifts, self.offsets = self._numbering(n_labels)

    @classmethod
    def from_arrays(
        cls,
        family: HashFamily,
        parameters: HashParameters,
        *,
        n_features: int,
        n_repetitions: int,
        hashes_per_repetition: int,
        n_buckets: int,
        n_labels: int,
        multipliers: NDArray[np.uint64],
        shifts: NDArray[np.uint64],
        offsets: NDArray[np.uint32],
    ) -> HashPlan:
        """Return a plan of arrays that were drawn before, by whatever version of whatever library.

        Parameters
        ----------
        family : HashFamily
        parameters : HashParameters
            Checked (see :func:`nwsketch.hashing.plan_from_values`).
        n_features, n_repetitions, hashes_per_repetition, n_buckets, n_labels : int
        multipliers, shifts, offsets : ndarray
            Of the shapes and types of the attributes.

        Returns
        -------
        HashPlan

        Raises
        ------
        ValueError
            If the arrays do not number the buckets as these numbers demand.
        """
        plan = cls.__new__(cls)
        plan.family, plan.parameters, plan.n_buckets = family, parameters, n_buckets
        plan.n_features, plan.n_repetitions = n_features, n_repetitions
        plan.hashes_per_repetition = hashes_per_repetition
        plan.cells_per_unit = np.broadcast_to(family.cells_per_unit(parameters), n_features)
        n_values, n_codes = plan._count_codes(n_labels)
        plan._n_values = n_values or 0
        plan.rehashed = n_codes is None or n_codes > n_buckets
        plan.multipliers, plan.shifts, plan.offsets = multipliers, shifts, offsets
        if plan.rehashed:
            is_right = bool(offsets.max(initial=0) < n_buckets)
        elif n_codes != n_buckets:
            is_right = False
        else:
            numbering = plan._numbering(n_labels)
            is_right = (
                np.array_equal(multipliers, numbering[0])
                and np.array_equal(shifts, numbering[1])
                and np.array_equal(offsets, numbering[2])
            )
        if not is_right:
            raise ValueError(f"the stored hashes do not number n_buckets={n_buckets} buckets")
        return plan

    def _count_codes(self, n_labels: int) -> tuple[int | None, int | None]:
        """Return how many values a cell has, and how many codes there are; None if they are unbounded."""
        n_values = self.family.n_values(self.n_features)
        least = {
            "grid": np.inf,
            "floor_projection": np.inf,
            "sign_projection": 2,
            "minhash": self.n_features + 1,
        }
        if n_values is None:
            return None, None
        if n_values < least.get(self.form, 1):
            raise ValueError(
                f"The hash family {self.family.name!r} promises n_values={n_values}, but its form "
                f"{self.form!r} yields up to {least[self.form]}: mend its n_values."
            )
        n_cells = self.parameters.cells_per_hash * self.hashes_per_repetition
        if n_cells * math.log2(n_values) > 64:  # the power itself might be a number of millions of digits
            return n_values, 2**64
        return n_values, n_values**n_cells * max(n_labels, 1)

    def _numbering(self, n_labels: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]:
        """Return multipliers, shifts and offsets that give every code a bucket of its own."""
        cells_per_hash, n_hashes = self.parameters.cells_per_hash, self.hashes_per_repetition
        powers = range(cells_per_hash * n_hashes)
        digits = np.array([(self._n_values or 1) ** power for power in powers], dtype=np.uint64)
        repetition = digits.reshape(cells_per_hash, n_hashes)
        stretches = np.arange(n_labels) * (self.n_buckets // max(n_labels, 1))
        return (
            np.ascontiguousarray(np.tile(repetition, self.n_repetitions)),
            np.zeros(self.n_repetitions, dtype=np.uint64),
            np.tile(stretches[:, np.newaxis], self.n_repetitions).astype(np.uint32),
        )

    @property
    def form(self) -> Form:
        """The arithmetic of the elementary hashes (see :class:`HashParameters`)."""
        return self.parameters.form

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that the form names."""
        return self.parameters.arrays

    def cells(self, X: NDArray[Any]) -> NDArray[np.int64]:
        """Return the family's cells of every row.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_hashes, cells_per_hash), int64
        """
        return self.family.cells(X, self.parameters)

    def codes(self, X: NDArray[Any], labels: NDArray[np.intp] | None = None) -> NDArray[np.uint32]:
        """Return the bucket of every row in every repetition, by plain NumPy: the reference.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        labels : ndarray of shape (n_samples,), int, or None
            Within ``[0, n_labels)``; None moves no code.

        Returns
        -------
        ndarray of shape (n_repetitions, n_samples), uint32
        """
        cells = self.cells(X)
        if not self.rehashed and cells.size and (cells.min() < 0 or cells.max() >= self._n_values):
            raise ValueError(
                f"The hash family {self.family.name!r} returned cells outside "
                f"[0, n_values={self._n_values}): mend its cells, or its n_values."
            )
        with np.errstate(over="ignore"):
            terms = cells.astype(np.uint64) * self.multipliers.T
            n_terms = terms.shape[1] // self.n_repetitions * terms.shape[2]
            by_repetition = terms.reshape(X.shape[0], self.n_repetitions, n_terms)
            joined = by_repetition.sum(axis=2, dtype=np.uint64) + self.shifts
        if self.rehashed:
            joined = ((joined >> np.uint64(32)) * np.uint64(self.n_buckets)) >> np.uint64(32)
        if labels is not None:
            joined = (joined + self.offsets[labels]) % np.uint64(self.n_buckets)
        return np.ascontiguousarray(joined.T.astype(np.uint32))

    def fingerprint(self) -> str:
        """Return a digest of the drawn arrays: equal for two plans that hash every row alike."""
        digest = hashlib.sha256()
        digest.update(f"{self.form}:{self.n_buckets}:{self.n_repetitions}".encode())
        for name in sorted(self.arrays):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.arrays[name]).tobytes())
        for array in (self.multipliers, self.shifts, self.offsets):
            digest.update(array.tobytes())
        return digest.hexdigest()
