"""What the training loop reported: losses that wait to be learnt, and the record of the present epoch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from nwsketch.backends import Codes
from nwsketch.training.arrays import as_losses
from nwsketch.training.policies import variance_ratio

Array = NDArray[np.float64]
#: Losses from here on are skipped as infinite ones are: sums of them could overflow.
LARGEST_LOSS = 1e150


class News(NamedTuple):
    """Losses that were not learnt yet.

    Attributes
    ----------
    rows : ndarray of shape (n_new,), int64
    losses : ndarray of shape (n_new,), float64
        Finite.
    codes : Codes or None
        Codes that the rows have from now on, if any were given.
    """

    rows: NDArray[np.int64]
    losses: Array
    codes: Codes | None


class Journal:
    """Losses as they come in.

    Losses on an accelerator stay there until they are needed: a training step does not wait for them.

    Attributes
    ----------
    news : News
        To be learnt.
    record : ndarray of shape (4, n_seen), float64
        Of the present epoch: loss, score before it was seen, weight that the policy would give, weight that
        the example was drawn with.
    n_skipped : int
        Losses that were NaN, infinite or at least :data:`LARGEST_LOSS`, in all epochs.
    """

    def __init__(self) -> None:
        self.news = News(np.empty(0, dtype=np.int64), np.empty(0), None)
        self.record = np.empty((4, 0))
        self.n_skipped = 0
        self._waiting: list[tuple[NDArray[np.int64], Any, Codes | None]] = []

    def add(self, rows: NDArray[np.int64], losses: Any, codes: Codes | None) -> None:
        """Note losses of checked shape; those on the host are copied, others stay where they are.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), int64
        losses : array or tensor of shape (n_rows,)
        codes : Codes or None
        """
        on_host = getattr(getattr(losses, "device", None), "type", "cpu") == "cpu"
        self._waiting.append((rows, as_losses(losses) if on_host else losses.detach().clone(), codes))

    def settle(self, all_codes: Codes, scores: Array, policy_weights: Array, sampled: bool) -> None:
        """Fetch what waits, leave out losses that are not usable, and enter the others in the record.

        Parameters
        ----------
        all_codes : Codes
            Of all n examples.
        scores, policy_weights : ndarray of shape (n,)
            What was predicted before these losses were seen, and the weights that follow from it.
        sampled : bool
            Whether the examples were drawn with these weights; if not, with weight 1.
        """
        if not self._waiting:
            return
        rows = np.concatenate([rows for rows, _, _ in self._waiting])
        losses = np.concatenate([as_losses(losses) for _, losses, _ in self._waiting])
        codes = _codes_of([(rows, given) for rows, _, given in self._waiting], all_codes)
        self._waiting = []
        finite = np.abs(losses) < LARGEST_LOSS  # nor NaN
        self.n_skipped += int(len(losses) - finite.sum())
        rows, losses = rows[finite], losses[finite]
        weights = policy_weights[rows]
        entry = np.stack([losses, scores[rows], weights, weights if sampled else np.ones(len(rows))])
        self.record = np.hstack([self.record, entry])
        self.news = self._joined(News(rows, losses, None if codes is None else codes[finite]), all_codes)

    def take_news(self) -> News:
        """Return what is to be learnt, and forget it."""
        news, self.news = self.news, News(np.empty(0, dtype=np.int64), np.empty(0), None)
        return news

    def first_half(self) -> News:
        """Return what came first of what is to be learnt; it stays to be learnt."""
        rows, losses, codes = self.news
        first = slice(0, len(rows) // 2)
        return News(rows[first], losses[first], None if codes is None else codes[first])

    def predict(self, scores: Array, policy_weights: Array) -> None:
        """Enter in the record what the first half of what is to be learnt predicts of the second.

        Parameters
        ----------
        scores, policy_weights : ndarray of shape (n,)
            As for :meth:`settle`.
        """
        second = self.news.rows[len(self.news.rows) // 2 :]
        latest = slice(self.record.shape[1] - len(second), None)
        self.record[1, latest], self.record[2, latest] = scores[second], policy_weights[second]

    def state(self) -> dict[str, Any]:
        """Return what is settled."""
        rows, losses, codes = self.news
        return {
            "rows": rows,
            "losses": losses,
            "codes": None if codes is None else codes.array,
            "record": self.record,
            "n_skipped": self.n_skipped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned.

        Parameters
        ----------
        state : dict
        """
        codes = None if state["codes"] is None else Codes(state["codes"])
        self.news = News(state["rows"], state["losses"], codes)
        self.record, self.n_skipped, self._waiting = state["record"], state["n_skipped"], []

    def start_epoch(self) -> None:
        """Begin the record anew."""
        self.record = np.empty((4, 0))

    def gain(self) -> float:
        """Return the :func:`~nwsketch.training.policies.variance_ratio` of the record; NaN without scores."""
        losses, _, weights, drawn_with = self.record[:, np.isfinite(self.record[1])]
        return variance_ratio(losses, weights, drawn_with)

    def rank_correlation(self) -> float:
        """Return Spearman's correlation of the scores with the losses then seen; NaN if one is constant."""
        losses, scores, *_ = self.record[:, np.isfinite(self.record[1])]
        ranks = rankdata(losses), rankdata(scores)
        if len(losses) < 2 or min(np.ptp(rank) for rank in ranks) == 0:
            return float("nan")
        return float(np.corrcoef(*ranks)[0, 1])

    def _joined(self, more: News, all_codes: Codes) -> News:
        """Return the news with more at the end; codes of all of them if any has codes of its own."""
        before = self.news
        codes = _codes_of([(before.rows, before.codes), (more.rows, more.codes)], all_codes)
        rows = np.concatenate([before.rows, more.rows])
        return News(rows, np.concatenate([before.losses, more.losses]), codes)


def _codes_of(parts: list[tuple[NDArray[np.int64], Codes | None]], all_codes: Codes) -> Codes | None:
    """Return the codes of rows that were reported part after part; None if none came with codes.

    Rows that came without have those that they were last reported with, or else their old ones.
    """
    if all(codes is None for _, codes in parts):
        return None
    array = np.hstack([(all_codes[rows] if codes is None else codes).array for rows, codes in parts])
    if any(codes is None for _, codes in parts):
        place, latest = 0, dict[int, int]()
        for rows, codes in parts:
            for i, row in enumerate(rows.tolist(), place):
                if codes is not None:
                    latest[row] = i
                elif row in latest:
                    array[:, i] = array[:, latest[row]]
            place += len(rows)
    return Codes(array)
