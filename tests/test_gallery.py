"""The gallery: image and heatmap in one picture, with the predictions of the same network."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidxr.report.gallery import save_gallery
from covidxr.utils import CovidxrError


def predictions(n):
    return pd.DataFrame(
        {"image_id": [f"a/{i}" for i in range(n)], "label": "Normal", "predicted": "Normal", "confidence": 0.9}
    )


def test_image_on_the_left_heat_on_the_right(tmp_path):
    images = np.full((1, 16, 16), 80, np.uint8)
    heat = np.zeros((1, 16, 16))
    heat[:, :8] = 1  # the upper half is hot
    table = pd.read_csv(save_gallery(tmp_path, predictions(1), images, heat))
    picture = np.asarray(Image.open(tmp_path / table.picture[0]), float)
    assert picture.shape == (16, 32, 3)
    image, laid_over = picture[:, :16], picture[:, 16:]
    assert abs(image - 80).max() < 20  # JPEG, next to strong colour
    assert abs(laid_over[12:] - 80).max() < 25 and abs(laid_over[:4] - 80).mean() > 30
    assert laid_over[:4, ..., 0].mean() > laid_over[:4, ..., 2].mean() + 20  # hot is red, not blue


def test_an_older_gallery_is_replaced(tmp_path):
    images = np.zeros((3, 8, 8), np.uint8)
    save_gallery(tmp_path, predictions(3), images, images / 255)
    save_gallery(tmp_path, predictions(2), images[:2], images[:2] / 255)
    assert sorted(path.name for path in (tmp_path / "gallery").iterdir()) == ["0000.jpg", "0001.jpg", "images.csv"]


def test_outlines_are_drawn_over_image_and_heat_where_there_are_any(tmp_path):
    images, lungs = np.zeros((2, 16, 16), np.uint8), np.zeros((2, 16, 16), bool)
    lungs[0, 4:12, :8] = True  # up to the left edge
    outlines = {"lungs": lungs, "lesion": np.zeros_like(lungs)}
    table = pd.read_csv(save_gallery(tmp_path, predictions(2), images, images / 255, outlines), keep_default_na=False)
    assert table.outlines.tolist() == ["gallery/0000.svg", ""]
    drawing = ElementTree.parse(tmp_path / "gallery/0000.svg").getroot()
    assert (
        drawing.get("viewBox") == "0 0 32 16" and len(drawing) == 2 and drawing[1].get("transform") == "translate(16)"
    )
    corners = np.array(re.findall(r"([\d.-]+) ([\d.-]+)", drawing[0].get("d")), float)
    assert corners.min(0).tolist() == [0, 4] and corners.max(0).tolist() == [8, 12]


def test_counts_that_do_not_fit_are_named(tmp_path):
    images = np.zeros((3, 8, 8), np.uint8)
    with pytest.raises(CovidxrError, match="found 2 predictions, 3 images and 3 maps"):
        save_gallery(tmp_path, predictions(2), images, images / 255)
    assert not (tmp_path / "gallery").exists()
