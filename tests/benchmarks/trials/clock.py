"""Seconds that an arm is charged with: all of them but those of its evaluations."""

from contextlib import contextmanager
from time import perf_counter, process_time


class Clock:
    """Counts from now on, and stands still while it is paused.

    Attributes
    ----------
    seconds, cpu_seconds : float
        By the wall, and of all threads of this process together: the latter hardly depend on what else the
        machine does.
    overhead : float
        Seconds of measured blocks: what the arm takes beside training.
    """

    def __init__(self):
        self.overhead = 0.0
        self._paused = 0.0, 0.0
        self._start = perf_counter(), process_time()

    @property
    def seconds(self):
        return perf_counter() - self._start[0] - self._paused[0]

    @property
    def cpu_seconds(self):
        return process_time() - self._start[1] - self._paused[1]

    @contextmanager
    def paused(self):
        """Do not charge a block."""
        wall, cpu = perf_counter(), process_time()
        try:
            yield
        finally:
            self._paused = (
                self._paused[0] + perf_counter() - wall,
                self._paused[1] + process_time() - cpu,
            )

    @contextmanager
    def measured(self):
        """Charge a block, and count it as overhead."""
        start = self.seconds
        try:
            yield
        finally:
            self.overhead += self.seconds - start
