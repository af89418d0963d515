"""Random starts: pre-activations are centred and scaled, mirrored stacks start linear and keep what tells films apart."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

from covidxr.errors import CovidxrError
from covidxr.random_start import data_dependent_start, looks_linear_start


def small_vgg16(channels=(4, 4, 6, 6, 8, 8, 8)):
    tensor = inputs = keras.Input((32, 32, 3))
    for number, after in enumerate(channels, 1):
        name = f"block1_conv{number}"
        tensor = keras.layers.Conv2D(after, 3, padding="same", activation="relu", name=name)(tensor)
    tensor = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(tensor))
    tensor = keras.layers.Dense(6, activation="relu")(tensor)
    tensor = keras.layers.Dense(3, activation="softmax")(tensor)
    return keras.Model(inputs, tensor)


def moments(model, images):
    """Mean and deviation of the pre-activations of each channel and unit, all layers joined."""
    found = []
    for layer in model.layers:
        if not layer.weights:
            continue
        signal = keras.Model(model.input, layer.input)(images)
        product = keras.ops.matmul if isinstance(layer, keras.layers.Dense) else layer.convolution_op
        before = np.asarray(product(signal, layer.kernel) + layer.bias)
        found.append([before.reshape(-1, before.shape[-1]).mean(0), before.reshape(-1, before.shape[-1]).std(0)])
    return np.concatenate(found, axis=1)


@pytest.fixture
def images():
    return np.repeat(np.random.default_rng(0).random((16, 32, 32, 1), "float32"), 3, axis=3)


def test_data_dependent_start_sets_mean_and_deviation_of_each_channel(images):
    keras.utils.set_random_seed(1)
    model = small_vgg16()
    mean, spread = moments(model, images)
    assert np.abs(mean).max() > 0.1 and spread.min() < 0.1, "planted: Keras' start is neither centred nor scaled"
    data_dependent_start(model, images)
    mean, spread = moments(model, images)
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    np.testing.assert_allclose(spread, 0.5, atol=1e-3)


def test_data_dependent_start_leaves_directions_and_constant_channels_alone(images):
    model = small_vgg16()
    layer = model.get_layer("block1_conv1")
    kernel, bias = layer.get_weights()
    kernel[..., 1] = np.array([1, -1, 0])  # blind to grey: all that remains is rounding, not to be blown up
    layer.set_weights([kernel, bias])
    data_dependent_start(model, images)
    ratio = layer.get_weights()[0][..., 0] / kernel[..., 0]
    np.testing.assert_allclose(ratio, abs(ratio.flat[0]), rtol=1e-5)
    assert np.array_equal(layer.get_weights()[0][..., 1], kernel[..., 1])


@pytest.mark.parametrize(
    ("part", "factor"),
    [(np.s_[..., :1], 1), (np.s_[:0], 1), (np.s_[:, :16], 1), (np.s_[:], 255), (np.s_[:], -1), (np.s_[:], np.nan)],
)
def test_data_dependent_start_checks_shape_and_range(images, part, factor):
    wrong = images[part] * factor
    with pytest.raises(CovidxrError, match=re.escape(f"images are {wrong.shape} in [") + ".*expected.* in .0, 1"):
        data_dependent_start(small_vgg16(), wrong)


def bend(model, images):
    """How far from odd the logits are, as a share of their size: 0 for a linear map."""
    plus, minus = (np.log(np.asarray(model(sign * images))) for sign in (1, -1))
    plus, minus = (logits - logits.mean(1, keepdims=True) for logits in (plus, minus))
    return np.abs(plus + minus).mean() / np.abs(plus).mean()


def test_a_mirrored_stack_is_linear_and_a_plain_one_is_not(images):
    keras.utils.set_random_seed(1)
    model = small_vgg16()
    assert bend(model, images) > 0.5, "planted: plain ReLU layers bend"
    looks_linear_start(model)
    assert bend(model, images) < 0.01


def test_scaling_keeps_the_mirror(images):
    model = small_vgg16()
    looks_linear_start(model)
    data_dependent_start(model, images)
    for layer in model.layers[:-1]:
        if layer.weights:
            first, second = np.split(layer.kernel.numpy(), 2, axis=-1)
            np.testing.assert_allclose(first, -second, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("channels", "activation"), [(3, "relu"), (4, "tanh")])
def test_what_cannot_be_mirrored_is_named(channels, activation):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(channels, 3, activation=activation, name="odd"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    before = model.get_weights()
    with pytest.raises(CovidxrError, match=f"layer 'odd' has {channels} outputs and activation '{activation}'"):
        looks_linear_start(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
