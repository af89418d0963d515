"""The learning-rate finder: what it measures, that it leaves no trace, and that its suggestion learns."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import pytest

from covidxr.augment import AugmentedBatches, build_policy
from covidxr.errors import CovidxrError
from covidxr.learning_rate import find_learning_rate, suggest_learning_rate
from covidxr.model import build_baseline
from covidxr.plots import learning_rate_curve
from covidxr.train import Films, fit, set_seed


def striped(n=60, seed=0) -> Films:
    """Films of three classes, told apart by which third of them is bright."""
    rng = np.random.default_rng(seed)
    films, labels = rng.integers(0, 120, (n, 12, 12), np.uint8), np.arange(n) % 3
    for film, label in zip(films, labels, strict=True):
        film[:, 4 * label : 4 * label + 4] += 90
    return Films(films, labels)


def batches(batch_size=10, seed=0):
    return AugmentedBatches(*striped(), 3, build_policy("none"), batch_size=batch_size, seed=seed)


def test_the_rate_grows_by_a_constant_factor_over_epochs():
    sweep = find_learning_rate(build_baseline(12), batches(20), steps=8, lowest=1e-6, highest=1e-3)
    np.testing.assert_allclose(sweep.learning_rate, np.geomspace(1e-6, 1e-3, 8))
    assert sweep.columns.tolist() == ["learning_rate", "loss", "smoothed"]


def test_each_loss_is_that_of_its_own_batch():
    model, ours = build_baseline(12, dropout=0.0), batches(20)
    sweep = find_learning_rate(model, ours, steps=5, lowest=1e-12, highest=1e-11)
    for step, loss in enumerate(sweep.loss):
        x, y = ours.batch(*divmod(step, 3))
        expected = -np.log((model.predict_on_batch(x) * y).sum(1)).mean()
        assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_suggestion_lies_on_the_slope_and_learns(seed, tmp_path):
    model = build_baseline(12, seed=seed)
    sweep = find_learning_rate(model, batches(seed=seed), steps=30)
    rate = suggest_learning_rate(sweep)
    assert 1e-4 < rate < 1e-1  # far from both ends, 1e-6 and 1e-1
    films = striped()
    history = fit(model, films, films, 3, tmp_path, epochs=8, learning_rate=rate, policy="none", seed=seed)
    assert sweep.loss[0] > 0.9 and history.val_loss.min() < 0.5


def test_the_sweep_leaves_no_trace(tmp_path):
    swept, plain = build_baseline(12), build_baseline(12)
    find_learning_rate(swept, batches(), steps=6, highest=1.0)
    for a, b in zip(swept.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    histories = [
        fit(model, striped(), striped(seed=1), 3, tmp_path / name, epochs=2, policy="none")
        for name, model in {"swept": swept, "plain": plain}.items()
    ]
    pd.testing.assert_frame_equal(*histories)


def test_the_sweep_ends_where_the_loss_explodes():
    set_seed(0)
    sweep = find_learning_rate(build_baseline(12), batches(), steps=40, lowest=1e-3, highest=1e3)
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
def test_a_loss_that_is_no_number_ends_the_sweep_and_stays_out(bad):
    sweep = find_learning_rate(Losses([1.0, 0.9, 0.8, bad]), batches(), steps=9)
    assert sweep.loss.tolist() == [1.0, 0.9, 0.8]
    assert np.isfinite(sweep.smoothed).all()


@pytest.mark.parametrize("steepest", [8, 15, 22])
def test_the_steepest_point_of_a_planted_curve_is_found_without_lag(steepest):
    steps = np.arange(30)
    losses = 0.2 + 1 / (1 + np.exp(steps - steepest))  # falls fastest at `steepest`
    noise = np.random.default_rng(0).normal(0, 0.05, 30)
    sweep = find_learning_rate(Losses(losses + noise), batches(), steps=30)
    assert abs(np.searchsorted(sweep.learning_rate, suggest_learning_rate(sweep)) - steepest) <= 2


def test_a_single_outlier_at_the_start_does_not_decide():
    losses = np.r_[1.6, np.full(14, 1.1), np.linspace(1.1, 0.3, 10), np.full(5, 0.3)]
    sweep = find_learning_rate(Losses(losses), batches(), steps=30)
    assert 14 <= np.searchsorted(sweep.learning_rate, suggest_learning_rate(sweep)) <= 25


@pytest.mark.parametrize("losses", [[np.nan], [1.0, np.nan]])
def test_a_sweep_too_short_for_a_slope_says_so(losses):
    sweep = find_learning_rate(Losses(losses), batches(), steps=9)
    with pytest.raises(CovidxrError, match=f"sweep of {len(losses) - 1} steps has no slope; raise steps"):
        suggest_learning_rate(sweep)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize(
    "losses", [np.linspace(1, 3.5, 30), np.geomspace(1, 3.5, 30), np.full(30, 1.1)], ids=["line", "curve", "level"]
)
def test_a_curve_that_does_not_fall_has_no_steepest_descent(losses, noise):
    losses = np.abs(losses + np.random.default_rng(1).normal(0, noise, 30))
    sweep = find_learning_rate(Losses(losses), batches(), steps=30)
    assert len(sweep) == 30 and suggest_learning_rate(sweep) is None
    ax = learning_rate_curve(sweep, suggest_learning_rate(sweep))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "smoothed", "no descent found"]


def test_a_curve_that_falls_is_marked_at_its_steepest():
    sweep = find_learning_rate(Losses(np.linspace(3, 0.1, 30)), batches(), steps=30)
    ax = learning_rate_curve(sweep, suggest_learning_rate(sweep))
    assert ax.get_legend().get_texts()[-1].get_text().startswith("steepest: ")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": -5}, "steps is -5; give a whole number of 1 or more"),
        ({"lowest": 0.0}, "from 0.0 to 0.1 do not rise"),
        ({"lowest": 1.0}, "do not rise"),
        ({"highest": np.nan}, "do not rise"),
        ({"highest": np.inf}, "do not rise"),
    ],
)
def test_a_sweep_over_nothing_is_refused(how, said):
    with pytest.raises(CovidxrError, match=said):
        find_learning_rate(Losses([1.0]), batches(), **how)
