"""Seconds of training, and how many of them the sampler took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Stopwatch:
    """Times epochs, each from its start to the end of the last measured block, and measured blocks.

    Attributes
    ----------
    training : float
        Seconds of all epochs. What comes between epochs, such as an evaluation, does not count.
    overhead : float
        Seconds of all measured blocks.
    """

    def __init__(self) -> None:
        self.training = self.overhead = 0.0
        self._counted_until = perf_counter()

    def start_epoch(self) -> None:
        """Count from now on."""
        self._counted_until = perf_counter()

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Count a block as overhead, and all time up to its end as training."""
        start = perf_counter()
        try:
            yield
        finally:
            end = perf_counter()
            self.overhead += end - start
            self.training += end - self._counted_until
            self._counted_until = end
