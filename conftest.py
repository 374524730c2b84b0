"""Leave modules that need an extra out of the doctests where it is not installed."""

from importlib.util import find_spec

NEED_TORCH = (
    "nwsketch/torch_inputs.py",
    "nwsketch/backends/torch_*.py",
    *(f"nwsketch/training/{name}.py" for name in ("dataset", "distributed", "gradients", "sampler", "state")),
    *(
        f"tests/benchmarks/{name}"
        for name in ("gpu.py", "sampler_overhead.py", "time_to_accuracy.py", "trials/*")
    ),
)

collect_ignore_glob = [] if find_spec("torch") else list(NEED_TORCH)
