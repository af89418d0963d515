"""What a run leaves for others to read: a model card and the CLAIM checklist, filled from the run's own files."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import jinja2

from covidxr._headlines import audit_counts, interval_of
from covidxr._html import is_number, weights_in_words
from covidxr._runfiles import read_records, synthetic_images
from covidxr.claim import answers
from covidxr.dataset import read_run
from covidxr.files import atomic_path
from covidxr.splits import SPLITS, patient_keys, straddling_patients

_MEASURES = {
    "sensitivity": "sensitivity", "specificity": "specificity", "auc": "area under the ROC curve",
    "calibration_error": "calibration error", "brier": "Brier score",
}  # fmt: skip


def write_reports(run_dir) -> list:
    """Write ``MODEL_CARD.md`` and ``CLAIM.md`` into a run folder.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The run folder; what it does not hold yet is called missing.

    Returns
    -------
    list of str
        The names of the two files.

    Raises
    ------
    CovidxrError
        When the folder holds no films.

    References
    ----------
    Mitchell M. et al., Model Cards for Model Reporting, FAT* 2019; for CLAIM see `covidxr.claim`.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.dataset import assemble, save_run, split_manifest
    >>> folder = tempfile.mkdtemp()
    >>> made = assemble(per_class=8, image_size=32, work_dir=folder)
    >>> save_run(folder, made._replace(manifest=split_manifest(made.manifest)))
    >>> write_reports(folder)
    ['MODEL_CARD.md', 'CLAIM.md']
    """
    run_dir = Path(run_dir)
    context = _context(run_dir)
    names = ["MODEL_CARD.md", "CLAIM.md"]
    for name in names:
        text = _environment().get_template(f"{name}.j2").render(context)
        with atomic_path(run_dir / name) as temporary:
            temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
    return names


def _context(run_dir):
    manifest, pixels, rejected = read_run(run_dir)
    records = read_records(run_dir)
    metrics, run, unusable = records
    synthetic, weights = synthetic_images(run_dir, records), weights_in_words(metrics.get("model") or {})
    external = ", ".join(map(synthetic.named, metrics.get("external") or {}))
    straddling = straddling_patients(manifest)
    disjoint = "No patient is in two partitions" if not straddling else f"{straddling} patients are in two partitions"
    facts = {
        "disjoint": f"{disjoint} (parameter `split` of notebook 01)",
        "weights": plain(weights) or "not recorded",
        "external": plain(external) or "no set was given",
        "commit": plain(run.get("git_commit")) or "not recorded",
        "images": plain(synthetic.sentence) or "Public collections, or a hospital's own radiographs.",
    }
    said = answers(_holdings(run_dir, metrics, run), facts)
    return {
        "run": {"seed": None, **run}, "metrics": metrics, "unusable": unusable, "synthetic": synthetic, "weights": weights,
        "size": pixels.shape[1], "rejected": len(rejected),
        "classes": list(manifest.label.unique()), "groups": _groups(manifest), "splits": _splits(manifest),
        "licenses": sorted(set(manifest.license) - {""}), "disjoint": disjoint, "measures": _MEASURES,
        "sets": _sets(metrics, synthetic), "positive": metrics.get("positive", "COVID-19"),
        "shortcuts": " ".join(metrics.get("audit_in_short") or [_shortcuts(metrics.get("audit") or {})]),
        "answers": said, "yes": sum(not answer.startswith("no:") for _, answer in said),
    }  # fmt: skip


def _sets(metrics, synthetic):
    """What was measured, by the words that say on which films, and with which of the two networks."""
    kind = f" ({synthetic.tag})" if synthetic.tag else ""
    inside = {f"test films of the run{kind}": metrics["internal"]} if metrics.get("internal") else {}
    outside, again = metrics.get("external") or {}, metrics.get("refitted") or {}
    refit = "network fitted again on every film of the run"
    return {
        **inside,
        **{synthetic.named(name): found for name, found in outside.items()},
        **{f"{synthetic.named(name)}, {refit}": found for name, found in again.items()},
    }


def _holdings(run_dir, metrics, run):
    """Files of the run folder, and the sections of its records that are not empty."""
    files = [path.name for path in run_dir.iterdir() if path.is_file()]
    sections = {"metrics": metrics, "run": run}
    return {*files, *(f"{kind}:{name}" for kind, record in sections.items() for name, value in record.items() if value)}


def _groups(manifest):
    rows = manifest.assign(patient=patient_keys(manifest)).groupby(["label", "source"], sort=False)
    return [
        {
            "label": label, "source": source, "films": len(films), "patients": films.patient.nunique(),
            "ages": _ages(films.age), "women": _share(films.sex, "F"), "ap": _share(films["view"], "AP"),
        }
        for (label, source), films in rows
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


def _shortcuts(audit):
    found, missed = audit_counts(audit)
    said = "None of these probes found a shortcut; that does not mean that there is none."
    if found:
        said = f"{len(found)} of {len(audit)} probes found what can be read without reading a lung: {'; '.join(found)}."
    if missed:
        said += f" {len(missed)} of {'the others' if found else 'them'} miss what they would show if all were well: {'; '.join(missed)}."
    return said


def plain(value):
    """Text as Markdown that shows it as it is, on one line, a table's cell included; what is marked safe stays."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    html = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]~])|(?<!\w)_|_(?!\w)", r"\\\g<0>", html)


@functools.cache
def _environment():
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("covidxr"),
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=plain,  # whatever a template prints, but not its own text
    )
    environment.filters.update(
        number=_number,
        count=_count,
        of_probe=interval_of,
        interval=lambda ends: " to ".join(map(_number, ends or [])) or "–",
    )
    return environment


def _number(value):
    return f"{value:.2f}" if is_number(value) else "–"


def _count(value):
    return f"{value:.0f}" if is_number(value) else "unknown"
