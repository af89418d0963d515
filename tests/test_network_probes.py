"""Probes of a network that is a known function: within one source, its heat, how sure it is at home and elsewhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from planted import CORNER, N, Reader, noise, rows

from covidxr import audit
from covidxr.external import ExternalSet
from covidxr.network_probes import heat_probe, same_place
from covidxr.sureness import sureness, sureness_elsewhere

COVID = "COVID-19"


def answers(score, label, source="s", patient=None):
    n = len(score)
    score = np.asarray(score, dtype=float)
    frame = pd.DataFrame({"source": np.broadcast_to(source, n), "label": label, "p_COVID-19": score})
    frame["patient_id"] = (np.arange(n) if patient is None else patient).astype(str)
    return frame.assign(
        predicted=np.where(score > 0.5, COVID, "Bacteria"),
        correct=(score > 0.5) == (frame.label == COVID),
        confidence=np.maximum(score, 1 - score),
    )


def test_a_reader_of_the_source_is_at_chance_within_it_and_a_reader_of_disease_is_not():
    label = np.tile([COVID, "SARS"], 40)
    rng = np.random.default_rng(0)
    [blind] = same_place(answers(rng.random(80), label))
    [reads] = same_place(answers(0.6 * (label == COVID) + 0.4 * rng.random(80), label))
    [wrong] = same_place(answers(0.6 * (label != COVID) + 0.4 * rng.random(80), label))
    assert blind.low < 0.5 < blind.high and blind.verdict == "not told from chance"
    assert reads.value == 1.0 and reads.verdict == "well above chance"
    assert wrong.value == 0.0 and wrong.verdict == "worse than chance"


def test_healthy_films_and_sources_of_few_patients_are_not_compared():
    label = np.tile([COVID, "No finding"], 40)
    assert same_place(answers(np.ones(80), label)) == []
    few = np.where(np.arange(80) < 9, "SARS", COVID)
    assert same_place(answers(np.ones(80), few)) == []
    one_patient = np.where(np.arange(80) < 40, 0, np.arange(80))
    assert same_place(answers(np.ones(80), np.where(np.arange(80) < 40, "SARS", COVID), patient=one_patient)) == []


@pytest.mark.parametrize(
    ("value", "untrained", "said"),
    [
        (0.6, 0.3, "above chance and untrained networks"),
        (0.6, 0.7, "above chance, but not above untrained networks"),
        (0.35, 0.1, "above untrained networks, but not above chance"),
        (0.3, 0.5, "no higher than chance or untrained networks"),
    ],
)
def test_heat_is_compared_with_chance_and_with_networks_that_never_learnt(value, untrained, said):
    heat = {"n": 9, "heat_in_lungs": value, "heat_in_lungs_interval": [value - 0.05, value + 0.05]}
    [found] = heat_probe(heat | {"chance": 0.4, "untrained": untrained})
    assert found.verdict == said and found.chance == 0.4 and f"{untrained:.2f}" in found.ideal
    assert heat_probe({}) == []


def test_sureness_is_judged_by_what_is_right():
    right = np.arange(200) % 10 > 0
    label = np.where(right, COVID, "SARS")
    fair, half = sureness(answers(np.full(200, 0.9), label))
    assert fair.verdict.startswith("as right as it is sure") and half.verdict == "its sureness tells nothing"
    assert sureness(answers(np.full(200, 0.999), label))[0].verdict == "surer than right"
    assert sureness(answers(np.full(200, 0.6), label))[0].verdict == "less sure than right"
    knows = sureness(answers(np.where(right, 0.95, 0.55), label))[1]
    assert knows.verdict == "righter where it is surer" and knows.value == 1.0 and knows.chance == 0.9


def test_elsewhere_it_may_be_sure_and_wrong():
    healthy = np.repeat("No finding", 60)
    [wrong] = sureness_elsewhere(answers(np.full(60, 0.97), healthy, "new"))
    assert wrong.verdict == "sure and wrong" and wrong.value == pytest.approx(0.97) and "0.00" in wrong.ideal
    assert wrong.probe == "sureness about COVID-19 in new, never seen"
    [right] = sureness_elsewhere(answers(np.full(60, 0.03), healthy, "new"))
    assert right.verdict == "as sure as it is right"
    [shy] = sureness_elsewhere(answers(np.full(60, 0.45), healthy, "new"))
    assert shy.verdict == "less sure than right"


def test_the_audit_asks_about_test_films_and_unseen_sources_only(monkeypatch):
    for name in ("less_than_a_lung", "whose_film"):
        monkeypatch.setattr(audit, name, lambda *args: [])
    split = np.where(np.arange(N) < 60, "test", "train")
    manifest, films = rows(classes=["SARS", COVID], split=split, patient_id=np.r_[np.arange(118), 0, 1]), noise()
    bright = (manifest.label == COVID).to_numpy() & (split == "test")
    films[bright, CORNER[0], CORNER[1]] = 255  # right on test films, wrong on training films
    new = ExternalSet("new", rows(n=30, classes=[COVID], source=["new"] * 30), noise(n=30), 0, 0)
    table = audit.shortcut_audit(manifest, films, Reader(CORNER), unseen=[new]).table
    within = table.loc["COVID-19 against other disease within s"]
    assert within.value == 1.0 and within.n == 58  # without the two patients that were learnt as well
    assert table.n["expected calibration error"] == 60
    elsewhere = table.loc["sureness about COVID-19 in new, never seen"]
    assert elsewhere.value == 1.0 and elsewhere.verdict == "sure and wrong" and elsewhere.n == 30
    heat = {"n": 3, "heat_in_lungs": 0.5, "heat_in_lungs_interval": [0.4, 0.6], "chance": 0.3}
    topics = audit.shortcut_audit(manifest, films, Reader(CORNER), heat=heat).table.topic
    assert topics.tolist() == sorted(topics, key=list(dict.fromkeys(audit.TOPICS)).index) and "Where it looks" in set(
        topics
    )
