"""Profiles, parameters and keys; and a user's mistakes, told before anything runs."""

from __future__ import annotations

import re

import pytest
from small_notebooks import make_notebooks, write_notebook

import covidxr._plan
from covidxr import run
from covidxr._plan import choose, plan
from covidxr._profile import parse_yaml
from covidxr.errors import CovidxrError


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
def test_mistakes_are_told_before_anything_runs(notebooks, tmp_path, profile, options, said):
    if profile not in ("tiny", "tyni"):
        path = tmp_path / "typed.yaml"
        path.write_text(profile, encoding="utf-8")
        profile = path
    with pytest.raises(CovidxrError, match=re.escape(said)):
        run.run_profile(profile, tmp_path / "run", notebooks=notebooks, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("number: many", "number takes a number, not 'many'"),
        ("names: phantom", "names takes a list, such as '[a, b]', not 'phantom'"),
        ("renamed: [a]", "renamed takes pairs, such as '{a: b}', not ['a']"),
        ("switch: perhaps", "switch takes true or false, not 'perhaps'"),
    ],
)
def test_a_value_is_of_its_kind(tmp_path, value, said):
    declared = "number = 3\nnames = ['a']\nrenamed = {}\nswitch = False\nfree = None\ntext = 'a'"
    write_notebook(tmp_path / "01_look.ipynb", declared, "1")
    fine = {"number": 0.5, "names": [], "renamed": {"a": 1}, "switch": True, "free": [1], "text": 3}
    assert plan({}, fine, {}, tmp_path)[0].parameters == fine
    assert plan({}, dict.fromkeys(fine), {}, tmp_path)[0].parameters == dict.fromkeys(fine)
    with pytest.raises(CovidxrError, match=re.escape(f"01_look: {said}")):
        plan({}, parse_yaml(value, "-p"), {}, tmp_path)


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
        run.run_profile("tiny", tmp_path / "run", notebooks=notebooks)
    assert not (tmp_path / "run").exists()


def test_command_line_goes_before_section_goes_before_all(notebooks):
    profile = {"all": {"seed": 1, "size": 1}, "01_make": {"size": 2, "data_dir": "a"}}
    make, use = plan(profile, {"seed": 3}, {"run_dir": "/r"}, notebooks)
    assert make.parameters == {"seed": 3, "size": 2, "data_dir": "a", "run_dir": "/r"}
    assert use.parameters == {"run_dir": "/r"}


def test_the_long_notebook_runs_where_the_profile_has_it_or_by_name(notebooks):
    write_notebook(notebooks / "08_what_matters.ipynb", "run_dir = '.'\nfolds = 3", "1")
    without, having = plan({}, {}, {}, notebooks), plan({"08_what_matters": {}}, {}, {}, notebooks)
    assert [step.stem for step in choose(without, None)] == ["01_make", "02_use"]
    assert [step.stem for step in choose(without, "08")] == ["08_what_matters"]
    assert [step.stem for step in choose(having, None)] == ["01_make", "02_use", "08_what_matters"]
    assert [step.key for step in without] == [step.key for step in having]


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
def test_values_are_typed_as_people_mean_them(text, value):
    found = parse_yaml(text, "-p name")
    assert found == value and type(found) is type(value)


def test_the_package_hash_sees_code_but_not_the_pages_template(tmp_path, monkeypatch):
    monkeypatch.setattr(covidxr, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "model.py").write_text("depth = 3")
    before = covidxr._plan._package_hash()
    (tmp_path / "index.html.j2").write_text("<p>")
    assert covidxr._plan._package_hash() == before
    (tmp_path / "model.py").write_text("depth = 4")
    assert covidxr._plan._package_hash() != before
