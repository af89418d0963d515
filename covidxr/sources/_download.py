"""Many files over HTTP at once, each whole and checked or not at all; pooch downloads, this module keeps order.

A file is written under a temporary name, compared with what is known of it, and moved into place. Server errors, broken
connections and stalls are tried again after a growing pause. When one file after the other fails, the rest is given up.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from pooch import HTTPDownloader
from tqdm.auto import tqdm

from covidxr.errors import CovidxrError
from covidxr.files import atomic_path
from covidxr.sources._known import Known, measure, unfit

MIRROR_VARIABLE = "COVIDXR_MIRROR"
CONNECT_SECONDS = 5  # for a host to answer
STALL_SECONDS = 20  # without a byte
ATTEMPTS = 4  # a file
PAUSE_SECONDS = 1.0  # before the second attempt; it doubles from one to the next
LONGEST_PAUSE = 60.0  # that a server may ask for
WORKERS = 8  # files at once
GIVE_UP_AFTER = 8  # files failed in a row
_CHUNK_BYTES = 1 << 16
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
_ABSENT_STATUS = (404, 410)
_WORDS = (
    (requests.Timeout, "did not answer in time"),
    (requests.exceptions.ProxyError, "is behind a proxy that cannot be reached"),
    (requests.exceptions.SSLError, "has a certificate that is not trusted here"),
    (requests.exceptions.ChunkedEncodingError, "broke off in the middle of a file"),
    (requests.ConnectionError, "cannot be reached"),
)


class Job(NamedTuple):
    """One file to fetch: its ``path`` within the source, ``url``, ``target`` on disk, and what is ``known`` of it."""

    path: str
    url: str
    target: Path
    known: Known


class Result(NamedTuple):
    """What became of a job: ``known`` when it arrived, else the ``reason``; ``absent`` when the server has no such file."""

    known: Known | None = None
    reason: str = ""
    absent: bool = False


class _WrongBytes(Exception):
    """The server sent something else than what was asked for."""


class _Stopped(Exception):
    """The rest was given up."""


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

    Raises
    ------
    CovidxrError
        When the mirror is no HTTP address.

    Examples
    --------
    >>> mirrored("https://github.com/a/b.csv?raw=1", "http://127.0.0.1:8000/")
    'http://127.0.0.1:8000/a/b.csv?raw=1'
    """
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        return url
    if urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).netloc:
        raise CovidxrError(f"mirror {mirror!r} must be an address that begins with http:// or https://")
    parts = urlsplit(url)
    return mirror.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")


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
        futures = {pool.submit(_download, job, _Meter(bar, stop)): job for job in jobs}
        try:
            for future in as_completed(futures):
                job, result = futures[future], future.result()
                results[job.path] = result
                if result.known:
                    arrived(job, result.known)
                failed_in_a_row = 0 if result.known or result.absent else failed_in_a_row + 1
                bar.set_postfix_str(f"{len(results)}/{len(jobs)} files", refresh=False)
                if failed_in_a_row >= GIVE_UP_AFTER:
                    break
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return results


def _bar(jobs, label):
    sizes = [job.known.size for job in jobs]
    total = None if None in sizes else sum(sizes)
    return tqdm(total=total, desc=label, unit="B", unit_scale=True, leave=False, disable=None)


class _Meter:
    """A file's share of the common bar, in the shape that pooch expects of a progress bar."""

    _lock = threading.Lock()

    def __init__(self, bar, stop):
        self.bar, self.stop, self.total, self.seen = bar, stop, 0, 0

    def update(self, count):
        if self.stop.is_set():
            raise _Stopped
        self._add(count)

    def reset(self):
        self._add(-self.seen)

    def close(self):
        """The bar is closed when all files are through."""

    def _add(self, count):
        with self._lock:
            self.seen += count
            self.bar.update(count)


def _download(job, meter):
    for attempt in range(ATTEMPTS):
        try:
            return Result(_download_once(job, meter))
        except _Stopped:
            return Result(reason="given up")
        except (requests.RequestException, _WrongBytes) as error:
            meter.reset()
            if _status(error) in _ABSENT_STATUS:
                return Result(reason="the server has no such file", absent=True)
            if attempt + 1 == ATTEMPTS or not _is_passing(error) or meter.stop.wait(_pause(error, attempt)):
                return Result(reason=f"{urlsplit(job.url).netloc} {_plain(error)}")
    raise AssertionError("unreachable: the last attempt returns")


def _download_once(job, meter):
    # "identity", so that the size announced is the size of the file, and a short read is noticed
    headers = {"Accept-Encoding": "identity"}
    timeout = (CONNECT_SECONDS, STALL_SECONDS)
    fetch = HTTPDownloader(progressbar=meter, chunk_size=_CHUNK_BYTES, timeout=timeout, headers=headers)
    with atomic_path(job.target) as temporary:
        fetch(job.url, str(temporary), None)
        if reason := unfit(temporary, job.path, job.known):
            raise _WrongBytes(reason)
        return measure(temporary)


def _status(error):
    return error.response.status_code if isinstance(error, requests.HTTPError) else None


def _is_passing(error):
    if isinstance(error, requests.HTTPError):
        return _status(error) in _PASSING_STATUS
    return isinstance(error, (_WrongBytes, *(kind for kind, _ in _WORDS)))


def _pause(error, attempt):
    asked_for = error.response.headers.get("Retry-After", "") if _status(error) else ""
    return min(int(asked_for), LONGEST_PAUSE) if asked_for.isdigit() else PAUSE_SECONDS * 2**attempt


def _plain(error):
    """What happened, in words, to go behind the name of the host."""
    if isinstance(error, _WrongBytes):
        return f"sent wrong bytes: {error}"
    if isinstance(error, requests.HTTPError):
        return f"answered {_status(error)} {error.response.reason}"
    if "Read timed out" in str(error):  # requests calls a stall in mid-file a ConnectionError
        return f"stalled: no byte in {STALL_SECONDS} s"
    return next((words for kind, words in _WORDS if isinstance(error, kind)), f"cannot be asked ({error})")
