"""The gallery of a run: each test film beside its heatmap as one small picture, and a table of what was said of it.

Notebook 05 leaves it in ``gallery/``; the run's page shows it. The table holds the predictions of the very network that
the heatmaps explain, so that neither can be out of date alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from covidxr.errors import CovidxrError
from covidxr.files import write_csv
from covidxr.pictures import overlay

FOLDER, TABLE = "gallery", "gallery/films.csv"


def save_gallery(run_dir, predictions, pixels, maps) -> Path:
    """Write the gallery into a run folder, in place of an older one.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The run folder.
    predictions : pandas.DataFrame
        N rows, as `covidxr.evaluate.prediction_table` returns them.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W): the films.
    maps : numpy.ndarray
        Heat in [0, 1], shape (N, H, W).

    Returns
    -------
    pathlib.Path
        The table, ``gallery/films.csv``: the predictions and a column ``picture``.

    Raises
    ------
    CovidxrError
        If there are not as many predictions, films and maps.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> predictions = pd.DataFrame({"image_id": ["a"], "label": ["Normal"], "predicted": ["Normal"]})
    >>> films = np.zeros((1, 8, 8), np.uint8)
    >>> pd.read_csv(save_gallery(tempfile.mkdtemp(), predictions, films, films / 255)).picture.tolist()
    ['gallery/0000.jpg']
    """
    if not len(predictions) == len(pixels) == len(maps):
        found = f"{len(predictions)} predictions, {len(pixels)} films and {len(maps)} maps"
        raise CovidxrError(f"the gallery needs a prediction, a film and a map of each kind, found {found}")
    run_dir = Path(run_dir)
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)
    (run_dir / FOLDER).mkdir(parents=True)
    names = [f"{FOLDER}/{number:04d}.jpg" for number in range(len(pixels))]
    beside = np.concatenate([np.repeat(pixels[..., None], 3, axis=-1), overlay(pixels, maps)], axis=2)
    for name, picture in zip(names, beside, strict=True):
        Image.fromarray(picture).save(run_dir / name, quality=85)
    write_csv(run_dir / TABLE, predictions.assign(picture=names))
    return run_dir / TABLE
