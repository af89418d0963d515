"""Generalisation to held-out groups: sources, several sources jointly, acquisition sites, patients of one source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from covidxr.audit.probes import MIN_PATIENTS, auc_with_limits
from covidxr.data.manifest import patient_keys
from covidxr.data.splits import split_groups
from covidxr.evaluation.intervals import bootstrap_interval, proportion_interval
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
    rows = {key: _metrics(images) for key, images in predictions.groupby(["group", "method"], sort=False)}
    index = pd.MultiIndex.from_tuples(rows, names=["group", "method"])
    return pd.DataFrame(list(rows.values()), index)


def _metrics(images):
    y, predicted, patients = (images[name].to_numpy() for name in ("positive", "predicted", "patient"))
    row = {"n_positive": int(y.sum()), "n_negative": int((~y).sum())}
    row |= _with_limits("sensitivity", *_proportion(predicted[y], patients[y]))
    row |= _with_limits("specificity", *_proportion(~predicted[~y], patients[~y]))
    return row | _with_limits("auc", *_auc(images))


def _proportion(hits, patients):
    return (hits.mean(), *proportion_interval(hits, patients)) if len(hits) else (np.nan,) * 3


def _auc(images):
    if images.positive.nunique() < 2:
        return (np.nan,) * 3
    return auc_with_limits(images.positive.to_numpy(), images.score.to_numpy(), images.patient.to_numpy())


def _with_limits(name, value, low, high):
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def leave_one_source_out(
    features: np.ndarray,
    manifest: pd.DataFrame,
    positive: str | None = POSITIVE,
    estimator: BaseEstimator | None = None,
) -> pd.DataFrame:
    """Evaluate a linear probe on each source in turn, fitted on the other sources.

    Parameters
    ----------
    features : numpy.ndarray
        Embeddings of N images, shape (N, …), floating point.
    manifest : pandas.DataFrame
        N manifest rows.
    positive : str, optional
        The class that is evaluated against all others.
    estimator : sklearn.base.BaseEstimator, optional
        A classifier whose ``fit`` takes ``sources`` and ``groups``; by default
        `covidxr.evaluation.linear_probe.SourceBalancedLDA`.

    Returns
    -------
    pandas.DataFrame
        Index ``source``; columns ``n_positive``, ``n_negative``, ``sensitivity``, ``specificity`` (for the most probable
        class) and ``auc`` (NaN where the source has one class only), in [0, 1], each with ``_low`` and ``_high`` of its
        95 % CI. A source is missing where fewer than two patients with or without the positive class would remain.

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
    >>> float(found[["sensitivity", "specificity"]].to_numpy().min())
    1.0
    """
    methods = {"": SourceBalancedLDA() if estimator is None else estimator}
    predictions = held_out_predictions(features, manifest, manifest.source, positive, methods)
    return held_out_metrics(predictions).droplevel("method").rename_axis("source")


def auc_changes(predictions) -> pd.DataFrame:
    """The change of AUC from the ERM baseline to the source-balanced LDA: one row a held-out group."""
    rows = {name: _auc_change(images) for name, images in predictions.groupby("group", sort=False)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["change", "change_low", "change_high"])


def _auc_change(images):
    baseline, mitigated = (images[images.method == method] for method in (ERM, LDA))
    y, scores = mitigated.positive.to_numpy(), [rows.score.to_numpy() for rows in (baseline, mitigated)]

    def change(rows):
        if len(set(y[rows])) < 2:
            return np.nan
        before, after = (roc_auc_score(y[rows], score[rows]) for score in scores)
        return after - before

    return change(np.arange(len(y))), *bootstrap_interval(change, mitigated.patient.to_numpy())


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
        rows[name] = {"baseline": baseline} | _with_limits("accuracy", *_mean_over_groups(correct[name], *about))
        if baseline:
            change = correct[name] - correct[baseline]
            rows[name] |= _with_limits("change", *_mean_over_groups(change, *about))
        complete = 0 < len(of_folds) == (within != "").sum()
        rows[name] |= _with_limits("within_source_auc", *(_auc(of_folds) if complete else (np.nan,) * 3))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def _mean_over_groups(values, cells, patients):
    def mean(rows):
        images = np.bincount(cells[rows])
        return (np.bincount(cells[rows], values[rows])[images > 0] / images[images > 0]).mean()

    return mean(np.arange(len(values))), *bootstrap_interval(mean, patients)


def _text(row, name, sign=""):
    value, low, high = (format(row[name + end], f"{sign}.2f") for end in ("", "_low", "_high"))
    return f"{value} (95 % CI {low}–{high})" if not sign else f"{value} (95 % CI {low} to {high})"


def held_out_sentences(table, what="source", names=()) -> list[str]:
    """One sentence a row of `held_out_metrics`, and one for those of `names` that could not be held out."""
    lack = "fewer than two patients with or without the positive class would remain for training"
    if table.empty:
        return [f"No {what} can be held out: {lack}, or no {what} has both classes."]
    metrics = {"sensitivity": "sensitivity", "specificity": "specificity", "auc": "AUC (chance 0.50)"}
    sentences = []
    for key, row in table.iterrows():
        known = [f"{text} {_text(row, name)}" for name, text in metrics.items() if np.isfinite(row[name])]
        counts = f"{row.n_positive:.0f} positive and {row.n_negative:.0f} negative images"
        sentences.append(f"{key if isinstance(key, str) else ', '.join(key)}: {'; '.join(known)}; {counts}.")
    held_out = set(table.index.get_level_values(0))
    return sentences + [f"{name} cannot be held out: {lack}." for name in dict.fromkeys(names) if name not in held_out]


def change_sentences(table, of="AUC") -> list[str]:
    """One sentence a row with a change: how large, and whether it is significant."""
    return [
        f"{name}: change of {of} {_text(row, 'change', '+')} compared with {row.get('baseline', ERM)}: {_conclusion(row)}."
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
        f"{name}: mean per-group accuracy {_text(row, 'accuracy')}, chance 0.50." for name, row in table.iterrows()
    ]
    sentences = accuracy + change_sentences(table, "mean per-group accuracy")
    if table.within_source_auc.isna().all():
        sentences.append(
            f"No AUC within a source: no source has {MIN_PATIENTS} patients with and without the positive class."
        )
    return sentences


def table_records(table) -> dict:
    """A table as it goes into ``metrics.json``: a column with limits is one estimate, NaN is null."""
    table = table.set_axis([key if isinstance(key, str) else ", ".join(key) for key in table.index])
    return {name: _record(row) for name, row in table.astype(object).where(table.notna(), None).iterrows()}


def _record(row):
    ends = {name: [f"{name}_low", f"{name}_high"] for name in row.index if f"{name}_low" in row}
    record = row.drop([end for pair in ends.values() for end in pair]).to_dict()
    for name, (low, high) in ends.items():
        if record[name] is not None:
            record[name] = {"value": record[name], "low": row[low], "high": row[high]}
    return record
