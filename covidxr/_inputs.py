"""What a notebook's parameters name outside of the run folder: images, tables, weights, lung boxes, other runs, by content.

Where something lies does not count, so that a moved folder runs nothing again; a corrected label, a folder completed
later, or another file of weights under the old name does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from covidxr._content import content, digest

PLACES = ("run_dir", "data_dir")  # where things lie, which decides nothing
_DRAWN = "phantom"  # by the package's own code, which counts by itself
_WEIGHTS = ("auto", "imagenet", "random")


def comparable(parameters: dict) -> dict:
    """Parameters without what only says where something lies; that counts as what is there, by `inputs_of`.

    Examples
    --------
    >>> comparable({"run_dir": "a", "weights": "folder/file.h5", "sources": ["phantom"], "seed": 3})
    {'weights': 'a file', 'sources': ['phantom'], 'seed': 3}
    """
    kept = {name: value for name, value in parameters.items() if name not in PLACES}
    return {name: _KINDS[name].without(value) if name in _KINDS and value else value for name, value in kept.items()}


def inputs_of(parameters: dict, known: dict) -> dict:
    """Sums of all that parameters name.

    Parameters
    ----------
    parameters : dict
        A notebook's, with the values that it sees.
    known : dict
        Sums of sources that were read before, which takes a while; added to.

    Returns
    -------
    dict
        What it is, such as ``"sources: ours.csv"`` or ``"weights"``, to its sum; None where there is nothing.

    Examples
    --------
    >>> inputs_of({"sources": ["phantom"], "weights": "auto", "lung_masks": "gone.json"}, {})
    {'lung_masks': None}
    """
    found = {}
    for name, value in parameters.items():
        if name in _KINDS and value:
            found |= _KINDS[name].sums(name, value, parameters.get("data_dir"), known)
    return found


class _Kind(NamedTuple):
    """A kind of parameter that names something: what is left of it for comparison, and the sums of what it names."""

    without: Callable
    sums: Callable


def _sources(name, values, data_dir, known):
    found = {}
    for number, value in enumerate(values):
        if value != _DRAWN:
            if (value, data_dir) not in known:
                known[value, data_dir] = _source(value, data_dir)
            same = sum(Path(other).name == Path(value).name for other in values[:number])
            found[f"{name}: {Path(value).name}" + (f" ({same + 1})" if same else "")] = known[value, data_dir]
    return found


def _source(source, data_dir):
    """Sum of a source's rows and of every file that they name, None where it cannot be read: its notebook will say why."""
    from covidxr.dataset import read_source  # pandas takes a moment, and phantoms need none of it
    from covidxr.provenance import left_out
    from covidxr.sources._rows import MASK_COLUMNS

    try:
        rows, unused = read_source(source, data_dir), left_out([source], data_dir)
    except (ValueError, OSError):
        return None
    paths = ["path", *MASK_COLUMNS]
    files = [[content(path) if path else "" for path in rows[column]] for column in paths]
    return digest([rows.drop(columns=paths).to_csv(), files, unused.to_csv()])


def _names(values):
    """Names of sources that the package knows; paths only count as what is there."""
    if set(values) == {_DRAWN}:
        return values
    from covidxr.sources import SOURCES

    return [value if value in SOURCES else "a path" for value in values]


def _file(name, value, data_dir, known):
    return {name: content(value)}


def _word(weights):
    return weights if weights in _WEIGHTS else "a file"


def _weights(name, value, data_dir, known):
    return {} if value in _WEIGHTS else {name: content(Path(value).expanduser())}


def _variants(name, cells, data_dir, known):
    """Weights that variants of a training name for themselves."""
    named = {f"{name}: {cell}": settings["weights"] for cell, settings in cells.items() if settings.get("weights")}
    return {key: value for cell, path in named.items() for key, value in _weights(cell, path, data_dir, known).items()}


def _plain_variants(cells):
    return {
        name: {key: _word(value) if key == "weights" else value for key, value in settings.items()}
        for name, settings in cells.items()
    }


def _run(name, value, data_dir, known):
    """Another run: what is read of it is its predictions, and they go by its folder's name."""
    return {name: digest([Path(value).name, content(Path(value, "external_predictions.csv"))])}


_OF_SOURCES = _Kind(_names, _sources)
_KINDS = {
    "sources": _OF_SOURCES,
    "unseen": _OF_SOURCES,
    "external": _OF_SOURCES,
    "lung_masks": _Kind(lambda value: "a file", _file),
    "weights": _Kind(_word, _weights),
    "cells": _Kind(_plain_variants, _variants),
    "beside": _Kind(lambda value: "a run", _run),
}
