"""The runner: resume, failure, lock and command line, with a list in place of kernels (those: test_execute.py)."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from small_notebooks import make_notebooks, write_notebook

import covidxr._execute
import covidxr._plan
from covidxr import run
from covidxr.errors import CovidxrError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def notebooks(tmp_path):
    return make_notebooks(tmp_path / "notebooks")


@pytest.fixture
def executed(monkeypatch):
    """Replace kernels by a list of what would have been executed; names put into `fails` fail."""
    calls, fails = [], set()

    def pretend(notebook, target, parameters, on_tick):
        calls.append(notebook.stem)
        if "interrupt" in fails:
            raise KeyboardInterrupt
        target.parent.mkdir(exist_ok=True)
        target.touch()
        error = "cell In [2]: fit()\nno memory" if notebook.stem in fails else None
        return covidxr._execute.Outcome(1.0, 100.0, error)

    monkeypatch.setattr(covidxr._execute, "execute", pretend)
    monkeypatch.setattr(covidxr._plan, "_package_hash", lambda: "as it is")  # the package may be edited meanwhile
    return SimpleNamespace(calls=calls, fails=fails)


@pytest.fixture
def go(tmp_path, notebooks, executed):
    """Run the profile and return the names of the notebooks that were executed."""

    def going(**options):
        executed.calls.clear()
        run.run_profile("tiny", tmp_path / "run", notebooks=notebooks, **options)
        return list(executed.calls)

    return going


def status(tmp_path):
    entries = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["notebooks"]
    return [entry["status"] for entry in entries.values()]


# Resume


def test_nothing_changed_runs_nothing(go):
    assert go() == ["01_make", "02_use"]
    assert go() == []


def test_a_change_runs_again_what_comes_after(go, notebooks):
    go()
    write_notebook(notebooks / "02_use.ipynb", "run_dir = '.'\nmode = 'fine'", "2")
    assert go() == ["02_use"]
    write_notebook(notebooks / "01_make.ipynb", "seed = 0\nsize = 1", "3")
    assert go() == ["01_make", "02_use"]


def test_a_parameter_runs_again_those_that_have_it(go):
    go()
    assert go(parameters={"mode": "other"}) == ["02_use"]
    assert go(parameters={"mode": "other", "seed": 6}) == ["01_make", "02_use"]
    assert go(parameters={"mode": "other", "seed": 6}, data_dir="elsewhere") == ["01_make", "02_use"]


def test_outputs_do_not_count_as_a_change(go, notebooks):
    go()
    path = notebooks / "01_make.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="seen")]
    nbformat.write(notebook, path)
    assert go() == []


def test_a_change_of_the_package_runs_all_again(go, monkeypatch):
    go()
    monkeypatch.setattr(covidxr._plan, "_package_hash", lambda: "edited")
    assert go() == ["01_make", "02_use"]


def test_a_lost_copy_is_made_again(go, tmp_path):
    go()
    (tmp_path / "run" / "notebooks" / "02_use.ipynb").unlink()
    assert go() == ["02_use"]


def test_resumes_at_the_failed_notebook(go, executed, tmp_path):
    executed.fails.add("02_use")
    with pytest.raises(run.NotebookFailed) as failure:
        go()
    assert str(failure.value).splitlines() == [
        "02_use failed in cell In [2]: fit()",
        "no memory",
        f"its copy up to there: {tmp_path / 'run' / 'notebooks' / '02_use.failed.ipynb'}",
        "done: 01_make; the same command goes on from 02_use",
    ]
    assert status(tmp_path) == ["done", "failed"]
    executed.fails.clear()
    assert go() == ["02_use"]
    assert status(tmp_path) == ["done", "done"]


def test_failure_stops_the_run_and_outdates_what_comes_after(go, executed, tmp_path):
    go()
    executed.fails.add("01_make")
    with pytest.raises(run.NotebookFailed, match="done: nothing yet"):
        go(parameters={"size": 9})
    assert executed.calls == ["01_make"]
    assert status(tmp_path) == ["failed", "outdated"]


def test_only_runs_one_even_unchanged(go, tmp_path):
    assert go(only="02") == ["02_use"]
    assert status(tmp_path) == ["not run", "done"]
    assert go() == ["01_make", "02_use"]  # the second had run without the first
    assert go(only="01") == ["01_make"]
    assert status(tmp_path) == ["done", "outdated"]
    assert go() == ["02_use"]


def test_a_notebook_that_is_run_when_asked_stands_in_the_record_only_then(go, notebooks, tmp_path):
    write_notebook(notebooks / "08_what_matters.ipynb", "run_dir = '.'\nfolds = 3", "1")
    assert go() == ["01_make", "02_use"]
    assert status(tmp_path) == ["done", "done"]
    assert go(only="08") == ["08_what_matters"]
    assert status(tmp_path) == ["done", "done", "done"]
    assert go(parameters={"seed": 7}) == ["01_make", "02_use"]
    assert status(tmp_path) == ["done", "done", "outdated"]


def test_hash_of_the_manifest(go, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.csv").write_bytes(b"image_id\n")
    go()
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["manifest_sha256"] == hashlib.sha256(b"image_id\n").hexdigest()


# Lock


def test_two_runs_in_one_folder_are_refused(go, executed, tmp_path):
    lock = tmp_path / "run" / "run.lock"
    lock.parent.mkdir()
    lock.write_text(str(os.getpid()))
    with pytest.raises(CovidxrError, match=f"another run .process {os.getpid()}. is at work in .*run; wait"):
        go()
    assert executed.calls == [] and lock.exists()


def test_the_lock_of_a_dead_process_does_not_count(go, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").write_text(str(dead.pid))
    assert go() == ["01_make", "02_use"]
    assert not (tmp_path / "run" / "run.lock").exists()


def test_interrupt_leaves_a_valid_record_and_no_lock(go, executed, tmp_path):
    executed.fails.add("interrupt")
    with pytest.raises(KeyboardInterrupt):
        go()
    assert status(tmp_path) == ["interrupted", "not run"]
    assert not (tmp_path / "run" / "run.lock").exists()


# The command line


@pytest.fixture
def command(monkeypatch, notebooks, executed, tmp_path):
    """`main` on the small notebooks, with the run folder given."""
    monkeypatch.setattr(run, "run_profile", functools.partial(run.run_profile, notebooks=notebooks))
    return lambda *words: run.main([*words, "--run-dir", str(tmp_path / "run")])


def test_exit_codes(command, executed, capsys):
    assert command("tiny", "-p", "seed", "1e1", "-p", "mode", "x") == 0
    assert command("tyni") == 2
    assert capsys.readouterr().err.startswith("error: unknown profile 'tyni'")
    executed.fails.add("02_use")
    assert command("tiny", "--only", "02") == 1
    assert "02_use failed in cell In [2]: fit()" in capsys.readouterr().err
    executed.fails.add("interrupt")
    assert command("tiny", "--only", "02") == 130
    assert "Interrupted. The same command goes on" in capsys.readouterr().err


def test_one_plain_line_a_notebook(command, capsys, tmp_path):
    command("tiny")
    assert capsys.readouterr().out.splitlines() == [
        "01_make … 1 s",
        "02_use … 1 s",
        f"open {tmp_path / 'run' / 'index.html'}",
    ]


def test_default_run_folder_carries_the_profiles_name(notebooks, executed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = run.run_profile("tiny", notebooks=notebooks)
    assert record["parameters"]["02_use"]["run_dir"] == str(tmp_path / "runs" / "tiny")


def test_help_is_instant_and_has_examples():
    script = "import sys, covidxr.run as r\ntry: r.main(['--help'])\nfinally: print({'papermill', 'nbformat'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert "examples:" in done.stdout and done.stdout.endswith("set()\n")
