"""What the readers share: the manifest's columns and the shape of a row."""

from __future__ import annotations

import codecs
import io
import os
import re
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
_MOST_BYTES, _MOST_COLUMNS = 64_000_000, 1000  # of a table; the largest public ones have a tenth of that
# What a CSV file in UTF-8 does not give back: control characters, a carriage return alone, bytes of a file name that are not
# UTF-8 (surrogates to Python), and white space at either end.
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]|\r(?!\n)|^\s|\s\Z")
_SAVE_AS = "save it as comma-separated values in UTF-8 (in Excel: 'CSV UTF-8')"


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

    Raises
    ------
    CovidxrError
        When a value could not be read back from the manifest's CSV file: control characters, file names that are not UTF-8,
        white space at either end.

    Examples
    --------
    >>> rows = manifest_rows([{"image_id": "a", "path": "a.png", "label": "Normal", "patient_id": "1", "source": "mine"}])
    >>> rows.loc[0, ["label", "sex"]].tolist()
    ['Normal', '']
    """
    frame = pd.DataFrame(list(rows), dtype=object).reindex(columns=[*COLUMNS, *MASK_COLUMNS])
    ages = pd.to_numeric(frame.pop("age"), errors="coerce").astype(float)
    frame = frame.where(frame.notna(), "").map(str)
    check_writable(frame, "image", frame.image_id)
    frame = frame.astype(str)
    frame.insert(COLUMNS.index("age"), "age", ages)
    return frame


def check_writable(frame, kind, names, where="") -> None:
    """Refuse text that a CSV file would not give back as it is, naming its row and column."""
    for column in frame:
        found = [_UNWRITABLE.search(text) for text in frame[column]]
        if any(found):
            row = next(row for row, match in enumerate(found) if match)
            raise CovidxrError(
                f"{where}{kind} {names[row]!r}, {column} {frame[column].iloc[row]!r}: {found[row][0]!r} cannot be kept in a "
                "table; take it out (out of a file's or folder's name: rename it, in UTF-8)"
            )


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
    # A name that is not UTF-8 is written with backslashes: it is only reported.
    rows = [(path, str(name).encode("utf-8", "backslashreplace").decode(), reason) for path, name, reason in rows]
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


def read_table(path, needed, older=None) -> pd.DataFrame:
    """Read a CSV file of text columns, in UTF-8, or in UTF-16 with its byte-order mark.

    Parameters
    ----------
    path : str or pathlib.Path
        The file, of at most 64 MB.
    needed : iterable of str
        Columns that must be there.
    older : str, optional
        The encoding that a known file has where it is not UTF-8; that of unknown ones is not guessed.

    Returns
    -------
    pandas.DataFrame
        All columns as stripped strings, missing values as ``""``.

    Raises
    ------
    CovidxrError
        When the file is missing, empty, too large, in another encoding or not a table, is separated by anything but commas,
        has rows longer than its header, or lacks a column or names it twice; the error lists the columns it has.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "films.csv"
    >>> _ = path.write_text("path,label\\na.png, Normal\\n")
    >>> read_table(path, ["path", "label"]).values.tolist()
    [['a.png', 'Normal']]
    """
    text = _text_of(path, older)
    header = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    mark = next((mark for mark in (";", "\t", "|") if mark in header and "," not in header), "")
    if mark:
        raise CovidxrError(f"{path}: its columns are separated by {mark!r}, not by commas; {_SAVE_AS}")
    if header.count(",") >= _MOST_COLUMNS:
        raise CovidxrError(f"{path}: its header has {header.count(',') + 1} columns, {_MOST_COLUMNS} are the most")
    try:  # the header as a row like others, or pandas takes surplus fields for row names and renames a column named twice
        rows = pd.read_csv(io.StringIO(text), dtype=str, header=None, keep_default_na=False, skipinitialspace=True)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise CovidxrError(
            f"{path}: not a table of comma-separated values ({' '.join(str(error).split())}); quote fields that hold a comma"
        ) from error
    rows = rows.fillna("").apply(lambda column: column.str.strip())
    table = rows[1:].reset_index(drop=True).set_axis(rows.iloc[0], axis=1).rename_axis(columns=None)
    missing = [column for column in needed if column not in table]
    if missing:
        raise CovidxrError(f"{path}: no column {', '.join(missing)}; its columns are {', '.join(table.columns)}")
    twice = table.columns[table.columns.duplicated() & (table.columns != "")]
    if len(twice):
        raise CovidxrError(f"{path}: two columns are named {twice[0]!r}; its columns are {', '.join(table.columns)}")
    return table.loc[:, table.columns != ""]


def _text_of(path, older):
    try:
        size = os.path.getsize(path)
        content = Path(path).read_bytes() if size <= _MOST_BYTES else b""
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise CovidxrError(f"{path}: {reason}") from error
    if size > _MOST_BYTES:
        raise CovidxrError(f"{path}: has {size:,} bytes, a table of images at most {_MOST_BYTES:,}")
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        if marked or not older:
            line = content[: error.start].count(b"\n") + 1
            found = f"byte 0x{content[error.start]:02x} in line {line}"
            raise CovidxrError(f"{path}: not text in UTF-8, see {found}; {_SAVE_AS}") from error
        text = content.decode(older, "replace")
    if "\0" in text:  # UTF-16 without its mark, or no text at all
        raise CovidxrError(f"{path}: not text in UTF-8, it holds NUL bytes; {_SAVE_AS}")
    return text
