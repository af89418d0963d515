"""Metrics with confidence intervals, calibration, external validation; never imports TensorFlow."""

from covidxr.evaluation.comparison import compare_predictions
from covidxr.evaluation.external import evaluate_external, load_external
from covidxr.evaluation.intervals import (
    Estimate,
    bootstrap_interval,
    estimate_proportion,
    proportion_interval,
    wilson_interval,
)
from covidxr.evaluation.metrics import classification_table, predict, prediction_table

__all__ = [
    "Estimate",
    "bootstrap_interval",
    "classification_table",
    "compare_predictions",
    "estimate_proportion",
    "evaluate_external",
    "load_external",
    "predict",
    "prediction_table",
    "proportion_interval",
    "wilson_interval",
]
