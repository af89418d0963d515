"""The model card and the CLAIM checklist: filled from the run's files, and changing with them."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from planted import noise, rows
from small_run import damaged

from covidxr.claim import ITEMS, answers
from covidxr.dataset import Assembly, save_run
from covidxr.evaluate import record_metrics
from covidxr.files import read_json, write_json
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
    assert said[21] == "No patient is in two partitions (parameter `split` of notebook 01)"
    assert (
        said[32] == "Notebook 07: north"
        and said[24].endswith("ImageNet weights, SHA-256 checked")
        and said[41].endswith("abc123")
    )
    record_metrics(
        run_dir, audit={"class from the corners": PROBE | {"value": 0.34, "interval": [0.3, 0.4], "shortcut": False}}
    )
    assert "None of these probes found a shortcut; that does not mean that there is none.\n" in written(run_dir)[0]


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
    facts = dict.fromkeys(("disjoint", "weights", "external", "commit", "images"), "known")
    everything = {need for item in ITEMS for need in item.needs}
    for _, answer in answers(everything, facts):
        assert "{" not in answer and answer
    for need in everything:
        lost = [item.number for item, answer in answers(everything - {need}, facts) if f"holds no {need}" in answer]
        assert lost == [item.number for item in ITEMS if need in item.needs]


def rename(run_dir, **columns):
    """Give the manifest's columns other values."""
    path = run_dir / "manifest.csv"
    pd.read_csv(path, dtype=str, keep_default_na=False).assign(**columns).to_csv(path, index=False)


HOSTILE = "a|b <script>alert(1)</script> *x* _y_ `z` [l](http://x) \\ & my_label"
SHOWN = r"a\|b &lt;script&gt;alert(1)&lt;/script&gt; \*x\* \_y\_ \`z\` \[l\](http://x) \\ &amp; my_label"


def test_markup_in_names_is_shown_as_it_is(run_dir):
    rename(run_dir, source=HOSTILE, license=HOSTILE)
    probe = PROBE | {"verdict": HOSTILE, "ideal": HOSTILE, "topic": HOSTILE}
    record_metrics(run_dir, audit={HOSTILE: probe}, external={HOSTILE: EXTERNAL}, refitted={HOSTILE: EXTERNAL})
    record_metrics(run_dir, model={"weights": HOSTILE, "weights_origin": HOSTILE})
    write_json(run_dir / "run.json", {"profile": HOSTILE, "seed": HOSTILE, "git_commit": HOSTILE + "\n# a title"})
    for text in written(run_dir):
        assert "<script" not in text and "\n# a title" not in text and SHOWN in text
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert claim_answers(written(run_dir)[1])[22] == "no: this run holds no model.keras"  # the package's own marks stay
    assert claim_answers(written(run_dir)[1])[7].startswith("`manifest.csv`")


def test_markup_in_labels_is_shown_as_it_is(run_dir):
    rename(run_dir, label=["Normal", HOSTILE] * 15)
    card, _ = written(run_dir)
    assert f"| {SHOWN} | s |" in card and f"Its answers: Normal, {SHOWN}." in card


def test_card_and_checklist_of_synthetic_images_say_so(run_dir):
    record_metrics(run_dir, test={"n": 12, "accuracy": 0.9}, internal=EXTERNAL | {"n": 12})
    record_metrics(run_dir, external={"phantom": EXTERNAL, "north": EXTERNAL}, refitted={"phantom": EXTERNAL})
    card, claim = written(run_dir)
    assert "**The external images of phantom are synthetic: drawn by a program" in card and "12 | accuracy" in card
    assert claim_answers(claim)[32] == "Notebook 07: phantom (synthetic images), north"
    rename(run_dir, source="phantom")
    card, claim = written(run_dir)
    for text in (card, claim):
        assert (
            "\n**All images of this run are synthetic: drawn by a program, of no patient and from no hospital." in text
        )
    measured = re.findall(r"^\| (.*?) \| (?:accuracy|specificity.*?) \|", card, re.MULTILINE)
    assert len(measured) == 9 and all("synthetic images" in row for row in measured if "north" not in row)
    assert "| Normal | phantom (synthetic images) | 15 |" in card
    assert "synthetic" in claim_answers(claim)[5] and "synthetic" in claim_answers(claim)[7]


def test_probes_that_miss_their_ideal_are_counted_in_the_card(run_dir):
    lungs = PROBE | {"ideal": "well above chance", "shortcut": False, "missed_ideal": True}
    record_metrics(run_dir, audit={"nothing but lungs": lungs})
    card, _ = written(run_dir)
    assert "there is none. 1 of them miss what they would show if all were well: nothing but lungs." in card
    record_metrics(run_dir, audit={"nothing but lungs": lungs, "class from the corners": PROBE})
    assert "class from the corners. 1 of the others miss" in written(run_dir)[0]
    record_metrics(run_dir, audit_in_short=["It is lost without lungs.", "With nothing else it is, too."])
    assert "\nIt is lost without lungs. With nothing else it is, too.\n" in written(run_dir)[0]


@pytest.mark.parametrize("positive", ["TB", None])
def test_the_card_names_the_positive_class(run_dir, positive):
    record_metrics(run_dir, positive=positive, external={"north": EXTERNAL})
    assert ("Sensitivity, specificity and AUC are of TB against everything else." in written(run_dir)[0]) == bool(
        positive
    )


@pytest.mark.parametrize("value", [None, [1, 2], {"a": {"b": []}}, "<script>", float("inf"), True], ids=repr)
def test_records_of_any_content_give_a_card(run_dir, value):
    record_metrics(run_dir, test={"n": 12, "accuracy": 0.9, "accuracy_interval": [0.8, 1.0]}, internal=EXTERNAL)
    record_metrics(run_dir, audit={"corners": PROBE}, external={"north": EXTERNAL}, model={"weights": "imagenet"})
    whole = read_json(run_dir / "metrics.json")
    for _, changed in damaged(whole, value):
        (run_dir / "metrics.json").write_text(json.dumps(changed))
        assert not any("<script" in text for text in written(run_dir))
    write_json(run_dir / "metrics.json", whole | {"audit": [1]})
    assert (
        r"Left out, as it cannot be right: metrics.json › audit is \[1\], not a table of names." in written(run_dir)[0]
    )
