"""The record of a run, ``run.json``: what was done with what, on which machine, and how long it took."""

from __future__ import annotations

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

_NUMBER = (int, float)

_ENTRY = {
    "status": str, "started": str, "finished": str, "seconds": _NUMBER, "usual_seconds": _NUMBER,
    "inputs": dict, "outputs": dict, "metrics": dict,
}  # fmt: skip

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
    return (
        isinstance(entry, dict)
        and "status" in entry
        and all(isinstance(entry[name], kind) for name, kind in _ENTRY.items() if name in entry)
        and (entry["status"] != "running" or _is_time(entry.get("started")))
    )


def _is_time(text):
    try:
        return bool(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return False


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
