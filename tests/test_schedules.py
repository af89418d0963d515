"""Schedules: the rates and momenta they give, and when they stop."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from covidxr.errors import CovidxrError
from covidxr.schedules import LEAST_FALL, Plan

LOSSES = [1.0, 0.9, 0.9, 0.95, 0.85, 0.86, 0.84999, 0.9, 0.5, np.nan, 0.6, 0.7]


def one_cycle(epochs=10, steps=20):
    plan = Plan("one-cycle", 0.02, steps=steps, epochs=epochs)
    return np.array([plan.at(step) for step in range(epochs * steps + 1)])


def test_one_cycle_rises_falls_and_dies_away_while_the_momentum_mirrors_it():
    rates, momenta = one_cycle().T
    assert rates.argmax() == momenta.argmin() == 90 and rates.max() == 0.02 and momenta.min() == 0.85
    assert rates[0] == rates[180] == pytest.approx(0.002) and rates[-1] == pytest.approx(0.00002)
    assert (np.diff(rates[:91]) > 0).all() and (np.diff(rates[90:]) < 0).all()
    assert (np.diff(momenta[:91]) < 0).all() and (np.diff(momenta[90:181]) > 0).all() and (momenta[180:] == 0.95).all()
    np.testing.assert_allclose(np.diff(rates[:91]), 0.018 / 90)  # straight lines


def test_one_cycle_takes_no_notice_of_losses_and_runs_to_its_end():
    plan = Plan("one-cycle", 0.02, steps=20, epochs=10, patience=1)
    assert plan.at(50, LOSSES) == plan.at(50)
    assert not plan.is_over([0.1] + 8 * [1.0]) and plan.is_over([0.1] + 9 * [1.0])


def test_plateau_warms_up_and_then_halves_as_keras_does():
    plan = Plan("plateau", 0.1, steps=4, epochs=99, warmup_epochs=1.5, patience=6)
    np.testing.assert_allclose(
        [plan.at(step).rate for step in range(8)], [0.1 * n / 6 for n in (1, 2, 3, 4, 5, 6, 6, 6)]
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    ours = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=2, min_delta=LEAST_FALL)
    ours.set_model(model)
    ours.on_train_begin()
    for epoch, loss in enumerate(LOSSES):
        ours.on_epoch_end(epoch, {"val_loss": loss})
        rate = plan.at(4 * (epoch + 2), LOSSES[: epoch + 1]).rate
        assert rate == pytest.approx(float(model.optimizer.learning_rate)), epoch
    assert rate == pytest.approx(0.1 / 8)


def test_plateau_stops_after_its_patience_or_its_epochs():
    plan = Plan("plateau", 0.1, steps=4, epochs=20, patience=3)
    over = [plan.is_over(LOSSES[:n]) for n in range(len(LOSSES) + 1)]
    assert over.index(True) == 12 and LOSSES[8] == np.nanmin(LOSSES)  # three epochs after the least, one of them NaN
    assert Plan("plateau", 0.1, steps=4, epochs=2).is_over([1, 0.9])
    assert not plan.is_over([]) and plan._replace(epochs=0).is_over([])


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert Plan("plateau", 0.1, steps=4, epochs=2).at(0) == (0.1, 0.9)


def test_an_unknown_schedule_is_refused_with_those_there_are():
    with pytest.raises(CovidxrError, match="unknown schedule 'onecycle'; available: plateau, one-cycle"):
        Plan("onecycle", 0.1, steps=1, epochs=1).at(0)
