"""The manifest, one row per image: schema, validation, patient keys, CSV in and out."""

from __future__ import annotations

import codecs
import io
import os
import re
from pathlib import Path

import pandas as pd

from covidxr.utils import CovidxrError

DICOM_SUFFIXES = (".dcm", ".dicom")

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", *DICOM_SUFFIXES)


SPLITS = ("train", "validation", "test")


def check_manifest(manifest) -> pd.DataFrame:
    """Refuse a manifest without its columns, without rows or with repeated image ids."""
    missing = [column for column in COLUMNS if column not in manifest]
    if missing:
        raise CovidxrError(f"the manifest has no column {', '.join(missing)}")
    if manifest.empty:
        raise CovidxrError("the manifest has no rows: no images were found")
    twice = manifest.image_id[manifest.image_id.duplicated()]
    if len(twice):
        raise CovidxrError(f"{len(twice)} image ids occur twice in the manifest, the first is {twice.iloc[0]!r}")
    return manifest


def is_phantom(source) -> bool:
    """Whether the images of a source, such as ``phantom`` or ``phantom-north``, or of a set made from one are drawn."""
    return re.fullmatch(r"phantom(-[\w-]+)?(, .*)?", str(source)) is not None


def patient_keys(manifest: pd.DataFrame) -> pd.Series:
    """Identify each image's patient uniquely across sources.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``source`` and ``patient_id``, which is unique only within its source.

    Returns
    -------
    pandas.Series
        Strings ``source/patient_id``, row by row; a slash in the source's name is written ``%2F``.

    Examples
    --------
    >>> patient_keys(pd.DataFrame({"source": ["here", "there", "a/b"], "patient_id": ["7", "7", "7"]})).tolist()
    ['here/7', 'there/7', 'a%2Fb/7']
    """
    source = manifest.source.str.replace("%", "%25", regex=False).str.replace("/", "%2F", regex=False)
    return source + "/" + manifest.patient_id


COLUMNS = (
    "image_id", "path", "label", "patient_id", "source", "view", "age", "sex", "license", "url", "sha256", "split",
    "version", "original_name", "duplicate_group",
)  # fmt: skip

EXCLUDED_COLUMNS = ("source", "original_name", "reason", "present")

MASK_COLUMNS = ("lung_mask", "lesion_mask")

_MAX_BYTES, _MAX_COLUMNS = 64_000_000, 1000  # of a table; the largest public ones have a tenth of that

# What a CSV file in UTF-8 does not give back: control characters, a carriage return alone, bytes of a file name that are not
# UTF-8 (surrogates to Python), and white space at either end.
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]|\r(?!\n)|^\s|\s\Z")

_SAVE_AS = "save it as comma-separated values in UTF-8 (in Excel: 'CSV UTF-8')"


def manifest_rows(rows) -> pd.DataFrame:
    """Put rows into the manifest's columns; unknown values stay empty."""
    frame = pd.DataFrame(list(rows), dtype=object).reindex(columns=[*COLUMNS, *MASK_COLUMNS])
    ages = pd.to_numeric(frame.pop("age"), errors="coerce").astype(float)
    frame = frame.where(frame.notna(), "").map(str)
    check_writable(frame, "image", frame.image_id)
    frame = frame.astype(str)
    frame.insert(COLUMNS.index("age"), "age", ages)
    return frame


def check_writable(frame, kind, names, where="") -> None:
    """Refuse text that does not survive a CSV file unchanged, naming its row and column."""
    for column in frame:
        found = [_UNWRITABLE.search(text) for text in frame[column]]
        if any(found):
            row = next(row for row, match in enumerate(found) if match)
            raise CovidxrError(
                f"{where}{kind} {names[row]!r}, {column} {frame[column].iloc[row]!r}: {found[row][0]!r} cannot be kept in a "
                "table; take it out (out of a file's or folder's name: rename it, in UTF-8)"
            )


def listed_rows(rows) -> pd.DataFrame:
    """Collect all that a source lists, with a last column ``excluded``: the reason, or ``""`` if used."""
    return pd.DataFrame(list(rows), columns=[*COLUMNS, "excluded"], dtype=object)


def used_rows(listed) -> pd.DataFrame:
    """Make manifest rows of what a source lists and uses."""
    return manifest_rows(listed[listed.excluded == ""].to_dict("records")) if "excluded" in listed else listed


def excluded_rows(listed) -> pd.DataFrame:
    """Select the rows that a source excludes, and used ones whose file is missing, with the reason."""
    found = pd.DataFrame({
        "source": listed.source,
        # A name that is not UTF-8 is written with backslashes: it is only reported.
        "original_name": [name.encode("utf-8", "backslashreplace").decode() for name in listed.original_name],
        "reason": listed.get("excluded", ""),
        "present": [os.path.isfile(path) for path in listed.path],
    })  # fmt: skip
    found.loc[(found.reason == "") & ~found.present, "reason"] = "no such file"
    return found[found.reason != ""]


def find_folder(data_dir, name: str, must_hold: str, where: str) -> Path:
    """Find a source's folder, given either itself or the folder it lies in."""
    if data_dir is not None:
        for folder in (Path(data_dir) / name, Path(data_dir)):
            if (folder / must_hold).exists():
                return folder
    place = f"in data folder {str(data_dir)!r}" if data_dir is not None else "known, since no data folder was named"
    raise CovidxrError(
        f"no {name}/{must_hold} {place}; download it with covidxr data, or get the data from {where} and name "
        "its folder with DATA_DIR=… or --data-dir"
    )


def find_images(folder, pattern: str) -> list:
    """List the image files in a folder, by name."""
    images = Path(folder).glob(pattern)
    return sorted(
        image for image in images if image.suffix.lower() in IMAGE_SUFFIXES and not image.name.startswith(".")
    )


def read_table(path, needed, older=None) -> pd.DataFrame:
    """Read a CSV file of text columns, in UTF-8, or in UTF-16 with its byte-order mark."""
    text = _text_of(path, older)
    header = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    mark = next((mark for mark in (";", "\t", "|") if mark in header and "," not in header), "")
    if mark:
        raise CovidxrError(f"{path}: its columns are separated by {mark!r}, not by commas; {_SAVE_AS}")
    if header.count(",") >= _MAX_COLUMNS:
        raise CovidxrError(f"{path}: its header has {header.count(',') + 1} columns, {_MAX_COLUMNS} are the most")
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
        content = Path(path).read_bytes() if size <= _MAX_BYTES else b""
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise CovidxrError(f"{path}: {reason}") from error
    if size > _MAX_BYTES:
        raise CovidxrError(f"{path}: has {size:,} bytes, a table of images at most {_MAX_BYTES:,}")
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
