"""Generalisation to held-out sites and sources: ``python tests/benchmarks/carrying_over.py runs/honest``.

For each site with ten patients of both classes, and for the two sources that the profile holds out jointly: the AUC by the
share of the other patients in the training set, and which operating point generalises, the most probable class or a threshold
chosen on validation images. Means over random subsets of patients; the run is only read.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covidxr.utils import quiet_environment  # noqa: E402

quiet_environment()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402

from covidxr.audit.generalization import HeldOutGroups, sites_with_both_classes  # noqa: E402
from covidxr.data.dataset import load_dataset  # noqa: E402
from covidxr.data.manifest import patient_keys  # noqa: E402
from covidxr.evaluation.calibration import choose_threshold  # noqa: E402
from covidxr.evaluation.external import choose_operating_point  # noqa: E402
from covidxr.evaluation.linear_probe import SourceBalancedLDA  # noqa: E402
from covidxr.evaluation.metrics import POSITIVE  # noqa: E402
from covidxr.model.networks import embed, load_model  # noqa: E402

SHARES, DRAWS, VALIDATION = (0.4, 0.55, 0.7, 0.85, 1.0), 8, 0.15
JOINTLY_HELD_OUT = ("darkcovidnet", "figure1")  # evaluated on healthy people and COVID-19


def held_out_groups(images) -> dict:
    """Name of each held-out group, with the rows to evaluate on and the rows for training."""
    splitter, name = HeldOutGroups(images), " and ".join(JOINTLY_HELD_OUT)
    jointly = np.where(images.source.isin(JOINTLY_HELD_OUT), name, "")
    found = {
        groups[test[0]]: (test, train)
        for groups in (sites_with_both_classes(images), jointly)
        for train, test in splitter.split(None, images.positive, groups)
    }
    if name in found:
        test, train = found[name]
        found[name] = test[(images.positive | (images.label == "Normal")).to_numpy()[test]], train
    return found


def patient_subset(images, train, share, seed) -> np.ndarray:
    """The rows of a random share of the patients in the training set."""
    patients = np.unique(images.patient.iloc[train])
    some = np.random.default_rng(seed).choice(patients, round(share * len(patients)), replace=False)
    return train[images.patient.iloc[train].isin(some)]


def predictions(x, images, train, test) -> pd.DataFrame:
    """Rows of images with the probabilities of a probe that was fitted on others."""
    rows = images.iloc[train]
    probe = SourceBalancedLDA().fit(x[train], rows.label, sources=rows.source, groups=rows.patient)
    probabilities = pd.DataFrame(probe.predict_proba(x[test]), columns=[f"p_{one}" for one in probe.classes_])
    return images.iloc[test].reset_index(drop=True).join(probabilities)


def learning_curve(x, images, test, train) -> dict:
    """Mean AUC for each share of patients in the training set."""
    aucs = {}
    for share in SHARES:
        seeds = range(DRAWS if share < 1 else 1)
        tables = [predictions(x, images, patient_subset(images, train, share, seed), test) for seed in seeds]
        aucs[f"{share:.0%}"] = np.mean([roc_auc_score(rows.positive, rows[f"p_{POSITIVE}"]) for rows in tables])
    return aucs


def operating_points(x, images, test, train) -> pd.DataFrame:
    """Mean sensitivity and specificity by rule; thresholds come from validation patients of the training sources."""
    found = []
    for seed in range(DRAWS):
        validation = patient_subset(images, train, VALIDATION, seed)
        fitted = np.setdiff1d(train, validation)
        own, other = (predictions(x, images, fitted, rows) for rows in (validation, test))
        columns = [name for name in other if name.startswith("p_")]
        score = other[f"p_{POSITIVE}"]
        balanced = choose_operating_point(own, [name[2:] for name in columns]).threshold
        predicted = {
            "most probable class": other[columns].idxmax(axis=1) == f"p_{POSITIVE}",
            "threshold, sources balanced": score >= balanced,
            "threshold, images balanced": score >= choose_threshold(own[f"p_{POSITIVE}"], own.positive),
        }
        found += [{"rule": rule, "sensitivity": calls[other.positive].mean(), "specificity": (~calls[~other.positive]).mean()}
                  for rule, calls in predicted.items()]  # fmt: skip
    return pd.DataFrame(found).groupby("rule", sort=False).agg(["mean", "std"]).round(2)


def main(run_dir) -> None:
    """Print both for each held-out group."""
    manifest, pixels, *_ = load_dataset(run_dir)
    x = embed(load_model(run_dir), pixels)
    images = manifest.reset_index(drop=True).assign(
        positive=lambda rows: rows.label == POSITIVE, patient=patient_keys(manifest).to_numpy(str)
    )
    for name, (test, train) in held_out_groups(images).items():
        print(f"\n{name}, held out: {images.positive[test].sum()} positive, {(~images.positive[test]).sum()} negative")
        curve = pd.Series(learning_curve(x, images, test, train)).round(3).to_dict()
        print("AUC by share of patients in the training set:", curve)
        print(operating_points(x, images, test, train).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
