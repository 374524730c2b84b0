"""What is known of every example's loss: the sketch of all losses seen, and each example's own last loss.

The sketch predicts the loss of an example from the losses of its neighbours, also if it was never seen.
An example that comes back tells more of itself. Its score is a * (own last loss) + (1 - a) * (prediction),
where a = memory ** age, and the age is counted in passes: losses seen since, by the number of examples.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nwsketch.backends import Codes, State
from nwsketch.inputs import check_codes
from nwsketch.sketch import NadarayaWatsonSketch

Array = NDArray[np.float64]


class Exchange(Protocol):
    """What processes that train together do with their evidence (:class:`nwsketch.training.Ranks`)."""

    def add_up(self, *arrays: NDArray[Any]) -> None:
        """Replace arrays by their sums over all processes, in place."""

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Join arrays of all processes along their last axis, one item of each in turn."""


class Evidence:
    """Losses seen, and the scores that they give to all examples.

    Parameters
    ----------
    sketch : NadarayaWatsonSketch
        Empty, of one output.
    codes : Codes
        Of all n examples.
    memory : float or None
        Weight of an example's own last loss one pass later, within (0, 1]; None for the sketch alone.
    decay : float
        Weight of losses in the sketch one pass later, within (0, 1].
    ranks : Exchange or None, default=None
        Processes that train together: each brings its own losses, and all learn all of them.

    Attributes
    ----------
    sketch, codes
    last : ndarray of shape (n,), float64, or None
        Last loss of every example; NaN if there was none.
    clock : int
        Number of losses seen.
    seen_at : ndarray of shape (n,), int64
        The clock when the last loss of an example was seen, -1 if there was none.
    has_own_codes : bool
        Whether codes were replaced since the start.
    """

    def __init__(
        self,
        sketch: NadarayaWatsonSketch,
        codes: Codes,
        memory: float | None,
        decay: float,
        ranks: Exchange | None = None,
    ) -> None:
        self.sketch, self.codes = sketch, codes
        self._ranks, self._blank = ranks, copy(sketch) if ranks is not None else sketch
        self._memory, self._decay = memory, decay
        self.last = None if memory is None else np.full(len(codes), np.nan)
        self.clock = 0
        self.seen_at = np.full(len(codes), -1, dtype=np.int64)
        self.has_own_codes = False

    def learn(self, rows: NDArray[np.int64], losses: Array, codes: Codes | None = None) -> None:
        """Add losses, after older ones have decayed.

        Parameters
        ----------
        rows : ndarray of shape (n_new,), int64
            Examples; if one comes twice the later loss is remembered.
        losses : ndarray of shape (n_new,), float64
            Finite.
        codes : Codes or None, default=None
            Codes that these examples have from now on; None keeps them.
        """
        here = self.codes[rows] if codes is None else codes
        if self._ranks is None:
            self._fade(len(rows))
            self.sketch.update(here, losses)
        else:  # every process adds what it has seen itself, and tables are sums
            news = copy(self._blank)
            news.update(here, losses)
            self._ranks.add_up(*news._state)
            self._fade(news.n_samples_seen)
            self.sketch.merge(news)
            rows, losses = self._ranks.gather(rows), self._ranks.gather(losses)
            codes = None if codes is None else Codes(self._ranks.gather(codes.array))
        if codes is not None:
            self.codes[rows] = codes
            self.has_own_codes = True
        if self.last is not None:
            self.last[rows] = losses
        self.seen_at[rows] = self.clock + np.arange(1, len(rows) + 1)
        self.clock += len(rows)

    def rehearse(self, rows: NDArray[np.int64], losses: Array, codes: Codes | None = None) -> Array:
        """Return the scores that :meth:`learn` would lead to, and learn nothing: (n,)."""
        other = copy(self)
        other.sketch, other.codes = copy(self.sketch), Codes(self.codes.array.copy())
        other.last, other.seen_at = copy(self.last), self.seen_at.copy()
        other.learn(rows, losses, codes)
        return other.scores()

    def scores(self) -> Array:
        """Return the loss that is to be expected of every example: (n,); NaN before any was seen."""
        predicted = self.sketch.query(self.codes)[:, 0]
        if self.last is None or self._memory is None:
            return predicted
        trust = np.where(np.isnan(self.last), 0.0, self._memory ** self.ages())
        return np.asarray(trust * np.nan_to_num(self.last) + (1.0 - trust) * predicted)

    def ages(self) -> Array:
        """Return how many passes ago every example was seen; those never seen count from the start: (n,)."""
        return (self.clock - np.maximum(self.seen_at, 0)) / len(self.codes)

    def state(self) -> dict[str, Any]:
        """Return all that has been learnt, by name; codes only if they changed."""
        return {
            "tables": self.sketch._state.tables,
            "totals": self.sketch._state.totals,
            "last": self.last,
            "clock": self.clock,
            "seen_at": self.seen_at,
            "codes": self.codes.array if self.has_own_codes else None,
        }

    def require_like(self, state: dict[str, Any]) -> None:
        """Raise ValueError unless a state has arrays like those here, which compiled code reads unasked.

        Parameters
        ----------
        state : dict
        """
        mine = self.state() | {"codes": None if state.get("codes") is None else self.codes.array}
        for name, array in mine.items():
            theirs: Any = state.get(name)
            if name != "clock" and (np.shape(theirs), getattr(theirs, "dtype", None)) != (
                np.shape(array),
                getattr(array, "dtype", None),
            ):
                raise ValueError(
                    f"The state's {name} has shape {np.shape(theirs)}, here it has {np.shape(array)}: give "
                    "what state_dict() of such a sampler returned."
                )
        if state["codes"] is not None:
            check_codes(state["codes"], self.sketch.n_repetitions, self.sketch.n_buckets)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` of evidence of the same settings returned.

        Parameters
        ----------
        state : dict
        """
        self.sketch._state = State(state["tables"], state["totals"])
        self.last, self.clock, self.seen_at = state["last"], state["clock"], state["seen_at"]
        self.has_own_codes = state["codes"] is not None
        if self.has_own_codes:
            self.codes = Codes(state["codes"])

    def _fade(self, n_new: int) -> None:
        self.sketch.decay(self._decay ** (n_new / len(self.codes)))
