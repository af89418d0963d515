"""Ablations: cells, the summary's intervals against planted effects and planted nothing, and sentences that follow."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from covidxr.ablation import REFERENCE, SIMPLE, ablation_sentences, cell_settings, standard_cells, summarise
from covidxr.errors import CovidxrError

LABELS = ["Normal", "COVID-19", "Bacteria"]


def predictions(skills, rng, films=150, repeats=1, folds=3, lottery=0.0):
    """A sweep's table: films of varying difficulty, two a patient, and trainings that each come out a little different."""
    difficulty, rows = rng.normal(size=films), []
    for cell, skill in skills.items():
        for repeat in range(repeats):
            place = np.random.default_rng(repeat).permutation(films // 2) % folds  # the same for all cells
            ability = skill + lottery * rng.normal(size=folds)
            fold = place[np.arange(films) // 2]
            right = rng.random(films) < 1 / (1 + np.exp(difficulty - ability[fold]))
            rows.append(pd.DataFrame({
                "cell": cell, "repeat": repeat, "fold": fold, "image_id": [f"f{i}" for i in range(films)], "source": "s",
                "patient_id": [f"p{i // 2}" for i in range(films)], "label": np.resize(LABELS, films), "correct": right,
            }))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_planted_effect_is_found_and_its_size_is_in_the_interval(repeats):
    table = predictions({"reference": 2.0, "worse": 0.0, "same": 2.0}, np.random.default_rng(0), repeats=repeats)
    summary = summarise(table, draws=300)
    assert summary.verdict.tolist() == ["", "differs", "cannot be told apart"]
    assert summary.difference_high["worse"] < -0.05 and summary.difference_low["worse"] < -0.3
    assert ((summary.low <= summary.value) & (summary.value <= summary.high)).all()
    assert summary.n.tolist() == summary.shared.tolist() == [150] * 3 and summary.chance.round(2).eq(0.33).all()


@pytest.mark.parametrize("repeats", [1, 3])
def test_trainings_that_come_out_different_by_chance_are_seldom_claimed_to_differ(repeats):
    """Seven recipes that are the same, each training with luck of its own: 5 % of the claims may be false, not a fifth."""
    rng, claims = np.random.default_rng(1), []
    for _ in range(20):
        table = predictions(dict.fromkeys("abcdefg", 1.5), rng, repeats=repeats, lottery=0.5)
        claims += (summarise(table, draws=200).verdict[1:] == "differs").tolist()
    assert np.mean(claims) <= 0.08


def test_copies_of_a_patient_s_films_are_no_further_evidence():
    once = predictions({"reference": 1.0, "other": 0.5}, np.random.default_rng(0))
    copies = [once.assign(image_id=once.image_id + f"-{copy}") for copy in range(6)]
    one, six = (summarise(table, draws=400) for table in (once, pd.concat(copies)))
    assert ((six.high - six.low) > 0.85 * (one.high - one.low)).all() and (six.n == 6 * one.n).all()


def test_films_of_another_class_are_left_out_of_the_comparison_and_a_call_of_it_is_wrong():
    table = predictions({"three": 9.0, "four": 9.0}, np.random.default_rng(0), films=90)
    table["correct"] = True
    virus = table[table.cell == "four"].assign(image_id=lambda rows: "v" + rows.image_id, label="Virus")
    table.loc[(table.cell == "four") & (table.label == "Bacteria"), "correct"] = False  # called Virus, say
    summary = summarise(pd.concat([table, virus]), draws=200)
    assert summary.n["four"] == 180 and summary.shared["four"] == 90
    assert summary.difference["four"] == pytest.approx(-1 / 3) and summary.value["four"] == pytest.approx(1 - 30 / 180)
    assert "0.33 lower than three on the 90 films that both were tested on" in ablation_sentences(summary)[1]


def test_sentences_follow_from_the_numbers():
    skills = {"reference": 2.0, "worse": -1.0, "same": 2.0}
    summary = summarise(predictions(skills, np.random.default_rng(2)), draws=300)
    first, worse, same, last = ablation_sentences(summary)
    assert re.fullmatch(r"reference: 0\.\d\d \(0\.\d\d to 0\.\d\d\), chance 0\.33\.", first)
    assert "lower than reference (-" in worse and worse.endswith(": it differs.")
    assert "cannot be told apart from reference (" in same
    assert last.startswith("1 of 2 differ from reference; ") and "0.1 of them" in last
    summary.loc["worse", ["difference", "difference_low", "difference_high"]] = 0.2, 0.1, 0.3
    assert "0.20 higher than reference (+0.10 to +0.30): it differs" in ablation_sentences(summary)[1]


def test_standard_cells_change_one_thing_at_a_time():
    settings = cell_settings({"reference": {"policy": "article", "classes": LABELS}})["reference"]
    cells = standard_cells(settings, [*LABELS, "Virus"], [64])
    changed = {name: [key for key, value in cell.items() if value != settings[key]] for name, cell in cells.items()}
    assert changed.pop("reference") == [] and cells[SIMPLE]["network"] == "simple" and changed.pop(SIMPLE)
    assert changed.pop("one-cycle schedule, no head first") == ["schedule", "probe_epochs"]
    assert changed.pop("neither head first nor warm-up") == ["probe_epochs", "warmup_epochs"]
    assert all(len(keys) == 1 for keys in changed.values())
    assert {keys[0] for keys in changed.values()} == {
        "seed", "weights", "freeze", "policy", "schedule", "probe_epochs", "image_size", "classes"
    }  # fmt: skip
    assert len([name for name in cells if name.startswith("without ")]) == 7 and "first blocks trained" not in cells
    assert "imagenet start" in standard_cells({**settings, "weights": "random"})
    assert set(cell_settings(cells)) == set(cells)


@pytest.mark.parametrize(
    ("cells", "chosen", "said"),
    [
        ({}, {}, "an ablation needs cells"),
        ({"reference": {}, "long": {"epchs": 3}}, {}, "unknown setting of long: 'epchs'; available: network, weights"),
        ({"reference": {}}, {"rate": 3}, "unknown setting of all cells: 'rate'"),
    ],
)
def test_mistakes_in_cells_are_told(cells, chosen, said):
    with pytest.raises(CovidxrError, match=said):
        cell_settings(cells, **chosen)
    assert REFERENCE["seed"] == 0
