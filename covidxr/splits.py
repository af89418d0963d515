"""The manifest's contract, and its division into train, validation and test."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from covidxr.checks import check_seed, check_share, check_whole
from covidxr.duplicates import joined
from covidxr.errors import CovidxrError, unknown
from covidxr.sources._rows import COLUMNS

SPLITS = ("train", "validation", "test")


def check_manifest(manifest) -> pd.DataFrame:
    """Check that a frame keeps the manifest's contract.

    Parameters
    ----------
    manifest : pandas.DataFrame
        One row an image.

    Returns
    -------
    pandas.DataFrame
        The same frame.

    Raises
    ------
    CovidxrError
        When it is empty, lacks a column, or names an ``image_id`` twice.

    Examples
    --------
    >>> check_manifest(pd.DataFrame({"image_id": ["a"], "path": ["a.png"]}))
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: the manifest has no column label, patient_id, source, view, age, sex, license, url, sha256, split, version, original_name, twins
    """
    missing = [column for column in COLUMNS if column not in manifest]
    if missing:
        raise CovidxrError(f"the manifest has no column {', '.join(missing)}")
    if manifest.empty:
        raise CovidxrError("the manifest has no rows: no films were found")
    twice = manifest.image_id[manifest.image_id.duplicated()]
    if len(twice):
        raise CovidxrError(f"{len(twice)} image ids occur twice in the manifest, the first is {twice.iloc[0]!r}")
    return manifest


def check_split(by, test, validation, seed) -> None:
    """Check the parameters of `split_manifest`, so that impossible ones are named before anything is decoded.

    Parameters
    ----------
    by, test, validation, seed
        As `split_manifest` takes them.

    Raises
    ------
    CovidxrError
        When `by` is unknown, a share is not between 0 and 1 or both leave nothing to train on, or the seed is none.

    Examples
    --------
    >>> check_split("patient", 0.7, 0.4, 0)
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: the shares of test (0.7) and validation (0.4) leave nothing to train on; lower them
    """
    if by not in ("patient", "image"):
        raise unknown("split", by, ["patient", "image"])
    check_share("the share of test", test)
    check_share("the share of validation", validation)
    if test + validation >= 1:
        raise CovidxrError(
            f"the shares of test ({test}) and validation ({validation}) leave nothing to train on; lower them"
        )
    check_seed(seed)


def split_manifest(manifest, by="patient", test=0.325, validation=0.15, seed=0) -> pd.DataFrame:
    """Divide the films into train, validation and test, class by class in the same shares.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.
    by : {"patient", "image"}
        ``patient`` keeps each patient of a source on one side, and twins, as `kept_together` joins them; ``image`` is the
        article's, kept for comparison.
    test, validation : float
        Their shares of the films, between 0 and 1, reached from below where patients have several films, unless no
        patient of a class fits: then the one with the fewest films is taken.
    seed : int
        Seed of the draw.

    Returns
    -------
    pandas.DataFrame
        A copy with ``split`` filled with ``train``, ``validation`` or ``test``.

    Raises
    ------
    CovidxrError
        When a parameter is impossible (see `check_split`), or a class gets no film in one of the three.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = ({"image_id": f"{c}{i}", "label": c, "patient_id": f"{c}{i // 2}", "source": "s"} for c in "ab" for i in range(20))
    >>> divided = split_manifest(manifest_rows(rows), test=0.3, validation=0.2)
    >>> divided.groupby("split").size().to_dict(), straddling_patients(divided)
    ({'test': 12, 'train': 20, 'validation': 8}, 0)
    """
    check_split(by, test, validation, seed)
    rng = np.random.default_rng(seed)
    groups = kept_together(manifest) if by == "patient" else manifest.image_id
    divided = manifest.assign(split="train")
    _take(divided, groups, "test", test, rng)
    _take(divided, groups, "validation", validation, rng)
    return _every_class_everywhere(divided, groups)


def fold_splits(manifest, folds=3, repeats=1, validation=0.15, seed=0) -> list:
    """Divide the films for repeated cross-validation: each film is tested once a repeat, patients and twins kept together.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.
    folds : int
        Parts of a repeat, at least 2, with the classes in the same shares; each is the test part once.
    repeats : int
        How often the films are shuffled into parts anew.
    validation : float
        Share of all films that is taken from the training part for validation.
    seed : int
        Seed of the draws.

    Returns
    -------
    list of list of pandas.DataFrame
        For each repeat and fold the manifest with ``split`` filled.

    Raises
    ------
    CovidxrError
        When a parameter is impossible, or a class gets no film in one of the three parts of a fold.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = ({"image_id": f"{c}{i}", "label": c, "patient_id": f"{c}{i // 2}", "source": "s"} for c in "ab" for i in range(20))
    >>> (first, second), = fold_splits(manifest_rows(rows), folds=2)
    >>> set(first.image_id[first.split == "test"]) & set(second.image_id[second.split == "test"])
    set()
    """
    check_whole("folds", folds, 2)
    check_whole("repeats", repeats, 1)
    check_share("the share of validation", validation)
    check_seed(seed)
    groups, films = kept_together(manifest), manifest.label.value_counts()
    if not 2 <= folds <= films.min():
        raise CovidxrError(f"class {films.idxmin()!r} has {films.min()} films; give 2 to so many folds, not {folds}")
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
        _take(divided, groups, "validation", validation, np.random.default_rng([*seed, number]))
        found.append(_every_class_everywhere(divided, groups))
    return found


def _take(divided, groups, name, share, rng):
    """Give a share of each class, drawn from what is free, to one part."""
    free = divided.split == "train"
    goal = (share * divided.label.value_counts()).round()
    divided.loc[free & groups.isin(_draw(groups[free], divided.label[free], goal, rng)), "split"] = name


def _every_class_everywhere(divided, groups):
    for label, rows in divided.groupby("label"):
        absent = set(SPLITS) - set(rows.split)
        if absent:
            raise CovidxrError(
                f"class {label!r} has {len(rows)} films of {groups[rows.index].nunique()} patients, "
                f"too few to put any into {' and '.join(sorted(absent))}; add films or change the shares"
            )
    return divided


def _draw(groups, labels, goal, rng):
    counts = pd.crosstab(groups, labels).reindex(columns=goal.index, fill_value=0)
    drawn, have = [], np.zeros(len(goal))
    for row in rng.permutation(len(counts)):
        if (have + counts.values[row] <= goal.values).all():
            have += counts.values[row]
            drawn.append(row)
    for column in np.flatnonzero((have == 0) & (goal.values > 0)):  # each patient of this class has too many films
        if counts.values[:, column].any():
            drawn.append(np.where(counts.values[:, column] > 0, counts.values.sum(axis=1), np.inf).argmin())
    return counts.index[drawn]


def patient_keys(manifest) -> pd.Series:
    """Name each film's patient so that no two patients share a name.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``source`` and ``patient_id``, which is unique within its source only.

    Returns
    -------
    pandas.Series
        Strings, row by row; a slash in the source's name is written ``%2F``, so that the first slash ends it.

    Examples
    --------
    >>> patient_keys(pd.DataFrame({"source": ["here", "there", "a/b"], "patient_id": ["7", "7", "7"]})).tolist()
    ['here/7', 'there/7', 'a%2Fb/7']
    """
    source = manifest.source.str.replace("%", "%25", regex=False).str.replace("/", "%2F", regex=False)
    return source + "/" + manifest.patient_id


def kept_together(manifest) -> pd.Series:
    """Name what belongs on one side of a split: patients, joined where they have twins of each other's films.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``source``, ``patient_id`` and, as `covidxr.duplicates.mark_twins` fills it, ``twins``.

    Returns
    -------
    pandas.Series
        Strings, row by row: the first of the joined patients, named as by `patient_keys`.

    Examples
    --------
    >>> rows = {"source": ["s"] * 4, "patient_id": list("1223"), "twins": ["", "", "a", "a"]}
    >>> kept_together(pd.DataFrame(rows)).tolist()
    ['s/1', 's/2', 's/2', 's/2']
    """
    patients = patient_keys(manifest)
    twins = manifest.twins.where(manifest.twins != "", manifest.index.astype(str) + "/alone")
    rows = np.arange(len(manifest))
    links = [(rows, pd.Series(rows).groupby(key.to_numpy()).transform("first")) for key in (patients, twins)]
    groups = joined(len(manifest), np.concatenate(links, axis=1))
    return patients.groupby(groups).transform("min")


def straddling_twins(manifest) -> int:
    """Count the groups of twins whose films lie in more than one split.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``split`` and ``twins`` filled.

    Returns
    -------
    int

    Examples
    --------
    >>> straddling_twins(pd.DataFrame({"twins": ["a", "a", "", ""], "split": ["train", "test", "train", "test"]}))
    1
    """
    twins = manifest[manifest.twins != ""]
    return int((twins.groupby("twins").split.nunique() > 1).sum())


def straddling_patients(manifest) -> int:
    """Count the patients whose films lie in more than one split.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``split`` filled.

    Returns
    -------
    int

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = [{"image_id": i, "patient_id": "1", "source": "s", "split": s} for i, s in enumerate(["train", "test"])]
    >>> straddling_patients(manifest_rows(rows))
    1
    """
    return int((manifest.groupby(patient_keys(manifest)).split.nunique() > 1).sum())
