"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidxr.utils import CovidxrError, atomic_path, read_json, sweep_leftovers, write_csv, write_json


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("name", ["a.json", "image 肺.tar.gz", "no suffix", ".hidden"])
def test_the_file_appears_when_the_block_ends_well(name, tmp_path):
    target = tmp_path / "deep" / "er" / name
    with atomic_path(str(target)) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent and temporary.suffix == target.suffix
        assert not target.exists()
    assert target.read_text() == "whole" and names(target.parent) == [name]


def test_who_reads_the_old_file_goes_on_reading_it(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with open(tmp_path / "a.txt") as reader:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
        assert reader.read() == "old" and (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_block_that_fails_changes_nothing(error, tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(type(error)), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_two_writers_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "a.txt") as one, atomic_path(tmp_path / "a.txt") as other:
        one.write_text("one")
        other.write_text("other")
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "one"  # the outer one ended last


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    script = (
        "import sys, time\nfrom covidxr.utils import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n    temporary.write_text('half')\n    time.sleep(60)"
    )
    target = tmp_path / "deep" / "a.jpg"
    writer = subprocess.Popen([sys.executable, "-c", script, str(target)])
    deadline = time.monotonic() + 30
    while not list(tmp_path.rglob(".covidxr-*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (left,) = names(target.parent)
    others = [
        left.replace(str(writer.pid), str(os.getpid())),  # of a living process
        left.replace(left.split("-")[1], "0" * 8),  # of another machine
        ".covidxr-notes.jpg",
        "a.txt",
    ]
    for name in others:
        (target.parent / name).write_text("of somebody else")
    sweep_leftovers(tmp_path)
    assert left in names(target.parent)
    writer.kill()
    writer.wait()
    sweep_leftovers(tmp_path)
    assert names(target.parent) == sorted(others)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"n": np.int64(3), "share": np.float32(0.5), "ok": np.bool_(True)}, {"n": 3, "share": 0.5, "ok": True}),
        ({"interval": np.array([0.25, 0.5]), "one": np.array([7])}, {"interval": [0.25, 0.5], "one": [7]}),
        ({"path": Path("runs/demo"), "label": "肺 \n"}, {"path": str(Path("runs/demo")), "label": "肺 \n"}),
        ({}, {}),
    ],
)
def test_json_comes_back(value, expected, tmp_path):
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == expected
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == expected


def test_json_that_cannot_be_written_keeps_the_old(tmp_path):
    write_json(tmp_path / "a.json", {"n": 1})
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError, match="[Cc]ircular"):
        write_json(tmp_path / "a.json", circle)
    assert read_json(tmp_path / "a.json") == {"n": 1} and names(tmp_path) == ["a.json"]


def test_absent_json_is_empty(tmp_path):
    assert read_json(tmp_path / "a.json") == {}


@pytest.mark.parametrize(
    "content", [b"", b'{"n": 1', b"\xff\xfe\x00", b"[" * 100_000], ids=["empty", "cut", "binary", "deep"]
)
def test_json_that_is_none_is_a_sentence(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CovidxrError, match=r"a\.json: not a JSON file"):
        read_json(tmp_path / "a.json")


def test_csv_holds_the_rows_without_an_index(tmp_path):
    frame = pd.DataFrame({"label": ["肺, left", 'say "aah"', "two\nlines", ""], "n": [1, 2, 3, 4]}, index=[7, 8, 9, 9])
    write_csv(tmp_path / "a.csv", frame)
    back = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(back, frame.reset_index(drop=True), check_dtype=False)
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.float32("nan")])
@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda bad: {"test": {"accuracy": bad}}, r"test\.accuracy is"),
        (lambda bad: {"test": [{"n": 1}, {"interval": np.array([0.5, bad])}]}, r"test\.1\.interval\.1 is"),
        (lambda bad: {3: bad}, "3 is"),
    ],
)
def test_json_refuses_what_it_cannot_say_and_names_the_key(bad, wrap, key, tmp_path):
    write_json(tmp_path / "a.json", {"n": 1})
    with pytest.raises(CovidxrError, match=key):
        write_json(tmp_path / "a.json", wrap(bad))
    assert read_json(tmp_path / "a.json") == {"n": 1} and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": {"b": NaN}}', "a.b is nan"),
        ('{"a": [1, Infinity]}', "a.1 is inf"),
        ('{"a": 1e999}', "a is inf"),
        ("[1, 2]", "holds a list"),
        ('"text"', "holds a str"),
        ("[" * 100_000, "not a JSON file"),
    ],
)
def test_json_of_no_numbers_or_no_names_is_a_sentence(content, said, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CovidxrError, match=f"a.json: not a JSON file.*{said}|{said}"):
        read_json(tmp_path / "a.json")


def test_a_folder_in_place_of_json_is_a_sentence(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(CovidxrError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")
