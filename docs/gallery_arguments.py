"""What the examples are run with when the gallery is built."""

from pathlib import Path
from typing import Any

#: Scripts run in their folder; what they save goes where git does not look, and the gallery shows it anyway.
BUILD = "../docs/_build"

MORE = {"plot_intervals.py": ["--seeds", "1"]}


def of_script(gallery_conf: dict[str, Any], script_vars: dict[str, Any]) -> list[str]:
    """Return the arguments of one script: where to save its picture, if it does, and those named above."""
    script = Path(script_vars["src_file"])
    saves = '"--output"' in script.read_text("utf-8")
    output = ["--output", f"{BUILD}/{script.stem}.png"] if saves else []
    return output + MORE.get(script.name, [])
