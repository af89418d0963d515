"""Other hospitals in tables and sentences: they follow from the numbers, and nothing else in notebooks 06 and 07 claims anything."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from planted import CORNER, N, Reader, noise, rows

from covidxr import audit
from covidxr.audit import shortcut_audit
from covidxr.elsewhere import comparison, number_sentences, side_by_side, with_intervals
from covidxr.external import ExternalSet, evaluate_external, fix_on_validation

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CLASSES = ["Normal", "COVID-19"]


def a_set(name, healthy_called_ill, n=40):
    """Half healthy, half ill; the reader calls films ill whose corner is white."""
    films = noise(n=n)
    manifest = rows(n, classes=CLASSES, source=[name] * n)
    white = (manifest.label == "COVID-19").to_numpy() | (np.arange(n) < 2 * healthy_called_ill)
    films[white, CORNER[0], CORNER[1]] = 255
    return ExternalSet(name, manifest, films, 0, 0)


def results_with(healthy_called_ill):
    sets = [a_set("inside", 0), a_set("north", healthy_called_ill)]
    settings = fix_on_validation(evaluate_external(Reader(CORNER), sets[0], CLASSES)[1], CLASSES)
    return {one.name: evaluate_external(Reader(CORNER), one, CLASSES, settings)[0] for one in sets}


def test_the_sentences_change_with_the_data():
    well, ill = (" ".join(comparison(results_with(count))) for count in (0, 19))
    assert "north, 40 films: sensitivity 1.00 (0.84 to 1.00); specificity 1.00" in well
    assert "In north the specificity is 1.00, inside it is 1.00: the intervals overlap, so no fall is shown." in well
    assert "of 100 films without COVID-19" not in well
    assert "north, 40 films: sensitivity 1.00 (0.84 to 1.00); specificity 0.05" in ill
    assert "In north the specificity is 0.05, inside it is 1.00: the fall is larger than both intervals." in ill
    assert "In north 95 of 100 films without COVID-19 are called COVID-19." in ill
    better = comparison(dict(reversed(results_with(19).items())))
    assert "In inside the specificity is 1.00, inside it is 0.05: better than inside, beyond both intervals." in better


def test_labels_that_are_no_class_are_said_and_count_for_nothing_where_they_may_be_the_positive_one():
    results, films = results_with(0), a_set("north", 0)
    assert "no class of the network" not in " ".join(comparison(results))
    spelt = films.manifest.label.replace("COVID-19", "covid")
    films = films._replace(manifest=films.manifest.assign(label=spelt))
    settings = fix_on_validation(evaluate_external(Reader(CORNER), a_set("inside", 0), CLASSES)[1], CLASSES)
    results["north"] = evaluate_external(Reader(CORNER), films, CLASSES, settings)[0]
    said = comparison(results)
    words = "In north 20 films are labelled covid, which is no class of the network (Normal, COVID-19)"
    assert sum(sentence.startswith(words) for sentence in said) == 1 and "specificity 0.50" not in " ".join(said)
    assert "so these may be it, and they count in no number. `label_map` renames labels." in " ".join(said)
    assert results["north"]["specificity"] == 1.0 and results["north"]["uncounted"] == 20


def test_without_a_threshold_the_numbers_are_said_without_it():
    for count in (0, 19):
        with_one = results_with(count)
        without = {name: {k: v for k, v in found.items() if k != "at_threshold"} for name, found in with_one.items()}
        for short, long in zip(number_sentences(without), number_sentences(with_one), strict=True):
            before, after = long.split("; at the threshold of ")
            assert short == before + "; calibration" + after.split("; calibration")[1]


def test_the_tables_hold_what_was_measured():
    results = results_with(5)
    table, lines = side_by_side(results), with_intervals(results)
    assert table.specificity.to_dict() == {"inside": 1.0, "north": 0.75}
    assert table["specificity at threshold"].to_dict() == {"inside": 1.0, "north": 0.75}
    assert lines.loc["specificity, north", ["value", "low", "high"]].tolist() == pytest.approx(
        [0.75, *results["north"]["specificity_interval"]]
    )
    assert lines.chance["AUC, north"] == 0.5 and np.isnan(lines.chance["sensitivity, north"])
    assert (lines.low <= lines.value).all() and (lines.value <= lines.high).all()


def test_a_set_of_healthy_films_alone_has_no_line_for_the_ill():
    films = a_set("north", 3)
    healthy = (films.manifest.label == "Normal").to_numpy()
    films = ExternalSet("north", films.manifest[healthy].reset_index(drop=True), films.pixels[healthy], 0, 0)
    results = results_with(0)
    results["north"], _ = evaluate_external(
        Reader(CORNER),
        films,
        CLASSES,
        fix_on_validation(evaluate_external(Reader(CORNER), a_set("in", 0), CLASSES)[1], CLASSES),
    )
    assert np.isnan(side_by_side(results).sensitivity["north"])
    assert [name for name in with_intervals(results).index if "north" in name] == [
        "specificity, north", "specificity at threshold, north",
    ]  # fmt: skip
    assert not any("north the sensitivity" in sentence for sentence in comparison(results))


def test_the_audit_s_sentences_change_with_the_data(monkeypatch):
    monkeypatch.setattr(audit, "whose_film", lambda *args: [])
    films = noise()
    nothing = shortcut_audit(rows(), films).sentences()
    films[1::2, :8, :8] = 255
    marked = shortcut_audit(rows(), films).sentences()
    assert nothing[-1].startswith("No reader without lungs is shown to tell the class of these 120 images, but ")
    assert re.fullmatch(
        r"Without reading a lung, the class from .* is told in 1.00 of the films: 100% of the way .*", marked[-1]
    )
    assert any(s.startswith("class from the corners: 1.00 (") and s.endswith(": tells the class.") for s in marked)
    assert not any("tells" in sentence for sentence in nothing[:-1])
    numbers = [re.match(r"class from the corners: (\d\.\d\d)", s) for s in nothing]
    assert [found[1] for found in numbers if found] != ["1.00"] and len(nothing) == len(marked)
    assert N == 120


@pytest.mark.parametrize("name", ["06_potential_problem", "07_other_hospitals"])
def test_notebooks_print_nothing_but_what_the_library_says_of_numbers(name):
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells
    calls = [
        call
        for cell in cells
        if cell.cell_type == "code"
        for call in ast.walk(ast.parse(cell.source))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "print"
    ]
    assert calls
    for call in calls:
        said = [node for argument in call.args for node in ast.walk(argument)]
        assert not any(isinstance(node, (ast.JoinedStr, ast.Constant)) for node in said), ast.unparse(call)
        called = {ast.unparse(node.func).split(".")[-1] for node in said if isinstance(node, ast.Call)}
        library = {
            "sentences",
            "trial_sentences",
            "step_sentences",
            "score_sentences",
            "care_sentences",
            "comparison",
            "number_sentences",
            "positive_sentences",
            "summary",
        }
        assert called <= library and called


def test_a_set_says_how_many_films_it_has_and_lacks():
    assert ExternalSet("north", pd.DataFrame({"a": [1, 2]}), None, 3, 4).summary() == (
        "north: 2 films, 4 left out, as the run has them or their patients, 3 unreadable."
    )
    films = pd.DataFrame({"label": ["Normal", "covid", "covid"]})
    assert ExternalSet("north", films, None, 0, 0, 5, 2).summary(CLASSES) == (
        "north: 3 films, 0 left out, as the run has them or their patients, 0 unreadable, 5 left out as copies of others, "
        "2 left out as copies of each other with different labels. "
        "Labels that are no class of the network: covid (2); `label_map` renames labels."
    )


def test_a_set_without_a_number_says_why():
    found = {"n": 9, "sensitivity": None, "specificity": None, "auc": None, "calibration_error": None, "brier": None}
    assert number_sentences({"north": found}) == [
        "north, 9 films: no number, as no label there is a class of the network."
    ]
    told = number_sentences({"north": found | {"accuracy": 0.75, "accuracy_interval": [0.5, 0.9]}})
    assert told == ["north, 9 films: accuracy 0.75 (0.50 to 0.90), on films whose label is a class of the network."]
    assert with_intervals({"north": found}).empty and np.isnan(side_by_side({"north": found}).auc["north"])
