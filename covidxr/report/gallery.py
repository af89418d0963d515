"""The gallery of a run: each test image with its heatmap as one small picture, and the table of their predictions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from covidxr.plots import overlay
from covidxr.utils import CovidxrError, write_csv

FOLDER, TABLE = "gallery", "gallery/images.csv"


def save_gallery(run_dir, predictions, pixels, maps) -> Path:
    """Write the gallery into a run folder, replacing an older one."""
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
    write_csv(run_dir / TABLE, predictions.assign(picture=names))
    return run_dir / TABLE
