"""Several sources left out at once: scores of films from places that a reader, or another run's network, has never seen."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from covidxr.errors import CovidxrError, unknown
from covidxr.intervals import discrimination
from covidxr.leave_out import PLAIN, left_out_scores
from covidxr.network_probes import POSITIVE
from covidxr.splits import patient_keys

CARE = {"without care": PLAIN, "with care": {}}


def never_seen_scores(features, manifest, together, positive=POSITIVE) -> dict:
    """Score the films of sources left out at once, by a reader with care for sources and by one without.

    Parameters
    ----------
    features : numpy.ndarray
        Shape (N, …), of a network that has not seen the labels.
    manifest : pandas.DataFrame
        N manifest rows.
    together : sequence of str
        The sources.
    positive : str
        The class against each of the others.

    Returns
    -------
    dict
        For each reader and each other label among these sources, ``"with care, against Normal"``, a frame of the films of
        `positive` and of that label: ``ill``, ``score``, ``called``, ``patient``.

    Raises
    ------
    CovidxrError
        When a source is not in the manifest, or there is nothing on both sides to score, or to fit on.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows(
    ...     {"image_id": i, "patient_id": i, "label": ["COVID-19", "Normal"][i % 2], "source": "xyz"[i % 3]} for i in range(60))
    >>> list(never_seen_scores(rows.index.to_numpy()[:, None] % 2, rows, ["y", "z"]))
    ['without care, against Normal', 'with care, against Normal']
    """
    if strange := [source for source in together if source not in set(manifest.source)]:
        raise unknown("source to leave out", strange[0], sorted(set(manifest.source)))
    manifest = manifest.reset_index(drop=True)
    found = {}
    for name, how in CARE.items():
        scores = left_out_scores(features, manifest, together, positive, **how)
        films = manifest.loc[scores.index].assign(**scores)
        found |= _by_other_label(name, films, positive)
    if not found:
        raise CovidxrError(
            f"{', '.join(together)}: left out together, these leave nothing to fit on, or are all of one kind"
        )
    return found


def run_scores(run_dir, together, positive=POSITIVE) -> dict:
    """Scores of the same sources by another run's network, which had them as external sets.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        A finished run's folder.
    together, positive
        As for `never_seen_scores`.

    Returns
    -------
    dict
        As of `never_seen_scores`, named after the run.

    Raises
    ------
    CovidxrError
        When the run has no predictions of external sets, none of these sources, or no such class.

    Examples
    --------
    >>> run_scores("runs/none", ["figure1"])
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: runs/none holds no external_predictions.csv; run notebook 07_other_hospitals there first
    """
    path = Path(run_dir) / "external_predictions.csv"
    if not path.exists():
        raise CovidxrError(f"{run_dir} holds no external_predictions.csv; run notebook 07_other_hospitals there first")
    rows = pd.read_csv(path, keep_default_na=False, dtype={"patient_id": str})
    for source in together:
        if source not in set(rows.source):
            raise unknown(f"external set of {run_dir}", source, sorted(set(rows.source)))
    if f"p_{positive}" not in rows:
        classes = [name.removeprefix("p_") for name in rows.columns if name.startswith("p_")]
        raise unknown(f"class of {run_dir}:", positive, classes)
    films = rows[rows.source.isin(together)]
    films = films.assign(score=films[f"p_{positive}"], called=films.predicted == positive)
    return _by_other_label(Path(run_dir).name, films, positive)


def _by_other_label(name, films, positive):
    films = films.assign(ill=films.label == positive, patient=patient_keys(films))[
        ["label", "ill", "score", "called", "patient"]
    ]
    others = sorted(set(films.label) - {positive}) if films.ill.any() else []
    return {f"{name}, against {label}": films[films.ill | (films.label == label)] for label in others}


def score_summary(curves) -> dict:
    """Area, sensitivity and specificity of each group of scores, with intervals.

    Parameters
    ----------
    curves : dict
        From `never_seen_scores`.

    Returns
    -------
    dict
        Name to ``n_ill``, ``n_other`` and what `covidxr.intervals.discrimination` gives, at the most probable class.

    Examples
    --------
    >>> rows = pd.DataFrame({"ill": [True, False], "score": [0.9, 0.2], "called": [True, False], "patient": ["a", "b"]})
    >>> score_summary({"reader": rows})["reader"]["specificity"]
    1.0
    """
    return {name: _summary(rows) for name, rows in curves.items()}


def _summary(rows):
    counts = {"n_ill": int(rows.ill.sum()), "n_other": int((~rows.ill).sum())}
    return {**counts, **discrimination(rows.ill, rows.called, rows.score, rows.patient)}


def score_sentences(summary) -> list:
    """Say in words what was found and what was falsely called, group by group.

    Parameters
    ----------
    summary : dict
        From `score_summary`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> shares = {"sensitivity": 0.8, "specificity": 0.6, "auc": 0.75}
    >>> intervals = {f"{name}_interval": [share - 0.1, share + 0.1] for name, share in shares.items()}
    >>> score_sentences({"reader": {"n_ill": 50, "n_other": 60, **shares, **intervals}})
    ['reader: 0.80 (0.70 to 0.90) of 50 ill films found, 0.40 (0.30 to 0.50) of 60 others falsely called ill; area 0.75 (0.65 to 0.85), chance 0.50.']
    """
    if not summary:
        return ["No sources were left out together."]
    return [_sentence(name, found) for name, found in summary.items()]


def _sentence(name, found):
    hit, (low, high), (least, most) = found["sensitivity"], found["sensitivity_interval"], found["auc_interval"]
    right, upper = found["specificity_interval"]
    return (
        f"{name}: {hit:.2f} ({low:.2f} to {high:.2f}) of {found['n_ill']} ill films found, "
        f"{1 - found['specificity']:.2f} ({1 - upper:.2f} to {1 - right:.2f}) of {found['n_other']} others falsely called ill; "
        f"area {found['auc']:.2f} ({least:.2f} to {most:.2f}), chance 0.50."
    )
