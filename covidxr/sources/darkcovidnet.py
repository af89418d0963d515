"""The films of adults gathered for DarkCovidNet: NIH ChestX-ray8 without findings, and with pneumonia.

Folder ``X-Ray Image DataSet`` of github muhammedtalo/COVID-19 at commit ee3e2cf: ``No_findings`` (500) and ``Pneumonia``
(500) from NIH ChestX-ray8, United States, mostly adults, PA and AP mixed; file names are ``patient_film.png``. Its third
folder, ``Covid-19``, repeats covid-chestxray-dataset and is not read. NIH: free use with attribution.

References
----------
Ozturk T. et al., Automated detection of COVID-19 cases using deep neural networks with X-ray images, Comput. Biol. Med.
121, 2020; Wang X. et al., ChestX-ray8, CVPR 2017.
https://github.com/muhammedtalo/COVID-19
"""

from __future__ import annotations

from covidxr.sources._rows import find_folder, find_images, left_out_rows, manifest_rows
from covidxr.sources._version import version_of

URL = "https://github.com/muhammedtalo/COVID-19"
VERSION = "ee3e2cffc0824711bed675275506b26f19be7198"
LABELS = {"No_findings": "No finding", "Pneumonia": "Pneumonia"}


def read(data_dir):
    """List the adults' films of the DarkCovidNet collection as manifest rows.

    Parameters
    ----------
    data_dir : str or pathlib.Path
        The folder that holds ``X-Ray Image DataSet``, or the folder above it, where it is called ``darkcovidnet``.

    Returns
    -------
    pandas.DataFrame
        Manifest rows labelled ``No finding`` or ``Pneumonia`` (of no stated cause); age, sex and view are not given.

    Raises
    ------
    CovidxrError
        When the folder is not there.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> film = pathlib.Path(tempfile.mkdtemp()) / "X-Ray Image DataSet/No_findings/00001281_000.png"
    >>> film.parent.mkdir(parents=True); film.touch()
    >>> read(film.parents[2])[["label", "patient_id"]].values.tolist()
    [['No finding', '00001281']]
    """
    folder, films = _films(data_dir)
    version = version_of(folder, "darkcovidnet", VERSION)
    return manifest_rows(
        {
            "image_id": f"darkcovidnet/{film.parent.name}/{film.name}",
            "path": str(film),
            "label": LABELS[film.parent.name],
            "patient_id": film.stem.split("_")[0],
            "source": "darkcovidnet",
            "license": "NIH, free use with attribution",
            "url": URL,
            "version": version,
            "original_name": f"{film.parent.name}/{film.name}",
        }
        for film in films
        if film.parent.name in LABELS
    )


def left_out(data_dir):
    """List the films that `read` leaves out, with reasons.

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
    >>> film = pathlib.Path(tempfile.mkdtemp()) / "X-Ray Image DataSet/Covid-19/01.jpeg"
    >>> film.parent.mkdir(parents=True); film.touch()
    >>> left_out(film.parents[2])[["original_name", "reason"]].values.tolist()
    [['Covid-19/01.jpeg', "repeats covid-chestxray's films"]]
    """
    films = _films(data_dir)[1]
    reasons = {**dict.fromkeys(LABELS, ""), "Covid-19": "repeats covid-chestxray's films"}
    rows = (
        (film, f"{film.parent.name}/{film.name}", reasons.get(film.parent.name, "an unknown folder")) for film in films
    )
    return left_out_rows("darkcovidnet", rows)


def _films(data_dir):
    folder = find_folder(data_dir, "darkcovidnet", "X-Ray Image DataSet", URL)
    return folder, find_images(folder / "X-Ray Image DataSet", "*/*")
