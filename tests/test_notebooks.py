"""The rules of the notebooks: stripped, linear, one cell of parameters, and profiles that name notebooks that exist."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def names(tree, context):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}


def bound(tree):
    """Names that a cell defines, at whatever depth."""
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda))]
    arguments = {argument.arg for function in functions for argument in function.args.args}
    caught = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    return (
        names(tree, ast.Store)
        | caught
        | imported
        | arguments
        | {f.name for f in functions if isinstance(f, ast.FunctionDef)}
    )


def test_notebooks_are_numbered_in_order():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08"]


@by_name
def test_outputs_are_stripped(path):
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))


@by_name
def test_opens_with_title_question_and_what_it_reads(path):
    first = nbformat.read(path, 4).cells[0].source
    assert first.startswith("# ") and "?**" in first and "Reads" in first and "rites" in first


@by_name
def test_one_cell_of_plain_parameters(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert all(isinstance(ast.literal_eval(line.value), object) for line in ast.parse(tagged[0].source).body)


@by_name
def test_runs_from_top_to_bottom(path):
    known = set(dir(__builtins__)) | set(__builtins__ if isinstance(__builtins__, dict) else ())
    for cell in code_cells(path):
        tree = ast.parse(cell.source)
        known |= bound(tree)
        assert names(tree, ast.Load) <= known, cell.source


@by_name
def test_prose_holds_no_results(path):
    """A number in the text must be a setting or the article's; what a run found is printed by a cell."""
    prose = " ".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    assert " %" not in prose.replace("95 %", "")
    assert all(word.strip(".,;:()*`") in {"0.9", "0.97", "0.5"} for word in prose.split() if word.startswith("0."))


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_profiles_name_notebooks_that_exist(path):
    profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(profile) - {"all"} <= {notebook.stem for notebook in NOTEBOOKS}


@by_name
def test_no_cell_prints_all_of_metrics_json(path):
    for cell in code_cells(path):
        last = ast.parse(cell.source).body[-1]
        if isinstance(last, ast.Expr) and "record_metrics" in ast.unparse(last):
            assert cell.source.rstrip().endswith(";"), cell.source


@by_name
def test_no_image_is_shown_twice(path):
    assert all("replace=True" not in cell.source for cell in code_cells(path))


def test_the_readme_links_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f"notebooks/{path.name}" not in text] == []
