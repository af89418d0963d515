"""The shortcut audit: which information other than disease separates the classes, and what the network makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from covidxr.audit.probes import TEST, AuditData, run_probes, skill_score
from covidxr.data.images import load_masks
from covidxr.data.manifest import check_manifest
from covidxr.evaluation.metrics import positive_class, predict_table
from covidxr.utils import CovidxrError

if TYPE_CHECKING:
    import keras

    from covidxr.data.dataset import Dataset
    from covidxr.evaluation.external import ExternalSet


@dataclass(frozen=True)
class AuditReport:
    """The results of the audit.

    Attributes
    ----------
    table : pandas.DataFrame
        Index ``probe``; columns ``value``, ``low``, ``high`` (95 % CI), ``n`` (images), ``chance`` (NaN where there is none),
        ``category``, ``expected`` (without a shortcut), ``conclusion``, ``shortcut`` (whether something other than disease
        is, or can be, used) and ``missed_expectation`` (whether the value is not shown to be as expected).
    predictions : dict
        With a model, its prediction tables: of the ``test images``, and of each external set by its name.

    Examples
    --------
    >>> from covidxr.audit.probes import NO_LUNGS, ProbeResult, judge_signal
    >>> row = judge_signal(ProbeResult("class from the corners", 0.9, 0.8, 0.95, 40, 0.5, NO_LUNGS), "class")
    >>> report = AuditReport(pd.DataFrame([row]).set_index("probe"))
    >>> report.sentences()[0]
    'class from the corners: 0.90 (95 % CI 0.80–0.95; chance 0.50; expected 0.50): strong class signal.'
    >>> report.summary()[0]
    '1 of 1 probes found a shortcut; every other probe is as expected.'
    """

    table: pd.DataFrame
    predictions: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def ranked(self) -> pd.DataFrame:
        """The shortcuts that were found, the strongest first.

        Returns
        -------
        pandas.DataFrame
            Rows of `table` with a further column ``skill``: the chance-corrected score, 0 at chance and 1 for a perfect value.
        """
        found = self.table[self.table.shortcut]
        skill = [skill_score(row.value, 0.0 if np.isnan(row.chance) else row.chance) for row in found.itertuples()]
        return found.assign(skill=skill).sort_values("skill", ascending=False, kind="stable")

    def sentences(self) -> list[str]:
        """One sentence a probe, and then `summary`.

        Returns
        -------
        list of str
        """
        return [*(_sentence(probe, row) for probe, row in self.table.iterrows()), *self.summary()]

    def summary(self) -> list[str]:
        """The conclusions of the whole audit.

        Returns
        -------
        list of str
            How many probes found a shortcut, and which others missed their expectation; where the network was evaluated on
            occluded images, its accuracy without lungs and on lungs only; and the strongest class signal without lung content,
            or the largest that the intervals do not exclude.
        """
        return [self._counts(), *self._occlusion(), self._low_information()]

    def _counts(self):
        others = self.table[self.table.missed_expectation & ~self.table.shortcut].index
        found = f"{self.table.shortcut.sum()} of {len(self.table)} probes found a shortcut"
        if others.empty:
            return f"{found}; every other probe is as expected."
        return f"{found}; not as expected: {len(others)} of the others ({'; '.join(others)})."

    def _occlusion(self):
        """A network that fails without lungs need not use them: it may fail on lungs alone, too."""
        names = ["the network, lungs occluded", "the network, lungs only"]
        if not set(names) <= set(self.table.index):
            return []
        occluded, only = (self.table.loc[name] for name in names)
        need = ", so lungs are not needed" if occluded.low > occluded.chance else ""
        use = ", so the use of lungs is not shown" if only.low <= only.chance else ""
        return [
            f"With the lungs occluded, the network's accuracy is {_estimate(occluded)}: {occluded.conclusion}{need}. "
            f"On the lungs only, it is {_estimate(only)}: {only.conclusion}{use}."
        ]

    def _low_information(self):
        probes = self.table[self.table.index.str.startswith("class from")]
        if probes.empty:
            return "No probe predicted the class without lung content."
        best = self.ranked()
        best = best[best.index.isin(probes.index)]
        if len(best):
            name, row = best.index[0], best.iloc[0]
            return (
                f"The strongest class signal without lung content: {name}, accuracy {_estimate(row)}, chance {row.chance:.2f}, "
                f"chance-corrected {row.skill:.2f}."
            )
        skill = pd.Series([skill_score(row.high, row.chance) for row in probes.itertuples()], probes.index)
        row, above = probes.loc[skill.idxmax()], probes.index[probes.low > probes.chance]
        found = "No class signal without lung content is shown"
        if len(above):
            found = f"The class signal may come from disease ({'; '.join(above)})"
        return (
            f"{found}, but with {row.n} images a chance-corrected score of up to {skill.max():.2f} is not excluded: "
            f"{skill.idxmax()}, accuracy {_estimate(row)}, chance {row.chance:.2f}."
        )

    def to_dict(self) -> dict[str, dict]:
        """The report as it is stored in ``metrics.json``.

        Returns
        -------
        dict
            Probe to the columns of `table`, None for NaN.
        """
        return self.table.astype(object).where(self.table.notna(), None).to_dict("index")


def _estimate(row):
    return f"{row.value:.2f} (95 % CI {row.low:.2f}–{row.high:.2f})"


def _sentence(probe, row):
    details = [f"95 % CI {row.low:.2f}–{row.high:.2f}"]
    details += [f"chance {row.chance:.2f}"] if np.isfinite(row.chance) else []
    details += [f"expected {row.expected}"] if row.expected else []
    conclusion = f": {row.conclusion}" if row.conclusion else ""
    return f"{probe}: {row.value:.2f} ({'; '.join(details)}){conclusion}."


def shortcut_audit(
    dataset: Dataset,
    model: keras.Model | None = None,
    *,
    lungs: np.ndarray | None = None,
    external_sets: Sequence[ExternalSet] = (),
    saliency: dict | None = None,
    positive: str | None = None,
    seed: int = 0,
) -> AuditReport:
    """Measure how far a dataset, and a model trained on it, can do without the lungs.

    Every registered probe is run; `covidxr.audit.register_probe` adds probes.

    Parameters
    ----------
    dataset : covidxr.data.dataset.Dataset
        N images, ``uint8``, and their manifest; the probes of ``source``, ``sex``, ``age`` and ``view`` use the rows where
        these are known.
    model : keras.Model, optional
        A trained network whose outputs are the labels in the order of their first appearance in the manifest. It is
        evaluated on the images whose ``split`` is ``test`` (on all where none is) and, where `lungs` are known, on the same
        images with the lungs, or everything but the lungs, occluded.
    lungs : numpy.ndarray, optional
        ``bool``, shape (N, H, W); all False for images without a mask. By default the masks that the manifest names.
    external_sets : sequence of covidxr.evaluation.external.ExternalSet, optional
        Images that the model was not trained on.
    saliency : dict, optional
        The section ``grad_cam`` of ``metrics.json``.
    positive : str, optional
        The class that is evaluated against all others; by default COVID-19 where it is a class. Without one, the probes that
        need it are skipped.
    seed : int
        Seed of the folds.

    Returns
    -------
    AuditReport

    Raises
    ------
    CovidxrError
        When the manifest is invalid, the numbers of its rows, images, lungs or outputs of the model differ, there is only one
        class, a class has only one patient, `positive` is none of the classes, or two external sets have the same name.

    References
    ----------
    Maguolo G., Nanni L., A Critic Evaluation of Methods for COVID-19 Automatic Detection from X-Ray Images, Information
    Fusion 76, 2021; DeGrave A. J. et al., AI for radiographic COVID-19 detection selects shortcuts over signal, Nature
    Machine Intelligence 3, 2021. Intervals: Nadeau C., Bengio Y., Inference for the Generalization Error, Machine Learning
    52, 2003.

    Examples
    --------
    >>> from covidxr.data.dataset import Dataset
    >>> from covidxr.data.manifest import manifest_rows
    >>> rng = np.random.default_rng(0)
    >>> rows = manifest_rows({"image_id": i, "patient_id": i, "label": "ab"[i % 2], "source": "s"} for i in range(60))
    >>> images = rng.integers(0, 255, (60, 40, 40), np.uint8)
    >>> images[1::2, :8, :8] = 255  # a corner marker on every image of class b
    >>> report = shortcut_audit(Dataset(rows, images, rows[:0]))
    >>> report.table.loc["class from the corners", "conclusion"], report.ranked().index[0]
    ('strong class signal', 'class from 4×4 pixels')
    """
    manifest, images, *_ = dataset
    _check_inputs(manifest, images, lungs)
    manifest = manifest.reset_index(drop=True)
    positive = positive_class(list(manifest.label.unique()), positive)
    lungs = _own_masks(manifest, images.shape[1]) if lungs is None else lungs
    data = AuditData(manifest, images, lungs, model, {}, saliency, positive, seed)
    if model is not None:
        data.predictions.update(_predictions(data, external_sets))
    return AuditReport(run_probes(data), data.predictions)


def _check_inputs(manifest, images, lungs):
    check_manifest(manifest)
    if len(manifest) != len(images):
        raise CovidxrError(f"the manifest has {len(manifest)} rows, but there are {len(images)} images")
    if manifest.label.nunique() < 2:
        raise CovidxrError(f"an audit needs two classes, the manifest has only {manifest.label.iloc[0]!r}")
    if lungs is not None and lungs.shape != images.shape:
        raise CovidxrError(f"lung masks of shape {lungs.shape} do not belong to images of shape {images.shape}")


def _own_masks(manifest, size):
    """The masks that the manifest names, or None where it names none; a named file that cannot be read is an error."""
    paths = list(manifest.get("lung_mask", []))
    return load_masks(paths, size) if any(paths) else None


def _predictions(data, external_sets):
    rows = data.evaluated
    sets = [(TEST, data.manifest[rows], data.images[rows]), *(tuple(one)[:3] for one in external_sets)]
    names = [name for name, *_ in sets]
    if len(set(names)) < len(names):
        raise CovidxrError(f"two sets of images have one name, of {', '.join(names)}; give each external set its own")
    return {name: predict_table(data.model, *images, data.classes) for name, *images in sets}
