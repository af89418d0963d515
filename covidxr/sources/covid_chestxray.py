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
from covidxr.sources._rows import find_folder, manifest_rows, read_table

URL = "https://github.com/ieee8023/covid-chestxray-dataset"
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
    folder = find_folder(data_dir, "covid-chestxray-dataset", "metadata.csv", URL)
    table = read_table(folder / "metadata.csv", _NEEDED)
    frontal = table[(table.modality == "X-ray") & table.view.str.startswith(("PA", "AP"))]
    if frontal.empty:
        raise CovidxrError(f"{folder / 'metadata.csv'}: no row is a frontal X-ray (modality X-ray, view PA or AP)")
    rows = manifest_rows(_row(folder, row) for row in frontal.itertuples())
    return rows.drop_duplicates("image_id", ignore_index=True)


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
        "url": row.url,
    }
