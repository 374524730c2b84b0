"""The arms for streams: rows arrive as batches of candidates, once, and an arm trains on some of them.

They are asked like those of :mod:`trials.arms`; the candidates come in an order drawn by the seed.
"""

import numpy as np

from nwsketch.training import StreamSelector, policies
from trials.arms import ARM_OPTIONS, Arm


class Stream(Arm):
    """Every candidate is trained on, in batches."""

    def __init__(self, context):
        super().__init__(context)
        settings = context.settings
        self.n_selected = int(settings.share * settings.n_candidates)
        self.n_planned = self.per_candidates() * (context.n_rows // settings.n_candidates)

    def per_candidates(self):
        """Return how many rows of a batch of candidates are trained on."""
        return self.context.settings.n_candidates

    def plan(self, epoch):
        size = self.context.settings.n_candidates
        order = self.rng.permutation(self.context.n_rows)
        return (order[start : start + size] for start in range(0, len(order) - size + 1, size))

    def batches(self, epoch):
        size = self.context.settings.batch_size
        for candidates in self.plan(epoch):
            rows, weights = self.select(candidates)
            for start in range(0, len(rows), size):
                batch = slice(start, start + size)
                yield rows[batch], None if weights is None else weights[batch]

    def select(self, candidates):
        """Return which candidates to train on, and their weights."""
        return candidates, None


class StreamAtBudget(Stream):
    """As many candidates as the selective arms train on, at random: what dynamic random is to a stream.

    Or another share of them, the ``budget`` of a variant.
    """

    def __init__(self, context):
        super().__init__(context)
        settings = context.settings
        if "budget" in context.options:
            self.n_selected = int(context.options["budget"] * settings.n_candidates)
            self.n_planned = self.per_candidates() * (context.n_rows // settings.n_candidates)

    def per_candidates(self):
        return self.n_selected

    def select(self, candidates):
        return candidates[: self.n_selected], None  # which are in random order


class StreamTrueLosses(StreamAtBudget):
    """Drawn by the losses of all candidates, by a forward pass over them."""

    def select(self, candidates):
        chances = self.context.probabilities(self.context.losses_of(candidates).numpy())
        rows, weights = policies.without_replacement(chances, self.n_selected, self.rng)
        return candidates[rows], self.context.tempered(weights)


class StreamSketch(StreamAtBudget):
    """The selector, its weights used. The classes of the candidates are known to it, as to training."""

    weighted = True

    def __init__(self, context):
        super().__init__(context)
        own = {key: value for key, value in context.options.items() if key not in ARM_OPTIONS}
        salted = context.options.get("salted", True)
        self.weighted = context.options.get("weighted", self.weighted)
        self.wants_gradients = context.options.get("scores") == "gradients"
        self.labels = context.labels.numpy() if salted else None
        options = context.settings.sampling | context.settings.sketch | own
        self.selector = StreamSelector(
            n_labels=context.n_classes if salted else 0, seed=context.seed, **options
        )
        self.codes, self.n_observed, self.weights = None, 0, []

    def select(self, candidates):
        labels = None if self.labels is None else self.labels[candidates]
        rows, weights, self.codes = self.selector.select(
            self.context.features(self.context.inputs[candidates]), labels, n_select=self.n_selected
        )
        self.weights.append(weights)
        self.n_observed = 0
        return candidates[rows], self.context.tempered(weights) if self.weighted else None

    def observe(self, rows, losses):
        start, self.n_observed = self.n_observed, self.n_observed + len(rows)
        self.selector.update(self.codes[start : self.n_observed], losses)

    def metrics(self):
        weights = np.concatenate(self.weights or [np.ones(1)])
        return {
            "effective_share": policies.effective_size(weights) / len(weights),
            "largest_weight": float(weights.max()),
        }


class StreamSketchUnweighted(StreamSketch):
    """The same draws with weight 1: biased towards rows of high loss, and so its probabilities."""

    weighted = False


STREAM_ARMS = {
    "uniform": Stream,
    "uniform at budget": StreamAtBudget,
    "true losses": StreamTrueLosses,
    "sketch": StreamSketch,
    "sketch, unweighted (biased)": StreamSketchUnweighted,
}
