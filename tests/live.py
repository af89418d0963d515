"""Notebook 02 live in Jupyter Lab, as `make notebook` opens it: every cell runs, sliders and menus redraw, bars move."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from covidxr.data.dataset import build_dataset, save_dataset
from covidxr.data.splits import split_manifest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
ROOT = Path(__file__).parents[1]
NAME = "02_augmentation_preview.ipynb"
PREDICTIONS = """from covidxr.widgets import browse_predictions
predictions = pd.DataFrame({"label": classes[0], "predicted": classes[:1] * 5 + classes[1:2] * (len(all_images) - 5),
                            "confidence": 0.9, "source": "phantom"})
browse_predictions(all_images, predictions.assign(correct=predictions.label == predictions.predicted))"""
TRAINING = """from covidxr.model import build_baseline
from covidxr.training import TrainingConfig, fit
from covidxr.data import load_dataset
fit(build_baseline(32, len(classes)), load_dataset(run_dir), TrainingConfig(epochs=1), run_dir / "own");"""
CELLS = """window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells"""
ERRORS = CELLS + """.flatMap(cell => cell.outputs || []).filter(output => output.output_type === "error")"""
IMAGE = ".jp-OutputArea-output img"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A notebook folder beside a run of a few images; two cells more in the notebook."""
    folder = tmp_path_factory.mktemp("live")
    made = build_dataset(per_class=8, image_size=32, work_dir=folder / "runs" / "demo")
    save_dataset(folder / "runs" / "demo", made._replace(manifest=split_manifest(made.manifest)))
    notebook = nbformat.read(ROOT / "notebooks" / NAME, as_version=4)
    notebook.cells += [new_code_cell(PREDICTIONS), new_code_cell(TRAINING)]
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / NAME)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """A Jupyter Lab that writes nothing outside the folder, on a port of its own choice."""
    places = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    places |= {f"JUPYTERLAB_{name}_DIR": str(folder / name) for name in ("SETTINGS", "WORKSPACES")}
    places |= {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT)}
    options = ["--no-browser", "--allow-root", "--port=0", "--expose-app-in-browser", "--log-level=ERROR"]
    command = [sys.executable, "-m", "jupyterlab", "notebooks", *options]
    server = subprocess.Popen(command, cwd=folder, env=os.environ | places)
    try:
        while not (found := list(folder.glob("RUNTIME/jpserver-*.json"))):
            assert server.poll() is None
            time.sleep(0.2)
        about = json.loads(found[0].read_text(encoding="utf-8"))
        yield f"{about['url']}lab/tree/{NAME}?token={about['token']}"
    finally:
        server.terminate()  # it ends its kernels too
        server.wait(30)


@pytest.fixture(scope="module")
def lab(address):
    """The notebook's page after all its cells were run."""
    with sync_api.sync_playwright() as engine:
        page = engine.chromium.launch(executable_path=CHROMIUM).new_page(viewport={"width": 1280, "height": 2000})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        yield page
        page.context.browser.close()


def cell(lab, source):
    """The cell whose code holds these words, scrolled into view."""
    number = lab.evaluate(f"words => {CELLS}.findIndex(cell => cell.source.includes(words))", source)
    lab.evaluate("i => window.jupyterapp.shell.currentWidget.content.scrollToItem(i, 'start')", number)
    return lab.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{number}']")


def redraws(where, act):
    """Act until the figure changes; on a busy machine a widget may be drawn before it reacts."""
    figure = where.locator(IMAGE)
    before = figure.get_attribute("src")
    for _ in range(6):
        act()
        with contextlib.suppress(AssertionError):
            return sync_api.expect(figure).not_to_have_attribute("src", before, timeout=20_000)
    raise AssertionError("the figure did not change")


def test_every_cell_runs(lab):
    assert lab.evaluate(ERRORS) == []
    assert lab.evaluate(f"{CELLS}.filter(cell => cell.cell_type === 'code' && !cell.execution_count)") == []


def test_sliders_and_menu_redraw_the_augmentations(lab):
    where = cell(lab, "browse_augmentations(")
    redraws(where, lambda: where.get_by_role("slider").first.press("ArrowRight"))
    redraws(where, lambda: where.get_by_role("combobox").select_option("rotation"))


def test_a_choice_of_predictions_begins_at_its_first_page(lab):
    where = cell(lab, "browse_predictions(")
    readout = where.locator(".widget-readout")
    redraws(where, lambda: where.get_by_role("slider").press("ArrowRight"))
    assert int(readout.inner_text()) > 1
    where.get_by_role("combobox").first.select_option("correct")
    sync_api.expect(readout).to_have_text("1", timeout=60_000)
    sync_api.expect(where.locator(IMAGE)).to_be_visible(timeout=60_000)
    assert "no such image" not in where.inner_text()


def test_a_training_shows_its_progress(lab):
    where = cell(lab, "build_baseline(")
    sync_api.expect(where.locator(".widget-hprogress")).to_be_visible(timeout=60_000)
    assert "1/1" in where.inner_text()
