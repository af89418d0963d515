"""From sources to a run's data: candidate films, a balanced and decoded selection, and the run folder that keeps it."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr.checks import MOST_SIDE, check_names, check_seed, check_whole
from covidxr.decode import DecodeError, looks_inverted
from covidxr.duplicates import TwinGuard, mark_twins
from covidxr.errors import CovidxrError, unknown
from covidxr.files import write_csv
from covidxr.pixels import decode_films, load_masks, load_pixels, preprocess, read_pixels, save_pixels
from covidxr.sources import SOURCES
from covidxr.sources._rows import COLUMNS, MASK_COLUMNS, manifest_rows, read_table
from covidxr.sources.table import source_names
from covidxr.splits import (
    SPLITS,
    check_manifest,
    check_split,
    kept_together,
    patient_keys,
    split_manifest,
    straddling_patients,
    straddling_twins,
)

__all__ = [
    "CLASSES",
    "SPLITS",
    "Assembly",
    "assemble",
    "check_manifest",
    "check_split",
    "kept_together",
    "load_masks",
    "load_pixels",
    "patient_keys",
    "preprocess",
    "read_run",
    "read_source",
    "save_run",
    "split_manifest",
    "straddling_patients",
    "straddling_twins",
]

CLASSES = ("Normal", "COVID-19", "Bacteria")
SMALLEST_SIDE = 8  # pixels; the networks ask for more
_AT_ONCE = 512  # films decoded before they are put away, so that memory stays bounded


class Assembly(NamedTuple):
    """What `assemble` returns: ``manifest``, its ``pixels`` row by row, and the ``rejected`` files with reasons."""

    manifest: pd.DataFrame
    pixels: np.ndarray
    rejected: pd.DataFrame


def read_source(source, data_dir=None) -> pd.DataFrame:
    """List the films of one source.

    Parameters
    ----------
    source : str
        A name in `covidxr.sources.SOURCES`, or the path of a CSV file or folder of one's own, which is called by its name
        without suffix.
    data_dir : str or pathlib.Path, optional
        Where the named sources lie.

    Returns
    -------
    pandas.DataFrame
        Manifest rows, nothing decoded yet.

    Raises
    ------
    CovidxrError
        When there is neither such a source nor such a path, or the data folder does not hold it.

    Examples
    --------
    >>> read_source("kagle")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: unknown source 'kagle'; available: phantom, covid-chestxray, kaggle-chest-xray, darkcovidnet, figure1, table, or the path of a CSV file or a folder of films
    """
    return _read_sources([source], data_dir)[0]


def _read_sources(sources, data_dir, readers=SOURCES):
    """Read several sources, no two under one name."""
    places = [_place(source, data_dir) for source in sources]
    own = [place for place in places if place is not None]
    _check_once(sources, places)
    names = iter(source_names(own, [name for name in SOURCES if name != "table"]))
    frames = [
        readers[source](data_dir) if place is None else readers["table"](place, next(names))
        for source, place in zip(sources, places, strict=True)
    ]
    _check_apart(sources, frames)
    return frames


def _place(source, data_dir):
    """Tell which file or folder of one's own a source is; None for those that have a reader."""
    known = [*SOURCES, "or the path of a CSV file or a folder of films"]
    if not isinstance(source, (str, os.PathLike)):
        raise unknown("source", source, known)
    if source == "table" and data_dir is None:
        raise CovidxrError("source 'table' needs data_dir: a CSV file with the columns path and label")
    place = data_dir if source == "table" else source
    if source != "table" and source in SOURCES:
        return None
    if os.path.exists(place):
        return Path(place)
    if str(place).lower().endswith(".csv") or {"/", "\\"} & set(str(place)):
        raise CovidxrError(f"source {str(place)!r}: no such file or folder; available: {', '.join(known)}")
    raise unknown("source", str(place), known)


def _check_once(sources, places):
    files = [source if place is None else place.stat()[1:3] for source, place in zip(sources, places, strict=True)]
    for number, file in enumerate(files):
        if file in files[:number]:
            first = sources[files.index(file)]
            also = "" if first == sources[number] else f", also as {str(sources[number])!r}"
            raise CovidxrError(f"source {str(first)!r} is named twice{also}; name it once")


def _check_apart(sources, frames):
    """A name in the column ``source`` of two tables may be one hospital or two; only the user knows."""
    first_with = {}
    for source, frame in zip(map(str, sources), frames, strict=True):
        for name in frame.source.unique():
            if name in first_with:
                raise CovidxrError(
                    f"{first_with[name]!r} and {source!r} both hold images of a source named {name!r}, whose patients would "
                    "become one another; put them into one table if it is one source, or name two in the column source"
                )
            first_with[name] = source


def assemble(
    sources=("phantom",),
    data_dir=None,
    *,
    classes=CLASSES,
    label_map=None,
    per_class=179,
    image_size=100,
    seed=0,
    work_dir=".",
    equal_classes=True,
    drop_twins=False,
) -> Assembly:
    """Choose readable films for each class, by default the same number, and decode them.

    Within a class, films are drawn at random, taking turns between its sources, so that no source outweighs another
    while both last.

    Parameters
    ----------
    sources : sequence of str
        Names in `covidxr.sources.SOURCES` or paths, as `read_source` takes them, each once. Two files or folders of one name
        are two sources, called by as much of the end of their paths as tells them apart, such as ``siteA/films`` and
        ``siteB/films`` (see `covidxr.sources.table.source_names`); two tables that name the same source in their column
        ``source`` are refused.
    data_dir : str or pathlib.Path, optional
        The folder where real data lie.
    classes : sequence of str
        The labels to keep.
    label_map : dict, optional
        Labels to rename first, such as ``{"Virus": "Pneumonia"}``.
    per_class : int or None
        Films a class; None takes as many as there are.
    image_size : int
        Side of the decoded films in pixels, 8 to 2,048.
    seed : int
        Seed of the draw, and of the phantoms, 0 to 4,294,967,295.
    work_dir : str or pathlib.Path
        Where the phantoms' films are written.
    equal_classes : bool
        Whether every class has the same number, `per_class` or, with None, that of the smallest; else `per_class` is the most
        that a class has.
    drop_twins : bool
        Take no film that shows the same picture as one taken before, but another in its place. Otherwise such films stay,
        share a name in ``twins``, and `split_manifest` keeps them on one side.

    Returns
    -------
    Assembly
        ``manifest`` (one row a film, sorted by class and ``image_id``, ``split`` empty), ``pixels`` (``uint8``,
        (N, image_size, image_size)) and ``rejected`` (``image_id``, ``path``, ``reason``): files that cannot be read, films
        that look inverted, and dropped twins.

    Raises
    ------
    CovidxrError
        Before anything is read, when a parameter is impossible; when no source is given, or one twice, a class is unknown to the sources, or has no readable film, or with `equal_classes` fewer
        than `per_class`.

    Examples
    --------
    >>> import tempfile
    >>> assembly = assemble(per_class=2, image_size=32, work_dir=tempfile.mkdtemp())
    >>> assembly.manifest.label.value_counts().tolist(), assembly.pixels.shape
    ([2, 2, 2], (6, 32, 32))
    """
    _check_parameters(sources, classes, label_map, per_class, image_size, seed)
    drawn = {"classes": classes, "per_class": per_class or 120, "seed": seed}
    draw = partial(SOURCES["phantom"], Path(work_dir) / "phantoms", **drawn)
    frames = _read_sources(sources, data_dir, {**SOURCES, "phantom": lambda _: draw()})
    candidates = check_manifest(pd.concat(frames, ignore_index=True))
    candidates["label"] = candidates.label.replace(label_map or {})
    for label in classes:
        if label not in set(candidates.label):
            raise unknown("class", label, sorted(set(candidates.label)))
    drawn_order = _shuffled(candidates, seed)
    by_class = {label: drawn_order[drawn_order.label == label] for label in classes}
    manifest, pixels, picks = _pick(by_class, per_class, image_size, equal_classes, drop_twins)
    manifest["sha256"] = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in manifest.path]
    rejected = pd.concat([pick.rejected for pick in picks], ignore_index=True)
    return Assembly(mark_twins(manifest, pixels), pixels, rejected)


def _check_parameters(sources, classes, label_map, per_class, image_size, seed):
    if isinstance(sources, (str, bytes, os.PathLike)):
        raise CovidxrError(f"sources is {sources!r}; give a list of sources, such as [{str(sources)!r}]")
    if not sources:
        raise CovidxrError(f"no source is given; available: {', '.join(SOURCES)}, or the path of a CSV file or folder")
    check_names("classes", classes)
    texts = [*label_map, *label_map.values()] if isinstance(label_map, dict) else [label_map]
    if label_map and not all(isinstance(text, str) for text in texts):
        raise CovidxrError(f"label_map is {label_map!r}; give new names by label, such as {{'Virus': 'Pneumonia'}}")
    if per_class is not None:
        check_whole("per_class", per_class, 1)
    check_whole("image_size", image_size, SMALLEST_SIDE, MOST_SIDE)
    check_seed(seed)


def _shuffled(candidates, seed):
    rng = np.random.default_rng(seed)
    shuffled = candidates.sort_values("image_id").iloc[rng.permutation(len(candidates))]
    turn = shuffled.groupby(["label", "source"]).cumcount()
    return shuffled.iloc[np.argsort(turn, kind="stable")]


def _pick(by_class, per_class, image_size, equal_classes, drop_twins):
    """Take the first readable films of each class, and bring them together; the picks say what was rejected."""
    least, most = (equal_classes and per_class) or 1, per_class
    while True:
        guard = TwinGuard() if drop_twins else None
        picks = [_first_readable(rows, label, (least, most), image_size, guard) for label, rows in by_class.items()]
        counts = [len(pick.manifest) for pick in picks]
        if not (equal_classes and drop_twins) or min(counts) == max(counts):
            return *_put_together(picks, [min(counts)] * len(counts) if equal_classes else counts), picks
        most = min(counts)  # again with so many: none may be dropped as the twin of one that is cut off


def _first_readable(rows, label, limits, image_size, guard):
    least, most = limits
    wanted = len(rows) if most is None else most
    kept, rejected, start = [], [], 0
    pixels = np.empty((min(wanted, len(rows)), image_size, image_size), np.uint8)
    while len(kept) < wanted and start < len(rows):
        batch = rows.iloc[start : start + min(wanted - len(kept), _AT_ONCE)]
        start += len(batch)
        for row, film in zip(batch.itertuples(), decode_films(batch.path, image_size), strict=True):
            reason = _reason_against(row.image_id, film, guard)
            if reason:
                rejected.append((row.Index, reason))
            else:
                pixels[len(kept)] = film
                kept.append(row.Index)
    if len(kept) < least:
        raise CovidxrError(
            f"class {label!r} has {len(kept)} readable films of {len(rows)} found, {least} are asked for; "
            "lower per_class, or check the data folder"
            + (f"; first rejected: {rows.path[rejected[0][0]]}: {rejected[0][1]}" if rejected else "")
        )
    lost = rows.loc[[row for row, _ in rejected], ["image_id", "path"]].assign(
        reason=[reason for _, reason in rejected]
    )
    return Assembly(rows.loc[kept], pixels[: len(kept)], lost)


def _reason_against(image_id, film, guard):
    if isinstance(film, DecodeError):  # a reason may quote the file, and is written to a table
        return "".join(letter if letter.isprintable() else " " for letter in film.reason).strip()
    if looks_inverted(film):
        return "looks inverted, black for white; turn it and read it again"
    twin = guard.twin_of(image_id, film) if guard else ""
    return f"twin of {twin}" if twin else ""


def _put_together(picks, counts):
    """Bring the classes into one manifest and one array, sorted by image within each class, without a second copy."""
    rows, pixels = [], np.empty((sum(counts), *picks[0].pixels.shape[1:]), np.uint8)
    for end, count, pick in zip(np.cumsum(counts), counts, picks, strict=True):
        order = np.argsort(pick.manifest.image_id[:count].to_numpy(dtype=str))
        rows.append(pick.manifest.iloc[order])
        np.take(pick.pixels, order, axis=0, out=pixels[end - count : end], mode="clip")
    return pd.concat(rows, ignore_index=True), pixels


def save_run(run_dir, assembly) -> None:
    """Write an assembly into a run folder: ``manifest.csv``, ``pixels.npz`` and ``rejected.csv``.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The run folder.
    assembly : Assembly
        With ``split`` filled.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> made = assemble(per_class=8, image_size=32, work_dir=folder)
    >>> save_run(folder, made._replace(manifest=split_manifest(made.manifest)))
    >>> len(read_run(folder).manifest)
    24
    """
    run_dir = Path(run_dir)
    write_csv(run_dir / "rejected.csv", _with_paths(assembly.rejected, lambda path: _within(run_dir, path)))
    save_pixels(run_dir / "pixels.npz", _contents(assembly.manifest), assembly.pixels)
    write_csv(run_dir / "manifest.csv", _with_paths(assembly.manifest, lambda path: _within(run_dir, path)))


def _contents(manifest):
    """Name films by their content too: an ``image_id`` alone may be that of another one, drawn with another seed."""
    return (manifest.image_id + " " + manifest.sha256).tolist()


def _with_paths(table, change):
    """A table with its paths changed; empty ones stay empty."""
    columns = [column for column in ("path", *MASK_COLUMNS) if column in table]
    return table.assign(**{column: [change(path) if path else "" for path in table[column]] for column in columns})


def _within(run_dir, path):
    """A path as seen from the run folder where it lies in it, so that the folder can be moved; in full otherwise."""
    folder, path = run_dir.absolute(), Path(path).absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def read_run(run_dir) -> Assembly:
    """Read back what `save_run` wrote.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The run folder.

    Returns
    -------
    Assembly

    Raises
    ------
    CovidxrError
        When the folder holds no manifest yet, or its films are missing, damaged or not those of the manifest.

    Examples
    --------
    >>> read_run("runs/none")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: runs/none holds no manifest.csv; run notebook 01_dataset_assembly first
    """
    run_dir = Path(run_dir)
    if not (run_dir / "manifest.csv").exists():
        raise CovidxrError(f"{run_dir} holds no manifest.csv; run notebook 01_dataset_assembly first")
    manifest = check_manifest(manifest_rows(read_table(run_dir / "manifest.csv", COLUMNS).to_dict("records")))
    contents, pixels = read_pixels(run_dir / "pixels.npz")
    if contents != _contents(manifest):
        raise CovidxrError(f"{run_dir}: pixels.npz is not of manifest.csv; run notebook 01_dataset_assembly again")
    rejected = read_table(run_dir / "rejected.csv", ("image_id", "path", "reason"))
    found = (_with_paths(table, lambda path: str(run_dir / path)) for table in (manifest, rejected))
    return Assembly(next(found), pixels, next(found))
