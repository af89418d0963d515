"""Confidence intervals, films of one patient counting for less: Wilson's for shares, a bootstrap for everything else."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score

from covidxr import checks
from covidxr.errors import CovidxrError


def wilson_interval(successes, n, confidence=0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Parameters
    ----------
    successes, n : float
        So many of so many; independent ones, else take `share_interval`.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    low, high : float
        (0, 1) when `n` is 0, since then nothing is known.

    Raises
    ------
    CovidxrError
        When there are more successes than trials, either is negative or no number, or `confidence` is not between 0 and 1.

    References
    ----------
    Wilson E. B., Probable Inference, the Law of Succession, and Statistical Inference, JASA 22, 1927.

    Examples
    --------
    >>> low, high = wilson_interval(97, 100)
    >>> round(low, 3), round(high, 3)
    (0.915, 0.99)
    """
    checks.level(confidence)
    checks.numbers("the number of trials", n, 0)
    checks.numbers("the number of successes", successes, 0, n)
    if n == 0:
        return 0.0, 1.0
    share, square = min(1.0, successes / n), norm.ppf((1 + confidence) / 2) ** 2 / n
    middle, reach = share + square / 2, np.sqrt(share * (1 - share) * square + square**2 / 4)
    return float(max(0.0, (middle - reach) / (1 + square))), float(min(1.0, (middle + reach) / (1 + square)))


def share_interval(hits, patients=None, confidence=0.95) -> tuple[float, float]:
    """Interval of a share of films, of which some are of the same patient.

    Films of one patient are right or wrong together more often than not, so they are worth fewer independent ones. How many is
    told by how much more the share varies from patient to patient than it would from film to film; Wilson's interval is
    that of so many. Where all films are alike, which tells nothing about that, they are as many as the patients.

    Parameters
    ----------
    hits : array_like of bool
        One value a film.
    patients : array_like of str, optional
        Their patients; by default each film has its own, and the interval is Wilson's.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    low, high : float

    Raises
    ------
    CovidxrError
        When a hit is neither true nor false, a patient is missing, or there are not as many patients as hits.

    References
    ----------
    Korn E. L., Graubard B. I., Confidence Intervals for Proportions with Small Expected Number of Positive Counts Estimated
    from Survey Data, Survey Methodology 24, 1998, their effective sample size; with Wilson's interval: Franco C. et al., Comparative
    Study of Confidence Intervals for Proportions in Complex Sample Surveys, JSSAM 7, 2019.

    Examples
    --------
    >>> right = [True, True, False, False] * 10
    >>> [round(end, 2) for end in share_interval(right)], [round(end, 2) for end in share_interval(right, np.arange(40) // 2)]
    ([0.35, 0.65], [0.29, 0.71])
    """
    checks.same_length(hits=hits, patients=patients)
    hits = checks.flags("hits", hits).astype(float)
    n = len(hits) if patients is None or not len(hits) else _independent(hits, patients, confidence)
    return wilson_interval(hits.mean() * n if n else 0, n, confidence)


def _independent(hits, patients, confidence):
    """The number of independent films that tell as much as these: fewer by the design effect, and by Student's t."""
    _, numbers = np.unique(checks.patients_of(patients, len(hits)).astype(str), return_inverse=True)
    n, k, share = len(hits), numbers.max() + 1, hits.mean()
    if k == n or k == 1 or share in (0, 1):
        return k
    apart = np.bincount(numbers, hits - share)
    effect = max(1.0, k / (k - 1) * (apart**2).sum() / n**2 / (share * (1 - share) / (n - 1)))
    wider = t.ppf((1 + confidence) / 2, k - 1) / t.ppf((1 + confidence) / 2, n - 1)
    return n / effect / wider**2


def accuracy_with_interval(correct, patients=None) -> dict:
    """Accuracy with its interval, as it goes into ``metrics.json``.

    Parameters
    ----------
    correct : array_like of bool
        One value a film.
    patients : array_like of str, optional
        Their patients, as for `share_interval`.

    Returns
    -------
    dict
        ``n``, ``accuracy``, ``accuracy_interval``.

    Examples
    --------
    >>> accuracy_with_interval([True, True, False, True])["accuracy"]
    0.75
    """
    checks.at_least_one("correct", correct)
    correct = checks.flags("correct", correct)
    interval = list(share_interval(correct, patients))
    return {"n": len(correct), "accuracy": float(correct.mean()), "accuracy_interval": interval}


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
    checks.check_whole("draws", draws, 1)
    checks.at_least_one("groups", groups)
    _, numbers = np.unique(checks.patients_of(groups, len(groups)).astype(str), return_inverse=True)
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    for pick in np.random.default_rng(seed).integers(len(members), size=(draws, len(members))):
        yield np.concatenate([members[i] for i in pick])


def bootstrap_interval(statistic, groups, confidence=0.95, draws=1000, seed=0) -> tuple[float, float]:
    """Percentile interval of a statistic, films drawn patient by patient.

    Parameters
    ----------
    statistic : callable
        Takes an integer array of row numbers, gives a number, a finite one for all rows; draws for which it is not finite,
        such as those without ill patients, are left out.
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

    Raises
    ------
    CovidxrError
        When the statistic of all rows is not finite, a patient is missing, or there are no rows or draws.

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
    checks.level(confidence)
    checks.at_least_one("groups", groups)
    if not np.isfinite(whole := statistic(np.arange(len(groups)))):
        raise CovidxrError(f"the statistic of all {len(groups)} rows is {whole}; an interval needs a finite number")
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

    Raises
    ------
    CovidxrError
        When all films are of one kind, a score is no number, or the lengths differ.

    Examples
    --------
    >>> area, (low, high) = auc_with_interval(np.arange(40) % 2 == 1, np.random.default_rng(0).random(40), np.arange(40))
    >>> 0 < low < area < high < 1
    True
    """
    n = checks.same_length(ill=ill, score=score, patients=patients)
    ill, score = checks.flags("ill", ill), checks.numbers("score", score)
    if ill.all() or not ill.any():
        raise CovidxrError(f"{int(ill.sum())} of {n} images are ill; an area under the ROC curve needs both kinds")

    def area(rows):
        return roc_auc_score(ill[rows], score[rows]) if 0 < ill[rows].sum() < len(rows) else np.nan

    return float(area(np.arange(len(ill)))), bootstrap_interval(area, patients, draws=500)


def called_right(ill, called, patients) -> dict:
    """Sensitivity and specificity with their intervals.

    Parameters
    ----------
    ill, called : array_like of bool
        N films: which are ill, and which were called so.
    patients : array_like of str
        Their patients, as for `share_interval`.

    Returns
    -------
    dict
        ``sensitivity`` and ``specificity``, each with ``…_interval``; None where there are no such films.

    Examples
    --------
    >>> found = called_right([True, True], [True, False], ["a", "b"])
    >>> found["sensitivity"], found["specificity"]
    (0.5, None)
    """
    n = checks.same_length(ill=ill, called=called, patients=patients)
    ill, called = checks.flags("ill", ill), checks.flags("called", called)
    patients = checks.patients_of(patients, n).astype(str)
    found = _share("sensitivity", called[ill], patients[ill])
    return {**found, **_share("specificity", ~called[~ill], patients[~ill])}


def _share(name, hits, patients):
    if not len(hits):
        return {name: None, f"{name}_interval": None}
    return {name: float(hits.mean()), f"{name}_interval": list(share_interval(hits, patients))}


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
    checks.same_length(ill=ill, called=called, score=score, patients=patients)
    ill, area, interval = checks.flags("ill", ill), None, None
    checks.numbers("score", score)
    if 0 < ill.sum() < len(ill):
        area, interval = auc_with_interval(ill, score, patients)
    return {**called_right(ill, called, patients), "auc": area, "auc_interval": interval and list(interval)}
