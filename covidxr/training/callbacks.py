"""Learning-rate schedules, checkpoints after each epoch, resuming, and collapse to a constant prediction."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covidxr._keras import TqdmCallback, keras, tf
from covidxr.augmentation import AugmentedBatches, PlainBatches, build_policy
from covidxr.data.images import preprocess
from covidxr.evaluation.linear_probe import group_weights, worst_group_loss
from covidxr.evaluation.metrics import predict
from covidxr.training.hardware import choose_precision
from covidxr.utils import atomic_path, unknown

_MOMENTUM = 0.9  # Adam's usual beta_1

_MIN_DELTA = 1e-4  # by which the validation loss must fall to count as improved, as in Keras' ReduceLROnPlateau


class _StepSettings(NamedTuple):
    """Hyper-parameters of one training step: learning ``rate`` and ``momentum``, Adam's ``beta_1``."""

    rate: float
    momentum: float


class Schedule(NamedTuple):
    """A learning-rate schedule, as a function of the step and of the validation losses so far."""

    schedule: str
    learning_rate: float
    steps: int
    epochs: int
    warmup_epochs: float = 0
    patience: int = 10

    def at(self, step, losses=()) -> _StepSettings:
        """Rate and momentum of a step."""
        if self.schedule not in _SCHEDULES:
            raise unknown("schedule", self.schedule, _SCHEDULES)
        return _SCHEDULES[self.schedule](self, step, losses)

    def is_over(self, losses) -> bool:
        """Whether training ends after the epochs that gave these losses."""
        losses = np.nan_to_num(losses, nan=np.inf)
        stopped = self.schedule == "plateau" and len(losses) and len(losses) - 1 - np.argmin(losses) >= self.patience
        return bool(len(losses) >= self.epochs or stopped)


def _plateau(schedule, step, losses):
    best, waited, halvings = np.inf, 0, 0
    for loss in losses:
        improved = loss < best - _MIN_DELTA
        best, waited = (loss, 0) if improved else (best, waited + 1)
        if waited >= max(1, schedule.patience // 3):
            halvings, waited = halvings + 1, 0
    warm_up = max(1, round(schedule.warmup_epochs * schedule.steps))
    return _StepSettings(schedule.learning_rate * 0.5**halvings * min(1, (step + 1) / warm_up), _MOMENTUM)


def _one_cycle(schedule, step, losses):
    turns = np.array([0, 0.45, 0.9, 1]) * schedule.steps * schedule.epochs
    factor = np.interp(step, turns, [0.1, 1, 0.1, 0.001])
    return _StepSettings(float(schedule.learning_rate * factor), float(np.interp(step, turns[:3], [0.95, 0.85, 0.95])))


_SCHEDULES = {"plateau": _plateau, "one-cycle": _one_cycle}

_MAX_ATTEMPTS = 3  # one that still collapses then is a finding about the configuration

N_PROBED = 64  # images on which a collapse is looked for


def _has_collapsed(model, images, loss) -> bool:
    """Whether a network in training gives no finite prediction, or the same one for every image."""
    frequencies = np.unique(images.labels, return_counts=True)[1] / len(images.labels)
    if loss < 0.9 * -(frequencies * np.log(frequencies)).sum():
        return False
    sample = images.images[:: -(-len(images.images) // N_PROBED)]
    return not np.ptp(model.predict_on_batch(preprocess(sample)), axis=0).max() > 1e-3  # not >, for NaN


def reinitialise_head(model, seed) -> None:
    """Draw the dense layers anew, in place, and give dropout another seed."""
    for number, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.Dense):
            initial = layer.kernel_initializer
            seeded = type(initial).from_config({**initial.get_config(), "seed": (1000 * seed + number) % 2**31})
            layer.kernel.assign(seeded(layer.kernel.shape))
            layer.bias.assign(np.zeros(layer.bias.shape))
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([seed, 0])


CHECKPOINT = "checkpoint.npz"


@dataclass
class TrainingState:
    """How far one attempt has come, apart from the variables of model and optimizer."""

    seed: int
    rows: list = field(default_factory=list)
    abandoned: list = field(default_factory=list)
    best: list | None = None
    collapsed: bool = False

    @property
    def losses(self) -> list:
        """Validation losses of the epochs so far."""
        return [row["val_loss"] for row in self.rows]


def config_fingerprint(model, train, validation, config) -> dict:
    """Describe a training, so that it never resumes from the checkpoint of another one."""
    settings = {name: value for name, value in asdict(config).items() if name != "devices"}
    settings |= {"precision": choose_precision(config.precision), "weights": str(config.weights)}
    arrays = [train.images, train.labels, validation.images, validation.labels]
    if config.balance:
        arrays += [_balanced_weights(train), _sources(validation)]
    weights = [variable.numpy() for variable in model.variables]
    frozen = [layer.trainable for layer in model.layers]
    return {
        **settings,
        "images": _arrays_digest(arrays),
        "initial_weights": _arrays_digest([*weights, np.array(frozen)]),
    }


def _balanced_weights(train):
    return group_weights(train.manifest.label, train.manifest.source)


def _sources(images):
    return images.manifest.source.to_numpy(dtype=str)


def _arrays_digest(arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _save_checkpoint(folder, fingerprint, model, state) -> None:
    """Write the checkpoint."""
    stored = {**vars(state), "best": state.best is not None}
    groups = {"model": model.variables, "optimizer": model.optimizer.variables, "best": state.best or []}
    arrays = {f"{name}/{i}": np.asarray(value) for name, group in groups.items() for i, value in enumerate(group)}
    with atomic_path(Path(folder) / CHECKPOINT) as temporary:
        texts = {"state": json.dumps(stored), "fingerprint": json.dumps(fingerprint, default=float)}  # NumPy's numbers
        np.savez(temporary, **texts, **arrays)


def load_checkpoint(folder, fingerprint) -> tuple[TrainingState, list, list] | None:
    """Read state, model and optimizer variables, or None, with the reason printed, where this training cannot resume."""
    path = Path(folder) / CHECKPOINT
    if not path.exists():
        return None
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        other = json.loads(str(arrays["fingerprint"]))
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds on a damaged file
        print(f"Training starts from the beginning: {path} is damaged ({error}).")
        return None
    if differs := sorted(name for name in {*fingerprint, *other} if fingerprint.get(name) != other.get(name)):
        print(f"Training starts from the beginning: {path} is of another training ({', '.join(differs)} differ).")
        return None
    state = TrainingState(**json.loads(str(arrays["state"])))
    model, optimizer, best = (
        [arrays[f"{group}/{i}"] for i in range(sum(name.startswith(f"{group}/") for name in arrays))]
        for group in ("model", "optimizer", "best")
    )
    state.best = best if state.best else None
    print(f"Resuming after epoch {len(state.rows)}, from {path}.")
    return state, model, optimizer


def assign_variables(variables, values) -> None:
    """Give variables their values."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def training_batches(train, config, seed) -> AugmentedBatches:
    """Augmented batches of the training images, group-balanced where the configuration says so."""
    options = {"batch_size": config.batch_size, "seed": seed}
    if config.balance:
        options["weights"] = _balanced_weights(train)
    policy = build_policy(config.policy)
    return AugmentedBatches(train.images, train.labels, len(train.classes), policy, **options)


class TrainingTask(NamedTuple):
    """What is trained on and how; ``fingerprint`` describes it in the checkpoint, which is in ``folder``."""

    train: object
    validation: object
    config: object
    schedule: Schedule
    fingerprint: dict
    folder: Path


def run_attempt(model, task, state, variables=()) -> None:
    """Train to the end of the schedule, or until the network collapses, with a checkpoint after each epoch."""
    train, validation, config, schedule = task[:4]
    batches = training_batches(train, config, state.seed)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    # Keras fails where the replicas' parts of a first batch differ in size.
    size = max(1, min(32, len(validation.images)) // replicas) * replicas
    held_out = PlainBatches(validation.images, validation.labels, len(train.classes), batch_size=size)
    adam = _compile(model, len(batches))
    for target, values in zip((model, model.optimizer), variables, strict=False):
        assign_variables(target.variables, values)
    if schedule.is_over(state.losses):
        return
    monitor = TrainingMonitor(state, schedule, batches, adam, partial(_save_checkpoint, task.folder, task.fingerprint))
    monitor.probed = train if len(state.abandoned) < _MAX_ATTEMPTS - 1 else None
    monitor.grouped = validation if config.balance else None
    model.fit(
        batches,
        validation_data=held_out,
        callbacks=[monitor, keras.callbacks.SwapEMAWeights(), TqdmCallback(verbose=0)],
        epochs=schedule.epochs,
        initial_epoch=len(state.rows),
        shuffle=False,
        verbose=0,
    )


def _compile(model, steps) -> keras.optimizers.Adam:
    """Compile with Adam and a running mean of the weights over about one epoch, whose steps are given."""
    adam = keras.optimizers.Adam(use_ema=True, ema_momentum=1 - 1 / steps)
    adam.beta_1 = keras.Variable(adam.beta_1, trainable=False)  # a number would be fixed in the compiled step
    model.compile(adam, "categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    return adam  # with mixed precision, model.optimizer is Keras' wrapper around it


def next_attempt(state) -> TrainingState:
    """Abandon a collapsed attempt with a warning, and begin another."""
    collapsed = {"seed": state.seed, "epoch": len(state.rows) + 1}
    seed = (state.seed + 1000) % 2**32
    warnings.warn(
        f"Training with seed {collapsed['seed']} collapsed in epoch {collapsed['epoch']}: the prediction is the same for "
        f"every image, or not a number. Training restarts with seed {seed}.",
        stacklevel=3,
    )
    return TrainingState(seed, abandoned=[*state.abandoned, collapsed])


class TrainingMonitor(keras.callbacks.Callback):
    """Steers one attempt: sets each step's rate, detects a collapse, records epochs and writes checkpoints."""

    probed = None  # training images on which a collapse is looked for
    grouped = None  # validation images whose worst source gives the validation loss

    def __init__(self, state, schedule, batches, optimizer, checkpoint):
        super().__init__()
        self.state, self.schedule, self.batches = state, schedule, batches
        self.optimizer, self.checkpoint = optimizer, checkpoint
        self.setting = self.validated = self.worst = None

    def on_epoch_begin(self, epoch, logs=None):
        """Set the epoch of the batches."""
        self.batches.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Set the step's rate and momentum."""
        losses = self.state.losses
        self.setting = self.schedule.at(len(losses) * self.schedule.steps + batch, losses)
        self.optimizer.learning_rate = self.setting.rate
        self.optimizer.beta_1.assign(self.setting.momentum)

    def on_test_end(self, logs=None):
        """Copy the weights that were validated, and find the source with the largest loss."""
        self.validated = self.model.get_weights()
        if self.grouped is not None:
            probabilities = predict(self.model, self.grouped.images)
            self.worst = worst_group_loss(probabilities, self.grouped.labels, _sources(self.grouped))

    def on_epoch_end(self, epoch, logs=None):
        """Record the epoch and save the state, or stop if the network has collapsed."""
        if self.probed is not None and _has_collapsed(self.model, self.probed, logs["loss"]):
            self.state.collapsed = self.model.stop_training = True
            return
        numbers = {name: float(value) for name, value in logs.items()}
        if self.worst:
            source, loss = self.worst
            numbers |= {"worst_source": source, "val_loss": loss, "val_loss_of_all": numbers["val_loss"]}
        if numbers["val_loss"] < min(filter(np.isfinite, self.state.losses), default=np.inf):
            self.state.best = self.validated
        self.state.rows.append({"epoch": epoch + 1, **numbers, "learning_rate": self.setting.rate})
        self.checkpoint(self.model, self.state)
        self.model.stop_training = self.schedule.is_over(self.state.losses)
