"""A shortcut that does not carry over is exposed by leaving a source out, a real sign is not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from covidxr.errors import CovidxrError
from covidxr.leave_out import leave_one_source_out, left_out_scores, trial_sentences
from covidxr.sources._rows import manifest_rows


def films(cells, seed=0):
    """Rows of (label, source, count), and two features: a weak true sign of COVID-19, and the source's own grey."""
    rng = np.random.default_rng(seed)
    kinds = [(label, source) for label, source, count in cells for _ in range(count)]
    rows = manifest_rows(
        {"image_id": i, "patient_id": i, "label": label, "source": source} for i, (label, source) in enumerate(kinds)
    )
    ill, grey = (
        (rows.label == "COVID-19").to_numpy(),
        rows.source.map({"a": 3.0, "b": -3.0, "c": -3.0, "d": 3.0}).to_numpy(),
    )
    return rows, np.c_[ill + rng.normal(0, 0.25, len(rows)), grey + rng.normal(0, 0.1, len(rows))]


CONFOUNDED = [("COVID-19", "a", 80), ("Normal", "b", 80), ("COVID-19", "c", 30), ("Normal", "d", 30)]


def test_a_source_left_out_exposes_the_shortcut_and_spares_the_sign():
    rows, features = films(CONFOUNDED)
    shortcut, sign = (leave_one_source_out(features[:, [column]], rows) for column in (1, 0))
    assert shortcut.loc["d", "specificity"] < 0.1 and shortcut.loc["d", "specificity_high"] < 0.3
    assert sign.loc["d", "specificity"] > 0.9 and sign.loc["c", "sensitivity"] > 0.7
    assert shortcut.loc["c"].n_positive == 30 and np.isnan(shortcut.loc["c", "specificity"])


def test_copies_in_another_source_do_not_give_a_film_away():
    rng = np.random.default_rng(0)
    rows, _ = films([("COVID-19", "a", 30), ("Normal", "a", 30), ("COVID-19", "b", 30), ("Normal", "b", 30)])
    noise = rng.normal(size=(60, 400))  # nothing but what tells one film from all others
    features, copied = np.concatenate([noise, noise]), rows.assign(twins=np.tile(np.arange(60).astype(str), 2))
    unmarked = left_out_scores(features, rows, ["b"])
    assert (unmarked.called == (rows.label[unmarked.index] == "COVID-19")).mean() > 0.95
    assert len(left_out_scores(features, copied, ["b"])) == 0  # without the copies, nothing is left to fit on
    half = copied.assign(twins=copied.twins.where(copied.twins.astype(int) % 2 == 0, ""))
    scores = left_out_scores(features, half, ["b"])
    right, twin = scores.called == (rows.label[scores.index] == "COVID-19"), half.twins[scores.index] != ""
    assert right[~twin].mean() > 0.95 and right[twin].mean() < 0.75


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
    assert any(
        re.match(r"d, left out: (0\.9\d|1\.00) .* of 30 other films not called COVID-19\.", said) for said in sign
    )


def test_what_cannot_be_left_out_is_said():
    rows, features = films([("COVID-19", "a", 5), ("Normal", "b", 5)])
    assert trial_sentences(leave_one_source_out(features, rows))[0].startswith("No source can be left out")
    with pytest.raises(CovidxrError, match="9 rows of features for 10"):
        leave_one_source_out(features[:9], rows)


def test_sources_left_out_together_are_scored_by_one_reader_that_saw_neither():
    rows, features = films([*CONFOUNDED, ("Normal", "c", 30)])
    alone, together = left_out_scores(features, rows), left_out_scores(features, rows, ["c", "d"])
    assert set(rows.source[together.index]) == {"c", "d"} and len(alone) == len(rows)
    poisoned = features.copy()
    poisoned[(rows.source == "d").to_numpy()] = 1e3
    changed = left_out_scores(poisoned, rows, ["c", "d"])
    of_c = rows.index[rows.source == "c"]
    assert np.allclose(changed.score[of_c], together.score[of_c])  # what d shows has no part in what is said of c


def test_augmented_copies_are_fitted_on_and_not_scored():
    rows, features = films([*CONFOUNDED, ("Normal", "c", 30)])
    noise = np.random.default_rng(1).normal(0, 5, features.shape)
    plain, with_copies = left_out_scores(features, rows), left_out_scores([features, noise], rows)
    assert len(with_copies) == len(plain) and not np.allclose(plain.score, with_copies.score)
