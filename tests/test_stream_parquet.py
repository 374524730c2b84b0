"""The example that streams a Parquet file: killed at any moment, it ends with the same model."""

import importlib.util
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nwsketch import NadarayaWatsonSketchRegressor

pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra nwsketch[parquet])")

needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
N_GROUPS, ROWS = 41, 300
SETTINGS = {"save_every": 3, "n_repetitions": 128, "n_buckets": 512, "n_jobs": 1}


@pytest.fixture(scope="module")
def example():
    """Return the module of the example."""
    path = Path(__file__).resolve().parents[1] / "examples" / "stream_parquet.py"
    spec = importlib.util.spec_from_file_location("stream_parquet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(example, tmp_path_factory):
    """Return a file of generated rows."""
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    example.write_rows(path, N_GROUPS, ROWS)
    return path


def slow_stream(example, rows, model):
    """Stream with a pause after each group, so that a signal may hit any step of many."""
    read = example.read_group

    def read_slowly(*arguments):
        time.sleep(0.004)
        return read(*arguments)

    example.read_group = read_slowly
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    example.stream(rows, "y", model, **SETTINGS)


def identity(path):
    """Return what changes when a file is replaced."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


@needs_fork
# Forking a process with threads is what joblib's users do: Python 3.12 and later warn of it.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_stream_killed_at_random_moments_ends_with_the_same_model(example, rows, tmp_path):
    example.stream(rows, "y", tmp_path / "whole", **SETTINGS)
    rng, kills, positions = np.random.default_rng(0), 0, []
    context = multiprocessing.get_context("fork")
    killed = tmp_path / "killed"
    for _ in range(200):
        process = context.Process(target=slow_stream, args=(example, rows, killed))
        before = identity(killed)
        process.start()
        if kills % 2:  # soon after a save; else at any moment, the imports and the first rows among them
            while process.is_alive() and identity(killed) == before:
                time.sleep(0.001)
        process.join(rng.uniform(0.0, 0.05) if kills < 12 else 120)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        if killed.exists():
            positions.append(NadarayaWatsonSketchRegressor.load_with_extra(killed)[1]["next_group"])
    assert process.exitcode == 0
    assert kills >= 3
    assert any(0 < position < N_GROUPS - 1 for position in positions), positions
    assert sorted(positions) == positions
    assert killed.read_bytes() == (tmp_path / "whole").read_bytes()
    assert NadarayaWatsonSketchRegressor.load(killed).n_samples_seen_ == (N_GROUPS - 1) * ROWS


def test_a_model_of_another_file_is_not_gone_on_with(example, rows, tmp_path):
    example.stream(rows, "y", tmp_path / "model", **SETTINGS)
    example.write_rows(tmp_path / "other.parquet", 3, 10)
    with pytest.raises(SystemExit, match=r"model has learnt from another file than .*other\.parquet"):
        example.stream(tmp_path / "other.parquet", "y", tmp_path / "model", **SETTINGS)


def test_the_command_streams_and_resumes(example, tmp_path, capsys, monkeypatch):
    command = [
        "stream_parquet.py",
        "--folder",
        str(tmp_path),
        "--groups",
        "5",
        "--rows",
        "500",
        "--save-every",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", command)
    example.main()
    first = capsys.readouterr().out
    assert "row groups 0 to 3 of" in first
    assert "2000 rows learnt" in first
    example.main()
    again = capsys.readouterr().out
    assert "nothing left to learn of" in again
    assert again.splitlines()[-1] == first.splitlines()[-1]  # the R2
