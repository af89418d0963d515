"""Calibration: calibrated and overconfident networks, thresholds and temperatures with known values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from planted import rows

from covidxr.audit.probes import TEST, AuditData, calibration, external_confidence
from covidxr.evaluation.calibration import (
    apply_temperature,
    calibration_error,
    choose_threshold,
    fit_temperature,
    selective_accuracy,
)
from covidxr.utils import CovidxrError


def outcomes(n=2000, seed=0):
    """Probabilities of three classes, and true classes drawn with them."""
    rng = np.random.default_rng(seed)
    probabilities = apply_temperature(rng.dirichlet([1, 1, 1], n), 0.7)
    return probabilities, (probabilities.cumsum(1) < rng.random((n, 1))).sum(1)


def test_a_calibrated_network_has_the_error_of_chance_and_an_overconfident_one_more():
    probabilities, truth = outcomes()
    sharp = apply_temperature(probabilities, 1 / 3)
    right = probabilities.argmax(1) == truth
    fair, bold = (calibration_error(p.max(1), right, draws=60) for p in (probabilities, sharp))
    assert fair[0].value < 0.04 and fair[0].low < fair[1] * 1.5
    error, chance = bold
    assert error.value == pytest.approx(sharp.max(1).mean() - right.mean(), abs=0.02)
    assert error.low > 3 * chance and error.low < error.value < error.high


def test_few_images_raise_the_chance_level():
    probabilities, truth = outcomes()
    right = probabilities.argmax(1) == truth
    few, many = (calibration_error(probabilities.max(1)[:n], right[:n], draws=60)[1] for n in (30, 2000))
    assert few > 4 * many


@pytest.mark.parametrize("planted", [0.5, 1.0, 3.0])
def test_the_planted_temperature_is_found(planted):
    probabilities, truth = outcomes()
    distorted = apply_temperature(probabilities, planted)
    assert fit_temperature(distorted, truth) == pytest.approx(1 / planted, rel=0.1)


def test_a_temperature_keeps_the_predicted_class_and_zero_probabilities_stay_finite():
    probabilities, _ = outcomes(50)
    soft = apply_temperature(probabilities, 5)
    assert (soft.argmax(1) == probabilities.argmax(1)).all() and np.allclose(soft.sum(1), 1)
    assert np.isfinite(apply_temperature([[1.0, 0.0]], 0.05)).all()


def test_selective_accuracy_rises_where_confidence_is_informative():
    sure = np.linspace(0.99, 0.5, 100)
    right = np.arange(100) < 60
    curve = selective_accuracy(sure, right)
    assert curve.accuracy.iloc[[0, 59, 99]].tolist() == [1.0, 1.0, 0.6] and curve.coverage.iloc[-1] == 1
    assert selective_accuracy(np.full(100, 0.9), right).accuracy.round(6).nunique() == 1  # ties count alike
    shuffled = np.random.default_rng(0).permutation(100)
    again = selective_accuracy(sure[shuffled], right[shuffled])
    assert again.accuracy.tolist() == curve.accuracy.tolist()


def test_planted_thresholds_are_recovered():
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
        ([True, True], None, "2 of 2 images are positive"),
        ([False, False], None, "0 of 2"),
        ([True, False], 1.5, "sensitivity is 1.5; give"),
    ],
)
def test_impossible_thresholds_are_refused(ill, sensitivity, said):
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
        (lambda: apply_temperature([[0.9, 0.9]], 1), "the probabilities of image 0 sum to 1.8"),
        (lambda: apply_temperature([[-0.1, 1.1]], 1), "probabilities holds -0.1"),
        (lambda: apply_temperature([0.9, 0.1], 1), r"have shape \(2,\)"),
        (lambda: apply_temperature([[0.9, 0.1]], 0), "temperature is 0"),
        (lambda: apply_temperature([[0.9, 0.1]], NAN), "temperature is nan"),
        (lambda: choose_threshold([NAN, 0.9], [False, True]), "score holds nan"),
        (lambda: choose_threshold([0.1, 0.9], [False, NAN]), "positive must be true or false"),
        (lambda: choose_threshold([0.1, 0.9], [False, True], weights=[1, -1]), "weights holds -1"),
        (lambda: choose_threshold([0.1, 0.9], [False]), "2 scores, 1 outcomes"),
    ],
)
def test_impossible_input_is_refused(measure, said):
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
def test_confidence_that_is_not_a_number_is_refused(change, said):
    images = pd.DataFrame({"source": "s", "patient_id": list("abcd"), "confidence": 0.9, "correct": True}).astype(
        object
    )
    for column, value in change.items():
        images.at[2, column] = value
    with pytest.raises(CovidxrError, match=said):
        calibration(AuditData(rows(), None, predictions={TEST: images}))


def test_an_external_probability_that_is_not_a_number_is_refused():
    images = pd.DataFrame({"source": "new", "patient_id": list("abcd"), "label": "No finding", "predicted": "COVID-19"})
    with pytest.raises(CovidxrError, match="p_COVID-19 holds nan at place 1"):
        images = images.assign(**{"p_COVID-19": [0.9, NAN, 0.9, 0.9]})
        external_confidence(AuditData(rows(), None, predictions={"new": images}, positive="COVID-19"))
