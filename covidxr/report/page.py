"""The run's page, ``index.html``."""

from __future__ import annotations

import csv
import os
import struct
from pathlib import Path
from urllib.parse import quote

from covidxr.data.manifest import is_phantom
from covidxr.report._html import is_number, number, render, title_of, weights_text
from covidxr.report.records import read_records
from covidxr.report.rows import (
    accuracy_rows,
    audit_rows,
    chance_of,
    external_rows,
    heat_rows,
    is_measured,
    measure_row,
    mitigation_rows,
    planted_rows,
)


def _key_results(metrics, synthetic):
    """The three key results of a run: internal, external, and without the lungs."""
    on = f", {synthetic.tag}" if synthetic.tag else ""
    external = metrics.get("external") or _held_out_sets(metrics)
    on_external = ", synthetic images" if external and all(map(is_phantom, external)) else ""
    parts = [
        (f"Internal test split{on}", _internal_result(metrics), "04"),
        (f"External validation{on_external}", _external_result(external, synthetic), "07"),
        (f"Without the lungs{on}", _no_lungs_result(metrics.get("audit") or {}), "06"),
    ]
    return [
        {"title": title, "row": row, "lines": lines, "missing": f"Not yet measured: see notebook {notebook}."}
        for title, (row, lines), notebook in parts
    ]


def _internal_result(metrics):
    """Test accuracy, and the baselines below it, the best first."""
    test = metrics.get("test") or {}
    if not is_measured(test.get("accuracy")):
        return None, []
    row = measure_row(f"accuracy on {_images(test, 'test ')}", test["accuracy"], chance_of(test))
    baselines = [(name, one["value"]) for name, one in (metrics.get("baselines") or {}).items() if is_measured(one)]
    return row, [(name, number(value)) for name, value in sorted(baselines, key=lambda item: -item[1])]


def _images(found, kind=""):
    return f"{found['n']} {kind}images" if is_number(found.get("n")) else f"an unknown number of {kind}images"


def _external_result(external, synthetic):
    """The estimate whose interval ends lowest, radiographs before synthetic images; the others stand below it."""
    rows = [
        (
            is_phantom(name),
            high if is_number(high := found[key].get("high")) else found[key]["value"],
            key,
            name,
            found,
        )
        for name, found in external.items()
        for key in ("sensitivity", "specificity")
        if is_measured(found.get(key))
    ]
    if not rows:
        return None, []
    (drawn, _, key, name, found), *others = sorted(rows, key=lambda row: row[:2])
    lowest = " (the lowest)" if any(row[0] == drawn for row in others) else ""
    row = measure_row(f"{key}{lowest}, {synthetic.named(name)}, {_images(found)}", found[key])
    return row, [(f"{key}, {synthetic.named(name)}", number(found[key]["value"])) for *_, key, name, found in others]


def _held_out_sets(metrics):
    """Without external sets, the held-out sources of notebook 06."""
    return {
        f"{source}, held out": {**row, "n": sum(row.get(key) or 0 for key in ("n_positive", "n_negative"))}
        for source, row in (metrics.get("held_out_sources") or {}).items()
    }


def _no_lungs_result(audit):
    """Of the probes without lungs the one furthest above chance; then the probes that found a shortcut or missed expectations."""
    probes = {name: probe for name, probe in audit.items() if is_measured(probe)}
    probes = {name: probe for name, probe in probes.items() if name.startswith("class from ")} or probes
    if not probes:
        return None, []
    best, probe = max(probes.items(), key=lambda item: _skill_score(item[1]))
    label = f"{best}: {probe['conclusion']}" if probe.get("conclusion") else best
    found = [name for name, probe in audit.items() if probe.get("shortcut")]
    missed = [name for name, probe in audit.items() if name not in found and probe.get("missed_expectation")]
    lines = [
        (f"{len(found)} of {len(audit)} probes found a shortcut", "; ".join(found)),
        (f"{len(missed)} {'others' if found else 'probes'} missed the expected result", "; ".join(missed)),
    ]
    return measure_row(label, probe, probe.get("chance")), lines


def _skill_score(probe):
    """The value as a share of the way from chance to 1."""
    chance = probe["chance"] if is_number(probe.get("chance")) else 0
    return (probe["value"] - chance) / (1 - chance) if chance < 1 else 0


_WIDE = 1.7  # a figure whose width is a larger multiple of its height gets the full width of the page

_DOCUMENTS = {"CLAIM.md": "the CLAIM checklist", "MODEL_CARD.md": "the model card"}


def write_page(run_dir: str | os.PathLike) -> Path:
    """Write ``index.html`` into a run folder.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The run folder, finished or not; what is not there yet is not shown.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    CovidxrError
        When ``metrics.json`` or ``run.json`` cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> write_page(tempfile.mkdtemp()).name
    'index.html'
    """
    run_dir = Path(run_dir)
    return render("index.html.j2", run_dir / "index.html", _context(run_dir))


def _context(run_dir):
    records = read_records(run_dir)
    metrics, run, synthetic, unusable = records
    positive, external = records.positive, metrics.get("external") or {}
    mitigated = {name: mitigation_rows(found, positive) for name, found in (metrics.get("mitigated") or {}).items()}
    return {
        "run": run,
        "metrics": metrics,
        "unusable": unusable,
        "synthetic": synthetic,
        "model": metrics.get("model") or {},
        "weights": weights_text(metrics.get("model") or {}),
        "test": metrics.get("test") or {},
        "key_results": _key_results(metrics, synthetic),
        "planted": planted_rows(metrics),
        "mitigated": [(synthetic.named(name), row) for name, rows in mitigated.items() for row in rows],
        "documents": [(name, title) for name, title in _DOCUMENTS.items() if (run_dir / name).exists()],
        "accuracy": accuracy_rows(metrics, "The model"),
        "heat": heat_rows(metrics),
        "audit": audit_rows(metrics),
        "audit_summary": metrics.get("audit_summary") or [],
        "positive": positive,
        "external": [_external(synthetic.named(name), found, positive) for name, found in external.items()],
        "hospitals": [name for name in external if name not in synthetic.sets],
        "gallery": _gallery(run_dir, unusable),
        "figures": [_figure(path) for path in sorted((run_dir / "figures").glob("*.png"))],
        "notebooks": [_notebook(stem, entry, run_dir) for stem, entry in run.get("notebooks", {}).items()],
        "outdated": [stem for stem, state in records.unfinished.items() if _is_outdated(state, run["notebooks"][stem])],
        "unfinished": _unfinished(records.unfinished),
    }


def _unfinished(states):
    """Names of the notebooks that are not done, by state: what runs now and what is still to come before the others."""
    words = {"running": "running now", "not run": "still to come"}
    order = dict.fromkeys([*words, *states.values()])
    found = {words.get(state, state): [stem for stem, its in states.items() if its == state] for state in order}
    return {state: stems for state, stems in found.items() if stems}


def _is_outdated(state, entry):
    """Whether the results of a notebook are of an earlier state; one that runs for the first time has none."""
    return state in ("outdated", "failed", "interrupted") or (state == "running" and bool(entry.get("outputs")))


def _external(name, found, positive):
    """One external set: its estimates, how its images were predicted, and labels that are no class of the network."""
    confusion = [_predictions(label, counts) for label, counts in (found.get("confusion") or {}).items()]
    unknown = ", ".join(found.get("unknown_labels") or {})
    return {
        "name": name,
        "n": found.get("n"),
        "rows": external_rows(found, positive),
        "confusion": confusion,
        "unknown": unknown,
    }


def _predictions(label, counts):
    """A true label, its number of images, and the predicted classes, the most frequent first."""
    known = {predicted: n for predicted, n in counts.items() if is_number(n) and n > 0}
    return label, sum(known.values()), sorted(known.items(), key=lambda item: -item[1])


def _gallery(run_dir, unusable):
    """The gallery's images, errors first, the most confident of each first, and the values to filter by."""
    path = run_dir / "gallery" / "images.csv"  # of covidxr.report.gallery, whose import takes a second
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            images = [_image(row) for row in csv.DictReader(file)]
        if not images:
            raise ValueError("it is empty")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:  # not text, not a table, or another table
        unusable.append(f"gallery › {path.name} is no table of test images ({error}); notebook 05 writes it again")
        return {}
    images.sort(key=lambda image: (image["right"], -image["confidence"]))
    return {
        "images": images,
        **{key: sorted({image[key] for image in images}) for key in ("label", "predicted", "source")},
    }


def _image(row):
    chances = [(name[2:], float(value)) for name, value in row.items() if name.startswith("p_")]
    named = {key: row[key] for key in ("image_id", "label", "predicted", "source")}
    if None in named.values():
        raise ValueError("a row is cut off")
    return {
        **named,
        "picture": quote(row["picture"]),
        "outlines": quote(row.get("outlines") or ""),
        "right": row["label"] == row["predicted"],
        "confidence": float(row["confidence"]),
        "chances": [(name, f"{value:.2f}", round(100 * value, 1)) for name, value in chances],
    }


def _figure(path):
    caption_file = path.with_suffix(".txt")
    caption = (
        caption_file.read_text(encoding="utf-8", errors="replace").strip()
        if caption_file.exists()
        else title_of(path.stem)
    )
    width, height = struct.unpack(">II", path.read_bytes()[16:24].ljust(8, b"\1"))  # where every PNG has them
    return {"src": f"figures/{quote(path.name)}", "caption": caption, "wide": width > _WIDE * height}


def _notebook(stem, entry, run_dir):
    """A row of the table of notebooks, with links to the executed copies, or to the copy that failed."""
    endings = (".failed.ipynb",) if entry.get("status") == "failed" else (".html", ".ipynb")
    names = [stem + ending for ending in endings]
    links = [f"notebooks/{quote(name)}" for name in names if (run_dir / "notebooks" / name).exists()]
    return {**entry, "title": title_of(stem), "stem": stem, "links": links}
