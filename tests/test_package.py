"""The package as one meets it in a notebook: imported at once, its names completed, its reference whole."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import covidxr

ROOT = Path(__file__).parents[1]
NAMES = [name for name in dir(covidxr) if not name.startswith("_")]


def modules():
    """Every public module, sub-packages included."""
    found = [module.name for module in pkgutil.walk_packages(covidxr.__path__, "covidxr.")]
    return ["covidxr", *(name for name in found if "._" not in name)]


def test_import_takes_a_fifth_of_a_second_at_most():
    script = "import time; start = time.process_time(); import covidxr; print(time.process_time() - start)"
    taken = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout) for _ in range(3)
    ]
    assert min(taken) < 0.1  # half of what is promised, of processor time, since machines differ


def test_names_complete_before_anything_is_imported():
    script = "import sys, covidxr; print(*dir(covidxr)); print({'tensorflow', 'numpy'} & set(sys.modules))"
    said, heavy = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.splitlines()
    assert {"build_dataset", "GradCAM", "shortcut_audit", "data", "training", "fit"} <= set(said.split())
    assert heavy == "set()"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_documented(name):
    assert getattr(covidxr, name).__doc__


def test_a_name_that_does_not_exist_lists_those_that_do():
    with pytest.raises(AttributeError, match="'gradcma'; it has AugmentedBatches.*gradcam"):
        covidxr.gradcma  # noqa: B018


def test_the_reference_covers_every_public_module(tmp_path):
    command = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ndocs:")[1].split("pdoc ")[1].splitlines()[0]
    words = command.replace("build/docs", str(tmp_path)).replace("'", "").replace("$$", "$").split()
    done = subprocess.run([sys.executable, "-m", "pdoc", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    pages = {
        path.relative_to(tmp_path).with_suffix("").as_posix().replace("/", ".") for path in tmp_path.rglob("*.html")
    }
    assert {"covidxr", *(f"covidxr.{door}" for door in ("data", "augmentation", "model", "gradcam"))} <= pages
    page = (tmp_path / "covidxr" / "gradcam.html").read_text(encoding="utf-8")
    assert "GradCAM" in page and "Parameters" in page and "Examples" in page
