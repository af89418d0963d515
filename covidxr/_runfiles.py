"""What the pages read of a run folder: its two records, whatever they hold, and which of its images are synthetic."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from covidxr._html import is_number
from covidxr.files import read_json

_NUMBER, _TEXT, _TEXTS, _INTERVAL, _ANY = "a number", "text", "a list of texts", "two numbers", "any"
_EACH = object()  # stands for whatever names there are


def _numbers(*names, **others):
    return {**dict.fromkeys(names, _NUMBER), **others}


def _measured(*names, **others):
    """Numbers that each have an interval."""
    return {**_numbers(*names), **{f"{name}_interval": _INTERVAL for name in names}, **others}


_CALLS = _measured("sensitivity", "specificity")
_SET = {
    **_CALLS, **_measured("accuracy", "auc", "calibration_error", "brier", n=_NUMBER),
    "called": {_EACH: {_EACH: _NUMBER}}, "unknown_labels": {_EACH: _NUMBER}, "at_threshold": {**_CALLS, "threshold": _NUMBER, "rule": _TEXT},
}  # fmt: skip
_METRICS = {
    "model": {"weights": _TEXT, "weights_origin": _TEXT, "parameters": _NUMBER},
    "test": _measured("accuracy", n=_NUMBER, per_class={_EACH: _numbers("precision", "recall", "f1", "support")}),
    "baselines": {_EACH: _measured("accuracy")},
    "grad_cam": _measured("heat_in_lungs", "untrained", chance=_NUMBER),
    "audit": {
        _EACH: _numbers("value", "low", "high", "chance", "n")
        | {"interval": _INTERVAL, "topic": _TEXT, "ideal": _TEXT, "verdict": _TEXT}
    },
    "audit_in_short": _TEXTS,
    "positive": _TEXT,
    "external": {_EACH: _SET},
    "refitted": {_EACH: _SET},
    "internal": _SET,
    "left_out": {
        _EACH: _numbers("n_positive", "n_negative", *(f"{key}{end}" for key in _CALLS for end in ("", "_low", "_high")))
    },
}
_RUN = {
    **dict.fromkeys(("profile", "git_commit", "manifest_sha256", "started", "finished"), _TEXT),
    "total_seconds": _NUMBER,
    "versions": {_EACH: _TEXT},
    "parameters": {_EACH: {_EACH: _ANY}},
    "notebooks": {_EACH: {"status": _TEXT, "error": _TEXT, "seconds": _NUMBER, "peak_memory_mb": _NUMBER}},
    "machine": {_EACH: _ANY},
}


class Records(NamedTuple):
    """``metrics.json`` and ``run.json`` with what can be used of them, and ``unusable``: a sentence for each thing that cannot."""

    metrics: dict
    run: dict
    unusable: list

    @property
    def unfinished(self) -> dict:
        """The notebooks that are not done, and what they are instead."""
        states = {stem: entry.get("status") or "not run" for stem, entry in self.run.get("notebooks", {}).items()}
        return {stem: state for stem, state in states.items() if state != "done"}


def read_records(run_dir) -> Records:
    """Read ``metrics.json`` and ``run.json`` of a run folder; what is not of the kind that it should be counts as missing."""
    unusable, kept = [], []
    for name, shape in (("metrics.json", _METRICS), ("run.json", _RUN)):
        kept.append(_checked(read_json(Path(run_dir, name), checked=False), shape, [name], unusable))
    return Records(*kept, unusable)


def _checked(value, shape, where, unusable):
    """What of a value fits a shape; None for what does not."""
    if isinstance(shape, dict):
        if value is None or not isinstance(value, dict):
            return _missing(value, "a table of names", where, unusable) or {}
        every = shape.get(_EACH)
        shapes = {name: every or shape.get(name, _ANY) for name in value}
        return {name: _checked(value[name], kind, [*where, name], unusable) for name, kind in shapes.items()}
    fits = {
        _NUMBER: is_number,
        _TEXT: lambda text: isinstance(text, str),
        _TEXTS: lambda texts: isinstance(texts, list) and all(isinstance(text, str) for text in texts),
        _INTERVAL: lambda ends: isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends)),
        _ANY: lambda _: True,
    }[shape]
    return value if fits(value) else _missing(value, shape, where, unusable)


def _missing(value, wanted, where, unusable):
    if value is not None:  # null says itself that nothing was measured
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}…"
        unusable.append(f"{' › '.join(where)} is {shown}, not {wanted}")


class Synthetic(NamedTuple):
    """Which images are drawn by a program: ``run``, all, some or none of the run's own, or unknown; ``sets``, the external sets."""

    run: str
    sets: list

    @property
    def tag(self) -> str:
        """What stands beside numbers of the run's own images; empty where they are radiographs."""
        return {"all": "synthetic images", "some": "partly synthetic images"}.get(self.run, "")

    @property
    def sentence(self) -> str:
        """What stands on top of whatever shows numbers of the run; empty where no image is drawn."""
        none = "drawn by a program, of no patient and from no hospital"
        ends = "Numbers on them show that the method runs, and say nothing about radiographs."
        if not self.tag:
            return f"The external images of {', '.join(self.sets)} are synthetic: {none}. {ends}" if self.sets else ""
        return f"{self.run.capitalize()} images of this run are synthetic: {none}. {ends}"

    def named(self, name) -> str:
        """The name of a source or set, with a word where its images are drawn."""
        return f"{name} (synthetic images)" if is_synthetic(name) else name


def is_synthetic(source) -> bool:
    """Whether a source, or an external set, is the package's own phantoms."""
    return str(source) == "phantom" or str(source).startswith("phantom, ")


def synthetic_images(run_dir, records) -> Synthetic:
    """Which images of a run are synthetic: by its manifest, and where that cannot be read by the sources that it was asked for."""
    sources = _manifest_sources(Path(run_dir, "manifest.csv")) or _named_sources(records.run.get("parameters", {}))
    drawn = [is_synthetic(source) for source in sources]
    run = "unknown" if not drawn else "all" if all(drawn) else "some" if any(drawn) else "none"
    return Synthetic(run, list(filter(is_synthetic, records.metrics.get("external") or {})))


def _manifest_sources(path):
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row.get("source") or "" for row in csv.DictReader(file)}
    except (OSError, ValueError, csv.Error):
        return set()


def _named_sources(parameters):
    lists = [values["sources"] for values in parameters.values() if isinstance(values.get("sources"), list)]
    return {str(source) for names in lists for source in names}
