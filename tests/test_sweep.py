"""Sweeps: planted effects found and nothing else, workers killed, broken off and gone on with, here and on a cluster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dask
import pandas as pd
import pytest
from dask.distributed import LocalCluster
from stand_ins import killed_once, plant_run, poisonous, small

from covidxr import sweep
from covidxr.ablation import cell_settings, summarise
from covidxr.errors import CovidxrError
from covidxr.sweep import run_sweep
from covidxr.tasks import plan_sweep, run_task

FAST = {
    "epochs": 6,
    "learning_rate": 2e-2,
    "warmup_epochs": 0,
    "batch_size": 8,
    "policy": "none",
    "classes": ["Normal", "COVID-19", "Bacteria"],
}
CELLS = cell_settings(
    {
        "reference": {},
        "another seed": {"seed": 10_000},
        "learns nothing": {"learning_rate": 0.0},
        "four classes, larger": {"classes": ["Normal", "COVID-19", "Bacteria", "Virus"], "image_size": 48},
    },
    **FAST,
)
ONE = {"reference": CELLS["reference"]}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A run folder with films of four classes, to be copied."""
    return plant_run(tmp_path_factory.mktemp("films"), classes=["Normal", "COVID-19", "Bacteria", "Virus"])


@pytest.fixture
def run_dir(films, tmp_path):
    shutil.copytree(films, tmp_path / "run", ignore=shutil.ignore_patterns("sweep", "began.txt"))
    return tmp_path / "run"


@pytest.fixture(scope="module")
def scheduler():
    """The address of a cluster of two processes that is there already, as a user's is."""
    config = {**sweep._CONFIG, "distributed.scheduler.allowed-failures": 0}
    with (
        dask.config.set(config),
        LocalCluster(2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def undisturbed(films, scheduler):
    return run_sweep(films, CELLS, folds=3, scheduler=scheduler, train=small)


def began(run_dir):
    path = run_dir / "began.txt"
    return path.read_text().split() if path.exists() else []


def test_a_planted_effect_is_found_and_another_seed_is_none(undisturbed):
    summary = summarise(undisturbed, draws=300)
    assert summary.verdict["learns nothing"] == "differs" and summary.difference_high["learns nothing"] < -0.1
    assert summary.verdict["another seed"] == "cannot be told apart"
    assert summary.value["reference"] > 0.8 and summary.chance.round(2)["reference"] == 0.33
    assert summary.n["four classes, larger"] == 48 and summary.shared["four classes, larger"] == 36


def test_every_training_leaves_its_folder(undisturbed, films):
    tasks = plan_sweep(films, CELLS, folds=3, train=small)
    assert len(tasks) == 12 and all(task.is_done for task in tasks)
    for task in tasks:
        assert {path.name for path in Path(task.folder).iterdir()} == {
            "model.keras",
            "history.csv",
            "predictions.csv",
            "task.json",
        }
    tested = undisturbed.image_id[undisturbed.cell == "reference"]
    assert tested.nunique() == len(tested) == 36
    twice = plan_sweep(films, CELLS, folds=3, repeats=2, train=small)
    assert (
        len(twice) == len({task.folder for task in twice}) == 24
        and len({task.settings["seed"] for task in twice}) == 12
    )
    facts = json.loads((Path(tasks[0].folder) / "task.json").read_text())
    assert facts["hardware"]["threads"] == 1 and facts["settings"]["epochs"] == 6


def test_a_worker_killed_mid_epoch_changes_nothing(undisturbed, run_dir, capfd):
    """Here the cluster is the sweep's own; one of its processes is killed for good, by SIGKILL, in an epoch's middle."""
    found = run_sweep(run_dir, ONE, folds=3, train=killed_once)
    assert (run_dir / "killed.txt").exists()
    assert len(began(run_dir)) == 4 and len(set(began(run_dir))) == 3  # one training began twice
    same = undisturbed[undisturbed.cell.isin(ONE)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, same.drop(columns="p_Virus"))
    said = capfd.readouterr()
    assert said.out == "" and "trainings: 100%" in said.err
    assert not any(word in said.err for word in ("distributed", "Warning", "Traceback", "cuda", "1/6"))


def test_a_sweep_broken_off_goes_on_with_the_rest(undisturbed, run_dir, scheduler, monkeypatch):
    def broken_off(futures):
        for number, future in enumerate(sweep_as_completed(futures)):
            if number == 1:
                client = future.client
                client.cancel(list(futures))
                raise KeyboardInterrupt
            yield future

    sweep_as_completed = sweep.as_completed
    monkeypatch.setattr(sweep, "as_completed", broken_off)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(run_dir, ONE, folds=3, scheduler=scheduler, train=small)
    monkeypatch.undo()
    done = [task.folder for task in plan_sweep(run_dir, ONE, folds=3, train=small) if task.is_done]
    before = began(run_dir)
    assert 1 <= len(done) < 3
    found = run_sweep(run_dir, ONE, folds=3, scheduler=scheduler, train=small)
    assert not set(began(run_dir)[len(before) :]) & set(done) and set(began(run_dir)) > set(done)
    same = undisturbed[undisturbed.cell.isin(ONE)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, same.drop(columns="p_Virus"))


def test_done_is_done_until_settings_or_films_change(undisturbed, films):
    before = began(films)
    run_sweep(films, CELLS, folds=3, scheduler="tcp://127.0.0.1:1", train=small)  # nobody is asked
    assert began(films) == before
    longer = cell_settings({"reference": {}}, **{**FAST, "epochs": 7})
    assert not any(task.is_done for task in plan_sweep(films, longer, folds=3, train=small))
    assert not any(task.is_done for task in plan_sweep(films, ONE, folds=2, train=small))


@pytest.mark.parametrize("name", ["predictions.csv", "task.json"])
@pytest.mark.parametrize("bytes_", [None, b"", b"cell,fold\n"])
def test_a_training_whose_results_are_lost_or_damaged_is_not_done(run_dir, name, bytes_):
    task = plan_sweep(run_dir, ONE, folds=3, train=small)[0]
    run_task(task, threads=1, train=small)
    path = Path(task.folder) / name
    path.unlink() if bytes_ is None else path.write_bytes(bytes_)
    assert not task.is_done


def test_another_file_of_weights_under_the_old_name_is_another_training(run_dir, tmp_path):
    def keys(path):
        cells = cell_settings({"reference": {}}, **{**FAST, "weights": str(path)})
        return [task.key for task in plan_sweep(run_dir, cells, folds=2)]

    path = tmp_path / "weights.h5"
    path.write_bytes(b"one")
    before = keys(path)
    moved = path.rename(tmp_path / "moved.h5")
    assert keys(moved) == before
    path.write_bytes(b"other")
    assert keys(path) != before


def test_failing_trainings_are_named_and_the_others_kept(run_dir, scheduler):
    cells = {"fine": {}, "deadly": {"batch_size": 7}, "too big": {"batch_size": 5}}
    cells = cell_settings(cells, **FAST)
    with pytest.raises(CovidxrError) as error:
        run_sweep(run_dir, cells, folds=2, scheduler=scheduler, train=poisonous)
    assert "4 of 6 trainings failed, the first is deadly, repeat 0, fold 0: each worker that began it died" in str(
        error.value
    )
    assert "the others are kept, and the same call does only these again" in str(error.value)
    assert [task.is_done for task in plan_sweep(run_dir, cells, 2, train=poisonous)] == [True] * 2 + [False] * 4
    with pytest.raises(
        CovidxrError, match="2 of 2 trainings failed, .* too big, repeat 0, fold 0: MemoryError: no room"
    ):
        run_sweep(run_dir, {"too big": cells["too big"]}, 2, scheduler=scheduler, train=poisonous)


def test_a_task_can_be_done_by_hand(run_dir):
    task = plan_sweep(run_dir, ONE, folds=3, train=small)[0]
    run_task(task, threads=1, train=small)
    assert task.is_done


@pytest.mark.parametrize(
    ("cells", "options", "said"),
    [
        (ONE, {"scheduler": "tcp://127.0.0.1:1"}, "no Dask scheduler answers at tcp://127.0.0.1:1"),
        (cell_settings({"a": {"classes": ["Flu"]}}), {}, "unknown class of a: 'Flu'; available: Bacteria, COVID-19"),
        (ONE, {"folds": 20}, "class '.*' has 12 films; give 2 to so many folds"),
    ],
)
def test_mistakes_are_told(run_dir, cells, options, said, monkeypatch):
    monkeypatch.setattr(sweep, "PATIENCE", 1)
    with pytest.raises(CovidxrError, match=said):
        run_sweep(run_dir, cells, **{"train": small, **options})


def test_workers_that_do_not_see_the_run_folder_are_told_of(run_dir, monkeypatch):
    monkeypatch.setattr("covidxr.tasks.Task.is_done", True)
    with pytest.raises(CovidxrError, match="is missing though its training is done; a cluster's workers must see"):
        run_sweep(run_dir, ONE, train=small)
