"""Small notebooks executed in real kernels: order, parameters, HTML, the record, and how a failure is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from small_notebooks import make_notebooks, write_notebook

from covidxr import run
from covidxr._execute import execute

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of real kernels: its folder, its notebooks and the record that was returned."""
    folder = tmp_path_factory.mktemp("finished")
    notebooks = make_notebooks(folder / "notebooks")
    environment = dict(os.environ)
    record = run.run_profile("tiny", folder / "run", data_dir="films", notebooks=notebooks)
    assert dict(os.environ) == environment
    return SimpleNamespace(run=folder / "run", notebooks=notebooks, record=record)


def test_notebooks_run_in_order_with_their_parameters(finished):
    product, data_dir, python, folder, hash_seed, quiet = (finished.run / "made.txt").read_text().splitlines()
    assert product == "10"  # seed 5 of the section "all", size 2 of the notebook's own
    assert Path(data_dir) == Path("films").absolute()
    assert (python, Path(folder)) == (sys.executable, Path.cwd())
    assert (hash_seed, quiet) == ("0", "3")


def test_html_is_whole_and_needs_no_network(finished):
    html = (finished.run / "notebooks" / "02_use.html").read_text(encoding="utf-8")
    assert "10 10 " in html
    assert not re.search(r"""<(script|link|img)[^>]+(src|href)=["']?https?:""", html)
    assert "<title>02_use</title>" in html


def test_executed_copies_name_no_folders_of_this_machine(finished):
    copy = nbformat.read(finished.run / "notebooks" / "02_use.ipynb", as_version=4)
    assert copy.metadata.papermill.input_path == copy.metadata.papermill.output_path == "02_use.ipynb"
    assert sorted(path.name for path in (finished.run / "notebooks").iterdir()) == [
        "01_make.html", "01_make.ipynb", "02_use.html", "02_use.ipynb",
    ]  # fmt: skip


def test_record_of_the_run(finished):
    record = json.loads((finished.run / "run.json").read_text(encoding="utf-8"))
    assert record == finished.record
    assert record["profile"] == "tiny" and record["seed"] == 5
    assert record["parameters"]["01_make"]["size"] == 2
    assert record["parameters"]["02_use"]["epochs"] == 3  # the notebook's own default
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"covidxr", "tensorflow", "keras", "numpy", "scikit-learn", "imgaug", "keras-vis"} < set(record["versions"])
    assert set(record["machine"]) == {"cores", "memory_gb", "platform"}
    assert record["manifest_sha256"] is None and "git_commit" in record
    assert record["started"] <= record["finished"]
    make, use = record["notebooks"].values()
    assert make["status"] == use["status"] == "done" and make["code"] != use["code"]
    assert use["inputs"] == {"made.txt": make["outputs"]["made.txt"]}
    assert record["total_seconds"] == pytest.approx(make["seconds"] + use["seconds"], abs=0.11)


def test_peak_memory_is_the_kernels(finished):
    make, use = finished.record["notebooks"].values()
    assert use["peak_memory_mb"] - make["peak_memory_mb"] > 120  # the second notebook holds 143 MB for half a second


def test_unchanged_run_starts_nothing_heavy(finished):
    script = f"""import sys
from covidxr.run import run_profile
run_profile("tiny", {str(finished.run)!r}, data_dir="films", notebooks={str(finished.notebooks)!r})
print({{"papermill", "nbconvert", "tensorflow", "pandas"}} & set(sys.modules))"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines() == [
        "01_make … unchanged", "02_use … unchanged", f"open {finished.run / 'index.html'}", "set()",
    ], done.stderr  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("user", "class 'Virus' has 3 films"),
        ("bug", "KeyError: 'no such key'"),
        ("die", "Kernel died; a dead kernel is most often one that ran out of memory"),
    ],
)
def test_failed_notebook_names_the_cell_and_keeps_its_copy(finished, tmp_path, mode, reason):
    outcome = execute(finished.notebooks / "02_use.ipynb", tmp_path / "02_use.ipynb", {"mode": mode})
    assert outcome.error == f"cell In [3]: import os\n{reason}"  # 1 the defaults, 2 what papermill injected
    assert {path.name for path in tmp_path.glob("*.*")} == {"02_use.failed.ipynb"}


@pytest.mark.parametrize(("folder", "channels"), [("s", list("12345")), ("too-long-for-a-socket" * 4, [])])
def test_channels_are_sockets_of_a_folder_that_ends_with_the_kernel(tmp_path, monkeypatch, folder, channels):
    sockets = Path(tempfile.mkdtemp(suffix=folder))  # pytest's own folders are too long themselves
    monkeypatch.setattr("tempfile.tempdir", str(sockets))
    look = (
        "import psutil\nsorted({one.laddr for one in psutil.Process().net_connections('unix') if 'ipc' in one.laddr})"
    )
    write_notebook(tmp_path / "look.ipynb", "run_dir = '.'", look)
    assert execute(tmp_path / "look.ipynb", tmp_path / "out.ipynb", {}).error is None
    shown = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs[0]["data"]["text/plain"]
    assert re.findall(r"s/covidxr-\w+/kernel-ipc-(\d)'", shown) == channels
    sockets.rmdir()  # which is empty again


def test_html_shows_no_bar_that_stands_where_it_began(tmp_path):
    write_notebook(
        tmp_path / "a.ipynb", "n = 3", "from tqdm.auto import tqdm\nfor _ in tqdm(range(n)): pass\nprint('done')"
    )
    assert execute(tmp_path / "a.ipynb", tmp_path / "out" / "a.ipynb", {}).error is None
    html = (tmp_path / "out" / "a.html").read_text(encoding="utf-8")
    assert "done" in html and "0/3" not in html and "0%" not in html.split("<body")[1]
    assert "3/3" in (tmp_path / "out" / "a.ipynb").read_text(encoding="utf-8")  # the notebook keeps its bar
