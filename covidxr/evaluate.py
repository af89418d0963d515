"""From predictions to tables: classification report, intervals, confusion, calibration, baselines.

Films of one patient are not independent: every share comes with Wilson's interval for as many films as they are worth, and
what is not a plain share with a bootstrap over patients.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from covidxr import checks
from covidxr.errors import CovidxrError
from covidxr.files import SECTIONS, read_json, write_json
from covidxr.intervals import accuracy_with_interval, bootstrap_interval, share_interval, wilson_interval
from covidxr.pixels import preprocess

__all__ = [
    "ARTICLE_TABLE",
    "accuracy_with_interval",
    "bootstrap_interval",
    "classification_table",
    "confusion",
    "logistic_regression",
    "predict",
    "prediction_table",
    "record_metrics",
    "reliability",
    "separability",
    "share_interval",
    "wilson_interval",
]

ARTICLE_TABLE = pd.DataFrame(
    {"precision": [0.97, 0.98, 0.95], "recall": [0.95, 0.98, 0.97], "f1": [0.96, 0.98, 0.96], "support": [60, 60, 60]},
    index=pd.Index(["Normal", "COVID-19", "Bacteria"], name="class"),
)
"""The article's own table (Niel Lai, Analytics Vidhya, 2020), accuracy 0.97; its test films also chose its model."""


def predict(model, images, batch_size=32) -> np.ndarray:
    """Class probabilities for films, preprocessed as in training.

    Parameters
    ----------
    model : keras.Model
        The network.
    images : numpy.ndarray
        ``uint8``, shape (N, H, W), grey.
    batch_size : int
        Films at a time.

    Returns
    -------
    numpy.ndarray
        ``float32``, shape (N, classes), rows summing to 1.

    Raises
    ------
    CovidxrError
        When there are no films, they are not of the network's size, or a weight or an answer is NaN or infinite.

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> predict(build_baseline(9), np.zeros((2, 9, 9), np.uint8)).shape
    (2, 3)
    """
    checks.at_least_one("images", images)
    checks.check_whole("batch_size", batch_size, 1)
    checks.finite_weights(model)
    size = getattr(model, "input_shape", (None, *images.shape[1:], 3))[1:3]
    if size != images.shape[1:]:
        raise CovidxrError(
            f"the network takes images of shape {size}, these have shape {images.shape[1:]}; decode them at its size, or "
            "run notebook 03_fine_tuning again on these"
        )
    starts = range(0, len(images), batch_size)
    found = np.concatenate([model.predict_on_batch(preprocess(images[i : i + batch_size])) for i in starts])
    if bad := int((~np.isfinite(found).all(axis=1)).sum()):
        raise CovidxrError(
            f"the network answers {bad} of {len(images)} images with NaN or infinity: its weights are too large, so train it again"
        )
    return found


def prediction_table(manifest, probabilities, classes) -> pd.DataFrame:
    """One row a film: what it is, what it was called, and how surely.

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
        When the shapes do not fit, or a row is no probabilities: NaN, negative, or of a sum other than 1.

    Examples
    --------
    >>> rows = pd.DataFrame({k: ["a"] for k in ("image_id", "patient_id", "source", "split", "label")})
    >>> prediction_table(rows, np.array([[0.2, 0.8]]), ["a", "b"])[["predicted", "correct", "p_b"]].values.tolist()
    [['b', False, 0.8]]
    """
    probabilities = np.asarray(probabilities)
    if probabilities.shape != (len(manifest), len(classes)):
        raise CovidxrError(f"probabilities have shape {probabilities.shape}, expected {(len(manifest), len(classes))}")
    checks.probability_rows(probabilities)
    table = manifest[["image_id", "patient_id", "source", "split", "label"]].reset_index(drop=True)
    predicted = np.asarray(classes)[probabilities.argmax(1)]
    table = table.assign(predicted=predicted, correct=predicted == table.label, confidence=probabilities.max(1))
    return table.assign(**{f"p_{label}": probabilities[:, column] for column, label in enumerate(classes)})


def classification_table(labels, predicted, classes, patients=None) -> pd.DataFrame:
    """The article's classification report, with intervals.

    Parameters
    ----------
    labels, predicted : array_like of str
        The true and the predicted classes.
    classes : sequence of str
        The rows, in order.
    patients : array_like of str, optional
        The patients of the films, as for `covidxr.intervals.share_interval`.

    Returns
    -------
    pandas.DataFrame
        Index ``class``; columns ``precision``, ``precision_low``, ``precision_high``, the same for ``recall``, ``f1`` and
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
    _check_answers(labels, predicted, classes, patients)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=list(classes), zero_division=0
    )
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    patients = checks.patients_of(patients, len(labels))
    right, rows = labels == predicted, {}
    for i, label in enumerate(classes):
        low_p, high_p = share_interval(right[predicted == label], patients[predicted == label])
        low_r, high_r = share_interval(right[labels == label], patients[labels == label])
        rows[label] = (precision[i], low_p, high_p, recall[i], low_r, high_r, f1[i], support[i])
    columns = ["precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high", "f1", "support"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("class")


def confusion(labels, predicted, classes) -> pd.DataFrame:
    """Count films by true and predicted class.

    Parameters
    ----------
    labels, predicted : array_like of str
        The true and the predicted classes.
    classes : sequence of str
        Rows and columns, in order.

    Returns
    -------
    pandas.DataFrame
        Rows the true classes, columns the predicted ones.

    Raises
    ------
    CovidxrError
        When a label is none of the classes, or the lengths differ.

    Examples
    --------
    >>> confusion(["a", "a", "b"], ["a", "b", "b"], ["a", "b"]).values.tolist()
    [[1, 1], [0, 1]]
    """
    _check_answers(labels, predicted, classes)
    counts = confusion_matrix(labels, predicted, labels=list(classes))
    return pd.DataFrame(counts, index=pd.Index(classes, name="true"), columns=pd.Index(classes, name="predicted"))


def _check_answers(labels, predicted, classes, patients=None):
    checks.same_length(labels=labels, predicted=predicted, patients=patients)
    checks.at_least_one("labels", labels)
    checks.known_labels("label", labels, classes)
    checks.known_labels("predicted label", predicted, classes)


BINS = 10
"""How many bins a calibration error and a reliability diagram have, so that the one is the error of the other."""


def reliability(confidence, correct, bins=BINS, patients=None) -> tuple[pd.DataFrame, float]:
    """How often the network is right when it says how sure it is.

    Parameters
    ----------
    confidence : array_like of float
        The probability of the predicted class, in [0, 1].
    correct : array_like of bool
        Whether it was right.
    bins : int
        Bins of equal width.
    patients : array_like of str, optional
        The patients of the films, as for `covidxr.intervals.share_interval`.

    Returns
    -------
    table : pandas.DataFrame
        ``confidence`` (mean), ``accuracy``, ``low``, ``high`` (its interval) and ``n`` for each bin with films.
    error : float
        The expected calibration error: mean distance of the two, weighted by films.

    Raises
    ------
    CovidxrError
        When a confidence is not in [0, 1], an answer neither right nor wrong, or the lengths differ.

    References
    ----------
    Guo C. et al., On Calibration of Modern Neural Networks, ICML 2017.

    Examples
    --------
    >>> table, error = reliability([0.95, 0.95, 0.55, 0.55], [True, True, True, False])
    >>> len(table), round(error, 3)
    (2, 0.05)
    """
    n = checks.same_length(confidence=confidence, correct=correct, patients=patients)
    checks.at_least_one("confidence", confidence)
    checks.check_whole("bins", bins, 1)
    confidence, correct = checks.numbers("confidence", confidence, 0, 1), checks.flags("correct", correct)
    frame = pd.DataFrame({"confidence": confidence, "correct": correct, "patient": checks.patients_of(patients, n)})
    grouped = frame.groupby(np.minimum((frame.confidence * bins).astype(int), bins - 1))
    table = grouped.agg(confidence=("confidence", "mean"), accuracy=("correct", "mean"), n=("correct", "size"))
    intervals = [share_interval(films.correct, films.patient) for _, films in grouped]
    table["low"], table["high"] = zip(*intervals, strict=True)
    return table.reset_index(drop=True), float(
        (table.n * (table.confidence - table.accuracy).abs()).sum() / table.n.sum()
    )


def logistic_regression(train_x, train_y, test_x, seed=0) -> np.ndarray:
    """The simplest trained reader: logistic regression on standardised features.

    Parameters
    ----------
    train_x, test_x : numpy.ndarray
        Shapes (N, …) and (M, …); flattened.
    train_y : array_like
        N classes.
    seed : int
        Seed of the solver.

    Returns
    -------
    numpy.ndarray
        M predicted classes.

    Examples
    --------
    >>> logistic_regression(np.array([[0.0], [1.0], [9.0], [10.0]]), ["low", "low", "high", "high"], np.array([[8.0]])).tolist()
    ['high']
    """
    checks.same_length(features=train_x, labels=train_y)
    checks.numbers("train_x", train_x)
    checks.numbers("test_x", test_x)
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, random_state=seed))
    reader.fit(train_x.reshape(len(train_x), -1), np.asarray(train_y))
    return reader.predict(test_x.reshape(len(test_x), -1))


def separability(values, labels) -> pd.Series:
    """How well a single number tells each pair of classes apart.

    Parameters
    ----------
    values : array_like of float
        One number a film, such as its mean grey value.
    labels : array_like of str
        The classes.

    Returns
    -------
    pandas.Series
        Area under the ROC curve, indexed by ``"a / b"``; 0.5 is chance, 1 perfect, and the direction does not matter.

    Examples
    --------
    >>> separability([1, 2, 3, 4], ["a", "a", "b", "b"]).to_dict()
    {'a / b': 1.0}
    """
    checks.same_length(values=values, labels=labels)
    values, labels = checks.numbers("values", values), np.asarray(labels, dtype=str)
    areas = {}
    for a, b in combinations(dict.fromkeys(labels.tolist()), 2):
        rows = np.isin(labels, [a, b])
        area = float(roc_auc_score(labels[rows] == b, values[rows]))
        areas[f"{a} / {b}"] = max(area, 1 - area)
    return pd.Series(areas)


def record_metrics(run_dir, **sections) -> dict:
    """Add sections to the run's ``metrics.json``; a section given again replaces the old one.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The run folder.
    **sections : dict
        Such as ``test={"accuracy": 0.9}``.

    Returns
    -------
    dict
        All that the file now holds.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = record_metrics(folder, test={"n": 3})
    >>> sorted(record_metrics(folder, audit={}))
    ['audit', 'test']
    """
    path = Path(run_dir) / "metrics.json"
    metrics = {**read_json(path), **sections}
    write_json(path, metrics)
    if (noted := path.with_name(SECTIONS)).exists():  # a run wants to know whose numbers these are
        with noted.open("a", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in sections)
    return metrics
