"""Confidence intervals that account for several images per patient: Wilson intervals with an effective sample size for
proportions, a patient-level bootstrap for everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score

from covidxr.checks import at_least_one, check_whole, flags, level, numbers, patients_of, same_length
from covidxr.utils import CovidxrError, estimate_text


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval.

    Attributes
    ----------
    value, low, high : float
        The value, and the limits of its interval.
    n : int, optional
        How many images it is computed from.

    Examples
    --------
    >>> print(Estimate(0.954, 0.911, 0.974, n=174))
    0.95 (95 % CI 0.91–0.97)
    >>> Estimate(0.954, 0.911, 0.974).to_dict()
    {'value': 0.954, 'low': 0.911, 'high': 0.974}
    """

    value: float
    low: float
    high: float
    n: int | None = None

    def __str__(self) -> str:
        return estimate_text(self.value, self.low, self.high)

    def signed(self) -> str:
        """The text of a difference.

        >>> Estimate(0.104, -0.021, 0.23).signed()
        '+0.10 (95 % CI -0.02 to +0.23)'
        """
        return f"{self.value:+.2f} (95 % CI {self.low:+.2f} to {self.high:+.2f})"

    def to_dict(self) -> dict[str, float]:
        """As it is stored in ``metrics.json``."""
        return {name: number for name, number in asdict(self).items() if number is not None}


def estimate_table(estimates: dict[str, Estimate | None]) -> pd.DataFrame:
    """One row an estimate: ``value``, ``low``, ``high`` and ``n``, NaN where nothing was measured.

    Examples
    --------
    >>> estimate_table({"accuracy": Estimate(0.9, 0.8, 1.0, 30), "AUC": None}).value.tolist()
    [0.9, nan]
    """
    rows = [estimate.to_dict() if estimate else {} for estimate in estimates.values()]
    return pd.DataFrame(rows, index=list(estimates), columns=["value", "low", "high", "n"]).astype({"n": "Int64"})


def estimate_columns(**estimates) -> dict[str, float]:
    """Estimates as columns of a wider table: ``name``, ``name_low`` and ``name_high``, NaN where nothing was measured."""
    columns = {}
    for name, estimate in estimates.items():
        value, low, high = (estimate.value, estimate.low, estimate.high) if estimate else (np.nan,) * 3
        columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return columns


def estimate_of(row, name) -> Estimate:
    """The estimate in such columns of a row."""
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])


def estimate_records(table) -> dict[str, dict]:
    """A table as it is stored in ``metrics.json``: a column with limits is one estimate, NaN is null.

    >>> estimate_records(pd.DataFrame({"n": 9, **estimate_columns(auc=Estimate(0.7, 0.6, 0.8))}, index=["site"]))
    {'site': {'n': 9, 'auc': {'value': 0.7, 'low': 0.6, 'high': 0.8}}}
    """
    measures = [name for name in table if f"{name}_low" in table]
    limits = {f"{name}{end}" for name in measures for end in ("_low", "_high")}
    records = {}
    for key, row in table.astype(object).where(table.notna(), None).iterrows():
        record = row.drop(limits).to_dict()
        record |= {name: estimate_of(row, name).to_dict() for name in measures if record[name] is not None}
        records[key if isinstance(key, str) else ", ".join(key)] = record
    return records


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Parameters
    ----------
    successes, n : float
        Successes among `n` independent trials; for several images per patient use `proportion_interval`.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    low, high : float
        In [0, 1]; (0, 1) when `n` is 0.

    Raises
    ------
    CovidxrError
        When there are more successes than trials, a count is negative or not a number, or `confidence` is not between 0 and 1.

    References
    ----------
    Wilson E. B., Probable Inference, the Law of Succession, and Statistical Inference, JASA 22, 1927.

    Examples
    --------
    >>> low, high = wilson_interval(97, 100)
    >>> round(low, 3), round(high, 3)
    (0.915, 0.99)
    """
    level(confidence)
    numbers("the number of trials", n, 0)
    numbers("the number of successes", successes, 0, n)
    if n == 0:
        return 0.0, 1.0
    proportion, square = min(1.0, successes / n), norm.ppf((1 + confidence) / 2) ** 2 / n
    centre = proportion + square / 2
    half_width = np.sqrt(proportion * (1 - proportion) * square + square**2 / 4)
    return float(max(0.0, (centre - half_width) / (1 + square))), float(min(1.0, (centre + half_width) / (1 + square)))


def proportion_interval(
    hits: ArrayLike, patients: ArrayLike | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of a proportion of images, several of which may be of the same patient.

    Images of one patient tend to be right or wrong together, so the effective sample size is smaller than the number of images.
    It is that number divided by the design effect, the ratio of the variance between patients to the variance of independent
    images. The interval is Wilson's for the effective sample size. Where all images agree, so that the design effect cannot be
    estimated, the effective sample size is the number of patients.

    Parameters
    ----------
    hits : array_like of bool
        Shape (N,), one value an image.
    patients : array_like of str, optional
        Shape (N,), the patient of each image; by default each image has its own, and the interval is Wilson's.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    low, high : float
        In [0, 1].

    Raises
    ------
    CovidxrError
        When a hit is neither true nor false, a patient is missing, or the lengths differ.

    References
    ----------
    Korn E. L., Graubard B. I., Confidence Intervals for Proportions with Small Expected Number of Positive Counts Estimated
    from Survey Data, Survey Methodology 24, 1998 (effective sample size); Franco C. et al., Comparative Study of Confidence
    Intervals for Proportions in Complex Sample Surveys, JSSAM 7, 2019 (with Wilson's interval).

    Examples
    --------
    >>> correct = [True, True, False, False] * 10
    >>> [round(limit, 2) for limit in proportion_interval(correct)]
    [0.35, 0.65]
    >>> [round(limit, 2) for limit in proportion_interval(correct, np.arange(40) // 2)]
    [0.29, 0.71]
    """
    same_length(hits=hits, patients=patients)
    hits = flags("hits", hits).astype(float)
    n = len(hits) if patients is None or not len(hits) else _effective_sample_size(hits, patients, confidence)
    return wilson_interval(hits.mean() * n if n else 0, n, confidence)


def _effective_sample_size(hits, patients, confidence):
    """The number of images divided by the design effect, and by a correction from the normal to Student's t distribution."""
    _, cluster = np.unique(patients_of(patients, len(hits)).astype(str), return_inverse=True)
    n, k, proportion = len(hits), cluster.max() + 1, hits.mean()
    if k == n or k == 1 or proportion in (0, 1):
        return k
    deviations = np.bincount(cluster, hits - proportion)
    effect = max(1.0, k / (k - 1) * (deviations**2).sum() / n**2 / (proportion * (1 - proportion) / (n - 1)))
    wider = t.ppf((1 + confidence) / 2, k - 1) / t.ppf((1 + confidence) / 2, n - 1)
    return n / effect / wider**2


def estimate_proportion(hits: ArrayLike, patients: ArrayLike | None = None) -> Estimate:
    """A proportion of images, such as the accuracy, with its interval from `proportion_interval`.

    Parameters
    ----------
    hits : array_like of bool
        Shape (N,), at least one value.
    patients : array_like of str, optional
        Shape (N,), the patient of each image; by default each image has its own.

    Raises
    ------
    CovidxrError
        As `proportion_interval`, and when there are no images.

    Examples
    --------
    >>> print(estimate_proportion([True] * 95 + [False] * 5))
    0.95 (95 % CI 0.89–0.98)
    """
    at_least_one("hits", hits)
    hits = flags("hits", hits)
    return Estimate(float(hits.mean()), *proportion_interval(hits, patients), len(hits))


def patient_bootstrap(groups, draws=1000, seed=0):
    """Yield the row numbers of bootstrap samples: patients drawn with replacement, each with all their images."""
    check_whole("draws", draws, 1)
    at_least_one("groups", groups)
    _, cluster = np.unique(patients_of(groups, len(groups)).astype(str), return_inverse=True)
    members = np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster))[:-1])
    for pick in np.random.default_rng(seed).integers(len(members), size=(draws, len(members))):
        yield np.concatenate([members[i] for i in pick])


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    groups: ArrayLike,
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic from a patient-level (cluster) bootstrap.

    Parameters
    ----------
    statistic : callable
        Takes an integer array of row numbers and returns a number, finite for all rows. Samples for which it is not finite, such
        as those without positive images, are ignored.
    groups : array_like
        Shape (N,), the patient of each row; all rows of a drawn patient are in the sample.
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
    estimate = estimate_statistic(statistic, groups, confidence, draws, seed)
    return estimate.low, estimate.high


def estimate_statistic(statistic, groups, confidence=0.95, draws=1000, seed=0) -> Estimate:
    """A statistic with its interval from the patient-level bootstrap of `bootstrap_interval`."""
    level(confidence)
    at_least_one("groups", groups)
    value = statistic(np.arange(len(groups)))
    if not np.isfinite(value):
        raise CovidxrError(f"the statistic of all {len(groups)} rows is {value}; an interval needs a finite number")
    drawn = np.array([statistic(rows) for rows in patient_bootstrap(groups, draws, seed)], dtype=float)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.where(np.isfinite(drawn), drawn, np.nan), [tail, 1 - tail])
    return Estimate(float(value), float(low), float(high), len(groups))


def estimate_auc(positive, score, patients) -> Estimate:
    """The area under the ROC curve, with its interval from a patient-level bootstrap."""
    n = same_length(positive=positive, score=score, patients=patients)
    positive, score = flags("positive", positive), numbers("score", score)
    if positive.all() or not positive.any():
        raise CovidxrError(
            f"{int(positive.sum())} of {n} images are positive; an AUC needs both positives and negatives"
        )

    def auc(rows):
        return roc_auc_score(positive[rows], score[rows]) if 0 < positive[rows].sum() < len(rows) else np.nan

    return estimate_statistic(auc, patients, draws=500)


def binary_metrics(positive, predicted, score, patients) -> dict[str, Estimate | None]:
    """Sensitivity, specificity and, unless `score` is None, AUC; None where there are no images to compute one from."""
    n = same_length(positive=positive, predicted=predicted, score=score, patients=patients)
    positive, predicted = flags("positive", positive), flags("predicted", predicted)
    patients = patients_of(patients, n).astype(str)
    estimates = {
        "sensitivity": estimate_proportion(predicted[positive], patients[positive]) if positive.any() else None,
        "specificity": estimate_proportion(~predicted[~positive], patients[~positive]) if not positive.all() else None,
    }
    if score is None:
        return estimates
    score = numbers("score", score)
    return {**estimates, "auc": estimate_auc(positive, score, patients) if 0 < positive.sum() < n else None}
