"""Sources within classes: weights that keep the big ones from drowning the small, and trials on a source left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from covidxr.errors import CovidxrError
from covidxr.intervals import auc_with_interval, wilson_interval
from covidxr.network_probes import POSITIVE
from covidxr.splits import patient_keys

WITHIN = 0.9  # sensitivity that a threshold has on the sources trained on


def cell_weights(labels, sources) -> np.ndarray:
    """Weigh films so that classes count alike, and the sources within each class do.

    Parameters
    ----------
    labels, sources : array_like of str
        N of each.

    Returns
    -------
    numpy.ndarray
        ``float64``, shape (N,), positive, with mean 1.

    References
    ----------
    Sagawa S. et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020, whose groups are such cells; Idrissi
    B. Y. et al., Simple data balancing achieves competitive worst-group-accuracy, CLeaR 2022, which fixes their weights.

    Examples
    --------
    >>> cell_weights(["a", "a", "a", "b"], ["x", "x", "y", "y"]).round(2).tolist()
    [0.5, 0.5, 1.0, 2.0]
    """
    cells = pd.DataFrame({"label": np.asarray(labels), "source": np.asarray(sources)})
    films = cells.groupby(["label", "source"]).label.transform("size")
    weights = 1 / (films * cells.groupby("label").source.transform("nunique"))
    return (weights / weights.mean()).to_numpy()


def leave_one_source_out(features, manifest, positive=POSITIVE, balanced=True) -> pd.DataFrame:
    """Fit logistic regression on all sources but one, and see what it makes of that one; each source in turn.

    The threshold is the one that finds 90 % of the positive films of the sources trained on, other patients' films than
    those it was fitted on. The films left out have no part in it.

    Parameters
    ----------
    features : numpy.ndarray
        Shape (N, …), of a network that has not seen the labels, such as a frozen base's.
    manifest : pandas.DataFrame
        N manifest rows.
    positive : str
        The class against all others.
    balanced : bool
        Whether films are weighed by `cell_weights`; else only the classes are.

    Returns
    -------
    pandas.DataFrame
        Index ``source``; columns ``n_positive``, ``n_negative``, ``sensitivity``, ``specificity``, ``auc`` (within that source,
        where it has both), each with ``_low`` and ``_high``. No row for a source without which the others lack one side; an
        empty table where that is so of all.

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
    if len(features) != len(manifest):
        raise CovidxrError(f"there are {len(features)} rows of features for {len(manifest)} rows of the manifest")
    manifest, x = manifest.reset_index(drop=True), np.reshape(features, (len(features), -1))
    ill = (manifest.label == positive).to_numpy()
    rows = {}
    for source in manifest.source.unique():
        out = (manifest.source == source).to_numpy()
        if 0 < ill[~out].sum() < (~out).sum():
            rows[source] = _trial(x, ill, out, manifest, balanced)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")


def trial_sentences(trials, positive=POSITIVE) -> list:
    """Say in words what came of leaving sources out.

    Parameters
    ----------
    trials : pandas.DataFrame
        From `leave_one_source_out`.
    positive : str
        The class against all others.

    Returns
    -------
    list of str

    Examples
    --------
    >>> trial_sentences(pd.DataFrame())[0]
    'No source can be left out: without any of them, the others lack COVID-19 films or all other films.'
    """
    if trials.empty:
        return [
            f"No source can be left out: without any of them, the others lack {positive} films or all other films.",
            "So this selection cannot say what a reader fitted on it does in a place that it has not seen.",
        ]
    return [f"{source}, left out: {_numbers(row, positive)}." for source, row in trials.iterrows()]


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


def _trial(x, ill, out, manifest, balanced):
    inside = manifest[~out]
    weights = cell_weights(ill[~out].astype(str), inside.source if balanced else np.full(len(inside), ""))
    threshold = _threshold(x[~out], ill[~out], weights, patient_keys(inside).to_numpy(dtype=str))
    scores = _fitted(x[~out], ill[~out], weights).decision_function(x[out])
    called, truth, patients = scores >= threshold, ill[out], patient_keys(manifest[out]).to_numpy(dtype=str)
    return {
        "n_positive": int(truth.sum()),
        "n_negative": int((~truth).sum()),
        **_share("sensitivity", called[truth]),
        **_share("specificity", ~called[~truth]),
        **_auc(truth, scores, patients),
    }


def _threshold(x, ill, weights, patients):
    folds = GroupKFold(min(5, len(np.unique(patients))))
    scores = cross_val_predict(
        _reader(), x, ill, groups=patients, cv=folds, method="decision_function",
        params={"logisticregression__sample_weight": weights},
    )
    return np.quantile(scores[ill], 1 - WITHIN)


def _fitted(x, ill, weights):
    return _reader().fit(x, ill, logisticregression__sample_weight=weights)


def _reader():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))


def _share(name, hits):
    low, high = wilson_interval(hits.sum(), len(hits)) if len(hits) else (np.nan, np.nan)
    return {name: hits.mean() if len(hits) else np.nan, f"{name}_low": low, f"{name}_high": high}


def _auc(truth, scores, patients):
    if truth.all() or not truth.any():
        return dict.fromkeys(("auc", "auc_low", "auc_high"), np.nan)
    area, (low, high) = auc_with_interval(truth, scores, patients)
    return {"auc": area, "auc_low": low, "auc_high": high}
