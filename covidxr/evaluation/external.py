"""External validation: images of other hospitals, operating points, comparison with the internal test split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from covidxr.data.dataset import Dataset
from covidxr.data.duplicates import duplicates_of, mark_duplicates
from covidxr.data.images import DecodeError, read_images
from covidxr.data.manifest import patient_keys, read_table
from covidxr.data.sources import SOURCES, draw_phantoms, load_sources, source_entry, source_names
from covidxr.data.splits import split_groups
from covidxr.evaluation.calibration import apply_temperature, calibration_error, choose_threshold, fit_temperature
from covidxr.evaluation.intervals import (
    Estimate,
    binary_metrics,
    estimate_proportion,
    estimate_statistic,
    estimate_table,
)
from covidxr.evaluation.linear_probe import group_weights
from covidxr.evaluation.metrics import POSITIVE, counted, is_healthy, positive_class, predict_table
from covidxr.utils import CovidxrError

if TYPE_CHECKING:
    import keras

_NO_THRESHOLD = "none: no threshold is better than chance on the validation images"


class OperatingPoint(NamedTuple):
    """Chosen on the validation images: the ``threshold`` of the positive class (None where none is better than chance), the selection ``rule``, and the ``temperature``."""

    threshold: float | None
    rule: str
    temperature: float


class ExternalSet(NamedTuple):
    """An external set: ``name``, ``manifest``, ``images``, and how many images were ``excluded``, by reason."""

    name: str
    manifest: pd.DataFrame
    images: np.ndarray
    excluded: dict


def load_external(
    sources: Sequence[str | dict[str, list[str]]],
    run: Dataset,
    data_dir: str | os.PathLike | None = None,
    label_map: dict[str, str] | None = None,
    work_dir: str | os.PathLike = ".",
    seed: int = 0,
) -> list[ExternalSet]:
    """Load external sets without the patients and images that the run has already used.

    Near-duplicates within a set are kept once, and patients who share an image count as one. Where near-duplicates have
    different labels, all of them are excluded.

    Parameters
    ----------
    sources : sequence of str
        Names of sources, or paths of CSV files or folders, each once. ``{source: [classes]}`` takes only these classes of a
        source, named as after `label_map`. Sources of phantoms draw new ones of the run's classes with another seed.
    run : covidxr.data.Dataset
        The run's data. Its patients and near-duplicates of its images are excluded; its images' size is that of the sets.
    data_dir : str or pathlib.Path, optional
        Where named sources are.
    label_map : dict, optional
        Labels to rename, such as ``{"No finding": "Normal"}``.
    work_dir : str or pathlib.Path
        Where new phantoms are written.
    seed : int
        The run's seed; new phantoms use the next.

    Returns
    -------
    list of ExternalSet
        In the order of `sources`, each with ``name``, ``manifest``, ``images`` (``uint8``, (N, H, W)) and ``excluded``. Files
        and folders of the same name are distinguished by their parent folders, such as ``siteA/images``.

    Raises
    ------
    CovidxrError
        When a source is named twice or does not exist, or no readable, new image is left of it.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.data import build_dataset
    >>> folder = tempfile.mkdtemp()
    >>> run = build_dataset(per_class=2, image_size=32, work_dir=folder)
    >>> [phantoms] = load_external(["phantom"], run, work_dir=folder)
    >>> phantoms.images.shape
    (120, 32, 32)
    """
    manifest = run[0]
    named = [source_entry(entry)[0] for entry in sources]
    paths = [None if source in SOURCES else Path(source).resolve() for source in named]
    keys = [path or source for path, source in zip(paths, named, strict=True)]
    for number, key in enumerate(keys):
        if key in keys[:number]:
            raise CovidxrError(f"external set {str(named[number])!r} is named twice; name each once")
    names = iter(source_names([path for path in paths if path], SOURCES))
    draw = partial(
        draw_phantoms,
        classes=list(manifest.label.unique()),
        folder=Path(work_dir) / "phantoms",
        label_map=label_map,
        per_class=40,
        seed=seed + 1,  # a patient's number holds the seed, so none is one of the run's
    )
    sets = []
    for entry, source, path in zip(sources, named, paths, strict=True):
        name = next(names) if path else source
        [rows] = load_sources([entry], data_dir, label_map, draw)
        sets.append(_without_known(name, _with_own_source(rows, path, name, manifest) if path else rows, run))
    return sets


def _without_known(name, rows, run):
    """Decode the images that are new to the run, each picture once."""
    run_manifest, run_images, _ = run
    new = rows[~patient_keys(rows).isin(set(patient_keys(run_manifest)))]
    decoded = read_images(new.path, run_images.shape[1])
    readable = np.array([not isinstance(image, DecodeError) for image in decoded], dtype=bool)
    errors = [image for image in decoded if isinstance(image, DecodeError)]
    images = np.array([image for image in decoded if not isinstance(image, DecodeError)], dtype=np.uint8)
    unseen = ~duplicates_of(images, run_images)
    if not unseen.any():
        raise CovidxrError(
            f"external set {name!r}: no image is left of {len(rows)}; {len(rows) - len(new)} are of patients of the run, "
            f"{len(images)} are duplicates of its images, {len(errors)} cannot be read"
            + (f", the first: {errors[0]}" if errors else "")
        )
    excluded = {"known to the run": len(rows) - len(new) + int((~unseen).sum()), "unreadable": len(errors)}
    images = images[unseen]
    rows = mark_duplicates(new[readable][unseen].reset_index(drop=True), images)
    agree = (rows.duplicate_group == "") | (rows.groupby("duplicate_group").label.transform("nunique") == 1)
    if not agree.any():
        raise CovidxrError(
            f"external set {name!r}: no image is left, since all {len(rows)} are duplicates of each other with different labels"
        )
    kept = agree & ((rows.duplicate_group == "") | ~rows.duplicate_group.duplicated())
    patients = rows.groupby([rows.source, split_groups(rows)]).patient_id.transform("first")
    excluded |= {"duplicates": int((agree & ~kept).sum()), "duplicates with different labels": int((~agree).sum())}
    kept_rows = rows.assign(patient_id=patients, duplicate_group="")[kept].reset_index(drop=True)
    return ExternalSet(name, kept_rows, images[kept.to_numpy()], excluded)


def _with_own_source(rows, path, name, run_manifest):
    """A table without a column ``source`` is a source of its own, unless the run has some of its images."""
    if path.is_file() and "source" in read_table(path, ("path", "label")).columns:
        return rows
    source_of = {
        os.path.abspath(path): source
        for path, source in zip(run_manifest.path, run_manifest.source, strict=True)
        if path
    }
    shared = [source_of[path] for path in map(os.path.abspath, rows.path) if path in source_of]
    taken = set(run_manifest.source)
    return rows.assign(source=shared[0] if shared else name if name not in taken else source_names([path], taken)[0])


def external_overview(sets, classes) -> pd.DataFrame:
    """One row a set: images, images by label, labels that are no class of the network, and excluded images by reason."""
    rows = {
        one.name: {
            "images": len(one.manifest),
            **{f"label {label}": n for label, n in one.manifest.label.value_counts().items()},
            "labels that are no class": ", ".join(sorted(set(one.manifest.label) - set(classes))),
            **{f"excluded: {reason}": n for reason, n in one.excluded.items()},
        }
        for one in sets
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.fillna({column: 0 for column in table if column.startswith("label ")})


def choose_operating_point(predictions, classes, sensitivity=None, positive=POSITIVE) -> OperatingPoint | None:
    """Choose threshold and temperature on validation images, before any test or external image is evaluated."""
    if positive is None:
        return None
    positive_class(classes, positive)
    probabilities = predictions[[f"p_{label}" for label in classes]].to_numpy()
    outcome = predictions.label == positive
    weights = group_weights(outcome, predictions.source)
    threshold = choose_threshold(predictions[f"p_{positive}"], outcome, sensitivity, weights)
    temperature = fit_temperature(probabilities, [list(classes).index(label) for label in predictions.label])
    rule = f"sensitivity {sensitivity:.2f}" if sensitivity else "Youden's index"
    return OperatingPoint(threshold, rule if threshold is not None else _NO_THRESHOLD, temperature)


def evaluate_external(
    model: keras.Model,
    external: ExternalSet,
    classes: Sequence[str],
    operating_point: OperatingPoint | None = None,
    positive: str | None = POSITIVE,
) -> tuple[dict, pd.DataFrame]:
    """Evaluate a network on an external set.

    Parameters
    ----------
    model : keras.Model
        The network.
    external : ExternalSet
        From `load_external`.
    classes : sequence of str
        The network's classes in the order of its outputs.
    operating_point : OperatingPoint, optional
        From `choose_operating_point`.
    positive : str or None
        The class against all others; with None only ``accuracy``, ``unknown_labels`` and ``confusion`` are computed.

    Returns
    -------
    metrics : dict
        `covidxr.evaluation.Estimate` or None for ``accuracy`` (of images whose label is a class of the network),
        ``sensitivity``, ``specificity``, ``specificity_healthy`` (of images labelled normal), ``auc``, ``calibration_error`` and ``brier`` (of the probability of the positive
        class); ``calibration_chance``, the calibration error of a perfectly calibrated network; the number of images ``n``;
        ``confusion`` (true label to predicted class to count), ``unknown_labels`` (label to count) and ``uncounted``, how many
        images with such labels are in no estimate, since they may be positive under another name
        (`covidxr.evaluation.metrics.counted`). With an `operating_point` also ``operating_point`` (``threshold``, ``rule``,
        ``sensitivity``, ``specificity``) and ``temperature_scaled`` (``temperature``, ``calibration_error``,
        ``calibration_chance``, ``brier``).
    predictions : pandas.DataFrame
        From `covidxr.evaluation.prediction_table`.

    Raises
    ------
    CovidxrError
        When `positive` is none of the classes, or the network has another number of outputs.

    References
    ----------
    Brier G. W., Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78, 1950.

    Examples
    --------
    >>> from covidxr.model.networks import build_baseline
    >>> rows = pd.DataFrame({k: ["a", "b"] for k in ("image_id", "patient_id", "source", "split")} | {"label": ["Normal"] * 2})
    >>> images = ExternalSet("ours", rows, np.zeros((2, 9, 9), np.uint8), {})
    >>> metrics, _ = evaluate_external(build_baseline(9), images, ["Normal", "COVID-19", "Bacteria"])
    >>> metrics["n"], metrics["sensitivity"]
    (2, None)
    """
    if positive is not None:
        positive_class(classes, positive)
    table = predict_table(model, external.manifest, external.images, classes)
    return external_metrics(table, classes, operating_point, positive), table


INTERNAL = "internal test split"


def evaluate_sets(model, run, sets, operating_point=None, positive=POSITIVE) -> tuple[dict, dict]:
    """The metrics, and the prediction tables, of the internal test split, which comes first, and of each external set, by name."""
    test = run.split("test")
    sets = [ExternalSet(INTERNAL, test.manifest, test.images, {}), *sets]
    found = {one.name: evaluate_external(model, one, run.classes, operating_point, positive) for one in sets}
    return {name: metrics for name, (metrics, _) in found.items()}, {name: table for name, (_, table) in found.items()}


def external_metrics(table, classes, operating_point=None, positive=POSITIVE) -> dict:
    """The metrics of `evaluate_external`, from a prediction table."""
    known = counted(table.label, classes, positive) if positive else np.zeros(len(table), dtype=bool)
    images, labelled = table[known], table[table.label.isin(list(classes))]
    outcome, patients = (images.label == positive).to_numpy(), patient_keys(images)
    score = images[f"p_{positive}"].to_numpy() if positive else np.array([])
    healthy = images[is_healthy(images.label)]
    confusion = table.groupby(["label", "predicted"]).size().unstack(fill_value=0)
    metrics = {
        "n": len(table),
        "accuracy": estimate_proportion(labelled.correct, patient_keys(labelled)) if len(labelled) else None,
        **binary_metrics(outcome, images.predicted == positive, score, patients),
        "specificity_healthy": _specificity(healthy, positive) if len(healthy) else None,
        **_calibration(score, outcome, patients),
        "confusion": confusion.reindex(columns=classes, fill_value=0).to_dict("index"),
        "unknown_labels": {label: int(n) for label, n in table.label.value_counts().items() if label not in classes},
        "uncounted": int((~known).sum()) if positive else 0,
    }
    if operating_point:
        threshold, rule, temperature = operating_point
        at_threshold = {"sensitivity": None, "specificity": None}
        if threshold is not None:
            at_threshold = binary_metrics(outcome, score >= threshold, None, patients)
        metrics["operating_point"] = {"threshold": threshold, "rule": rule, **at_threshold}
        probabilities = images[[f"p_{label}" for label in classes]].to_numpy()
        scaled = apply_temperature(probabilities, temperature)[:, list(classes).index(positive)]
        metrics["temperature_scaled"] = {"temperature": temperature, **_calibration(scaled, outcome, patients)}
    return metrics


def _specificity(negatives, positive):
    return estimate_proportion((negatives.predicted != positive).to_numpy(), patient_keys(negatives))


def _calibration(score, outcome, patients) -> dict[str, Estimate | float | None]:
    """Calibration error and its chance level, and Brier score, of the probability of the positive class."""
    if not len(score):
        return dict.fromkeys(("calibration_error", "calibration_chance", "brier"))
    error, chance = calibration_error(score, outcome, patients, draws=200)
    squares = (score - outcome) ** 2
    brier = estimate_statistic(lambda rows: squares[rows].mean(), patients, draws=200)
    return {"calibration_error": error, "calibration_chance": chance, "brier": brier}


_MEASURES = {  # name: section of the metrics, key
    "sensitivity": ("", "sensitivity"),
    "specificity": ("", "specificity"),
    "specificity for the healthy": ("", "specificity_healthy"),
    "AUC": ("", "auc"),
    "sensitivity at threshold": ("operating_point", "sensitivity"),
    "specificity at threshold": ("operating_point", "specificity"),
    "accuracy": ("", "accuracy"),
    "calibration error": ("", "calibration_error"),
    "calibration error, temperature-scaled": ("temperature_scaled", "calibration_error"),
    "Brier score": ("", "brier"),
}


def external_estimates(results) -> pd.DataFrame:
    """One row a measure and set: ``value``, ``low``, ``high``, ``n`` and ``chance``; what was not measured has no row."""
    estimates, chance = {}, []
    for measure, (section, key) in _MEASURES.items():
        for name, metrics in results.items():
            part = metrics.get(section, {}) if section else metrics
            if estimate := part.get(key):
                estimates[f"{measure}, {name}"] = estimate
                chance.append({"auc": 0.5, "calibration_error": part.get("calibration_chance")}.get(key))
    return estimate_table(estimates).assign(chance=np.array(chance, dtype=float))


_SENTENCES = {
    "nothing": "{name}: nothing can be measured on its {n} images, as no label is a class of the network.",
    "label": "{name}: {n} images are labelled {label}, which is not a class of the network ({classes}); {counts}. "
    "`label_map` renames labels.",
    "compared": "{name}: {measure} {external}, on the internal test split {internal}: {verdict}.",
    "false positives": "{name}: {percent:.0f} % of the images without {positive} are predicted as {positive}.",
}


def external_sentences(results, positive=POSITIVE) -> list:
    """Conclusions for each external set: labels that are no class, and comparisons with the internal test split, which is first."""
    (_, internal), *others = results.items()
    sentences = []
    for name, metrics in others:
        if not any(metrics[key] for key in ("accuracy", *_COMPARED)):
            sentences.append(_SENTENCES["nothing"].format(name=name, n=metrics["n"]))
        sentences += _unknown_label_sentences(name, metrics, positive)
        for key, measure in _COMPARED.items():
            if (external := metrics[key]) and internal[key]:
                compared = {
                    "external": external,
                    "internal": internal[key],
                    "verdict": _verdict(external, internal[key]),
                }
                sentences.append(_SENTENCES["compared"].format(name=name, measure=measure, **compared))
        if metrics["specificity"] and metrics["specificity"].value < 0.5:
            percent = 100 * (1 - metrics["specificity"].value)
            sentences.append(_SENTENCES["false positives"].format(name=name, percent=percent, positive=positive))
    return sentences


_COMPARED = {"sensitivity": "sensitivity", "specificity": "specificity", "auc": "AUC"}


def _verdict(external, internal):
    if external.high < internal.low:
        return "significantly lower"
    if external.low > internal.high:
        return "significantly higher"
    return "the intervals overlap, so no difference is shown"


def _unknown_label_sentences(name, metrics, positive):
    """Labels that are no class of the network may be other diseases, or classes under another name."""
    sentences = []
    for label, n in metrics["unknown_labels"].items():
        counts = f"they count as images without {positive}" if positive else "they count in no estimate"
        if metrics["uncounted"] and not is_healthy([label]).any():
            counts = f"no image of the set is labelled {positive}, so these may be it, and they count in no estimate"
        classes = ", ".join(next(iter(metrics["confusion"].values())))
        sentences.append(_SENTENCES["label"].format(name=name, n=n, label=label, classes=classes, counts=counts))
    return sentences
