"""Planted hits and misses, and maps of noise, which must score what chance says."""

from __future__ import annotations

import numpy as np
import pytest

from covidxr.errors import CovidxrError
from covidxr.pointing import heat_iou, pointing_hits, pointing_summary


@pytest.fixture(scope="module")
def masks():
    masks = np.zeros((4, 12, 12), bool)
    masks[:3, 2:5, 3:7] = True  # the last film has no lesion
    return masks


def peaks(*places):
    maps = np.zeros((len(places), 12, 12))
    for heat, place in zip(maps, places, strict=True):
        if place is not None:
            heat[place] = 1
    return maps


def test_hits_misses_blanks_and_films_without_lesion(masks):
    assert pointing_hits(peaks((2, 3), (9, 9), None, (2, 3)), masks).tolist()[:2] == [1, 0]
    assert np.isnan(pointing_hits(peaks((2, 3), (9, 9), None, (2, 3)), masks)[2:]).all()
    flat = np.full((4, 12, 12), 0.4)
    assert np.isnan(pointing_hits(flat, masks)).all() and np.isnan(heat_iou(flat, masks)).all()


@pytest.mark.parametrize(("tolerance", "expected"), [(0, [0, 0, 0]), (1, [1, 0, 0]), (1.5, [1, 1, 0]), (3, [1, 1, 1])])
def test_tolerance_is_a_distance_in_pixels(masks, tolerance, expected):
    maps = peaks((5, 4), (5, 7), (7, 4), None)  # 1, 1.4 and 3 pixels away
    assert pointing_hits(maps, masks, tolerance)[:3].tolist() == expected


def test_a_plateau_scores_the_share_that_hits(masks):
    maps = np.zeros((4, 12, 12))
    maps[0, 0:4, 3:7] = 1  # half of it lies in the mask
    assert pointing_hits(maps, masks)[0] == 0.5


def test_overlap_takes_as_many_pixels_as_the_mask_has(masks):
    rng = np.random.default_rng(0)
    maps = rng.random((4, 12, 12)) * 0.1
    maps[0][masks[0]] += 1
    maps[1, 8:11, 3:7] += 1
    maps[2, 2:5, 5:9] += 1  # half on, half off: 6 of 18
    assert heat_iou(maps, masks)[:3].tolist() == pytest.approx([1, 0, 1 / 3])
    assert np.isnan(heat_iou(maps, masks)[3])


def test_noise_scores_chance():
    rng = np.random.default_rng(0)
    masks = np.zeros((600, 20, 20), bool)
    masks[:, 4:12, 5:15] = True
    found = pointing_summary(rng.random(masks.shape), masks, np.arange(600))
    assert found["hits_chance"] == 0.2 and found["iou_chance"] == pytest.approx(0.2 / 1.8)
    assert found["hits_interval"][0] < 0.2 < found["hits_interval"][1]
    assert found["iou"] == pytest.approx(found["iou_chance"], abs=0.005)


def test_chance_grows_with_the_tolerance(masks):
    maps = peaks((2, 3), (9, 9), None, None)
    exact, wide = (pointing_summary(maps, masks, list("abcd"), tolerance) for tolerance in (0, 2))
    assert exact["n"] == 2 and exact["hits"] == 0.5 and exact["hits_chance"] == pytest.approx(12 / 144)
    assert wide["hits_chance"] > 2 * exact["hits_chance"]
    assert exact["hits_interval"][0] < 0.5 < exact["hits_interval"][1]


def test_nothing_to_count_and_what_does_not_fit(masks):
    assert pointing_summary(peaks(None, None, None, None), masks, list("abcd")) == {}
    assert heat_iou(np.zeros((0, 3, 3)), np.zeros((0, 3, 3), bool)).shape == (0,)
    with pytest.raises(CovidxrError, match="do not belong together"):
        heat_iou(np.zeros((4, 8, 8)), masks)
    with pytest.raises(CovidxrError, match="tolerance is -1"):
        pointing_hits(peaks(None, None, None, None), masks, -1)
