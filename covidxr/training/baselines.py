"""Baselines of the test accuracy: the article's simple model, and logistic regression on the frozen base's embeddings."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from covidxr.data.dataset import load_embeddings
from covidxr.evaluation.linear_probe import LogisticProbe
from covidxr.evaluation.metrics import predict_table, prediction_table
from covidxr.training.fit import TrainingConfig, train_network

SIMPLE_MODEL = {"network": "baseline", "policy": "none", "learning_rate": 1e-3, "warmup_epochs": 1, "batch_size": 32}


def baseline_predictions(dataset, run_dir, epochs=30, seed=0) -> dict[str, pd.DataFrame]:
    """Train both baselines on the run's training images: their prediction tables of the test images, by name."""
    simple = train_network(
        dataset, TrainingConfig(**SIMPLE_MODEL, epochs=epochs, seed=seed), Path(run_dir) / "baseline"
    )
    train, test = ((dataset.manifest.split == split).to_numpy() for split in ("train", "test"))
    embeddings, rows = load_embeddings(run_dir, dataset.manifest), dataset.manifest[test]
    probe = LogisticProbe(seed=seed)
    probe.fit(embeddings[train], dataset.manifest.label[train], groups=dataset.patients[train])
    return {
        "the article's simple model": predict_table(simple, rows, dataset.images[test], dataset.classes),
        "logistic regression on frozen features": prediction_table(
            rows, probe.predict_proba(embeddings[test]), probe.classes_
        ),
    }
