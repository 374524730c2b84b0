"""The sketch itself: a data structure for kernel sums and kernel regression, without scikit-learn.

For every repetition r a hash h_r puts a row into one of ``n_buckets`` buckets; the row's weight
and its weighted targets are added there. For a query q the weights in its buckets, averaged over
the repetitions, estimate sum_i w_i k(x_i, q), where the kernel k is the probability that two rows
share a bucket; the weighted targets estimate sum_i w_i y_i k(x_i, q); their ratio is the
Nadaraya-Watson regression. (Daghaghi, Coleman, Geordie & Shrivastava, arXiv:2311.13583, section
3; Coleman & Shrivastava, "Sub-linear RACE Sketches", WWW 2020.) Paper to code: R is
``n_repetitions``, K ``hashes_per_repetition``, W (range) ``n_buckets``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import astuple, replace
from threading import RLock
from typing import Any, ClassVar, Literal, Self
from weakref import WeakSet

import numpy as np
from numpy.typing import ArrayLike

from nwsketch.backends import Codes, State, get_backend
from nwsketch.backends.aggregation import Rules, divisor_from, tolerated
from nwsketch.backends.base import Array, Progress
from nwsketch.backends.threads import count_threads
from nwsketch.bandwidth import weighted_deviations
from nwsketch.border import Border
from nwsketch.consistent import Learnt, ask, changing
from nwsketch.correction import Correction, Rounds, choose_rounds, corrected, require_additive
from nwsketch.hashing import HashFamily, HashPlan, get_family
from nwsketch.inputs import (
    check_bandwidth,
    check_integer,
    check_labels,
    check_sums,
    check_table_size,
)
from nwsketch.merging import require_same_hashes
from nwsketch.privacy import (
    MOST_ROWS,
    Privacy,
    check_epsilon,
    check_target_bound,
    merged,
    privatized,
    require_exact,
)
from nwsketch.storage import Storable
from nwsketch.storage.sketches import sketch_state, sketch_values
from nwsketch.tensors import is_tensor, joined, like, to_host, uncompiled

#: Tables larger than this many bytes are refused; assign to it to change the limit.
MAX_TABLE_BYTES = 4 * 2**30

#: Defaults of the sketch and of the estimator; docs/defaults.md tells how they were measured.
N_REPETITIONS = 1024
N_BUCKETS = 2**11
N_GROUPS = 8
#: Groups, at least (if there are as many repetitions), whose spread tells the standard error, and values of
#: them that are handled at a time.
GROUPS_OF_ERRORS, SUMS_OF_ERRORS = 32, 2**20
#: Rows times repetitions that no second thread is worth starting for: how many there may be is not asked.
FEW_CODES = 2**12

#: The sketches of this process, whose locks a forked child makes anew.
_sketches: WeakSet[NadarayaWatsonSketch] = WeakSet()


def _start_child() -> None:
    """Make the locks anew: threads that held them in the parent are not there to release them.

    A small batch that such a thread was adding at that very moment may be in the child's tables in part.
    """
    for sketch in _sketches:
        sketch._lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_child)


def _kind(X: Any) -> Any:
    """Return what tells whether answers are to be a tensor, and where."""
    if isinstance(X, Codes):
        return X.array if X.as_given else None
    return X


class NadarayaWatsonSketch(Storable):
    """Streaming, mergeable Nadaraya-Watson regression in fixed memory.

    Parameters
    ----------
    n_features : int
        Width of the rows.
    n_outputs : int, default=1
        Number of targets.
    n_labels : int, default=0
        With 1 or more, rows carry a label below it, and rows of different labels do not count as
        neighbours: one regression for each label, in the same tables. Rows are then given as codes
        (see :meth:`hash`).
    kernel : str or HashFamily, default="laplacian"
        A registered hash family ("laplacian", "l2", "l1", "angular", "jaccard") or an instance.
    bandwidth : float or array-like of shape (n_features,), default=1.0
        Widths that features are divided by; not read by families without a bandwidth.
    hashes_per_repetition : int, default=1
        Elementary hashes joined into one code: the kernel is raised to this power.
    n_repetitions : int, default=1024
        Number of tables; the error falls as 1 / sqrt(n_repetitions).
    n_buckets : int or None, default=2048
        Width of each table. None keeps every code of a family with boundedly many.
    aggregation : {"mean", "median_of_means"}, default="mean"
        Ratio of means over all repetitions, or the median of such ratios over groups, whose
        failure probability falls exponentially in the number of groups.
    n_groups : int, default=8
        Number of groups for ``"median_of_means"``; divides ``n_repetitions``. "angular" and "l2" draw eight
        repetitions together from eight features on: groups of a multiple of eight are independent.
    empty : {"mean", "nan"} or float, default="mean"
        Prediction where no repetition has rows to speak of: the weighted mean of all targets,
        NaN, or a number.
    backend : {"auto", "numba", "torch"}, default="auto"
        What computes. "auto" waits for the first rows: torch if they are a tensor, on its device, else numba.
    device : str or None, default=None
        Where it computes: "cpu" or, by torch, "cuda" or "cuda:<number>". None leaves it to the backend; torch
        takes a GPU if there is one.
    n_jobs : int or None, default=None
        Threads: None for all cores that numba may use (one inside a joblib worker), -1 for all.
    random_state : int or None, default=None
        Seed of the hashes; None draws one from the operating system. Sketches can be merged if
        they were made with the same seed.

    Raises
    ------
    ValueError
        If a parameter is out of range, or the tables would exceed :data:`nwsketch.sketch.MAX_TABLE_BYTES`.

    Notes
    -----
    Threads may share a sketch. :meth:`update`, :meth:`forget`, :meth:`merge`, :meth:`decay`, :meth:`correct`
    and :meth:`to` come one after the other, in whatever order the threads reach them. Every answer is that of
    one complete state: what had been learnt before some call, or after it, never a part of a batch
    (:mod:`nwsketch.consistent`). Several questions are answered by the same state inside of :meth:`paused`.
    An error, or an interrupt (KeyboardInterrupt, MemoryError), leaves the state before the call or that after
    it.

    Examples
    --------
    >>> import numpy as np
    >>> from nwsketch.sketch import NadarayaWatsonSketch
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-3, 3, size=(20_000, 1))
    >>> sketch = NadarayaWatsonSketch(1, bandwidth=0.2, random_state=0)
    >>> sketch.update(X, np.sin(X[:, 0])).query([[1.5]]).round(1)
    array([[1.]])
    """

    _file_kind: ClassVar[str] = "sketch"

    def __init__(
        self,
        n_features: int,
        n_outputs: int = 1,
        *,
        n_labels: int = 0,
        kernel: str | HashFamily = "laplacian",
        bandwidth: float | ArrayLike = 1.0,
        hashes_per_repetition: int = 1,
        n_repetitions: int = N_REPETITIONS,
        n_buckets: int | None = N_BUCKETS,
        aggregation: Literal["mean", "median_of_means"] = "mean",
        n_groups: int = N_GROUPS,
        empty: Literal["mean", "nan"] | float = "mean",
        backend: str = "auto",
        device: str | None = None,
        n_jobs: int | None = None,
        random_state: int | None = None,
    ) -> None:
        self.family = get_family(kernel)
        self.n_features = check_integer("n_features", n_features, 1)
        self.n_outputs = check_integer("n_outputs", n_outputs, 1)
        self.n_labels = check_integer("n_labels", n_labels, 0)
        self.hashes_per_repetition = check_integer("hashes_per_repetition", hashes_per_repetition, 1)
        self.n_repetitions = check_integer("n_repetitions", n_repetitions, 1)
        if n_buckets is not None:
            check_integer("n_buckets", n_buckets, 2)
            check_table_size((self.n_repetitions, n_buckets, self.n_outputs + 1), MAX_TABLE_BYTES)
        self.bandwidth = check_bandwidth(bandwidth, self.n_features)
        self.backend = backend
        self.device = device
        self.n_jobs = n_jobs
        count_threads(n_jobs)
        seed = np.random.SeedSequence().entropy if random_state is None else random_state
        self.random_state = check_integer("random_state", seed, 0)
        self.plan = HashPlan(
            self.family,
            n_features=self.n_features,
            n_repetitions=self.n_repetitions,
            hashes_per_repetition=self.hashes_per_repetition,
            n_buckets=n_buckets,
            bandwidth=self.bandwidth,
            seed=self.random_state,
            n_labels=self.n_labels,
        )
        self._border = Border(self.plan, self.n_labels)
        self.n_buckets = self.plan.n_buckets
        check_table_size((self.n_repetitions, self.n_buckets, self.n_outputs + 1), MAX_TABLE_BYTES)
        self.correction: Correction | None = None
        self.privacy: Privacy | None = None
        self._start()
        self.answer_by(aggregation, n_groups, empty)
        self._state = self._backend.empty_state(self.n_outputs)

    # -- what has been learnt -----------------------------------------------------------------

    @property
    def tables(self) -> Array:
        """Sums per bucket: (n_repetitions, n_buckets, n_outputs + 1), targets first, weights last.

        After :meth:`correct` the targets' entries are those of the ridge regression instead. On numba these
        are the very tables, which a later update may write to: copy what is to stay.
        """
        return self._backend.to_host(self._state).tables

    @property
    def empty(self) -> Literal["mean", "nan"] | float:
        """The answer where no rows are near."""
        return self._rules.empty

    @property
    def n_samples_seen(self) -> int:
        """Number of rows added minus number of rows forgotten."""
        return self._state.n_rows

    @property
    def total_weight(self) -> float:
        """Sum of the weights of the rows that the sketch holds."""
        return float(self._state.channel_totals[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of the tables and the hash parameters: fixed, however many rows are learnt."""
        plan = self.plan
        arrays = (*plan.arrays.values(), plan.multipliers, plan.shifts, plan.offsets, *self._state)
        return sum(array.nbytes for array in arrays)

    # -- hashing ------------------------------------------------------------------------------

    @uncompiled
    def hash(self, X: Any, labels: ArrayLike | None = None, *, check_input: bool = True) -> Codes:
        """Hash rows once, for several uses: all methods take the result in place of X.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features), or Codes
            Codes of rows without labels are moved by their labels.
        labels : array-like of shape (n_samples,), int, or None, default=None
            Within ``[0, n_labels)``. None hashes the rows without labels.
        check_input : bool, default=True
            False trusts ``X`` (see :meth:`update`) and ``labels`` (intp).

        Returns
        -------
        Codes
            ``n_repetitions`` integers of two bytes (of four beyond 65,536 buckets) a row. Can be sliced
            and indexed by row, and its rows replaced.

        Raises
        ------
        ValueError
            If the input is not as described.
        """
        self._settle(X)
        given, X = _kind(X), self._border.hashable(self._backend, X, check_input)
        if labels is not None:
            labels = to_host(labels)
            labels = check_labels(labels, X.shape[0], self.n_labels) if check_input else np.asarray(labels)
        codes = self._backend.codes(X, self._threads(X.shape[0]), labels)
        return Codes(codes, is_tensor(given) or not is_tensor(codes))

    # -- learning -----------------------------------------------------------------------------

    @uncompiled
    def update(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        check_input: bool = True,
        progress: Progress | None = None,
    ) -> NadarayaWatsonSketch:
        """Add rows.

        One call and any split of the rows into several leave the same bits in the tables. An
        error or an interrupt leaves the sketch as it was before the call or as it is after it.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features), or Codes
            Finite; kept in float32 if given so, else float64. Here and elsewhere, what :meth:`hash`
            returned for the rows serves as well.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Finite targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Finite and not negative; None means 1.
        check_input : bool, default=True
            False trusts ``X`` (float32 or float64, canonical CSR if sparse), ``y`` (float64,
            2-D) and ``sample_weight`` (float64) to be what they should.
        progress : callable or None, default=None
            Called with the number of rows done since its last call.

        Returns
        -------
        self : NadarayaWatsonSketch

        Raises
        ------
        ValueError
            If the input is not as described, or a cell's index would overflow.
        """
        require_additive(self.correction, "update")
        require_exact(self.privacy, "update")
        rows, targets, weights = self._rows(X, y, sample_weight, check_input)
        n_threads = self._threads(len(targets))
        with self._lock:
            self._state = self._backend.add(self._state, rows, targets, weights, n_threads, progress)
        return self

    @uncompiled
    def forget(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, *, check_input: bool = True
    ) -> NadarayaWatsonSketch:
        """Take rows away again that were added before.

        Parameters
        ----------
        X, y, sample_weight, check_input
            As in :meth:`update`. The weights are those that the rows have by now: as they were added,
            times the factors of every :meth:`decay` since.

        Returns
        -------
        self : NadarayaWatsonSketch

        Raises
        ------
        ValueError
            If a bucket would hold less than nothing: these rows were not added. Nothing changes.
        """
        require_additive(self.correction, "forget")
        require_exact(self.privacy, "forget")
        rows, targets, weights = self._rows(X, y, sample_weight, check_input)
        n_threads = self._threads(len(targets))
        with self._lock:
            state = self._backend.subtract(self._state, rows, targets, weights, n_threads)
            least, tolerance = float(state.tables[..., -1].min()), tolerated(state)
            if least < -tolerance or state.n_rows < 0:
                raise ValueError(
                    f"Cannot forget rows that were not learnt: a bucket would hold the weight {least:.3g} "
                    f"and the sketch {state.n_rows} rows. Forget rows with the X, y and sample_weight that "
                    "they were added with (the weight times the factors of every decay since)."
                )
            if state.n_rows == 0 and state.channel_totals[-1] <= tolerance:
                state = self._backend.empty_state(self.n_outputs)  # without what rounding left
            self._state = state
        return self

    @uncompiled
    def merge(self, other: NadarayaWatsonSketch) -> NadarayaWatsonSketch:
        """Add all that another sketch has learnt; the other stays as it is.

        Parameters
        ----------
        other : NadarayaWatsonSketch
            Of the same hashes: same parameters, bandwidth and random_state.

        Returns
        -------
        self : NadarayaWatsonSketch

        Raises
        ------
        ValueError
            If the hashes differ; the message says in what.
        """
        require_additive(self.correction, "merge")
        require_additive(other.correction, "merge")
        require_same_hashes(self, other)
        with other._lock:
            theirs, their_privacy = other._frozen(), other.privacy
        if other._backend.place != self._backend.place:
            theirs = self._backend.from_host(other._backend.to_host(theirs))
        with self._lock:
            mine, privacy = self._state, merged(self.privacy, their_privacy)
            state = State(mine.tables + theirs.tables, mine.totals + theirs.totals)
            self.__dict__.update(_state=state, privacy=privacy)
        return self

    @uncompiled
    def decay(self, factor: float) -> NadarayaWatsonSketch:
        """Multiply the weight of all rows learnt so far, so that later rows count for more.

        Parameters
        ----------
        factor : float
            Within (0, 1].

        Returns
        -------
        self : NadarayaWatsonSketch

        Raises
        ------
        ValueError
            If ``factor`` is out of range.
        """
        require_additive(self.correction, "decay")
        if not 0 < factor <= 1:
            raise ValueError(f"factor={factor!r} is out of range: give a number within (0, 1].")
        with self._lock:
            totals = self._state.totals * factor
            totals[-1] = self._state.totals[-1]
            state, privacy = State(self._state.tables * factor, totals), self.privacy
            if privacy is not None:
                privacy = privacy._replace(noise=privacy.noise * factor)
            self.__dict__.update(_state=state, privacy=privacy)
        return self

    def privatize(
        self, epsilon: float, target_bound: float | ArrayLike, *, most_rows: int = MOST_ROWS
    ) -> NadarayaWatsonSketch:
        """Return a copy with noise, which hardly tells whether any one row is in it.

        It is epsilon-differentially private with respect to one added or removed row of weight at most 1:
        the promise rests on the bounds below, and on parameters (the bandwidth among them) and moments of
        every :meth:`decay` that were not chosen by looking at the rows. The copy answers, decays and merges
        with other such copies, of other rows; rows cannot be added to it or forgotten. The noise, drawn
        from the operating system, is smaller the fewer repetitions there are (docs/privacy.md).

        Parameters
        ----------
        epsilon : float
            Positive. What is published of the same rows, several copies too, adds up.
        target_bound : float or array-like of shape (n_outputs,)
            What no target exceeds in magnitude, whatever the rows: not read off them. Answers are clipped
            to it.
        most_rows : int, default=2**23
            More rows were never learnt and forgotten together; known beforehand too. The noise grows with
            it by ``most_rows**2 / 2**52``, 1.6 per cent at the default: sums in floating point are not exact.

        Returns
        -------
        NadarayaWatsonSketch
            Its attribute ``privacy`` holds epsilon, the bounds and the noise. ``n_samples_seen`` is a noisy
            number too: the total weight, rounded.

        Raises
        ------
        ValueError
            If the sketch is corrected or holds noise already, or its sums show that a row weighs more than 1
            or a target exceeds its bound. That they do not show it does not prove that none does.
        """
        require_additive(self.correction, "privatize")
        require_exact(self.privacy, "privatize")
        state, privacy = privatized(
            self._backend.to_host(self._frozen()),
            check_epsilon(epsilon),
            check_target_bound(target_bound, self.n_outputs),
            n_groups=self._rules.groups,
            most_rows=check_integer("most_rows", most_rows, 1),
        )
        private = object.__new__(type(self))
        private.__setstate__(self.__getstate__() | {"_state": state, "privacy": privacy})
        return private

    @uncompiled
    def choose_rounds(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        n_rounds: int | None = None,
        stride: int = 1,
        deviations: ArrayLike | None = None,
        check_input: bool = True,
    ) -> Rounds:
        """Choose the number of rounds of :meth:`correct` by rows held out; the sketch stays as it is.

        Parameters
        ----------
        X, y, sample_weight
            All rows, with the targets that are to be corrected.
        n_rounds : int or None, default=None
            Look at this number alone.
        stride : int, default=1
            With 2 every other round is skipped: half the time, and scores slightly lower.
        deviations : array-like of shape (n_corrected,) or None, default=None
            Standard deviations that R2 refers to; None takes those of ``y``.
        check_input : bool, default=True
            False trusts the input (see :meth:`update`).

        Returns
        -------
        Rounds
            See :class:`nwsketch.correction.Rounds`.

        Raises
        ------
        ValueError
            If the input is not as described, or weighs nothing.
        """
        if n_rounds is not None:
            n_rounds = check_integer("n_rounds", n_rounds, 1)
        stride = check_integer("stride", stride, 1)
        n_targets = np.shape(y)[-1] if np.ndim(y) > 1 else 1
        rows, targets, given = self._rows(X, y, sample_weight, check_input, n_targets)
        targets, given = to_host(targets), to_host(given)
        weights = np.ones(len(targets)) if given is None else given
        if not weights.sum() > 0:
            raise ValueError("The rows weigh nothing: give a positive sample_weight.")
        if deviations is not None and np.shape(deviations) != targets.shape[1:]:
            raise ValueError(
                f"deviations has shape {np.shape(deviations)}: give one per target, ({n_targets},)."
            )
        return choose_rounds(
            self._backend,
            rows,
            targets,
            weights,
            weighted_deviations(targets, given) if deviations is None else np.asarray(deviations),
            n_rounds=n_rounds,
            stride=stride,
            seed=self.random_state,
            n_threads=self._threads(len(targets)),
        )

    @uncompiled
    def correct(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        n_rounds: int,
        inflation: ArrayLike | None = None,
        check_input: bool = True,
    ) -> NadarayaWatsonSketch:
        """Learn rows anew, with a bias correction; what was learnt before is replaced.

        The tables then hold a ridge regression on the buckets (see :mod:`nwsketch.correction`), of the same
        size and read in the same way. It is a solution for all rows at once and no longer a sum:
        :meth:`update`, :meth:`forget`, :meth:`merge`, :meth:`decay` and :meth:`loo_query` raise from then on.

        Parameters
        ----------
        X, y, sample_weight
            All rows (see :meth:`update`).
        n_rounds : int
            Rounds of backfitting; the ridge halves from one to the next.
        inflation : array-like of shape (n_corrected,) or None, default=None
            If given, y has half as many columns as the sketch has outputs, and the other half learns
            the squares of what the correction leaves over, times this factor.
        check_input : bool, default=True
            False trusts the input (see :meth:`update`).

        Returns
        -------
        self : NadarayaWatsonSketch

        Raises
        ------
        ValueError
            If the input is not as described, weighs nothing, or the aggregation is ``"median_of_means"``.
        """
        require_exact(self.privacy, "correct")
        n_rounds = check_integer("n_rounds", n_rounds, 1)
        if self._rules.aggregation != "mean":
            raise ValueError(
                "A bias correction needs aggregation='mean', as its repetitions are not independent: call "
                "answer_by('mean') first."
            )
        n_corrected = self.n_outputs if inflation is None else self.n_outputs // 2
        factors = None if inflation is None else np.asarray(inflation, dtype=np.float64)
        if factors is not None and (
            factors.shape != (self.n_outputs / 2,) or not (np.isfinite(factors) & (factors >= 0)).all()
        ):
            raise ValueError(
                f"inflation={inflation!r} does not fit: give one finite, non-negative number for each of the "
                f"targets, which are half of the sketch's {self.n_outputs} outputs, or None."
            )
        rows, targets, given = self._rows(X, y, sample_weight, check_input, n_corrected)
        targets, weights = to_host(targets), np.ones(len(targets)) if given is None else to_host(given)
        if not weights.sum() > 0:
            raise ValueError("The rows weigh nothing: give a positive sample_weight.")
        check_sums(targets, weights, 0.0)
        state, correction = corrected(
            self._backend,
            self._backend.hashed(rows, self._threads(len(targets))),
            targets,
            weights,
            n_outputs=self.n_outputs,
            n_rounds=n_rounds,
            inflation=factors,
        )
        with self._lock, changing(self._backend):
            self._state, self.correction = state, correction
        return self

    # -- answering ----------------------------------------------------------------------------

    def answer_by(
        self,
        aggregation: Literal["mean", "median_of_means"],
        n_groups: int = N_GROUPS,
        empty: Literal["mean", "nan"] | float = "mean",
    ) -> NadarayaWatsonSketch:
        """Choose how answers are formed; what has been learnt does not depend on it.

        Parameters
        ----------
        aggregation, n_groups, empty
            See :class:`NadarayaWatsonSketch`.

        Returns
        -------
        self : NadarayaWatsonSketch

        Raises
        ------
        ValueError
            If a choice is unknown, or the groups would be of unequal size.
        """
        if aggregation == "median_of_means":
            require_additive(self.correction, "median_of_means")
        self._rules: Rules = self._backend.rules(
            aggregation,
            check_integer("n_groups", n_groups, 1),
            empty,
            self.n_repetitions,
            self.n_buckets if self.plan.rehashed else None,
        )
        return self

    @uncompiled
    def query(
        self, X: Any, *, empty: Literal["mean", "nan"] | float | None = None, check_input: bool = True
    ) -> Array:
        """Estimate the Nadaraya-Watson regression.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        empty : {"mean", "nan"}, float or None, default=None
            Answers this time where no rows are near; None as :meth:`answer_by` was told.
        check_input : bool, default=True
            False trusts ``X`` (see :meth:`update`).

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), float64
        """
        rows = self._queries(X, check_input)
        return like(_kind(X), ask(self, lambda learnt: self._regress(learnt, rows, None, empty)))

    @uncompiled
    def kernel_sum(self, X: Any, *, check_input: bool = True) -> Array:
        """Estimate sum_i w_i k(x_i, q), unbiased under ``"mean"`` (so it may be negative by chance).

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        check_input : bool, default=True
            False trusts ``X`` (see :meth:`update`).

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        return like(_kind(X), self._kernel_sums(X, check_input)[:, -1])

    @uncompiled
    def channel_sums(self, X: Any, *, check_input: bool = True) -> Array:
        """Estimate sum_i w_i y_i k(x_i, q) for every output, and sum_i w_i k(x_i, q).

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        check_input : bool, default=True
            False trusts ``X`` (see :meth:`update`).

        Returns
        -------
        ndarray of shape (n_samples, n_outputs + 1), float64
            The means over all repetitions, which are unbiased, or the medians over groups of such means.
        """
        require_additive(self.correction, "channel_sums")
        return like(_kind(X), self._kernel_sums(X, check_input))

    @uncompiled
    def standard_error(self, X: Any, *, check_input: bool = True) -> Array:
        """Estimate how far :meth:`query` lies from what infinitely many repetitions would answer.

        The repetitions are cut into groups, and the spread of the groups' answers tells the error of
        the answer of all; 0 where the answer is what ``empty`` says.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        check_input : bool, default=True
            False trusts ``X`` (see :meth:`update`).

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), float64
            One standard deviation; NaN if there is but one repetition. That of the mean, also under
            ``aggregation="median_of_means"``.

        Raises
        ------
        ValueError
            If the sketch is corrected: its repetitions are not independent.
        """
        require_additive(self.correction, "standard_error")
        rows = self._queries(X, check_input)
        n_units, rest = divmod(self.n_repetitions, self.plan.parameters.repetitions_together)
        # Groups that cut through repetitions drawn together would seem to agree more than they do.
        n_groups = divisor_from(self.n_repetitions if rest or n_units == 1 else n_units, GROUPS_OF_ERRORS)
        step = max(SUMS_OF_ERRORS // (n_groups * (self.n_outputs + 1)), 1)
        n_threads = self._threads(rows.shape[0])

        def errors(learnt: Learnt) -> Array:
            parts = []
            for start in range(0, rows.shape[0], step):
                some = rows[start : start + step]
                sums, squares = learnt.backend.sums(learnt.state, some, n_groups, None, n_threads)
                parts.append(learnt.rules.standard_errors(sums, squares, learnt.state))
            return joined(parts, (0, self.n_outputs))

        return like(_kind(X), ask(self, errors))

    @uncompiled
    def loo_query(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        empty: Literal["mean", "nan"] | float | None = None,
        check_input: bool = True,
    ) -> Array:
        """Predict every row as if it alone had not been learnt, without learning anew.

        A row sits in its own bucket of every repetition: its share is taken off there and from
        the totals, which leaves exactly the sketch of the other rows.

        Parameters
        ----------
        X, y, sample_weight
            Rows that were learnt, with the weights that they have by now (see :meth:`forget`).
        empty : {"mean", "nan"}, float or None, default=None
            See :meth:`query`.
        check_input : bool, default=True
            False trusts the input (see :meth:`update`).

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), float64
        """
        require_additive(self.correction, "Leaving one out")
        require_exact(self.privacy, "Leaving one out")
        rows, targets, weights = self._rows(X, y, sample_weight, check_input)

        def answer(learnt: Learnt) -> Array:
            return self._regress(learnt, rows, learnt.backend.values(targets, weights), empty)

        return like(_kind(X), ask(self, answer))

    @contextmanager
    def paused(self) -> Iterator[NadarayaWatsonSketch]:
        """Let other threads that would learn wait while a with block asks: its answers are of one state.

        Yields
        ------
        NadarayaWatsonSketch
            This sketch. What the block itself learns is learnt at once.
        """
        with self._lock:
            yield self

    # -- within -------------------------------------------------------------------------------

    def _start(self) -> None:
        """Make what is not kept when the sketch is pickled: the backend and the lock."""
        self._backend = get_backend(self.backend, self.device, self.plan)
        self._is_open = getattr(self, "_is_open", self.backend == "auto" and self.device is None)
        self._lock = RLock()
        _sketches.add(self)

    def _regress(self, learnt: Learnt, X: Any, own: Array | None, empty: Any) -> Array:
        backend, state, rules, correction, privacy = learnt
        rules = rules if empty is None else replace(rules, empty=empty)
        sums, squares = backend.sums(state, X, rules.groups, own, self._threads(X.shape[0]))
        if correction is not None:
            return like(sums, correction.offset) + sums[:, 0, :-1] / self.n_repetitions
        totals = state.channel_totals if own is None else state.channel_totals - own
        answers = rules.regress(sums, squares, totals, state)
        return answers if privacy is None else privacy.within_bounds(answers, rules.empty)

    def _kernel_sums(self, X: Any, check_input: bool) -> Array:
        X = self._queries(X, check_input)

        def answer(learnt: Learnt) -> Array:
            backend, state, rules, *_ = learnt
            sums, _ = backend.sums(state, X, rules.groups, None, self._threads(X.shape[0]))
            return rules.kernel_sums(sums, state.channel_totals)

        return ask(self, answer)

    def _frozen(self) -> State:
        """Return what has been learnt so far; later rows are added to a copy."""
        with self._lock:
            return self._backend.frozen(self._state)

    def _threads(self, n_rows: int) -> int:
        return 1 if n_rows * self.n_repetitions <= FEW_CODES else count_threads(self.n_jobs)

    def _rows(
        self, X: Any, y: Any, sample_weight: Any, check_input: bool, n_targets: int | None = None
    ) -> tuple[Any, Any, Any]:
        """Validate rows that are learnt, forgotten or left out."""
        self._settle(X)
        n_outputs, before = n_targets, 0.0  # a correction has targets of its own and adds to nothing
        if n_outputs is None:
            n_outputs, before = self.n_outputs, self._state.totals[-2]
        return self._border.rows(
            self._backend,
            X,
            y,
            sample_weight,
            n_outputs=n_outputs,
            weight_before=before,
            check_input=check_input,
        )

    def _queries(self, X: Any, check_input: bool) -> Any:
        """Validate rows that are asked about."""
        self._settle(X)
        return self._border.queries(self._backend, X, check_input)

    def _settle(self, X: Any) -> None:
        """Let the first rows choose the backend, if the user does not."""
        if not self._is_open:
            return
        with self._lock:
            if self._is_open and is_tensor(X):
                self._move("torch", str(X.device))
            self._is_open = False

    @uncompiled
    def to(self, device: Any, backend: str = "auto") -> Self:
        """Move what has been learnt to another device, or another backend.

        Parameters
        ----------
        device : str or torch.device
            "cpu", "cuda" or "cuda:<number>".
        backend : {"auto", "numba", "torch"}, default="auto"
            "auto" takes numba on the CPU and torch elsewhere.

        Returns
        -------
        self : NadarayaWatsonSketch

        Raises
        ------
        ValueError
            If the device is not there, or not one of the backend's.
        """
        with self._lock:
            self._move(backend, str(device))
            self._is_open = False
        return self

    def _move(self, backend: str, device: str) -> None:
        chosen = get_backend(backend, device, self.plan)
        state = chosen.from_host(self._backend.to_host(self._state))
        if self._backend.is_shared(self._state):
            state = chosen.frozen(state)  # of the same arrays, if both compute on the host
        rules = chosen.rules(*astuple(self._rules))
        with self._lock, changing(self._backend):
            self._state, self._rules, self._backend, self.backend, self.device = (
                state,
                rules,
                chosen,
                backend,
                device,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the backend, which is made anew from the plan, and the lock."""
        with self._lock:
            kept = {name: value for name, value in self.__dict__.items() if name not in ("_backend", "_lock")}
            kept["_state"] = self._backend.to_host(self._frozen())
            kept["_rules"] = Rules(*astuple(self._rules))
        return kept

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Restore, and make the backend and the lock anew: on the CPU if the device is not there."""
        self.__dict__.update(attributes)
        try:
            self._start()
        except (ImportError, ValueError):
            self.backend, self.device = "auto", "cpu"
            self._start()
        self._state = self._backend.from_host(self._state)
        self._rules = self._backend.rules(*astuple(self._rules))

    # -- files --------------------------------------------------------------------------------

    def _file_values(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return sketch_values(self.__getstate__())

    @classmethod
    def _from_file(
        cls, values: dict[str, Any], arrays: dict[str, Any], kernel: HashFamily | None, device: str | None
    ) -> Self:
        state = sketch_state(values, arrays, kernel, MAX_TABLE_BYTES)
        if device is not None:
            state |= {"backend": "auto", "device": "cpu"}
        sketch = cls.__new__(cls)
        sketch.__setstate__(state)
        return sketch

    @staticmethod
    def _most_table_bytes() -> int:
        return MAX_TABLE_BYTES

    def __copy__(self) -> NadarayaWatsonSketch:
        """Copy the tables too: rows are added to them in place."""
        return deepcopy(self)
