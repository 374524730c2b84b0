"""CoverageDisplay: how often targets lie within intervals about their predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from nwsketch.plotting.base import name_outputs, one_axes, require_matplotlib
from nwsketch.tensors import to_host

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

#: Nominal levels.
LEVELS = np.linspace(0.02, 0.98, 49)


class CoverageDisplay:
    """Share of new targets within intervals, against the share that the intervals promise.

    An interval of level p reaches from the prediction to either side by as many standard deviations as cover
    a share p of a normal distribution. A curve on the diagonal tells that standard deviations are honest;
    above it they are too large, below it too small. The second curve is that of the third of the rows with
    the largest standard deviations: below the first one where these do not grow enough.

    Parameters
    ----------
    levels : ndarray of shape (n_levels,)
        Nominal levels, ascending, within (0, 1).
    coverage : ndarray of shape (n_levels, n_outputs)
        Share of all rows within their intervals.
    hard_coverage : ndarray of shape (n_levels, n_outputs)
        The same of the third of the rows with the largest standard deviations.
    n_rows : int
        Rows that were looked at.

    Attributes
    ----------
    line_, hard_line_ : list of matplotlib Line2D
        Coverage of all rows, and of the hard third; one line for each output.
    diagonal_ : matplotlib Line2D
    band_ : matplotlib PolyCollection
        Two standard deviations of chance about the diagonal, for so many rows.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from nwsketch.plotting import CoverageDisplay
    >>> errors = np.random.default_rng(0).normal(size=10_000)
    >>> display = CoverageDisplay.from_predictions(errors, np.zeros(10_000), np.ones(10_000))
    >>> bool(np.abs(display.coverage[:, 0] - display.levels).max() < 0.02)
    True
    """

    def __init__(self, *, levels: Array, coverage: Array, hard_coverage: Array, n_rows: int) -> None:
        self.levels = levels
        self.coverage = coverage
        self.hard_coverage = hard_coverage
        self.n_rows = n_rows

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike, *, ax: Axes | None = None, **kwargs: Any
    ) -> Self:
        """Predict rows that the fit has not seen, with standard deviations, and draw the coverage.

        Parameters
        ----------
        estimator : estimator
            Fitted; its ``predict`` takes ``return_std=True``:
            :class:`~nwsketch.NadarayaWatsonSketchRegressor` with ``uncertainty=True``, a pipeline that ends
            in it, or another library's.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The targets of these rows.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        display : CoverageDisplay

        Raises
        ------
        ValueError
            If standard deviations were not learnt, or the targets do not fit the rows.
        ImportError
            If matplotlib is not installed.
        """
        require_matplotlib(cls)
        predictions, std = estimator.predict(X, return_std=True)
        return cls.from_predictions(y, predictions, std, ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls, y: ArrayLike, predictions: ArrayLike, std: ArrayLike, *, ax: Axes | None = None, **kwargs: Any
    ) -> Self:
        """Compare targets with predictions and their standard deviations, and draw the coverage.

        Parameters
        ----------
        y, predictions, std : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Rows without a prediction (NaN) are left out.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        display : CoverageDisplay

        Raises
        ------
        ValueError
            If the shapes differ, or no row has a prediction.
        ImportError
            If matplotlib is not installed.
        """
        require_matplotlib(cls)
        arrays = [np.asarray(to_host(values), dtype=np.float64) for values in (y, predictions, std)]
        if len({array.shape for array in arrays}) > 1:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise ValueError(f"y, predictions and std have shapes {shapes}: give three of the same shape.")
        targets, middles, deviations = (array.reshape(len(array), -1) for array in arrays)
        known = ~np.isnan(middles + deviations).any(axis=1)
        if not known.any():
            raise ValueError("No row has a prediction and a standard deviation: there is nothing to cover.")
        gaps, deviations = np.abs(targets - middles)[known], deviations[known]
        hard = deviations >= np.quantile(deviations, 2 / 3, axis=0)
        multiples = ndtri((1.0 + LEVELS) / 2.0)
        inside = gaps <= multiples[:, np.newaxis, np.newaxis] * deviations
        display = cls(
            levels=LEVELS,
            coverage=inside.mean(axis=1),
            hard_coverage=(inside & hard).sum(axis=1) / hard.sum(axis=0),
            n_rows=int(known.sum()),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the coverage beside the diagonal.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For the lines of all rows (``Axes.plot``).

        Returns
        -------
        self : CoverageDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = one_axes(type(self), ax)
        self.figure_ = self.ax_.figure
        self.line_, self.hard_line_ = [], []
        n_outputs = self.coverage.shape[1]
        labels = name_outputs("all rows", n_outputs), name_outputs("the hard third", n_outputs)
        for output, (of_all, of_hard) in enumerate(zip(*labels, strict=True)):
            line = self.ax_.plot(self.levels, self.coverage[:, output], **({"label": of_all} | kwargs))[0]
            style: dict[str, Any] = {"linestyle": ":", "color": line.get_color(), "label": of_hard}
            self.line_.append(line)
            self.hard_line_ += self.ax_.plot(self.levels, self.hard_coverage[:, output], **style)
        self.diagonal_ = self.ax_.plot([0, 1], [0, 1], "--", color="0.3", linewidth=0.8, label="as promised")[
            0
        ]
        chance = 2.0 * np.sqrt(self.levels * (1.0 - self.levels) / self.n_rows)
        self.band_ = self.ax_.fill_between(
            self.levels,
            self.levels - chance,
            self.levels + chance,
            color="0.3",
            alpha=0.2,
            linewidth=0,
            label=f"chance, {self.n_rows:,} rows",
        )
        self.ax_.set(
            xlabel="level of the intervals",
            ylabel="share of the targets within",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        self.ax_.legend()
        return self
