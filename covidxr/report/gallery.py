"""The gallery of a run: each test image with its heatmap as one small picture, and the table of their predictions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import find_contours

from covidxr.plots import OUTLINES, overlay
from covidxr.utils import CovidxrError, write_csv

FOLDER, TABLE = "gallery", "gallery/images.csv"


def save_gallery(run_dir, predictions, pixels, maps, outlines=None) -> Path:
    """Write the gallery into a run folder, replacing an older one; `outlines` as in `covidxr.plots.image_grid`."""
    if not len(predictions) == len(pixels) == len(maps):
        found = f"{len(predictions)} predictions, {len(pixels)} images and {len(maps)} maps"
        raise CovidxrError(f"the gallery needs one prediction and one map per image, found {found}")
    run_dir = Path(run_dir)
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)
    (run_dir / FOLDER).mkdir(parents=True)
    names = [f"{FOLDER}/{number:04d}.jpg" for number in range(len(pixels))]
    pairs = np.concatenate([np.repeat(pixels[..., None], 3, axis=-1), overlay(pixels, maps)], axis=2)
    for name, picture in zip(names, pairs, strict=True):
        Image.fromarray(picture).save(run_dir / name, quality=85)
    drawn = [_outlines(outlines or {}, number) for number in range(len(pixels))]
    files = [name.replace(".jpg", ".svg") if drawing else "" for name, drawing in zip(names, drawn, strict=True)]
    for name, drawing in zip(files, drawn, strict=True):
        if drawing:
            (run_dir / name).write_text(drawing, encoding="utf-8")
    write_csv(run_dir / TABLE, predictions.assign(picture=names, outlines=files))
    return run_dir / TABLE


def _outlines(outlines, number) -> str:
    """The outlines of one image as a drawing to lay over its picture, on the image and on its heatmap; empty without any."""
    paths = [_path(masks[number], OUTLINES[name]) for name, masks in outlines.items() if masks[number].any()]
    if not paths:
        return ""
    height, width = next(iter(outlines.values())).shape[1:]
    group, size = "".join(paths), f"0 0 {2 * width} {height}"
    copy = f'<g transform="translate({width})">{group}</g>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" fill="none">{group}{copy}</svg>'


def _path(mask, colour) -> str:
    contours = find_contours(np.pad(mask, 1).astype(float), 0.5)
    lines = ["M" + "L".join(f"{x - 0.5:g} {y - 0.5:g}" for y, x in contour) + "Z" for contour in contours]
    return f'<path d="{"".join(lines)}" stroke="{colour}" vector-effect="non-scaling-stroke"/>'
