"""Whether an epoch is drawn by scores: the rule of ``switch="auto"``."""

from __future__ import annotations

from typing import Literal

import numpy as np

#: Sampling must bring the estimated variance of a step below this share of that of uniform sampling.
PAYS_BELOW = 0.9


def decide(is_warming_up: bool, switch: Literal["auto"] | None, gain: float) -> tuple[str, str]:
    """Return how the next epoch is drawn, and why.

    Parameters
    ----------
    is_warming_up : bool
    switch : {"auto"} or None
        None draws by scores once the warm-up is over.
    gain : float
        The :func:`~nwsketch.training.policies.variance_ratio` of the epoch before, with scores that were
        known before its losses were seen; NaN if there were none.

    Returns
    -------
    mode : {"uniform", "sampled"}
    why : str
    """
    if is_warming_up:
        return "uniform", "warm-up"
    if switch is None:
        return "sampled", "the warm-up is over"
    if np.isnan(gain):
        return "uniform", "no losses were predicted before they were seen"
    if gain < PAYS_BELOW:
        return "sampled", f"the variance ratio was {gain:.3f}, below {PAYS_BELOW}"
    return "uniform", f"sampling would not pay: the variance ratio was {gain:.3f}, not below {PAYS_BELOW}"
