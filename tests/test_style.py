"""What the code holds to: imports in one direction, documented exports, a light import, public names of libraries only."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each imports only from those before it and from its own kind; the longest name that fits a module counts.
ORDER = [
    "utils",
    "_keras",
    "checks",
    "evaluation.intervals",
    "data.manifest",
    "data",
    "data.dataset",
    "evaluation",
    "augmentation",
    "model",
    "gradcam",
    "training",
    "gradcam.metrics",
    "audit",
    "fingerprint",
    "ablation",
    "plots",
    "report",
    "widgets",
    "run",
    "__main__",
]


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "covidxr").rglob("*.py"))
}
DOORS = [module_name(path) for path in sorted((ROOT / "covidxr").glob("*/__init__.py"))]
by_module = pytest.mark.parametrize("name", MODULES)


def nodes(kind, *trees):
    return [node for tree in trees or MODULES.values() for node in ast.walk(tree) if isinstance(node, kind)]


def imported_at_once(tree):
    """Modules of the package that a module imports when it is imported itself, not later within a function."""
    later = {node for function in nodes((ast.FunctionDef, ast.Lambda), tree) for node in ast.walk(function)}
    found = set()
    for node in nodes((ast.Import, ast.ImportFrom), tree):
        if node not in later:
            names = [alias.name for alias in node.names]
            inside = [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else names
            found |= {name if name in MODULES else name.rpartition(".")[0] for name in inside}
    return found & set(MODULES)


def position(name):
    inside = name.removeprefix("covidxr").removeprefix(".")
    fitting = [known for known in ORDER if f"{inside}.".startswith(f"{known}.")]
    return ORDER.index(max(fitting, key=len)) if inside else 0


@by_module
def test_imports_go_one_way(name):
    own = f"{name}." if name in DOORS else None
    others = {other for other in imported_at_once(MODULES[name]) if not (own and other.startswith(own))}
    assert {other for other in others if position(other) > position(name)} == set()


def test_no_modules_import_each_other():
    TopologicalSorter({name: imported_at_once(tree) for name, tree in MODULES.items()}).prepare()


def exported():
    for door in DOORS:
        for node in nodes(ast.Assign, MODULES[door]):
            if ast.unparse(node.targets[0]) == "__all__":
                yield from ((door, name) for name in ast.literal_eval(node.value))


@pytest.mark.parametrize(("door", "name"), list(exported()))
def test_exported_names_have_an_example_and_annotations(door, name):
    value = getattr(importlib.import_module(door), name)
    if callable(value):
        signature = inspect.signature(value)
        bare = [
            parameter.name for parameter in signature.parameters.values() if parameter.annotation is parameter.empty
        ]
        assert bare == [] and (inspect.isclass(value) or signature.return_annotation is not signature.empty)
        assert ">>>" in value.__doc__


@by_module
def test_modules_are_described(name):
    assert ast.get_docstring(MODULES[name])


def loaded_by(script, *modules):
    script = f"import sys\n{script}\nprint(*sorted({set(modules)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_is_light():
    assert loaded_by("import covidxr", "tensorflow", "keras", "numpy", "pandas", "matplotlib", "papermill") == []


def test_data_evaluation_and_reports_do_without_tensorflow():
    assert loaded_by("import covidxr.data, covidxr.evaluation, covidxr.plots, covidxr.report", "tensorflow") == []


def test_tensorflow_is_silent():
    script = "import covidxr.training.fit; from covidxr._keras import tf; tf.constant(1.0) + 1"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == ""


# Private names of libraries

KNOWN = {
    "covidxr.gradcam._graph": {"_keras_history", "_inbound_nodes"}
}  # Keras has no public name for a tensor's origin
NAMED_TUPLE = {"_asdict", "_replace", "_fields"}  # public in spite of their names
OWN = {node.name for node in nodes((ast.FunctionDef, ast.ClassDef))} | {node.id for node in nodes(ast.Name)}
OWN |= {alias.name for node in nodes(ast.ImportFrom) for alias in node.names}
OWN |= {node.attr for node in nodes(ast.Attribute) if isinstance(node.ctx, ast.Store)}


@by_module
def test_no_private_name_of_a_library_is_used(name):
    modules = {node.module or "" for node in nodes(ast.ImportFrom, MODULES[name])}
    modules |= {alias.name for node in nodes(ast.Import, MODULES[name]) for alias in node.names}
    assert not {module for module in modules if not module.startswith("covidxr") and re.search(r"\._|\.src\b", module)}
    private = {node.attr for node in nodes(ast.Attribute, MODULES[name]) if re.match(r"_[^_]", node.attr)}
    assert private - OWN - NAMED_TUPLE <= KNOWN.get(name, set())


def test_the_library_whose_private_names_are_used_is_bounded_above():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^    "keras>=3\.\d+,<3\.\d+"', project, re.MULTILINE)
