"""NadarayaWatsonRegressor: the exact estimator, which the sketch approaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from nwsketch._sklearn import Interval, StrOptions, fit_context
from nwsketch.backends.aggregation import fill_empty
from nwsketch.backends.threads import count_threads
from nwsketch.bandwidth import resolve_bandwidth
from nwsketch.exact_tiles import ClosedFormKernel, PairwiseKernel, SklearnKernel, kernel_sums
from nwsketch.hashing import HashFamily, get_family, registered_families
from nwsketch.validation import validate_queries, validate_rows

Array = NDArray[np.float64]

#: Rows made into keys at once; bounds the copies that this takes.
_ROWS_PER_KEY_BLOCK = 1024


class NadarayaWatsonRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Exact Nadaraya-Watson kernel regression.

    Predicts the average of all training targets, weighted by the kernel between the query and
    their rows [1]_ [2]_::

        f(q) = sum_i w_i k(x_i, q) y_i / sum_i w_i k(x_i, q)

    Keeps the training rows; a prediction costs time in proportion to their number, and memory
    beyond them that is bounded whatever the number of rows and queries. The honest choice for
    small data, and the truth that :class:`~nwsketch.NadarayaWatsonSketchRegressor` approaches.

    Parameters
    ----------
    kernel : str, HashFamily or callable, default="laplacian"
        With t the distance between two rows in units of the bandwidth, one of

        - ``"laplacian"``: exp(-t), city-block distance;
        - ``"rbf"``: exp(-t^2 / 2), Euclidean distance;
        - ``"l2"``: erf(1 / (t sqrt 2)) - sqrt(2 / pi) t (1 - exp(-1 / (2 t^2))), Euclidean distance;
        - ``"l1"``: 2 atan(1 / t) / pi - (t / pi) log(1 + 1 / t^2), city-block distance;
        - ``"angular"``: 1 - angle / pi; a zero row is at a right angle to every other row;
        - ``"jaccard"``: size of the intersection of the non-zero columns over the size of their
          union; 1 for two rows without any;
        - an instance of :class:`~nwsketch.hashing.HashFamily`: its collision probability;
        - another name of :func:`sklearn.metrics.pairwise.kernel_metrics`, or a callable that takes
          two rows and returns a number, as in :func:`sklearn.metrics.pairwise.pairwise_kernels`.
          Values should not be negative.
    bandwidth : "scale", float or array-like of shape (n_features,), default="scale"
        Positive widths that the features are divided by. ``"scale"`` derives them from the standard
        deviations of the features (see :func:`~nwsketch.bandwidth.scale_bandwidth`). Kernels other
        than the first four, and families without one, have no bandwidth: ``"scale"`` is ignored
        and a number raises.
    hashes_per_repetition : int, default=1
        The kernel is raised to this power, as by a sketch that joins so many hashes into one code.
    kernel_params : dict or None, default=None
        Parameters of scikit-learn's kernels and of callables.
    empty : {"mean", "nan"} or float, default="mean"
        Prediction for a query whose kernel values all vanish: the weighted mean of all training
        targets, NaN or a number. ``"laplacian"`` and ``"rbf"`` never vanish: their largest value is
        factored out, so that the prediction far from all rows tends to the nearest ones.
    n_jobs : int or None, default=None
        Number of threads; results do not depend on it. None means all cores that numba may use, or
        one inside a joblib worker; -1 means all.

    Attributes
    ----------
    bandwidth_ : ndarray of shape (n_features,) or None
        The bandwidths in use; None for kernels without.
    X_ : ndarray or CSR of shape (n_rows, n_features), float32 or float64
        The training rows of positive weight. Not a copy where none was needed.
    y_ : ndarray of shape (n_rows,) or (n_rows, n_outputs), float64
        Their targets.
    sample_weight_ : ndarray of shape (n_rows,), float64
        Their weights.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had string column names.

    See Also
    --------
    NadarayaWatsonSketchRegressor : Time and memory independent of the number of rows.
    sklearn.neighbors.KNeighborsRegressor : Averages a fixed number of neighbours.

    References
    ----------
    .. [1] E. A. Nadaraya, "On Estimating Regression", Theory of Probability & Its Applications 9(1),
       1964.
    .. [2] G. S. Watson, "Smooth Regression Analysis", Sankhya A 26(4), 1964.

    Examples
    --------
    >>> from nwsketch import NadarayaWatsonRegressor
    >>> X, y = [[0.0], [1.0], [2.0]], [0.0, 1.0, 4.0]
    >>> model = NadarayaWatsonRegressor(kernel="rbf", bandwidth=0.5).fit(X, y)
    >>> model.predict([[1.0], [100.0]]).round(3)
    array([1.213, 4.   ])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "kernel": [str, HashFamily, callable],
        "bandwidth": [StrOptions({"scale"}), Interval(Real, 0, None, closed="neither"), "array-like"],
        "hashes_per_repetition": [Interval(Integral, 1, None, closed="left")],
        "kernel_params": [dict, None],
        "empty": [StrOptions({"mean", "nan"}), Interval(Real, None, None, closed="neither")],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        *,
        kernel: str | HashFamily | Callable[..., float] = "laplacian",
        bandwidth: Literal["scale"] | float | ArrayLike = "scale",
        hashes_per_repetition: int = 1,
        kernel_params: dict[str, Any] | None = None,
        empty: Literal["mean", "nan"] | float = "mean",
        n_jobs: int | None = None,
    ) -> None:
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.hashes_per_repetition = hashes_per_repetition
        self.kernel_params = kernel_params
        self.empty = empty
        self.n_jobs = n_jobs

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Keep the training rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite; float32 and float64 are kept. Sparse input is used as CSR.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Finite targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Finite, not negative, not all zero; None means 1. Weight 2 counts as a row given twice,
            weight 0 as none.

        Returns
        -------
        self : NadarayaWatsonRegressor

        Raises
        ------
        ValueError
            If input or parameters are not as described.
        """
        count_threads(self.n_jobs)
        X, y, weights = self._validate_rows(X, y, sample_weight, reset=True)
        with np.errstate(over="ignore", invalid="ignore"):
            totals = _channels(y, weights).sum(axis=0)
        if not np.isfinite(totals).all():
            raise ValueError(
                "The sums of sample_weight and of sample_weight * y overflow; divide sample_weight, or y, "
                "by a large number."
            )
        if totals[-1] == 0:
            raise ValueError("sample_weight sums to zero, so that no row is left; give a positive weight.")
        counted = weights > 0
        if not counted.all():
            X, y, weights = X[counted], y[counted], weights[counted]
        kernel, bandwidth = self._make_kernel(X, weights)
        _check_range(X, bandwidth)
        self._kernel, self.bandwidth_ = kernel, bandwidth
        self.X_, self.y_, self.sample_weight_ = X, y, weights
        return self

    def predict(self, X: Any) -> Array:
        """Predict targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.

        Returns
        -------
        ndarray of shape (n_queries,) or (n_queries, n_outputs), float64
            As y was given to :meth:`fit`.
        """
        queries = self._validate_queries(X)
        values = _channels(self.y_, self.sample_weight_)
        return self._average(queries, values, values.sum(axis=0))

    def kernel_sum(self, X: Any) -> Array:
        """Return sum_i w_i k(x_i, q) over the training rows: an unnormalised density.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries q.

        Returns
        -------
        ndarray of shape (n_queries,), float64
            Far from all rows it may underflow to 0.
        """
        queries = self._validate_queries(X)
        return self._sum(queries, self.sample_weight_[:, np.newaxis], guarded=False).ravel()

    def loo_predict(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Array:
        """Predict training rows, each as if it had been left out of the fit, at the same bandwidth.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows, all or some.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Their weights; None means 1.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
            Exact leave-one-out predictions: other rows at the same place stay. NaN for
            ``empty="mean"`` if no other row is left.

        Raises
        ------
        ValueError
            If a row with its target and weight is not among those given to :meth:`fit`.
        """
        check_is_fitted(self)
        X, y, weights = self._validate_rows(X, y, sample_weight, reset=False)
        if y.shape[1:] != self.y_.shape[1:]:
            raise ValueError(
                f"y has shape {y.shape}, but {type(self).__name__} was fitted with targets of shape "
                f"{self.y_.shape}; give the targets as they were given to fit."
            )
        _check_range(X, self.bandwidth_)
        own = self._find(X, y, weights)
        values = _channels(self.y_, self.sample_weight_)
        return self._average(X, values, _totals_without_each(values)[own], own)

    def _make_kernel(self, X: Any, weights: Array) -> tuple[PairwiseKernel, Array | None]:
        """Return what ``kernel`` stands for, and the bandwidths that it uses."""
        kernel, power = self.kernel, int(self.hashes_per_repetition)
        closed = {*registered_families(), "rbf"}
        if isinstance(kernel, str) and kernel not in closed:
            from sklearn.metrics.pairwise import kernel_metrics  # here, as it takes a while

            known = closed | set(kernel_metrics())
            if kernel not in known:
                raise ValueError(
                    f"Unknown kernel {kernel!r}; choose one of {sorted(known)}, or pass an instance of "
                    "nwsketch.hashing.HashFamily or a callable."
                )
        if not isinstance(kernel, HashFamily) and (not isinstance(kernel, str) or kernel not in closed):
            self._refuse_bandwidth()
            return SklearnKernel(kernel, power, dict(self.kernel_params or {})), None
        if self.kernel_params:
            raise ValueError(
                f"kernel={kernel!r} takes no kernel_params, but got {self.kernel_params}; leave them out and "
                "give bandwidth, or choose a kernel of scikit-learn or a callable."
            )
        if kernel == "rbf":
            bandwidth = resolve_bandwidth(self.bandwidth, X, weights, "euclidean")
            return ClosedFormKernel.gaussian(power, bandwidth), bandwidth
        family = get_family(kernel)
        if family.takes_bandwidth:
            bandwidth = resolve_bandwidth(self.bandwidth, X, weights, family.distance)
            return ClosedFormKernel.from_family(family, power, bandwidth), bandwidth
        self._refuse_bandwidth()
        return ClosedFormKernel.from_family(family, power, None), None

    def _refuse_bandwidth(self) -> None:
        if not isinstance(self.bandwidth, str):
            raise ValueError(
                f"kernel={self.kernel!r} has no bandwidth, but bandwidth={self.bandwidth!r} was given; leave "
                "bandwidth='scale', which is ignored (a kernel of scikit-learn takes kernel_params)."
            )

    def _validate_rows(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None, *, reset: bool
    ) -> tuple[Any, Array, Array]:
        """Return X (float32 or float64, canonical CSR if sparse), y (float64) and one weight per row."""
        X, targets, weights = validate_rows(
            self,
            X,
            y,
            sample_weight,
            reset=reset,
            remedy="Leave such rows out (only a sketch can forget).",
        )
        return X, targets, np.ones(len(targets)) if weights is None else weights

    def _validate_queries(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_queries(self, X)
        _check_range(X, self.bandwidth_)
        return X

    def _sum(
        self, queries: Any, values: Array, *, own: NDArray[np.int64] | None = None, guarded: bool
    ) -> Array:
        """Return the kernel sums of ``values`` over the training rows (see :func:`kernel_sums`)."""
        n_threads = count_threads(self.n_jobs)
        kernel, rows = self._kernel, self.X_
        return kernel_sums(kernel, queries, rows, values, own=own, guarded=guarded, n_threads=n_threads)

    def _average(
        self, queries: Any, values: Array, totals: Array, own: NDArray[np.int64] | None = None
    ) -> Array:
        """Divide kernel sums of weighted targets by those of weights, and shape the result like y."""
        sums = self._sum(queries, values, own=own, guarded=True)
        counts = sums[:, -1:]
        predictions = sums[:, :-1] / np.where(counts == 0, np.nan, counts)
        return fill_empty(predictions, totals, self.empty, 0.0).reshape(-1, *self.y_.shape[1:])

    def _find(self, X: Any, y: Array, weights: Array) -> NDArray[np.int64]:
        """Return where the training rows keep each row, its target and its weight; -1 for weight 0."""
        kept = enumerate(_keys(self.X_, self.y_, self.sample_weight_))
        positions = {key: position for position, key in kept}
        own = np.full(len(weights), -1)
        for i, key in enumerate(_keys(X, y, weights)):
            if weights[i] == 0:
                continue
            if key not in positions:
                raise ValueError(
                    f"Row {i} of X, with its target and weight, is not among the rows that "
                    f"{type(self).__name__} was fitted on; give rows, targets and weights as they were given "
                    "to fit, or use predict for new rows."
                )
            own[i] = positions[key]
        return own

    def __sklearn_tags__(self) -> Any:
        """Declare sparse input."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _channels(y: Array, weights: Array) -> Array:
    """Return weighted targets and, last, weights: (n_rows, n_outputs + 1)."""
    return np.column_stack([y.reshape(len(y), -1) * weights[:, np.newaxis], weights])


def _totals_without_each(values: Array) -> Array:
    """Return the totals without row i at i, and all of them at -1.

    Adds up from both ends: a subtraction would leave rounding errors of the row taken out.
    """
    n_rows, n_channels = values.shape
    before, after = np.zeros((n_rows + 1, n_channels)), np.zeros((n_rows + 1, n_channels))
    before[1:] = values.cumsum(axis=0)
    after[: n_rows - 1] = values[:0:-1].cumsum(axis=0)[::-1]
    return before + after


def _keys(X: Any, y: Array, weights: Array) -> Iterator[bytes]:
    """Yield a digest of every row, its target and its weight: equal where the numbers are, dense or CSR."""
    values = _channels(y, weights) + 0.0  # -0.0 becomes 0.0
    for first in range(0, X.shape[0], _ROWS_PER_KEY_BLOCK):
        block = sparse.csr_array(X[first : first + _ROWS_PER_KEY_BLOCK], dtype=np.float64, copy=True)
        block.eliminate_zeros()
        columns = block.indices.astype(np.int64)
        for i, (begin, end) in enumerate(zip(block.indptr[:-1], block.indptr[1:], strict=True)):
            parts = (columns[begin:end], block.data[begin:end], values[first + i])
            yield blake2b(b"".join(part.tobytes() for part in parts), digest_size=16).digest()


def _check_range(X: Any, bandwidth: Array | None) -> None:
    """Refuse features that overflow when they are divided by the bandwidth."""
    if bandwidth is None:
        return
    low, high = X.min(axis=0), X.max(axis=0)
    if not isinstance(X, np.ndarray):
        low, high = low.toarray().ravel(), high.toarray().ravel()
    with np.errstate(over="ignore"):
        scaled = np.maximum(high, -low) / bandwidth
    if not np.isfinite(scaled).all():
        j = int(scaled.argmax())
        raise ValueError(
            f"Feature {j} divided by its bandwidth {bandwidth[j]:.3g} overflows; rescale the feature, or "
            "give a wider bandwidth."
        )
