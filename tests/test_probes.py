"""Probes of a network that is a known function: within-source discrimination, saliency, calibration; and probes of users."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from planted import CORNER, B, BrightnessModel, N, audit, noise, rows

from covidxr import plots
from covidxr.audit import ProbeResult, register_probe
from covidxr.audit.probes import (
    CATEGORIES,
    PROBES,
    TEST,
    AuditData,
    calibration,
    external_confidence,
    memorisation,
    saliency,
    within_source_discrimination,
)
from covidxr.evaluation.external import ExternalSet
from covidxr.utils import CovidxrError

COVID = "COVID-19"


def predicted(score, label, source="s", patient=None):
    """The audit's data with predictions of such scores for COVID-19."""
    n = len(score)
    score = np.asarray(score, dtype=float)
    frame = pd.DataFrame({"source": np.broadcast_to(source, n), "label": label, "p_COVID-19": score})
    frame["patient_id"] = (np.arange(n) if patient is None else patient).astype(str)
    table = frame.assign(
        predicted=np.where(score > 0.5, COVID, "Bacteria"),
        correct=(score > 0.5) == (frame.label == COVID),
        confidence=np.maximum(score, 1 - score),
    )
    return AuditData(rows(), noise(), predictions={TEST: table}, positive=COVID)


def test_a_network_that_uses_the_source_is_at_chance_within_it_and_one_that_uses_disease_is_not():
    label = np.tile([COVID, "SARS"], 40)
    rng = np.random.default_rng(0)
    [blind] = within_source_discrimination(predicted(rng.random(80), label))
    [reads] = within_source_discrimination(predicted(0.6 * (label == COVID) + 0.4 * rng.random(80), label))
    [wrong] = within_source_discrimination(predicted(0.6 * (label != COVID) + 0.4 * rng.random(80), label))
    assert blind.low < 0.5 < blind.high and blind.conclusion == "not distinguishable from chance"
    assert reads.value == 1.0 and reads.conclusion == "well above chance"
    assert wrong.value == 0.0 and wrong.conclusion == "below chance"


def test_healthy_images_and_sources_of_few_patients_are_not_compared():
    label = np.tile([COVID, "No finding"], 40)
    assert within_source_discrimination(predicted(np.ones(80), label)) == []
    few = np.where(np.arange(80) < 9, "SARS", COVID)
    assert within_source_discrimination(predicted(np.ones(80), few)) == []
    one_patient = np.where(np.arange(80) < 40, 0, np.arange(80))
    assert (
        within_source_discrimination(
            predicted(np.ones(80), np.where(np.arange(80) < 40, "SARS", COVID), patient=one_patient)
        )
        == []
    )


@pytest.mark.parametrize(
    ("value", "untrained", "conclusion"),
    [
        (0.6, 0.3, "above chance and untrained networks"),
        (0.6, 0.7, "above chance, but not above untrained networks"),
        (0.35, 0.1, "above untrained networks, but not above chance"),
        (0.3, 0.5, "not above chance or untrained networks"),
    ],
)
def test_saliency_is_compared_with_chance_and_with_untrained_networks(value, untrained, conclusion):
    inside = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 9}
    section = {"heat_in_lungs": inside, "chance": 0.4, "untrained": {"value": untrained}}
    found = saliency(AuditData(rows(), noise(), saliency=section))
    assert found.conclusion == conclusion and found.chance == 0.4 and f"{untrained:.2f}" in found.expected
    assert found.n == 9 and saliency(AuditData(rows(), noise())) is None


def test_confidence_is_compared_with_accuracy():
    right = np.arange(200) % 10 > 0
    label = np.where(right, COVID, "SARS")
    fair, half = calibration(predicted(np.full(200, 0.9), label))
    assert fair.conclusion == "consistent with perfect calibration" and half.conclusion == "confidence is uninformative"
    assert calibration(predicted(np.full(200, 0.999), label))[0].conclusion == "overconfident"
    assert calibration(predicted(np.full(200, 0.6), label))[0].conclusion == "underconfident"
    knows = calibration(predicted(np.where(right, 0.95, 0.55), label))[1]
    assert knows.conclusion == "more accurate when more confident" and knows.value == 1.0 and knows.chance == 0.9


def test_on_external_sources_a_network_may_be_confidently_wrong():
    healthy = np.repeat("No finding", 60)
    [wrong] = external_confidence(predicted(np.full(60, 0.97), healthy, "new"))
    assert wrong.conclusion == "confidently wrong" and wrong.value == pytest.approx(0.97) and "0.00" in wrong.expected
    assert wrong.probe == "confidence about COVID-19 in new (external)"
    [right] = external_confidence(predicted(np.full(60, 0.03), healthy, "new"))
    assert right.conclusion == "confidence matches accuracy"
    [shy] = external_confidence(predicted(np.full(60, 0.45), healthy, "new"))
    assert shy.conclusion == "underconfident"


def test_the_network_is_evaluated_on_test_images_and_external_sources_only(monkeypatch):
    for name in ("low_information_inputs", "attributes"):
        monkeypatch.delitem(PROBES, name)
    split = np.where(np.arange(N) < 60, "test", "train")
    manifest, images = rows(classes=["SARS", COVID], split=split, patient_id=np.r_[np.arange(118), 0, 1]), noise()
    bright = (manifest.label == COVID).to_numpy() & (split == "test")
    images[bright, CORNER[0], CORNER[1]] = 255  # right on test images, wrong on training images
    new = ExternalSet("new", rows(n=30, classes=[COVID], source=["new"] * 30), noise(n=30), {})
    table = audit(manifest, images, BrightnessModel(CORNER), external_sets=[new]).table
    within = table.loc["COVID-19 against other disease within s"]
    assert within.value == 1.0 and within.n == 58  # without the two patients that were trained on as well
    assert table.n["expected calibration error"] == 60
    external = table.loc["confidence about COVID-19 in new (external)"]
    assert external.value == 1.0 and external.conclusion == "confidently wrong" and external.n == 30
    section = {"heat_in_lungs": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3}, "chance": 0.3}
    found = audit(manifest, images, BrightnessModel(CORNER), saliency=section).table.category
    assert found.tolist() == sorted(found, key=CATEGORIES.index) and "Saliency localisation" in set(found)


def images_of_patients(alike):
    """Two images a patient, the second a copy of the first to a degree, and neither with a sign of the class."""
    first = noise(1)[::2].repeat(2, axis=0).astype(float)
    images = alike * first + (1 - alike) * noise(2)
    patients = np.arange(N) // 2
    return AuditData(rows(classes="aabb", patient_id=patients), images.astype(np.uint8))


def test_recognisable_patients_are_memorised_and_others_are_not():
    [known], [unknown] = memorisation(images_of_patients(0.9)), memorisation(images_of_patients(0.0))
    assert known.conclusion == "patients are memorised: split by patient" and known.value > 0.3 and known.low > 0
    assert unknown.conclusion == "not distinguishable from chance" and unknown.low <= 0 <= unknown.high


def test_a_visible_class_needs_no_memorisation():
    data = images_of_patients(0.9)
    data.images[(data.manifest.label == "b").to_numpy(), :20] //= 3
    assert abs(memorisation(data)[0].value) < 0.05


def test_with_one_image_a_patient_and_no_split_there_is_no_result():
    assert memorisation(AuditData(rows(), noise())) == []


def test_patients_and_duplicates_on_both_sides_of_the_split_are_counted():
    images, patients = noise(), np.arange(N)
    split = np.where(np.arange(N) < 40, "test", np.where(B, "train", "validation"))
    patients[[3, 4]] = 100, 101  # two test images of patients seen in training or validation
    images[7] = images[90]
    images[8] = images[9]  # duplicates on the same side do not count
    seen, duplicates = memorisation(AuditData(rows(patient_id=patients, split=split), images))
    assert (seen.value, seen.conclusion, seen.shortcut) == (2 / 40, "2 of 40", True)
    assert (duplicates.value, duplicates.conclusion, duplicates.n) == (1 / 40, "1 of 40", 40)
    clean = memorisation(AuditData(rows(split=split), noise()))
    assert [probe.conclusion for probe in clean] == ["none", "none"] and not any(probe.shortcut for probe in clean)


@pytest.fixture
def restored_registry():
    before = dict(PROBES)
    yield
    PROBES.clear()
    PROBES.update(before)


def test_a_probe_of_a_user_takes_three_lines_and_appears_in_table_sentences_figure_and_record(restored_registry):
    @register_probe
    def brightness(data):
        return data.classify("class from the mean brightness", data.images.mean(axis=(1, 2)))

    images = noise()
    images[B] += 30
    report = audit(rows(), images)
    row = report.table.loc["class from the mean brightness"]
    assert row.conclusion == "strong class signal" and row.shortcut and (row.chance, row.n) == (0.5, N)
    assert any(said.startswith("class from the mean brightness: 1.00 (95 % CI ") for said in report.sentences())
    labels = [label.get_text() for label in plots.forest(report.table).get_yticklabels()]
    assert "class from the mean brightness" in labels and "class from the mean brightness" in report.to_dict()


def test_a_probe_may_return_any_result_several_or_none(restored_registry):
    PROBES.clear()
    register_probe(lambda data: None)
    assert audit(rows(), noise()).table.empty
    results = [ProbeResult("one", 0.5, 0.4, 0.6, 9), ProbeResult("two", 0.1, 0.0, 0.2, 9, category=CATEGORIES[0])]
    register_probe(lambda data: results)
    report = audit(rows(), noise())
    assert report.table.index.tolist() == ["two", "one"] and report.table.category["one"] == "User-defined"
    assert report.sentences()[1] == "one: 0.50 (95 % CI 0.40–0.60)." and report.to_dict()["one"]["chance"] is None
    register_probe(lambda data: results[:1] * 2)
    with pytest.raises(CovidxrError, match="two results have the name 'one'"):
        audit(rows(), noise())
