"""What is known of a source's files: the package's frozen list, and how a file is compared with it.

The frozen list, ``frozen.csv``, names files with size and SHA-256 sum as far as they are known. The sums of the two
``metadata.csv`` are those of the pinned commits; for films no sum was published.
"""

from __future__ import annotations

import csv
import hashlib
import re
import threading
import zipfile
from pathlib import Path
from typing import NamedTuple

from pooch import file_hash

from covidxr.decode import IMAGE_SUFFIXES, DecodeError, decode
from covidxr.errors import CovidxrError
from covidxr.files import read_json

_ONE_AT_A_TIME = threading.Lock()  # however many files arrive at once, memory is for one image of the largest size
_FROZEN = Path(__file__).with_name("frozen.csv")
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_IMAGE_STARTS = (b"\xff\xd8\xff", _PNG, b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")


class Known(NamedTuple):
    """What is known of a file: ``size`` in bytes, ``sha256``, and ``git_sha1``, the sum that git keeps; or nothing."""

    size: int | None = None
    sha256: str = ""
    git_sha1: str = ""

    def filled(self, other: Known) -> Known:
        """Fill what is not known from `other`.

        Parameters
        ----------
        other : Known
            A second opinion.

        Returns
        -------
        Known

        Examples
        --------
        >>> Known(size=3).filled(Known(size=4, sha256="ab"))
        Known(size=3, sha256='ab', git_sha1='')
        """
        return Known(*(other_one if one in (None, "") else one for one, other_one in zip(self, other, strict=True)))


def measure(path) -> Known:
    """Measure a file.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    Known
        Its size and SHA-256 sum.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a"
    >>> _ = path.write_bytes(b"film")
    >>> measure(path).size
    4
    """
    return Known(Path(path).stat().st_size, file_hash(str(path)))


def mismatch(path, known: Known) -> str:
    """Say how a file differs from what is known of it.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    known : Known
        What it should be.

    Returns
    -------
    str
        Empty when it fits.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a"
    >>> _ = path.write_bytes(b"film")
    >>> mismatch(path, Known(size=5)), mismatch(path, Known(git_sha1="0")), mismatch(path, measure(path))
    ('4 bytes instead of 5', 'another git checksum than that of its commit', '')
    """
    size = Path(path).stat().st_size
    if known.size not in (None, size):
        return f"{size:,} bytes instead of {known.size:,}"
    if known.sha256 and file_hash(str(path)) != known.sha256:
        return "another SHA-256 sum than the one known"
    if known.git_sha1 and _git_sha1(path) != known.git_sha1:
        return "another git checksum than that of its commit"
    return ""


def unfit(path, name: str, known: Known) -> str:
    """Say why a file cannot be the one that it is taken for.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    name : str
        The name that it has or is going to have.
    known : Known
        What it should be. Without a checksum it must be whole: an image is decoded, a table and a list are read to
        their ends, a zip archive has to have its directory, which stands there.

    Returns
    -------
    str
        Empty when it may be.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a"
    >>> _ = path.write_text("<html>Please log in</html>")
    >>> unfit(path, "film.png", Known())
    "not an image: it begins with b'<html>Please log'"
    """
    checked = known.sha256 or known.git_sha1
    return mismatch(path, known) or ("" if checked else _implausible(path, Path(name).suffix.lower()))


def _implausible(path, suffix):
    with open(path, "rb") as file:
        start = file.read(16)
    if suffix in IMAGE_SUFFIXES:
        return _broken_image(path) if start.startswith(_IMAGE_STARTS) else f"not an image: it begins with {start!r}"
    if suffix == ".csv":
        return (
            _broken_table(path) if start.lstrip()[:1] not in (b"", b"<") else f"not a table: it begins with {start!r}"
        )
    if suffix == ".zip":
        return "" if zipfile.is_zipfile(path) else f"not a whole zip archive: it begins with {start!r}"
    try:
        return "" if suffix != ".json" or read_listing(path) else "an empty list of files"
    except CovidxrError:
        return "not GitHub's whole list of the commit's files"


def _broken_image(path):
    content = Path(path).read_bytes()
    if content.startswith(_PNG) and _PNG_END not in content:  # its pixels may all be there
        return "not a whole image: the end of a PNG file is missing"
    try:
        with _ONE_AT_A_TIME:
            decode(path, 32)
    except DecodeError as error:
        return "" if error.reason.startswith("no contrast") else f"not a whole image: {error.reason}"
    return ""


def _broken_table(path):
    try:
        with open(path, encoding="latin-1", newline="") as file:  # any bytes: its reader sees to the letters
            widths = {len(row) for row in csv.reader(file, strict=True) if row}
    except csv.Error as error:
        return f"not a whole table: {error}"
    return "" if len(widths) == 1 else "not a whole table: its rows differ in length"


def read_listing(path) -> dict[str, Known]:
    """Read GitHub's list of a commit's files.

    Parameters
    ----------
    path : str or pathlib.Path
        The JSON file.

    Returns
    -------
    dict
        Path within the repository to what is known of the file.

    Raises
    ------
    CovidxrError
        When it is no such list, or not the whole one.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "listing.json"
    >>> _ = path.write_text('{"tree": [{"path": "a.png", "size": 3, "sha": "ab12"}]}')
    >>> read_listing(path)
    {'a.png': Known(size=3, sha256='', git_sha1='ab12')}
    """
    try:
        listing = read_json(path, checked=False)
        known = {entry["path"]: Known(entry.get("size"), git_sha1=entry["sha"]) for entry in listing["tree"]}
        whole = not listing.get("truncated") and all(map(is_plausible, known, known.values()))
    except (CovidxrError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise CovidxrError(f"{path}: not GitHub's whole list of a commit's files; delete it and try again")
    return known


def is_plausible(path, known: Known) -> bool:
    """Tell whether a path and what a JSON file says of it are of the right types."""
    size = known.size is None or (type(known.size) is int and known.size >= 0)
    sums = all(isinstance(one, str) and re.fullmatch("[0-9a-f]*", one) for one in (known.sha256, known.git_sha1))
    return isinstance(path, str) and size and sums


def _git_sha1(path):
    content = Path(path).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def frozen(source: str) -> dict[str, Known]:
    """List the files that the package knows of a source.

    Parameters
    ----------
    source : str
        Its name.

    Returns
    -------
    dict
        Path within the source's folder to what is known of the file.

    Examples
    --------
    >>> frozen("figure1")["metadata.csv"].size
    9246
    """
    with _FROZEN.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source]
    return {row["path"]: Known(int(row["size"]) if row["size"] else None, row["sha256"]) for row in rows}
