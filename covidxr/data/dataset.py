"""A dataset: manifest and decoded images, built from sources and kept in a run folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr.checks import MOST_SIDE, check_names, check_seed, check_whole
from covidxr.data.duplicates import DuplicateFilter, mark_duplicates
from covidxr.data.images import (
    DecodeError,
    looks_inverted,
    read_image_cache,
    read_images,
    write_image_cache,
)
from covidxr.data.lungs import lung_masks
from covidxr.data.manifest import COLUMNS, MASK_COLUMNS, SPLITS, check_manifest, manifest_rows, patient_keys, read_table
from covidxr.data.sources import (
    PHANTOM_SOURCES,
    SOURCES,
    draw_phantoms,
    load_sources,
    phantom_labels,
    source_entry,
)
from covidxr.utils import CovidxrError, atomic_path, unknown, write_csv

CLASSES = ("Normal", "COVID-19", "Bacteria")

SMALLEST_SIDE = 8  # pixels; the networks ask for more

_BATCH = 512  # images decoded before they are put away, so that memory stays bounded


class _Fields(NamedTuple):
    manifest: pd.DataFrame
    images: np.ndarray
    rejected: pd.DataFrame | None = None


class Dataset(_Fields):
    """A manifest with its decoded images, row by row.

    A tuple of three: ``manifest, images, rejected = dataset``.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows.
    images : numpy.ndarray
        ``uint8``, shape (N, H, W), grey.
    rejected : pandas.DataFrame, optional
        Files that could not be used: ``image_id``, ``path``, ``reason``.

    Attributes
    ----------
    classes : list of str
        The classes, in the order of the manifest; a split keeps those of the whole.
    labels : numpy.ndarray
        Integers, shape (N,): the number of each image's class in `classes`.
    patients : numpy.ndarray
        Strings, shape (N,): each image's patient, unique across sources.

    Examples
    --------
    >>> import tempfile
    >>> dataset = build_dataset(per_class=2, image_size=32, work_dir=tempfile.mkdtemp())
    >>> dataset.classes, dataset.labels.tolist()
    (['Normal', 'COVID-19', 'Bacteria'], [0, 0, 1, 1, 2, 2])
    >>> dataset.lung_masks().shape
    (6, 32, 32)
    """

    _classes: list | None = None

    def __new__(cls, manifest: pd.DataFrame, images: np.ndarray, rejected: pd.DataFrame | None = None) -> Dataset:
        if len(manifest) != len(images):
            raise CovidxrError(f"the manifest has {len(manifest)} rows, but there are {len(images)} images")
        return super().__new__(cls, manifest, images, rejected)

    @property
    def classes(self) -> list:
        """list of str: The classes, in the order of the manifest."""
        return self._classes or list(self.manifest.label.unique())

    @property
    def labels(self) -> np.ndarray:
        """numpy.ndarray: The number of each image's class."""
        return pd.Index(self.classes).get_indexer(self.manifest.label)

    @property
    def patients(self) -> np.ndarray:
        """numpy.ndarray: Each image's patient, unique across sources."""
        return patient_keys(self.manifest).to_numpy(dtype=str)

    def split(self, name: str) -> Dataset:
        """Select the images of one split.

        Parameters
        ----------
        name : {"train", "validation", "test"}
            The split.

        Returns
        -------
        Dataset
            Its rows, numbered anew, and its images, with the classes of the whole.

        Raises
        ------
        CovidxrError
            When there is no such split.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        rows = (self.manifest.split == name).to_numpy()
        part = Dataset(self.manifest[rows].reset_index(drop=True), self.images[rows], self.rejected)
        part._classes = self.classes
        return part

    def lung_masks(self, boxes: str | Path | None = None) -> np.ndarray:
        """Get the lung masks of the images: drawn ones before boxes, and boxes before predicted ones.

        Parameters
        ----------
        boxes : str or pathlib.Path, optional
            A COCO file of lung boxes, as `covidxr.data.images.load_lung_boxes` takes it.

        Returns
        -------
        numpy.ndarray
            ``bool``, shape (N, H, W). `covidxr.data.lungs.lung_masks` returns of which kind each is, too.
        """
        return lung_masks(self, boxes).masks


def build_dataset(
    sources: Sequence[str | Path | dict[str, list[str]]] = ("phantom",),
    data_dir: str | Path | None = None,
    *,
    classes: Sequence[str] = CLASSES,
    label_map: dict[str, str] | None = None,
    per_class: int | None = 179,
    image_size: int = 100,
    seed: int = 0,
    work_dir: str | Path = ".",
    equal_classes: bool = True,
    drop_duplicates: bool = False,
) -> Dataset:
    """Draw readable images of each class and decode them.

    Within a class, images are drawn at random, alternating between its sources, so that no source outweighs another
    while both last.

    Parameters
    ----------
    sources : sequence of str
        Names in `covidxr.data.sources.SOURCES`, or paths of CSV files or folders, each once. ``{source: [classes]}``, such
        as ``{"phantom-city": ["COVID-19"]}``, takes only these classes of a source, named as after `label_map`.
        Two paths with the same name become two sources, distinguished by as much of their paths as needed, such as
        ``siteA/images`` and ``siteB/images``. Two tables that name the same source in their column ``source`` are refused.
    data_dir : str or pathlib.Path, optional
        The folder that holds the public collections.
    classes : sequence of str
        The labels to keep.
    label_map : dict, optional
        Labels to rename first, such as ``{"Virus": "Pneumonia"}``.
    per_class : int or None
        Images per class; None takes as many as there are.
    image_size : int
        Side of the decoded images in pixels, 8 to 2,048.
    seed : int
        Seed of the draw and of the phantoms, 0 to 4,294,967,295.
    work_dir : str or pathlib.Path
        Where the phantoms' images are written.
    equal_classes : bool
        Whether all classes get the same number of images: `per_class` or, with None, the size of the smallest class.
        Otherwise `per_class` is an upper limit.
    drop_duplicates : bool
        Whether a near-duplicate of an image already drawn is rejected and replaced by another image. Otherwise
        near-duplicates stay, share a value in ``duplicate_group``, and `split_manifest` keeps them in one split.

    Returns
    -------
    Dataset
        ``manifest`` (sorted by class and ``image_id``, ``split`` empty), ``images`` (``uint8``,
        (N, image_size, image_size)) and ``rejected`` (``image_id``, ``path``, ``reason``): files that cannot be read,
        images that look inverted, and dropped near-duplicates.

    Raises
    ------
    CovidxrError
        When a parameter is impossible, before anything is read; when a source or class is unknown, or a class has no
        readable image or, with `equal_classes`, fewer than `per_class`.

    Examples
    --------
    >>> import tempfile
    >>> dataset = build_dataset(per_class=2, image_size=32, work_dir=tempfile.mkdtemp())
    >>> dataset.manifest.label.value_counts().tolist(), dataset.images.shape
    ([2, 2, 2], (6, 32, 32))
    """
    _check_parameters(sources, classes, label_map, per_class, image_size, seed)
    draw = partial(
        draw_phantoms,
        classes=classes,
        folder=Path(work_dir) / "phantoms",
        label_map=label_map,
        per_class=per_class or 120,
        seed=seed,
    )
    frames = load_sources(sources, data_dir, label_map, draw)
    candidates = check_manifest(pd.concat(frames, ignore_index=True))
    phantoms = [source for source, _ in map(source_entry, sources) if source in PHANTOM_SOURCES]
    known = {*candidates.label, *(label for source in phantoms for label in phantom_labels(source, label_map).values())}
    for label in classes:
        if label not in set(candidates.label):
            raise unknown("class", label, sorted(known))
    drawn_order = _shuffled(candidates, seed)
    by_class = {label: drawn_order[drawn_order.label == label] for label in classes}
    manifest, images, picks = _pick(by_class, per_class, image_size, equal_classes, drop_duplicates)
    manifest["sha256"] = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in manifest.path]
    rejected = pd.concat([pick.rejected for pick in picks], ignore_index=True)
    return Dataset(mark_duplicates(manifest, images), images, rejected)


def _check_parameters(sources, classes, label_map, per_class, image_size, seed):
    if isinstance(sources, (str, bytes, os.PathLike, dict)):
        entry = sources if isinstance(sources, dict) else str(sources)
        raise CovidxrError(f"sources is {sources!r}; give a list of sources, such as [{entry!r}]")
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


def _pick(by_class, per_class, image_size, equal_classes, drop_duplicates):
    """Take the first readable images of each class, and bring them together; the picks say what was rejected."""
    least, most = (equal_classes and per_class) or 1, per_class
    while True:
        seen_images = DuplicateFilter() if drop_duplicates else None
        picks = [
            _first_readable(rows, label, (least, most), image_size, seen_images) for label, rows in by_class.items()
        ]
        counts = [len(pick.manifest) for pick in picks]
        if not (equal_classes and drop_duplicates) or min(counts) == max(counts):
            return *_combined(picks, [min(counts)] * len(counts) if equal_classes else counts), picks
        most = min(counts)  # draw again: no image may be dropped as the duplicate of one that is cut off


def _first_readable(rows, label, limits, image_size, seen_images):
    least, most = limits
    wanted = len(rows) if most is None else most
    kept, rejected, start = [], [], 0
    images = np.empty((min(wanted, len(rows)), image_size, image_size), np.uint8)
    while len(kept) < wanted and start < len(rows):
        batch = rows.iloc[start : start + min(wanted - len(kept), _BATCH)]
        start += len(batch)
        for row, image in zip(batch.itertuples(), read_images(batch.path, image_size), strict=True):
            reason = _rejection_reason(row.image_id, image, seen_images)
            if reason:
                rejected.append((row.Index, reason))
            else:
                images[len(kept)] = image
                kept.append(row.Index)
    if len(kept) < least:
        raise CovidxrError(
            f"class {label!r} has {len(kept)} readable images of {len(rows)} found, {least} are asked for; "
            "lower per_class, or check the data folder"
            + (f"; first rejected: {rows.path[rejected[0][0]]}: {rejected[0][1]}" if rejected else "")
        )
    lost = rows.loc[[row for row, _ in rejected], ["image_id", "path"]].assign(
        reason=[reason for _, reason in rejected]
    )
    return Dataset(rows.loc[kept], images[: len(kept)], lost)


def _rejection_reason(image_id, image, seen_images):
    if isinstance(image, DecodeError):  # a reason may quote the file, and is written to a table
        return "".join(letter if letter.isprintable() else " " for letter in image.reason).strip()
    if looks_inverted(image):
        return "looks inverted, black for white; turn it and read it again"
    original = seen_images.duplicate_of(image_id, image) if seen_images else ""
    return f"near-duplicate of {original}" if original else ""


def _combined(picks, counts):
    """Bring the classes into one manifest and one array, sorted by image within each class, without a second copy."""
    rows, images = [], np.empty((sum(counts), *picks[0].images.shape[1:]), np.uint8)
    for end, count, pick in zip(np.cumsum(counts), counts, picks, strict=True):
        order = np.argsort(pick.manifest.image_id[:count].to_numpy(dtype=str))
        rows.append(pick.manifest.iloc[order])
        np.take(pick.images, order, axis=0, out=images[end - count : end], mode="clip")
    return pd.concat(rows, ignore_index=True), images


def save_dataset(run_dir: str | Path, dataset: Dataset) -> None:
    """Write a dataset into a run folder.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The folder; it gets ``manifest.csv``, ``pixels.npz`` and ``rejected.csv``.
    dataset : Dataset
        Paths within the folder are stored relative to it, so that it can be moved.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> save_dataset(folder, build_dataset(per_class=1, image_size=32, work_dir=folder))
    >>> load_dataset(folder).images.shape
    (3, 32, 32)
    """
    run_dir = Path(run_dir)
    write_csv(run_dir / "rejected.csv", _with_paths(dataset.rejected, lambda path: _within(run_dir, path)))
    write_image_cache(run_dir / "pixels.npz", _contents(dataset.manifest), dataset.images)
    write_csv(run_dir / "manifest.csv", _with_paths(dataset.manifest, lambda path: _within(run_dir, path)))


def _contents(manifest):
    """Name images by their content too: an ``image_id`` alone may be that of another one, drawn with another seed."""
    return (manifest.image_id + " " + manifest.sha256).tolist()


def _with_paths(table, change):
    """A table with its paths changed; empty ones stay empty."""
    columns = [column for column in ("path", *MASK_COLUMNS) if column in table]
    return table.assign(**{column: [change(path) if path else "" for path in table[column]] for column in columns})


def _within(run_dir, path):
    """A path as seen from the run folder where it lies in it, so that the folder can be moved; in full otherwise."""
    folder, path = run_dir.absolute(), Path(path).absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def load_dataset(run_dir: str | Path) -> Dataset:
    """Read the dataset of a run folder.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        A folder that `save_dataset` wrote.

    Returns
    -------
    Dataset
        As it was saved.

    Raises
    ------
    CovidxrError
        When the folder holds no dataset, or a damaged one.

    Examples
    --------
    >>> load_dataset("nowhere")
    Traceback (most recent call last):
        ...
    covidxr.utils.CovidxrError: nowhere holds no manifest.csv; run notebook 01_dataset_assembly first
    """
    run_dir = Path(run_dir)
    if not (run_dir / "manifest.csv").exists():
        raise CovidxrError(f"{run_dir} holds no manifest.csv; run notebook 01_dataset_assembly first")
    manifest = check_manifest(manifest_rows(read_table(run_dir / "manifest.csv", COLUMNS).to_dict("records")))
    contents, images = read_image_cache(run_dir / "pixels.npz")
    if contents != _contents(manifest):
        raise CovidxrError(f"{run_dir}: pixels.npz is not of manifest.csv; run notebook 01_dataset_assembly again")
    rejected = read_table(run_dir / "rejected.csv", ("image_id", "path", "reason"))
    found = (_with_paths(table, lambda path: str(run_dir / path)) for table in (manifest, rejected))
    return Dataset(next(found), images, next(found))


EMBEDDINGS_FILE = "features.npz"


def save_embeddings(run_dir, manifest, features) -> None:
    """Write the features of a manifest's images, row by row, into a run folder."""
    ids = np.asarray(manifest.image_id, dtype=str)
    with atomic_path(Path(run_dir) / EMBEDDINGS_FILE) as temporary:
        np.savez(temporary, image_id=ids, features=features)


def load_embeddings(run_dir, manifest) -> np.ndarray:
    """Read the features of a manifest's images, in its order, whatever the order in which they were written."""
    path = Path(run_dir) / EMBEDDINGS_FILE
    if not path.exists():
        raise CovidxrError(f"{run_dir} holds no {EMBEDDINGS_FILE}; run notebook 03_fine_tuning first")
    try:
        with np.load(path) as stored:
            ids, features = stored["image_id"].tolist(), stored["features"]
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds on a damaged file
        raise CovidxrError(f"{path} is damaged; run notebook 03_fine_tuning again") from error
    rows = {image: row for row, image in enumerate(ids)}
    if sorted(rows) != sorted(manifest.image_id) or len(features) != len(ids):
        raise CovidxrError(f"{path} is not of the images in manifest.csv; run notebook 03_fine_tuning again")
    return features[[rows[image] for image in manifest.image_id]]
