"""One try of a training: Keras' loop, steered by a schedule, written down each epoch, and watched for collapse."""

from __future__ import annotations

import warnings
from functools import partial
from typing import NamedTuple

import numpy as np

from covidxr import resume
from covidxr._tensorflow import TqdmCallback, keras, tf
from covidxr.augment import AugmentedBatches, PlainBatches, build_policy
from covidxr.collapse import TRIES, has_collapsed
from covidxr.evaluate import predict
from covidxr.groups import worst_group
from covidxr.schedules import Plan


class Task(NamedTuple):
    """What is trained on and how: ``train`` and ``validation`` films, ``plan``, ``described`` (see `resume.identity`), ``balance``."""

    train: object
    validation: object
    plan: Plan
    described: dict
    balance: object = None


def run_try(model, task, folder, progress, variables=()) -> None:
    """Train to the end of the plan, or until the network collapses, with a checkpoint after each epoch.

    Parameters
    ----------
    model : keras.Model
        Trained in place; it ends with the weights of the last step or their means, not with the best.
    task : Task
        Films and settings.
    folder : pathlib.Path
        Where checkpoints go.
    progress : covidxr.resume.Progress
        Of the epochs before, if any; changed in place.
    variables : sequence of list of numpy.ndarray
        Of the model and its optimizer, from a checkpoint; empty at the beginning.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.model import build_baseline
    >>> from covidxr.train import Films
    >>> films = Films(np.random.default_rng(0).integers(0, 255, (12, 9, 9), np.uint8), np.arange(12) % 3)
    >>> settings = {"policy": "none", "n_classes": 3, "batch_size": 12}
    >>> task = Task(films, films, Plan("one-cycle", 0.01, steps=1, epochs=2), settings)
    >>> run_try(build_baseline(9), task, tempfile.mkdtemp(), progress := resume.Progress(seed=0))
    >>> [row["epoch"] for row in progress.rows]
    [1, 2]
    """
    settings, plan = task.described, task.plan
    policy, n_classes = build_policy(settings["policy"]), settings["n_classes"]
    draws = {"seed": progress.seed, "weights": task.balance and task.balance.weights}
    batches = AugmentedBatches(*task.train, n_classes, policy, batch_size=settings["batch_size"], **draws)
    parts = tf.distribute.get_strategy().num_replicas_in_sync
    # Keras fails where parts of a first batch differ.
    size = max(1, min(32, len(task.validation.images)) // parts) * parts
    held_out = PlainBatches(*task.validation, n_classes, batch_size=size)
    adam = _compiled(model, len(batches))
    for target, values in zip((model, model.optimizer), variables, strict=False):
        resume.assign(target.variables, values)
    if plan.is_over(progress.losses):
        return
    watched = task.train if len(progress.collapsed) < TRIES - 1 else None
    checkpoint = partial(resume.save, folder, settings, model)
    judge = task.balance and partial(_worst, films=task.validation, groups=task.balance.groups)
    callbacks = [
        Keeper(progress, plan, batches, adam, checkpoint, watched, judge),
        keras.callbacks.SwapEMAWeights(),
        TqdmCallback(verbose=0),
    ]
    done = len(progress.rows)
    options = {"epochs": plan.epochs, "initial_epoch": done, "shuffle": False, "verbose": 0}
    model.fit(batches, validation_data=held_out, callbacks=callbacks, **options)


def _compiled(model, steps):
    adam = keras.optimizers.Adam(use_ema=True, ema_momentum=1 - 1 / steps)
    adam.beta_1 = keras.Variable(adam.beta_1, trainable=False)  # a number would be fixed in the compiled step
    model.compile(adam, "categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return adam  # with mixed precision, model.optimizer is Keras' wrapper around it


def _worst(model, films, groups):
    return worst_group(predict(model, films.images), films.labels, groups)


def next_try(progress) -> resume.Progress:
    """Give a collapsed try up, say so, and begin another.

    Parameters
    ----------
    progress : covidxr.resume.Progress
        Of the try that collapsed.

    Returns
    -------
    covidxr.resume.Progress
        Empty, with a new seed, and the old one among ``collapsed``.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True):
    ...     next_try(resume.Progress(seed=3)).collapsed
    [{'seed': 3, 'epoch': 1}]
    """
    lost = {"seed": progress.seed, "epoch": len(progress.rows) + 1}
    seed = (progress.seed + 1000) % 2**32
    warnings.warn(
        f"Training with seed {lost['seed']} collapsed in epoch {lost['epoch']}: one answer for every film, or none. "
        f"It starts again with seed {seed}.",
        stacklevel=3,
    )
    return resume.Progress(seed, collapsed=[*progress.collapsed, lost])


class Keeper(keras.callbacks.Callback):
    """Steers one try epoch by epoch, and writes the checkpoint after each.

    It stands before Keras' ``SwapEMAWeights`` among the callbacks: so at the end of validation it still sees the mean
    weights that were validated, and at the end of an epoch those that training goes on with.

    Parameters
    ----------
    progress : Progress
        Changed in place.
    plan : covidxr.schedules.Plan
        Rates, and when to stop.
    batches : covidxr.augment.AugmentedBatches
        Told which epoch it is, so that the numbers of a batch do not depend on where training began.
    optimizer : keras.optimizers.Adam
        With a variable as its ``beta_1``.
    checkpoint : callable
        Called with the progress after each epoch.
    watched : covidxr.train.Films or None
        Training films to notice a collapse by; None looks for none.
    judge : callable, optional
        Gives for the model the group of validation films that fares worst, and its loss, which then counts as the validation
        loss; by default that of all films does.

    Examples
    --------
    >>> from covidxr.schedules import Plan
    >>> adam = keras.optimizers.Adam()
    >>> adam.beta_1 = keras.Variable(0.9)
    >>> keeper = Keeper(resume.Progress(0), Plan("plateau", 0.5, steps=2, epochs=1), None, adam, print, None)
    >>> keeper.on_train_batch_begin(0)
    >>> float(adam.learning_rate)
    0.5
    """

    def __init__(self, progress, plan, batches, optimizer, checkpoint, watched, judge=None):
        super().__init__()
        self.progress, self.plan, self.batches, self.optimizer = progress, plan, batches, optimizer
        self.checkpoint, self.watched, self.judge = checkpoint, watched, judge
        self.setting = self.validated = self.worst = None

    def on_epoch_begin(self, epoch, logs=None):
        """Tell the batches which epoch it is."""
        self.batches.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Set the step's rate and momentum."""
        losses = self.progress.losses
        self.setting = self.plan.at(len(losses) * self.plan.steps + batch, losses)
        self.optimizer.learning_rate = self.setting.rate
        self.optimizer.beta_1.assign(self.setting.momentum)

    def on_test_end(self, logs=None):
        """Take a copy of the weights that were validated, and find the group that they serve worst."""
        self.validated = self.model.get_weights()
        self.worst = self.judge and self.judge(self.model)

    def on_epoch_end(self, epoch, logs=None):
        """Enter the epoch into the progress; save it, or stop where the network has collapsed."""
        if self.watched is not None and has_collapsed(self.model, self.watched, logs["loss"]):
            self.progress.lost = self.model.stop_training = True
            return
        numbers = {name: float(value) for name, value in logs.items()}
        if self.worst:
            numbers |= {
                "worst_source": self.worst[0],
                "val_loss": self.worst[1],
                "val_loss_of_all": numbers["val_loss"],
            }
        if numbers["val_loss"] < min(filter(np.isfinite, self.progress.losses), default=np.inf):
            self.progress.best = self.validated
        self.progress.rows.append({"epoch": epoch + 1, **numbers, "learning_rate": self.setting.rate})
        self.checkpoint(self.progress)
        self.model.stop_training = self.plan.is_over(self.progress.losses)
