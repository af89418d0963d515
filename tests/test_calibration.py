"""Calibration: networks that are as right as they say, or surer; thresholds and temperatures that are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from covidxr.calibration import (
    calibration_error,
    choose_threshold,
    fit_temperature,
    selective_accuracy,
    with_temperature,
)
from covidxr.errors import CovidxrError
from covidxr.sureness import sureness, sureness_elsewhere


def outcomes(n=2000, seed=0):
    """Probabilities of three classes, and true classes drawn with them."""
    rng = np.random.default_rng(seed)
    probabilities = with_temperature(rng.dirichlet([1, 1, 1], n), 0.7)
    return probabilities, (probabilities.cumsum(1) < rng.random((n, 1))).sum(1)


def test_a_calibrated_network_has_the_error_of_chance_and_a_sure_one_more():
    probabilities, truth = outcomes()
    sharp = with_temperature(probabilities, 1 / 3)
    right = probabilities.argmax(1) == truth
    fair, bold = (calibration_error(p.max(1), right, draws=60) for p in (probabilities, sharp))
    assert fair["error"] < 0.04 and fair["interval"][0] < fair["chance"] * 1.5
    assert bold["error"] == pytest.approx(sharp.max(1).mean() - right.mean(), abs=0.02)
    assert bold["interval"][0] > 3 * bold["chance"] and bold["interval"][0] < bold["error"] < bold["interval"][1]


def test_few_films_make_an_error_of_their_own():
    probabilities, truth = outcomes()
    right = probabilities.argmax(1) == truth
    few, many = (calibration_error(probabilities.max(1)[:n], right[:n], draws=60)["chance"] for n in (30, 2000))
    assert few > 4 * many


@pytest.mark.parametrize("planted", [0.5, 1.0, 3.0])
def test_the_planted_temperature_is_found(planted):
    probabilities, truth = outcomes()
    distorted = with_temperature(probabilities, planted)
    assert fit_temperature(distorted, truth) == pytest.approx(1 / planted, rel=0.1)


def test_a_temperature_keeps_the_answer_and_only_zero_probability_is_lost():
    probabilities, _ = outcomes(50)
    soft = with_temperature(probabilities, 5)
    assert (soft.argmax(1) == probabilities.argmax(1)).all() and np.allclose(soft.sum(1), 1)
    assert np.isfinite(with_temperature([[1.0, 0.0]], 0.05)).all()


def test_answering_only_where_it_is_sure_pays_if_sureness_means_something():
    sure = np.linspace(0.99, 0.5, 100)
    right = np.arange(100) < 60
    curve = selective_accuracy(sure, right)
    assert curve.accuracy.iloc[[0, 59, 99]].tolist() == [1.0, 1.0, 0.6] and curve.coverage.iloc[-1] == 1
    assert selective_accuracy(np.full(100, 0.9), right).accuracy.round(6).nunique() == 1  # ties count alike
    shuffled = np.random.default_rng(0).permutation(100)
    again = selective_accuracy(sure[shuffled], right[shuffled])
    assert again.accuracy.tolist() == curve.accuracy.tolist()


def test_thresholds_are_those_planted():
    score, ill = np.linspace(0, 1, 101), np.linspace(0, 1, 101) > 0.695
    assert choose_threshold(score, ill) == pytest.approx(0.695)
    assert (score >= choose_threshold(score, ill, sensitivity=0.5))[ill].mean() >= 0.5
    assert choose_threshold(score, ill, sensitivity=0.5) > choose_threshold(score, ill, sensitivity=1.0) > 0.69
    rng = np.random.default_rng(0)
    noisy = score + rng.normal(0, 0.3, 101)
    for wanted in (0.8, 0.95):
        called = noisy >= choose_threshold(noisy, ill, sensitivity=wanted)
        assert wanted <= called[ill].mean() < wanted + 0.05


@pytest.mark.parametrize(
    ("ill", "sensitivity", "said"),
    [
        ([True, True], None, "2 of 2 films are ill"),
        ([False, False], None, "0 of 2"),
        ([True, False], 1.5, "of 1.5 cannot"),
    ],
)
def test_what_gives_no_threshold_is_a_sentence(ill, sensitivity, said):
    with pytest.raises(CovidxrError, match=said):
        choose_threshold([0.1, 0.9], ill, sensitivity)


@pytest.mark.parametrize(
    ("score", "weights"), [([0.9, 0.1], None), ([0.5, 0.5], None), ([0.9, 0.1, 0.9, 0.1, 0.9], [1, 2, 1, 2, 1])]
)
def test_where_no_threshold_beats_chance_there_is_none(score, weights):
    ill = np.arange(len(score)) % 2 == 1
    assert choose_threshold(score, ill, weights=weights) is None
    assert np.isfinite(choose_threshold(score, ill, sensitivity=0.9, weights=weights))


NAN = float("nan")


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (lambda: calibration_error([1.5, 0.5], [True, False]), "confidence holds 1.5 at place 0 .* from 0 to 1"),
        (lambda: calibration_error([0.9, NAN], [True, False]), "confidence holds nan at place 1"),
        (lambda: calibration_error([0.9, 0.8], [True, NAN]), "correct must be true or false"),
        (lambda: calibration_error([0.9, 0.8], [True]), "2 confidence, 1 correct"),
        (lambda: calibration_error([0.9, 0.8], [True, False], ["a"]), "1 patients"),
        (lambda: calibration_error([], []), "holds no image"),
        (lambda: calibration_error([0.9], [True], bins=0), "bins is 0"),
        (lambda: calibration_error([0.9], [True], draws=0), "draws is 0"),
        (lambda: selective_accuracy([0.9, NAN], [True, False]), "confidence holds nan"),
        (lambda: selective_accuracy([0.9, 0.8], [True]), "2 confidence, 1 correct"),
        (lambda: fit_temperature([[0.9, 0.1]], [2]), "unknown column 2; available: 0, 1"),
        (lambda: fit_temperature([[0.9, 0.1]], [-1]), "unknown column -1"),
        (lambda: fit_temperature([[0.9, 0.1]], [0, 1]), "1 probabilities, 2 truth"),
        (lambda: fit_temperature([[NAN, 0.1]], [0]), "probabilities holds nan at place 0, 0"),
        (lambda: with_temperature([[0.9, 0.9]], 1), "the probabilities of image 0 sum to 1.8"),
        (lambda: with_temperature([[-0.1, 1.1]], 1), "probabilities holds -0.1"),
        (lambda: with_temperature([0.9, 0.1], 1), r"have shape \(2,\)"),
        (lambda: with_temperature([[0.9, 0.1]], 0), "temperature is 0"),
        (lambda: with_temperature([[0.9, 0.1]], NAN), "temperature is nan"),
        (lambda: choose_threshold([NAN, 0.9], [False, True]), "score holds nan"),
        (lambda: choose_threshold([0.1, 0.9], [False, NAN]), "ill must be true or false"),
        (lambda: choose_threshold([0.1, 0.9], [False, True], weights=[1, -1]), "weights holds -1"),
        (lambda: choose_threshold([0.1, 0.9], [False]), "2 scores, 1 truths"),
    ],
)
def test_impossible_input_is_a_sentence(measure, said):
    with pytest.raises(CovidxrError, match=said):
        measure()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"confidence": NAN}, "confidence holds nan"),
        ({"confidence": 1.2}, "holds 1.2"),
        ({"correct": None}, "correct must be"),
    ],
)
def test_sureness_that_is_no_number_is_refused(change, said):
    films = pd.DataFrame({"source": "s", "patient_id": list("abcd"), "confidence": 0.9, "correct": True}).astype(object)
    for column, value in change.items():
        films.at[2, column] = value
    with pytest.raises(CovidxrError, match=said):
        sureness(films)


def test_sureness_elsewhere_that_is_no_number_is_refused():
    films = pd.DataFrame({"source": "s", "patient_id": list("abcd"), "label": "No finding", "predicted": "COVID-19"})
    with pytest.raises(CovidxrError, match="p_COVID-19 holds nan at place 1"):
        sureness_elsewhere(films.assign(**{"p_COVID-19": [0.9, NAN, 0.9, 0.9]}))
