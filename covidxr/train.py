"""Fitting: the head on frozen features first, then the network. Model choice sees training and validation films only."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr import resume
from covidxr._tensorflow import keras, tf
from covidxr.augment import PlainBatches
from covidxr.collapse import redraw_head
from covidxr.errors import CovidxrError, unknown
from covidxr.files import write_csv
from covidxr.hardware import share_out
from covidxr.learning_rate import find_learning_rate, suggest_learning_rate
from covidxr.probe import augmented_features, features, fit_head
from covidxr.saved import read_network
from covidxr.schedules import Plan
from covidxr.sources._rows import read_table
from covidxr.splits import SPLITS
from covidxr.tries import Task, next_try, run_try

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
        When there is none yet, or the file is damaged, hostile, or a network of other classes than the run's.

    Examples
    --------
    >>> read_model("runs/none")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: runs/none holds no model.keras; run notebook 03_fine_tuning first
    """
    path, manifest = Path(run_dir) / "model.keras", Path(run_dir) / "manifest.csv"
    if not path.exists():
        raise CovidxrError(f"{run_dir} holds no model.keras; run notebook 03_fine_tuning first")
    try:
        model = read_network(path)
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
    schedule="plateau",
    seed=0,
    new_start=redraw_head,
    devices="one",
    balance=None,
) -> pd.DataFrame:
    """Train by the article's recipe: Adam, cross-entropy, lower rate on a plateau, the epoch of least validation loss kept.

    Three things the article did not do. What is validated and kept are the running mean weights of about the last epoch
    (Polyak and Juditsky 1992), since the network of a single step is a lottery where films are few. The rate rises
    first: without it, some seeds collapse into a constant answer within an epoch. And where that happens all the same,
    it is said, and training starts again with another seed, up to two times.

    Each epoch leaves a checkpoint in the run folder's ``training``. The same call, with the same films, weights and
    settings, goes on from it after a break, and ends with the same history and weights as without one. At the end
    ``model.keras`` (the kept epoch's model) and ``history.csv`` are written, and the checkpoint is removed.

    Parameters
    ----------
    model : keras.Model
        From `covidxr.model`; trained in place. It ends with the kept weights.
    train, validation : Films
        The films; only those of `train` are augmented.
    n_classes : int
        How many classes there are.
    run_dir : str or pathlib.Path
        The run folder.
    epochs : int
        At most so many passes over the training films. With 0 the model is left as it is, and only measured.
    learning_rate : float
        Adam's at its highest.
    policy : str
        An augmentation policy of `covidxr.augment.build_policy`.
    batch_size : int
        Films a step.
    patience, warmup_epochs, schedule
        See `covidxr.schedules.Plan`.
    seed : int
        Seed of order and augmentation; initial weights and dropout have the seed that the model was built with.
    new_start : callable, optional
        Called with the model, back at its first weights, and a new seed, after a collapse; by default draws the head
        anew.
    devices : {"one", "all"}
        See `covidxr.hardware.share_out`.
    balance : covidxr.groups.Balance, optional
        Draws training films so that classes, and sources within them, count alike; and takes the loss of the source that fares
        worst among validation films as the validation loss, by which rates are lowered, training stops and the epoch is kept.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: ``epoch, accuracy, loss, val_accuracy, val_loss, learning_rate, stage`` (the films' size) and
        ``seed`` (that of the try); with `balance` also ``worst_source`` and ``val_loss_of_all``. ``attrs["collapsed"]`` lists
        seed and epoch of tries given up.

    Raises
    ------
    CovidxrError
        When the validation loss was never a finite number, a batch cannot be shared out evenly, or several devices are asked to
        `balance`; the run folder's old files stay as they were.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.model import build_baseline
    >>> films = Films(np.random.default_rng(0).integers(0, 255, (12, 9, 9), np.uint8), np.arange(12) % 3)
    >>> history = fit(build_baseline(9), films, films, 3, tempfile.mkdtemp(), epochs=2)
    >>> history.epoch.tolist(), history.stage.tolist()
    ([1, 2], ['9 px', '9 px'])
    """
    if not epochs:
        history = _as_it_is(model, train, validation, n_classes, seed)
        _leave(run_dir, Path(run_dir) / "training", model, history)
        return history
    plan = Plan(schedule, learning_rate, -(-len(train.images) // batch_size), epochs, warmup_epochs, patience)
    folder = Path(run_dir) / "training"
    settings = {**plan._asdict(), "policy": policy, "batch_size": batch_size, "n_classes": n_classes, "seed": seed}
    described = resume.identity(model, (train, validation, balance or ()), settings)
    first = [variable.numpy() for variable in model.variables]
    progress, *variables = _earlier(folder, described) or (resume.Progress(seed),)
    task = Task(train, validation, plan, described, balance)
    attempt = partial(_attempt, share_out(devices), model, task, folder)
    set_seed(progress.seed)
    attempt(progress, variables)
    while progress.lost:
        progress = next_try(progress)
        set_seed(progress.seed)
        resume.assign(model.variables, first)
        new_start(model, progress.seed)
        attempt(progress)
    if progress.best is None:
        shutil.rmtree(folder, ignore_errors=True)
        raise CovidxrError(
            f"no finite validation loss in {epochs} epochs at learning rate {learning_rate:g}; lower learning_rate"
        )
    model.set_weights(progress.best)
    history = pd.DataFrame(progress.rows).assign(stage=f"{train.images.shape[1]} px", seed=progress.seed)
    history.attrs["collapsed"] = progress.collapsed
    _leave(run_dir, folder, model, history)
    return history


def _attempt(strategy, model, task, folder, progress, variables=()):
    """A try on one device or on several; those have a copy of the network, as it must be built where it is trained."""
    parts, size = strategy.num_replicas_in_sync, task.described["batch_size"]
    if parts == 1:
        return run_try(model, task, folder, progress, variables)
    if size % parts:
        raise CovidxrError(
            f"{size} films a step cannot be shared out among {parts} devices; make batch_size a multiple"
        )
    if task.balance:  # what several devices answer to one batch comes back once for each
        raise CovidxrError("the source that fares worst is found on one device only; leave balance or devices out")
    with strategy.scope():
        copy = keras.models.clone_model(model)
        resume.assign(copy.variables, [variable.numpy() for variable in model.variables])
        return run_try(copy, task, folder, progress, variables)


def _as_it_is(model, train, validation, n_classes, seed):
    """A history of no epoch: what the model makes of the films before any training."""
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    row = {"epoch": 0, "learning_rate": 0.0, "stage": f"{train.images.shape[1]} px", "seed": seed}
    for prefix, films in (("", train), ("val_", validation)):
        measured = model.evaluate(PlainBatches(*films, n_classes), verbose=0, return_dict=True)
        row |= {f"{prefix}{name}": value for name, value in measured.items()}
    history = pd.DataFrame([row])
    history.attrs["collapsed"] = []
    return history


def _earlier(folder, described):
    found = resume.read(folder, described)
    if isinstance(found, tuple):
        print(f"Going on after epoch {len(found[0].rows)}, from {folder / resume.CHECKPOINT}.")
        return found
    if found:
        print(f"Training starts from the beginning, since {found}.")
    return None


def _leave(run_dir, folder, model, history):
    """Write model and history, and take the checkpoint away, with whatever a killed training left beside it."""
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])  # lets go of Adam's moments
    folder.mkdir(parents=True, exist_ok=True)
    keras.Model(model.inputs, model.outputs, name=model.name).save(folder / "model.keras")  # and this saves none
    os.replace(folder / "model.keras", Path(run_dir) / "model.keras")
    write_csv(Path(run_dir) / "history.csv", history)
    shutil.rmtree(folder, ignore_errors=True)
