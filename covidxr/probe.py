"""The head first: a frozen base's features, computed once, and the head fitted on them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from covidxr._tensorflow import keras
from covidxr.collapse import redraw_head
from covidxr.pixels import preprocess


def fit_head(model, values, labels, epochs=60, learning_rate=1e-3, seed=0, from_layer="flatten") -> pd.DataFrame:
    """Fit the layers behind `from_layer` on features that the frozen base computed once.

    A fresh head on pretrained layers sends them large, random gradients; fitted first, it does not.

    Parameters
    ----------
    model : keras.Model
        A chain such as `covidxr.model.build_vgg16` builds; its head is changed in place.
    values : numpy.ndarray
        Training features from `features`, ``float32``, shape (N, …).
    labels : numpy.ndarray
        Their classes as numbers, shape (N,).
    epochs : int
        Passes over the features.
    learning_rate : float
        Adam's.
    seed : int
        Seed of the order of the films.
    from_layer : str
        The layer whose output is the feature vector.

    Returns
    -------
    pandas.DataFrame
        ``loss`` and ``accuracy`` on the training features for each epoch.

    References
    ----------
    Kumar A. et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, ICLR 2022.

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> model, films = build_baseline(9), np.zeros((6, 9, 9), np.uint8)
    >>> len(fit_head(model, features(model, films), np.arange(6) % 3, epochs=2))
    2
    """
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input(values.shape[1:])
    for layer in model.layers[model.layers.index(model.get_layer(from_layer)) + 1 :]:
        x = layer(x)
    head = keras.Model(inputs, x)
    head.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return pd.DataFrame(head.fit(values, labels, epochs=epochs, verbose=0).history)


def start_head(model, seed, batches, epochs=40, passes=2) -> None:
    """Draw the head anew and fit it on features of augmented films: a start for fine-tuning, and one after a collapse.

    Parameters
    ----------
    model : keras.Model
        Its dense layers are changed in place.
    seed : int
        Seed of the draw, and of the order of the films.
    batches : covidxr.augment.AugmentedBatches
        Training batches.
    epochs : int
        Passes over the features.
    passes : int
        Passes over the films to compute features of.

    Examples
    --------
    >>> from covidxr.augment import AugmentedBatches, build_policy
    >>> from covidxr.model import build_baseline
    >>> batches = AugmentedBatches(np.zeros((4, 9, 9), np.uint8), np.arange(4) % 3, 3, build_policy("none"))
    >>> start_head(build_baseline(9), seed=1, batches=batches, epochs=1, passes=1)
    """
    redraw_head(model, seed)
    fit_head(model, *augmented_features(model, batches, passes), epochs, seed=seed)


def features(model, images, layer="flatten", batch_size=32) -> np.ndarray:
    """Compute a layer's outputs for films.

    Parameters
    ----------
    model : keras.Model
        The network.
    images : numpy.ndarray
        ``uint8``, shape (N, H, W).
    layer : str
        Its name.
    batch_size : int
        Films at a time.

    Returns
    -------
    numpy.ndarray
        ``float32``, shape (N, …).

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> features(build_baseline(9), np.zeros((2, 9, 9), np.uint8)).shape
    (2, 27)
    """
    base = keras.Model(model.inputs, model.get_layer(layer).output)
    starts = range(0, len(images), batch_size)
    return np.concatenate([base.predict_on_batch(preprocess(images[i : i + batch_size])) for i in starts])


def augmented_features(model, batches, passes=2, layer="flatten") -> tuple[np.ndarray, np.ndarray]:
    """Compute a layer's outputs for augmented films, several passes over them.

    A head fitted on films as they are meets augmented ones unprepared: its large, sure mistakes then wreck the base just the
    same. Fitted on these it does not.

    Parameters
    ----------
    model : keras.Model
        The network.
    batches : AugmentedBatches
        Training batches; each pass is one of its epochs.
    passes : int
        How many.
    layer : str
        Its name.

    Returns
    -------
    values : numpy.ndarray
        ``float32``, shape (passes × N, …).
    labels : numpy.ndarray
        Integer classes, shape (passes × N,).

    Examples
    --------
    >>> from covidxr.augment import AugmentedBatches, build_policy
    >>> from covidxr.model import build_baseline
    >>> batches = AugmentedBatches(np.zeros((4, 9, 9), np.uint8), np.arange(4) % 3, 3, build_policy("none"))
    >>> values, labels = augmented_features(build_baseline(9), batches, passes=3)
    >>> values.shape, labels.shape
    ((12, 27), (12,))
    """
    base = keras.Model(model.inputs, model.get_layer(layer).output)
    values, labels = [], []
    for step in range(passes * len(batches)):
        x, y = batches.batch(*divmod(step, len(batches)))
        values.append(base.predict_on_batch(x))
        labels.append(y.argmax(1))
    return np.concatenate(values), np.concatenate(labels)
