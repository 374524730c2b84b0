"""How the documentation is built: ``python -m sphinx -W --keep-going docs docs/_build``.

Nothing is fetched from the network. The gallery runs every ``examples/plot_*.py``, with the arguments
of ``gallery_arguments.py``.
"""

import importlib.util
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import nwsketch

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
#: Extras that are not installed here: what needs them is documented nevertheless.
EXTRAS = (
    *("torch", "dask", "distributed", "pandas", "pyarrow", "pyspark"),
    *("lightning", "skorch", "torchdata", "transformers"),
)
MISSING = [name for name in EXTRAS if importlib.util.find_spec(name) is None]

project = "nwsketch"
author = "The nwsketch developers"
copyright = author
version = release = nwsketch.__version__

extensions = [
    # First, as its examples run when it is loaded: while autodoc imports, modules of extras may be mocks.
    "sphinx_gallery.gen_gallery",
    "myst_parser",
    "sphinx_design",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "gallery/**/*.py", "gallery/**/*.ipynb", "gallery/**/*.json"]

# -- pages ------------------------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

# -- API reference ----------------------------------------------------------------------------------

autosummary_generate = True
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # numpydoc's sections tell the types
autodoc_mock_imports = MISSING
# scikit-learn makes these methods; their docstrings link to pages of its own.
autodoc_default_options = {
    "exclude-members": ", ".join(
        f"set_{method}_request" for method in ("fit", "partial_fit", "predict", "score", "transform")
    )
}
numpydoc_show_class_members = False  # the page of a class shows its methods in full
nitpicky = True
# What other projects document: looking that up would take the network.
nitpick_ignore_regex = [
    (r"py:.*", r"(sklearn|numpy|scipy|torch|dask|pyspark|matplotlib|joblib)\b.*"),
    (r"py:.*", r"(lightning|skorch|torchdata|transformers)\b.*"),
]

# -- gallery ----------------------------------------------------------------------------------------


def left_out() -> str:
    """Return a pattern of files that the gallery leaves out: those without pictures, or without PyTorch."""
    scripts = [path for path in sorted(EXAMPLES.glob("*.py")) if not path.name.startswith("plot_")]
    if "torch" in MISSING:
        needs_torch = re.compile(r"^\s*(import|from) torch\b", re.MULTILINE)
        scripts += [path for path in EXAMPLES.glob("plot_*.py") if needs_torch.search(path.read_text())]
    return "|".join(rf"\b{re.escape(path.name)}$" for path in scripts)


sphinx_gallery_conf = {
    "examples_dirs": str(EXAMPLES),
    "gallery_dirs": "gallery",
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("nwsketch",),
    "ignore_pattern": left_out(),
    "reset_argv": "gallery_arguments.of_script",
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1,
}
# -- HTML -------------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "nwsketch"
html_static_path = ["_static"]
html_css_files = ["nwsketch.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 5,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}


def skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which their docstrings describe, and what they inherit."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def trim_blocks(app: Any, page: str, source: list[str]) -> None:
    """Take off the blank line at the end of code blocks, without which doctest reads the fence as output."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def setup(app: Any) -> None:
    """Prepare what the gallery needs, and connect the hooks above.

    Here and not above, as pytest looks for doctests in this file, too, and must be left as it is.
    """
    sys.path.insert(0, str(HERE))  # for gallery_arguments
    (HERE / "_build").mkdir(exist_ok=True)
    # Pictures are of the data that comes with scikit-learn, whatever this machine holds.
    os.environ.pop("NWSKETCH_DATA", None)
    # The gallery shows pictures itself: plt.show() has no window to open.
    warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive", category=UserWarning)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("source-read", trim_blocks)
