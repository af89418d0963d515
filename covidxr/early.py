"""The honest profile's network: VGG16's first three blocks, frozen, seen on a coarse grid by a linear reader."""

from __future__ import annotations

import numpy as np

from covidxr._tensorflow import keras
from covidxr.errors import CovidxrError
from covidxr.model import build_vgg16
from covidxr.probe import features
from covidxr.reader import fit_reader
from covidxr.splits import patient_keys

GRID = 4  # rows and columns that the last map is averaged to: what is seen, and roughly where


def build_early(image_size=192, n_classes=3, seed=0) -> keras.Model:
    """Build VGG16 up to its third pooling, averaged to a grid of 4×4, with a softmax upon it.

    The early blocks see texture, the later ones what ImageNet's objects are made of; notebook 06 compares the two.

    Parameters
    ----------
    image_size : int
        Side of the input in pixels, a multiple of 32 from 32 on.
    n_classes : int
        Outputs of the softmax.
    seed : int
        Seed of the initial weights.

    Returns
    -------
    keras.Model
        Takes ``float32`` (N, image_size, image_size, 3) in [0, 1], gives probabilities (N, n_classes). Only the softmax is
        trainable.

    Raises
    ------
    CovidxrError
        When `image_size` does not divide into the grid.

    References
    ----------
    Raghu M. et al., Transfusion: Understanding Transfer Learning for Medical Imaging, NeurIPS 2019: what is reused of a network
    trained on ImageNet are its first layers.

    Examples
    --------
    >>> model = build_early(64)
    >>> model.get_layer("flatten").output.shape, len(model.trainable_weights)
    ((None, 4096), 2)
    """
    if image_size % 32:
        raise CovidxrError(
            f"this network needs films of a multiple of 32 pixels a side, not {image_size}; change image_size"
        )
    return early_of(build_vgg16(image_size, n_classes, freeze="base", seed=seed), seed)


def early_of(vgg16, seed=0) -> keras.Model:
    """Cut a VGG16 off behind its third block, with the weights that it has, and put a fresh softmax there.

    Parameters
    ----------
    vgg16 : keras.Model
        From `covidxr.model.build_vgg16`; its convolutions are shared, and frozen.
    seed : int
        Seed of the softmax's initial weights.

    Returns
    -------
    keras.Model
        As of `build_early`.

    Examples
    --------
    >>> early_of(build_vgg16(64), seed=1).output_shape
    (None, 3)
    """
    x = vgg16.get_layer("block3_pool").output
    x = keras.layers.AveragePooling2D(x.shape[1] // GRID, name="grid")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    start = keras.initializers.GlorotUniform(seed=seed + 1)
    last = keras.layers.Dense(vgg16.output.shape[1], "softmax", kernel_initializer=start, name="dense", dtype="float32")
    model = keras.Model(vgg16.input, last(x), name="early")
    for layer in model.layers[:-1]:
        layer.trainable = False
    return model


def fit_softmax(model, images, manifest, classes):
    """Fit the softmax by `covidxr.reader.fit_reader`: sources balanced, what differs between them noise.

    Parameters
    ----------
    model : keras.Model
        From `build_early`; its softmax is changed in place.
    images : numpy.ndarray
        Training films, ``uint8``, shape (N, H, W).
    manifest : pandas.DataFrame
        Their N rows.
    classes : sequence of str
        The labels in the order of the network's outputs.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows({"image_id": i, "patient_id": i, "label": "ab"[i % 2], "source": "x"} for i in range(20))
    >>> films = np.where(np.arange(20)[:, None, None] % 2, np.eye(32), np.eye(32)[::-1]).astype(np.uint8) * 255
    >>> model = build_early(32, 2)
    >>> fit_softmax(model, films, rows, ["a", "b"])
    >>> model(np.repeat(films[:2, :, :, None] / 255.0, 3, axis=-1)).numpy().argmax(axis=1).tolist()
    [0, 1]
    """
    patients = patient_keys(manifest).to_numpy(dtype=str)
    reader = fit_reader(features(model, images), manifest.label, manifest.source, patients)
    order = [reader.classes.index(label) for label in classes]
    model.get_layer("dense").set_weights(
        [reader.kernel[:, order].astype(np.float32), reader.bias[order].astype(np.float32)]
    )


def refitted(model, images, manifest, classes) -> keras.Model:
    """A copy of a fitted network whose softmax is fitted again, on other films, such as all those of a run.

    A run's network leaves validation and test films out, so that there is something to measure it by. Another hospital is
    none of them, and a network fitted on more films may do better there.

    Parameters
    ----------
    model : keras.Model
        From `build_early`; left as it is.
    images, manifest, classes
        As for `fit_softmax`.

    Returns
    -------
    keras.Model

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows({"image_id": i, "patient_id": i, "label": "ab"[i % 2], "source": "x"} for i in range(20))
    >>> films = np.where(np.arange(20)[:, None, None] % 2, np.eye(32), np.eye(32)[::-1]).astype(np.uint8) * 255
    >>> refitted(build_early(32, 2), films, rows, ["a", "b"])(np.zeros((1, 32, 32, 3))).shape
    TensorShape([1, 2])
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    fit_softmax(copy, images, manifest, classes)
    return copy
