"""Maps that depend on planted weights must change with them, and with nothing else."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from covidxr.errors import CovidxrError
from covidxr.probe import features, fit_head
from covidxr.sanity import cascade, compare_maps, refit_on_shuffled_labels

SHAPE = (12, 12, 3)


def small_model(constant_top=False) -> keras.Model:
    """Build a model; with a constant top, shuffling the weights of its last layer cannot change a thing."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input(SHAPE), layers.Conv2D(6, 3, activation="relu", name="first"),
        layers.Conv2D(8, 3, activation="relu", name="second"), layers.GlobalAveragePooling2D(name="pool"),
        layers.Dropout(0.5), layers.Dense(3, activation="softmax", name="scores"),
    ])  # fmt: skip
    if constant_top:
        model.get_layer("scores").set_weights([np.ones((8, 3)), np.zeros(3)])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((6, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def maps():
    return np.random.default_rng(1).random((40, 16, 16), dtype=np.float32)


def test_equal_maps_are_alike_and_unrelated_ones_are_not(maps):
    same, other = compare_maps(maps, maps), compare_maps(maps, maps[::-1])
    assert same["rank_correlation"] == pytest.approx(1) and same["ssim"] == pytest.approx(1)
    assert abs(other["rank_correlation"]) < 0.05 and abs(other["ssim"]) < 0.1
    assert compare_maps(maps, 1 - maps)["rank_correlation"] == pytest.approx(-1)


def test_ranks_do_not_see_a_stretching_but_ssim_does(maps):
    found = compare_maps(maps, maps**3)
    assert found["rank_correlation"] == pytest.approx(1) and found["ssim"] < 0.95


def test_blank_maps_are_left_out_and_counted(maps):
    holes = maps.copy()
    holes[:10], holes[10:13] = 0, 0.3
    found = compare_maps(maps, holes)
    assert found["n"] == 27 and found["rank_correlation"] == pytest.approx(1)
    assert compare_maps(maps, 0 * maps) == {"n": 0}


def test_intervals_hold_the_mean_and_know_the_patients(maps):
    noise = np.random.default_rng(2).random(maps.shape)
    weight = np.linspace(0, 1, len(maps))[:, None, None]
    mixed = (1 - weight) * maps + weight * noise
    by_film, by_patient = compare_maps(maps, mixed), compare_maps(maps, mixed, np.arange(len(maps)) // 10)
    for found in (by_film, by_patient):
        low, high = found["rank_correlation_interval"]
        assert low < found["rank_correlation"] < high
    widths = [np.diff(found["rank_correlation_interval"])[0] for found in (by_film, by_patient)]
    assert widths[1] > 1.5 * widths[0]  # the films of a patient are alike here


@pytest.mark.parametrize("shapes", [((2, 8, 8), (3, 8, 8)), ((2, 6, 8), (2, 6, 8)), ((8, 8), (8, 8))])
def test_maps_that_cannot_be_compared(shapes):
    with pytest.raises(CovidxrError, match="one shape.*7 pixels"):
        compare_maps(*map(np.zeros, shapes))


def test_maps_fall_apart_with_the_weights_that_they_depend_on(images):
    table = cascade(small_model(constant_top=True), images, "second")
    assert table.index.tolist() == ["scores", "second", "first"]
    assert table.loc["scores", ["rank_correlation", "ssim"]].to_numpy(float) == pytest.approx(1)  # shuffled in vain
    assert (table.rank_correlation[["second", "first"]] < 0.7).all() and (table.ssim[["second", "first"]] < 0.7).all()
    held = table[table.n > 0]
    assert (held.rank_correlation_low <= held.rank_correlation).all()
    assert (held.rank_correlation <= held.rank_correlation_high).all()


def test_randomising_the_top_changes_maps_that_hang_on_it(images):
    assert cascade(small_model(), images, "second").rank_correlation["scores"] < 0.95


def test_the_model_is_left_as_it_was_and_seeds_count(images):
    model = small_model()
    before = model.get_weights()
    tables = [cascade(model, images, "second", seed=seed) for seed in (0, 0, 1)]
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])


def test_black_films_are_counted_out(images):
    black = np.concatenate([images, np.zeros((2, *SHAPE), np.float32)])
    assert cascade(small_model(constant_top=True), black, "second").n["scores"] == len(images)
    nothing = cascade(small_model(), black[-2:], "second")
    assert (nothing.n == 0).all() and nothing.ssim.isna().all()


def test_layers_of_a_nested_model_are_randomised_too(images):
    base = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(4, 3, name="inner"), layers.BatchNormalization(name="norm")]
    )
    model = keras.Sequential([keras.Input(SHAPE), base, layers.GlobalAveragePooling2D(), layers.Dense(2, name="top")])
    assert cascade(model, images, "inner").index.tolist() == ["top", "norm", "inner"]


def test_an_unknown_layer_is_named(images):
    with pytest.raises(CovidxrError, match="'third' not found.*first, second"):
        cascade(small_model(), images, "third")


def head_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input(SHAPE), layers.Conv2D(4, 3, name="conv"), layers.AveragePooling2D(5), layers.Flatten(name="flatten"),
        layers.Dense(2, activation="softmax", name="scores"),
    ])  # fmt: skip


def test_shuffled_labels_cannot_be_learnt_from_films_that_are_alike():
    labels = np.repeat([0, 1], 200)
    films = np.zeros((400, 12, 12), np.uint8)
    films[labels == 1, :, :6] = 200
    model = head_model()
    before = model.get_weights()
    copy, accuracy = refit_on_shuffled_labels(model, films, labels, epochs=15)
    assert 0.4 < accuracy < 0.7
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert (copy.get_layer("conv").get_weights()[0] == before[0]).all()
    assert not np.allclose(copy.get_layer("scores").get_weights()[0], before[2])
    truly = fit_head(copy, features(copy, films), labels, epochs=15)
    assert truly.accuracy.iloc[-1] == 1  # so it was the shuffling that kept it from learning
