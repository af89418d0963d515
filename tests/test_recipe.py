"""The training that notebook 03 and sweeps share: the start that the weights ask for, the head first, and the whole in a call."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest

from covidxr.ablation import REFERENCE, SIMPLE, standard_cells
from covidxr.errors import CovidxrError
from covidxr.model import build_vgg16
from covidxr.recipe import filled_in, head_first, start_network, train_network
from covidxr.train import Films, read_model


def films(n=12, size=32):
    rng = np.random.default_rng(0)
    return Films(rng.integers(0, 255, (n, size, size), np.uint8), np.arange(n) % 3)


def test_given_weights_keep_the_freezing_and_random_ones_train_all(tmp_path):
    source = build_vgg16(32, seed=9)
    layers = [layer for layer in source.layers if layer.name.startswith("block") and layer.weights]
    arrays = {
        f"{layer.name}/{part}": w
        for layer in layers
        for part, w in zip(("kernel", "bias"), layer.get_weights(), strict=True)
    }
    np.savez(tmp_path / "own.npz", **arrays)
    build = partial(build_vgg16, freeze="last-block")
    given, _, record = start_network(build, 32, str(tmp_path / "own.npz"), films().images)
    assert record.kind == "file" and not given.get_layer("block5_conv1").trainable
    np.testing.assert_array_equal(given.get_layer("block3_conv2").kernel, source.get_layer("block3_conv2").kernel)
    drawn, again, record = start_network(build, 32, "random", films().images)
    assert record.kind == "random" and all(layer.trainable for layer in drawn.layers)
    assert again(48).get_layer("block5_conv1").trainable and again(48).get_layer("dropout").rate == 0.2
    half = np.asarray(drawn.get_layer("block1_conv2").kernel)[:, :, :32]
    np.testing.assert_allclose(half, -np.asarray(drawn.get_layer("block1_conv2").kernel)[:, :, 32:], rtol=1e-5)


def test_what_is_chosen_stays_and_the_rest_follows_the_start():
    assert filled_in("file", epochs=None, learning_rate=0.0) == {"epochs": 10, "learning_rate": 0.0}
    assert filled_in("random", epochs=3, batch_size=None) == {"epochs": 3, "batch_size": 8}


@pytest.mark.parametrize(
    ("kind", "epochs", "touched"), [("imagenet", 1, True), ("imagenet", 0, False), ("random", 1, False)]
)
def test_the_head_comes_first_where_the_base_knows_something(kind, epochs, touched):
    from covidxr.augment import AugmentedBatches, build_policy

    model = build_vgg16(32)
    before = model.get_layer("dense_2").get_weights()[0]
    base = model.get_layer("block2_conv1").get_weights()[0]
    batches = AugmentedBatches(*films(), 3, build_policy("none"))
    head_first(model, kind, batches, seed=1, epochs=epochs, passes=1)
    assert (model.get_layer("dense_2").get_weights()[0] != before).any() == touched
    np.testing.assert_array_equal(model.get_layer("block2_conv1").get_weights()[0], base)


def test_the_whole_training_in_one_call(tmp_path):
    settings = {**REFERENCE, "weights": "random", "epochs": 2}
    model = train_network({"train": films(), "validation": films(6)}, 3, settings, tmp_path)
    assert pd.read_csv(tmp_path / "history.csv").epoch.tolist() == [1, 2]
    probabilities = [network.predict_on_batch(np.zeros((1, 32, 32, 3))) for network in (model, read_model(tmp_path))]
    np.testing.assert_array_equal(*probabilities)


def test_the_simple_model_in_one_call_and_no_other(tmp_path):
    parts = {"train": films(), "validation": films(6)}
    settings = {**REFERENCE, **standard_cells(REFERENCE)[SIMPLE], "epochs": 2}
    model = train_network(parts, 3, settings, tmp_path)
    assert model.name == "baseline" and len(pd.read_csv(tmp_path / "history.csv")) == 2
    with pytest.raises(CovidxrError, match="unknown network 'VGG19'; available: vgg16, simple"):
        train_network(parts, 3, {**settings, "network": "VGG19"}, tmp_path)
