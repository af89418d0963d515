"""Augmentation: every step works, the same seed gives the same pixels, and labels stay with their images."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from covidxr._keras import set_seed
from covidxr.augmentation import POLICIES, AugmentedBatches, PlainBatches, build_policy
from covidxr.model.networks import build_baseline
from covidxr.utils import CovidxrError

STEPS = [(name, step.name) for name, steps in POLICIES.items() for step in steps]
OUTCOMES = {"quarter turns": 4, "flip left-right": 2, "flip up-down": 2}  # of steps with few possible results


@pytest.fixture(scope="module")
def image():
    """One image of 64 px with a gradient, edges and grain, so that every change is visible."""
    rng = np.random.default_rng(0)
    slope = np.add.outer(np.arange(64) * 2, np.arange(64))
    slope[10:30, 20:30] += 50
    return (slope % 230 + rng.integers(1, 25, (64, 64))).astype(np.uint8)


@pytest.fixture(scope="module")
def sample_images(image):
    return np.repeat(image[None], 24, axis=0)


def numbered(n=11, n_classes=3, **options) -> AugmentedBatches:
    """Batches of flat images: the grey value of each is its number, its class is the number modulo `n_classes`."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None], (n, 8, 8)).copy()
    options = {"batch_size": 4, "seed": 5} | options
    return AugmentedBatches(images, np.arange(n) % n_classes, n_classes, build_policy("none"), **options)


def numbers(x) -> list:
    return np.round(x[:, 0, 0, 0] * 255).astype(int).tolist()


def augmented(sample_images, seed=5, policy="anatomical", **options) -> AugmentedBatches:
    policy = build_policy(policy, flip=True)
    return AugmentedBatches(
        sample_images, np.arange(len(sample_images)) % 3, 3, policy, batch_size=4, seed=seed, **options
    )


@pytest.mark.parametrize(("policy", "step"), STEPS)
def test_each_step_draws_separately_for_each_image(policy, step, sample_images):
    apply = build_policy(policy, only=[step])
    before = sample_images.copy()
    changed = apply(sample_images, 1)
    assert changed.dtype == np.uint8 and changed.shape == sample_images.shape
    assert (sample_images == before).all()
    distinct = len({image.tobytes() for image in changed})
    assert (
        distinct == OUTCOMES[step] if step in OUTCOMES else distinct > (2 if step == "coarse dropout" else 8)
    )  # holes in 3 % of a 4×4 grid are few
    np.testing.assert_array_equal(apply(sample_images, 1), changed)
    assert (apply(sample_images, 2) != changed).any()


@pytest.mark.parametrize(("policy", "fewest"), [("article", 6), ("anatomical", 20)])
@pytest.mark.parametrize("size", [32, 100])
def test_whole_policies_work_at_every_size(policy, fewest, size, image):
    sample_images = np.repeat(cv2.resize(image, (size, size))[None], 20, axis=0)
    apply = build_policy(policy)
    changed = apply(sample_images, 0)
    assert changed.shape == sample_images.shape and changed.dtype == np.uint8
    assert len({image.tobytes() for image in changed}) >= fewest
    assert (changed.std((1, 2)) > 0.3 * sample_images[0].std()).all()  # none is wiped out
    apply(sample_images, 1)
    np.testing.assert_array_equal(apply(sample_images, 0), changed)
    np.testing.assert_array_equal(build_policy(policy)(sample_images, 0), changed)


def test_the_article_gives_each_image_one_orientation_and_changes_a_third_further(image):
    changed = build_policy("article")(np.repeat(image[None], 600, axis=0), 0)
    orientations = [np.rot90(image, turns) for turns in range(4)] + [image[:, ::-1], image[::-1]]
    counts = np.array([(changed == oriented).all((1, 2)).sum() for oriented in orientations])
    assert counts.sum() / 600 == pytest.approx(2 / 3, abs=0.06)  # the half, and a third of the rest
    expected = np.array([4, 2, 2, 2, 1, 1]) / 12  # one of six, but each flip changes only every second image
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.05)


def test_gamma_and_noise_keep_the_geometry_and_flips_do_not(image):
    left = np.where(np.arange(64) < 32, 40, 200).astype(np.uint8)[None, None].repeat(16, 0).repeat(64, 1)
    for step in ("gamma", "noise"):
        changed = build_policy("anatomical", only=[step])(left, 3).astype(float)
        assert (changed[:, :, :32].mean((1, 2)) < changed[:, :, 32:].mean((1, 2))).all()
    flipped = build_policy("none", flip=True)(left, 3)
    turned = (flipped != left).any((1, 2))
    assert 0 < turned.sum() < 16
    np.testing.assert_array_equal(flipped[turned], left[turned][:, :, ::-1])


@pytest.mark.parametrize(("policy", "step"), STEPS)
def test_a_step_switched_off_changes_no_other(policy, step, image):
    sample_images = np.repeat(image[None], 96, axis=0)
    whole, without = build_policy(policy), pickle.loads(pickle.dumps(build_policy(f"{policy} without {step}")))
    assert [each.name for each in without.steps] == [f"no {step}" if s.name == step else s.name for s in whole.steps]
    changed, less = whole(sample_images, 3), without(sample_images, 3)
    touched = (changed != less).any(axis=(1, 2))
    assert touched.any() and (policy == "anatomical" or not touched.all())  # the article's leave many images alone


def test_flip_is_added_once_and_only_where_it_lacks():
    def names(*args, **options):
        return [step.name for step in build_policy(*args, **options).steps]

    assert names("none") == []
    assert names("none", flip=True) == ["flip left-right"]
    assert "flip left-right" not in names("anatomical")
    assert names("anatomical", flip=True) == [*names("anatomical"), "flip left-right"]
    assert names("article", flip=True) == names("article")
    assert names("article", only=["gamma", "quarter turns"]) == ["quarter turns", "gamma"]


def test_every_step_says_why():
    assert all(step.why.endswith(".") for steps in POLICIES.values() for step in steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "artcle"}, "unknown augmentation policy 'artcle'; available: none, article, anatomical"),
        ({"name": "none", "only": ["gamma"]}, "unknown step of policy 'none' 'gamma'; available: "),
        ({"name": "article without blur"}, "unknown step of policy 'article' 'blur'; available: quarter turns"),
        ({"name": "article", "only": ["blur"]}, "unknown step of policy 'article' 'blur'; available: quarter turns"),
    ],
)
def test_unknown_names_are_refused_with_the_available_ones(arguments, message):
    with pytest.raises(CovidxrError, match=message):
        build_policy(**arguments)


@pytest.mark.parametrize("images", [np.zeros((2, 8, 8)), np.zeros((8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.uint8)])
@pytest.mark.parametrize("policy", ["article", "none"])
def test_a_policy_takes_only_grey_bytes(images, policy):
    with pytest.raises(CovidxrError, match=r"uint8 images \(N, H, W\), not"):
        build_policy(policy)(images, 0)


@pytest.mark.parametrize("policy", ["article", "anatomical"])
def test_a_batch_depends_on_seed_epoch_and_batch_alone(sample_images, policy):
    batches = augmented(sample_images, policy=policy)
    keys = [(epoch, batch) for epoch in range(3) for batch in range(len(batches))]
    forwards = {key: batches.batch(*key)[0] for key in keys}
    backwards = {key: augmented(sample_images, policy=policy).batch(*key)[0] for key in reversed(keys)}
    for key in keys:
        np.testing.assert_array_equal(forwards[key], backwards[key])
    assert len({x.tobytes() for x in forwards.values()}) == len(keys)
    assert (augmented(sample_images, 6, policy).batch(0, 0)[0] != forwards[0, 0]).any()


def test_a_batch_is_the_same_after_pickling_and_in_a_fresh_process(sample_images):
    batches = augmented(sample_images, policy="article")
    expected, stored = batches.batch(1, 2)[0], pickle.dumps(batches)
    np.testing.assert_array_equal(pickle.loads(stored).batch(1, 2)[0], expected)
    script = (
        "import hashlib, pickle, sys; batches = pickle.load(sys.stdin.buffer); "
        "print(hashlib.sha256(batches.batch(1, 2)[0].tobytes()).hexdigest())"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], input=stored, capture_output=True, cwd=root, check=True)
    assert done.stdout.decode().strip() == hashlib.sha256(expected.tobytes()).hexdigest()


@pytest.mark.parametrize("policy", ["article", "anatomical"])
def test_two_threads_at_once_get_what_one_gets(sample_images, policy):
    batches = augmented(sample_images, policy=policy)
    expected = [batches.batch(1, batch)[0] for batch in range(6)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda batch: batches.batch(1, batch)[0], [*range(6)] * 3))
    for x, at_rest in zip(found, expected * 3, strict=True):
        np.testing.assert_array_equal(x, at_rest)


def test_labels_stay_with_their_images_and_each_epoch_shows_every_image_once():
    batches = numbered()
    orders = []
    for epoch in range(3):
        order = []
        for batch in range(len(batches)):
            x, y = batches.batch(epoch, batch)
            np.testing.assert_array_equal(y, np.eye(3)[np.array(numbers(x)) % 3])
            order += numbers(x)
        assert sorted(order) == list(range(11))
        orders.append(tuple(order))
    assert len({*orders, tuple(range(11))}) == 4  # shuffled, and again in each epoch


def test_the_last_batch_holds_the_rest():
    batches = numbered()
    assert [len(batches[batch][0]) for batch in range(len(batches))] == [4, 4, 3]
    assert len(numbered(8)) == 2 and len(numbered(3)) == 1
    x, y = batches[2]
    assert x.dtype == y.dtype == np.float32
    assert x.shape == (3, 8, 8, 3) and y.shape == (3, 3)


def test_plain_batches_are_the_images_in_their_order():
    plain = PlainBatches(numbered().images, np.arange(11) % 3, 3, batch_size=4)
    x, y = (np.concatenate(parts) for parts in zip(*(plain[batch] for batch in range(len(plain))), strict=True))
    assert len(plain) == 3 and numbers(x) == list(range(11)) and x.dtype == y.dtype == np.float32
    np.testing.assert_array_equal(y, np.eye(3)[np.arange(11) % 3])


def test_images_without_labels_are_refused():
    with pytest.raises(CovidxrError, match="5 images but 4 labels"):
        AugmentedBatches(np.zeros((5, 8, 8), np.uint8), np.zeros(4, int), 3, build_policy("none"))


def trained_on(batches):
    set_seed(0)
    model = build_baseline(16, dropout=0.0)
    model.compile("adam", "categorical_crossentropy")
    losses = model.fit(batches, epochs=3, shuffle=False, verbose=0).history["loss"]
    return losses, model.get_weights()[0]


def test_keras_sees_new_epochs_and_the_same_ones_from_two_threads(sample_images, monkeypatch):
    small = sample_images[:8, ::4, ::4].copy()
    seen = []
    batch_of = AugmentedBatches.batch
    monkeypatch.setattr(AugmentedBatches, "batch", lambda self, *key: seen.append(key) or batch_of(self, *key))
    losses, weights = trained_on(augmented(small))
    assert seen[-6:] == [(epoch, batch) for epoch in range(seen[-1][0] - 2, seen[-1][0] + 1) for batch in range(2)]
    for workers in (1, 2):
        again, weights_again = trained_on(augmented(small, workers=workers))
        assert again == losses
        np.testing.assert_array_equal(weights_again, weights)
    other, _ = trained_on(augmented(small, seed=6))
    assert other != losses


def test_images_are_drawn_in_proportion_to_their_weights():
    images = np.arange(40, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    weights = np.where(np.arange(40) < 4, 9.0, 1.0)  # half of all draws are of four images
    batches = AugmentedBatches(images, np.zeros(40, int), 1, build_policy("none"), batch_size=40, weights=weights)
    drawn = np.concatenate([(batches.batch(epoch, 0)[0][:, 0, 0, 0] * 255).round() for epoch in range(50)])
    assert np.mean(drawn < 4) == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(batches.batch(3, 0)[0], batches.batch(3, 0)[0])
    with pytest.raises(CovidxrError, match="40 images but 3 weights"):
        AugmentedBatches(images, np.zeros(40, int), 1, build_policy("none"), weights=np.ones(3))
