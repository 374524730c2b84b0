"""The promise that the defaults make on real data: see docs/defaults.md, which tells how they were chosen."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


def load_benchmark():
    """Import tests/benchmarks/defaults.py, which is a script and no part of a package."""
    spec = importlib.util.spec_from_file_location("defaults", HERE / "benchmarks" / "defaults.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.data
@pytest.mark.slow
def test_defaults_are_positive_on_all_sets_and_near_exact_on_ten_of_twelve(data_folder):
    defaults = load_benchmark()
    scores = np.array([defaults.measure_defaults(data_folder, name, seed=0) for name in defaults.SETS])
    exact, sketch = scores.T
    assert (sketch > 0).all()
    assert (np.abs(sketch - exact) <= 0.02).sum() >= 10
