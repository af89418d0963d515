"""The audit's probes that need no network: simple readers, given anything but the lungs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from covidxr._opencv import cv2
from covidxr.errors import CovidxrError
from covidxr.evaluate import logistic_regression
from covidxr.pixels import preprocess
from covidxr.populations import age_groups
from covidxr.splits import patient_keys
from covidxr.verdicts import LUNGS, WHOSE, accuracy_probe

FEWEST = 10  # patients a group needs before it is asked for
# Intervals of cross-validated answers are widened: folds share training films (Nadeau and Bengio: √(1 + 5 folds / 4) = 1.5),
# and of five readers one may be lucky (Bonferroni: the interval of each is of 99 %, which is 1.3 times as wide).
CROSS_VALIDATED = 2.0
SEES_LUNGS = ("4×4 pixels", "8×8 pixels", "the grey histogram")
MOST_SIDE = 40  # pixels; frame and corners of larger films are shrunk, which keeps markers and saves most of the time


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
        raise CovidxrError(
            f"{patients.idxmin()!r} has one patient only and cannot be cross-validated by patient; add films"
        )
    predicted = np.empty(len(labels), dtype=labels.dtype)
    folds = StratifiedGroupKFold(int(min(5, patients.min())), shuffle=True, random_state=seed)
    for train, test in folds.split(x, labels, groups):
        known = np.unique(labels[train])
        if len(test):  # none where a few patients have most of the films
            predicted[test] = (
                known[0] if len(known) < 2 else logistic_regression(x[train], labels[train], x[test], seed)
            )
    return predicted


def pixel_features(pixels, lungs=None) -> dict:
    """What is left of films when the lungs cannot be read from them any more.

    Parameters
    ----------
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W).
    lungs : numpy.ndarray, optional
        ``bool``, shape (N, H, W). Where they are known they are painted out first, with a rim of 4 % of the side (they
        scatter), in the median grey of the rest. Without them the first three features still show large lesions.

    Returns
    -------
    dict
        Name to features (N, …): the preprocessed film shrunk to 4×4 and 8×8 pixels; and, not equalised, since
        equalisation carries what is in the lungs to every pixel of the film, its grey histogram of 16 bins, an outer
        frame of 10 % of its side, which the lungs hardly reach, and its four corners of 20 %.

    Examples
    --------
    >>> {name: x.shape[1:] for name, x in pixel_features(np.zeros((2, 20, 20), np.uint8)).items()}
    {'4×4 pixels': (4, 4), '8×8 pixels': (8, 8), 'the grey histogram': (16,), 'the outer frame': (144,), 'the corners': (64,)}
    """
    masks = np.zeros(pixels.shape, bool) if lungs is None else _with_rim(lungs)
    pixels = np.stack([_painted(film, mask) for film, mask in zip(pixels, masks, strict=True)])
    films, raw = preprocess(pixels)[..., 0], shrink(pixels.astype(np.float32), min(pixels.shape[1], MOST_SIDE))
    edge = np.minimum(np.arange(raw.shape[1]), np.arange(raw.shape[1])[::-1])
    near, far = edge < round(0.1 * len(edge)), edge < round(0.2 * len(edge))
    return {
        "4×4 pixels": shrink(films, 4),
        "8×8 pixels": shrink(films, 8),
        "the grey histogram": np.stack([_histogram(film[~mask]) for film, mask in zip(pixels, masks, strict=True)]),
        "the outer frame": raw[:, near[:, None] | near[None, :]],
        "the corners": raw[:, far[:, None] & far[None, :]],
    }


def shrink(films, side) -> np.ndarray:
    """Shrink films to a square of so many pixels, each the mean of what it covers.

    Parameters
    ----------
    films : numpy.ndarray
        ``uint8`` or ``float32``, shape (N, H, W).
    side : int
        Pixels.

    Returns
    -------
    numpy.ndarray
        Shape (N, side, side).

    Examples
    --------
    >>> shrink(np.arange(16, dtype=np.float32).reshape(1, 4, 4), 2).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """
    return np.stack([cv2.resize(film, (side, side), interpolation=cv2.INTER_AREA) for film in films])


def _with_rim(lungs):
    reach = 2 * max(1, round(0.04 * lungs.shape[1])) + 1
    return np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0 for mask in lungs])


def _painted(film, mask):
    return np.where(mask, np.uint8(np.median(film[~mask])), film) if mask.any() and not mask.all() else film


def _histogram(greys):
    return np.histogram(greys, 16, (0, 256))[0] / max(1, len(greys))


def less_than_a_lung(manifest, pixels, lungs=None, seed=0) -> list:
    """Ask simple readers for the class, given anything but the lungs.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W).
    lungs : numpy.ndarray, optional
        ``bool``, shape (N, H, W); used where every film has them, since a mask on one class's films alone gives it away.
    seed : int
        Seed of the folds.

    Returns
    -------
    list of Probe

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows({"image_id": i, "patient_id": i, "label": "ab"[i % 2], "source": "s"} for i in range(40))
    >>> films = np.random.default_rng(0).integers(0, 255, (40, 40, 40), np.uint8)
    >>> [probe.shortcut for probe in less_than_a_lung(rows, films)]
    [False, False, False, False, False]
    """
    labels, patients = manifest.label.to_numpy(dtype=str), patient_keys(manifest).to_numpy(dtype=str)
    known = lungs is not None and bool(lungs.any((1, 2)).all())
    features = pixel_features(pixels, lungs if known else None)
    found = {name: _ask("class", name, x, labels, patients, seed) for name, x in features.items()}
    if known:
        return [found[name]._replace(probe=f"{found[name].probe}, lungs painted out") for name in found]
    outside = any(probe.shortcut for name, probe in found.items() if name not in SEES_LUNGS)
    return [_as_disease_can(p) if name in SEES_LUNGS and not outside else p for name, p in found.items()]


def _as_disease_can(probe):
    """Where frame and corners tell nothing, what a shrunk film tells may be disease."""
    return probe._replace(verdict="above chance, as disease alone can be", shortcut=False) if probe.shortcut else probe


def whose_film(manifest, pixels, seed=0) -> list:
    """Ask for source, age group, sex and view, and what knowing them alone would tell of the class.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows. Ages that are not given are taken from what the source says of its patients, where it does.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W).
    seed : int
        Seed of the folds.

    Returns
    -------
    list of Probe
        Two for each that at least two groups of 10 patients have. Only what goes with the class is called a shortcut.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = ({"image_id": i, "patient_id": i, "label": "ab"[i % 2], "source": "xy"[i % 2]} for i in range(40))
    >>> films = np.random.default_rng(0).integers(0, 255, (40, 40, 40), np.uint8)
    >>> [(probe.probe, probe.shortcut) for probe in whose_film(manifest_rows(rows), films)]
    [('source from 8×8 pixels', False), ("class from the source's name alone", True)]
    """
    x, patients = shrink(preprocess(pixels)[..., 0], 8), patient_keys(manifest).to_numpy(dtype=str)
    columns = {
        "source": manifest.source,
        "age group": age_groups(manifest),
        "sex": manifest.sex,
        "view": manifest["view"],
    }
    found = []
    for name, values in columns.items():
        of_each = pd.Series(patients)[values != ""].groupby(values).nunique()
        rows = np.flatnonzero(values.isin(of_each.index[of_each >= FEWEST]))
        if values.iloc[rows].nunique() > 1:
            truth, labels = values.to_numpy(dtype=str)[rows], manifest.label.to_numpy(dtype=str)[rows]
            found += _told_and_alone(name, x[rows], truth, labels, patients[rows], seed)
    return found


def _told_and_alone(name, x, truth, labels, patients, seed):
    told, alone = _ask(name, "8×8 pixels", x, truth, patients, seed, topic=WHOSE), []
    if pd.Series(patients).groupby(labels).nunique().min() > 1 < len(np.unique(labels)):
        given = "the source's name alone" if name == "source" else f"the {name} alone"
        one_hot = pd.get_dummies(pd.Series(truth)).to_numpy(float)
        asked = _ask("class", given, one_hot, labels, patients, seed, topic=WHOSE)
        alone = [asked._replace(verdict="confounded with the class") if asked.shortcut else asked]
    if told.shortcut and not any(probe.shortcut for probe in alone):
        aside = "which does not go with the class" if alone else "within one class"
        told = told._replace(verdict=f"{told.verdict}, {aside}", shortcut=False)
    return [told, *alone]


def _ask(asked, given, x, truth, patients, seed, topic=LUNGS):
    predicted = grouped_predictions(x, truth, patients, seed)
    name = f"{asked} from {given}"
    return accuracy_probe(name, topic, asked, predicted, truth, patients, widen=CROSS_VALIDATED)
