"""The steps of care look at the same films in the same order, one thing changed at a time."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from covidxr import care
from covidxr.care import COPIES, care_steps
from covidxr.sources._rows import manifest_rows


@pytest.fixture(scope="module")
def films():
    """Thirty films, each of its own grey, with known lungs on the first twenty."""
    pixels = np.random.default_rng(0).integers(0, 255, (30, 32, 32), np.uint8)
    lungs = np.zeros(pixels.shape, bool)
    lungs[:20, 8:24, 4:28] = True
    return manifest_rows({"image_id": i, "patient_id": i, "source": "x"} for i in range(30)), pixels, lungs


def test_each_step_changes_one_thing(films):
    steps = care_steps(*films, weights="random")
    assert list(steps) == [
        "all of VGG16", "three blocks", "sources balanced", "discriminant", "augmented copies", "lungs cropped",
    ]  # fmt: skip
    assert steps["three blocks"].features is steps["discriminant"].features
    assert steps["all of VGG16"].how == steps["three blocks"].how
    assert not np.allclose(steps["lungs cropped"].features, steps["three blocks"].features)


def test_copies_stand_in_the_order_of_the_films(films):
    manifest, pixels, _ = films
    steps = care_steps(manifest, pixels, weights="random", policy="none")  # copies without a change
    plain, *copies = steps["augmented copies"].features
    assert len(copies) == COPIES
    for copy in copies:
        assert np.allclose(copy, plain, atol=1e-5)
    assert "lungs cropped" not in steps


def test_lungs_of_too_few_patients_leave_the_crop_out(films):
    manifest, pixels, lungs = films
    few = lungs.copy()
    few[5:] = False
    assert "lungs cropped" not in care_steps(manifest, pixels, few, weights="random")


def test_memory_grows_with_the_films_and_not_with_their_square(monkeypatch):
    films, most = 10_000, []
    monkeypatch.setattr(care, "build_policy", lambda name: lambda pixels, seed: pixels)
    monkeypatch.setattr(care, "augmented_features", lambda model, batches, passes: drain(batches, most, passes))
    copies = care._augmented(None, np.zeros((films, 4, 4), np.uint8), "none", 0)
    assert [len(copy) for copy in copies] == [films] * COPIES
    assert max(most) < 20e6  # a square matrix of single precision takes 400e6


def drain(batches, most, passes):
    """Stand in for the network: a film's features are its number; keep what a batch took at its peak."""
    numbers = []
    for step in range(passes * len(batches)):
        tracemalloc.start()
        numbers.append(batches.batch(*divmod(step, len(batches)))[1].argmax(1))
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    numbers = np.concatenate(numbers)
    return numbers[:, None], numbers
