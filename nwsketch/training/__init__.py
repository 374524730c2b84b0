"""Training on the examples that matter: samplers driven by a sketch of the loss.

:class:`SketchSampler` is for data sets that are seen many times, :class:`StreamSelector` for streams. The
selector and :mod:`nwsketch.training.policies` need NumPy alone; whatever else is asked for here needs
PyTorch, the extra ``torch``. Importing this package never imports it.

(S. Daghaghi, B. Coleman, G. Geordie, A. Shrivastava, "Adaptive Sampling for Deep Learning via Efficient
Nonparametric Proxies", arXiv:2311.13583.)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nwsketch.training import policies
from nwsketch.training.report import EpochReport
from nwsketch.training.stream import Selection, StreamSelector

if TYPE_CHECKING:
    from nwsketch.training.dataset import WeightedCollate
    from nwsketch.training.distributed import Ranks
    from nwsketch.training.gradients import gradient_norm_bound
    from nwsketch.training.sampler import SketchSampler

__all__ = [
    "EpochReport",
    "Ranks",
    "Selection",
    "SketchSampler",
    "StreamSelector",
    "WeightedCollate",
    "gradient_norm_bound",
    "policies",
]

#: Names that need PyTorch, and the modules that they live in.
NEED_TORCH = {
    "Ranks": "distributed",
    "SketchSampler": "sampler",
    "WeightedCollate": "dataset",
    "gradient_norm_bound": "gradients",
}


def __getattr__(name: str) -> Any:
    if name not in NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{NEED_TORCH[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f'{__name__}.{name} needs PyTorch: pip install "nwsketch[torch]"') from error
    return getattr(module, name)
