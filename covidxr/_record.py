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
from covidxr.errors import CovidxrError
from covidxr.files import read_json, write_json

_PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "imgaug", "keras-vis")


def open_record(profile: str, steps, run_dir: Path) -> dict:
    """Read the record of a run folder, or begin one.

    Parameters
    ----------
    profile : str
        Name of the profile.
    steps : list of covidxr._plan.Step
        The notebooks that there are now; entries of others are dropped.
    run_dir : pathlib.Path
        The run folder.

    Returns
    -------
    dict

    Raises
    ------
    CovidxrError
        When there is a ``run.json`` that is not the record of a run.

    Examples
    --------
    >>> open_record("demo", [], Path("no-such-folder"))["notebooks"]
    {}
    """
    old = _read(run_dir / "run.json")
    notebooks, parameters = old.get("notebooks", {}), old.get("parameters", {})
    return {
        **old,
        "profile": profile,
        "parameters": {step.stem: parameters[step.stem] for step in steps if step.stem in parameters},
        "notebooks": {step.stem: notebooks.get(step.stem, {"status": "not run"}) for step in steps},
    }


def _read(path):
    """The record, refused where it is not one: it may be another program's file, or the only record of hours of work."""
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
        and isinstance(entry.get("seconds", 0), (int, float))
        and (entry["status"] != "running" or _is_moment(entry.get("started")))
    )


def _is_moment(text):
    try:
        return bool(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return False


def finish(entry: dict, outcome) -> None:
    """Enter what became of a notebook.

    Parameters
    ----------
    entry : dict
        Its entry in the record; changed in place.
    outcome : covidxr._execute.Outcome
        Time, memory and error.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> entry = {}
    >>> finish(entry, SimpleNamespace(seconds=2.0, peak_memory_mb=80.0, error="cell In [2]: 1 / 0"))
    >>> entry["status"], entry["error"]
    ('failed', 'cell In [2]: 1 / 0')
    """
    entry.update(
        status="failed" if outcome.error else "done",
        seconds=outcome.seconds,
        peak_memory_mb=outcome.peak_memory_mb,
        finished=now(),
    )
    if outcome.error:
        entry["error"] = outcome.error


def save(record: dict, run_dir: Path) -> None:
    """Write ``run.json``.

    Parameters
    ----------
    record : dict
        The record; its totals, seed and the hash of the manifest are brought up to date.
    run_dir : pathlib.Path
        The run folder.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> save({"profile": "demo", "parameters": {"01_a": {"seed": 7}}, "notebooks": {}}, folder)
    >>> read_json(folder / "run.json")["seed"]
    7
    """
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
    """What holds for the process that executes, and may differ from that of an earlier part of the run."""
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
    """Commit of a checkout, ending in ``-dirty`` when its files differ from it; None when it is no checkout."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def now() -> str:
    """The present moment, as the record has it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
