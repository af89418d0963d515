"""The article's two networks: VGG16 with a small head, and the "unusually simple model" beside it."""

from __future__ import annotations

from numbers import Real

from covidxr._tensorflow import keras
from covidxr.checks import MOST_SIDE, check_seed, check_whole
from covidxr.errors import CovidxrError, unknown

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions and channels of VGG16's five blocks
FREEZES = ("last-block", "first-blocks", "base", "none")


def build_vgg16(image_size=100, n_classes=3, freeze="last-block", dropout=0.5, seed=0) -> keras.Model:
    """Build VGG16 without its top, with the article's head: average pooling, dense 64, dropout, softmax.

    Weights are Keras' initial ones; `covidxr.weights.load_weights` puts others in.

    Parameters
    ----------
    image_size : int
        Side of the input in pixels, at least 32. From 96 on the pooling window is 3×3, as in the article; below, it is
        the side of the feature map.
    n_classes : int
        Outputs of the softmax.
    freeze : {"last-block", "first-blocks", "base", "none"}
        Which layers are not trained. ``last-block`` is the article's: the last four layers of the base (block 5), all
        before it trained. ``first-blocks`` is the more usual: blocks 1 to 3. ``base``: all convolutions.
    dropout : float
        Share of the dense layer's outputs dropped in training, 0 to 1.
    seed : int
        Seed of the initial weights and of the dropout.

    Returns
    -------
    keras.Model
        Takes ``float32`` (N, image_size, image_size, 3) in [0, 1], gives probabilities (N, n_classes). At 100 px and three
        classes it has the article's 14,747,715 parameters, 7,668,291 of them trained with its freezing.

    Raises
    ------
    CovidxrError
        When a size, number, share or seed is impossible, or `freeze` unknown.

    References
    ----------
    Simonyan K., Zisserman A., Very Deep Convolutional Networks for Large-Scale Image Recognition, arXiv:1409.1556, 2014.

    Examples
    --------
    >>> model = build_vgg16()
    >>> f"{model.count_params():,}", f"{trainable_parameters(model):,}"
    ('14,747,715', '7,668,291')
    """
    _check(image_size, 32, n_classes, dropout, seed)
    if freeze not in FREEZES:
        raise unknown("freezing", freeze, FREEZES)
    inputs = x = keras.Input((image_size, image_size, 3), name="film")
    for number, (convolutions, channels) in enumerate(BLOCKS, 1):
        for convolution in range(1, convolutions + 1):
            name = f"block{number}_conv{convolution}"
            start = keras.initializers.GlorotUniform(seed=1000 * seed + 10 * number + convolution)
            x = keras.layers.Conv2D(
                channels, 3, padding="same", activation="relu", kernel_initializer=start, name=name
            )(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{number}_pool")(x)
    window = min(3, x.shape[1])
    x = keras.layers.AveragePooling2D(window, name="average_pool")(x)
    model = keras.Model(inputs, _head(x, n_classes, dropout, seed), name="vgg16")
    frozen = {"last-block": ("block5",), "first-blocks": ("block1", "block2", "block3"), "base": ("block",), "none": ()}
    for layer in model.layers:
        layer.trainable = not layer.name.startswith(frozen[freeze])
    return model


def build_baseline(image_size=100, n_classes=3, dropout=0.5, seed=0) -> keras.Model:
    """Build the article's "unusually simple model": average pooling 3×3, dense 64, dropout, softmax; no convolution.

    Parameters
    ----------
    image_size, n_classes, dropout, seed
        As for `build_vgg16`.

    Returns
    -------
    keras.Model
        With 209,347 parameters at 100 px and three classes.

    Examples
    --------
    >>> f"{build_baseline().count_params():,}"
    '209,347'
    """
    _check(image_size, 3, n_classes, dropout, seed)
    inputs = keras.Input((image_size, image_size, 3), name="film")
    x = keras.layers.AveragePooling2D(3, name="average_pool")(inputs)
    return keras.Model(inputs, _head(x, n_classes, dropout, seed), name="baseline")


def _check(image_size, smallest, n_classes, dropout, seed):
    check_whole("image_size", image_size, smallest, MOST_SIDE)
    check_whole("n_classes", n_classes, 2)
    if isinstance(dropout, bool) or not isinstance(dropout, Real) or not 0 <= dropout <= 1:
        raise CovidxrError(f"dropout is {dropout!r}; give a share from 0 to 1")
    check_seed(seed)


def _head(x, n_classes, dropout, seed):
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(
        64, "relu", kernel_initializer=keras.initializers.GlorotUniform(seed=seed + 1), name="dense_1"
    )(x)
    x = keras.layers.Dropout(dropout, seed=seed, name="dropout")(x)
    start = keras.initializers.GlorotUniform(seed=seed + 2)
    last = keras.layers.Dense(n_classes, "softmax", kernel_initializer=start, name="dense_2", dtype="float32")
    return last(x)  # in single precision even where the layers before are in half


def trainable_parameters(model) -> int:
    """Count the parameters that training changes.

    Parameters
    ----------
    model : keras.Model
        Any model.

    Returns
    -------
    int

    Examples
    --------
    >>> trainable_parameters(build_baseline(image_size=9))
    1987
    """
    return sum(int(weight.shape.num_elements()) for weight in model.trainable_weights)


def last_convolution(model) -> str:
    """Name of a network's last convolution, the layer that Grad-CAM is about unless another is named.

    Parameters
    ----------
    model : keras.Model
        Flat, one layer after another.

    Returns
    -------
    str

    Raises
    ------
    CovidxrError
        When it has none.

    Examples
    --------
    >>> last_convolution(build_vgg16(32))
    'block5_conv3'
    """
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    if not names:
        raise CovidxrError(
            f"the network {model.name!r} has no convolution; its layers: {', '.join(layer.name for layer in model.layers)}"
        )
    return names[-1]
