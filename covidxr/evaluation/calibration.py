"""Calibration, operating points and selective prediction."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_curve

from covidxr.checks import (
    ROUNDING,
    at_least_one,
    check_whole,
    flags,
    known_labels,
    numbers,
    patients_of,
    probability_rows,
    same_length,
)
from covidxr.evaluation.intervals import Estimate, estimate_statistic, proportion_interval
from covidxr.utils import CovidxrError

BINS = 10  # of the calibration error and of the reliability diagram, so that the one is the error of the other

_TEMPERATURES = (0.05, 20.0)


def reliability_table(confidence, correct, bins=BINS, patients=None) -> tuple[pd.DataFrame, float]:
    """Mean confidence and accuracy in bins of equal width, with intervals, and the expected calibration error."""
    n = same_length(confidence=confidence, correct=correct, patients=patients)
    at_least_one("confidence", confidence)
    check_whole("bins", bins, 1)
    confidence, correct = numbers("confidence", confidence, 0, 1), flags("correct", correct)
    frame = pd.DataFrame({"confidence": confidence, "correct": correct, "patient": patients_of(patients, n)})
    grouped = frame.groupby(_bin(confidence, bins))
    table = grouped.agg(confidence=("confidence", "mean"), accuracy=("correct", "mean"), n=("correct", "size"))
    intervals = [proportion_interval(images.correct, images.patient) for _, images in grouped]
    table["low"], table["high"] = zip(*intervals, strict=True)
    error = (table.n * (table.confidence - table.accuracy).abs()).sum() / n
    return table.reset_index(drop=True), float(error)


def _bin(confidence, bins):
    return np.minimum((confidence * bins).astype(int), bins - 1)


def calibration_error(confidence, correct, patients=None, bins=BINS, draws=500, seed=0) -> tuple[Estimate, float]:
    """Expected calibration error with its interval, and its chance level.

    The chance level is the mean error when the outcomes are drawn with the stated probabilities: with few images even a
    perfectly calibrated network has an error above zero (Bröcker J., Smith L. A., Increasing the Reliability of Reliability
    Diagrams, Weather and Forecasting 22, 2007; the error itself: Guo C. et al., On Calibration of Modern Neural Networks, 2017).

    >>> error, chance = calibration_error([0.9] * 50, [True] * 25 + [False] * 25)
    >>> round(error.value, 2), error.low > chance
    (0.4, True)
    """
    n = same_length(confidence=confidence, correct=correct, patients=patients)
    at_least_one("confidence", confidence)
    check_whole("bins", bins, 1)
    check_whole("draws", draws, 1)
    confidence, correct = numbers("confidence", confidence, 0, 1), flags("correct", correct)
    place = _bin(confidence, bins)

    def error(confidence, correct, place):
        return np.abs(np.bincount(place, confidence - correct, bins)).sum() / len(place)

    rng = np.random.default_rng(seed)
    chance = np.mean([error(confidence, rng.random(n) < confidence, place) for _ in range(draws)])
    estimate = estimate_statistic(
        lambda rows: error(confidence[rows], correct[rows], place[rows]), patients_of(patients, n), draws=draws
    )
    return estimate, float(chance)


def selective_accuracy(confidence, correct) -> pd.DataFrame:
    """Accuracy on the most confident images, for every ``coverage`` (share of images); ties share their mean accuracy.

    Geifman Y., El-Yaniv R., Selective Classification for Deep Neural Networks, NeurIPS 2017.

    >>> selective_accuracy([0.9, 0.8, 0.7, 0.6], [True, True, False, False]).accuracy.round(2).tolist()
    [1.0, 1.0, 0.67, 0.5]
    """
    same_length(confidence=confidence, correct=correct)
    correct = flags("correct", correct).astype(float)
    frame = pd.DataFrame({"confidence": numbers("confidence", confidence), "correct": correct})
    order = frame.confidence.sort_values(ascending=False, kind="stable").index
    accuracy = frame.groupby("confidence").correct.transform("mean")[order]
    kept = np.arange(1, len(frame) + 1)
    return pd.DataFrame({"coverage": kept / len(frame), "accuracy": accuracy.to_numpy().cumsum() / kept})


def fit_temperature(probabilities, truth) -> float:
    """The temperature that maximises the likelihood of the validation images."""
    same_length(probabilities=probabilities, truth=truth)
    at_least_one("probabilities", probabilities)
    probabilities = probability_rows(probabilities)
    rows, truth = np.arange(len(truth)), np.asarray(truth)
    known_labels("column", truth, range(probabilities.shape[1]))

    def loss(log_temperature):
        softened = apply_temperature(probabilities, np.exp(log_temperature))
        return -np.log(np.clip(softened[rows, truth], 1e-12, None)).mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded").x))


def apply_temperature(probabilities, temperature) -> np.ndarray:
    """Soften (temperature above 1) or sharpen (below 1) class probabilities; the predicted class stays."""
    if not 0 < temperature < np.inf:
        raise CovidxrError(f"temperature is {temperature}; give a number above 0")
    logits = np.log(np.clip(probability_rows(probabilities), 1e-12, None)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def choose_threshold(score, positive, sensitivity=None, weights=None) -> float | None:
    """The score from which an image is predicted as positive: by Youden's index, or the highest that reaches a sensitivity.

    None where no threshold is better than chance.
    """
    same_length(scores=score, outcomes=positive, weights=weights)
    score, positive = numbers("score", score), flags("positive", positive)
    if weights is not None:
        weights = numbers("weights", weights, 0)
    if positive.all() or not positive.any():
        raise CovidxrError(
            f"{int(positive.sum())} of {len(positive)} images are positive; a threshold needs positives and negatives"
        )
    if sensitivity is not None and not 0 < sensitivity <= 1:
        raise CovidxrError(f"the target sensitivity is {sensitivity}; give a number above 0, at most 1")
    false, true, cuts = roc_curve(positive, score, sample_weight=weights, drop_intermediate=False)
    best = np.argmax(true - false) if sensitivity is None else np.argmax(true >= sensitivity)
    if sensitivity is None and true[best] - false[best] <= ROUNDING:
        return None
    below = score[score < cuts[best]]
    return float((cuts[best] + below.max()) / 2) if len(below) else float(cuts[best])
