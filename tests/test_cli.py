"""The command line: downloads, help, and the modules that are commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from local_server import Server, image_bytes

from covidxr.data.sources import SOURCES
from covidxr.run.cli import _FETCHABLE, _needed_sources, main
from covidxr.utils import CovidxrError

ROOT = Path(__file__).parents[1]


def test_fetchable_sources_are_those_with_an_origin():
    assert set(_FETCHABLE) == {name for name, source in SOURCES.items() if source.origin}


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (["article"], ["covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1"]),
        (["mitigated", "figure1"], ["covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1"]),
        (["figure1", "figure1"], ["figure1"]),
        (["demo"], []),
    ],
)
def test_a_profile_needs_its_sources_once(names, sources):
    assert sorted(_needed_sources(names)) == sorted(sources)


def test_phantoms_and_own_files_are_not_downloaded(tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text("01_dataset_assembly:\n  sources: [phantom, figure1, mine.csv]\n07_external_validation:\n")
    assert _needed_sources([str(profile)]) == ["figure1"]


def test_a_source_that_is_restricted_to_classes_is_downloaded(tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text("01_dataset_assembly:\n  sources: [phantom-city: [COVID-19], figure1: [COVID-19]]\n")
    assert _needed_sources([str(profile)]) == ["figure1"]


def test_unknown_name_lists_the_known_ones(capsys):
    assert main(["data", "artcle"]) == 2
    assert "unknown source or profile 'artcle'; available: covid-chestxray, " in capsys.readouterr().err
    with pytest.raises(CovidxrError, match="article"):
        _needed_sources(["artcle"])


def test_one_archive_is_for_one_source(capsys):
    assert main(["data", "article", "--from", "images.zip"]) == 2
    assert "--from names the archive of one source, but covid-chestxray, " in capsys.readouterr().err


def test_archive_is_unpacked_and_counted(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as packed:
        packed.writestr("chest_xray/train/NORMAL/IM-0001-0001.jpeg", image_bytes(0, "JPEG"))
    command = [
        "data",
        "kaggle-chest-xray",
        "--data-dir",
        str(tmp_path / "data"),
        "--from",
        str(tmp_path / "images.zip"),
    ]
    assert main(command) == 0
    assert f"kaggle-chest-xray: 1 file in {tmp_path / 'data'}" in capsys.readouterr().out


def test_failing_source_does_not_stop_the_next(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))
    command = ["data", "figure1", "covid-chestxray", "--data-dir", str(tmp_path), "--mirror", "http://127.0.0.1:9"]
    assert main(command) == 1
    complaints = capsys.readouterr().err
    assert "error: figure1: still missing" in complaints and "error: covid-chestxray: still missing" in complaints


def test_interrupt_ends_with_one_sentence(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("covidxr.data.sources.fetch", interrupt)
    assert main(["data", "figure1"]) == 130
    assert "The same command resumes" in capsys.readouterr().err


def test_sigterm_leaves_no_partial_files(tmp_path):
    index = SOURCES["figure1"].origin.url("metadata.csv")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        server.serve(index, bytes(9246))
        server.fault("metadata.csv", "stall")
        words = ["data", "figure1", "--data-dir", str(tmp_path), "--mirror", server.url]
        fetching = subprocess.Popen(
            [sys.executable, "-m", "covidxr", *words],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob(".partial/*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.rglob(".partial/*"))
        fetching.send_signal(signal.SIGTERM)
        complaint = fetching.communicate(timeout=60)[1]
        server.released.set()
        server.shutdown()
    assert fetching.returncode == 130 and "The same command resumes" in complaint
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["data", "--help"], ["compare", "--help"]])
def test_help_has_examples_and_imports_nothing_heavy(words):
    script = (
        f"import sys\nfrom covidxr.run.cli import main\ntry: main({words})\nexcept SystemExit: pass\n"
        "sys.exit(bool({'pandas', 'requests', 'tensorflow', 'kagglehub', 'papermill', 'nbformat'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "examples:\n  covidxr " in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["covidxr", "compare", "no-such", "b"], "no-such is no run folder"),
        (["covidxr.run", "--compare", "no-such", "b"], "no-such is no run folder"),
        (["covidxr.run", "no-such"], "unknown profile 'no-such'"),
    ],
)
def test_modules_are_commands_too(words, message):
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and message in done.stderr
