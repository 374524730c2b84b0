"""OccupancyDisplay: how the learnt rows are spread over the buckets of a sketch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from nwsketch.backends.aggregation import RELATIVE_TOLERANCE
from nwsketch.plotting.base import fitted_sketch, one_axes, require_matplotlib
from nwsketch.sketch import NadarayaWatsonSketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

#: Points of the curve, spread evenly over the logarithm of the rank.
MOST_RANKS = 200
#: Quantiles over the repetitions that the band spans.
BAND = (0.05, 0.95)


class OccupancyDisplay:
    """Load of the buckets, from the fullest to the emptiest, relative to buckets that share rows evenly.

    A curve near 1 throughout tells that all buckets are in use and none stands out: a kernel so narrow that
    rows rarely meet, or buckets so few that they meet by chance. A steep one tells that rows crowd into few
    buckets: a wide kernel, or many alike. The share of buckets that hold anything is in the legend.

    Parameters
    ----------
    ranks : ndarray of shape (n_ranks,), int
        Ranks of buckets within their repetition; 1 is the fullest.
    loads : ndarray of shape (n_repetitions, n_ranks)
        Weight in the bucket of this rank, in units of the total weight / number of buckets.
    occupied : ndarray of shape (n_repetitions,)
        Share of the buckets that hold rows.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The median over the repetitions.
    band_ : matplotlib PolyCollection
        From the 5 to the 95 per cent quantile over the repetitions.
    even_line_ : matplotlib Line2D
        The load of buckets that share the rows evenly, 1.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from nwsketch import NadarayaWatsonSketchRegressor
    >>> from nwsketch.plotting import OccupancyDisplay
    >>> X = np.zeros((100, 2))  # all in one bucket of each repetition
    >>> model = NadarayaWatsonSketchRegressor(bandwidth=1.0, n_buckets=50, random_state=0).fit(X, X[:, 0])
    >>> display = OccupancyDisplay.from_estimator(model)
    >>> float(display.loads[0, 0]), round(float(display.occupied[0]), 2)
    (50.0, 0.02)
    """

    def __init__(self, *, ranks: NDArray[np.int64], loads: Array, occupied: Array) -> None:
        self.ranks = ranks
        self.loads = loads
        self.occupied = occupied

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Read the loads from a fitted estimator's tables, and draw them.

        Parameters
        ----------
        estimator : NadarayaWatsonSketchRegressor or Pipeline
            Fitted, or a pipeline that ends in one.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        display : OccupancyDisplay

        Raises
        ------
        TypeError, ValueError
            If it is no such estimator, or holds no rows.
        ImportError
            If matplotlib is not installed.
        """
        return cls.from_sketch(fitted_sketch(estimator).sketch_, ax=ax, **kwargs)

    @classmethod
    def from_sketch(cls, sketch: NadarayaWatsonSketch, *, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Read the loads from a sketch's tables, and draw them.

        Parameters
        ----------
        sketch : NadarayaWatsonSketch
            Has learnt rows.
        ax, **kwargs
            See :meth:`from_estimator`.

        Returns
        -------
        display : OccupancyDisplay

        Raises
        ------
        ValueError
            If it holds no rows.
        ImportError
            If matplotlib is not installed.
        """
        require_matplotlib(cls)
        with sketch.paused():
            total, descending = sketch.total_weight, np.sort(-sketch.tables[..., -1], axis=1)
        if not total > 0:
            raise ValueError("The sketch holds no rows, so no bucket is occupied: let it learn some first.")
        np.negative(descending, out=descending)
        descending[descending <= RELATIVE_TOLERANCE * total] = 0.0  # what rounding left of forgotten rows
        n_buckets = sketch.n_buckets
        ranks = np.unique(np.geomspace(1, n_buckets, MOST_RANKS).round().astype(np.int64))
        display = cls(
            ranks=ranks,
            loads=descending[:, ranks - 1] * (n_buckets / total),
            occupied=(descending > 0).mean(axis=1),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw load against rank, on logarithmic axes; empty buckets have no point.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For the line (``Axes.plot``).

        Returns
        -------
        self : OccupancyDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = one_axes(type(self), ax)
        self.figure_ = self.ax_.figure
        low, middle, high = np.quantile(self.loads, [BAND[0], 0.5, BAND[1]], axis=0)
        holds = middle > 0
        style = {"label": f"median; {self.occupied.mean():.0%} of the buckets hold rows"} | kwargs
        self.line_ = self.ax_.plot(self.ranks[holds], middle[holds], **style)[0]
        some = high > 0
        least = middle[holds].min(initial=high[some].min())  # the band goes to the bottom where it is empty
        self.band_ = self.ax_.fill_between(
            self.ranks[some],
            np.where(low > 0, low, least)[some],
            high[some],
            alpha=0.3,
            color=self.line_.get_color(),
            linewidth=0,
            label="5 to 95 per cent of the repetitions",
        )
        self.even_line_ = self.ax_.axhline(
            1.0, linestyle="--", color="0.3", linewidth=0.8, label="spread evenly"
        )
        self.ax_.set(
            xscale="log", yscale="log", xlabel="rank of the bucket", ylabel="weight in it, relative to even"
        )
        self.ax_.legend()
        return self
