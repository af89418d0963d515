"""Who is on the films: source, age, sex and view by class, and the plain sentence that follows."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from covidxr import plots
from covidxr.splits import patient_keys

ATTRIBUTES = ("source", "age group", "view", "sex")
AGE_GROUPS = {"children": 0, "adults under 60": 18, "60 and older": 60}  # each from that age on
AGES_OF_SOURCES = {
    "kaggle-chest-xray": 3.0
}  # what a source says of its patients where no film has an age: one to five years
_AS_GOOD = 0.9  # from this balanced accuracy on, an attribute is as good as the class


def describe_films(manifest) -> pd.DataFrame:
    """Bring what is known of each film's person and projection into a few words.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.

    Returns
    -------
    pandas.DataFrame
        ``label`` and `ATTRIBUTES`, strings, "not given" where nothing is known. ``age group`` is that of
        `age_groups`; ``view`` is ``PA`` or ``AP``, however the patient lay.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows([{"label": "a", "source": "s", "age": 61, "view": "AP Supine"}])
    >>> describe_films(rows).values.tolist()
    [['a', 's', '60 and older', 'AP', 'not given']]
    """
    view = manifest.view.str.extract(r"^(PA|AP)", expand=False)
    table = pd.DataFrame(
        {"label": manifest.label, "source": manifest.source, "age group": age_groups(manifest), "view": view}
    )
    table["sex"] = manifest.sex
    return table.astype(object).replace("", np.nan).fillna("not given")


def age_groups(manifest) -> pd.Series:
    """Name each patient's age group.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``age`` and ``source``; an age that is not given is the source's, where it states one for all its patients.

    Returns
    -------
    pandas.Series
        ``children``, ``adults under 60``, ``60 and older``, or ``""`` where it is not known.

    Examples
    --------
    >>> age_groups(pd.DataFrame({"age": [30.0, np.nan, np.nan], "source": ["s", "s", "kaggle-chest-xray"]})).tolist()
    ['adults under 60', '', 'children']
    """
    ages = manifest.age.fillna(manifest.source.map(AGES_OF_SOURCES)).astype(float)
    return pd.cut(ages, [*AGE_GROUPS.values(), 200], right=False, labels=list(AGE_GROUPS)).astype(object).fillna("")


def population_table(manifest) -> pd.DataFrame:
    """Summarise each class: films, patients, sources, and age, sex and view as far as they are known.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.

    Returns
    -------
    pandas.DataFrame
        A row a class. Shares are of the films for which it is known, ``… known`` the share of films for which it is.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows({"label": "a", "source": "s", "patient_id": "1", "age": age} for age in (40, 60, None, None))
    >>> population_table(rows).loc["a", ["films", "patients", "age known", "mean age"]].tolist()
    [4.0, 1.0, 0.5, 50.0]
    """
    known = manifest.assign(patient=patient_keys(manifest), group=describe_films(manifest)["age group"])
    known["female"] = known.sex.map({"F": 1.0, "M": 0.0})
    known["pa"] = known.view.str.extract(r"^(PA|AP)", expand=False).map({"PA": 1.0, "AP": 0.0})
    classes = known.groupby("label", sort=False)
    return pd.DataFrame({
        "films": classes.size(),
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


def told_apart(manifest) -> pd.DataFrame:
    """Tell how well one thing about a film tells its class from the others, nothing of its pixels being known.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.

    Returns
    -------
    pandas.DataFrame
        A row a class, a column for each of `ATTRIBUTES`: the balanced accuracy of the best rule on these very films, 0.5 by
        chance; not knowing it is a value like others. It is half of one plus the total variation distance between the
        attribute's distributions in the class and in all others.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows({"label": label, "source": label, "age": 50} for label in "aabb")
    >>> told_apart(rows).loc["a", ["source", "view"]].tolist()
    [1.0, 0.5]
    """
    films = describe_films(manifest)
    table = {
        label: {name: _balanced_accuracy(films[name], films.label == label) for name in ATTRIBUTES}
        for label in films.label.unique()
    }
    return pd.DataFrame(table).T


def _balanced_accuracy(values, inside):
    shares = pd.crosstab(values, inside, normalize="columns")
    return float((1 + (shares[True] - shares[False]).abs().sum() / 2) / 2) if False in shares else 0.5


def what_follows(manifest) -> str:
    """Say in plain sentences what class and population have to do with each other in this selection.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.

    Returns
    -------
    str
        Which classes come from one source each; and for which classes source, age group, view or sex are the same thing as
        the class, or, if for none, how much the most telling of them tells.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> rows = manifest_rows({"label": label, "source": label.upper(), "age": 50} for label in "aabb")
    >>> print(what_follows(rows))
    In this selection the class tells the source: every a film comes from A and no other film does; every b film comes from B
    and no other film does. For a (source 1.00), for b (source 1.00) class and population are as good as the same thing:
    balanced accuracy in brackets, 0.5 by chance, 'not given' being a value like others. A network that tells populations
    apart need not read a lung.
    """
    scores = told_apart(manifest)
    return f"{_origins(manifest)} {_verdict(scores)}"


def _origins(manifest):
    if manifest.source.nunique() == 1:
        return f"All films come from {manifest.source.iloc[0]}."
    told = []
    for label, rows in manifest.groupby("label", sort=False):
        if rows.source.nunique() == 1:
            others = (manifest.source[manifest.label != label] == rows.source.iloc[0]).mean()
            shared = " and no other film does" if others == 0 else f", as do {100 * others:.0f} % of the others"
            told.append(f"every {label} film comes from {rows.source.iloc[0]}{shared}")
    return (
        f"In this selection the class tells the source: {'; '.join(told)}."
        if told
        else "Every class has several sources."
    )


def _verdict(scores):
    alike = scores >= _AS_GOOD
    named = [
        f"for {label} ({_listed(row[alike.loc[label]])})" for label, row in scores.iterrows() if alike.loc[label].any()
    ]
    if named:
        start = ", ".join(named)
        return (
            f"{start[0].upper()}{start[1:]} class and population are as good as the same thing: balanced accuracy in "
            "brackets, 0.5 by chance, 'not given' being a value like others. A network that tells populations apart need not read a lung."
        )
    row, column = np.unravel_index(scores.to_numpy().argmax(), scores.shape)
    label, name = scores.index[row], scores.columns[column]
    return (
        f"No class is told by its source, age group, view or sex alone: most is told of {label} by the {name}, with a "
        f"balanced accuracy of {scores.loc[label, name]:.2f} (0.5 by chance)."
    )


def _listed(row):
    return ", ".join(f"{name} {score:.2f}" for name, score in row.items())


def population_picture(manifest):
    """Draw how each class divides over sources, age groups, views and sexes.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.

    Returns
    -------
    matplotlib.axes.Axes
        The first of four.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> ax = population_picture(manifest_rows({"label": label, "source": "s"} for label in "ab"))
    >>> len(ax.figure.axes)
    4
    """
    films = describe_films(manifest)
    height = 0.55 * films.label.nunique() + 1.2
    axes = plt.figure(figsize=(12, 2 * height), layout="constrained").subplots(2, 2)
    for ax, name in zip(axes.flat, ATTRIBUTES, strict=True):
        plots.counts_by(films, name, ax=ax)
    return axes[0, 0]
