"""Films from hospitals the network was never trained on: what it calls them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from covidxr.dataset import read_source
from covidxr.decode import DecodeError
from covidxr.errors import CovidxrError
from covidxr.evaluate import predict, prediction_table
from covidxr.intervals import bootstrap_interval, wilson_interval
from covidxr.pixels import decode_films
from covidxr.sources import SOURCES
from covidxr.splits import patient_keys

POSITIVE = "COVID-19"


class ExternalSet(NamedTuple):
    """Films of one external set: ``name``, ``manifest``, ``pixels``, and how many were ``unreadable`` or ``known`` already."""

    name: str
    manifest: pd.DataFrame
    pixels: np.ndarray
    unreadable: int
    known: int


def read_external(source, trained_on, image_size, data_dir=None, label_map=None, work_dir=".", seed=0) -> ExternalSet:
    """Read an external set and leave out what the run has already seen.

    Parameters
    ----------
    source : str
        A source's name, or the path of a CSV file or folder. ``phantom`` draws new phantoms, of the run's classes, with
        another seed.
    trained_on : pandas.DataFrame
        The run's manifest; its patients are left out.
    image_size : int
        Side in pixels.
    data_dir : str or pathlib.Path, optional
        Where named sources lie.
    label_map : dict, optional
        Labels to rename, such as ``{"No finding": "Normal"}``; others stay, and are shown as what they were called.
    work_dir : str or pathlib.Path
        Where new phantoms are written.
    seed : int
        The run's seed; new phantoms take the next.

    Returns
    -------
    ExternalSet

    Raises
    ------
    CovidxrError
        When no readable, new film is left.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.dataset import assemble
    >>> folder = tempfile.mkdtemp()
    >>> run = assemble(per_class=2, image_size=32, work_dir=folder)
    >>> read_external("phantom", run.manifest, 32, work_dir=folder).pixels.shape[1:]
    (32, 32)
    """
    rows = _new_phantoms(trained_on, work_dir, seed) if source == "phantom" else read_source(source, data_dir)
    rows = rows.assign(label=rows.label.replace(label_map or {}))
    seen = set(patient_keys(trained_on))
    new = rows[~patient_keys(rows).isin(seen)]
    films = decode_films(new.path, image_size)
    good = [not isinstance(film, DecodeError) for film in films]
    if not any(good):
        raise CovidxrError(
            f"external set {source!r}: no film is left of {len(rows)}; {len(rows) - len(new)} are of patients in the run "
            f"already, {len(new)} cannot be read" + (f", the first: {films[0]}" if films else "")
        )
    pixels = np.stack([film for film, ok in zip(films, good, strict=True) if ok])
    name = source if source in SOURCES else Path(source).stem
    return ExternalSet(name, new[good].reset_index(drop=True), pixels, len(films) - sum(good), len(rows) - len(new))


def _new_phantoms(trained_on, work_dir, seed):
    classes = list(trained_on.label.unique())
    rows = SOURCES["phantom"](Path(work_dir) / "phantoms", classes=classes, per_class=40, seed=seed + 1)
    return rows.assign(source="phantom, seed " + str(seed + 1))  # patient numbers start again with each seed


def evaluate_external(model, external, classes) -> tuple[dict, pd.DataFrame]:
    """What a network calls the films of an external set.

    Parameters
    ----------
    model : keras.Model
        The network.
    external : ExternalSet
        From `read_external`.
    classes : sequence of str
        The network's classes in the order of its outputs; one of them is COVID-19.

    Returns
    -------
    metrics : dict
        ``n``, ``sensitivity``, ``specificity`` (COVID-19 against everything else, at the most probable class), ``auc``, their
        intervals (None where the set has no such films), and ``called``: true label to predicted class to count.
    predictions : pandas.DataFrame
        From `covidxr.evaluate.prediction_table`.

    Raises
    ------
    CovidxrError
        When COVID-19 is none of the classes.

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> rows = pd.DataFrame({k: ["a", "b"] for k in ("image_id", "patient_id", "source", "split")} | {"label": ["Normal"] * 2})
    >>> films = ExternalSet("ours", rows, np.zeros((2, 9, 9), np.uint8), 0, 0)
    >>> metrics, _ = evaluate_external(build_baseline(9), films, ["Normal", "COVID-19", "Bacteria"])
    >>> metrics["n"], metrics["sensitivity"]
    (2, None)
    """
    if POSITIVE not in classes:
        raise CovidxrError(f"the network has no class {POSITIVE}; its classes are {', '.join(classes)}")
    table = prediction_table(external.manifest, predict(model, external.pixels), classes)
    ill, called_ill = table.label == POSITIVE, table.predicted == POSITIVE
    called = table.groupby(["label", "predicted"]).size().unstack(fill_value=0).reindex(columns=classes, fill_value=0)
    metrics = {
        "n": len(table),
        **_share("sensitivity", called_ill[ill]),
        **_share("specificity", ~called_ill[~ill]),
        **_auc(table, ill.to_numpy()),
        "called": called.to_dict("index"),
    }
    return metrics, table


def _share(name, hits):
    if not len(hits):
        return {name: None, f"{name}_interval": None}
    return {name: float(hits.mean()), f"{name}_interval": list(wilson_interval(hits.sum(), len(hits)))}


def _auc(table, ill):
    if ill.all() or not ill.any():
        return {"auc": None, "auc_interval": None}
    score, patients = table[f"p_{POSITIVE}"].to_numpy(), patient_keys(table).to_numpy()

    def auc(rows):
        return roc_auc_score(ill[rows], score[rows]) if 0 < ill[rows].sum() < len(rows) else np.nan

    return {"auc": float(roc_auc_score(ill, score)), "auc_interval": list(bootstrap_interval(auc, patients, draws=500))}
