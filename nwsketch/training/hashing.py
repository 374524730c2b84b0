"""From features to codes: the sketch that a user asks for, or the default, and how rows are keyed in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from nwsketch.backends import Codes
from nwsketch.bandwidth import resolve_bandwidth
from nwsketch.hashing import get_family
from nwsketch.inputs import check_labels, check_rows
from nwsketch.regressor import NadarayaWatsonSketchRegressor
from nwsketch.sketch import NadarayaWatsonSketch
from nwsketch.tensors import to_host
from nwsketch.training.kernels import centre_rows

#: The sketch that ``sketch=None`` stands for. So many buckets that codes are not rehashed up to 256 labels:
#: unrelated rows in a bucket do more harm to a loss than few repetitions do.
DEFAULTS: dict[str, Any] = {
    "kernel": "angular",
    "hashes_per_repetition": 8,
    "n_repetitions": 16,
    "n_buckets": 2**16,
}
#: Values of features that are centred at a time, in memory that is kept for the next time.
CHUNK_SIZE = 2**20

NO_LABELS: NDArray[np.int64] = np.empty(0, dtype=np.int64)

#: What an estimator must leave at its default here, as it would need the losses of all rows beforehand.
NEEDS_TARGETS = {"bias_correction": None, "trend": None, "uncertainty": False}


class RowHasher:
    """An empty sketch for given features, and the codes of rows in it.

    Parameters
    ----------
    features : array-like, tensor or sparse matrix of shape (n_samples, n_features)
        They decide the number of features, bandwidths like ``"scale"``, and the centre.
    n_labels : int
        Number of labels that rows are told apart by; 0 for none.
    estimator : NadarayaWatsonSketchRegressor or None
        Unfitted. None is the regressor of :data:`DEFAULTS`, whose rows have the mean of ``features``
        subtracted if these are dense: angles between rows far from zero are all alike.
    seed : int
        Draws the hashes if the estimator has no random_state.
    **changes
        Parameters in which the default sketch is to differ from :data:`DEFAULTS`.

    Attributes
    ----------
    sketch : NadarayaWatsonSketch
        Of the losses of no row yet.
    """

    def __init__(
        self,
        features: Any,
        n_labels: int,
        estimator: NadarayaWatsonSketchRegressor | None,
        seed: int,
        **changes: Any,
    ) -> None:
        rows = as_rows(features)
        self._centre: NDArray[Any] | None = None
        self._room: NDArray[Any] = np.empty((0, 0))
        if estimator is None:
            estimator = NadarayaWatsonSketchRegressor(**(DEFAULTS | changes))
            if not issparse(rows):
                self._centre = rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
        self.sketch = empty_sketch(estimator, rows, n_labels, seed)

    def hash(self, features: Any, labels: ArrayLike | None = None) -> Codes:
        """Hash rows.

        Parameters
        ----------
        features : array-like, tensor or sparse matrix of shape (n_samples, n_features)
        labels : array-like of shape (n_samples,), int, or None
            Within ``[0, n_labels)``; needed if there are labels.

        Returns
        -------
        Codes
        """
        rows = as_rows(features, self.sketch.n_features, check_finite=self._centre is None)
        if (labels is None) != (self.sketch.n_labels == 0):
            raise ValueError(
                "labels are missing: this sketch tells rows apart by label, so give one per row."
                if labels is None
                else "labels were given, but this sketch knows none: set n_labels, or leave them out."
            )
        numbers = None if labels is None else np.asarray(to_host(labels))
        if self._centre is None:
            if numbers is not None:
                numbers = check_labels(numbers, rows.shape[0], self.sketch.n_labels)
            return self.sketch.hash(rows, numbers, check_input=False)
        if numbers is not None and (numbers.dtype != np.int64 or numbers.shape != rows.shape[:1]):
            numbers = check_labels(numbers, rows.shape[0], self.sketch.n_labels)
        step = max(CHUNK_SIZE // self.sketch.n_features, 1)
        if len(rows) <= step:
            return Codes(self._codes(rows, self._centre, numbers))
        parts = [slice(start, start + step) for start in range(0, len(rows), step)]
        hashed = [
            self._codes(rows[part], self._centre, None if numbers is None else numbers[part])
            for part in parts
        ]
        return Codes(np.hstack(hashed))

    def _codes(
        self, rows: NDArray[Any], centre: NDArray[Any], labels: NDArray[np.int64] | None
    ) -> NDArray[Any]:
        """Do what ``sketch.hash`` does, without the checks that are done already."""
        centred = self._less(rows, centre, labels)
        return self.sketch._backend.codes(centred, self.sketch._threads(len(rows)), labels)

    def _less(
        self, rows: NDArray[Any], centre: NDArray[Any], labels: NDArray[np.int64] | None
    ) -> NDArray[Any]:
        """Return rows less the centre, in memory that the next call overwrites, and check them and labels."""
        room, n_labels = self._room, self.sketch.n_labels
        if rows.dtype != centre.dtype:
            rows, centre = rows.astype(np.float64, copy=False), centre.astype(np.float64, copy=False)
        if room.shape != rows.shape or room.dtype != rows.dtype:
            room = self._room = np.empty(rows.shape, dtype=rows.dtype)
        numbers = NO_LABELS if labels is None else labels
        finite, known = centre_rows(rows, centre, numbers, n_labels, room)
        if not finite:
            check_rows(rows, self.sketch.n_features)  # a difference of huge numbers may be infinite
        if not known:
            check_labels(numbers, len(rows), n_labels)
        return room


def as_rows(features: Any, n_features: int | None = None, check_finite: bool = True) -> Any:
    """Return features as float32 or float64 rows, or as canonical CSR of such.

    Without ``check_finite``, rows of the right type and width may hold NaN or infinity.
    """
    rows: Any = to_host(features)
    if not issparse(rows):
        rows = np.asarray(rows)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(
            f"features has shape {rows.shape}: give one row per example, (n_samples, n_features); flatten "
            "images with reshape(len(features), -1)."
        )
    is_float = isinstance(rows, np.ndarray) and rows.dtype.char in "fd"  # float32 or float64
    if is_float and not check_finite and rows.shape[1] == n_features:
        return rows
    return check_rows(rows, rows.shape[1] if n_features is None else n_features)


def empty_sketch(
    estimator: NadarayaWatsonSketchRegressor, rows: Any, n_labels: int, seed: int
) -> NadarayaWatsonSketch:
    """Return the empty sketch that an unfitted regressor describes, for rows like these.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor
    rows : ndarray or sparse matrix of shape (n_samples, n_features)
    n_labels : int
    seed : int
        Used if ``estimator.random_state`` is None.

    Returns
    -------
    NadarayaWatsonSketch

    Raises
    ------
    TypeError, ValueError
        If it is no such regressor, fitted, or asks for what needs all losses beforehand.
    """
    if not isinstance(estimator, NadarayaWatsonSketchRegressor):
        raise TypeError(
            f"sketch is a {type(estimator).__name__}: give an unfitted NadarayaWatsonSketchRegressor, or "
            "None for the default."
        )
    if hasattr(estimator, "sketch_"):
        raise ValueError(
            "sketch is fitted, and what it has learnt are not losses: give sklearn.base.clone(sketch)."
        )
    for name, value in NEEDS_TARGETS.items():
        if getattr(estimator, name) != value:
            raise ValueError(
                f"sketch has {name}={getattr(estimator, name)!r}, which needs the losses of all rows at "
                f"once, while here they come as training goes on: set {name}={value!r}."
            )
    if estimator.backend == "torch" or estimator.device not in (None, "cpu"):
        raise ValueError(
            f"sketch has backend={estimator.backend!r} and device={estimator.device!r}, but codes and losses "
            "are kept on the host, whatever trains: set backend='auto' and device=None."
        )
    family = get_family(estimator.kernel)
    bandwidth = estimator.bandwidth
    if not family.takes_bandwidth:
        if not isinstance(bandwidth, str):
            raise ValueError(
                f"sketch has kernel={family.name!r}, which has no bandwidth, but bandwidth={bandwidth!r}: "
                "leave bandwidth='scale', which is ignored."
            )
        bandwidth = 1.0
    elif isinstance(bandwidth, str) and bandwidth != "scale":
        raise ValueError(
            f"sketch has bandwidth={bandwidth!r}, which is found on losses, and there are none yet: give "
            "'scale', a number, or one per feature."
        )
    state = estimator.random_state
    return NadarayaWatsonSketch(
        rows.shape[1],
        n_labels=n_labels,
        kernel=family,
        bandwidth=resolve_bandwidth(bandwidth, rows, None, family.distance),
        hashes_per_repetition=estimator.hashes_per_repetition,
        n_repetitions=estimator.n_repetitions,
        n_buckets=estimator.n_buckets,
        aggregation=estimator.aggregation,
        n_groups=estimator.n_groups,
        empty=estimator.empty,
        backend=estimator.backend,
        device=estimator.device,
        n_jobs=estimator.n_jobs,
        random_state=seed if state is None else _integer(state),
    )


def _integer(random_state: Any) -> int:
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(np.iinfo(np.int32).max))
    return int(random_state)


def number_labels(labels: Any, n_rows: int) -> tuple[NDArray[np.intp], int]:
    """Return the labels of a data set, numbered from 0.

    Parameters
    ----------
    labels : array-like or tensor of shape (n_rows,)
        Integers, booleans or strings.
    n_rows : int

    Returns
    -------
    labels : ndarray of shape (n_rows,), intp
    n_labels : int
    """
    values = np.asarray(to_host(labels))
    if values.shape != (n_rows,) or values.dtype.kind == "f":
        raise ValueError(
            f"labels has shape {values.shape} and dtype {values.dtype}: give one class per row of features, "
            f"({n_rows},), as integers or strings; bin a continuous target first, or leave labels out."
        )
    classes, numbers = np.unique(values, return_inverse=True)
    return numbers.astype(np.intp), len(classes)
