"""A source's films out of a zip archive, or out of what kagglehub unpacked, into the folder they belong in and no other."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from covidxr.errors import CovidxrError
from covidxr.files import atomic_path
from covidxr.sources._download import MAX_FILE_BYTES, MAX_TOTAL_BYTES
from covidxr.sources._known import Known, measure, unfit
from covidxr.sources._ledger import incomplete, shorten
from covidxr.sources._origins import KAGGLE_ARCHIVE, KAGGLE_HANDLE, is_film_or_table

MAX_DIRECTORY_BYTES = 10_000_000  # an archive's list of its members; that of the Kaggle set has about 2 million
FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # RuntimeError: a password


class _Bounded(io.FileIO):
    """A file of which not too much is read at once: zipfile takes the list of members, however long, in one piece."""

    def read(self, size=-1):
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its list of files has more than {MAX_DIRECTORY_BYTES:,} bytes, the limit")
        return super().read(size)


def unpack(origin, archive, whence: str, ledger, done) -> None:
    """Take a source's films out of a zip archive.

    Parameters
    ----------
    origin : covidxr.sources._origins.Origin
        The source.
    archive : str or pathlib.Path
        The archive. One with a member that climbs out, is absolute or a symbolic link is refused whole.
    whence : str
        Where it came from, for the record.
    ledger : covidxr.sources._ledger.Ledger
        The record of the source's folder.
    done : covidxr.sources._ledger.Fetched
        The report, written to.

    Raises
    ------
    CovidxrError
        When it is no archive, holds none of the source's films, is hostile, or some of its films are broken.

    Examples
    --------
    >>> unpack(None, "no-such.zip", "by hand", None, None)
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: no-such.zip: no such file
    """
    if not Path(archive).is_file():
        folder = "a folder, not a zip archive; give it as the data folder" if Path(archive).is_dir() else "no such file"
        raise CovidxrError(f"{archive}: {folder}")
    with contextlib.ExitStack() as stack:
        try:
            packed = stack.enter_context(zipfile.ZipFile(stack.enter_context(_Bounded(archive))))
        except (*_BROKEN, ValueError, struct.error) as error:
            raise CovidxrError(f"{archive}: not a whole zip archive ({error}); get {origin.by_hand} again") from error
        openers = {path: partial(packed.open, info) for path, info in _choose(packed, origin, archive).items()}
        store(origin, openers, whence, ledger, done)


def _choose(packed, origin, archive):
    chosen = {}
    for info in packed.infolist():
        if reason := _hostile(info):
            raise CovidxrError(f"{archive}: refused, since its member {info.orig_filename!r} {reason}")
        match = re.fullmatch(origin.members, info.filename)
        if match and is_film_or_table(match["path"]):
            chosen.setdefault(match["path"], info)  # the Kaggle archive holds everything twice
    sizes = [info.file_size for info in chosen.values()]
    if max(sizes, default=0) > MAX_FILE_BYTES or sum(sizes) > MAX_TOTAL_BYTES:
        raise CovidxrError(
            f"{archive}: refused, since it unpacks to {sum(sizes):,} bytes, its largest file to {max(sizes):,}; "
            f"the limits are {MAX_TOTAL_BYTES:,} and {MAX_FILE_BYTES:,}"
        )
    return chosen


def _hostile(info):
    name = info.orig_filename  # before zipfile cuts it at a null byte
    if ".." in re.split(r"[/\\]", name) or re.match(r"[/\\]|[A-Za-z]:", name) or "\0" in name:
        return "would be written outside the data folder"
    if info.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):  # of the others, zipfile unpacks any amount at once
        return "is packed in another way than deflate"
    return "is a symbolic link" if stat.S_ISLNK(info.external_attr >> 16) else ""


def from_kagglehub(origin, ledger, done, scratch) -> None:
    """Fetch the Kaggle set through kagglehub, which needs no account for it, and store its films.

    Parameters
    ----------
    origin, ledger, done
        As for `unpack`.
    scratch : pathlib.Path
        Kagglehub's cache, so that it goes on where it stopped, and writes nothing elsewhere.

    Raises
    ------
    CovidxrError
        When kagglehub fails, with its reason and the way by hand.

    Examples
    --------
    >>> from_kagglehub(origin, ledger, done, Path("data/chest_xray/.partial"))  # doctest: +SKIP
    """
    import kagglehub  # a second to import

    with _kagglehub_cache(scratch):
        try:
            root = Path(kagglehub.dataset_download(f"{KAGGLE_HANDLE}/{origin.version}"))
        except Exception as error:  # kagglehub passes on what its libraries raise, without a common base
            if getattr(error, "errno", None) in FULL:
                raise
            said = re.sub(r"//[^/\s]+@", "//", f"{type(error).__name__}: {error}")  # without a proxy's password
            reason = " ".join(said.split())[:200]
            raise incomplete(origin, done, [KAGGLE_ARCHIVE], f"kagglehub could not fetch it ({reason})") from error
    films = {film.relative_to(root).as_posix(): film for film in sorted(root.rglob("*")) if film.is_file()}
    openers = {}
    for name, film in films.items():
        match = re.fullmatch(origin.members, name)
        if match and is_film_or_table(name):
            openers.setdefault(match["path"], partial(film.open, "rb"))
    store(origin, openers, origin.by_hand, ledger, done)


@contextlib.contextmanager
def _kagglehub_cache(folder):
    before = os.environ.get("KAGGLEHUB_CACHE")
    os.environ["KAGGLEHUB_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("KAGGLEHUB_CACHE")
        if before is not None:
            os.environ["KAGGLEHUB_CACHE"] = before


def store(origin, openers: dict, whence: str, ledger, done) -> None:
    """Write files that can be opened into a source's folder, each checked before it is moved into place.

    Parameters
    ----------
    origin, ledger, done
        As for `unpack`.
    openers : dict
        Path within the folder to a function that opens the file's bytes.
    whence : str
        Where they came from, for the record.

    Raises
    ------
    CovidxrError
        When there are none, or some are broken; the others are stored.

    Examples
    --------
    >>> from covidxr.sources._origins import ORIGINS
    >>> store(ORIGINS["figure1"], {}, "films.zip", None, None)
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: films.zip holds no films of figure1 where they are expected; get ...
    """
    if not any(path != origin.index for path in openers):
        raise CovidxrError(f"{whence} holds no films of {origin.name} where they are expected; get {origin.by_hand}")
    kept, changed, missing = ledger.sort_out(dict.fromkeys(openers, Known()))
    done.kept += kept
    broken = {}
    for path in tqdm(changed + missing, desc=origin.name, unit="file", leave=False, disable=None):
        try:
            known = _store_one(openers[path], path, ledger)
            done.note(path, known)
            ledger.record(path, known, whence)
        except _BROKEN as error:
            broken[path] = str(error)
    done.changed += [path for path in changed if path not in broken]
    if broken:
        raise CovidxrError(
            f"{whence}: {shorten(list(broken))} in it cannot be used ({next(iter(broken.values()))}); "
            f"the others are in {ledger.folder}; get {origin.by_hand} again"
        )


def _store_one(opener, path, ledger):
    with opener() as packed, atomic_path(ledger.folder / path) as temporary:
        with temporary.open("wb") as file:
            shutil.copyfileobj(packed, file)
        if reason := unfit(temporary, path, ledger.known(path)):
            raise zipfile.BadZipFile(reason)
        return measure(temporary)
