"""The house's rules for its own code, measured."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "covidxr").rglob("*.py"))
by_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def body_lines(function):
    doc = ast.get_docstring(function, clean=False)
    return function.end_lineno - function.body[0].lineno + 1 - (len(doc.splitlines()) if doc else 0)


def public_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    definitions = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return [node for node in definitions if not node.name.startswith("_")]


@by_module
def test_modules_are_flat_and_described(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text))


@by_module
def test_functions_are_short(path):
    assert all(body_lines(function) <= 40 for function in functions(path))


def test_most_functions_are_shorter_still():
    lengths = sorted(body_lines(function) for path in MODULES for function in functions(path))
    assert median(lengths) <= 10
    assert lengths[int(0.95 * len(lengths))] <= 30


@pytest.mark.parametrize("path", [p for p in MODULES if not p.name.startswith("_")], ids=lambda p: p.stem)
def test_public_names_are_documented_with_an_example(path):
    for node in public_names(path):
        doc = ast.get_docstring(node) or ""
        assert doc, f"{node.name} has no docstring"
        plain = isinstance(node, ast.ClassDef) and "NamedTuple" in [getattr(base, "id", "") for base in node.bases]
        assert ">>>" in doc or plain, f"{node.name} has no example"


def test_importing_the_package_is_instant_and_light():
    heavy = "{'tensorflow', 'keras', 'pandas', 'matplotlib', 'papermill'}"
    script = f"import sys, covidxr; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tensorflow_is_silent():
    script = "import covidxr.train; from covidxr._tensorflow import tf; tf.constant(1.0) + 1"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == ""
