"""Fetching, against a local server that cuts off, stalls, lies and refuses."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import threading
import zipfile
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from local_server import Server

from covidxr.errors import CovidxrError
from covidxr.sources import SOURCES, _download, _known, _ledger
from covidxr.sources.fetch import ORIGINS, fetch

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = [f"film {n}.png" for n in range(12)]
COLUMNS = "patientid,finding,view,modality,filename,age,sex,license,url"


def serve(server, source, files):
    """Put a source's files where its addresses point."""
    for path, content in files.items():
        server.serve(ORIGINS[source].url(path), content)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("COVIDXR_MIRROR", raising=False)
    monkeypatch.setattr(_download, "PAUSE_SECONDS", 0.01)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture
def planted(server, monkeypatch):
    """A small covid-chestxray-dataset of our own on the server, and no word of it in the frozen list."""
    monkeypatch.setattr(_ledger, "frozen", lambda source: {})
    rows = [f"{n},COVID-19,PA,X-ray,{name},50,F,CC0," for n, name in enumerate(NAMES)]
    rows += ["90,COVID-19,L,X-ray,lateral.png,50,F,,", "91,COVID-19,Axial,CT,ct.png,50,F,,"]
    table = "\n".join([COLUMNS, *rows]).encode()
    films = {f"images/{name}": PNG + name.encode() * 200 for name in NAMES}
    serve(server, "covid-chestxray", {"metadata.csv": table, **films})
    return server


@pytest.fixture
def get(server, tmp_path):
    """Fetch a source from the server into a temporary data folder."""
    return lambda source="covid-chestxray", **options: fetch(source, tmp_path, mirror=server.url, **options)


def arrived(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "fetched.json")


def assert_whole(planted, tmp_path):
    """Every film is there with the server's bytes, nothing else is, and the record says so."""
    folder = tmp_path / "covid-chestxray-dataset"
    assert arrived(folder) == sorted(["metadata.csv", *NAMES])
    record = json.loads((folder / "fetched.json").read_text())
    for url, content in planted.files.items():
        path = url.split(ORIGINS["covid-chestxray"].version + "/")[1]
        assert (folder / path).read_bytes() == content
        assert record["files"][path]["sha256"] == hashlib.sha256(content).hexdigest()
        assert record["files"][path]["url"] == planted.url + quote(url)


def test_a_full_fetch_brings_what_the_reader_needs_and_no_more(planted, get, tmp_path):
    done = get()
    assert_whole(planted, tmp_path)
    assert len(done.new) == 13 and done.bytes == sum(map(len, planted.files.values()))
    assert set(planted.asked.values()) == {1} and not planted.times("lateral.png") and not planted.times("ct.png")
    assert all(Path(path).read_bytes().startswith(PNG) for path in SOURCES["covid-chestxray"](tmp_path).path)


def test_what_is_there_is_not_asked_for_again_and_needs_no_network(planted, get, tmp_path):
    get()
    done = fetch("covid-chestxray", tmp_path, mirror="http://127.0.0.1:9")
    assert (len(done.new), len(done.kept)) == (0, 13) and set(planted.asked.values()) == {1}


def test_a_fetch_cut_off_goes_on_without_fetching_finished_files_again(planted, get, tmp_path):
    planted.fault("film 7.png", *["cut"] * _download.ATTEMPTS)
    with pytest.raises(CovidxrError, match=r"still missing 1 file \(film 7.png\): 127.0.0.1:\d+ broke off in the"):
        get()
    assert arrived(tmp_path) == sorted(["metadata.csv", *NAMES[:7], *NAMES[8:]])
    done = get()
    assert done.new == ["images/film 7.png"] and len(done.kept) == 12
    assert planted.times("film 7.png") == _download.ATTEMPTS + 1 and planted.times("film 3.png") == 1
    assert_whole(planted, tmp_path)


def test_an_interrupted_fetch_goes_on_even_when_nothing_was_recorded(planted, get, tmp_path, monkeypatch):
    record = _ledger.Ledger.record

    def interrupt(ledger, path, known, url):
        record(ledger, path, known, url)
        if len(ledger.files) == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_ledger.Ledger, "record", interrupt)
        get()
    left = arrived(tmp_path)
    (tmp_path / "covid-chestxray-dataset/fetched.json").unlink()  # as after a loss of power
    assert 6 <= len(left) == len(get().kept)
    assert sum(planted.asked.values()) <= 13 + _download.WORKERS  # those under way when the rest was given up


@pytest.mark.parametrize("fault", ["cut", 503, 429, b"<html>Please log in</html>"])
def test_what_passes_is_tried_again(planted, get, tmp_path, fault):
    planted.fault("film 5.png", fault, fault)
    planted.fault("metadata.csv", fault)
    get()
    assert planted.times("film 5.png") == 3 and planted.times("metadata.csv") == 2
    assert_whole(planted, tmp_path)


def test_a_stall_is_cut_short_and_tried_again(planted, get, tmp_path, monkeypatch):
    monkeypatch.setattr(_download, "STALL_SECONDS", 0.3)
    planted.fault("film 2.png", "stall")
    get()
    assert_whole(planted, tmp_path)
    planted.fault("film 4.png", *["stall"] * _download.ATTEMPTS)
    (tmp_path / "covid-chestxray-dataset/images/film 4.png").unlink()
    with pytest.raises(CovidxrError, match=r"\(film 4.png\): 127.0.0.1:\d+ stalled: no byte in 0.3 s"):
        get()
    assert "film 4.png" not in arrived(tmp_path)
    get()
    assert_whole(planted, tmp_path)


def test_other_bytes_than_those_recorded_are_refused(planted, get, tmp_path):
    get()
    film = tmp_path / "covid-chestxray-dataset/images/film 1.png"
    film.unlink()
    planted.fault("film 1.png", *[PNG + b"another film"] * _download.ATTEMPTS)
    with pytest.raises(CovidxrError, match=r"\(film 1.png\): 127.\S+ sent wrong bytes: 20 bytes instead of 2,008"):
        get()
    assert not film.exists()
    planted.fault("film 1.png", PNG + b"x" * 2000)  # of the right size
    get()
    assert planted.times("film 1.png") == 1 + _download.ATTEMPTS + 2
    assert_whole(planted, tmp_path)


def test_a_file_changed_here_is_reported_and_fetched_again(planted, get, tmp_path):
    get()
    (tmp_path / "covid-chestxray-dataset/images/film 9.png").write_bytes(PNG + b"painted over")
    done = get()
    assert done.changed == done.new == ["images/film 9.png"]
    assert "changed since they were fetched, so fetched again: 1 file (film 9.png)" in str(done)
    assert_whole(planted, tmp_path)


def test_files_that_the_server_does_not_have_are_named_and_stop_nothing(planted, get, tmp_path):
    for path in [path for path in planted.files if path.endswith(("film 3.png", "film 8.png"))]:
        del planted.files[path]
    done = get()
    assert done.absent == ["images/film 3.png", "images/film 8.png"] and len(done.new) == 11
    assert "the server does not have 2 files (film 3.png, film 8.png); their rows will be rejected" in str(done)
    assert planted.times("film 3.png") == 1


@pytest.mark.parametrize("left", [[], ["metadata.csv"]], ids=["nothing", "only the table"])
def test_a_server_without_any_film_is_an_error(planted, get, left):
    planted.files = {path: film for path, film in planted.files.items() if path.endswith(tuple(left) or "nothing")}
    with pytest.raises(CovidxrError, match="covid-chestxray: still missing .*the server has n"):
        get()


def test_a_host_out_of_reach_is_given_up_soon_and_what_is_missing_is_named(planted, get, tmp_path, monkeypatch):
    get()
    for name in NAMES[2:]:
        (tmp_path / "covid-chestxray-dataset/images" / name).unlink()
    tried, once = set(), _download._download_once
    monkeypatch.setattr(_download, "_download_once", lambda job, meter: (tried.add(job.path), once(job, meter)))
    monkeypatch.setattr(_download, "GIVE_UP_AFTER", 2)
    monkeypatch.setattr(_download, "WORKERS", 1)
    with pytest.raises(CovidxrError) as caught:
        fetch("covid-chestxray", tmp_path, mirror="http://127.0.0.1:9")
    missing = "still missing 10 files (film 2.png, film 3.png, film 4.png and 7 more): 127.0.0.1:9 cannot be reached"
    assert missing in str(caught.value) and "3 files are in" in str(caught.value) and len(tried) <= 4
    assert all(way in str(caught.value) for way in ("HTTPS_PROXY", "--mirror", "COVIDXR_MIRROR", "--from FILE.zip"))


def test_offline_from_the_start_the_frozen_list_names_what_is_missing(server, tmp_path):
    with pytest.raises(CovidxrError, match=r"missing 268 files \(metadata.csv, .* and 265 more\): .*cannot be reached"):
        fetch("covid-chestxray", tmp_path, mirror="http://127.0.0.1:9")
    assert arrived(tmp_path) == []


def test_a_file_of_unknown_making_is_neither_believed_nor_overwritten(planted, get, tmp_path):
    film = tmp_path / "covid-chestxray-dataset/images/film 4.png"
    film.parent.mkdir(parents=True)
    film.write_text("a note to myself")
    with pytest.raises(CovidxrError, match="1 file .film 4.png. there already, but not as in version"):
        get()
    assert film.read_text() == "a note to myself"


def test_a_table_other_than_the_pinned_commits_is_refused(server, get, tmp_path):
    serve(server, "figure1", {"metadata.csv": b"patientid,sex,age,finding,view\nCOVID-00001,M,3,COVID-19,PA\n"})
    with pytest.raises(CovidxrError, match="figure1: .* sent wrong bytes: 59 bytes instead of 9,246"):
        get("figure1")
    (tmp_path / "figure1/metadata.csv").write_text("mine")
    with pytest.raises(CovidxrError, match="1 file .metadata.csv. there already, but not as in version .* not fetched"):
        get("figure1")
    assert (tmp_path / "figure1/metadata.csv").read_text() == "mine"


def test_a_full_disk_is_named_and_leaves_no_half_file(planted, get, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, chunk):
            raise OSError(errno.ENOSPC, "No space left on device")

    get()
    for film in (tmp_path / "covid-chestxray-dataset/images").iterdir():
        film.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("pooch.downloaders.open", lambda path, mode: Full(path, "w"), raising=False)
        with pytest.raises(CovidxrError, match="covid-chestxray-dataset: the disk is full; what has arrived is kept"):
            get()
    assert arrived(tmp_path) == ["metadata.csv"]
    get()
    assert_whole(planted, tmp_path)


def test_the_list_of_darkcovidnets_commit_brings_its_films_with_gits_own_checksums(server, get, tmp_path):
    root = "X-Ray Image DataSet"
    names = [f"{root}/{folder}/0{n}_000.png" for folder in ("No_findings", "Pneumonia") for n in range(3)]
    films = {name: PNG + name[-9:].encode() for name in names}
    others = [f"{root}/Covid-19/a.png", "../escape.png", f"{root}/Pneumonia/../../../up.png", "README.md"]
    blobs = {**films, **dict.fromkeys(others, PNG)}
    sums = {path: hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest() for path, blob in blobs.items()}
    tree = [{"path": path, "size": len(blob), "sha": sums[path]} for path, blob in blobs.items()]
    listing = json.dumps({"tree": tree, "truncated": False}).encode()
    serve(server, "darkcovidnet", {"listing.json": listing, **films})
    server.fault("Pneumonia/01_000.png", PNG + b"?01_00.png"[:9])  # the right size, and an image
    done = get("darkcovidnet")
    assert sorted(done.new) == sorted(["listing.json", *films]) and server.times("Pneumonia/01_000.png") == 2
    assert SOURCES["darkcovidnet"](tmp_path).label.tolist() == ["No finding"] * 3 + ["Pneumonia"] * 3
    assert not (tmp_path.parent / "escape.png").exists()


def test_the_kaggle_set_comes_from_a_mirror_even_when_the_first_archive_is_broken(server, get, tmp_path):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as packed:
        for name in ("train/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person1_virus_1.jpeg"):
            packed.writestr(f"chest_xray/{name}", b"\xff\xd8\xff a film of " + name.encode())
    whole, url = (tmp_path / "whole.zip").read_bytes(), ORIGINS["kaggle-chest-xray"].by_hand
    server.serve(url, whole)
    server.fault(urlsplit(url).path, whole.replace(b"film of train", b"film of trail"))
    with pytest.raises(CovidxrError, match="1 file .* in it cannot be used .Bad CRC-32"):
        get("kaggle-chest-xray")
    done = get("kaggle-chest-xray")
    assert len(done.new) + len(done.kept) == 2 == len(SOURCES["kaggle-chest-xray"](tmp_path))
    assert get("kaggle-chest-xray").new == [] and server.times("chest-xray-pneumonia") == 2


def test_a_mirror_must_be_an_address(tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDXR_MIRROR", "mirror.example.org")
    with pytest.raises(CovidxrError, match="mirror 'mirror.example.org' must be an address that begins with http"):
        fetch("figure1", tmp_path)


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "figure1").mkdir()
    (tmp_path / "figure1/fetched.json").write_text("[]")
    with pytest.raises(CovidxrError, match="fetched.json: not a record of fetched files; delete it"):
        fetch("figure1", tmp_path)


def test_the_frozen_list_names_all_that_the_readers_keep():
    assert len(_known.frozen("covid-chestxray")) == 1 + 267 and len(_known.frozen("figure1")) == 1 + 40


@pytest.mark.realdata
@pytest.mark.parametrize(("source", "films", "absent"), [("covid-chestxray", 267, 9), ("figure1", 40, 0)])
def test_the_real_tables_bring_the_films_that_there_are(shared, server, get, tmp_path, source, films, absent):
    folder = shared / "data" / ORIGINS[source].folder
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    serve(server, source, {name: path.read_bytes() for name, path in files.items()})
    done = get(source)
    assert len(done.new) == 1 + films - absent and len(done.absent) == absent
    rows = SOURCES[source](tmp_path)
    assert rows.drop(columns="path").equals(SOURCES[source](shared / "data").drop(columns="path"))
