"""Training of the lung network: examples, loss, which masks are used, weights; all without a download."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import covidxr.data._train_lungs as training
from covidxr.data import build_dataset, make_phantom
from covidxr.data.lungs import SIDE, build_unet


@pytest.fixture(scope="module")
def discs():
    """Bright discs at different places on black images, and the same as masks."""
    rows, columns = np.mgrid[:256, :256]
    centres = np.random.default_rng(0).integers(90, 166, (6, 2))
    masks = np.stack([np.hypot(rows - y, columns - x) < 40 for y, x in centres]) * np.uint8(255)
    return masks, masks


def test_masks_move_with_their_images(discs):
    rng = np.random.default_rng(1)
    for _ in range(20):
        image, mask = training._move(discs[0][0], discs[1][0], rng)
        np.testing.assert_array_equal(image > 127, mask > 127)
        assert image.shape == (SIDE, SIDE) and mask.any()


def test_a_quarter_of_each_batch_are_phantoms(discs, monkeypatch):
    monkeypatch.setattr(training, "augment", lambda image, mask, rng: (image, mask))
    blank = np.zeros((2, 256, 256), np.uint8)
    images, masks = next(training.examples(*discs, (blank, blank), np.random.default_rng(0)))
    assert images.shape == masks.shape == (training.BATCH, 256, 256, 1)
    assert (masks.any((1, 2, 3)) == (np.arange(training.BATCH) < 0.75 * training.BATCH)).all()


def test_equal_seeds_give_equal_examples(discs):
    first, again = (next(training.examples(*discs, discs, np.random.default_rng(3))) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert first[0].dtype == np.float32 and first[1].min() >= 0 and first[1].max() <= 1


def test_the_loss_is_lowest_for_the_true_mask():
    true = np.zeros((2, 8, 8, 1), np.float32)
    true[:, 2:6, 2:6] = 1
    right, unknown, wrong = (
        training.dice_and_cross_entropy(true, logits).numpy() for logits in (20 * true - 10, 0 * true, 10 - 20 * true)
    )
    assert right.shape == (2,) and (right < 0.01).all() and (right < unknown).all() and (unknown < wrong).all()


def test_masks_of_another_shape_and_empty_ones_are_excluded(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    names = ["fits.png", "empty.png", "other.png", "unmasked.png"]
    for name in names:
        Image.fromarray(make_phantom("Normal", rng, 64).image).save(tmp_path / name)
    full = np.full((32, 32), 255, np.uint8)
    found = {"fits.png": full, "empty.png": 0 * full, "other.png": full[:16], "gone.png": full}
    listed = pd.DataFrame({"path": [str(tmp_path / name) for name in [*names, "gone.png"]]}).assign(
        image_id=lambda x: x.path
    )
    monkeypatch.setattr(training, "download_masks", lambda: found)
    monkeypatch.setattr(training, "load_source", lambda *_: listed)
    manifest, images, masks = training.load_examples(tmp_path)
    assert manifest.path.map(lambda path: path[-8:]).tolist() == ["fits.png"]
    assert images.shape == masks.shape == (1, 256, 256) and (masks == 255).all()


def test_networks_are_validated_on_patients_they_did_not_see(tmp_path, monkeypatch):
    made = build_dataset(per_class=5, image_size=64, work_dir=tmp_path)
    trained_on = []
    monkeypatch.setattr(training, "train", lambda images, masks, seed: trained_on.append(images) or build_unet("zeros"))
    examples = made.manifest.assign(duplicate_group=""), made.images, made.lung_masks() * np.uint8(255)
    table = training.cross_validate(examples, folds=3)
    assert len(trained_on) == 3 and table[["dice", "confidence"]].notna().all(axis=None)
    for images in trained_on:
        seen = [any((image == other).all() for other in images) for image in made.images]
        assert not set(table.group[seen]) & set(table.group[~np.array(seen)])


def test_weights_are_saved_in_half_precision_and_in_order(tmp_path):
    model = build_unet()
    training.save_weights(model, tmp_path / "weights.npz")
    with np.load(tmp_path / "weights.npz") as stored:
        assert {array.dtype.name for array in stored.values()} == {"float16"}
        for name, array in zip(sorted(stored.files), model.get_weights(), strict=True):
            np.testing.assert_allclose(stored[name], array, atol=1e-3)
