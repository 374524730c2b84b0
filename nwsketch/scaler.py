"""KernelBandwidthScaler: the learnt bandwidths as a transformer, for estimators of any kind."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from nwsketch._sklearn import StrOptions, fit_context
from nwsketch.backends.threads import count_threads
from nwsketch.bandwidth import scale_bandwidth
from nwsketch.inputs import check_bandwidth
from nwsketch.proportions import LEAST_ROWS, learn_proportions
from nwsketch.validation import unchanged_on_error, validate_queries, validate_rows


class KernelBandwidthScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Divide every feature by a bandwidth learnt from the targets.

    Features that tell much about the targets come out wide, those that tell nothing narrow: distances
    between the transformed rows mean what they should, to a kernel of bandwidth about 1
    (:class:`~sklearn.kernel_ridge.KernelRidge`) or to k nearest neighbours. The bandwidths minimise the
    leave-one-out error of exact Nadaraya-Watson regression (:mod:`nwsketch.proportions`). Fewer than 50
    rows are too few to learn from: then the standard deviations of the features alone decide
    (:func:`~nwsketch.bandwidth.scale_bandwidth`).

    Parameters
    ----------
    bandwidth : array-like of shape (n_features,) or None, default=None
        Bandwidths that are known, such as those of a fitted estimator: :meth:`fit` then takes them as they
        are. None learns them.
    distance : {"cityblock", "euclidean"}, default="cityblock"
        The distance of the estimator that follows: ``"cityblock"`` for the kernel ``"laplacian"``,
        ``"euclidean"`` for ``"rbf"`` and most others.
    n_jobs : int or None, default=None
        Number of threads; results do not depend on it. None means all cores that numba may use, or
        one inside a joblib worker; -1 means all.
    random_state : int, RandomState instance or None, default=None
        Draws the minibatches.

    Attributes
    ----------
    bandwidth_ : ndarray of shape (n_features,)
        What the features are divided by.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had string column names.

    See Also
    --------
    sklearn.preprocessing.StandardScaler : Asks the features alone.

    Notes
    -----
    The best overall factor of kernel ridge regression is another one than that of Nadaraya-Watson
    regression, most often a wider bandwidth: tune ``gamma`` around ``1`` (laplacian) or ``0.5`` (rbf),
    downwards first.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.kernel_ridge import KernelRidge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from nwsketch.scaler import KernelBandwidthScaler
    >>> X, y = make_friedman1(n_samples=1500, n_features=20, random_state=0)
    >>> X, y, X_test, y_test = X[:1000], y[:1000], X[1000:], y[1000:]
    >>> ridge = KernelRidge(kernel="laplacian", gamma=0.1, alpha=0.1)
    >>> by_deviation = make_pipeline(StandardScaler(), ridge).fit(X, y)
    >>> by_bandwidth = make_pipeline(KernelBandwidthScaler(random_state=0), ridge).fit(X, y)
    >>> 1 - by_bandwidth.score(X_test, y_test) < 0.5 * (1 - by_deviation.score(X_test, y_test))
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "bandwidth": ["array-like", None],
        "distance": [StrOptions({"cityblock", "euclidean"})],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        bandwidth: ArrayLike | None = None,
        distance: Literal["cityblock", "euclidean"] = "cityblock",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.bandwidth = bandwidth
        self.distance = distance
        self.n_jobs = n_jobs
        self.random_state = random_state

    @classmethod
    def from_bandwidth(cls, bandwidth: ArrayLike) -> Self:
        """Return a fitted scaler from bandwidths that are known, such as those of a fitted estimator.

        Parameters
        ----------
        bandwidth : array-like of shape (n_features,)
            Positive and finite; the ``bandwidth_`` of a
            :class:`~nwsketch.NadarayaWatsonSketchRegressor` that learnt one per feature.

        Returns
        -------
        KernelBandwidthScaler
            With the parameter ``bandwidth`` set: a refit, in a pipeline or after ``clone``, keeps it.

        Raises
        ------
        ValueError
            If the bandwidths are not as described.
        """
        shape = np.shape(bandwidth)
        if len(shape) != 1 or shape[0] == 0:
            raise ValueError(
                f"bandwidth={bandwidth!r} is not one number per feature: give those of an estimator whose "
                "kernel has bandwidths, of shape (n_features,)."
            )
        known = check_bandwidth(bandwidth, shape[0])
        scaler = cls(bandwidth=known)
        scaler.bandwidth_, scaler.n_features_in_ = known.copy(), shape[0]
        return scaler

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn the bandwidths.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite; sparse rows may have at most 2,000 features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Finite targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Finite, not negative, not all zero; None means 1. Weight 0 counts as no row;
            weight 2 counts double, but a row is left out with all of its weight.

        Returns
        -------
        self : KernelBandwidthScaler

        Raises
        ------
        ValueError
            If input or parameters are not as described.
        """
        with unchanged_on_error(self):
            return self._fit(X, y, sample_weight)

    def _fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None) -> Self:
        n_threads = count_threads(self.n_jobs)
        remedy = "Leave such rows out."
        X, targets, weights = validate_rows(self, X, y, sample_weight, reset=True, remedy=remedy)
        if weights is not None and not weights.any():
            raise ValueError("sample_weight sums to zero, so that no row is left; give a positive weight.")
        if self.bandwidth is not None:
            self.bandwidth_ = check_bandwidth(self.bandwidth, X.shape[1])
            return self
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        start = scale_bandwidth(X, weights, self.distance)
        n_rows = len(targets) if weights is None else np.count_nonzero(weights)
        if n_rows < LEAST_ROWS:
            self.bandwidth_ = start
            return self
        self.bandwidth_ = learn_proportions(
            X,
            targets,
            weights,
            start,
            distance=self.distance,
            random_state=int(seed),
            n_threads=n_threads,
        ).bandwidth
        return self

    def transform(self, X: Any) -> Any:
        """Divide the features by their bandwidths.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray or CSR of shape (n_samples, n_features)
            In the precision of X, if that is a floating-point one.
        """
        return self._multiply(X, 1 / self._bandwidth())

    def inverse_transform(self, X: Any) -> Any:
        """Multiply the features by their bandwidths.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray or CSR of shape (n_samples, n_features)
            In the precision of X, if that is a floating-point one.
        """
        return self._multiply(X, self._bandwidth())

    def _bandwidth(self) -> NDArray[np.float64]:
        check_is_fitted(self)
        return self.bandwidth_

    def _multiply(self, X: Any, factors: NDArray[np.float64]) -> Any:
        X = validate_queries(self, X)
        factors = factors.astype(X.dtype)
        if isinstance(X, np.ndarray):
            return X * factors
        return type(X)((X.data * factors[X.indices], X.indices.copy(), X.indptr.copy()), shape=X.shape)

    def __sklearn_tags__(self) -> Any:
        """Declare that targets are required, and that sparse input is taken."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
