"""Small datasets and trainings: striped images, a network trained in a second, and trainings that kill their worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr._keras import set_seed
from covidxr.data.dataset import Dataset, build_dataset, save_dataset
from covidxr.model.networks import build_baseline
from covidxr.training.callbacks import TrainingMonitor
from covidxr.training.fit import fit

CLASSES = ["Normal", "COVID-19", "Bacteria"]


class LabelledImages(NamedTuple):
    """Images, ``uint8``, and their class numbers."""

    images: np.ndarray
    labels: np.ndarray


def striped(n=24, seed=0, size=9) -> LabelledImages:
    """Images of three classes, which differ in the third of the image that is bright."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 120, (n, size, size), np.uint8), np.arange(n) % 3
    third = size // 3
    for image, label in zip(images, labels, strict=True):
        image[:, third * label : third * label + third] += 90
    return LabelledImages(images, labels)


def dataset_of(train, validation, sources=None) -> Dataset:
    """A dataset of training and validation images; its classes are called 0, 1 and so on."""
    labels = np.concatenate([train.labels, validation.labels]).astype(str)
    names = [f"image-{number}" for number in range(len(labels))]
    split = np.repeat(["train", "validation"], [len(train.labels), len(validation.labels)])
    columns = {"image_id": names, "patient_id": names, "label": labels, "split": split, "source": "one"}
    manifest = pd.DataFrame({**columns, **({} if sources is None else {"source": sources})})
    return Dataset(manifest, np.concatenate([train.images, validation.images]), manifest[:0])


def plant_run(folder, per_class=12, classes=CLASSES):
    """A run folder of noisy images whose classes differ in the third that is bright."""
    run_dir = Path(folder)
    made = build_dataset(per_class=per_class, classes=classes, image_size=32, work_dir=run_dir)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 196, made.images.shape, np.uint8)
    for image, label in zip(images, made.manifest.label, strict=True):
        third = 10 * classes.index(label)
        image[:, third : third + 10] += 60
    save_dataset(run_dir, Dataset(made.manifest, images, made.rejected))
    return run_dir


def small(dataset, config, folder):
    """Fit the article's baseline model."""
    with (Path(folder).parents[2] / "began.txt").open("a") as file:
        file.write(f"{folder}\n")
    set_seed(config.seed)
    model = build_baseline(dataset.images.shape[1], len(dataset.classes), seed=config.seed)
    fit(model, dataset, config, folder)
    return model


def killed_once(dataset, config, folder):
    """The same, but the first training of all is killed in its third epoch."""

    mark = Path(folder).parents[2] / "killed.txt"
    begin = TrainingMonitor.on_epoch_begin

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            try:
                mark.open("x").close()
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        begin(self, epoch, logs)

    TrainingMonitor.on_epoch_begin = on_epoch_begin
    try:
        return small(dataset, config, folder)
    finally:
        TrainingMonitor.on_epoch_begin = begin


def poisonous(dataset, config, folder):
    """The same, but one variant kills every worker, and another cannot be trained."""
    if config.batch_size == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.batch_size == 5:
        raise MemoryError("no room")
    return small(dataset, config, folder)
