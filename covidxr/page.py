"""The index page of a run folder: the numbers beside what they must be compared with, then films, figures and facts.

It reads ``run.json``, ``metrics.json``, ``gallery/`` and ``figures/``, any of which may be missing, and opens from disk
without a network: styles and script are in the page, all images are beside it.
"""

from __future__ import annotations

import csv
import struct
from pathlib import Path
from urllib.parse import quote

from covidxr._headlines import headlines, interval_of
from covidxr._html import chance_of, is_number, measure, weights_in_words, words, write_html
from covidxr._runfiles import read_records, synthetic_images

_WIDE = 1.7  # a figure with more columns than that for a row gets the full width of the page
_PAPERS = {"CLAIM.md": "the CLAIM checklist", "MODEL_CARD.md": "the model card"}
_LEFT_OVER = ("outdated", "failed", "interrupted", "running")  # what such notebooks left is of an earlier state


def write_page(run_dir) -> Path:
    """Write ``index.html`` into a run folder.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The run folder.

    Returns
    -------
    pathlib.Path
        The page.

    Examples
    --------
    >>> import tempfile
    >>> page = write_page(tempfile.mkdtemp())
    >>> page.name, "not for diagnosis" in page.read_text(encoding="utf-8")
    ('index.html', True)
    """
    run_dir = Path(run_dir)
    return write_html("index.html.j2", run_dir / "index.html", _context(run_dir))


def _context(run_dir):
    records = read_records(run_dir)
    metrics, run, unusable = records
    synthetic = synthetic_images(run_dir, records)
    return {
        "run": run,
        "metrics": metrics,
        "unusable": unusable,
        "synthetic": synthetic,
        "model": metrics.get("model") or {},
        "weights": weights_in_words(metrics.get("model") or {}),
        "test": metrics.get("test") or {},
        "headlines": headlines(metrics, synthetic),
        "papers": [(name, title) for name, title in _PAPERS.items() if (run_dir / name).exists()],
        "accuracy": _accuracy(metrics),
        "heat": _heat(metrics.get("grad_cam") or {}),
        "audit": [
            measure(name, probe.get("value"), interval_of(probe), probe.get("chance"), _judged(probe))
            for name, probe in (metrics.get("audit") or {}).items()
        ],
        "in_short": metrics.get("audit_in_short") or [],
        "positive": metrics.get("positive", "COVID-19"),
        "external": [
            _external(synthetic.named(name), values, metrics)
            for name, values in (metrics.get("external") or {}).items()
        ],
        "hospitals": [name for name in metrics.get("external") or {} if name not in synthetic.sets],
        "gallery": _gallery(run_dir, unusable),
        "figures": [_figure(path) for path in sorted((run_dir / "figures").glob("*.png"))],
        "notebooks": [_notebook(stem, entry, run_dir) for stem, entry in run.get("notebooks", {}).items()],
        "left_over": [stem for stem, state in records.unfinished.items() if state in _LEFT_OVER],
        "unfinished": records.unfinished,
    }


def _judged(probe):
    """The verdict on a probe, beside what its number would be if all were well."""
    ideal = f"If all were well: {probe['ideal']}. " if probe.get("ideal") else ""
    return f"{ideal}Found: {probe['verdict']}." if ideal and probe.get("verdict") else probe.get("verdict")


def _accuracy(metrics):
    """The model's accuracy, then the baselines'; chance is to name the test set's largest class each time."""
    test = metrics.get("test") or {}
    chance = chance_of(test)
    named = {"The model": test, **(metrics.get("baselines") or {})}
    return [
        measure(name, values.get("accuracy"), values.get("accuracy_interval"), chance)
        for name, values in named.items()
        if is_number(values.get("accuracy"))
    ]


def _heat(grad_cam):
    chance = grad_cam.get("chance")
    rows = (
        ("Share of heat inside the lungs", "heat_in_lungs", "heat_in_lungs_interval"),
        ("The same of an untrained network", "untrained", "untrained_interval"),
    )
    return [
        measure(label, grad_cam[key], grad_cam.get(interval), chance)
        for label, key, interval in rows
        if is_number(grad_cam.get(key))
    ]


def _external(name, values, metrics):
    """One external set: its rows of numbers, what its images were called, and labels that the network does not have."""
    of_one_class = metrics.get("positive", "COVID-19") is not None
    rows = [
        measure(label, values.get(key), values.get(f"{key}_interval"), chance)
        for label, key, chance in (
            ("Accuracy", "accuracy", None),
            ("Sensitivity", "sensitivity", None),
            ("Specificity", "specificity", None),
            ("Area under the ROC curve", "auc", 0.5),
        )
        if key in values and (key != "accuracy") == of_one_class
    ]
    called = [_called(label, counts) for label, counts in (values.get("called") or {}).items()]
    strange = ", ".join(values.get("unknown_labels") or {})
    return {"name": name, "n": values.get("n"), "rows": rows, "called": called, "strange": strange}


def _called(label, counts):
    """A true label, its number of images, and what they were called, most often first."""
    known = {predicted: n for predicted, n in counts.items() if is_number(n) and n > 0}
    return label, sum(known.values()), sorted(known.items(), key=lambda item: -item[1])


def _gallery(run_dir, unusable):
    """The gallery's films, mistakes first, the surest of each first; and what they can be filtered by."""
    path = run_dir / "gallery" / "films.csv"  # covidxr.gallery writes it; importing that would cost a second here
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            films = [_film(row) for row in csv.DictReader(file)]
        if not films:
            raise ValueError("it is empty")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:  # not text, not a table, or not this one
        unusable.append(f"gallery › {path.name} is no table of test images ({error}); notebook 05 writes it again")
        return {}
    films.sort(key=lambda film: (film["right"], -film["confidence"]))
    return {"films": films, **{key: sorted({film[key] for film in films}) for key in ("label", "predicted", "source")}}


def _film(row):
    chances = [(name[2:], float(value)) for name, value in row.items() if name.startswith("p_")]
    named = {key: row[key] for key in ("image_id", "label", "predicted", "source")}
    if None in named.values():
        raise ValueError("a row of it breaks off")
    return {
        **named,
        "picture": quote(row["picture"]),
        "right": row["label"] == row["predicted"],
        "confidence": float(row["confidence"]),
        "chances": [(name, f"{value:.2f}", round(100 * value, 1)) for name, value in chances],
    }


def _figure(path):
    caption_file = path.with_suffix(".txt")
    caption = (
        caption_file.read_text(encoding="utf-8", errors="replace").strip()
        if caption_file.exists()
        else words(path.stem)
    )
    width, height = struct.unpack(">II", path.read_bytes()[16:24].ljust(8, b"\1"))  # where every PNG has them
    return {"src": f"figures/{quote(path.name)}", "caption": caption, "wide": width > _WIDE * height}


def _notebook(stem, entry, run_dir):
    """A line of the table; it links to what exists, and for a failed notebook to its failed copy."""
    endings = (".failed.ipynb",) if entry.get("status") == "failed" else (".html", ".ipynb")
    names = [stem + ending for ending in endings]
    links = [f"notebooks/{quote(name)}" for name in names if (run_dir / "notebooks" / name).exists()]
    return {**entry, "title": words(stem), "stem": stem, "links": links}
