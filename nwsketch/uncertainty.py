"""Where the error of a prediction comes from: the sketch, or the targets themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nwsketch.backends.base import Array

if TYPE_CHECKING:
    from nwsketch.sketch import NadarayaWatsonSketch

#: The squares of what a correction leaves over are solved for, and may come out negative: nowhere does the
#: standard deviation fall below this part of its root mean square.
LEAST_PART = 0.1


class Uncertainty(NamedTuple):
    """Where the error of a prediction comes from, as standard deviations in units of the target.

    Attributes
    ----------
    sketch : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Of the prediction about that of infinitely many repetitions: what more repetitions would cure. NaN
        with a bias correction, whose repetitions are not independent; its part is in ``target``.
    target : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Of a new target about the prediction: what no number of repetitions cures.
    """

    sketch: Array
    target: Array


def tell_apart(sketch: NadarayaWatsonSketch, X: Any, answers: Array) -> Uncertainty:
    """Split the uncertainty of a sketch's answers.

    Parameters
    ----------
    sketch : NadarayaWatsonSketch
        The second half of its outputs holds squares: of the targets that the first half holds, or, if it is
        corrected, of what the correction leaves over.
    X : ndarray or canonical CSR of shape (n_samples, n_features)
        Queries.
    answers : ndarray of shape (n_samples, n_outputs)
        What :meth:`NadarayaWatsonSketch.query` says of them.

    Returns
    -------
    Uncertainty
        Each part of shape (n_samples, n_outputs / 2).
    """
    n_targets = sketch.n_outputs // 2
    means, squares = answers[:, :n_targets], answers[:, n_targets:]
    if sketch.correction is None:
        errors = sketch.standard_error(X, check_input=False)[:, :n_targets]
        variances = squares - means**2
    else:
        errors = np.full(means.shape, np.nan)
        variances = np.maximum(squares, LEAST_PART**2 * sketch.correction.offset[n_targets:])
    return Uncertainty(errors, np.sqrt(np.maximum(variances, 0.0)))
