"""Verified, size-limited, resumable downloads of the public collections, with pooch and kagglehub."""

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
import stat
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

import pooch
import requests
import urllib3
from tqdm.auto import tqdm

from covidxr.data.images import DecodeError, read_image
from covidxr.data.manifest import IMAGE_SUFFIXES, find_images
from covidxr.utils import CovidxrError, atomic_path, read_json, sweep_leftovers, write_json

pooch.get_logger().setLevel("WARNING")  # or it announces each of a thousand files

_KAGGLE_HANDLE = "paultimothymooney/chest-xray-pneumonia"

RECORD_FILE, LISTING_FILE = "fetched.json", "listing.json"

MAX_FILES = 20_000  # of a source; the Kaggle set has 5,856

MAX_FILE_BYTES = 50_000_000  # an image, once unpacked; the largest of the sources have about 5 million

MAX_TOTAL_BYTES = 5_000_000_000  # of a source; the archive of the Kaggle set has 2.4 thousand million

MAX_DIRECTORY_BYTES = 10_000_000  # an archive's list of its members; that of the Kaggle set has about 2 million

CONNECT_SECONDS, STALL_SECONDS = 5, 20  # for a host to answer, and without a byte

SLOWEST, GRACE_SECONDS = 4000, 30  # bytes a second, on average, of each file, and how long a file may be slower

ATTEMPTS, LONGEST_PAUSE = 4, 60  # for a file, and seconds between two attempts that a server may ask for

WORKERS, GIVE_UP_AFTER = 8, 8  # files at once, and files failed in a row

_KAGGLE_ARCHIVE = "chest-xray-pneumonia.zip"

_KNOWN_FILES = Path(__file__).with_name("known_files.csv")

_SCRATCH = ".partial"  # in a source's folder, while it is fetched; in the Kaggle set's, a sign that it is not whole

_MIRROR_VARIABLE = "COVIDXR_MIRROR"

_PASSING_STATUS, _ABSENT_STATUS = (408, 425, 429), (404, 410)  # of those from 400 to 499, which are lasting otherwise

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # RuntimeError: a password

# What is raised besides requests' own exceptions where a server's headers make no sense.
_ANY = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError)

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"

_ONE_AT_A_TIME = threading.Lock()  # however many files arrive at once, memory is for one image of the largest size


# What is known of a file is one text: "sha256:…", "git:…" (the sum that git keeps), or "" where nothing is.


def known_files(source: str) -> dict[str, str]:
    """Checksums of the files that the package knows of a source."""
    with _KNOWN_FILES.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source]
    return {row["path"]: row["sha256"] and f"sha256:{row['sha256']}" for row in rows}


def read_listing(path) -> dict[str, str]:
    """Checksums of a commit's files, from GitHub's list of them."""
    try:
        listing = read_json(path, checked=False)
        known = {entry["path"]: entry["sha"] and "git:" + entry["sha"] for entry in listing["tree"]}
        whole = not listing.get("truncated") and all(isinstance(name, str) for name in known)
    except (CovidxrError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise CovidxrError(f"{path}: not GitHub's whole list of a commit's files; delete it and try again")
    return known


def is_image_or_table(path: str) -> bool:
    """Whether a path is that of an image or of ``metadata.csv``; hidden files and names no file can have are neither."""
    name = PurePosixPath(path)
    if re.search(r"[\x00-\x1f\\\ud800-\udfff]", path):
        return False
    return (name.suffix.lower() in IMAGE_SUFFIXES or path == "metadata.csv") and not name.name.startswith(".")


def verification_error(path, name: str, known: str) -> str:
    """Say why a file cannot be the one that it is taken for."""
    algorithm, _, checksum = known.partition(":")
    if algorithm == "git":
        content = Path(path).read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        found = pooch.file_hash(str(path))
    if known:
        return "" if found == checksum else f"another {algorithm} checksum than the one known"
    return _implausible(path, Path(name).suffix.lower())


def _implausible(path, suffix):
    """What is wrong with a file of which no checksum is known."""
    try:
        if suffix == ".json":
            return "" if read_listing(path) else "an empty list of files"
        return _broken_image(path) if suffix in IMAGE_SUFFIXES else ""
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


class _Refused(Exception):
    """Why no further attempt is made."""


class _Absent(_Refused):
    """The server does not have the file."""


class _WrongBytes(ValueError):
    """What is wrong with a file that has arrived."""


class _LimitedFile(io.BufferedWriter):
    """A file that refuses to become too large, to arrive too slowly, or to go on when the others were given up."""

    def __init__(self, path, most, stop):
        super().__init__(io.FileIO(path, "w"))
        self._most, self._stop, self._bytes, self._start = most, stop, 0, time.monotonic()

    def write(self, chunk):
        """Write as usual, or refuse."""
        self._bytes += len(chunk)
        if self._bytes > self._most:
            raise _Refused(f"sends more than {self._most:,} bytes, the limit for this file")
        if self._stop.is_set():
            raise _Refused("was given up")
        if self._bytes < SLOWEST * (time.monotonic() - self._start - GRACE_SECONDS):
            raise _Refused(f"sends less than {SLOWEST:,} bytes a second, the limit")
        return super().write(chunk)


@dataclass(frozen=True)
class Download:
    """A file to download: where from and to, what is ``known`` of it, the ``most`` bytes it may have, how often to ask."""

    url: str
    target: Path
    known: str = ""
    most: int = MAX_FILE_BYTES
    login: tuple | None = None
    attempts: int = ATTEMPTS


def download_file(job: Download, stop: threading.Event | None = None, bar=False) -> None:
    """Download a file with pooch, which makes several attempts, compares checksums and moves only a whole file into place."""
    name, stop = job.target.name, stop or threading.Event()
    # "identity", so that the size announced is the size of the file, and a short read is noticed
    ask = pooch.HTTPDownloader(
        bar,
        auth=job.login,
        headers={"Accept-Encoding": "identity"},
        hooks={"response": _leave_unread},
        timeout=(CONNECT_SECONDS, STALL_SECONDS),
    )

    def download(url, path, _):
        if stop.is_set():
            raise _Refused("was given up")
        try:
            with _LimitedFile(path, job.most, stop) as file:
                ask(url, file, None)
        except requests.HTTPError as error:
            _refuse_or_pause(error.response, stop)
            raise
        if reason := verification_error(path, name, job.known):
            raise _WrongBytes(reason)

    sha256 = job.known if job.known.startswith("sha256:") else None
    about = {"registry": {name: sha256}, "urls": {name: job.url}, "retry_if_failed": job.attempts - 1}
    pooch.create(job.target.parent, base_url="", **about).fetch(name, downloader=download)


def _leave_unread(response, **_):
    if response.is_redirect:  # requests would read the whole of its body, without any limit
        response.close()


def _refuse_or_pause(response, stop):
    """Refuse what the server will always answer; otherwise wait as long as it asks for."""
    if response.status_code in _ABSENT_STATUS:
        raise _Absent("has no such file") from None
    if 400 <= response.status_code < 500 and response.status_code not in _PASSING_STATUS:
        raise _Refused(_status_text(response)) from None
    pause = response.headers.get("Retry-After", "")
    if re.fullmatch("[0-9]{1,9}", pause):
        stop.wait(min(int(pause), LONGEST_PAUSE))


def _status_text(response):
    return f"answered {response.status_code} {http.client.responses.get(response.status_code, '')}".rstrip()


def download_error(error) -> str:
    """What happened in a download, in words to go behind the name of the host; none of them the server's."""
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, _WrongBytes):
        return f"sent wrong bytes: {error}"
    if isinstance(error, requests.HTTPError):
        return _status_text(error.response)
    if isinstance(error, requests.ReadTimeout) or "Read timed out" in str(error):  # in mid-file a ConnectionError
        return f"stalled: no byte in {STALL_SECONDS} s"
    kinds = (
        (requests.Timeout, "did not answer in time"),
        (requests.exceptions.ProxyError, "is behind a proxy that cannot be reached"),
        (requests.exceptions.SSLError, "has a certificate that is not trusted here"),
        (requests.exceptions.ChunkedEncodingError, "broke off in the middle of a file"),
        (requests.ConnectionError, "cannot be reached"),
        (requests.TooManyRedirects, "redirects without end"),
        (ValueError, "redirects, or the proxy set here leads, to what is no address, or sent no sensible answer"),
    )
    return next(
        (words for kind, words in kinds if isinstance(error, kind)), f"cannot be asked ({type(error).__name__})"
    )


def _download_all(jobs: dict[str, Download], label: str, arrived) -> dict[str, BaseException]:
    """Download files in parallel, call `arrived` with the path of each, and return why the others did not arrive."""
    errors: dict[str, BaseException] = {}
    failed_in_a_row, stop = 0, threading.Event()
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = {pool.submit(download_file, job, stop): path for path, job in jobs.items()}
        finished = as_completed(futures)
        try:
            for future in tqdm(finished, label, len(futures), leave=False, unit="file", disable=None):
                path, error = futures[future], future.exception()
                if error is None:
                    arrived(path)
                elif isinstance(error, (*_ANY, _Refused)):
                    errors[path] = error
                else:
                    raise error
                failed_in_a_row = failed_in_a_row + 1 if error and not isinstance(error, _Absent) else 0
                if failed_in_a_row == GIVE_UP_AFTER:
                    break
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return errors


def _mirror_of(mirror):
    """A mirror's address without its login, and the login; nothing where there is no mirror."""
    if not mirror:
        return "", None
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
    login = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}", login


@dataclass(frozen=True)
class Origin:
    """Where a source is downloaded from; ``wanted`` lists its files, once ``index`` is there."""

    name: str
    folder: str
    version: str
    members: str  # a pattern of their names in an archive
    repository: str = ""
    index: str = ""
    wanted: Callable | None = None

    @property
    def by_hand(self) -> str:
        """URL of an archive of all its files."""
        if self.repository:
            return f"https://github.com/{self.repository}/archive/{self.version}.zip"
        number = self.version.removeprefix("versions/")
        return f"https://www.kaggle.com/api/v1/datasets/download/{_KAGGLE_HANDLE}?datasetVersionNumber={number}"

    def url(self, path: str) -> str:
        """URL of one of its files."""
        if path == LISTING_FILE:
            return f"https://api.github.com/repos/{self.repository}/git/trees/{self.version}?recursive=1"
        return f"https://raw.githubusercontent.com/{self.repository}/{self.version}/{quote(path)}"


def _shorten(names, shown: int = 3) -> str:
    """Name the first few of many files."""
    first = ", ".join(Path(name).name for name in names[:shown])
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return f"{len(names):,} file{'s' * (len(names) != 1)}" + (f" ({first}{more})" if names else "")


class Fetch:
    """A fetch of a source: its folder, the record of files that is kept there, and what was done; as text, a summary."""

    def __init__(self, origin: Origin, data_dir):
        self.origin, self.folder = origin, Path(data_dir) / origin.folder
        self.scratch = self.folder / _SCRATCH
        self.new, self.kept, self.changed, self.absent, self.bytes = [], [], [], [], 0
        self._frozen = known_files(origin.name)
        try:
            self.files = read_json(self.folder / RECORD_FILE, checked=False).get("files", {})
            plausible = all(isinstance(entry["sha256"], str) for entry in self.files.values())
        except (AttributeError, KeyError, TypeError):
            plausible = False
        if not plausible:
            raise CovidxrError(f"{self.folder / RECORD_FILE}: not a record of fetched files; delete it")
        self._saved = dict(self.files)

    def known(self, path: str) -> str:
        """What the frozen list or else the record says of a file."""
        recorded = self.files[path]["sha256"] if path in self.files else ""
        return self._frozen.get(path) or (recorded and f"sha256:{recorded}")

    def add(self, path: str, url: str) -> None:
        """Record a file of the folder, and where it came from."""
        target = self.folder / path
        size, checksum = target.stat().st_size, pooch.file_hash(str(target))
        self.files[path] = {"size": size, "sha256": checksum, "url": url}

    def note(self, path: str, url: str) -> None:
        """Record and count a file that has just arrived."""
        self.add(path, url)
        self.new.append(path)
        self.bytes += self.files[path]["size"]
        if self.bytes > MAX_TOTAL_BYTES:
            raise CovidxrError(
                f"{self.origin.name}: refused, since it has more than {MAX_TOTAL_BYTES:,} bytes, the limit"
            )

    def sort_files(self, wanted: dict[str, str]) -> list[str]:
        """Keep the wanted files that are there, and list those missing or changed since they were fetched."""
        if len(wanted) > MAX_FILES:
            raise CovidxrError(
                f"{self.origin.name}: refused, since it has {len(wanted):,} files; the limit is {MAX_FILES:,}"
            )
        changed, missing, foreign = [], [], {}
        for path, known in wanted.items():
            target = self.folder / path
            if not target.is_file():
                missing.append(path)
            elif not (reason := verification_error(target, path, known or self.known(path))):
                self.kept.append(path)
                if path not in self.files:
                    self.add(path, "found in place")
            elif path in self.files:
                changed.append(path)
            else:
                foreign[path] = reason
        if foreign:
            raise CovidxrError(
                f"{self.folder}: {_shorten(list(foreign))} there already, but not as in version {self.origin.version} of "
                f"{self.origin.name} ({next(iter(foreign.values()))}), and not fetched by this command; name another data "
                "folder or move it away"
            )
        self.changed += changed
        return changed + missing

    def save(self) -> None:
        """Write the record, if anything in it is new."""
        if self.files != self._saved:
            about = {"source": self.origin.name, "version": self.origin.version}
            write_json(self.folder / RECORD_FILE, {**about, "files": dict(sorted(self.files.items()))})

    def incomplete(self, lost, reason: str) -> CovidxrError:
        """Build the error for files that could not be had: how many, the first names, why, and how to get them."""
        return CovidxrError(
            f"{self.origin.name}: still missing {_shorten(lost)}: {reason}. {len(self.new) + len(self.kept):,} files are in "
            f"{self.folder} and kept; run the same command again to continue. Behind a proxy set HTTPS_PROXY; for a mirror "
            f"give --mirror or set {_MIRROR_VARIABLE}; without a network, copy {self.origin.by_hand} from another machine "
            "and pass it with --from FILE.zip"
        )

    def __str__(self) -> str:
        total = len(self.new) + len(self.kept)
        fetched = f"{len(self.new):,} of them fetched now ({self.bytes / 1e6:.1f} MB)"
        text = f"{self.origin.name}: {total:,} file{'s' * (total != 1)} in {self.folder}, {fetched}"
        if self.changed:
            text += f"\n  changed since they were fetched, so fetched again: {_shorten(self.changed)}"
        if self.absent:
            text += f"\n  the server does not have {_shorten(self.absent)}; their rows will be rejected"
        return text


def fetch_origin(origin: Origin, data_dir, mirror=None, archive=None) -> Fetch:
    """Download a source into its folder in the data folder, continuing an interrupted download."""
    mirror = _mirror_of(mirror or os.environ.get(_MIRROR_VARIABLE))
    try:
        fetch = Fetch(origin, data_dir)
        sweep_leftovers(fetch.folder)
        try:
            if archive is not None:
                _unpack(archive, str(archive), fetch)
                shutil.rmtree(fetch.scratch, ignore_errors=True)
            elif origin.repository:
                _from_github(mirror, fetch)
            else:
                _from_kaggle(mirror, fetch)
        finally:
            fetch.save()
    except OSError as error:
        raise _not_writable(error, Path(data_dir) / origin.folder) from error
    return fetch


def _from_github(mirror, fetch):
    try:
        _get({fetch.origin.index: ""}, mirror, fetch)
        wanted = fetch.origin.wanted(fetch.folder)
        _get(wanted, mirror, fetch)
    finally:
        shutil.rmtree(fetch.scratch, ignore_errors=True)
    if set(wanted) <= set(fetch.absent):
        raise fetch.incomplete(fetch.absent, "the server has none of them" if wanted else "the table names no image")


def _get(wanted, mirror, fetch):
    base, login = mirror
    paths = fetch.sort_files(wanted)
    jobs = {}
    for path in paths:
        (fetch.scratch / path).parent.mkdir(parents=True, exist_ok=True)
        known = wanted[path] or fetch.known(path)
        jobs[path] = Download(_at_mirror(fetch.origin.url(path), base), fetch.scratch / path, known, login=login)

    def arrived(path):
        (fetch.folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(jobs[path].target, fetch.folder / path)
        fetch.note(path, jobs[path].url)

    errors = _download_all(jobs, fetch.origin.name, arrived)
    fetch.absent += [path for path, error in errors.items() if isinstance(error, _Absent)]
    if lost := [path for path in paths if path not in fetch.new and path not in fetch.absent]:
        reasons = [_reason(jobs[path], error) for path, error in errors.items() if path in lost]
        raise fetch.incomplete(lost, reasons[0])
    if fetch.origin.index in fetch.absent:
        raise fetch.incomplete(fetch.absent, "the server has no such file")


def _at_mirror(url, base):
    """A mirror serves the same paths."""
    parts = urlsplit(url)
    return base + parts.path + (f"?{parts.query}" if parts.query else "") if base else url


def _reason(job, error):
    return f"{urlsplit(job.url).netloc} {download_error(error)}"


def _from_kaggle(mirror, fetch):
    images = [image.relative_to(fetch.folder).as_posix() for image in find_images(fetch.folder, "*/*/*")]
    missing = fetch.sort_files(dict.fromkeys(fetch.files or images, ""))
    if fetch.kept and not (missing or fetch.scratch.exists()):
        return
    fetch.kept, fetch.changed = [], []  # they are sorted again when the archive is there
    fetch.scratch.mkdir(parents=True, exist_ok=True)
    if mirror[0]:
        _from_mirrored_archive(mirror, fetch)
    else:
        _from_kagglehub(fetch)
    shutil.rmtree(fetch.scratch)


def _from_mirrored_archive(mirror, fetch):
    base, login = mirror
    archive = fetch.scratch / _KAGGLE_ARCHIVE
    job = Download(_at_mirror(fetch.origin.by_hand, base), archive, "", MAX_TOTAL_BYTES, login)
    try:
        with tqdm(desc=fetch.origin.name, total=1, leave=False, unit="B", unit_scale=True, disable=None) as bar:
            download_file(job, bar=bar)
    except (*_ANY, _Refused) as error:
        raise fetch.incomplete([_KAGGLE_ARCHIVE], _reason(job, error)) from None
    try:
        _unpack(archive, job.url, fetch)
    except CovidxrError:
        archive.unlink()
        raise


def _from_kagglehub(fetch):
    """Download the Kaggle set through kagglehub, which needs no account for it, and store its images."""
    import kagglehub  # a second to import

    with _kagglehub_cache(fetch.scratch):
        try:
            root = Path(kagglehub.dataset_download(f"{_KAGGLE_HANDLE}/{fetch.origin.version}"))
        except Exception as error:  # kagglehub passes on what its libraries raise, without a common base
            if getattr(error, "errno", None) in _DISK_FULL:
                raise
            said = re.sub(r"//[^/\s]+@", "//", f"{type(error).__name__}: {error}")  # without a proxy's password
            reason = " ".join(said.split())[:200]
            raise fetch.incomplete([_KAGGLE_ARCHIVE], f"kagglehub could not fetch it ({reason})") from error
    images = [image for image in sorted(root.rglob("*")) if image.is_file()]
    openers = {image.relative_to(root).as_posix(): partial(image.open, "rb") for image in images}
    _store(_choose(openers, fetch.origin), fetch.origin.by_hand, fetch)


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


def _choose(members, origin):
    """The members that are images or tables of a source, by their path in its folder."""
    chosen = {}
    for name, member in members.items():
        match = re.fullmatch(origin.members, name)
        if match and is_image_or_table(match["path"]):
            chosen.setdefault(match["path"], member)  # the Kaggle archive holds everything twice
    return chosen


class _LimitedArchive(io.FileIO):
    """A file of which not too much is read at once: zipfile takes the list of members, however long, in one piece."""

    def read(self, size=-1):
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its list of files has more than {MAX_DIRECTORY_BYTES:,} bytes, the limit")
        return super().read(size)


def _unpack(archive, whence, fetch):
    """Take a source's images out of a zip archive."""
    if not Path(archive).is_file():
        folder = "a folder, not a zip archive; give it as the data folder" if Path(archive).is_dir() else "no such file"
        raise CovidxrError(f"{archive}: {folder}")
    with contextlib.ExitStack() as stack:
        try:
            packed = stack.enter_context(zipfile.ZipFile(stack.enter_context(_LimitedArchive(archive))))
        except (*_BROKEN, ValueError, struct.error) as error:
            raise CovidxrError(
                f"{archive}: not a whole zip archive ({error}); get {fetch.origin.by_hand} again"
            ) from error
        for info in packed.infolist():
            if reason := _unsafe_reason(info):
                raise CovidxrError(f"{archive}: refused, since its member {info.orig_filename!r} {reason}")
        chosen = _choose({info.filename: info for info in packed.infolist()}, fetch.origin)
        sizes = [info.file_size for info in chosen.values()]
        if max(sizes, default=0) > MAX_FILE_BYTES or sum(sizes) > MAX_TOTAL_BYTES:
            raise CovidxrError(
                f"{archive}: refused, since it unpacks to {sum(sizes):,} bytes, its largest file to {max(sizes):,}; "
                f"the limits are {MAX_TOTAL_BYTES:,} and {MAX_FILE_BYTES:,}"
            )
        _store({path: partial(packed.open, info) for path, info in chosen.items()}, whence, fetch)


def _unsafe_reason(info):
    name = info.orig_filename  # before zipfile cuts it at a null byte
    if ".." in re.split(r"[/\\]", name) or re.match(r"[/\\]|[A-Za-z]:", name) or "\0" in name:
        return "would be written outside the data folder"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in another way than deflate"  # of which zipfile unpacks any amount at once
    return "is a symbolic link" if stat.S_ISLNK(info.external_attr >> 16) else ""


def _store(openers, whence, fetch):
    """Write files that can be opened into a source's folder, each checked before it is moved into place."""
    origin = fetch.origin
    if not any(path != origin.index for path in openers):
        raise CovidxrError(f"{whence} holds no images of {origin.name} where they are expected; get {origin.by_hand}")
    broken = {}
    for path in tqdm(
        fetch.sort_files(dict.fromkeys(openers, "")), desc=origin.name, unit="file", leave=False, disable=None
    ):
        try:
            _store_one(openers[path], path, fetch)
            fetch.note(path, whence)
        except _BROKEN as error:
            broken[path] = str(error)
    if broken:
        raise CovidxrError(
            f"{whence}: {_shorten(list(broken))} in it cannot be used ({next(iter(broken.values()))}); "
            f"the others are in {fetch.folder}; get {origin.by_hand} again"
        )


def _store_one(opener, path, fetch):
    with opener() as packed, atomic_path(fetch.folder / path) as temporary:
        with temporary.open("wb") as file:
            shutil.copyfileobj(packed, file)
        if reason := verification_error(temporary, path, fetch.known(path)):
            raise zipfile.BadZipFile(reason)


def _not_writable(error, folder):
    if error.errno in _DISK_FULL:
        return CovidxrError(
            f"{folder}: the disk is full; what has arrived is kept. Make room and run the same command again, "
            "or name another data folder"
        )
    return CovidxrError(f"{error.filename or folder}: cannot be written to or read ({error.strerror or error})")
