"""The record of a run, ``run.json``: what was done with what, on which machine, and how long it took."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import psutil

import covidxr
from covidxr.utils import CovidxrError, read_json, write_json

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt


_LOCKED_BYTE = 1 << 30  # on Windows, where a locked byte cannot be read; past the end of the file


@contextlib.contextmanager
def locked(run_dir):
    """Make a run folder and lock it for the length of the block."""
    path = Path(run_dir) / "run.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _take(path)
    except OSError as error:
        reason = f"{run_dir} cannot be a run folder ({error.strerror or error})"
        raise CovidxrError(f"{reason}; give another --run-dir, a folder that can be written to") from None
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            path.unlink()
        file.close()


def _take(path):
    """Open and lock the file; try again where its last holder removed it in between."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (held as long as the run)
        try:
            _lock(file)
            if _is_still(path, file):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                return file
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "just started"
            file.close()
            raise CovidxrError(
                f"another run (process {holder}) is working in {path.parent}; wait for it, or give another --run-dir"
            ) from None
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file):
    if os.name == "posix":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    file.seek(_LOCKED_BYTE)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        raise BlockingIOError from error


def _is_still(path, file):
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


_PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "imgaug", "keras-vis")


def open_record(profile: str, steps, run_dir: Path) -> dict:
    """Read the record of a run folder, or start a new one."""
    old = _read(run_dir / "run.json")
    notebooks, parameters = old.get("notebooks", {}), old.get("parameters", {})
    return {
        **old,
        "profile": profile,
        "parameters": {step.stem: parameters[step.stem] for step in steps if step.stem in parameters},
        "notebooks": {step.stem: notebooks.get(step.stem, {"status": "not run"}) for step in steps},
    }


def _read(path):
    """Read the record; refuse a file that is none, as it may be another program's or the only trace of hours of work."""
    record = read_json(path)
    tables = [record, *(record.get(name, {}) for name in ("parameters", "notebooks") if isinstance(record, dict))]
    if not all(isinstance(table, dict) for table in tables) or not all(map(_is_entry, tables[-1].values())):
        raise CovidxrError(
            f"{path} is not the record of a run; delete it to run all notebooks again, or give another --run-dir"
        )
    return record


def _is_entry(entry):
    kinds = {"status": str, "inputs": dict, "outputs": dict, "metrics": dict, "started": str, "finished": str}
    return (
        isinstance(entry, dict)
        and "status" in entry
        and all(isinstance(entry[name], kind) for name, kind in kinds.items() if name in entry)
        and all(isinstance(entry.get(name, 0), (int, float)) for name in ("seconds", "usual_seconds"))
        and (entry["status"] != "running" or _is_time(entry.get("started")))
    )


def _is_time(text):
    try:
        return bool(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return False


def complete_entry(entry: dict, outcome) -> None:
    """Record the outcome of a notebook."""
    entry.update(
        status="failed" if outcome.error else "done",
        seconds=outcome.seconds,
        peak_memory_mb=outcome.peak_memory_mb,
        finished=now(),
    )
    if outcome.error:
        entry["error"] = outcome.error
    else:
        entry["usual_seconds"] = outcome.seconds  # kept when it runs again


def save_record(record: dict, run_dir: Path) -> None:
    """Write ``run.json``."""
    entries = list(record["notebooks"].values())
    manifest = run_dir / "manifest.csv"
    seeds = [values["seed"] for values in record["parameters"].values() if "seed" in values]
    record.update(
        seed=seeds[0] if seeds else None,
        manifest_sha256=hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else None,
        total_seconds=round(sum(entry.get("seconds", 0) for entry in entries), 1),
        started=min((entry["started"] for entry in entries if "started" in entry), default=None),
        finished=max((entry["finished"] for entry in entries if "finished" in entry), default=None),
    )
    write_json(run_dir / "run.json", record)


def facts() -> dict:
    """Versions, commit and machine; they may differ from those of an earlier part of the run."""
    return {
        "versions": {
            "python": platform.python_version(),
            "covidxr": covidxr.__version__,
            **{name: _version(name) for name in _PACKAGES},
        },
        "git_commit": _commit(Path(covidxr.__file__).parent.parent),
        "machine": {
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
            "platform": platform.platform(),
        },
    }


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(root):
    """Commit of a checkout, with ``-dirty`` when its files differ from it; None outside a checkout."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def now() -> str:
    """The time in UTC, as it stands in the record."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
