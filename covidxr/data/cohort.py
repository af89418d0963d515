"""Who is on the images: cohort characteristics, confounders, licences."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr.data.manifest import patient_keys

ATTRIBUTES = ("source", "age group", "view", "sex")

_AGE_GROUPS = {"children": 0, "adults under 60": 18, "60 and older": 60}  # each from that age on

_AGES_OF_SOURCES = {"kaggle-chest-xray": 3.0}  # per-image ages are missing; its authors state one to five years

_STRONG = 0.9  # balanced accuracy from which an attribute practically determines the class


def image_attributes(manifest) -> pd.DataFrame:
    """Label, source, age group, view and sex of each image, as categories."""
    view = manifest.view.str.extract(r"^(PA|AP)", expand=False)
    table = pd.DataFrame(
        {"label": manifest.label, "source": manifest.source, "age group": age_groups(manifest), "view": view}
    )
    table["sex"] = manifest.sex
    return table.astype(object).replace("", np.nan).fillna("not given")


def age_groups(manifest) -> pd.Series:
    """Name each patient's age group."""
    ages = manifest.age.fillna(manifest.source.map(_AGES_OF_SOURCES)).astype(float)
    return pd.cut(ages, [*_AGE_GROUPS.values(), 200], right=False, labels=list(_AGE_GROUPS)).astype(object).fillna("")


def cohort_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Summarise each class: images, patients, sources, age, sex and view.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.

    Returns
    -------
    pandas.DataFrame
        One row per class. Means and shares refer to the images for which the value is known; the columns ending in
        ``known`` give the share of these images.

    Examples
    --------
    >>> from covidxr.data.manifest import manifest_rows
    >>> rows = manifest_rows({"label": "a", "source": "s", "patient_id": "1", "age": age} for age in (40, 60, None, None))
    >>> cohort_table(rows).loc["a", ["images", "patients", "age known", "mean age"]].tolist()
    [4.0, 1.0, 0.5, 50.0]
    """
    known = manifest.assign(patient=patient_keys(manifest), group=image_attributes(manifest)["age group"])
    known["female"] = known.sex.map({"F": 1.0, "M": 0.0})
    known["pa"] = known.view.str.extract(r"^(PA|AP)", expand=False).map({"PA": 1.0, "AP": 0.0})
    classes = known.groupby("label", sort=False)
    return pd.DataFrame({
        "images": classes.size(),
        "patients": classes.patient.nunique(),
        "sources": classes.source.agg(lambda names: ", ".join(sorted(set(names)))),
        "age known": classes.age.agg(lambda ages: ages.notna().mean()),
        "mean age": classes.age.mean(),
        "children": classes.group.agg(lambda groups: (groups == "children").mean()),
        "sex known": classes.female.agg(lambda values: values.notna().mean()),
        "female": classes.female.mean(),
        "view known": classes.pa.agg(lambda values: values.notna().mean()),
        "PA": classes.pa.mean(),
    }).round(2)  # fmt: skip


def attribute_leakage(manifest: pd.DataFrame) -> pd.DataFrame:
    """Balanced accuracy of predicting each class from a single metadata attribute, without using pixels.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.

    Returns
    -------
    pandas.DataFrame
        One row per class, one column per attribute (source, age group, view, sex): the balanced accuracy of the best
        rule, fitted and evaluated on these images, 0.5 by chance. A missing value counts as a category of its own. The
        score is (1 + d) / 2, where d is the total variation distance between the attribute's distributions in the class
        and in all other classes.

    Examples
    --------
    >>> from covidxr.data.manifest import manifest_rows
    >>> rows = manifest_rows({"label": label, "source": label, "age": 50} for label in "aabb")
    >>> attribute_leakage(rows).loc["a", ["source", "view"]].tolist()
    [1.0, 0.5]
    """
    images = image_attributes(manifest)
    table = {
        label: {name: _balanced_accuracy(images[name], images.label == label) for name in ATTRIBUTES}
        for label in images.label.unique()
    }
    return pd.DataFrame(table).T


def _balanced_accuracy(values, inside):
    shares = pd.crosstab(values, inside, normalize="columns")
    return float((1 + (shares[True] - shares[False]).abs().sum() / 2) / 2) if False in shares else 0.5


def cohort_summary(manifest) -> str:
    """Summarise in two sentences how class is confounded with source, age, view and sex."""
    scores = attribute_leakage(manifest)
    return f"{_origin_sentence(manifest)} {_leakage_sentence(scores)}"


def _origin_sentence(manifest):
    if manifest.source.nunique() == 1:
        return f"All images come from {manifest.source.iloc[0]}."
    confounded = []
    for label, rows in manifest.groupby("label", sort=False):
        if rows.source.nunique() == 1:
            others = (manifest.source[manifest.label != label] == rows.source.iloc[0]).mean()
            shared = " and no other image does" if others == 0 else f", as do {100 * others:.0f} % of the others"
            confounded.append(f"every {label} image comes from {rows.source.iloc[0]}{shared}")
    return (
        f"Class and source are confounded: {'; '.join(confounded)}."
        if confounded
        else "Every class has several sources."
    )


def _leakage_sentence(scores):
    strong = scores >= _STRONG
    named = [
        f"{label} ({_listed(row[strong.loc[label]])})" for label, row in scores.iterrows() if strong.loc[label].any()
    ]
    if named:
        return (
            f"Metadata alone practically determine the class for {', '.join(named)}: balanced accuracy in parentheses, 0.5 by "
            "chance. A network that recognises populations does not need to look at the lungs."
        )
    row, column = np.unravel_index(scores.to_numpy().argmax(), scores.shape)
    label, name = scores.index[row], scores.columns[column]
    return (
        f"Source, age group, view and sex do not determine any class: the strongest association is between {label} and "
        f"{name}, with a balanced accuracy of {scores.loc[label, name]:.2f} (0.5 by chance)."
    )


def _listed(row):
    return ", ".join(f"{name} {score:.2f}" for name, score in row.items())


class _LicenceTerms(NamedTuple):
    """What a licence allows: ``redistribute`` and ``change`` are "yes", "yes, not for sale" or "no"; ``note`` says more."""

    redistribute: str
    change: str
    note: str


_NOT_KNOWN = _LicenceTerms("ask", "ask", "unknown terms; read them")

TERMS = {
    "CC0-1.0": _LicenceTerms("yes", "yes", "no conditions"),
    "CC0": _LicenceTerms("yes", "yes", "no conditions"),
    "CC BY": _LicenceTerms("yes", "yes", "name the author"),
    "CC BY 4.0": _LicenceTerms("yes", "yes", "name the author"),
    "CC BY-SA": _LicenceTerms("yes", "yes", "name the author, same terms"),
    "CC BY-NC-SA": _LicenceTerms("yes, not for sale", "yes, not for sale", "name the author, same terms"),
    "CC BY-NC-SA 4.0": _LicenceTerms("yes, not for sale", "yes, not for sale", "name the author, same terms"),
    "CC BY-NC-ND": _LicenceTerms(
        "yes, not for sale", "no", "name the author, unchanged only: a scaled copy is a change"
    ),
    "NIH, free use with attribution": _LicenceTerms(
        "yes", "yes", "link to the NIH download site and cite Wang et al., CVPR 2017"
    ),
    "research use": _LicenceTerms("ask", "ask", "its authors ask for research use only"),
    "": _LicenceTerms("no", "no", "no permission was given"),
}


def licence_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Count the images under each licence of each source, with what the licence allows.

    Taken from the licences' own summaries; this is not legal advice.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``source`` and ``license``.

    Returns
    -------
    pandas.DataFrame
        Columns ``source``, ``license`` ("not stated" where it is empty), ``images``, ``redistribute``, ``change``, ``note``.

    References
    ----------
    https://creativecommons.org/licenses

    Examples
    --------
    >>> licence_table(pd.DataFrame({"source": ["a"] * 3, "license": ["CC0", "", ""]})).values.tolist()
    [['a', 'not stated', 2, 'no', 'no', 'no permission was given'], ['a', 'CC0', 1, 'yes', 'yes', 'no conditions']]
    """
    counts = manifest.groupby(["source", "license"]).size().sort_values(ascending=False, kind="stable")
    table = (
        counts.rename("images").reset_index().sort_values(["source", "images"], ascending=[True, False], kind="stable")
    )
    terms = [TERMS.get(licence, _NOT_KNOWN) for licence in table.license]
    table = table.assign(license=table.license.replace("", "not stated"))
    return table.join(pd.DataFrame(terms, index=table.index)).reset_index(drop=True)


def licence_summary(manifest) -> str:
    """State in one sentence how many images may be redistributed."""
    table = licence_table(manifest)
    stated = table[table.license != "not stated"]
    images = stated.groupby("redistribute").images.sum()
    free, not_for_sale = (int(images.get(kind, 0)) for kind in ("yes", "yes, not for sale"))
    return (
        f"Of {len(manifest)} images, {free + not_for_sale} may be redistributed ({not_for_sale} of them non-commercially only), "
        f"{int(images.get('ask', 0))} require permission, and for {len(manifest) - int(stated.images.sum())} "
        "no licence is stated."
    )
