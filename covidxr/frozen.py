"""The frozen network's features of a run's images, kept in the run folder with the names of the images that they are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from covidxr.errors import CovidxrError
from covidxr.files import atomic_path

FILE = "features.npz"


def save_features(run_dir, manifest, features) -> None:
    """Write the features of a manifest's images, row by row, into a run folder.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> folder, rows = tempfile.mkdtemp(), pd.DataFrame({"image_id": ["a", "b"]})
    >>> save_features(folder, rows, np.array([[1.0], [2.0]]))
    >>> read_features(folder, rows[::-1]).tolist()
    [[2.0], [1.0]]
    """
    ids = np.asarray(manifest.image_id, dtype=str)
    with atomic_path(Path(run_dir) / FILE) as temporary:
        np.savez(temporary, image_id=ids, features=features)


def read_features(run_dir, manifest) -> np.ndarray:
    """Read the features of a manifest's images, in its order, whatever the order in which they were written.

    Raises
    ------
    CovidxrError
        When the file is missing or damaged, or is not of exactly these images.

    Examples
    --------
    >>> read_features("runs/none", None)
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: runs/none holds no features.npz; run notebook 03_fine_tuning first
    """
    path = Path(run_dir) / FILE
    if not path.exists():
        raise CovidxrError(f"{run_dir} holds no {FILE}; run notebook 03_fine_tuning first")
    try:
        with np.load(path) as stored:
            ids, features = stored["image_id"].tolist(), stored["features"]
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds on a damaged file
        raise CovidxrError(f"{path} is damaged; run notebook 03_fine_tuning again") from error
    rows = {image: row for row, image in enumerate(ids)}
    if sorted(rows) != sorted(manifest.image_id) or len(features) != len(ids):
        raise CovidxrError(f"{path} is not of the images in manifest.csv; run notebook 03_fine_tuning again")
    return features[[rows[image] for image in manifest.image_id]]
