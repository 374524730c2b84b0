"""What the examples are run with when the gallery is built."""

from pathlib import Path
from typing import Any

#: Pictures that scripts save, which the gallery shows anyway, go here.
BUILD = Path(__file__).parent / "_build"

ARGUMENTS = {
    "plot_compare_regressors.py": ["--output", str(BUILD / "compare_regressors.png")],
    "plot_intervals.py": ["--seeds", "1", "--output", str(BUILD / "intervals.png")],
}


def of_script(gallery_conf: dict[str, Any], script_vars: dict[str, Any]) -> list[str]:
    """Return the arguments of one script: none, unless it is named above."""
    return ARGUMENTS.get(Path(script_vars["src_file"]).name, [])
