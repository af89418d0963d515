"""Predicted lungs: on phantoms against drawn masks, on real radiographs against boxes; confidence, order and cache."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import covidxr.data.lungs as lungs
from covidxr.data import build_dataset, lung_masks, make_phantom, segment_lungs
from covidxr.data.images import load_lung_boxes, read_images
from covidxr.data.lungs import LEAST_CONFIDENCE, WEIGHTS_FILE, build_unet, confidence_of, dice, keep_lungs
from covidxr.data.phantom import PHANTOM_CLASSES
from covidxr.data.sources import load_source
from covidxr.utils import CovidxrError


def phantoms(count, size, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [make_phantom(PHANTOM_CLASSES[n % 4], rng, size) for n in range(count)]
    return np.stack([p.image for p in drawn]), np.stack([p.lung_mask for p in drawn])


@pytest.fixture(scope="module")
def some():
    return phantoms(24, 128)


@pytest.fixture
def dataset(tmp_path):
    """Three phantoms: one with its drawn mask, one with a box, one with neither; and the file of boxes."""
    made = build_dataset(per_class=1, image_size=48, work_dir=tmp_path)
    boxed = {
        "images": [{"id": 1, "file_name": Path(made.manifest.path[1]).name, "width": 2, "height": 2}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 2]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxed))
    manifest = made.manifest.assign(source="covid-chestxray")
    manifest.loc[1:, "lung_mask"] = ""
    return made._replace(manifest=manifest), tmp_path / "boxes.json"


# The network


def test_the_network_is_small_and_so_are_its_weights():
    assert build_unet("zeros").count_params() < 100_000 and WEIGHTS_FILE.stat().st_size < 500_000


def test_loading_the_network_leaves_the_random_state_alone():
    keras = pytest.importorskip("keras")
    lungs._network.cache_clear()
    keras.utils.set_random_seed(3)
    before = keras.initializers.GlorotUniform()((4, 4))
    keras.utils.set_random_seed(3)
    segment_lungs(np.zeros((1, 32, 32), np.uint8))
    np.testing.assert_array_equal(before, keras.initializers.GlorotUniform()((4, 4)))


@pytest.mark.parametrize(("size", "least"), [(32, 0.9), (64, 0.95), (100, 0.95), (200, 0.95), (512, 0.95)])
def test_lungs_of_phantoms_are_found_at_every_size(size, least):
    images, drawn = phantoms(8, size, seed=1)
    found = segment_lungs(images)
    assert found.dtype == bool and found.shape == images.shape
    assert dice(found, drawn).mean() > least


def test_images_need_not_be_square():
    images, drawn = phantoms(4, 128, seed=2)
    found = segment_lungs(images[:, ::2])
    assert found.shape == (4, 64, 128) and dice(found, drawn[:, ::2]).mean() > 0.93


def test_the_same_image_has_the_same_lungs_whatever_is_segmented_with_it(some):
    together = segment_lungs(some[0])
    np.testing.assert_array_equal(together, segment_lungs(some[0]))
    np.testing.assert_array_equal(together[[5]], segment_lungs(some[0][[5]]))
    assert segment_lungs(some[0][:0]).shape == (0, 128, 128)


def test_more_images_than_fit_into_a_batch(some, monkeypatch):
    monkeypatch.setattr(lungs, "_BATCH", 7)
    assert dice(segment_lungs(some[0]), some[1]).min() > 0.85


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 64, 64), np.float32),
        np.zeros((64, 64), np.uint8),
        np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((1, 31, 64), np.uint8),
    ],
)
def test_other_arrays_are_refused(images):
    with pytest.raises(CovidxrError, match=r"uint8 images of shape \(N, H, W\), H and W at least 32, not in"):
        segment_lungs(images)


def test_an_image_takes_a_fraction_of_a_second(some):
    segment_lungs(some[0][:1])
    start = time.process_time()
    segment_lungs(some[0])
    assert (time.process_time() - start) / len(some[0]) < 0.2


# What is kept of a prediction


def test_holes_are_filled_and_small_components_dropped():
    probabilities = np.full((20, 20), 0.1, np.float32)
    probabilities[2:18, 2:8] = probabilities[2:18, 12:18] = 0.9
    two = probabilities.copy()
    probabilities[8:10, 4:6] = 0.2  # a hole
    probabilities[0, 10] = 0.8  # a speck
    np.testing.assert_array_equal(keep_lungs(probabilities) > 0.5, two > 0.5)
    assert not (keep_lungs(np.zeros((8, 8), np.float32)) > 0.5).any()


def test_dice_of_two_masks():
    half, all_ = np.zeros((3, 4, 4), bool), np.ones((3, 4, 4), bool)
    half[:2, :2] = True
    assert dice(half, all_).tolist() == [pytest.approx(2 / 3), pytest.approx(2 / 3), 0]
    assert dice(half[2:], half[2:]).tolist() == [1]


# Confidence


def not_frontal(some):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, 64, 64), np.uint8)
    flat = np.stack([np.full((64, 64), grey, np.uint8) for grey in (0, 128, 255)])
    return {"noise": noise, "blank": flat, "turned": np.rot90(some[0], axes=(1, 2)), "inverted": 255 - some[0]}


@pytest.mark.parametrize("kind", ["noise", "blank", "turned", "inverted"])
def test_what_is_no_frontal_radiograph_has_low_confidence(some, kind):
    _, confidence = segment_lungs(not_frontal(some)[kind], return_confidence=True)
    assert (confidence < LEAST_CONFIDENCE).mean() > 0.9 and confidence.min() >= 0


def test_frontal_images_have_high_confidence(some):
    masks, confidence = segment_lungs(some[0], return_confidence=True)
    np.testing.assert_array_equal(masks, segment_lungs(some[0]))
    assert confidence.shape == (24,) and ((confidence > LEAST_CONFIDENCE) & (confidence <= 1)).all()


def test_confidence_falls_with_doubt_disagreement_and_a_missing_lung():
    certain = np.full((1, 20, 20), 0.01, np.float32)
    certain[:, 2:18, 2:8] = certain[:, 2:18, 12:18] = 0.99
    doubtful, one, other = 0.5 + (certain - 0.5) / 2, certain.copy(), np.roll(certain, 3, 1)
    one[:, :, 10:] = 0.01
    pairs = [(certain, certain), (doubtful, doubtful), (certain, other), (one, one)]
    best, *worse = (confidence_of(np.stack(pair))[0] for pair in pairs)
    assert best > 0.95 and max(worse) < 0.85 and worse[-1] == 0


# Where masks come from


def test_drawn_masks_go_before_boxes_and_boxes_before_predictions(dataset):
    made, boxes = dataset
    masks, kind = lung_masks(made, boxes)
    assert kind.tolist() == ["drawn", "box", "predicted"]
    np.testing.assert_array_equal(masks[0], made.lung_masks()[0])
    np.testing.assert_array_equal(masks[1], load_lung_boxes(made.manifest, boxes, 48)[1])
    np.testing.assert_array_equal(masks[2], segment_lungs(made.images[2:])[0])
    np.testing.assert_array_equal(masks, made.lung_masks(boxes))


def test_without_predictions_masks_may_be_missing(dataset):
    masks, kind = lung_masks(dataset[0], predict=False)
    assert kind.tolist() == ["drawn", "none", "none"] and masks.any((1, 2)).tolist() == [True, False, False]


def test_a_prediction_without_confidence_is_no_mask(dataset):
    made = dataset[0]
    made.images[2] = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    masks, kind = lung_masks(made)
    assert kind.tolist() == ["drawn", "predicted", "none"] and masks.any((1, 2)).tolist() == [True, True, False]


def test_predictions_are_kept_in_the_run_folder(dataset, tmp_path, monkeypatch):
    made, boxes = dataset
    first = lung_masks(made, boxes, run_dir=tmp_path)
    assert [path.name for path in tmp_path.glob("*.npz")] == ["lungs.npz"]
    more = lung_masks(made, run_dir=tmp_path)
    monkeypatch.setattr(lungs, "segment_lungs", None)  # nothing is predicted again
    for boxes_, before in ((boxes, first), (None, more)):
        again = lung_masks(made, boxes_, run_dir=tmp_path)
        np.testing.assert_array_equal(again.masks, before.masks)
        assert again.kind.tolist() == before.kind.tolist()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive"])
def test_a_damaged_cache_is_written_anew(dataset, tmp_path, content):
    (tmp_path / "lungs.npz").write_bytes(content)
    before = lung_masks(dataset[0])
    np.testing.assert_array_equal(lung_masks(dataset[0], run_dir=tmp_path).masks, before.masks)
    assert np.load(tmp_path / "lungs.npz")["pixels"].shape == (2, 48, 48)


# Real radiographs


@pytest.mark.realdata
def test_predicted_lungs_lie_in_the_boxes_of_real_images(shared):
    rows = load_source("covid-chestxray", shared / "data")
    rows = rows[rows.path.map(lambda path: Path(path).is_file())].iloc[::8].reset_index(drop=True)
    boxes = load_lung_boxes(rows, shared / "data" / "lung-bounding-boxes" / "annotations.json", 128)
    masks, confidence = segment_lungs(np.stack(read_images(rows.path, 128)), return_confidence=True)
    boxed = boxes.any((1, 2)) & (confidence >= LEAST_CONFIDENCE)
    overlap = [box_iou(mask, box) for mask, box in zip(masks[boxed], boxes[boxed], strict=True)]
    assert boxed.mean() > 0.9 and np.mean(overlap) > 0.8 and min(overlap) > 0.6


def box_iou(mask, box):
    """Intersection over union of a mask's component boxes and the given ones, as masks."""
    drawn = np.zeros_like(mask)
    for lung in ndimage.find_objects(ndimage.label(mask)[0]):
        drawn[lung] = True
    return (drawn & box).sum() / (drawn | box).sum()
