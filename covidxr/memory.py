"""The audit's probes for memory: is a film recognised because another of the same patient, or its twin, was learnt?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from covidxr.duplicates import find_twins
from covidxr.intervals import bootstrap_interval, share_interval
from covidxr.pixels import preprocess
from covidxr.probes import FEWEST, shrink
from covidxr.splits import patient_keys
from covidxr.verdicts import MEMORY, NOT_TOLD, Probe

SEEDS = 5


def memory(manifest, pixels, seed=0) -> list:
    """Ask what memory gives: a nearest-neighbour reader split by image and by patient, and who straddles the run's split.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows; ``split`` is asked about where it is filled.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W).
    seed : int
        The first of five seeds; both splits are drawn with the same ones.

    Returns
    -------
    list of Probe
        The first only where ten patients have several films, and each class two patients.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = ({"image_id": i, "patient_id": i // 2, "label": "ab"[i // 2 % 2], "source": "s"} for i in range(80))
    >>> films = np.random.default_rng(0).integers(0, 255, (40, 40, 40), np.uint8).repeat(2, axis=0)
    >>> [found] = memory(manifest_rows(rows), films)
    >>> found.verdict, found.value > 0.3
    ('patients are recognised, so split by patient', True)
    """
    patients = patient_keys(manifest).to_numpy(dtype=str)
    several = np.unique(patients, return_counts=True)[1] > 1
    labels = manifest.label.to_numpy(dtype=str)
    enough = several.sum() >= FEWEST and pd.Series(patients).groupby(labels).nunique().min() > 1
    found = [_gain(labels, pixels, patients, seed)] if enough else []
    return found + (_across(manifest, pixels, patients) if (manifest.split == "test").any() else [])


def _gain(labels, pixels, patients, seed):
    """How much more often the class of the most similar film is right when that film may be of the same patient."""
    x = shrink(preprocess(pixels)[..., 0], 16).reshape(len(pixels), -1)
    seeds = range(seed, seed + SEEDS)
    by_image = np.mean([_nearest(x, labels, StratifiedKFold, None, seed) for seed in seeds], axis=0)
    by_patient = np.mean([_nearest(x, labels, StratifiedGroupKFold, patients, seed) for seed in seeds], axis=0)
    difference = by_image - by_patient
    low, high = bootstrap_interval(lambda rows: difference[rows].mean(), patients, draws=500)
    verdict = "patients are recognised, so split by patient" if low > 0 else NOT_TOLD
    name, value = "accuracy gained by splitting by image", float(difference.mean())
    return Probe(name, MEMORY, value, low, high, 0.0, "0.00", len(labels), verdict, missed_ideal=low > 0)


def _nearest(x, labels, folding, groups, seed):
    """Which films have the class of the film nearest to them, among those of the other folds."""
    fewest = np.unique(labels, return_counts=True)[1].min()
    correct = np.zeros(len(x), dtype=bool)
    for train, test in folding(int(min(5, fewest)), shuffle=True, random_state=seed).split(x, labels, groups):
        nearest = KNeighborsClassifier(1).fit(x[train], labels[train])
        correct[test] = nearest.predict(x[test]) == labels[test] if len(test) else []
    return correct


def _across(manifest, pixels, patients):
    """Test films whose patient, or whose twin, is among the films that the network was trained or chosen on."""
    test = (manifest.split == "test").to_numpy()
    pairs = find_twins(pixels)
    pairs = pairs[test[pairs["first"]] != test[pairs["second"]]]
    twins = np.zeros(len(test), dtype=bool)
    twins[np.concatenate([pairs["first"], pairs["second"]]).astype(int)] = True
    known = {"of patients seen in training": np.isin(patients, patients[~test]), "with a twin seen in training": twins}
    return [_straddling(f"test films {name}", hits[test], patients[test]) for name, hits in known.items()]


def _straddling(name, hits, patients):
    low, high = share_interval(hits, patients)
    verdict, any_hit = f"{hits.sum()} of {len(hits)}" if hits.any() else "none", bool(hits.any())
    return Probe(name, MEMORY, float(hits.mean()), low, high, np.nan, "0.00", len(hits), verdict, any_hit, any_hit)
