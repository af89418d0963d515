"""Training: which epoch is kept, what the learning rate does, that seeds hold, and that a broken run loses nothing."""

from __future__ import annotations

import random

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from covidxr import tries
from covidxr.augment import AugmentedBatches, build_policy
from covidxr.errors import CovidxrError
from covidxr.evaluate import predict
from covidxr.model import build_baseline
from covidxr.probe import start_head
from covidxr.train import Films, features, films_by_split, fit, fit_head, read_model, set_seed

COLUMNS = ["epoch", "accuracy", "loss", "val_accuracy", "val_loss", "learning_rate", "stage", "seed"]


def striped(n=24, seed=0, contrast=90) -> Films:
    """Films of three classes, told apart by which third of them is bright."""
    rng = np.random.default_rng(seed)
    films, labels = rng.integers(0, 120, (n, 9, 9), np.uint8), np.arange(n) % 3
    for film, label in zip(films, labels, strict=True):
        film[:, 3 * label : 3 * label + 3] += contrast
    return Films(films, labels)


def mislabelled(films) -> Films:
    """The same films with the next class' label: the better they are learnt, the greater the loss on these."""
    return Films(films.images, (films.labels + 1) % 3)


def run(tmp_path, held_out=None, model=None, **options):
    films, model = striped(), model or build_baseline(9)
    options = {"epochs": 3, "policy": "none", "batch_size": 8, "learning_rate": 1e-2} | options
    return model, fit(model, films, striped(seed=1) if held_out is None else held_out, 3, tmp_path, **options)


def cross_entropy(model, films) -> float:
    return float(-np.log(predict(model, films.images)[np.arange(len(films.labels)), films.labels]).mean())


def watch(monkeypatch, class_):
    """Let a callback of ours ride along in place of the progress bar's."""
    monkeypatch.setattr(tries, "TqdmCallback", lambda **options: class_)
    return class_


class Rates(keras.callbacks.Callback):
    """Keep the learning rate of each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(self.model.optimizer.learning_rate))


class Breaks(keras.callbacks.Callback):
    """Break off when the first epoch has been kept."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise self.error


def test_the_epoch_of_least_validation_loss_is_kept(tmp_path):
    films = striped()
    muddled = Films(films.images, np.where(np.arange(24) < 9, (films.labels + 1) % 3, films.labels))
    model, history = run(tmp_path, muddled, epochs=12)
    kept = history.val_loss.idxmin()
    assert 0 < kept < len(history) - 1  # planted: learnt too well, the wrong labels cost more and more
    assert cross_entropy(model, muddled) == pytest.approx(history.val_loss[kept], rel=1e-4)
    np.testing.assert_array_equal(predict(read_model(tmp_path), films.images), predict(model, films.images))
    right = predict(model, films.images).argmax(1) == muddled.labels
    assert right.mean() == pytest.approx(history.val_accuracy[kept])


def test_the_history_is_written_and_training_learns(tmp_path):
    model, history = run(tmp_path / "new" / "run", epochs=6)
    assert history.columns.tolist() == COLUMNS and history.epoch.tolist() == [1, 2, 3, 4, 5, 6]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "run" / "history.csv"), history)
    assert sorted(path.name for path in (tmp_path / "new" / "run").iterdir()) == ["history.csv", "model.keras"]
    assert history.val_loss.min() < 0.5 * history.val_loss[0]
    assert (predict(model, striped(seed=7).images).argmax(1) == striped(seed=7).labels).mean() > 0.9


def test_a_seed_fixes_the_run_and_another_changes_it(tmp_path):
    histories = [run(tmp_path, policy="article", seed=seed)[1] for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(histories[0], histories[1])
    assert (histories[0].loss != histories[2].loss).all()


def test_the_rate_rises_linearly_then_halves_on_a_plateau_and_training_stops(tmp_path, monkeypatch):
    rates = watch(monkeypatch, Rates())
    _, history = run(tmp_path, mislabelled(striped()), epochs=20, warmup_epochs=4 / 3, patience=7)
    per_epoch, warm = 3, 4
    np.testing.assert_allclose(rates.seen[:warm], [0.0025, 0.005, 0.0075, 0.01], rtol=1e-5)
    assert len(history) == history.val_loss.idxmin() + 1 + 7 < 20
    np.testing.assert_allclose(rates.seen[per_epoch - 1 :: per_epoch], history.learning_rate, rtol=1e-5)
    after = np.array(rates.seen[warm:])
    np.testing.assert_allclose(after[1:] / after[:-1], np.where(np.diff(after) < 0, 0.5, 1), rtol=1e-5)
    assert after[0] == pytest.approx(0.01) and after[-1] == pytest.approx(0.01 / 8)  # after a third of 7 epochs each


def test_without_warm_up_the_rate_is_there_at_once(tmp_path, monkeypatch):
    rates = watch(monkeypatch, Rates())
    run(tmp_path, epochs=1, warmup_epochs=0)
    np.testing.assert_allclose(rates.seen, 0.01, rtol=1e-5)


def test_only_training_films_are_augmented(tmp_path, monkeypatch):
    shown = []
    batches = tries.AugmentedBatches
    monkeypatch.setattr(tries, "AugmentedBatches", lambda *a, **k: shown.append((a, k)) or batches(*a, **k))
    run(tmp_path, epochs=1, policy="anatomical", seed=4)
    ((images, labels, n_classes, policy), options) = shown[0]
    assert images.tobytes() == striped().images.tobytes() and labels.tolist() == striped().labels.tolist()
    assert (
        policy.recipe[0] == "anatomical" and options == {"batch_size": 8, "seed": 4, "weights": None} and n_classes == 3
    )


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_run_that_breaks_off_leaves_the_old_model_whole(tmp_path, monkeypatch, error):
    run(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    watch(monkeypatch, Breaks(error))
    with pytest.raises(type(error)):
        run(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert {path.name for path in tmp_path.iterdir()} == {*before, "training"}


def test_a_run_that_never_had_a_finite_loss_is_no_model(tmp_path):
    with pytest.raises(CovidxrError, match=r"no finite validation loss in 3 epochs at learning rate .*; lower"):
        run(tmp_path, learning_rate=1e30, warmup_epochs=0)
    assert list(tmp_path.iterdir()) == []


def test_films_by_split_keeps_films_and_labels_together():
    manifest = pd.DataFrame(
        {"label": list("babcab"), "split": ["test", "train", "validation", "train", "test", "train"]}
    )
    pixels = np.arange(6, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    films = films_by_split(manifest.sample(frac=1, random_state=0).sort_index(), pixels, ["c", "b", "a"])
    found = {split: (part.images[:, 0, 0].tolist(), part.labels.tolist()) for split, part in films.items()}
    assert found == {"train": ([1, 3, 5], [2, 0, 1]), "validation": ([2], [1]), "test": ([0, 4], [1, 2])}
    assert films["train"].labels.dtype.kind == "i"


@pytest.mark.parametrize(
    ("rows", "classes", "message"),
    [(5, ["a", "b"], "has 6 rows, but there are 5 films"), (6, ["a"], "unknown label 'b'; available: a")],
)
def test_films_that_do_not_fit_the_manifest_are_refused(rows, classes, message):
    manifest = pd.DataFrame({"label": list("ababab"), "split": ["train"] * 6})
    with pytest.raises(CovidxrError, match=message):
        films_by_split(manifest, np.zeros((rows, 4, 4), np.uint8), classes)


def convolutional():
    """A chain like VGG16 in small: convolution, pooling, flatten, two dense layers."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((9, 9, 3))
    for layer in (
        keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
        keras.layers.AveragePooling2D(2, name="pool"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(8, "relu", name="dense_1"),
        keras.layers.Dense(3, "softmax", name="dense_2"),
    ):
        x = layer(x)
    return keras.Model(inputs, x)


def test_the_head_learns_on_features_and_what_is_before_stays(tmp_path):
    model, films, new = convolutional(), striped(60), striped(60, seed=1)
    before = model.get_layer("conv").get_weights()
    values = features(model, films.images)
    history = fit_head(model, values, films.labels, epochs=20, learning_rate=2e-2)
    assert len(history) == 20 and history.loss.iloc[-1] < 0.3 * history.loss[0]
    assert (predict(model, new.images).argmax(1) == new.labels).mean() > 0.9
    for kernel, old in zip(model.get_layer("conv").get_weights(), before, strict=True):
        np.testing.assert_array_equal(kernel, old)
    assert model.get_layer("conv").trainable
    again = fit_head(convolutional(), values, films.labels, epochs=20, learning_rate=2e-2)
    pd.testing.assert_frame_equal(again, history)


def test_the_head_may_begin_earlier_or_later():
    model = convolutional()
    first = model.get_layer("dense_1").get_weights()[0]
    values = features(model, striped().images, "dense_1")
    last = model.get_layer("dense_2").get_weights()[0]
    fit_head(model, values, striped().labels, epochs=1, from_layer="dense_1")
    np.testing.assert_array_equal(model.get_layer("dense_1").get_weights()[0], first)
    assert (model.get_layer("dense_2").get_weights()[0] != last).any()


@pytest.mark.parametrize(("layer", "shape"), [("flatten", (36,)), ("pool", (3, 3, 4)), ("dense_2", (3,))])
def test_features_are_a_layers_outputs_however_they_are_batched(layer, shape):
    model, films = convolutional(), striped(7).images
    whole = features(model, films, layer)
    assert whole.shape == (7, *shape) and whole.dtype == np.float32
    np.testing.assert_allclose(features(model, films, layer, batch_size=3), whole, rtol=1e-4, atol=1e-6)
    if layer == "dense_2":
        np.testing.assert_allclose(whole, predict(model, films), rtol=1e-5)


def test_a_started_head_knows_the_films_and_is_its_seeds():
    films = striped(60)
    batches = AugmentedBatches(*films, 3, build_policy("none"), batch_size=20)
    models = [convolutional() for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        start_head(model, seed, batches, epochs=60)
    one, same, other = (predict(model, films.images) for model in models)
    assert (one.argmax(1) == films.labels).mean() > 0.7
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_reading_a_model_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(CovidxrError, match=f"{tmp_path} holds no model.keras; run notebook 03_fine_tuning first"):
        read_model(tmp_path)


def test_a_seed_reaches_python_numpy_and_tensorflow():
    def draw(seed):
        set_seed(seed)
        return random.random(), np.random.random(), float(tf.random.uniform(()))

    assert draw(3) == draw(3)
    assert all(a != b for a, b in zip(draw(3), draw(4), strict=True))


def test_no_epochs_leave_the_model_as_it_is_and_measure_it(tmp_path):
    rng = np.random.default_rng(0)
    films = Films(rng.integers(0, 255, (12, 9, 9), np.uint8), np.arange(12) % 3)
    model = build_baseline(9)
    before = model.get_weights()
    history = fit(model, films, films, 3, tmp_path, epochs=0)
    assert history.epoch.tolist() == [0] and history.val_accuracy[0] == history.accuracy[0]
    right = (predict(read_model(tmp_path), films.images).argmax(1) == films.labels).mean()
    assert right == pytest.approx(history.val_accuracy[0])
    assert all((old == new).all() for old, new in zip(before, model.get_weights(), strict=True))
    assert (tmp_path / "history.csv").exists() and not (tmp_path / "training").exists()
