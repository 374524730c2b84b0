"""KernelDisplay: the kernel in closed form beside the collisions of a sketch's own hashes.

The kernel *is* the probability that two rows share a code. So the share of a sketch's repetitions in which
two rows share a bucket, less the 1 / n_buckets at which rehashed codes meet by chance, should lie on the
curve, within the 2 sqrt(p (1 - p) / R) of R repetitions.

Pairs are made to span all distances: a row, and a point at a random place between it and another row; for
sets of columns (Jaccard), a row and a random part of its own non-zero columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nwsketch.exact_tiles import ClosedFormKernel
from nwsketch.hashing.base import Distance
from nwsketch.inputs import check_integer
from nwsketch.plotting.base import fitted_sketch, one_axes, require_matplotlib, rows_before_sketch
from nwsketch.sketch import NadarayaWatsonSketch
from nwsketch.tensors import to_host
from nwsketch.validation import validate_queries

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

#: Points of the curve, and pairs whose distances are computed at a time.
CURVE_POINTS, PAIRS_PER_BLOCK = 200, 64
#: What the distances are called on the axis.
NAMES: dict[Distance, str] = {
    "cityblock": "city-block distance, in bandwidths",
    "euclidean": "Euclidean distance, in bandwidths",
    "angle": "angle, in radians",
    "jaccard": "Jaccard distance",
}


class KernelDisplay:
    """The kernel as a function of distance, and the collisions of pairs of rows.

    Parameters
    ----------
    distances : ndarray of shape (n_pairs,)
        Of the pairs, in units of the bandwidth.
    collisions : ndarray of shape (n_pairs,)
        Share of the repetitions in which a pair collides, less chance collisions; may be slightly negative.
    curve : ndarray of shape (3, n_points)
        Distances, ascending; the kernel there; and two standard deviations of a pair's share about it.
    distance_name : str
        For the axis.

    Attributes
    ----------
    points_ : matplotlib Line2D
        The pairs.
    line_ : matplotlib Line2D
        The kernel.
    band_ : matplotlib PolyCollection
        Where 95 of 100 pairs should lie.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from nwsketch import NadarayaWatsonSketchRegressor
    >>> from nwsketch.plotting import KernelDisplay
    >>> X = np.random.default_rng(0).normal(size=(1000, 3))
    >>> model = NadarayaWatsonSketchRegressor(random_state=0).fit(X, X[:, 0])
    >>> display = KernelDisplay.from_estimator(model, X)
    >>> bool(np.abs(display.collisions - np.exp(-display.distances)).max() < 0.1)
    True
    """

    def __init__(self, *, distances: Array, collisions: Array, curve: Array, distance_name: str) -> None:
        self.distances = distances
        self.collisions = collisions
        self.curve = curve
        self.distance_name = distance_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        n_pairs: int = 500,
        seed: int = 0,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Hash pairs of rows by a fitted estimator's hashes, and draw their collisions.

        Parameters
        ----------
        estimator : NadarayaWatsonSketchRegressor or Pipeline
            Fitted, or a pipeline that ends in one.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows that pairs are made of; at least one.
        n_pairs : int, default=500
        seed : int, default=0
            Draws the pairs.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        display : KernelDisplay

        Raises
        ------
        TypeError, ValueError
            If it is no such estimator, or its kernel has no closed form.
        ImportError
            If matplotlib is not installed.
        """
        require_matplotlib(cls)
        model = fitted_sketch(estimator)
        rows = validate_queries(model, rows_before_sketch(estimator, X))
        return cls.from_sketch(model.sketch_, rows, n_pairs=n_pairs, seed=seed, ax=ax, **kwargs)

    @classmethod
    def from_sketch(
        cls,
        sketch: NadarayaWatsonSketch,
        X: Any,
        *,
        n_pairs: int = 500,
        seed: int = 0,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> Self:
        """Hash pairs of rows by a sketch's hashes, and draw their collisions.

        Parameters
        ----------
        sketch : NadarayaWatsonSketch
            May be empty.
        X, n_pairs, seed, ax, **kwargs
            See :meth:`from_estimator`.

        Returns
        -------
        display : KernelDisplay

        Raises
        ------
        ValueError
            If its kernel has no closed form.
        ImportError
            If matplotlib is not installed.
        """
        require_matplotlib(cls)
        family, power = sketch.family, sketch.hashes_per_repetition
        bandwidth = sketch.bandwidth if family.takes_bandwidth else None
        kernel = ClosedFormKernel.from_family(family, 1, bandwidth)  # which refuses one without a distance
        rng = np.random.default_rng(check_integer("seed", seed, 0))
        ends = _pairs(X, kernel.distance, check_integer("n_pairs", n_pairs, 1), rng)
        distances = _distances(kernel, *ends)
        one, other = (to_host(sketch.hash(rows).array) for rows in ends)
        shares = (one == other).mean(axis=0)
        by_chance = 1.0 / sketch.n_buckets if sketch.plan.rehashed else 0.0
        points = np.linspace(0.0, distances.max(), CURVE_POINTS)
        values = family.collision_probability(points) ** power
        meeting = values + by_chance * (1.0 - values)
        deviations = np.sqrt(meeting * (1.0 - meeting) / sketch.n_repetitions) / (1.0 - by_chance)
        display = cls(
            distances=distances,
            collisions=(shares - by_chance) / (1.0 - by_chance),
            curve=np.stack([points, values, 2.0 * deviations]),
            distance_name=NAMES[kernel.distance],
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the kernel, where pairs should lie, and the pairs.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For the pairs (``Axes.plot``).

        Returns
        -------
        self : KernelDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = one_axes(type(self), ax)
        self.figure_ = self.ax_.figure
        points, values, width = self.curve
        style: dict[str, Any] = {"marker": ".", "linestyle": "none", "markersize": 3, "color": "0.4"}
        style = style | {"label": "pairs of rows"} | kwargs
        self.points_ = self.ax_.plot(self.distances, self.collisions, **style)[0]
        self.line_ = self.ax_.plot(points, values, label="kernel, in closed form")[0]
        self.band_ = self.ax_.fill_between(
            points,
            values - width,
            values + width,
            alpha=0.3,
            color=self.line_.get_color(),
            linewidth=0,
            label="two standard deviations",
        )
        self.ax_.set(xlabel=self.distance_name, ylabel="share of repetitions that collide")
        self.ax_.legend()
        return self


def _pairs(X: Any, distance: Distance, n_pairs: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return pairs at all distances: one end each as (n_pairs, n_features) float64 rows."""
    is_sparse = bool(sparse.issparse(X))
    first, second = rng.integers(0, X.shape[0], (2, n_pairs))
    rows: Any = (sparse.csr_array(X) if is_sparse else np.asarray(to_host(X))).astype(np.float64)
    start, places = rows[first], rng.random(n_pairs)
    if distance == "jaccard":
        return start, _thinned(start, places, is_sparse, rng)
    if is_sparse:
        near, far = sparse.diags_array(1.0 - places), sparse.diags_array(places)
        between: Any = near @ start + far @ rows[second]
        return start, between.tocsr()
    return start, start + places[:, np.newaxis] * (rows[second] - start)


def _thinned(rows: Any, shares: Array, is_sparse: bool, rng: np.random.Generator) -> Any:
    """Return rows of which a random part of the non-zeros is left: each with a probability of its row's."""
    if not is_sparse:
        return np.where(rng.random(rows.shape) < shares[:, np.newaxis], rows, 0.0)
    thinned = rows.copy()
    thinned.data[rng.random(thinned.nnz) >= np.repeat(shares, np.diff(thinned.indptr))] = 0.0
    thinned.eliminate_zeros()
    return thinned


def _distances(kernel: ClosedFormKernel, one: Any, other: Any) -> Array:
    """Return the distance of every pair: the diagonal of blocks of all against all."""
    metric = ClosedFormKernel(kernel.distance, _unchanged, False, 1, kernel.bandwidth)
    parts = []
    for start in range(0, one.shape[0], PAIRS_PER_BLOCK):
        block = slice(start, start + PAIRS_PER_BLOCK)
        parts.append(np.diagonal(metric(metric.prepare(one[block]), metric.prepare(other[block]))))
    return np.concatenate(parts)


def _unchanged(distances: Array) -> Array:
    return distances
