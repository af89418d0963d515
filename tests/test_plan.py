"""Profiles and parameters; and a user's mistakes, reported before anything runs."""

from __future__ import annotations

import re

import pytest
from small_notebooks import make_notebooks, write_notebook

from covidxr.run.plan import plan, read_notebooks, select
from covidxr.run.profile import parse_yaml
from covidxr.run.runner import run_profile
from covidxr.utils import CovidxrError


@pytest.fixture
def notebooks(tmp_path):
    return make_notebooks(tmp_path / "notebooks")


@pytest.mark.parametrize(
    ("profile", "options", "said"),
    [
        ("tyni", {}, "unknown profile 'tyni'; available: tiny, the path of a YAML file"),
        (
            "tiny",
            {"parameters": {"epoch": 2}},
            "unknown parameter 'epoch'; did you mean epochs? declared: data_dir, epochs",
        ),
        ("tiny", {"parameters": {"run_dir": "x"}}, "give the run folder with --run-dir"),
        ("tiny", {"only": "03"}, "unknown notebook '03'; available: 01_make, 02_use"),
        ("tiny", {"only": "0"}, "more than one fits"),
        (
            "01_make:\n  epochs: 2",
            {},
            "section 01_make: unknown parameter 'epochs'; declared: data_dir, run_dir, seed, size",
        ),
        ("all:\n  sede: 2", {}, "section all: unknown parameter 'sede'; did you mean seed"),
        ("03_look:\n  seed: 2", {}, "unknown section in the profile: '03_look'; available: all, 01_make, 02_use"),
        ("01_make: 3", {}, "section 01_make must hold 'parameter: value' lines, found 3"),
        ("[1, 2]", {}, "expected one section a notebook, found list"),
        ("a: [", {}, "is not valid YAML"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(notebooks, tmp_path, profile, options, said):
    if profile not in ("tiny", "tyni"):
        path = tmp_path / "typed.yaml"
        path.write_text(profile, encoding="utf-8")
        profile = path
    with pytest.raises(CovidxrError, match=re.escape(said)):
        run_profile(profile, tmp_path / "run", notebooks=notebooks, **options)
    assert not (tmp_path / "run").exists()


DECLARED = """number = 0.3
count = 3
names = ['a']
renamed = {}
switch = False
text = 'a'
free = None
epochs: int | None = None
rate: float | None = None
boxes: str | None = None
sizes: list[int] = []
cells: dict[str, dict] | None = None
classes: list[str] | None = None
test_share = 0.3
per_class: int | None = 160
n_shown = 3
folds = 3"""


@pytest.fixture
def look(tmp_path):
    """Plan a notebook of one parameter of each kind, and return its parameters."""
    write_notebook(tmp_path / "01_look.ipynb", DECLARED, "1")
    return lambda typed: plan({}, typed, {}, tmp_path)[0].parameters


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("number: many", "number takes a number, not 'many'"),
        ("number: null", "number takes a number, not null"),
        ("number: true", "number takes a number, not True"),
        ("count: 2.5", "count takes a whole number, not 2.5"),
        ("names: phantom", "names takes a list, such as '[a, b]', each a text, not 'phantom'"),
        ("names: [1]", "names takes a list, such as '[a, b]', each a text, not [1]"),
        ("renamed: [a]", "renamed takes pairs, such as '{a: b}', not ['a']"),
        ("switch: perhaps", "switch takes true or false, not 'perhaps'"),
        ("text: no", "text takes a text, not False"),
        ("epochs: many", "epochs takes a whole number or null, not 'many'"),
        ("epochs: 1.5", "epochs takes a whole number or null, not 1.5"),
        ("epochs: [3]", "epochs takes a whole number or null, not [3]"),
        ("rate: fast", "rate takes a number or null, not 'fast'"),
        ("boxes: 3", "boxes takes a text or null, not 3"),
        ("sizes: [64, big]", "sizes takes a list, such as '[a, b]', each a whole number, not [64, 'big']"),
        ("cells: {a: 3}", "cells takes pairs, such as '{a: b}', each pairs, such as '{a: b}' or null, not {'a': 3}"),
        ("classes: Normal", "classes takes a list, such as '[a, b]', each a text or null, not 'Normal'"),
        ("classes: []", "classes is empty; name at least one"),
        ("count: -1", "count is -1; give 0 or more"),
        ("number: .nan", "number is nan; give 0 or more"),
        ("rate: .inf", "rate is inf; give 0 or more"),
        ("sizes: [64, -64]", "sizes is -64; give 0 or more"),
        ("cells: {a: {epochs: -2}}", "epochs is -2; give 0 or more"),
        ("test_share: 1.5", "test_share is 1.5; give a number from 0 to 1"),
        ("test_share: -0.1", "test_share is -0.1; give a number from 0 to 1"),
        ("per_class: 0", "per_class is 0; give 1 or more"),
        ("n_shown: 0", "n_shown is 0; give 1 or more"),
        ("folds: 1", "folds is 1; give 2 or more"),
    ],
)
def test_values_outside_their_type_or_range_are_refused(look, value, said):
    with pytest.raises(CovidxrError, match=re.escape(f"01_look: {said}")):
        look(parse_yaml(value, "-p"))


@pytest.mark.parametrize(
    "fine",
    [
        {"number": 1, "names": [], "renamed": {"a": 1}, "switch": True, "free": [1], "text": "3"},
        {"epochs": None, "rate": None, "boxes": None, "cells": None, "classes": None, "per_class": None},
        {"epochs": 3, "rate": 1, "boxes": "a.json", "sizes": [64], "cells": {"a": {"epochs": 0}}, "classes": ["a"]},
        {"test_share": 0, "per_class": 1, "n_shown": 1, "folds": 2, "count": 0},
    ],
)
def test_values_of_their_type_are_accepted_unchanged(look, fine):
    assert look(fine) == fine


def test_a_whole_number_may_be_written_as_1e3(look):
    found = look({"count": 1e3, "epochs": 2.0, "sizes": [64.0], "rate": 2.0})
    assert found == {"count": 1000, "epochs": 2, "sizes": [64], "rate": 2.0}
    assert [type(value) for value in found.values()] == [int, int, float, list] and type(found["sizes"][0]) is int


def test_every_parameter_of_the_notebooks_has_a_kind():
    steps = read_notebooks()
    assert all(step.kinds[name] is not None for step in steps for name in step.declared)
    given = {step.stem: {name: value for name, value in step.declared.items() if name != "run_dir"} for step in steps}
    plan(given, {}, {})  # and its default is of it


@pytest.mark.parametrize(
    ("parameters", "tags", "said"),
    [
        ("a = 1", (), "02_use.ipynb: exactly one cell must be tagged 'parameters', found 0"),
        ("a = = 1", ("parameters",), "02_use.ipynb: line 1 of the parameters cell is not Python"),
    ],
)
def test_notebooks_without_readable_parameters(notebooks, tmp_path, parameters, tags, said):
    write_notebook(notebooks / "02_use.ipynb", parameters, "1", tags)
    with pytest.raises(CovidxrError, match=re.escape(said)):
        run_profile("tiny", tmp_path / "run", notebooks=notebooks)
    assert not (tmp_path / "run").exists()


def test_command_line_overrides_section_overrides_all(notebooks):
    profile = {"all": {"seed": 1, "size": 1}, "01_make": {"size": 2, "data_dir": "a"}}
    make, use = plan(profile, {"seed": 3}, {"run_dir": "/r"}, notebooks)
    assert make.parameters == {"seed": 3, "size": 2, "data_dir": "a", "run_dir": "/r"}
    assert use.parameters == {"run_dir": "/r"}


def test_optional_notebook_runs_if_the_profile_has_it_or_by_name(notebooks):
    write_notebook(notebooks / "08_ablation_study.ipynb", "run_dir = '.'\nfolds = 3", "1")
    without, having = plan({}, {}, {}, notebooks), plan({"08_ablation_study": {}}, {}, {}, notebooks)
    assert [step.stem for step in select(without, None)] == ["01_make", "02_use"]
    assert [step.stem for step in select(without, "08")] == ["08_ablation_study"]
    assert [step.stem for step in select(having, None)] == ["01_make", "02_use", "08_ablation_study"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5e2", -50.0),
        ("null", None),
        ("[a, b]", ["a", "b"]),
        ("e3", "e3"),
        ("", None),
    ],
)
def test_values_are_parsed_as_intended(text, value):
    found = parse_yaml(text, "-p name")
    assert found == value and type(found) is type(value)
