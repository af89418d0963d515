"""One training of a sweep: what it is, the hash by which its results are found again, and how a worker does it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import threading
from pathlib import Path
from typing import NamedTuple

from dask.distributed import get_worker

from covidxr._code import modules_of
from covidxr._content import content
from covidxr._inputs import comparable, inputs_of
from covidxr.dataset import read_run
from covidxr.errors import CovidxrError, unknown
from covidxr.evaluate import predict, prediction_table
from covidxr.files import read_json, write_csv, write_json
from covidxr.pixels import pixels_of_size
from covidxr.splits import fold_splits

# Seeds and TensorFlow are the whole process', whatever threads a cluster's worker has.
_ONE_AT_A_TIME = threading.Lock()


class Task(NamedTuple):
    """One training: where it is in the sweep (``cell, repeat, fold``), its ``settings``, ``splits`` and folders."""

    cell: str
    repeat: int
    fold: int
    settings: dict
    splits: list
    run_dir: str
    folder: str
    key: str

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.cell}, repeat {self.repeat}, fold {self.fold}"

    @property
    def is_done(self) -> bool:
        """Whether its results are there, and as it left them."""
        folder = Path(self.folder)
        try:
            done = read_json(folder / "task.json")
        except CovidxrError:  # damaged: the training is done again
            return False
        predictions = content(folder / "predictions.csv")
        return done.get("key") == self.key and predictions is not None and done.get("predictions") == predictions


def plan_sweep(run_dir, cells, folds=3, repeats=1, validation=0.15, seed=0, train=None) -> list[Task]:
    """List the trainings of a sweep: each cell on each fold, all cells on the same folds.

    Parameters
    ----------
    run_dir, cells, folds, repeats, validation, seed, train
        As for `covidxr.sweep.run_sweep`.

    Returns
    -------
    list of Task
        Each knows the hash of its settings and films, by which its results are found again.

    Raises
    ------
    CovidxrError
        When the run folder holds no films, a class too few of them, or a cell names a class that is not there.

    Examples
    --------
    >>> plan_sweep("runs/none", {})
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: runs/none holds no manifest.csv; run notebook 01_dataset_assembly first
    """
    run = read_run(run_dir)
    labels = set(run.manifest.label)
    for name, settings in cells.items():
        if strange := sorted(set(settings["classes"] or ()) - labels):
            raise unknown(f"class of {name}:", strange[0], sorted(labels))
    films = hashlib.sha256(
        run.pixels.tobytes() + "\n".join(run.manifest.image_id + run.manifest.label).encode()
    ).hexdigest()
    parts = fold_splits(run.manifest, folds, repeats, validation, seed)
    return [
        _task(
            Path(run_dir).absolute(), cell, settings, divided.split.tolist(), (repeat, fold), [films, _name_of(train)]
        )
        for cell, settings in cells.items()
        for repeat, row in enumerate(parts)
        for fold, divided in enumerate(row)
    ]


def _task(run_dir, cell, settings, splits, place, given):
    repeat, fold = place
    settings = {**settings, "seed": settings["seed"] + 100 * repeat + fold}
    weights = {name: inputs_of({name: settings[name]}, {}).get(name) for name in ("weights",) if name in settings}
    described = [comparable(settings), weights, splits, given]
    key = hashlib.sha256(json.dumps(described, default=str).encode()).hexdigest()
    words = re.sub(r"\W+", "-", cell).strip("-")
    folder = run_dir / "sweep" / words / f"repeat-{repeat}-fold-{fold}-{key[:8]}"
    return Task(cell, repeat, fold, settings, splits, str(run_dir), str(folder), key)


def _name_of(train):
    """Who trains, and the code that it is of as far as it is the package's: edited, it does all trainings again."""
    name = f"{train.__module__}.{train.__qualname__}" if train else "covidxr.recipe.train_network"
    return [name, modules_of("covidxr.recipe", name)]


def run_task(task, threads=None, train=None) -> None:
    """Do one training, on whatever process this is, and leave its results in its folder.

    Parameters
    ----------
    task : Task
        From `plan_sweep`.
    threads : int, optional
        For TensorFlow; by default those of the Dask worker.
    train : callable, optional
        See `covidxr.sweep.run_sweep`.

    Examples
    --------
    >>> run_task(plan_sweep("runs/demo", cells)[0], threads=2)  # doctest: +SKIP
    """
    from covidxr._tensorflow import keras  # for the worker alone
    from covidxr.hardware import use_hardware
    from covidxr.recipe import train_network

    told = io.StringIO()  # the bars and notes of several trainings at once would help nobody
    with _ONE_AT_A_TIME, contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        hardware = use_hardware(threads or get_worker().state.nthreads)
        films, held_out, classes = _films(task)
        Path(task.folder).mkdir(parents=True, exist_ok=True)
        model = (train or train_network)(films, len(classes), task.settings, task.folder)
        table = prediction_table(held_out, predict(model, films["test"].images), classes)
        keras.utils.clear_session()
    place = {"cell": task.cell, "repeat": task.repeat, "fold": task.fold}
    write_csv(Path(task.folder) / "predictions.csv", table.assign(**place)[[*place, *table.columns]])
    sums = {"key": task.key, "predictions": content(Path(task.folder) / "predictions.csv")}
    write_json(Path(task.folder) / "task.json", {**place, **sums, "settings": task.settings, "hardware": hardware})


def _films(task):
    """Films by split, the manifest's rows of the test films, and the classes."""
    from covidxr.train import films_by_split

    run = read_run(task.run_dir)
    size, classes = task.settings["image_size"], task.settings["classes"] or list(run.manifest.label.unique())
    pixels = pixels_of_size(task.run_dir, run.manifest, run.pixels, size or run.pixels.shape[1])
    wanted = run.manifest.label.isin(classes).to_numpy()
    manifest = run.manifest.assign(split=task.splits)[wanted]
    return films_by_split(manifest, pixels[wanted], classes), manifest[manifest.split == "test"], classes
