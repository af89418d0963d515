"""Runs side by side: the same measures in rows, a column a run, as a page and as a printed table."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from covidxr._headlines import interval_of
from covidxr._html import chance_of, duration, is_number, measure, weights_in_words, words, write_html
from covidxr._runfiles import read_records, synthetic_images
from covidxr.errors import CovidxrError


def compare_runs(runs, page=None) -> tuple[Path, str]:
    """Put runs side by side.

    Parameters
    ----------
    runs : sequence of str or pathlib.Path
        Run folders, or names of folders in ``runs/``; two or more.
    page : str or pathlib.Path, optional
        The page to write; ``compare.html`` beside the first run by default.

    Returns
    -------
    tuple
        The page, and the same numbers as a table of plain text.

    Raises
    ------
    CovidxrError
        If a folder is no run, or there are fewer than two.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.files import write_json
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name, accuracy in (("a", 0.9), ("b", 0.8)):
    ...     write_json(folder / name / "metrics.json", {"test": {"n": 60, "accuracy": accuracy}})
    >>> page, table = compare_runs([folder / "a", folder / "b"])
    >>> print(table)
                  a             b
    On its own test films
      images      not recorded  not recorded
      test films  60            60
      accuracy    0.900         0.800
    """
    folders = [_folder(run) for run in runs]
    if len(folders) < 2:
        raise CovidxrError(f"comparing takes two runs or more, found {len(folders)}")
    read = [_read(folder) for folder in folders]
    groups, names = _groups(read), _names(folders)
    page = Path(page or folders[0].parent / "compare.html")
    context = {"runs": _links(names, folders, page), "groups": groups, "figures": _figures(folders, page)}
    return write_html("compare.html.j2", page, context), _text(names, groups)


def _folder(run):
    found = [folder for folder in (Path(run), Path("runs", run)) if (folder / "metrics.json").exists()]
    if not found:
        there = sorted(path.parent.name for path in Path("runs").glob("*/metrics.json"))
        raise CovidxrError(
            f"{run} is no run folder with a metrics.json; in runs/ there are: {', '.join(there) or 'none'}"
        )
    return found[0].resolve()


def _read(folder):
    """The metrics of a run and its record, with three facts on top: its images, whether it is finished, what is unusable of it."""
    records = read_records(folder)
    synthetic = synthetic_images(folder, records)
    state = ", ".join(f"{stem} {state}" for stem, state in records.unfinished.items())
    external = {synthetic.named(name): found for name, found in (records.metrics.get("external") or {}).items()}
    own = {
        "images": synthetic.tag or {"none": "radiographs"}.get(synthetic.run, "not recorded"),
        "unusable": records.unusable,
    }
    return {**records.metrics, "external": external, **own}, {
        **records.run,
        "state": state and f"not finished: {state}",
    }


def _names(folders):
    """The folders' names, or as much of their paths as it takes to tell them apart."""
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(set(folders)):
        depth += 1
    return ["/".join(folder.parts[-depth:]) for folder in folders]


def _number(value, interval=None, chance=None):
    row = measure("", value, interval, chance)
    text = f"{row['value']} ({row['interval']})" if row["interval"] else row["value"]
    return f"{text}, chance {row['chance']}" if row["chance"] else text


def _inside(metrics, _):
    test = metrics.get("test") or {}
    chance = chance_of(test)
    found = {"images": metrics["images"]}
    found |= {"test films": str(test["n"])} if is_number(test.get("n")) else {}
    named = {"accuracy": test, **(metrics.get("baselines") or {})}
    found.update(
        {
            name: _number(values["accuracy"], values.get("accuracy_interval"), chance)
            for name, values in named.items()
            if is_number(values.get("accuracy"))
        }
    )
    recalls = {f"recall, {label}": _number(row.get("recall")) for label, row in (test.get("per_class") or {}).items()}
    return {**found, **recalls}


def _outside(metrics, _):
    return {
        f"{key}, {name}": _number(values[key], values.get(f"{key}_interval"))
        for name, values in (metrics.get("external") or {}).items()
        for key in ("sensitivity", "specificity", "auc")
        if is_number(values.get(key))
    }


def _audited(metrics, _):
    probes = (metrics.get("audit") or {}).items()
    return {name: _number(probe.get("value"), interval_of(probe), probe.get("chance")) for name, probe in probes}


def _looked(metrics, _):
    heat = metrics.get("grad_cam") or {}
    named = {"heat in the lungs": "heat_in_lungs", "by chance": "chance", "an untrained network": "untrained"}
    return {
        title: _number(heat[key], heat.get(f"{key}_interval"))
        for title, key in named.items()
        if is_number(heat.get(key))
    }


def _made(metrics, run):
    facts = {"profile": run.get("profile"), "seed": run.get("seed"), "made": str(run.get("finished") or "")[:16]}
    facts |= {"code": str(run.get("git_commit") or "")[:12], "data": str(run.get("manifest_sha256") or "")[:12]}
    facts["time"] = duration(run["total_seconds"]) if is_number(run.get("total_seconds")) else ""
    facts |= {"weights": weights_in_words(metrics.get("model") or {}), "state": run["state"]}
    facts["left out, as it cannot be right"] = "; ".join(metrics["unusable"])
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _asked(_, run):
    sections = (run.get("parameters") or {}).items()
    return {
        f"{stem[:2]} {name}": str(v) for stem, values in sections for name, v in values.items() if name != "run_dir"
    }


_DIFFERING = "Parameters that differ"
_CHAPTERS = {
    "On its own test films": _inside,
    "On external images": _outside,
    "Audit: what can be told without the lungs": _audited,
    "Where it looks": _looked,
    "How it was made": _made,
    _DIFFERING: _asked,
}


def _groups(read):
    """Chapters with a row for each name that any run has; a parameter only where the runs do not agree."""
    groups = []
    for title, chapter in _CHAPTERS.items():
        columns = [chapter(metrics, run) for metrics, run in read]
        names = dict.fromkeys(name for column in columns for name in column)
        rows = [(name, [column.get(name, "–") for column in columns]) for name in names]
        rows = [row for row in rows if title != _DIFFERING or len(set(row[1])) > 1]
        groups += [(title, rows)] if rows else []
    return groups


def _links(names, folders, page):
    return [(name, _relative(folder / "index.html", page)) for name, folder in zip(names, folders, strict=True)]


def _figures(folders, page):
    """Figures that every run has, each with its pictures in the order of the runs."""
    shared = set.intersection(*({path.name for path in folder.glob("figures/*.png")} for folder in folders))
    return [
        (words(Path(name).stem), [_relative(f / "figures" / name, page) for f in folders]) for name in sorted(shared)
    ]


def _relative(path, page):
    return quote(Path(os.path.relpath(path, page.resolve().parent)).as_posix())


def _text(names, groups):
    table = [["", *names]]
    for title, rows in groups:
        table += [[title], *([f"  {name}", *values] for name, values in rows)]
    lines = [row for row in table if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in table]
    return "\n".join(line.rstrip() for line in padded)
