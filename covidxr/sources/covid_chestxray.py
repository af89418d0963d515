"""covid-chestxray-dataset by Cohen et al., the article's source of COVID-19 films.

Films from publications and public case collections, of adults all over the world; ``metadata.csv`` gives patient, age,
sex, view, finding and, image by image, the licence (many blank). At commit 65b61b4 (2020-04-17): 338 rows, 231 COVID-19
X-rays, 211 of them frontal.

References
----------
Cohen J. P., Morrison P., Dao L., COVID-19 image data collection, arXiv:2003.11597, 2020.
https://github.com/ieee8023/covid-chestxray-dataset
"""

from __future__ import annotations

from pathlib import Path

from covidxr.errors import CovidxrError
from covidxr.sources._rows import find_folder, left_out_rows, manifest_rows, read_table
from covidxr.sources._version import version_of

URL = "https://github.com/ieee8023/covid-chestxray-dataset"
VERSION = "65b61b403b86a4cebff1fc4451a220feb24ccb33"  # 2020-04-17
_NEEDED = ("patientid", "finding", "view", "modality", "filename", "age", "sex", "license", "url")


def read(data_dir):
    """List the frontal X-rays of covid-chestxray-dataset as manifest rows.

    Parameters
    ----------
    data_dir : str or pathlib.Path
        The repository's folder ``covid-chestxray-dataset`` or the folder it lies in.

    Returns
    -------
    pandas.DataFrame
        Manifest rows. Every finding that names ``COVID-19`` is labelled so; ``No Finding`` is written ``No finding``; all
        others keep their name. Rows of CTs and lateral views and repeated files are left out; rows whose file is absent
        stay in, and are rejected with that reason when they are decoded. Files are looked for in ``images`` alone.

    Raises
    ------
    CovidxrError
        When the folder is not there or ``metadata.csv`` lacks a column.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "metadata.csv").write_text(",".join(_NEEDED) + "\\n2,COVID-19,PA,X-ray,a.jpg,65,M,,\\n")
    >>> read(folder)[["label", "patient_id", "view"]].values.tolist()
    [['COVID-19', '2', 'PA']]
    """
    folder, table = _table(data_dir)
    kept = table[table.reason == ""]
    if kept.empty:
        raise CovidxrError(f"{folder / 'metadata.csv'}: no row is a frontal X-ray (modality X-ray, view PA or AP)")
    version = version_of(folder, "covid-chestxray", VERSION)
    return manifest_rows(_row(folder, row) | {"version": version} for row in kept.itertuples())


def left_out(data_dir):
    """List the rows of ``metadata.csv`` that `read` leaves out, and those it keeps whose file is absent, with reasons.

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
    >>> _ = (folder / "metadata.csv").write_text(",".join(_NEEDED) + "\\n2,COVID-19,Axial,CT,a.jpg,65,M,,\\n")
    >>> left_out(folder)[["original_name", "reason", "present"]].values.tolist()
    [['a.jpg', 'not an X-ray but CT', False]]
    """
    folder, table = _table(data_dir)
    names = table.filename.map(lambda name: Path(name).name)
    rows = zip(names.map(lambda name: folder / "images" / name), table.filename, table.reason, strict=True)
    return left_out_rows("covid-chestxray", rows)


def _table(data_dir):
    """Read ``metadata.csv``; ``reason`` says why a row is left out, or nothing."""
    folder = find_folder(data_dir, "covid-chestxray-dataset", "metadata.csv", URL)
    table = read_table(folder / "metadata.csv", _NEEDED, "cp1252")
    table["reason"] = ""
    table.loc[~table.view.str.startswith(("PA", "AP")), "reason"] = "not a frontal view"
    table.loc[table.modality != "X-ray", "reason"] = "not an X-ray but " + table.modality.replace("", "not stated")
    names = table.filename.map(lambda name: Path(name).name)
    table.loc[names.where(table.reason == "").duplicated() & (table.reason == ""), "reason"] = "a file named twice"
    return folder, table


def _row(folder, row):
    finding = "COVID-19" if "COVID-19" in row.finding else row.finding.replace("No Finding", "No finding")
    name = Path(row.filename).name  # never out of the folder, whatever the table says
    return {
        "image_id": f"covid-chestxray/{name}",
        "path": str(folder / "images" / name),
        "label": finding,
        "patient_id": row.patientid,
        "source": "covid-chestxray",
        "view": row.view,
        "age": row.age,
        "sex": row.sex,
        "license": row.license,
        "url": row.url or URL,
        "original_name": row.filename,
    }
