"""One small thread pool, and how many threads a call may use.

Compiled kernels are serial and release the GIL; this pool splits rows or repetitions among
threads, and every thread writes only memory that it owns. (numba's own ``parallel=True``
depends on the threading layer: GNU OpenMP kills a forked child that uses it, workqueue aborts
when two threads call it at once. A pool of our own, made anew after a fork, has neither fault.)
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numba
from joblib.parallel import get_active_backend
from threadpoolctl import ThreadpoolController

_lock = threading.RLock()
_pool: ThreadPoolExecutor | None = None
_controller: ThreadpoolController | None = None
_limiting_thread: ThreadPoolExecutor | None = None
_n_limiting = 0
_limiter: Any = None
_here = threading.local()


def _lock_for_fork() -> None:
    """Let no thread be amid making a pool or setting a limit, which a child could not complete."""
    _lock.acquire()


def _unlock_after_fork() -> None:
    _lock.release()


def _start_child() -> None:
    """Drop what does not survive a fork, and lift the limit of threads that the child does not have."""
    global _pool, _lock, _limiting_thread, _n_limiting, _limiter
    if _n_limiting:
        lifting = threading.Thread(target=_lift_limit)
        lifting.start()
        lifting.join()
    _pool, _lock, _limiting_thread, _n_limiting, _limiter = None, threading.RLock(), None, 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock_for_fork, after_in_parent=_unlock_after_fork, after_in_child=_start_child
    )


def count_threads(n_jobs: int | None) -> int:
    """Return how many threads ``n_jobs`` stands for.

    Parameters
    ----------
    n_jobs : int or None
        None means all cores that numba may use (``NUMBA_NUM_THREADS``), or one inside a joblib
        worker; -1 means all of them everywhere, -2 all but one, and so on.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ValueError
        If ``n_jobs`` is 0.
    """
    if n_jobs == 0:
        raise ValueError("n_jobs=0 has no meaning: give a positive number of threads, -1 for all, or None.")
    if n_jobs is not None and n_jobs > 0:
        return n_jobs
    available = int(numba.config.NUMBA_NUM_THREADS)
    if n_jobs is None:
        backend, _ = get_active_backend()
        return 1 if backend.nesting_level else available
    return max(1, available + 1 + n_jobs)


def run_ranges(task: Callable[[int, int], None], n_items: int, n_threads: int) -> None:
    """Call ``task(first, last)`` on contiguous ranges that cover ``range(n_items)``.

    The calling thread takes the first range, and the others too that the pool cannot take: Python gives
    a pool no work once the main thread has ended, though other threads may work on, and a system may
    have no thread left. An exception of any range is raised after all of them have ended. On a thread
    of the pool itself the whole range is one: tasks that waited for a place in the pool while they hold
    one could wait for ever.

    Parameters
    ----------
    task : callable
        Releases the GIL for most of its time and writes only what belongs to its range.
    n_items, n_threads : int
    """
    global _pool
    n_ranges = 1 if getattr(_here, "in_pool", False) else min(n_threads, n_items)
    if n_ranges <= 1:
        task(0, n_items)
        return
    first, *others = _ranges(n_items, n_ranges)
    own, futures = [first], {pair: Future[None]() for pair in others}
    pool = _shared_pool()
    try:
        for pair, future in futures.items():
            pool.submit(_run_range, future, task, pair)
    except RuntimeError:
        with _lock:
            if _pool is pool:  # which may hold a range that no thread will ever take from it
                _pool = None
        own += [pair for pair, future in futures.items() if future.cancel()]
    taken = [future for future in futures.values() if not future.cancelled()]
    try:
        for pair in own:
            task(*pair)
    finally:
        wait(taken)
    for future in taken:
        future.result()


def run_pieces(task: Callable[[int, int], None], n_items: int, n_threads: int, n_pieces: int) -> None:
    """Call ``task(first, last)`` as :func:`run_ranges` does, but on more ranges than there are threads.

    Every thread takes the next, so that one whose core is slowed down by whatever else the machine does takes
    fewer. Each range is a thread's share of half of what is left: few are small, yet all threads end nearly
    at once (Polychronopoulos and Kuck, "Guided self-scheduling", IEEE Transactions on Computers C-36, 1987).

    Parameters
    ----------
    task, n_items, n_threads
        As :func:`run_ranges` takes them.
    n_pieces : int
        The number of ranges, were all as small as the smallest.
    """
    pieces = deque(_shrinking_ranges(n_items, n_threads, n_pieces))

    def take_pieces(first: int, last: int) -> None:
        while True:
            try:
                piece = pieces.popleft()
            except IndexError:
                return
            task(*piece)

    run_ranges(take_pieces, n_threads, n_threads)


def _ranges(n_items: int, n_ranges: int) -> Iterable[tuple[int, int]]:
    return pairwise(n_items * part // n_ranges for part in range(n_ranges + 1))


def _shrinking_ranges(n_items: int, n_threads: int, n_ranges: int) -> Iterator[tuple[int, int]]:
    first, least = 0, -(-n_items // n_ranges)
    while first < n_items:
        last = min(first + max((n_items - first) // (2 * n_threads), least), n_items)
        yield first, last
        first = last


def _run_range(future: Future[None], task: Callable[[int, int], None], pair: tuple[int, int]) -> None:
    """Run a range on a thread of the pool, unless the caller has taken it back."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        task(*pair)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)
    finally:
        del future  # the traceback of an error would hold it, and it the error


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(
                int(numba.config.NUMBA_NUM_THREADS), thread_name_prefix="nwsketch", initializer=_mark
            )
        return _pool


def _mark() -> None:
    """Remember that this thread belongs to the pool."""
    _here.in_pool = True


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread per caller, since the callers are our own threads.

    The limit is global to the process: the first to enter sets it and the last to leave lifts it,
    so that overlapping calls cannot leave it behind. Both happen on one thread of their own, for
    threadpoolctl lets a limit be lifted only by the thread that set it. (Once the main thread has ended
    there may be no such thread; the limit may stay then.)
    """
    global _limiter, _n_limiting
    with _lock:
        if _n_limiting == 0:
            _limiter = _on_limiting_thread(_limit_blas)
        _n_limiting += 1
    try:
        yield
    finally:
        with _lock:
            _n_limiting -= 1
            if _n_limiting == 0:
                _on_limiting_thread(_lift_limit)


def _on_limiting_thread(call: Callable[[], Any]) -> Any:
    global _limiting_thread
    if _limiting_thread is None:
        _limiting_thread = ThreadPoolExecutor(1, thread_name_prefix="blas-limit")
    try:
        future = _limiting_thread.submit(call)
    except RuntimeError:  # for the reasons that the pool has
        _limiting_thread = None
        return call()
    return future.result()


def _limit_blas() -> Any:
    global _controller
    if _controller is None:
        _controller = ThreadpoolController()
    return _controller.limit(limits=1, user_api="blas").__enter__()


def _lift_limit() -> None:
    _limiter.__exit__(None, None, None)
