"""What all displays share: axes to draw on, and the fitted sketch behind an estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from nwsketch.regressor import NadarayaWatsonSketchRegressor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def require_matplotlib(display: type) -> Any:
    """Return ``matplotlib.pyplot``.

    Parameters
    ----------
    display : type
        Who needs it, for the message.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f'{display.__name__} draws by matplotlib: pip install "nwsketch[plot]"') from error
    return pyplot


def one_axes(display: type, ax: Axes | None) -> Axes:
    """Return the axes that were given, or those of a new figure.

    Parameters
    ----------
    display : type
        Who draws.
    ax : matplotlib Axes or None

    Returns
    -------
    matplotlib Axes
    """
    pyplot = require_matplotlib(display)
    if ax is None:
        _, ax = pyplot.subplots(layout="constrained")
    return ax


def several_axes(display: type, axes: Any, n_rows: int, n_columns: int) -> Any:
    """Return axes that were given, or those of a new figure, one after the other.

    Parameters
    ----------
    display : type
        Who draws.
    axes : array-like of matplotlib Axes, or None
        As many as are needed, in any shape.
    n_rows, n_columns : int
        Of a new figure.

    Returns
    -------
    ndarray of shape (n_rows * n_columns,) of matplotlib Axes

    Raises
    ------
    ValueError
        If another number of axes was given.
    """
    pyplot = require_matplotlib(display)
    if axes is None:
        size = (5.2 * n_columns, 3.8 * n_rows)
        _, axes = pyplot.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
    flat = np.array(axes, dtype=object).ravel()
    if len(flat) != n_rows * n_columns:
        raise ValueError(
            f"ax holds {len(flat)} axes, but {display.__name__} draws on {n_rows * n_columns}: give as many, "
            "or None for a new figure."
        )
    return flat


def fitted_sketch(estimator: Any) -> NadarayaWatsonSketchRegressor:
    """Return the fitted sketch regressor that an estimator is, or that a pipeline ends in.

    Parameters
    ----------
    estimator : NadarayaWatsonSketchRegressor or Pipeline

    Returns
    -------
    NadarayaWatsonSketchRegressor

    Raises
    ------
    TypeError
        If it is something else.
    NotFittedError
        If it has learnt nothing.
    """
    regressor = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    if not isinstance(regressor, NadarayaWatsonSketchRegressor):
        raise TypeError(
            f"estimator is a {type(regressor).__name__}: give a fitted NadarayaWatsonSketchRegressor, or a "
            "pipeline that ends in one (of a search, its best_estimator_)."
        )
    check_is_fitted(regressor)
    return regressor


def rows_before_sketch(estimator: Any, X: Any) -> Any:
    """Return rows as the last step of a pipeline gets them; for any other estimator as they are.

    Parameters
    ----------
    estimator : estimator or Pipeline
    X : {array-like, sparse matrix} of shape (n_samples, n_features)

    Returns
    -------
    {array-like, sparse matrix} of shape (n_samples, n_features_of_last_step)
    """
    is_chain = isinstance(estimator, Pipeline) and len(estimator) > 1
    return estimator[:-1].transform(X) if is_chain else X


def name_outputs(label: str, n_outputs: int) -> list[str]:
    """Return a label for the line of every output; one output needs no number.

    Parameters
    ----------
    label : str
    n_outputs : int

    Returns
    -------
    list of str
    """
    return [label] if n_outputs == 1 else [f"{label}, output {i}" for i in range(n_outputs)]
