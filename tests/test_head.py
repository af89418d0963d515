"""The truncated network's linear head, and the learning-rate range test."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import pytest
import stand_ins
from stand_ins import dataset_of

from covidxr._keras import set_seed
from covidxr.augmentation import AugmentedBatches, build_policy
from covidxr.data.manifest import manifest_rows
from covidxr.evaluation.linear_probe import SourceBalancedLDA
from covidxr.evaluation.metrics import predict
from covidxr.model.networks import build_baseline, build_truncated_vgg16, build_vgg16, embed
from covidxr.plots import learning_rate_curve
from covidxr.training.fit import TrainingConfig, fit
from covidxr.training.head import (
    fit_linear_head,
    lr_range_test,
    refit_on_all,
    suggest_learning_rate,
)
from covidxr.utils import CovidxrError


def planted(n, seed=0):
    """Striped images of two classes, which differ in the stripes' direction, from two sources."""
    rng = np.random.default_rng(seed)
    positive, here = rng.random(n) < 0.5, rng.random(n) < 0.5
    stripes = np.where(np.arange(32) // 4 % 2, 190, 60)
    images = np.where(positive[:, None, None], stripes[None, None, :], stripes[None, :, None]) + rng.normal(
        0, 15, (n, 32, 32)
    )
    labels = np.where(positive, "COVID-19", "Normal")
    rows = manifest_rows(
        {"image_id": i, "patient_id": i, "label": label, "source": "ab"[int(first)]}
        for i, (label, first) in enumerate(zip(labels, here, strict=True))
    )
    return images.clip(0, 255).astype(np.uint8), rows


def test_the_truncated_network_shares_three_blocks_and_trains_only_its_softmax():
    truncated, full = build_truncated_vgg16(64, seed=1), build_vgg16(64, seed=1)
    names = [layer.name for layer in truncated.layers]
    assert names[-4:] == ["block3_pool", "grid", "flatten", "dense"] and truncated.get_layer("grid").output.shape[
        1:3
    ] == (
        4,
        4,
    )
    assert [weight.path for weight in truncated.trainable_weights] == ["dense/kernel", "dense/bias"]
    for name in ("block1_conv1", "block3_conv3"):
        assert (truncated.get_layer(name).get_weights()[0] == full.get_layer(name).get_weights()[0]).all()


def test_the_network_predicts_what_its_linear_probe_predicts():
    images, rows = planted(80)
    model, classes = build_truncated_vgg16(32, 2), ["Normal", "COVID-19"]
    fit_linear_head(model, images, rows, classes)
    x = embed(model, images)
    probe = SourceBalancedLDA().fit(x, rows.label, rows.source, "b/" + rows.patient_id)
    stated = predict(model, images)
    assert probe.classes_.tolist() == ["COVID-19", "Normal"]
    assert np.corrcoef(stated[:, 1], probe.predict_proba(x)[:, 0])[0, 1] > 0.99
    new_images, new_rows = planted(40, seed=1)
    assert (np.take(classes, predict(model, new_images).argmax(1)) == new_rows.label).mean() > 0.9


def test_a_refitted_head_equals_one_fitted_on_those_images_first_and_the_old_network_stays():
    images, rows = planted(80)
    classes, few = ["Normal", "COVID-19"], np.arange(80) < 20
    model, whole = build_truncated_vgg16(32, 2), build_truncated_vgg16(32, 2)
    fit_linear_head(model, images[few], rows[few], classes)
    fit_linear_head(whole, images, rows, classes)
    old, new, wanted = (
        one.get_layer("dense").get_weights()[0] for one in (model, refit_on_all(model, images, rows, classes), whole)
    )
    assert np.allclose(new, wanted, rtol=1e-3, atol=1e-6) and not np.allclose(old, wanted, rtol=0.1)
    assert (model.get_layer("dense").get_weights()[0] == old).all()


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(CovidxrError, match="multiple of 32 pixels a side, not 100"):
        build_truncated_vgg16(100)


def striped(n=60, seed=0):
    return stand_ins.striped(n, seed, size=12)


def config(**settings):
    return TrainingConfig(**{"learning_rate": 1e-4, "warmup_epochs": 1, "batch_size": 32, "policy": "none"} | settings)


def batches(batch_size=10, seed=0):
    return AugmentedBatches(*striped(), 3, build_policy("none"), batch_size=batch_size, seed=seed)


def test_the_rate_grows_by_a_constant_factor_over_epochs():
    sweep = lr_range_test(build_baseline(12), batches(20), steps=8, lowest=1e-6, highest=1e-3)
    np.testing.assert_allclose(sweep.learning_rate, np.geomspace(1e-6, 1e-3, 8))
    assert sweep.columns.tolist() == ["learning_rate", "loss", "smoothed"]


def test_each_loss_is_that_of_its_own_batch():
    model, ours = build_baseline(12, dropout=0.0), batches(20)
    sweep = lr_range_test(model, ours, steps=5, lowest=1e-12, highest=1e-11)
    for step, loss in enumerate(sweep.loss):
        x, y = ours.batch(*divmod(step, 3))
        expected = -np.log((model.predict_on_batch(x) * y).sum(1)).mean()
        assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_suggestion_lies_on_the_slope_and_learns(seed, tmp_path):
    model = build_baseline(12, seed=seed)
    sweep = lr_range_test(model, batches(seed=seed), steps=30)
    rate = suggest_learning_rate(sweep)
    assert 1e-4 < rate < 1e-1  # far from both ends, 1e-6 and 1e-1
    history = fit(model, dataset_of(striped(), striped()), config(epochs=8, learning_rate=rate, seed=seed), tmp_path)
    assert sweep.loss[0] > 0.9 and history.val_loss.min() < 0.5


def test_the_range_test_restores_the_model(tmp_path):
    swept, plain = build_baseline(12), build_baseline(12)
    lr_range_test(swept, batches(), steps=6, highest=1.0)
    for a, b in zip(swept.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    histories = [
        fit(model, dataset_of(striped(), striped(seed=1)), config(epochs=2), tmp_path / name)
        for name, model in {"swept": swept, "plain": plain}.items()
    ]
    pd.testing.assert_frame_equal(*histories)


def test_the_sweep_ends_where_the_loss_explodes():
    set_seed(0)
    sweep = lr_range_test(build_baseline(12), batches(), steps=40, lowest=1e-3, highest=1e3)
    assert 2 < len(sweep) < 40
    assert sweep.loss.iloc[-1] > 4 * sweep.loss.min()
    running = sweep.loss[:-1]
    assert (running <= 4 * running.cummin()).all()


class Losses:
    """Stands in for a model: its losses are given, its weights are none."""

    variables = ()

    def __init__(self, losses):
        self.losses = iter(losses)

    def compile(self, optimizer, loss):
        assert isinstance(optimizer, keras.optimizers.Adam)

    def train_on_batch(self, x, y):
        return next(self.losses)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_the_sweep_and_is_excluded(bad):
    sweep = lr_range_test(Losses([1.0, 0.9, 0.8, bad]), batches(), steps=9)
    assert sweep.loss.tolist() == [1.0, 0.9, 0.8]
    assert np.isfinite(sweep.smoothed).all()


@pytest.mark.parametrize(("steepest", "steps"), [(8, 30), (15, 30), (22, 30), (6, 20), (10, 20), (14, 20)])
def test_the_steepest_point_of_a_planted_curve_is_found_without_lag(steepest, steps):
    losses = 0.2 + 1 / (1 + np.exp(np.arange(steps) - steepest))  # falls fastest at `steepest`
    noise = np.random.default_rng(0).normal(0, 0.05, steps)
    sweep = lr_range_test(Losses(losses + noise), batches(), steps=steps)
    assert abs(np.searchsorted(sweep.learning_rate, suggest_learning_rate(sweep)) - steepest) <= 2


def test_a_single_outlier_at_the_start_does_not_decide():
    losses = np.r_[1.6, np.full(14, 1.1), np.linspace(1.1, 0.3, 10), np.full(5, 0.3)]
    sweep = lr_range_test(Losses(losses), batches(), steps=30)
    assert 14 <= np.searchsorted(sweep.learning_rate, suggest_learning_rate(sweep)) <= 25


@pytest.mark.parametrize("losses", [[np.nan], [1.0, np.nan]])
def test_a_sweep_too_short_for_a_slope_says_so(losses):
    sweep = lr_range_test(Losses(losses), batches(), steps=9)
    with pytest.raises(CovidxrError, match=f"sweep of {len(losses) - 1} steps has no slope; raise steps"):
        suggest_learning_rate(sweep)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize(
    "losses", [np.linspace(1, 3.5, 30), np.geomspace(1, 3.5, 30), np.full(30, 1.1)], ids=["line", "curve", "level"]
)
def test_a_curve_that_does_not_fall_has_no_steepest_descent(losses, noise):
    losses = np.abs(losses + np.random.default_rng(1).normal(0, noise, 30))
    sweep = lr_range_test(Losses(losses), batches(), steps=30)
    assert len(sweep) == 30 and suggest_learning_rate(sweep) is None
    ax = learning_rate_curve(sweep, suggest_learning_rate(sweep))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "smoothed", "no descent found"]


def test_a_curve_that_falls_is_marked_at_its_steepest():
    sweep = lr_range_test(Losses(np.linspace(3, 0.1, 30)), batches(), steps=30)
    ax = learning_rate_curve(sweep, suggest_learning_rate(sweep))
    assert ax.get_legend().get_texts()[-1].get_text().startswith("steepest: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": -5}, "steps is -5; give a whole number of 1 or more"),
        ({"lowest": 0.0}, "from 0.0 to 0.1 do not rise"),
        ({"lowest": 1.0}, "do not rise"),
        ({"highest": np.nan}, "do not rise"),
        ({"highest": np.inf}, "do not rise"),
    ],
)
def test_an_impossible_range_test_is_refused(options, message):
    with pytest.raises(CovidxrError, match=message):
        lr_range_test(Losses([1.0]), batches(), **options)
