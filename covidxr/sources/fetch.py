"""Fetch the real sources into the folders that their readers expect; nothing else in the package downloads films.

Files from GitHub come one by one, at pinned commits, in parallel; the Kaggle set comes through kagglehub; any source can
come out of a zip archive got by hand. ``fetched.json`` in a source's folder records size, SHA-256 sum and address of each
file; what is there and unchanged is never fetched again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from covidxr.errors import CovidxrError, unknown
from covidxr.files import sweep_leftovers
from covidxr.sources._archive import FULL, from_kagglehub, unpack
from covidxr.sources._download import (
    MAX_TOTAL_BYTES,
    MIRROR_VARIABLE,
    Job,
    download_all,
    mirror_login,
    mirrored,
)
from covidxr.sources._known import Known, frozen
from covidxr.sources._ledger import Fetched, Ledger, incomplete
from covidxr.sources._origins import KAGGLE_ARCHIVE, ORIGINS
from covidxr.sources._rows import find_images

__all__ = ["ORIGINS", "Fetched", "fetch"]

_SCRATCH = ".partial"  # in the Kaggle set's folder, while it is fetched; a sign that it is not whole


def fetch(source: str, data_dir, mirror: str | None = None, archive=None) -> Fetched:
    """Bring a source's films into its folder in the data folder; go on where an earlier attempt stopped.

    Parameters
    ----------
    source : str
        ``"covid-chestxray"``, ``"figure1"``, ``"darkcovidnet"`` or ``"kaggle-chest-xray"``.
    data_dir : str or pathlib.Path
        The data folder, made when missing.
    mirror : str, optional
        An address that serves the same paths as the original hosts, in their place; by default the environment variable
        ``COVIDXR_MIRROR``. A user name and password in it are sent to the mirror, neither recorded nor shown. Proxies are taken from ``HTTPS_PROXY`` and ``NO_PROXY``.
    archive : str or pathlib.Path, optional
        A zip archive of the source, got by hand; no network is used.

    Returns
    -------
    Fetched

    Raises
    ------
    CovidxrError
        When files are still missing, with the reason, their number, the first names and how to get them; when the disk is
        full; when an archive is broken or hostile. What has arrived is kept.

    Examples
    --------
    >>> fetch("kagle", "data")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: unknown source to fetch: 'kagle'; available: covid-chestxray, figure1, darkcovidnet, kaggle-chest-xray
    """
    if source not in ORIGINS:
        raise unknown("source to fetch:", source, ORIGINS)
    origin = ORIGINS[source]
    folder = Path(data_dir) / origin.folder
    try:
        ledger = Ledger(folder, origin.name, origin.version)
        sweep_leftovers(folder)
    except OSError as error:
        raise _not_writable(error, folder) from error
    done = Fetched(source, ledger.folder)
    try:
        if archive is not None:
            unpack(origin, archive, str(archive), ledger, done)
            shutil.rmtree(ledger.folder / _SCRATCH, ignore_errors=True)
        elif origin.repository:
            _from_github(origin, mirror, ledger, done)
        else:
            _from_kaggle(origin, mirror or os.environ.get(MIRROR_VARIABLE), ledger, done)
        ledger.save()
    except OSError as error:
        raise _not_writable(error, ledger.folder) from error
    finally:
        with contextlib.suppress(OSError):  # a full disk has been complained of
            ledger.save()
    return done


def _from_github(origin, mirror, ledger, done):
    _get(origin, {origin.index: Known()}, mirror, ledger, done)
    wanted = origin.wanted(ledger.folder)
    _get(origin, wanted, mirror, ledger, done)
    if set(wanted) <= set(done.absent):
        reason = "the server has none of them" if wanted else f"{origin.index} names no film"
        raise incomplete(origin, done, done.absent, reason)


def _get(origin, wanted, mirror, ledger, done):
    kept, changed, missing = ledger.sort_out(wanted)
    done.kept += kept
    jobs = []
    for path in changed + missing:
        url, known = mirrored(origin.url(path), mirror), wanted[path].filled(ledger.known(path))
        jobs.append(Job(path, url, ledger.folder / path, known, mirror_login(mirror)))

    def arrived(job, known):
        ledger.record(job.path, known, job.url)
        done.note(job.path, known)

    results = download_all(jobs, origin.name, arrived) if jobs else {}
    done.changed += [path for path in changed if path in done.new]
    done.absent += [job.path for job in jobs if job.path in results and results[job.path].absent]
    _complain_of_lost(origin, done, jobs, results, ledger)


def _complain_of_lost(origin, done, jobs, results, ledger):
    lost = [job.path for job in jobs if job.path not in done.new and job.path not in done.absent]
    if origin.index in [*done.absent, *lost]:  # then the frozen list has to say what else is missing
        lost = [path for path in {origin.index: 0, **frozen(origin.name)} if not (ledger.folder / path).is_file()]
    if lost:
        reasons = [result.reason for result in results.values() if not result.known and not result.absent]
        raise incomplete(origin, done, lost, next(iter(reasons), "the server has no such file"))


def _from_kaggle(origin, mirror, ledger, done):
    scratch = ledger.folder / _SCRATCH
    films = [film.relative_to(ledger.folder).as_posix() for film in find_images(ledger.folder, "*/*/*")]
    kept, changed, missing = ledger.sort_out(dict.fromkeys(ledger.files or films, Known()))
    if kept and not (changed or missing or scratch.exists()):
        done.kept = kept
        return
    scratch.mkdir(parents=True, exist_ok=True)
    if mirror:
        _from_mirrored_archive(origin, mirror, ledger, done, scratch / KAGGLE_ARCHIVE)
    else:
        from_kagglehub(origin, ledger, done, scratch)
    shutil.rmtree(scratch)


def _from_mirrored_archive(origin, mirror, ledger, done, archive):
    url = mirrored(origin.by_hand, mirror)
    job = Job(archive.name, url, archive, Known(), mirror_login(mirror), MAX_TOTAL_BYTES)
    if not archive.exists():  # whole, if it does
        result = download_all([job], origin.name, lambda job, known: None)[job.path]
        if not result.known:
            raise incomplete(origin, done, [KAGGLE_ARCHIVE], result.reason)
    try:
        unpack(origin, archive, url, ledger, done)
    except CovidxrError:
        archive.unlink()
        raise


def _not_writable(error, folder):
    if error.errno in FULL:
        return CovidxrError(
            f"{folder}: the disk is full; what has arrived is kept, and the same command goes on when there is room, "
            "or name another data folder"
        )
    return CovidxrError(f"{error.filename or folder}: cannot be written to or read ({error.strerror or error})")
