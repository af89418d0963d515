"""The two networks: their size, their names, what is frozen, and that a seed fixes them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from covidxr.early import build_early, early_of
from covidxr.errors import CovidxrError
from covidxr.model import FREEZES, build_baseline, build_vgg16, last_convolution, trainable_parameters

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
    twins = [model.get_layer(f"block5_conv{i}").get_weights()[0] for i in (1, 2, 3)]
    assert len({kernel.tobytes() for kernel in twins}) == 3


def test_outputs_are_probabilities_of_as_many_classes_as_asked_for():
    films = np.random.default_rng(0).random((2, 32, 32, 3), dtype=np.float32)
    for model in (build_vgg16(32, n_classes=4), build_baseline(32, n_classes=4)):
        probabilities = model.predict_on_batch(films)
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
        *[({"dropout": share}, f"dropout is {share!r}; give a share from 0 to 1") for share in (-0.1, 1.5, float("nan"), "0.5")],
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
    films = np.random.default_rng(0).random((3, 32, 32, 3), dtype=np.float32)
    model.train_on_batch(films, np.eye(3, dtype=np.float32))
    changed = {name for name, kernel in before.items() if (model.get_layer(name).get_weights()[0] != kernel).any()}
    assert changed == TRAINED[freeze]


def test_the_last_convolution_is_that_of_the_network_at_hand():
    assert last_convolution(build_vgg16(32)) == "block5_conv3"
    assert last_convolution(build_early(32)) == last_convolution(early_of(build_vgg16(32), 0)) == "block3_conv3"
    with pytest.raises(CovidxrError, match="has no convolution; its layers: "):
        last_convolution(build_baseline(9))
