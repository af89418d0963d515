"""Comparison of runs: one column a run, a dash for missing values, parameters only where they differ."""

from __future__ import annotations

import copy
import json
import re

import pytest
from small_run import METRICS, RUN, damaged, make_run

from covidxr.report.compare import compare_runs
from covidxr.run.cli import main
from covidxr.utils import CovidxrError, write_json


@pytest.fixture
def two(tmp_path):
    """Two runs of which the second has another accuracy, another seed and nothing external."""
    other, facts = copy.deepcopy(METRICS), copy.deepcopy(RUN)
    other["test"]["accuracy"] = {"value": 0.5}
    del other["external"]
    facts["parameters"] = {"01_data": {"seed": 8, "note": "<script>alert(1)</script>"}}
    return [make_run(tmp_path / "a"), make_run(tmp_path / "b & c", other, facts)]


def row(table, name):
    line = next(line for line in table.splitlines() if line.strip().startswith(name))
    return re.split(r"\s{2,}", line.strip())[1:]


def test_a_row_a_measure_a_column_a_run(two):
    _, table = compare_runs(two)
    assert re.split(r"\s{2,}", table.splitlines()[0].strip()) == ["a", "b & c"]
    assert row(table, "accuracy") == ["0.95 (95 % CI 0.91–0.98), chance 0.53", "0.50, chance 0.53"]
    assert row(table, "Specificity, darkcovidnet") == ["0.01 (95 % CI 0.00–0.03)", "–"]
    assert row(table, "Specificity, darkcovidnet, another selection") == ["0.40 (95 % CI 0.33–0.46)"] * 2
    assert row(table, "Specificity, darkcovidnet, change") == ["+0.40 (95 % CI +0.31 to +0.45)"] * 2
    assert row(table, "side marker, found by the audit") == ["yes", "yes"]
    assert row(table, "side marker, predictions that change") == ["0.31 (95 % CI 0.20–0.44)"] * 2
    assert row(table, "class from the outer frame") == ["0.89 (95 % CI 0.84–0.93), chance 0.33"] * 2
    assert row(table, "The same, untrained network") == ["0.36 (95 % CI 0.35–0.38), chance 0.37"] * 2


def test_of_the_parameters_only_those_that_differ(two):
    _, table = compare_runs(two)
    assert row(table, "01 seed") == ["7", "8"] and "01 note" not in table
    _, alike = compare_runs([two[0], two[0]])
    assert "Parameters that differ" not in alike


def test_the_page_shows_the_same_and_the_figures_of_both(two):
    page, table = compare_runs(two)
    html = page.read_text(encoding="utf-8")
    assert page == two[0].parent / "compare.html"
    assert html.count("0.95 (95 % CI 0.91–0.98)") == 1 and "chance 0.53" in html
    sources = re.findall(r'<img src="([^"]+)"', html)
    assert sources == [
        f"{run}/figures/{name}.png" for name in ("04_confusion", "06_audit") for run in ("a", "b%20%26%20c")
    ]
    assert 'href="b%20%26%20c/index.html"' in html
    assert "<script" not in html and "http" not in html


def test_runs_of_one_name_are_distinguished(tmp_path):
    make_run(tmp_path / "x" / "demo")
    make_run(tmp_path / "y" / "demo")
    _, table = compare_runs([tmp_path / "x" / "demo", tmp_path / "y" / "demo"])
    assert table.split()[:2] == ["x/demo", "y/demo"]


def test_mistakes(two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "short")
    with pytest.raises(CovidxrError, match="nowhere is no run folder.*in runs/ there are: short"):
        compare_runs([two[0], "nowhere"])
    with pytest.raises(CovidxrError, match="two or more runs, found 1"):
        compare_runs(["short"])


def test_from_the_command_line(two, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "a", "b & c"]) == 0
    message = capsys.readouterr().out
    assert "accuracy" in message and message.endswith(f"open {tmp_path / 'compare.html'}\n")
    assert main(["compare", "a", "nowhere"]) == 2
    for words in ([], ["compare"], ["run", "demo", "--compare", "a", "b"]):
        with pytest.raises(SystemExit, match="2"):
            main(words)


@pytest.mark.parametrize("record", ["metrics", "run"])
@pytest.mark.parametrize("value", [None, [1, 2], {"a": {"b": []}}, "<script>", float("inf"), True], ids=repr)
def test_records_of_any_content_are_compared(two, record, value):
    whole = {"metrics": METRICS, "run": RUN}[record]
    for where, changed in damaged(whole, value):
        (two[0] / f"{record}.json").write_text(json.dumps(changed))
        page, table = compare_runs(two)
        assert "<script" not in page.read_text(encoding="utf-8") and table, where
    write_json(two[0] / "run.json", RUN)
    write_json(two[0] / "metrics.json", {"version": 2, "audit": [1]})
    assert row(compare_runs(two)[1], "not usable") == ["metrics.json › audit is [1], not a table of names", "–"]


def test_results_of_an_older_version_are_one_sentence(two):
    write_json(two[0] / "metrics.json", {"test": {"accuracy": 0.9, "accuracy_interval": [0.8, 1.0]}})
    _, table = compare_runs(two)
    assert row(table, "not usable")[0].startswith("metrics.json was written by another version of covidxr")
    assert row(table, "accuracy") == ["–", "0.50, chance 0.53"]


def test_synthetic_images_and_unfinished_runs_say_so(two):
    (two[0] / "manifest.csv").write_text("source\nphantom\n", encoding="utf-8")
    (two[1] / "manifest.csv").write_text("source\nours\n", encoding="utf-8")
    write_json(two[0] / "metrics.json", METRICS | {"external": {"phantom": METRICS["external"]["figure1"]}})
    write_json(
        two[1] / "run.json", RUN | {"notebooks": {"01_data": {"status": "done"}, "04_look": {"status": "failed"}}}
    )
    page, table = compare_runs(two)
    assert row(table, "images") == ["synthetic images", "radiographs"]
    assert row(table, "Sensitivity, phantom (synthetic images)")[0] == "0.97 (95 % CI 0.85–0.99)"
    assert row(table, "state") == ["–", "not finished: 04_look failed"]
    html = page.read_text(encoding="utf-8")
    assert "a: All images of this run are synthetic: drawn by a program" in html and "c: All images" not in html
    assert "hospital" not in page.read_text(encoding="utf-8")
