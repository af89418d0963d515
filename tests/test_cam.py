"""Grad-CAM against the genuine maps of keras-vis, the paper's formula, and effects planted in small models."""

from __future__ import annotations

import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from packaging.version import Version
from PIL import Image

from covidxr.gradcam.cam import STYLES, GradCAM, Paper, candidate_layers, default_layer, enlarging_matrix
from covidxr.model.networks import build_baseline, build_truncated_vgg16, build_vgg16
from covidxr.utils import CovidxrError

LAYERS = ("conv_a", "block5_conv3", "block5_pool")
SHAPE = (20, 28, 3)


def golden_maps() -> dict:
    """What keras-vis 0.4.1 made of a small model, and the model's weights."""
    with np.load(Path(__file__).parent / "data" / "tiny_kv041.npz") as arrays:
        return dict(arrays)


def convolutions() -> list:
    return [
        layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_a"),
        layers.MaxPooling2D(2, name="pool"),
        layers.Conv2D(16, 3, padding="same", activation="relu", name="block5_conv3"),
        layers.MaxPooling2D(2, name="block5_pool"),
    ]


def head(*end) -> list:
    return [
        layers.AveragePooling2D((5, 7), name="average"),
        layers.Flatten(name="flat"),
        layers.Dense(8, activation="relu", name="dense_1"),
        layers.Dropout(0.5, name="dropout"),
        *end,
    ]


def softmax():
    return layers.Dense(3, activation="softmax", name="dense_2")


def tiny_model(weights) -> keras.Model:
    """Build the Functional model that the golden maps were made with."""
    inputs = tensor = keras.Input(SHAPE)
    for layer in [*convolutions(), *head(softmax())]:
        tensor = layer(tensor)
    model = keras.Model(inputs, tensor)
    for name in ("conv_a", "block5_conv3", "dense_1", "dense_2"):
        model.get_layer(name).set_weights([weights[f"W/{name}/kernel"], weights[f"W/{name}/bias"]])
    return model


@pytest.fixture(scope="module")
def data():
    return golden_maps()


@pytest.fixture(scope="module")
def model(data):
    return tiny_model(data)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((33, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def pool_maps(model):
    return GradCAM(model, "block5_pool")


@pytest.mark.parametrize("layer", LAYERS)
def test_maps_are_those_of_keras_vis(layer, data, model):
    found = GradCAM(model, layer).explain(np.repeat(data["X"], 3, axis=0), np.tile([0, 1, 2], 5))
    expected = data[f"{layer}_float"].reshape(15, 20, 28)
    np.testing.assert_allclose(found.maps, expected, atol=1e-4)
    np.testing.assert_allclose(found.scores[::3], data["probs"], atol=1e-6)
    np.testing.assert_array_equal(found.empty, np.ptp(expected, axis=(1, 2)) < 1e-9)
    assert found.maps.dtype == np.float32 and found.scores.dtype == np.float32


def test_all_negative_gradients_are_flagged_and_black_input_is_empty(data, model):
    pool = GradCAM(model, "block5_pool").explain(np.repeat(data["X"], 3, axis=0), np.tile([0, 1, 2], 5))
    np.testing.assert_array_equal(pool.flipped, np.tile([False, False, True], 5))
    paper = GradCAM(model, "block5_pool", "paper").explain(data["X"], 2)  # the paper's is empty, not sign-flipped
    assert paper.empty.all() and not paper.maps.any() and not paper.flipped.any()
    first = GradCAM(model, "conv_a").explain(data["X"], 0)
    assert first.empty[3] and not first.empty[:3].any()
    assert not first.maps[3].any()


def test_call_warns_once_of_empty_and_flipped_maps(data, model, pool_maps):
    with pytest.warns(UserWarning, match=r"empty maps: 2 of 5 \(images 3, 4\).*conv_a") as caught:
        GradCAM(model, "conv_a")(data["X"], 0)
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(UserWarning, match=r"sign-flipped maps: 5 of 5"):
        pool_maps(data["X"], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = pool_maps(data["X"], 1)
    assert maps.shape == (5, 20, 28) and maps.min() >= 0 and maps.max() <= 1


def test_paper_style_is_the_papers_formula_past_a_skip_connection():
    keras.utils.set_random_seed(3)
    first, second = layers.Conv2D(4, 3, name="first"), layers.Conv2D(4, 3, padding="same", activation="relu")
    dense, images = layers.Dense(2), np.random.default_rng(0).random((3, 9, 12, 1), dtype=np.float32)
    inputs = keras.Input((9, 12, 1))
    features = first(inputs)
    outputs = dense(layers.Flatten()(layers.Add()([features, second(features)])))
    found = GradCAM(keras.Model(inputs, outputs), "first", "paper").explain(images, 1)
    with tf.GradientTape() as tape:
        activation = first(images)
        tape.watch(activation)
        score = dense(tf.reshape(activation + second(activation), (3, -1)))[:, 1]
    weights = tf.reduce_mean(tape.gradient(score, activation), (1, 2), keepdims=True)
    heat = tf.image.resize(tf.nn.relu(tf.reduce_sum(weights * activation, -1, keepdims=True)), (9, 12))[..., 0]
    np.testing.assert_allclose(found.maps, heat / tf.reduce_max(heat, (1, 2), keepdims=True), atol=1e-5)
    assert not found.flipped.any()


@pytest.mark.parametrize("size", [(6, 6), (3, 5), (20, 28)])
@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
def test_enlarging_matrices_do_what_pillow_does(size, resample):
    heat = np.random.default_rng(0).random(size, dtype=np.float32)
    found = enlarging_matrix(size[0], 100, resample) @ heat @ enlarging_matrix(size[1], 130, resample).T
    np.testing.assert_allclose(found, Image.fromarray(heat).resize((130, 100), resample), atol=1e-5)


ACTIVATION = np.array([[[[2, 1], [0, 1]], [[1, 0], [1, 2]]]], np.float32)  # two channels of 2×2 cells
GRADIENT = np.array([[[[1, -1], [0, 2]], [[-1, 1], [4, -1]]]], np.float32)


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        # Means of the gradients: 1 and 1/4.
        ("paper", [[2 + 1 / 4, 0 + 1 / 4], [1 + 0, 1 + 2 / 4]]),
        # The same, divided by the largest gradient, 4.
        ("keras-vis", [[9 / 16, 1 / 16], [4 / 16, 6 / 16]]),
        # ΣA is 4 in both channels, so α is 1/(2 + 4G): 1/6 where G is 1, 1/10 where it is 2, 1/18 where it is 4.
        # Weights: 1/6 + 4/18 = 7/18 and 2/10 + 1/6 = 11/30.
        ("grad-cam++", [[14 / 18 + 11 / 30, 11 / 30], [7 / 18, 7 / 18 + 22 / 30]]),
        # Gradient times activation, cell by cell; below zero only after the sum over the channels.
        ("hirescam", [[2 - 1, 0 + 2], [-1 + 0, 4 - 2]]),
        # Negative gradients are dropped before it.
        ("layercam", [[2, 2], [0, 4]]),
    ],
)
def test_methods_weight_activations_as_published(style, expected):
    found = STYLES[style].weighted_sum(tf.constant(ACTIVATION), tf.constant(GRADIENT))
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_tiny_gradients_are_not_lost(model, images):
    faint = keras.models.clone_model(model)
    faint.set_weights(model.get_weights())
    faint.layers[-1].set_weights([1e-18 * array for array in model.layers[-1].get_weights()])
    for style in ("grad-cam++", "layercam", "paper"):
        assert GradCAM(faint, "conv_a", style).explain(images[:2], 0).maps.max() > 0.9


def test_several_layers_and_styles_come_from_one_pass(model, images):
    together = GradCAM(model, LAYERS, list(STYLES))
    each = together.explain_each(images, 1)
    assert list(each) == [(layer, style) for layer in LAYERS for style in STYLES]
    for (layer, style), found in each.items():
        for one, other in zip(found, GradCAM(model, layer, style).explain(images, 1), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert together._run.experimental_get_tracing_count() == 1
    assert together.explain_each(images[:0])["conv_a", "paper"].maps.shape == (0, 20, 28)


def test_maps_of_several_layers_are_averaged(model, data):
    layers = ["conv_a", "block5_pool"]
    average = GradCAM(model, layers, "paper").explain(data["X"], 0)
    one, other = (GradCAM(model, layer, "paper").explain(data["X"], 0) for layer in layers)
    expected = one.maps + other.maps
    highest = expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(
        average.maps, np.divide(expected, highest, where=highest > 0, out=0 * expected), atol=1e-5
    )
    np.testing.assert_array_equal(average.empty, one.empty & other.empty)
    with pytest.warns(UserWarning, match="sign-flipped maps: 5 of 5"):
        GradCAM(model, layers)(data["X"], 2)


def test_a_style_of_ones_own_is_one_function(model, images, monkeypatch):
    class Unweighted(Paper):
        @classmethod
        def weights(cls, activation, gradient):
            return tf.ones_like(gradient)

    monkeypatch.setitem(STYLES, "unweighted", Unweighted)
    heat = model.get_layer("conv_a")(images[:2]).numpy().sum(-1)
    found = GradCAM(model, "conv_a", "unweighted").explain(images[:2], 0).maps
    np.testing.assert_allclose(found, heat / heat.max((1, 2), keepdims=True), atol=1e-5)


@pytest.mark.parametrize(
    ("build", "layer", "candidates"),
    [
        (lambda: build_vgg16(64), "block4_conv3", ["block5_conv3", "block4_conv3", "block3_conv3"]),
        (lambda: build_vgg16(128), "block5_conv3", ["block5_conv3", "block4_conv3", "block3_conv3"]),
        (lambda: build_vgg16(32), "block3_conv3", ["block5_conv3", "block4_conv3", "block3_conv3"]),
        (lambda: build_truncated_vgg16(64), "block3_conv3", ["block3_conv3", "block2_conv2", "block1_conv2"]),
    ],
)
def test_the_default_is_the_last_convolution_with_enough_cells(build, layer, candidates):
    network = build()
    assert default_layer(network) == layer and candidate_layers(network) == candidates
    assert GradCAM(network).layers == [layer]


def test_without_a_fine_map_the_default_is_the_last_convolution():
    assert default_layer(sequential(layers.Flatten(), layers.Dense(2), shape=(6, 6, 3))) == "c"
    with pytest.raises(CovidxrError, match="'baseline' has no convolution.*average_pool"):
        GradCAM(build_baseline(9))


@pytest.mark.parametrize("style", STYLES)
def test_heat_lies_on_what_the_class_was_made_to_depend_on(style):
    colours = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(3, 4, strides=4, use_bias=False, name="colour"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="softmax", use_bias=False),
        ]
    )
    average = np.broadcast_to(np.eye(3) / 16, (4, 4, 3, 3))
    colours.set_weights([average, np.eye(3)[:, :2]])  # class 0 is red, class 1 green, blue nothing
    images = np.zeros((4, 32, 32, 3), np.float32)
    halves = slice(0, 16), slice(16, 32)
    places = [(rows, columns) for rows in halves for columns in halves]
    for i in range(4):
        for colour in range(3):
            images[(i, *places[(i + colour) % 4], colour)] = 1
    explain = GradCAM(colours, "colour", style)
    for wanted in (0, 1):
        for i, heat in enumerate(explain(images, wanted)):
            inside = heat[places[(i + wanted) % 4]]
            outside = (heat.sum() - inside.sum()) / (heat.size - inside.size)
            assert inside.mean() > 5 * outside


def test_maps_do_not_depend_on_what_else_is_in_the_batch(pool_maps, images):
    classes = np.arange(33) % 3
    together = pool_maps.explain(images, classes)
    order = np.random.default_rng(0).permutation(33)
    np.testing.assert_allclose(pool_maps.explain(images[order], classes[order]).maps, together.maps[order], atol=1e-5)
    for i in (0, 1, 2, 31, 32):
        alone = pool_maps.explain(images[i : i + 1], int(classes[i]))
        np.testing.assert_allclose(alone.maps[0], together.maps[i], atol=1e-5)
    assert not np.allclose(together.maps[0], pool_maps.explain(images[:1], 1).maps[0], atol=0.05)  # classes differ


def test_traced_once_for_all_batch_sizes(model, images):
    explain = GradCAM(model)
    for n in (1, 3, 32, 33):
        assert explain.explain(images[:n], 1).maps.shape == (n, 20, 28)
    assert explain._run.experimental_get_tracing_count() == 1


def test_no_images_give_no_maps(pool_maps, images):
    nothing = pool_maps.explain(images[:0])
    assert [(len(part), part.dtype) for part in nothing] == [(0, p.dtype) for p in pool_maps.explain(images[:1])]
    assert pool_maps(images[:0]).shape == (0, 20, 28)


def test_the_predicted_class_is_explained_by_default(model, pool_maps, images):
    found = pool_maps.explain(images)
    np.testing.assert_array_equal(found.classes, model.predict(images, verbose=0).argmax(1))
    np.testing.assert_array_equal(found.maps, pool_maps.explain(images, found.classes).maps)


def test_the_model_is_left_as_it_was(data, images):
    model = tiny_model(data)
    config, weights, before = model.to_json(), model.get_weights(), model.predict(images, verbose=0)
    calls = [len(layer._inbound_nodes) for layer in model.layers]
    for layer in LAYERS:
        GradCAM(model, layer).explain(images[:2])
    assert model.to_json() == config and model.layers[-1].activation is keras.activations.softmax
    assert [len(layer._inbound_nodes) for layer in model.layers] == calls
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    np.testing.assert_array_equal(model.predict(images, verbose=0), before)


def test_weights_are_shared_so_that_maps_follow_training(data, images):
    model = tiny_model(data)
    explain = GradCAM(model, "block5_pool")
    before = explain.explain(images, 1).maps
    model.set_weights([0.5 - w for w in model.get_weights()])
    after = explain.explain(images, 1).maps
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(after, GradCAM(model, "block5_pool").explain(images, 1).maps, atol=1e-6)


def added_one_by_one():
    model = keras.Sequential([keras.Input(SHAPE)])
    for layer in [*convolutions(), *head(softmax())]:
        model.add(layer)  # each `add` calls all layers again
    return model


def nested(size):
    base = keras.Sequential([keras.Input(size), *convolutions()], name="base")
    return keras.Sequential([keras.Input(SHAPE), keras.Sequential([keras.Input(SHAPE), base]), *head(softmax())])


VARIANTS = {
    "added one by one": added_one_by_one,
    "nested twice": lambda: nested(SHAPE),
    "nested, of open size": lambda: nested((None, None, 3)),
    "linear": lambda: keras.Sequential([keras.Input(SHAPE), *convolutions(), *head(layers.Dense(3))]),
    "softmax by itself": lambda: keras.Sequential(
        [keras.Input(SHAPE), *convolutions(), *head(layers.Dense(3), layers.Activation("softmax"))]
    ),
    "flipped at random in training": lambda: keras.Sequential(
        [keras.Input(SHAPE), layers.RandomFlip(), *convolutions(), *head(softmax())]
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_network_built_otherwise_has_the_same_maps(variant, model, pool_maps, images):
    if variant.startswith("nested") and Version(keras.__version__) < Version("3.13"):
        pytest.skip("Keras 3.12, the last for Python 3.10, does not let nested models be taken apart")
    other = VARIANTS[variant]()
    other.set_weights(model.get_weights() + other.get_weights()[len(model.get_weights()) :])
    for layer in ("block5_conv3", "block5_pool"):
        expected = GradCAM(model, layer).explain(images, 1).maps
        np.testing.assert_allclose(GradCAM(other, layer).explain(images, 1).maps, expected, atol=1e-6)
    each = GradCAM(other, ["block5_conv3", "block5_pool"]).explain_each(images, 1)
    np.testing.assert_allclose(each["block5_pool", "keras-vis"].maps, expected, atol=1e-6)
    assert default_layer(other) == "block5_conv3"


def sequential(*others, shape=SHAPE):
    return keras.Sequential([keras.Input(shape), layers.Conv2D(2, 3, name="c"), *others], name="m")


def test_layers_at_different_depths_of_nesting_are_refused():
    with pytest.raises(CovidxrError, match="block5_pool, average do not all lie in one of the models"):
        GradCAM(nested(SHAPE), ["block5_pool", "average"])


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sequential(layers.Flatten(), layers.Dense(1, activation="sigmoid")), "Dense, activation sigmoid"),
        (lambda: sequential(layers.Flatten(), layers.Dense(2), layers.ReLU()), "ReLU, activation None"),
        (lambda: sequential(), "one score a class"),
        (lambda: sequential(layers.GlobalAveragePooling2D(), layers.Dense(2), shape=(None, None, 3)), "fixed size"),
        (lambda: keras.Sequential([layers.Conv2D(2, 3, name="c")]), "not built yet"),
        (Subclassed, "subclassed"),
    ],
)
def test_models_that_cannot_be_explained_are_refused_with_the_reason(make, message):
    with pytest.raises(CovidxrError, match=message):
        GradCAM(make(), "c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layer": "conv"},
            "'conv' not found; convolutional layers.*: conv_a, pool, block5_conv3, block5_pool, average",
        ),
        ({"layer": "dense_1"}, r"puts out \(None, 8\), which has no height and width.*conv_a"),
        ({"layer": "average"}, "single cell.*constant map.*block5_conv3"),
        ({"style": "gradcam++"}, "'gradcam\\+\\+'; available: keras-vis, paper, grad-cam\\+\\+, hirescam, layercam"),
        ({"layer": ["conv_a", "conv"]}, "'conv' not found"),
        ({"layer": ["conv_a", "conv_a"]}, "layer is .*several different ones"),
        ({"style": []}, "style is .*give one name"),
    ],
)
def test_unsuitable_layers_and_styles_are_refused(model, arguments, message):
    with pytest.raises(CovidxrError, match=message):
        GradCAM(model, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"shape \(N, 20, 28, 3\).*found shape \(20, 28, 3\)"),
        (lambda x: x[:, :10], r"found shape \(33, 10, 28, 3\)"),
        (lambda x: x.astype(float), "float32.*found float64"),
        (lambda x: (255 * x).astype(np.uint8), "float32.*found uint8"),
        (lambda x: 255 * x, r"in \[0, 1\].*found values from .* to 25"),
        (lambda x: x * np.float32("nan"), "found NaN or infinity"),
        (lambda x: np.where(x > 0.99, np.float32("inf"), x), "found NaN or infinity"),
    ],
)
def test_unsuitable_images_are_refused(pool_maps, images, change, message):
    with pytest.raises(CovidxrError, match=message):
        pool_maps(change(images))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (3, "0 to 2.*found 3"),
        (-1, "found -1"),
        ([0, 1], r"shape \(2,\)"),
        (1.0, "float64"),
        (True, "bool"),
    ],
)
def test_unsuitable_classes_are_refused(pool_maps, images, classes, message):
    with pytest.raises(CovidxrError, match=message):
        pool_maps(images, classes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("layer", ["conv_a", "dense_2"])
def test_weights_with_nan_or_infinity_are_refused(layer, style, value, data, images):
    model = tiny_model(data)
    explain = GradCAM(model, "block5_conv3", style)
    kernel, bias = model.get_layer(layer).get_weights()
    kernel.flat[3] = value
    model.get_layer(layer).set_weights([kernel, bias])
    with pytest.raises(
        CovidxrError, match=f"1 of {kernel.size} values of {layer}/kernel .* NaN or infinite.*train it again"
    ):
        explain(images[:2])


def test_maps_with_nan_are_refused(data, images):
    model = tiny_model(data)
    for name in ("conv_a", "block5_conv3", "dense_1", "dense_2"):  # finite, but their products are not
        model.get_layer(name).set_weights([np.full_like(array, 1e30) for array in model.get_layer(name).get_weights()])
    with pytest.raises(CovidxrError, match="2 of 2 maps .* are NaN: its weights are too large"):
        GradCAM(model, "block5_conv3")(images[:2])
