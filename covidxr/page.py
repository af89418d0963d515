"""The index page of a run folder: the numbers beside what they must be compared with, then figures and facts.

It reads ``run.json``, ``metrics.json`` and ``figures/``, any of which may be missing, and opens from disk without a
network: all styles are in the page, all images are beside it.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from urllib.parse import quote

import jinja2

from covidxr.files import atomic_path, read_json

_WIDE = 1.7  # a figure with more columns than that for a row gets the full width of the page


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
    html = _template().render(_context(run_dir))
    with atomic_path(run_dir / "index.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    return run_dir / "index.html"


def _template():
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("covidxr"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, count=_count, duration=_duration, memory=_memory, moment=_moment)
    return environment.get_template("index.html.j2")


def _context(run_dir):
    metrics, run = read_json(run_dir / "metrics.json"), read_json(run_dir / "run.json")
    return {
        "run": run,
        "metrics": metrics,
        "model": metrics.get("model") or {},
        "test": metrics.get("test") or {},
        "accuracy": _accuracy(metrics),
        "heat": _heat(metrics.get("grad_cam") or {}),
        "audit": [
            _measure(name, probe.get("value"), probe.get("interval"), probe.get("chance"), probe.get("verdict"))
            for name, probe in (metrics.get("audit") or {}).items()
        ],
        "external": [_external(name, values) for name, values in (metrics.get("external") or {}).items()],
        "figures": [_figure(path) for path in sorted((run_dir / "figures").glob("*.png"))],
        "notebooks": [_notebook(stem, entry, run_dir) for stem, entry in run.get("notebooks", {}).items()],
    }


def _accuracy(metrics):
    """The model's accuracy, then the baselines'; chance is to name the test set's largest class each time."""
    test = metrics.get("test") or {}
    support = [row["support"] for row in (test.get("per_class") or {}).values()]
    chance = max(support) / sum(support) if any(support) else None
    named = {"The model": test, **(metrics.get("baselines") or {})}
    return [
        _measure(name, values.get("accuracy"), values.get("accuracy_interval"), chance)
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
        _measure(label, grad_cam[key], grad_cam.get(interval), chance)
        for label, key, interval in rows
        if _is_number(grad_cam.get(key))
    ]


def _external(name, values):
    """One external set: its rows of numbers, and what its images were called."""
    rows = [
        _measure(label, values.get(key), values.get(f"{key}_interval"), chance)
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


def _measure(label, value, interval=None, chance=None, note=None):
    """A row of the page: the number as text, and where its marks stand on a scale from 0 to 1, in percent."""
    interval = interval if interval and all(map(_is_number, interval)) else None
    chance = chance if _is_number(value) and _is_number(chance) else None
    marks = [value, *(interval or [])]
    drawable = all(_is_number(mark) and 0 <= mark <= 1 for mark in marks)
    return {
        "label": label,
        "value": _number(value),
        "interval": "–".join(map(_number, interval)) if interval else None,
        "chance": None if chance is None else _number(chance),
        "note": note,
        "marks": [round(100 * mark, 2) for mark in marks] if drawable else [],
        "chance_mark": round(100 * chance, 2) if chance is not None and 0 <= chance <= 1 else None,
    }


def _figure(path):
    caption_file = path.with_suffix(".txt")
    caption = caption_file.read_text(encoding="utf-8").strip() if caption_file.exists() else _words(path.stem)
    width, height = struct.unpack(">II", path.read_bytes()[16:24].ljust(8, b"\1"))  # where every PNG has them
    return {"src": f"figures/{quote(path.name)}", "caption": caption, "wide": width > _WIDE * height}


def _notebook(stem, entry, run_dir):
    """A line of the table; it links to what exists, and for a failed notebook to its failed copy."""
    endings = (".failed.ipynb",) if entry.get("status") == "failed" else (".html", ".ipynb")
    names = [stem + ending for ending in endings]
    links = [f"notebooks/{quote(name)}" for name in names if (run_dir / "notebooks" / name).exists()]
    return {**entry, "title": _words(stem), "stem": stem, "links": links}


def _words(stem):
    """``03_fine_tuning`` as ``Fine tuning``."""
    words = re.sub(r"^\d+[_-]", "", stem).replace("_", " ").strip() or stem
    return words[0].upper() + words[1:]


def _is_number(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def _number(value):
    return f"{value:.3f}" if _is_number(value) else "–"


def _count(value):
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if _is_number(value) else "–"


def _duration(seconds):
    if not _is_number(seconds):
        return "–"
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _memory(megabytes):
    if not _is_number(megabytes):
        return "–"
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"


def _moment(text):
    """``2020-04-30T21:02:10+00:00`` as ``2020-04-30 21:02 UTC``."""
    return f"{text[:16].replace('T', ' ')} UTC" if text else "–"
