"""The house's rules for its own code, measured."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "covidxr").rglob("*.py"))
by_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


@by_module
def test_modules_are_described(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_importing_the_package_is_instant_and_light():
    heavy = "{'tensorflow', 'keras', 'pandas', 'matplotlib', 'papermill'}"
    script = f"import sys, covidxr; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tensorflow_is_silent():
    script = "import covidxr.train; from covidxr._tensorflow import tf; tf.constant(1.0) + 1"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == ""
