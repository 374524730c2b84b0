"""Where rows are hashed, tables are filled and read: one file per backend, chosen here.

Backends never import hash families. They are handed a *plan* (see :class:`Plan`), which names
the arithmetic of its hashes and holds their arrays; arithmetic that a backend has not compiled
is done by the plan's own :meth:`Plan.codes`.
"""

from __future__ import annotations

from nwsketch.backends.base import Backend, Codes, Plan, State
from nwsketch.backends.numba_backend import NumbaBackend

__all__ = ["BACKENDS", "Backend", "Codes", "NumbaBackend", "Plan", "State", "get_backend"]

#: The backends that ``backend=`` names.
BACKENDS = ("numba", "torch")
#: What ``backend="auto"`` takes for arrays; tensors are computed with where they are, by torch.
AUTO = "numba"


def get_backend(name: str, device: str | None, plan: Plan) -> Backend:
    """Return the backend called ``name``, prepared for a plan.

    Parameters
    ----------
    name : {"auto", "numba", "torch"}
        ``"auto"`` takes torch if another device than the CPU is named, else :data:`AUTO`.
    device : str or None
        None lets the backend choose; numba knows ``"cpu"`` alone.
    plan : Plan

    Returns
    -------
    Backend

    Raises
    ------
    ValueError
        If the backend is unknown or does not know the device, or the device is not there.
    ImportError
        If torch is asked for and not installed.
    """
    if name == "auto":
        name = AUTO if device in (None, "cpu") else "torch"
    if name == "numba":
        return NumbaBackend(plan, device)
    if name == "torch":
        try:
            from nwsketch.backends.torch_backend import TorchBackend
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError(
                'backend="torch" needs PyTorch: pip install "nwsketch[torch]", or choose backend="numba".'
            ) from error
        return TorchBackend(plan, device)
    raise ValueError(f"Unknown backend {name!r}: choose one of {['auto', *BACKENDS]}.")
