"""A small run folder with everything that a page shows: invented results, images of noise, two sources."""

from __future__ import annotations

import copy

import matplotlib.image
import numpy as np
import pandas as pd

from covidxr.evaluation.metrics import prediction_table
from covidxr.report.gallery import save_gallery
from covidxr.utils import write_json

CLASSES = ["Normal", "COVID-19", "Bacteria"]
METRICS = {
    "version": 2,
    "model": {"weights": "imagenet", "parameters": 14747715},
    "test": {
        "n": 174,
        "accuracy": {"value": 0.954, "low": 0.91, "high": 0.98, "n": 174},
        "per_class": {
            "COVID-19": {"precision": 0.981, "recall": 0.966, "f1": 0.973, "support": 58},
            "Normal": {"precision": 0.95, "recall": 0.93, "f1": 0.94, "support": 52},
        },
    },
    "baselines": {"8x8 pixels": {"value": 0.9, "low": 0.85, "high": 0.94}},
    "grad_cam": {
        "heat_in_lungs": {"value": 0.42, "low": 0.4, "high": 0.45},
        "untrained": {"value": 0.36, "low": 0.35, "high": 0.38},
        "chance": 0.37,
    },
    "audit": {
        "class from the outer frame": {
            "value": 0.89,
            "low": 0.84,
            "high": 0.93,
            "chance": 0.33,
            "conclusion": "strong class signal",
            "shortcut": True,
        },
        "class from the corners": {
            "value": 0.76,
            "low": 0.7,
            "high": 0.8,
            "chance": 0.33,
            "conclusion": "strong signal",
        },
        "lungs occluded": {"value": 0.99, "chance": 0.33, "conclusion": "lungs not needed", "shortcut": True},
    },
    "ablation": {
        "folds": 3,
        "repeats": 1,
        "finding": "0 of 1 differ significantly from reference",
        "variants": {
            "reference": {"n": 174, "value": 0.95},
            "one-cycle": {"n": 174, "value": 0.94, "verdict": "not significant"},
        },
    },
    "planted": {
        "side marker": {
            "planted": "R at the top left in all COVID-19 images",
            "found": True,
            "evidence": "class from the corners",
            "used": {"value": 0.31, "low": 0.2, "high": 0.44, "n": 60},
            "conclusion": "found and used",
        },
        "exposure": {"planted": "brighter adults", "found": None, "evidence": "", "used": None, "conclusion": "open"},
    },
    "mitigated": {
        "darkcovidnet": {
            "network": {"specificity": {"value": 0.005, "low": 0.0, "high": 0.03}, "auc": None},
            "mitigated": {"specificity": {"value": 0.4, "low": 0.33, "high": 0.46}, "auc": None},
            "change": {"specificity": {"value": 0.395, "low": 0.31, "high": 0.45}, "auc": None},
        },
    },
    "external": {
        "darkcovidnet": {
            "n": 220,
            "sensitivity": None,
            "specificity": {"value": 0.005, "low": 0.0, "high": 0.03},
            "confusion": {"Normal": {"Normal": 1, "Bacteria": 0, "COVID-19": 219}},
        },
        "figure1": {"n": 40, "sensitivity": {"value": 0.97, "low": 0.85, "high": 0.99}},
    },
}
RUN = {
    "profile": "article",
    "seed": 7,
    "git_commit": "c0ffee-dirty",
    "versions": {"python": "3.11.2", "imgaug": None},
    "parameters": {"01_data": {"seed": 7, "note": "<script>alert(1)</script>"}},
    "notebooks": {"01_data": {"status": "done", "seconds": 1800, "peak_memory_mb": 2048.0, "key": "k"}},
    "total_seconds": 1800,
}


def make_gallery(folder, n=60):
    """`n` images of noise, every third of each class, every fifth misclassified, every other of each source."""
    rng = np.random.default_rng(0)
    labels = np.resize(CLASSES, n)
    manifest = pd.DataFrame({
        "image_id": [f"image-{i:03d}" for i in range(n)], "patient_id": [f"p{i}" for i in range(n)],
        "source": np.resize(["here", "there"], n), "split": "test", "label": labels,
    })  # fmt: skip
    chosen = np.where(np.arange(n) % 5 == 0, (np.arange(n) + 1) % 3, np.arange(n) % 3)
    confidence = rng.uniform(0.5, 0.9, (n, 1)) + 0.05
    probabilities = np.where(np.eye(3)[chosen] > 0, confidence, (1 - confidence) / 2)
    images = rng.integers(0, 256, (n, 24, 24), np.uint8)
    save_gallery(folder, prediction_table(manifest, probabilities, CLASSES), images, rng.random((n, 24, 24)))


def make_run(folder, metrics=METRICS, run=RUN):
    """A whole run folder, without its page."""
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "run.json", run)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, width in (("04_confusion", 8), ("06_audit", 40)):
        matplotlib.image.imsave(folder / "figures" / f"{name}.png", np.zeros((10, width, 3)))
    make_gallery(folder)
    return folder


def damaged(record, value):
    """A record with `value` in place of one of its parts, once for each part; in place of all of it first."""
    yield "all of it", value
    for where in _places(record):
        changed = copy.deepcopy(record)
        part = changed
        for name in where[:-1]:
            part = part[name]
        part[where[-1]] = value
        yield where, changed


def _places(part, before=()):
    names = part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
    for name in names:
        yield (*before, name)
        yield from _places(part[name], (*before, name))
