"""Many files over HTTP at once, each whole and checked or not at all, within limits of size and time.

A file is written under a temporary name, compared with what is known of it, and moved into place. Server errors, broken
connections and stalls are tried again after a growing pause. When one file after the other fails, the rest is given up.
A server has no say in how much is written here, or how long it takes: whoever sends too much or too slowly is hung up on.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from tqdm.auto import tqdm

from covidxr.errors import CovidxrError
from covidxr.files import atomic_path
from covidxr.sources._known import Known, measure, unfit

MIRROR_VARIABLE = "COVIDXR_MIRROR"
CONNECT_SECONDS = 5  # for a host to answer
STALL_SECONDS = 20  # without a byte
SLOWEST = 4000  # bytes a second, on average, of each file
GRACE_SECONDS = 30  # before the speed is looked at; with SLOWEST, the limit of time
MAX_FILE_BYTES = 50_000_000  # a film, once unpacked; the largest of the sources have about 5 million
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


class Job(NamedTuple):
    """One file to fetch: its ``path`` within the source, ``url``, ``target`` on disk, what is ``known`` of it, the ``login``
    that the server asks for, and ``most`` bytes that it may have."""

    path: str
    url: str
    target: Path
    known: Known
    login: requests.auth.AuthBase | None = None
    most: int = MAX_FILE_BYTES


class Result(NamedTuple):
    """What became of a job: ``known`` when it arrived, else the ``reason``; ``absent`` when the server has no such file."""

    known: Known | None = None
    reason: str = ""
    absent: bool = False


class _WrongBytes(Exception):
    """The server sent something else than what was asked for."""


class _TooMuch(Exception):
    """The server sent, or announced, more than the limit."""


class _HungUp(Exception):
    """The server was too slow, or the rest was given up."""


def mirrored(url: str, mirror: str | None = None) -> str:
    """Put a mirror's address in the place of a URL's host; the mirror serves the same paths.

    Parameters
    ----------
    url : str
        The original address.
    mirror : str, optional
        Such as ``"https://mirror.example.org/films"``; by default the environment variable ``COVIDXR_MIRROR``, if set.

    Returns
    -------
    str
        Without the mirror's user name and password, which `mirror_login` gives: addresses are recorded and printed.

    Raises
    ------
    CovidxrError
        When the mirror is no HTTP address.

    Examples
    --------
    >>> mirrored("https://github.com/a/b.csv?raw=1", "http://user:secret@127.0.0.1:8000/")
    'http://127.0.0.1:8000/a/b.csv?raw=1'
    """
    base = _mirror(mirror)
    if not base:
        return url
    parts = urlsplit(url)
    root = f"{base.scheme}://{base.netloc.rpartition('@')[2]}{base.path.rstrip('/')}"
    return root + parts.path + (f"?{parts.query}" if parts.query else "")


def mirror_login(mirror: str | None = None) -> requests.auth.AuthBase | None:
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


def download_all(jobs, label: str, arrived) -> dict[str, Result]:
    """Download files in parallel, with one progress bar in bytes.

    Parameters
    ----------
    jobs : list of Job
        What to fetch.
    label : str
        Shown beside the bar.
    arrived : callable
        Called with the job and its `Known` when a file is in place.

    Returns
    -------
    dict
        Path to `Result`; jobs that were given up unheard are not in it.

    Raises
    ------
    OSError
        When a file cannot be written, such as on a full disk; what has arrived stays.

    Examples
    --------
    >>> download_all([], "nothing", print)
    {}
    """
    results, failed_in_a_row, stop = {}, 0, threading.Event()
    with _bar(jobs, label) as bar, ThreadPoolExecutor(WORKERS) as pool:
        meters = [_Meter(bar, stop) for _ in jobs]
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


def _bar(jobs, label):
    sizes = [job.known.size for job in jobs]
    total = None if None in sizes else sum(sizes)
    return tqdm(total=total, desc=label, unit="B", unit_scale=True, leave=False, disable=None)


class _Meter:
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
            return Result(_download_once(job, meter))
        except _TooMuch as error:
            return Result(reason=f"{host} sends more than {error} bytes, the limit for this file")
        except (*_ANY, _WrongBytes, _HungUp) as error:
            if meter.stop.is_set():
                return Result(reason="given up")
            if _status(error) in _ABSENT_STATUS:
                return Result(reason="the server has no such file", absent=True)
            words = f"sends less than {SLOWEST:,} bytes a second, the limit" if meter.slow else _plain(error)
            again = meter.slow or _is_passing(error)
            if attempt + 1 == ATTEMPTS or not again or meter.stop.wait(_pause(error, attempt)):
                return Result(reason=f"{host} {words}")
    raise AssertionError("unreachable: the last attempt returns")


def _download_once(job, meter):
    with atomic_path(job.target) as temporary:
        meter.begin()
        try:
            _receive(job, temporary, meter)
        finally:
            meter.end()
        if reason := unfit(temporary, job.path, job.known):
            raise _WrongBytes(reason)
        return measure(temporary)


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


def _status(error):
    return error.response.status_code if isinstance(error, requests.HTTPError) else None


def _is_passing(error):
    if isinstance(error, requests.HTTPError):
        return _status(error) in _PASSING_STATUS
    return isinstance(error, (_WrongBytes, *(kind for kind, _ in _PASSING)))


def _pause(error, attempt):
    pause = PAUSE_SECONDS * 2**attempt
    if _status(error):
        # What is neither a number nor a date asks for nothing.
        with contextlib.suppress(urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
            pause = urllib3.Retry().get_retry_after(error.response.raw) or pause
    return min(pause, LONGEST_PAUSE)


def _plain(error):
    """What happened, in words, to go behind the name of the host; none of them the server's."""
    if isinstance(error, _WrongBytes):
        return f"sent wrong bytes: {error}"
    if isinstance(error, requests.HTTPError):
        return f"answered {_status(error)} {http.client.responses.get(_status(error), '')}".rstrip()
    if "Read timed out" in str(error):  # requests calls a stall in mid-file a ConnectionError
        return f"stalled: no byte in {STALL_SECONDS} s"
    words = (words for kind, words in (*_PASSING, *_LASTING) if isinstance(error, kind))
    return next(words, f"cannot be asked ({type(error).__name__})")
