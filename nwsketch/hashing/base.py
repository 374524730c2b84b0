"""What a locality-sensitive hash family is, and the registry of those known by name.

A family is described by three things: how its parameters are drawn (once, on the host,
from a NumPy generator, in float64), which integer *cells* a row falls into, and the
probability with which two rows share a cell: the kernel that the sketch estimates.

A family may name a *form* (:class:`HashParameters`), one of a few shapes of arithmetic that
backends have compiled. Without one (``form="cells"``) every backend calls
:meth:`HashFamily.cells`, which is also the reference that the compiled forms are tested against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["cells", "grid", "floor_projection", "sign_projection", "minhash"]
Distance = Literal["cityblock", "euclidean", "angle", "jaccard"]

#: Cells are computed in float64, which resolves neighbouring integers only below this bound.
LARGEST_CELL = 2.0**53


@dataclass(frozen=True)
class HashParameters:
    """The drawn parameters of ``n_hashes`` elementary hashes.

    Attributes
    ----------
    form : str
        The arithmetic that turns a row ``x`` into its cells:

        - ``"grid"``: ``floor(x[j] * scales[j, h] + offsets[j, h])``, one cell per feature j;
        - ``"floor_projection"``: ``floor(x @ directions[:, h] + offsets[h])``;
        - ``"sign_projection"``: ``x @ directions[:, h] >= 0``;
        - ``"minhash"``: 1 + the non-zero column of least ``mix(column, seeds[h])``, 0 if none;
        - ``"cells"``: whatever :meth:`HashFamily.cells` computes.
    arrays : dict of str to ndarray
        The arrays named above (float64, or uint64 for ``seeds``). Directions may be accompanied by their
        factors, ``"scales"``, ``"gaussians"`` and, for floors, ``"lengths"``
        (:mod:`nwsketch.hashing.projections`), which let a backend compute the same cells faster.
    cells_per_hash : int
        Number of integers that one elementary hash yields.
    repetitions_together : int
        Repetitions, from the first on, that are drawn together and so not independent of each other;
        groups of a multiple of as many are independent.
    """

    form: Form
    arrays: dict[str, NDArray[Any]]
    cells_per_hash: int = 1
    repetitions_together: int = 1


class HashFamily(ABC):
    """A locality-sensitive hash family. Subclass it to bring a kernel of your own.

    Attributes
    ----------
    name : str
        The name in the registry, the fingerprint of a sketch and error messages.
    distance : {"cityblock", "euclidean", "angle", "jaccard"} or None
        The distance that the collision probability is a function of. None if the family
        has no closed form that the exact estimator could use.
    takes_bandwidth : bool
        Whether features are divided by a bandwidth before they are hashed.
    """

    name: ClassVar[str]
    distance: ClassVar[Distance | None] = None
    takes_bandwidth: ClassVar[bool] = False

    @abstractmethod
    def draw(
        self,
        rng: np.random.Generator,
        n_features: int,
        n_repetitions: int,
        hashes_per_repetition: int,
        bandwidth: NDArray[np.float64],
    ) -> HashParameters:
        """Draw the parameters of ``n_repetitions * hashes_per_repetition`` elementary hashes.

        Those of one repetition come one after the other and are independent. Any two repetitions are
        uncorrelated at least; ``repetitions_together`` tells which are not independent.

        Parameters
        ----------
        rng : numpy.random.Generator
        n_features, n_repetitions, hashes_per_repetition : int
        bandwidth : ndarray of shape (n_features,)
            Positive widths; all ones where the family takes none.

        Returns
        -------
        HashParameters
        """

    @abstractmethod
    def cells(self, X: NDArray[Any], parameters: HashParameters) -> NDArray[np.int64]:
        """Hash rows, slowly and plainly.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Sparse rows are handed over dense, a few at a time.
        parameters : HashParameters

        Returns
        -------
        ndarray of shape (n_samples, n_hashes, cells_per_hash), int64
            Cells; within ``[0, n_values)`` if :meth:`n_values` is an integer.
        """

    def n_values(self, n_features: int) -> int | None:
        """Return how many values one cell can take.

        Parameters
        ----------
        n_features : int

        Returns
        -------
        int or None
            Cells lie within ``[0, n_values)``; None if they are unbounded.
        """
        return None

    def collision_probability(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that one elementary hash of two rows is equal.

        Parameters
        ----------
        distance : ndarray of float64
            Distances between rows in the family's metric, in units of the bandwidth;
            similarities for ``"jaccard"`` are passed as ``1 - similarity``.

        Returns
        -------
        ndarray of the same shape, within [0, 1]
        """
        raise TypeError(
            f"The hash family {self.name!r} states no collision probability in closed form; "
            "override collision_probability and set distance to use it with the exact estimator."
        )

    def cells_per_unit(self, parameters: HashParameters) -> NDArray[np.float64]:
        """Return how fast the cells can grow with every feature, so that overflow can be refused.

        Parameters
        ----------
        parameters : HashParameters

        Returns
        -------
        ndarray of shape (n_features,) or (1,)
            A row's cells are below ``1 + sum(abs(x) * cells_per_unit)``; zeros if cells are
            bounded by construction. The sketch refuses rows where that reaches
            :data:`LARGEST_CELL`.
        """
        return np.zeros(1)


_REGISTRY: dict[str, type[HashFamily]] = {}


def register(family: type[HashFamily]) -> type[HashFamily]:
    """Make a family known by its name, so that ``kernel="name"`` finds it (class decorator).

    Parameters
    ----------
    family : type
        A subclass of :class:`HashFamily` that can be built without arguments.

    Returns
    -------
    type
        The same class.

    Raises
    ------
    ValueError
        If another family has this name already.
    """
    known = _REGISTRY.setdefault(family.name, family)
    if known is not family:
        raise ValueError(
            f"A hash family named {family.name!r} is registered already ({known.__qualname__}); "
            "choose another name."
        )
    return family


def registered_families() -> tuple[str, ...]:
    """Return the names that ``kernel=`` accepts, in the order of registration."""
    return tuple(_REGISTRY)


def get_family(kernel: str | HashFamily) -> HashFamily:
    """Return the hash family that ``kernel`` names.

    Parameters
    ----------
    kernel : str or HashFamily
        A registered name, or a family, which is returned as it is.

    Returns
    -------
    HashFamily

    Raises
    ------
    ValueError
        If no family of that name is registered.
    """
    if isinstance(kernel, HashFamily):
        return kernel
    if kernel not in _REGISTRY:
        raise ValueError(
            f"Unknown kernel {kernel!r}: choose one of {sorted(_REGISTRY)} or pass an instance of "
            "nwsketch.hashing.HashFamily."
        )
    return _REGISTRY[kernel]()
