"""A step that helps is called a gain, one that harms a loss, one that does nothing neither."""

from __future__ import annotations

import numpy as np
from test_leave_out import CONFOUNDED, films

from covidxr.leave_out import PLAIN
from covidxr.steps import Step, compare_steps, step_sentences

CELLS = [*CONFOUNDED, ("Normal", "c", 30)]


def test_steps_are_told_apart_by_what_they_do_elsewhere():
    rows, features = films(CELLS)
    shortcut, sign = (features[:, [column]] for column in (1, 0))
    noise = np.random.default_rng(0).normal(size=(len(rows), 1))
    steps = {
        "shortcut": Step(shortcut, {"discriminant": False}),
        "sign": Step(sign, {}, "shortcut"),
        "again": Step(sign, {}, "sign"),
        "noise": Step(noise, {}, "sign"),
    }
    table = compare_steps(steps, rows)
    assert table.carried["shortcut"] < 0.4 < 0.9 < table.carried["sign"]
    assert table.gained_low["sign"] > 0 and table.gained_high["noise"] < 0 and table.gained["again"] == 0
    assert table.within["sign"] > 0.9 and table.within_low["noise"] < 0.5 < table.within_high["noise"]
    said = step_sentences(table)
    assert "(chance 0.50)" in said[0] and said[1].endswith("a gain.") and said[3].endswith("a loss.")
    assert said[2].endswith("not told from no change.")


def test_care_is_found_to_help_where_the_place_goes_with_the_class():
    rows, features = films(CELLS, seed=3)
    steps = {"without": Step(features, PLAIN), "with": Step(features, {}, "without")}
    table = compare_steps(steps, rows)
    assert table.gained_low["with"] > 0


def test_without_a_source_of_both_sides_nothing_is_said_of_within():
    rows, features = films(CONFOUNDED)
    assert np.isnan(compare_steps({"all": Step(features, {})}, rows).within["all"])
