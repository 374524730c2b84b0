"""Hashes as plain values and arrays, and back: what a file keeps of a plan.

The drawn arrays are kept, not the seed that they were drawn from: a later version of this package or of NumPy
may draw others. Compiled kernels index by the shapes of these arrays without looking; so whatever comes
from a file is checked here, and a plan that passes can be handed to any kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwsketch.hashing.base import HashFamily, HashParameters
from nwsketch.hashing.plan import MOST_BUCKETS, HashPlan
from nwsketch.hashing.projections import ORDER

Arrays = dict[str, NDArray[Any]]
#: Names of the arrays that every plan has, and what the others' names begin with.
COMMON, OWN = ("multipliers", "shifts", "offsets"), "hash."
#: Factors of directions are not larger than this, drawn as they are from Gaussians; float32 holds it.
LARGEST_FACTOR = 1e30


def plan_values(plan: HashPlan) -> tuple[dict[str, Any], Arrays]:
    """Return what a plan is made of.

    Parameters
    ----------
    plan : HashPlan

    Returns
    -------
    values : dict of str to (str or int)
    arrays : dict of str to ndarray
    """
    parameters = plan.parameters
    values = {
        "form": parameters.form,
        "cells_per_hash": parameters.cells_per_hash,
        "repetitions_together": parameters.repetitions_together,
    }
    arrays: Arrays = {OWN + name: array for name, array in parameters.arrays.items()}
    return values, arrays | {name: getattr(plan, name) for name in COMMON}


def plan_from_values(
    family: HashFamily,
    values: dict[str, Any],
    arrays: Arrays,
    *,
    n_features: int,
    n_repetitions: int,
    hashes_per_repetition: int,
    n_buckets: int,
    n_labels: int,
) -> HashPlan:
    """Return the plan that ``plan_values`` told of, or refuse what no plan could have told.

    Parameters
    ----------
    family : HashFamily
    values : dict
        Of the right types: a string and two integers.
    arrays : dict of str to ndarray
        Not trusted. Others than those of the plan are not looked at.
    n_features, n_repetitions, hashes_per_repetition, n_buckets : int
        At least 1.
    n_labels : int
        At least 0.

    Returns
    -------
    HashPlan

    Raises
    ------
    ValueError
        If a kernel could not trust these arrays.
    """
    own = {name.removeprefix(OWN): array for name, array in arrays.items() if name.startswith(OWN)}
    parameters = HashParameters(values["form"], own, values["cells_per_hash"], values["repetitions_together"])
    if parameters.cells_per_hash < 1 or parameters.repetitions_together < 1:
        raise ValueError("the stored hashes yield no cells, or are drawn together by none")
    if n_buckets > MOST_BUCKETS:
        raise ValueError(f"n_buckets={n_buckets} is over the limit of {MOST_BUCKETS}")
    n_hashes = n_repetitions * hashes_per_repetition
    require(arrays, "multipliers", np.uint64, (parameters.cells_per_hash, n_hashes))
    require(arrays, "shifts", np.uint64, (n_repetitions,))
    require(arrays, "offsets", np.uint32, (n_labels, n_repetitions))
    check = CHECKS.get(parameters.form)
    if check is None:
        raise ValueError(f"the stored hashes are of the unknown form {parameters.form!r}")
    check(parameters, n_features, n_repetitions, hashes_per_repetition)
    try:
        plan = HashPlan.from_arrays(
            family,
            parameters,
            n_features=n_features,
            n_repetitions=n_repetitions,
            hashes_per_repetition=hashes_per_repetition,
            n_buckets=n_buckets,
            n_labels=n_labels,
            **{name: arrays[name] for name in COMMON},
        )
        if plan.form == "cells":
            _try_cells(plan, n_hashes)
    except ValueError:
        raise
    # The code of a family, maybe a user's, was given arrays that may be those of another.
    except Exception as error:
        raise ValueError(f"the kernel {family.name!r} cannot use the stored hashes: {error!r}") from error
    if not plan.rehashed and plan.form in ("grid", "floor_projection"):
        raise ValueError(f"codes of form {plan.form!r} are unbounded and cannot be numbered")
    return plan


def require(
    arrays: Arrays,
    name: str,
    dtype: Any,
    shape: tuple[int, ...],
    least: float = -np.inf,
    most: float = np.inf,
) -> NDArray[Any]:
    """Return an array of a dictionary, if it is of this type and shape, finite and within [least, most].

    Parameters
    ----------
    arrays : dict of str to ndarray
    name : str
    dtype : type
    shape : tuple of int
    least, most : float

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If it is not there, or not so.
    """
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"the array {name!r} is missing")
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"the array {name!r} is {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of {shape}"
        )
    if array.dtype.kind == "f" and array.size:
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high) and least <= low and high <= most):
            raise ValueError(f"the array {name!r} holds values from {low:.3g} to {high:.3g}")
    return array


def _has_only(parameters: HashParameters, names: set[str]) -> None:
    """Refuse arrays that a form does not have, or cells that it does not yield."""
    if parameters.arrays.keys() != names:
        raise ValueError(
            f"hashes of form {parameters.form!r} have {sorted(names)}, not {sorted(parameters.arrays)}"
        )


def _check_grid(parameters: HashParameters, n_features: int, n_repetitions: int, n_hashes: int) -> None:
    shape = (n_features, n_repetitions * n_hashes)
    _has_only(parameters, {"scales", "offsets"})
    if parameters.cells_per_hash != n_features:
        raise ValueError(f"a grid of {n_features} features has as many cells")
    require(parameters.arrays, "scales", np.float64, shape, least=0.0)
    require(parameters.arrays, "offsets", np.float64, shape, 0.0, np.nextafter(1.0, 0.0))


def _check_projection(parameters: HashParameters, n_features: int, n_repetitions: int, n_hashes: int) -> None:
    arrays, total = parameters.arrays, n_repetitions * n_hashes
    names = {"directions"}
    require(arrays, "directions", np.float64, (n_features, total))
    _require_one_cell(parameters)
    if parameters.form == "floor_projection":
        names.add("offsets")
        require(arrays, "offsets", np.float64, (total,), 0.0, np.nextafter(1.0, 0.0))
    if "gaussians" in arrays:
        names |= {"scales", "gaussians"}
        n_padded = -(-n_features // ORDER) * ORDER
        n_copies = max(arrays["gaussians"].shape[-1] // n_padded, 1)
        n_blocks = -(-n_repetitions // ORDER) * n_hashes
        require(arrays, "scales", np.float64, (n_copies * n_padded,))
        shape = (n_blocks, n_copies * n_padded)
        factors = require(arrays, "gaussians", np.float64, shape, -LARGEST_FACTOR, LARGEST_FACTOR)
        if not factors.any(axis=1).all():
            raise ValueError("the array 'gaussians' holds a block of zeros")
        if parameters.form == "floor_projection":
            names.add("lengths")
            require(arrays, "lengths", np.float64, (total,), np.finfo(np.float64).tiny, LARGEST_FACTOR)
    _has_only(parameters, names)


def _check_minhash(parameters: HashParameters, n_features: int, n_repetitions: int, n_hashes: int) -> None:
    _has_only(parameters, {"seeds"})
    _require_one_cell(parameters)
    require(parameters.arrays, "seeds", np.uint64, (n_repetitions * n_hashes,))


def _require_one_cell(parameters: HashParameters) -> None:
    if parameters.cells_per_hash != 1:
        raise ValueError(f"a hash of form {parameters.form!r} has one cell, not {parameters.cells_per_hash}")


def _check_nothing(parameters: HashParameters, n_features: int, n_repetitions: int, n_hashes: int) -> None:
    """Leave the arrays of a user's family to its own Python code (see :func:`_try_cells`)."""


CHECKS: dict[str, Callable[[HashParameters, int, int, int], None]] = {
    "grid": _check_grid,
    "floor_projection": _check_projection,
    "sign_projection": _check_projection,
    "minhash": _check_minhash,
    "cells": _check_nothing,
}


def _try_cells(plan: HashPlan, n_hashes: int) -> None:
    """Let a family that hashes by its own code hash a row of zeros."""
    drawn = plan.family.draw(np.random.default_rng(0), plan.n_features, 1, 1, np.ones(plan.n_features))
    if drawn.form != "cells":
        raise ValueError(f"the kernel {plan.family.name!r} has the form {drawn.form!r}, not 'cells'")
    cells, wanted = plan.cells(np.zeros((1, plan.n_features))), (1, n_hashes, plan.parameters.cells_per_hash)
    if cells.shape != wanted:
        raise ValueError(f"the kernel {plan.family.name!r} yields cells of {cells.shape}, not {wanted}")
