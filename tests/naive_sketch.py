"""The sketch as plainly as it can be written: dictionaries, loops, one row at a time.

It takes the buckets from the hash plan's NumPy reference and does all the rest itself.
"""

from collections import defaultdict
from math import nan, sqrt
from statistics import median


class NaiveSketch:
    """Sums per (repetition, bucket) of weight * target and weight, for one target."""

    def __init__(self, plan, n_groups=1):
        self.plan, self.n_groups = plan, n_groups
        self.sums = defaultdict(float)
        self.counts = defaultdict(float)
        self.total_sum = self.total_count = 0.0

    def update(self, X, y, weights):
        for codes, target, weight in zip(self.plan.codes(X).T, y, weights, strict=True):
            for repetition, bucket in enumerate(codes):
                self.sums[repetition, bucket] += weight * target
                self.counts[repetition, bucket] += weight
            self.total_sum += weight * target
            self.total_count += weight

    def kernel_sum(self, x):
        (codes,) = self.plan.codes(x[None]).T
        counts = [self.counts[repetition, bucket] for repetition, bucket in enumerate(codes)]
        return median(self._unbiased(group, self.total_count) for group in self._groups(counts))

    def query(self, x, noise_errors):
        (codes,) = self.plan.codes(x[None]).T
        counts = [self.counts[repetition, bucket] for repetition, bucket in enumerate(codes)]
        sums = [self.sums[repetition, bucket] for repetition, bucket in enumerate(codes)]
        answers = []
        for counts_of_group, sums_of_group in zip(self._groups(counts), self._groups(sums), strict=True):
            count = self._unbiased(counts_of_group, self.total_count)
            threshold = noise_errors * self._standard_error(counts_of_group)
            if count > max(threshold, 1e-9):
                answers.append(self._unbiased(sums_of_group, self.total_sum) / count)
        return median(answers) if answers else nan

    def _groups(self, values):
        size = len(values) // self.n_groups
        return [values[start : start + size] for start in range(0, len(values), size)]

    def _unbiased(self, values, total):
        mean = sum(values) / len(values)
        if not self.plan.rehashed:
            return mean
        return (mean - total / self.plan.n_buckets) / (1 - 1 / self.plan.n_buckets)

    def _standard_error(self, values):
        """Of the debiased mean; nothing if nothing is rehashed."""
        if not self.plan.rehashed:
            return 0.0
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
        lots = self.total_count / self.plan.n_buckets  # unrelated rows come in such lots at least
        return max(sqrt(variance), lots) / sqrt(len(values)) / (1 - 1 / self.plan.n_buckets)
