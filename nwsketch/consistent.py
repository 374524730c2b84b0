"""Answers of one complete state, while other threads learn.

What a sketch has learnt is mostly replaced as a whole; but a small batch is written into its tables, since to
copy them for a single row would take far longer than to add it. Readers are not to wait for that
in turn, nor for each other. So the backend counts: its number of changes is odd while tables are written to.
A reader notes the number, reads, and compares: if a change has come between, the answer is thrown away and
asked for again, this time with the lock that writers hold. (A seqlock; the
idea is that of Lamport, "Concurrent Reading and Writing", Communications of the ACM 20, 1977.)

An interrupt may leave the number odd. Then readers take the lock, until the next change ends: slower, never
wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from nwsketch.backends import Backend, State

if TYPE_CHECKING:
    from nwsketch.correction import Correction
    from nwsketch.privacy import Privacy

Answer = TypeVar("Answer")


class Learnt(NamedTuple):
    """All that an answer is made from.

    Attributes
    ----------
    backend : Backend
    state : State
    rules : Rules
    correction : Correction or None
    privacy : Privacy or None
    """

    backend: Backend
    state: State
    rules: Any
    correction: Correction | None
    privacy: Privacy | None


def ask(sketch: Any, question: Callable[[Learnt], Answer]) -> Answer:
    """Return what a question is answered by one complete state of a sketch.

    Parameters
    ----------
    sketch : NadarayaWatsonSketch
    question : callable
        Reads what it is handed and changes nothing; may be called twice.

    Returns
    -------
    object
        What the question returned.
    """
    backend = sketch._backend
    n_changes = backend.n_changes
    learnt = _learnt(sketch)

    def is_unchanged() -> bool:
        return n_changes % 2 == 0 and backend.n_changes == n_changes and sketch._backend is backend

    if is_unchanged():  # so that its parts belong together
        answer = question(learnt)
        if is_unchanged():
            return answer
    with sketch._lock:
        return question(_learnt(sketch))


class changing:
    """Let no answer be made from what a with block changes, half of it old and half new.

    Parameters
    ----------
    backend : Backend
        Of a sketch whose lock the caller holds.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        """Make the number odd."""
        self._backend.n_changes |= 1

    def __exit__(self, *error: object) -> None:
        """Make the number even."""
        self._backend.n_changes += 1


def _learnt(sketch: Any) -> Learnt:
    return Learnt(sketch._backend, sketch._state, sketch._rules, sketch.correction, sketch.privacy)
