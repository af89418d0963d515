"""The real keras-vis in its process: equal to its own old maps, and ours equal to it."""

from __future__ import annotations

from importlib import metadata

import keras
import numpy as np
import pytest
from keras import layers
from test_gradcam import golden, tiny_model

from covidxr import keras_vis
from covidxr.errors import CovidxrError
from covidxr.gradcam import GradCAM
from covidxr.keras_vis import keras_vis_maps, keras_vis_problem

LAYER = "block5_pool"  # has maps of every kind: of evidence, blank, and turned over
CLASSES = np.tile([0, 1, 2], 5)

needs_keras_vis = pytest.mark.skipif(keras_vis_problem() is not None, reason=str(keras_vis_problem()))


@pytest.fixture(scope="module")
def data():
    return golden("tiny_kv041.npz")


@pytest.fixture(scope="module")
def model(data):
    return tiny_model(data)


@pytest.fixture(scope="module")
def images(data):
    return np.repeat(data["X"], 3, axis=0)


@pytest.fixture(scope="module")
def real(model, images):
    return keras_vis_maps(model, images, CLASSES, LAYER)


@needs_keras_vis
def test_it_makes_the_maps_it_made_in_2019(real, data):
    np.testing.assert_allclose(real.maps, data[f"{LAYER}_float"].reshape(real.maps.shape), atol=1e-4)
    difference = np.abs(real.jet.astype(int) - data[f"{LAYER}_jet"].reshape(real.jet.shape))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001
    assert real.jet.dtype == np.uint8 and real.maps.dtype == np.float32
    assert real.seconds.shape == (15,) and (real.seconds > 0).all()


@needs_keras_vis
def test_ours_are_its_maps(real, model, images):
    ours = GradCAM(model, LAYER).explain(images, CLASSES)
    np.testing.assert_allclose(ours.maps, real.maps, atol=1e-4)
    assert ours.flipped.any() and ours.blank.any() and not (ours.flipped | ours.blank).all()


@needs_keras_vis
def test_its_failure_is_told_in_one_sentence_and_prints_nothing(images, capfd):
    """Keras 2 has no `celu`; the worker finds that out."""
    model = keras.Sequential(
        [
            keras.Input((20, 28, 3)),
            layers.Conv2D(2, 3, activation="celu", name="conv"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    with pytest.raises(CovidxrError, match="keras-vis failed in its own process: .*celu") as caught:
        keras_vis_maps(model, images[:1], 0, "conv")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def doubled(x):
    return 2 * x


def branched():
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, padding="same", name="conv")(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Add(name="sum")([inputs, conv]))))


def sequential(*others, activation="relu"):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(3, 3, activation=activation, name="conv"),
            *others,
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


@needs_keras_vis
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (branched, "layer 'sum' has 2 inputs"),
        (lambda: sequential(layers.BatchNormalization(name="norm")), "'norm' is a BatchNormalization.*Conv2D"),
        (lambda: sequential(activation=doubled), "layer 'conv' has an activation of its own"),
        (lambda: sequential(layers.Conv2D(2, 3, name="other")), "layer 'block5_conv3' not found.*conv, other"),
    ],
)
def test_models_it_is_not_given_are_refused(make, message):
    layer = "block5_conv3" if "not found" in message else "conv"
    with pytest.raises(CovidxrError, match=message):
        keras_vis_maps(make(), np.zeros((1, 8, 8, 3), np.float32), 0, layer)


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"keras-vis": None}, "needs the package keras-vis, which is not installed"),
        ({"keras-vis": "0.5.0"}, "must be 0.4.1.*found 0.5.0"),
        ({"tf-keras": "2.18.0", "tensorflow": "2.21.0"}, "found tf-keras 2.18.0 and TensorFlow 2.21.0"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(versions, message, model, images, monkeypatch):
    usual = {"keras-vis": "0.4.1", "tf-keras": "2.21.0", "tensorflow": "2.21.0"} | versions

    def version(name):
        if usual.get(name, "1.0") is None:
            raise metadata.PackageNotFoundError(name)
        return usual.get(name, "1.0")

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(keras_vis, "_run_worker", lambda folder: pytest.fail("the worker was started"))
    with pytest.raises(CovidxrError, match=message):
        keras_vis_maps(model, images, 0, LAYER)
