"""Answers from sums that are tensors: :mod:`nwsketch.backends.aggregation` again, waiting for no device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nwsketch.backends.aggregation import NOISE_ERRORS, RELATIVE_TOLERANCE, Rules
from nwsketch.backends.base import State


class TorchRules(Rules):
    """How the sums that a query reads become its answer (see :class:`Rules`, whose methods these are)."""

    def regress(self, sums: Any, squares: Any, totals: Any, state: State) -> Any:
        """Return predictions: (n_samples, n_outputs)."""
        n_repetitions = self.n_repetitions // self.groups
        by_group = self._ratios(sums, squares, totals.view(-1, 1, sums.shape[2]), state, n_repetitions)
        return self._filled(median_over_groups(by_group), totals, RELATIVE_TOLERANCE * state.totals[-2])

    def kernel_sums(self, sums: Any, totals: Any) -> Any:
        """Return kernel sums of all channels: (n_samples, n_outputs + 1)."""
        means = sums / (self.n_repetitions // self.groups)
        if self.n_buckets is not None:
            means = (means - (totals / self.n_buckets)[..., None, :]) / (1.0 - 1.0 / self.n_buckets)
        return median_over_groups(means)

    def standard_errors(self, sums: Any, squares: Any, state: State) -> Any:
        """Return the standard errors of ratios of means: (n_samples, n_outputs)."""
        n_groups = sums.shape[1]
        if n_groups == 1:
            return sums.new_full((sums.shape[0], sums.shape[2] - 1), torch.nan)
        means = sums * (n_groups / self.n_repetitions)
        if self.n_buckets is not None:
            means = means - state.channel_totals / self.n_buckets
        overall = means.mean(dim=1, keepdim=True)
        answers = self._ratios(
            sums.sum(dim=1, keepdim=True),
            squares.sum(dim=1, keepdim=True),
            state.channel_totals.view(1, 1, -1),
            state,
            self.n_repetitions,
        )
        counts = torch.where(answers[..., :1].isnan(), torch.inf, overall[..., -1:])
        errors = (means[..., :-1] - overall[..., :-1] / counts * means[..., -1:]) / counts
        unit = errors.abs().amax(dim=(0, 1)) if errors.numel() else errors.new_ones(errors.shape[2])
        unit = torch.where(unit > 0, unit, 1.0)  # squares of huge targets stay in range
        return (errors / unit).std(dim=1) * unit / math.sqrt(n_groups)

    def _ratios(
        self, sums: Tensor, squares: Tensor, totals: Tensor, state: State, n_repetitions: int
    ) -> Tensor:
        """Divide debiased sums by debiased counts: (n_samples, n_groups, n_outputs), NaN where none count."""
        means, by_chance = sums / n_repetitions, totals / (self.n_buckets or math.inf)
        threshold = (RELATIVE_TOLERANCE * state.totals[-2]).expand(means.shape[:2])
        if self.n_buckets is not None:
            unit = scale_of(state.totals)
            counts = means[..., -1]
            variances = (squares / n_repetitions - (counts * unit) ** 2).clamp(min=0.0)
            errors = (variances / max(n_repetitions - 1, 1)).sqrt() / unit
            errors = torch.maximum(errors, by_chance[..., -1] / math.sqrt(n_repetitions))
            threshold = torch.maximum(NOISE_ERRORS * errors, threshold)
        above = means - by_chance
        excess = above[..., -1:]
        return torch.where(excess > threshold[..., None], above[..., :-1] / excess, torch.nan)

    def _filled(self, predictions: Tensor, totals: Tensor, tolerance: Tensor) -> Tensor:
        """Replace NaN by what ``empty`` says."""
        if self.empty == "nan":
            return predictions
        if self.empty == "mean":
            weight = totals[..., -1:]
            mean = totals[..., :-1] / torch.where(weight > tolerance, weight, torch.nan)
            return torch.where(predictions.isnan(), mean, predictions)
        return predictions.nan_to_num(nan=float(self.empty), posinf=math.inf, neginf=-math.inf)


def median_over_groups(values: Tensor) -> Tensor:
    """Return the median over dimension 1, in which NaN abstains; NaN where all abstain."""
    if values.shape[1] == 1:
        return values[:, 0]
    ordered = values.sort(dim=1).values  # NaN last
    n_valid = (~values.isnan()).sum(dim=1, keepdim=True)
    lower = ordered.gather(1, (n_valid - 1).clamp(min=0) // 2)
    upper = ordered.gather(1, (n_valid // 2).clamp(max=values.shape[1] - 1))
    return ((lower + upper) / 2)[:, 0]


def scale_of(totals: Tensor) -> Tensor:
    """Return ``State.unit``, a power of two that brings counts to the order of 1, as a tensor."""
    _, exponent = torch.frexp(totals[-2])
    return torch.ldexp(torch.ones_like(totals[-2]), (-exponent).clamp(max=1000))
