"""Many trainings at once: the cells of an ablation on each fold of a repeated, patient-grouped cross-validation, by Dask.

Each training is a task of its own, on a worker process of its own, and leaves its model, history and predictions in a
folder of its own. So a worker that dies costs one task's last epoch, and a sweep that is broken off goes on.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from pathlib import Path

import dask
import pandas as pd
from dask.distributed import Client, KilledWorker, LocalCluster, as_completed
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT
from tqdm.auto import tqdm

from covidxr.dataset import read_run
from covidxr.errors import CovidxrError
from covidxr.pixels import pixels_of_size
from covidxr.tasks import plan_sweep, run_task

WORKER_BYTES = 2.5e9  # what a training takes at 100 pixels, with room
PATIENCE = 20  # seconds for a scheduler to answer
_DEATHS = 3  # of its worker that a task is allowed; then it is the task's fault
_CONFIG = {
    "distributed.scheduler.allowed-failures": _DEATHS - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # no task waits on a busy worker, to be blamed for its death
    "distributed.worker.memory.target": False,  # TensorFlow's memory cannot be spilled to disk, so pausing would be for ever
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "logging.distributed": "critical",
}


def run_sweep(run_dir, cells, folds=3, repeats=1, validation=0.15, scheduler=None, seed=0, train=None) -> pd.DataFrame:
    """Train each cell on each fold, several at once, and gather the predictions for the films held out.

    What is done already is not done again; settings and films tell, not the code. Results lie in the run folder's
    ``sweep``, a folder a training: ``model.keras`` (about 60 MB), ``history.csv``, ``predictions.csv``, ``task.json``.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        A run folder with notebook 01's films; a cluster's workers must see it under the same path.
    cells : dict of dict
        All settings of each cell, from `covidxr.ablation.cell_settings`.
    folds, repeats, validation
        See `covidxr.splits.fold_splits`.
    scheduler : str, optional
        Address of a Dask scheduler, such as ``tcp://head-node:8786``, whose workers are to be used. By default as many
        processes on this machine as its cores and memory allow.
    seed : int
        Of the folds; each training's own is its cell's, plus 100 for each repeat and 1 for each fold.
    train : callable, optional
        Takes films by split, the number of classes, settings and a folder, leaves ``model.keras`` there and gives the
        network; `covidxr.recipe.train_network` by default.

    Returns
    -------
    pandas.DataFrame
        One row a film tested: ``cell``, ``repeat``, ``fold``, and the columns of `covidxr.evaluate.prediction_table`.

    Raises
    ------
    CovidxrError
        When a training fails, or kills its worker three times; all others are done by then. Or no scheduler answers.

    Examples
    --------
    >>> cells = cell_settings({"reference": {}, "one-cycle": {"schedule": "one-cycle"}})  # doctest: +SKIP
    >>> run_sweep("runs/demo", cells, scheduler="tcp://head-node:8786").groupby("cell").correct.mean()  # doctest: +SKIP
    """
    tasks = plan_sweep(run_dir, cells, folds, repeats, validation, seed, train)
    left = [task for task in tasks if not task.is_done]
    if left:
        _decode(run_dir, {task.settings["image_size"] for task in left})
        with _client(scheduler, len(left)) as (client, threads):
            failures = _run(client, tasks, left, threads, train)
        if failures:
            name, reason = next((task.name, failures[task.name]) for task in left if task.name in failures)
            raise CovidxrError(
                f"{len(failures)} of {len(left)} trainings failed, the first is {name}: {reason}; "
                "the others are kept, and the same call does only these again"
            )
    return _gather(tasks)


def _decode(run_dir, sizes):
    """Films of other sizes, decoded once, before several workers would do it at the same time."""
    run = read_run(run_dir)
    for size in sorted(sizes - {None}):
        pixels_of_size(run_dir, run.manifest, run.pixels, size)


@contextlib.contextmanager
def _client(scheduler, tasks):
    """A client of the cluster named, or of one on this machine; and the threads that each of its workers has."""
    if scheduler:
        try:
            client = Client(scheduler, timeout=PATIENCE)
        except OSError as error:
            raise CovidxrError(f"no Dask scheduler answers at {scheduler}: {error}") from None
        with client:
            yield client, None
        return
    workers = int(max(1, min(tasks, CPU_COUNT, MEMORY_LIMIT // WORKER_BYTES)))
    place = {"dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with (
        dask.config.set(_CONFIG),
        LocalCluster(
            workers, threads_per_worker=1, processes=True, memory_limit=MEMORY_LIMIT // workers, **place
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client, CPU_COUNT // workers


def _run(client, tasks, left, threads, train):
    """Submit what is left; return what went wrong, by task."""
    futures = {
        client.submit(run_task, task, threads, train, key=f"{task.name} {uuid.uuid4().hex}"): task for task in left
    }
    failures = {}
    with tqdm(total=len(tasks), initial=len(tasks) - len(left), desc="trainings") as bar:
        for future in as_completed(futures):
            if reason := _failure(future):
                failures[futures[future].name] = reason
            bar.update()
    return failures


def _failure(future):
    error = future.exception()
    if isinstance(error, KilledWorker):
        return "each worker that began it died, most often for want of memory"
    return error and (str(error) if isinstance(error, CovidxrError) else f"{type(error).__name__}: {error}")


def _gather(tasks):
    names = dict.fromkeys(("cell", "image_id", "patient_id", "source", "label", "predicted"), str)
    try:
        tables = [
            pd.read_csv(Path(task.folder) / "predictions.csv", dtype=names, keep_default_na=False) for task in tasks
        ]
    except FileNotFoundError as error:
        raise CovidxrError(
            f"{error.filename} is missing though its training is done; a cluster's workers must see the run folder "
            "under the same path as this process"
        ) from None
    return pd.concat(tables, ignore_index=True)
