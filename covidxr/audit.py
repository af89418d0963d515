"""The shortcut audit: what can tell the classes apart without reading a lung?

Each probe gives a number with its interval, its chance level, what it would be if all were well, and a verdict in words.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from covidxr.errors import CovidxrError
from covidxr.evaluate import logistic_regression, predict
from covidxr.heat import black_out
from covidxr.intervals import bootstrap_interval, wilson_interval
from covidxr.pixels import preprocess
from covidxr.splits import check_manifest, patient_keys

AGE_GROUPS = (0, 18, 40, 60, 120)
FEWEST = 10  # patients a group needs before it is asked for
CROSS_VALIDATED = 1.5  # folds share training films, so intervals are widened (Nadeau and Bengio: √(1 + 5 folds / 4))


@dataclass(frozen=True)
class AuditReport:
    """What the audit found.

    Attributes
    ----------
    table : pandas.DataFrame
        Index ``probe``; columns ``value``, ``low``, ``high`` (95 % interval), ``chance``, ``if_well``, ``n``, ``verdict``.

    Examples
    --------
    >>> row = {"value": 0.9, "low": 0.8, "high": 0.95, "chance": 0.5, "if_well": "0.50", "n": 40, "verdict": "tells the class"}
    >>> AuditReport(pd.DataFrame({"corners": row}).T).to_dict()["corners"]["interval"]
    [0.8, 0.95]
    """

    table: pd.DataFrame

    def to_dict(self) -> dict:
        """The report as it goes into ``metrics.json``.

        Returns
        -------
        dict
            Probe to ``value``, ``interval``, ``chance``, ``if_well``, ``n`` and ``verdict``.
        """
        return {
            probe: {**row.drop(["low", "high"]).to_dict(), "interval": [row.low, row.high]}
            for probe, row in self.table.iterrows()
        }


def shortcut_audit(manifest, pixels, model=None, lungs=None, *, seed=0) -> AuditReport:
    """Measure how far a data set, and a model trained on it, can do without the lungs.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows; ``source``, ``sex``, ``age`` and ``view`` are asked for where they are known.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W), row by row.
    model : keras.Model, optional
        A trained network whose outputs are the labels in the order of their first appearance in `manifest`. It is tried
        where `lungs` are known, on the films whose ``split`` is ``test`` (on all where none is): as they are, with the
        lungs blacked out, and with nothing but the lungs left.
    lungs : numpy.ndarray, optional
        ``bool``, shape (N, H, W); all False for films without a mask.
    seed : int
        Seed of the folds.

    Returns
    -------
    AuditReport

    Raises
    ------
    CovidxrError
        When the manifest breaks its contract, its rows, `pixels`, `lungs` or the outputs of `model` do not fit each
        other, there is only one class, or a class has only one patient.

    References
    ----------
    Maguolo G., Nanni L., A Critic Evaluation of Methods for COVID-19 Automatic Detection from X-Ray Images, Information
    Fusion 76, 2021; DeGrave A. J. et al., AI for radiographic COVID-19 detection selects shortcuts over signal, Nature
    Machine Intelligence 3, 2021. Intervals: Nadeau C., Bengio Y., Inference for the Generalization Error, Machine Learning
    52, 2003.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rng = np.random.default_rng(0)
    >>> rows = manifest_rows({"image_id": i, "patient_id": i, "label": "ab"[i % 2], "source": "s"} for i in range(60))
    >>> films = rng.integers(0, 255, (60, 40, 40), np.uint8)
    >>> films[1::2, :8, :8] = 255  # a corner marker on every film of class b
    >>> report = shortcut_audit(rows, films)
    >>> bool(report.table.loc["class from the corners", "low"] > 0.5)
    True
    """
    check_manifest(manifest)
    if len(manifest) != len(pixels):
        raise CovidxrError(f"the manifest has {len(manifest)} rows, but there are {len(pixels)} films")
    if manifest.label.nunique() < 2:
        raise CovidxrError(f"an audit needs two classes, the manifest has only {manifest.label.iloc[0]!r}")
    if lungs is not None and lungs.shape != pixels.shape:
        raise CovidxrError(f"lung masks of shape {lungs.shape} do not belong to films of shape {pixels.shape}")
    manifest = manifest.reset_index(drop=True)
    probes = [*_less_than_a_lung(manifest, pixels, seed), *_whose_film(manifest, pixels, seed)]
    if model is not None and lungs is not None and lungs.any():
        probes += _without_lungs(manifest, pixels, model, lungs)
    return AuditReport(pd.DataFrame(probes).set_index("probe"))


def grouped_predictions(x, labels, groups, seed=0) -> np.ndarray:
    """Predict each film by logistic regression from the films of other patients (5 folds, or fewer where patients lack).

    Parameters
    ----------
    x : numpy.ndarray
        Features, shape (N, …).
    labels, groups : array_like of str
        Class and patient of each film.
    seed : int
        Seed of the folds.

    Returns
    -------
    numpy.ndarray
        N predicted classes.

    Raises
    ------
    CovidxrError
        When a class has a single patient.

    Examples
    --------
    >>> x = np.repeat([0.0, 1.0], 10)[:, None]
    >>> labels = np.repeat(["a", "b"], 10)
    >>> bool((grouped_predictions(x, labels, np.arange(20).astype(str)) == labels).all())
    True
    """
    labels, groups = np.asarray(labels, dtype=str), np.asarray(groups, dtype=str)
    patients = pd.Series(groups).groupby(labels).nunique()
    if patients.min() < 2:
        raise CovidxrError(f"{patients.idxmin()!r} has one patient only and cannot be cross-validated by patient; add films")
    predicted = np.empty(len(labels), dtype=labels.dtype)
    folds = StratifiedGroupKFold(int(min(5, patients.min())), shuffle=True, random_state=seed)
    for train, test in folds.split(x, labels, groups):
        predicted[test] = logistic_regression(x[train], labels[train], x[test], seed)
    return predicted


def pixel_features(pixels) -> dict:
    """What is left of films when the lungs cannot be read from them any more.

    Parameters
    ----------
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W).

    Returns
    -------
    dict
        Name to features (N, …): the preprocessed film shrunk to 4×4 and 8×8 pixels; and, not equalised, since
        equalisation carries what is in the lungs to every pixel of the film, its grey histogram of 16 bins, an outer
        frame of 15 % of its side, and its four corners of 20 %.

    Examples
    --------
    >>> {name: x.shape[1:] for name, x in pixel_features(np.zeros((2, 20, 20), np.uint8)).items()}
    {'4×4 pixels': (4, 4), '8×8 pixels': (8, 8), 'the grey histogram': (16,), 'the outer frame': (204,), 'the corners': (64,)}
    """
    films, raw = preprocess(pixels)[..., 0], pixels.astype(float)
    side = pixels.shape[1]
    near = np.minimum(np.arange(side), np.arange(side)[::-1]) < round(0.15 * side)
    far = np.minimum(np.arange(side), np.arange(side)[::-1]) < round(0.2 * side)
    return {
        "4×4 pixels": _shrink(films, 4),
        "8×8 pixels": _shrink(films, 8),
        "the grey histogram": np.stack([np.histogram(film, 16, (0, 256))[0] for film in pixels]).astype(float),
        "the outer frame": raw[:, near[:, None] | near[None, :]],
        "the corners": raw[:, far[:, None] & far[None, :]],
    }


def _shrink(films, side):
    return np.stack([cv2.resize(film, (side, side), interpolation=cv2.INTER_AREA) for film in films])


def _less_than_a_lung(manifest, pixels, seed):
    labels, patients = manifest.label.to_numpy(dtype=str), patient_keys(manifest).to_numpy(dtype=str)
    for name, x in pixel_features(pixels).items():
        yield _ask("class", name, x, labels, patients, seed)


def _whose_film(manifest, pixels, seed):
    x, patients = _shrink(preprocess(pixels)[..., 0], 8), patient_keys(manifest).to_numpy(dtype=str)
    ages = pd.cut(manifest.age, AGE_GROUPS, right=False).astype(str).replace("nan", "")
    columns = {"source": manifest.source, "age group": ages, "sex": manifest.sex, "view": manifest["view"]}
    for name, values in columns.items():
        of_each = pd.Series(patients)[values != ""].groupby(values).nunique()
        rows = np.flatnonzero(values.isin(of_each.index[of_each >= FEWEST]))
        known = values.to_numpy(dtype=str)[rows]
        if len(np.unique(known)) > 1:
            yield _ask(name, "8×8 pixels", x[rows], known, patients[rows], seed)
    if manifest.source.nunique() > 1:
        labels, sources = manifest.label.to_numpy(dtype=str), pd.get_dummies(manifest.source).to_numpy(float)
        yield _ask("class", "the source's name alone", sources, labels, patients, seed)


def _ask(asked, given, x, truth, patients, seed):
    predicted = grouped_predictions(x, truth, patients, seed)
    return _probe(f"{asked} from {given}", asked, predicted, truth, patients, widen=CROSS_VALIDATED)


def _without_lungs(manifest, pixels, model, lungs):
    classes = np.asarray(manifest.label.unique(), dtype=str)
    tested = (manifest.split == "test") if (manifest.split == "test").any() else manifest.split.notna()
    rows = np.flatnonzero(tested & lungs.any((1, 2)))
    labels, patients = manifest.label.to_numpy(dtype=str)[rows], patient_keys(manifest).to_numpy(dtype=str)[rows]
    views = {
        "lungs in view": pixels[rows],
        "lungs blacked out": black_out(pixels[rows], lungs[rows]),
        "nothing but lungs": black_out(pixels[rows], ~lungs[rows]),
    }
    for name, films in views.items() if len(rows) else ():
        probabilities = predict(model, films)
        if probabilities.shape[1] != len(classes):
            raise CovidxrError(f"the model has {probabilities.shape[1]} outputs, the manifest {len(classes)} labels")
        predicted, wanted = classes[probabilities.argmax(1)], name != "lungs blacked out"
        # Lungs may be known for one class alone, so chance is naming one of the network's classes blindly.
        yield _probe(f"the network, {name}", "class", predicted, labels, patients, wanted=wanted, chance=1 / len(classes))


def _probe(name, asked, predicted, truth, patients, *, wanted=False, widen=1.0, chance=None):
    correct = predicted == truth
    chance = chance or float(pd.Series(truth).value_counts(normalize=True).max())
    low, high = bootstrap_interval(lambda rows: correct[rows].mean(), patients, draws=500)
    if correct.all() or not correct.any():  # a bootstrap of equal values has no width
        low, high = wilson_interval(correct.sum(), len(correct))
    value = float(correct.mean())
    low, high = max(0.0, value - widen * (value - low)), min(1.0, value + widen * (high - value))
    row = {"probe": name, "value": value, "low": low, "high": high, "chance": chance, "n": len(truth)}
    row["if_well"] = "well above chance" if wanted else f"{chance:.2f}"
    return {**row, "verdict": _verdict(row, asked, wanted)}


def _verdict(row, asked, wanted):
    gained = (row["value"] - row["chance"]) / (1 - row["chance"]) if row["chance"] < 1 else 0.0
    if row["high"] < row["chance"]:
        return "no better than chance"
    if row["low"] <= row["chance"]:
        return "not told from chance"
    if wanted:
        return "well above chance" if gained > 0.5 else "above chance"
    return f"{'tells' if gained > 0.5 else 'a hint of' if gained > 0.15 else 'a trace of'} the {asked}"
