"""Sources left out at once: a sign carries over, a shortcut does not, and another run's scores stand beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_leave_out import films

from covidxr.errors import CovidxrError
from covidxr.never_seen import never_seen_scores, run_scores, score_sentences, score_summary

CELLS = [("COVID-19", "a", 80), ("Normal", "a", 40), ("Normal", "b", 80), ("COVID-19", "c", 40), ("Normal", "d", 60)]


def test_a_sign_carries_over_and_a_shortcut_does_not():
    rows, features = films(CELLS)
    sign, shortcut = (score_summary(never_seen_scores(features[:, [column]], rows, ["c", "d"])) for column in (0, 1))
    assert sign["with care, against Normal"]["auc_interval"][0] > 0.9
    assert shortcut["without care, against Normal"]["auc"] < 0.1  # c looks like b, where nobody is ill
    assert sign["with care, against Normal"]["n_ill"] == 40 and sign["with care, against Normal"]["n_other"] == 60


def test_care_helps_where_both_are_there():
    rows, features = films(CELLS, seed=2)
    found = score_summary(never_seen_scores(features, rows, ["c", "d"]))
    assert found["with care, against Normal"]["auc"] > found["without care, against Normal"]["auc"] + 0.1


def test_each_other_label_is_asked_about_by_itself():
    rows, features = films([*CELLS, ("Pneumonia", "d", 20)])
    found = score_summary(never_seen_scores(features[:, [0]], rows, ["c", "d"]))
    assert {name: one["n_other"] for name, one in found.items() if name.startswith("with care")} == {
        "with care, against Normal": 60, "with care, against Pneumonia": 20,
    }  # fmt: skip


def test_sentences_change_with_the_numbers():
    rows, features = films(CELLS)
    right, wrong = (
        score_sentences(score_summary(never_seen_scores(sign * features[:, [0]], rows, ["c", "d"])))[1]
        for sign in (1, 0)
    )
    assert right != wrong and "of 40 ill films found" in right and "area 0.50" in wrong


def test_what_cannot_be_left_out_is_said():
    rows, features = films(CELLS)
    with pytest.raises(CovidxrError, match="unknown source to leave out 'e'; available: a, b, c, d"):
        never_seen_scores(features, rows, ["e"])
    with pytest.raises(CovidxrError, match="nothing to fit on, or are all of one kind"):
        never_seen_scores(features, rows, ["a", "c"])


def test_another_runs_scores_are_those_of_its_predictions(tmp_path):
    pd.DataFrame({
        "source": ["c", "d", "d", "inside"], "patient_id": ["1", "2", "3", "4"], "label": ["COVID-19", "Normal", "Normal", "Normal"],
        "predicted": ["COVID-19", "COVID-19", "Normal", "Normal"], "p_COVID-19": [0.9, 0.95, 0.1, 0.0],
    }).to_csv(tmp_path / "external_predictions.csv", index=False)  # fmt: skip
    found = score_summary(run_scores(tmp_path, ["c", "d"]))[f"{tmp_path.name}, against Normal"]
    assert (found["auc"], found["sensitivity"], found["specificity"]) == (0.5, 1.0, 0.5)
    with pytest.raises(CovidxrError, match="available: c, d, inside"):
        run_scores(tmp_path, ["figure1"])
    assert np.isfinite(found["auc_interval"]).all()
