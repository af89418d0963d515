"""The profiles demo and clean with several seeds: one table of both, and the picture of the README.

Runs notebooks 01, 03, 06 and 07 of each profile and seed into `runs/seeds`, and resumes where it was interrupted. Usage:
python tests/benchmarks/demo_and_clean.py [number of seeds]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

from covidxr import plots
from covidxr.utils import estimate_text, read_json

FOLDER = Path("runs/seeds")
NOTEBOOKS = ("01", "03", "06", "07")
ESTIMATES = {  # what: where it stands in metrics.json, by profile
    "internal accuracy": {"demo": ("internal", "accuracy"), "clean": ("internal", "accuracy")},
    "lungs occluded": dict.fromkeys(("demo", "clean"), ("audit", "the network, lungs occluded")),
    "outside accuracy": {
        "demo": ("external", "phantom-county", "accuracy"),
        "clean": ("external", "phantom", "accuracy"),
    },
    "outside specificity, healthy": {
        "demo": ("external", "phantom-county", "specificity_healthy"),
        "clean": ("external", "phantom", "specificity_healthy"),
    },
    "the same, another selection": {"demo": ("mitigated", "phantom-county", "mitigated", "specificity_healthy")},
    "change": {"demo": ("mitigated", "phantom-county", "change", "specificity_healthy")},
}


def run(profile, seed):
    """Run the notebooks of one profile with one seed; return its metrics."""
    folder = FOLDER / f"{profile}-{seed}"
    for notebook in NOTEBOOKS:
        command = [
            "-m",
            "covidxr",
            "run",
            profile,
            "--run-dir",
            str(folder),
            "-p",
            "seed",
            str(seed),
            "--only",
            notebook,
        ]
        subprocess.run([sys.executable, *command], check=True)
    return read_json(folder / "metrics.json")


def look_up(metrics, path):
    """The estimate at a path, or None."""
    for key in path:
        metrics = (metrics or {}).get(key)
    return metrics


def summarise(seeds):
    """One row a profile and seed: estimates, shortcuts found, planted cues found and used."""
    rows, estimates = [], {}
    for seed in range(seeds):
        for profile in ("demo", "clean"):
            metrics = run(profile, seed)
            found = {what: look_up(metrics, paths[profile]) for what, paths in ESTIMATES.items() if profile in paths}
            estimates[profile, seed] = found
            texts = {what: estimate_text(*(e[k] for k in ("value", "low", "high"))) for what, e in found.items() if e}
            shortcuts = sum(bool(probe["shortcut"]) for probe in metrics["audit"].values())
            cues = metrics.get("planted") or {}
            visible = [cue for cue in cues.values() if cue["found"] is not None]
            rows.append({
                "profile": profile, "seed": seed, **texts, "shortcuts": f"{shortcuts} of {len(metrics['audit'])}",
                "planted cues found": f"{sum(cue['found'] for cue in visible)} of {len(visible)}" if cues else "–",
                "used": ", ".join(name for name, cue in cues.items() if cue["conclusion"].endswith(", used")),
            })  # fmt: skip
    return pd.DataFrame(rows), estimates


def draw(estimates, path):
    """The picture of the README: both profiles, seed 0."""
    titles = {"demo": "demo: each class from its own hospital", "clean": "clean: only disease goes with the class"}
    parts = []
    for profile, title in titles.items():
        found = {what: e for what, e in estimates[profile, 0].items() if e and what != "change"}
        rows = pd.DataFrame.from_dict(found, orient="index")[["value", "low", "high"]]
        accuracies = rows.index.isin(["internal accuracy", "lungs occluded", "outside accuracy"])
        parts.append(rows.assign(chance=[1 / 3 if one else None for one in accuracies], category=title))
    ax = plots.forest(pd.concat(parts), xlabel="value")
    plots.save_figure(ax, path, "Drawn images: the profiles demo and clean")


if __name__ == "__main__":
    table, found = summarise(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    for row in [table.columns, ["---"] * len(table.columns), *table.fillna("–").to_numpy(dtype=str)]:
        print("|", " | ".join(row), "|")
    draw(found, FOLDER / "demo_and_clean.png")
