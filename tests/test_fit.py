"""Training: the kept epoch, learning rates, seeds, interruptions, the head warm-up and progressive resizing."""

from __future__ import annotations

import importlib
import random

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from stand_ins import LabelledImages, dataset_of, striped

from covidxr._keras import set_seed
from covidxr.ablation import BASELINE, Variant, default_variants, make_variants
from covidxr.augmentation import AugmentedBatches, build_policy
from covidxr.data import images
from covidxr.data.dataset import Dataset, build_dataset
from covidxr.data.images import read_images
from covidxr.evaluation.metrics import predict
from covidxr.model.networks import build_baseline, build_vgg16, embed, load_model, transfer_weights
from covidxr.model.weights import WeightsRecord
from covidxr.training import callbacks
from covidxr.training.fit import (
    TrainingConfig,
    _save_result,
    dataset_at_size,
    fit,
    fit_progressively,
    initialise,
    plan_resizing,
    train_network,
    warm_up_head,
)
from covidxr.training.head import fit_head, reinitialise_and_fit_head
from covidxr.utils import CovidxrError

fit_module = importlib.import_module("covidxr.training.fit")  # the package hands out the function of that name

COLUMNS = ["epoch", "accuracy", "loss", "val_accuracy", "val_loss", "learning_rate", "stage", "seed"]


def mislabelled(sample_images) -> LabelledImages:
    """The same images with the next class' label: the better they are learnt, the greater the loss on these."""
    return LabelledImages(sample_images.images, (sample_images.labels + 1) % 3)


def run(tmp_path, held_out=None, model=None, **options):
    model = model or build_baseline(9)
    options = {"epochs": 3, "policy": "none", "batch_size": 8, "learning_rate": 1e-2, "warmup_epochs": 1} | options
    dataset = dataset_of(striped(), striped(seed=1) if held_out is None else held_out)
    return model, fit(model, dataset, TrainingConfig(**options), tmp_path)


def cross_entropy(model, sample_images) -> float:
    return float(
        -np.log(predict(model, sample_images.images)[np.arange(len(sample_images.labels)), sample_images.labels]).mean()
    )


def watch(monkeypatch, class_):
    """Use a callback of the test in place of the progress bar."""
    monkeypatch.setattr(callbacks, "TqdmCallback", lambda **options: class_)
    return class_


class Rates(keras.callbacks.Callback):
    """Keep the learning rate of each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(self.model.optimizer.learning_rate))


class Interruption(keras.callbacks.Callback):
    """Interrupt training after the first checkpoint."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise self.error


def test_the_epoch_of_least_validation_loss_is_kept(tmp_path):
    sample_images = striped()
    muddled = LabelledImages(
        sample_images.images, np.where(np.arange(24) < 9, (sample_images.labels + 1) % 3, sample_images.labels)
    )
    model, history = run(tmp_path, muddled, epochs=12, precision="float32")
    kept = history.val_loss.idxmin()
    assert 0 < kept < len(history) - 1  # planted: learnt too well, the wrong labels cost more and more
    assert cross_entropy(model, muddled) == pytest.approx(history.val_loss[kept], rel=1e-4)
    np.testing.assert_array_equal(
        predict(load_model(tmp_path), sample_images.images), predict(model, sample_images.images)
    )
    right = predict(model, sample_images.images).argmax(1) == muddled.labels
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


def test_only_training_images_are_augmented(tmp_path, monkeypatch):
    shown = []
    batches = AugmentedBatches
    monkeypatch.setattr(callbacks, "AugmentedBatches", lambda *a, **k: shown.append((a, k)) or batches(*a, **k))
    run(tmp_path, epochs=1, policy="anatomical", seed=4)
    ((images, labels, n_classes, policy), options) = shown[0]
    assert images.tobytes() == striped().images.tobytes() and labels.tolist() == striped().labels.tolist()
    assert policy.recipe[0] == "anatomical" and options == {"batch_size": 8, "seed": 4} and n_classes == 3


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_an_interrupted_run_leaves_the_old_model_unchanged(tmp_path, monkeypatch, error):
    run(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    watch(monkeypatch, Interruption(error))
    with pytest.raises(type(error)):
        run(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert {path.name for path in tmp_path.iterdir()} == {*before, "training"}


def test_a_run_that_never_had_a_finite_loss_is_no_model(tmp_path):
    with pytest.raises(CovidxrError, match=r"no finite validation loss in 3 epochs at learning rate .*; lower"):
        run(tmp_path, learning_rate=1e30, warmup_epochs=0)
    assert list(tmp_path.iterdir()) == []


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


def test_the_head_is_fitted_on_embeddings_and_the_base_stays(tmp_path):
    model, sample_images, new = convolutional(), striped(60), striped(60, seed=1)
    before = model.get_layer("conv").get_weights()
    values = embed(model, sample_images.images)
    history = fit_head(model, values, sample_images.labels, epochs=20, learning_rate=2e-2)
    assert len(history) == 20 and history.loss.iloc[-1] < 0.3 * history.loss[0]
    assert (predict(model, new.images).argmax(1) == new.labels).mean() > 0.9
    for kernel, old in zip(model.get_layer("conv").get_weights(), before, strict=True):
        np.testing.assert_array_equal(kernel, old)
    assert model.get_layer("conv").trainable
    again = fit_head(convolutional(), values, sample_images.labels, epochs=20, learning_rate=2e-2)
    pd.testing.assert_frame_equal(again, history)


def test_the_head_may_begin_earlier_or_later():
    model = convolutional()
    first = model.get_layer("dense_1").get_weights()[0]
    values = embed(model, striped().images, "dense_1")
    last = model.get_layer("dense_2").get_weights()[0]
    fit_head(model, values, striped().labels, epochs=1, from_layer="dense_1")
    np.testing.assert_array_equal(model.get_layer("dense_1").get_weights()[0], first)
    assert (model.get_layer("dense_2").get_weights()[0] != last).any()


@pytest.mark.parametrize(("layer", "shape"), [("flatten", (36,)), ("pool", (3, 3, 4)), ("dense_2", (3,))])
def test_embeddings_do_not_depend_on_the_batch_size(layer, shape):
    model, sample_images = convolutional(), striped(7).images
    whole = embed(model, sample_images, layer)
    assert whole.shape == (7, *shape) and whole.dtype == np.float32
    np.testing.assert_allclose(embed(model, sample_images, layer, batch_size=3), whole, rtol=1e-4, atol=1e-6)
    if layer == "dense_2":
        np.testing.assert_allclose(whole, predict(model, sample_images), rtol=1e-5)


def test_a_warmed_up_head_classifies_and_depends_on_its_seed():
    sample_images = striped(60)
    batches = AugmentedBatches(*sample_images, 3, build_policy("none"), batch_size=20)
    models = [convolutional() for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        reinitialise_and_fit_head(model, seed, batches, epochs=60)
    one, same, other = (predict(model, sample_images.images) for model in models)
    assert (one.argmax(1) == sample_images.labels).mean() > 0.7
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_reading_a_model_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(CovidxrError, match=f"{tmp_path} holds no model.keras; run notebook 03_fine_tuning first"):
        load_model(tmp_path)


def test_a_seed_reaches_python_numpy_and_tensorflow():
    def draw(seed):
        set_seed(seed)
        return random.random(), np.random.random(), float(tf.random.uniform(()))

    assert draw(3) == draw(3)
    assert all(a != b for a, b in zip(draw(3), draw(4), strict=True))


def test_no_epochs_leave_the_model_as_it_is_and_measure_it(tmp_path):
    rng = np.random.default_rng(0)
    sample_images = LabelledImages(rng.integers(0, 255, (12, 9, 9), np.uint8), np.arange(12) % 3)
    model = build_baseline(9)
    before = model.get_weights()
    history = fit(model, dataset_of(sample_images, sample_images), TrainingConfig(epochs=0), tmp_path)
    assert history.epoch.tolist() == [0] and history.val_accuracy[0] == history.accuracy[0]
    right = (predict(load_model(tmp_path), sample_images.images).argmax(1) == sample_images.labels).mean()
    assert right == pytest.approx(history.val_accuracy[0])
    assert all((old == new).all() for old, new in zip(before, model.get_weights(), strict=True))
    assert (tmp_path / "history.csv").exists() and not (tmp_path / "training").exists()


TWO = [{"image_size": 9, "epochs": 3}, {"image_size": 18, "epochs": 2, "learning_rate": 1e-3}]
CONFIG = TrainingConfig(policy="none", batch_size=8, learning_rate=2e-2, warmup_epochs=1)


def enlarged(size=9, seed=0) -> LabelledImages:
    """Striped images, enlarged to a size."""
    small = striped(seed=seed)
    return LabelledImages(small.images.repeat(size // 9, 1).repeat(size // 9, 2), small.labels)


def dataset_at(size) -> Dataset:
    return dataset_of(enlarged(size), enlarged(size, seed=1))


def grow(folder):
    return fit_progressively((build_baseline(9), build_baseline), TWO, dataset_at, CONFIG, folder)


def pointwise(size, pool=3):
    """Convolutions of one pixel, so that enlarging an image by a factor enlarges all maps by it and changes nothing else."""
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
def test_on_enlarged_images_the_transferred_network_predicts_the_same(old, new):
    small, large = pointwise(old), pointwise(new)
    large.set_weights([0 * weight for weight in large.get_weights()])
    transfer_weights(small, large)
    image = np.random.default_rng(0).random((4, old, old, 3), "float32")
    enlarged = image.repeat(new // old, 1).repeat(new // old, 2)
    np.testing.assert_allclose(large.predict_on_batch(enlarged), small.predict_on_batch(image), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(9, 15), (15, 9), (21, 33)])
def test_on_uniform_images_it_predicts_the_same_for_all_sizes(old, new):
    small, large = pointwise(old), pointwise(new)
    transfer_weights(small, large)
    greys = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None, None]
    expected = small.predict_on_batch(np.broadcast_to(greys, (5, old, old, 3)))
    assert np.ptp(expected, axis=0).max() > 100 * 1e-5
    np.testing.assert_allclose(large.predict_on_batch(np.broadcast_to(greys, (5, new, new, 3))), expected, atol=1e-5)


def test_vgg16_keeps_its_convolutions_and_shares_its_head_out():
    small, large = build_vgg16(64, freeze="none"), build_vgg16(224, seed=1)
    transfer_weights(small, large)
    for one, other in zip(small.layers, large.layers, strict=True):
        if one.name != "dense_1":
            assert all((a == b).all() for a, b in zip(one.get_weights(), other.get_weights(), strict=True)), one.name
    assert all(layer.trainable for layer in large.layers)  # which layers are trained is transferred too
    before, after = (model.get_layer("dense_1").get_weights()[0] for model in (small, large))
    assert before.shape == (512, 64) and after.shape == (4 * 512, 64)
    np.testing.assert_allclose(after.reshape(4, 512, 64), np.stack([before / 4] * 4), rtol=1e-6)


def test_a_network_that_does_not_fit_names_the_first_layer():
    with pytest.raises(
        CovidxrError, match=r"layer 'dense_2' has arrays of shapes \[\(64, 4\), \(4,\)\], the weights to"
    ):
        transfer_weights(build_baseline(9), build_baseline(9, n_classes=4))
    with pytest.raises(CovidxrError, match="weights of 6 layers do not fit a network of 5"):
        transfer_weights(build_baseline(9), pointwise(9))


def test_training_continues_where_the_small_images_ended(tmp_path):
    model, history = grow(tmp_path)
    assert history.stage.tolist() == ["1: 9 px"] * 3 + ["2: 18 px"] * 2 and history.epoch.tolist() == [1, 2, 3, 4, 5]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), history)
    first, start = history.val_loss[2], history.val_loss[3]
    assert history.val_loss[0] > first and start < first + 0.1  # no step back
    assert history.learning_rate[4] == 1e-3 and history.attrs["collapsed"] == []
    np.testing.assert_array_equal(
        predict(load_model(tmp_path), enlarged(18).images), predict(model, enlarged(18).images)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "model.keras"]


@pytest.mark.parametrize("damaged", [None, "model.keras", "history.csv"])
def test_an_interruption_in_the_second_stage_loses_neither_and_a_damaged_stage_is_trained_again(
    damaged, tmp_path, monkeypatch
):
    expected, trained = grow(tmp_path / "whole")[1], []

    def interrupted(run_dir, *args):
        if run_dir == tmp_path / "broken":
            raise KeyboardInterrupt
        _save_result(run_dir, *args)

    monkeypatch.setattr(fit_module, "_save_result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grow(tmp_path / "broken")
    monkeypatch.undo()
    for path in (tmp_path / "broken" / "stages").rglob(damaged or "none"):
        path.write_bytes(b"")
    monkeypatch.setattr(fit_module, "fit", lambda *a: trained.append(a[2].epochs) or fit(*a))
    pd.testing.assert_frame_equal(grow(tmp_path / "broken")[1], expected)
    assert trained == ([TWO[0]["epochs"], 2] if damaged else [2])  # a sound first stage is read, not trained


def test_images_of_each_size_are_decoded_once(tmp_path, monkeypatch):
    dataset = build_dataset(per_class=2, image_size=32, work_dir=tmp_path)
    dataset.manifest["split"] = ["train", "validation"] * 3
    decoded, decode = [], read_images
    monkeypatch.setattr(
        images, "read_images", lambda paths, size: decoded.append((len(paths), size)) or decode(paths, size)
    )
    for size in (32, 48, 48):
        train = dataset_at_size(tmp_path, dataset, size).split("train")
        assert train.images.shape == (3, size, size) and train.labels.tolist() == [0, 1, 2]
    assert [found for found in decoded if found[0]] == [(6, 48)]
    assert (tmp_path / "pixels-48.npz").exists()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([{"image_size": 64}], "stage 1 lacks epochs; it has image_size"),
        (
            [{"image_size": 64, "epochs": 1, "epoch": 2}],
            "unknown setting of stage 1 'epoch'; available: image_size, epochs",
        ),
        (
            [{"image_size": 100, "epochs": 1}, {"image_size": 64, "epochs": 1}],
            "last stage has images of 64 pixels, the run",
        ),
    ],
)
def test_impossible_stages_are_refused(plan, message):
    with pytest.raises(CovidxrError, match=message):
        plan_resizing(plan, 100, 9)


def test_without_stages_there_is_one():
    assert plan_resizing(TWO, 18, 9) == TWO and plan_resizing([], 18, 9) == [{"image_size": 18, "epochs": 9}]


def sample_images(n=12, size=32):
    rng = np.random.default_rng(0)
    return LabelledImages(rng.integers(0, 255, (n, size, size), np.uint8), np.arange(n) % 3)


DATASET = dataset_of(sample_images(), sample_images(6))


def test_given_weights_keep_the_freezing_and_random_ones_train_all(tmp_path):
    source = build_vgg16(32, seed=9)
    layers = [layer for layer in source.layers if layer.name.startswith("block") and layer.weights]
    arrays = {
        f"{layer.name}/{part}": w
        for layer in layers
        for part, w in zip(("kernel", "bias"), layer.get_weights(), strict=True)
    }
    np.savez(tmp_path / "own.npz", **arrays)
    given, _, record = initialise(TrainingConfig(weights=str(tmp_path / "own.npz")), DATASET)
    assert record.kind == "file" and not given.get_layer("block5_conv1").trainable
    np.testing.assert_array_equal(given.get_layer("block3_conv2").kernel, source.get_layer("block3_conv2").kernel)
    truncated, build, _ = initialise(TrainingConfig(weights=str(tmp_path / "own.npz"), network="truncated"), DATASET)
    np.testing.assert_array_equal(truncated.get_layer("block3_conv2").kernel, source.get_layer("block3_conv2").kernel)
    assert truncated.layers[-1].name == build(64).layers[-1].name == "dense"
    drawn, again, record = initialise(TrainingConfig(weights="random"), DATASET)
    assert record.kind == "random" and all(layer.trainable for layer in drawn.layers)
    assert again(48).get_layer("block5_conv1").trainable and again(48).get_layer("dropout").rate == 0.2
    half = np.asarray(drawn.get_layer("block1_conv2").kernel)[:, :, :32]
    np.testing.assert_allclose(half, -np.asarray(drawn.get_layer("block1_conv2").kernel)[:, :, 32:], rtol=1e-5)


def test_settings_that_are_not_given_follow_the_weights():
    given = TrainingConfig(learning_rate=0.0).for_weights("file")
    assert (given.epochs, given.learning_rate, given.batch_size) == (10, 0.0, 16)
    drawn = TrainingConfig(epochs=3).for_weights("random")
    assert (drawn.epochs, drawn.warmup_epochs, drawn.batch_size) == (3, 0.25, 8)


@pytest.mark.parametrize(
    ("kind", "epochs", "touched"), [("imagenet", 1, True), ("imagenet", 0, False), ("random", 1, False)]
)
def test_the_head_is_warmed_up_on_pretrained_weights_only(kind, epochs, touched):
    model = build_vgg16(32)
    before = model.get_layer("dense_2").get_weights()[0]
    base = model.get_layer("block2_conv1").get_weights()[0]
    config = TrainingConfig(head_epochs=epochs, head_augmented_passes=1, policy="none", seed=1)
    warm_up_head(model, DATASET, config, WeightsRecord(kind, "the test"))
    assert (model.get_layer("dense_2").get_weights()[0] != before).any() == touched
    np.testing.assert_array_equal(model.get_layer("block2_conv1").get_weights()[0], base)


def test_a_whole_training_in_one_call(tmp_path):
    model = train_network(DATASET, TrainingConfig(weights="random", epochs=2), tmp_path)
    assert pd.read_csv(tmp_path / "history.csv").epoch.tolist() == [1, 2]
    probabilities = [network.predict_on_batch(np.zeros((1, 32, 32, 3))) for network in (model, load_model(tmp_path))]
    np.testing.assert_array_equal(*probabilities)


def test_the_baseline_model_in_one_call_and_no_other(tmp_path):
    changes = {**default_variants(Variant())[BASELINE], "epochs": 2}
    model = train_network(DATASET, make_variants({BASELINE: changes})[BASELINE], tmp_path)
    assert model.name == "baseline" and len(pd.read_csv(tmp_path / "history.csv")) == 2
    with pytest.raises(CovidxrError, match="unknown network 'VGG19'; available: full, truncated, baseline"):
        train_network(DATASET, TrainingConfig(network="VGG19"), tmp_path)
