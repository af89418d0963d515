"""Comparison of runs: one row a measure, one column a run, as a page and as text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from covidxr.report._html import duration, is_number, number, render, title_of, weights_text
from covidxr.report.records import read_records
from covidxr.report.rows import accuracy_rows, audit_rows, external_rows, heat_rows, mitigation_rows, planted_rows
from covidxr.utils import CovidxrError


def compare_runs(runs: Sequence[str | os.PathLike], page: str | os.PathLike | None = None) -> tuple[Path, str]:
    """Compare runs measure by measure.

    Parameters
    ----------
    runs : sequence of str or pathlib.Path
        At least two run folders, or their names in ``runs/``.
    page : str or pathlib.Path, optional
        Where the page is written; by default ``compare.html`` next to the first run folder.

    Returns
    -------
    page : pathlib.Path
    table : str
        The same measures as text.

    Raises
    ------
    CovidxrError
        When there are fewer than two runs, or one has no ``metrics.json``.

    Examples
    --------
    >>> compare_runs([])
    Traceback (most recent call last):
        ...
    covidxr.utils.CovidxrError: a comparison needs two or more runs, found 0
    """
    folders = [_folder(run) for run in runs]
    if len(folders) < 2:
        raise CovidxrError(f"a comparison needs two or more runs, found {len(folders)}")
    records, names = [read_records(folder) for folder in folders], _names(folders)
    groups = _groups(records)
    sentences = [(name, run.synthetic.sentence) for name, run in zip(names, records, strict=True)]
    page = Path(page or folders[0].parent / "compare.html")
    links, figures = _links(names, folders, page), _figures(folders, page)
    context = {"runs": links, "notes": sentences, "groups": groups, "figures": figures}
    return render("compare.html.j2", page, context), _plain_table(names, groups)


def _folder(run):
    found = [folder for folder in (Path(run), Path("runs", run)) if (folder / "metrics.json").exists()]
    if not found:
        there = sorted(path.parent.name for path in Path("runs").glob("*/metrics.json"))
        raise CovidxrError(
            f"{run} is no run folder with a metrics.json; in runs/ there are: {', '.join(there) or 'none'}"
        )
    return found[0].resolve()


def _names(folders):
    """The folders' names, with as much of their paths as makes them unique."""
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(set(folders)):
        depth += 1
    return ["/".join(folder.parts[-depth:]) for folder in folders]


def _texts(rows):
    return {row["label"]: row["with_chance"] for row in rows}


def _internal_rows(records):
    test, synthetic = records.metrics.get("test") or {}, records.synthetic
    rows = {"images": synthetic.tag or {"none": "radiographs"}.get(synthetic.run, "not recorded")}
    rows |= {"test images": str(test["n"])} if is_number(test.get("n")) else {}
    recalls = {f"recall, {label}": number(row.get("recall")) for label, row in (test.get("per_class") or {}).items()}
    return {**rows, **_texts(accuracy_rows(records.metrics, "accuracy")), **recalls}


def _external_rows(records):
    return {
        f"{row['label']}, {records.synthetic.named(name)}": row["text"]
        for name, found in (records.metrics.get("external") or {}).items()
        for row in external_rows(found, records.positive)
        if row["value"] != "–"
    }


def _mitigation_rows(records):
    return {
        f"{row['label']}, {records.synthetic.named(name)}, {what}": row[key]
        for name, compared in (records.metrics.get("mitigated") or {}).items()
        for row in mitigation_rows(compared, records.positive)
        for key, what in (("mitigated", "another selection"), ("change", "change"))
    }


def _planted_rows(records):
    words = {"found": "found by the audit", "used": "predictions that change"}
    return {f"{cue['name']}, {word}": cue[key] for cue in planted_rows(records.metrics) for key, word in words.items()}


def _audit_rows(records):
    return _texts(audit_rows(records.metrics))


def _saliency_rows(records):
    return _texts(heat_rows(records.metrics))


def _provenance_rows(records):
    run, unfinished = records.run, [f"{stem} {state}" for stem, state in records.unfinished.items()]
    facts = {
        "profile": run.get("profile"),
        "seed": run.get("seed"),
        "finished": str(run.get("finished") or "")[:16],
        "code": str(run.get("git_commit") or "")[:12],
        "data": str(run.get("manifest_sha256") or "")[:12],
        "time": duration(run["total_seconds"]) if is_number(run.get("total_seconds")) else "",
        "weights": weights_text(records.metrics.get("model") or {}),
        "state": f"not finished: {', '.join(unfinished)}" if unfinished else "",
        "not usable": "; ".join(records.unusable),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _parameter_rows(records):
    sections = (records.run.get("parameters") or {}).items()
    return {
        f"{stem[:2]} {name}": str(v) for stem, values in sections for name, v in values.items() if name != "run_dir"
    }


_DIFFERING = "Parameters that differ"

_CHAPTERS = {
    "Internal test split": _internal_rows,
    "External validation": _external_rows,
    "What helps: another selection": _mitigation_rows,
    "Planted cues: ground truth": _planted_rows,
    "Shortcut audit": _audit_rows,
    "Grad-CAM": _saliency_rows,
    "Provenance": _provenance_rows,
    _DIFFERING: _parameter_rows,
}


def _groups(runs):
    """Chapters with a row for each name that any run has; parameters only where they differ."""
    groups = []
    for title, chapter in _CHAPTERS.items():
        columns = [chapter(records) for records in runs]
        names = dict.fromkeys(name for column in columns for name in column)
        rows = [(name, [column.get(name, "–") for column in columns]) for name in names]
        rows = [row for row in rows if title != _DIFFERING or len(set(row[1])) > 1]
        groups += [(title, rows)] if rows else []
    return groups


def _links(names, folders, page):
    return [(name, _relative(folder / "index.html", page)) for name, folder in zip(names, folders, strict=True)]


def _figures(folders, page):
    """Figures that every run has, each with its files in the order of the runs."""
    shared = set.intersection(*({path.name for path in folder.glob("figures/*.png")} for folder in folders))
    return [
        (title_of(Path(name).stem), [_relative(f / "figures" / name, page) for f in folders]) for name in sorted(shared)
    ]


def _relative(path, page):
    return quote(Path(os.path.relpath(path, page.resolve().parent)).as_posix())


def _plain_table(names, groups):
    table = [["", *names]]
    for title, rows in groups:
        table += [[title], *([f"  {name}", *values] for name, values in rows)]
    lines = [row for row in table if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in table]
    return "\n".join(line.rstrip() for line in padded)
