"""Fitting: the head on frozen features first, then the network. Model choice sees training and validation films only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr._tensorflow import TqdmCallback, keras, tf
from covidxr.augment import AugmentedBatches, build_policy
from covidxr.errors import CovidxrError, unknown
from covidxr.files import atomic_path, write_csv
from covidxr.learning_rate import find_learning_rate, suggest_learning_rate
from covidxr.pixels import preprocess
from covidxr.probe import augmented_features, features, fit_head
from covidxr.splits import SPLITS

__all__ = [
    "Films",
    "augmented_features",
    "features",
    "films_by_split",
    "find_learning_rate",
    "fit",
    "fit_head",
    "read_model",
    "set_seed",
    "suggest_learning_rate",
]


class Films(NamedTuple):
    """Films of one split: ``images`` (``uint8``, (N, H, W)) and ``labels`` (integers, (N,))."""

    images: np.ndarray
    labels: np.ndarray


def films_by_split(manifest, pixels, classes) -> dict:
    """Group decoded films by split, with their labels as numbers.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``split`` filled.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W), row by row.
    classes : sequence of str
        The labels; a label's number is its place here.

    Returns
    -------
    dict
        A `Films` for each of ``train``, ``validation``, ``test``.

    Raises
    ------
    CovidxrError
        When the manifest and the pixels differ in length, or a label is none of `classes`.

    Examples
    --------
    >>> manifest = pd.DataFrame({"label": ["a", "b"], "split": ["train", "test"]})
    >>> films_by_split(manifest, np.zeros((2, 8, 8), np.uint8), ["a", "b"])["test"].labels.tolist()
    [1]
    """
    if len(manifest) != len(pixels):
        raise CovidxrError(f"the manifest has {len(manifest)} rows, but there are {len(pixels)} films")
    if strange := sorted(set(manifest.label) - set(classes)):
        raise unknown("label", strange[0], classes)
    numbers = manifest.label.map({label: number for number, label in enumerate(classes)}).to_numpy()
    return {split: Films(pixels[rows := (manifest.split == split).to_numpy()], numbers[rows]) for split in SPLITS}


def set_seed(seed) -> None:
    """Seed Python, NumPy and TensorFlow, and ask TensorFlow for deterministic operations.

    Parameters
    ----------
    seed : int
        0 to 2**32 - 1.

    Examples
    --------
    >>> set_seed(1); first = np.random.random()
    >>> set_seed(1); first == np.random.random()
    True
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def read_model(run_dir) -> keras.Model:
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
        When there is none yet.

    Examples
    --------
    >>> read_model("runs/none")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: runs/none holds no model.keras; run notebook 03_fine_tuning first
    """
    path = Path(run_dir) / "model.keras"
    if not path.exists():
        raise CovidxrError(f"{run_dir} holds no model.keras; run notebook 03_fine_tuning first")
    return keras.saving.load_model(path)


def fit(
    model,
    train,
    validation,
    n_classes,
    run_dir,
    *,
    epochs,
    learning_rate=1e-4,
    policy="article",
    batch_size=32,
    patience=10,
    warmup_epochs=1,
    seed=0,
) -> pd.DataFrame:
    """Train by the article's recipe: Adam, cross-entropy, lower rate on a plateau, the epoch of least validation loss kept.

    Two things the article did not do. What is validated and kept are the running mean weights of about the last epoch
    (Polyak and Juditsky 1992), since the network of a single step is a lottery where films are few. And the rate rises
    linearly over the first `warmup_epochs`: without it, some seeds collapse into a constant answer within an epoch.

    Writes ``model.keras`` (that epoch's model) and ``history.csv`` into the run folder; `model` ends with those weights.

    Parameters
    ----------
    model : keras.Model
        From `covidxr.model`; trained in place.
    train, validation : Films
        The films; only those of `train` are augmented.
    n_classes : int
        How many classes there are.
    run_dir : str or pathlib.Path
        The run folder.
    epochs : int
        At most so many passes over the training films.
    learning_rate : float
        Adam's at the start.
    policy : str
        An augmentation policy of `covidxr.augment.build_policy`.
    batch_size : int
        Films a step.
    patience : int
        Epochs without a lower validation loss after which training stops; after a third of them the rate is halved.
    warmup_epochs : float
        Epochs over which the learning rate rises from 0 to its value.
    seed : int
        Seed of order and augmentation; initial weights and dropout have the seed that the model was built with.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: ``epoch, accuracy, loss, val_accuracy, val_loss, learning_rate``.

    Raises
    ------
    CovidxrError
        When the validation loss was never a finite number; the run folder's old files stay as they were.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.model import build_baseline
    >>> films = Films(np.random.default_rng(0).integers(0, 255, (12, 9, 9), np.uint8), np.arange(12) % 3)
    >>> history = fit(build_baseline(9), films, films, 3, tempfile.mkdtemp(), epochs=2)
    >>> history.epoch.tolist()
    [1, 2]
    """
    set_seed(seed)
    batches = AugmentedBatches(*train, n_classes, build_policy(policy), batch_size=batch_size, seed=seed)
    held_out = preprocess(validation.images), np.eye(n_classes, dtype=np.float32)[validation.labels]
    adam = keras.optimizers.Adam(learning_rate, use_ema=True, ema_momentum=1 - 1 / len(batches))
    model.compile(adam, "categorical_crossentropy", metrics=["accuracy"])
    with atomic_path(Path(run_dir) / "model.keras") as checkpoint:
        callbacks = [
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),  # before the checkpoint, which saves what is swapped in
            keras.callbacks.ModelCheckpoint(checkpoint, monitor="val_loss", save_best_only=True),
            keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=max(1, patience // 3)),
            keras.callbacks.EarlyStopping(monitor="val_loss", patience=patience),
            _warm_up(model, learning_rate, round(warmup_epochs * len(batches))),
            TqdmCallback(verbose=0),
        ]
        fitted = model.fit(
            batches, validation_data=held_out, epochs=epochs, shuffle=False, callbacks=callbacks, verbose=0
        )
        if not np.isfinite(fitted.history.get("val_loss", [])).any():  # Keras would keep the first epoch, NaN or not
            raise CovidxrError(
                f"no finite validation loss in {epochs} epochs at learning rate {learning_rate:g}; lower learning_rate"
            )
        model.load_weights(checkpoint)
    history = pd.DataFrame(fitted.history)
    history.insert(0, "epoch", np.arange(1, len(history) + 1))
    write_csv(Path(run_dir) / "history.csv", history)
    return history


def _warm_up(model, learning_rate, steps):
    def set_rate(batch, logs=None):
        if model.optimizer.iterations < steps:
            model.optimizer.learning_rate = learning_rate * (int(model.optimizer.iterations) + 1) / steps

    return keras.callbacks.LambdaCallback(on_train_batch_begin=set_rate)
