"""The Kaggle set "Chest X-Ray Images (Pneumonia)", the article's source of normal and bacterial films.

5,863 frontal films in ``train``, ``test`` (and ``val``) folders, NORMAL and PNEUMONIA, the latter with ``_bacteria_`` or
``_virus_`` in the file name. Retrospective, anterior-posterior, of children aged one to five at Guangzhou Women and
Children's Medical Center. Licence CC BY 4.0.

References
----------
Kermany D. S. et al., Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep Learning, Cell 172, 2018.
https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia
"""

from __future__ import annotations

import re

from covidxr.sources._rows import find_folder, find_images, left_out_rows, manifest_rows
from covidxr.sources._version import version_of

URL = "https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia"
VERSION = "versions/2"
_PNEUMONIA = re.compile(r"(?P<patient>person\d+)_(?P<kind>bacteria|virus)_", re.IGNORECASE)
_NORMAL = re.compile(r"(?P<patient>(?:NORMAL\d*-)?IM-\d+)", re.IGNORECASE)


def read(data_dir):
    """List the films of the Kaggle set as manifest rows.

    Parameters
    ----------
    data_dir : str or pathlib.Path
        The ``chest_xray`` folder or the folder it lies in.

    Returns
    -------
    pandas.DataFrame
        Manifest rows labelled ``Normal``, ``Bacteria`` or ``Virus``. Patient numbers restart between the set's own train
        and test folders, so the folder is part of the patient id; ``val`` is a part of train that Kaggle set aside, and
        its patients are train's. Sex is not known; age only as one to five years, so it is left empty.

    Raises
    ------
    CovidxrError
        When the folder is not there.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> film = pathlib.Path(tempfile.mkdtemp()) / "chest_xray/train/PNEUMONIA/person7_virus_29.jpeg"
    >>> film.parent.mkdir(parents=True); film.touch()
    >>> read(film.parents[3])[["label", "patient_id"]].values.tolist()
    [['Virus', 'train-person7']]
    """
    folder = find_folder(data_dir, "chest_xray", "train", URL)
    version = version_of(folder, "kaggle-chest-xray", VERSION)
    films = find_images(folder, "*/*/*")
    return manifest_rows(row | {"version": version} for film in films if (row := _row(film, folder)))


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
    >>> film = pathlib.Path(tempfile.mkdtemp()) / "chest_xray/train/PNEUMONIA/no_number.jpeg"
    >>> film.parent.mkdir(parents=True); film.touch()
    >>> left_out(film.parents[3]).reason.tolist()
    ['its name tells no patient or cause']
    """
    folder = find_folder(data_dir, "chest_xray", "train", URL)
    films = [film for film in find_images(folder, "*/*/*") if _row(film, folder) is None]
    reason = "its name tells no patient or cause"
    return left_out_rows("kaggle-chest-xray", ((film, film.relative_to(folder).as_posix(), reason) for film in films))


def _row(film, folder):
    part, kind = film.parent.parent.name, film.parent.name
    match = {"NORMAL": _NORMAL, "PNEUMONIA": _PNEUMONIA}.get(kind, re.compile("$^")).match(film.name)
    if match is None:
        return None
    label = "Normal" if kind == "NORMAL" else match["kind"].capitalize()
    return {
        "image_id": f"kaggle-chest-xray/{film.relative_to(folder).as_posix()}",
        "path": str(film),
        "label": label,
        "patient_id": f"{'train' if part == 'val' else part}-{match['patient']}",
        "source": "kaggle-chest-xray",
        "view": "AP",
        "license": "CC BY 4.0",
        "url": URL,
        "original_name": film.relative_to(folder).as_posix(),
    }
