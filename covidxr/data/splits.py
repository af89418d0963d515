"""Patient-grouped splits and cross-validation folds, and counts of what leaks across them."""

from __future__ import annotations

import warnings
from numbers import Real

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from covidxr.checks import check_seed, check_whole
from covidxr.data.manifest import SPLITS, patient_keys
from covidxr.utils import CovidxrError, unknown


def connected_groups(count: int, links) -> np.ndarray:
    """Number the connected components of `count` items joined by pairs of `links`."""
    one, other = (np.asarray(ends, dtype=int) for ends in links)
    return connected_components(coo_matrix((np.ones(len(one)), (one, other)), (count, count)), directed=False)[1]


def check_split(by, test, validation, seed) -> None:
    """Check the parameters of `split_manifest` before anything is decoded."""
    if by not in ("patient", "image"):
        raise unknown("split", by, ["patient", "image"])
    _check_share("test", test)
    _check_share("validation", validation)
    if test + validation >= 1:
        raise CovidxrError(
            f"the shares of test ({test}) and validation ({validation}) leave nothing to train on; lower them"
        )
    check_seed(seed)


def _check_share(split, share):
    """Refuse what is not strictly between 0 and 1, such as NaN."""
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share < 1:
        raise CovidxrError(f"the share of {split} is {share!r}; give a share between 0 and 1, such as 0.3")


def split_manifest(
    manifest: pd.DataFrame, by: str = "patient", test: float = 0.325, validation: float = 0.15, seed: int = 0
) -> pd.DataFrame:
    """Divide the images into training, validation and test set, stratified by class.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.
    by : {"patient", "image"}
        ``patient`` keeps all images of a patient, and near-duplicates, in one split; ``image`` ignores both, as the
        article did, and is kept for comparison.
    test, validation : float
        Their shares of the images, between 0 and 1. Where patients have several images the shares are approached from
        below; if no patient of a class fits, the one with the fewest images is taken.
    seed : int
        Seed of the draw.

    Returns
    -------
    pandas.DataFrame
        A copy with ``split`` filled with ``train``, ``validation`` or ``test``.

    Raises
    ------
    CovidxrError
        When a parameter is impossible, or a class gets no image in one of the three splits.

    Examples
    --------
    >>> from covidxr.data.manifest import manifest_rows
    >>> rows = ({"image_id": f"{c}{i}", "label": c, "patient_id": f"{c}{i // 2}", "source": "s"} for c in "ab" for i in range(20))
    >>> divided = split_manifest(manifest_rows(rows), test=0.3, validation=0.2)
    >>> divided.groupby("split").size().to_dict(), patients_across_splits(divided)
    ({'test': 12, 'train': 20, 'validation': 8}, 0)
    """
    check_split(by, test, validation, seed)
    rng = np.random.default_rng(seed)
    groups = split_groups(manifest) if by == "patient" else manifest.image_id
    divided = manifest.assign(split="train")
    _assign_split(divided, groups, "test", test, rng)
    _assign_split(divided, groups, "validation", validation, rng)
    return _check_classes(divided, groups)


def fold_splits(manifest, folds=3, repeats=1, validation=0.15, seed=0) -> list:
    """Divide the images for repeated cross-validation, patients and near-duplicates kept together."""
    check_whole("folds", folds, 2)
    check_whole("repeats", repeats, 1)
    _check_share("validation", validation)
    check_seed(seed)
    groups, images = split_groups(manifest), manifest.label.value_counts()
    if not 2 <= folds <= images.min():
        raise CovidxrError(f"class {images.idxmin()!r} has {images.min()} images; give 2 to so many folds, not {folds}")
    return [_folds(manifest, groups, folds, validation, [seed, repeat]) for repeat in range(repeats)]


def _folds(manifest, groups, folds, validation, seed):
    shuffled = StratifiedGroupKFold(folds, shuffle=True, random_state=np.random.RandomState(seed))
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few patients in a class; what is too few is told below
        parts = list(shuffled.split(manifest, manifest.label, groups))
    for number, (_, held_out) in enumerate(parts):
        divided = manifest.assign(split="train")
        divided.iloc[held_out, divided.columns.get_loc("split")] = "test"
        _assign_split(divided, groups, "validation", validation, np.random.default_rng([*seed, number]))
        found.append(_check_classes(divided, groups))
    return found


def _assign_split(divided, groups, name, share, rng):
    """Give a share of each class, drawn from what is free, to one part."""
    free = divided.split == "train"
    goal = (share * divided.label.value_counts()).round()
    divided.loc[free & groups.isin(_draw_groups(groups[free], divided.label[free], goal, rng)), "split"] = name


def _check_classes(divided, groups):
    for label, rows in divided.groupby("label"):
        absent = set(SPLITS) - set(rows.split)
        if absent:
            raise CovidxrError(
                f"class {label!r} has {len(rows)} images of {groups[rows.index].nunique()} patients, "
                f"too few to put any into {' and '.join(sorted(absent))}; add images or change the shares"
            )
    return divided


def _draw_groups(groups, labels, goal, rng):
    counts = pd.crosstab(groups, labels).reindex(columns=goal.index, fill_value=0)
    drawn, have = [], np.zeros(len(goal))
    for row in rng.permutation(len(counts)):
        if (have + counts.values[row] <= goal.values).all():
            have += counts.values[row]
            drawn.append(row)
    for column in np.flatnonzero((have == 0) & (goal.values > 0)):  # each patient of this class has too many images
        if counts.values[:, column].any():
            drawn.append(np.where(counts.values[:, column] > 0, counts.values.sum(axis=1), np.inf).argmin())
    return counts.index[drawn]


def split_groups(manifest) -> pd.Series:
    """Name each image's group for splitting: its patient, joined with patients who have near-duplicates of its images."""
    patients = patient_keys(manifest)
    copies = manifest.duplicate_group.where(manifest.duplicate_group != "", manifest.index.astype(str) + "/alone")
    rows = np.arange(len(manifest))
    links = [(rows, pd.Series(rows).groupby(key.to_numpy()).transform("first")) for key in (patients, copies)]
    groups = connected_groups(len(manifest), np.concatenate(links, axis=1))
    return patients.groupby(groups).transform("min")


def duplicates_across_splits(manifest) -> int:
    """Count the groups of near-duplicates whose images lie in more than one split."""
    copies = manifest[manifest.duplicate_group != ""]
    return int((copies.groupby("duplicate_group").split.nunique() > 1).sum())


def patients_across_splits(manifest) -> int:
    """Count the patients whose images lie in more than one split."""
    return int((manifest.groupby(patient_keys(manifest)).split.nunique() > 1).sum())
