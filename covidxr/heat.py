"""What a heatmap is worth: how much of its heat lies inside the lungs, beside what chance alone would put there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from covidxr._opencv import cv2
from covidxr.errors import CovidxrError
from covidxr.intervals import bootstrap_interval


def heat_share(maps, masks) -> np.ndarray:
    """Share of each heatmap's heat that lies inside its mask.

    Parameters
    ----------
    maps : numpy.ndarray
        Heat, at least 0, shape (N, H, W).
    masks : numpy.ndarray
        ``bool``, shape (N, H, W).

    Returns
    -------
    numpy.ndarray
        Shape (N,), in [0, 1]; NaN where the map is blank or the mask empty.

    Raises
    ------
    CovidxrError
        When the shapes differ.

    Examples
    --------
    >>> heat = np.array([[[3.0, 1.0]], [[0.0, 0.0]]])
    >>> heat_share(heat, np.array([[[True, False]], [[True, False]]])).tolist()
    [0.75, nan]
    """
    if maps.shape != masks.shape:
        raise CovidxrError(f"heatmaps of shape {maps.shape} and masks of shape {masks.shape} do not belong together")
    total, inside = maps.sum((1, 2)), (maps * masks).sum((1, 2))
    known = (total > 0) & masks.any((1, 2))
    return np.where(known, inside / np.where(known, total, 1), np.nan)


def heat_summary(maps, masks, patients) -> dict:
    """Mean share of heat inside masks, its interval, and chance: the masks' share of the image.

    Parameters
    ----------
    maps, masks : numpy.ndarray
        As for `heat_share`.
    patients : array_like
        The patient of each film, for the bootstrap.

    Returns
    -------
    dict
        ``n`` films counted, ``heat_in_lungs``, ``heat_in_lungs_interval``, ``chance``; empty when no film has both heat and
        a mask.

    Examples
    --------
    >>> masks = np.zeros((4, 2, 2), bool); masks[:, 0, 0] = True
    >>> found = heat_summary(masks.astype(float), masks, ["a", "a", "b", "c"])
    >>> found["heat_in_lungs"], found["chance"]
    (1.0, 0.25)
    """
    share = heat_share(maps, masks)
    known = np.isfinite(share)
    if not known.any():
        return {}
    share, patients = share[known], np.asarray(patients, dtype=str)[known]
    return {
        "n": int(known.sum()),
        "heat_in_lungs": float(share.mean()),
        "heat_in_lungs_interval": list(bootstrap_interval(lambda rows: share[rows].mean(), patients)),
        "chance": float(masks[known].mean()),
    }


def lung_boxes(manifest, coco, image_size, source="covid-chestxray") -> np.ndarray:
    """Masks from a COCO file of lung boxes, for the images of the one source that it was made for.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows.
    coco : str or pathlib.Path
        A COCO annotation file; its boxes are in the pixels of the width and height given there with each image, so they
        scale with the film. An image is found by its whole ``file_name``, folders and all: the path in the manifest ends
        with it.
    image_size : int
        Side of the masks in pixels.
    source : str
        Whose images the file is about. Those of other sources get no boxes, whatever their names.

    Returns
    -------
    numpy.ndarray
        ``bool``, shape (N, image_size, image_size); all False for films that the file does not have.

    Raises
    ------
    CovidxrError
        When the file is missing or not in COCO's form, names an image twice, has a box that is not of numbers, without area
        or outside its image, or one image for several films; when none of its images is among the films of the source.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> boxes = {"images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
    ...          "annotations": [{"image_id": 1, "bbox": [0, 0, 10, 10]}]}
    >>> path = Path(tempfile.mkdtemp()) / "boxes.json"; _ = path.write_text(json.dumps(boxes))
    >>> films = pd.DataFrame({"path": ["films/a.png", "others/a.png"], "source": ["covid-chestxray", "figure1"]})
    >>> lung_boxes(films, path, 8).mean((1, 2)).tolist()
    [0.5, 0.0]
    """
    boxes = _read_boxes(Path(coco))
    masks, taken = np.zeros((len(manifest), image_size, image_size), bool), {}
    for mask, path, own in zip(masks, manifest.path, manifest.source, strict=True):
        name = _name_in(boxes, path) if own == source else None
        if name is not None and taken.setdefault(name, path) != path:
            raise CovidxrError(f"{coco}: its image {name} may be {taken[name]} or {path}; name its folder in file_name")
        for box in np.round(np.array(boxes.get(name, ())) * image_size).astype(int):
            left, top = np.minimum(box[:2], image_size - 1)  # however small, it is there
            right, bottom = np.maximum(box[2:], (left + 1, top + 1))
            mask[top:bottom, left:right] = True
    if boxes and not taken:
        raise CovidxrError(
            f"{coco}: none of its {len(boxes)} images is among the films of {source}, and it is about no others; this manifest "
            f"has {', '.join(sorted(set(manifest.source)))}. Leave lung_masks empty, and name masks of your own in the column lung_mask"
        )
    return masks


def _name_in(boxes, path):
    """Find the longest file name among the boxes with which a path ends, whole folders compared."""
    parts = Path(path).parts
    return next((name for n in range(len(parts)) if (name := "/".join(parts[n:])) in boxes), None)


def _read_boxes(coco):
    """Read for each file name its boxes: left, top, right and bottom as shares of the image's sides."""
    if not coco.is_file():
        raise CovidxrError(f"{coco}: no such file of lung boxes; name a COCO annotation file or leave lung_masks empty")
    try:
        content = json.loads(coco.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        sizes = {Path(image["file_name"]).as_posix(): (image["width"], image["height"]) for image in content["images"]}
        boxes = {name: [] for name in sizes}
        for note in content["annotations"]:
            x, y, width, height = np.array(note["bbox"], float)
            name = Path(images[note["image_id"]]["file_name"]).as_posix()
            with np.errstate(divide="raise", invalid="raise"):
                boxes[name].append(np.array([x, y, x + width, y + height]) / np.array(sizes[name] * 2, float))
    except (ValueError, KeyError, TypeError, AttributeError, FloatingPointError, RecursionError) as error:
        raise CovidxrError(f"{coco}: not a COCO annotation file ({type(error).__name__}: {error})") from error
    if not len(boxes) == len(images) == len(content["images"]):
        raise CovidxrError(f"{coco}: an id or a file_name stands there for two images; each needs its own")
    for name, found in boxes.items():
        for left, top, right, bottom in found:
            if not (
                0 < right - left < np.inf
                and 0 < bottom - top < np.inf
                and max(left, top) < 1
                and min(right, bottom) > 0
            ):
                raise CovidxrError(
                    f"{coco}: a box of {name} has no area within its {sizes[name][0]}×{sizes[name][1]} pixels, its left, top, right "
                    f"and bottom being {left:g}, {top:g}, {right:g} and {bottom:g} of its sides; correct it or take it out"
                )
    return {name: np.clip(found, 0, 1) for name, found in boxes.items()}


def black_out(images, masks) -> np.ndarray:
    """Paint the inside of masks black.

    Parameters
    ----------
    images : numpy.ndarray
        ``uint8``, shape (N, H, W).
    masks : numpy.ndarray
        ``bool``, shape (N, H, W).

    Returns
    -------
    numpy.ndarray
        A changed copy.

    Examples
    --------
    >>> black_out(np.full((1, 1, 2), 9, np.uint8), np.array([[[True, False]]])).tolist()
    [[[0, 9]]]
    """
    return np.where(masks, np.uint8(0), images)


def blur_out(images, masks) -> np.ndarray:
    """Blur what is outside of masks, so far that no letter or edge can be read.

    Parameters
    ----------
    images : numpy.ndarray
        ``uint8``, shape (N, H, W).
    masks : numpy.ndarray
        ``bool``, shape (N, H, W).

    Returns
    -------
    numpy.ndarray
        A changed copy.

    Examples
    --------
    >>> film = np.random.default_rng(0).integers(0, 255, (1, 40, 40), np.uint8)
    >>> inside = np.zeros((1, 40, 40), bool); inside[:, 10:30, 10:30] = True
    >>> blurred = blur_out(film, inside)
    >>> bool((blurred[inside] == film[inside]).all()), bool(blurred[~inside].std() < film[~inside].std() / 4)
    (True, True)
    """
    blurred = np.stack([cv2.GaussianBlur(film, (0, 0), 0.08 * len(film)) for film in images])
    return np.where(masks, images, blurred)
