"""Where a run's films come from, on which terms, and what the readers left out and why."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from covidxr.sources import covid_chestxray, darkcovidnet, figure1, kaggle_chest_xray
from covidxr.sources._rows import LEFT_OUT_COLUMNS

_LEFT_OUT = {
    "covid-chestxray": covid_chestxray.left_out,
    "kaggle-chest-xray": kaggle_chest_xray.left_out,
    "darkcovidnet": darkcovidnet.left_out,
    "figure1": figure1.left_out,
}  # of phantoms and one's own tables nothing is left out


class Terms(NamedTuple):
    """What a licence allows: ``redistribute`` and ``change`` are "yes", "yes, not for sale" or "no"; ``note`` says more."""

    redistribute: str
    change: str
    note: str


NOT_STATED = Terms("no", "no", "nobody gave permission")
_NOT_KNOWN = Terms("ask", "ask", "terms that this table does not know; read them")
TERMS = {
    "CC0-1.0": Terms("yes", "yes", "no conditions"),
    "CC0": Terms("yes", "yes", "no conditions"),
    "CC BY": Terms("yes", "yes", "name the author"),
    "CC BY 4.0": Terms("yes", "yes", "name the author"),
    "CC BY-SA": Terms("yes", "yes", "name the author, same terms"),
    "CC BY-NC-SA": Terms("yes, not for sale", "yes, not for sale", "name the author, same terms"),
    "CC BY-NC-SA 4.0": Terms("yes, not for sale", "yes, not for sale", "name the author, same terms"),
    "CC BY-NC-ND": Terms("yes, not for sale", "no", "name the author, unchanged only: a scaled copy is a change"),
    "NIH, free use with attribution": Terms(
        "yes", "yes", "link to the NIH download site and cite Wang et al., CVPR 2017"
    ),
    "research use": Terms("ask", "ask", "its authors ask for research use only"),
    "": NOT_STATED,
}


def licence_ledger(manifest) -> pd.DataFrame:
    """Count the films under each licence of each source, with what the licence allows.

    Not legal advice: the table says what the licences' own summaries say.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``source`` and ``license``.

    Returns
    -------
    pandas.DataFrame
        Columns ``source``, ``license`` ("not stated" where it is empty), ``films``, ``redistribute``, ``change``, ``note``.

    References
    ----------
    https://creativecommons.org/licenses

    Examples
    --------
    >>> licence_ledger(pd.DataFrame({"source": ["a"] * 3, "license": ["CC0", "", ""]})).values.tolist()
    [['a', 'not stated', 2, 'no', 'no', 'nobody gave permission'], ['a', 'CC0', 1, 'yes', 'yes', 'no conditions']]
    """
    counts = manifest.groupby(["source", "license"]).size().sort_values(ascending=False, kind="stable")
    table = (
        counts.rename("films").reset_index().sort_values(["source", "films"], ascending=[True, False], kind="stable")
    )
    terms = [TERMS.get(licence, _NOT_KNOWN) for licence in table.license]
    table = table.assign(license=table.license.replace("", "not stated"))
    return table.join(pd.DataFrame(terms, index=table.index)).reset_index(drop=True)


def licence_sentence(manifest) -> str:
    """Say how many films may be passed on.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``source`` and ``license``.

    Returns
    -------
    str

    Examples
    --------
    >>> print(licence_sentence(pd.DataFrame({"source": ["a"] * 3, "license": ["CC0", "", "CC BY-NC-ND"]})))
    Of 3 films 2 may be redistributed (1 of them not for sale), 0 are under terms to be asked about, and for 1 no licence is stated.
    """
    ledger = licence_ledger(manifest)
    stated = ledger[ledger.license != "not stated"]
    films = stated.groupby("redistribute").films.sum()
    free, not_for_sale = (int(films.get(kind, 0)) for kind in ("yes", "yes, not for sale"))
    return (
        f"Of {len(manifest)} films {free + not_for_sale} may be redistributed ({not_for_sale} of them not for sale), "
        f"{int(films.get('ask', 0))} are under terms to be asked about, and for {len(manifest) - int(stated.films.sum())} "
        "no licence is stated."
    )


def left_out(sources, data_dir) -> pd.DataFrame:
    """List what the readers of sources leave out, and what they name though its file is absent.

    Parameters
    ----------
    sources : sequence of str
        As `covidxr.dataset.assemble` takes them.
    data_dir : str or pathlib.Path
        Where the named sources lie.

    Returns
    -------
    pandas.DataFrame
        Columns ``source``, ``original_name``, ``reason``, ``present``; a row a film. Phantoms and tables of one's own are
        used whole, so they add none.

    Raises
    ------
    CovidxrError
        When a source's folder is not there.

    Examples
    --------
    >>> left_out(["phantom"], None).empty
    True
    """
    tables = [_LEFT_OUT[source](data_dir) for source in sources if source in _LEFT_OUT]
    return pd.concat([pd.DataFrame(columns=list(LEFT_OUT_COLUMNS)), *tables], ignore_index=True)
