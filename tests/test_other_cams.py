"""Grad-CAM++ and Score-CAM on a model that is known to look at bright spots, and nowhere else."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
from keras import layers

from covidxr.errors import CovidxrError
from covidxr.other_cams import grad_cam_plus_plus, score_cam

METHODS = [grad_cam_plus_plus, score_cam]
by_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def spotter(functional=False, last="softmax"):
    """Class 1 is the brightness of the first channel, class 2 of the second; class 0 is constant."""
    chain = [
        layers.Conv2D(2, 1, activation="relu", name="conv"),
        layers.AveragePooling2D(2, name="pool"),
        layers.Flatten(),
        layers.Dense(3, activation=last, name="scores"),
    ]
    inputs = x = keras.Input((16, 16, 3))
    for layer in chain:
        x = layer(x)
    model = keras.Model(inputs, x) if functional else keras.Sequential([keras.Input((16, 16, 3)), *chain])
    model.get_layer("conv").set_weights([np.eye(3, 2)[None, None].astype("float32"), np.zeros(2, "float32")])
    kernel = np.zeros((64, 2, 3), "float32")
    kernel[:, 0, 1] = kernel[:, 1, 2] = 1
    model.get_layer("scores").set_weights([kernel.reshape(128, 3), np.zeros(3, "float32")])
    return model


@pytest.fixture(scope="module")
def images():
    """A spot in the first channel at the top left, one in the second at the bottom right."""
    images = np.zeros((3, 16, 16, 3), np.float32)
    images[:, 2:6, 2:6, 0] = images[:, 9:13, 9:13, 1] = 1
    images[1] = images[1, ::-1]  # upside down
    return images


@by_method
@pytest.mark.parametrize("functional", [False, True])
def test_heat_lies_where_the_class_was_planted(method, functional, images):
    model = spotter(functional)
    maps = method(model, images, [1, 1, 2], "conv")
    assert maps.shape == (3, 16, 16) and maps.dtype == np.float32 and maps.min() >= 0 and maps.max() <= 1
    for heat, place in zip(maps, [(3, 3), (12, 3), (10, 10)], strict=True):
        spot = np.zeros((16, 16), bool)
        spot[max(place[0] - 2, 0) : place[0] + 4, max(place[1] - 2, 0) : place[1] + 4] = True
        assert heat[place] > 0.9 and heat[spot].sum() > 0.6 * heat.sum()


@by_method
def test_the_model_is_not_touched(method, images):
    model = spotter()
    before, scores = model.get_weights(), model.predict_on_batch(images)
    method(model, images, 1, "conv")
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert model.layers[-1].activation is keras.activations.softmax
    np.testing.assert_array_equal(model.predict_on_batch(images), scores)


@by_method
def test_a_map_does_not_depend_on_its_batch(method, images):
    model, rng = spotter(), np.random.default_rng(0)
    varied = np.concatenate([images, rng.random((35, 16, 16, 3), dtype=np.float32)])
    together = method(model, varied, 1, "conv")
    np.testing.assert_allclose(together[[36, 1]], method(model, varied[[36, 1]], 1, "conv"), atol=1e-5)
    assert method(model, images[:0], 1, "conv").shape == (0, 16, 16)


def test_score_cam_keeps_quiet_and_takes_the_channels_that_vary(capsys, images):
    # Only the second channel sees a spot.
    maps = score_cam(spotter(), images[:1, :, :, [2, 0, 0]], 2, "conv", channels=1)
    assert maps[0, 3, 3] > 0.9 and maps[0, 12, 12] < 0.1
    assert capsys.readouterr().out == ""


def test_huge_scores_do_not_overflow(images):
    model = spotter()
    model.get_layer("scores").set_weights([model.get_layer("scores").kernel.numpy() * 1000, np.zeros(3, "float32")])
    maps = grad_cam_plus_plus(model, images, 1, "conv")
    assert np.isfinite(maps).all() and maps[0, 3, 3] > 0.9


@by_method
def test_what_does_not_suit_is_named(method, images):
    with pytest.raises(CovidxrError, match="layer 'conv9' not found.*conv, pool"):
        method(spotter(), images, 1, "conv9")
    with pytest.raises(CovidxrError, match="classes must lie in 0 to 2"):
        method(spotter(), images, 3, "conv")
    nested = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.Sequential(spotter().layers[:2], name="base"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    with pytest.raises(CovidxrError, match="not nested"):
        method(nested, images, 1, "conv")
    with pytest.raises(CovidxrError, match="channels is 0"):
        score_cam(spotter(), images, 1, "conv", channels=0)


@by_method
def test_a_missing_library_is_said_in_a_sentence(method, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras_vis", None)
    for name in [name for name in sys.modules if name.startswith("tf_keras_vis.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CovidxrError, match="need tf-keras-vis, which cannot be imported here"):
        method(spotter(), images, 1, "conv")


@by_method
def test_weights_that_are_no_numbers_have_no_maps(method, images):
    model = spotter()
    model.get_layer("scores").set_weights([np.full((128, 3), np.nan, "float32"), np.zeros(3, "float32")])
    with pytest.raises(CovidxrError, match="384 of 384 values of scores/kernel .* NaN or infinite"):
        method(model, images, 1, "conv")
