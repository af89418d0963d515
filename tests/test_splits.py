"""Splits: no patient on two sides, whatever the manifest; shares, strata and seeds."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covidxr.data.manifest import SPLITS, check_manifest, manifest_rows, patient_keys
from covidxr.data.splits import fold_splits, patients_across_splits, split_manifest
from covidxr.utils import CovidxrError

SHARES = {"test": 0.325, "validation": 0.15}


def manifest(patients):
    """Make a manifest of (source, patient, labels of the images) triples."""
    images = [(source, patient, label) for source, patient, labels in patients for label in labels]
    return manifest_rows(
        {"image_id": f"{n:04d}", "path": f"{n}.png", "label": label, "patient_id": patient, "source": source}
        for n, (source, patient, label) in enumerate(images)
    )


def singles(**classes):
    """Make patients of one image each, so many a class."""
    return [("s", f"{label}{n}", [label]) for label, count in classes.items() for n in range(count)]


def side_of(divided, *columns):
    return divided.groupby(list(columns)).split.agg(set).map(len)


patients = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), max_size=25)


@settings(max_examples=40, deadline=None)
@given(extra=patients, seed=st.integers(0, 10**6), sources=st.sampled_from(["s", "st"]))
def test_no_patient_is_on_two_sides(extra, seed, sources):
    numbered = [(sources[n % len(sources)], str(n // len(sources)), labels) for n, labels in enumerate(extra)]
    rows = manifest(numbered + singles(a=6, b=6, c=6))
    divided = split_manifest(rows, by="patient", seed=seed)
    assert (side_of(divided, "source", "patient_id") == 1).all()
    assert patients_across_splits(divided) == 0
    assert set(divided.split) == set(SPLITS)
    assert (divided.groupby("label").split.nunique() == 3).all()
    pd.testing.assert_frame_equal(divided.drop(columns="split"), rows.drop(columns="split"))
    assert (rows.split == "").all()


@pytest.mark.parametrize("by", ["patient", "image"])
@pytest.mark.parametrize("shares", [SHARES, {"test": 0.2, "validation": 0.1}, {"test": 0.5, "validation": 0.25}])
@pytest.mark.parametrize("classes", [{"a": 20}, {"a": 179, "b": 179, "c": 179}, {"a": 13, "b": 90, "c": 37}])
def test_single_images_give_the_shares_asked_for_class_by_class(classes, shares, by):
    divided = split_manifest(manifest(singles(**classes)), by=by, **shares)
    for label, count in classes.items():
        got = divided[divided.label == label].split.value_counts()
        for name, share in shares.items():
            assert abs(got[name] - share * count) <= 0.5
        assert got["train"] == count - got["test"] - got["validation"]


def test_patients_with_several_images_come_close_to_the_shares():
    rows = manifest([("s", f"{label}{n}", [label] * (1 + n % 3)) for label in "ab" for n in range(60)])
    got = split_manifest(rows).groupby("label").split.value_counts().unstack()
    for name, share in SHARES.items():
        assert ((share * 120 - got[name]).between(-0.5, 2.5)).all()


def test_few_large_patients_still_reach_every_side():
    divided = split_manifest(manifest([("s", "1", "aaa"), ("s", "2", "aaa"), ("s", "3", "aa")]))
    assert sorted(Counter(divided.split).values()) == [2, 3, 3] and patients_across_splits(divided) == 0


def test_the_same_patient_id_of_two_sources_is_two_patients():
    rows = manifest([(source, str(n), ["a"]) for source in ("s", "t") for n in range(30)])
    divided = split_manifest(rows)
    assert (side_of(divided, "patient_id") == 2).any() and patients_across_splits(divided) == 0


def test_a_slash_in_a_name_makes_no_two_patients_one():
    rows = [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a", "b%2Fc"), ("a%252Fb", "c")]
    keys = patient_keys(pd.DataFrame(rows, columns=["source", "patient_id"]))
    assert keys.nunique() == len(rows)


def test_split_by_image_lets_patients_straddle_and_says_how_many():
    rows = manifest([("s", f"{label}{n}", [label] * 4) for label in "ab" for n in range(15)])
    divided = split_manifest(rows, by="image")
    straddling = int((side_of(divided, "patient_id") > 1).sum())
    assert patients_across_splits(divided) == straddling > 15
    assert patients_across_splits(split_manifest(rows, by="patient")) == 0


@pytest.mark.parametrize("by", ["patient", "image"])
def test_the_seed_alone_decides(by):
    rows = manifest(singles(a=40, b=40))
    first = split_manifest(rows, by=by, seed=1)
    pd.testing.assert_frame_equal(first, split_manifest(rows, by=by, seed=1))
    assert (first.split != split_manifest(rows, by=by, seed=2).split).any()
    turned = split_manifest(rows.sample(frac=1, random_state=0), by=by, seed=1).sort_index()
    pd.testing.assert_frame_equal(first, turned)


def test_an_earlier_split_is_forgotten():
    rows = manifest(singles(a=40))
    once = split_manifest(rows, seed=1)
    pd.testing.assert_frame_equal(split_manifest(once, seed=2), split_manifest(rows, seed=2))


@pytest.mark.parametrize(
    ("patients", "options", "error"),
    [
        (singles(a=40), {"by": "hospital"}, "unknown split 'hospital'; available: patient, image"),
        (singles(a=40, b=2), {}, "class 'b' has 2 images of 2 patients, too few to put any into validation"),
        (
            [*singles(a=40), ("s", "1", "b" * 30)],
            {},
            "class 'b' has 30 images of 1 patients, too few to put any into train and",
        ),
        (singles(a=40), {"test": 0.01}, "class 'a' .* test; add images or change the shares"),
        (singles(a=40), {"test": 0.84}, "class 'a' .* train; add images or change the shares"),
    ],
)
def test_what_cannot_be_split_is_a_sentence(patients, options, error):
    with pytest.raises(CovidxrError, match=error):
        split_manifest(manifest(patients), **options)


IMPOSSIBLE = [
    *[({name: value}, f"the share of {name} is {value!r}; give a share between 0 and 1") for name in SHARES
      for value in (0, 1, -0.1, 1.5, float("nan"), float("inf"), "0.3", None, True)],
    ({"test": 0.7, "validation": 0.3}, r"the shares of test \(0.7\) and validation \(0.3\) leave nothing to train on"),
    *[({"seed": seed}, f"seed is {seed!r}; give a whole number from 0 to 4294967295")
      for seed in (-1, 0.5, 1.0, 2**32, float("nan"), "0", None, True)],
    ({"by": ["patient"]}, r"unknown split \['patient'\]; available: patient, image"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error"), IMPOSSIBLE, ids=str)
def test_impossible_shares_and_seeds_are_a_sentence(options, error):
    with pytest.raises(CovidxrError, match=error):
        split_manifest(manifest(singles(a=40)), **options)
    if not {"by", "test"} & set(options):
        with pytest.raises(CovidxrError, match=error):
            fold_splits(manifest(singles(a=40)), **options)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda rows: rows.drop(columns=["label", "split"]), "the manifest has no column label, split"),
        (lambda rows: rows[:0], "the manifest has no rows: no images were found"),
        (lambda rows: pd.concat([rows, rows[:2]]), "2 image ids occur twice in the manifest, the first is '0000'"),
    ],
)
def test_a_manifest_that_breaks_the_contract_is_a_sentence(spoil, error):
    rows = manifest(singles(a=3))
    assert check_manifest(rows) is rows
    with pytest.raises(CovidxrError, match=error):
        check_manifest(spoil(rows))


@settings(max_examples=15, deadline=None)
@given(extra=patients, seed=st.integers(0, 10**6))
def test_each_image_is_tested_once_a_repeat_and_no_patient_is_on_two_sides(extra, seed):
    rows = manifest([("s", str(n), labels) for n, labels in enumerate(extra)] + singles(a=9, b=9, c=9))
    repeats = fold_splits(rows, folds=3, repeats=2, seed=seed)
    for folds in repeats:
        tested = pd.concat([fold.image_id[fold.split == "test"] for fold in folds])
        assert sorted(tested) == rows.image_id.tolist()
        assert all(patients_across_splits(fold) == 0 for fold in folds)
        assert all((fold.groupby("label").split.nunique() == 3).all() for fold in folds)


def test_repeats_differ_and_the_same_seed_does_not():
    rows = manifest(singles(a=30, b=30))
    (first, _), (second, _) = fold_splits(rows, folds=2, repeats=2)
    assert (first.split != second.split).any()
    pd.testing.assert_frame_equal(fold_splits(rows, folds=2, repeats=2)[1][0], second)
    assert first.groupby("label").split.value_counts().unstack()["validation"].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("folds", "patients", "said"),
    [
        (1, singles(a=9, b=9), "folds is 1; give a whole number of 2 or more"),
        (2.0, singles(a=9, b=9), "folds is 2.0; give a whole number of 2 or more"),
        (5, singles(a=9, b=4), "class 'b' has 4 images; give 2 to so many folds, not 5"),
        (3, [*singles(a=9), ("s", "one", ["b"] * 9)], "class 'b' has 9 images of 1 patients, too few"),
    ],
)
def test_too_few_images_or_patients_for_the_folds(folds, patients, said):
    with pytest.raises(CovidxrError, match=said):
        fold_splits(manifest(patients), folds)
