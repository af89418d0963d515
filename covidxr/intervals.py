"""Confidence intervals: Wilson's for proportions, and a bootstrap over patients for everything else."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score


def wilson_interval(successes, n, confidence=0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Parameters
    ----------
    successes, n : int
        So many of so many.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    low, high : float
        (0, 1) when `n` is 0, since then nothing is known.

    References
    ----------
    Wilson E. B., Probable Inference, the Law of Succession, and Statistical Inference, JASA 22, 1927; computed by
    `scipy.stats.binomtest`.

    Examples
    --------
    >>> low, high = wilson_interval(97, 100)
    >>> round(low, 3), round(high, 3)
    (0.915, 0.99)
    """
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def accuracy_with_interval(correct) -> dict:
    """Accuracy with Wilson's interval, as it goes into ``metrics.json``.

    Parameters
    ----------
    correct : array_like of bool
        One value a film.

    Returns
    -------
    dict
        ``n``, ``accuracy``, ``accuracy_interval``.

    Examples
    --------
    >>> accuracy_with_interval([True, True, False, True])["accuracy"]
    0.75
    """
    correct = np.asarray(correct, dtype=bool)
    interval = wilson_interval(correct.sum(), len(correct))
    return {"n": len(correct), "accuracy": float(correct.mean()), "accuracy_interval": list(interval)}


def drawn_patients(groups, draws=1000, seed=0):
    """Draw patients with replacement, all their films with them.

    Parameters
    ----------
    groups : array_like
        For each film the patient.
    draws : int
        Bootstrap samples.
    seed : int
        Seed of the draws.

    Yields
    ------
    numpy.ndarray
        Row numbers.

    Examples
    --------
    >>> rows = next(drawn_patients(["a", "b", "a"]))
    >>> bool((rows == 0).sum() == (rows == 2).sum())
    True
    """
    _, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    for pick in np.random.default_rng(seed).integers(len(members), size=(draws, len(members))):
        yield np.concatenate([members[i] for i in pick])


def bootstrap_interval(statistic, groups, confidence=0.95, draws=1000, seed=0) -> tuple[float, float]:
    """Percentile interval of a statistic, films drawn patient by patient.

    Parameters
    ----------
    statistic : callable
        Takes an integer array of row numbers, gives a number; draws for which it is not finite are left out.
    groups : array_like
        For each row the patient; all films of a drawn patient come along.
    confidence : float
        Between 0 and 1.
    draws : int
        Bootstrap samples.
    seed : int
        Seed of the draws.

    Returns
    -------
    low, high : float

    References
    ----------
    Efron B., Tibshirani R., An Introduction to the Bootstrap, 1993; clusters: Davison and Hinkley 1997, section 3.8.

    Examples
    --------
    >>> values = np.arange(100.0)
    >>> low, high = bootstrap_interval(lambda rows: values[rows].mean(), groups=np.arange(100))
    >>> bool(low < 49.5 < high), bool(high - low < 15)
    (True, True)
    """
    values = np.array([statistic(rows) for rows in drawn_patients(groups, draws, seed)], dtype=float)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.where(np.isfinite(values), values, np.nan), [tail, 1 - tail])
    return float(low), float(high)


def auc_with_interval(ill, score, patients) -> tuple:
    """Area under the ROC curve, and its interval, films drawn patient by patient.

    Parameters
    ----------
    ill : array_like of bool
        N films, of both kinds.
    score : array_like of float
        N scores.
    patients : array_like of str
        Their patients.

    Returns
    -------
    area : float
        How often, of an ill film and another, the ill one has the higher score.
    interval : tuple of float

    Examples
    --------
    >>> area, (low, high) = auc_with_interval(np.arange(40) % 2 == 1, np.random.default_rng(0).random(40), np.arange(40))
    >>> 0 < low < area < high < 1
    True
    """
    ill, score = np.asarray(ill, dtype=bool), np.asarray(score, dtype=float)

    def area(rows):
        return roc_auc_score(ill[rows], score[rows]) if 0 < ill[rows].sum() < len(rows) else np.nan

    return float(area(np.arange(len(ill)))), bootstrap_interval(area, patients, draws=500)


def called_right(ill, called) -> dict:
    """Sensitivity and specificity with Wilson's intervals.

    Parameters
    ----------
    ill, called : array_like of bool
        N films: which are ill, and which were called so.

    Returns
    -------
    dict
        ``sensitivity`` and ``specificity``, each with ``…_interval``; None where there are no such films.

    Examples
    --------
    >>> found = called_right([True, True], [True, False])
    >>> found["sensitivity"], found["specificity"]
    (0.5, None)
    """
    ill, called = np.asarray(ill, dtype=bool), np.asarray(called, dtype=bool)
    return {**_share("sensitivity", called[ill]), **_share("specificity", ~called[~ill])}


def _share(name, hits):
    if not len(hits):
        return {name: None, f"{name}_interval": None}
    return {name: float(hits.mean()), f"{name}_interval": list(wilson_interval(hits.sum(), len(hits)))}


def discrimination(ill, called, score, patients) -> dict:
    """Sensitivity and specificity, and the area under the ROC curve, with their intervals.

    Parameters
    ----------
    ill, called : array_like of bool
        As for `called_right`.
    score : array_like of float
        N scores.
    patients : array_like of str
        Their patients.

    Returns
    -------
    dict
        As of `called_right`, and ``auc`` with ``auc_interval``; None where all films are of one kind.

    Examples
    --------
    >>> discrimination([True, True], [True, False], [0.9, 0.2], ["a", "b"])["auc"] is None
    True
    """
    ill, area, interval = np.asarray(ill, dtype=bool), None, None
    if 0 < ill.sum() < len(ill):
        area, interval = auc_with_interval(ill, score, patients)
    return {**called_right(ill, called), "auc": area, "auc_interval": interval and list(interval)}
