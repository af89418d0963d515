"""Evaluation of heatmaps: planted values are found, unsuitable images do not count, and boxes scale with the image."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers
from PIL import Image

from covidxr.data.dataset import Dataset
from covidxr.data.images import black_out, load_lung_boxes, read_images
from covidxr.data.sources import load_source
from covidxr.gradcam.metrics import (
    CurveResult,
    cascading_randomisation,
    choose_explanation,
    compare_explanations,
    compare_maps,
    curve_areas,
    deletion_insertion,
    explanation_records,
    hottest_part_gains,
    localisation,
    lung_section,
    pointing_hits,
    refit_on_shuffled_labels,
    relevance_mass,
    summarise,
    table_records,
    top_k_iou,
    verdict,
)
from covidxr.model.networks import embed
from covidxr.training.head import fit_head
from covidxr.utils import CovidxrError


def halves(n, size=8) -> np.ndarray:
    """Masks of the left half."""
    masks = np.zeros((n, size, size), bool)
    masks[:, :, : size // 2] = True
    return masks


def lesions_of(maps, masks, patients):
    return summarise(localisation(maps, masks), patients)


def lungs_of(maps, masks, patients):
    return lesions_of(maps, masks, patients).loc[["inside"]]


def gains_of(result, patients=None):
    return summarise(curve_areas(result), np.arange(len(result.deletion)) if patients is None else patients)


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
    np.testing.assert_allclose(relevance_mass(heat, halves(3)), share, rtol=1e-5)


def test_constant_maps_and_missing_masks_have_no_share():
    maps, masks = np.zeros((3, 8, 8)), halves(3)
    maps[[0, 2], :4], masks[2] = 1, False
    share = relevance_mass(maps, masks)
    assert share[0] == 0.5 and np.isnan(share[1:]).all()
    row = lungs_of(maps, masks, ["a", "b", "c"]).loc["inside"]
    assert (row.n, row.value, row.chance) == (1, 0.5, 0.5)
    nothing = lungs_of(maps[1:], masks[1:], ["b", "c"])
    assert nothing.n.tolist() == [0] and nothing.drop(columns="n").isna().all(axis=None)


def test_tables_are_stored_as_estimates_and_null_without_images():
    maps, masks = halves(3).astype(float), halves(3)
    table = lungs_of(maps, masks, list("abc"))
    expected = {"value": 1.0, "low": 1.0, "high": 1.0, "chance": 0.5, "n": 3}
    assert table_records(table) == {"inside": expected} and type(table_records(table)["inside"]["n"]) is int
    assert table_records(lungs_of(0 * maps, masks, list("abc"))) == {"inside": None}
    assert set(table_records(compare_maps(maps, maps))["ssim"]) == {"value", "low", "high", "n"}


def test_maps_and_masks_of_different_sizes_are_refused():
    with pytest.raises(CovidxrError, match=r"\(2, 8, 8\) and masks of shape \(2, 4, 4\)"):
        relevance_mass(np.ones((2, 8, 8)), halves(2, 4))


def test_the_interval_holds_the_value_and_even_heat_is_no_better_than_chance():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 2)
    even = lungs_of(rng.random((60, 8, 8)), halves(60), patients).iloc[0]
    assert even.low < even.value < even.high and even.low < even.chance == 0.5 < even.high
    drawn = lungs_of(rng.random((60, 8, 8)) * (1 + 2 * halves(60)), halves(60), patients).iloc[0]
    assert drawn.value == pytest.approx(0.75, abs=0.02) and drawn.low > 0.7 and drawn.n == 60


def test_images_of_one_patient_widen_the_interval():
    share = np.random.default_rng(0).random(12)
    heat = np.repeat(np.where(halves(12), share[:, None, None], 1 - share[:, None, None]), 4, axis=0)
    grouped, alone = (lungs_of(heat, halves(48), who).iloc[0] for who in (np.repeat(range(12), 4), range(48)))
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_boxes_scale_with_the_image_from_the_annotated_size(tmp_path):
    path = boxes(tmp_path, [[20, 10, 60, 80], [120, 10, 40, 80]])
    mask = load_lung_boxes(rows("somewhere/else/a.png"), path, 40)[0]
    expected = np.zeros((40, 40), bool)
    expected[4:36, 4:16] = expected[4:36, 24:32] = True  # 200 px become 40 across, 100 px become 40 down
    np.testing.assert_array_equal(mask, expected)


def test_a_box_that_reaches_over_the_edge_ends_there(tmp_path):
    path = boxes(tmp_path, [[-20, -10, 120, 60], [190, 90, 50, 50]])
    mask = load_lung_boxes(rows("a.png"), path, 20)[0]
    expected = np.zeros((20, 20), bool)
    expected[:10, :10] = expected[18:, 19:] = True
    np.testing.assert_array_equal(mask, expected)


def test_unknown_images_have_no_mask_and_rows_keep_their_order(tmp_path):
    path = boxes(tmp_path, [[0, 0, 200, 100]], file_name="images/a.png")
    masks = load_lung_boxes(rows("images/b.png", "x/images/a.png", "images/a.jpg", "x/a.png"), path, 8)
    assert masks.dtype == bool and masks.shape == (4, 8, 8)
    assert masks.any((1, 2)).tolist() == [False, True, False, False]
    assert not load_lung_boxes(rows("images/a.png"), boxes(tmp_path, [], file_name="images/a.png"), 8).any()


def test_images_of_one_name_in_two_folders_have_their_own_boxes(tmp_path):
    images = [{"id": n, "file_name": f"{folder}/1.png", "width": 10, "height": 10} for n, folder in enumerate("xy")]
    notes = [{"image_id": 0, "bbox": [0, 0, 5, 10]}, {"image_id": 1, "bbox": [5, 0, 5, 10]}]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    x, y = load_lung_boxes(rows("images/x/1.png", "images/y/1.png"), path, 8)
    assert x[:, :4].all() and not x[:, 4:].any() and (y == ~x).all()


def test_a_name_that_two_images_have_is_refused(tmp_path):
    path = boxes(tmp_path, [[0, 0, 200, 100]])
    with pytest.raises(CovidxrError, match=r"its image a.png may be x/a.png or y/a.png; name its folder in file_name"):
        load_lung_boxes(rows("x/a.png", "y/a.png"), path, 8)
    assert load_lung_boxes(rows("x/a.png", "x/a.png"), path, 8).all()  # the same image twice


def test_only_images_of_the_source_that_the_boxes_are_of_get_them(tmp_path):
    path = boxes(tmp_path, [[0, 0, 200, 100]])
    mixed = pd.concat([rows("x/a.png"), rows("y/a.png", source="figure1")])
    assert load_lung_boxes(mixed, path, 8).any((1, 2)).tolist() == [True, False]
    assert load_lung_boxes(mixed, path, 8, source="figure1").any((1, 2)).tolist() == [False, True]
    with pytest.raises(CovidxrError, match="none of its 1 images is among the images of covid-chestxray.*has figure1"):
        load_lung_boxes(mixed[1:], path, 8)
    with pytest.raises(CovidxrError, match="none of its 1 images is among the images of covid-chestxray"):
        load_lung_boxes(rows("b.png"), path, 8)


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
        load_lung_boxes(rows("a.png"), path, 8)


def test_the_smallest_box_is_not_lost(tmp_path):
    assert load_lung_boxes(rows("a.png"), boxes(tmp_path, [[100, 50, 1, 1]]), 8).sum() == 1
    assert load_lung_boxes(rows("a.png"), boxes(tmp_path, [[199, 99, 1, 1]]), 8).sum() == 1


@pytest.mark.parametrize("again", [{"id": 8}, {"file_name": "b.png"}])
def test_images_that_stand_there_twice_are_refused(tmp_path, again):
    image = {"id": 7, "file_name": "a.png", "width": 200, "height": 100}
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": [image, image | again], "annotations": []}))
    with pytest.raises(CovidxrError, match="an id or a file_name stands there for two images"):
        load_lung_boxes(rows("a.png"), path, 8)


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
        load_lung_boxes(rows("a.png"), path, 8)


def test_a_missing_file_of_boxes_is_named(tmp_path):
    with pytest.raises(CovidxrError, match="gone.json: no such file of lung boxes; name a COCO annotation file"):
        load_lung_boxes(rows("a.png"), tmp_path / "gone.json", 8)


def test_blacking_out_leaves_the_rest_and_the_original_unchanged():
    images = np.random.default_rng(0).integers(1, 256, (3, 8, 8), np.uint8)
    before = images.copy()
    dark = black_out(images, halves(3))
    assert dark.dtype == np.uint8 and not dark[:, :, :4].any()
    np.testing.assert_array_equal(dark[:, :, 4:], images[:, :, 4:])
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(black_out(images, halves(3)) + black_out(images, ~halves(3)), images)


@pytest.mark.realdata
def test_nearly_all_real_covid_images_have_lung_boxes_of_plausible_area(shared):
    images = load_source("covid-chestxray", shared / "data")
    images = images[(images.label == "COVID-19") & images.path.map(lambda path: Path(path).is_file())]
    masks = load_lung_boxes(images, shared / "data" / "lung-bounding-boxes" / "annotations.json", 100)
    known = masks.any((1, 2))
    assert len(images) > 180 and known.mean() > 0.95
    area = masks[known].mean((1, 2))
    assert area.min() > 0.15 and area.max() < 0.95 and 0.5 < np.median(area) < 0.65  # boxes round lungs, not lungs
    left, right = masks[known][:, :, :50].mean(), masks[known][:, :, 50:].mean()
    assert left == pytest.approx(right, rel=0.15)


@pytest.mark.realdata
def test_real_lung_boxes_lie_on_what_is_dark(shared):
    images = load_source("covid-chestxray", shared / "data")
    images = images[(images.label == "COVID-19") & images.path.map(lambda path: Path(path).is_file())][:60]
    masks = load_lung_boxes(images, shared / "data" / "lung-bounding-boxes" / "annotations.json", 50)
    pixels = read_images(images.path, 50)
    inside, upside_down = (
        np.array([image[mask].mean() for image, mask in zip(pixels, turned, strict=True) if mask.any()])
        for turned in (masks, masks[:, ::-1])
    )
    assert (inside < upside_down).mean() > 0.65 and (inside - upside_down).mean() < -5


@pytest.fixture(scope="module")
def masks():
    masks = np.zeros((4, 12, 12), bool)
    masks[:3, 2:5, 3:7] = True  # the last image has no lesion
    return masks


def peaks(*places):
    maps = np.zeros((len(places), 12, 12))
    for heat, place in zip(maps, places, strict=True):
        if place is not None:
            heat[place] = 1
    return maps


def test_hits_misses_empty_maps_and_images_without_lesion(masks):
    assert pointing_hits(peaks((2, 3), (9, 9), None, (2, 3)), masks).tolist()[:2] == [1, 0]
    assert np.isnan(pointing_hits(peaks((2, 3), (9, 9), None, (2, 3)), masks)[2:]).all()
    flat = np.full((4, 12, 12), 0.4)
    assert np.isnan(pointing_hits(flat, masks)).all() and np.isnan(top_k_iou(flat, masks)).all()


@pytest.mark.parametrize(("tolerance", "expected"), [(0, [0, 0, 0]), (1, [1, 0, 0]), (1.5, [1, 1, 0]), (3, [1, 1, 1])])
def test_tolerance_is_a_distance_in_pixels(masks, tolerance, expected):
    maps = peaks((5, 4), (5, 7), (7, 4), None)  # 1, 1.4 and 3 pixels away
    assert pointing_hits(maps, masks, tolerance)[:3].tolist() == expected


def test_a_plateau_scores_the_share_that_hits(masks):
    maps = np.zeros((4, 12, 12))
    maps[0, 0:4, 3:7] = 1  # half of it lies in the mask
    assert pointing_hits(maps, masks)[0] == 0.5
    row = lesions_of(maps, masks, list("abcd")).loc["hits"]
    assert row.low < row.value == 0.5 < row.high  # an interval although it is neither a hit nor a miss


def test_overlap_takes_as_many_pixels_as_the_mask_has(masks):
    rng = np.random.default_rng(0)
    maps = rng.random((4, 12, 12)) * 0.1
    maps[0][masks[0]] += 1
    maps[1, 8:11, 3:7] += 1
    maps[2, 2:5, 5:9] += 1  # half on, half off: 6 of 18
    assert top_k_iou(maps, masks)[:3].tolist() == pytest.approx([1, 0, 1 / 3])
    assert np.isnan(top_k_iou(maps, masks)[3])


def test_noise_is_at_chance():
    rng = np.random.default_rng(0)
    masks = np.zeros((600, 20, 20), bool)
    masks[:, 4:12, 5:15] = True
    found = lesions_of(rng.random(masks.shape), masks, np.arange(600))
    assert found.chance[["hits", "iou"]].tolist() == pytest.approx([0.2, 0.2 / 1.8])
    assert found.low["hits"] < 0.2 < found.high["hits"]
    assert found.value["iou"] == pytest.approx(found.chance["iou"], abs=0.005)


def test_chance_grows_with_the_tolerance():
    masks = np.zeros((2, 64, 64), bool)
    masks[:, 10:20, 10:20] = True
    maps = np.zeros((2, 64, 64))
    maps[0, 10, 10] = maps[1, 21, 15] = 1  # the second, 2 pixels away, is near
    found = lesions_of(maps, masks, list("ab"))
    assert found.value[["hits", "near_hits"]].tolist() == [0.5, 1] and found.low["hits"] < 0.5 < found.high["hits"]
    assert found.chance["hits"] == pytest.approx(100 / 64**2) and found.chance["near_hits"] > 1.5 * found.chance["hits"]


def test_nothing_to_count_and_what_does_not_fit(masks):
    assert (lesions_of(peaks(None, None, None, None), masks, list("abcd")).n == 0).all()
    assert top_k_iou(np.zeros((0, 3, 3)), np.zeros((0, 3, 3), bool)).shape == (0,)
    with pytest.raises(CovidxrError, match="do not belong together"):
        top_k_iou(np.zeros((4, 8, 8)), masks)
    with pytest.raises(CovidxrError, match="tolerance is -1"):
        pointing_hits(peaks(None, None, None, None), masks, -1)


SIZE, STEPS = 16, 8
QUARTER = np.zeros((SIZE, SIZE), bool)
QUARTER[:8, 8:] = True
CHECKS = np.indices((SIZE, SIZE)).sum(0) % 2


@pytest.fixture(scope="module")
def model():
    linear = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.Flatten(), layers.Dense(2, "softmax")])
    kernel = np.zeros((SIZE, SIZE, 3, 2), "float32")
    kernel[..., 1] = (0.2 * QUARTER * (2 * CHECKS - 1))[..., None]
    linear.layers[-1].set_weights([kernel.reshape(-1, 2), np.array([3, 0], "float32")])
    return linear


@pytest.fixture(scope="module")
def images():
    """Chequered all over: nothing in the images marks the quarter that counts."""
    grey = np.random.default_rng(0).uniform(0.3, 0.7, (6, SIZE, SIZE)) * 0.2 + 0.8 * CHECKS
    return np.repeat(grey[..., None], 3, -1).astype(np.float32)


def repeated(heat, images):
    return np.repeat(heat[None].astype(float), len(images), axis=0)


@pytest.fixture(scope="module")
def true_heat(model, images):
    return deletion_insertion(model, images, repeated(QUARTER, images), 1, STEPS, draws=4)


def test_the_true_map_takes_all_away_and_brings_all_back(true_heat):
    after = true_heat.fractions >= QUARTER.mean()
    assert (np.ptp(true_heat.deletion[:, after], axis=1) < 1e-5).all() and (true_heat.deletion[:, -1] < 0.2).all()
    assert (np.ptp(true_heat.insertion[:, after], axis=1) < 1e-5).all() and (true_heat.insertion[:, -1] > 0.9).all()


def test_the_true_map_is_better_than_chance(true_heat):
    found = gains_of(true_heat)
    assert (found.n == 6).all() and found.index.tolist() == ["deletion", "deletion_gain", "insertion", "insertion_gain"]
    assert found.value["deletion"] < found.chance["deletion"] - 0.1
    assert found.value["insertion"] > found.chance["insertion"] + 0.1
    for name in ("deletion", "insertion"):
        gain, row = found.loc[f"{name}_gain"], found.loc[name]
        assert gain.chance == 0 < gain.low <= gain.value <= gain.high
        assert gain.value == pytest.approx(abs(row.value - row.chance), abs=1e-6)


def test_a_map_of_what_does_not_count_is_worse_than_chance(model, images):
    found = gains_of(deletion_insertion(model, images, repeated(~QUARTER, images), 1, STEPS))
    assert (found.value[["deletion_gain", "insertion_gain"]] < -0.05).all()


def test_a_constant_map_is_chance(model, images):
    found = gains_of(deletion_insertion(model, images, np.ones(images.shape[:3]), 1, STEPS, draws=8))
    assert (found.value[["deletion_gain", "insertion_gain"]].abs() < 0.03).all()


def test_curves_begin_and_end_where_they_must(model, images, true_heat):
    probability = model.predict_on_batch(images)[:, 1]
    for deletion, insertion in (true_heat[1:3], true_heat[3:5]):
        np.testing.assert_allclose(deletion[:, 0], probability, rtol=1e-5)
        np.testing.assert_allclose(insertion[:, -1], probability, rtol=1e-5)
        np.testing.assert_allclose(deletion[:, -1], insertion[:, 0], rtol=1e-5)
    assert true_heat.fractions.tolist() == np.linspace(0, 1, STEPS + 1).tolist()


def test_each_image_follows_its_own_class(model, images):
    heat = repeated(QUARTER, images)[:2]
    mixed = deletion_insertion(model, images[:2], heat, [1, 0], STEPS)
    np.testing.assert_allclose(mixed.deletion[1, 0], 1 - mixed.deletion[0, 0], atol=0.05)
    assert mixed.deletion[1, -1] > mixed.deletion[1, 0]  # what speaks for one class speaks against the other


def test_memory_is_bounded_and_the_seed_counts(model, images, monkeypatch):
    sizes, predict = [], model.predict_on_batch
    monkeypatch.setattr(model, "predict_on_batch", lambda drawn: sizes.append(len(drawn)) or predict(drawn))
    heat = np.random.default_rng(3).integers(0, 3, images.shape[:3]).astype(float)  # with many ties
    found = [deletion_insertion(model, images, heat, 1, 5, seed=seed) for seed in (0, 0, 1)]
    assert set(sizes) == {6}
    assert all((a == b).all() for a, b in zip(found[0], found[1], strict=True))
    assert not np.allclose(found[0].random_deletion, found[2].random_deletion)


def test_no_images_and_what_does_not_fit(model, images):
    nothing = deletion_insertion(model, images[:0], np.zeros((0, SIZE, SIZE)), 1)
    assert nothing.deletion.shape == (0, 21) and (gains_of(nothing).n == 0).all()
    with pytest.raises(CovidxrError, match="do not belong together"):
        deletion_insertion(model, images, np.zeros((6, 8, 8)), 1)
    with pytest.raises(CovidxrError, match="steps is 0"):
        deletion_insertion(model, images, np.zeros(images.shape[:3]), 1, steps=0)
    with pytest.raises(CovidxrError, match="classes must lie in 0 to 1"):
        deletion_insertion(model, images, np.zeros(images.shape[:3]), 2)


def test_the_hottest_fifth_matters_where_the_network_needs_it(model, images):
    fifth = np.zeros((SIZE, SIZE))
    fifth[:7, 8:15] = 1  # within the quarter that counts
    true, other, flat = (
        hottest_part_gains(model, images, repeated(heat, images), np.ones(6, int))
        for heat in (fifth, fifth[::-1], 0 * fifth)
    )
    for name, (values, chance) in true.items():
        assert values.mean() > 0.1 and (chance == 0).all()
        assert other[name][0].mean() < 0 and np.isnan(flat[name][0]).all()
    nothing = hottest_part_gains(model, images[:0], np.zeros((0, SIZE, SIZE)), np.ones(0, int))
    assert nothing["insertion_gain"][0].shape == (0,)


def test_areas_by_hand_and_the_bootstrap_over_patients():
    curve = np.array([[1.0, 1.0, 0.0]] * 5 + [[0.0, 0.0, 0.0]] * 5)
    result = CurveResult(np.array([0.0, 0.5, 1.0]), curve, curve, 0 * curve, 0 * curve)
    found = gains_of(result, ["a"] * 5 + ["b"] * 5)
    assert found.loc["deletion", ["value", "low", "high"]].tolist() == [0.375, 0.0, 0.75]
    assert found.value["deletion_gain"] == -0.375 and found.value["insertion_gain"] == 0.375


def network_that_sees(bright=0, dark=0) -> keras.Model:
    """Class 1 depends on how much is bright, or how much is dark."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(2, 1, activation="relu", name="fine")(inputs)
    x = layers.Conv2D(2, 1, activation="relu", name="coarse")(layers.AveragePooling2D(4)(x))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    bright_and_dark = np.array([[1, -1], [0, 0], [0, 0]], np.float32).reshape(1, 1, 3, 2)
    model.get_layer("fine").set_weights([bright_and_dark, np.array([0, 1], np.float32)])
    model.get_layer("coarse").set_weights([np.eye(2)[None, None], np.zeros(2)])
    model.layers[-1].set_weights([np.array([[0, bright], [0, dark]], np.float32), np.array([-5, 0], np.float32)])
    return model


def with_lesions(folder, shown=True, n=24) -> Dataset:
    """Dark images with a bright lesion or, not shown, noise; the lungs are the left half, and a third has no lesion."""
    rng = np.random.default_rng(0)
    images, rows = rng.integers(0, 256, (n, 32, 32), np.uint8), []
    Image.fromarray(np.uint8(255 * halves(1, 32)[0])).save(folder / "lungs.png")
    for number in range(n):
        lesion = np.zeros((32, 32), np.uint8)
        top, left = rng.integers(0, 24, 2)
        lesion[top : top + 8, left : left + 8] = 255
        Image.fromarray(lesion).save(folder / f"{number}.png")
        if shown:
            images[number] = lesion
        mask = str(folder / f"{number}.png") if number % 3 else ""
        row = {"path": "x", "label": "ab"[number % 2], "patient_id": f"p{number // 2}", "lesion_mask": mask}
        rows.append(row | {"image_id": str(number), "source": "s", "lung_mask": str(folder / "lungs.png")})
    return Dataset(pd.DataFrame(rows), images)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    dataset = with_lesions(tmp_path_factory.mktemp("planted"))
    controls = [network_that_sees(dark=1), network_that_sees(dark=2)]
    return compare_explanations(
        network_that_sees(bright=9), dataset, ["fine", "coarse"], ["paper", "layercam"], controls, n_predicted=4
    )


def test_a_planted_lesion_is_found_by_every_explanation_and_not_by_the_controls(compared):
    for _, rows in compared.groupby(level=["layer", "style"]):
        found = rows.droplevel(["layer", "style"])
        assert found.value["hits"] == found.value["near_hits"] == 1 and found.n["hits"] == 16
        assert found.value["heat_in_lesion"] > 0.5 > 0.2 > found.chance["heat_in_lesion"]
        assert found.untrained["hits"] < 0.2 and found.untrained_high["heat_in_lesion"] < 0.2
        assert found.low["iou"] > 0.5 > found.untrained_high["iou"]
        assert found.low["deletion_gain"] > 0 and found.n["deletion_gain"] == 4
        assert found.n["heat_in_lungs"] == 24
    cells = compared.value.xs("cells", level="measure")
    assert cells["fine"].tolist() == [32, 32] and cells["coarse"].tolist() == [8, 8]
    assert (compared.value.xs("ms", level="measure") > 0).all()


def test_where_no_lesion_is_to_be_seen_hits_are_at_chance(tmp_path):
    dataset = with_lesions(tmp_path, shown=False, n=150)
    found = compare_explanations(network_that_sees(bright=9), dataset, ["fine"], ["paper"])
    found = found.loc["fine"].loc["paper"]
    assert found.low["hits"] < found.chance["hits"] < found.high["hits"]
    assert found.low["heat_in_lungs"] < 0.5 < found.high["heat_in_lungs"]
    assert "untrained" not in found.columns
    assert "the maps do not show where lesions lie" in verdict(found)


def test_the_most_hits_are_chosen_and_of_equals_the_larger_overlap():
    rows = {
        ("a", "paper", "hits"): 0.5, ("a", "paper", "iou"): 0.3, ("a", "layercam", "hits"): 0.5,
        ("a", "layercam", "iou"): 0.4, ("b", "paper", "hits"): 0.4, ("b", "paper", "iou"): 0.9,
    }  # fmt: skip
    index = pd.MultiIndex.from_tuples(rows, names=["layer", "style", "measure"])
    assert choose_explanation(pd.DataFrame({"value": list(rows.values())}, index)) == ("a", "layercam")
    assert choose_explanation(pd.DataFrame({"value": np.nan}, index)) is None


def test_comparisons_are_stored_without_times(compared):
    records = json.loads(json.dumps(explanation_records(compared), allow_nan=False))
    assert [(record["layer"], record["style"]) for record in records] == [
        ("fine", "paper"), ("fine", "layercam"), ("coarse", "paper"), ("coarse", "layercam"),
    ]  # fmt: skip
    assert records[2]["cells"] == 8 and records[2]["hits"]["n"] == 16 and "ms" not in records[2]
    assert {"value", "low", "high", "chance", "untrained"} <= set(records[0]["heat_in_lungs"])


def test_the_section_of_the_run_page_has_estimates_or_null(compared):
    rows = compared.loc["fine"].loc["paper"]
    section = json.loads(json.dumps(lung_section(rows), allow_nan=False))
    assert set(section["heat_in_lungs"]) == {"value", "low", "high", "n"} and section["chance"] == 0.5
    assert set(section["untrained"]) == {"value", "low", "high"}
    assert lung_section(rows.drop(columns="untrained"))["untrained"] is None
    assert set(lung_section(rows.assign(n=0)).values()) == {None}


def test_the_verdict_follows_the_numbers(compared):
    row = {"value": 0.1, "low": 0.05, "high": 0.15, "n": 20}
    changed, alike = pd.Series(row), pd.Series(row | {"value": 0.9, "low": 0.85, "high": 0.95})
    good = verdict(compared.loc["fine"].loc["paper"], changed, changed)
    assert (
        "a hint of where a lesion lies" in good
        and "in 1.00 (95 % CI 0.76–1.00) of the images, against 0.06 by chance and 0.00" in good
    )
    assert "the network needs what the maps mark" in good and "they depend on what the network has learnt" in good
    bad = compared.loc["fine"].loc["paper"].copy()
    bad[["low", "untrained"]] = -0.1, 0.9
    text = verdict(bad, alike, changed)
    assert "do not show where lesions lie" in text and "no evidence that the network uses the lungs" in text
    assert "it is not shown that the network needs" in text and "part of each map comes from the image alone" in text
    bad.loc["deletion_gain", "low"] = 0.1
    assert "needs such regions, but untrained networks mark them, too" in verdict(bad)
    assert "Without lesion masks" in verdict(bad.assign(n=0))


SHAPE = (12, 12, 3)


def small_model(constant_top=False) -> keras.Model:
    """Build a model; with a constant top, shuffling the weights of its last layer cannot change a thing."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input(SHAPE), layers.Conv2D(6, 3, activation="relu", name="first"),
        layers.Conv2D(8, 3, activation="relu", name="second"), layers.GlobalAveragePooling2D(name="pool"),
        layers.Dropout(0.5), layers.Dense(3, activation="softmax", name="scores"),
    ])  # fmt: skip
    if constant_top:
        model.get_layer("scores").set_weights([np.ones((8, 3)), np.zeros(3)])
    return model


@pytest.fixture(scope="module")
def images_sanity():
    return np.random.default_rng(0).random((6, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def maps():
    return np.random.default_rng(1).random((40, 16, 16), dtype=np.float32)


def test_equal_maps_are_alike_and_unrelated_ones_are_not(maps):
    same, other = compare_maps(maps, maps), compare_maps(maps, maps[::-1])
    assert same.value.tolist() == pytest.approx([1, 1])
    assert abs(other.value["rank_correlation"]) < 0.05 and abs(other.value["ssim"]) < 0.1
    assert compare_maps(maps, 1 - maps).value["rank_correlation"] == pytest.approx(-1)


def test_ranks_do_not_see_a_stretching_but_ssim_does(maps):
    found = compare_maps(maps, maps**3)
    assert found.value["rank_correlation"] == pytest.approx(1) and found.value["ssim"] < 0.95


def test_constant_maps_are_excluded_and_counted(maps):
    holes = maps.copy()
    holes[:10], holes[10:13] = 0, 0.3
    found = compare_maps(maps, holes)
    assert found.n.tolist() == [27, 27] and found.value["rank_correlation"] == pytest.approx(1)
    nothing = compare_maps(maps, 0 * maps)
    assert (nothing.n == 0).all() and nothing.value.isna().all()


def test_intervals_hold_the_mean_and_know_the_patients(maps):
    noise = np.random.default_rng(2).random(maps.shape)
    weight = np.linspace(0, 1, len(maps))[:, None, None]
    mixed = (1 - weight) * maps + weight * noise
    patients = np.arange(len(maps)) // 10  # whose images are alike
    by_image, by_patient = (compare_maps(maps, mixed, who).loc["rank_correlation"] for who in (None, patients))
    for row in (by_image, by_patient):
        assert row.low < row.value < row.high
    assert by_patient.high - by_patient.low > 1.5 * (by_image.high - by_image.low)


@pytest.mark.parametrize("shapes", [((2, 8, 8), (3, 8, 8)), ((2, 6, 8), (2, 6, 8)), ((8, 8), (8, 8))])
def test_maps_that_cannot_be_compared(shapes):
    with pytest.raises(CovidxrError, match="one shape.*7 pixels"):
        compare_maps(*map(np.zeros, shapes))


def test_maps_fall_apart_with_the_weights_that_they_depend_on(images_sanity):
    table = cascading_randomisation(small_model(constant_top=True), images_sanity, "second")
    assert table.index.unique("layer").tolist() == ["scores", "second", "first"]
    assert table.value["scores"].tolist() == pytest.approx([1, 1])  # shuffled in vain
    assert (table.value["second"] < 0.7).all() and (table.value["first"] < 0.7).all()
    found = table[table.n > 0]
    assert (found.low <= found.value).all() and (found.value <= found.high).all()


def test_randomising_the_top_changes_maps_that_hang_on_it(images_sanity):
    assert cascading_randomisation(small_model(), images_sanity, "second").value["scores", "rank_correlation"] < 0.95


def test_the_model_is_not_changed_and_seeds_count(images_sanity):
    model = small_model()
    before = model.get_weights()
    tables = [cascading_randomisation(model, images_sanity, "second", seed=seed) for seed in (0, 0, 1)]
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])


def test_black_images_do_not_count(images_sanity):
    black = np.concatenate([images_sanity, np.zeros((2, *SHAPE), np.float32)])
    table = cascading_randomisation(small_model(constant_top=True), black, "second")
    assert (table.n["scores"] == len(images_sanity)).all()
    nothing = cascading_randomisation(small_model(), black[-2:], "second")
    assert (nothing.n == 0).all() and nothing.value.isna().all()


def test_layers_of_a_nested_model_are_randomised_too(images_sanity):
    base = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(4, 3, name="inner"), layers.BatchNormalization(name="norm")]
    )
    model = keras.Sequential([keras.Input(SHAPE), base, layers.GlobalAveragePooling2D(), layers.Dense(2, name="top")])
    table = cascading_randomisation(model, images_sanity, "inner")
    assert table.index.unique("layer").tolist() == ["top", "norm", "inner"]


def test_an_unknown_layer_is_named(images_sanity):
    with pytest.raises(CovidxrError, match="'third' not found.*first, second"):
        cascading_randomisation(small_model(), images_sanity, "third")


def head_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input(SHAPE), layers.Conv2D(4, 3, name="conv"), layers.AveragePooling2D(5), layers.Flatten(name="flatten"),
        layers.Dense(2, activation="softmax", name="scores"),
    ])  # fmt: skip


def test_shuffled_labels_cannot_be_learnt_from_images_that_are_alike():
    labels = np.repeat([0, 1], 200)
    images = np.zeros((400, 12, 12), np.uint8)
    images[labels == 1, :, :6] = 200
    model = head_model()
    before = model.get_weights()
    copy, accuracy = refit_on_shuffled_labels(model, images, labels, epochs=15)
    assert 0.4 < accuracy < 0.7
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert (copy.get_layer("conv").get_weights()[0] == before[0]).all()
    assert not np.allclose(copy.get_layer("scores").get_weights()[0], before[2])
    truly = fit_head(copy, embed(copy, images), labels, epochs=15)
    assert truly.accuracy.iloc[-1] == 1  # so it was the shuffling that kept it from learning
