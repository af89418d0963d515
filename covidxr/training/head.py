"""Before fine-tuning: the head on frozen embeddings, the learning-rate range test, linear heads."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d

from covidxr._keras import keras
from covidxr.augmentation import AugmentedBatches
from covidxr.checks import check_whole
from covidxr.data.manifest import patient_keys
from covidxr.evaluation.linear_probe import SourceBalancedLDA
from covidxr.model.networks import embed
from covidxr.training.callbacks import assign_variables, reinitialise_head
from covidxr.utils import CovidxrError


def fit_head(
    model: keras.Model,
    embeddings: np.ndarray,
    labels: np.ndarray,
    epochs: int = 60,
    learning_rate: float = 1e-3,
    seed: int = 0,
    from_layer: str = "flatten",
) -> pd.DataFrame:
    """Fit the layers behind `from_layer` on embeddings that the frozen base computed once.

    Parameters
    ----------
    model : keras.Model
        A chain of layers such as `covidxr.model.build_vgg16` builds; its head is changed in place.
    embeddings : numpy.ndarray
        Outputs of `from_layer` from `covidxr.model.embed`, ``float32``, shape (N, …).
    labels : numpy.ndarray
        Class numbers, shape (N,).
    epochs : int
        Passes over the embeddings.
    learning_rate : float
        Adam's learning rate.
    seed : int
        Seed of the order of the images.
    from_layer : str
        The layer whose output is the embedding.

    Returns
    -------
    pandas.DataFrame
        ``loss`` and ``accuracy`` on the training embeddings, one row an epoch.

    References
    ----------
    Kumar A. et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, ICLR 2022.

    Examples
    --------
    >>> from covidxr.model.networks import build_baseline
    >>> model, images = build_baseline(9), np.zeros((6, 9, 9), np.uint8)
    >>> len(fit_head(model, embed(model, images), np.arange(6) % 3, epochs=2))
    2
    """
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input(embeddings.shape[1:])
    for layer in model.layers[model.layers.index(model.get_layer(from_layer)) + 1 :]:
        x = layer(x)
    head = keras.Model(inputs, x)
    head.dtype_policy = model.dtype_policy
    head.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return pd.DataFrame(head.fit(embeddings, labels, epochs=epochs, verbose=0).history)


def reinitialise_and_fit_head(model, seed, batches, epochs=40, passes=2) -> None:
    """Draw the head anew and fit it on embeddings of augmented images, before fine-tuning or after a collapse."""
    reinitialise_head(model, seed)
    base = keras.Model(model.inputs, model.get_layer("flatten").output)
    embeddings, labels = [], []
    for step in range(passes * len(batches)):
        x, y = batches.batch(*divmod(step, len(batches)))
        embeddings.append(base.predict_on_batch(x).astype(np.float32))
        labels.append(y.argmax(1))
    fit_head(model, np.concatenate(embeddings), np.concatenate(labels), epochs, seed=seed)


def lr_range_test(
    model: keras.Model, batches: AugmentedBatches, steps: int = 40, lowest: float = 1e-6, highest: float = 1e-1
) -> pd.DataFrame:
    """Raise the learning rate step by step and record the loss; the model is restored afterwards.

    Parameters
    ----------
    model : keras.Model
        With the weights from which training will start.
    batches : covidxr.augmentation.AugmentedBatches
        Training batches, used epoch after epoch as far as needed.
    steps : int
        Training steps, one batch each. The test ends early when the loss exceeds four times its minimum or is not finite.
    lowest, highest : float
        The first and the last learning rate; between them it grows by a constant factor.

    Returns
    -------
    pandas.DataFrame
        ``learning_rate``, ``loss`` and ``smoothed`` (a centred Gaussian mean of the loss), one row a step.
        `covidxr.training.head.suggest_learning_rate` takes it.

    Raises
    ------
    CovidxrError
        When `steps` is below 1, or the rates do not rise.

    References
    ----------
    Smith L. N., Cyclical Learning Rates for Training Neural Networks, WACV 2017.

    Examples
    --------
    >>> from covidxr.augmentation import build_policy
    >>> from covidxr.model.networks import build_baseline
    >>> images = np.random.default_rng(0).integers(0, 255, (12, 9, 9), np.uint8)
    >>> batches = AugmentedBatches(images, np.arange(12) % 3, 3, build_policy("none"), batch_size=6)
    >>> len(lr_range_test(build_baseline(9), batches, steps=5)) <= 5
    True
    """
    check_whole("steps", steps, 1)
    if not 0 < lowest < highest < np.inf:
        raise CovidxrError(
            f"learning rates from {lowest} to {highest} do not rise; give two numbers above 0, lowest first"
        )
    saved = [variable.numpy() for variable in model.variables]  # get_weights() lacks dropout's state
    optimizer = keras.optimizers.Adam(lowest)
    model.compile(optimizer, "categorical_crossentropy")
    rows = []
    for step, rate in enumerate(np.geomspace(lowest, highest, steps)):
        optimizer.learning_rate = rate
        loss = float(model.train_on_batch(*batches.batch(*divmod(step, len(batches)))))
        if not np.isfinite(loss):
            break
        rows.append((rate, loss))
        if loss > 4 * min(loss for _, loss in rows):
            break
    assign_variables(model.variables, saved)
    sweep = pd.DataFrame(rows, columns=["learning_rate", "loss"])
    return sweep.assign(smoothed=gaussian_filter1d(sweep.loss, 3) if rows else [])


def suggest_learning_rate(sweep) -> float | None:
    """The learning rate at which the smoothed loss falls fastest, or None where it does not fall."""
    if len(sweep) < 2:
        raise CovidxrError(f"a sweep of {len(sweep)} steps has no slope; raise steps or lower the lowest rate")
    scatter = (sweep.loss - sweep.smoothed).std(ddof=0) if "loss" in sweep else 0.0
    if (sweep.smoothed.cummax() - sweep.smoothed).max() <= 2 * scatter:
        return None
    slopes = np.gradient(sweep.smoothed, np.log(sweep.learning_rate))
    return float(sweep.learning_rate.iloc[slopes.argmin()])


def fit_linear_head(model, images, manifest, classes):
    """Fit the softmax in closed form, by `covidxr.evaluation.linear_probe.SourceBalancedLDA`."""
    probe = SourceBalancedLDA().fit(
        embed(model, images), manifest.label, sources=manifest.source, groups=patient_keys(manifest)
    )
    order = np.searchsorted(probe.classes_, classes)
    weights = probe.coef_[order].T, probe.intercept_[order]
    model.get_layer("dense").set_weights([weight.astype(np.float32) for weight in weights])


def refit_on_all(model, images, manifest, classes) -> keras.Model:
    """A copy of a truncated network whose softmax is fitted to other images, such as all those of a run."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    fit_linear_head(copy, images, manifest, classes)
    return copy
