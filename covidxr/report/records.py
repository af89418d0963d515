"""The two records of a run folder, checked before the pages show them, and which of its images are synthetic."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from covidxr.data.manifest import is_phantom
from covidxr.report._html import is_number
from covidxr.utils import METRICS_VERSION, read_json

_NUMBER, _TEXT, _TEXTS, _ANY = "a number", "text", "a list of texts", "any"

_EACH = object()  # stands for any name


def _numbers(*names, **others):
    return {**dict.fromkeys(names, _NUMBER), **others}


_ESTIMATE = _numbers("value", "low", "high", "n")


def _estimates(*names, **others):
    return {**dict.fromkeys(names, _ESTIMATE), **others}


_BINARY = _estimates("sensitivity", "specificity")

_SET = {
    **_BINARY, **_estimates("accuracy", "auc", "calibration_error", "brier", n=_NUMBER),
    "confusion": {_EACH: {_EACH: _NUMBER}}, "unknown_labels": {_EACH: _NUMBER},
    "operating_point": {**_BINARY, "threshold": _NUMBER, "rule": _TEXT},
}  # fmt: skip

_METRICS = {
    "version": _NUMBER,
    "model": {"weights": _TEXT, "weights_origin": _TEXT, "parameters": _NUMBER},
    "test": _estimates("accuracy", n=_NUMBER, per_class={_EACH: _numbers("precision", "recall", "f1", "support")}),
    "baselines": {_EACH: _ESTIMATE},
    "grad_cam": _estimates("heat_in_lungs", "untrained", chance=_NUMBER),
    "audit": {
        _EACH: {**_ESTIMATE, "chance": _NUMBER, **dict.fromkeys(("category", "expected", "conclusion"), _TEXT)},
    },
    "audit_summary": _TEXTS,
    "positive": _TEXT,
    "external": {_EACH: _SET},
    "refitted": {_EACH: _SET},
    "internal": _SET,
    "held_out_sources": {_EACH: {**_BINARY, **_numbers("n_positive", "n_negative")}},
    "planted": {_EACH: {**dict.fromkeys(("planted", "evidence", "conclusion"), _TEXT), "used": _ESTIMATE}},
    "mitigated": {_EACH: dict.fromkeys(("network", "mitigated", "change"), _SET)},
}

_RUN = {
    **dict.fromkeys(("profile", "git_commit", "manifest_sha256", "started", "finished"), _TEXT),
    "total_seconds": _NUMBER,
    "versions": {_EACH: _TEXT},
    "parameters": {_EACH: {_EACH: _ANY}},
    "notebooks": {_EACH: {"status": _TEXT, "error": _TEXT, "seconds": _NUMBER, "peak_memory_mb": _NUMBER}},
    "machine": {_EACH: _ANY},
}


class Synthetic(NamedTuple):
    """Which images are synthetic: ``run``, "all", "some", "none" or "unknown" of the run's own; ``sets``, the external sets."""

    run: str
    sets: list

    @property
    def tag(self) -> str:
        """A label for results on the run's own images; empty where they are radiographs."""
        return {"all": "synthetic images", "some": "partly synthetic images"}.get(self.run, "")

    @property
    def sentence(self) -> str:
        """A note on top of the run's page and cards; empty where no image is synthetic."""
        none = "drawn by a program, not acquired from patients"
        ends = "Results on them show that the method runs; they do not apply to radiographs."
        if not self.tag:
            return f"The external images of {', '.join(self.sets)} are synthetic: {none}. {ends}" if self.sets else ""
        return f"{self.run.capitalize()} images of this run are synthetic: {none}. {ends}"

    def named(self, name) -> str:
        """The name of a source or set, marked where its images are synthetic."""
        return f"{name} (synthetic images)" if is_phantom(name) else name


class Records(NamedTuple):
    """The usable parts of ``metrics.json`` and ``run.json``, which images are synthetic, and a sentence for each unusable part."""

    metrics: dict
    run: dict
    synthetic: Synthetic
    unusable: list

    @property
    def positive(self) -> str | None:
        """The class against which all others count as one; None where the run has none."""
        return self.metrics.get("positive", "COVID-19")

    @property
    def unfinished(self) -> dict:
        """The notebooks that are not done, with their status."""
        states = {stem: entry.get("status") or "not run" for stem, entry in self.run.get("notebooks", {}).items()}
        return {stem: state for stem, state in states.items() if state != "done"}


def read_records(run_dir) -> Records:
    """Read ``metrics.json`` and ``run.json`` of a run folder; values of another kind than expected count as missing."""
    metrics, run = (read_json(Path(run_dir, name), checked=False) for name in ("metrics.json", "run.json"))
    unusable = []
    if isinstance(metrics, dict) and metrics and metrics.get("version") != METRICS_VERSION:
        unusable.append(
            "metrics.json was written by another version of covidxr, which stores results differently; "
            "run the notebooks again"
        )
        metrics = {}
    metrics = _checked(metrics, _METRICS, ["metrics.json"], unusable)
    run = _checked(run, _RUN, ["run.json"], unusable)
    return Records(metrics, run, _synthetic(Path(run_dir), metrics, run), unusable)


def _checked(value, shape, where, unusable):
    """The part of a value that has the expected shape; None where it has another."""
    if isinstance(shape, dict):
        if value is None or not isinstance(value, dict):
            return _missing(value, "an estimate" if shape is _ESTIMATE else "a table of names", where, unusable) or {}
        every = shape.get(_EACH)
        shapes = {name: every or shape.get(name, _ANY) for name in value}
        return {name: _checked(value[name], kind, [*where, name], unusable) for name, kind in shapes.items()}
    fits = {
        _NUMBER: is_number,
        _TEXT: lambda text: isinstance(text, str),
        _TEXTS: lambda texts: isinstance(texts, list) and all(isinstance(text, str) for text in texts),
        _ANY: lambda _: True,
    }[shape]
    return value if fits(value) else _missing(value, shape, where, unusable)


def _missing(value, wanted, where, unusable):
    if value is not None:  # null means that nothing was measured
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}…"
        unusable.append(f"{' › '.join(where)} is {shown}, not {wanted}")


def _synthetic(run_dir, metrics, run):
    """Which images of a run are synthetic, by its manifest, or else by the sources in its parameters."""
    sources = _manifest_sources(run_dir / "manifest.csv") or _named_sources(run.get("parameters", {}))
    drawn = [is_phantom(source) for source in sources]
    own = "unknown" if not drawn else "all" if all(drawn) else "some" if any(drawn) else "none"
    return Synthetic(own, list(filter(is_phantom, metrics.get("external") or {})))


def _manifest_sources(path):
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row.get("source") or "" for row in csv.DictReader(file)}
    except (OSError, ValueError, csv.Error):
        return set()


def _named_sources(parameters):
    lists = [values["sources"] for values in parameters.values() if isinstance(values.get("sources"), list)]
    entries = (entry for names in lists for entry in names)
    return {str(next(iter(entry)) if isinstance(entry, dict) else entry) for entry in entries}
