"""SlidingWindowRegressor: the last rows of a stream count, the others do not."""

from __future__ import annotations

from copy import copy
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse, vstack
from sklearn.base import BaseEstimator, MetaEstimatorMixin, MultiOutputMixin, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted

from nwsketch._sklearn import Interval, fit_context
from nwsketch.regressor import NadarayaWatsonSketchRegressor
from nwsketch.validation import unchanged_on_error, validate_queries, validate_rows

#: After as many windows of rows that came and went, what they left of rounding errors is wiped out: the rows
#: of the window are learnt anew, which costs a hundredth of what the stream does.
WINDOWS_BETWEEN_CLEANINGS = 100


class Batch(NamedTuple):
    """Rows that lie in the window.

    Attributes
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    weights : ndarray of shape (n_samples,)
    """

    X: Any
    y: NDArray[np.float64]
    weights: NDArray[np.float64]

    def part(self, rows: slice) -> Batch:
        """Return some of the rows, as a copy that keeps no other row alive."""
        return Batch(self.X[rows].copy(), self.y[rows].copy(), self.weights[rows].copy())


def joined(batches: list[Batch]) -> Batch:
    """Return the rows of at least one batch, one after the other."""
    X, y, weights = zip(*batches, strict=True)
    rows = vstack(X, format="csr") if issparse(X[0]) else np.concatenate(X)
    return Batch(rows, np.concatenate(y), np.concatenate(weights))


class SlidingWindowRegressor(MetaEstimatorMixin, MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Learn from the last rows of a stream and forget all others.

    Beside the sketch it keeps the rows of the window, and takes each away again when it has fallen out. That
    costs as much time as learning it did, passes over the tables in every call of :meth:`partial_fit`, and
    ``8 * window * (n_features + n_outputs + 1)`` bytes (of float64; the rows' hash codes would take ``2 *
    window * n_repetitions``).
    Rows older than the window count for nothing, younger ones alike; a half-life
    (``NadarayaWatsonSketchRegressor(half_life=...)``) needs no rows to be kept and lets go gradually.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor or None, default=None
        What learns, without bias correction and half-life. None takes one with its defaults.
    window : int, default=10_000
        Number of rows.

    Attributes
    ----------
    estimator_ : NadarayaWatsonSketchRegressor
        Holds the rows of the window. Its bandwidth and trend are those of the first batch.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had string column names.

    Examples
    --------
    >>> import numpy as np
    >>> from nwsketch import NadarayaWatsonSketchRegressor, SlidingWindowRegressor
    >>> X = np.random.default_rng(0).uniform(size=(3000, 1))
    >>> sketch = NadarayaWatsonSketchRegressor(bandwidth=1.0, random_state=0)
    >>> model = SlidingWindowRegressor(sketch, window=1000).fit(X, np.ones(3000))
    >>> model.partial_fit(X[:500], np.zeros(500)).predict([[0.5]]).round(1)
    array([0.5])
    >>> model.partial_fit(X[:500], np.zeros(500)).predict([[0.5]]).round(1)
    array([0.])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [NadarayaWatsonSketchRegressor, None],
        "window": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self, estimator: NadarayaWatsonSketchRegressor | None = None, *, window: int = 10_000
    ) -> None:
        self.estimator = estimator
        self.window = window

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn rows, starting anew; of more than the window holds, the last ones.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            In the order in which they came. Tensors are brought to the host.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Finite targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Finite, not negative, not all zero; None means 1.

        Returns
        -------
        self : SlidingWindowRegressor

        Raises
        ------
        ValueError
            If input or parameters are not as described.
        """
        estimator = NadarayaWatsonSketchRegressor() if self.estimator is None else clone(self.estimator)
        for name in ("bias_correction", "half_life"):
            if getattr(estimator, name) is not None:
                raise ValueError(
                    f"A sliding window cannot forget what an estimator learnt with "
                    f"{name}={getattr(estimator, name)!r}: give one with {name}=None."
                )
        with unchanged_on_error(self):
            batch = self._batch(X, y, sample_weight, reset=True).part(slice(-self.window, None))
            self._keep(estimator.fit(*batch), [batch], 0)
        return self

    def partial_fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn later rows, and forget those that fall out of the window.

        An error or an interrupt leaves all as it was before the call, or as it is after it.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`fit`.

        Returns
        -------
        self : SlidingWindowRegressor

        Raises
        ------
        ValueError
            If the input is not as described.
        """
        if not hasattr(self, "estimator_"):
            return self.fit(X, y, sample_weight)
        batch = self._batch(X, y, sample_weight, reset=False).part(slice(-self.window, None))
        if not len(batch.y):
            return self
        stayed, gone = self._shifted(len(batch.y))
        batches, n_gone = [*stayed, batch], self._n_gone + sum(len(old.y) for old in gone)
        estimator = copy(self.estimator_)
        estimator.sketch_ = copy(self.estimator_.sketch_)
        estimator.partial_fit(*batch)
        if gone:
            estimator.forget(*joined(gone))
        if n_gone >= WINDOWS_BETWEEN_CLEANINGS * self.window:
            batches, n_gone = [joined(batches)], 0
            # A sketch that has forgotten every row has forgotten its rounding errors too.
            estimator.forget(*batches[0]).partial_fit(*batches[0])
        self._keep(estimator, batches, n_gone)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Predict targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Queries.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs), float64
        """
        check_is_fitted(self)
        return self.estimator_.predict(validate_queries(self, X))

    def rows_in_window(self) -> Batch:
        """Return the rows that count, oldest first.

        Returns
        -------
        Batch
            X, y and sample_weight, as :meth:`fit` takes them.
        """
        check_is_fitted(self)
        return joined(self._batches)

    @property
    def n_samples_seen_(self) -> int:
        """Number of rows in the window."""
        return self.estimator_.n_samples_seen_

    # -- within -------------------------------------------------------------------------------

    def _batch(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> Batch:
        X, targets, weights = validate_rows(self, X, y, sample_weight, reset=reset)
        return Batch(X, targets, np.ones(len(targets)) if weights is None else weights)

    def _shifted(self, n_new: int) -> tuple[list[Batch], list[Batch]]:
        """Return what stays in the window when rows are added, and what falls out."""
        surplus = max(self.n_samples_seen_ + n_new - self.window, 0)
        stayed, gone = [], []
        for batch in self._batches:
            n_rows = len(batch.y)
            n_out = min(surplus, n_rows)
            surplus -= n_out
            if n_out:
                gone.append(batch if n_out == n_rows else batch.part(slice(n_out)))
            if n_out < n_rows:
                stayed.append(batch.part(slice(n_out, None)) if n_out else batch)
        return stayed, gone

    def _keep(self, estimator: NadarayaWatsonSketchRegressor, batches: list[Batch], n_gone: int) -> None:
        """Replace what was learnt at one stroke."""
        self.__dict__.update(estimator_=estimator, _batches=batches, _n_gone=n_gone)

    def __sklearn_is_fitted__(self) -> bool:
        """Whether rows were learnt."""
        return hasattr(self, "estimator_")

    def __sklearn_tags__(self) -> Any:
        """Declare sparse input."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
