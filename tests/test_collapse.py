"""Collapse, planted: it is noticed, said and given a new start; and what is merely slow is left in peace."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from covidxr.collapse import has_collapsed, redraw_head
from covidxr.errors import CovidxrError
from covidxr.evaluate import predict
from covidxr.model import build_baseline
from covidxr.train import Films, fit


def striped(n=24, seed=0) -> Films:
    """Films of three classes, told apart by which third of them is bright."""
    rng = np.random.default_rng(seed)
    films, labels = rng.integers(0, 120, (n, 9, 9), np.uint8), np.arange(n) % 3
    for film, label in zip(films, labels, strict=True):
        film[:, 3 * label : 3 * label + 3] += 90
    return Films(films, labels)


def dead(model=None):
    """A network none of whose 64 units answers to any film."""
    model = model or build_baseline(9)
    kernel, bias = model.get_layer("dense_1").get_weights()
    model.get_layer("dense_1").set_weights([kernel, bias - 1e3])
    return model


def train(model, folder, **options):
    options = {"epochs": 5, "policy": "none", "batch_size": 8, "learning_rate": 1e-2} | options
    return fit(model, striped(), striped(seed=1), 3, folder, **options)


def test_a_dead_layer_is_noticed_said_and_given_a_new_start(tmp_path):
    model = dead()
    with pytest.warns(UserWarning, match=r"seed 4 collapsed in epoch 1: .* starts again with seed 1004\."):
        history = train(model, tmp_path, seed=4)
    assert history.attrs["collapsed"] == [{"seed": 4, "epoch": 1}]
    assert history.seed.tolist() == [1004] * 5 and history.epoch.tolist() == [1, 2, 3, 4, 5]
    assert history.val_loss.iloc[-1] < 0.7 < history.val_loss[0]
    assert (predict(model, striped(seed=2).images).argmax(1) == striped(seed=2).labels).mean() > 0.9


def test_what_collapses_every_time_is_tried_twice_more_from_the_first_weights(tmp_path):
    model, starts, seeds = dead(), [], []
    first = [weight.copy() for weight in model.get_weights()]

    def new_start(model, seed):
        starts.append([weight.copy() for weight in model.get_weights()])
        seeds.append(seed)

    with pytest.warns(UserWarning, match="collapsed"):
        history = train(model, tmp_path, new_start=new_start, epochs=2)
    assert seeds == [1000, 2000] and [lost["seed"] for lost in history.attrs["collapsed"]] == [0, 1000]
    for start in starts:
        assert all((one == other).all() for one, other in zip(start, first, strict=True))
    assert history.seed.tolist() == [2000, 2000]  # the last try is kept as it is


def test_rates_without_any_number_end_in_one_sentence(tmp_path):
    with pytest.warns(UserWarning, match="collapsed"), pytest.raises(CovidxrError, match="no finite validation loss"):
        train(build_baseline(9), tmp_path, learning_rate=1e30, warmup_epochs=0, epochs=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [1e-2, 1e-9])
def test_where_nothing_collapses_nothing_starts_again(tmp_path, rate):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = train(build_baseline(9), tmp_path, learning_rate=rate, epochs=2)
    assert history.seed.tolist() == [0, 0] and history.attrs["collapsed"] == []


@pytest.mark.parametrize(("loss", "looks"), [(0.5, False), (1.09, True), (8.0, True), (np.nan, True)])
def test_only_a_loss_like_that_of_guessing_makes_it_look(loss, looks):
    assert has_collapsed(dead(), striped(), loss) == looks
    assert not has_collapsed(build_baseline(9), striped(), loss)


def test_guessing_is_cheaper_where_one_class_outnumbers_the_others():
    films = Films(striped(20).images, np.array([0] * 19 + [1]))
    assert has_collapsed(dead(), films, 0.2) and not has_collapsed(dead(), films, 0.1)


def test_a_new_head_is_its_seeds_and_leaves_the_rest():
    models = [dead(build_baseline(9)) for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        redraw_head(model, seed)
    one, same, other = (model.get_layer("dense_1").get_weights() for model in models)
    np.testing.assert_array_equal(one[0], same[0])
    assert (one[0] != other[0]).any() and (one[1] == 0).all()
    assert [int(model.get_layer("dropout").seed_generator.state[0]) for model in models] == [5, 5, 6]
