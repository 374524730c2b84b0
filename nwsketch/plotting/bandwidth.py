"""BandwidthDisplay: what ``bandwidth="loo"`` and ``"loo_per_feature"`` tried, and what they chose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwsketch.bandwidth_search import BandwidthPath
from nwsketch.plotting.base import fitted_sketch, one_axes, require_matplotlib, several_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

#: Features of the widest and narrowest learnt bandwidths that are named in the legend.
MOST_NAMES = 10


class BandwidthDisplay:
    """Scores of the bandwidths that a search tried and, if it learnt proportions, its path to them.

    Parameters
    ----------
    path : BandwidthPath
        What was tried.
    chosen : ndarray of shape (n_features,)
        The bandwidths in use.
    feature_names : sequence of str or None, default=None
        For the legend; None numbers the features.

    Attributes
    ----------
    widths : ndarray of shape (n_tried,)
        The geometric mean over the features of every bandwidth tried: one number for its overall width.
    is_learnt : ndarray of shape (n_tried,), bool
        Whether the proportions between the features were learnt, or are those of ``"scale"``.
    line_ : list of matplotlib Line2D
        Scores against widths: with learnt proportions, if there are any, then with those of ``"scale"``.
    chosen_line_ : matplotlib Line2D
        At the width that was chosen.
    descent_line_ : list of matplotlib Line2D
        Bandwidths along the descent, one line for each feature; empty if none is drawn.
    axes_ : ndarray of matplotlib Axes
        For the scores and, if proportions were looked for, for the descent.
    ax_ : matplotlib Axes
        The first of them.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from nwsketch import NadarayaWatsonSketchRegressor
    >>> from nwsketch.plotting import BandwidthDisplay
    >>> X, y = make_friedman1(n_samples=500, random_state=0)
    >>> model = NadarayaWatsonSketchRegressor(bandwidth="loo", n_repetitions=64, random_state=0).fit(X, y)
    >>> display = BandwidthDisplay.from_estimator(model)
    >>> len(display.widths) == len(display.path.scores)
    True
    """

    def __init__(self, *, path: BandwidthPath, chosen: Array, feature_names: ArrayLike | None = None) -> None:
        self.path = path
        self.chosen = chosen
        self.feature_names = feature_names

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> Self:
        """Take what a fitted estimator's search kept, and draw it.

        Parameters
        ----------
        estimator : NadarayaWatsonSketchRegressor or Pipeline
            Fitted with ``bandwidth="loo"`` or ``"loo_per_feature"``, or a pipeline that ends in one.
        ax : matplotlib Axes, array-like of two of them, or None, default=None
            One alone is for the scores. None makes a figure.
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        display : BandwidthDisplay

        Raises
        ------
        TypeError, ValueError
            If it is no such estimator, or did not search.
        ImportError
            If matplotlib is not installed.
        """
        require_matplotlib(cls)
        model = fitted_sketch(estimator)
        if not hasattr(model, "bandwidth_path_"):
            raise ValueError(
                "The estimator did not search for a bandwidth: fit with bandwidth='loo' or "
                f"'loo_per_feature', and a kernel that has one (here bandwidth={model.bandwidth!r}, "
                f"kernel={model.kernel!r})."
            )
        names = getattr(model, "feature_names_in_", None)
        chosen = np.asarray(model.bandwidth_)
        display = cls(path=model.bandwidth_path_, chosen=chosen, feature_names=names)
        return display.plot(ax=ax, **kwargs)

    @property
    def widths(self) -> Array:
        """Geometric mean over the features of every bandwidth tried."""
        return _width(self.path.bandwidths)

    @property
    def is_learnt(self) -> NDArray[np.bool_]:
        """Whether the proportions of a bandwidth differ from those of ``"scale"``, which come last."""
        proportions = np.log(self.path.bandwidths) - np.log(self.widths)[:, np.newaxis]
        return ~np.isclose(proportions, proportions[-1], rtol=0.0, atol=1e-9).all(axis=1)

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw scores against widths and, on a second pair of axes, the descent.

        Parameters
        ----------
        ax : matplotlib Axes, array-like of two of them, or None, default=None
            One alone is for the scores. None makes a figure.
        **kwargs
            For the lines of the scores (``Axes.plot``).

        Returns
        -------
        self : BandwidthDisplay

        Raises
        ------
        ValueError
            If another number of axes is given.
        ImportError
            If matplotlib is not installed.
        """
        descent = self.path.descent
        if descent is None or (ax is not None and np.ndim(ax) == 0):
            self.axes_ = np.array([one_axes(type(self), ax if np.ndim(ax) == 0 else np.ravel(ax)[0])])
        else:
            self.axes_ = several_axes(type(self), ax, 1, 2)
        self.ax_ = self.axes_[0]
        self.figure_ = self.ax_.figure
        self._draw_scores(self.ax_, kwargs)
        self.descent_line_: list[Any] = []
        if descent is not None and len(self.axes_) > 1:
            self._draw_descent(self.axes_[1], descent)
        return self

    def _draw_scores(self, ax: Axes, style: dict[str, Any]) -> None:
        self.line_ = []
        for which, label in (
            (self.is_learnt, "learnt proportions"),
            (~self.is_learnt, "proportions of 'scale'"),
        ):
            if which.any():
                drawn = {"marker": "o", "label": label} | style
                self.line_ += ax.plot(self.widths[which], self.path.scores[which], **drawn)
        self.chosen_line_ = ax.axvline(
            float(_width(self.chosen)), linestyle="--", color="0.3", linewidth=0.8, label="chosen"
        )
        ax.set_xscale("log", base=2)  # factors are powers of 2, and of its root
        ax.set(xlabel="bandwidth (geometric mean over the features)", ylabel="R2 of rows left out")
        ax.legend()

    def _draw_descent(self, ax: Axes, descent: Array) -> None:
        names = self.feature_names
        labels = np.arange(descent.shape[1]) if names is None else np.asarray(names)
        self.descent_line_ = ax.plot(descent)
        if len(labels) <= MOST_NAMES:
            for line, label in zip(self.descent_line_, labels, strict=True):
                line.set_label(f"feature {label}" if names is None else str(label))
            ax.legend(fontsize="small")
        ax.set(yscale="log", xlabel="step of the descent", ylabel="bandwidth of the feature")


def _width(bandwidths: Array) -> Array:
    """Return the geometric mean over the last axis."""
    return np.asarray(np.exp(np.log(bandwidths).mean(axis=-1)))
