"""StreamSelector: which rows of a candidate batch to train on, before any forward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwsketch.backends import Codes
from nwsketch.consistent import changing
from nwsketch.inputs import LARGEST_SUM, check_codes, check_integer
from nwsketch.regressor import NadarayaWatsonSketchRegressor
from nwsketch.sketch import NadarayaWatsonSketch
from nwsketch.tensors import to_host
from nwsketch.training import policies
from nwsketch.training.arrays import as_losses, check_losses
from nwsketch.training.hashing import RowHasher
from nwsketch.training.kernels import choose, learn

#: What the default sketch of a stream differs in: look-ups cost time at every step, and threads of its own
#: would compete with those of the model.
CHANGES: dict[str, Any] = {"n_repetitions": 8, "n_jobs": 1}
#: Draws that one random order of candidates serves for; where each starts in it is drawn anew, which alone
#: makes the probabilities of rows exact.
USES = 16
#: Weights of new losses grow in place of older ones decaying; all are scaled down once they reach this.
LARGEST_WEIGHT = 2.0**64


class Selection(NamedTuple):
    """Rows of a candidate batch to train on.

    Attributes
    ----------
    rows : ndarray of shape (n_select,), int64
        In random order.
    weights : ndarray of shape (n_select,), float32
    codes : Codes
        Of these rows, for :meth:`StreamSelector.update`.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float32]
    codes: Codes


class StreamSelector:
    """Select rows of a stream by the loss that a sketch expects of them.

    No example comes back, so the sketch alone knows something of it: losses of rows like it. A step costs
    one hashing of the candidates and ``n_repetitions`` look-ups each. The first batch of candidates decides
    the number of features, bandwidths like ``"scale"``, and the centre of the default sketch.

    Parameters
    ----------
    n_labels : int, default=0
        With 1 or more, rows are told apart by a label below it: their class, if it is known beforehand.
    sketch : NadarayaWatsonSketchRegressor or None, default=None
        Unfitted. None is :data:`nwsketch.training.hashing.DEFAULTS`, on rows less the first batch's mean.
    exponent : float, default=1.0
        Probabilities are proportional to this power of the expected loss.
    uniform_share : float, default=0.1
        Mixed in, so that no weight exceeds its inverse; within [0, 1].
    warmup : int, default=4096
        Rows are selected uniformly until so many losses were seen.
    half_life : int or None, default=2048
        Losses after which older ones weigh half, since the model moves on; None for never.
    clip : float or None, default=None
        Quantile that larger scores are lowered to (:func:`~nwsketch.training.policies.clip`).
    seed : int
        Of the hashes and of the draws. The generator is private.

    Attributes
    ----------
    n_losses : int
        Number of losses learnt.
    n_skipped : int
        Number of losses skipped, as they were NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> from nwsketch.training import StreamSelector
    >>> rng = np.random.default_rng(0)
    >>> selector = StreamSelector(warmup=256, seed=0)
    >>> for _ in range(20):
    ...     candidates = rng.normal(size=(512, 4))
    ...     rows, weights, codes = selector.select(candidates, n_select=128)
    ...     losses = (candidates[rows, 0] > 0.5) + 0.01  # what training would tell
    ...     selector = selector.update(codes, losses)
    >>> candidates = rng.normal(size=(512, 4))
    >>> chosen = candidates[selector.select(candidates, n_select=128).rows]
    >>> bool((chosen[:, 0] > 0.5).mean() > 1.5 * (candidates[:, 0] > 0.5).mean())
    True
    """

    def __init__(
        self,
        *,
        n_labels: int = 0,
        sketch: NadarayaWatsonSketchRegressor | None = None,
        exponent: float = 1.0,
        uniform_share: float = 0.1,
        warmup: int = 4096,
        half_life: int | None = 2048,
        clip: float | None = None,
        seed: int,
    ) -> None:
        self.n_labels = check_integer("n_labels", n_labels, 0)
        self.warmup = check_integer("warmup", warmup, 0)
        self.half_life = None if half_life is None else check_integer("half_life", half_life, 1)
        policies.probabilities(np.ones(1), exponent, uniform_share, clip)  # which checks the arguments
        self._exponent, self._uniform_share, self._clip = float(exponent), float(uniform_share), clip
        self._estimator, self._seed = sketch, check_integer("seed", seed, 0)
        self._rng = np.random.default_rng(self._seed)
        self._hasher: RowHasher | None = None
        self._weight = 1.0
        self.n_losses = self.n_skipped = self._n_uses = 0
        self._orders = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)

    @property
    def sketch(self) -> NadarayaWatsonSketch | None:
        """The sketch of the losses; None before the first batch."""
        return None if self._hasher is None else self._hasher.sketch

    def select(self, features: Any, labels: ArrayLike | None = None, *, n_select: int) -> Selection:
        """Choose rows to train on.

        Parameters
        ----------
        features : array-like, tensor or sparse matrix of shape (n_candidates, n_features)
        labels : array-like or tensor of shape (n_candidates,), int, or None, default=None
            Within ``[0, n_labels)``.
        n_select : int
            Within [1, n_candidates].

        Returns
        -------
        Selection
            A draw of fixed size without replacement: the plain mean of weight * g over its rows estimates the
            mean of g over the candidates, without bias.

        Raises
        ------
        ValueError
            If the input is not as described.
        """
        hasher = self._hasher
        if hasher is None:
            hasher = RowHasher(features, self.n_labels, self._estimator, self._seed, **CHANGES)
        codes = hasher.hash(features, labels)
        if check_integer("n_select", n_select, 1) > len(codes):
            raise ValueError(
                f"n_select={n_select} exceeds the {len(codes)} candidates: give fewer, or more rows."
            )
        self._hasher = hasher
        if not self.is_warming_up:
            return self._choose(hasher.sketch, codes, n_select)
        drawn = policies.dynamic_random(len(codes), n_select, self._rng)
        return Selection(drawn.rows, drawn.weights.astype(np.float32), codes[drawn.rows])

    def update(self, features_or_codes: Any, losses: Any, labels: ArrayLike | None = None) -> StreamSelector:
        """Learn the losses of rows, usually those of a selection.

        Parameters
        ----------
        features_or_codes : Codes, array-like, tensor or sparse matrix
            ``selection.codes``, which spares hashing them again; or features as in :meth:`select`.
        losses : array-like or tensor of shape (n_rows,)
            One loss per row, or any other score. Rows whose loss is NaN or infinite are skipped, and counted
            in ``n_skipped``.
        labels : array-like or tensor of shape (n_rows,), int, or None, default=None
            With features as in :meth:`select`; with codes None.

        Returns
        -------
        self : StreamSelector

        Raises
        ------
        ValueError
            If the input is not as described.
        """
        hasher = self._hasher
        if isinstance(features_or_codes, Codes):
            if hasher is None:
                raise ValueError(
                    "These codes are of another selector: this one has not seen any candidates yet."
                )
            codes = features_or_codes
        else:
            if hasher is None:
                hasher = RowHasher(features_or_codes, self.n_labels, self._estimator, self._seed, **CHANGES)
            codes = hasher.hash(features_or_codes, labels)
        check_losses(losses, len(codes))
        values = np.asarray(to_host(losses))
        values = values if values.dtype.char in "fd" else as_losses(values)
        self._hasher = hasher
        self._learn(hasher.sketch, codes, values)
        return self

    @property
    def is_warming_up(self) -> bool:
        """Whether rows are still selected uniformly."""
        return self.sketch is None or self.sketch.n_samples_seen < max(self.warmup, 1)

    # -- within -------------------------------------------------------------------------------

    def _choose(self, sketch: NadarayaWatsonSketch, codes: Codes, n_select: int) -> Selection:
        """Draw by the losses that the sketch expects: in one compiled call, if all is as usual."""
        rules, state = sketch._rules, sketch._state
        if self._clip is None and rules.aggregation == rules.empty == "mean":
            rows, weights = np.empty(n_select, dtype=np.int64), np.empty(n_select, dtype=np.float32)
            theirs = np.empty((sketch.n_repetitions, n_select), dtype=codes.array.dtype)
            done, _ = choose(
                codes.array,
                state.tables,
                state.totals,
                float(rules.n_buckets or np.inf),
                self._exponent,
                self._uniform_share,
                *self._random_order(len(codes), n_select),
                rows,
                weights,
                theirs,
            )
            if done:
                return Selection(rows, weights, Codes(theirs))
        scores = sketch.query(codes, check_input=False)[:, 0]
        probabilities = policies.probabilities(scores, self._exponent, self._uniform_share, self._clip)
        drawn = policies.without_replacement(probabilities, n_select, self._rng)
        return Selection(drawn.rows, drawn.weights.astype(np.float32), codes[drawn.rows])

    def _random_order(self, n_rows: int, n_select: int) -> tuple[NDArray[np.int64], float, NDArray[np.int64]]:
        """Return an order of candidates and one of rows drawn, which serve for a while, and a start."""
        order, places = self._orders
        if self._n_uses == USES or order.size != n_rows or places.size != n_select:
            order, places = self._orders = self._rng.permutation(n_rows), self._rng.permutation(n_select)
            self._n_uses = 0
        self._n_uses += 1
        return order, self._rng.random(), places

    def _learn(self, sketch: NadarayaWatsonSketch, codes: Codes, losses: NDArray[Any]) -> None:
        """Add losses, and let later ones weigh more, which costs less than to decay all tables."""
        array, done = np.ascontiguousarray(codes.array), False
        with sketch._lock:
            state = sketch._state
            if not sketch._backend.is_shared(state):
                with changing(sketch._backend):
                    done, _ = learn(array, losses, self._weight, LARGEST_SUM, state.tables, state.totals)
        if not done:
            check_codes(codes.array, sketch.n_repetitions, sketch.n_buckets)
            finite = np.isfinite(losses)
            codes, targets = codes[finite], losses[finite, np.newaxis].astype(np.float64)
            sketch.update(codes, targets, np.full(len(targets), self._weight), check_input=False)
            self.n_skipped += len(losses) - len(targets)
            losses = targets
        self.n_losses += len(losses)
        if self.half_life is not None:
            self._weight *= 2.0 ** min(len(losses) / self.half_life, 64.0)
        if self._weight >= LARGEST_WEIGHT:
            sketch.decay(1.0 / self._weight)
            self._weight = 1.0
