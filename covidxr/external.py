"""Films from hospitals the network was never trained on: what it calls them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr.calibration import calibration_error, choose_threshold, fit_temperature, with_temperature
from covidxr.dataset import read_source
from covidxr.decode import DecodeError
from covidxr.duplicates import mark_twins, twins_of
from covidxr.errors import CovidxrError, unknown
from covidxr.groups import cell_weights
from covidxr.intervals import accuracy_with_interval, bootstrap_interval, called_right, discrimination
from covidxr.network_probes import POSITIVE, counted, probabilities_table
from covidxr.pixels import decode_films
from covidxr.sources import SOURCES
from covidxr.sources._rows import read_table
from covidxr.sources.phantom import CLASSES as DRAWN
from covidxr.splits import kept_together, patient_keys

__all__ = [
    "POSITIVE",
    "ExternalSet",
    "Settings",
    "evaluate_external",
    "fix_on_validation",
    "read_external",
    "read_externals",
]

NO_THRESHOLD = "none: no threshold beats chance on the validation images"


class Settings(NamedTuple):
    """What was fixed on the validation films: the ``threshold`` from which a film is called positive (None where none beats
    chance), the ``rule`` that chose it (or why there is none), and the ``temperature``."""

    threshold: float | None
    rule: str
    temperature: float


class ExternalSet(NamedTuple):
    """Films of one external set: ``name``, ``manifest``, ``pixels``, and how many were ``unreadable`` or ``known`` already,
    they or their patients; ``copies`` of others in the set, and copies of each other with ``disagreeing`` labels."""

    name: str
    manifest: pd.DataFrame
    pixels: np.ndarray
    unreadable: int
    known: int
    copies: int = 0
    disagreeing: int = 0

    def summary(self, classes=None) -> str:
        """How many films there are, how many were left out and why, and which labels are none of the network's `classes`."""
        left_out = f"{self.known} left out, as the run has them or their patients, {self.unreadable} unreadable"
        left_out += f", {self.copies} left out as copies of others" if self.copies else ""
        left_out += (
            f", {self.disagreeing} left out as copies of each other with different labels" if self.disagreeing else ""
        )
        said = f"{self.name}: {len(self.manifest)} films, {left_out}."
        labels = self.manifest.label.value_counts() if classes is not None else {}
        strange = [f"{label} ({n})" for label, n in labels.items() if label not in classes]
        hint = f" Labels that are no class of the network: {', '.join(strange)}; `label_map` renames labels."
        return said + (hint if strange else "")


def read_externals(sources, trained_on, *args, **options) -> list:
    """Read several external sets, two tables of one name as two sets.

    Parameters
    ----------
    sources : sequence of str
        Each as for `read_external`.
    trained_on, *args, **options
        As for `read_external`, for all of them.

    Returns
    -------
    list of ExternalSet
        Names are those of the files; where two have one, as much of their folders is put before it as tells them apart.

    Raises
    ------
    CovidxrError
        When a set is named twice, or one cannot be read.

    Examples
    --------
    >>> read_externals(["phantom", "phantom"], None, 32)
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: external set 'phantom' is named twice; name each once
    """
    tails = [[source] if source in SOURCES else _tails(source) for source in sources]
    for number, source in enumerate(sources):
        if tails[number] in tails[:number]:
            raise CovidxrError(f"external set {str(source)!r} is named twice; name each once")
    others = [{tail for other in tails if other is not own for tail in other} for own in tails]
    names = [
        next(tail for tail in [*own, own[-1]] if tail not in taken) for own, taken in zip(tails, others, strict=True)
    ]
    return [
        read_external(source, trained_on, *args, name=name, **options)
        for source, name in zip(sources, names, strict=True)
    ]


def _tails(source):
    """The name of a table or folder, then with more and more of the folders that it is in."""
    path = Path(source).resolve()
    *folders, name = path.parts
    parts = [*folders, name if path.is_dir() else path.stem]
    return ["/".join(parts[-depth:]) for depth in range(1, max(2, len(parts)))]


def read_external(
    source, trained_on, image_size, data_dir=None, label_map=None, work_dir=".", seed=0, seen=None, name=None
) -> ExternalSet:
    """Read an external set and leave out what the run has already seen, and what it holds twice.

    A picture counts once, however often the set has it (`covidxr.duplicates.mark_twins`), and patients who share one count as
    one: copies are no further evidence. Where the labels of copies differ, none of them is to be believed, and all are left out.

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
    name : str, optional
        What the set is called, and its source where the table names none; by default the file's name.

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
    name = name or (source if source in SOURCES else _tails(source)[0])
    rows = _new_phantoms(trained_on, work_dir, seed) if source == "phantom" else read_source(source, data_dir)
    rows = rows if source in SOURCES else _with_own_source(rows, source, name, trained_on)
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
    known = len(rows) - len(new) + int((~unknown).sum())
    rows, pixels = new[good][unknown].reset_index(drop=True), pixels[unknown]
    rows = mark_twins(rows, pixels)
    agreed = rows.twins == ""
    agreed |= rows.groupby("twins").label.transform("nunique") == 1
    if not agreed.any():
        raise CovidxrError(
            f"external set {source!r}: no film is left, since all {len(rows)} are copies of each other with different labels"
        )
    kept = agreed & ((rows.twins == "") | ~rows.twins.duplicated())
    people = rows.groupby([rows.source, kept_together(rows)]).patient_id.transform("first")
    films = rows.assign(patient_id=people, twins="")[kept].reset_index(drop=True)
    copies, disagreeing = int((agreed & ~kept).sum()), int((~agreed).sum())
    return ExternalSet(name, films, pixels[kept.to_numpy()], len(unreadable), known, copies, disagreeing)


def _with_own_source(rows, table, name, trained_on):
    """A table without a column `source` is a source of its own, whatever it is called, unless the run has films of it."""
    if Path(table).is_file() and "source" in read_table(Path(table), ("path", "label")).columns:
        return rows
    where = {
        os.path.abspath(path): source for path, source in zip(trained_on.path, trained_on.source, strict=True) if path
    }
    same = [where[path] for path in map(os.path.abspath, rows.path) if path in where]
    taken, longer = set(trained_on.source), [tail for tail in _tails(table) if len(tail) >= len(name)]
    return rows.assign(source=same[0] if same else next((tail for tail in longer if tail not in taken), name))


def _new_phantoms(trained_on, work_dir, seed):
    classes = list(trained_on.label.unique())
    if strange := [label for label in classes if label not in DRAWN]:
        raise CovidxrError(
            f"no phantoms are drawn of the run's class {strange[0]!r}, only of {', '.join(DRAWN)}; give other sets, or none, as "
            "`unseen` of notebook 06 and `external` of notebook 07"
        )
    rows = SOURCES["phantom"](Path(work_dir) / "phantoms", classes=classes, per_class=40, seed=seed + 1)
    return rows.assign(source="phantom, seed " + str(seed + 1))  # patient numbers start again with each seed


def fix_on_validation(predictions, classes, sensitivity=None, positive=POSITIVE) -> Settings | None:
    """Choose threshold and temperature on validation films, before any test or external film is looked at.

    For the threshold, the sources of the ill count alike, and those of the others: else it is set by the source with the most
    films, which may be the easiest, and does not carry over to a hospital that is none of them.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `covidxr.evaluate.prediction_table`, of validation films.
    classes : sequence of str
        The network's classes.
    sensitivity : float, optional
        To be reached on the validation films, in the mean over sources; by default Youden's threshold, of the largest sum of
        sensitivity and specificity.
    positive : str or None
        The class against all others.

    Returns
    -------
    Settings or None
        None where there is no positive class.

    Raises
    ------
    CovidxrError
        When `positive` is none of the classes, or no validation film, or every one, is of it.

    Examples
    --------
    >>> films = pd.DataFrame({"label": ["COVID-19", "Normal"] * 2, "source": "x", "p_COVID-19": [0.8, 0.2, 0.7, 0.1]})
    >>> settings = fix_on_validation(films.assign(p_Normal=1 - films["p_COVID-19"]), ["Normal", "COVID-19"])
    >>> round(settings.threshold, 2), settings.rule
    (0.45, "Youden's")
    """
    if positive is None:
        return None
    _check_positive(classes, positive)
    probabilities = predictions[[f"p_{label}" for label in classes]].to_numpy()
    ill = predictions.label == positive
    threshold = choose_threshold(predictions[f"p_{positive}"], ill, sensitivity, cell_weights(ill, predictions.source))
    temperature = fit_temperature(probabilities, [list(classes).index(label) for label in predictions.label])
    rule = f"sensitivity {sensitivity:.2f}" if sensitivity else "Youden's"
    return Settings(threshold, rule if threshold is not None else NO_THRESHOLD, temperature)


def evaluate_external(model, external, classes, settings=None, positive=POSITIVE) -> tuple[dict, pd.DataFrame]:
    """What a network calls the films of an external set.

    Parameters
    ----------
    model : keras.Model
        The network.
    external : ExternalSet
        From `read_external`.
    classes : sequence of str
        The network's classes in the order of its outputs.
    settings : Settings, optional
        From `fix_on_validation`.
    positive : str or None
        The class against all others; without one only ``n``, ``accuracy``, ``unknown_labels`` and ``called`` are measured, and
        the others are None.

    Returns
    -------
    metrics : dict
        ``n``, ``sensitivity``, ``specificity`` (the positive class against everything else, at the most probable class),
        ``auc``, ``calibration_error`` and ``brier`` (of the probability of the positive class), each with ``…_interval`` (None where the set has
        no such films), ``calibration_chance`` (what a perfectly calibrated network would have) and ``called``: true label to
        predicted class to count; ``accuracy`` on films whose label is a class of the network, with its interval,
        ``unknown_labels`` (label to count), and ``uncounted``, how many films of these may be of the positive class under another
        name (`covidxr.network_probes.counted`), and are in none of the numbers before. With `settings` also ``at_threshold`` (``threshold``, ``rule``, sensitivity and specificity)
        and ``tempered`` (``temperature``, calibration error and Brier score).
    predictions : pandas.DataFrame
        From `covidxr.evaluate.prediction_table`.

    Raises
    ------
    CovidxrError
        When `positive` is none of the classes, or the network has another number of outputs.

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
    if positive is not None:
        _check_positive(classes, positive)
    table = probabilities_table(model, external.manifest, external.pixels, classes)
    called = table.groupby(["label", "predicted"]).size().unstack(fill_value=0).reindex(columns=classes, fill_value=0)
    known = counted(table.label, classes, positive) if positive else np.zeros(len(table), dtype=bool)
    films, own = table[known], table[table.label.isin(list(classes))]
    ill, patients = (films.label == positive).to_numpy(), patient_keys(films)
    score = films[f"p_{positive}"].to_numpy() if positive else np.array([])
    accuracy = (
        accuracy_with_interval(own.correct, patient_keys(own))
        if len(own)
        else {"accuracy": None, "accuracy_interval": None}
    )
    metrics = {
        **accuracy,
        "n": len(table),
        **discrimination(ill, (films.predicted == positive).to_numpy(), score, patients),
        **_calibration(score, ill, patients),
        "called": called.to_dict("index"),
        "unknown_labels": {label: int(n) for label, n in table.label.value_counts().items() if label not in classes},
        "uncounted": int((~known).sum()) if positive else 0,
    }
    if settings:
        probabilities = films[[f"p_{label}" for label in classes]].to_numpy()
        tempered = with_temperature(probabilities, settings.temperature)[:, list(classes).index(positive)]
        at = {"threshold": settings.threshold, "rule": settings.rule}
        found = dict.fromkeys(f"{name}{end}" for name in ("sensitivity", "specificity") for end in ("", "_interval"))
        if settings.threshold is not None:
            found = called_right(ill, score >= settings.threshold, patients)
        metrics["at_threshold"] = at | found
        metrics["tempered"] = {"temperature": settings.temperature, **_calibration(tempered, ill, patients)}
    return metrics, table


def _check_positive(classes, positive):
    if positive not in classes:
        raise unknown("class as `positive`:", positive, classes)


def _calibration(score, ill, patients):
    """How far the probability of the positive class is from the share of films with it, by bins and film by film."""
    if not len(score):
        names = ("calibration_error", "calibration_error_interval", "calibration_chance", "brier", "brier_interval")
        return dict.fromkeys(names)
    found, squares = calibration_error(score, ill, patients, draws=200), (score - ill) ** 2
    return {
        "calibration_error": found["error"],
        "calibration_error_interval": found["interval"],
        "calibration_chance": found["chance"],
        "brier": float(squares.mean()),
        "brier_interval": list(bootstrap_interval(lambda rows: squares[rows].mean(), patients, draws=200)),
    }
