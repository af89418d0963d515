"""The model card and the CLAIM checklist: filled from the run's files, and changing with them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from planted import noise, rows

from covidxr.claim import ITEMS, answers
from covidxr.dataset import Assembly, save_run
from covidxr.evaluate import record_metrics
from covidxr.files import write_json
from covidxr.reporting import write_reports

PROBE = {
    "topic": "Less than a lung", "value": 0.912, "interval": [0.85, 0.95], "chance": 0.33, "ideal": "0.33", "n": 30,
    "verdict": "tells the class", "shortcut": True,
}  # fmt: skip
EXTERNAL = {
    "n": 44, "sensitivity": None, "sensitivity_interval": None, "specificity": 0.018, "specificity_interval": [0.01, 0.04],
    "auc": None, "auc_interval": None, "at_threshold": {
        "threshold": 0.37, "rule": "Youden's", "sensitivity": None, "specificity": 0.22, "specificity_interval": [0.2, 0.3],
    },
}  # fmt: skip


@pytest.fixture
def run_dir(tmp_path):
    manifest = rows(
        30, classes=["Normal", "COVID-19"], age=np.where(np.arange(30) % 2, np.arange(30) + 20, np.nan),
        sex=["F", "M", ""] * 10, split=["train"] * 10 + ["validation"] * 8 + ["test"] * 12, license=["CC0-1.0"] * 30,
    )  # fmt: skip
    rejected = manifest[["image_id", "path"]].iloc[:2].assign(reason="broken")
    save_run(tmp_path, Assembly(manifest, noise(n=30), rejected))
    return tmp_path


def written(run_dir):
    assert write_reports(run_dir) == ["MODEL_CARD.md", "CLAIM.md"]
    return [(run_dir / name).read_text(encoding="utf-8") for name in ("MODEL_CARD.md", "CLAIM.md")]


def claim_answers(text):
    return {int(number): answer for number, answer in re.findall(r"^\| (\d+) \|.*\| (.*) \|$", text, re.MULTILINE)}


def test_a_run_that_measured_nothing_says_so(run_dir):
    card, claim = written(run_dir)
    assert "nothing was measured" in card and "Notebook 06 has not run" in card and "None" not in card
    said = claim_answers(claim)
    assert list(said) == list(range(1, 43))
    assert said[30] == "no: this run holds no metrics:audit" and said[22] == "no: this run holds no model.keras"
    assert said[7].startswith("`manifest.csv`") and said[40].startswith("no: not registered")


def test_the_card_holds_the_run_s_own_numbers(run_dir):
    record_metrics(run_dir, test={"n": 12, "accuracy": 0.954, "accuracy_interval": [0.9, 0.98]}, data={"films": 30})
    record_metrics(run_dir, audit={"class from the corners": PROBE}, external={"north": EXTERNAL})
    record_metrics(run_dir, model={"weights": "imagenet", "parameters": 14747715}, internal=EXTERNAL | {"n": 12})
    write_json(run_dir / "run.json", {"profile": "article", "seed": 0, "git_commit": "abc123", "parameters": {"a": 1}})
    card, claim = written(run_dir)
    assert "| test films of the run, 12 | accuracy | 0.95 | 0.90 to 0.98 |" in card
    assert (
        "| north, 44 films | specificity | 0.02 | 0.01 to 0.04 |" in card
        and "north, 44 films | sensitivity" not in card
    )
    assert "| north | specificity at threshold 0.37 (Youden's, validation films) | 0.22 | 0.20 to 0.30 |" in card
    assert "class from the corners | 0.91 | 0.85 to 0.95 | 0.33 | 0.33 | tells the class |" in card
    assert "1 of 1 probes found" in card and "14747715 parameters" in card and "seed 0" in card and "abc123" in card
    assert "| COVID-19 | s | 15 | 15 | 15, 21 to 49 years | 5 of 10 known | not known |" in card
    assert (
        "- validation: 8 films of 8 patients" in card
        and "No patient is in two partitions; 2 films could not be read." in card
    )
    said = claim_answers(claim)
    assert said[32] == "Notebook 07: north" and said[24].endswith("imagenet") and said[41].endswith("abc123")
    record_metrics(run_dir, audit={"class from the corners": PROBE | {"value": 0.34, "shortcut": False}})
    assert "None of these probes found a shortcut" in written(run_dir)[0]


def test_the_card_tells_the_kept_network_from_the_one_fitted_again(run_dir):
    again = {"n": 44, "specificity": 0.57, "specificity_interval": [0.52, 0.62]}
    record_metrics(run_dir, external={"north": EXTERNAL}, refitted={"north": again})
    card, _ = written(run_dir)
    assert "| north, 44 films | specificity | 0.02 | 0.01 to 0.04 |" in card
    words = "north, network fitted again on every film of the run, 44 films"
    assert (
        f"| {words} | specificity | 0.57 | 0.52 to 0.62 |" in card and "again on every film of the run | " not in card
    )
    record_metrics(run_dir, refitted={})
    assert "fitted again" not in written(run_dir)[0]


def test_patients_in_two_partitions_are_said(run_dir):
    text = (run_dir / "manifest.csv").read_text(encoding="utf-8").splitlines()
    column = text[0].split(",").index("patient_id")
    cells = [line.split(",") for line in text]
    cells[-1][column] = cells[1][column]
    (run_dir / "manifest.csv").write_text("\n".join(",".join(row) for row in cells) + "\n", encoding="utf-8")
    card, claim = written(run_dir)
    assert "1 patients are in two partitions" in card
    record_metrics(run_dir, data={"films": 30})
    assert "1 patients are in two partitions" in claim_answers(written(run_dir)[1])[21]


def test_all_42_items_are_there_and_none_is_answered_without_what_it_needs():
    assert [item.number for item in ITEMS] == list(range(1, 43))
    assert len({item.question for item in ITEMS}) == 42 and len({item.section for item in ITEMS}) == 13
    facts = dict.fromkeys(("disjoint", "weights", "external", "commit"), "known")
    everything = {need for item in ITEMS for need in item.needs}
    for _, answer in answers(everything, facts):
        assert "{" not in answer and answer
    for need in everything:
        lost = [item.number for item, answer in answers(everything - {need}, facts) if f"holds no {need}" in answer]
        assert lost == [item.number for item in ITEMS if need in item.needs]
