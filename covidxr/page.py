"""The index page of a run folder: the numbers beside what they must be compared with, then films, figures and facts.

It reads ``run.json``, ``metrics.json``, ``gallery/`` and ``figures/``, any of which may be missing, and opens from disk
without a network: styles and script are in the page, all images are beside it.
"""

from __future__ import annotations

import csv
import struct
from pathlib import Path
from urllib.parse import quote

from covidxr._headlines import headlines
from covidxr._html import chance_of, is_number, measure, words, write_html
from covidxr.files import read_json

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
    metrics, run = read_json(run_dir / "metrics.json"), read_json(run_dir / "run.json")
    notebooks = [_notebook(stem, entry, run_dir) for stem, entry in run.get("notebooks", {}).items()]
    return {
        "run": run,
        "metrics": metrics,
        "model": metrics.get("model") or {},
        "test": metrics.get("test") or {},
        "headlines": headlines(metrics),
        "papers": [(name, title) for name, title in _PAPERS.items() if (run_dir / name).exists()],
        "accuracy": _accuracy(metrics),
        "heat": _heat(metrics.get("grad_cam") or {}),
        "audit": [
            measure(name, probe.get("value"), probe.get("interval"), probe.get("chance"), probe.get("verdict"))
            for name, probe in (metrics.get("audit") or {}).items()
        ],
        "external": [_external(name, values) for name, values in (metrics.get("external") or {}).items()],
        "gallery": _gallery(run_dir),
        "figures": [_figure(path) for path in sorted((run_dir / "figures").glob("*.png"))],
        "notebooks": notebooks,
        "left_over": [notebook["stem"] for notebook in notebooks if notebook.get("status") in _LEFT_OVER],
    }


def _accuracy(metrics):
    """The model's accuracy, then the baselines'; chance is to name the test set's largest class each time."""
    test = metrics.get("test") or {}
    chance = chance_of(test)
    named = {"The model": test, **(metrics.get("baselines") or {})}
    return [
        measure(name, values.get("accuracy"), values.get("accuracy_interval"), chance)
        for name, values in named.items()
        if "accuracy" in values
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


def _external(name, values):
    """One external set: its rows of numbers, and what its images were called."""
    rows = [
        measure(label, values.get(key), values.get(f"{key}_interval"), chance)
        for label, key, chance in (
            ("Sensitivity", "sensitivity", None),
            ("Specificity", "specificity", None),
            ("Area under the ROC curve", "auc", 0.5),
        )
        if key in values
    ]
    called = [_called(label, counts) for label, counts in (values.get("called") or {}).items()]
    return {"name": name, "n": values.get("n"), "rows": rows, "called": called}


def _called(label, counts):
    """A true label, its number of images, and what they were called, most often first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return label, sum(counts.values()), [(predicted, n) for predicted, n in ordered if n]


def _gallery(run_dir):
    """The gallery's films, mistakes first, the surest of each first; and what they can be filtered by."""
    path = run_dir / "gallery" / "films.csv"  # covidxr.gallery writes it; importing that would cost a second here
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        films = [_film(row) for row in csv.DictReader(file)]
    films.sort(key=lambda film: (film["right"], -film["confidence"]))
    return {"films": films, **{key: sorted({film[key] for film in films}) for key in ("label", "predicted", "source")}}


def _film(row):
    chances = [(name[2:], float(value)) for name, value in row.items() if name.startswith("p_")]
    return {
        **row,
        "picture": quote(row["picture"]),
        "right": row["label"] == row["predicted"],
        "confidence": float(row["confidence"]),
        "chances": [(name, f"{value:.2f}", round(100 * value, 1)) for name, value in chances],
    }


def _figure(path):
    caption_file = path.with_suffix(".txt")
    caption = caption_file.read_text(encoding="utf-8").strip() if caption_file.exists() else words(path.stem)
    width, height = struct.unpack(">II", path.read_bytes()[16:24].ljust(8, b"\1"))  # where every PNG has them
    return {"src": f"figures/{quote(path.name)}", "caption": caption, "wide": width > _WIDE * height}


def _notebook(stem, entry, run_dir):
    """A line of the table; it links to what exists, and for a failed notebook to its failed copy."""
    endings = (".failed.ipynb",) if entry.get("status") == "failed" else (".html", ".ipynb")
    names = [stem + ending for ending in endings]
    links = [f"notebooks/{quote(name)}" for name in names if (run_dir / "notebooks" / name).exists()]
    return {**entry, "title": words(stem), "stem": stem, "links": links}
