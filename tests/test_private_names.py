"""Nothing rests on what a library does not promise, but for one thing, whose library is bounded above."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "covidxr"
TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
KNOWN = {"_graph.py": {"_keras_history", "_inbound_nodes"}}  # Keras has no public name for where a tensor came from
NAMED_TUPLE = {"_asdict", "_replace", "_fields"}  # public in spite of their names


def found(kinds, trees=None):
    return [node for tree in trees or TREES.values() for node in ast.walk(tree) if isinstance(node, kinds)]


OWN = {node.name for node in found((ast.FunctionDef, ast.ClassDef))}
OWN |= {node.id for node in found(ast.Name)} | {alias.name for node in found(ast.ImportFrom) for alias in node.names}
OWN |= {node.attr for node in found(ast.Attribute) if isinstance(node.ctx, ast.Store)}


@pytest.mark.parametrize("name", TREES)
def test_no_private_part_of_a_library_is_used(name):
    imports = {node.module or "" for node in found(ast.ImportFrom, [TREES[name]])}
    imports |= {alias.name for node in found(ast.Import, [TREES[name]]) for alias in node.names}
    theirs = {module for module in imports if not module.startswith("covidxr")}
    assert not {module for module in theirs if re.search(r"\._|\.src\b", module)}
    attributes = {node.attr for node in found(ast.Attribute, [TREES[name]])}
    private = {attribute for attribute in attributes if re.match(r"_[^_]", attribute)}
    assert private - OWN - NAMED_TUPLE <= KNOWN.get(name, set())


def test_the_library_whose_private_names_are_used_is_bounded_above():
    assert re.search(
        r'^    "keras>=3\.\d+,<3\.\d+"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
