"""Confidence intervals: published values, coverage, and patients with several images."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from covidxr.evaluation.intervals import (
    Estimate,
    binary_metrics,
    bootstrap_interval,
    estimate_auc,
    estimate_proportion,
    estimate_statistic,
    estimate_table,
    proportion_interval,
    wilson_interval,
)
from covidxr.utils import CovidxrError, read_json, write_json


def width(interval) -> float:
    return interval[1] - interval[0]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (97, 100, 0.9155, 0.9897),
        (5, 10, 0.2366, 0.7634),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_gives_the_published_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("successes", "n"), [(3, 17), (200, 250), (1, 40)])
def test_wilson_is_wilsons_formula(successes, n):
    z, p = 1.959964, successes / n
    middle, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((middle - reach) / (1 + z * z / n), (middle + reach) / (1 + z * z / n))
    assert wilson_interval(successes, n) == pytest.approx(expected, abs=1e-6)


def test_wilson_without_images_is_zero_to_one_and_less_confidence_is_narrower():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert width(wilson_interval(7, 10, 0.5)) < width(wilson_interval(7, 10)) < width(wilson_interval(7, 10, 0.99))


def test_an_estimate_has_one_printed_and_one_stored_form(tmp_path):
    estimate = estimate_proportion([1, 1, 0, 1, 1])
    assert estimate == Estimate(0.8, *wilson_interval(4, 5), 5) and str(estimate) == "0.80 (95 % CI 0.38–0.96)"
    assert all(type(number) is float for number in (estimate.value, estimate.low, estimate.high))
    write_json(tmp_path / "a.json", {"accuracy": estimate, "auc": Estimate(0.5, 0.25, 0.75)})
    stored = read_json(tmp_path / "a.json")
    assert stored["accuracy"] == {"value": 0.8, "low": estimate.low, "high": estimate.high, "n": 5}
    assert stored["auc"] == {"value": 0.5, "low": 0.25, "high": 0.75}


def test_a_table_of_estimates_has_gaps_where_nothing_was_measured():
    table = estimate_table({"accuracy": Estimate(0.8, 0.4, 0.9, 5), "AUC": None})
    assert table.loc["accuracy"].tolist() == [0.8, 0.4, 0.9, 5] and table.loc["AUC"].isna().all()
    assert estimate_table({}).empty


def test_the_statistic_of_all_rows_is_the_value():
    values = np.arange(20.0)
    estimate = estimate_statistic(lambda rows: values[rows].mean(), np.arange(20))
    assert (estimate.value, estimate.n) == (9.5, 20)
    assert (estimate.low, estimate.high) == bootstrap_interval(lambda rows: values[rows].mean(), np.arange(20))


def coverage(make_patients, interval, truth=0.8):
    """How often 95 % intervals hold the truth; right answers go with the patient, whose chance of them is drawn from a beta."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        patients = make_patients(rng)
        chances = rng.beta(4 * truth, 4 * (1 - truth), patients.max() + 1)
        low, high = interval(rng.random(len(patients)) < chances[patients], patients)
        held += low <= truth <= high
    return held / 400


def test_proportion_intervals_cover_the_truth_where_patients_have_several_images():
    def several(rng):
        return np.repeat(np.arange(40), rng.integers(1, 9, 40))

    assert 0.92 <= coverage(several, proportion_interval) <= 0.98
    assert coverage(several, lambda hits, _: proportion_interval(hits)) < 0.88  # the images alone promise too much


def test_proportion_intervals_are_no_wider_than_needed_for_independent_images():
    assert 0.92 <= coverage(lambda _: np.arange(60), proportion_interval) <= 0.98
    hits = np.random.default_rng(0).random(400) < 0.7
    found = proportion_interval(hits, np.arange(400) // 2)
    assert width(found) == pytest.approx(width(wilson_interval(hits.sum(), 400)), rel=0.15)


@pytest.mark.parametrize("hits", [[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
def test_with_one_image_per_patient_the_interval_is_wilsons(hits):
    expected = wilson_interval(sum(hits), 4)
    assert proportion_interval(hits) == proportion_interval(hits, list("abcd")) == pytest.approx(expected)


def test_copies_of_a_patients_image_are_no_further_evidence():
    hits, patients = np.array([1, 1, 0, 1, 0, 1, 1, 0]), np.arange(8)
    once, thrice = proportion_interval(hits, patients), proportion_interval(hits.repeat(3), patients.repeat(3))
    effective = 24 * 7 / 23 * (2.068658 / 2.364624) ** 2  # design effect 23 / 7; Student's t of 23 and of 7
    assert thrice == pytest.approx(wilson_interval(5 / 8 * effective, effective), abs=1e-5)
    assert width(thrice) >= width(once) and width(wilson_interval(15, 24)) < 0.7 * width(thrice)
    assert proportion_interval(np.ones(24), patients.repeat(3)) == wilson_interval(8, 8)
    assert proportion_interval([1, 0, 1], ["a"] * 3) == pytest.approx(wilson_interval(2 / 3, 1))
    assert proportion_interval([], []) == (0.0, 1.0)


def test_sensitivity_and_specificity_account_for_patients():
    positive, predicted = np.arange(20) < 10, np.arange(20) % 5 > 0
    alone, pairs = (
        binary_metrics(positive, predicted, None, patients) for patients in (np.arange(20), np.arange(20) // 5)
    )
    assert alone["sensitivity"] == Estimate(0.8, *wilson_interval(8, 10), 10) and "auc" not in alone
    assert alone["specificity"].value == pytest.approx(0.2)
    low, high = proportion_interval(~predicted[10:], np.arange(10) // 5)
    assert (pairs["specificity"].low, pairs["specificity"].high) == (low, high) != (alone["specificity"].low, high)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        values = rng.normal(3.0, 1.0, 40)
        low, high = bootstrap_interval(lambda rows, v=values: v[rows].mean(), np.arange(40), draws=200, seed=seed)
        covered += low <= 3.0 <= high
    assert 0.87 <= covered / 200 <= 0.985


def test_images_of_the_same_patient_are_no_further_evidence():
    rng = np.random.default_rng(1)
    of_patients = rng.normal(0, 1, 40)
    images, patients = np.repeat(of_patients, 5), np.repeat(np.arange(40), 5)
    grouped = bootstrap_interval(lambda rows: images[rows].mean(), patients)
    alone = bootstrap_interval(lambda rows: images[rows].mean(), np.arange(200))
    once = bootstrap_interval(lambda rows: of_patients[rows].mean(), np.arange(40))
    assert width(grouped) == pytest.approx(math.sqrt(5) * width(alone), rel=0.2)
    assert grouped == pytest.approx(once)


def test_all_images_of_a_drawn_patient_come_along():
    patients = np.array(["b", "a", "b", "c", "b", "a"])
    rows_of = {patient: set(np.flatnonzero(patients == patient)) for patient in "abc"}
    seen = []

    def statistic(rows):
        counts = np.bincount(rows, minlength=6)
        assert all(len({counts[row] for row in rows_of[patient]}) == 1 for patient in "abc")
        assert sum(counts[next(iter(rows_of[patient]))] for patient in "abc") == 3  # as many patients as there are
        seen.append(len(rows))
        return 0.0

    bootstrap_interval(statistic, patients, draws=50)
    assert len(set(seen)) > 2


def test_samples_without_a_finite_value_are_ignored():
    values = np.arange(10.0)

    def mean_if_the_last_is_drawn(rows):
        return values[rows].mean() if 9 in rows else np.nan

    low, high = bootstrap_interval(mean_if_the_last_is_drawn, np.arange(10))
    assert 1 < low < 5 < high < 9


def test_the_seed_fixes_the_interval_and_confidence_widens_it():
    values = np.random.default_rng(0).normal(size=30)

    def interval(**options):
        return bootstrap_interval(lambda rows: values[rows].mean(), [f"p{i}" for i in range(30)], **options)

    assert interval() == interval() != interval(seed=1)
    assert width(interval(confidence=0.5)) < width(interval()) < width(interval(confidence=0.99))


@pytest.mark.parametrize(
    ("successes", "n", "message"),
    [
        (6, 5, "the number of successes holds 6 .* from 0 to 5 is needed"),
        (-1, 5, "successes holds -1"),
        (1, -5, "the number of trials holds -5"),
        (float("nan"), 5, "successes holds nan"),
        (1, float("nan"), "trials holds nan"),
        (1, float("inf"), "trials holds inf"),
        ("many", 5, "must hold numbers"),
    ],
)
def test_impossible_counts_have_no_interval(successes, n, message):
    with pytest.raises(CovidxrError, match=message):
        wilson_interval(successes, n)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, float("nan")])
def test_an_impossible_confidence_level_is_refused(confidence):
    for interval in (
        lambda **how: wilson_interval(1, 2, **how),
        lambda **how: bootstrap_interval(np.mean, [1, 2], **how),
    ):
        with pytest.raises(CovidxrError, match="give a level between 0 and 1"):
            interval(confidence=confidence)


FOUR, NAMES = [True, False, True, False], list("abcd")


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: proportion_interval(FOUR, NAMES[:3]), "4 hits, 3 patients"),
        (lambda: estimate_proportion(FOUR, NAMES[:3]), "4 hits, 3 patients"),
        (lambda: binary_metrics(FOUR, FOUR[:3], None, NAMES), "4 positive, 3 predicted, 4 patients"),
        (lambda: estimate_auc(FOUR, [0.1, 0.2, 0.3], NAMES), "4 positive, 3 score"),
        (lambda: binary_metrics(FOUR, FOUR, [0.1, 0.2, 0.3, 0.4, 0.5], NAMES), "5 score"),
    ],
)
def test_arrays_of_different_lengths_are_refused(measure, message):
    with pytest.raises(CovidxrError, match=message):
        measure()


@pytest.mark.parametrize("gap", [np.nan, None, pd.NA, 2, -1, "perhaps"])
def test_a_prediction_that_is_neither_right_nor_wrong_is_refused(gap):
    answers = [True, gap, True, False]
    for measure in (
        proportion_interval,
        estimate_proportion,
        lambda answers: binary_metrics(FOUR, answers, None, NAMES),
    ):
        with pytest.raises(CovidxrError, match="must be true or false for every image"):
            measure(answers)


@pytest.mark.parametrize("gap", [np.nan, None])
def test_a_missing_patient_is_refused(gap):
    patients = ["a", gap, "b", gap]
    for measure in (proportion_interval, lambda hits, who: bootstrap_interval(lambda rows: 0.5, who)):
        with pytest.raises(CovidxrError, match="the patient of 2 of 4 images is missing"):
            measure(FOUR, patients)


def test_a_score_that_is_no_number_has_no_curve():
    with pytest.raises(CovidxrError, match="score holds nan at place 2"):
        estimate_auc(FOUR, [0.1, 0.2, np.nan, 0.4], NAMES)
    with pytest.raises(CovidxrError, match="score holds inf at place 0"):
        binary_metrics(FOUR, FOUR, [np.inf, 0.2, 0.3, 0.4], NAMES)
    with pytest.raises(CovidxrError, match="4 of 4 images are positive; an AUC needs both positives and negatives"):
        estimate_auc([True] * 4, [0.1, 0.2, 0.3, 0.4], NAMES)


def test_a_missing_value_is_not_ignored_with_the_samples_that_hold_it():
    values = np.r_[np.arange(9.0), np.nan]
    with pytest.raises(CovidxrError, match="the statistic of all 10 rows is nan"):
        bootstrap_interval(lambda rows: values[rows].mean(), np.arange(10))


@pytest.mark.parametrize(
    ("groups", "draws", "message"), [([], 9, "holds no image"), ([1, 2], 0, "draws is 0"), ([1], 2.5, "2.5")]
)
def test_nothing_to_draw_from_is_a_sentence(groups, draws, message):
    with pytest.raises(CovidxrError, match=message):
        bootstrap_interval(len, groups, draws=draws)
    with pytest.raises(CovidxrError, match="holds no image"):
        estimate_proportion([])
