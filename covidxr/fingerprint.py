"""Fingerprints by content: of files, of the code that a notebook runs, of the inputs that its parameters name."""

from __future__ import annotations

import ast
import csv
import functools
import hashlib
import io
import json
import zipfile
from importlib.util import resolve_name
from pathlib import Path

import covidxr
from covidxr.data.manifest import MASK_COLUMNS, is_phantom
from covidxr.data.sources import SOURCES, excluded_images, load_source, source_entry

_BLOCK = 1 << 20

_VOLATILE = ("date_saved", "shared_object_id")  # the time and the addresses that Keras writes


def digest(value) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def content(path) -> str | None:
    """Digest of a file's content; None where there is no such file."""
    path = Path(path)
    try:
        return _BY_SUFFIX.get(path.suffix, _plain)(path)
    except (OSError, ValueError):  # not there, a folder, or a name that no file can have
        return None


def _plain(path):
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def _keras(path):
    """A zip file without the volatile fields; one that cannot be read is compared byte by byte."""
    try:
        with zipfile.ZipFile(path) as members:
            return digest({name: _member(members, name) for name in members.namelist()})
    except Exception:  # zipfile, zlib and json raise half a dozen kinds on a damaged file
        return _plain(path)


def _member(members, name):
    data = members.read(name)
    if not name.endswith(".json"):
        return hashlib.sha256(data).hexdigest()
    return json.loads(
        data, object_hook=lambda found: {key: value for key, value in found.items() if key not in _VOLATILE}
    )


def _table(path):
    """A table that names no files, or is damaged, is compared byte by byte."""
    raw = path.read_bytes()
    try:
        rows = list(csv.DictReader(io.StringIO(raw.decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        return hashlib.sha256(raw).hexdigest()
    if not rows or not {"path", *MASK_COLUMNS} & set(rows[0]):
        return hashlib.sha256(raw).hexdigest()
    return digest([_row(row, path.parent) for row in rows])


def _row(row, folder):
    """A row without folders: an image counts by name and existence, a mask by content."""
    named = {}
    if row.get("path"):
        named["path"] = [Path(row["path"]).name, (folder / row["path"]).is_file()]
    named |= {mask: content(folder / row[mask]) for mask in MASK_COLUMNS if row.get(mask)}
    return sorted(((str(name), value) for name, value in {**row, **named}.items()), key=lambda item: item[0])


_BY_SUFFIX = {".keras": _keras, ".csv": _table}


ROOT = Path(covidxr.__file__).parent

# Modules that only present results, by any part of their dotted name: a change in them, or in what only they import, runs
# no notebook again.
PRESENTATION = frozenset({"plots", "widgets", "report"})


def code_of(cells) -> str:
    """Digest of a notebook's code cells and of every module of the package that they import, directly or not."""
    parsed = [_parsed(cell, ROOT.name) for cell in cells]
    imported = set().union(*(names for _, names in parsed))
    return digest([[text for text, _ in parsed], _sources(imported)])


def modules_of(*names) -> str:
    """Digest of modules of the package, such as ``"covidxr.training.fit"``, and of what they import."""
    return digest(_sources(names))


def _sources(names):
    """Normalised sources of the package's modules that these names lead to, without those that only present."""
    files = {".".join([ROOT.name, *path.relative_to(ROOT).with_suffix("").parts]): path for path in ROOT.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items() if name != f"{ROOT.name}.__init__"}
    found, pending = {}, [_module_in(files, name) for name in names]
    while pending:
        name = pending.pop()
        if name and name not in found and not PRESENTATION & set(name.split(".")):
            file = files[name]
            found[name], imported = _module(name, file, file.stat().st_mtime_ns)
            pending += [_module_in(files, other) for other in imported]
    return found


def _module_in(files, name):
    """The module of a dotted name: itself, or the module that holds it; nothing for the package itself and for others."""
    top, _, rest = name.partition(".")
    name = (
        f"{top}.{covidxr._MODULE_OF.get(rest, rest)}" if top == ROOT.name else ""
    )  # it may be a name that the package exports
    while name and name not in files:
        name = name.rpartition(".")[0]
    return name


@functools.cache
def _module(name, file, _changed):
    """Normalised source, with digests of the data files that it names; and the names that it imports."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    text, names = _parsed(file.read_text(encoding="utf-8"), package)
    neighbours = [other for other in sorted(file.parent.iterdir()) if other.suffix in (".csv", ".npz")]
    data = [other for other in neighbours if repr(other.name) in text]
    return [text, {other.name: content(other) for other in data}], {*names, name.rpartition(".")[0]}


def _parsed(source, package):
    """Source without comments, layout and docstrings, and the names that it imports; unchanged where it is not Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with a magic command
        return source, set()
    names = set()
    for node in ast.walk(tree):
        names |= _imported(node, package)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _has_docstring(node):
            del node.body[0]
    return ast.unparse(tree), names


def _has_docstring(node):
    return ast.get_docstring(node, clean=False) is not None


def _imported(node, package):
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        base = resolve_name("." * node.level + (node.module or ""), package)
        return {base} | {f"{base}.{alias.name}" for alias in node.names}
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{ROOT.name}."):
        return {node.value}  # a module that is started as its own process
    return set()


_LOCATIONS = ("run_dir", "data_dir")  # where things lie, which decides no result

SOURCE_LISTS = ("sources", "external", "external_sets", "mitigated_sources")

_VARIANTS = ("cells", "variants")  # of a training, which may name weights of their own

_RUNS = ("beside", "comparison_run")  # another run, of which the predictions are read, under its folder's name

_NAMED_WEIGHTS = ("auto", "imagenet", "random")


def comparable(parameters: dict) -> dict:
    """Parameters without the paths in them, which count by the content of what they name: see `inputs_of`."""
    return {name: _without_paths(name, value) for name, value in parameters.items() if name not in _LOCATIONS}


def _without_paths(name, value):
    if not value:
        return value
    if name in SOURCE_LISTS:
        named = [
            (source if source in SOURCES or is_phantom(source) else "a path", classes)
            for source, classes in map(source_entry, value)
        ]
        return [{source: classes} if classes else source for source, classes in named]
    if name == "weights":
        return value if value in _NAMED_WEIGHTS else "a file"
    if name in _VARIANTS:
        return {variant: comparable(settings) for variant, settings in value.items()}
    return "a file" if name == "lung_masks" else "a run" if name in _RUNS else value


def inputs_of(parameters: dict, known: dict) -> dict:
    """Digests of all that the parameters name; those of sources are kept in `known`, as they take long."""
    found = {}
    for name, value in parameters.items():
        if not value:
            continue
        if name in SOURCE_LISTS:
            found |= _digests_of_sources(name, value, parameters.get("data_dir"), known)
        elif name == "lung_masks" or (name == "weights" and value not in _NAMED_WEIGHTS):
            found[name] = content(Path(value).expanduser())
        elif name in _VARIANTS:
            for variant, settings in value.items():
                found |= {f"{name}: {variant}": total for total in inputs_of(settings, known).values()}
        elif name in _RUNS:
            found[name] = digest([Path(value).name, content(Path(value, "external_predictions.csv"))])
    return found


def _digests_of_sources(name, values, data_dir, known):
    found = {}
    for value, _ in map(source_entry, values):
        if not is_phantom(value):  # drawn by the package's own code, which counts by itself
            if (value, data_dir) not in known:
                known[value, data_dir] = _digest_of_source(value, data_dir)
            key = f"{name}: {Path(value).name}"
            while key in found:  # two tables of one name in different folders
                key += "'"
            found[key] = known[value, data_dir]
    return found


def _digest_of_source(source, data_dir):
    """Digest of a source's rows and of every file that they name; None where it cannot be loaded: its notebook says why."""
    try:
        rows, excluded = load_source(source, data_dir), excluded_images([source], data_dir)
    except (ValueError, OSError):
        return None
    paths = ["path", *MASK_COLUMNS]
    files = [[content(path) if path else "" for path in rows[column]] for column in paths]
    return digest([rows.drop(columns=paths).to_csv(), files, excluded.to_csv()])
