"""Generalisation to held-out groups: sources, several sources jointly, acquisition sites, patients of one source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import StratifiedGroupKFold

from covidxr.audit.probes import MIN_PATIENTS
from covidxr.data.manifest import patient_keys
from covidxr.data.splits import split_groups
from covidxr.evaluation.comparison import compare_auc
from covidxr.evaluation.intervals import (
    binary_metrics,
    estimate_auc,
    estimate_columns,
    estimate_of,
    estimate_records,
    estimate_statistic,
)
from covidxr.evaluation.linear_probe import LogisticProbe, SourceBalancedLDA
from covidxr.evaluation.metrics import POSITIVE
from covidxr.utils import CovidxrError, unknown

ERM, LDA = "ERM baseline", "source-balanced LDA"

METHODS = {ERM: LogisticProbe(), LDA: SourceBalancedLDA()}


class HeldOutGroups:
    """A splitter that holds each group out in turn, together with its patients and near-duplicates.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows. An image whose patient or near-duplicate (column ``duplicate_group``) is in the test group is in neither
        fold unless it is in the group itself.

    Examples
    --------
    >>> from covidxr.data.manifest import manifest_rows
    >>> rows = manifest_rows({"image_id": i, "patient_id": i, "source": "xyz"[i % 3]} for i in range(12))
    >>> positive = np.arange(12) % 2 == 0
    >>> [test.tolist() for _, test in HeldOutGroups(rows).split(None, positive, rows.source)]
    [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    """

    def __init__(self, manifest: pd.DataFrame):
        self.patients = patient_keys(manifest).to_numpy(dtype=str)
        self.linked = split_groups(manifest.reset_index(drop=True)).to_numpy()

    def split(self, X: object, y: ArrayLike, groups: ArrayLike) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the training and the test rows of each group.

        Parameters
        ----------
        X : object
            Ignored.
        y : array_like of bool
            Shape (N,): which images are of the positive class.
        groups : array_like of str
            Shape (N,); images with ``""`` are never held out. A group is skipped where fewer than two patients with or
            without the positive class would remain for training.
        """
        groups, y = np.asarray(groups, dtype=str), np.asarray(y, dtype=bool)
        for name in np.unique(groups[groups != ""]):
            test = groups == name
            train = ~np.isin(self.linked, self.linked[test])
            if min(len(np.unique(self.patients[train & (y == side)])) for side in (False, True)) > 1:
                yield np.flatnonzero(train), np.flatnonzero(test)

    def get_n_splits(self, X: object, y: ArrayLike, groups: ArrayLike) -> int:
        """How many groups can be held out."""
        return sum(1 for _ in self.split(X, y, groups))


def held_out_predictions(features, manifest, groups, positive=POSITIVE, methods=None) -> pd.DataFrame:
    """Predict each held-out group by each method, fitted on the other groups: one row a method and image."""
    if len(features) != len(manifest):
        raise CovidxrError(f"there are {len(features)} rows of features for {len(manifest)} rows of the manifest")
    x, splitter = np.reshape(features, (len(features), -1)), HeldOutGroups(manifest)
    manifest, found = manifest.reset_index(drop=True), []
    images = pd.DataFrame({
        "group": np.asarray(groups, dtype=str), "source": manifest.source, "label": manifest.label, "positive": manifest.label == positive,
        "patient": splitter.patients,
    })  # fmt: skip
    for train, test in splitter.split(x, images.positive, groups):
        known = manifest.loc[train]
        for name, estimator in (methods or METHODS).items():
            probe = clone(estimator).fit(x[train], known.label, sources=known.source, groups=splitter.patients[train])
            probabilities, column = probe.predict_proba(x[test]), probe.classes_.tolist().index(positive)
            scores = {"score": probabilities[:, column], "predicted": probabilities.argmax(axis=1) == column}
            found.append(images.loc[test].assign(method=name, **scores))
    return pd.concat(found) if found else images.iloc[:0].assign(method="", score=0.0, predicted=False)


def joint_groups(manifest, sources) -> np.ndarray:
    """Groups in which the named sources are one and no other image is held out."""
    if strange := [source for source in sources if source not in set(manifest.source)]:
        raise unknown("source to hold out", strange[0], sorted(set(manifest.source)))
    return np.where(manifest.source.isin(sources), " and ".join(sources), "")


def acquisition_sites(manifest) -> np.ndarray:
    """The host of an image's URL in sources that collect images from several hosts; otherwise the source."""
    hosts = manifest.url.fillna("").astype(str).str.extract(r"^\w+://(?:www\.)?([^/:]+)")[0].fillna("no URL")
    several = hosts.groupby(manifest.source).transform("nunique") > 1
    return np.where(several, manifest.source + ", " + hosts, manifest.source).astype(str)


def sites_with_both_classes(manifest, positive=POSITIVE) -> np.ndarray:
    """Groups of the acquisition sites with ten patients with and ten without the positive class."""
    sites = acquisition_sites(manifest)
    return np.where(np.isin(sites, _with_both_classes(manifest, sites, positive).index), sites, "")


def folds_within_source(manifest, positive=POSITIVE, folds=5) -> np.ndarray:
    """Groups of patients within the source with most patients of both classes; all ``""`` where none has ten of each."""
    groups = np.full(len(manifest), "", dtype="<U9")
    both = _with_both_classes(manifest, manifest.source.to_numpy(dtype=str), positive)
    if len(both):
        rows = np.flatnonzero(manifest.source == both.idxmax())
        y, patients = (manifest.label == positive).to_numpy()[rows], patient_keys(manifest).to_numpy(dtype=str)[rows]
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
        for number, (_, test) in enumerate(splitter.split(rows, y, patients)):
            groups[rows[test]] = f"fold {number}"
    return groups


def _with_both_classes(manifest, groups, positive):
    """For each group with enough patients of both classes, the smaller of the two numbers of patients."""
    positives = (manifest.label == positive).to_numpy()
    patients = pd.crosstab(groups, positives, patient_keys(manifest).to_numpy(dtype=str), aggfunc="nunique")
    fewest = patients.reindex(columns=[False, True]).fillna(0).min(axis=1)
    return fewest[fewest >= MIN_PATIENTS]


def split_by_comparison(predictions, positive=POSITIVE) -> pd.DataFrame:
    """Predictions with one group a comparison: the positive class against each other label."""
    others = sorted(set(predictions.label) - {positive}) if predictions.positive.any() else []
    pairs = [predictions[predictions.label.isin([positive, other])] for other in others]
    named = [pair.assign(group=f"{positive} vs. {other}") for pair, other in zip(pairs, others, strict=True)]
    return pd.concat(named) if named else predictions.iloc[:0]


def comparison_run_predictions(run_dir, sources, positive=POSITIVE) -> pd.DataFrame:
    """Predictions for the same sources by another run's network, for which they are external sets."""
    path = Path(run_dir) / "external_predictions.csv"
    if not path.exists():
        raise CovidxrError(f"{run_dir} holds no external_predictions.csv; run notebook 07 there first")
    rows = pd.read_csv(path, keep_default_na=False, dtype={"patient_id": str})
    for source in sources:
        if source not in set(rows.source):
            raise unknown(f"external set of {run_dir}", source, sorted(set(rows.source)))
    if f"p_{positive}" not in rows:
        classes = [name.removeprefix("p_") for name in rows.columns if name.startswith("p_")]
        raise unknown(f"class of {run_dir}:", positive, classes)
    rows = rows[rows.source.isin(sources)]
    return pd.DataFrame({
        "group": " and ".join(sources), "source": rows.source, "label": rows.label, "positive": rows.label == positive,
        "patient": patient_keys(rows), "method": Path(run_dir).name, "score": rows[f"p_{positive}"],
        "predicted": rows.predicted == positive,
    })  # fmt: skip


def held_out_metrics(predictions) -> pd.DataFrame:
    """Sensitivity, specificity and AUC with their intervals: one row a held-out group and method."""
    rows = {}
    for key, images in predictions.groupby(["group", "method"], sort=False):
        estimates = binary_metrics(images.positive, images.predicted, images.score, images.patient)
        counts = {"n_positive": int(images.positive.sum()), "n_negative": int((~images.positive).sum())}
        rows[key] = counts | estimate_columns(**estimates)
    index = pd.MultiIndex.from_tuples(rows, names=["group", "method"])
    return pd.DataFrame(list(rows.values()), index)


def auc_changes(predictions) -> pd.DataFrame:
    """The change of AUC from the ERM baseline to the source-balanced LDA: one row a held-out group."""
    rows = {
        name: estimate_columns(change=_auc_change(images)) for name, images in predictions.groupby("group", sort=False)
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["change", "change_low", "change_high"])


def _auc_change(images):
    baseline, mitigated = (images[images.method == method] for method in (ERM, LDA))
    return compare_auc(mitigated.positive, baseline.score, mitigated.score, mitigated.patient)


@dataclass(frozen=True)
class HeldOutReport:
    """The results on held-out groups, or the reason why there are none; it is true where there are results.

    Attributes
    ----------
    predictions : pandas.DataFrame
        One row a method and image: ``group``, ``source``, ``label``, ``positive``, ``patient``, ``method``, ``score`` (of the
        positive class), ``predicted`` (whether it is the most probable class).
    table : pandas.DataFrame
        One row a group, and method where there are several: numbers of images, and sensitivity, specificity and AUC with their
        limits; empty where there are no results.
    reason : str
        Why there are no results; empty where there are.
    not_held_out : tuple of str
        Groups that could not be held out.

    Examples
    --------
    >>> report = leave_one_source_out(None, pd.DataFrame())
    >>> bool(report), report.sentences()
    (False, ['There is no features.npz of notebook 03, so no group is held out.'])
    """

    predictions: pd.DataFrame
    table: pd.DataFrame
    reason: str = ""
    not_held_out: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.reason

    def sentences(self) -> list[str]:
        """One sentence a row, one a change between methods, and one for each group that cannot be held out.

        Returns
        -------
        list of str
            Only the reason where there are no results.
        """
        if self.reason:
            return [self.reason]
        changes = auc_changes(self.predictions) if {ERM, LDA} <= set(self.predictions.method) else pd.DataFrame()
        lacking = [f"{name} cannot be held out: {_LACKING}." for name in self.not_held_out]
        return [*_held_out_sentences(self.table), *change_sentences(changes), *lacking]

    def to_dict(self) -> dict[str, dict]:
        """The table as it is stored in ``metrics.json``.

        Returns
        -------
        dict
            Group to counts and estimates, None for NaN; empty where there are no results.
        """
        return estimate_records(self.table)


_LACKING = "fewer than two patients with or without the positive class would remain for training"

_NO_EMBEDDINGS = "There is no features.npz of notebook 03, so no group is held out."


def _without_results(reason) -> HeldOutReport:
    return HeldOutReport(pd.DataFrame(), pd.DataFrame(), reason)


def _report(predictions, what) -> HeldOutReport:
    if predictions.empty:
        return _without_results(f"No {what} can be held out: {_LACKING}, or no {what} has both classes.")
    return HeldOutReport(predictions, held_out_metrics(predictions))


def leave_one_source_out(
    features: np.ndarray | None,
    manifest: pd.DataFrame,
    positive: str | None = POSITIVE,
    estimator: BaseEstimator | None = None,
) -> HeldOutReport:
    """Evaluate a linear probe on each source in turn, fitted on the other sources.

    Parameters
    ----------
    features : numpy.ndarray or None
        Embeddings of N images, shape (N, …), floating point; with None the report has no results.
    manifest : pandas.DataFrame
        N manifest rows.
    positive : str, optional
        The class that is evaluated against all others.
    estimator : sklearn.base.BaseEstimator, optional
        A classifier whose ``fit`` takes ``sources`` and ``groups``; by default
        `covidxr.evaluation.linear_probe.SourceBalancedLDA`.

    Returns
    -------
    HeldOutReport
        Its ``table`` has the index ``source`` and the columns ``n_positive``, ``n_negative``, ``sensitivity``,
        ``specificity`` (for the most probable class) and ``auc`` (NaN where the source has one class only), in [0, 1], each
        with ``_low`` and ``_high`` of its 95 % CI. A source is missing where fewer than two patients with or without the
        positive class would remain.

    Raises
    ------
    CovidxrError
        When `features` and `manifest` differ in length, or features are not finite.

    Examples
    --------
    >>> from covidxr.data.manifest import manifest_rows
    >>> rows = manifest_rows(
    ...     {"image_id": i, "patient_id": i, "label": ["COVID-19", "Normal"][i % 2], "source": "xyz"[i % 3]} for i in range(60))
    >>> found = leave_one_source_out(np.c_[np.arange(60) % 2], rows)
    >>> float(found.table[["sensitivity", "specificity"]].to_numpy().min())
    1.0
    """
    if features is None:
        return _without_results(_NO_EMBEDDINGS)
    methods = {"": estimator or METHODS[LDA]}
    report = _report(held_out_predictions(features, manifest, manifest.source, positive, methods), "source")
    if not report:
        return report
    table = report.table.droplevel("method").rename_axis("source")
    return replace(report, table=table, not_held_out=tuple(sorted(set(manifest.source) - set(table.index))))


def leave_one_site_out(features, manifest, positive=POSITIVE) -> HeldOutReport:
    """Each acquisition site with both classes held out in turn, by the ERM baseline and the source-balanced LDA."""
    if features is None:
        return _without_results(_NO_EMBEDDINGS)
    groups = sites_with_both_classes(manifest, positive)
    return _report(held_out_predictions(features, manifest, groups, positive), "site")


def hold_out_jointly(features, manifest, sources, positive=POSITIVE, comparison_run=None) -> HeldOutReport:
    """Several sources held out at once, the positive class against each other label; `comparison_run` adds that run's network."""
    if features is None or not sources:
        return _without_results(_NO_EMBEDDINGS if sources else "No sources are named to be held out jointly.")
    predictions = held_out_predictions(features, manifest, joint_groups(manifest, sources), positive)
    if comparison_run and len(predictions):
        predictions = pd.concat([predictions, comparison_run_predictions(comparison_run, sources, positive)])
    return _report(split_by_comparison(predictions, positive), "combination of sources")


class Variant(NamedTuple):
    """A variant of the mitigation ablation: ``features``, the ``method`` fitted to them, and its ``baseline``."""

    features: np.ndarray
    method: BaseEstimator
    baseline: str | None = None


def mitigation_variants(images, weights="auto", seed=0) -> dict[str, Variant]:
    """The variants of the mitigation ablation, each with one thing changed; the embeddings use no labels."""
    from covidxr.model.networks import build_vgg16, embed, truncate_vgg16  # TensorFlow, which the rest does without
    from covidxr.model.weights import load_weights

    full = build_vgg16(images.shape[1], seed=seed)
    load_weights(full, weights)
    truncated = embed(truncate_vgg16(full), images)
    return {
        "full VGG16": Variant(embed(full, images), LogisticProbe()),
        "truncated VGG16": Variant(truncated, LogisticProbe(), "full VGG16"),
        "sources balanced": Variant(truncated, LogisticProbe(balanced=True), "truncated VGG16"),
        LDA: Variant(truncated, SourceBalancedLDA(), "sources balanced"),
    }


def compare_mitigations(variants, manifest, positive=POSITIVE) -> pd.DataFrame:
    """Mean accuracy over groups (source × class) on held-out sources, its change, and the AUC within one source."""
    manifest, correct, rows = manifest.reset_index(drop=True), {}, {}
    cells = manifest.groupby(["source", manifest.label == positive]).ngroup().to_numpy()
    within = folds_within_source(manifest, positive)
    for name, (features, method, baseline) in variants.items():
        of_sources, of_folds = (
            held_out_predictions(features, manifest, groups, positive, {name: method}).sort_index()
            for groups in (manifest.source, within)
        )
        if of_sources.empty:
            return pd.DataFrame()
        about = cells[of_sources.index], of_sources.patient.to_numpy()
        correct[name] = (of_sources.predicted == of_sources.positive).to_numpy(dtype=float)
        estimates = {"accuracy": _mean_over_groups(correct[name], *about)}
        if baseline:
            estimates["change"] = _mean_over_groups(correct[name] - correct[baseline], *about)
        complete = 0 < len(of_folds) == (within != "").sum() and of_folds.positive.nunique() == 2
        auc = estimate_auc(of_folds.positive, of_folds.score, of_folds.patient) if complete else None
        rows[name] = {"baseline": baseline} | estimate_columns(**estimates, within_source_auc=auc)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def _mean_over_groups(values, cells, patients):
    def mean(rows):
        images = np.bincount(cells[rows])
        return (np.bincount(cells[rows], values[rows])[images > 0] / images[images > 0]).mean()

    return estimate_statistic(mean, patients)


def _held_out_sentences(table):
    metrics = {"sensitivity": "sensitivity", "specificity": "specificity", "auc": "AUC (chance 0.50)"}
    sentences = []
    for key, row in table.iterrows():
        known = [f"{text} {estimate_of(row, name)}" for name, text in metrics.items() if np.isfinite(row[name])]
        counts = f"{row.n_positive:.0f} positive and {row.n_negative:.0f} negative images"
        sentences.append(f"{key if isinstance(key, str) else ', '.join(key)}: {'; '.join(known)}; {counts}.")
    return sentences


def change_sentences(table, of="AUC") -> list[str]:
    """One sentence a row with a change: how large, and whether it is significant."""
    return [
        f"{name}: change of {of} {estimate_of(row, 'change').signed()} compared with {row.get('baseline', ERM)}: {_conclusion(row)}."
        for name, row in table.iterrows()
        if np.isfinite(row.get("change", np.nan))
    ]


def _conclusion(row):
    return "improvement" if row.change_low > 0 else "deterioration" if row.change_high < 0 else "no significant change"


def mitigation_sentences(table) -> list[str]:
    """The mean accuracy of each variant, and what each changed."""
    if table.empty:
        return ["No mitigation can be compared: no source can be held out."]
    accuracy = [
        f"{name}: mean per-group accuracy {estimate_of(row, 'accuracy')}, chance 0.50."
        for name, row in table.iterrows()
    ]
    sentences = accuracy + change_sentences(table, "mean per-group accuracy")
    if table.within_source_auc.isna().all():
        sentences.append(
            f"No AUC within a source: no source has {MIN_PATIENTS} patients with and without the positive class."
        )
    return sentences
