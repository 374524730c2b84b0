"""Benchmarks that need PyTorch are not collected where it is not installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["time_to_accuracy.py", "trials/*"]
