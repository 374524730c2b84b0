"""Every picture of the gallery is drawn, from data that is bundled or made up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the examples draw by matplotlib (the extra plot)")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
#: Longer ones, which .ci/run runs by themselves.
IN_CI = {"plot_compare_regressors.py", "plot_intervals.py", "plot_drift.py"}
#: The others run as the documentation is built.
SAVING = [path for path in sorted(EXAMPLES.glob("plot_*.py")) if "--output" in path.read_text("utf-8")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "example",
    [path for path in SAVING if path.name not in IN_CI],
    ids=lambda p: p.stem,
)
def test_an_example_prints_its_numbers_and_draws(example, tmp_path):
    if example.name == "plot_sketch_sampler.py":
        pytest.importorskip("torch", reason="SketchSampler is a sampler of PyTorch")
    environment = {name: value for name, value in os.environ.items() if name != "NWSKETCH_DATA"}
    answer = subprocess.run(
        [sys.executable, example], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "Warning" not in answer.stderr
    assert len(answer.stdout.splitlines()) >= 4  # the head of a table, two lines, and where the picture is
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]


def test_an_example_tells_a_title_as_the_gallery_wants_it():
    for path in sorted(EXAMPLES.glob("plot_*.py")):
        marks, over, title, under, *_ = path.read_text("utf-8").splitlines()
        assert marks == '"""', path.name
        assert title == title.strip(), path.name
        assert over == under == "=" * len(over), path.name
        assert len(over) >= len(title), path.name
