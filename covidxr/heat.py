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


def lung_boxes(manifest, coco, image_size) -> np.ndarray:
    """Masks from a COCO file of lung boxes, found by file name.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows.
    coco : str or pathlib.Path
        A COCO annotation file; its boxes are in the pixels of the width and height given there with each image, so they
        scale with the film.
    image_size : int
        Side of the masks in pixels.

    Returns
    -------
    numpy.ndarray
        ``bool``, shape (N, image_size, image_size); all False for films that the file does not have.

    Raises
    ------
    CovidxrError
        When the file is missing or not in COCO's form.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> boxes = {"images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
    ...          "annotations": [{"image_id": 1, "bbox": [0, 0, 10, 10]}]}
    >>> path = Path(tempfile.mkdtemp()) / "boxes.json"; _ = path.write_text(json.dumps(boxes))
    >>> float(lung_boxes(pd.DataFrame({"path": ["films/a.png"]}), path, 8).mean())
    0.5
    """
    if not Path(coco).is_file():
        raise CovidxrError(f"{coco}: no such file of lung boxes; name a COCO annotation file or leave lung_masks empty")
    try:
        content = json.loads(Path(coco).read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        by_name = {Path(image["file_name"]).name: [] for image in images.values()}
        for note in content["annotations"]:
            image = images[note["image_id"]]
            scale = np.array([image_size / image["width"], image_size / image["height"]] * 2)
            by_name[Path(image["file_name"]).name].append(np.array(note["bbox"], float) * scale)
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise CovidxrError(f"{coco}: not a COCO annotation file ({type(error).__name__}: {error})") from error
    masks = np.zeros((len(manifest), image_size, image_size), bool)
    for mask, path in zip(masks, manifest.path, strict=True):
        for x, y, width, height in by_name.get(Path(path).name, ()):
            left, top, right, bottom = np.clip(np.round([x, y, x + width, y + height]), 0, image_size).astype(int)
            mask[top:bottom, left:right] = True
    return masks


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
