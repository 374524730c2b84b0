"""ErrorDisplay: how the error of a sketch falls as its repetitions grow.

Nothing is fitted anew: any R' of the R repetitions of a fitted sketch *are* a sketch of R' repetitions. For
R' = 1, 2, 4, ... the repetitions are cut into R // R' groups, each answers every query, and the root mean
square of their errors is shown. Beside it stands what theory says: the standard error of all repetitions
(:meth:`~nwsketch.NadarayaWatsonSketch.standard_error`) times sqrt(R / R'): a line of slope -1/2 that is not
fitted to the points. Few repetitions may lie off it: a ratio is linear in its parts near the truth alone, and
where a group holds no rows near the query it answers as ``empty`` says.

The error is that against the exact regression if that is given. It keeps the rows and takes long on many,
so the answer of all R repetitions may stand in its place. A group is part of that answer: the mean of R'
draws out of R has the variance (1/R' - 1/R) s^2 about the mean of all, so the error seen is divided by
sqrt(1 - R'/R), and R' goes up to R / 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from nwsketch.backends.aggregation import fill_empty, ratios, tolerated
from nwsketch.backends.threads import count_threads
from nwsketch.correction import require_additive
from nwsketch.plotting.base import (
    fitted_sketch,
    name_outputs,
    one_axes,
    require_matplotlib,
    rows_before_sketch,
)
from nwsketch.regressor import NadarayaWatsonSketchRegressor
from nwsketch.tensors import to_host
from nwsketch.validation import validate_queries

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

#: Values read from the tables at a time.
BLOCK_SIZE = 2**20


class ErrorDisplay:
    """Error of the predictions against the number of repetitions, with the line of 1 / sqrt(repetitions).

    Parameters
    ----------
    n_repetitions : ndarray of shape (n_sizes,), int
        Numbers of repetitions, ascending.
    errors : ndarray of shape (n_sizes, n_outputs)
        Root mean squared errors of sketches of so many repetitions.
    expected : ndarray of shape (n_sizes, n_outputs)
        What theory expects them to be.
    reference : {"exact", "all"}
        What the errors are against.

    Attributes
    ----------
    line_ : list of matplotlib Line2D
        The errors, one line for each output.
    expected_line_ : list of matplotlib Line2D
        What theory expects.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    nwsketch.suggest_size : From a wanted error to a number of repetitions.

    Examples
    --------
    >>> import numpy as np
    >>> from nwsketch import NadarayaWatsonSketchRegressor
    >>> from nwsketch.plotting import ErrorDisplay
    >>> X = np.random.default_rng(0).uniform(-3, 3, size=(5000, 2))
    >>> model = NadarayaWatsonSketchRegressor(bandwidth=1.0, random_state=0).fit(X, np.sin(X[:, 0]))
    >>> display = ErrorDisplay.from_estimator(model, X[:300])
    >>> display.n_repetitions
    array([  1,   2,   4,   8,  16,  32,  64, 128, 256, 512])
    """

    def __init__(
        self, *, n_repetitions: NDArray[np.int64], errors: Array, expected: Array, reference: str
    ) -> None:
        self.n_repetitions = n_repetitions
        self.errors = errors
        self.expected = expected
        self.reference = reference

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, exact: Any = None, ax: Axes | None = None, **kwargs: Any
    ) -> Self:
        """Measure the error of parts of a fitted sketch, and draw it.

        Parameters
        ----------
        estimator : NadarayaWatsonSketchRegressor or Pipeline
            Fitted, or a pipeline that ends in one; without bias correction, whose repetitions do not answer
            alone. Answers are means, also under ``aggregation="median_of_means"``.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Queries: some hundred are enough.
        exact : estimator or None, default=None
            A fitted :class:`~nwsketch.NadarayaWatsonRegressor` of the same rows, kernel and bandwidth: the
            errors are against its predictions for X. None takes the answers of all repetitions in their
            place (the module tells how).
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For :meth:`plot`.

        Returns
        -------
        display : ErrorDisplay

        Raises
        ------
        TypeError, ValueError
            If it is no such estimator, or has too few repetitions to be cut in two.
        ImportError
            If matplotlib is not installed.
        """
        require_matplotlib(cls)
        model = fitted_sketch(estimator)
        require_additive(model.sketch_.correction, cls.__name__)
        total = model.sketch_.n_repetitions
        sizes = _sizes(total, model.sketch_.plan.parameters.repetitions_together, exact is not None)
        rows = validate_queries(model, rows_before_sketch(estimator, X))
        with model.sketch_.paused():  # all of one state, if others learn meanwhile
            spread = to_host(model.sketch_.standard_error(rows, check_input=False))
            *by_size, (of_all,) = _answers(model, rows, [*sizes, total])
        if exact is None:
            truth = model._with_trend(rows, of_all)
        else:
            truth = np.asarray(to_host(exact.predict(X)), dtype=np.float64).reshape(rows.shape[0], -1)
        if truth.shape != (rows.shape[0], model._n_targets):
            raise ValueError(
                f"exact predicts {truth.shape[1]} outputs, but estimator {model._n_targets}: fit both on the "
                "same targets."
            )
        squares = [(model._with_trend(rows, answers) - truth) ** 2 for answers in by_size]
        errors = np.sqrt([_mean_of_known(square.reshape(-1, truth.shape[1])) for square in squares])
        if exact is None:
            errors /= np.sqrt(1.0 - np.array(sizes)[:, np.newaxis] / total)
        known = np.where(np.isnan(truth), np.nan, spread[:, : truth.shape[1]])
        expected = np.sqrt(_mean_of_known(known**2) * total / np.array(sizes)[:, np.newaxis])
        display = cls(
            n_repetitions=np.array(sizes),
            errors=errors,
            expected=expected,
            reference="all" if exact is None else "exact",
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the errors and the line of theory, on logarithmic axes.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a figure.
        **kwargs
            For the lines of the errors (``Axes.plot``).

        Returns
        -------
        self : ErrorDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = one_axes(type(self), ax)
        self.figure_ = self.ax_.figure
        self.line_, self.expected_line_ = [], []
        for output, label in enumerate(name_outputs("measured", self.errors.shape[1])):
            style = {"marker": "o", "linestyle": "none", "label": label} | kwargs
            line = self.ax_.plot(self.n_repetitions, self.errors[:, output], **style)[0]
            of_theory = self.ax_.plot(
                self.n_repetitions,
                self.expected[:, output],
                linestyle="--",
                color=line.get_color(),
                label="standard error, as 1 / sqrt(repetitions)" if output == 0 else None,
            )[0]
            self.line_.append(line)
            self.expected_line_.append(of_theory)
        against = {"exact": "the exact regression", "all": "all repetitions"}[self.reference]
        self.ax_.set(
            xscale="log", yscale="log", xlabel="repetitions", ylabel=f"error against {against} (rms)"
        )
        self.ax_.legend()
        return self


def _sizes(n_repetitions: int, together: int, up_to_all: bool) -> list[int]:
    """Return numbers of repetitions, each twice the one before; whole blocks of those drawn together."""
    if n_repetitions < 2 * together:
        raise ValueError(
            f"n_repetitions={n_repetitions} cannot be cut in two independent parts: fit with at least "
            f"{2 * together} repetitions."
        )
    largest = n_repetitions if up_to_all else n_repetitions // 2
    sizes = [together]
    while 2 * sizes[-1] <= largest:
        sizes.append(2 * sizes[-1])
    return sizes if not up_to_all or sizes[-1] == n_repetitions else [*sizes, n_repetitions]


def _answers(model: NadarayaWatsonSketchRegressor, rows: Any, sizes: list[int]) -> list[Array]:
    """Return what groups of repetitions answer: (n_groups, n_samples, n_outputs) for every size."""
    sketch = model.sketch_
    queries = sketch._queries(rows, check_input=False)
    step = max(BLOCK_SIZE // (sketch.n_repetitions * (sketch.n_outputs + 1)), 1)
    blocks = [_block_answers(model, queries[i : i + step], sizes) for i in range(0, rows.shape[0], step)]
    return [np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True)]


def _block_answers(model: NadarayaWatsonSketchRegressor, queries: Any, sizes: list[int]) -> list[Array]:
    sketch = model.sketch_
    state, totals = sketch._state, to_host(sketch._state.channel_totals)
    n_threads = count_threads(sketch.n_jobs)
    # Every repetition a group of its own.
    each = sketch._backend.sums(state, queries, sketch.n_repetitions, None, n_threads)
    sums, squares = (to_host(part) for part in each)
    answers = []
    for size in sizes:
        by_group = ratios(
            _grouped(sums, size),
            _grouped(squares, size) if sketch.plan.rehashed else squares,
            totals,
            n_repetitions=size,
            n_buckets=sketch.n_buckets if sketch.plan.rehashed else None,
            unit=state.unit,
            tolerance=tolerated(state),
        )
        filled = fill_empty(by_group, totals, sketch.empty, tolerated(state))
        if sketch.privacy is not None:
            filled = sketch.privacy.within_bounds(filled, sketch.empty)
        answers.append(filled[..., : model._n_targets].swapaxes(0, 1))
    return answers


def _grouped(values: Array, size: int) -> Array:
    """Add up every ``size`` neighbours along axis 1; what is left over at the end is left out."""
    n_groups = values.shape[1] // size
    whole = values[:, : n_groups * size]
    return whole.reshape(len(values), n_groups, size, *values.shape[2:]).sum(axis=2)


def _mean_of_known(values: Array) -> Array:
    """Return the means over axis 0, in which NaN (no answer) has no part; NaN where nothing is known."""
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))
