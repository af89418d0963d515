"""Two notebooks of two or three cells, without TensorFlow, and a profile: what the tests of the runner run."""

from __future__ import annotations

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

MAKE = """import os, sys
from pathlib import Path
facts = [sys.executable, os.getcwd(), os.environ["PYTHONHASHSEED"], os.environ["TF_CPP_MIN_LOG_LEVEL"]]
Path(run_dir, "made.txt").write_text("\\n".join([str(seed * size), data_dir, *facts]))"""
USE = """import os
from covidxr.errors import CovidxrError
if mode == "user": raise CovidxrError("class 'Virus' has 3 films")
if mode == "bug": {}["no such key"]
if mode == "die": os._exit(9)
ballast = bytearray(os.urandom(1)) * 150_000_000
import time; time.sleep(0.5)
print((open(os.path.join(run_dir, "made.txt")).readline().strip() + " ") * 2)"""


def write_notebook(path, parameters, code, tags=("parameters",)):
    cells = [
        new_markdown_cell("# A title"),
        new_code_cell(parameters, metadata={"tags": list(tags)}),
        new_code_cell(code),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)


def make_notebooks(folder):
    """Two notebooks, of which the second reads what the first wrote, and a profile."""
    write_notebook(folder / "02_use.ipynb", "run_dir = '.'\nmode: str = 'fine'\nepochs = 3", USE)
    write_notebook(
        folder / "01_make.ipynb", "run_dir, x = '.', 1\nrun_dir = '.'\nsize = 3\nseed = 0\ndata_dir = ''", MAKE
    )
    write_notebook(folder / "scratch.ipynb", "nothing = 1", "1 / 0")
    (folder / "profiles").mkdir()
    (folder / "profiles" / "tiny.yaml").write_text("all:\n  seed: 5\n01_make:\n  size: 2\n", encoding="utf-8")
    return folder
