"""LSHKernelSampler: hash codes as sparse features, for linear models of any kind."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from nwsketch._sklearn import Interval, StrOptions, fit_context
from nwsketch.backends import NumbaBackend
from nwsketch.backends.threads import count_threads
from nwsketch.bandwidth import resolve_bandwidth
from nwsketch.hashing import HashFamily, HashPlan, get_family
from nwsketch.inputs import check_cells, harmless_magnitude
from nwsketch.sketch import N_BUCKETS
from nwsketch.validation import unchanged_on_error, validate_queries


class LSHKernelSampler(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Approximate a kernel's feature map by hash codes.

    Every row becomes ``n_repetitions`` ones, scaled by ``1 / sqrt(n_repetitions)``: one in each block of
    ``n_buckets`` columns, at the row's bucket. The inner product of two rows is the share of the repetitions
    in which they share a bucket, whose expectation is the kernel k, with a standard deviation of
    ``sqrt(k (1 - k) / n_repetitions)`` for independent repetitions. A linear model of these features is the
    kernel method with that kernel: :class:`~sklearn.linear_model.Ridge` is
    :class:`~sklearn.kernel_ridge.KernelRidge`, in time and memory proportional to the number of rows.

    Where codes are rehashed (all kernels but "angular" and "jaccard" with few codes), different codes meet
    with probability ``1 / n_buckets``: the expectation is ``k + (1 - k) / n_buckets``. More buckets cost
    memory in the model that follows, none here.

    Parameters
    ----------
    kernel : {"laplacian", "l2", "l1", "angular", "jaccard"} or HashFamily, default="laplacian"
        The kernel, as of :class:`~nwsketch.NadarayaWatsonSketchRegressor`.
    bandwidth : "scale", float or array-like of shape (n_features,), default="scale"
        Widths that the features are divided by. ``"scale"`` derives them from the standard deviations of the
        features (:func:`~nwsketch.bandwidth.scale_bandwidth`). "angular" and "jaccard" have none.
    hashes_per_repetition : int, default=1
        Elementary hashes joined into one code: the kernel is raised to this power.
    n_repetitions : int, default=256
        Non-zeros of a transformed row.
    n_buckets : int or None, default=2048
        Columns of a repetition. None keeps every code of a kernel that has boundedly many.
    n_jobs : int or None, default=None
        Number of threads. None means all cores that numba may use, or one inside a joblib worker; -1 means
        all.
    random_state : int, RandomState instance or None, default=None
        Draws the hashes.

    Attributes
    ----------
    bandwidth_ : ndarray of shape (n_features,) or None
        The bandwidths in use; None for kernels without.
    plan_ : HashPlan
        The hashes.
    n_buckets_ : int
        Columns of a repetition: as asked for, or the number of codes if there are fewer.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had string column names.

    See Also
    --------
    sklearn.kernel_approximation.RBFSampler : Dense features, of the Gaussian kernel.
    sklearn.kernel_approximation.Nystroem : Dense features, of any kernel, from some of the rows.
    NadarayaWatsonSketchRegressor : The same hashes, summed up; with ``bias_correction`` ridge regression in
        one estimator.

    References
    ----------
    .. [1] A. Rahimi, B. Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007, section 4
       (random binning: the laplacian kernel).
    .. [2] M. Datar, N. Immorlica, P. Indyk, V. Mirrokni, "Locality-Sensitive Hashing Scheme Based on p-Stable
       Distributions", SoCG 2004 ("l1", "l2").
    .. [3] M. Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002 ("angular").

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from nwsketch import LSHKernelSampler
    >>> X, y = make_friedman1(n_samples=2000, n_features=5, random_state=0)
    >>> model = make_pipeline(LSHKernelSampler(bandwidth=5.0, random_state=0), Ridge(alpha=0.1))
    >>> model.fit(X[:1500], y[:1500]).score(X[1500:], y[1500:]) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "kernel": [str, HashFamily],
        "bandwidth": [StrOptions({"scale"}), Interval(Real, 0, None, closed="neither"), "array-like"],
        "hashes_per_repetition": [Interval(Integral, 1, None, closed="left")],
        "n_repetitions": [Interval(Integral, 1, None, closed="left")],
        "n_buckets": [Interval(Integral, 2, None, closed="left"), None],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        kernel: str | HashFamily = "laplacian",
        bandwidth: Literal["scale"] | float | ArrayLike = "scale",
        hashes_per_repetition: int = 1,
        n_repetitions: int = 256,
        n_buckets: int | None = N_BUCKETS,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.hashes_per_repetition = hashes_per_repetition
        self.n_repetitions = n_repetitions
        self.n_buckets = n_buckets
        self.n_jobs = n_jobs
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Draw the hashes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite. Read for its width and, if ``bandwidth="scale"``, its standard deviations.
        y : None
            Ignored.

        Returns
        -------
        self : LSHKernelSampler

        Raises
        ------
        ValueError
            If input or parameters are not as described.
        """
        with unchanged_on_error(self):
            X = validate_queries(self, X, reset=True)
            count_threads(self.n_jobs)
            family = get_family(self.kernel)
            if not family.takes_bandwidth and not isinstance(self.bandwidth, str):
                raise ValueError(
                    f"kernel={family.name!r} has no bandwidth, but bandwidth={self.bandwidth!r} was given: "
                    "leave bandwidth='scale', which is ignored."
                )
            self.bandwidth_ = None
            if family.takes_bandwidth:
                self.bandwidth_ = resolve_bandwidth(self.bandwidth, X, None, family.distance)
            self.plan_ = HashPlan(
                family,
                n_features=X.shape[1],
                n_repetitions=self.n_repetitions,
                hashes_per_repetition=self.hashes_per_repetition,
                n_buckets=self.n_buckets,
                bandwidth=np.ones(X.shape[1]) if self.bandwidth_ is None else self.bandwidth_,
                seed=int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max)),
            )
            self.n_buckets_ = self.plan_.n_buckets
            self._n_features_out = self.plan_.n_repetitions * self.plan_.n_buckets
        return self

    def transform(self, X: Any) -> csr_matrix:
        """Hash rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        csr_matrix of shape (n_samples, n_features_out)
            ``n_repetitions`` equal entries a row, one in every ``n_buckets_`` columns, in the precision of X
            if that is a floating-point one. A row's do not depend on the rows around it.

        Raises
        ------
        ValueError
            If the input is not as described, or a cell's index would overflow.
        """
        check_is_fitted(self)
        X = validate_queries(self, X)
        plan, n_rows = self.plan_, X.shape[0]
        check_cells(X, plan.cells_per_unit, harmless_magnitude(plan.cells_per_unit))
        codes = NumbaBackend(plan).codes(X, count_threads(self.n_jobs))
        n_entries = n_rows * plan.n_repetitions
        is_large = max(self._n_features_out, n_entries) > np.iinfo(np.int32).max
        columns: Any = codes.T.astype(np.int64 if is_large else np.int32, order="C")
        columns += np.arange(0, self._n_features_out, plan.n_buckets, dtype=columns.dtype)
        ends = np.arange(0, n_entries + 1, plan.n_repetitions, dtype=columns.dtype)
        values = np.full(n_entries, 1 / np.sqrt(plan.n_repetitions), dtype=X.dtype)
        return csr_matrix((values, columns.ravel(), ends), shape=(n_rows, self._n_features_out))

    def __sklearn_tags__(self) -> Any:
        """Declare sparse input, and what happens to precision."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
