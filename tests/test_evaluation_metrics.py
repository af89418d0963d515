"""From predictions to tables: against numbers worked out by hand, against scikit-learn, and against planted effects."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix

from covidxr.data.images import preprocess
from covidxr.data.manifest import patient_keys
from covidxr.evaluation.calibration import reliability_table
from covidxr.evaluation.intervals import estimate_proportion, proportion_interval, wilson_interval
from covidxr.evaluation.metrics import (
    ARTICLE_TABLE,
    classification_metrics,
    classification_table,
    confusion_table,
    pairwise_auc,
    predict,
    prediction_table,
    record_metrics,
)
from covidxr.model.networks import build_baseline
from covidxr.utils import CovidxrError

CLASSES = ["Normal", "COVID-19", "Bacteria"]
NAMES = {"N": "Normal", "C": "COVID-19", "B": "Bacteria"}
LABELS = [NAMES[letter] for letter in "NNNNCCCBBB"]
PREDICTED = [NAMES[letter] for letter in "NNCNCCNBBN"]


def predictions(n=200, seed=0) -> tuple:
    """Labels, and predictions that are correct four times in five."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES, n, p=[0.5, 0.3, 0.2])
    return labels, np.where(rng.random(n) < 0.8, labels, rng.choice(CLASSES, n))


def rows(n=4) -> pd.DataFrame:
    columns = {name: [f"{name}{i}" for i in range(n)] for name in ("image_id", "patient_id", "source", "split", "age")}
    return pd.DataFrame(columns | {"label": [CLASSES[i % 3] for i in range(n)]}, index=range(10, 10 + n))


def test_evaluation_needs_no_tensorflow():
    script = "import sys, covidxr.evaluation, covidxr.report.cards, covidxr.plots; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == ["False", "False"]


def test_the_classification_table_is_the_one_worked_out_by_hand():
    table = classification_table(LABELS, PREDICTED, CLASSES)
    assert table.index.tolist() == CLASSES and table.index.name == "class"
    np.testing.assert_allclose(table.precision, [3 / 5, 2 / 3, 1])
    np.testing.assert_allclose(table.recall, [3 / 4, 2 / 3, 2 / 3])
    np.testing.assert_allclose(table.f1, [2 / 3, 2 / 3, 4 / 5])
    assert table.support.tolist() == [4, 3, 3]
    assert tuple(table.loc["Normal", ["precision_low", "precision_high"]]) == wilson_interval(3, 5)
    assert tuple(table.loc["Normal", ["recall_low", "recall_high"]]) == wilson_interval(3, 4)
    assert tuple(table.loc["Bacteria", ["precision_low", "precision_high"]]) == wilson_interval(2, 2)


def test_the_classification_table_agrees_with_scikit_learn():
    labels, predicted = predictions()
    table = classification_table(labels, predicted, CLASSES)
    theirs = pd.DataFrame(classification_report(labels, predicted, output_dict=True)).T.loc[CLASSES]
    np.testing.assert_allclose(table[["precision", "recall", "f1", "support"]], theirs)
    for name in ("precision", "recall"):
        assert (table[f"{name}_low"] < table[name]).all() and (table[name] < table[f"{name}_high"]).all()
    assert estimate_proportion(labels == predicted).value == accuracy_score(labels, predicted)


def test_a_class_that_is_never_predicted_has_an_unknown_precision():
    table = classification_table(["a", "a", "b"], ["a", "a", "a"], ["a", "b", "c"])
    assert table.loc["b", ["precision", "precision_low", "precision_high", "recall"]].tolist() == [0, 0, 1, 0]
    assert table.loc["c", ["recall_low", "recall_high", "support"]].tolist() == [0, 1, 0]
    assert table.loc["a", "precision"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("order", [CLASSES, CLASSES[::-1]])
def test_the_confusion_matrix_has_true_rows_in_the_order_given(order):
    table = confusion_table(LABELS, PREDICTED, order)
    assert table.index.tolist() == table.columns.tolist() == order
    assert (table.index.name, table.columns.name) == ("true", "predicted")
    assert table.loc["Normal", "COVID-19"] == 1 and table.loc["COVID-19", "Normal"] == 1
    assert table.loc["Bacteria", "Normal"] == 1 and table.loc["Normal", "Bacteria"] == 0
    np.testing.assert_array_equal(table, confusion_matrix(LABELS, PREDICTED, labels=order))


def test_the_prediction_table_holds_label_prediction_and_probabilities():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.2, 0.6], [0.1, 0.5, 0.4]], np.float32)
    table = prediction_table(rows(), probabilities, CLASSES)
    assert table.columns.tolist() == [
        *("image_id", "patient_id", "source", "split", "label", "predicted", "correct", "confidence"),
        *("p_Normal", "p_COVID-19", "p_Bacteria"),
    ]
    assert table.predicted.tolist() == ["Normal", "Bacteria", "Bacteria", "COVID-19"]
    assert table.correct.tolist() == [True, False, True, False]
    np.testing.assert_allclose(table.confidence, [0.7, 0.6, 0.6, 0.5])
    np.testing.assert_array_equal(table[["p_Normal", "p_COVID-19", "p_Bacteria"]], probabilities)
    assert table.image_id.tolist() == rows().image_id.tolist() and table.index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (12,)])
def test_probabilities_that_do_not_fit_are_refused(shape):
    with pytest.raises(CovidxrError, match=r"expected \(4, 3\)"):
        prediction_table(rows(), np.zeros(shape), CLASSES)


def test_images_are_preprocessed_for_prediction_however_they_are_batched():
    model = build_baseline(9)
    images = np.random.default_rng(0).integers(40, 90, (7, 9, 9), np.uint8)
    expected = model.predict_on_batch(preprocess(images))
    for batch_size in (32, 3):
        np.testing.assert_allclose(predict(model, images, batch_size), expected, rtol=1e-5)
    np.testing.assert_allclose(predict(model, images).sum(1), 1, rtol=1e-5)


def test_overconfidence_and_underconfidence_have_a_large_calibration_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.4, 1, 4000)
    calibrated = rng.random(4000) < confidence
    table, error = reliability_table(confidence, calibrated)
    assert error < 0.03 and table.n.sum() == 4000
    assert ((table.low <= table.confidence) & (table.confidence <= table.high)).mean() >= 0.8
    overconfident = rng.random(4000) < confidence - 0.3
    assert reliability_table(confidence, overconfident)[1] == pytest.approx(0.3, abs=0.03)
    assert reliability_table(confidence, rng.random(4000) < (confidence + 1) / 2)[1] > 0.1  # too modest is no better


def test_reliability_puts_each_image_into_its_bin():
    table, error = reliability_table([0.05, 0.55, 0.55, 1.0, 0.95], [False, True, False, True, True])
    assert table.n.tolist() == [1, 2, 2]
    np.testing.assert_allclose(table.confidence, [0.05, 0.55, 0.975])
    np.testing.assert_allclose(table.accuracy, [0, 0.5, 1])
    assert error == pytest.approx((0.05 + 2 * 0.05 + 2 * 0.025) / 5)
    assert (table.low[1], table.high[1]) == wilson_interval(1, 2)
    assert len(reliability_table([0.2, 0.6], [True, True], bins=1)[0]) == 1
    of_one = reliability_table([0.55] * 4, [True, False, True, False], patients=["a", "b", "a", "b"])[0]
    assert (of_one.low[0], of_one.high[0]) == proportion_interval([True, False, True, False], ["a", "b", "a", "b"])


def test_pairwise_auc_ignores_the_direction():
    labels = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    found = pairwise_auc([1, 2, 3, 4, 8, 7, 6, 5, 1, 2, 3, 4], labels)
    assert found.to_dict() == {"a / b": 1.0, "a / c": 0.5, "b / c": 1.0}
    assert pairwise_auc([5] * 12, labels).to_dict() == {"a / b": 0.5, "a / c": 0.5, "b / c": 0.5}


def test_metrics_are_added_to_what_is_there(tmp_path):
    record_metrics(tmp_path, test={"n": np.int64(3), "accuracy": np.float32(0.5)}, audit={"corners": 1})
    merged = record_metrics(tmp_path, test={"n": 4}, heat=None)
    stored = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert merged == stored == {"version": 2, "test": {"n": 4}, "audit": {"corners": 1}, "heat": None}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_sections_of_an_older_layout_are_not_mixed_with_new_ones(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"test": {"accuracy": 0.9, "accuracy_interval": [0.8, 1.0]}}))
    assert record_metrics(tmp_path, audit={}) == {"version": 2, "audit": {}}


def test_the_articles_table_is_consistent_in_itself():
    assert ARTICLE_TABLE.index.tolist() == CLASSES and (ARTICLE_TABLE.support == 60).all()
    for row in ARTICLE_TABLE.itertuples():
        corners = [(row.precision + a, row.recall + b) for a in (-0.005, 0.005) for b in (-0.005, 0.005)]
        bounds = [2 * p * r / (p + r) for p, r in corners]
        assert min(bounds) - 0.005 <= row.f1 <= max(bounds) + 0.005
    hits = (ARTICLE_TABLE.recall * 60).round()
    np.testing.assert_allclose(hits / 60, ARTICLE_TABLE.recall, atol=0.005)  # 57, 59 and 58 of 60 images
    assert round(hits.sum() / 180, 2) == 0.97


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([np.nan, 0.5, 0.5], "probabilities holds nan at place 2, 0"),
        ([np.nan] * 3, "3 such of 12"),
        ([np.inf, 0, 0], "holds inf"),
        ([-0.5, 1, 0.5], "holds -0.5"),
        ([0.1, 0.1, 0.1], "image 2 sum to 0.3, not to 1"),
    ],
)
def test_rows_that_are_not_probabilities_are_refused(row, message):
    probabilities = np.full((4, 3), 1 / 3)
    probabilities[2] = row
    with pytest.raises(CovidxrError, match=message):
        prediction_table(rows(), probabilities, CLASSES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("layer", ["dense_1", "dense_2"])
def test_a_network_with_weights_that_are_not_finite_is_refused(layer, value):
    model = build_baseline(9)
    kernel, bias = model.get_layer(layer).get_weights()
    kernel[3, 1] = value
    model.get_layer(layer).set_weights([kernel, bias])
    with pytest.raises(CovidxrError, match=f"1 of {kernel.size} values of {layer}/kernel .* are NaN or infinite"):
        predict(model, np.full((5, 9, 9), 7, np.uint8))


def test_predictions_that_are_not_finite_are_refused():
    model = build_baseline(9)
    for layer in ("dense_1", "dense_2"):
        model.get_layer(layer).set_weights([np.full_like(a, 1e30) for a in model.get_layer(layer).get_weights()])
    with pytest.raises(
        CovidxrError, match="predictions for 5 of 5 images are NaN or infinite: the network's weights are too large"
    ):
        predict(model, np.full((5, 9, 9), 7, np.uint8))


def test_images_of_another_size_are_refused():
    with pytest.raises(CovidxrError, match=r"takes images of shape \(9, 9\), these have shape \(12, 9\)"):
        predict(build_baseline(9), np.zeros((2, 12, 9), np.uint8))
    with pytest.raises(CovidxrError, match="images holds no image"):
        predict(build_baseline(9), np.zeros((0, 9, 9), np.uint8))


@pytest.mark.parametrize("counted", [confusion_table, classification_table])
@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        (["a", "c"], ["a", "b"], "unknown label 'c'; available: a, b"),
        (["a", "b"], ["a", "c"], "unknown predicted label 'c'"),
        (["a", np.nan], ["a", "b"], "unknown label nan"),
        (["a", "b"], ["a"], "2 labels, 1 predicted"),
        ([], [], "holds no image"),
    ],
)
def test_unknown_labels_are_not_dropped_from_a_count(counted, labels, predicted, message):
    with pytest.raises(CovidxrError, match=message):
        counted(labels, predicted, ["a", "b"])


@pytest.mark.parametrize("confidence", [1.5, -0.1, np.nan])
def test_a_confidence_that_is_no_probability_has_no_bin(confidence):
    with pytest.raises(CovidxrError, match="confidence holds .* where a number from 0 to 1 is needed"):
        reliability_table([confidence, 0.5], [True, False])


def test_values_that_are_no_numbers_have_no_auc():
    with pytest.raises(CovidxrError, match="values holds nan at place 1"):
        pairwise_auc([0.0, np.nan, 9.0, 10.0], ["low", "low", "high", "high"])


def test_the_section_of_the_metrics_is_that_of_the_tables():
    table = prediction_table(rows(), np.eye(3)[[0, 1, 2, 1]], CLASSES)
    found = classification_metrics(table, CLASSES)
    assert found["n"] == 4 and found["accuracy"] == estimate_proportion(table.correct, patient_keys(table))
    report = classification_table(table.label, table.predicted, CLASSES)
    assert found["per_class"] == report[["precision", "recall", "f1", "support"]].to_dict("index")
    assert found["calibration_error"].value == pytest.approx(1 - table.correct.mean())
