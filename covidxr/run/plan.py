"""The plan of a run: its notebooks, their parameters and what they read, all checked before anything starts."""

from __future__ import annotations

import ast
import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from covidxr.fingerprint import code_of
from covidxr.run.profile import NOTEBOOKS
from covidxr.utils import CovidxrError, unknown

_SHARED = "all"  # the profile's section for every notebook

_OPTIONAL = ("08_ablation_study",)  # takes hours: run if the profile has a section for it, or with --only

_KINDS = {
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "str": (str, "a text"),
    "list": (list, "a list, such as '[a, b]'"),
    "dict": (dict, "pairs, such as '{a: b}'"),
    "None": (type(None), "null"),
}

# The least value of a number, by the name of the parameter; of all others it is 0.
_AT_LEAST = {
    "per_class": 1,
    "image_size": 1,
    "image_sizes": 1,
    "batch_size": 1,
    "score_channels": 1,
    "repeats": 1,
    "folds": 2,
}

_SHARES = ("_share", "_sensitivity")  # names with these endings lie between 0 and 1

_COUNTS = "n_"  # names with this beginning are 1 or more

_NOT_EMPTY = ("sources", "classes")


@dataclass
class Notebook:
    """One notebook of a run."""

    path: Path
    cells: list
    declared: dict
    parameters: dict = field(default_factory=dict)
    kinds: dict = field(default_factory=dict)
    reads: list | None = None
    writes: list = field(default_factory=list)
    wanted: bool = True

    @property
    def stem(self) -> str:
        """str: Name without folder and suffix, such as ``"03_fine_tuning"``."""
        return self.path.stem

    @property
    def values(self) -> dict:
        """dict: All parameters with the values that the notebook sees."""
        return {**self.declared, **self.parameters}

    @property
    def code(self) -> str:
        """str: Digest of the code that decides its results, by `covidxr.fingerprint.code_of`."""
        return code_of(self.cells)


def read_notebooks(notebooks: Path = NOTEBOOKS) -> list[Notebook]:
    """Read the numbered notebooks of a folder, in order."""
    paths = sorted(Path(notebooks).glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise CovidxrError(f"no notebooks named NN_*.ipynb in {notebooks}; name the folder that holds them")
    return [_read_notebook(path) for path in paths]


def plan(profile: dict, typed: dict, injected: dict, notebooks: Path = NOTEBOOKS) -> list[Notebook]:
    """Give each notebook its parameters."""
    steps = read_notebooks(notebooks)
    _check_names(steps, profile, typed)
    for step in steps:
        given = {**profile.get(_SHARED, {}), **profile.get(step.stem, {}), **typed, **injected}
        step.wanted = step.stem in profile or step.stem not in _OPTIONAL
        step.parameters = {name: given[name] for name in sorted(given) if name in step.declared}
        _check_values(step)
    return steps


def select(steps: list[Notebook], only: str | None) -> list[Notebook]:
    """Pick the notebooks to run."""
    found = [step for step in steps if (step.wanted if only is None else step.stem.startswith(only))]
    if only is not None and len(found) != 1:
        raise unknown("notebook" if not found else "notebook (more than one fits)", only, [s.stem for s in steps])
    return found


def _read_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    cells = notebook.cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise CovidxrError(f"{path.name}: exactly one cell must be tagged 'parameters', found {len(tagged)}")
    code = [cell.source for cell in cells if cell.cell_type == "code" and cell is not tagged[0]]
    assigned = _assignments(tagged[0].source, path.name)
    declared, kinds = ({name: pair[i] for name, pair in assigned.items()} for i in (0, 1))
    declaration = notebook.metadata.get("covidxr", {})
    return Notebook(
        path, code, declared, kinds=kinds, reads=declaration.get("reads"), writes=declaration.get("writes", [])
    )


def _assignments(source, where):
    """Names that a cell assigns, with value and annotation; a value that is no constant is kept as its source."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise CovidxrError(f"{where}: line {error.lineno} of the parameters cell is not Python: {error.msg}") from None
    targets = [(node.targets[0], node.value, None) for node in body if isinstance(node, ast.Assign)]
    targets += [
        (node.target, node.value, node.annotation) for node in body if isinstance(node, ast.AnnAssign) and node.value
    ]
    return {target.id: _constant(value, kind) for target, value, kind in targets if isinstance(target, ast.Name)}


def _constant(node, annotation):
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):
        return ast.unparse(node), annotation
    return value, annotation or _kind_of(value)


def _kind_of(value):
    """The kind of a default value; None can be anything."""
    if value is None:
        return None
    elements = {ast.unparse(kind) for kind in map(_kind_of, value) if kind} if isinstance(value, list) else ()
    inside = f"[{elements.pop()}]" if len(elements) == 1 else ""
    return ast.parse(type(value).__name__ + inside, mode="eval").body


def _check_names(steps, profile, typed):
    sections = {step.stem: set(step.declared) for step in steps}
    everywhere = set().union(*sections.values())
    for section, parameters in profile.items():
        if section != _SHARED and section not in sections:
            raise unknown("section in the profile:", section, [_SHARED, *sections])
        _check_declared(f"profile, section {section}", parameters, sections.get(section, everywhere))
    _check_declared("command line", typed, everywhere)


def _check_declared(where, parameters, declared):
    for name in parameters:
        if name == "run_dir":
            raise CovidxrError(f"{where}: run_dir is not a parameter to set; give the run folder with --run-dir")
        if name not in declared:
            close = difflib.get_close_matches(str(name), declared)
            hint = f"; did you mean {' or '.join(close)}?" if close else ";"
            raise CovidxrError(f"{where}: unknown parameter {name!r}{hint} declared: {', '.join(sorted(declared))}")


def _check_values(step):
    """Refuse values of the wrong kind now: they would end the run hours later, or be taken for something else."""
    for name, value in step.parameters.items():
        kind = step.kinds.get(name)
        if kind is not None and not _fits(kind, value):
            raise CovidxrError(
                f"{step.stem}: {name} takes {_in_words(kind)}, not {'null' if value is None else repr(value)}"
            )
        if name in _NOT_EMPTY and value == []:
            raise CovidxrError(f"{step.stem}: {name} is empty; name at least one")
        if wrong := _out_of_range(name, value):
            raise CovidxrError(f"{step.stem}: {wrong}")
        step.parameters[name] = _whole(value) if kind is not None and not _fits(kind, 0.5) else value


def _fits(kind, value):
    if isinstance(kind, ast.BinOp):  # a | b
        return _fits(kind.left, value) or _fits(kind.right, value)
    if isinstance(kind, ast.Subscript):  # list[a]
        inside = value.values() if isinstance(value, dict) else value
        return _fits(kind.value, value) and all(_fits(_inside(kind), element) for element in inside)
    wanted = _KINDS.get(ast.unparse(kind), (object,))[0]
    if isinstance(value, bool):
        return wanted in (bool, object)
    return isinstance(value, wanted) or (wanted is int and isinstance(value, float) and value.is_integer())


def _inside(kind):
    """The kind of a list's elements, or of a dictionary's values."""
    return kind.slice.elts[-1] if isinstance(kind.slice, ast.Tuple) else kind.slice


def _in_words(kind):
    if isinstance(kind, ast.BinOp):
        return f"{_in_words(kind.left)} or {_in_words(kind.right)}"
    if isinstance(kind, ast.Subscript):
        return f"{_in_words(kind.value)}, each {_in_words(_inside(kind))}"
    return _KINDS.get(ast.unparse(kind), (object, ast.unparse(kind)))[1]


def _whole(value):
    """``1e3`` is read as 1000.0; where a whole number is expected, 1000 is meant."""
    if isinstance(value, list):
        return [_whole(element) for element in value]
    return int(value) if isinstance(value, float) else value


def _out_of_range(name, value):
    """What is wrong with a number, or with one in a list or a dictionary."""
    if isinstance(value, dict):
        return next(filter(None, (_out_of_range(str(key), inside) for key, inside in value.items())), None)
    if isinstance(value, list):
        return next(filter(None, (_out_of_range(name, inside) for inside in value)), None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    least, most = _AT_LEAST.get(name, int(name.startswith(_COUNTS))), 1 if name.endswith(_SHARES) else math.inf
    if math.isfinite(value) and least <= value <= most:
        return None
    return f"{name} is {value}; give {f'a number from {least} to 1' if most == 1 else f'{least} or more'}"
