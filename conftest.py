"""Leave modules that need an extra out of the doctests where it is not installed."""

from importlib.util import find_spec

NEED_TORCH = ("dataset", "distributed", "gradients", "sampler", "state")

collect_ignore = [] if find_spec("torch") else [f"nwsketch/training/{name}.py" for name in NEED_TORCH]
