"""Starts from which a VGG16 without ImageNet's weights learns at all: it has no normalisation layers to mend a bad one."""

from __future__ import annotations

import numpy as np

from covidxr._tensorflow import keras
from covidxr.errors import CovidxrError


def looks_linear_start(model) -> None:
    """Mirror the kernels of a randomly initialised chain of ReLU convolutions, so that the stack starts as a linear map.

    Half of each convolution's channels become the negatives of the other half; what a ReLU cuts from one, its mirror image
    keeps, and the next layer puts the two together again. Through thirteen plain random layers two films come out as
    different as two noises; through mirrored ones what tells their classes apart survives, and the gradient with it.

    Parameters
    ----------
    model : keras.Model
        A plain chain of layers, such as `covidxr.model.build_vgg16` makes; its dense layers stay as they are. Changed in place.

    Raises
    ------
    CovidxrError
        A convolution has an odd number of channels, or an activation other than ReLU.

    References
    ----------
    Balduzzi, Frean, Leary, Lewis, Ma and McWilliams 2017, "The shattered gradients problem: if resnets are the answer, then
    what is the question?", ICML, arXiv:1702.08591, its looks-linear initialisation.

    Examples
    --------
    >>> layers = [keras.layers.Conv2D(channels, 3, activation="relu", use_bias=False) for channels in (4, 2)]
    >>> model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    >>> looks_linear_start(model)
    >>> image = np.random.default_rng(0).random((1, 8, 8, 1), "float32")
    >>> plus, minus = (np.asarray(model(sign * image)) for sign in (1, -1))
    >>> bool(np.allclose(plus[..., 0] - plus[..., 1], minus[..., 1] - minus[..., 0], atol=1e-6))  # odd, as linear maps are
    True
    """
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    for layer in convolutions:
        if layer.filters % 2 or layer.activation is not keras.activations.relu:
            raise CovidxrError(
                f"layer {layer.name!r} has {layer.filters} channels and activation {layer.activation.__name__!r}; mirroring "
                "needs an even number of channels and 'relu'"
            )
    for number, layer in enumerate(convolutions):
        layer.kernel.assign(_mirrored(np.asarray(layer.kernel), mirrored_input=number > 0))


def _mirrored(kernel, mirrored_input):
    half = kernel[..., : kernel.shape[3] // 2]
    kernel = np.concatenate([half, -half], axis=3)
    if not mirrored_input:
        return kernel
    half = kernel[:, :, : kernel.shape[2] // 2]
    return np.concatenate([half, -half], axis=2)


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
