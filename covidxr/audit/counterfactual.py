"""Counterfactuals on phantom hospitals: what was planted is known, so what the audit finds and the network uses can be checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from covidxr.audit.probes import BANDS, BORDER, CORNERS
from covidxr.data.hospitals import CUES, HOSPITALS, describe_cue
from covidxr.data.images import scaled
from covidxr.data.phantom import STORED_SIDE, redraw
from covidxr.evaluation.intervals import estimate_proportion
from covidxr.evaluation.metrics import POSITIVE, predict
from covidxr.utils import estimate_text

if TYPE_CHECKING:
    import keras

    from covidxr.data.dataset import Dataset

# The beginnings of the names of the probes that can see a cue.
CUE_PROBES = {
    "population": ("class from 4×4 pixels", "class from 8×8 pixels", "class from the age group"),
    "marker": (f"class from {CORNERS}",),
    "border": (f"class from {BORDER}",),
    "exposure": ("class from the grey histogram",),
    "contrast": ("class from the grey histogram", f"class from {BANDS}"),
    "sharpness": (f"class from {BANDS}",),
    "noise": (f"class from {BANDS}",),
    "cables": (),
}

ALL_CUES, NO_LESIONS = "all cues together", "lesions removed, no cue changed"

USED = 0.05  # share of predictions that must change for a cue to count as used


def planted_cues(
    model: keras.Model,
    dataset: Dataset,
    probes: pd.DataFrame,
    positive: str | None = POSITIVE,
    most: int = 90,
    seed: int = 0,
) -> pd.DataFrame:
    """For each planted cue: whether the audit found it, and how many predictions change when it alone is changed.

    Test images from the hospitals of the positive class are drawn again with one cue of a hospital of the other classes, and
    the reverse; anatomy, lesions and grain stay the same. This is possible with phantoms only.

    Parameters
    ----------
    model : keras.Model
        The network, whose outputs are the classes of the dataset.
    dataset : covidxr.data.Dataset
        The run's data; its test images are used (all where none is), as far as they are phantoms of hospitals.
    probes : pandas.DataFrame
        The table of the audit.
    positive : str, optional
        The class whose hospitals are compared with the others.
    most : int
        At most so many images are drawn again.
    seed : int
        Chooses them.

    Returns
    -------
    pandas.DataFrame
        Index ``cue``; ``planted`` (what the cue is at the hospitals that are compared), ``found`` (by the audit; None where no probe can
        see the cue), ``evidence`` (the strongest such probe), ``changed`` with ``low`` and ``high`` (share of changed
        predictions and its 95 % CI), ``n`` (images) and ``conclusion``. The last two rows change all cues together, and remove
        the lesions instead. Empty where no hospital sends the positive class alone, since then no cue is planted.

    Raises
    ------
    CovidxrError
        When the images cannot be drawn again, or the network does not fit them.

    Examples
    --------
    >>> from covidxr.data import Dataset
    >>> from covidxr.data.manifest import manifest_rows
    >>> rows = manifest_rows([{"image_id": "a", "patient_id": "a", "label": "Normal", "source": "mine"}])
    >>> planted_cues(None, Dataset(rows, np.zeros((1, 64, 64), np.uint8)), pd.DataFrame()).empty
    True
    """
    donors = _donors(dataset.manifest, positive)
    if not donors:
        return pd.DataFrame()
    rows = _test_phantoms(dataset.manifest, donors, most, seed)
    names = np.asarray(dataset.classes, dtype=str)
    side = dataset.images.shape[1]

    def predicted(cues, severity=None):
        images = np.empty((len(rows), side, side), np.uint8)
        for hospital, donor in donors.items():
            here = (rows.source == hospital).to_numpy()
            if here.any():
                drawn = redraw(rows[here], STORED_SIDE, dict.fromkeys(cues, donor), severity=severity)
                images[here] = [scaled(image, side) for image in drawn]
        return names[predict(model, images).argmax(1)]

    before = predicted(())
    found = {cue: _row(before != predicted((cue,)), rows, *_evidence(cue, probes)) for cue in CUES}
    found[ALL_CUES] = _row(before != predicted(CUES), rows, None, "")
    sick = (rows.label != "Normal").to_numpy()
    changed = before != predicted((), severity=0)
    found[NO_LESIONS] = _row(changed[sick], rows[sick], None, "")
    table = pd.DataFrame.from_dict(found, orient="index").rename_axis("cue")
    compared = sorted({*donors.values()})
    table.insert(0, "planted", [describe_cue(cue, *compared) if cue in CUES else "" for cue in table.index])
    return table


def planted_records(table: pd.DataFrame) -> dict[str, dict]:
    """The table as it is stored in ``metrics.json``."""
    return {
        cue: {
            "planted": row.planted,
            "found": row.found,
            "evidence": row.evidence,
            "used": {"value": row.changed, "low": row.low, "high": row.high, "n": row.n},
            "conclusion": row.conclusion,
        }
        for cue, row in table.iterrows()
    }


def planted_sentences(table: pd.DataFrame) -> list[str]:
    """What the audit found of the planted cues, what the network uses, and what it makes of the lesions."""
    if table.empty:
        return []
    cues = table.drop([ALL_CUES, NO_LESIONS])
    visible = cues[cues.found.notna()]
    used = cues[cues.low > USED]
    both, lesions = (table.loc[name] for name in (ALL_CUES, NO_LESIONS))
    return [
        f"The audit found {int(visible.found.sum())} of the {len(visible)} planted cues that its probes can see.",
        f"The network uses {', '.join(used.index) if len(used) else 'no single cue'}: "
        f"more than {USED:.0%} of its predictions change when that cue alone is changed.",
        f"All cues together change {estimate_text(both.changed, both.low, both.high)} of the predictions; removing the lesions "
        f"changes {estimate_text(lesions.changed, lesions.low, lesions.high)} of those for diseased images.",
    ]


def _donors(manifest, positive):
    """For each hospital that sends the positive class alone, or never, the hospital of the other kind with most images."""
    hospital = manifest.source.str.removeprefix("phantom-").where(manifest.source.str.startswith("phantom-"))
    share = (manifest.label == positive).groupby(hospital).agg(["mean", "size"]).sort_values("size", ascending=False)
    alone, never = share.index[share["mean"] == 1], share.index[share["mean"] == 0]
    if not len(alone) or not len(never) or not {*alone, *never} <= set(HOSPITALS):
        return {}
    return {f"phantom-{name}": (never if name in alone else alone)[0] for name in [*alone, *never]}


def _test_phantoms(manifest, donors, most, seed):
    known = manifest[manifest.source.isin(list(donors))]
    test = known[known.split == "test"] if (known.split == "test").any() else known
    return test.sample(min(most, len(test)), random_state=seed).sort_index()


def _evidence(cue, probes):
    """Whether a probe found the cue, and the one that found it best."""
    names = [name for name in probes.index if name.startswith(CUE_PROBES[cue])] if CUE_PROBES[cue] else []
    if not names:
        return None, "no probe sees it"
    rows = probes.loc[names]
    best = rows.sort_values(["shortcut", "value"]).iloc[-1]
    return bool(best.shortcut), f"{best.name}: {estimate_text(best.value, best.low, best.high)}"


def _row(changed, rows, found, evidence):
    patients = (rows.source + " " + rows.patient_id).to_numpy(dtype=str)
    estimate = estimate_proportion(changed, patients)
    used = "used" if estimate.low > USED else "not shown to be used"
    seen = {True: "found, ", False: "not found, ", None: ""}[found]
    return {
        "found": found, "evidence": evidence, "changed": estimate.value, "low": estimate.low, "high": estimate.high,
        "n": estimate.n, "conclusion": seen + used,
    }  # fmt: skip
