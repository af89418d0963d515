"""Starts from which a VGG16 without ImageNet's weights learns at all: it has no normalisation layers to mend a bad one."""

from __future__ import annotations

import numpy as np

from covidxr._tensorflow import keras
from covidxr.errors import CovidxrError


def looks_linear_start(model) -> None:
    """Mirror the kernels of a randomly initialised chain of ReLU layers, so that the stack starts as a linear map.

    Half of each layer's channels become the negatives of the other half; what a ReLU cuts from one, its mirror image
    keeps, and the next layer puts the two together again. Through thirteen plain random layers two films come out as
    different as two noises; through mirrored ones what tells their classes apart survives, and the gradient with it.

    Parameters
    ----------
    model : keras.Model
        A plain chain of layers, such as `covidxr.model.build_vgg16` makes; changed in place. Of the last layer, only the
        inputs are mirrored.

    Raises
    ------
    CovidxrError
        A layer before the last has an odd number of channels, or an activation other than ReLU.

    References
    ----------
    Balduzzi, Frean, Leary, Lewis, Ma and McWilliams 2017, "The shattered gradients problem: if resnets are the answer, then
    what is the question?", ICML, arXiv:1702.08591, its looks-linear initialisation.

    Examples
    --------
    >>> layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(2)]
    >>> model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    >>> looks_linear_start(model)
    >>> image = np.random.default_rng(0).random((1, 8, 8, 1), "float32")
    >>> bool(np.allclose(model(-image), -np.asarray(model(image)), atol=1e-5))
    True
    """
    layers = [layer for layer in model.layers if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))]
    for layer in layers[:-1]:
        outputs = layer.kernel.shape[-1]
        if outputs % 2 or layer.activation is not keras.activations.relu:
            raise CovidxrError(
                f"layer {layer.name!r} has {outputs} outputs and activation {layer.activation.__name__!r}; mirroring needs an "
                "even number of outputs and 'relu'"
            )
    inputs = None  # how many channels come in, once they are mirrored
    for layer in layers:
        layer.kernel.assign(_mirrored(np.asarray(layer.kernel), inputs, layer is not layers[-1]))
        inputs = layer.kernel.shape[-1]


def _mirrored(kernel, inputs, mirror_outputs):
    mirrored = kernel
    if mirror_outputs:
        half = mirrored[..., : kernel.shape[-1] // 2]
        mirrored = np.concatenate([half, -half], axis=-1)
    if inputs:  # a dense layer after a flattened map has them place by place
        places = mirrored.reshape(-1, inputs, kernel.shape[-1])
        half = places[:, : inputs // 2]
        mirrored = np.concatenate([half, -half], axis=1)
    return mirrored.reshape(kernel.shape)


def data_dependent_start(model, images) -> None:
    """Scale each convolution and dense layer of a randomly initialised model to the data, in place, in one pass.

    Afterwards the pre-activations of each channel and unit over the images have mean 0 and standard deviation 0.5, so that
    a deep stack without normalisation layers passes signal and gradient on from the first step.

    Parameters
    ----------
    model : keras.Model
        A plain chain of layers.
    images : numpy.ndarray
        A batch as the model will see it: float32 (N, H, W, 3) in [0, 1]; 32 varied images are enough.

    Raises
    ------
    CovidxrError
        The images are not what the model takes.

    References
    ----------
    Krähenbühl, Doersch, Donahue and Darrell 2016, "Data-dependent initializations of convolutional neural networks",
    ICLR, arXiv:1511.06856, its within-layer step (there with deviation 1).

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    >>> images = np.random.default_rng(0).random((16, 8, 8, 3), "float32")
    >>> data_dependent_start(model, images)
    >>> np.asarray(model(images)).std((0, 1, 2)).round(3).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    low, high = np.min(images, initial=np.inf), np.max(images, initial=-np.inf)
    if images.shape[1:] != model.input_shape[1:] or not 0 <= low <= high <= 1:
        raise CovidxrError(f"images are {images.shape} in [{low:g}, {high:g}], expected {model.input_shape} in [0, 1]")
    signal = keras.ops.convert_to_tensor(images, "float32")
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            _scale(layer, signal)
        if not isinstance(layer, keras.layers.InputLayer):
            signal = layer(signal, training=False)


def _scale(layer, signal):
    product = keras.ops.matmul if isinstance(layer, keras.layers.Dense) else layer.convolution_op
    before = np.asarray(product(signal, layer.kernel), "float64").reshape(-1, layer.kernel.shape[-1])
    mean, spread = before.mean(0), before.std(0)
    scale = np.where(spread > 1e-6, 0.5 / np.maximum(spread, 1e-6), 1)  # a constant channel keeps its kernel
    layer.kernel.assign(layer.kernel * scale.astype("float32"))
    layer.bias.assign((-mean * scale).astype("float32"))
