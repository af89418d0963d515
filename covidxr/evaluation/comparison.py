"""Paired comparison of two networks on the same images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from covidxr.data.manifest import patient_keys
from covidxr.evaluation.intervals import Estimate, estimate_statistic
from covidxr.evaluation.metrics import POSITIVE, counted, is_healthy, positive_class
from covidxr.utils import CovidxrError

COMPARED = ("sensitivity", "specificity", "specificity_healthy", "auc", "accuracy")


def compare_predictions(
    first: pd.DataFrame, second: pd.DataFrame, classes: Sequence[str], positive: str = POSITIVE
) -> dict[str, Estimate | None]:
    """Compare two prediction tables of the same images: every metric of the second minus that of the first.

    The intervals are of the paired difference, from a patient-level bootstrap. They are narrower than the intervals of the two
    metrics suggest, since both networks find the same images difficult. Where no image changes, the interval has no width.

    Parameters
    ----------
    first, second : pandas.DataFrame
        From `covidxr.evaluation.prediction_table`, of the same images in any order.
    classes : sequence of str
        The classes of both networks.
    positive : str
        The class against all others.

    Returns
    -------
    dict
        `covidxr.evaluation.Estimate` of the difference in [-1, 1], or None where there are no images to compute it from:
        ``sensitivity``, ``specificity`` and ``auc`` of the images that are known to be positive or negative
        (`covidxr.evaluation.metrics.counted`); ``specificity_healthy`` of those that are labelled normal; ``accuracy`` of those
        whose label is one of the classes.

    Raises
    ------
    CovidxrError
        When the tables are not of the same images with the same labels, or `positive` is none of the classes.

    References
    ----------
    Obuchowski N. A., Zepp R. C., Simple Steps for Improving Multiple-Reader Studies in Radiology, AJR 166, 1996 (paired
    designs); bootstrap: Efron B., Tibshirani R., An Introduction to the Bootstrap, 1993.

    Examples
    --------
    >>> first = pd.DataFrame({"image_id": list("abcd"), "patient_id": list("abcd"), "source": "s"})
    >>> first = first.assign(label=["COVID-19", "Normal"] * 2, predicted="COVID-19", **{"p_COVID-19": 0.9})
    >>> second = first.assign(predicted=first.label)
    >>> compare_predictions(first, second, ["COVID-19", "Normal"])["specificity"].value
    1.0
    """
    positive_class(classes, positive)
    second = _aligned(first, second)
    patients, labels = patient_keys(first).to_numpy(dtype=str), first.label.to_numpy(dtype=str)
    known, is_positive = counted(labels, classes, positive), labels == positive
    positive_before, positive_after = ((table.predicted == positive).to_numpy(dtype=float) for table in (first, second))
    correct_before, correct_after = ((table.predicted == labels).to_numpy(dtype=float) for table in (first, second))
    changes = {
        "sensitivity": (known & is_positive, positive_after - positive_before),
        "specificity": (known & ~is_positive, positive_before - positive_after),
        "specificity_healthy": (is_healthy(labels).to_numpy() & ~is_positive, positive_before - positive_after),
        "accuracy": (np.isin(labels, list(classes)), correct_after - correct_before),
    }
    scores = (table[f"p_{positive}"].to_numpy()[known] for table in (first, second))
    differences = {name: _mean_change(change[rows], patients[rows]) for name, (rows, change) in changes.items()}
    return differences | {"auc": compare_auc(is_positive[known], *scores, patients[known])}


def _aligned(first, second):
    """The rows of the second table in the order of the first."""
    keys = [pd.MultiIndex.from_frame(table[["source", "image_id"]].astype(str)) for table in (first, second)]
    if any(key.has_duplicates for key in keys) or not keys[0].sort_values().equals(keys[1].sort_values()):
        shared = len(keys[0].intersection(keys[1]))
        raise CovidxrError(
            f"a paired comparison needs two predictions of each image; the tables have {len(first)} and {len(second)} rows, "
            f"and share {shared} images"
        )
    second = second.iloc[keys[1].get_indexer(keys[0])]
    if (differ := first.label.to_numpy() != second.label.to_numpy()).any():
        raise CovidxrError(
            f"{differ.sum()} images have another label in the second table, the first is {first.image_id[differ].iloc[0]}"
        )
    return second


def _mean_change(change, patients):
    return estimate_statistic(lambda rows: change[rows].mean(), patients) if len(change) else None


def compare_auc(positive, first_score, second_score, patients) -> Estimate | None:
    """The paired difference of two AUCs, the second minus the first; None without both positives and negatives."""
    positive, scores = np.asarray(positive, dtype=bool), [np.asarray(score) for score in (first_score, second_score)]
    if positive.all() or not positive.any():
        return None

    def change(rows):
        if positive[rows].all() or not positive[rows].any():
            return np.nan
        before, after = (roc_auc_score(positive[rows], score[rows]) for score in scores)
        return after - before

    return estimate_statistic(change, patients)


def comparison_table(compared: dict[str, dict]) -> pd.DataFrame:
    """One row a set and metric: the estimates of the ``network`` and of the ``mitigated`` one, and their paired ``change``."""
    rows = {
        (name, metric): {kind: found[kind].get(metric) for kind in ("network", "mitigated", "change")}
        for name, found in compared.items()
        for metric in COMPARED
        if found["change"].get(metric)
    }
    table = pd.DataFrame(list(rows.values()), columns=["network", "mitigated", "change"])
    return table.set_index(pd.MultiIndex.from_tuples(rows, names=["set", "metric"]))
