"""What a file keeps of a sketch: all that a pickle would, and checks of all of it on the way back.

Nobody can tell a forged file from a true one whose owner chose other numbers: a forger may change what a
sketch predicts. What may not happen is that anything is read, or written, beyond an array, or that a
prediction fails later and elsewhere. So everything that kernels trust is checked here, as the constructor
would.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nwsketch.backends import State
from nwsketch.backends.aggregation import Rules, tolerated
from nwsketch.backends.threads import count_threads
from nwsketch.border import Border
from nwsketch.correction import Correction
from nwsketch.hashing import HashFamily, plan_from_values, plan_values
from nwsketch.hashing.stored import require
from nwsketch.inputs import check_bandwidth, check_integer, check_table_size
from nwsketch.privacy import Privacy
from nwsketch.storage.container import Arrays, SketchFileError
from nwsketch.storage.values import Decoder, Encoder, scalar, take

#: Integers of a sketch, and the least that each may be.
INTEGERS = {
    "n_features": 1,
    "n_outputs": 1,
    "n_labels": 0,
    "hashes_per_repetition": 1,
    "n_repetitions": 1,
    "n_buckets": 1,
    "random_state": 0,
}
#: Attributes of a sketch that are written in their own ways; there may be no others.
OTHERS = {
    "family",
    "bandwidth",
    "plan",
    "backend",
    "device",
    "n_jobs",
    "correction",
    "privacy",
    "_border",
    "_is_open",
    "_rules",
    "_state",
}
#: No number of rows is larger: float64 counts them.
MOST_ROWS = 2.0**53
#: Of the integers no larger is believed; seeds have 128 bits, and are not reckoned with.
LARGEST_INTEGER = 2**40


def sketch_values(kept: dict[str, Any]) -> tuple[dict[str, Any], Arrays]:
    """Return what a file keeps of a sketch.

    Parameters
    ----------
    kept : dict
        What the sketch's ``__getstate__`` returned: arrays of the host.

    Returns
    -------
    values : dict
        For JSON.
    arrays : dict of str to ndarray

    Raises
    ------
    SketchFileError
        If it has attributes that a file does not keep.
    """
    unknown = kept.keys() - INTEGERS.keys() - OTHERS
    if unknown:
        raise SketchFileError(
            f"A file cannot keep the attributes {sorted(unknown)} of this sketch: delete them, or use pickle."
        )
    state, rules, correction = kept["_state"], kept["_rules"], kept["correction"]
    hashes, arrays = plan_values(kept["plan"])
    arrays |= {"bandwidth": kept["bandwidth"], "tables": state.tables, "totals": state.totals}
    if correction is not None:
        arrays["offset"] = correction.offset
    values = {name: scalar(kept[name]) for name in (*INTEGERS, "backend", "device", "n_jobs")}
    values |= {
        "kernel": Encoder(arrays).family(kept["family"]),
        "hashes": hashes,
        "rules": {name: scalar(getattr(rules, name)) for name in ("aggregation", "n_groups", "empty")},
        "n_rounds": None if correction is None else int(correction.n_rounds),
        "is_open": bool(kept["_is_open"]),
        "privacy": Encoder(arrays).encode("privacy", kept["privacy"]),
    }
    return values, arrays


def sketch_state(
    values: dict[str, Any], arrays: Arrays, family: HashFamily | None, most_table_bytes: int
) -> dict[str, Any]:
    """Return what the ``__setstate__`` of a sketch takes.

    Parameters
    ----------
    values : dict
        What :func:`sketch_values` returned, or a forger wrote.
    arrays : dict of str to ndarray
    family : HashFamily or None
        Takes the place of the family that a file names.
    most_table_bytes : int

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If there is no such sketch.
    """
    kept = {name: check_integer(name, take(values, name, int), least) for name, least in INTEGERS.items()}
    sizes = {name: kept[name] for name in INTEGERS if name != "random_state"}
    for name, size in sizes.items():
        if size > LARGEST_INTEGER:
            raise SketchFileError(f"{name}={size} is beyond any sketch.")
    shape = (kept["n_repetitions"], kept["n_buckets"], kept["n_outputs"] + 1)
    check_table_size(shape, most_table_bytes)
    require(arrays, "bandwidth", np.float64, (kept["n_features"],))
    known = Decoder(arrays, {}, family).family(take(values, "kernel", dict))
    hashes = take(values, "hashes", dict)
    take(hashes, "form", str)
    for name in ("cells_per_hash", "repetitions_together"):
        take(hashes, name, int)
    n_outputs = sizes.pop("n_outputs")
    plan = plan_from_values(known, hashes, arrays, **sizes)
    rules = _rules(take(values, "rules", dict), plan.n_repetitions, plan.n_buckets if plan.rehashed else None)
    correction = _correction(take(values, "n_rounds", int, type(None)), arrays, n_outputs)
    if correction is not None and rules.aggregation != "mean":
        raise SketchFileError("A corrected sketch has aggregation='mean'.")
    privacy = _privacy(take(values, "privacy", dict, type(None)), arrays, n_outputs)
    return kept | {
        "family": known,
        "bandwidth": check_bandwidth(arrays["bandwidth"], plan.n_features),
        "plan": plan,
        "backend": take(values, "backend", str),
        "device": take(values, "device", str, type(None)),
        "n_jobs": _n_jobs(values),
        "correction": correction,
        "privacy": privacy,
        "_border": Border(plan, kept["n_labels"]),
        "_is_open": take(values, "is_open", bool),
        "_rules": rules,
        "_state": _state(arrays, shape, noisy=privacy is not None),
    }


def _rules(told: dict[str, Any], n_repetitions: int, n_buckets: int | None) -> Rules:
    n_groups = check_integer("n_groups", take(told, "n_groups", int), 1)
    aggregation, empty = take(told, "aggregation", str), take(told, "empty", str, int, float)
    if not isinstance(empty, str):
        empty = float(empty)
    return Rules(aggregation, n_groups, empty, n_repetitions, n_buckets)


def _correction(n_rounds: int | None, arrays: Arrays, n_outputs: int) -> Correction | None:
    if n_rounds is None:
        return None
    offset = require(arrays, "offset", np.float64, (n_outputs,))
    return Correction(offset, check_integer("n_rounds", n_rounds, 1))


def _privacy(told: dict[str, Any] | None, arrays: Arrays, n_outputs: int) -> Privacy | None:
    if told is None:
        return None
    privacy = Decoder(arrays, {"Privacy": Privacy}).decode(told)
    if not isinstance(privacy, Privacy) or type(privacy.epsilon) is not float or not privacy.epsilon > 0:
        raise SketchFileError(f"No privacy is written as {told!r:.80}.")
    require(privacy._asdict(), "target_bound", np.float64, (n_outputs,), least=0.0)
    require(privacy._asdict(), "noise", np.float64, (n_outputs + 1,), least=0.0)
    return privacy


def _n_jobs(values: dict[str, Any]) -> int | None:
    n_jobs: int | None = take(values, "n_jobs", int, type(None))
    count_threads(n_jobs)
    return n_jobs


def _state(arrays: Arrays, shape: tuple[int, int, int], noisy: bool) -> State:
    tables = require(arrays, "tables", np.float64, shape)
    totals = require(arrays, "totals", np.float64, (shape[2] + 2,))
    state = State(tables, totals)
    if not (totals[-2] >= 0 and 0 <= totals[-1] <= MOST_ROWS and float(totals[-1]).is_integer()):
        raise SketchFileError(
            f"A sketch of {totals[-1]:.17g} rows added {totals[-2]:.3g} of weight: no sketch does."
        )
    least = min(float(tables[..., -1].min()), float(totals[-3]))
    if least < -tolerated(state) and not noisy:
        raise SketchFileError(f"A bucket of it, or all, would hold the negative weight {least:.3g}.")
    return state
