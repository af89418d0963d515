"""The command line that fetches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from local_server import Server, image_bytes

from covidxr.data import _FETCHED, main, needed_sources
from covidxr.errors import CovidxrError
from covidxr.sources.fetch import ORIGINS


def test_it_offers_what_can_be_fetched():
    assert set(_FETCHED) == set(ORIGINS)


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (["article"], ["covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1"]),
        (["honest", "figure1"], ["covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1"]),
        (["figure1", "figure1"], ["figure1"]),
        (["demo"], []),
    ],
)
def test_a_profile_needs_its_sources_once(names, sources):
    assert sorted(needed_sources(names)) == sorted(sources)


def test_a_profile_of_ones_own_needs_no_phantoms_and_no_own_files(tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text("01_dataset_assembly:\n  sources: [phantom, figure1, mine.csv]\n07_other_hospitals:\n")
    assert needed_sources([str(profile)]) == ["figure1"]


def test_an_unknown_name_is_answered_with_the_known_ones(capsys):
    assert main(["artcle"]) == 2
    assert "unknown source or profile 'artcle'; available: covid-chestxray, " in capsys.readouterr().err
    with pytest.raises(CovidxrError, match="article"):
        needed_sources(["artcle"])


def test_one_archive_is_for_one_source(capsys):
    assert main(["article", "--from", "films.zip"]) == 2
    assert "--from gives the archive of one source; named were covid-chestxray, " in capsys.readouterr().err


def test_it_unpacks_an_archive_and_sums_up(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as packed:
        packed.writestr("chest_xray/train/NORMAL/IM-0001-0001.jpeg", image_bytes(0, "JPEG"))
    command = ["kaggle-chest-xray", "--data-dir", str(tmp_path / "data"), "--from", str(tmp_path / "films.zip")]
    assert main(command) == 0
    assert f"kaggle-chest-xray: 1 file in {tmp_path / 'data'}" in capsys.readouterr().out


def test_one_source_that_fails_does_not_stop_the_next(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("covidxr.sources._download.PAUSE_SECONDS", 0.01)
    command = ["figure1", "covid-chestxray", "--data-dir", str(tmp_path), "--mirror", "http://127.0.0.1:9"]
    assert main(command) == 1
    complaints = capsys.readouterr().err
    assert "error: figure1: still missing" in complaints and "error: covid-chestxray: still missing" in complaints


def test_an_interrupt_is_answered_in_one_sentence(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("covidxr.sources.fetch.fetch", interrupt)
    assert main(["figure1"]) == 130
    assert "The same command goes on" in capsys.readouterr().err


def test_being_told_to_end_leaves_nothing_half_done(tmp_path):
    index = ORIGINS["figure1"].url("metadata.csv")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        server.serve(index, bytes(9246))
        server.fault("metadata.csv", "stall")
        command = [sys.executable, "-m", "covidxr.data", "figure1", "--data-dir", str(tmp_path), "--mirror", server.url]
        fetching = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_PROXY": "127.0.0.1"}
        )
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob(".covidxr-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.rglob(".covidxr-*"))
        fetching.send_signal(signal.SIGTERM)
        complaint = fetching.communicate(timeout=10)[1]  # sooner than the server's stall would be noticed
        server.released.set()
        server.shutdown()
    assert fetching.returncode == 130 and "The same command goes on" in complaint
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_help_is_instant_and_imports_nothing_heavy():
    script = (
        "import sys\nfrom covidxr.data import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'pandas', 'requests', 'tensorflow', 'kagglehub'} & set(sys.modules)))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "examples:" in done.stdout and time.monotonic() - start < 5
