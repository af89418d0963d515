"""Paired differences: none between equal tables, a planted one with its sign, narrower than unpaired intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from covidxr.evaluation.comparison import compare_auc, compare_predictions
from covidxr.evaluation.intervals import estimate_auc, estimate_proportion
from covidxr.evaluation.metrics import prediction_table
from covidxr.utils import CovidxrError

CLASSES = ["Normal", "COVID-19", "Bacteria"]


def table(strength, noise_seed=0, labels=CLASSES, n=240, per_patient=2):
    """Predictions whose probability of the true class rises with `strength`."""
    rng = np.random.default_rng(noise_seed)
    number = np.arange(n)
    rows = pd.DataFrame({
        "image_id": number.astype(str), "patient_id": (number // (per_patient * len(labels))).astype(str) + "-"
        + (number % len(labels)).astype(str), "source": "north", "split": "", "label": np.resize(labels, n),
    })  # fmt: skip
    logits = rng.normal(size=(n, len(CLASSES))) + strength * (rows.label.to_numpy()[:, None] == np.array(CLASSES))
    return prediction_table(rows, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), CLASSES)


def test_equal_tables_do_not_differ():
    differences = compare_predictions(table(1.0), table(1.0), CLASSES)
    assert set(differences) == {"sensitivity", "specificity", "specificity_healthy", "accuracy", "auc"}
    assert all(one.value == one.low == one.high == 0 for one in differences.values())


def test_a_planted_improvement_is_found_in_every_metric_and_has_a_sign():
    better, worse = (
        compare_predictions(table(0.3), table(2.0), CLASSES),
        compare_predictions(table(2.0), table(0.3), CLASSES),
    )
    assert all(one.low > 0 for one in better.values())
    assert all(worse[name].value == pytest.approx(-one.value) and worse[name].high < 0 for name, one in better.items())
    assert better["specificity_healthy"].n == 80 and better["specificity"].n == 160 and better["auc"].n == 240


def test_two_networks_of_equal_quality_seldom_differ():
    found = [
        compare_predictions(table(1.0, seed), table(1.0, seed + 100), CLASSES)["specificity"] for seed in range(12)
    ]
    assert sum(one.low > 0 or one.high < 0 for one in found) <= 2


def test_only_healthy_images_count_in_the_specificity_for_healthy():
    first = table(1.0)
    changed = first.predicted.where(first.label != "Normal", "COVID-19")
    differences = compare_predictions(first.assign(predicted=changed), first, CLASSES)
    assert differences["specificity_healthy"].low > 0.4 and differences["sensitivity"].value == 0
    assert differences["specificity"].value == pytest.approx(differences["specificity_healthy"].value / 2)


def test_the_interval_is_that_of_pairs_and_respects_patients():
    first, second = table(1.0), table(1.0).assign()
    second["p_COVID-19"] = second["p_COVID-19"] + 0.01 * (second.label == "COVID-19")
    positive, patients = first.label == "COVID-19", first.patient_id
    change = compare_auc(positive, first["p_COVID-19"], second["p_COVID-19"], patients)
    alone = estimate_auc(positive, first["p_COVID-19"], patients)
    assert change.low > 0 and change.high - change.low < 0.2 * (alone.high - alone.low)
    flipped = np.where(np.arange(240) % 3 == 0, "COVID-19", "Normal")  # many images of few patients
    few, many = (
        compare_predictions(first.assign(patient_id=ids), first.assign(patient_id=ids, predicted=flipped), CLASSES)
        for ids in ((np.arange(240) // 30).astype(str), np.arange(240).astype(str))
    )
    assert few["accuracy"].value == many["accuracy"].value
    assert estimate_proportion(flipped == first.label).value - first.correct.mean() == pytest.approx(
        few["accuracy"].value
    )


def test_rows_may_be_in_any_order_and_sets_of_one_kind_have_no_auc():
    first, second = table(0.3), table(2.0)
    assert compare_predictions(first, second.sample(frac=1, random_state=0), CLASSES) == compare_predictions(
        first, second, CLASSES
    )
    healthy = compare_predictions(table(0.3, labels=["No finding"]), table(2.0, labels=["No finding"]), CLASSES)
    assert healthy["sensitivity"] is healthy["auc"] is healthy["accuracy"] is None
    assert healthy["specificity"].value == healthy["specificity_healthy"].value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "have 240 and 239 rows, and share 239 images"),
        (lambda rows: rows.assign(image_id="x"), "share 0 images"),
        (lambda rows: rows.assign(label="Normal"), "160 images have another label in the second table, the first is 1"),
    ],
)
def test_tables_of_other_images_are_refused(change, message):
    with pytest.raises(CovidxrError, match=message):
        compare_predictions(table(1.0), change(table(1.0)), CLASSES)
    with pytest.raises(CovidxrError, match="unknown class as `positive`: 'TB'"):
        compare_predictions(table(1.0), table(1.0), CLASSES, "TB")
