"""What a run is going to do: its notebooks, their parameters and their keys, all checked before anything starts."""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

import covidxr
from covidxr._profile import NOTEBOOKS
from covidxr.errors import CovidxrError, unknown

_SHARED = "all"  # the profile's section for every notebook
_WHEN_ASKED = ("08_what_matters",)  # takes hours: run where the profile has a section for it, or by --only
_KINDS = {
    bool: "true or false",
    (int, float): "a number",
    list: "a list, such as '[a, b]'",
    dict: "pairs, such as '{a: b}'",
}
_CODE_SUFFIXES = (".py", ".csv", ".json", ".txt", ".yaml")  # what can change a notebook's results; templates cannot


@dataclass
class Step:
    """One notebook of a run.

    Parameters
    ----------
    path : pathlib.Path
        The notebook without outputs.
    source : list
        Type, text and tags of each cell.
    declared : dict
        Names and default values in its cell tagged ``parameters``.
    parameters : dict
        The values given to it, of the profile, the command line and the runner.
    key : str
        Hash of all that decides what the notebook does, the notebooks before it included.
    wanted : bool
        Whether the profile runs it; otherwise it is run when it is asked for by name.

    Examples
    --------
    >>> Step(Path("notebooks/03_fine_tuning.ipynb"), [], {"epochs": 14}, {"epochs": 2}).values
    {'epochs': 2}
    """

    path: Path
    source: list
    declared: dict
    parameters: dict = field(default_factory=dict)
    key: str = ""
    wanted: bool = True

    @property
    def stem(self) -> str:
        """str: Name without folder and suffix, such as ``"03_fine_tuning"``."""
        return self.path.stem

    @property
    def values(self) -> dict:
        """dict: All parameters with the values that the notebook sees."""
        return {**self.declared, **self.parameters}


def read_steps(notebooks: Path = NOTEBOOKS) -> list[Step]:
    """Read the numbered notebooks of a folder, in order.

    Parameters
    ----------
    notebooks : pathlib.Path
        Folder with files named ``NN_*.ipynb``.

    Returns
    -------
    list of Step

    Raises
    ------
    CovidxrError
        When there are none, or one has no readable cell tagged ``parameters``.

    Examples
    --------
    >>> read_steps(Path("no-such-folder"))
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: no notebooks named NN_*.ipynb in no-such-folder; name the folder that holds them
    """
    paths = sorted(Path(notebooks).glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise CovidxrError(f"no notebooks named NN_*.ipynb in {notebooks}; name the folder that holds them")
    return [_read_step(path) for path in paths]


def plan(profile: dict, typed: dict, injected: dict, notebooks: Path = NOTEBOOKS) -> list[Step]:
    """Give each notebook its parameters and its key.

    Parameters
    ----------
    profile : dict
        Sections, as `read_profile` returns them; ``all`` is for every notebook that declares the parameter.
    typed : dict
        Parameters of the command line, which go before the profile's.
    injected : dict
        What the runner adds where it is declared, such as ``run_dir``; it goes before all others.
    notebooks : pathlib.Path
        Folder of the notebooks.

    Returns
    -------
    list of Step

    Raises
    ------
    CovidxrError
        When a section or a parameter does not exist, or a value is not of its kind.

    Examples
    --------
    >>> plan({}, {}, {}, Path("no-such-folder"))
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: no notebooks named NN_*.ipynb in no-such-folder; name the folder that holds them
    """
    steps = read_steps(notebooks)
    _check_names(steps, profile, typed)
    previous = _package_hash()
    for step in steps:
        given = {**profile.get(_SHARED, {}), **profile.get(step.stem, {}), **typed, **injected}
        step.wanted = step.stem in profile or step.stem not in _WHEN_ASKED
        step.parameters = {name: given[name] for name in sorted(given) if name in step.declared}
        _check_kinds(step)
        previous = step.key = _digest([step.source, step.parameters, previous])
    return steps


def choose(steps: list[Step], only: str | None) -> list[Step]:
    """Pick the notebooks to run.

    Parameters
    ----------
    steps : list of Step
        All of them.
    only : str or None
        How the name of the one wanted begins; None for all that the profile runs.

    Returns
    -------
    list of Step

    Raises
    ------
    CovidxrError
        When not exactly one begins so.

    Examples
    --------
    >>> steps = [Step(Path("01_a.ipynb"), [], {}), Step(Path("02_b.ipynb"), [], {})]
    >>> [step.stem for step in choose(steps, "02")]
    ['02_b']
    """
    found = [step for step in steps if (step.wanted if only is None else step.stem.startswith(only))]
    if only is not None and len(found) != 1:
        raise unknown("notebook" if not found else "notebook (more than one fits)", only, [s.stem for s in steps])
    return found


def _read_step(path):
    cells = nbformat.read(path, as_version=4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise CovidxrError(f"{path.name}: exactly one cell must be tagged 'parameters', found {len(tagged)}")
    source = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells]
    return Step(path, source, _assignments(tagged[0].source, path.name))


def _assignments(source, where):
    """Names and values that a cell assigns; a value that is no plain constant is kept as its text."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise CovidxrError(f"{where}: line {error.lineno} of the parameters cell is not Python: {error.msg}") from None
    targets = [(node.targets[0], node.value) for node in body if isinstance(node, ast.Assign)]
    targets += [(node.target, node.value) for node in body if isinstance(node, ast.AnnAssign) and node.value]
    return {target.id: _constant(value) for target, value in targets if isinstance(target, ast.Name)}


def _constant(node):
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return ast.unparse(node)


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


def _check_kinds(step):
    """A text where a list belongs would be taken for a list of letters, hours later in the last notebook."""
    for name, value in step.parameters.items():
        kind = next((kind for kind in _KINDS if isinstance(step.declared[name], kind)), object)
        if value is not None and not isinstance(value, kind):
            raise CovidxrError(f"{step.stem}: {name} takes {_KINDS[kind]}, not {value!r}")


def _package_hash():
    folder = Path(covidxr.__file__).parent
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in _CODE_SUFFIXES and path.is_file()]
    contents = [[path.relative_to(folder).as_posix(), path.read_bytes().hex()] for path in files]
    return _digest([covidxr.__version__, contents])


def _digest(value):
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()
