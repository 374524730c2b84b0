"""SketchSampler: which examples an epoch trains on, and with which weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import ceil
from typing import Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, Sampler

from nwsketch.inputs import check_integer
from nwsketch.regressor import NadarayaWatsonSketchRegressor
from nwsketch.training import policies
from nwsketch.training.arrays import as_index, check_factor, check_losses
from nwsketch.training.dataset import REMEDY, WeightedDataset, WeightedIndex
from nwsketch.training.distributed import Ranks, is_distributed
from nwsketch.training.evidence import Array, Evidence
from nwsketch.training.hashing import RowHasher, as_rows, number_labels
from nwsketch.training.journal import Journal
from nwsketch.training.report import EpochReport
from nwsketch.training.state import as_arrays, as_tensors
from nwsketch.training.stopwatch import Stopwatch
from nwsketch.training.switch import decide
from nwsketch.training.uniform import UniformPasses

#: Version of what ``state_dict`` returns.
STATE_VERSION = 1
#: What a state keeps of the present epoch: attributes of the sampler, with an underscore in front.
PLAN = ("n_begun", "cursor", "n_drawn", "mode", "why", "rows", "weights", "scores", "policy_weights")


class SketchSampler(Sampler[WeightedIndex]):
    """Draw training examples by the loss that a sketch, and their own last losses, let expect.

    The first epochs draw uniformly. Then every example's loss is predicted by a few table look-ups, without a
    forward pass; examples are drawn in proportion to it, each with the weight that keeps the weighted
    mean of a batch an unbiased estimate of the mean over all examples. Losses seen in training flow back
    through :meth:`update`; older ones decay.

    Parameters
    ----------
    features : array-like, tensor or sparse matrix of shape (n_samples, n_features)
        What tells which examples are alike: raw inputs, or embeddings of any network. Hashed once.
    labels : array-like or tensor of shape (n_samples,) or None, default=None
        Classes, as integers or strings: examples of different classes do not count as alike. Recommended
        where there are classes, as the loss depends on them as much as on the features.
    num_samples : int
        Examples of an epoch (of all processes together). At most n_samples without replacement.
    sketch : NadarayaWatsonSketchRegressor or None, default=None
        Unfitted; its kernel, bandwidth and size are taken. None is
        :data:`nwsketch.training.hashing.DEFAULTS`, on features less their mean.
    exponent : float, default=1.0
        Probabilities are proportional to this power of the expected loss; less is wiser if losses are noisy.
    replacement : bool, default=False
        Whether an example may be drawn several times in an epoch.
    uniform_share : float, default=0.1
        Mixed in, so that no weight exceeds its inverse; within [0, 1]. With 0, examples whose expected loss
        is 0 are not drawn any more.
    warmup_epochs : float, default=1
        Passes over all examples, n_samples each, to start with; rounded up to epochs of ``num_samples``.
    switch : {"auto"} or None, default="auto"
        None samples from the end of the warm-up on. ``"auto"`` draws uniformly in an epoch unless sampling
        would have paid in the one before: with the losses l seen there and the weights w that the policy gave
        to them *before* they were seen, sum(w l^2) / sum(l^2) must lie below 0.9
        (:func:`~nwsketch.training.policies.variance_ratio`). A first epoch's first half predicts the second.
    memory : float or None, default=0.5
        Weight of an example's own last loss, one pass later, against the prediction of the sketch; within
        (0, 1]. None leaves all to the sketch.
    decay : float, default=0.1
        Weight of losses in the sketch one pass later, within (0, 1].
    refresh : {"epoch"} or int, default="epoch"
        Scores are computed anew at the start of every epoch, or after every so many examples drawn; each such
        part is a draw of its own, also without replacement. Prefetching workers run ahead of the losses.
    clip : float or None, default=None
        Quantile that larger scores are lowered to: a guard against wrong labels
        (:func:`~nwsketch.training.policies.clip`).
    seed : int
        Of the hashes and of the draws. The generator is private.
    ranks : Ranks, "auto" or None, default="auto"
        Processes that train together: process 0 draws, each takes a shard, all learn from the losses of all.
        ``"auto"`` is all of ``torch.distributed`` if that is initialised; None keeps to this process.

    Attributes
    ----------
    epoch : int
        Number, from 0, of the epoch that the next pass begins or goes on with.
    is_resuming : bool
        Whether it goes on: as after :meth:`load_state_dict` in the middle of an epoch.
    remaining : int
        Examples of the present epoch that no losses were reported for.
    evidence : Evidence
        The sketch, the codes and the remembered losses.

    Raises
    ------
    ValueError
        If an argument is out of range, or the arguments do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from nwsketch.training import SketchSampler
    >>> x, y = torch.randn(1000, 5), torch.arange(1000) % 2
    >>> sampler = SketchSampler(x, labels=y, num_samples=500, seed=0)
    >>> loader = DataLoader(sampler.wrap(TensorDataset(x, y)), batch_size=100, sampler=sampler)
    >>> for epoch in range(3):
    ...     for index, weight, (inputs, targets) in loader:
    ...         losses = 0.1 + (inputs[:, 0] > 1)  # in earnest: cross_entropy(..., reduction="none")
    ...         sampler.update(index, losses)
    >>> sampler.metrics()["mode"], len(sampler)
    ('sampled', 500)
    """

    def __init__(
        self,
        features: Any,
        *,
        labels: Any = None,
        num_samples: int,
        sketch: NadarayaWatsonSketchRegressor | None = None,
        exponent: float = 1.0,
        replacement: bool = False,
        uniform_share: float = 0.1,
        warmup_epochs: float = 1,
        switch: Literal["auto"] | None = "auto",
        memory: float | None = 0.5,
        decay: float = 0.1,
        refresh: Literal["epoch"] | int = "epoch",
        clip: float | None = None,
        seed: int,
        ranks: Ranks | Literal["auto"] | None = "auto",
    ) -> None:
        self._stopwatch = Stopwatch()
        with self._stopwatch.measure():
            rows = as_rows(features)
            numbers, n_labels = (None, 0) if labels is None else number_labels(labels, rows.shape[0])
            hasher = RowHasher(rows, n_labels, sketch, check_integer("seed", seed, 0))
            codes = hasher.hash(rows, numbers)
        self._hasher, self._labels = hasher, numbers
        self._ranks = (Ranks() if is_distributed() else None) if ranks == "auto" else ranks
        self._n_rows = len(codes)
        self.num_samples = check_integer("num_samples", num_samples, 1)
        self.replacement = bool(replacement)
        self._part = self.num_samples if refresh == "epoch" else check_integer("refresh", refresh, 1)
        self._check_sizes()
        self._probabilities = partial(
            policies.probabilities, exponent=exponent, uniform_share=uniform_share, quantile=clip
        )
        self._probabilities(np.ones(1))  # which checks the arguments
        if switch not in ("auto", None):
            raise ValueError(f"Unknown switch={switch!r}: choose 'auto' or None.")
        self.switch = switch
        if not 0 <= warmup_epochs < np.inf:
            raise ValueError(
                f"warmup_epochs={warmup_epochs!r} is out of range: give a finite number from 0 on."
            )
        self._n_warmup = ceil(warmup_epochs * self._n_rows / self.num_samples)
        check_factor("decay", decay)
        if memory is not None:
            check_factor("memory", memory)
        self.evidence = Evidence(hasher.sketch, codes, memory, decay, self._ranks)
        self._settings = {
            "n_samples": self._n_rows,
            "num_samples": self.num_samples,
            "replacement": self.replacement,
            "memory": memory is not None,
            "processes": self._n_ranks,
            "hashes": hasher.sketch.plan.fingerprint(),
            "codes": crc32(codes.array.tobytes()),
        }
        self._require_same_everywhere()
        self._rng = np.random.default_rng(seed)
        self._uniform = UniformPasses(self._n_rows, self._rng)
        self._journal = Journal()
        self._is_wrapped = self.is_resuming = False
        self._n_begun = self._cursor = self._n_drawn = 0
        self._rows, self._weights = np.empty(0, dtype=np.int64), np.empty(0)
        self._scores, self._policy_weights = np.full(self._n_rows, np.nan), np.ones(self._n_rows)
        self._mode, self._why = "uniform", "no epoch has begun"

    # -- the protocol of a sampler ------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of examples of an epoch: ``num_samples``, or this process's share of it."""
        return self.num_samples // self._n_ranks

    def __iter__(self) -> Iterator[WeightedIndex]:
        """Begin an epoch, or go on with the one that :meth:`load_state_dict` restored."""
        if not self._is_wrapped:
            raise RuntimeError(f"No data set was wrapped, so batches would carry no weights: use {REMEDY}.")
        self._stopwatch.start_epoch()
        if not self.is_resuming:
            self._begin_epoch()
        self.is_resuming = False
        return self._hand_out(self._cursor)

    def wrap(self, dataset: Any) -> WeightedDataset:
        """Return a data set whose samples come as (index, weight, sample).

        Parameters
        ----------
        dataset : map-style data set
            Its i-th sample belongs to row i of the features.

        Returns
        -------
        WeightedDataset

        Raises
        ------
        TypeError, ValueError
            If it is a stream, or not as long as the features.
        """
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise TypeError(
                f"{type(dataset).__name__} has no length, so its samples cannot be drawn by index: use "
                "nwsketch.training.StreamSelector for streams."
            )
        if len(dataset) != self._n_rows:
            raise ValueError(
                f"The data set has {len(dataset)} samples, but features {self._n_rows} rows: give the "
                "features of the very samples, in their order."
            )
        self._is_wrapped = True
        return WeightedDataset(dataset)

    @property
    def epoch(self) -> int:
        """Number, from 0, of the epoch that the next pass begins or goes on with."""
        return self._n_begun - self.is_resuming

    @property
    def remaining(self) -> int:
        """Examples of the present epoch that no losses were reported for."""
        return len(self) - self._cursor

    # -- feedback -----------------------------------------------------------------------------

    def update(self, index: Any, losses: Any, features: Any = None) -> None:
        """Report the losses of a batch; once for every batch, in the order in which they came.

        Parameters
        ----------
        index : array-like or tensor of shape (n_batch,), int
            As it came with the batch.
        losses : array-like or tensor of shape (n_batch,)
            One loss per example, not weighted; or any other number that tells how much it matters, such as
            :func:`~nwsketch.training.gradient_norm_bound`. NaN, infinite ones and those from 1e150 on are
            skipped and counted, negative ones count as 0 once they become scores.
        features : array-like or tensor of shape (n_batch, n_features) or None, default=None
            New features of these examples, such as the network's own embeddings, as wide as the first ones:
            they are hashed anew.

        Raises
        ------
        ValueError
            If the input is not as described; nothing changes then.
        """
        with self._stopwatch.measure():
            rows = as_index(index, self._n_rows)
            check_losses(losses, len(rows))
            codes = None
            if features is not None:
                codes = self._hasher.hash(features, None if self._labels is None else self._labels[rows])
                if len(codes) != len(rows):
                    raise ValueError(f"features has {len(codes)} rows, but {len(rows)} examples were named.")
            self._journal.add(rows, losses, codes)
            self.skip(len(rows))

    def skip(self, n_examples: int) -> None:
        """Count examples as trained on, of which no losses will be reported.

        Parameters
        ----------
        n_examples : int
            Fewer if fewer remain in the epoch.
        """
        self._cursor = min(self._cursor + n_examples, len(self))

    def finish_epoch(self) -> None:
        """Take the present epoch for over, although not all of it was trained on.

        For loops that leave a remainder out, as with ``drop_last=True``: a state that is saved from now on
        does not go on with the remainder, but begins the next epoch.
        """
        self._cursor = len(self)

    def resume_epoch(self) -> None:
        """Let the next pass go on with the present epoch after the last :meth:`update`, unless it is over.

        For loops that make a new iterator within an epoch. What was prefetched by the old one comes again.
        """
        self.is_resuming = self._n_begun > 0 and self._cursor < len(self)

    def metrics(self) -> dict[str, Any]:
        """Tell how the present epoch goes: to be called after its last batch.

        Returns
        -------
        dict
            ``epoch`` (from 0), ``mode`` ("uniform" or "sampled") and ``why``; of this process's draw,
            ``effective_sample_size`` (sum of weights, squared, by sum of squares), ``largest_weight`` and
            ``distinct_share``; ``variance_ratio`` and ``rank_correlation`` (Spearman's) of the scores with
            the losses then seen in this epoch; ``evidence_age`` (mean, in passes) and ``never_seen_share``
            of all examples; ``n_losses`` and ``n_skipped`` (not finite) of all epochs;
            ``overhead_seconds``, of hashing, scoring, drawing and updating, and ``overhead_share`` of the
            time of all epochs. NaN where nothing is known.
        """
        self._settle()
        return {
            "epoch": self._n_begun - 1,
            "mode": self._mode,
            "why": self._why,
            "effective_sample_size": policies.effective_size(self._weights),
            "largest_weight": float(self._weights.max(initial=0.0)),
            "distinct_share": len(np.unique(self._rows)) / max(len(self._rows), 1),
            "variance_ratio": self._journal.gain(),
            "rank_correlation": self._journal.rank_correlation(),
            "evidence_age": float(self.evidence.ages().mean()),
            "never_seen_share": float((self.evidence.seen_at < 0).mean()),
            "n_losses": self.evidence.clock + len(self._journal.news.rows),
            "n_skipped": self._journal.n_skipped,
            "overhead_seconds": self._stopwatch.overhead,
            "overhead_share": self._stopwatch.overhead / max(self._stopwatch.training, 1e-9),
        }

    def report(self) -> EpochReport:
        """Tell what was drawn in the present epoch, and which losses came of it, example by example.

        Returns
        -------
        EpochReport
            Copies; :class:`nwsketch.plotting.SamplerDisplay` draws them.
        """
        self._settle()
        losses, predicted, *_ = self._journal.record.copy()
        labels, n_labels = self._labels, self._hasher.sketch.n_labels
        return EpochReport(
            self._rows.copy(),
            self._weights.copy(),
            None if labels is None else labels[self._rows].astype(np.int64),
            None if labels is None else np.bincount(labels, minlength=n_labels),
            predicted,
            losses,
        )

    # -- state --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on, also in the middle of an epoch.

        The place in the epoch is that of the last :meth:`update`, not of what was prefetched. Made of
        tensors, numbers and strings. Each of several processes has a state of its own.

        Returns
        -------
        dict
        """
        self._settle()
        state = {
            "version": STATE_VERSION,
            "settings": dict(self._settings),
            **{name: getattr(self, f"_{name}") for name in PLAN},
            "generator": self._rng.bit_generator.state,
            "uniform": self._uniform.state(),
            "evidence": self.evidence.state(),
            "journal": self._journal.state(),
        }
        return as_tensors(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state; the next pass goes on where it was left, in the middle of an epoch too.

        Parameters
        ----------
        state : dict
            Of a sampler made with the same features, labels, sketch, seed and sizes.

        Raises
        ------
        ValueError
            If it is of another version, or of a sampler of other settings. Nothing changes then.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"The state has version {state.get('version')!r}, but this sampler reads {STATE_VERSION}: "
                "load it with the version of nwsketch that saved it."
            )
        missing = {"settings", "generator", "uniform", "evidence", "journal", *PLAN} - state.keys()
        if missing:
            raise ValueError(f"The state lacks {sorted(missing)}: give what state_dict() returned, whole.")
        for name, mine in self._settings.items():
            if state["settings"][name] != mine:
                raise ValueError(
                    f"The state is of another sampler: {name}={state['settings'][name]!r}, here {mine!r}. "
                    "Make this one with the same features, labels, sketch, seed and sizes."
                )
        state = as_arrays(state)
        self.evidence.require_like(state["evidence"])
        self._rng.bit_generator.state = state["generator"]
        self._uniform.restore(state["uniform"])
        self.evidence.restore(state["evidence"])
        self._journal.restore(state["journal"])
        for name in PLAN:
            setattr(self, f"_{name}", state[name])
        self.resume_epoch()

    # -- within -------------------------------------------------------------------------------

    @property
    def _n_ranks(self) -> int:
        return 1 if self._ranks is None else self._ranks.size

    def _begin_epoch(self) -> None:
        """Learn what the last epoch told, and decide how to draw in this one."""
        with self._stopwatch.measure():
            if self.switch and self._n_begun == 1 and self._n_warmup <= 1:
                self._predict_half()
            self._learn()
            gain = float(self._shared(np.array([self._journal.gain()]))[0])
            self._journal.start_epoch()
            self._cursor = self._n_drawn = 0
            self._rows, self._weights = self._rows[:0], self._weights[:0]
            self._mode, self._why = decide(self._n_begun < self._n_warmup, self.switch, gain)
            self._n_begun += 1

    def _hand_out(self, position: int) -> Iterator[WeightedIndex]:
        """Yield this process's examples from a position in its epoch on, drawing them as they are needed."""
        while position < len(self):
            if position == len(self._rows):
                self._draw_part()
            end = len(self._rows)
            pairs = zip(self._rows[position:].tolist(), self._weights[position:].tolist(), strict=True)
            yield from (WeightedIndex(row, weight) for row, weight in pairs)
            position = end

    def _draw_part(self) -> None:
        """Draw the next part of the epoch, by fresh scores; keep the shard of this process."""
        with self._stopwatch.measure():
            if self._n_drawn:
                self._learn()
            size = min(self._part, self.num_samples - self._n_drawn)
            probabilities, expected = self._weigh(self.evidence.scores(), size)
            if self._mode == "uniform":
                rows, weights = self._uniform.take(size), np.ones(size)
            elif self.replacement:
                rows, weights = policies.with_replacement(probabilities, size, self._rng)
            else:
                rows = policies.systematic(expected, size, self._rng)
                weights = self._policy_weights[rows]
            rows, weights = self._shared(rows), self._shared(weights)
            mine = slice(None) if self._ranks is None else slice(self._ranks.rank, None, self._ranks.size)
            self._rows = np.concatenate([self._rows, rows[mine]])
            self._weights = np.concatenate([self._weights, weights[mine]])
            self._n_drawn += size

    def _weigh(self, scores: Array, size: int) -> tuple[Array, Array]:
        """Note scores and the weights that follow; return probabilities, and how often each is drawn."""
        self._scores, probabilities = scores, self._probabilities(scores)
        expected = size * probabilities
        if not self.replacement:
            expected = policies.inclusion_probabilities(probabilities, size)
        with np.errstate(divide="ignore"):
            self._policy_weights = size / (self._n_rows * expected)
        return probabilities, expected

    def _shared(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return what process 0 drew."""
        return array if self._ranks is None else self._ranks.broadcast(array)

    def _settle(self) -> None:
        self._journal.settle(self.evidence.codes, self._scores, self._policy_weights, self._mode == "sampled")

    def _learn(self) -> None:
        self._settle()
        self.evidence.learn(*self._journal.take_news())

    def _predict_half(self) -> None:
        """Predict half of the first losses by the others, unless a refresh has done better."""
        self._settle()
        first = self._journal.first_half()
        if self._part == self.num_samples and len(first.rows):
            self._weigh(self.evidence.rehearse(*first), self.num_samples)
            self._journal.predict(self._scores, self._policy_weights)

    def _check_sizes(self) -> None:
        if self.num_samples > self._n_rows and not self.replacement:
            raise ValueError(
                f"num_samples={self.num_samples} exceeds the {self._n_rows} examples: give at most that, or "
                "replacement=True."
            )
        for name, size in (("num_samples", self.num_samples), ("refresh", self._part)):
            if size % self._n_ranks:
                raise ValueError(
                    f"{name}={size} is not divisible by the {self._n_ranks} processes, and padding would be "
                    f"biased: give {size - size % self._n_ranks}."
                )

    def _require_same_everywhere(self) -> None:
        mine = np.array([crc32(repr(sorted(self._settings.items())).encode())])
        if self._ranks is not None and len(np.unique(self._ranks.gather(mine))) > 1:
            raise ValueError(
                "The processes have different samplers: give each the same features, labels, seed and sizes."
            )
