"""Predictions, the classification report and other metrics of the test split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from covidxr.checks import (
    at_least_one,
    check_whole,
    finite_weights,
    known_labels,
    numbers,
    patients_of,
    probability_rows,
    same_length,
)
from covidxr.data.images import preprocess
from covidxr.data.manifest import patient_keys
from covidxr.evaluation.calibration import calibration_error
from covidxr.evaluation.intervals import estimate_proportion, proportion_interval
from covidxr.utils import METRICS_VERSION, SECTIONS, CovidxrError, read_json, unknown, write_json

if TYPE_CHECKING:
    import keras

POSITIVE = "COVID-19"

_HEALTHY = ("normal", "no finding", "healthy")  # compared in lower case


def positive_class(classes, positive=None) -> str | None:
    """The positive class: `positive`, by default COVID-19 where it is a class, else None."""
    if positive is None:
        return POSITIVE if POSITIVE in classes else None
    if positive not in classes:
        raise unknown("class as `positive`:", positive, classes)
    return positive


def is_healthy(labels) -> pd.Series:
    """Which labels stand for a normal radiograph, however the network's classes are named."""
    return pd.Series(labels).astype(str).str.casefold().str.replace("_", " ").isin(_HEALTHY)


def counted(labels, classes, positive=POSITIVE) -> np.ndarray:
    """Which images are known to be positive or negative: of a class of the network, normal, or in a set with labelled positives."""
    labels = pd.Series(np.asarray(labels, dtype=str))
    return (labels.isin(list(classes)) | is_healthy(labels) | (labels == positive).any()).to_numpy(dtype=bool)


def scores_of(tables, classes, positive) -> dict:
    """For each set's prediction table, the images known to be positive or negative: outcome, score, prediction and patient."""
    scores = {}
    for name, rows in tables.items() if positive else ():
        rows = rows[counted(rows.label, classes, positive)]
        if len(rows):
            scores[name] = pd.DataFrame({
                "positive": rows.label == positive, "score": rows[f"p_{positive}"],
                "predicted_positive": rows.predicted == positive, "patient": patient_keys(rows),
            })  # fmt: skip
    return scores


def predict_table(model, manifest, images, classes) -> pd.DataFrame:
    """The prediction table of images, whose classes must be the outputs of the model."""
    probabilities = predict(model, images)
    if probabilities.shape[1] != len(classes):
        given = f"{len(classes)} classes: {', '.join(classes)}"
        raise CovidxrError(f"the model has {probabilities.shape[1]} outputs, but there are {given}")
    return prediction_table(manifest, probabilities, classes)


# The article's own table (Niel Lai, Analytics Vidhya, 2020), accuracy 0.97; its test images also chose its model.
ARTICLE_TABLE = pd.DataFrame(
    {"precision": [0.97, 0.98, 0.95], "recall": [0.95, 0.98, 0.97], "f1": [0.96, 0.98, 0.96], "support": [60, 60, 60]},
    index=pd.Index(["Normal", "COVID-19", "Bacteria"], name="class"),
)


def predict(model: keras.Model, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Class probabilities of images, preprocessed as in training.

    Parameters
    ----------
    model : keras.Model
        The network.
    images : numpy.ndarray
        ``uint8``, shape (N, H, W), greyscale.
    batch_size : int
        Images a batch.

    Returns
    -------
    numpy.ndarray
        ``float32``, shape (N, classes), rows summing to 1.

    Raises
    ------
    CovidxrError
        When there are no images, their size is not the network's, or a weight or a probability is NaN or infinite.

    Examples
    --------
    >>> from covidxr.model.networks import build_baseline
    >>> predict(build_baseline(9), np.zeros((2, 9, 9), np.uint8)).shape
    (2, 3)
    """
    at_least_one("images", images)
    check_whole("batch_size", batch_size, 1)
    finite_weights(model)
    size = getattr(model, "input_shape", (None, *images.shape[1:], 3))[1:3]
    if size != images.shape[1:]:
        raise CovidxrError(
            f"the network takes images of shape {size}, these have shape {images.shape[1:]}; decode them at its size, or "
            "run notebook 03_fine_tuning again with them"
        )
    starts = range(0, len(images), batch_size)
    probabilities = np.concatenate([model.predict_on_batch(preprocess(images[i : i + batch_size])) for i in starts])
    if bad := int((~np.isfinite(probabilities).all(axis=1)).sum()):
        raise CovidxrError(
            f"the predictions for {bad} of {len(images)} images are NaN or infinite: the network's weights are too large, so "
            "train it again"
        )
    return probabilities


def prediction_table(manifest: pd.DataFrame, probabilities: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """One row an image: its label, the predicted class, and the probabilities.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows.
    probabilities : numpy.ndarray
        Shape (N, classes).
    classes : sequence of str
        The names of the columns of `probabilities`.

    Returns
    -------
    pandas.DataFrame
        ``image_id, patient_id, source, split, label, predicted, correct, confidence`` and ``p_<class>`` for each class.

    Raises
    ------
    CovidxrError
        When the shapes do not match, or a row holds no probabilities: NaN, a negative number, or a sum other than 1.

    Examples
    --------
    >>> rows = pd.DataFrame({k: ["a"] for k in ("image_id", "patient_id", "source", "split", "label")})
    >>> prediction_table(rows, np.array([[0.2, 0.8]]), ["a", "b"])[["predicted", "correct", "p_b"]].values.tolist()
    [['b', False, 0.8]]
    """
    probabilities = np.asarray(probabilities)
    if probabilities.shape != (len(manifest), len(classes)):
        raise CovidxrError(f"probabilities have shape {probabilities.shape}, expected {(len(manifest), len(classes))}")
    probability_rows(probabilities)
    table = manifest[["image_id", "patient_id", "source", "split", "label"]].reset_index(drop=True)
    predicted = np.asarray(classes)[probabilities.argmax(1)]
    table = table.assign(predicted=predicted, correct=predicted == table.label, confidence=probabilities.max(1))
    return table.assign(**{f"p_{label}": probabilities[:, column] for column, label in enumerate(classes)})


def classification_table(
    labels: ArrayLike, predicted: ArrayLike, classes: Sequence[str], patients: ArrayLike | None = None
) -> pd.DataFrame:
    """The article's classification report, with 95 % intervals.

    Parameters
    ----------
    labels, predicted : array_like of str
        Shape (N,), the true and the predicted classes.
    classes : sequence of str
        The rows, in order.
    patients : array_like of str, optional
        Shape (N,), the patients of the images, as for `covidxr.evaluation.intervals.proportion_interval`.

    Returns
    -------
    pandas.DataFrame
        Index ``class``; columns ``precision``, ``precision_low``, ``precision_high``, the same for ``recall``, then ``f1`` and
        ``support``.

    Raises
    ------
    CovidxrError
        When a label is none of the classes, or the lengths differ.

    Examples
    --------
    >>> table = classification_table(["a", "a", "b", "b"], ["a", "b", "b", "b"], ["a", "b"])
    >>> table[["precision", "recall", "support"]].round(2).values.tolist()
    [[1.0, 0.5, 2.0], [0.67, 1.0, 2.0]]
    """
    _check_predictions(labels, predicted, classes, patients)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=list(classes), zero_division=0
    )
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    patients, correct = patients_of(patients, len(labels)), labels == predicted
    columns = {}
    for name, values, of in (("precision", precision, predicted), ("recall", recall, labels)):
        intervals = [proportion_interval(correct[of == label], patients[of == label]) for label in classes]
        low, high = zip(*intervals, strict=True)
        columns |= {name: values, f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame({**columns, "f1": f1, "support": support}, index=pd.Index(classes, name="class"))


def confusion_table(labels: ArrayLike, predicted: ArrayLike, classes: Sequence[str]) -> pd.DataFrame:
    """Count images by true class (rows) and predicted class (columns), in the order of the classes.

    >>> confusion_table(["a", "a", "b"], ["a", "b", "b"], ["a", "b"]).values.tolist()
    [[1, 1], [0, 1]]
    """
    _check_predictions(labels, predicted, classes)
    counts = confusion_matrix(labels, predicted, labels=list(classes))
    return pd.DataFrame(counts, index=pd.Index(classes, name="true"), columns=pd.Index(classes, name="predicted"))


def classification_metrics(table, classes) -> dict:
    """The section ``test`` of ``metrics.json`` from a prediction table: accuracy, results by class, calibration error."""
    patients = patient_keys(table)
    error, chance = calibration_error(table.confidence, table.correct, patients)
    report = classification_table(table.label, table.predicted, classes, patients)
    return {
        "n": len(table),
        "accuracy": estimate_proportion(table.correct, patients),
        "per_class": report[["precision", "recall", "f1", "support"]].to_dict("index"),
        "calibration_error": error,
        "calibration_chance": chance,
    }


def _check_predictions(labels, predicted, classes, patients=None):
    same_length(labels=labels, predicted=predicted, patients=patients)
    at_least_one("labels", labels)
    known_labels("label", labels, classes)
    known_labels("predicted label", predicted, classes)


def pairwise_auc(values, labels) -> pd.Series:
    """AUC of a single number for each pair of classes, whichever way round it separates them."""
    same_length(values=values, labels=labels)
    values, labels = numbers("values", values), np.asarray(labels, dtype=str)
    aucs = {}
    for a, b in combinations(dict.fromkeys(labels.tolist()), 2):
        rows = np.isin(labels, [a, b])
        auc = float(roc_auc_score(labels[rows] == b, values[rows]))
        aucs[f"{a} / {b}"] = max(auc, 1 - auc)
    return pd.Series(aucs)


def record_metrics(run_dir, **sections) -> dict:
    """Add sections to the run's ``metrics.json``; a section given again replaces the old one."""
    path = Path(run_dir) / "metrics.json"
    stored = read_json(path)
    if stored.get("version") != METRICS_VERSION:  # the layout of an older version is not mixed with this one
        stored = {}
    metrics = {**stored, "version": METRICS_VERSION, **sections}
    write_json(path, metrics)
    if (noted := path.with_name(SECTIONS)).exists():  # the runner wants to know which notebook wrote which section
        with noted.open("a", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in sections)
    return metrics
