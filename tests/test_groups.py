"""Cells weigh alike; a shortcut that does not carry over is exposed by leaving a source out, a real sign is not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from covidxr.errors import CovidxrError
from covidxr.groups import cell_weights, leave_one_source_out, trial_sentences
from covidxr.sources._rows import manifest_rows


def films(cells, seed=0):
    """Rows of (label, source, count), and two features: a weak true sign of COVID-19, and the source's own grey."""
    rng = np.random.default_rng(seed)
    kinds = [(label, source) for label, source, count in cells for _ in range(count)]
    rows = manifest_rows(
        {"image_id": i, "patient_id": i, "label": label, "source": source} for i, (label, source) in enumerate(kinds)
    )
    ill, grey = (rows.label == "COVID-19").to_numpy(), rows.source.map({"a": 3.0, "b": -3.0, "c": -3.0, "d": 3.0}).to_numpy()
    return rows, np.c_[ill + rng.normal(0, 0.25, len(rows)), grey + rng.normal(0, 0.1, len(rows))]


CONFOUNDED = [("COVID-19", "a", 80), ("Normal", "b", 80), ("COVID-19", "c", 30), ("Normal", "d", 30)]


def test_cells_of_a_class_count_alike():
    labels, sources = ["x"] * 90 + ["x"] * 10 + ["y"] * 50, ["a"] * 90 + ["b"] * 10 + ["a"] * 50
    weights = cell_weights(labels, sources)
    assert weights.mean() == pytest.approx(1)
    assert weights[:90].sum() == pytest.approx(weights[90:100].sum())
    assert weights[:100].sum() == pytest.approx(weights[100:].sum())


def test_a_source_left_out_exposes_the_shortcut_and_spares_the_sign():
    rows, features = films(CONFOUNDED)
    shortcut, sign = (leave_one_source_out(features[:, [column]], rows) for column in (1, 0))
    assert shortcut.loc["d", "specificity"] < 0.1 and shortcut.loc["d", "specificity_high"] < 0.3
    assert sign.loc["d", "specificity"] > 0.9 and sign.loc["c", "sensitivity"] > 0.7
    assert shortcut.loc["c"].n_positive == 30 and np.isnan(shortcut.loc["c", "specificity"])


def test_balance_helps_where_a_big_source_drowns_a_small_one():
    rows, features = films([("COVID-19", "a", 200), ("Normal", "b", 200), ("Normal", "a", 8), ("Normal", "d", 200)], seed=1)
    features[:, 0] += np.random.default_rng(5).normal(0, 0.5, len(rows))  # the sign is weak, so that the shortcut tempts
    plain, balanced = (leave_one_source_out(features, rows, balanced=choice) for choice in (False, True))
    assert balanced.loc["d", "specificity"] > plain.loc["d", "specificity"]


def test_the_area_is_within_one_source_with_its_interval():
    rows, features = films([*CONFOUNDED, ("Normal", "c", 30)])
    found = leave_one_source_out(features[:, :1], rows).loc["c"]
    assert found.auc > 0.9 and found.auc_low <= found.auc <= found.auc_high <= 1
    noise = np.random.default_rng(0).normal(size=(len(rows), 1))
    by_chance = leave_one_source_out(noise, rows).loc["c"]
    assert by_chance.auc_low < 0.5 < by_chance.auc_high


def test_sentences_follow_from_the_numbers():
    rows, features = films(CONFOUNDED)
    shortcut, sign = (trial_sentences(leave_one_source_out(features[:, [column]], rows)) for column in (1, 0))
    assert shortcut != sign and len(sign) == 4
    assert any(re.match(r"d, left out: 0\.0\d .* of 30 other films not called COVID-19\.", said) for said in shortcut)
    assert any(re.match(r"d, left out: (0\.9\d|1\.00) .* of 30 other films not called COVID-19\.", said) for said in sign)


def test_what_cannot_be_left_out_is_said():
    rows, features = films([("COVID-19", "a", 5), ("Normal", "b", 5)])
    assert trial_sentences(leave_one_source_out(features, rows))[0].startswith("No source can be left out")
    with pytest.raises(CovidxrError, match="9 rows of features for 10"):
        leave_one_source_out(features[:9], rows)
