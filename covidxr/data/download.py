"""Verified, size-limited, resumable downloads of the public collections."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import http.client
import io
import os
import re
import shutil
import socket
import stat
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

import requests
import urllib3
from pooch import file_hash
from tqdm.auto import tqdm

from covidxr.data.images import DecodeError, read_image
from covidxr.data.manifest import IMAGE_SUFFIXES, find_images
from covidxr.utils import CovidxrError, atomic_path, read_json, sweep_leftovers, write_json

KAGGLE_HANDLE = "paultimothymooney/chest-xray-pneumonia"

_KAGGLE_ARCHIVE = "chest-xray-pneumonia.zip"


def is_image_or_table(path: str) -> bool:
    """Tell whether a path is that of an image or of ``metadata.csv``; hidden files and names no file can have are neither."""
    name = PurePosixPath(path)
    if re.search(r"[\x00-\x1f\\\ud800-\udfff]", path):
        return False
    return (name.suffix.lower() in IMAGE_SUFFIXES or path == "metadata.csv") and not name.name.startswith(".")


_ONE_AT_A_TIME = threading.Lock()  # however many files arrive at once, memory is for one image of the largest size

_KNOWN_FILES = Path(__file__).with_name("known_files.csv")

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"

_IMAGE_STARTS = (b"\xff\xd8\xff", _PNG, b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")


class FileInfo(NamedTuple):
    """What is known of a file: ``size`` in bytes, ``sha256``, and ``git_sha1``, the sum that git keeps; or nothing."""

    size: int | None = None
    sha256: str = ""
    git_sha1: str = ""

    def filled(self, other: FileInfo) -> FileInfo:
        """Fill what is not known from `other`."""
        return FileInfo(*(other_one if one in (None, "") else one for one, other_one in zip(self, other, strict=True)))


def _file_info(path) -> FileInfo:
    """Measure a file."""
    return FileInfo(Path(path).stat().st_size, file_hash(str(path)))


def checksum_error(path, known: FileInfo) -> str:
    """Say how a file differs from what is known of it."""
    size = Path(path).stat().st_size
    if known.size not in (None, size):
        return f"{size:,} bytes instead of {known.size:,}"
    if known.sha256 and file_hash(str(path)) != known.sha256:
        return "another SHA-256 sum than the one known"
    if known.git_sha1 and _git_sha1(path) != known.git_sha1:
        return "another git checksum than that of its commit"
    return ""


def verification_error(path, name: str, known: FileInfo) -> str:
    """Say why a file cannot be the one that it is taken for."""
    checked = known.sha256 or known.git_sha1
    return checksum_error(path, known) or ("" if checked else _implausible(path, Path(name).suffix.lower()))


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
            read_image(path, 32)
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


def read_listing(path) -> dict[str, FileInfo]:
    """Read GitHub's list of a commit's files."""
    try:
        listing = read_json(path, checked=False)
        known = {entry["path"]: FileInfo(entry.get("size"), git_sha1=entry["sha"]) for entry in listing["tree"]}
        whole = not listing.get("truncated") and all(map(is_plausible, known, known.values()))
    except (CovidxrError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise CovidxrError(f"{path}: not GitHub's whole list of a commit's files; delete it and try again")
    return known


def is_plausible(path, known: FileInfo) -> bool:
    """Tell whether a path and what a JSON file says of it are of the right types."""
    size = known.size is None or (type(known.size) is int and known.size >= 0)
    sums = all(isinstance(one, str) and re.fullmatch("[0-9a-f]*", one) for one in (known.sha256, known.git_sha1))
    return isinstance(path, str) and size and sums


def _git_sha1(path):
    content = Path(path).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def known_files(source: str) -> dict[str, FileInfo]:
    """List the files that the package knows of a source."""
    with _KNOWN_FILES.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source]
    return {row["path"]: FileInfo(int(row["size"]) if row["size"] else None, row["sha256"]) for row in rows}


RECORD_FILE = "fetched.json"

MAX_FILES = 20_000  # of a source; the Kaggle set has 5,856


class DownloadRecord:
    """The record of a source's folder: which files came from where, with size and checksum."""

    def __init__(self, folder, source: str, version: str):
        self.folder, self.source, self.version = Path(folder), source, version
        self._frozen = known_files(source)
        try:
            files = read_json(self.folder / RECORD_FILE, checked=False).get("files", {})
            self._known = {path: FileInfo(entry["size"], entry["sha256"]) for path, entry in files.items()}
            plausible = all(map(is_plausible, self._known, self._known.values()))
        except (AttributeError, KeyError, TypeError):
            plausible = False
        if not plausible:
            raise CovidxrError(f"{self.folder / RECORD_FILE}: not a record of fetched files; delete it")
        self.files = files
        self._saved = dict(files)

    def known(self, path: str) -> FileInfo:
        """Known: What the frozen list and the record say of a file."""
        return self._frozen.get(path, FileInfo()).filled(self._known.get(path, FileInfo()))

    def add(self, path: str, known: FileInfo, url: str) -> None:
        """Note a file with its size, checksum and where it came from."""
        self._known[path] = known
        self.files[path] = {"size": known.size, "sha256": known.sha256, "url": url}

    def sort_files(self, wanted: dict[str, FileInfo]) -> tuple[list[str], list[str], list[str]]:
        """Sort wanted files into those that are there, those changed since they were fetched, and those missing."""
        if len(wanted) > MAX_FILES:
            raise CovidxrError(
                f"{self.source}: refused, since it has {len(wanted):,} files; the limit is {MAX_FILES:,}"
            )
        kept, changed, missing, foreign, why = [], [], [], [], ""
        for path, known in wanted.items():
            target = self.folder / path
            if not target.is_file():
                missing.append(path)
            elif not (reason := verification_error(target, path, known.filled(self.known(path)))):
                kept.append(path)
            elif path in self.files:
                changed.append(path)
            else:
                foreign.append(path)
                why = why or reason
        if foreign:
            raise CovidxrError(
                f"{self.folder}: {_shorten(foreign)} there already, but not as in version {self.version} of {self.source} "
                f"({why}), and not fetched by this command; name another data folder or move it away"
            )
        for path in kept:
            if path not in self.files:
                self.add(path, _file_info(self.folder / path), "found in place")
        return kept, changed, missing

    def save(self) -> None:
        """Write the record, if anything in it is new."""
        if self.files != self._saved:
            files = dict(sorted(self.files.items()))
            write_json(self.folder / RECORD_FILE, {"source": self.source, "version": self.version, "files": files})
            self._saved = files


def _shorten(names, shown: int = 3) -> str:
    """Name the first few of many files."""
    first = ", ".join(Path(name).name for name in names[:shown])
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return f"{len(names):,} file{'s' * (len(names) != 1)}" + (f" ({first}{more})" if names else "")


@dataclass
class FetchReport:
    """What a fetch did; as text, the summary for a person."""

    source: str
    folder: Path
    new: list = field(default_factory=list)
    kept: list = field(default_factory=list)
    changed: list = field(default_factory=list)
    absent: list = field(default_factory=list)
    bytes: int = 0

    def note(self, path: str, known: FileInfo) -> None:
        """Count a file that has arrived."""
        self.new.append(path)
        self.bytes += known.size

    def __str__(self) -> str:
        total = len(self.new) + len(self.kept)
        fetched = f"{len(self.new):,} of them fetched now ({self.bytes / 1e6:.1f} MB)"
        text = f"{self.source}: {total:,} file{'s' * (total != 1)} in {self.folder}, {fetched}"
        if self.changed:
            text += f"\n  changed since they were fetched, so fetched again: {_shorten(self.changed)}"
        if self.absent:
            text += f"\n  the server does not have {_shorten(self.absent)}; their rows will be rejected"
        return text


def _incomplete(origin, report: FetchReport, lost, reason: str) -> CovidxrError:
    """Build the error for files that could not be had: how many, the first names, why, and how to get them."""
    return CovidxrError(
        f"{origin.name}: still missing {_shorten(lost)}: {reason}. {len(report.new) + len(report.kept):,} files are in "
        f"{report.folder} and kept; run the same command again to continue. Behind a proxy set HTTPS_PROXY; for a mirror give --mirror or "
        f"set COVIDXR_MIRROR; without a network, copy {origin.by_hand} from another machine and pass it with --from FILE.zip"
    )


MIRROR_VARIABLE = "COVIDXR_MIRROR"

CONNECT_SECONDS = 5  # for a host to answer

STALL_SECONDS = 20  # without a byte

SLOWEST = 4000  # bytes a second, on average, of each file

GRACE_SECONDS = 30  # before the speed is looked at; with SLOWEST, the limit of time

MAX_FILE_BYTES = 50_000_000  # an image, once unpacked; the largest of the sources have about 5 million

MAX_TOTAL_BYTES = (
    5_000_000_000  # of a source; the largest, the Kaggle set, has 1.2 thousand million, its archive twice that
)

MAX_REDIRECTS = 5

ATTEMPTS = 4  # a file

PAUSE_SECONDS = 1.0  # before the second attempt; it doubles from one to the next

LONGEST_PAUSE = 60.0  # that a server may ask for

WORKERS = 8  # files at once

GIVE_UP_AFTER = 8  # files failed in a row

_CHUNK_BYTES = 1 << 14

_WATCH_SECONDS = 0.25  # between two looks at the speed

_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)

_ABSENT_STATUS = (404, 410)

_PASSING = (
    (requests.Timeout, "did not answer in time"),
    (requests.exceptions.ProxyError, "is behind a proxy that cannot be reached"),
    (requests.exceptions.SSLError, "has a certificate that is not trusted here"),
    (requests.exceptions.ChunkedEncodingError, "broke off in the middle of a file"),
    (requests.exceptions.ContentDecodingError, "sent what cannot be unpacked"),
    (requests.ConnectionError, "cannot be reached"),
)

_LASTING = (
    (requests.TooManyRedirects, f"redirects more than {MAX_REDIRECTS} times"),
    (ValueError, "redirects, or the proxy set here leads, to what is no address"),  # also those of requests and urllib3
)

# What is raised besides requests' own exceptions where a server's headers make no sense.
_ANY = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError)


class Download(NamedTuple):
    """One file to fetch: its ``path`` within the source, ``url``, ``target`` on disk, what is ``known`` of it, the ``login`` that the server asks for, and ``most`` bytes that it may have."""

    path: str
    url: str
    target: Path
    known: FileInfo
    login: requests.auth.AuthBase | None = None
    most: int = MAX_FILE_BYTES


class DownloadResult(NamedTuple):
    """What became of a job: ``known`` when it arrived, else the ``reason``; ``absent`` when the server has no such file."""

    known: FileInfo | None = None
    reason: str = ""
    absent: bool = False


class _WrongBytes(Exception):
    """The server sent something else than what was asked for."""


class _TooMuch(Exception):
    """The server sent, or announced, more than the limit."""


class _HungUp(Exception):
    """The server was too slow, or the rest was given up."""


def _mirrored(url: str, mirror: str | None = None) -> str:
    """Put a mirror's address in the place of a URL's host; the mirror serves the same paths."""
    base = _mirror(mirror)
    if not base:
        return url
    parts = urlsplit(url)
    root = f"{base.scheme}://{base.netloc.rpartition('@')[2]}{base.path.rstrip('/')}"
    return root + parts.path + (f"?{parts.query}" if parts.query else "")


def _mirror_login(mirror: str | None = None) -> requests.auth.AuthBase | None:
    """Take the user name and password out of a mirror's address, if there are any."""
    base = _mirror(mirror)
    if not base or base.username is None:
        return None
    return requests.auth.HTTPBasicAuth(unquote(base.username), unquote(base.password or ""))


def _mirror(mirror):
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        return None
    try:
        parts = urlsplit(mirror)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets without end, a port that is no number
        usable = False
    if not usable or parts.query or parts.fragment or "@" in parts.path:
        shown = mirror.rpartition("@")[2]  # never the password, wherever it stands
        raise CovidxrError(
            f"mirror {shown!r} must be an address that begins with http:// or https://, without ? and #; "
            "special characters of a user name or password in it are written as %40 and the like"
        ) from None
    return parts


def _download_all(jobs, label: str, arrived) -> dict[str, DownloadResult]:
    """Download files in parallel, with one progress bar in bytes."""
    results, failed_in_a_row, stop = {}, 0, threading.Event()
    with _progress_bar(jobs, label) as bar, ThreadPoolExecutor(WORKERS) as pool:
        meters = [_ProgressMeter(bar, stop) for _ in jobs]
        futures = {pool.submit(_download, job, meter): job for job, meter in zip(jobs, meters, strict=True)}
        pending = set(futures)
        try:
            while pending and failed_in_a_row < GIVE_UP_AFTER:
                ended, pending = wait(pending, _WATCH_SECONDS, FIRST_COMPLETED)
                for meter in meters:
                    meter.watch()
                if sum(meter.seen for meter in meters) > MAX_TOTAL_BYTES:
                    raise CovidxrError(f"{label}: refused, since it has more than {MAX_TOTAL_BYTES:,} bytes, the limit")
                for future in ended:
                    job, result = futures[future], future.result()
                    results[job.path] = result
                    if result.known:
                        arrived(job, result.known)
                    failed_in_a_row = 0 if result.known or result.absent else failed_in_a_row + 1
                bar.set_postfix_str(f"{len(results)}/{len(jobs)} files", refresh=False)
        finally:
            stop.set()
            for meter in meters:
                meter.hang_up()
            pool.shutdown(cancel_futures=True)
    return results


def _progress_bar(jobs, label):
    sizes = [job.known.size for job in jobs]
    total = None if None in sizes else sum(sizes)
    return tqdm(total=total, desc=label, unit="B", unit_scale=True, leave=False, disable=None)


class _ProgressMeter:
    """What one file has brought so far, and the means to hang up on its server, whatever the thread that reads is waiting for."""

    _lock = threading.Lock()  # of the common bar

    def __init__(self, bar, stop):
        self.bar, self.stop = bar, stop
        self.seen, self.since, self.slow, self.sockets = 0, None, False, []

    def begin(self):
        self.add(-self.seen)
        self.since, self.slow = time.monotonic(), False

    def add(self, count):
        if self.stop.is_set() and count > 0:
            raise _HungUp
        with self._lock:
            self.seen += count
            self.bar.update(count)

    def watch(self):
        since = self.since
        if since is not None and self.seen + _CHUNK_BYTES < SLOWEST * (time.monotonic() - since - GRACE_SECONDS):
            self.slow = True
            self.hang_up()

    def hang_up(self):
        for line in list(self.sockets):
            with contextlib.suppress(OSError):  # the other side was faster
                line.shutdown(socket.SHUT_RDWR)

    def end(self):
        self.since = None
        while self.sockets:
            self.sockets.pop().close()


class _Adapter(requests.adapters.HTTPAdapter):
    """Tell a meter of each connection, so that it can hang up: time limits of sockets begin anew with each byte."""

    def __init__(self, meter):
        self.meter = meter
        super().__init__()

    def get_connection_with_tls_context(self, *args, **options):
        pool, meter = super().get_connection_with_tls_context(*args, **options), self.meter

        class Watched(type(pool).ConnectionCls):
            def _new_conn(self):
                line = super()._new_conn()
                meter.sockets.append(line.dup())  # TLS takes the original away
                return line

        pool.ConnectionCls = Watched
        return pool


def _download(job, meter):
    host = urlsplit(job.url).netloc
    for attempt in range(ATTEMPTS):
        try:
            return DownloadResult(_download_once(job, meter))
        except _TooMuch as error:
            return DownloadResult(reason=f"{host} sends more than {error} bytes, the limit for this file")
        except (*_ANY, _WrongBytes, _HungUp) as error:
            if meter.stop.is_set():
                return DownloadResult(reason="given up")
            if _http_status(error) in _ABSENT_STATUS:
                return DownloadResult(reason="the server has no such file", absent=True)
            words = f"sends less than {SLOWEST:,} bytes a second, the limit" if meter.slow else _download_error(error)
            again = meter.slow or _is_passing(error)
            if attempt + 1 == ATTEMPTS or not again or meter.stop.wait(_retry_pause(error, attempt)):
                return DownloadResult(reason=f"{host} {words}")
    raise AssertionError("unreachable: the last attempt returns")


def _download_once(job, meter):
    with atomic_path(job.target) as temporary:
        meter.begin()
        try:
            _receive(job, temporary, meter)
        finally:
            meter.end()
        if reason := verification_error(temporary, job.path, job.known):
            raise _WrongBytes(reason)
        return _file_info(temporary)


def _receive(job, path, meter):
    limit = job.most if job.known.size is None else min(job.known.size, job.most)
    # "identity", so that the size announced is the size of the file, and a short read is noticed
    options = {"headers": {"Accept-Encoding": "identity"}, "timeout": (CONNECT_SECONDS, STALL_SECONDS), "stream": True}
    with requests.Session() as session:
        session.max_redirects = MAX_REDIRECTS
        session.mount("http://", _Adapter(meter))
        session.mount("https://", _Adapter(meter))
        session.hooks["response"] = _leave_unread
        with session.get(job.url, auth=job.login, **options) as response, open(path, "wb") as file:
            response.raise_for_status()
            announced = response.headers.get("Content-Length", "")
            if announced.isdecimal() and int(announced) > limit:
                raise _TooMuch(f"{limit:,}")
            for chunk in response.iter_content(_CHUNK_BYTES):
                meter.add(len(chunk))
                if meter.seen > limit:
                    raise _TooMuch(f"{limit:,}")
                file.write(chunk)
    if (
        meter.slow or meter.stop.is_set()
    ):  # where no length was announced, a connection that ends looks like the end of the file
        raise _HungUp


def _leave_unread(response, **_):
    if response.is_redirect:  # requests would read the whole of its body, without any limit
        response.close()


def _http_status(error):
    return error.response.status_code if isinstance(error, requests.HTTPError) else None


def _is_passing(error):
    if isinstance(error, requests.HTTPError):
        return _http_status(error) in _PASSING_STATUS
    return isinstance(error, (_WrongBytes, *(kind for kind, _ in _PASSING)))


def _retry_pause(error, attempt):
    pause = PAUSE_SECONDS * 2**attempt
    if _http_status(error):
        # What is neither a number nor a date asks for nothing.
        with contextlib.suppress(urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
            pause = urllib3.Retry().get_retry_after(error.response.raw) or pause
    return min(pause, LONGEST_PAUSE)


def _download_error(error):
    """What happened, in words, to go behind the name of the host; none of them the server's."""
    if isinstance(error, _WrongBytes):
        return f"sent wrong bytes: {error}"
    if isinstance(error, requests.HTTPError):
        return f"answered {_http_status(error)} {http.client.responses.get(_http_status(error), '')}".rstrip()
    if "Read timed out" in str(error):  # requests calls a stall in mid-file a ConnectionError
        return f"stalled: no byte in {STALL_SECONDS} s"
    words = (words for kind, words in (*_PASSING, *_LASTING) if isinstance(error, kind))
    return next(words, f"cannot be asked ({type(error).__name__})")


MAX_DIRECTORY_BYTES = 10_000_000  # an archive's list of its members; that of the Kaggle set has about 2 million

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # RuntimeError: a password


class _Bounded(io.FileIO):
    """A file of which not too much is read at once: zipfile takes the list of members, however long, in one piece."""

    def read(self, size=-1):
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its list of files has more than {MAX_DIRECTORY_BYTES:,} bytes, the limit")
        return super().read(size)


def _unpack(origin, archive, whence: str, record, report) -> None:
    """Take a source's images out of a zip archive."""
    if not Path(archive).is_file():
        folder = "a folder, not a zip archive; give it as the data folder" if Path(archive).is_dir() else "no such file"
        raise CovidxrError(f"{archive}: {folder}")
    with contextlib.ExitStack() as stack:
        try:
            packed = stack.enter_context(zipfile.ZipFile(stack.enter_context(_Bounded(archive))))
        except (*_BROKEN, ValueError, struct.error) as error:
            raise CovidxrError(f"{archive}: not a whole zip archive ({error}); get {origin.by_hand} again") from error
        openers = {path: partial(packed.open, info) for path, info in _choose_members(packed, origin, archive).items()}
        _store(origin, openers, whence, record, report)


def _choose_members(packed, origin, archive):
    chosen = {}
    for info in packed.infolist():
        if reason := _unsafe_reason(info):
            raise CovidxrError(f"{archive}: refused, since its member {info.orig_filename!r} {reason}")
        match = re.fullmatch(origin.members, info.filename)
        if match and is_image_or_table(match["path"]):
            chosen.setdefault(match["path"], info)  # the Kaggle archive holds everything twice
    sizes = [info.file_size for info in chosen.values()]
    if max(sizes, default=0) > MAX_FILE_BYTES or sum(sizes) > MAX_TOTAL_BYTES:
        raise CovidxrError(
            f"{archive}: refused, since it unpacks to {sum(sizes):,} bytes, its largest file to {max(sizes):,}; "
            f"the limits are {MAX_TOTAL_BYTES:,} and {MAX_FILE_BYTES:,}"
        )
    return chosen


def _unsafe_reason(info):
    name = info.orig_filename  # before zipfile cuts it at a null byte
    if ".." in re.split(r"[/\\]", name) or re.match(r"[/\\]|[A-Za-z]:", name) or "\0" in name:
        return "would be written outside the data folder"
    if info.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):  # of the others, zipfile unpacks any amount at once
        return "is packed in another way than deflate"
    return "is a symbolic link" if stat.S_ISLNK(info.external_attr >> 16) else ""


def _from_kagglehub(origin, record, report, scratch) -> None:
    """Fetch the Kaggle set through kagglehub, which needs no account for it, and store its images."""
    import kagglehub  # a second to import

    with _kagglehub_cache(scratch):
        try:
            root = Path(kagglehub.dataset_download(f"{KAGGLE_HANDLE}/{origin.version}"))
        except Exception as error:  # kagglehub passes on what its libraries raise, without a common base
            if getattr(error, "errno", None) in _DISK_FULL:
                raise
            said = re.sub(r"//[^/\s]+@", "//", f"{type(error).__name__}: {error}")  # without a proxy's password
            reason = " ".join(said.split())[:200]
            raise _incomplete(origin, report, [_KAGGLE_ARCHIVE], f"kagglehub could not fetch it ({reason})") from error
    images = {image.relative_to(root).as_posix(): image for image in sorted(root.rglob("*")) if image.is_file()}
    openers = {}
    for name, image in images.items():
        match = re.fullmatch(origin.members, name)
        if match and is_image_or_table(name):
            openers.setdefault(match["path"], partial(image.open, "rb"))
    _store(origin, openers, origin.by_hand, record, report)


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


def _store(origin, openers: dict, whence: str, record, report) -> None:
    """Write files that can be opened into a source's folder, each checked before it is moved into place."""
    if not any(path != origin.index for path in openers):
        raise CovidxrError(f"{whence} holds no images of {origin.name} where they are expected; get {origin.by_hand}")
    kept, changed, missing = record.sort_files(dict.fromkeys(openers, FileInfo()))
    report.kept += kept
    broken = {}
    for path in tqdm(changed + missing, desc=origin.name, unit="file", leave=False, disable=None):
        try:
            known = _store_one(openers[path], path, record)
            report.note(path, known)
            record.add(path, known, whence)
        except _BROKEN as error:
            broken[path] = str(error)
    report.changed += [path for path in changed if path not in broken]
    if broken:
        raise CovidxrError(
            f"{whence}: {_shorten(list(broken))} in it cannot be used ({next(iter(broken.values()))}); "
            f"the others are in {record.folder}; get {origin.by_hand} again"
        )


def _store_one(opener, path, record):
    with opener() as packed, atomic_path(record.folder / path) as temporary:
        with temporary.open("wb") as file:
            shutil.copyfileobj(packed, file)
        if reason := verification_error(temporary, path, record.known(path)):
            raise zipfile.BadZipFile(reason)
        return _file_info(temporary)


LISTING_FILE = "listing.json"


@dataclass(frozen=True)
class Origin:
    """Where a source is downloaded from; ``wanted`` lists its files, once ``index`` is there."""

    name: str
    folder: str
    version: str
    members: str
    by_hand: str
    repository: str = ""
    index: str = ""
    wanted: Callable | None = None

    def url(self, path: str) -> str:
        """URL of one of its files."""
        if path == LISTING_FILE:
            return f"https://api.github.com/repos/{self.repository}/git/trees/{self.version}?recursive=1"
        return f"https://raw.githubusercontent.com/{self.repository}/{self.version}/{quote(path)}"


_SCRATCH = ".partial"  # in the Kaggle set's folder, while it is fetched; a sign that it is not whole


def fetch_origin(origin: Origin, data_dir, mirror=None, archive=None) -> FetchReport:
    """Download a source into its folder in the data folder, continuing an interrupted download."""
    folder = Path(data_dir) / origin.folder
    try:
        record = DownloadRecord(folder, origin.name, origin.version)
        sweep_leftovers(folder)
    except OSError as error:
        raise _not_writable(error, folder) from error
    report = FetchReport(origin.name, record.folder)
    try:
        if archive is not None:
            _unpack(origin, archive, str(archive), record, report)
            shutil.rmtree(record.folder / _SCRATCH, ignore_errors=True)
        elif origin.repository:
            _from_github(origin, mirror, record, report)
        else:
            _from_kaggle(origin, mirror or os.environ.get(MIRROR_VARIABLE), record, report)
        record.save()
    except OSError as error:
        raise _not_writable(error, record.folder) from error
    finally:
        with contextlib.suppress(OSError):  # a full disk has been complained of
            record.save()
    return report


def _from_github(origin, mirror, record, report):
    _get(origin, {origin.index: FileInfo()}, mirror, record, report)
    wanted = origin.wanted(record.folder)
    _get(origin, wanted, mirror, record, report)
    if set(wanted) <= set(report.absent):
        reason = "the server has none of them" if wanted else f"{origin.index} names no image"
        raise _incomplete(origin, report, report.absent, reason)


def _get(origin, wanted, mirror, record, report):
    kept, changed, missing = record.sort_files(wanted)
    report.kept += kept
    jobs = []
    for path in changed + missing:
        url, known = _mirrored(origin.url(path), mirror), wanted[path].filled(record.known(path))
        jobs.append(Download(path, url, record.folder / path, known, _mirror_login(mirror)))

    def arrived(job, known):
        record.add(job.path, known, job.url)
        report.note(job.path, known)

    results = _download_all(jobs, origin.name, arrived) if jobs else {}
    report.changed += [path for path in changed if path in report.new]
    report.absent += [job.path for job in jobs if job.path in results and results[job.path].absent]
    _check_complete(origin, report, jobs, results, record)


def _check_complete(origin, report, jobs, results, record):
    lost = [job.path for job in jobs if job.path not in report.new and job.path not in report.absent]
    if origin.index in [*report.absent, *lost]:  # then the frozen list has to say what else is missing
        lost = [path for path in {origin.index: 0, **known_files(origin.name)} if not (record.folder / path).is_file()]
    if lost:
        reasons = [result.reason for result in results.values() if not result.known and not result.absent]
        raise _incomplete(origin, report, lost, next(iter(reasons), "the server has no such file"))


def _from_kaggle(origin, mirror, record, report):
    scratch = record.folder / _SCRATCH
    images = [image.relative_to(record.folder).as_posix() for image in find_images(record.folder, "*/*/*")]
    kept, changed, missing = record.sort_files(dict.fromkeys(record.files or images, FileInfo()))
    if kept and not (changed or missing or scratch.exists()):
        report.kept = kept
        return
    scratch.mkdir(parents=True, exist_ok=True)
    if mirror:
        _from_mirrored_archive(origin, mirror, record, report, scratch / _KAGGLE_ARCHIVE)
    else:
        _from_kagglehub(origin, record, report, scratch)
    shutil.rmtree(scratch)


def _from_mirrored_archive(origin, mirror, record, report, archive):
    url = _mirrored(origin.by_hand, mirror)
    job = Download(archive.name, url, archive, FileInfo(), _mirror_login(mirror), MAX_TOTAL_BYTES)
    if not archive.exists():  # whole, if it does
        result = _download_all([job], origin.name, lambda job, known: None)[job.path]
        if not result.known:
            raise _incomplete(origin, report, [_KAGGLE_ARCHIVE], result.reason)
    try:
        _unpack(origin, archive, url, record, report)
    except CovidxrError:
        archive.unlink()
        raise


def _not_writable(error, folder):
    if error.errno in _DISK_FULL:
        return CovidxrError(
            f"{folder}: the disk is full; what has arrived is kept. Make room and run the same command again, "
            "or name another data folder"
        )
    return CovidxrError(f"{error.filename or folder}: cannot be written to or read ({error.strerror or error})")
