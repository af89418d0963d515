"""Trainings killed at planted moments, each in a process of its own: ``python tests/killed_trainings.py FOLDER JSON``.

The JSON maps the name of a run folder to its options and the moments at which the training there is killed, one
process after the other; a last one runs to the end. Each process is forked from this one, which has imported TensorFlow
but never used it, so that a dozen of them take seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from covidxr import collapse, resume, train, tries
from covidxr._tensorflow import keras


def die(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_checkpoint(path, **arrays):
    """Write as `numpy.savez` would, but half, and die of it."""
    Path(path).write_bytes(np.concatenate([np.ravel(array) for array in arrays.values()][2:]).tobytes()[:5000])
    die()


def plant(moment, at=0, batch=0):
    """Let this process be killed at a moment: mid-epoch, mid-write, between two files."""
    begin, save = tries.Keeper.on_train_batch_begin, resume.save

    def on_train_batch_begin(self, step, logs=None):
        if (len(self.progress.rows), step) == (at, batch):
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
        tries.Keeper.on_train_batch_begin = on_train_batch_begin
    elif moment in ("half a checkpoint", "checkpoint"):
        tries.resume.save = saved
    elif moment == "model":
        keras.Model.save = lambda self, path: path.write_bytes(b"half") and die()
    elif moment == "history":
        train.write_csv = die
    elif moment == "restart":
        train.next_try = die


def films(seed):
    """Films of three classes, told apart by which third of them is bright."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 120, (24, 12, 12), np.uint8), np.arange(24) % 3
    for film, label in zip(images, labels, strict=True):
        film[:, 4 * label : 4 * label + 4] += 90
    return train.Films(images, labels)


def network(dead):
    """A few convolutions, with dropout, whose state has to come back too; or with a layer that never answers."""
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
    train.set_seed(0)
    collapse.LOOKED_AT = 8
    if moment:
        plant(*moment)
    model = network(options.pop("dead", False))
    train.fit(model, films(0), films(1), 3, folder, **{"batch_size": 8, "learning_rate": 5e-3, **options})
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
