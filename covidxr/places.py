"""Places within a collection: films gathered from many publications, and what a reader makes of a place with both kinds unseen."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from covidxr.intervals import bootstrap_interval
from covidxr.leave_out import can_fit, score_outside, to_fit_on
from covidxr.network_probes import POSITIVE
from covidxr.never_seen import CARE
from covidxr.probes import FEWEST
from covidxr.splits import patient_keys


def film_places(manifest) -> np.ndarray:
    """Where each film was published: the host of its URL, in sources that gather films from several; else the source.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows.

    Returns
    -------
    numpy.ndarray
        ``str``, shape (N,): ``"source, host"`` or ``"source"``.

    Examples
    --------
    >>> rows = {"source": ["x", "x", "y"], "url": ["https://www.a.org/1", "http://b.org/2", "https://c.org"]}
    >>> film_places(pd.DataFrame(rows)).tolist()
    ['x, a.org', 'x, b.org', 'y']
    """
    hosts = manifest.url.fillna("").astype(str).str.extract(r"^\w+://(?:www\.)?([^/:]+)")[0].fillna("elsewhere")
    several = hosts.groupby(manifest.source).transform("nunique") > 1
    return np.where(several, manifest.source + ", " + hosts, manifest.source).astype(str)


def unseen_place_scores(features, manifest, positive=POSITIVE) -> dict:
    """Score the films of each place that has both kinds by readers that were not fitted on any film from there.

    This is how films of a new hospital come: with the disease and without it, by the same machines. A reader with care for
    sources and one without are fitted on all other films, but those of its patients and twins of its films (`to_fit_on`).

    Parameters
    ----------
    features : numpy.ndarray
        Shape (N, …), of a network that has not seen the labels.
    manifest : pandas.DataFrame
        N manifest rows.
    positive : str
        The class against all others.

    Returns
    -------
    dict
        For each place with 10 patients of both kinds, and each reader, ``"with care, in a place"`` to a frame of its films:
        ``ill``, ``score``, ``called``, ``patient``, as `covidxr.never_seen.score_summary` takes it. Empty where there is no such
        place, or without it fewer than two patients of one side to fit on.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows(
    ...     {"image_id": i, "patient_id": i, "label": ["COVID-19", "Normal"][i % 2], "source": "xy"[i // 30]} for i in range(60))
    >>> list(unseen_place_scores(rows.index.to_numpy()[:, None] % 2, rows))
    ['without care, in x', 'with care, in x', 'without care, in y', 'with care, in y']
    """
    manifest = manifest.reset_index(drop=True)
    films = pd.DataFrame({
        "place": film_places(manifest), "ill": manifest.label == positive, "patient": patient_keys(manifest)
    })  # fmt: skip
    found = {}
    for place in _with_both(films):
        there = (films.place == place).to_numpy()
        if not can_fit(manifest, to_fit_on(manifest, there), films.ill):
            continue
        for name, how in CARE.items():
            scores = score_outside(features, manifest, there, positive, **how)
            found[f"{name}, in {place}"] = films.assign(**scores).loc[there, ["ill", "score", "called", "patient"]]
    return found


def _with_both(films):
    patients = pd.crosstab(films.place, films.ill, films.patient, aggfunc="nunique").reindex(columns=[False, True])
    return patients.index[patients.min(axis=1, skipna=False) >= FEWEST]


def care_sentences(curves, positive=POSITIVE) -> list:
    """Say in words whether care for sources is a gain in places with both kinds.

    Parameters
    ----------
    curves : dict
        From `unseen_place_scores`.
    positive : str or None
        The class against all others.

    Returns
    -------
    list of str
        One a place: the difference between the two areas under the ROC curve, with its interval, patients drawn.

    Examples
    --------
    >>> care_sentences({})
    ['No place has ten patients with COVID-19 and ten without, and leaves both kinds elsewhere.']
    """
    if positive is None:
        return ["No place is left out, as no class is named as the positive one."]
    if not curves:
        return [f"No place has ten patients with {positive} and ten without, and leaves both kinds elsewhere."]
    without, with_care = CARE
    places = [name.removeprefix(f"{without}, in ") for name in curves if name.startswith(without)]
    return [_against(place, *(curves[f"{name}, in {place}"] for name in (without, with_care))) for place in places]


def _against(place, plain, careful):
    ill, scores = careful.ill.to_numpy(), [rows.score.to_numpy() for rows in (plain, careful)]

    def gain(rows):
        if len(set(ill[rows])) < 2:
            return np.nan
        first, second = (roc_auc_score(ill[rows], score[rows]) for score in scores)
        return second - first

    low, high = bootstrap_interval(gain, careful.patient.to_numpy())
    verdict = "a gain" if low > 0 else "a loss" if high < 0 else "not told from no change"
    value = gain(np.arange(len(ill)))
    return f"In {place} care for sources changes the area by {value:+.2f} ({low:+.2f} to {high:+.2f}): {verdict}."
