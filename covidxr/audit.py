"""The shortcut audit: what can tell the classes apart without reading a lung?

Each probe gives a number with its interval, its chance level, what it would be if all were well, and a verdict in words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from covidxr.errors import CovidxrError
from covidxr.memory import memory
from covidxr.network_probes import (
    counted,
    heat_probe,
    positive_class,
    probabilities_table,
    same_place,
    without_lungs,
)
from covidxr.pixels import load_masks
from covidxr.probes import grouped_predictions, less_than_a_lung, pixel_features, whose_film
from covidxr.splits import check_manifest, patient_keys
from covidxr.sureness import sureness, sureness_elsewhere
from covidxr.verdicts import TOPICS, gained, in_words

__all__ = ["AuditReport", "grouped_predictions", "pixel_features", "shortcut_audit"]


@dataclass(frozen=True)
class AuditReport:
    """What the audit found.

    Attributes
    ----------
    table : pandas.DataFrame
        Index ``probe``; columns ``topic``, ``value``, ``low``, ``high`` (95 % interval), ``chance``, ``ideal`` (what it would
        be if all were well), ``n``, ``verdict``, ``shortcut`` (whether something other than disease is, or can be, read) and
        ``missed_ideal`` (whether it is not shown to be as its ideal says, shortcut or not).
    answers : dict
        Where there was a model, its predictions as `covidxr.evaluate.prediction_table` gives them: of the ``test films``, and
        of each unseen set by its name.

    Examples
    --------
    >>> from covidxr.verdicts import LUNGS, Probe
    >>> row = Probe("class from the corners", LUNGS, 0.9, 0.8, 0.95, 0.5, "0.50", 40, "tells the class", True, True)
    >>> report = AuditReport(pd.DataFrame([row]).set_index("probe"))
    >>> report.to_dict()["class from the corners"]["interval"]
    [0.8, 0.95]
    >>> report.in_short()[0]
    '1 of 1 probes found a shortcut; none of the others misses what it would be if all were well.'
    >>> report.sentences()[-1]
    'Without reading a lung, the class from the corners is told in 0.90 of the films: 80% of the way from chance to perfect.'
    """

    table: pd.DataFrame
    answers: dict = field(default_factory=dict, repr=False)

    def ranked(self) -> pd.DataFrame:
        """The shortcuts that were found, the strongest first.

        Returns
        -------
        pandas.DataFrame
            Rows of `table` with a further column ``gained``: how far the value is on the way from chance to perfect.
        """
        found = self.table[self.table.shortcut]
        way = [gained(row.value, 0.0 if np.isnan(row.chance) else row.chance) for row in found.itertuples()]
        return found.assign(gained=way).sort_values("gained", ascending=False, kind="stable")

    def sentences(self) -> list:
        """What was found, in words and numbers.

        Returns
        -------
        list of str
            One sentence a probe, and then `in_short`.
        """
        return [*(in_words(row) for row in self.table.reset_index().itertuples()), *self.in_short()]

    def in_short(self) -> list:
        """What the probes come to.

        Returns
        -------
        list of str
            How many found a shortcut, and which others miss their ideal; where a network was asked without lungs, what it
            makes of lungs alone; and what the readers without lungs tell, or how much of it could have gone unseen.
        """
        return [self._counts(), *self._lungs_alone(), self._without_lungs()]

    def _counts(self):
        others = self.table[self.table.missed_ideal & ~self.table.shortcut].index
        said = f"{self.table.shortcut.sum()} of {len(self.table)} probes found a shortcut"
        if others.empty:
            return f"{said}; none of the others misses what it would be if all were well."
        return f"{said}; {len(others)} of the others {'is' if len(others) == 1 else 'are'} not shown to be as if all were well: {'; '.join(others)}."

    def _lungs_alone(self):
        """That a network fails without lungs says little where lungs alone do not help it either."""
        names = ["the network, lungs blacked out", "the network, nothing but lungs"]
        if not set(names) <= set(self.table.index):
            return []
        gone, alone = (self.table.loc[name] for name in names)
        lost = f"not told from chance, though as much as {gone.high:.2f} could have gone unseen"
        lost = f"above chance ({gone.chance:.2f}), so it does not need them" if gone.low > gone.chance else lost
        kept = "above chance" if alone.low > alone.chance else "not told from chance, so it is not shown to read lungs"
        kept = "well above chance" if not alone.missed_ideal else kept
        without, only = (f"{row.value:.2f} (95 % CI {row.low:.2f}–{row.high:.2f})" for row in (gone, alone))
        return [
            f"The network without lungs is right in {without} of the images, {lost}; with nothing but lungs in {only}, {kept}."
        ]

    def _without_lungs(self):
        readers = self.table[self.table.index.str.startswith("class from")]
        if readers.empty:
            return "No reader without lungs was asked for the class."
        best = self.ranked()
        best = best[best.index.isin(readers.index)]
        if len(best):
            name, row = best.index[0], best.iloc[0]
            told = f"Without reading a lung, the {name} is told in {row.value:.2f} of the films"
            return f"{told}: {row.gained:.0%} of the way from chance to perfect."
        way = pd.Series([gained(row.high, row.chance) for row in readers.itertuples()], readers.index)
        row, above = readers.loc[way.idxmax()], readers.index[readers.low > readers.chance]
        found = f"No reader without lungs is shown to tell the class of these {row.n} images"
        if len(above):  # by what disease alone can do, where lungs are not painted out
            found = f"What is told of the class of these {row.n} images ({'; '.join(above)}) may be disease"
        return (
            f"{found}, but {way.max():.0%} of the way from chance to perfect could have gone unseen: the {way.idxmax()} is told "
            f"in {row.value:.2f} of them (95 % CI {row.low:.2f}–{row.high:.2f}), chance {row.chance:.2f}."
        )

    def to_dict(self) -> dict:
        """The report as it goes into ``metrics.json``.

        Returns
        -------
        dict
            Probe to ``topic``, ``value``, ``interval``, ``chance`` (None where it means nothing), ``ideal``, ``n``,
            ``verdict``, ``shortcut`` and ``missed_ideal``.
        """
        return {
            probe: {
                **row.drop(["low", "high"]).to_dict(),
                "chance": None if np.isnan(row.chance) else row.chance,
                "interval": [row.low, row.high],
            }
            for probe, row in self.table.iterrows()
        }


def shortcut_audit(
    manifest, pixels, model=None, lungs=None, *, unseen=(), heat=None, seed=0, positive=None
) -> AuditReport:
    """Measure how far a data set, and a model trained on it, can do without the lungs.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows; ``source``, ``sex``, ``age`` and ``view`` are asked for where they are known.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W), row by row.
    model : keras.Model, optional
        A trained network whose outputs are the labels in the order of their first appearance in `manifest`. It is asked
        about the films whose ``split`` is ``test`` (about all where none is) and, where `lungs` are known, about the same
        with the lungs blacked out, with nothing but the lungs left, and with all but the lungs blurred.
    lungs : numpy.ndarray, optional
        ``bool``, shape (N, H, W); all False for films without a mask. By default the masks that the manifest names.
    unseen : sequence of covidxr.external.ExternalSet, optional
        Films that the model was not trained on, of its own sources or of others.
    heat : dict, optional
        The section ``grad_cam`` of ``metrics.json``.
    seed : int
        Seed of the folds.
    positive : str, optional
        The class that is asked about against the others, as for `covidxr.network_probes.positive_class`; where there is none,
        the network is not asked about disease within a source, nor how sure it is in unseen sources.

    Returns
    -------
    AuditReport

    Raises
    ------
    CovidxrError
        When the manifest breaks its contract, its rows, `pixels`, `lungs` or the outputs of `model` do not fit each
        other, there is only one class, a class has only one patient, `positive` is none of the classes, or two unseen sets have
        one name.

    References
    ----------
    Maguolo G., Nanni L., A Critic Evaluation of Methods for COVID-19 Automatic Detection from X-Ray Images, Information
    Fusion 76, 2021; DeGrave A. J. et al., AI for radiographic COVID-19 detection selects shortcuts over signal, Nature
    Machine Intelligence 3, 2021. Intervals: Nadeau C., Bengio Y., Inference for the Generalization Error, Machine Learning
    52, 2003.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rng = np.random.default_rng(0)
    >>> rows = manifest_rows({"image_id": i, "patient_id": i, "label": "ab"[i % 2], "source": "s"} for i in range(60))
    >>> films = rng.integers(0, 255, (60, 40, 40), np.uint8)
    >>> films[1::2, :8, :8] = 255  # a corner marker on every film of class b
    >>> report = shortcut_audit(rows, films)
    >>> report.table.loc["class from the corners", "verdict"], report.ranked().index[0]
    ('tells the class', 'class from 4×4 pixels')
    """
    _check(manifest, pixels, lungs)
    positive = positive_class(list(manifest.label.unique()), positive)
    manifest = manifest.reset_index(drop=True)
    lungs = _own_masks(manifest, pixels.shape[1]) if lungs is None else lungs
    answers = {} if model is None else _answers(model, manifest, pixels, unseen)
    probes = [
        *less_than_a_lung(manifest, pixels, lungs, seed),
        *whose_film(manifest, pixels, seed),
        *memory(manifest, pixels, seed),
        *([] if model is None else _of_the_network(manifest, pixels, model, lungs, answers, positive)),
        *heat_probe(heat or {}),
    ]
    probes.sort(key=lambda probe: TOPICS.index(probe.topic))
    return AuditReport(pd.DataFrame(probes).set_index("probe"), answers)


def _check(manifest, pixels, lungs):
    check_manifest(manifest)
    if len(manifest) != len(pixels):
        raise CovidxrError(f"the manifest has {len(manifest)} rows, but there are {len(pixels)} films")
    if manifest.label.nunique() < 2:
        raise CovidxrError(f"an audit needs two classes, the manifest has only {manifest.label.iloc[0]!r}")
    if lungs is not None and lungs.shape != pixels.shape:
        raise CovidxrError(f"lung masks of shape {lungs.shape} do not belong to films of shape {pixels.shape}")


def _own_masks(manifest, size):
    """The masks that the manifest names, where they still are."""
    paths = [path if path and Path(path).exists() else "" for path in manifest.get("lung_mask", [""] * len(manifest))]
    return load_masks(paths, size) if any(paths) else None


def _asked(manifest):
    """The test films, or all where there are none."""
    test = (manifest.split == "test").to_numpy()
    return test if test.any() else np.ones(len(test), dtype=bool)


def _answers(model, manifest, pixels, unseen):
    classes, asked = list(manifest.label.unique()), _asked(manifest)
    sets = [("test films", manifest[asked], pixels[asked]), *((one.name, one.manifest, one.pixels) for one in unseen)]
    names = [name for name, *_ in sets]
    if len(set(names)) < len(names):
        raise CovidxrError(f"two sets of images have one name, of {', '.join(names)}; give each unseen set its own")
    return {name: probabilities_table(model, *films, classes) for name, *films in sets}


def _of_the_network(manifest, pixels, model, lungs, answers, positive):
    classes, asked = list(manifest.label.unique()), _asked(manifest)
    found = [] if lungs is None else without_lungs(model, manifest[asked], pixels[asked], lungs[asked], classes)
    if positive:
        learnt = set(patient_keys(manifest[~asked]))
        known = [rows[counted(rows.label, classes, positive)] for rows in answers.values()]
        everywhere = pd.concat(known, ignore_index=True)
        everywhere = everywhere[~patient_keys(everywhere).isin(learnt)]
        found += same_place(everywhere, positive)
        found += sureness_elsewhere(everywhere[~everywhere.source.isin(set(manifest.source))], positive)
    return found + sureness(answers["test films"])
