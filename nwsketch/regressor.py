"""NadarayaWatsonSketchRegressor: the scikit-learn contract around the sketch, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import copy, deepcopy
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from nwsketch._sklearn import Interval, StrOptions, fit_context
from nwsketch.backends.threads import count_threads
from nwsketch.bandwidth import resolve_bandwidth, weighted_deviations
from nwsketch.bandwidth_search import MOST_REPETITIONS, loo_score, search_bandwidth
from nwsketch.correction import require_additive
from nwsketch.estimator_files import estimator_from_values, estimator_values
from nwsketch.half_life import Clock, power_of_half, require_no_age
from nwsketch.hashing import HashFamily, get_family
from nwsketch.merging import (
    require_same_channels,
    require_same_names,
    require_same_parameters,
    require_same_trend,
)
from nwsketch.privacy import MOST_ROWS, require_exact, require_sums_alone
from nwsketch.progress import progress_bar
from nwsketch.sketch import N_BUCKETS, N_GROUPS, N_REPETITIONS, NadarayaWatsonSketch
from nwsketch.storage import Storable
from nwsketch.tensors import is_tensor, like, to_host, uncompiled
from nwsketch.trend import LinearTrend, fit_trend
from nwsketch.uncertainty import Uncertainty, tell_apart
from nwsketch.validation import checks_values, unchanged_on_error, validate_queries, validate_rows


def empty_of_sketch(
    fill: Literal["mean", "nan"] | float, trend: LinearTrend | None
) -> Literal["mean", "nan"] | float:
    """Return what the sketch answers without rows: a number must not have the trend added."""
    return fill if isinstance(fill, str) or trend is None else "nan"


class NadarayaWatsonSketchRegressor(Storable, MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Nadaraya-Watson kernel regression by locality-sensitive-hash sketches.

    Learns in O(n_samples) and predicts in time and memory that do not depend on the number of rows
    learnt; learns from streams, forgets rows and merges with sketches made elsewhere. Predictions
    approach those of :class:`~nwsketch.NadarayaWatsonRegressor` with the same kernel and bandwidth
    as ``1 / sqrt(n_repetitions)``. Parameters that are set on a fitted estimator count from the next
    :meth:`fit` on.

    Parameters
    ----------
    kernel : {"laplacian", "l2", "l1", "angular", "jaccard"} or HashFamily, default="laplacian"
        The kernel, by its hash family; or the name or an instance of a family of your own
        (:mod:`nwsketch.hashing`).
    bandwidth : {"scale", "loo", "loo_per_feature"}, float or array-like of shape (n_features,), \
default="scale"
        Widths that the features are divided by. ``"scale"`` derives them from the standard
        deviations of the features alone (see :func:`~nwsketch.bandwidth.scale_bandwidth`). ``"loo"``
        multiplies these by the one number that does best on rows left out. ``"loo_per_feature"`` learns the
        proportions between the features too, and mostly predicts far better. On a stream the first
        batch decides. ``"loo_per_feature"`` refuses sparse rows of more than 2,000 features. "angular" and
        "jaccard" have no bandwidth: these three are ignored and a number raises.
    bias_correction : int, "auto" or None, default=None
        Rounds of a correction that turns the smoother into ridge regression with the sketch's kernel
        (see :mod:`nwsketch.correction`): size and time to predict stay, the error falls.
        ``"auto"`` chooses the number on held-out rows. Needs all rows in one call of :meth:`fit`, and
        ``aggregation="mean"``. As in any ridge regression the scale of ``sample_weight`` counts: weight 2 is
        a row given twice, and rows that weigh next to nothing teach next to nothing.
    trend : {"linear"} or None, default=None
        ``"linear"`` learns what a linear regression leaves over. Its coefficients are those of the first
        batch of a stream.
    uncertainty : bool, default=False
        Whether to learn the spread of the targets too, for ``predict(X, return_std=True)``: one more sum
        per bucket and output. Targets far from zero compared with their spread lose digits in the squares:
        subtract their mean first, or use a trend.
    half_life : float or None, default=None
        Number of rows after which a row counts half as much as the newest one, for functions that change.
        The order of the rows counts then, and each ages those before it, whatever it weighs; any split of
        them into calls does not. None lets all rows count alike.
    hashes_per_repetition : int, default=1
        Elementary hashes joined into one code: the kernel is raised to this power.
    n_repetitions : int, default=1024
        Number of tables. Time and memory grow with it, the error falls as its square root.
    n_buckets : int or None, default=2048
        Width of each table; codes beyond are rehashed. None keeps every code of a kernel that has
        boundedly many.
    aggregation : {"mean", "median_of_means"}, default="mean"
        Ratio of the means over all repetitions, or the median of such ratios over ``n_groups``
        groups, whose failure probability falls exponentially in the number of groups.
    n_groups : int, default=8
        Groups of ``"median_of_means"``; must divide ``n_repetitions``. "angular" and "l2" draw eight
        repetitions together from eight features on: groups of a multiple of eight are independent.
    empty : {"mean", "nan"} or float, default="mean"
        Prediction where no learnt row is near: the weighted mean of all targets, NaN or a number. A
        corrected fit has no such place: without rows near it tends to the mean (and trend) by itself.
    backend : {"auto", "numba", "torch"}, default="auto"
        What computes. "auto" takes torch if X is a tensor, on its device, else numba; with a device other
        than "cpu" it takes torch.
    device : str or None, default=None
        Where it computes: "cpu" or, by torch, "cuda" or "cuda:<number>". None leaves it to the backend: torch
        takes a GPU if there is one.
    n_jobs : int or None, default=None
        Number of threads. None means all cores that numba may use, or one inside a joblib worker;
        -1 means all.
    verbose : int, default=0
        1 shows a progress bar while rows are added, if that takes long (needs tqdm, the extra ``progress``);
        not of the search for a bandwidth, nor of bias correction.
    random_state : int, RandomState instance or None, default=None
        Draws the hashes. Sketches that are to be merged need the same integer.

    Attributes
    ----------
    sketch_ : NadarayaWatsonSketch
        What has been learnt. With a half-life its weights are in a unit of their own, which grows with
        the stream (:mod:`nwsketch.half_life`).
    bandwidth_ : ndarray of shape (n_features,) or None
        The bandwidths in use; None for kernels without.
    bandwidth_path_ : BandwidthPath
        What ``"loo"`` or ``"loo_per_feature"`` tried: bandwidths, scores, descent.
    loo_score_ : float
        After ``"loo"`` or ``"loo_per_feature"``: R2 of rows left out, the mean over the outputs. Without
        bias correction it is the sketch's exact leave-one-out score (of at most 3,000 rows); with it that of
        held-out rows, as leaving out by subtraction is not possible then. Later rows do not change it.
    n_rounds_ : int or None
        Rounds of the bias correction.
    trend_ : LinearTrend or None
        The trend's coefficients.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had string column names.
    n_samples_seen_ : int
        Number of rows added minus number of rows forgotten.

    See Also
    --------
    NadarayaWatsonRegressor : The exact estimator, for small data.

    Notes
    -----
    A fitted estimator may be shared by threads, as its sketch may (see
    :class:`~nwsketch.NadarayaWatsonSketch`): while some learn by :meth:`partial_fit`, :meth:`forget` or
    :meth:`merge`, every answer of the others is that of one complete state. :meth:`fit`, which starts anew,
    is for one thread alone. An error, or an interrupt, leaves what was learnt before the call or all that it
    taught.

    References
    ----------
    .. [1] S. Daghaghi, B. Coleman, G. Geordie, A. Shrivastava, "Adaptive Sampling for Deep Learning
       via Efficient Nonparametric Proxies", arXiv:2311.13583, section 3.
    .. [2] E. A. Nadaraya, "On Estimating Regression", Theory of Probability & Its Applications 9(1),
       1964; G. S. Watson, "Smooth Regression Analysis", Sankhya A 26(4), 1964.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from nwsketch import NadarayaWatsonSketchRegressor
    >>> X, y = make_friedman1(n_samples=5000, n_features=5, random_state=0)
    >>> model = NadarayaWatsonSketchRegressor(random_state=0).fit(X[:4000], y[:4000])
    >>> model.score(X[4000:], y[4000:]) > 0.6
    True
    """

    _file_kind: ClassVar[str] = "regressor"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "kernel": [str, HashFamily],
        "bandwidth": [
            StrOptions({"scale", "loo", "loo_per_feature"}),
            Interval(Real, 0, None, closed="neither"),
            "array-like",
        ],
        "bias_correction": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left"), None],
        "trend": [StrOptions({"linear"}), None],
        "uncertainty": ["boolean"],
        "half_life": [Interval(Real, 0, None, closed="neither"), None],
        "hashes_per_repetition": [Interval(Integral, 1, None, closed="left")],
        "n_repetitions": [Interval(Integral, 1, None, closed="left")],
        "n_buckets": [Interval(Integral, 2, None, closed="left"), None],
        "aggregation": [StrOptions({"mean", "median_of_means"})],
        "n_groups": [Interval(Integral, 1, None, closed="left")],
        "empty": [StrOptions({"mean", "nan"}), Interval(Real, None, None, closed="neither")],
        "backend": [StrOptions({"auto", "numba", "torch"})],
        "device": [str, None],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        kernel: str | HashFamily = "laplacian",
        bandwidth: Literal["scale", "loo", "loo_per_feature"] | float | ArrayLike = "scale",
        bias_correction: int | Literal["auto"] | None = None,
        trend: Literal["linear"] | None = None,
        uncertainty: bool = False,
        half_life: float | None = None,
        hashes_per_repetition: int = 1,
        n_repetitions: int = N_REPETITIONS,
        n_buckets: int | None = N_BUCKETS,
        aggregation: Literal["mean", "median_of_means"] = "mean",
        n_groups: int = N_GROUPS,
        empty: Literal["mean", "nan"] | float = "mean",
        backend: str = "auto",
        device: str | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.bias_correction = bias_correction
        self.trend = trend
        self.uncertainty = uncertainty
        self.half_life = half_life
        self.hashes_per_repetition = hashes_per_repetition
        self.n_repetitions = n_repetitions
        self.n_buckets = n_buckets
        self.aggregation = aggregation
        self.n_groups = n_groups
        self.empty = empty
        self.backend = backend
        self.device = device
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.random_state = random_state

    # -- learning -----------------------------------------------------------------------------

    @uncompiled
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn rows, starting anew.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite; float32 and float64 are kept. Sparse input is used as CSR, never densified.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Finite targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Finite, not negative, not all zero; None means 1. Weight 2 learns as a row given twice does; what
            is chosen by leaving rows out (a bandwidth, rounds, a trend's ridge) may differ, as a row is left
            out with all of its weight.

        Returns
        -------
        self : NadarayaWatsonSketchRegressor

        Raises
        ------
        ValueError
            If input or parameters are not as described; what was learnt before is kept then.
        """
        with unchanged_on_error(self):
            self._has_moments, self._place = self.uncertainty, (self.backend, self.device)
            if is_tensor(X) and self._place == ("auto", None):
                self._place = "torch", str(X.device)
            on_host = self._works_on_host(self.trend) or self._searches()
            rows = self._validate(X, y, sample_weight, reset=True, tensors=not on_host)
            return self._start(*rows)

    def _takes_batches(self) -> bool:
        """Return whether there is a ``partial_fit``; if not, tell why."""
        if self.bias_correction is not None:
            raise AttributeError(
                f"bias_correction={self.bias_correction!r} needs all rows at once: call fit, or set "
                "bias_correction=None."
            )
        return True

    @available_if(_takes_batches)
    @uncompiled
    def partial_fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn more rows. There is no such method while ``bias_correction`` is set.

        With a numeric bandwidth and without a trend, any split of the rows into calls leaves the same bits
        in the tables as one call of :meth:`fit`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            As in :meth:`fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            As many outputs as before.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            As in :meth:`fit`; after the first call they may all be zero.

        Returns
        -------
        self : NadarayaWatsonSketchRegressor

        Raises
        ------
        ValueError
            If input or parameters are not as described; what was learnt before is kept then.
        """
        if not self._is_fitted():
            return self.fit(X, y, sample_weight)
        require_additive(self.sketch_.correction, "partial_fit")
        require_exact(self.sketch_.privacy, "partial_fit")
        X, targets, weights = self._validate(X, y, sample_weight, reset=False)
        channels = self._channels(self._without_trend(X, targets))
        with self._held(), progress_bar(self.verbose, X.shape[0]) as progress:
            sketch, clock = self._wound_up(X.shape[0])
            if clock is not None:
                weights = clock.of_new(sketch.n_samples_seen, X, weights)
            sketch.update(X, channels, weights, check_input=checks_values(X), progress=progress)
            self.__dict__.update(sketch_=sketch, _clock=clock)
        return self

    @uncompiled
    def forget(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        age: ArrayLike | None = None,
    ) -> Self:
        """Take learnt rows away again.

        Parameters
        ----------
        X, y, sample_weight
            The rows as they were learnt (see :meth:`fit`).
        age : float or array-like of shape (n_samples,), or None, default=None
            With ``half_life``, and only then: how many rows were learnt after each of them, forgotten ones
            included; 0 for the newest. It tells what is left of a row's weight.

        Returns
        -------
        self : NadarayaWatsonSketchRegressor

        Raises
        ------
        ValueError
            If these rows cannot have been learnt: a bucket would hold less than nothing. Nothing
            changes then.
        """
        check_is_fitted(self)
        X, targets, weights = self._validate(X, y, sample_weight, reset=False)
        channels = self._channels(self._without_trend(X, targets))
        with self._held():
            weights = self._aged(X, weights, age)
            if self._clock is None:
                self.sketch_.forget(X, channels, weights, check_input=checks_values(X))
                return self
            sketch = copy(self.sketch_).forget(X, channels, weights, check_input=checks_values(X))
            self.__dict__.update(sketch_=sketch, _clock=self._clock.forgot(X.shape[0]))
        return self

    @uncompiled
    def merge(self, other: NadarayaWatsonSketchRegressor) -> Self:
        """Learn all that another regressor has learnt.

        With ``half_life`` the newest rows of both count as equally new.

        Parameters
        ----------
        other : NadarayaWatsonSketchRegressor
            Fitted, with the same parameters, bandwidth and integer random_state; not changed.

        Returns
        -------
        self : NadarayaWatsonSketchRegressor
            An unfitted one becomes as the other, but keeps its own ``aggregation``, ``n_groups``,
            ``empty`` and ``n_jobs``.

        Raises
        ------
        ValueError
            If the two hash differently; the message names the parameter.
        """
        check_is_fitted(other)
        if not self._is_fitted():
            require_same_parameters(self, other)
            count_threads(self.n_jobs)
            learnt = {
                name: value for name, value in dict(vars(other)).items() if name not in other.get_params()
            }
            learnt = deepcopy(learnt) | {"_fill": self.empty}
            learnt["sketch_"].answer_by(
                self.aggregation, self.n_groups, empty_of_sketch(self.empty, learnt["trend_"])
            )
            learnt["sketch_"].n_jobs = self.n_jobs
            self.__dict__.update(learnt)
            return self
        require_same_names(self, other)
        require_same_channels(self, other)
        require_same_trend(self.trend_, other.trend_)
        self._finds_bandwidth |= other._finds_bandwidth
        if self._clock is None or other._clock is None:  # which then is None too
            self.sketch_.merge(other.sketch_)
            return self
        with other._held() as theirs:
            their_clock, theirs = other._clock, copy(theirs)
        with self._held() as mine:
            sketch, clock = self._clock.merged(mine, theirs, their_clock)
            self.__dict__.update(sketch_=sketch, _clock=clock)
        return self

    def privatize(
        self, epsilon: float, target_bound: float | ArrayLike, *, most_rows: int = MOST_ROWS
    ) -> Self:
        """Return a copy with noise, which hardly tells whether any one row is in it.

        Epsilon-differential privacy of one added or removed row of weight at most 1. The copy predicts and
        merges with such copies of other rows, and does not learn; :meth:`NadarayaWatsonSketch.privatize` and
        docs/privacy.md tell what the promise rests on, and which size to fit with: few repetitions,
        as the noise grows with them. Scalers and the like before the estimator are not part of it.

        Parameters
        ----------
        epsilon : float
            Positive. What is published of the same rows, several copies too, adds up.
        target_bound : float or array-like of shape (n_outputs,)
            What no target exceeds in magnitude, whatever the rows: not read off them. Predictions are clipped
            to it.
        most_rows : int, default=2**23
            More rows were never learnt and forgotten together; known beforehand too.

        Returns
        -------
        NadarayaWatsonSketchRegressor
            ``n_samples_seen_`` is a noisy number: the total weight, rounded.

        Raises
        ------
        ValueError
            If anything but sums was learnt from the rows: a bandwidth that is not numeric (the kernel having
            one), a trend, a correction, uncertainty; with a half-life, as a row changes the weights of all
            before it; or if the sums break a bound.
        """
        check_is_fitted(self)
        require_sums_alone(
            bandwidth=self._finds_bandwidth,
            trend=self.trend_ is not None,
            uncertainty=self._has_moments,
            half_life=self._clock is not None,
        )
        private = self.sketch_.privatize(epsilon, target_bound, most_rows=most_rows)
        learnt = {name: value for name, value in vars(self).items() if name != "sketch_"}
        twin = object.__new__(type(self))
        twin.__dict__.update(deepcopy(learnt), sketch_=private)
        return twin

    # -- answering ----------------------------------------------------------------------------

    @overload
    def predict(self, X: Any, return_std: Literal[False] = False) -> NDArray[np.float64]: ...

    @overload
    def predict(
        self, X: Any, return_std: Literal[True]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...

    @uncompiled
    def predict(
        self, X: Any, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predict targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Queries.
        return_std : bool, default=False
            Whether to return standard deviations too; needs ``uncertainty=True``.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
            As y was given to :meth:`fit`.
        std : ndarray of the same shape
            If asked for: of a new target about the prediction, in units of the target. The root of the sum
            of squares of both parts of :meth:`predict_uncertainty`.

        Raises
        ------
        ValueError
            If standard deviations are asked for and were not learnt.
        """
        check_is_fitted(self)
        rows = validate_queries(self, X, tensors=not (return_std or self._works_on_host(self.trend_)))
        with self.sketch_.paused() if return_std else nullcontext():  # which asks several times
            answers = self.sketch_.query(rows, check_input=checks_values(rows))
            parts = self._uncertainty(rows, answers) if return_std else None
        predictions = like(X, self._shaped(self._with_trend(rows, answers[:, : self._n_targets])))
        if parts is None:
            return predictions
        return predictions, like(X, np.hypot(np.nan_to_num(parts.sketch), parts.target))

    @uncompiled
    def predict_uncertainty(self, X: Any) -> Uncertainty:
        """Tell what the error of a prediction is made of.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Queries.

        Returns
        -------
        Uncertainty
            ``sketch``, the spread over the repetitions, which falls as ``1 / sqrt(n_repetitions)``, and
            ``target``, the spread of the targets near the query: the root of their weighted second
            moment less the squared prediction, or, with bias correction, the root of the squared
            residuals as two rounds of correction predict them, enlarged as held-out residuals exceeded those
            of learnt rows.

        Raises
        ------
        ValueError
            If it was not learnt: fit with ``uncertainty=True``.
        """
        check_is_fitted(self)
        rows = validate_queries(self, X)
        with self.sketch_.paused():
            parts = self._uncertainty(rows, self.sketch_.query(rows, check_input=False))
        return Uncertainty(*(like(X, part) for part in parts))

    @uncompiled
    def kernel_sum(self, X: Any) -> NDArray[np.float64]:
        """Estimate sum_i w_i k(x_i, q) over the learnt rows: an unnormalised density.

        With ``half_life`` the weights are those that the rows have by now.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Queries q.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            Unbiased under ``aggregation="mean"``; may be slightly negative by chance.
        """
        check_is_fitted(self)
        X = validate_queries(self, X, tensors=True)
        if self._clock is None:
            return self.sketch_.kernel_sum(X, check_input=checks_values(X))
        with self._held() as sketch:
            sums = sketch.kernel_sum(X, check_input=checks_values(X))
            return sums / self._clock.unit(sketch.n_samples_seen)

    @uncompiled
    def loo_predict(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        age: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Predict every learnt row from all the others, without refitting.

        Parameters
        ----------
        X, y, sample_weight, age
            Rows that were learnt, as they were learnt, and their ages (see :meth:`forget`).

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
            Exactly what a sketch of the same hashes (and trend) that never saw the row would predict for it.

        Raises
        ------
        ValueError
            If the fit is corrected: every table entry depends on the row's target then.
        """
        check_is_fitted(self)
        rows, targets, weights = self._validate(X, y, sample_weight, reset=False)
        channels = self._channels(self._without_trend(rows, targets))
        weights = self._aged(rows, weights, age)
        answers = self.sketch_.loo_query(rows, channels, weights, check_input=checks_values(rows))
        return like(X, self._shaped(self._with_trend(rows, answers[:, : self._n_targets])))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R2 of the predictions.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None

        Returns
        -------
        float
        """
        from sklearn.metrics import r2_score  # here, as it takes a while

        predictions = to_host(self.predict(X))
        return float(r2_score(to_host(y), predictions, sample_weight=to_host(sample_weight)))

    @uncompiled
    def to(self, device: Any, backend: str = "auto") -> Self:
        """Move what has been learnt to another device; parameters stay as they are.

        Parameters
        ----------
        device : str or torch.device
            "cpu", "cuda" or "cuda:<number>".
        backend : {"auto", "numba", "torch"}, default="auto"
            "auto" takes numba on the CPU and torch elsewhere.

        Returns
        -------
        self : NadarayaWatsonSketchRegressor

        Raises
        ------
        ValueError
            If the device is not there, or not one of the backend's.
        """
        check_is_fitted(self)
        self.sketch_.to(device, backend)
        return self

    @property
    def n_samples_seen_(self) -> int:
        """Number of rows added minus number of rows forgotten."""
        return self.sketch_.n_samples_seen

    # -- within -------------------------------------------------------------------------------

    def _start(self, X: Any, targets: Any, weights: Any) -> Self:
        """Make a sketch, learn the rows, and only then replace what was learnt before."""
        if checks_values(X) and (weights is not None or isinstance(self.bandwidth, str)):
            from nwsketch.torch_inputs import check_values

            check_values(X, targets, weights)  # which the next lines compute with
        clock = None if self.half_life is None else Clock(float(self.half_life))
        learnt_weights = weights
        if clock is not None:
            clock = clock.halved(clock.halvings(0, X.shape[0]))
            learnt_weights = clock.of_new(0, X, weights)
            weights = learnt_weights / clock.unit(X.shape[0])  # whatever is learnt but sums: the newest is 1
        if weights is not None and not weights.sum() > 0:
            raise ValueError("sample_weight sums to zero: there is nothing to learn. Give a positive weight.")
        if isinstance(self.bias_correction, bool):
            raise ValueError(
                f"bias_correction={self.bias_correction} is neither a number of rounds nor None: give 'auto' "
                "to correct, None not to."
            )
        if self.bias_correction is not None and self.aggregation != "mean":
            raise ValueError(
                f"bias_correction={self.bias_correction!r} needs aggregation='mean', as its repetitions are "
                f"not independent, but aggregation={self.aggregation!r} was given."
            )
        family = get_family(self.kernel)
        if not family.takes_bandwidth and not isinstance(self.bandwidth, str):
            raise ValueError(
                f"kernel={family.name!r} has no bandwidth, but bandwidth={self.bandwidth!r} was given: "
                "leave bandwidth='scale', which is ignored."
            )
        for learnt in ("bandwidth_path_", "loo_score_"):
            self.__dict__.pop(learnt, None)
        self._n_targets = targets.shape[1]
        self._drawn_seed = self._seed()
        deviations = partial(weighted_deviations, targets, weights)  # which few fits need
        self.trend_ = fit_trend(X, targets, weights) if self.trend == "linear" else None
        self._fill = self.empty
        left = self._without_trend(X, targets)
        self._finds_bandwidth = family.takes_bandwidth and isinstance(self.bandwidth, str)
        if not family.takes_bandwidth:
            self.bandwidth_ = None
        elif isinstance(self.bandwidth, str) and self.bandwidth != "scale":
            found = search_bandwidth(
                lambda bandwidth: self._make_sketch(family, X.shape[1], bandwidth, searching=True),
                X,
                left,
                weights,
                deviations=deviations(),
                distance="euclidean" if family.distance == "euclidean" else "cityblock",
                per_feature=self.bandwidth == "loo_per_feature",
                corrected=self.bias_correction is not None,
                n_rounds=None if self.bias_correction == "auto" else self.bias_correction,
                seed=self._drawn_seed,
                n_threads=count_threads(self.n_jobs),
            )
            self.bandwidth_, self.loo_score_, self.bandwidth_path_ = found.bandwidth, found.score, found.path
        else:
            self.bandwidth_ = resolve_bandwidth(self.bandwidth, X, weights, family.distance)
        sketch = self._make_sketch(family, X.shape[1], self.bandwidth_)
        self.n_rounds_: int | None = None
        if self.bias_correction is not None:
            self._correct(sketch, X, left, weights, deviations())
        else:
            channels = self._channels(left)
            with progress_bar(self.verbose, X.shape[0]) as progress:
                sketch.update(X, channels, learnt_weights, check_input=checks_values(X), progress=progress)
            if hasattr(self, "loo_score_"):
                self.loo_score_ = loo_score(sketch, X, channels, learnt_weights, deviations())
        self.sketch_, self._clock = sketch, clock
        return self

    @contextmanager
    def _held(self) -> Iterator[NadarayaWatsonSketch]:
        """Keep sketch and clock as they are while a with block uses both; it may replace them."""
        while True:
            with self.sketch_.paused() as sketch:
                if sketch is self.sketch_:  # which another thread may have replaced meanwhile
                    yield sketch
                    return

    def _wound_up(self, n_new: int) -> tuple[NadarayaWatsonSketch, Clock | None]:
        """Return sketch and clock to add rows to: halved copies if the weights would grow out of range."""
        if self._clock is None:
            return self.sketch_, None
        n_halvings = self._clock.halvings(self.n_samples_seen_, n_new)
        if not n_halvings:
            return self.sketch_, self._clock
        return copy(self.sketch_).decay(power_of_half(n_halvings)), self._clock.halved(n_halvings)

    def _aged(self, X: Any, weights: Any, age: ArrayLike | None) -> Any:
        """Return the weights that learnt rows have by now."""
        if self._clock is None:
            require_no_age(age)
            return weights
        return self._clock.of_old(self.n_samples_seen_, X, weights, age)

    def _make_sketch(
        self,
        family: HashFamily,
        n_features: int,
        bandwidth: NDArray[np.float64] | None,
        *,
        searching: bool = False,
    ) -> NadarayaWatsonSketch:
        """Make an empty sketch; one to search with answers every query and has no channel to spare."""
        n_repetitions = self.n_repetitions
        if searching and self.bias_correction is not None:
            n_repetitions = min(n_repetitions, MOST_REPETITIONS)
        return NadarayaWatsonSketch(
            n_features,
            self._n_targets * (2 if self.uncertainty and not searching else 1),
            kernel=family,
            bandwidth=1.0 if bandwidth is None else bandwidth,
            hashes_per_repetition=self.hashes_per_repetition,
            n_repetitions=n_repetitions,
            n_buckets=self.n_buckets,
            aggregation=self.aggregation,
            n_groups=self.n_groups,
            empty="mean" if searching else empty_of_sketch(self._fill, self.trend_),
            backend=self._place[0],
            device=self._place[1],
            n_jobs=self.n_jobs,
            random_state=self._drawn_seed,
        )

    def _correct(
        self,
        sketch: NadarayaWatsonSketch,
        X: Any,
        targets: NDArray[np.float64],
        weights: NDArray[np.float64] | None,
        deviations: NDArray[np.float64],
    ) -> None:
        """Learn all rows with bias correction."""
        inflation = None
        if isinstance(self.bias_correction, Integral) and not self.uncertainty:
            self.n_rounds_ = int(self.bias_correction)
        else:  # rows must be held out, for the number of rounds or for the error that they leave
            n_rounds = None if self.bias_correction == "auto" else self.bias_correction
            rounds = sketch.choose_rounds(
                X, targets, weights, n_rounds=n_rounds, deviations=deviations, check_input=False
            )
            self.n_rounds_ = rounds.n_rounds
            if hasattr(self, "loo_score_"):
                self.loo_score_ = rounds.score
            inflation = rounds.inflation if self.uncertainty else None
        sketch.correct(X, targets, weights, n_rounds=self.n_rounds_, inflation=inflation, check_input=False)

    def _without_trend(self, X: Any, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        return targets if self.trend_ is None else targets - self.trend_.predict(X)

    def _channels(self, left: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what a sketch without bias correction learns: targets less the trend, and their squares."""
        if not self._has_moments:
            return left
        with np.errstate(over="ignore"):  # which the sketch refuses
            return np.hstack([left, left**2])

    def _with_trend(self, X: Any, answers: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.trend_ is None:
            return answers
        answers = answers + self.trend_.predict(X)
        return answers if isinstance(self._fill, str) else np.where(np.isnan(answers), self._fill, answers)

    def _uncertainty(self, X: Any, answers: NDArray[np.float64]) -> Uncertainty:
        if not self._has_moments:
            raise ValueError(
                "The spread of the targets was not learnt: fit with uncertainty=True to have standard "
                "deviations."
            )
        is_number = not isinstance(self._fill, str)
        if is_number and self.sketch_.correction is None:  # it stands for a target, not for a square
            answers = self.sketch_.query(X, empty="mean", check_input=False)
        parts = tell_apart(self.sketch_, X, answers)
        return Uncertainty(*(self._shaped(part) for part in parts))

    def _seed(self) -> int:
        if self.random_state is None:  # of the operating system, not of NumPy's global generator
            return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _is_fitted(self) -> bool:
        return hasattr(self, "sketch_")

    def _searches(self) -> bool:
        """Return whether fitting looks for a bandwidth, or corrects."""
        return self.bias_correction is not None or (
            isinstance(self.bandwidth, str) and self.bandwidth != "scale"
        )

    def _works_on_host(self, trend: Any) -> bool:
        """Return whether a trend or squares are worked with: tensors are brought to the host then."""
        return trend is not None or self._has_moments

    def _validate(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        *,
        reset: bool,
        tensors: bool | None = None,
    ) -> tuple[Any, Any, Any]:
        """Validate rows; targets come back as (n_samples, n_outputs)."""
        tensors = not self._works_on_host(self.trend_) if tensors is None else tensors
        X, targets, weights = validate_rows(self, X, y, sample_weight, reset=reset, tensors=tensors)
        if reset:
            self._flat_targets = targets.ndim == 1
        targets = targets if targets.ndim == 2 else targets.reshape(-1, 1)
        if not reset and targets.shape[1] != self._n_targets:
            raise ValueError(
                f"y has {targets.shape[1]} outputs, but {type(self).__name__} was fitted with "
                f"{self._n_targets}: give as many, or call fit to start anew."
            )
        return X, targets, weights

    def _shaped(self, predictions: NDArray[np.float64]) -> NDArray[np.float64]:
        return predictions.ravel() if self._flat_targets else predictions

    def _file_values(self) -> tuple[dict[str, Any], dict[str, Any]]:
        check_is_fitted(self)
        return estimator_values(self)

    @classmethod
    def _from_file(
        cls, values: dict[str, Any], arrays: dict[str, Any], kernel: HashFamily | None, device: str | None
    ) -> Self:
        return cast(Self, estimator_from_values(cls, values, arrays, kernel, device))

    @staticmethod
    def _most_table_bytes() -> int:
        return NadarayaWatsonSketch._most_table_bytes()

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a sketch."""
        return self._is_fitted()

    def __sklearn_tags__(self) -> Any:
        """Declare sparse input."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
