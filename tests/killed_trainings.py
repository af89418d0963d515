"""Trainings killed at planted moments, each in a process of its own: ``python tests/killed_trainings.py FOLDER JSON``.

The JSON maps the name of a run folder to its options and the moments at which the training there is killed, one
process after the other; a last one runs to the end. Each process is forked from this one, which has imported TensorFlow
but never used it, so that a dozen of them take seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from stand_ins import dataset_of, striped

from covidxr._keras import keras, set_seed
from covidxr.training import callbacks
from covidxr.training.callbacks import TrainingMonitor, _save_checkpoint
from covidxr.training.fit import TrainingConfig, fit

fit_module = importlib.import_module("covidxr.training.fit")  # the package hands out the function of that name


def die(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_checkpoint(path, **arrays):
    """Write as `numpy.savez` would, but half, and die of it."""
    Path(path).write_bytes(np.concatenate([np.ravel(array) for array in arrays.values()][2:]).tobytes()[:5000])
    die()


def plant(moment, at=0, batch=0):
    """Let this process be killed at a moment: mid-epoch, mid-write, between two files."""
    begin, save = TrainingMonitor.on_train_batch_begin, _save_checkpoint

    def on_train_batch_begin(self, step, logs=None):
        if (len(self.state.rows), step) == (at, batch):
            die()
        begin(self, step, logs)

    def saved(*args):
        if len(args[-1].rows) != at:
            return save(*args)
        if moment == "half a checkpoint":
            np.savez = half_a_checkpoint
        save(*args)
        return die()

    if moment == "batch":
        TrainingMonitor.on_train_batch_begin = on_train_batch_begin
    elif moment in ("half a checkpoint", "checkpoint"):
        callbacks._save_checkpoint = saved
    elif moment == "model":
        keras.Model.save = lambda self, path: path.write_bytes(b"half") and die()
    elif moment == "history":
        fit_module.write_csv = die
    elif moment == "restart":
        fit_module.next_attempt = die


def network(dead):
    """A few convolutions, with dropout, whose state has to come back too; or with a layer whose units are never active."""
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((12, 12, 3)),
        layers.Conv2D(4, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.Conv2D(6, 3, strides=2, activation="relu"),
        layers.Flatten(name="flatten"),
        layers.Dense(8, "relu"),
        layers.Dropout(0.4, seed=1),
        layers.Dense(3, "softmax"),
    ])  # fmt: skip
    if dead:
        model.layers[-3].bias.assign(np.full(8, -1e3))
    return model


def run(folder, options, moment=None):
    set_seed(0)
    callbacks.N_PROBED = 8
    if moment:
        plant(*moment)
    model = network(options.pop("dead", False))
    config = TrainingConfig(**{"batch_size": 8, "learning_rate": 5e-3, "warmup_epochs": 1, **options})
    fit(model, dataset_of(striped(size=12), striped(seed=1, size=12)), config, folder)
    np.savez(folder / "end.npz", *[variable.numpy() for variable in model.variables if "seed" not in variable.path])


def in_a_process(folder, options, moment=None) -> int:
    """Run in a child; return the signal that ended it, 0 for none."""
    if not (child := os.fork()):
        run(folder, options, moment)
        os._exit(0)
    if moment and moment[0] == "seconds":
        time.sleep(moment[1])
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # what a killed process has said counts
    root, ends = Path(sys.argv[1]), {}
    for name, (options, moments) in json.loads(sys.argv[2]).items():
        ends[name] = [in_a_process(root / name, options, moment) for moment in [*moments, None]]
    print(json.dumps(ends))
