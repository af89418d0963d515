"""From sources to a run's data: candidate films, a balanced and decoded selection, and the run folder that keeps it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr.decode import DecodeError, looks_inverted
from covidxr.duplicates import TwinGuard, mark_twins
from covidxr.errors import CovidxrError, unknown
from covidxr.files import write_csv
from covidxr.pixels import decode_films, load_masks, load_pixels, preprocess, read_pixels, save_pixels
from covidxr.sources import SOURCES
from covidxr.sources._rows import COLUMNS, MASK_COLUMNS, manifest_rows, read_table
from covidxr.splits import (
    SPLITS,
    check_manifest,
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
        A name in `covidxr.sources.SOURCES`, or the path of a CSV file or folder of one's own.
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
    if source in SOURCES:
        if source == "table" and data_dir is None:
            raise CovidxrError("source 'table' needs data_dir: a CSV file with the columns path and label")
        return SOURCES[source](data_dir)
    if Path(source).exists():
        return SOURCES["table"](source)
    raise unknown("source", source, [*SOURCES, "or the path of a CSV file or a folder of films"])


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
        Names in `covidxr.sources.SOURCES` or paths, as `read_source` takes them.
    data_dir : str or pathlib.Path, optional
        The folder where real data lie.
    classes : sequence of str
        The labels to keep.
    label_map : dict, optional
        Labels to rename first, such as ``{"Virus": "Pneumonia"}``.
    per_class : int or None
        Films a class; None takes as many as there are.
    image_size : int
        Side of the decoded films in pixels.
    seed : int
        Seed of the draw, and of the phantoms.
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
        When no source is given, a class is unknown to the sources, or has no readable film, or with `equal_classes` fewer
        than `per_class`.

    Examples
    --------
    >>> import tempfile
    >>> assembly = assemble(per_class=2, image_size=32, work_dir=tempfile.mkdtemp())
    >>> assembly.manifest.label.value_counts().tolist(), assembly.pixels.shape
    ([2, 2, 2], (6, 32, 32))
    """
    if not sources:
        raise CovidxrError(f"no source is given; available: {', '.join(SOURCES)}, or the path of a CSV file or folder")
    drawn = {"classes": classes, "per_class": per_class or 120, "seed": seed}
    frames = [
        SOURCES["phantom"](Path(work_dir) / "phantoms", **drawn)
        if source == "phantom"
        else read_source(source, data_dir)
        for source in sources
    ]
    candidates = check_manifest(pd.concat(frames, ignore_index=True))
    candidates["label"] = candidates.label.replace(label_map or {})
    for label in classes:
        if label not in set(candidates.label):
            raise unknown("class", label, sorted(set(candidates.label)))
    drawn_order = _shuffled(candidates, seed)
    guard = TwinGuard() if drop_twins else None
    by_class = [(label, drawn_order[drawn_order.label == label]) for label in classes]
    least = (equal_classes and per_class) or 1
    picks = [_first_readable(rows, label, (least, per_class), image_size, guard) for label, rows in by_class]
    counts = [len(pick.manifest) for pick in picks]
    manifest, pixels = _put_together(picks, [min(counts)] * len(counts) if equal_classes else counts)
    manifest["sha256"] = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in manifest.path]
    rejected = pd.concat([pick.rejected for pick in picks], ignore_index=True)
    return Assembly(mark_twins(manifest, pixels), pixels, rejected)


def _shuffled(candidates, seed):
    rng = np.random.default_rng(seed)
    shuffled = candidates.sort_values("image_id").iloc[rng.permutation(len(candidates))]
    turn = shuffled.groupby(["label", "source"]).cumcount()
    return shuffled.iloc[np.argsort(turn, kind="stable")]


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
    if isinstance(film, DecodeError):
        return film.reason
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
    save_pixels(run_dir / "pixels.npz", assembly.manifest.image_id, assembly.pixels)
    write_csv(run_dir / "manifest.csv", _with_paths(assembly.manifest, lambda path: _within(run_dir, path)))


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
    image_ids, pixels = read_pixels(run_dir / "pixels.npz")
    if image_ids != manifest.image_id.tolist():
        raise CovidxrError(f"{run_dir}: pixels.npz is not of manifest.csv; run notebook 01_dataset_assembly again")
    rejected = read_table(run_dir / "rejected.csv", ("image_id", "path", "reason"))
    found = (_with_paths(table, lambda path: str(run_dir / path)) for table in (manifest, rejected))
    return Assembly(next(found), pixels, next(found))
