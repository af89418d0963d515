"""The real keras-vis in its process: equal to its own old maps, and ours equal to it."""

from __future__ import annotations

import sys
from importlib import metadata

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from test_cam import golden_maps, tiny_model

from covidxr.gradcam import reference
from covidxr.gradcam.cam import STYLES, GradCAM, GradCAMPlusPlus
from covidxr.gradcam.reference import keras_vis_maps, keras_vis_problem, score_cam
from covidxr.utils import CovidxrError

LAYER = "block5_pool"  # has maps of every kind: of evidence, empty, and sign-flipped
CLASSES = np.tile([0, 1, 2], 5)

needs_keras_vis = pytest.mark.skipif(keras_vis_problem() is not None, reason=str(keras_vis_problem()))


@pytest.fixture(scope="module")
def data():
    return golden_maps()


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
def test_keras_vis_makes_the_maps_that_it_made_in_2019(real, data):
    np.testing.assert_allclose(real.maps, data[f"{LAYER}_float"].reshape(real.maps.shape), atol=1e-4)
    difference = np.abs(real.jet.astype(int) - data[f"{LAYER}_jet"].reshape(real.jet.shape))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001
    assert real.jet.dtype == np.uint8 and real.maps.dtype == np.float32
    assert real.seconds.shape == (15,) and (real.seconds > 0).all()


@needs_keras_vis
def test_our_maps_are_those_of_keras_vis(real, model, images):
    ours = GradCAM(model, LAYER).explain(images, CLASSES)
    np.testing.assert_allclose(ours.maps, real.maps, atol=1e-4)
    assert ours.flipped.any() and ours.empty.any() and not (ours.flipped | ours.empty).all()


@needs_keras_vis
def test_its_failure_is_one_sentence_and_prints_nothing(images, capfd):
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
        (lambda: sequential(activation=doubled), "layer 'conv' has a custom activation"),
        (lambda: sequential(layers.Conv2D(2, 3, name="other")), "layer 'block5_conv3' not found.*conv, other"),
    ],
)
def test_unsupported_models_are_refused(make, message):
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
def test_missing_packages_are_reported_before_the_worker_starts(versions, message, model, images, monkeypatch):
    usual = {"keras-vis": "0.4.1", "tf-keras": "2.21.0", "tensorflow": "2.21.0"} | versions

    def version(name):
        if usual.get(name, "1.0") is None:
            raise metadata.PackageNotFoundError(name)
        return usual.get(name, "1.0")

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(reference, "_run_worker", lambda folder: pytest.fail("the worker was started"))
    with pytest.raises(CovidxrError, match=message):
        keras_vis_maps(model, images, 0, LAYER)


class Normalised(GradCAMPlusPlus):
    """Grad-CAM++ as tf-keras-vis computes it: the weights of a channel's cells add up to 1."""

    @classmethod
    def alpha(cls, activation, gradient):
        alpha = super().alpha(activation, gradient)
        return tf.math.divide_no_nan(alpha, tf.reduce_sum(alpha, (1, 2), keepdims=True))


@pytest.mark.parametrize(
    ("method", "ours"),
    [("gradcam.Gradcam", "paper"), ("layercam.Layercam", "layercam"), ("gradcam.GradcamPlusPlus", "++")],
)
def test_the_methods_are_those_of_tf_keras_vis(method, ours, model, images, monkeypatch):
    monkeypatch.setitem(STYLES, "++", Normalised)
    module, name = method.split(".")
    explainer = getattr(pytest.importorskip(f"tf_keras_vis.{module}"), name)
    from tf_keras_vis.utils.scores import CategoricalScore

    linear = keras.models.clone_model(model)
    linear.set_weights(model.get_weights())
    linear.layers[-1].activation = keras.activations.linear
    for number in range(3):  # conv_a has the image's size: nothing is enlarged
        theirs = explainer(linear)(
            CategoricalScore(number), images[::3], penultimate_layer="conv_a", normalize_cam=False
        )
        found = GradCAM(model, "conv_a", ours).explain(images[::3], number)
        known = ~found.empty
        # Its own scaling adds 1e-7, which counts where gradients are small.
        expected = theirs[known] / theirs[known].max((1, 2), keepdims=True)
        np.testing.assert_allclose(found.maps[known], expected, atol=1e-4)
        assert known.sum() >= 3 or number == 2


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
def images_other_cams():
    """A spot in the first channel at the top left, one in the second at the bottom right."""
    images_other_cams = np.zeros((3, 16, 16, 3), np.float32)
    images_other_cams[:, 2:6, 2:6, 0] = images_other_cams[:, 9:13, 9:13, 1] = 1
    images_other_cams[1] = images_other_cams[1, ::-1]  # upside down
    return images_other_cams


@pytest.mark.parametrize("functional", [False, True])
def test_heat_lies_where_the_class_was_planted(functional, images_other_cams):
    model = spotter(functional)
    maps = score_cam(model, images_other_cams, [1, 1, 2], "conv")
    assert maps.shape == (3, 16, 16) and maps.dtype == np.float32 and maps.min() >= 0 and maps.max() <= 1
    for heat, place in zip(maps, [(3, 3), (12, 3), (10, 10)], strict=True):
        spot = np.zeros((16, 16), bool)
        spot[max(place[0] - 2, 0) : place[0] + 4, max(place[1] - 2, 0) : place[1] + 4] = True
        assert heat[place] > 0.9 and heat[spot].sum() > 0.6 * heat.sum()


def test_the_model_is_not_touched(images_other_cams):
    model = spotter()
    before, scores = model.get_weights(), model.predict_on_batch(images_other_cams)
    score_cam(model, images_other_cams, 1, "conv")
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert model.layers[-1].activation is keras.activations.softmax
    np.testing.assert_array_equal(model.predict_on_batch(images_other_cams), scores)


def test_a_map_does_not_depend_on_its_batch(images_other_cams):
    model, rng = spotter(), np.random.default_rng(0)
    varied = np.concatenate([images_other_cams, rng.random((35, 16, 16, 3), dtype=np.float32)])
    together = score_cam(model, varied, 1, "conv")
    np.testing.assert_allclose(together[[36, 1]], score_cam(model, varied[[36, 1]], 1, "conv"), atol=1e-5)
    assert score_cam(model, images_other_cams[:0], 1, "conv").shape == (0, 16, 16)


def test_score_cam_keeps_quiet_and_takes_the_channels_that_vary(capsys, images_other_cams):
    # Only the second channel sees a spot.
    maps = score_cam(spotter(), images_other_cams[:1, :, :, [2, 0, 0]], 2, "conv", channels=1)
    assert maps[0, 3, 3] > 0.9 and maps[0, 12, 12] < 0.1
    assert capsys.readouterr().out == ""


def test_what_does_not_suit_is_named(images_other_cams):
    with pytest.raises(CovidxrError, match="layer 'conv9' not found.*conv, pool"):
        score_cam(spotter(), images_other_cams, 1, "conv9")
    with pytest.raises(CovidxrError, match="classes must lie in 0 to 2"):
        score_cam(spotter(), images_other_cams, 3, "conv")
    nested = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.Sequential(spotter().layers[:2], name="base"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    with pytest.raises(CovidxrError, match="not be nested"):
        score_cam(nested, images_other_cams, 1, "conv")
    with pytest.raises(CovidxrError, match="channels is 0"):
        score_cam(spotter(), images_other_cams, 1, "conv", channels=0)


def test_a_missing_library_is_said_in_a_sentence(images_other_cams, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras_vis", None)
    for name in [name for name in sys.modules if name.startswith("tf_keras_vis.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CovidxrError, match="needs tf-keras-vis, which cannot be imported here"):
        score_cam(spotter(), images_other_cams, 1, "conv")


def test_weights_that_are_no_numbers_have_no_maps(images_other_cams):
    model = spotter()
    model.get_layer("scores").set_weights([np.full((128, 3), np.nan, "float32"), np.zeros(3, "float32")])
    with pytest.raises(CovidxrError, match="384 of 384 values of scores/kernel .* NaN or infinite"):
        score_cam(model, images_other_cams, 1, "conv")
