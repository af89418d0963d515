"""Does a network know how sure it may be: calibration error, Brier score, temperature, thresholds, selective accuracy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_curve

from covidxr import checks
from covidxr.errors import CovidxrError
from covidxr.evaluate import BINS, reliability
from covidxr.intervals import bootstrap_interval

TEMPERATURES = (0.05, 20.0)


def calibration_error(confidence, correct, patients=None, bins=BINS, draws=500, seed=0) -> dict:
    """Expected calibration error, its interval, and what it would be for a network that is right as often as it says.

    Parameters
    ----------
    confidence : array_like of float
        A probability for each film, in [0, 1].
    correct : array_like of bool
        Whether what it is the probability of is so.
    patients : array_like of str, optional
        The patient of each film, for the bootstrap; by default each film has its own.
    bins : int
        Bins of equal width.
    draws, seed : int
        Of the bootstrap, and of the outcomes drawn with the stated probabilities, whose mean error is ``chance``: with few
        films a perfectly calibrated network has an error too.

    Returns
    -------
    dict
        ``error``, ``interval`` and ``chance``.

    Raises
    ------
    CovidxrError
        When a confidence is not in [0, 1], an answer neither right nor wrong, or the lengths differ.

    References
    ----------
    Guo C. et al., On Calibration of Modern Neural Networks, ICML 2017; drawn outcomes: Bröcker J., Smith L. A., Increasing
    the Reliability of Reliability Diagrams, Weather and Forecasting 22, 2007.

    Examples
    --------
    >>> found = calibration_error([0.9] * 50, [True] * 25 + [False] * 25)
    >>> round(found["error"], 2), found["interval"][0] > found["chance"]
    (0.4, True)
    """
    found = reliability(confidence, correct, bins, patients)[1]
    checks.check_whole("draws", draws, 1)
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=bool)
    patients = checks.patients_of(patients, len(correct))
    place = np.minimum((confidence * bins).astype(int), bins - 1)

    def error(sure, right, place):
        return np.abs(np.bincount(place, sure - right, bins)).sum() / len(sure)

    rng = np.random.default_rng(seed)
    lucky = np.mean([error(confidence, rng.random(len(confidence)) < confidence, place) for _ in range(draws)])
    interval = bootstrap_interval(
        lambda rows: error(confidence[rows], correct[rows], place[rows]), patients, draws=draws
    )
    return {"error": found, "interval": list(interval), "chance": float(lucky)}


def selective_accuracy(confidence, correct) -> pd.DataFrame:
    """Accuracy on the films that the network is surest of, for every share of them.

    Parameters
    ----------
    confidence : array_like of float
        N confidences.
    correct : array_like of bool
        Whether it was right.

    Returns
    -------
    pandas.DataFrame
        ``coverage`` (share of films answered) and ``accuracy`` on them, N rows. Equally sure answers count alike, whatever
        their order.

    References
    ----------
    Geifman Y., El-Yaniv R., Selective Classification for Deep Neural Networks, NeurIPS 2017.

    Examples
    --------
    >>> selective_accuracy([0.9, 0.8, 0.7, 0.6], [True, True, False, False]).accuracy.round(2).tolist()
    [1.0, 1.0, 0.67, 0.5]
    """
    checks.same_length(confidence=confidence, correct=correct)
    correct = checks.flags("correct", correct).astype(float)
    frame = pd.DataFrame({"sure": checks.numbers("confidence", confidence), "right": correct})
    right = frame.groupby("sure").right.transform("mean")[frame.sure.sort_values(ascending=False, kind="stable").index]
    answered = np.arange(1, len(frame) + 1)
    return pd.DataFrame({"coverage": answered / len(frame), "accuracy": right.to_numpy().cumsum() / answered})


def fit_temperature(probabilities, truth) -> float:
    """The temperature that makes validation films likeliest.

    Parameters
    ----------
    probabilities : array_like of float
        Shape (N, classes).
    truth : array_like of int
        N columns of the true classes.

    Returns
    -------
    float
        Between 0.05 and 20; above 1 the network was surer than it should be.

    Raises
    ------
    CovidxrError
        When the rows are no probabilities, or a true class is none of their columns.

    References
    ----------
    Guo C. et al., On Calibration of Modern Neural Networks, ICML 2017.

    Examples
    --------
    >>> probabilities = np.array([[0.99, 0.01]] * 10)
    >>> fit_temperature(probabilities, [0] * 7 + [1] * 3) > 2
    True
    """
    checks.same_length(probabilities=probabilities, truth=truth)
    checks.at_least_one("probabilities", probabilities)
    probabilities = checks.probability_rows(probabilities)
    rows, truth = np.arange(len(truth)), np.asarray(truth)
    checks.known_labels("column", truth, range(probabilities.shape[1]))

    def loss(log_temperature):
        softened = with_temperature(probabilities, np.exp(log_temperature))
        return -np.log(np.clip(softened[rows, truth], 1e-12, None)).mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def with_temperature(probabilities, temperature) -> np.ndarray:
    """Soften (above 1) or sharpen (below 1) class probabilities; the order within a film stays.

    Parameters
    ----------
    probabilities : array_like of float
        Shape (N, classes).
    temperature : float
        Above 0.

    Returns
    -------
    numpy.ndarray
        The same shape, rows summing to 1.

    Raises
    ------
    CovidxrError
        When the rows are no probabilities, or the temperature is not above 0.

    Examples
    --------
    >>> with_temperature([[0.8, 0.2]], 2.0).round(2).tolist()
    [[0.67, 0.33]]
    """
    if not 0 < temperature < np.inf:
        raise CovidxrError(f"temperature is {temperature}; give a number above 0")
    logits = np.log(np.clip(checks.probability_rows(probabilities), 1e-12, None)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def choose_threshold(score, ill, sensitivity=None, weights=None) -> float | None:
    """The score from which a film is called ill, chosen on validation films.

    Parameters
    ----------
    score : array_like of float
        N scores, higher for ill.
    ill : array_like of bool
        Which are.
    sensitivity : float, optional
        The highest threshold that reaches it; by default the one with the largest sum of sensitivity and specificity
        (Youden's), in the middle of the gap up to the next lower score.
    weights : array_like of float, optional
        How much each film counts in both, such as `covidxr.groups.cell_weights`; by default all count alike.

    Returns
    -------
    float or None
        None where no threshold has a sum of sensitivity and specificity above 1, which is what chance gives.

    Raises
    ------
    CovidxrError
        When all films or none are ill, the sensitivity is not between 0 and 1, or a score or weight is no finite number.

    References
    ----------
    Youden W. J., Index for Rating Diagnostic Tests, Cancer 3, 1950.

    Examples
    --------
    >>> round(choose_threshold([0.1, 0.2, 0.6, 0.9], [False, False, True, True]), 6)
    0.4
    """
    checks.same_length(scores=score, truths=ill, weights=weights)
    score, ill = checks.numbers("score", score), checks.flags("ill", ill)
    if weights is not None:
        weights = checks.numbers("weights", weights, 0)
    if ill.all() or not ill.any():
        raise CovidxrError(f"{int(ill.sum())} of {len(ill)} films are ill; a threshold needs both kinds")
    if sensitivity is not None and not 0 < sensitivity <= 1:
        raise CovidxrError(f"a sensitivity of {sensitivity} cannot be aimed at; give one above 0, at most 1")
    false, true, cuts = roc_curve(ill, score, sample_weight=weights, drop_intermediate=False)
    best = np.argmax(true - false) if sensitivity is None else np.argmax(true >= sensitivity)
    if sensitivity is None and true[best] - false[best] <= checks.ROUNDING:
        return None  # the first cut of the curve, from which nobody is called ill, is infinite
    below = score[score < cuts[best]]
    return float((cuts[best] + below.max()) / 2) if len(below) else float(cuts[best])
