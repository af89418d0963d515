"""What counts as a change of a notebook's code, on a package of a few modules; and that the real one is taken whole."""

from __future__ import annotations

import nbformat
import pytest

from covidxr import fingerprint
from covidxr.data.manifest import is_phantom
from covidxr.fingerprint import (
    PRESENTATION,
    ROOT,
    _module,
    _parsed,
    _sources,
    code_of,
    comparable,
    inputs_of,
    modules_of,
)
from covidxr.run.plan import read_notebooks

MODULES = {
    "__init__": "",
    "model": '"""A network."""\nfrom covidxr.parts.layers import depth\n\ndef build(n):\n    """Build it."""\n    return depth + n\n',
    "parts/__init__": "first = 1\n",
    "parts/layers": "from pathlib import Path\n\ndepth = 3\nTABLE = Path('known.csv')\nWEIGHTS = Path('known.npz')\n",
    "parts/other": "unused = 1\n",
    "late": "def call():\n    from . import lazy\n    return lazy.value\n",
    "lazy": "value = 1\n",
    "plots": "from covidxr import colours\n\ndef draw():\n    return 1\n",
    "colours": "red = 1\n",
    "starts": "COMMAND = ['-m', 'covidxr.worker']\n",
    "worker": "value = 1\n",
}
CELLS = [
    "from covidxr import plots, starts\nfrom covidxr.model.networks import build",
    "from covidxr.late import call\nbuild(2);",
    "%matplotlib inline",
]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that stands in for this one; returns a function that rewrites one of its files."""
    root = tmp_path / "covidxr"
    monkeypatch.setattr(fingerprint, "ROOT", root)
    _module.cache_clear()

    def write(name, text):
        path = root / (name if "." in name else f"{name}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        _module.cache_clear()

    for name, text in MODULES.items():
        write(name, text)
    write("parts/known.csv", "a,b\n")
    write("parts/known.npz", "weights")
    yield write
    _module.cache_clear()


def test_all_that_is_imported_counts_wherever_the_import_stands(package):
    names = ["covidxr.plots", "covidxr.starts", "covidxr.model.networks.build", "covidxr.late.call"]
    wanted = ["late", "lazy", "model", "parts", "parts.layers", "starts", "worker"]
    assert sorted(_sources(names)) == [f"covidxr.{name}" for name in wanted]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model", MODULES["model"].replace("depth + n", "depth - n")),
        ("parts/__init__", "first = 2\n"),
        ("parts/layers", MODULES["parts/layers"].replace("3", "4")),
        ("parts/known.csv", "a,c\n"),
        ("parts/known.npz", "other weights"),
        ("lazy", "value = 2\n"),
        ("worker", "value = 2\n"),
    ],
)
def test_a_changed_computation_counts(package, name, text):
    before = code_of(CELLS)
    package(name, text)
    assert code_of(CELLS) != before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model", MODULES["model"].replace("Build it", "Make it").replace("A network", "The network")),
        ("model", MODULES["model"].replace("return depth + n", "return (depth\n            + n)  # the sum")),
        ("parts/other", "unused = 2\n"),
        ("plots", "def draw():\n    return 2\n"),
        ("colours", "red = 2\n"),
        ("page.html.j2", "<p>"),
        ("parts/unnamed.csv", "c\n"),
    ],
)
def test_what_changes_no_result_does_not_count(package, name, text):
    before = code_of(CELLS)
    package(name, text)
    assert code_of(CELLS) == before


def test_cells_count_without_comments_and_with_magic_commands(package):
    before = code_of(CELLS)
    assert code_of([CELLS[0], CELLS[1] + "  # now", CELLS[2]]) == before
    assert code_of([CELLS[0], CELLS[1].replace("2", "3"), CELLS[2]]) != before
    assert code_of([*CELLS[:2], "%matplotlib widget"]) != before


def test_a_module_that_moves_into_a_package_of_plots_still_only_presents(package):
    before = code_of(["from covidxr.plots.audit import draw"])
    package("plots/audit", "def draw():\n    return 3\n")
    assert code_of(["from covidxr.plots.audit import draw"]) == before


def test_a_name_that_the_package_hands_out_leads_to_its_module():
    assert "covidxr.gradcam.cam" in _sources(["covidxr.GradCAM"])
    assert modules_of("covidxr.GradCAM") == modules_of("covidxr.gradcam.cam")


def test_modules_that_only_present_exist():
    names = {path.stem for path in ROOT.rglob("*.py")} | {path.name for path in ROOT.rglob("*/")}
    assert names >= PRESENTATION


def test_each_notebook_counts_what_it_computes_with_and_nothing_that_draws():
    for step in read_notebooks():
        imported = set().union(*(_parsed(cell, "")[1] for cell in step.cells))
        found = _sources(imported)
        assert "covidxr.data.dataset" in found and not any(PRESENTATION & set(name.split(".")) for name in found)
        assert len(step.cells) == sum(cell.cell_type == "code" for cell in nbformat.read(step.path, 4).cells) - 1


def test_lists_of_sources_are_known_as_such():
    declared = [pair for step in read_notebooks() for pair in step.declared.items()]
    lists = {name for name, value in declared if isinstance(value, list) and any(map(is_phantom, value))}
    assert {"sources", "external"} <= lists <= set(fingerprint.SOURCE_LISTS)


def test_sources_that_are_restricted_to_classes_count_by_source_and_classes(tmp_path):
    own = str(tmp_path / "ours.csv")
    sources = ["figure1", {"phantom-city": ["COVID-19"]}, {own: ["Normal"]}]
    assert comparable({"sources": sources}) == {
        "sources": ["figure1", {"phantom-city": ["COVID-19"]}, {"a path": ["Normal"]}]
    }
    assert set(inputs_of({"sources": sources}, {})) == {"sources: figure1", "sources: ours.csv"}


@pytest.mark.parametrize(
    ("source", "drawn"),
    [
        ("phantom", True), ("phantom-north", True), ("phantom, seed 1", True), ("phantom-north, held out", True),
        ("phantoms", False), ("figure1", False), ("phantom-mine/table.csv", False), ("phantom-mine.csv", False),
    ],
)  # fmt: skip
def test_drawn_sources_are_known_by_name_and_count_by_it(source, drawn):
    assert is_phantom(source) == drawn
    shown = source if drawn or source == "figure1" else "a path"
    assert comparable({"sources": [source, "figure1"]}) == {"sources": [shown, "figure1"]}
