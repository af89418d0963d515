"""Steps of care: what each changes where its reader has not been, and where the place tells nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from covidxr.intervals import auc_with_interval, bootstrap_interval
from covidxr.leave_out import can_fit, left_out_scores, score_outside, to_fit_on
from covidxr.network_probes import POSITIVE
from covidxr.probes import FEWEST
from covidxr.splits import patient_keys


class Step(NamedTuple):
    """One step: ``features``, ``how`` they are read (see `covidxr.leave_out.left_out_scores`), and what it is held ``against``."""

    features: object
    how: dict
    against: str | None = None


def compare_steps(steps, manifest, positive=POSITIVE) -> pd.DataFrame:
    """What each step of care changes, where its reader has not been and where the place tells nothing.

    Parameters
    ----------
    steps : dict
        Name to `Step`; what a step is held against comes before it.
    manifest : pandas.DataFrame
        N manifest rows.
    positive : str
        The class against all others.

    Returns
    -------
    pandas.DataFrame
        Index ``step``. ``carried``: each source is left out in turn; of `positive` films and of the others of each source, the
        share told right, and the mean of these shares (chance 0.5). ``against`` and ``gained``: the difference to that step,
        film by film. ``within``: the area under the ROC curve in the source with the most patients of both sides, other patients of
        which, and all other sources, were fitted on; NaN where none has ten of both. Each with ``_low`` and ``_high``, patients
        drawn. Empty where no source can be left out.

    References
    ----------
    Gulrajani I., Lopez-Paz D., In Search of Lost Domain Generalization, ICLR 2021, on what to select by; the group means: Sagawa
    S. et al., ICLR 2020.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows(
    ...     {"image_id": i, "patient_id": i, "label": ["COVID-19", "Normal"][i % 2], "source": "xyz"[i % 3]} for i in range(60))
    >>> sign, noise = np.c_[np.arange(60) % 2], np.random.default_rng(0).normal(size=(60, 1))
    >>> table = compare_steps({"nothing": Step(noise, {}), "the sign": Step(sign, {}, "nothing")}, rows)
    >>> float(table.carried["the sign"]), bool(table.gained_low["the sign"] > 0)
    (1.0, True)
    """
    manifest = manifest.reset_index(drop=True)
    ill, patients = (manifest.label == positive).to_numpy(), patient_keys(manifest).to_numpy(dtype=str)
    cells, right, rows = manifest.groupby(["source", ill]).ngroup().to_numpy(), {}, {}
    for name, step in steps.items():
        scores = left_out_scores(step.features, manifest, positive=positive, **step.how)
        if scores.empty:
            return pd.DataFrame()
        films = scores.index.to_numpy()
        right[name] = (scores.called == ill[films]).to_numpy(dtype=float)
        rows[name] = {"against": step.against, **_mean_of_cells("carried", right[name], cells[films], patients[films])}
        if step.against:
            change = right[name] - right[step.against]
            rows[name] |= _mean_of_cells("gained", change, cells[films], patients[films])
        rows[name] |= _within(step.features, manifest, positive, step.how)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")


def _mean_of_cells(name, values, cells, patients):
    def mean(rows):
        films = np.bincount(cells[rows])
        return (np.bincount(cells[rows], values[rows])[films > 0] / films[films > 0]).mean()

    low, high = bootstrap_interval(mean, patients)
    return {name: mean(np.arange(len(values))), f"{name}_low": low, f"{name}_high": high}


def _within(features, manifest, positive, how):
    """The area within one source, its patients in five groups, each scored by a reader that saw the other four."""
    ill, patients = (manifest.label == positive).to_numpy(), patient_keys(manifest).to_numpy(dtype=str)
    sides = pd.crosstab(manifest.source, ill, patients, aggfunc="nunique").reindex(columns=[False, True])
    sides = sides.fillna(0).min(axis=1)
    if sides.max() < FEWEST:
        return dict.fromkeys(("within", "within_low", "within_high"), np.nan)
    place = np.flatnonzero(manifest.source == sides.idxmax())
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(place, ill[place], patients[place])
    held = [np.isin(np.arange(len(manifest)), place[outside]) for _, outside in folds]
    if not all(can_fit(manifest, to_fit_on(manifest, outside), ill) for outside in held):
        return dict.fromkeys(("within", "within_low", "within_high"), np.nan)
    scores = pd.concat([score_outside(features, manifest, outside, positive, **how) for outside in held]).sort_index()
    area, (low, high) = auc_with_interval(ill[place], scores.score, patients[place])
    return {"within": area, "within_low": low, "within_high": high}


def step_sentences(table) -> list:
    """Say in words what each step changed, as far as its interval allows.

    Parameters
    ----------
    table : pandas.DataFrame
        From `compare_steps`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> numbers = {"carried": [0.5, 0.7], "gained": [np.nan, 0.2], "gained_low": [np.nan, 0.1], "gained_high": [np.nan, 0.3]}
    >>> numbers["against"] = [None, "all of it"]
    >>> step_sentences(pd.DataFrame(numbers, index=["all of it", "balanced"]))[1]
    'balanced: 0.70 told right where the reader has not been, +0.20 (+0.10 to +0.30) against all of it: a gain.'
    """
    if table.empty:
        return ["There are no steps to compare: no source can be left out."]
    said = [
        f"{step}: {row.carried:.2f} told right where the reader has not been{_change(row)}."
        for step, row in table.iterrows()
    ]
    if table.get("within", pd.Series([0.0])).isna().all():
        said.append(f"`within` is empty: no source has {FEWEST} patients of both kinds whose films can be held out.")
    return said


def _change(row):
    if not np.isfinite(row.get("gained", np.nan)):
        return " (chance 0.50)"
    verdict = "a gain" if row.gained_low > 0 else "a loss" if row.gained_high < 0 else "not told from no change"
    return f", {row.gained:+.2f} ({row.gained_low:+.2f} to {row.gained_high:+.2f}) against {row.against}: {verdict}"
