"""Boxes are found from features that know where the lungs are, and from no others; crops show what is in them."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from covidxr.dataset import load_pixels, read_source
from covidxr.errors import CovidxrError
from covidxr.heat import lung_boxes
from covidxr.lungs import bounding_boxes, crop, find_lungs, overlap


def drawn(n, seed=0):
    """Masks of boxes, and features that give their sides away."""
    rng = np.random.default_rng(seed)
    sides = np.c_[rng.integers(0, 8, n), rng.integers(20, 32, n), rng.integers(0, 8, n), rng.integers(20, 32, n)]
    masks = np.zeros((n, 32, 32), bool)
    for mask, (top, bottom, left, right) in zip(masks, sides, strict=True):
        mask[top:bottom, left:right] = True
    return masks, sides / 32, sides @ rng.normal(size=(4, 12)) + rng.normal(0, 0.5, (n, 12))


def test_boxes_go_round_masks():
    masks, sides, _ = drawn(20)
    assert np.allclose(bounding_boxes(masks), sides)
    assert np.isnan(bounding_boxes(np.zeros((1, 4, 4), bool))).all()


def test_lungs_are_found_where_features_tell_and_not_where_they_do_not():
    masks, sides, features = drawn(120)
    known = masks.copy()
    known[60:] = False
    found = overlap(find_lungs(features, known, np.arange(120)), sides)
    blind = overlap(find_lungs(np.random.default_rng(1).normal(size=features.shape), known, np.arange(120)), sides)
    assert found[60:].mean() > 0.9 > blind[60:].mean() + 0.1


def test_a_patient_has_no_part_in_the_box_of_its_own_film():
    masks, sides, features = drawn(60)
    features[0] = 50  # whoever fitted on this film would follow its mask
    moved = masks.copy()
    moved[0] = False
    moved[0, :2, :2] = True
    before, after = (find_lungs(features, one, np.arange(60))[0] for one in (masks, moved))
    assert np.allclose(before, after, atol=1e-6)


def test_too_few_known_lungs_are_refused():
    masks, _, features = drawn(9)
    with pytest.raises(CovidxrError, match="lungs of 9 patients are known, 10 are needed"):
        find_lungs(features, masks, np.arange(9))


def test_a_crop_shows_the_box_and_nothing_else():
    film = np.full((1, 40, 40), 10, np.uint8)
    film[0, 10:30, 5:25] = 200
    assert (crop(film, np.array([[0.25, 0.75, 0.125, 0.625]])) == 200).all()
    assert crop(film, np.array([[0.9, 0.2, 0.5, 0.5]])).shape == film.shape  # sides that crossed


@pytest.mark.realdata
def test_lungs_of_real_films_are_found_from_a_few_pixels_better_than_by_their_mean_box(shared):
    rows = read_source("covid-chestxray", shared / "data")
    rows = rows[rows.path.map(os.path.exists)].head(150).reset_index(drop=True)
    pixels = load_pixels(rows, 64)
    lungs = lung_boxes(rows, shared / "data" / "lung-bounding-boxes" / "annotations.json", 64)
    wanted = bounding_boxes(lungs)
    known = np.isfinite(wanted[:, 0])
    small = np.stack([cv2.resize(cv2.equalizeHist(film), (24, 24), interpolation=cv2.INTER_AREA) for film in pixels])
    found = find_lungs(small, lungs, rows.patient_id)
    mean = np.repeat(np.nanmean(wanted, axis=0)[None], len(rows), axis=0)
    assert overlap(found, wanted)[known].mean() > overlap(mean, wanted)[known].mean() + 0.03
