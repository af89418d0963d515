"""Small notebooks executed in real kernels: order, parameters, HTML, the record, and how a failure is reported."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from small_notebooks import make_notebooks, write_notebook

from covidxr.run.execute import execute
from covidxr.run.lock import locked
from covidxr.run.runner import run_profile

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of real kernels: its folder, its notebooks and the record that was returned."""
    folder = tmp_path_factory.mktemp("finished")
    notebooks = make_notebooks(folder / "notebooks")
    environment = dict(os.environ)
    record = run_profile("tiny", folder / "run", data_dir="images", notebooks=notebooks)
    assert dict(os.environ) == environment
    return SimpleNamespace(run=folder / "run", notebooks=notebooks, record=record)


def test_notebooks_run_in_order_with_their_parameters(finished):
    product, data_dir, python, folder, hash_seed, quiet = (finished.run / "made.txt").read_text().splitlines()
    assert product == "10"  # seed 5 of the section "all", size 2 of the notebook's own
    assert Path(data_dir) == Path("images").absolute()
    assert (python, Path(folder)) == (sys.executable, Path.cwd())
    assert (hash_seed, quiet) == ("0", "3")


def test_html_is_complete_and_needs_no_network(finished):
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


def test_peak_memory_is_that_of_the_kernel(finished):
    make, use = finished.record["notebooks"].values()
    assert use["peak_memory_mb"] - make["peak_memory_mb"] > 120  # the second notebook holds 143 MB for a second


def test_unchanged_run_starts_nothing_heavy(finished):
    script = f"""import sys
from covidxr.run.runner import run_profile
run_profile("tiny", {str(finished.run)!r}, data_dir="images", notebooks={str(finished.notebooks)!r})
print({{"papermill", "nbconvert", "tensorflow"}} & set(sys.modules))"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines() == [
        "01_make … unchanged", "02_use … unchanged", f"open {finished.run / 'index.html'}", "set()",
    ], done.stderr  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("user", "class 'Virus' has 3 images"),
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


def test_optional_sections_without_output_are_left_out(tmp_path):
    cells = []
    for section, code in {"spoken": "print('found')", "silent": "found = []", "": "x = 1"}.items():
        cells += [nbformat.v4.new_markdown_cell(f"## About {section or 'all'}"), nbformat.v4.new_code_cell(code)]
        for cell in cells[-2:] if section else ():
            cell.metadata.tags = [f"optional:{section}"]
    notebook = tmp_path / "01_sections.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
    assert execute(notebook, tmp_path / "out" / "01_sections.ipynb", {}).error is None
    sources = [cell.source for cell in nbformat.read(tmp_path / "out" / "01_sections.ipynb", as_version=4).cells]
    assert [source for source in sources if source.startswith("##")] == ["## About spoken", "## About all"]
    assert "x = 1" in sources
    assert "found = []" not in sources


def test_what_the_notebook_is_doing_is_reported(tmp_path):
    work = """from tqdm.auto import tqdm
import time
print("first line\\nsecond line")
time.sleep(0.7)
for _ in tqdm(range(2), unit="epoch"): time.sleep(0.7)"""
    write_notebook(tmp_path / "a.ipynb", "n = 3", work)
    ticks = []
    done = execute(tmp_path / "a.ipynb", tmp_path / "out.ipynb", {}, lambda *tick: ticks.append(tick))
    seconds, doing = zip(*ticks, strict=True)
    assert done.error is None and list(seconds) == sorted(seconds) and seconds[-1] <= done.seconds + 0.3
    assert {"A title", "A title: second line"} < set(doing)
    assert any(re.fullmatch(r"A title: 1/2 \[00:00<00:00, .*epoch.*\]", text) for text in doing)


def test_html_shows_no_progress_bar_at_zero(tmp_path):
    write_notebook(
        tmp_path / "a.ipynb", "n = 3", "from tqdm.auto import tqdm\nfor _ in tqdm(range(n)): pass\nprint('done')"
    )
    assert execute(tmp_path / "a.ipynb", tmp_path / "out" / "a.ipynb", {}).error is None
    html = (tmp_path / "out" / "a.html").read_text(encoding="utf-8")
    assert "done" in html and "0/3" not in html and "0%" not in html.split("<body")[1]
    assert "3/3" in (tmp_path / "out" / "a.ipynb").read_text(encoding="utf-8")  # the notebook keeps its bar


BUSY = """import pathlib, subprocess, sys, tempfile, time
from covidxr.utils import atomic_path
kept = tempfile.TemporaryDirectory(), subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with atomic_path(pathlib.Path(run_dir, "half.npz")) as temporary:
    temporary.write_bytes(b"half")
    pathlib.Path(run_dir, "started").write_text(str(kept[1].pid))
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass"""


@pytest.fixture
def start(tmp_path):
    """Start a run whose second notebook never ends and cannot be interrupted; wait until it is there."""
    notebooks = make_notebooks(tmp_path / "notebooks")
    write_notebook(notebooks / "02_use.ipynb", "run_dir = '.'", BUSY, reads=["made.txt"])
    script = f"""import functools, pathlib, sys
from covidxr.run import cli, runner
runner.run_profile = functools.partial(runner.run_profile, notebooks=pathlib.Path({str(notebooks)!r}))
sys.exit(cli.main(["run", "tiny", "--run-dir", {str(tmp_path / "run")!r}]))"""
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}

    def starting():
        (tmp_path / "run" / "started").unlink(missing_ok=True)
        with open(
            tmp_path / "said", "w", encoding="utf-8"
        ) as said:  # a pipe would be held open by what outlives the run
            started.append(psutil.Popen([sys.executable, "-c", script], env=environment, stdout=said, stderr=said))
        while started[-1].poll() is None and not (tmp_path / "run" / "started").exists():
            time.sleep(0.05)
        found = started[-1].children(recursive=True)
        started.extend(found)
        return started[-len(found) - 1], found

    started = []
    yield starting
    for process in started:
        with contextlib.suppress(psutil.Error):
            process.kill()


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # which nobody may be there to take note of
    except psutil.NoSuchProcess:
        return False


def statuses(run_dir):
    entries = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["notebooks"].values()
    return [entry["status"] for entry in entries]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_sigterm_ends_a_run_like_ctrl_c(start, tmp_path):
    process, children = start()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert "Interrupted. The same command resumes" in (tmp_path / "said").read_text(encoding="utf-8")
    assert children and not any(map(is_alive, children))
    assert statuses(tmp_path / "run") == ["done", "interrupted"]
    with locked(tmp_path / "run"):
        assert not list((tmp_path / "tmp").iterdir())
    assert [path.name for path in (tmp_path / "run").rglob(".*")] == []


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_leftovers_of_a_killed_run_are_removed_at_the_next_start(start, tmp_path):
    process, children = start()
    for killed in (process, *children):
        killed.kill()
    process.wait(timeout=60)
    assert statuses(tmp_path / "run") == ["done", "running"]
    left = list((tmp_path / "tmp").glob("covidxr-*"))
    assert left and list((tmp_path / "run").glob(".*.npz"))
    process, _ = start()
    assert not any(folder.exists() for folder in left)
    assert len(list((tmp_path / "run").glob(".*.npz"))) == 1  # its own
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
