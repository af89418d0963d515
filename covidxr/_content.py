"""What files hold, as one sum each: equal for equal content, whatever differs from run to run without meaning anything."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path

_MASKS = ("lung_mask", "lesion_mask")
_BLOCK = 1 << 20
_OF_A_RUN = ("date_saved", "shared_object_id")  # what Keras writes of the moment, and of the place in memory


def digest(value) -> str:
    """SHA-256 sum of a value as JSON.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def content(path) -> str | None:
    """Sum of a file's content, None where there is no such file.

    A Keras file counts without the date and the addresses that are written into it, a table without the folders in its paths: both differ
    between runs that are the same. Masks that a table names count as what they show.

    Examples
    --------
    >>> content("no/such/file.csv")
    """
    path = Path(path)
    try:
        return _BY_SUFFIX.get(path.suffix, _plain)(path)
    except (OSError, ValueError):  # not there, a folder, or a name that no file can have
        return None


def _plain(path):
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def _keras(path):
    """A zip file; whatever cannot be read as Keras writes it is compared byte by byte."""
    try:
        with zipfile.ZipFile(path) as members:
            return digest({name: _member(members, name) for name in members.namelist()})
    except Exception:  # zipfile, zlib and json raise half a dozen kinds on a damaged file
        return _plain(path)


def _member(members, name):
    held = members.read(name)
    if not name.endswith(".json"):
        return hashlib.sha256(held).hexdigest()
    return json.loads(
        held, object_hook=lambda found: {key: value for key, value in found.items() if key not in _OF_A_RUN}
    )


def _table(path):
    """A table that names no files is compared byte by byte, as is one that is damaged."""
    raw = path.read_bytes()
    try:
        rows = list(csv.DictReader(io.StringIO(raw.decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        return hashlib.sha256(raw).hexdigest()
    if not rows or not {"path", *_MASKS} & set(rows[0]):
        return hashlib.sha256(raw).hexdigest()
    return digest([_row(row, path.parent) for row in rows])


def _row(row, folder):
    """A row without the folders in its paths: an image as its name and whether it is there, a mask as what it shows."""
    named = {}
    if row.get("path"):
        named["path"] = [Path(row["path"]).name, (folder / row["path"]).is_file()]
    named |= {mask: content(folder / row[mask]) for mask in _MASKS if row.get(mask)}
    return sorted(((str(name), value) for name, value in {**row, **named}.items()), key=lambda item: item[0])


_BY_SUFFIX = {".keras": _keras, ".csv": _table}
