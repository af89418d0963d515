"""What the readers share: the manifest's columns and the shape of a row."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from covidxr.decode import IMAGE_SUFFIXES
from covidxr.errors import CovidxrError

COLUMNS = (
    "image_id", "path", "label", "patient_id", "source", "view", "age", "sex", "license", "url", "sha256", "split",
    "version", "original_name", "twins",
)  # fmt: skip
LEFT_OUT_COLUMNS = ("source", "original_name", "reason", "present")
MASK_COLUMNS = ("lung_mask", "lesion_mask")


def manifest_rows(rows) -> pd.DataFrame:
    """Put rows into the manifest's columns; what a source does not know stays empty.

    Parameters
    ----------
    rows : iterable of dict
        At least ``image_id``, ``path``, ``label``, ``patient_id`` and ``source`` in each.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS` and `MASK_COLUMNS`; ``age`` in years as ``float64``, the others strings.

    Examples
    --------
    >>> rows = manifest_rows([{"image_id": "a", "path": "a.png", "label": "Normal", "patient_id": "1", "source": "mine"}])
    >>> rows.loc[0, ["label", "sex"]].tolist()
    ['Normal', '']
    """
    frame = pd.DataFrame(list(rows)).reindex(columns=[*COLUMNS, *MASK_COLUMNS])
    ages = pd.to_numeric(frame.pop("age"), errors="coerce").astype(float)
    frame = frame.astype(object).where(frame.notna(), "").astype(str)
    frame.insert(COLUMNS.index("age"), "age", ages)
    return frame


def left_out_rows(source: str, rows) -> pd.DataFrame:
    """Put what a reader leaves out, with the reason, into one table.

    Parameters
    ----------
    source : str
        The source's name.
    rows : iterable of tuple
        Path of each film, its name in the source, and the reason, or ``""``: then it is left out only if it is absent.

    Returns
    -------
    pandas.DataFrame
        Columns `LEFT_OUT_COLUMNS`; ``present`` tells whether the file is there.

    Examples
    --------
    >>> left_out_rows("figure1", [("no-such.png", "no-such.png", "")]).reason.tolist()
    ['no such file']
    """
    found = [(source, name, reason, os.path.isfile(path)) for path, name, reason in rows]
    kept = [(source, name, reason or "no such file", here) for _, name, reason, here in found if reason or not here]
    return pd.DataFrame(kept, columns=list(LEFT_OUT_COLUMNS))


def find_folder(data_dir, name: str, must_hold: str, where: str) -> Path:
    """Find a source's folder, given either itself or the folder it lies in.

    Parameters
    ----------
    data_dir : str or pathlib.Path or None
        The folder that the user named.
    name : str
        The source's own folder name.
    must_hold : str
        A file or folder inside it by which it is known.
    where : str
        Where the data come from, for the error message.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    CovidxrError
        When neither holds `must_hold`.

    Examples
    --------
    >>> find_folder("nowhere", "chest_xray", "train", "the web")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: no chest_xray/train in data folder 'nowhere'; fetch it with python -m covidxr.data, or get the data from the web and name its folder with DATA_DIR=… or --data-dir
    """
    if data_dir is not None:
        for folder in (Path(data_dir) / name, Path(data_dir)):
            if (folder / must_hold).exists():
                return folder
    place = f"in data folder {str(data_dir)!r}" if data_dir is not None else "known, since no data folder was named"
    raise CovidxrError(
        f"no {name}/{must_hold} {place}; fetch it with python -m covidxr.data, or get the data from {where} and name "
        "its folder with DATA_DIR=… or --data-dir"
    )


def find_images(folder, pattern: str) -> list:
    """List the image files in a folder, by name.

    Parameters
    ----------
    folder : str or pathlib.Path
        The folder; nothing is found in one that does not exist.
    pattern : str
        A glob pattern, such as ``"*/*"`` for the files in its sub-folders.

    Returns
    -------
    list of pathlib.Path
        Sorted; without hidden files, such as the ``._film.png`` that macOS leaves beside ``film.png``.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.PNG", "a.jpeg", "._a.jpeg", "Thumbs.db"):
    ...     (folder / name).touch()
    >>> [film.name for film in find_images(folder, "*")]
    ['a.jpeg', 'b.PNG']
    """
    films = Path(folder).glob(pattern)
    return sorted(film for film in films if film.suffix.lower() in IMAGE_SUFFIXES and not film.name.startswith("."))


def read_table(path, needed) -> pd.DataFrame:
    """Read a CSV file of text columns, in UTF-8 or, failing that, Latin-1.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    needed : iterable of str
        Columns that must be there.

    Returns
    -------
    pandas.DataFrame
        All columns as stripped strings, missing values as ``""``.

    Raises
    ------
    CovidxrError
        When the file is missing, empty or not a table, has rows longer than its header, or lacks a column; the error
        lists the columns it has.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "films.csv"
    >>> _ = path.write_text("path,label\\na.png, Normal\\n")
    >>> read_table(path, ["path", "label"]).values.tolist()
    [['a.png', 'Normal']]
    """
    try:
        table = _read_csv(path)
    except FileNotFoundError as error:
        raise CovidxrError(f"{path}: no such file") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise CovidxrError(f"{path}: not a table of comma-separated values ({str(error).strip()})") from error
    if len(table) and not isinstance(table.index, pd.RangeIndex):  # pandas takes the surplus for row names
        raise CovidxrError(f"{path}: its rows have more fields than its header; quote fields that hold a comma")
    table.columns = table.columns.str.strip()
    missing = [column for column in needed if column not in table]
    if missing:
        raise CovidxrError(f"{path}: no column {', '.join(missing)}; its columns are {', '.join(table.columns)}")
    return table.apply(lambda column: column.str.strip())


def _read_csv(path):
    options = {"dtype": str, "keep_default_na": False, "skipinitialspace": True}
    try:
        return pd.read_csv(path, encoding="utf-8-sig", **options)
    except UnicodeDecodeError:
        return pd.read_csv(path, encoding="latin-1", **options)
