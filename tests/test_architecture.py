"""The rules of the house that a machine can check: who imports whom, what is documented, what is named."""

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import subprocess
import sys
from dataclasses import is_dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import nwsketch

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = Path(nwsketch.__file__).resolve().parent

# Every part of the package and its height; a part imports its own height or below.
# A new part must be given its place here.
HEIGHTS = {
    "hashing": 0,
    "backends": 0,
    "tensors": 0,
    "exact_kernels": 0,
    "magnitudes": 0,
    "progress": 0,
    "proportions_kernels": 0,
    "sketch": 1,
    "storage": 1,
    "consistent": 1,
    "bandwidth": 1,
    "bandwidth_search": 1,
    "border": 1,
    "discrete_noise": 1,
    "privacy": 1,
    "half_life": 1,
    "window": 2,
    "kernel_sampler": 2,
    "correction": 1,
    "trend": 1,
    "uncertainty": 1,
    "inputs": 1,
    "torch_inputs": 1,
    "merging": 1,
    "proportions": 1,
    "_sklearn": 1,
    "validation": 1,
    "regressor": 2,
    "estimator_files": 2,
    "exact": 2,
    "exact_tiles": 2,
    "scaler": 2,
    "size": 2,
    "training": 2,
    "plotting": 2,
    "distribution": 2,
    "dask": 2,
    "spark": 2,
    "": 3,  # nwsketch/__init__.py
}
NEVER_MEET = {frozenset({"hashing", "backends"})}
SCIKIT_LEARN_USERS = {
    "_sklearn",
    "validation",
    "trend",
    "regressor",
    "window",
    "kernel_sampler",
    "exact",
    "exact_tiles",
    "scaler",
    "size",
    "training",
    "plotting",
    "distribution",
    "dask",
    "spark",
    "",
}
PRIVATE_NAMES_LIVE_IN = "nwsketch._sklearn"


def part_of(module):
    """Return the part of the package that a dotted name lies in; "" for the package itself."""
    name = module.split(".")[1] if "." in module else ""
    return name if name in HEIGHTS or name == "" else f"unknown part {name}"


def imports_of(module, source, is_package=False):
    """List the names that a module imports, each as (module, name or None), relative ones resolved."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                pieces = module.split(".")
                parents = pieces[: len(pieces) - node.level + is_package]
                base = ".".join([*parents, base]).rstrip(".")
            found += [(base, alias.name) for alias in node.names]
    return found


def parts_imported(module, source, is_package=False):
    """Return the other parts of the package that a module imports."""
    parts = set()
    for base, name in imports_of(module, source, is_package):
        if base.split(".")[0] == "nwsketch":
            takes_a_part = base == "nwsketch" and name in HEIGHTS
            parts.add(part_of(f"{base}.{name}" if takes_a_part else base))
    return parts - {part_of(module)}


def breaches(module, source, is_package=False):
    """Return a sentence for every import in ``source`` that breaks a rule of the house."""
    part = part_of(module)
    if part not in HEIGHTS:
        return [f"{module} has no place in HEIGHTS"]
    found = []
    for other in sorted(parts_imported(module, source, is_package)):
        if other not in HEIGHTS:
            found.append(f"{module} imports an {other}")
        elif HEIGHTS[other] > HEIGHTS[part]:
            found.append(f"{module} imports {other or 'nwsketch'}, which lies above it")
        elif frozenset({part, other}) in NEVER_MEET:
            found.append(f"{module} imports {other}: {part} and {other} must not know each other")
    for base, name in imports_of(module, source, is_package):
        if base.split(".")[0] != "sklearn":
            continue
        if part not in SCIKIT_LEARN_USERS:
            found.append(f"{module} imports {base}: it must work without scikit-learn")
        is_private = any(re.match("_[^_]", piece) for piece in f"{base}.{name or ''}".split("."))
        if is_private and module != PRIVATE_NAMES_LIVE_IN:
            found.append(f"{module} imports the private name {base}{'.' + name if name else ''}")
    return found


def modules():
    """Yield (dotted name, source, whether it is a package) of every module of nwsketch."""
    for path in sorted(PACKAGE.rglob("*.py")):
        pieces = ["nwsketch", *path.relative_to(PACKAGE).with_suffix("").parts]
        is_package = pieces[-1] == "__init__"
        yield ".".join(pieces[:-1] if is_package else pieces), path.read_text("utf-8"), is_package


def test_imports_run_one_way():
    assert [breach for module in modules() for breach in breaches(*module)] == []


def test_parts_import_each_other_without_a_cycle():
    graph = {}
    for module in modules():
        graph.setdefault(part_of(module[0]), set()).update(parts_imported(*module))
    assert set(TopologicalSorter(graph).static_order()) == set(graph)  # which raises on a cycle
    assert not any("" in imported for imported in graph.values())


@pytest.mark.parametrize(
    ("module", "source", "is_package", "message"),
    [
        ("nwsketch.sketch", "from nwsketch.regressor import X", False, "imports regressor, which lies above"),
        ("nwsketch.sketch", "from .exact import X", False, "imports exact, which lies above"),
        (
            "nwsketch.sketch",
            "def f():\n    from nwsketch import exact",
            False,
            "imports exact, which lies above",
        ),
        ("nwsketch.sketch", "from nwsketch import X", False, "imports nwsketch, which lies above"),
        ("nwsketch.hashing.base", "import nwsketch.sketch", False, "imports sketch, which lies above"),
        (
            "nwsketch.hashing",
            "from ..backends import X",
            True,
            "must not know each other",
        ),
        ("nwsketch.backends.threads", "from ..hashing.base import X", False, "must not know each other"),
        ("nwsketch.sketch", "import sklearn.base", False, "must work without scikit-learn"),
        ("nwsketch.exact", "from sklearn.utils._chunking import X", False, "the private name"),
        ("nwsketch.exact", "from sklearn.base import _fit_context", False, "the private name"),
        ("nwsketch.novelty", "", False, "has no place in HEIGHTS"),
        ("nwsketch.sketch", "import nwsketch.novelty", False, "imports an unknown part novelty"),
    ],
)
def test_a_wrong_import_is_seen(module, source, is_package, message):
    (breach,) = breaches(module, source, is_package)
    assert message in breach


def test_a_right_import_is_let_through():
    source = "import numpy\nfrom nwsketch.sketch import X\nfrom sklearn.base import BaseEstimator"
    assert breaches("nwsketch.regressor", source) == []
    assert breaches("nwsketch._sklearn", "from sklearn.base import _fit_context") == []
    assert breaches("nwsketch.hashing", "from .base import X", is_package=True) == []


# pandas is not among them: scikit-learn itself imports it where it is installed.
OPTIONAL = (
    "torch",
    "matplotlib",
    "polars",
    "tqdm",
    "dask",
    "distributed",
    "pyspark",
    "lightning",
    "skorch",
    "torchdata",
    "transformers",
)
WATCH = """
import sys

class Watch:
    tried = []

    def find_spec(self, name, path=None, target=None):
        if name in {names}:
            self.tried.append(name)

sys.meta_path.insert(0, Watch())
import nwsketch
{more}
print(*Watch.tried)
"""


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", []),
        ("import nwsketch.plotting", []),
        ("try: import torch\nexcept ImportError: pass", ["torch"]),
    ],
)
def test_importing_nwsketch_does_not_even_try_an_optional_library(more, expected):
    code = WATCH.format(names=OPTIONAL, more=more)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # What torch, where it is installed, tries in turn is its own affair.
    assert answer.stdout.split()[: max(len(expected), 1)] == expected


def is_record(thing):
    """Return whether the arguments of a class are its attributes."""
    return is_dataclass(thing) or hasattr(thing, "_fields")


def undocumented(name, thing, inherited=""):
    """Return what the docstring of a class or function lacks, in a sentence each.

    A method may leave its parameters to the docstring of the method that it overrides; the
    parameters of a record are its attributes.
    """
    text = inspect.getdoc(thing) or ""
    if not text:
        return [f"{name} has no docstring"]
    if inspect.isclass(thing) and issubclass(thing, Exception):  # which has no signature
        return []
    takes = [argument for argument in inspect.signature(thing).parameters if argument not in ("self", "cls")]
    section = r"^(Parameters|Attributes)\n-{10}$" if is_record(thing) else r"^Parameters\n-{10}$"
    if takes and not re.search(section, f"{text}\n{inherited}", re.MULTILINE):
        return [f"{name} takes {', '.join(takes)} and has no section Parameters"]
    return []


def undocumented_in_class(name, cls):
    """Return what the docstrings of a class and of the public methods that it defines lack."""
    found = undocumented(name, cls)
    for attribute, member in vars(cls).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if attribute.startswith("_") or not inspect.isfunction(function):
            continue
        parents = (getattr(parent, attribute, None) for parent in cls.__mro__[1:])
        inherited = "\n".join(inspect.getdoc(parent) or "" for parent in parents if parent)
        found += undocumented(f"{name}.{attribute}", function, inherited)
    return found


def test_public_names_are_documented():
    found = []
    homes = [
        "nwsketch",
        "nwsketch.hashing",
        "nwsketch.plotting",
        "nwsketch.sketch",
        "nwsketch.storage",
        "nwsketch.training.policies",
    ]
    if importlib.util.find_spec("torch"):
        homes.append("nwsketch.training")
    for home in homes:
        module = importlib.import_module(home)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if inspect.isclass(thing):
                found += undocumented_in_class(f"{home}.{name}", thing)
            elif callable(thing):
                found += undocumented(f"{home}.{name}", thing)
    assert found == []


def test_a_missing_docstring_is_seen():
    class Poor:
        """A class that takes nothing."""

        def quiet(self): ...

        def terse(self, X):
            """Say little."""

    class Heir(Poor):
        """Inherits no parameters."""

        def terse(self, X):
            """Say as little."""

    assert undocumented_in_class("Poor", Poor) == [
        "Poor.quiet has no docstring",
        "Poor.terse takes X and has no section Parameters",
    ]
    assert undocumented_in_class("Heir", Heir) == ["Heir.terse takes X and has no section Parameters"]


def test_version_is_the_installed_one():
    assert nwsketch.__version__ == importlib.metadata.version("nwsketch")


# Written so that this file does not contain what it looks for.
FOREIGN = re.compile(
    r"py[p]i\.org|python[h]osted\.org|/(work|farm|root|opt|home)/|\.lib[r]ary|farm-(bench|studio)"
)


def test_no_file_names_a_machine_or_a_registry():
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout: no list of the project's own files")
    paths = [REPOSITORY / name for name in listing.stdout.split("\0") if name]
    texts = {path: path.read_text("utf-8", errors="replace") for path in paths if path.is_file()}
    found = [(path.name, match.group()) for path, text in texts.items() for match in FOREIGN.finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    "text", ["in " + "/".join(["", "work", "main"]), "https://" + "py" + "pi.org/simple"]
)
def test_a_foreign_name_is_seen(text):
    assert FOREIGN.search(text)
