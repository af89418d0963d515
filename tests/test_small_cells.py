"""Few patients, small groups: a number, a row less with its reason, or one sentence, never an error of scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from planted import noise
from test_leave_out import films

from covidxr.errors import CovidxrError
from covidxr.leave_out import PLAIN, leave_one_source_out, score_outside, trial_sentences
from covidxr.memory import memory
from covidxr.never_seen import never_seen_scores, run_scores
from covidxr.places import care_sentences, unseen_place_scores
from covidxr.probes import grouped_predictions
from covidxr.reader import fit_reader
from covidxr.sources._rows import manifest_rows
from covidxr.steps import Step, compare_steps, step_sentences


def few(seed, most=14):
    """Some images of a few patients, sources and labels, as chance has it."""
    rng = np.random.default_rng(seed)
    n, people = rng.integers(1, most), rng.integers(1, 8)
    who = rng.integers(people, size=n)
    rows = manifest_rows(
        {
            "image_id": i, "patient_id": who[i], "source": "ab"[who[i] % 2] if seed % 2 else "abc"[rng.integers(3)],
            "label": ["COVID-19", "Normal", "Bacteria"][rng.integers(2 + seed % 2)],
        }
        for i in range(n)
    )  # fmt: skip
    return rows, rng.normal(size=(n, 5))


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.parametrize("seed", range(16))
def test_however_few_there_are_the_answer_is_a_number_a_row_less_or_a_sentence(seed):
    rows, features = few(seed)
    patients = rows.source + rows.patient_id
    asked = {
        "a careful reader": lambda: fit_reader(features, rows.label, rows.source, patients),
        "a plain reader": lambda: fit_reader(features, rows.label, rows.source, patients, **PLAIN),
        "sources left out": lambda: trial_sentences(leave_one_source_out(features, rows)),
        "steps": lambda: step_sentences(compare_steps({"one": Step(features, {}), "two": Step(features, PLAIN, "one")}, rows)),
        "places": lambda: care_sentences(unseen_place_scores(features, rows)),
        "never seen": lambda: never_seen_scores(features, rows, ["a"]),
        "folds": lambda: grouped_predictions(features, rows.label, patients),
        "memory": lambda: memory(rows, noise(n=len(rows))),
    }  # fmt: skip
    for what, ask in asked.items():
        try:
            assert ask() is not None
        except CovidxrError as error:
            assert len(str(error)) > 20, what


def test_within_is_not_said_of_many_images_of_few_patients():
    rows, features = films([("COVID-19", "a", 40), ("Normal", "a", 40), ("Normal", "b", 40), ("COVID-19", "c", 40)])
    of_few = rows.assign(patient_id=(np.arange(len(rows)) // 10).astype(str))  # four of each kind in a
    assert compare_steps({"all": Step(features, {})}, rows).within["all"] > 0.9
    table = compare_steps({"all": Step(features, {})}, of_few)
    assert np.isnan(table.within["all"]) and "no source has 10 patients of both kinds" in step_sentences(table)[-1]


def test_steps_without_a_source_that_can_be_left_out_are_a_sentence():
    rows, features = films([("COVID-19", "a", 20), ("Normal", "a", 20)])
    table = compare_steps({"one": Step(features, {})}, rows)
    assert step_sentences(table) == ["There are no steps to compare: no source can be left out."]


def test_a_source_that_cannot_be_left_out_is_named_with_the_reason():
    rows, features = films([("COVID-19", "a", 20), ("Normal", "a", 20), ("COVID-19", "b", 20)])
    trials = leave_one_source_out(features, rows)
    said = trial_sentences(trials, sources=rows.source)
    assert trials.index.tolist() == ["b"]
    assert said[1] == ("a cannot be left out: without it, the others lack two patients with COVID-19, or two without.")


@pytest.mark.parametrize(
    ("labels", "patients", "error"),
    [
        (["a"] * 5 + ["b"] * 5, ["one"] * 10, "needs two patients, .* there are 1 patients with 10 films of a, b"),
        (
            ["a", "b"],
            ["1", "2"],
            "needs .* two films of one class; there are 2 patients with 2 films of a, b: add films",
        ),
    ],
)
def test_what_a_reader_cannot_be_fitted_on_is_a_sentence(labels, patients, error):
    with pytest.raises(CovidxrError, match=error):
        fit_reader(np.random.default_rng(0).normal(size=(len(labels), 3)), labels, ["x"] * len(labels), patients)


@pytest.mark.parametrize("how", [{}, PLAIN])
def test_groups_smaller_than_the_folds_are_no_hindrance(how):
    labels, sources = np.tile(["a", "b"], 6), np.repeat(["x", "y", "z"], 4)  # two images in each group
    x = np.c_[labels == "a", np.random.default_rng(0).normal(size=12)].astype(float)
    reader = fit_reader(x, labels, sources, np.arange(12).astype(str), **how)
    assert (np.take(reader.classes, reader.probabilities(x).argmax(axis=1)) == labels).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_a_sentence(wrong):
    rows, features = films([("COVID-19", "a", 10), ("Normal", "a", 10)])
    features[3, 0] = wrong
    with pytest.raises(CovidxrError, match="features hold values that are not finite"):
        score_outside(features, rows, np.arange(20) == 0)


def test_another_run_of_other_classes_is_a_sentence(tmp_path):
    (tmp_path / "external_predictions.csv").write_text(
        "source,patient_id,label,predicted,p_Healthy,p_TB\nnorth,1,TB,TB,0.1,0.9\n"
    )
    with pytest.raises(CovidxrError, match="unknown class of .*'COVID-19'; available: Healthy, TB"):
        run_scores(tmp_path, ["north"])
