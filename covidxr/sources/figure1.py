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

from covidxr.sources._rows import find_folder, find_images, manifest_rows, read_table

URL = "https://github.com/agchung/Figure1-COVID-chestxray-dataset"


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
    folder = find_folder(data_dir, "figure1", "metadata.csv", URL)
    table = read_table(folder / "metadata.csv", ("patientid", "sex", "age", "finding", "view"))
    files = {file.stem: file for file in find_images(folder / "images", "*")}
    rows = manifest_rows(_row(folder, files, row) for row in table[table.finding != ""].itertuples())
    return rows.drop_duplicates("image_id", ignore_index=True)


def _row(folder, files, row):
    name = Path(row.patientid).name  # never out of the folder, whatever the table says
    return {
        "image_id": f"figure1/{name}",
        "path": str(files.get(name, folder / "images" / f"{name}.jpg")),
        "label": row.finding,
        "patient_id": name.rstrip("abcdefghijklmnopqrstuvwxyz"),
        "source": "figure1",
        "view": row.view,
        "age": row.age,
        "sex": row.sex,
        "license": "research use",
        "url": URL,
    }
