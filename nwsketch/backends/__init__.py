"""Where rows are hashed, tables are filled and read: one file per backend, chosen here.

Backends never import hash families. They are handed a *plan* (see :class:`Plan`), which names
the arithmetic of its hashes and holds their arrays; arithmetic that a backend has not compiled
is done by the plan's own :meth:`Plan.codes`.
"""

from nwsketch.backends.base import Backend, Codes, Plan, State
from nwsketch.backends.numba_backend import NumbaBackend

__all__ = ["BACKENDS", "Backend", "Codes", "NumbaBackend", "Plan", "State", "get_backend"]

#: Every backend by the name that ``backend=`` accepts.
BACKENDS: dict[str, type[NumbaBackend]] = {"numba": NumbaBackend}


def get_backend(name: str, device: str | None, plan: Plan) -> Backend:
    """Return the backend called ``name``, prepared for a plan.

    Parameters
    ----------
    name : str
        ``"auto"`` takes numba.
    device : str or None
        None lets the backend choose; numba knows ``"cpu"`` alone.
    plan : Plan

    Returns
    -------
    Backend

    Raises
    ------
    ValueError
        If the backend is unknown or does not know the device.
    """
    chosen = "numba" if name == "auto" else name
    if chosen not in BACKENDS:
        raise ValueError(f"Unknown backend {name!r}: choose 'auto' or one of {sorted(BACKENDS)}.")
    backend = BACKENDS[chosen]
    if device is not None and device not in backend.devices:
        raise ValueError(
            f"backend={chosen!r} does not run on device={device!r}: choose None or one of "
            f"{sorted(backend.devices)}."
        )
    return backend(plan)
