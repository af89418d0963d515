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
from covidxr.files import read_json, write_json
from covidxr.page import write_page

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

    Examples
    --------
    >>> open_record("demo", [], Path("no-such-folder"))["notebooks"]
    {}
    """
    old = read_json(run_dir / "run.json")
    notebooks, parameters = old.get("notebooks", {}), old.get("parameters", {})
    return {
        **old,
        "profile": profile,
        "parameters": {step.stem: parameters[step.stem] for step in steps if step.stem in parameters},
        "notebooks": {step.stem: notebooks.get(step.stem, {"status": "not run"}) for step in steps},
    }


def is_done(record: dict, step, run_dir: Path) -> bool:
    """Whether a notebook was executed as it is now, and its executed copy is there.

    Parameters
    ----------
    record : dict
        As `open_record` returns it.
    step : covidxr._plan.Step
        The notebook.
    run_dir : pathlib.Path
        The run folder.

    Returns
    -------
    bool

    Examples
    --------
    >>> from covidxr._plan import Step
    >>> step = Step(Path("01_a.ipynb"), [], {}, key="c0ffee")
    >>> is_done({"notebooks": {"01_a": {"status": "failed", "key": "c0ffee"}}}, step, Path("run"))
    False
    """
    entry = record["notebooks"][step.stem]
    copy = run_dir / "notebooks" / step.path.name
    return entry["status"] == "done" and entry["key"] == step.key and copy.exists()


def begin(record: dict, step, steps) -> dict:
    """Enter a notebook as running; those after it that were done are outdated from now on.

    Parameters
    ----------
    record : dict
        As `open_record` returns it; changed in place.
    step : covidxr._plan.Step
        The notebook.
    steps : list of covidxr._plan.Step
        All notebooks, in order.

    Returns
    -------
    dict
        The notebook's entry in the record.

    Examples
    --------
    >>> from covidxr._plan import Step
    >>> steps = [Step(Path("01_a.ipynb"), [], {}), Step(Path("02_b.ipynb"), [], {})]
    >>> record = {"parameters": {}, "notebooks": {"01_a": {"status": "done"}, "02_b": {"status": "done"}}}
    >>> begin(record, steps[0], steps)["status"], record["notebooks"]["02_b"]["status"]
    ('running', 'outdated')
    """
    entries = record["notebooks"]
    for later in steps[steps.index(step) + 1 :]:
        if entries[later.stem]["status"] == "done":
            entries[later.stem]["status"] = "outdated"
    entries[step.stem] = {"status": "running", "started": _now()}
    record["parameters"][step.stem] = step.values
    record.update(_facts())
    return entries[step.stem]


def finish(entry: dict, outcome, key: str) -> None:
    """Enter what became of a notebook.

    Parameters
    ----------
    entry : dict
        As `begin` returns it; changed in place.
    outcome : covidxr._execute.Outcome
        Time, memory and error.
    key : str
        The notebook's key.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> entry = {}
    >>> finish(entry, SimpleNamespace(seconds=2.0, peak_memory_mb=80.0, error="cell In [2]: 1 / 0"), "c0ffee")
    >>> entry["status"], entry["error"]
    ('failed', 'cell In [2]: 1 / 0')
    """
    entry.update(
        status="failed" if outcome.error else "done",
        seconds=outcome.seconds,
        peak_memory_mb=outcome.peak_memory_mb,
        key=key,
        finished=_now(),
    )
    if outcome.error:
        entry["error"] = outcome.error


def save(record: dict, run_dir: Path) -> None:
    """Write ``run.json`` and the index page.

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
    write_page(run_dir)


def _facts():
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


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
