"""Schedules, collapse and restarts, checkpoints and resuming."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from stand_ins import LabelledImages, dataset_of, striped

from covidxr.evaluation.metrics import predict
from covidxr.model.networks import build_baseline, load_model
from covidxr.training.callbacks import (
    _MIN_DELTA,
    CHECKPOINT,
    Schedule,
    _has_collapsed,
    _save_checkpoint,
    config_fingerprint,
    reinitialise_head,
)
from covidxr.training.fit import TrainingConfig, fit
from covidxr.training.hardware import choose_precision
from covidxr.utils import CovidxrError

LOSSES = [1.0, 0.9, 0.9, 0.95, 0.85, 0.86, 0.84999, 0.9, 0.5, np.nan, 0.6, 0.7]


def one_cycle(epochs=10, steps=20):
    plan = Schedule("one-cycle", 0.02, steps=steps, epochs=epochs)
    return np.array([plan.at(step) for step in range(epochs * steps + 1)])


def test_one_cycle_rises_falls_and_dies_away_while_the_momentum_mirrors_it():
    rates, momenta = one_cycle().T
    assert rates.argmax() == momenta.argmin() == 90 and rates.max() == 0.02 and momenta.min() == 0.85
    assert rates[0] == rates[180] == pytest.approx(0.002) and rates[-1] == pytest.approx(0.00002)
    assert (np.diff(rates[:91]) > 0).all() and (np.diff(rates[90:]) < 0).all()
    assert (np.diff(momenta[:91]) < 0).all() and (np.diff(momenta[90:181]) > 0).all() and (momenta[180:] == 0.95).all()
    np.testing.assert_allclose(np.diff(rates[:91]), 0.018 / 90)  # straight lines


def test_one_cycle_takes_no_notice_of_losses_and_runs_to_its_end():
    plan = Schedule("one-cycle", 0.02, steps=20, epochs=10, patience=1)
    assert plan.at(50, LOSSES) == plan.at(50)
    assert not plan.is_over([0.1] + 8 * [1.0]) and plan.is_over([0.1] + 9 * [1.0])


def test_plateau_warms_up_and_then_halves_as_keras_does():
    plan = Schedule("plateau", 0.1, steps=4, epochs=99, warmup_epochs=1.5, patience=6)
    np.testing.assert_allclose(
        [plan.at(step).rate for step in range(8)], [0.1 * n / 6 for n in (1, 2, 3, 4, 5, 6, 6, 6)]
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    ours = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=2, min_delta=_MIN_DELTA)
    ours.set_model(model)
    ours.on_train_begin()
    for epoch, loss in enumerate(LOSSES):
        ours.on_epoch_end(epoch, {"val_loss": loss})
        rate = plan.at(4 * (epoch + 2), LOSSES[: epoch + 1]).rate
        assert rate == pytest.approx(float(model.optimizer.learning_rate)), epoch
    assert rate == pytest.approx(0.1 / 8)


def test_plateau_stops_after_its_patience_or_its_epochs():
    plan = Schedule("plateau", 0.1, steps=4, epochs=20, patience=3)
    over = [plan.is_over(LOSSES[:n]) for n in range(len(LOSSES) + 1)]
    assert over.index(True) == 12 and LOSSES[8] == np.nanmin(LOSSES)  # three epochs after the least, one of them NaN
    assert Schedule("plateau", 0.1, steps=4, epochs=2).is_over([1, 0.9])
    assert not plan.is_over([]) and plan._replace(epochs=0).is_over([])


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert Schedule("plateau", 0.1, steps=4, epochs=2).at(0) == (0.1, 0.9)


def test_an_unknown_schedule_is_refused_with_those_there_are():
    with pytest.raises(CovidxrError, match="unknown schedule 'onecycle'; available: plateau, one-cycle"):
        Schedule("onecycle", 0.1, steps=1, epochs=1).at(0)


def dead(model=None):
    """A network whose 64 units are inactive for every image."""
    model = model or build_baseline(9)
    kernel, bias = model.get_layer("dense_1").get_weights()
    model.get_layer("dense_1").set_weights([kernel, bias - 1e3])
    return model


def train(model, folder, reinitialise=reinitialise_head, **options):
    options = {"epochs": 5, "policy": "none", "batch_size": 8, "learning_rate": 1e-2, "warmup_epochs": 1} | options
    return fit(model, dataset_of(striped(), striped(seed=1)), TrainingConfig(**options), folder, reinitialise)


def test_a_collapse_is_reported_and_training_restarts(tmp_path):
    model = dead()
    with pytest.warns(UserWarning, match=r"seed 4 collapsed in epoch 1: .* restarts with seed 1004\."):
        history = train(model, tmp_path, seed=4)
    assert history.attrs["collapsed"] == [{"seed": 4, "epoch": 1}]
    assert history.seed.tolist() == [1004] * 5 and history.epoch.tolist() == [1, 2, 3, 4, 5]
    assert history.val_loss.iloc[-1] < 0.7 < history.val_loss[0]
    assert (predict(model, striped(seed=2).images).argmax(1) == striped(seed=2).labels).mean() > 0.9


def test_a_training_that_always_collapses_restarts_twice_from_its_initial_weights(tmp_path):
    model, starts, seeds = dead(), [], []
    first = [weight.copy() for weight in model.get_weights()]

    def reinitialise(model, seed):
        starts.append([weight.copy() for weight in model.get_weights()])
        seeds.append(seed)

    with pytest.warns(UserWarning, match="collapsed"):
        history = train(model, tmp_path, reinitialise=reinitialise, epochs=2)
    assert seeds == [1000, 2000] and [lost["seed"] for lost in history.attrs["collapsed"]] == [0, 1000]
    for start in starts:
        assert all((one == other).all() for one, other in zip(start, first, strict=True))
    assert history.seed.tolist() == [2000, 2000]  # the last attempt is kept as it is


def test_a_training_without_a_finite_loss_ends_in_one_sentence(tmp_path):
    with pytest.warns(UserWarning, match="collapsed"), pytest.raises(CovidxrError, match="no finite validation loss"):
        train(build_baseline(9), tmp_path, learning_rate=1e30, warmup_epochs=0, epochs=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [1e-2, 1e-9])
def test_without_a_collapse_nothing_restarts(tmp_path, rate):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = train(build_baseline(9), tmp_path, learning_rate=rate, epochs=2)
    assert history.seed.tolist() == [0, 0] and history.attrs["collapsed"] == []


@pytest.mark.parametrize(("loss", "checked"), [(0.5, False), (1.09, True), (8.0, True), (np.nan, True)])
def test_predictions_are_checked_only_if_the_loss_is_at_chance(loss, checked):
    assert _has_collapsed(dead(), striped(), loss) == checked
    assert not _has_collapsed(build_baseline(9), striped(), loss)


def test_the_chance_loss_is_lower_for_unequal_classes():
    sample_images = LabelledImages(striped(20).images, np.array([0] * 19 + [1]))
    assert _has_collapsed(dead(), sample_images, 0.2) and not _has_collapsed(dead(), sample_images, 0.1)


def test_a_reinitialised_head_depends_on_its_seed():
    models = [dead(build_baseline(9)) for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        reinitialise_head(model, seed)
    one, same, other = (model.get_layer("dense_1").get_weights() for model in models)
    np.testing.assert_array_equal(one[0], same[0])
    assert (one[0] != other[0]).any() and (one[1] == 0).all()
    assert [int(model.get_layer("dropout").seed_generator.state[0]) for model in models] == [5, 5, 6]


PLATEAU = {"epochs": 9, "patience": 3, "warmup_epochs": 1.5, "policy": "anatomical", "learning_rate": 4e-2}
ONE_CYCLE = {"epochs": 4, "schedule": "one-cycle", "policy": "none"}
DEAD = {"epochs": 3, "policy": "none", "dead": True}
EVERY_MOMENT = [
    ["batch", 0, 1],  # before there is any checkpoint
    ["batch", 2, 2],
    ["half a checkpoint", 3],
    ["checkpoint", 4],
    ["model"],
    ["history"],
]
RUNS = {
    "plateau": (PLATEAU, []),
    "plateau killed": (PLATEAU, EVERY_MOMENT),
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
def test_a_killed_training_resumes_to_the_same_result(runs, name):
    root, ends, _ = runs
    killed = root / f"{name} killed"
    assert ends[name] == [0] and ends[killed.name] == [9] * len(RUNS[killed.name][1]) + [0]
    assert (killed / "history.csv").read_bytes() == (root / name / "history.csv").read_bytes()
    with np.load(killed / "end.npz") as found, np.load(root / name / "end.npz") as expected:
        assert len(found.files) == len(expected.files) > 8
        for array in expected.files:
            np.testing.assert_array_equal(found[array], expected[array])
    kept, again = (load_model(folder).get_weights() for folder in (root / name, killed))
    assert all((one == other).all() for one, other in zip(kept, again, strict=True))
    assert sorted(path.name for path in killed.iterdir()) == ["end.npz", "history.csv", "model.keras"]


def test_the_killed_trainings_had_state_to_lose(runs):
    root, _, done = runs
    plateau, one_cycle, dead = (pd.read_csv(root / name / "history.csv") for name in ("plateau", "one-cycle", "dead"))
    assert plateau.learning_rate.iloc[-1] < plateau.learning_rate.max()  # halved on a plateau
    assert len(plateau) == plateau.val_loss.idxmin() + 1 + 3 < 9  # and stopped
    assert one_cycle.learning_rate.iloc[-1] < 0.1 * one_cycle.learning_rate.max()
    assert dead.seed.unique().tolist() == [1000] and dead.loss.iloc[-1] < dead.loss[0]
    for epoch in (2, 4, len(plateau)):  # mid-epoch and mid-write, after the write, after the end
        assert f"Resuming after epoch {epoch}," in done.stdout


def sample_images():
    return LabelledImages(np.random.default_rng(0).integers(0, 255, (12, 9, 9), np.uint8), np.arange(12) % 3)


def short_training(folder, **options):
    options = {"epochs": 3, "policy": "none", "batch_size": 32, "warmup_epochs": 1} | options
    return fit(build_baseline(9), dataset_of(sample_images(), sample_images()), TrainingConfig(**options), folder)


def interrupted(tmp_path, monkeypatch):
    """Interrupt a training after its first epoch."""

    def breaks(*args):
        monkeypatch.undo()
        _save_checkpoint(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr("covidxr.training.callbacks._save_checkpoint", breaks)
    with pytest.raises(KeyboardInterrupt):
        short_training(tmp_path)


def test_another_training_starts_from_the_beginning(tmp_path, monkeypatch, capsys):
    interrupted(tmp_path, monkeypatch)
    history = short_training(tmp_path, seed=1, epochs=2)
    assert history.epoch.tolist() == [1, 2] and history.seed.tolist() == [1, 1]
    assert "is of another training (epochs, seed differ)" in capsys.readouterr().out


def test_other_images_weights_or_sources_are_another_training():
    def fingerprint(model=None, images=None, sources=None, **settings):
        dataset = dataset_of(images or sample_images(), sample_images(), sources)
        config = TrainingConfig(**settings)
        return config_fingerprint(
            model or build_baseline(9), dataset.split("train"), dataset.split("validation"), config
        )

    first = fingerprint()
    other = LabelledImages(sample_images().images[::-1], sample_images().labels)
    assert fingerprint(images=other)["images"] != first["images"]
    assert fingerprint(build_baseline(9, seed=1))["initial_weights"] != first["initial_weights"]
    frozen = build_baseline(9)
    frozen.get_layer("dense_1").trainable = False
    assert fingerprint(frozen)["initial_weights"] != first["initial_weights"]
    places = list("ab" * 12)
    assert fingerprint(balance=True, sources=places)["images"] != fingerprint(balance=True)["images"]
    assert fingerprint(precision="mixed_float16")["precision"] != fingerprint(precision="float32")["precision"]
    assert fingerprint(precision="auto") == fingerprint(precision=choose_precision("auto")) == first
    assert fingerprint(weights=Path("own.npz"))["weights"] == "own.npz"  # JSON has no paths
    assert fingerprint() == fingerprint(sources=places) == fingerprint(devices="all") == first


def test_a_damaged_checkpoint_is_reported_and_training_starts_anew(tmp_path, monkeypatch, capsys):
    interrupted(tmp_path, monkeypatch)
    path = tmp_path / "training" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:3000])
    assert len(short_training(tmp_path)) == 3
    assert "checkpoint.npz is damaged" in capsys.readouterr().out
    assert not path.parent.exists()


def test_a_folder_that_cannot_be_written_is_an_error_not_a_silent_loss(tmp_path):
    (tmp_path / "training").write_text("a file where the folder should be")
    with pytest.raises((CovidxrError, OSError)):
        short_training(tmp_path, epochs=1)
