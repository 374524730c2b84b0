"""StreamSelector: which rows of a candidate batch to train on, before any forward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwsketch.backends import Codes
from nwsketch.inputs import check_codes, check_integer
from nwsketch.regressor import NadarayaWatsonSketchRegressor
from nwsketch.sketch import NadarayaWatsonSketch
from nwsketch.training import policies
from nwsketch.training.arrays import as_losses, check_losses
from nwsketch.training.hashing import RowHasher
from nwsketch.training.kernels import draw

#: What the default sketch of a stream differs in: look-ups cost time at every step, and threads of its own
#: would compete with those of the model.
CHANGES: dict[str, Any] = {"n_repetitions": 8, "n_jobs": 1}
#: After the warm-up losses are learnt in lots of at least so many: small batches would cost more.
LOT = 1024
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
        self._handed_out: Codes | None = None
        self._waiting: list[tuple[Codes, NDArray[np.float64]]] = []
        self._n_waiting = self._n_learnt = self._n_skipped = 0

    @property
    def sketch(self) -> NadarayaWatsonSketch | None:
        """The sketch of the losses; None before the first batch."""
        return None if self._hasher is None else self._hasher.sketch

    @property
    def n_losses(self) -> int:
        """Number of losses given, without those skipped."""
        return self._n_learnt + self._n_waiting - self._n_waiting_in_vain()

    @property
    def n_skipped(self) -> int:
        """Number of losses skipped, as they were NaN or infinite."""
        return self._n_skipped + self._n_waiting_in_vain()

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
        if self.is_warming_up:
            rows, weights = policies.dynamic_random(len(codes), n_select, self._rng)
        else:
            rows, weights = self._draw(hasher.sketch.query(codes, check_input=False)[:, 0], n_select)
        self._handed_out = codes[rows]
        return Selection(rows, weights.astype(np.float32, copy=False), self._handed_out)

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
        values = as_losses(losses)
        if codes is not self._handed_out:
            check_codes(codes.array, hasher.sketch.n_repetitions, hasher.sketch.n_buckets)
        self._hasher = hasher
        self._waiting.append((codes, values))
        self._n_waiting += len(values)
        if self._n_waiting >= LOT or self.is_warming_up:
            self._learn(hasher.sketch)
        return self

    @property
    def is_warming_up(self) -> bool:
        """Whether rows are still selected uniformly."""
        return self.sketch is None or self.sketch.n_samples_seen < max(self.warmup, 1)

    # -- within -------------------------------------------------------------------------------

    def _draw(self, scores: NDArray[np.float64], n_select: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Draw by the policies: in one compiled call if the scores are such that it can."""
        scores = scores if self._clip is None else policies.clip(scores, self._clip)
        rows, weights = np.empty(n_select, dtype=np.int64), np.empty(n_select, dtype=np.float32)
        state = self._rng.bit_generator.state
        order, start = self._rng.permutation(len(scores)), self._rng.random()
        if draw(scores, self._exponent, self._uniform_share, order, start, rows, weights):
            shuffled = self._rng.permutation(n_select)
            return rows[shuffled], weights[shuffled]
        self._rng.bit_generator.state = state
        probabilities = policies.probabilities(scores, self._exponent, self._uniform_share)
        return policies.without_replacement(probabilities, n_select, self._rng)

    def _n_waiting_in_vain(self) -> int:
        return sum(int(np.count_nonzero(~np.isfinite(losses))) for _, losses in self._waiting)

    def _learn(self, sketch: NadarayaWatsonSketch) -> None:
        """Add what waits, and let later losses weigh more, which costs less than to decay all tables."""
        codes = Codes(np.hstack([codes.array for codes, _ in self._waiting]))
        losses = np.concatenate([losses for _, losses in self._waiting])
        self._waiting, self._n_waiting = [], 0
        finite = np.isfinite(losses)
        if not finite.all():
            self._n_skipped += len(losses) - int(finite.sum())
            codes, losses = codes[finite], losses[finite]
        self._n_learnt += len(losses)
        weights = np.full(len(losses), self._weight)
        sketch.update(codes, losses[:, np.newaxis], weights, check_input=False)
        if self.half_life is not None:
            self._weight *= 2.0 ** min(len(codes) / self.half_life, 64.0)
        if self._weight >= LARGEST_WEIGHT:
            sketch.decay(1.0 / self._weight)
            self._weight = 1.0
