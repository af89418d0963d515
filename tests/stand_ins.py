"""Stand-ins for VGG16 in sweeps: a network without convolutions, trained in a second; and ones that kill their worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from covidxr.dataset import assemble, save_run

CLASSES = ["Normal", "COVID-19", "Bacteria"]


def plant_run(folder, per_class=12, classes=CLASSES):
    """A run folder whose films are told apart by which third of them is bright, amid noise."""
    run_dir = Path(folder)
    made = assemble(per_class=per_class, classes=classes, image_size=32, work_dir=run_dir)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 196, made.pixels.shape, np.uint8)
    for film, label in zip(pixels, made.manifest.label, strict=True):
        third = 10 * classes.index(label)
        film[:, third : third + 10] += 60
    save_run(run_dir, made._replace(pixels=pixels))
    return run_dir


def small(films, n_classes, settings, folder):
    """Fit the article's simple model."""
    from covidxr.model import build_baseline
    from covidxr.train import fit, set_seed

    with (Path(folder).parents[2] / "began.txt").open("a") as file:
        file.write(f"{folder}\n")
    set_seed(settings["seed"])
    model = build_baseline(films["train"].images.shape[1], n_classes, seed=settings["seed"])
    numbers = {
        name: settings[name] for name in ("epochs", "learning_rate", "warmup_epochs", "batch_size", "policy", "seed")
    }
    fit(model, films["train"], films["validation"], n_classes, folder, **numbers)
    return model


def killed_once(films, n_classes, settings, folder):
    """The same, but the first training of all is killed in its third epoch."""
    from covidxr import tries

    mark = Path(folder).parents[2] / "killed.txt"
    begin = tries.Keeper.on_epoch_begin

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            try:
                mark.open("x").close()
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        begin(self, epoch, logs)

    tries.Keeper.on_epoch_begin = on_epoch_begin
    try:
        return small(films, n_classes, settings, folder)
    finally:
        tries.Keeper.on_epoch_begin = begin


def poisonous(films, n_classes, settings, folder):
    """The same, but one cell kills every worker, and another cannot be trained."""
    if settings["batch_size"] == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if settings["batch_size"] == 5:
        raise MemoryError("no room")
    return small(films, n_classes, settings, folder)
