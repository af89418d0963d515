"""The networks: VGG16, VGG16 truncated after its third block, the article's simple model; embeddings and initialisations."""

from __future__ import annotations

from numbers import Real
from pathlib import Path

import numpy as np

from covidxr._keras import keras
from covidxr.checks import MOST_SIDE, check_seed, check_whole
from covidxr.data.images import preprocess
from covidxr.data.manifest import read_table
from covidxr.model.weights import read_model_file
from covidxr.utils import CovidxrError, unknown

GRID = 4  # rows and columns to which the last feature map is averaged


def build_truncated_vgg16(image_size: int = 192, n_classes: int = 3, seed: int = 0) -> keras.Model:
    """Build VGG16 up to its third pooling, averaged to a grid of 4×4, with a softmax on top.

    Early blocks respond to texture, late blocks to the object parts of ImageNet.

    Parameters
    ----------
    image_size : int
        Side of the input in pixels, a multiple of 32.
    n_classes : int
        Outputs of the softmax.
    seed : int
        Seed of the initial weights.

    Returns
    -------
    keras.Model
        Takes ``float32`` (N, image_size, image_size, 3) in [0, 1], returns probabilities (N, n_classes). Only the softmax is
        trainable.

    Raises
    ------
    CovidxrError
        When `image_size` is not a multiple of 32.

    References
    ----------
    Raghu M. et al., Transfusion: Understanding Transfer Learning for Medical Imaging, NeurIPS 2019.

    Examples
    --------
    >>> model = build_truncated_vgg16(64)
    >>> model.get_layer("flatten").output.shape, len(model.trainable_weights)
    ((None, 4096), 2)
    """
    if image_size % 32:
        raise CovidxrError(
            f"this network needs images of a multiple of 32 pixels a side, not {image_size}; change image_size"
        )
    return truncate_vgg16(build_vgg16(image_size, n_classes, freeze="base", seed=seed), seed)


def truncate_vgg16(vgg16, seed=0) -> keras.Model:
    """Truncate a VGG16 after its third block, keeping its weights, and add a new softmax."""
    x = vgg16.get_layer("block3_pool").output
    x = keras.layers.AveragePooling2D(x.shape[1] // GRID, name="grid")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    model = keras.Model(vgg16.input, _softmax(x, vgg16.output.shape[1], seed + 1, "dense"), name="truncated")
    for layer in model.layers[:-1]:
        layer.trainable = False
    return model


def embed(model: keras.Model, images: np.ndarray, layer: str = "flatten", batch_size: int = 32) -> np.ndarray:
    """Compute a layer's outputs for images.

    Parameters
    ----------
    model : keras.Model
        The network.
    images : numpy.ndarray
        ``uint8``, shape (N, H, W).
    layer : str
        The layer's name.
    batch_size : int
        Images in a batch.

    Returns
    -------
    numpy.ndarray
        ``float32``, shape (N, …).

    Examples
    --------
    >>> embed(build_baseline(9), np.zeros((2, 9, 9), np.uint8)).shape
    (2, 27)
    """
    base = keras.Model(model.inputs, model.get_layer(layer).output)
    starts = range(0, len(images), batch_size)
    batches = [base.predict_on_batch(preprocess(images[i : i + batch_size])) for i in starts]
    return np.concatenate(batches).astype(np.float32)  # from bfloat16, which NumPy cannot write to files


def transfer_weights(old, new) -> None:
    """Transfer weights, precision, and which layers are trained, to the same network for another image size, in place."""
    if len(old.layers) != len(new.layers):
        raise CovidxrError(f"weights of {len(old.layers)} layers do not fit a network of {len(new.layers)}")
    grids = None
    for source, target in zip(old.layers, new.layers, strict=True):
        weights, shapes = source.get_weights(), [array.shape for array in target.get_weights()]
        if "flatten" in source.name and len(source.input.shape) == 4:
            grids = source.input.shape[1:3], target.input.shape[1:3]
        elif grids and weights:
            kernel, *rest = weights
            weights, grids = [_resampled(kernel, *grids), *rest], None
        if [array.shape for array in weights] != shapes:
            raise CovidxrError(
                f"layer {target.name!r} has arrays of shapes {shapes}, the weights to transfer have "
                f"{[array.shape for array in source.get_weights()]}"
            )
        target.set_weights(weights)
        target.trainable, target.dtype_policy = source.trainable, source.dtype_policy


def _resampled(kernel, old, new):
    """The kernel for a feature map of another grid, which is first averaged down to the old one."""
    rows, columns = (_averaging(before, after) for before, after in zip(old, new, strict=True))
    grid = kernel.reshape(*old, -1, kernel.shape[1])
    return np.einsum("yxcu,yh,xw->hwcu", grid, rows, columns).reshape(-1, kernel.shape[1])


def _averaging(old, new):
    """Weights (old, new) with which each of `old` cells of an axis is the mean of the `new` cells that it overlaps."""
    starts, ends = np.arange(old)[:, None] / old, np.arange(new) / new
    return np.clip(np.minimum(starts + 1 / old, ends + 1 / new) - np.maximum(starts, ends), 0, None) * old


def load_model(run_dir: str | Path) -> keras.Model:
    """Read the network that `fit` left in a run folder.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The run folder.

    Returns
    -------
    keras.Model

    Raises
    ------
    CovidxrError
        When there is none yet, the file is damaged or unsafe, or the number of classes differs from the run's.

    Examples
    --------
    >>> load_model("runs/none")
    Traceback (most recent call last):
        ...
    covidxr.utils.CovidxrError: runs/none holds no model.keras; run notebook 03_fine_tuning first
    """
    path, manifest = Path(run_dir) / "model.keras", Path(run_dir) / "manifest.csv"
    if not path.exists():
        raise CovidxrError(f"{run_dir} holds no model.keras; run notebook 03_fine_tuning first")
    try:
        model = read_model_file(path)
        classes = read_table(manifest, ("label",)).label.unique() if manifest.exists() else ()
        if len(classes) not in (0, model.output_shape[1]):
            raise CovidxrError(
                f"it has {model.output_shape[1]} outputs, the run has {len(classes)} classes ({', '.join(classes)})"
            )
    except CovidxrError as error:
        raise CovidxrError(
            f"{path} cannot be used as the run's network: {error}; delete it and run notebook 03_fine_tuning again"
        ) from error
    return model


BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions and channels of VGG16's five blocks

FREEZES = {"last-block": ("block5",), "first-blocks": ("block1", "block2", "block3"), "base": ("block",), "none": ()}


def build_vgg16(
    image_size: int = 100, n_classes: int = 3, freeze: str = "last-block", dropout: float = 0.5, seed: int = 0
) -> keras.Model:
    """Build VGG16 without its top, with the article's head: average pooling, dense 64, dropout, softmax.

    Weights are Keras' initial ones; `covidxr.model.load_weights` sets others.

    Parameters
    ----------
    image_size : int
        Side of the input in pixels, at least 32. The pooling window is 3×3 from 96 pixels on, as in the article, and the
        whole feature map below.
    n_classes : int
        Outputs of the softmax.
    freeze : {"last-block", "first-blocks", "base", "none"}
        Layers that are not trained. ``last-block``, the article's choice, is block 5; ``first-blocks``, the usual choice,
        blocks 1 to 3; ``base`` all convolutions.
    dropout : float
        Fraction of the dense layer's outputs dropped in training, 0 to 1.
    seed : int
        Seed of the initial weights and of the dropout.

    Returns
    -------
    keras.Model
        Takes ``float32`` (N, image_size, image_size, 3) in [0, 1], returns probabilities (N, n_classes). At 100 px and three
        classes it has the article's 14,747,715 parameters, 7,668,291 of them trainable with its freezing.

    Raises
    ------
    CovidxrError
        When a parameter is out of range, or `freeze` is unknown.

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
    inputs = x = keras.Input((image_size, image_size, 3), name="image")
    for number, (convolutions, channels) in enumerate(BLOCKS, 1):
        for convolution in range(1, convolutions + 1):
            name = f"block{number}_conv{convolution}"
            initializer = keras.initializers.GlorotUniform(seed=1000 * seed + 10 * number + convolution)
            x = keras.layers.Conv2D(
                channels, 3, padding="same", activation="relu", kernel_initializer=initializer, name=name
            )(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{number}_pool")(x)
    window = min(3, x.shape[1])
    x = keras.layers.AveragePooling2D(window, name="average_pool")(x)
    model = keras.Model(inputs, _head(x, n_classes, dropout, seed), name="vgg16")
    for layer in model.layers:
        layer.trainable = not layer.name.startswith(FREEZES[freeze])
    return model


def build_baseline(image_size: int = 100, n_classes: int = 3, dropout: float = 0.5, seed: int = 0) -> keras.Model:
    """Build the article's "unusually simple model": average pooling 3×3, dense 64, dropout, softmax; no convolution.

    Parameters
    ----------
    image_size : int
        Side of the input in pixels, at least 3.
    n_classes : int
        Outputs of the softmax.
    dropout : float
        Fraction of the dense layer's outputs dropped in training, 0 to 1.
    seed : int
        Seed of the initial weights and of the dropout.

    Returns
    -------
    keras.Model
        Takes ``float32`` (N, image_size, image_size, 3) in [0, 1], returns probabilities (N, n_classes). It has 209,347
        parameters at 100 px and three classes.

    Raises
    ------
    CovidxrError
        When a parameter is out of range.

    Examples
    --------
    >>> f"{build_baseline().count_params():,}"
    '209,347'
    """
    _check(image_size, 3, n_classes, dropout, seed)
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = keras.layers.AveragePooling2D(3, name="average_pool")(inputs)
    return keras.Model(inputs, _head(x, n_classes, dropout, seed), name="baseline")


def _check(image_size, smallest, n_classes, dropout, seed):
    check_whole("image_size", image_size, smallest, MOST_SIDE)
    check_whole("n_classes", n_classes, 2)
    if isinstance(dropout, bool) or not isinstance(dropout, Real) or not 0 <= dropout <= 1:
        raise CovidxrError(f"dropout is {dropout!r}; give a number from 0 to 1")
    check_seed(seed)


def _head(x, n_classes, dropout, seed):
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(
        64, "relu", kernel_initializer=keras.initializers.GlorotUniform(seed=seed + 1), name="dense_1"
    )(x)
    x = keras.layers.Dropout(dropout, seed=seed, name="dropout")(x)
    return _softmax(x, n_classes, seed + 2, "dense_2")


def _softmax(x, n_classes, seed, name):
    """The last layer, in single precision even where the layers before are in half."""
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(n_classes, "softmax", kernel_initializer=initializer, name=name, dtype="float32")(x)


def trainable_parameters(model) -> int:
    """Number of trainable parameters."""
    return sum(int(weight.shape.num_elements()) for weight in model.trainable_weights)


def looks_linear_init(model) -> None:
    """Mirror the kernels of a randomly initialised chain of ReLU layers, so that it is a linear map at first (Balduzzi et al. 2017)."""
    layers = [layer for layer in model.layers if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))]
    for layer in layers[:-1]:
        outputs = layer.kernel.shape[-1]
        if outputs % 2 or layer.activation is not keras.activations.relu:
            raise CovidxrError(
                f"layer {layer.name!r} has {outputs} outputs and activation {layer.activation.__name__!r}; mirroring needs an "
                "even number of outputs and 'relu'"
            )
    inputs = None  # channels of the layer before, once they are mirrored
    for layer in layers:
        layer.kernel.assign(_mirrored(np.asarray(layer.kernel), inputs, layer is not layers[-1]))
        inputs = layer.kernel.shape[-1]


def _mirrored(kernel, inputs, mirror_outputs):
    mirrored = kernel
    if mirror_outputs:
        half = mirrored[..., : kernel.shape[-1] // 2]
        mirrored = np.concatenate([half, -half], axis=-1)
    if inputs:  # a dense layer after a flattened map has them position by position
        positions = mirrored.reshape(-1, inputs, kernel.shape[-1])
        half = positions[:, : inputs // 2]
        mirrored = np.concatenate([half, -half], axis=1)
    return mirrored.reshape(kernel.shape)


def data_dependent_init(model, images) -> None:
    """Scale each convolution and dense layer of a randomly initialised model to the images (Krähenbühl et al. 2016), in place."""
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
