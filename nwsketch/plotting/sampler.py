"""SamplerDisplay: what :class:`nwsketch.training.SketchSampler` drew, how well it foresaw, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwsketch.plotting.base import require_matplotlib, several_axes
from nwsketch.training.policies import effective_size
from nwsketch.training.report import EpochReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

#: Points, at most, of the first picture; bars of the second.
MOST_POINTS, N_BARS = 5_000, 30


class SamplerDisplay:
    """Four pictures of an epoch of a sampler.

    - Losses seen against those predicted before: on the diagonal they were foreseen.
    - The weights of the examples drawn, and what the draw is worth: the effective sample size.
    - The share of every class in the data, among the examples drawn, and among these with their weights,
      which give every class its share in the data back, but for chance.
    - Over the epochs: the effective sample size as a share of the examples drawn, and the overhead as a share
      of the time of training.

    Parameters
    ----------
    report : EpochReport
        Of :meth:`nwsketch.training.SketchSampler.report`.
    history : sequence of dict
        What :meth:`nwsketch.training.SketchSampler.metrics` said after each epoch.
    n_drawn : int
        Examples of an epoch.
    class_names : array-like of shape (n_classes,) or None, default=None
        In ascending order of the labels; None numbers the classes.

    Attributes
    ----------
    effective_sample_size : float
        Of the epoch of the report.
    shares : ndarray of shape (3, n_classes) or None
        Share of every class in the data, among the examples drawn, and of their weights.
    epochs : ndarray of shape (n_epochs,), int
    epoch_shares : ndarray of shape (2, n_epochs)
        Effective sample size and overhead, as shares, of the epochs of the history.
    points_ : matplotlib Line2D
        Losses seen against losses predicted.
    bars_ : matplotlib BarContainer
        The weights.
    class_bars_ : list of matplotlib BarContainer
        Shares of the classes: in the data, drawn, weighted. Empty without labels.
    epoch_line_ : list of matplotlib Line2D
        Effective sample size and overhead.
    axes_ : ndarray of shape (4,) of matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(
        self,
        *,
        report: EpochReport,
        history: Sequence[Mapping[str, Any]],
        n_drawn: int,
        class_names: ArrayLike | None = None,
    ) -> None:
        self.report = report
        self.history = history
        self.n_drawn = n_drawn
        self.class_names = class_names

    @classmethod
    def from_sampler(
        cls,
        sampler: Any,
        history: Sequence[Mapping[str, Any]] | None = None,
        *,
        class_names: ArrayLike | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Take what a sampler tells of its present epoch, and draw it: after the last batch.

        Parameters
        ----------
        sampler : SketchSampler
        history : sequence of dict or None, default=None
            What ``sampler.metrics()`` returned after each epoch; None shows the present epoch alone.
        class_names : array-like of shape (n_classes,) or None, default=None
            In ascending order of the labels; None numbers the classes.
        ax : array-like of four matplotlib Axes, or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        display : SamplerDisplay

        Raises
        ------
        ValueError
            If nothing was drawn yet.
        ImportError
            If matplotlib is not installed.
        """
        require_matplotlib(cls)
        report = sampler.report()
        if not len(report.rows):
            raise ValueError("The sampler has drawn nothing yet: draw it after an epoch of training.")
        display = cls(
            report=report,
            history=[sampler.metrics()] if history is None else history,
            n_drawn=len(sampler),
            class_names=class_names,
        )
        return display.plot(ax=ax, **kwargs)

    @property
    def effective_sample_size(self) -> float:
        """Number of equally weighted examples whose mean is as variable."""
        return effective_size(self.report.weights)

    @property
    def shares(self) -> Array | None:
        """Share of every class in the data, among the examples drawn, and of their weights."""
        labels, sizes, weights = self.report.labels, self.report.class_sizes, self.report.weights
        if labels is None or sizes is None:
            return None
        drawn = np.bincount(labels, minlength=len(sizes))
        weighted = np.bincount(labels, weights, minlength=len(sizes))
        return np.stack([sizes / sizes.sum(), drawn / drawn.sum(), weighted / weighted.sum()])

    @property
    def epochs(self) -> NDArray[np.int64]:
        """Numbers of the epochs of the history."""
        return np.array([metrics["epoch"] for metrics in self.history])

    @property
    def epoch_shares(self) -> Array:
        """Effective sample size by examples drawn, and overhead by time, of every epoch of the history."""
        sizes = [metrics["effective_sample_size"] / self.n_drawn for metrics in self.history]
        return np.array([sizes, [metrics["overhead_share"] for metrics in self.history]])

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the four pictures.

        Parameters
        ----------
        ax : array-like of four matplotlib Axes, or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For the points of the first picture (``Axes.plot``).

        Returns
        -------
        self : SamplerDisplay

        Raises
        ------
        ValueError
            If another number of axes is given.
        ImportError
            If matplotlib is not installed.
        """
        self.axes_ = several_axes(type(self), ax, 2, 2)
        self.figure_ = self.axes_[0].figure
        self._draw_losses(self.axes_[0], kwargs)
        self._draw_weights(self.axes_[1])
        self._draw_classes(self.axes_[2])
        self._draw_epochs(self.axes_[3])
        return self

    def _draw_losses(self, ax: Axes, style: dict[str, Any]) -> None:
        known = np.flatnonzero(np.isfinite(self.report.predicted))
        known = known[:: max(-(-len(known) // MOST_POINTS), 1)]
        predicted, losses = self.report.predicted[known], self.report.losses[known]
        drawn: dict[str, Any] = {"marker": ".", "linestyle": "none", "markersize": 3, "alpha": 0.5}
        self.points_ = ax.plot(predicted, losses, **(drawn | style))[0]
        title = f"rank correlation {self.history[-1]['rank_correlation']:.2f}"
        if not len(known):
            title = "no loss was predicted before it was seen"
        elif min(predicted.min(), losses.min()) > 0:
            ax.set(xscale="log", yscale="log")
        if len(known):
            ends = [min(predicted.min(), losses.min()), max(predicted.max(), losses.max())]
            ax.plot(ends, ends, "--", color="0.3", linewidth=0.8)
        ax.set(xlabel="loss predicted", ylabel="loss then seen", title=title)

    def _draw_weights(self, ax: Axes) -> None:
        weights, n_drawn = self.report.weights, len(self.report.weights)
        counts, edges = np.histogram(weights, bins=N_BARS)
        self.bars_ = ax.bar(edges[:-1], counts, np.diff(edges), align="edge")
        ax.axvline(1.0, linestyle="--", color="0.3", linewidth=0.8)
        size = self.effective_sample_size
        ax.set(
            xlabel="weight",
            ylabel="examples drawn",
            title=f"worth {size:,.0f} of {n_drawn:,} examples ({size / n_drawn:.0%})",
        )

    def _draw_classes(self, ax: Axes) -> None:
        self.class_bars_: list[Any] = []
        if (shares := self.shares) is None:
            ax.set(xticks=[], yticks=[], title="the sampler knows no classes")
            return
        places = np.arange(shares.shape[1])
        for number, label in enumerate(("in the data", "drawn", "drawn, weighted")):
            self.class_bars_.append(ax.bar(places + 0.27 * (number - 1), shares[number], 0.27, label=label))
        names = places if self.class_names is None else np.asarray(self.class_names)
        ax.set_xticks(places, [str(name) for name in names])
        ax.set(xlabel="class", ylabel="share")
        ax.legend(fontsize="small")

    def _draw_epochs(self, ax: Axes) -> None:
        self.epoch_line_ = []
        labels = "effective sample size / drawn", "overhead / time of training"
        for values, label in zip(self.epoch_shares, labels, strict=True):
            self.epoch_line_ += ax.plot(self.epochs, values, marker="o", label=label)
        ax.set(xlabel="epoch", ylabel="share", ylim=(0, 1.05))
        ax.locator_params(axis="x", integer=True)
        ax.legend(fontsize="small")
