"""Going on after a kill: the same history and weights as without one, whatever the moment; and only the same training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidxr import resume
from covidxr.errors import CovidxrError
from covidxr.model import build_baseline
from covidxr.train import Films, fit, read_model

PLATEAU = {"epochs": 9, "patience": 3, "warmup_epochs": 1.5, "policy": "anatomical", "learning_rate": 4e-2}
ONE_CYCLE = {"epochs": 4, "schedule": "one-cycle", "policy": "none"}
DEAD = {"epochs": 3, "policy": "none", "dead": True}
EVERYWHERE = [
    ["batch", 0, 1],  # before there is any checkpoint
    ["batch", 2, 2],
    ["half a checkpoint", 3],
    ["checkpoint", 4],
    ["model"],
    ["history"],
]
RUNS = {
    "plateau": (PLATEAU, []),
    "plateau killed": (PLATEAU, EVERYWHERE),
    "one-cycle": (ONE_CYCLE, []),
    "one-cycle killed": (ONE_CYCLE, [["seconds", 0.7], ["half a checkpoint", 2], ["batch", 3, 1]]),
    "dead": (DEAD, []),
    "dead killed": (DEAD, [["restart"], ["batch", 1, 0]]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders of all trainings, and the signals that ended their processes."""
    root = tmp_path_factory.mktemp("runs")
    script = Path(__file__).parent / "killed_trainings.py"
    done = subprocess.run([sys.executable, script, root, json.dumps(RUNS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout.splitlines()[-1]), done


@pytest.mark.parametrize("name", ["plateau", "one-cycle", "dead"])
def test_a_killed_training_ends_as_if_it_had_not_been(runs, name):
    root, ends, _ = runs
    killed = root / f"{name} killed"
    assert ends[name] == [0] and ends[killed.name] == [9] * len(RUNS[killed.name][1]) + [0]
    assert (killed / "history.csv").read_bytes() == (root / name / "history.csv").read_bytes()
    with np.load(killed / "end.npz") as found, np.load(root / name / "end.npz") as expected:
        assert len(found.files) == len(expected.files) > 8
        for array in expected.files:
            np.testing.assert_array_equal(found[array], expected[array])
    kept, again = (read_model(folder).get_weights() for folder in (root / name, killed))
    assert all((one == other).all() for one, other in zip(kept, again, strict=True))
    assert sorted(path.name for path in killed.iterdir()) == ["end.npz", "history.csv", "model.keras"]


def test_the_trainings_had_something_to_forget(runs):
    root, _, done = runs
    plateau, one_cycle, dead = (pd.read_csv(root / name / "history.csv") for name in ("plateau", "one-cycle", "dead"))
    assert plateau.learning_rate.iloc[-1] < plateau.learning_rate.max()  # halved on a plateau
    assert len(plateau) == plateau.val_loss.idxmin() + 1 + 3 < 9  # and stopped
    assert one_cycle.learning_rate.iloc[-1] < 0.1 * one_cycle.learning_rate.max()
    assert dead.seed.unique().tolist() == [1000] and dead.loss.iloc[-1] < dead.loss[0]
    for epoch in (2, 4, len(plateau)):  # mid-epoch and mid-write, after the write, after the end
        assert f"Going on after epoch {epoch}," in done.stdout


def films():
    return Films(np.random.default_rng(0).integers(0, 255, (12, 9, 9), np.uint8), np.arange(12) % 3)


def started(tmp_path, monkeypatch):
    """Break a training off in its second epoch, and return what it is called with."""
    options = {"epochs": 3, "policy": "none", "seed": 0}

    def breaks(*args):
        monkeypatch.undo()
        resume.save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr("covidxr.tries.resume.save", breaks)
    with pytest.raises(KeyboardInterrupt):
        fit(build_baseline(9), films(), films(), 3, tmp_path, **options)
    return options


def test_another_training_starts_from_the_beginning(tmp_path, monkeypatch, capsys):
    options = started(tmp_path, monkeypatch) | {"seed": 1, "epochs": 2}
    history = fit(build_baseline(9), films(), films(), 3, tmp_path, **options)
    assert history.epoch.tolist() == [1, 2] and history.seed.tolist() == [1, 1]
    assert "is of another training (epochs, seed differ)" in capsys.readouterr().out


def test_other_films_or_weights_are_another_training(tmp_path):
    first = resume.identity(build_baseline(9), [films()], {})
    other = Films(films().images[::-1], films().labels)
    assert resume.identity(build_baseline(9), [other], {})["films"] != first["films"]
    assert resume.identity(build_baseline(9, seed=1), [films()], {})["start"] != first["start"]
    frozen = build_baseline(9)
    frozen.get_layer("dense_1").trainable = False
    assert resume.identity(frozen, [films()], {})["start"] != first["start"]
    assert resume.identity(build_baseline(9), [films()], {}) == first


def test_a_damaged_checkpoint_is_said_and_training_starts_anew(tmp_path, monkeypatch, capsys):
    options = started(tmp_path, monkeypatch)
    path = tmp_path / "training" / resume.CHECKPOINT
    path.write_bytes(path.read_bytes()[:3000])
    assert len(fit(build_baseline(9), films(), films(), 3, tmp_path, **options)) == 3
    assert "checkpoint.npz is damaged" in capsys.readouterr().out
    assert not path.parent.exists()


def test_a_folder_that_cannot_be_written_is_an_error_not_a_silent_loss(tmp_path):
    (tmp_path / "training").write_text("a file where the folder should be")
    with pytest.raises((CovidxrError, OSError)):
        fit(build_baseline(9), films(), films(), 3, tmp_path, epochs=1, policy="none")
