"""Films from hospitals the network was never trained on: what it calls them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr.calibration import calibration_error, choose_threshold, fit_temperature, with_temperature
from covidxr.dataset import read_source
from covidxr.decode import DecodeError
from covidxr.duplicates import twins_of
from covidxr.errors import CovidxrError
from covidxr.groups import cell_weights
from covidxr.intervals import bootstrap_interval, called_right, discrimination
from covidxr.network_probes import POSITIVE, probabilities_table
from covidxr.pixels import decode_films
from covidxr.sources import SOURCES
from covidxr.splits import patient_keys

__all__ = ["POSITIVE", "ExternalSet", "Settings", "evaluate_external", "fix_on_validation", "read_external"]

NO_THRESHOLD = "none: no threshold beats chance on the validation images"


class Settings(NamedTuple):
    """What was fixed on the validation films: the ``threshold`` from which a film is called COVID-19 (None where none beats
    chance), the ``rule`` that chose it (or why there is none), and the ``temperature``."""

    threshold: float | None
    rule: str
    temperature: float


class ExternalSet(NamedTuple):
    """Films of one external set: ``name``, ``manifest``, ``pixels``, and how many were ``unreadable`` or ``known`` already,
    they or their patients."""

    name: str
    manifest: pd.DataFrame
    pixels: np.ndarray
    unreadable: int
    known: int

    def summary(self) -> str:
        """How many films there are, and how many were left out."""
        left_out = f"{self.known} left out, as the run has them or their patients, {self.unreadable} unreadable"
        return f"{self.name}: {len(self.manifest)} films, {left_out}."


def read_external(
    source, trained_on, image_size, data_dir=None, label_map=None, work_dir=".", seed=0, seen=None
) -> ExternalSet:
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
    seen : numpy.ndarray, optional
        The run's films, ``uint8``, shape (M, h, w). Films that show the same picture (`covidxr.duplicates.twins_of`) are left
        out, whatever their patient is called there; public collections copy from one another.

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
    new = rows[~patient_keys(rows).isin(set(patient_keys(trained_on)))]
    films = decode_films(new.path, image_size)
    good = np.array([not isinstance(film, DecodeError) for film in films], dtype=bool)
    unreadable = [film for film in films if isinstance(film, DecodeError)]
    pixels = np.array([film for film in films if not isinstance(film, DecodeError)], dtype=np.uint8)
    unknown = np.ones(len(pixels), bool) if seen is None else ~twins_of(pixels, seen)
    if not unknown.any():
        raise CovidxrError(
            f"external set {source!r}: no film is left of {len(rows)}; {len(rows) - len(new)} are of patients in the run "
            f"already, {len(pixels)} show films of it, {len(unreadable)} cannot be read"
            + (f", the first: {unreadable[0]}" if unreadable else "")
        )
    name = source if source in SOURCES else Path(source).stem
    known = len(rows) - len(new) + int((~unknown).sum())
    return ExternalSet(name, new[good][unknown].reset_index(drop=True), pixels[unknown], len(unreadable), known)


def _new_phantoms(trained_on, work_dir, seed):
    classes = list(trained_on.label.unique())
    rows = SOURCES["phantom"](Path(work_dir) / "phantoms", classes=classes, per_class=40, seed=seed + 1)
    return rows.assign(source="phantom, seed " + str(seed + 1))  # patient numbers start again with each seed


def fix_on_validation(predictions, classes, sensitivity=None) -> Settings:
    """Choose threshold and temperature on validation films, before any test or external film is looked at.

    For the threshold, the sources of the ill count alike, and those of the others: else it is set by the source with the most
    films, which may be the easiest, and does not carry over to a hospital that is none of them.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `covidxr.evaluate.prediction_table`, of validation films.
    classes : sequence of str
        The network's classes; one of them is COVID-19.
    sensitivity : float, optional
        To be reached on the validation films, in the mean over sources; by default Youden's threshold, of the largest sum of
        sensitivity and specificity.

    Returns
    -------
    Settings

    Raises
    ------
    CovidxrError
        When COVID-19 is none of the classes, or no validation film, or every one, is of it.

    Examples
    --------
    >>> films = pd.DataFrame({"label": ["COVID-19", "Normal"] * 2, "source": "x", "p_COVID-19": [0.8, 0.2, 0.7, 0.1]})
    >>> settings = fix_on_validation(films.assign(p_Normal=1 - films["p_COVID-19"]), ["Normal", "COVID-19"])
    >>> round(settings.threshold, 2), settings.rule
    (0.45, "Youden's")
    """
    _check_positive(classes)
    probabilities = predictions[[f"p_{label}" for label in classes]].to_numpy()
    ill = predictions.label == POSITIVE
    threshold = choose_threshold(predictions[f"p_{POSITIVE}"], ill, sensitivity, cell_weights(ill, predictions.source))
    temperature = fit_temperature(probabilities, [list(classes).index(label) for label in predictions.label])
    rule = f"sensitivity {sensitivity:.2f}" if sensitivity else "Youden's"
    return Settings(threshold, rule if threshold is not None else NO_THRESHOLD, temperature)


def evaluate_external(model, external, classes, settings=None) -> tuple[dict, pd.DataFrame]:
    """What a network calls the films of an external set.

    Parameters
    ----------
    model : keras.Model
        The network.
    external : ExternalSet
        From `read_external`.
    classes : sequence of str
        The network's classes in the order of its outputs; one of them is COVID-19.
    settings : Settings, optional
        From `fix_on_validation`.

    Returns
    -------
    metrics : dict
        ``n``, ``sensitivity``, ``specificity`` (COVID-19 against everything else, at the most probable class), ``auc``,
        ``calibration_error`` and ``brier`` (of the probability of COVID-19), each with ``…_interval`` (None where the set has
        no such films), ``calibration_chance`` (what a perfectly calibrated network would have) and ``called``: true label to
        predicted class to count. With `settings` also ``at_threshold`` (``threshold``, ``rule``, sensitivity and specificity)
        and ``tempered`` (``temperature``, calibration error and Brier score).
    predictions : pandas.DataFrame
        From `covidxr.evaluate.prediction_table`.

    Raises
    ------
    CovidxrError
        When COVID-19 is none of the classes, or the network has another number of outputs.

    References
    ----------
    Brier G. W., Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78, 1950.

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> rows = pd.DataFrame({k: ["a", "b"] for k in ("image_id", "patient_id", "source", "split")} | {"label": ["Normal"] * 2})
    >>> films = ExternalSet("ours", rows, np.zeros((2, 9, 9), np.uint8), 0, 0)
    >>> metrics, _ = evaluate_external(build_baseline(9), films, ["Normal", "COVID-19", "Bacteria"])
    >>> metrics["n"], metrics["sensitivity"]
    (2, None)
    """
    _check_positive(classes)
    table = probabilities_table(model, external.manifest, external.pixels, classes)
    ill, score, patients = (table.label == POSITIVE).to_numpy(), table[f"p_{POSITIVE}"].to_numpy(), patient_keys(table)
    called = table.groupby(["label", "predicted"]).size().unstack(fill_value=0).reindex(columns=classes, fill_value=0)
    metrics = {
        "n": len(table),
        **discrimination(ill, (table.predicted == POSITIVE).to_numpy(), score, patients),
        **_calibration(score, ill, patients),
        "called": called.to_dict("index"),
    }
    if settings:
        probabilities = table[[f"p_{label}" for label in classes]].to_numpy()
        tempered = with_temperature(probabilities, settings.temperature)[:, list(classes).index(POSITIVE)]
        at = {"threshold": settings.threshold, "rule": settings.rule}
        found = dict.fromkeys(f"{name}{end}" for name in ("sensitivity", "specificity") for end in ("", "_interval"))
        if settings.threshold is not None:
            found = called_right(ill, score >= settings.threshold, patients)
        metrics["at_threshold"] = at | found
        metrics["tempered"] = {"temperature": settings.temperature, **_calibration(tempered, ill, patients)}
    return metrics, table


def _check_positive(classes):
    if POSITIVE not in classes:
        raise CovidxrError(f"the network has no class {POSITIVE}; its classes are {', '.join(classes)}")


def _calibration(score, ill, patients):
    """How far the probability of COVID-19 is from the share of films with it, by bins and film by film."""
    found, squares = calibration_error(score, ill, patients, draws=200), (score - ill) ** 2
    return {
        "calibration_error": found["error"],
        "calibration_error_interval": found["interval"],
        "calibration_chance": found["chance"],
        "brier": float(squares.mean()),
        "brier_interval": list(bootstrap_interval(lambda rows: squares[rows].mean(), patients, draws=200)),
    }
