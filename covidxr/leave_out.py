"""Sources left out: what a reader makes of places that it was not fitted on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from covidxr.errors import CovidxrError
from covidxr.intervals import discrimination
from covidxr.network_probes import POSITIVE
from covidxr.reader import fit_reader
from covidxr.splits import kept_together, patient_keys

PLAIN = {"balanced": False, "discriminant": False}  # a reader without care for sources


def left_out_scores(features, manifest, together=None, positive=POSITIVE, **how) -> pd.DataFrame:
    """Score films by a reader that was not fitted on any film of their source.

    Parameters
    ----------
    features : numpy.ndarray or sequence of numpy.ndarray
        Shape (N, …), of a network that has not seen the labels. Of several, the first are of the films as they are, the others
        of augmented copies, which are fitted on as well.
    manifest : pandas.DataFrame
        N manifest rows.
    together : sequence of str, optional
        Sources to leave out at once; by default each source is left out alone, in turn.
    positive : str
        The class against all others.
    **how
        ``balanced`` and ``discriminant`` of `covidxr.reader.fit_reader`.

    Returns
    -------
    pandas.DataFrame
        A row for each film of a source left out, with its number in the manifest as index: ``score`` (probability of
        `positive`) and ``called`` (whether that class is the most probable). None for sources without which the others have
        fewer than two patients of one side.

    Raises
    ------
    CovidxrError
        When `features` and `manifest` differ in length.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows(
    ...     {"image_id": i, "patient_id": i, "label": ["COVID-19", "Normal"][i % 2], "source": "xyz"[i % 3]} for i in range(60))
    >>> found = left_out_scores(np.c_[np.arange(60) % 2], rows)
    >>> len(found), bool((found.called == (rows.label == "COVID-19")).all())
    (60, True)
    """
    _copies(features, manifest)
    sources, ill = manifest.source.to_numpy(dtype=str), (manifest.label == positive).to_numpy()
    outs = [np.isin(sources, together)] if together else [sources == name for name in np.unique(sources)]
    askable = [out for out in outs if can_fit(manifest, to_fit_on(manifest, out), ill)]
    scores = [score_outside(features, manifest, out, positive, **how) for out in askable]
    return pd.concat([_nothing(), *scores]).sort_index()


def _copies(features, manifest):
    copies = [features] if hasattr(features, "shape") else list(features)
    if strange := [len(one) for one in copies if len(one) != len(manifest)]:
        raise CovidxrError(f"there are {strange[0]} rows of features for {len(manifest)} rows of the manifest")
    return [np.reshape(one, (len(one), -1)) for one in copies]


def _nothing():
    return pd.DataFrame({"score": np.array([], float), "called": np.array([], bool)}, index=np.array([], int))


def to_fit_on(manifest, outside) -> np.ndarray:
    """Which films a reader may be fitted on that is to score others: no film of their patients, and no twin of theirs.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows; ``twins`` as `covidxr.duplicates.mark_twins` fills it.
    outside : numpy.ndarray
        ``bool``, shape (N,): the films to score.

    Returns
    -------
    numpy.ndarray
        ``bool``, shape (N,).

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows({"image_id": i, "patient_id": i, "label": "a", "source": "xyz"[i]} for i in range(3))
    >>> to_fit_on(rows.assign(twins=["same", "same", ""]), np.array([True, False, False])).tolist()
    [False, False, True]
    """
    together = kept_together(manifest.reset_index(drop=True))
    return ~together.isin(together[outside]).to_numpy()


def can_fit(manifest, inside, ill) -> bool:
    """Whether there are two patients of either kind among the films to fit on."""
    people = patient_keys(manifest)[inside].groupby(np.asarray(ill)[inside]).nunique()
    return len(people) == 2 and people.min() > 1


def score_outside(features, manifest, outside, positive=POSITIVE, **how) -> pd.DataFrame:
    """Fit a reader on all films but some, their patients and their twins, and score those as they are.

    Parameters
    ----------
    features, manifest, positive, **how
        As for `left_out_scores`.
    outside : numpy.ndarray
        ``bool``, shape (N,): the films to score.

    Returns
    -------
    pandas.DataFrame
        As of `left_out_scores`.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows(
    ...     {"image_id": i, "patient_id": i, "label": ["COVID-19", "Normal"][i % 2], "source": "x"} for i in range(40))
    >>> score_outside(np.c_[np.arange(40) % 2], rows, np.arange(40) < 2).called.tolist()
    [True, False]
    """
    copies, inside = _copies(features, manifest), to_fit_on(manifest, outside)
    rows = pd.concat([manifest[inside]] * len(copies))
    x = np.concatenate([one[inside] for one in copies])
    reader = fit_reader(x, rows.label, rows.source, patient_keys(rows).to_numpy(dtype=str), **how)
    chances, column = reader.probabilities(copies[0][outside]), reader.classes.index(positive)
    found = {"score": chances[:, column], "called": chances.argmax(axis=1) == column}
    return pd.DataFrame(found, index=np.flatnonzero(outside))


def leave_one_source_out(features, manifest, positive=POSITIVE, **how) -> pd.DataFrame:
    """Leave each source out in turn, and count what the reader fitted on the others makes of it.

    Parameters
    ----------
    features, manifest, positive, **how
        As for `left_out_scores`.

    Returns
    -------
    pandas.DataFrame
        Index ``source``; columns ``n_positive``, ``n_negative``, ``sensitivity``, ``specificity`` (at the most probable class),
        ``auc`` (within that source, where it has both), each with ``_low`` and ``_high``. No row for a source without which the
        others have fewer than two patients of one side; an empty table where that is so of all.

    Raises
    ------
    CovidxrError
        When `features` and `manifest` differ in length.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows(
    ...     {"image_id": i, "patient_id": i, "label": ["COVID-19", "Normal"][i % 2], "source": "xyz"[i % 3]} for i in range(60))
    >>> found = leave_one_source_out(np.c_[np.arange(60) % 2], rows)
    >>> found[["sensitivity", "specificity"]].to_numpy().min()
    np.float64(1.0)
    """
    manifest = manifest.reset_index(drop=True)
    scores = left_out_scores(features, manifest, positive=positive, **how)
    films = manifest.loc[scores.index].assign(ill=lambda rows: rows.label == positive, **scores)
    rows = {source: _trial(group) for source, group in films.groupby("source", sort=False)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")


def _trial(films):
    truth = films.ill.to_numpy()
    found = discrimination(truth, films.called, films.score, patient_keys(films).to_numpy(dtype=str))
    row = {"n_positive": int(truth.sum()), "n_negative": int((~truth).sum())}
    for name in ("sensitivity", "specificity", "auc"):
        low, high = found[f"{name}_interval"] or (np.nan, np.nan)
        row |= {name: np.nan if found[name] is None else found[name], f"{name}_low": low, f"{name}_high": high}
    return row


def trial_sentences(trials, positive=POSITIVE, sources=()) -> list:
    """Say in words what came of leaving sources out.

    Parameters
    ----------
    trials : pandas.DataFrame
        From `leave_one_source_out`.
    positive : str or None
        The class against all others.
    sources : iterable of str
        All of the run's sources; of those that are not in `trials` it is said why.

    Returns
    -------
    list of str

    Examples
    --------
    >>> trial_sentences(pd.DataFrame())[0]
    'No source can be left out: without any of them, the others lack two patients with COVID-19, or two without.'
    """
    if positive is None:
        return ["No source is left out, as no class is named as the positive one."]
    lack = f"the others lack two patients with {positive}, or two without"
    if trials.empty:
        return [
            f"No source can be left out: without any of them, {lack}.",
            "So this selection cannot say what a reader fitted on it does in a place that it has not seen.",
        ]
    said = [f"{source}, left out: {_numbers(row, positive)}." for source, row in trials.iterrows()]
    absent = [source for source in dict.fromkeys(sources) if source not in trials.index]
    return said + [f"{source} cannot be left out: without it, {lack}." for source in absent]


def _numbers(row, positive):
    told = {
        "sensitivity": f"of {row.n_positive:.0f} {positive} films found",
        "specificity": f"of {row.n_negative:.0f} other films not called {positive}",
        "auc": "area under the ROC curve within it (chance 0.50)",
    }
    return "; ".join(
        f"{row[name]:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f}) {words}"
        for name, words in told.items()
        if np.isfinite(row[name])
    )
