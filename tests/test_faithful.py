"""Deletion and insertion on a network that reads the texture of one quarter of the film, and nothing else."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from covidxr.errors import CovidxrError
from covidxr.faithful import CurveResult, curve_summary, deletion_insertion

SIZE, STEPS = 16, 8
QUARTER = np.zeros((SIZE, SIZE), bool)
QUARTER[:8, 8:] = True
CHECKS = np.indices((SIZE, SIZE)).sum(0) % 2


@pytest.fixture(scope="module")
def model():
    reader = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.Flatten(), layers.Dense(2, "softmax")])
    kernel = np.zeros((SIZE, SIZE, 3, 2), "float32")
    kernel[..., 1] = (0.2 * QUARTER * (2 * CHECKS - 1))[..., None]
    reader.layers[-1].set_weights([kernel.reshape(-1, 2), np.array([3, 0], "float32")])
    return reader


@pytest.fixture(scope="module")
def images():
    """Chequered all over: nothing in the films tells the quarter that counts from the others."""
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
    found = curve_summary(true_heat)
    assert found["n"] == 6
    assert found["deletion"] < found["deletion_chance"] - 0.1 and found["insertion"] > found["insertion_chance"] + 0.1
    for name in ("deletion", "insertion"):
        low, high = found[f"{name}_gain_interval"]
        assert 0 < low <= found[f"{name}_gain"] <= high
        assert found[f"{name}_gain"] == pytest.approx(abs(found[name] - found[f"{name}_chance"]), abs=1e-6)


def test_a_map_of_what_does_not_count_is_worse_than_chance(model, images):
    found = curve_summary(deletion_insertion(model, images, repeated(~QUARTER, images), 1, STEPS))
    assert found["deletion_gain"] < -0.05 and found["insertion_gain"] < -0.05


def test_a_constant_map_is_chance(model, images):
    found = curve_summary(deletion_insertion(model, images, np.ones(images.shape[:3]), 1, STEPS, draws=8))
    assert abs(found["deletion_gain"]) < 0.03 and abs(found["insertion_gain"]) < 0.03


def test_curves_begin_and_end_where_they_must(model, images, true_heat):
    probability = model.predict_on_batch(images)[:, 1]
    for deletion, insertion in (true_heat[1:3], true_heat[3:5]):
        np.testing.assert_allclose(deletion[:, 0], probability, rtol=1e-5)
        np.testing.assert_allclose(insertion[:, -1], probability, rtol=1e-5)
        np.testing.assert_allclose(deletion[:, -1], insertion[:, 0], rtol=1e-5)
    assert true_heat.fractions.tolist() == np.linspace(0, 1, STEPS + 1).tolist()


def test_each_film_follows_its_own_class(model, images):
    heat = repeated(QUARTER, images)[:2]
    mixed = deletion_insertion(model, images[:2], heat, [1, 0], STEPS)
    np.testing.assert_allclose(mixed.deletion[1, 0], 1 - mixed.deletion[0, 0], atol=0.05)
    assert mixed.deletion[1, -1] > mixed.deletion[1, 0]  # what speaks for one class speaks against the other


def test_memory_is_bounded_and_the_seed_counts(model, images, monkeypatch):
    sizes, predict = [], model.predict_on_batch
    monkeypatch.setattr(model, "predict_on_batch", lambda films: sizes.append(len(films)) or predict(films))
    heat = np.random.default_rng(3).integers(0, 3, images.shape[:3]).astype(float)  # with many equals
    found = [deletion_insertion(model, images, heat, 1, 5, seed=seed) for seed in (0, 0, 1)]
    assert set(sizes) == {6}
    assert all((a == b).all() for a, b in zip(found[0], found[1], strict=True))
    assert not np.allclose(found[0].random_deletion, found[2].random_deletion)


def test_no_films_and_what_does_not_fit(model, images):
    nothing = deletion_insertion(model, images[:0], np.zeros((0, SIZE, SIZE)), 1)
    assert nothing.deletion.shape == (0, 21) and curve_summary(nothing) == {}
    with pytest.raises(CovidxrError, match="do not belong together"):
        deletion_insertion(model, images, np.zeros((6, 8, 8)), 1)
    with pytest.raises(CovidxrError, match="steps is 0"):
        deletion_insertion(model, images, np.zeros(images.shape[:3]), 1, steps=0)
    with pytest.raises(CovidxrError, match="classes must lie in 0 to 1"):
        deletion_insertion(model, images, np.zeros(images.shape[:3]), 2)


def test_areas_by_hand_and_the_bootstrap_over_patients():
    curve = np.array([[1.0, 1.0, 0.0]] * 5 + [[0.0, 0.0, 0.0]] * 5)
    result = CurveResult(np.array([0.0, 0.5, 1.0]), curve, curve, 0 * curve, 0 * curve)
    found = curve_summary(result, ["a"] * 5 + ["b"] * 5)
    assert found["deletion"] == 0.375 and found["deletion_interval"] == [0.0, 0.75]
    assert found["deletion_gain"] == -0.375 and found["insertion_gain"] == 0.375
