"""Features are of the images by whose names they were written, never of whatever is in that row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from covidxr.data.dataset import load_embeddings, save_embeddings
from covidxr.utils import CovidxrError

ROWS = pd.DataFrame({"image_id": ["a", "b", "c"]})


@pytest.fixture
def folder(tmp_path):
    save_embeddings(tmp_path, ROWS, np.arange(6.0).reshape(3, 2))
    return tmp_path


def test_features_follow_their_images(folder):
    assert load_embeddings(folder, ROWS.iloc[[2, 0, 1]]).tolist() == [[4, 5], [0, 1], [2, 3]]


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"], ["a", "b", "x"]])
def test_features_of_other_images_are_refused(folder, names):
    with pytest.raises(CovidxrError, match="is not of the images in manifest.csv; run notebook 03_fine_tuning again"):
        load_embeddings(folder, pd.DataFrame({"image_id": names}))


@pytest.mark.parametrize("bytes_", [b"", b"PK\x03\x04", None])
def test_missing_or_damaged_features_are_named(folder, bytes_):
    path = folder / "features.npz"
    path.unlink() if bytes_ is None else path.write_bytes(bytes_)
    with pytest.raises(CovidxrError, match="run notebook 03_fine_tuning"):
        load_embeddings(folder, ROWS)


def test_features_without_names_are_refused(folder):
    np.savez(folder / "features.npz", features=np.zeros((3, 2)))
    with pytest.raises(CovidxrError, match="is damaged; run notebook 03_fine_tuning again"):
        load_embeddings(folder, ROWS)
