"""Notebook 02 live in Jupyter Lab, as `make notebook` opens it: nothing fails, sliders and menus redraw, bars move."""

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

from covidxr import assemble, save_run, split_manifest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
ROOT = Path(__file__).parents[1]
NAME = "02_augmentation_preview.ipynb"
ANSWERS = """from covidxr.widgets import browse_answers
called = pd.DataFrame({"label": names[0], "predicted": names[:1] * 5 + names[1:2] * (len(pixels) - 5),
                       "confidence": 0.9, "source": "ours"})
browse_answers(pixels, called.assign(correct=called.label == called.predicted))"""
TRAINING = """from covidxr import build_baseline, films_by_split, fit
films = films_by_split(manifest, pixels, names)
fit(build_baseline(32, len(names)), films["train"], films["validation"], len(names), run_dir / "own", epochs=1);"""
CELLS = """window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells"""
ERRORS = CELLS + """.flatMap(cell => cell.outputs || []).filter(output => output.output_type === "error")"""
IMAGE = ".jp-OutputArea-output img"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A notebook folder beside a run of a few films; two cells more in the notebook."""
    folder = tmp_path_factory.mktemp("live")
    made = assemble(per_class=8, image_size=32, work_dir=folder / "runs" / "demo")
    save_run(folder / "runs" / "demo", made._replace(manifest=split_manifest(made.manifest)))
    notebook = nbformat.read(ROOT / "notebooks" / NAME, as_version=4)
    notebook.cells += [new_code_cell(ANSWERS), new_code_cell(TRAINING)]
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
    """Act until the picture changes; on a busy machine a widget may be drawn before it listens."""
    picture = where.locator(IMAGE)
    before = picture.get_attribute("src")
    for _ in range(6):
        act()
        with contextlib.suppress(AssertionError):
            return sync_api.expect(picture).not_to_have_attribute("src", before, timeout=20_000)
    raise AssertionError("the picture stayed as it was")


def test_every_cell_runs(lab):
    assert lab.evaluate(ERRORS) == []
    assert lab.evaluate(f"{CELLS}.filter(cell => cell.cell_type === 'code' && !cell.execution_count)") == []


def test_sliders_and_menu_redraw_the_augmentations(lab):
    where = cell(lab, "browse_augmentations(")
    redraws(where, lambda: where.get_by_role("slider").first.press("ArrowRight"))
    redraws(where, lambda: where.get_by_role("combobox").select_option("rotation"))


def test_a_choice_of_answers_begins_at_its_first_page(lab):
    where = cell(lab, "browse_answers(")
    readout = where.locator(".widget-readout")
    redraws(where, lambda: where.get_by_role("slider").press("ArrowRight"))
    assert int(readout.inner_text()) > 1
    where.get_by_role("combobox").first.select_option("right")
    sync_api.expect(readout).to_have_text("1", timeout=60_000)
    sync_api.expect(where.locator(IMAGE)).to_be_visible(timeout=60_000)
    assert "no such film" not in where.inner_text()


def test_a_training_shows_its_progress(lab):
    where = cell(lab, "build_baseline(")
    sync_api.expect(where.locator(".widget-hprogress")).to_be_visible(timeout=60_000)
    assert "1/1" in where.inner_text()
