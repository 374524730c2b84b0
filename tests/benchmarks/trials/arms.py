"""The arms for data seen many times: which rows an epoch trains on, and with which weights.

Every arm is asked alike: ``plan`` an epoch, hand out its batches, ``observe`` the losses of each. All of it
is charged, making the arm included. Arms that draw by scores share the policy, its exponent and uniform
share, and draw without replacement, each row with the weight that keeps the gradient unbiased.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np

from nwsketch.training import SketchSampler, policies
from nwsketch.training.uniform import UniformPasses


@dataclass(frozen=True)
class Context:
    """What an arm may know.

    Parameters
    ----------
    settings : Settings
    inputs, labels : tensor
        Of the training part.
    n_classes : int
    features : callable
        Takes inputs, returns the rows that a sketch hashes.
    losses_of : callable
        Takes rows, returns their present losses (``as_norms``: the norms of their gradients at the last
        layer): a forward pass, charged to whoever asks.
    seed : int
    options : dict
        Of this arm, over those of the settings.
    """

    settings: Any
    inputs: Any
    labels: Any
    n_classes: int
    features: Callable
    losses_of: Callable
    seed: int
    options: dict

    @property
    def n_rows(self):
        """Number of training rows."""
        return len(self.labels)

    def rows_of_epoch(self, share):
        """Return a share of the training rows, in whole batches."""
        size = self.settings.batch_size
        return max(int(share * self.n_rows) // size, 1) * size

    def probabilities(self, scores):
        """Turn scores into probabilities, by the policy that all arms share."""
        own = {key: value for key, value in self.options.items() if key in POLICY}
        chosen = DEFAULT_POLICY | self.settings.sampling | own
        return policies.probabilities(scores, chosen["exponent"], chosen["uniform_share"], chosen["clip"])

    def tempered(self, weights):
        """Return weights to the power of ``weight_power``; below 1 the gradient leans to high scores."""
        return weights.astype(np.float32) ** np.float32(self.options.get("weight_power", 1.0))


DEFAULT_POLICY = {"exponent": 1.0, "uniform_share": 0.1, "clip": None}
POLICY = tuple(DEFAULT_POLICY)


class Arm:
    """Uniform draws without replacement, one permutation after the other; ``share`` of the rows an epoch.

    Attributes
    ----------
    n_planned : int
        Rows of the present epoch.
    """

    #: Whether ``observe`` wants gradient norms in place of losses.
    wants_gradients = False

    def __init__(self, context, share=1.0):
        self.context = context
        self.n_planned = context.rows_of_epoch(share)
        self.rng = np.random.default_rng(context.seed)
        self.uniform = UniformPasses(context.n_rows, self.rng)

    def plan(self, epoch):
        """Begin an epoch, and set ``n_planned``; return its rows, and their weights or None."""
        return self.uniform.take(self.n_planned), None

    def batches(self, epoch):
        """Yield rows and weights, batch by batch."""
        rows, weights = self.plan(epoch)
        size = self.context.settings.batch_size
        for start in range(0, len(rows), size):
            batch = slice(start, start + size)
            yield rows[batch], None if weights is None else weights[batch]

    def observe(self, rows, losses):
        """Learn the losses of a batch, before the step that it brings about."""

    def metrics(self):
        """Return what is to be recorded of the present epoch."""
        return {}


class UniformAtBudget(Arm):
    """Uniform, at the same number of rows as the selective arms, its rate decayed over them.

    Or at a ``budget`` of its own, a share of the rows, if the variant says so.
    """

    def __init__(self, context):
        super().__init__(context, context.options.get("budget", context.settings.share))


class DynamicRandom(UniformAtBudget):
    """A new random subset every epoch."""

    def plan(self, epoch):
        rows, _ = policies.dynamic_random(self.context.n_rows, self.n_planned, self.rng)
        return rows, None


class LastLosses(UniformAtBudget):
    """A plain array of the loss last seen of every row; uniform until each was seen once."""

    def __init__(self, context):
        super().__init__(context)
        self.last = np.full(context.n_rows, np.nan)

    def plan(self, epoch):
        if np.isnan(self.last).any():
            return super().plan(epoch)
        chances = self.context.probabilities(self.scores())
        rows, weights = policies.without_replacement(chances, self.n_planned, self.rng)
        return rows, self.context.tempered(weights)

    def scores(self):
        return self.last

    def observe(self, rows, losses):
        self.last[rows] = losses.numpy()


class TrueLosses(LastLosses):
    """The losses of all rows, by a forward pass over them before every epoch."""

    def plan(self, epoch):
        self.last[:] = self.context.losses_of(np.arange(self.context.n_rows)).numpy()
        return super().plan(epoch)

    def observe(self, rows, losses):
        """Forget them: they are asked for anew."""


class SkipBackward(UniformAtBudget):
    """Forward passes over uniform rows, and backward passes for those drawn by the losses just seen.

    As many rows go backward as the other selective arms train on. (A. H. Jiang et al., "Accelerating Deep
    Learning by Focusing on the Biggest Losers", arXiv:1910.00762; here with the weights that keep the
    gradient unbiased.)
    """

    def batches(self, epoch):
        size = self.context.settings.batch_size
        n_candidates = int(size / self.context.settings.share)
        for _ in range(self.n_planned // size):
            candidates = self.uniform.take(n_candidates)
            chances = self.context.probabilities(self.context.losses_of(candidates).numpy())
            rows, weights = policies.without_replacement(chances, size, self.rng)
            yield candidates[rows], self.context.tempered(weights)


class InfoBatch(Arm):
    """The rule of InfoBatch: leave out easy rows at random, weigh up the easy ones that are kept.

    A row whose last loss lies below the mean is left out with probability r = 0.5, or else weighs
    1 / (1 - r). The last eighth of the epochs trains on all rows. The number of rows follows from the losses.

    (Z. Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", ICLR 2024,
    arXiv:2303.04947, sections 3.2 and 3.3.)
    """

    pruned = 0.5
    full_from = 0.875

    def __init__(self, context):
        super().__init__(context)
        self.last = np.full(context.n_rows, np.inf)

    def plan(self, epoch):
        rows = self.rng.permutation(self.context.n_rows)
        weights = np.ones(len(rows), dtype=np.float32)
        is_seen = np.isfinite(self.last)
        if epoch < self.full_from * self.context.settings.epochs and is_seen.any():
            is_easy = self.last[rows] < self.last[is_seen].mean()
            is_kept = ~is_easy | (self.rng.random(len(rows)) >= self.pruned)
            weights[is_easy] = 1 / (1 - self.pruned)
            rows, weights = rows[is_kept], weights[is_kept]
        size = self.context.settings.batch_size
        self.n_planned = len(rows) // size * size
        return rows[: self.n_planned], weights[: self.n_planned]

    def observe(self, rows, losses):
        self.last[rows] = losses.numpy()


class Sketch(UniformAtBudget):
    """The sampler: a sketch of the losses, and each row's own last one beside it."""

    changes = MappingProxyType({})

    def __init__(self, context):
        super().__init__(context)
        own = {key: value for key, value in context.options.items() if key not in ARM_OPTIONS}
        options = context.settings.sampling | context.settings.sketch | self.changes | own
        if options.get("switch") == "off":  # TOML has no None
            options["switch"] = None
        self.wants_gradients = context.options.get("scores") == "gradients"
        self.sampler = SketchSampler(
            context.features(context.inputs),
            labels=context.labels if context.options.get("salted", True) else None,
            num_samples=self.n_planned,
            seed=context.seed,
            **options,
        )
        self.sampler.wrap(range(context.n_rows))

    def batches(self, epoch):
        drawn = iter(self.sampler)
        while batch := list(islice(drawn, self.context.settings.batch_size)):
            rows, weights = zip(*batch, strict=True)
            yield np.array(rows), self.context.tempered(np.array(weights, dtype=np.float32))

    def observe(self, rows, losses):
        self.sampler.update(rows, losses)

    def metrics(self):
        return self.sampler.metrics()


class SketchAlone(Sketch):
    """The sampler without a memory of rows: the sketch alone."""

    changes = MappingProxyType({"memory": None})


#: Options of a variant that its arm reads itself.
ARM_OPTIONS = ("scores", "salted", "weighted", "weight_power", "budget")

MAP_ARMS = {
    "uniform": Arm,
    "uniform at budget": UniformAtBudget,
    "dynamic random": DynamicRandom,
    "last losses": LastLosses,
    "true losses": TrueLosses,
    "InfoBatch": InfoBatch,
    "sketch alone": SketchAlone,
    "sketch and last losses": Sketch,
}
