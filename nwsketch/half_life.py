"""Weights that halve with every so many later rows, at no cost per row and to the last bit.

Row number i of a stream is to weigh 2^(-age / half_life), its age being the number of rows after it. Instead
of decaying the tables, the clock lets new rows weigh more and more, 2^(i / half_life) from some row on
("forward decay": Cormode, Shkapenyuk, Srivastava & Xu, ICDE 2009): a ratio of sums does not see the
difference. Before such weights grow out of range, all that was learnt is multiplied by a power of two, which
rounds nothing. A row's weight is computed from its own position alone, so that any split of the rows into
batches leaves the same bits, up to that power (if the half-life is an integer, else nearly so).
"""

from __future__ import annotations

import sys
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwsketch.backends.base import Array
from nwsketch.tensors import like, to_host

if TYPE_CHECKING:
    from nwsketch.sketch import NadarayaWatsonSketch as Sketch

#: New rows weigh at most 2 to this power, beside those that the clock started with.
MOST_DOUBLINGS = 32


class Clock(NamedTuple):
    """Tells rows their weights; the sketch counts its rows, and the clock what that count leaves out.

    Parameters
    ----------
    half_life : float
        In rows.
    offset : float, default=0.0
        Position of the next row, less the number of rows that the sketch holds: what was forgotten is added,
        and a half-life taken off for every halving of the tables.
    """

    half_life: float
    offset: float = 0.0

    def position(self, n_rows: int) -> float:
        """Return that of the next row, of a sketch that holds ``n_rows``."""
        return n_rows + self.offset

    def halvings(self, n_rows: int, n_new: int) -> int:
        """Return how often the tables must be halved before ``n_new`` rows are added: 0 or many at once."""
        doublings = (self.position(n_rows) + n_new - 1) // self.half_life
        return 0 if doublings <= MOST_DOUBLINGS else int(doublings)

    def halved(self, n_halvings: int) -> Clock:
        """Return the clock of tables that were halved."""
        return self._replace(offset=self.offset - n_halvings * self.half_life)

    def forgot(self, n_gone: int) -> Clock:
        """Return the clock of a sketch that forgot rows: the others grow no younger by that."""
        return self._replace(offset=self.offset + n_gone)

    def unit(self, n_rows: int) -> float:
        """Return the weight of the newest row of a sketch that holds ``n_rows``."""
        return float(self._weigh(np.array([self.position(n_rows) - 1]))[0])

    def of_new(self, n_rows: int, X: Any, weights: Any) -> Any:
        """Return the weights of rows X that are added to a sketch that holds ``n_rows``: (n_samples,)."""
        weighed = like(X, self._weigh(self.position(n_rows) + np.arange(X.shape[0])))
        return weighed if weights is None else weights * weighed

    def of_old(self, n_rows: int, X: Any, weights: Any, age: ArrayLike | None) -> Any:
        """Return the weights that rows X have by now, by the number of rows after each: (n_samples,)."""
        if age is None:
            raise ValueError(
                f"With half_life={self.half_life:g} a row's weight depends on its age: give age, the number "
                "of rows learnt after each row."
            )
        n_old = X.shape[0]
        ages = np.asarray(to_host(age), dtype=np.float64)
        if ages.shape not in ((), (n_old,)) or not (np.isfinite(ages) & (ages >= 0)).all():
            raise ValueError(
                f"age={age!r} does not fit: give a number of rows, at least 0, for each of the {n_old} rows."
            )
        weighed = like(X, self._weigh(self.position(n_rows) - 1 - np.broadcast_to(ages, n_old)))
        return weighed if weights is None else weights * weighed

    def merged(self, mine: Sketch, theirs: Sketch, their_clock: Clock) -> tuple[Sketch, Clock]:
        """Return a merged copy of two sketches, in which the newest rows of both weigh the same."""
        here, there = self.position(mine.n_samples_seen), their_clock.position(theirs.n_samples_seen)
        factor = 2.0 ** (-abs(here - there) / self.half_life)
        merged = copy(mine).decay(factor if here > there else 1.0)
        merged.merge(theirs if here > there else copy(theirs).decay(factor))
        return merged, self._replace(offset=min(here, there) - merged.n_samples_seen)

    def _weigh(self, positions: NDArray[np.float64]) -> Array:
        """Return 2^(position / half_life), the whole half-lives exactly."""
        doublings, rest = np.divmod(positions, self.half_life)
        return np.ldexp(np.exp2(rest / self.half_life), np.maximum(doublings, -(2.0**30)).astype(np.int32))


def power_of_half(n_halvings: int) -> float:
    """Return 2^-n_halvings, or the smallest number that has all of its digits."""
    return max(2.0**-n_halvings, sys.float_info.min)


def require_no_age(age: ArrayLike | None) -> None:
    """Refuse the age of rows whose weight does not depend on it."""
    if age is not None:
        raise ValueError(
            "age was given, but half_life=None: rows keep their weight. If it was changed by hand, by the "
            "sketch's decay, give sample_weight as it is by now."
        )
