"""The code that decides what a notebook finds, as one sum: its cells, and what they import of this package.

What does not change results does not count: comments, docstrings, layout, and the modules that only draw or present.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import covidxr
from covidxr._content import content, digest

ROOT = Path(covidxr.__file__).parent
# Modules that draw or present what others have computed, by any part of their dotted name. What they import does not count
# through them, and a change in them runs nothing again.
PRESENTATION = frozenset({
    "plots", "ablationplots", "auditplots", "heatplots", "pictures", "page", "_html", "_headlines", "compare", "gallery",
    "widgets", "reporting", "claim",
})  # fmt: skip


def code_of(cells) -> str:
    """Sum of a notebook's code cells and of every module of the package that they import, at whatever remove.

    Parameters
    ----------
    cells : sequence of str
        The text of its code cells.

    Returns
    -------
    str

    Examples
    --------
    >>> code_of(["x = 1  # one"]) == code_of(["x  =  1"]), code_of(["x = 1"]) == code_of(["x = 2"])
    (True, False)
    """
    texts, names = zip(*(_parsed(cell, "") for cell in cells), strict=True) if cells else ((), ())
    return digest([texts, {name: _module(name, *_stamp(name))[0] for name in closure(set().union(*names))}])


def modules_of(*names) -> str:
    """Sum of modules of the package, such as ``"covidxr.recipe"``, and of what they import."""
    return digest({name: _module(name, *_stamp(name))[0] for name in closure(names)})


def closure(names) -> list[str]:
    """The modules of the package that these names lead to, without those that only present."""
    found, left = {}, list(names)
    while left:
        name = _existing(left.pop())
        if name and name not in found and not PRESENTATION & set(name.split(".")):
            found[name] = None
            left += _module(name, *_stamp(name))[1]
    return sorted(found)


def _existing(name):
    """The module that a dotted name leads to: itself, or what stands before a name that is imported from it."""
    top, _, rest = name.partition(".")
    rest = covidxr._MODULE_OF.get(rest, rest)  # what the package itself hands out
    while top == ROOT.name and rest:
        if _file(f"{top}.{rest}"):
            return f"{top}.{rest}"
        rest = rest.rpartition(".")[0]
    return None  # the package itself computes nothing


def _file(name):
    path = ROOT.joinpath(*name.split(".")[1:])
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _stamp(name):
    """What tells whether a module has been read already, in this process, as it is now."""
    file = _file(name)
    return file, file.stat().st_mtime_ns


@functools.cache
def _module(name, file, _changed):
    """Text without what does not count, with the data files that it names; and the names that it imports."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    text, names = _parsed(file.read_text(encoding="utf-8"), package)
    data = [other for other in sorted(file.parent.glob("*.csv")) if repr(other.name) in text]
    return [text, {other.name: content(other) for other in data}], {*names, *_parents(name)}


def _parents(name):
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(2, len(parts))}


def _parsed(source, package):
    """A source's text as Python writes it, without docstrings, and the names that it imports; as it is where it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with a magic command
        return source, set()
    names = set()
    for node in ast.walk(tree):
        names |= _imported(node, package)
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _is_text(body[:1]):
            del body[0]
    return ast.unparse(tree), names


def _is_text(body):
    return bool(body) and isinstance(body[0], ast.Expr) and isinstance(getattr(body[0].value, "value", None), str)


def _imported(node, package):
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        return {base} | {f"{base}.{alias.name}" for alias in node.names}
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{ROOT.name}."):
        return {node.value}  # a module that is started as a process of its own
    return set()
