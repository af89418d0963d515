"""Figure 1 COVID-19 Chest X-ray Dataset Initiative: a second source of COVID-19 films, of adults.

``metadata.csv`` and ``images``; an image is named like its ``patientid``, with a letter behind it where a patient has
several. 55 films: 35 COVID-19, 3 without finding, 2 pneumonia, 15 with nothing stated, which are left out. Research use.

References
----------
Chung A. et al., Figure 1 COVID-19 Chest X-ray Dataset Initiative, 2020.
https://github.com/agchung/Figure1-COVID-chestxray-dataset
"""

from __future__ import annotations

from pathlib import Path

from covidxr.sources._rows import find_folder, find_images, left_out_rows, manifest_rows, read_table
from covidxr.sources._version import version_of

URL = "https://github.com/agchung/Figure1-COVID-chestxray-dataset"
VERSION = "95bb569e55f4110d3b734c0f355340e04e16989a"


def read(data_dir):
    """List the films of the Figure 1 collection as manifest rows.

    Parameters
    ----------
    data_dir : str or pathlib.Path
        The folder that holds ``metadata.csv`` and ``images``, or the folder above it, where it is called ``figure1``.

    Returns
    -------
    pandas.DataFrame
        Manifest rows labelled ``COVID-19``, ``No finding`` or ``Pneumonia``; ages given as words or bounds are left empty.

    Raises
    ------
    CovidxrError
        When the folder is not there or ``metadata.csv`` lacks a column.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "metadata.csv").write_text("patientid,sex,age,finding,view\\nCOVID-00003a,M,33,COVID-19,AP erect\\n")
    >>> read(folder)[["patient_id", "label", "path"]].map(lambda text: text.split("/")[-1]).values.tolist()
    [['COVID-00003', 'COVID-19', 'COVID-00003a.jpg']]
    """
    folder, table = _table(data_dir)
    version = version_of(folder, "figure1", VERSION)
    return manifest_rows(_row(row) | {"version": version} for row in table[table.reason == ""].itertuples())


def left_out(data_dir):
    """List the films that `read` leaves out, and those it keeps whose file is absent, with reasons.

    Parameters
    ----------
    data_dir : str or pathlib.Path
        As for `read`.

    Returns
    -------
    pandas.DataFrame
        ``source``, ``original_name``, ``reason``, and whether the file is ``present``.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "metadata.csv").write_text("patientid,sex,age,finding,view\\nCOVID-00002,M,50+,,AP erect\\n")
    >>> left_out(folder)[["original_name", "reason"]].values.tolist()
    [['COVID-00002.jpg', 'no finding stated']]
    """
    _, table = _table(data_dir)
    return left_out_rows("figure1", zip(table.path, table.path.map(lambda path: path.name), table.reason, strict=True))


def _table(data_dir):
    """Read ``metadata.csv``; ``path`` is each film's file, ``reason`` says why a row is left out, or nothing."""
    folder = find_folder(data_dir, "figure1", "metadata.csv", URL)
    table = read_table(folder / "metadata.csv", ("patientid", "sex", "age", "finding", "view"), "cp1252")
    files = {file.stem: file for file in find_images(folder / "images", "*")}
    # Never out of the folder, whatever the table says.
    table["name"] = table.patientid.map(lambda name: Path(name).name)
    table["path"] = table.name.map(lambda name: files.get(name, folder / "images" / f"{name}.jpg")).astype(object)
    table["reason"] = ""
    table.loc[table.finding == "", "reason"] = "no finding stated"
    table.loc[table.name.where(table.reason == "").duplicated() & (table.reason == ""), "reason"] = "a film named twice"
    return folder, table


def _row(row):
    name = row.name
    return {
        "image_id": f"figure1/{name}",
        "path": str(row.path),
        "original_name": row.path.name,
        "label": row.finding,
        "patient_id": name.rstrip("abcdefghijklmnopqrstuvwxyz"),
        "source": "figure1",
        "view": row.view,
        "age": row.age,
        "sex": row.sex,
        "license": "research use",
        "url": URL,
    }
