"""The model card and the CLAIM checklist of a run."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

from covidxr.data.dataset import load_dataset
from covidxr.data.manifest import SPLITS, patient_keys
from covidxr.data.splits import patients_across_splits
from covidxr.report._html import is_number, number, render, weights_text
from covidxr.report.records import read_records
from covidxr.report.rows import audit_rows, is_measured, planted_rows, text_of


class _ClaimItem(NamedTuple):
    """An item of the checklist: the ``answer`` of a run, and the files or sections of its records that the answer ``needs``."""

    number: int
    section: str
    question: str
    answer: str
    needs: tuple


def _claim_items():
    with Path(__file__).with_name("claim.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield _ClaimItem(**row | {"number": int(row["number"]), "needs": tuple(row["needs"].split())})


_CLAIM_ITEMS = tuple(_claim_items())


def _answer_checklist(available, facts) -> list:
    """Each item with its answer for one run, "no" where something that it needs is missing."""
    answers = []
    for item in _CLAIM_ITEMS:
        missing = [need for need in item.needs if need not in available]
        answers.append((item, f"no: this run has no {', '.join(missing)}" if missing else item.answer.format(**facts)))
    return answers


_MEASURES = {
    "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity", "auc": "AUC",
    "calibration_error": "calibration error", "brier": "Brier score",
}  # fmt: skip


def write_reports(run_dir) -> list:
    """Write ``MODEL_CARD.md`` and ``CLAIM.md`` into a run folder."""
    run_dir = Path(run_dir)
    context = _context(run_dir)
    names = ["MODEL_CARD.md", "CLAIM.md"]
    for name in names:
        render(f"{name}.j2", run_dir / name, context, _plain)
    return names


def _context(run_dir):
    manifest, images, rejected = load_dataset(run_dir)
    records = read_records(run_dir)
    metrics, run, synthetic, unusable = records
    weights, probes = weights_text(metrics.get("model") or {}), metrics.get("audit") or {}
    external = ", ".join(map(synthetic.named, metrics.get("external") or {}))
    leaking = patients_across_splits(manifest)
    disjoint = "No patient is in two partitions" if not leaking else f"{leaking} patients are in two partitions"
    facts = {
        "disjoint": f"{disjoint} (parameter `split` of notebook 01)",
        "weights": _plain(weights) or "not recorded",
        "external": _plain(external) or "no set was given",
        "commit": _plain(run.get("git_commit")) or "not recorded",
        "images": _plain(synthetic.sentence) or "Public collections, or a hospital's own radiographs.",
    }
    answers = _answer_checklist(_available(run_dir, metrics, run), facts)
    return {
        "run": {"seed": None, **run}, "metrics": metrics, "unusable": unusable, "synthetic": synthetic, "weights": weights,
        "size": images.shape[1], "rejected": len(rejected),
        "classes": list(manifest.label.unique()), "groups": _groups(manifest), "splits": _splits(manifest),
        "licenses": sorted(set(manifest.license) - {""}), "disjoint": disjoint,
        "results": _results(metrics, synthetic), "positive": records.positive,
        "audit": list(zip(probes.values(), audit_rows(metrics), strict=True)), "planted": planted_rows(metrics),
        "answers": answers, "yes": sum(not answer.startswith("no:") for _, answer in answers),
    }  # fmt: skip


def _results(metrics, synthetic):
    """Rows of the table of results: images and network, measure, estimate."""
    internal = f"internal test split{f' ({synthetic.tag})' if synthetic.tag else ''}"
    sets = {
        internal: metrics.get("internal") or metrics.get("test") or {},
        **{synthetic.named(name): found for name, found in (metrics.get("external") or {}).items()},
        **{
            f"{synthetic.named(name)}, network refitted on all images of the run": found
            for name, found in (metrics.get("refitted") or {}).items()
        },
    }
    return [
        (f"{name}, {_count(found.get('n'))} images", measure, text_of(estimate))
        for name, found in sets.items()
        for measure, estimate in _estimates(found)
        if is_measured(estimate)
    ]


def _estimates(found):
    yield from ((word, found.get(key)) for key, word in _MEASURES.items())
    point = found.get("operating_point") or {}
    at = f"at threshold {number(point.get('threshold'))} ({point.get('rule')}, validation images)"
    yield from ((f"{key} {at}", point.get(key)) for key in ("sensitivity", "specificity"))


def _available(run_dir, metrics, run):
    """Files of the run folder, and the non-empty sections of its records."""
    files = [path.name for path in run_dir.iterdir() if path.is_file()]
    sections = {"metrics": metrics, "run": run}
    return {*files, *(f"{kind}:{name}" for kind, record in sections.items() for name, value in record.items() if value)}


def _groups(manifest):
    rows = manifest.assign(patient=patient_keys(manifest)).groupby(["label", "source"], sort=False)
    return [
        {
            "label": label, "source": source, "images": len(images), "patients": images.patient.nunique(),
            "ages": _ages(images.age), "women": _share(images.sex, "F"), "ap": _share(images["view"], "AP"),
        }
        for (label, source), images in rows
    ]  # fmt: skip


def _ages(ages):
    known = ages.dropna()
    return f"{len(known)}, {known.min():.0f} to {known.max():.0f} years" if len(known) else "none"


def _share(values, wanted):
    known = values[values != ""]
    return f"{known.str.startswith(wanted).sum()} of {len(known)} known" if len(known) else "not known"


def _splits(manifest):
    patients = patient_keys(manifest)
    return [(name, int((manifest.split == name).sum()), patients[manifest.split == name].nunique()) for name in SPLITS]


def _plain(value):
    """Escape text for a cell of a Markdown table; text marked as safe stays."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    html = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]~])|(?<!\w)_|_(?!\w)", r"\\\g<0>", html)


def _count(value):
    return f"{value:.0f}" if is_number(value) else "unknown"
