"""How good scores are: estimators watch a uniform run, and are asked for all losses after every epoch.

What scores would bring is the variance ratio of a draw by them, with the norm of the last layer's gradient in
place of the loss: below 1 is better than uniform, and that of the true norms is the best there is.
"""

import numpy as np
from scipy.stats import spearmanr

from nwsketch.training import policies
from nwsketch.training.evidence import Evidence
from nwsketch.training.hashing import RowHasher
from trials.arms import UniformAtBudget

#: Estimators by name: whether classes salt the codes, and the weight of a row's own last loss.
ESTIMATORS = {
    "sketch, without labels": (False, None),
    "sketch": (True, None),
    "sketch and last losses": (True, 0.5),
}
STALE = "sketch and last losses, an epoch ago"


class Watched(UniformAtBudget):
    """Uniform at budget, with estimators that learn every loss. Not to be timed."""

    def __init__(self, context):
        super().__init__(context)
        features, labels = context.features(context.inputs), context.labels.numpy()
        self.known = {}
        for name, (salted, memory) in ESTIMATORS.items():
            hasher = RowHasher(features, context.n_classes if salted else 0, None, context.seed)
            codes = hasher.hash(features, labels if salted else None)
            self.known[name] = Evidence(hasher.sketch, codes, memory, 0.1)
        self.last = np.full(context.n_rows, np.nan)
        self.before = np.full(context.n_rows, np.nan)
        self.seen = []

    def observe(self, rows, losses):
        self.seen.append((rows, losses.numpy()))

    def metrics(self):
        """Learn the losses of the epoch; compare all scores with the true losses and norms of this moment."""
        rows, losses = (np.concatenate(part) for part in zip(*self.seen, strict=True))
        self.seen = []
        for evidence in self.known.values():
            evidence.learn(rows, losses.astype(np.float64))
        self.last[rows] = losses
        everything = np.arange(self.context.n_rows)
        losses = self.context.losses_of(everything).numpy().astype(np.float64)
        norms = self.context.losses_of(everything, as_norms=True).numpy().astype(np.float64)
        scores = {name: evidence.scores() for name, evidence in self.known.items()}
        scores[STALE], self.before = self.before, scores["sketch and last losses"]
        scores |= {"last losses": self.last, "true losses": losses, "true gradient norms": norms}
        known = {name: each for name, each in scores.items() if not np.isnan(each).all()}
        return {name: self.compare(each, losses, norms) for name, each in known.items()}

    def compare(self, scores, losses, norms):
        """Return what scores are worth against the losses and gradient norms of this moment."""
        usable = policies.usable(scores)
        weights = 1 / (len(usable) * self.context.probabilities(usable))
        return {
            "rank correlation with losses": float(spearmanr(usable, losses).statistic),
            "with gradient norms": float(spearmanr(usable, norms).statistic),
            "variance ratio": policies.variance_ratio(norms, weights),
            "effective share": 1 / float(weights.mean()),
            "never seen": float(np.isnan(scores).mean()),
        }
