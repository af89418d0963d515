"""The two networks: their size, their names, what is frozen, and that a seed fixes them."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

from covidxr.model.networks import (
    FREEZES,
    build_baseline,
    build_vgg16,
    data_dependent_init,
    looks_linear_init,
    trainable_parameters,
)
from covidxr.utils import CovidxrError

BLOCKS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
KERAS_NAMES = [
    name
    for block, convolutions in BLOCKS.items()
    for name in [*(f"block{block}_conv{i}" for i in range(1, convolutions + 1)), f"block{block}_pool"]
]
HEAD = {"dense_1", "dense_2"}


def convolutions(*blocks) -> set:
    return {f"block{block}_conv{i}" for block in blocks for i in range(1, BLOCKS[block] + 1)}


TRAINED = {
    "last-block": convolutions(1, 2, 3, 4) | HEAD,
    "first-blocks": convolutions(4, 5) | HEAD,
    "base": HEAD,
    "none": convolutions(1, 2, 3, 4, 5) | HEAD,
}


def test_at_the_articles_size_it_has_the_articles_parameters():
    model = build_vgg16()
    assert model.input_shape == (None, 100, 100, 3) and model.output_shape == (None, 3)
    assert model.count_params() == 14_747_715
    assert trainable_parameters(model) == 7_668_291
    assert trainable_parameters(build_vgg16(32, freeze="base")) == 64 * 513 + 3 * 65


def test_the_baseline_has_the_articles_parameters():
    model = build_baseline()
    assert model.count_params() == trainable_parameters(model) == 209_347
    assert model.output_shape == (None, 3)


def test_the_base_is_named_and_shaped_as_in_keras():
    theirs = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    ours = build_vgg16(32)
    assert [layer.name for layer in theirs.layers[1:]] == KERAS_NAMES
    assert [layer.name for layer in ours.layers[1:]][: len(KERAS_NAMES)] == KERAS_NAMES
    for name in KERAS_NAMES:
        assert ours.get_layer(name).output.shape == theirs.get_layer(name).output.shape
        mine, keras_own = ours.get_layer(name).get_config(), theirs.get_layer(name).get_config()
        for key in ("kernel_size", "padding", "activation", "pool_size", "strides"):
            assert mine.get(key) == keras_own.get(key)


@pytest.mark.parametrize("freeze", FREEZES)
def test_each_freezing_trains_the_layers_it_names(freeze):
    model = build_vgg16(32, freeze=freeze)
    assert {layer.name for layer in model.layers if layer.trainable and layer.weights} == TRAINED[freeze]


@pytest.mark.parametrize(("image_size", "window"), [(32, 1), (64, 2), (95, 2), (96, 3), (100, 3), (224, 3)])
def test_the_pooling_window_is_the_articles_or_the_side_of_the_map(image_size, window):
    pool = build_vgg16(image_size).get_layer("average_pool")
    assert pool.pool_size == (window, window)
    assert pool.input.shape[1] == image_size // 32 and min(pool.output.shape[1:3]) >= 1


@pytest.mark.parametrize(
    "build", [lambda **options: build_vgg16(32, **options), lambda **options: build_baseline(9, **options)]
)
def test_a_seed_fixes_the_initial_weights(build):
    first, same, other = (build(seed=seed).get_weights() for seed in (3, 3, 4))
    for a, b in zip(first, same, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [(a, c) for a, c in zip(first, other, strict=True) if a.ndim > 1]
    assert all((a != c).any() for a, c in kernels)
    assert all(abs(np.corrcoef(a.ravel(), c.ravel())[0, 1]) < 0.2 for a, c in kernels)


def test_layers_of_one_network_start_differently():
    model = build_vgg16(32)
    kernels = [model.get_layer(f"block5_conv{i}").get_weights()[0] for i in (1, 2, 3)]
    assert len({kernel.tobytes() for kernel in kernels}) == 3


def test_outputs_are_probabilities_for_the_given_number_of_classes():
    images = np.random.default_rng(0).random((2, 32, 32, 3), dtype=np.float32)
    for model in (build_vgg16(32, n_classes=4), build_baseline(32, n_classes=4)):
        probabilities = model.predict_on_batch(images)
        assert probabilities.shape == (2, 4)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
        assert model.get_layer("dropout").rate == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 31}, "image_size is 31; give a whole number from 32 to 2048"),
        ({"freeze": "top"}, "unknown freezing 'top'; available: last-block, first-blocks, base, none"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(CovidxrError, match=message):
        build_vgg16(**options)


@pytest.mark.parametrize("build", [build_vgg16, build_baseline])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        *[({"image_size": size}, f"image_size is {size!r}; give a whole number from") for size in (0, -1, 64.5, 10**6, None, "64")],
        *[({"n_classes": n}, f"n_classes is {n!r}; give a whole number of 2 or more") for n in (1, 0, -1, 3.0, True)],
        *[({"dropout": share}, f"dropout is {share!r}; give a number from 0 to 1") for share in (-0.1, 1.5, float("nan"), "0.5")],
        *[({"seed": seed}, f"seed is {seed!r}; give a whole number from 0") for seed in (-1, 0.5, 2**32, None)],
    ],
    ids=str,
)  # fmt: skip
def test_impossible_sizes_numbers_and_seeds_are_a_sentence(build, options, error):
    with pytest.raises(CovidxrError, match=error):
        build(**options)


@pytest.mark.parametrize("freeze", ["last-block", "base"])
def test_a_training_step_changes_the_trained_layers_and_no_other(freeze):
    model = build_vgg16(32, freeze=freeze, dropout=0.0)
    before = {layer.name: layer.get_weights()[0] for layer in model.layers if layer.weights}
    model.compile("adam", "categorical_crossentropy")  # Adam's first step is as large for small gradients as for large
    images = np.random.default_rng(0).random((3, 32, 32, 3), dtype=np.float32)
    model.train_on_batch(images, np.eye(3, dtype=np.float32))
    changed = {name for name, kernel in before.items() if (model.get_layer(name).get_weights()[0] != kernel).any()}
    assert changed == TRAINED[freeze]


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
    data_dependent_init(model, images)
    mean, spread = moments(model, images)
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    np.testing.assert_allclose(spread, 0.5, atol=1e-3)


def test_data_dependent_start_leaves_directions_and_constant_channels_alone(images):
    model = small_vgg16()
    layer = model.get_layer("block1_conv1")
    kernel, bias = layer.get_weights()
    kernel[..., 1] = np.array([1, -1, 0])  # blind to grey: all that remains is rounding, not to be blown up
    layer.set_weights([kernel, bias])
    data_dependent_init(model, images)
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
        data_dependent_init(small_vgg16(), wrong)


def bend(model, images):
    """How far from odd the logits are, as a share of their size: 0 for a linear map."""
    plus, minus = (np.log(np.asarray(model(sign * images))) for sign in (1, -1))
    plus, minus = (logits - logits.mean(1, keepdims=True) for logits in (plus, minus))
    return np.abs(plus + minus).mean() / np.abs(plus).mean()


def test_a_mirrored_stack_is_linear_and_a_plain_one_is_not(images):
    keras.utils.set_random_seed(1)
    model = small_vgg16()
    assert bend(model, images) > 0.5, "planted: plain ReLU layers bend"
    looks_linear_init(model)
    assert bend(model, images) < 0.01


def test_scaling_keeps_the_mirror(images):
    model = small_vgg16()
    looks_linear_init(model)
    data_dependent_init(model, images)
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
        looks_linear_init(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
