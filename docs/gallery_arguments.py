"""What the examples are run with when the gallery is built."""

from pathlib import Path
from typing import Any

#: Scripts run in their folder; what they save goes where git does not look, and the gallery shows it anyway.
BUILD = "../docs/_build"

ARGUMENTS = {
    "plot_compare_regressors.py": ["--output", f"{BUILD}/compare_regressors.png"],
    "plot_drift.py": ["--output", f"{BUILD}/drift.png"],
    "plot_intervals.py": ["--seeds", "1", "--output", f"{BUILD}/intervals.png"],
}


def of_script(gallery_conf: dict[str, Any], script_vars: dict[str, Any]) -> list[str]:
    """Return the arguments of one script: none, unless it is named above."""
    return ARGUMENTS.get(Path(script_vars["src_file"]).name, [])
