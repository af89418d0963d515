"""The model card and the CLAIM checklist, filled in from the run's files."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from planted import noise, rows
from small_run import damaged

from covidxr.data.dataset import Dataset, save_dataset
from covidxr.evaluation.metrics import record_metrics
from covidxr.report.cards import _CLAIM_ITEMS, _answer_checklist, write_reports
from covidxr.utils import read_json, write_json

PROBE = {
    "category": "No lung content", "value": 0.912, "low": 0.85, "high": 0.95, "chance": 0.33, "expected": "0.33", "n": 30,
    "conclusion": "strong class signal", "shortcut": True,
}  # fmt: skip
EXTERNAL = {
    "n": 44, "sensitivity": None, "specificity": {"value": 0.018, "low": 0.01, "high": 0.04}, "auc": None,
    "operating_point": {
        "threshold": 0.37, "rule": "Youden's index", "sensitivity": None,
        "specificity": {"value": 0.22, "low": 0.2, "high": 0.3},
    },
}  # fmt: skip
ACCURACY = {"value": 0.954, "low": 0.9, "high": 0.98}


@pytest.fixture
def run_dir(tmp_path):
    manifest = rows(
        30, classes=["Normal", "COVID-19"], age=np.where(np.arange(30) % 2, np.arange(30) + 20, np.nan),
        sex=["F", "M", ""] * 10, split=["train"] * 10 + ["validation"] * 8 + ["test"] * 12, license=["CC0-1.0"] * 30,
    )  # fmt: skip
    rejected = manifest[["image_id", "path"]].iloc[:2].assign(reason="broken")
    save_dataset(tmp_path, Dataset(manifest, noise(n=30), rejected))
    return tmp_path


def written(run_dir):
    assert write_reports(run_dir) == ["MODEL_CARD.md", "CLAIM.md"]
    return [(run_dir / name).read_text(encoding="utf-8") for name in ("MODEL_CARD.md", "CLAIM.md")]


def claim_answers(text):
    return {int(number): answer for number, answer in re.findall(r"^\| (\d+) \|.*\| (.*) \|$", text, re.MULTILINE)}


def test_a_run_without_results_has_a_card(run_dir):
    card, claim = written(run_dir)
    assert "nothing was measured" in card and "Notebook 06 has not run" in card and "None" not in card
    message = claim_answers(claim)
    assert list(message) == list(range(1, 43))
    assert message[30] == "no: this run has no metrics:audit" and message[22] == "no: this run has no model.keras"
    assert message[7].startswith("`manifest.csv`") and message[40].startswith("no: not registered")


def test_the_card_holds_the_run_s_own_numbers(run_dir):
    record_metrics(run_dir, data={"images": 30}, test={"n": 12, "accuracy": ACCURACY})
    record_metrics(run_dir, audit={"class from the corners": PROBE}, audit_summary=["The corners suffice."])
    record_metrics(run_dir, external={"north": EXTERNAL})
    record_metrics(
        run_dir,
        model={"weights": "imagenet", "parameters": 14747715},
        internal=EXTERNAL | {"n": 12, "accuracy": ACCURACY},
    )
    write_json(run_dir / "run.json", {"profile": "article", "seed": 0, "git_commit": "abc123", "parameters": {"a": 1}})
    card, claim = written(run_dir)
    assert "| internal test split, 12 images | accuracy | 0.95 (95 % CI 0.90–0.98) |" in card
    assert "| north, 44 images | specificity | 0.02 (95 % CI 0.01–0.04) |" in card
    assert "north, 44 images | sensitivity" not in card
    at = "specificity at threshold 0.37 (Youden's index, validation images)"
    assert f"| north, 44 images | {at} | 0.22 (95 % CI 0.20–0.30) |" in card
    assert "class from the corners | 0.91 (95 % CI 0.85–0.95) | 0.33 | 0.33 | strong class signal |" in card
    assert (
        "\nThe corners suffice.\n" in card and "14747715 parameters" in card and "seed 0" in card and "abc123" in card
    )
    assert "| COVID-19 | s | 15 | 15 | 15, 21 to 49 years | 5 of 10 known | not known |" in card
    assert (
        "- validation: 8 images of 8 patients" in card
        and "No patient is in two partitions; 2 images could not be read." in card
    )
    message = claim_answers(claim)
    assert message[21] == "No patient is in two partitions (parameter `split` of notebook 01)"
    assert (
        message[32] == "Notebook 07: north"
        and message[24].endswith("ImageNet weights, SHA-256 checked")
        and message[41].endswith("abc123")
    )


def test_the_card_distinguishes_the_network_from_the_refitted_one(run_dir):
    again = {"n": 44, "specificity": {"value": 0.57, "low": 0.52, "high": 0.62}}
    record_metrics(run_dir, external={"north": EXTERNAL}, refitted={"north": again})
    card, _ = written(run_dir)
    assert "| north, 44 images | specificity | 0.02 (95 % CI 0.01–0.04) |" in card
    name = "north, network refitted on all images of the run, 44 images"
    assert f"| {name} | specificity | 0.57 (95 % CI 0.52–0.62) |" in card
    record_metrics(run_dir, refitted={})
    assert "refitted" not in written(run_dir)[0]


def test_patients_in_two_partitions_are_reported(run_dir):
    text = (run_dir / "manifest.csv").read_text(encoding="utf-8").splitlines()
    column = text[0].split(",").index("patient_id")
    cells = [line.split(",") for line in text]
    cells[-1][column] = cells[1][column]
    (run_dir / "manifest.csv").write_text("\n".join(",".join(row) for row in cells) + "\n", encoding="utf-8")
    card, claim = written(run_dir)
    assert "1 patients are in two partitions" in card
    record_metrics(run_dir, data={"images": 30})
    assert "1 patients are in two partitions" in claim_answers(written(run_dir)[1])[21]


def test_all_42_items_are_answered_only_with_what_they_need():
    assert [item.number for item in _CLAIM_ITEMS] == list(range(1, 43))
    assert len({item.question for item in _CLAIM_ITEMS}) == 42 and len({item.section for item in _CLAIM_ITEMS}) == 13
    facts = dict.fromkeys(("disjoint", "weights", "external", "commit", "images"), "known")
    everything = {need for item in _CLAIM_ITEMS for need in item.needs}
    for _, answer in _answer_checklist(everything, facts):
        assert "{" not in answer and answer
    for need in everything:
        lost = [
            item.number for item, answer in _answer_checklist(everything - {need}, facts) if f"has no {need}" in answer
        ]
        assert lost == [item.number for item in _CLAIM_ITEMS if need in item.needs]


def rename(run_dir, **columns):
    """Give the manifest's columns other values."""
    path = run_dir / "manifest.csv"
    pd.read_csv(path, dtype=str, keep_default_na=False).assign(**columns).to_csv(path, index=False)


HOSTILE = "a|b <script>alert(1)</script> *x* _y_ `z` [l](http://x) \\ & my_label"
SHOWN = r"a\|b &lt;script&gt;alert(1)&lt;/script&gt; \*x\* \_y\_ \`z\` \[l\](http://x) \\ &amp; my_label"


def test_markup_in_names_is_shown_as_it_is(run_dir):
    rename(run_dir, source=HOSTILE, license=HOSTILE)
    probe = PROBE | {"conclusion": HOSTILE, "expected": HOSTILE, "category": HOSTILE}
    record_metrics(run_dir, audit={HOSTILE: probe}, external={HOSTILE: EXTERNAL}, refitted={HOSTILE: EXTERNAL})
    record_metrics(run_dir, model={"weights": HOSTILE, "weights_origin": HOSTILE})
    write_json(run_dir / "run.json", {"profile": HOSTILE, "seed": HOSTILE, "git_commit": HOSTILE + "\n# a title"})
    for text in written(run_dir):
        assert "<script" not in text and "\n# a title" not in text and SHOWN in text
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert claim_answers(written(run_dir)[1])[22] == "no: this run has no model.keras"  # the package's own marks stay
    assert claim_answers(written(run_dir)[1])[7].startswith("`manifest.csv`")


def test_markup_in_labels_is_shown_as_it_is(run_dir):
    rename(run_dir, label=["Normal", HOSTILE] * 15)
    card, _ = written(run_dir)
    assert f"| {SHOWN} | s |" in card and f"Classes: Normal, {SHOWN}." in card


def test_card_and_checklist_of_synthetic_images_say_so(run_dir):
    record_metrics(run_dir, internal=EXTERNAL | {"n": 12, "accuracy": ACCURACY})
    record_metrics(run_dir, external={"phantom": EXTERNAL, "north": EXTERNAL}, refitted={"phantom": EXTERNAL})
    card, claim = written(run_dir)
    assert (
        "**The external images of phantom are synthetic: drawn by a program" in card and "12 images | accuracy" in card
    )
    assert claim_answers(claim)[32] == "Notebook 07: phantom (synthetic images), north"
    rename(run_dir, source="phantom")
    card, claim = written(run_dir)
    for text in (card, claim):
        assert "\n**All images of this run are synthetic: drawn by a program, not acquired from patients." in text
    measured = re.findall(r"^\| (.*?) \| (?:accuracy|specificity.*?) \|", card, re.MULTILINE)
    assert len(measured) == 9 and all("synthetic images" in row for row in measured if "north" not in row)
    assert "| Normal | phantom (synthetic images) | 15 |" in card
    assert "synthetic" in claim_answers(claim)[5] and "synthetic" in claim_answers(claim)[7]


def test_the_card_shows_planted_cues_where_there_are_any(run_dir):
    assert "Planted cues" not in written(run_dir)[0]
    cue = {"planted": "R | L", "found": False, "evidence": "corners", "used": ACCURACY, "conclusion": "used"}
    record_metrics(run_dir, planted={"side marker": cue})
    row = r"| side marker | R \| L | no | corners | 0.95 (95 % CI 0.90–0.98) | used |"
    assert row in written(run_dir)[0]


@pytest.mark.parametrize("positive", ["TB", None])
def test_the_card_names_the_positive_class(run_dir, positive):
    record_metrics(run_dir, positive=positive, external={"north": EXTERNAL})
    assert ("Sensitivity, specificity and AUC are of TB against all other labels." in written(run_dir)[0]) == bool(
        positive
    )


@pytest.mark.parametrize("value", [None, [1, 2], {"a": {"b": []}}, "<script>", float("inf"), True], ids=repr)
def test_records_of_any_content_give_a_card(run_dir, value):
    record_metrics(run_dir, test={"n": 12, "accuracy": ACCURACY}, internal=EXTERNAL)
    record_metrics(run_dir, audit={"corners": PROBE}, external={"north": EXTERNAL}, model={"weights": "imagenet"})
    whole = read_json(run_dir / "metrics.json")
    for _, changed in damaged(whole, value):
        (run_dir / "metrics.json").write_text(json.dumps(changed))
        assert not any("<script" in text for text in written(run_dir))
    write_json(run_dir / "metrics.json", whole | {"audit": [1]})
    assert r"Not shown, since not usable: metrics.json › audit is \[1\], not a table of names." in written(run_dir)[0]
