"""The runner: resume, failure, lock and command line, with a list in place of kernels (those: test_execute.py)."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from small_notebooks import make_notebooks, write_notebook

from covidxr.run import execute, runner
from covidxr.run.cli import main
from covidxr.run.lock import locked
from covidxr.run.runner import NotebookFailed, run_profile
from covidxr.utils import CovidxrError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def notebooks(tmp_path):
    return make_notebooks(tmp_path / "notebooks")


@pytest.fixture
def executed(monkeypatch):
    """Replace kernels by a list of what would have been executed; names put into `fails` fail."""
    calls, fails, pages = [], set(), []

    def pretend(notebook, target, parameters, on_tick):
        calls.append(notebook.stem)
        pages.append((target.parents[1] / "index.html").read_text(encoding="utf-8"))
        if "interrupt" in fails:
            raise KeyboardInterrupt
        on_tick(0.4, "Training: epoch 3\x07")
        target.parent.mkdir(exist_ok=True)
        target.touch()
        if notebook.stem == "01_make":
            (target.parents[1] / "made.txt").write_text(str(parameters["size"] * parameters["seed"]))
        error = "cell In [2]: fit()\nno memory" if notebook.stem in fails else None
        return execute.Outcome(1.0, 100.0, error)

    monkeypatch.setattr(execute, "execute", pretend)
    return SimpleNamespace(calls=calls, fails=fails, pages=pages)


@pytest.fixture
def go(tmp_path, notebooks, executed):
    """Run the profile and return the names of the notebooks that were executed."""

    def going(**options):
        executed.calls.clear()
        run_profile("tiny", tmp_path / "run", notebooks=notebooks, **options)
        return list(executed.calls)

    return going


def status(tmp_path):
    entries = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["notebooks"]
    return [entry["status"] for entry in entries.values()]


# Resume


def test_no_change_reruns_nothing(go):
    assert go() == ["01_make", "02_use"]
    assert go() == []


def test_change_reruns_what_depends_on_it(go, notebooks):
    go()
    write_notebook(notebooks / "02_use.ipynb", "run_dir = '.'\nmode = 'fine'", "2", reads=["made.txt"])
    assert go() == ["02_use"]
    write_notebook(notebooks / "01_make.ipynb", "seed = 0\nsize = 1", "3")
    assert go() == ["01_make"]  # which left the same
    assert go(parameters={"size": 4}) == ["01_make", "02_use"]


def test_changed_parameter_reruns_the_notebooks_that_have_it(go):
    go()
    assert go(parameters={"mode": "other"}) == ["02_use"]
    assert go(parameters={"mode": "other", "seed": 6}) == ["01_make", "02_use"]
    assert go(parameters={"mode": "other", "seed": 6}, data_dir="elsewhere") == []


def test_outputs_do_not_count_as_a_change(go, notebooks):
    go()
    path = notebooks / "01_make.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="seen")]
    nbformat.write(notebook, path)
    assert go() == []


def test_missing_copy_is_written_again(go, tmp_path):
    go()
    (tmp_path / "run" / "notebooks" / "02_use.ipynb").unlink()
    assert go() == ["02_use"]


def test_resumes_at_the_failed_notebook(go, executed, tmp_path):
    executed.fails.add("02_use")
    with pytest.raises(NotebookFailed) as failure:
        go()
    assert str(failure.value).splitlines() == [
        "02_use failed in cell In [2]: fit()",
        "no memory",
        f"its copy up to there: {tmp_path / 'run' / 'notebooks' / '02_use.failed.ipynb'}",
        "done: 01_make; the same command resumes at 02_use",
    ]
    assert status(tmp_path) == ["done", "failed"]
    executed.fails.clear()
    assert go() == ["02_use"]
    assert status(tmp_path) == ["done", "done"]


def test_failure_stops_the_run_and_outdates_what_comes_after(go, executed, tmp_path):
    go()
    executed.fails.add("01_make")
    with pytest.raises(NotebookFailed, match="done: nothing yet"):
        go(parameters={"size": 9})
    assert executed.calls == ["01_make"]
    assert status(tmp_path) == ["failed", "outdated"]


def test_only_runs_one_even_unchanged(go, tmp_path):
    assert go(only="02") == ["02_use"]  # what it reads is optional
    assert status(tmp_path) == ["not run", "done"]
    assert go() == ["01_make", "02_use"]  # the second had run without the first
    assert go(only="01") == ["01_make"]
    assert status(tmp_path) == ["done", "done"]  # as the first left the same
    assert go(only="01", parameters={"size": 7}) == ["01_make"]
    assert status(tmp_path) == ["done", "outdated"]
    assert go(parameters={"size": 7}) == ["02_use"]


def test_optional_notebook_is_recorded_only_when_it_has_run(go, notebooks, tmp_path):
    write_notebook(notebooks / "08_ablation_study.ipynb", "run_dir = '.'\nfolds = 3", "1", reads=["made.txt"])
    assert go() == ["01_make", "02_use"]
    assert status(tmp_path) == ["done", "done"]
    assert go(only="08") == ["08_ablation_study"]
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
    with locked(tmp_path / "run") as lock:
        with pytest.raises(CovidxrError, match=f"another run .process {os.getpid()}. is working in .*run; wait"):
            go()
        assert executed.calls == [] and lock.exists()


def is_free(run_dir):
    with locked(run_dir):
        return True


def test_lock_of_a_dead_process_is_ignored(go, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").write_text(str(os.getpid()))  # a number that a living process may have again
    assert go() == ["01_make", "02_use"]
    assert is_free(tmp_path / "run")


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_of_four_simultaneous_starts_on_a_stale_lock_one_succeeds(tmp_path):
    """Each that gets in makes a file that must not be there yet, and takes it away again before it leaves."""
    for trial in range(25):
        run_dir = tmp_path / str(trial)
        run_dir.mkdir()
        (run_dir / "run.lock").write_text("4194304")
        assert sum(in_at_once(run_dir, 4)) >= 1


def in_at_once(run_dir, count):
    """Whether each of some processes got in; none may see another inside."""
    ready, go = os.pipe(), os.pipe()
    children = []
    for _ in range(count):
        if (child := os.fork()) == 0:
            os.write(ready[1], b"x")
            os.close(go[1])
            os.read(go[0], 1)  # until the parent closes it
            os._exit(enter(run_dir))
        children.append(child)
    for _ in range(count):
        os.read(ready[0], 1)
    os.close(go[1])
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for end in (*ready, go[0]):
        os.close(end)
    assert set(ends) <= {0, 1}, "two were inside at once"
    return [end == 0 for end in ends]


def enter(run_dir):
    try:
        with locked(run_dir):
            inside = os.open(run_dir / "inside", os.O_CREAT | os.O_EXCL)
            time.sleep(0.002)
            os.close(inside)
            os.unlink(run_dir / "inside")
            return 0
    except CovidxrError:
        return 1
    except FileExistsError:
        return 2


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_unusable_run_folder_is_named(go, executed, tmp_path, notebooks, place):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CovidxrError, match=f"{tmp_path / place} cannot be a run folder .*; give another --run-dir"):
        run_profile("tiny", tmp_path / place, notebooks=notebooks)
    assert executed.calls == []


def test_folder_without_write_permission_is_named(go, tmp_path, monkeypatch):
    monkeypatch.setattr("covidxr.run.lock._lock", raising(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(CovidxrError, match="cannot be a run folder .Permission denied.; give another --run-dir"):
        go()


def test_full_disk_ends_the_run_with_a_message_and_the_same_command_resumes(
    command, executed, tmp_path, monkeypatch, capsys
):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "run" / "x"))
    with monkeypatch.context() as patch:
        patch.setattr(execute, "execute", raising(full))
        assert command("tiny") == 1
    assert capsys.readouterr().err == f"No space left on device: {tmp_path / 'run' / 'x'}; the same command resumes\n"
    assert status(tmp_path) == ["interrupted", "not run"] and is_free(tmp_path / "run")
    assert command("tiny") == 0 and executed.calls == ["01_make", "02_use"]


def raising(error):
    def call(*_):
        raise error

    return call


def test_interrupt_leaves_a_valid_record_and_a_free_folder(go, executed, tmp_path):
    executed.fails.add("interrupt")
    with pytest.raises(KeyboardInterrupt):
        go()
    assert status(tmp_path) == ["interrupted", "not run"]
    assert is_free(tmp_path / "run")


# The command line


@pytest.fixture
def command(monkeypatch, notebooks, executed, tmp_path):
    """`main` on the small notebooks, with the run folder given."""
    monkeypatch.setattr(runner, "run_profile", functools.partial(run_profile, notebooks=notebooks))
    return lambda *words: main(["run", *words, "--run-dir", str(tmp_path / "run")])


def test_exit_codes(command, executed, capsys):
    typed = ["-p", "seed", "1e1", "-p", "mode", "x"]
    assert command("tiny", *typed) == 0
    assert command("tyni") == 2
    assert capsys.readouterr().err.startswith("error: unknown profile 'tyni'")
    executed.fails.add("02_use")
    assert command("tiny", "--only", "02", *typed) == 1
    assert "02_use failed in cell In [2]: fit()" in capsys.readouterr().err
    executed.fails.add("interrupt")
    assert command("tiny", "--only", "02", *typed) == 130
    assert "Interrupted. The same command resumes" in capsys.readouterr().err
    assert command("tiny", "--only", "02") == 2
    assert "made.txt was made with seed 10, not 5; give -p seed 10, or run" in capsys.readouterr().err


def test_one_line_per_notebook(command, capsys, tmp_path):
    command("tiny")
    assert capsys.readouterr().out.splitlines() == [
        "01_make … 1 s",
        "02_use … 1 s",
        f"open {tmp_path / 'run' / 'index.html'}",
    ]


def test_the_page_says_from_the_beginning_what_is_still_to_come(go, executed):
    go()
    first, second = executed.pages
    assert "running now: 01_make; still to come: 02_use." in first
    assert "running now: 02_use." in second and "still to come" not in second


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Let the output be a terminal's; returns what each notebook's line showed, one after the other."""
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)
    monkeypatch.setenv("COLUMNS", "70")

    def shown():
        lines = capsys.readouterr().out.split("\n")
        return [line.split(runner._CLEAR) for line in lines if line.startswith("0") and "unchanged" not in line]

    return shown


def test_terminal_shows_what_a_notebook_is_doing(go, terminal):
    go()
    assert terminal() == [
        ["01_make … ", "01_make … 0 s · Training: epoch 3", "01_make … 1 s"],
        ["02_use … ", "02_use … 0 s · Training: epoch 3", "02_use … 1 s"],
    ]


def test_terminal_shows_the_time_left_from_the_last_run_on_this_machine(go, tmp_path, terminal):
    def first_line():
        return next(line for line in terminal() if "runs again" not in line[0])[1].partition(" · Training")[0]

    go()
    terminal()
    go(parameters={"size": 4})
    assert first_line() == "01_make … 0 s · about 2 s left"
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    record["machine"]["cores"] = 999
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    go(parameters={"size": 5})
    assert first_line() == "01_make … 0 s"


def test_time_left_is_that_of_the_notebooks_to_come(go, terminal, executed, tmp_path):
    go()
    executed.fails.add("interrupt")
    with pytest.raises(KeyboardInterrupt):
        go(only="02")
    executed.fails.clear()
    terminal()
    go()
    assert terminal()[0][1] == "02_use … 0 s · about 1 s left · Training: epoch 3"


def test_default_run_folder_carries_the_profiles_name(notebooks, executed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = run_profile("tiny", notebooks=notebooks)
    assert record["parameters"]["02_use"]["run_dir"] == str(tmp_path / "runs" / "tiny")
