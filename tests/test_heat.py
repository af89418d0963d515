"""Heat in the lungs: planted shares are found, films without heat or mask stay out, and boxes scale with the film."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidxr.errors import CovidxrError
from covidxr.heat import black_out, heat_share, heat_summary, lung_boxes
from covidxr.pixels import decode_films
from covidxr.sources import covid_chestxray


def halves(n, size=8) -> np.ndarray:
    """Masks of the left half."""
    masks = np.zeros((n, size, size), bool)
    masks[:, :, : size // 2] = True
    return masks


def boxes(tmp_path, annotations, **image) -> Path:
    image = {"id": 7, "file_name": "a.png", "width": 200, "height": 100} | image
    notes = [{"image_id": 7, "bbox": box} for box in annotations]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": [image], "annotations": notes}))
    return path


def rows(*paths, source="covid-chestxray") -> pd.DataFrame:
    return pd.DataFrame({"path": paths, "source": source})


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 200.0])
def test_the_planted_share_is_found_whatever_the_scale(share, scale):
    heat = np.where(halves(3), share, 1 - share).astype(np.float32) * scale
    np.testing.assert_allclose(heat_share(heat, halves(3)), share, rtol=1e-5)


def test_blank_maps_and_missing_masks_have_no_share():
    maps, masks = np.ones((3, 8, 8)), halves(3)
    maps[1], masks[2] = 0, False
    share = heat_share(maps, masks)
    assert share[0] == 0.5 and np.isnan(share[1:]).all()
    summary = heat_summary(maps, masks, ["a", "b", "c"])
    assert (summary["n"], summary["heat_in_lungs"], summary["chance"]) == (1, 0.5, 0.5)
    assert heat_summary(maps[1:], masks[1:], ["b", "c"]) == {}


def test_maps_and_masks_of_different_sizes_are_refused():
    with pytest.raises(CovidxrError, match=r"\(2, 8, 8\) and masks of shape \(2, 4, 4\)"):
        heat_share(np.ones((2, 8, 8)), halves(2, 4))


def test_the_interval_holds_the_value_and_even_heat_is_no_better_than_chance():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 2)
    even = heat_summary(rng.random((60, 8, 8)), halves(60), patients)
    low, high = even["heat_in_lungs_interval"]
    assert low < even["heat_in_lungs"] < high and low < even["chance"] == 0.5 < high
    drawn = heat_summary(rng.random((60, 8, 8)) * (1 + 2 * halves(60)), halves(60), patients)
    assert drawn["heat_in_lungs"] == pytest.approx(0.75, abs=0.02)
    assert drawn["heat_in_lungs_interval"][0] > 0.7 and drawn["n"] == 60


def test_films_of_one_patient_widen_the_interval():
    share = np.random.default_rng(0).random(12)
    heat = np.repeat(np.where(halves(12), share[:, None, None], 1 - share[:, None, None]), 4, axis=0)
    found = [
        heat_summary(heat, halves(48), who)["heat_in_lungs_interval"] for who in (np.repeat(range(12), 4), range(48))
    ]
    grouped, alone = (high - low for low, high in found)
    assert grouped > 1.5 * alone


def test_boxes_scale_with_the_film_from_the_annotated_size(tmp_path):
    path = boxes(tmp_path, [[20, 10, 60, 80], [120, 10, 40, 80]])
    mask = lung_boxes(rows("somewhere/else/a.png"), path, 40)[0]
    expected = np.zeros((40, 40), bool)
    expected[4:36, 4:16] = expected[4:36, 24:32] = True  # 200 px become 40 across, 100 px become 40 down
    np.testing.assert_array_equal(mask, expected)


def test_a_box_that_reaches_over_the_edge_ends_there(tmp_path):
    path = boxes(tmp_path, [[-20, -10, 120, 60], [190, 90, 50, 50]])
    mask = lung_boxes(rows("a.png"), path, 20)[0]
    expected = np.zeros((20, 20), bool)
    expected[:10, :10] = expected[18:, 19:] = True
    np.testing.assert_array_equal(mask, expected)


def test_unknown_films_have_no_mask_and_rows_keep_their_order(tmp_path):
    path = boxes(tmp_path, [[0, 0, 200, 100]], file_name="images/a.png")
    masks = lung_boxes(rows("images/b.png", "x/images/a.png", "images/a.jpg", "x/a.png"), path, 8)
    assert masks.dtype == bool and masks.shape == (4, 8, 8)
    assert masks.any((1, 2)).tolist() == [False, True, False, False]
    assert not lung_boxes(rows("images/a.png"), boxes(tmp_path, [], file_name="images/a.png"), 8).any()


def test_films_of_one_name_in_two_folders_have_their_own_boxes(tmp_path):
    images = [{"id": n, "file_name": f"{folder}/1.png", "width": 10, "height": 10} for n, folder in enumerate("xy")]
    notes = [{"image_id": 0, "bbox": [0, 0, 5, 10]}, {"image_id": 1, "bbox": [5, 0, 5, 10]}]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    x, y = lung_boxes(rows("films/x/1.png", "films/y/1.png"), path, 8)
    assert x[:, :4].all() and not x[:, 4:].any() and (y == ~x).all()


def test_a_name_that_two_films_have_is_refused(tmp_path):
    path = boxes(tmp_path, [[0, 0, 200, 100]])
    with pytest.raises(CovidxrError, match=r"its image a.png may be x/a.png or y/a.png; name its folder in file_name"):
        lung_boxes(rows("x/a.png", "y/a.png"), path, 8)
    assert lung_boxes(rows("x/a.png", "x/a.png"), path, 8).all()  # the same film twice


def test_only_films_of_the_source_that_the_boxes_are_of_get_them(tmp_path):
    path = boxes(tmp_path, [[0, 0, 200, 100]])
    mixed = pd.concat([rows("x/a.png"), rows("y/a.png", source="figure1")])
    assert lung_boxes(mixed, path, 8).any((1, 2)).tolist() == [True, False]
    assert lung_boxes(mixed, path, 8, source="figure1").any((1, 2)).tolist() == [False, True]
    with pytest.raises(CovidxrError, match="none of its 1 images is among the films of covid-chestxray.*has figure1"):
        lung_boxes(mixed[1:], path, 8)
    with pytest.raises(CovidxrError, match="none of its 1 images is among the films of covid-chestxray"):
        lung_boxes(rows("b.png"), path, 8)


NAN = float("nan")


@pytest.mark.parametrize(
    "box",
    [
        [NAN, 0, 10, 10],
        [0, 0, 10, NAN],
        [0, 0, float("inf"), 10],
        [50, 50, -20, 10],
        [50, 50, 20, 0],
        [200, 0, 10, 10],
        [0, 150, 10, 10],
        [-30, 0, 30, 10],
        [0, -30, 10, 20],
    ],
)
def test_a_box_without_area_in_its_image_is_refused(tmp_path, box):
    path = boxes(tmp_path, [[20, 10, 60, 80], box])
    with pytest.raises(CovidxrError, match="boxes.json: (a box of a.png has no area within its 200×100|not a COCO)"):
        lung_boxes(rows("a.png"), path, 8)


def test_the_smallest_box_is_not_lost(tmp_path):
    assert lung_boxes(rows("a.png"), boxes(tmp_path, [[100, 50, 1, 1]]), 8).sum() == 1
    assert lung_boxes(rows("a.png"), boxes(tmp_path, [[199, 99, 1, 1]]), 8).sum() == 1


@pytest.mark.parametrize("again", [{"id": 8}, {"file_name": "b.png"}])
def test_images_that_stand_there_twice_are_refused(tmp_path, again):
    image = {"id": 7, "file_name": "a.png", "width": 200, "height": 100}
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": [image, image | again], "annotations": []}))
    with pytest.raises(CovidxrError, match="an id or a file_name stands there for two images"):
        lung_boxes(rows("a.png"), path, 8)


@pytest.mark.parametrize(
    "content",
    [
        "not JSON",
        "[" * 100_000,
        "[]",
        "{}",
        '{"images": [{"id": 1}], "annotations": []}',
        '{"images": [], "annotations": [{"image_id": 3, "bbox": [0, 0, 1, 1]}]}',
        '{"images": [{"id": 1, "file_name": "a", "width": 0, "height": 9}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}',
        '{"images": [{"id": 1, "file_name": "a", "width": 9, "height": 9}], "annotations": [{"image_id": 1, "bbox": [0, 1]}]}',
        b"\xff\xfe\x00",
    ],
)
def test_a_broken_file_of_boxes_is_named(tmp_path, content):
    path = tmp_path / "boxes.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CovidxrError, match="boxes.json: not a COCO annotation file"):
        lung_boxes(rows("a.png"), path, 8)


def test_a_missing_file_of_boxes_is_named(tmp_path):
    with pytest.raises(CovidxrError, match="gone.json: no such file of lung boxes; name a COCO annotation file"):
        lung_boxes(rows("a.png"), tmp_path / "gone.json", 8)


def test_blacking_out_leaves_the_rest_and_the_original_alone():
    films = np.random.default_rng(0).integers(1, 256, (3, 8, 8), np.uint8)
    before = films.copy()
    dark = black_out(films, halves(3))
    assert dark.dtype == np.uint8 and not dark[:, :, :4].any()
    np.testing.assert_array_equal(dark[:, :, 4:], films[:, :, 4:])
    np.testing.assert_array_equal(films, before)
    np.testing.assert_array_equal(black_out(films, halves(3)) + black_out(films, ~halves(3)), films)


@pytest.mark.realdata
def test_nearly_all_real_covid_films_have_lung_boxes_of_plausible_area(shared):
    films = covid_chestxray.read(shared / "data")
    films = films[(films.label == "COVID-19") & films.path.map(lambda path: Path(path).is_file())]
    masks = lung_boxes(films, shared / "data" / "lung-bounding-boxes" / "annotations.json", 100)
    known = masks.any((1, 2))
    assert len(films) > 180 and known.mean() > 0.95
    area = masks[known].mean((1, 2))
    assert area.min() > 0.15 and area.max() < 0.95 and 0.5 < np.median(area) < 0.65  # boxes round lungs, not lungs
    left, right = masks[known][:, :, :50].mean(), masks[known][:, :, 50:].mean()
    assert left == pytest.approx(right, rel=0.15)


@pytest.mark.realdata
def test_real_lung_boxes_lie_on_what_is_dark(shared):
    films = covid_chestxray.read(shared / "data")
    films = films[(films.label == "COVID-19") & films.path.map(lambda path: Path(path).is_file())][:60]
    masks = lung_boxes(films, shared / "data" / "lung-bounding-boxes" / "annotations.json", 50)
    pixels = decode_films(films.path, 50)
    inside, upside_down = (
        np.array([film[mask].mean() for film, mask in zip(pixels, turned, strict=True) if mask.any()])
        for turned in (masks, masks[:, ::-1])
    )
    assert (inside < upside_down).mean() > 0.65 and (inside - upside_down).mean() < -5
