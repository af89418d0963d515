"""Progressive resizing: what is carried over, that films are decoded once, and that a break loses nothing."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import pytest

from covidxr import pixels, stages, train
from covidxr.dataset import assemble
from covidxr.errors import CovidxrError
from covidxr.evaluate import predict
from covidxr.model import build_baseline, build_vgg16
from covidxr.stages import carry_weights, films_of_size, fit_stages, plan_stages
from covidxr.train import Films, read_model

TWO = [{"image_size": 9, "epochs": 3}, {"image_size": 18, "epochs": 2, "learning_rate": 1e-3}]
OPTIONS = {"policy": "none", "batch_size": 8, "learning_rate": 2e-2}


def striped(size=9, n=24, seed=0) -> Films:
    """Films of three classes, told apart by which third of them is bright; larger ones are the same, enlarged."""
    rng = np.random.default_rng(seed)
    films, labels = rng.integers(0, 120, (n, 9, 9), np.uint8), np.arange(n) % 3
    for film, label in zip(films, labels, strict=True):
        film[:, 3 * label : 3 * label + 3] += 90
    return Films(films.repeat(size // 9, 1).repeat(size // 9, 2), labels)


def films_at(size):
    return {"train": striped(size), "validation": striped(size, seed=1)}


def pointwise(size, pool=3):
    """Convolutions of one pixel, so that enlarging a film by a factor enlarges all maps by it and changes nothing else."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential([
        keras.Input((size, size, 3)),
        layers.Conv2D(5, 1, activation="relu", name="conv"),
        layers.AveragePooling2D(pool, name="average_pool"),
        layers.Flatten(name="flatten"),
        layers.Dense(7, "relu", name="dense_1"),
        layers.Dense(3, "softmax", name="dense_2"),
    ])  # fmt: skip


@pytest.mark.parametrize(("old", "new"), [(9, 18), (9, 45), (18, 36)])
def test_on_enlarged_films_the_carried_network_says_the_same(old, new):
    small, large = pointwise(old), pointwise(new)
    large.set_weights([0 * weight for weight in large.get_weights()])
    carry_weights(small, large)
    film = np.random.default_rng(0).random((4, old, old, 3), "float32")
    enlarged = film.repeat(new // old, 1).repeat(new // old, 2)
    np.testing.assert_allclose(large.predict_on_batch(enlarged), small.predict_on_batch(film), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(9, 15), (15, 9), (21, 33)])
def test_on_even_films_it_says_the_same_whatever_the_sizes(old, new):
    small, large = pointwise(old), pointwise(new)
    carry_weights(small, large)
    greys = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None, None]
    expected = small.predict_on_batch(np.broadcast_to(greys, (5, old, old, 3)))
    assert np.ptp(expected, axis=0).max() > 100 * 1e-5
    np.testing.assert_allclose(large.predict_on_batch(np.broadcast_to(greys, (5, new, new, 3))), expected, atol=1e-5)


def test_vgg16_keeps_its_convolutions_and_shares_its_head_out():
    small, large = build_vgg16(64, freeze="none"), build_vgg16(224, seed=1)
    carry_weights(small, large)
    for one, other in zip(small.layers, large.layers, strict=True):
        if one.name != "dense_1":
            assert all((a == b).all() for a, b in zip(one.get_weights(), other.get_weights(), strict=True)), one.name
    assert all(layer.trainable for layer in large.layers)  # what is trained is carried over too
    before, after = (model.get_layer("dense_1").get_weights()[0] for model in (small, large))
    assert before.shape == (512, 64) and after.shape == (4 * 512, 64)
    np.testing.assert_allclose(after.reshape(4, 512, 64), np.stack([before / 4] * 4), rtol=1e-6)


def test_a_network_that_does_not_fit_names_the_first_layer():
    with pytest.raises(
        CovidxrError, match=r"layer 'dense_2' has arrays of shapes \[\(64, 4\), \(4,\)\], those to carry"
    ):
        carry_weights(build_baseline(9), build_baseline(9, n_classes=4))
    with pytest.raises(CovidxrError, match="a network of 6 layers gives none to one of 5"):
        carry_weights(build_baseline(9), pointwise(9))


def test_training_goes_on_where_the_small_films_left_it(tmp_path):
    model, history = fit_stages(build_baseline(9), TWO, build_baseline, films_at, 3, tmp_path, **OPTIONS)
    assert history.stage.tolist() == ["1: 9 px"] * 3 + ["2: 18 px"] * 2 and history.epoch.tolist() == [1, 2, 3, 4, 5]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), history)
    first, start = history.val_loss[2], history.val_loss[3]
    assert history.val_loss[0] > first and start < first + 0.1  # no step back
    assert history.learning_rate[4] == 1e-3 and history.attrs["collapsed"] == []
    np.testing.assert_array_equal(predict(read_model(tmp_path), striped(18).images), predict(model, striped(18).images))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "model.keras"]


@pytest.mark.parametrize("damaged", [None, "model.keras", "history.csv"])
def test_a_break_in_the_second_stage_loses_neither_and_what_is_damaged_is_trained_again(damaged, tmp_path, monkeypatch):
    def run(folder):
        return fit_stages(build_baseline(9), TWO, build_baseline, films_at, 3, folder, **OPTIONS)[1]

    expected, trained, leave = run(tmp_path / "whole"), [], train._leave

    def breaks(run_dir, *args):
        if run_dir == tmp_path / "broken":
            raise KeyboardInterrupt
        leave(run_dir, *args)

    monkeypatch.setattr(train, "_leave", breaks)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken")
    monkeypatch.undo()
    for path in (tmp_path / "broken" / "stages").rglob(damaged or "none"):
        path.write_bytes(b"")
    monkeypatch.setattr(stages, "fit", lambda *a, **k: trained.append(k["epochs"]) or train.fit(*a, **k))
    pd.testing.assert_frame_equal(run(tmp_path / "broken"), expected)
    assert trained == ([TWO[0]["epochs"], 2] if damaged else [2])  # a sound first stage is read, not trained


def test_films_of_each_size_are_decoded_once(tmp_path, monkeypatch):
    run = assemble(per_class=2, image_size=32, work_dir=tmp_path)
    run.manifest["split"] = ["train", "validation"] * 3
    classes = ["Normal", "COVID-19", "Bacteria"]
    decoded, decode = [], pixels.decode_films
    monkeypatch.setattr(
        pixels, "decode_films", lambda paths, size: decoded.append((len(paths), size)) or decode(paths, size)
    )
    for size in (32, 48, 48):
        films = films_of_size(tmp_path, run, classes, size)
        assert films["train"].images.shape == (3, size, size) and films["train"].labels.tolist() == [0, 1, 2]
    assert [found for found in decoded if found[0]] == [(6, 48)]
    assert (tmp_path / "pixels-48.npz").exists()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([{"image_size": 64}], "stage 1 lacks epochs; it has image_size"),
        (
            [{"image_size": 64, "epochs": 1, "epoch": 2}],
            "unknown option of stage 1 'epoch'; available: image_size, epochs",
        ),
        (
            [{"image_size": 100, "epochs": 1}, {"image_size": 64, "epochs": 1}],
            "last stage has films of 64 pixels, the run",
        ),
    ],
)
def test_stages_that_make_no_sense_are_refused(plan, message):
    with pytest.raises(CovidxrError, match=message):
        plan_stages(plan, 100, 9)


def test_stages_are_taken_as_they_are_and_none_is_one():
    assert plan_stages(TWO, 18, 9) == TWO and plan_stages([], 18, 9) == [{"image_size": 18, "epochs": 9}]
