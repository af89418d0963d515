"""Fetching, against a local server that cuts off, stalls, lies and refuses, and from archives that are not what they say."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import stat
import threading
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

import pandas as pd
import pytest

from covidxr.errors import CovidxrError
from covidxr.sources import SOURCES, _archive, _download, _known, _ledger
from covidxr.sources.fetch import ORIGINS, fetch

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = [f"film {n}.png" for n in range(12)]
COLUMNS = "patientid,finding,view,modality,filename,age,sex,license,url"


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; ``faults[path]`` holds what it does instead, request by request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.asked, self.released = {}, {}, Counter(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def serve_source(self, name, files):
        """Put a source's files where its addresses point."""
        for path, content in files.items():
            self.files[unquote(urlsplit(ORIGINS[name].url(path)).path)] = content

    def fault(self, path, *faults):
        """What to do when the file is asked for the first time, the second time, …"""
        self.faults[next(known for known in self.files if known.endswith(path))] = list(faults)

    def times(self, path):
        """How often a file was asked for."""
        return sum(count for known, count in self.asked.items() if known.endswith(path))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked[path] += 1
        faults = self.server.faults.get(path)
        fault = faults.pop(0) if faults else None
        content = fault if isinstance(fault, bytes) else self.server.files.get(path)
        if content is None or isinstance(fault, int):
            return self.send_error(fault or 404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault in ("cut", "stall") else content)
        if fault == "stall":
            self.server.released.wait(10)
        self.close_connection = True

    def log_message(self, *_):
        """Say nothing."""


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
    server.serve_source("covid-chestxray", {"metadata.csv": table, **films})
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
    assert all(pd.Series(SOURCES["covid-chestxray"](tmp_path).path).map(lambda path: open(path, "rb").read(4) == PNG[:4]))


def test_what_is_there_is_not_asked_for_again_and_needs_no_network(planted, get, tmp_path):
    get()
    done = fetch("covid-chestxray", tmp_path, mirror="http://127.0.0.1:9")
    assert (len(done.new), len(done.kept)) == (0, 13) and set(planted.asked.values()) == {1}


def test_a_fetch_cut_off_goes_on_without_fetching_finished_files_again(planted, get, tmp_path):
    planted.fault("film 7.png", *["cut"] * _download.ATTEMPTS)
    with pytest.raises(CovidxrError, match=r"still missing 1 file \(film 7.png\): 127.0.0.1:\d+ broke off in the middle"):
        get()
    assert arrived(tmp_path) == sorted(["metadata.csv", *NAMES[:7], *NAMES[8:]])
    done = get()
    assert done.new == ["images/film 7.png"] and len(done.kept) == 12
    assert planted.times("film 7.png") == _download.ATTEMPTS + 1 and planted.times("film 3.png") == 1
    assert_whole(planted, tmp_path)


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
    with pytest.raises(CovidxrError, match=r"\(film 1.png\): 127.0.0.1:\d+ sent wrong bytes: 20 bytes instead of 2,208"):
        get()
    assert not film.exists()
    planted.fault("film 1.png", PNG + b"x" * 2200)  # of the right size
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
    planted.files = {path: film for path, film in planted.files.items() if not path.endswith(("film 3.png", "film 8.png"))}
    done = get()
    assert sorted(done.absent) == ["images/film 3.png", "images/film 8.png"] and len(done.new) == 11
    assert "the server does not have 2 files (film 3.png, film 8.png)" in str(done).replace("film 8.png, film 3", "film 3.png, film 8")
    assert planted.times("film 3.png") == 1


@pytest.mark.parametrize("left", [[], ["metadata.csv"]], ids=["nothing", "only the table"])
def test_a_server_without_any_film_is_an_error(planted, get, left):
    planted.files = {path: film for path, film in planted.files.items() if path.endswith(tuple(left) or "nothing")}
    with pytest.raises(CovidxrError, match="covid-chestxray: still missing .*the server has n"):
        get()


def test_a_host_out_of_reach_is_given_up_soon_and_what_is_missing_is_named(planted, get, tmp_path, monkeypatch):
    get()
    films = sorted((tmp_path / "covid-chestxray-dataset/images").iterdir())
    for film in films[2:]:
        film.unlink()
    tried = []
    once = _download._download_once
    monkeypatch.setattr(_download, "_download_once", lambda job, meter: (tried.append(job.path), once(job, meter))[1])
    monkeypatch.setattr(_download, "GIVE_UP_AFTER", 2)
    monkeypatch.setattr(_download, "WORKERS", 1)
    with pytest.raises(CovidxrError) as caught:
        fetch("covid-chestxray", tmp_path, mirror="http://127.0.0.1:9")
    assert len(set(tried)) <= 3
    assert "still missing 10 files (film 10.png" not in str(caught.value)  # NAMES[2:], in the table's order
    assert "still missing 10 files (film 2.png, film 3.png, film 4.png and 7 more): 127.0.0.1:9 cannot be reached" in str(
        caught.value
    ).replace("film 10.png, film 11.png, ", "")
    assert "HTTPS_PROXY" in str(caught.value) and "--mirror" in str(caught.value) and "--from" in str(caught.value)


def test_offline_from_the_start_the_frozen_list_names_what_is_missing(server, tmp_path):
    with pytest.raises(CovidxrError, match=r"still missing 268 files \(metadata.csv, .* and 265 more\): .*cannot be reached"):
        fetch("covid-chestxray", tmp_path, mirror="http://127.0.0.1:9")
    assert arrived(tmp_path) == []


def test_a_table_other_than_the_pinned_commits_is_refused(server, get, tmp_path):
    server.serve_source("figure1", {"metadata.csv": b"patientid,sex,age,finding,view\nCOVID-00001,M,3,COVID-19,PA\n"})
    with pytest.raises(CovidxrError, match="figure1: .* sent wrong bytes: 59 bytes instead of 9,246"):
        get("figure1")
    (tmp_path / "figure1").mkdir()
    (tmp_path / "figure1/metadata.csv").write_text("mine")
    with pytest.raises(CovidxrError, match="1 file .metadata.csv. there already, but not as in version .* not fetched by this"):
        get("figure1")
    assert (tmp_path / "figure1/metadata.csv").read_text() == "mine"


def test_a_full_disk_is_named_and_leaves_no_half_file(planted, get, tmp_path, monkeypatch):
    def open_on_full_disk(path, mode):
        file = open(path, mode)  # noqa: SIM115
        file.write(b"half")
        file.write = lambda chunk: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        return file

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
    films = {f"{root}/{folder}/0{n}_000.png": PNG + bytes([n]) for folder in ("No_findings", "Pneumonia") for n in range(3)}
    others = {f"{root}/Covid-19/a.png": PNG, "../escape.png": PNG, f"{root}/Pneumonia/../../../up.png": PNG, "README.md": b""}
    tree = [
        {"path": path, "type": "blob", "size": len(film), "sha": hashlib.sha1(b"blob %d\0" % len(film) + film).hexdigest()}
        for path, film in {**films, **others}.items()
    ]
    listing = json.dumps({"tree": tree, "truncated": False}).encode()
    server.serve_source("darkcovidnet", {"listing.json": listing, **films})
    server.fault("Pneumonia/01_000.png", PNG + b"?")  # the right size, and an image
    done = get("darkcovidnet")
    assert sorted(done.new) == sorted(["listing.json", *films]) and server.times("Pneumonia/01_000.png") == 2
    assert SOURCES["darkcovidnet"](tmp_path).label.tolist() == ["No finding"] * 3 + ["Pneumonia"] * 3
    assert not (tmp_path.parent / "escape.png").exists()


def pack(path, members):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


KAGGLE = {
    f"chest_xray/{again}{part}/{kind}.jpeg": b"\xff\xd8\xff" + f"{part}{kind}".encode()
    for again in ("__MACOSX/", "chest_xray/", "")
    for part in ("train", "test", "val")
    for kind in ("NORMAL/IM-0001-0001", "PNEUMONIA/person1_bacteria_1")
}


def test_the_kaggle_set_comes_out_of_an_archive_got_by_hand(tmp_path):
    archive = pack(tmp_path / "archive.zip", {**KAGGLE, "chest_xray/train/NORMAL/.DS_Store": b"", "evil.sh": b"rm"})
    done = fetch("kaggle-chest-xray", tmp_path / "data", archive=archive)
    assert len(done.new) == 6 and len(arrived(tmp_path / "data")) == 6
    rows = SOURCES["kaggle-chest-xray"](tmp_path / "data")
    assert rows.label.value_counts().to_dict() == {"Normal": 3, "Bacteria": 3}
    assert len(fetch("kaggle-chest-xray", tmp_path / "data").kept) == 6  # and asks nobody


def test_the_kaggle_set_comes_from_a_mirror_even_when_the_first_archive_is_broken(server, get, tmp_path):
    whole = pack(tmp_path / "whole.zip", KAGGLE).read_bytes()
    path = urlsplit(ORIGINS["kaggle-chest-xray"].by_hand).path
    server.files[path] = whole
    server.fault(path, whole.replace(b"trainNORMAL", b"trainABNORM"))  # a film's checksum in the archive is wrong now
    with pytest.raises(CovidxrError, match="in it cannot be used .Bad CRC-32"):
        get("kaggle-chest-xray")
    assert len(get("kaggle-chest-xray").new) > 0
    assert len(SOURCES["kaggle-chest-xray"](tmp_path)) == 6 and not (tmp_path / "chest_xray/.partial").exists()


def test_the_kaggle_set_comes_through_kagglehub_and_goes_on_after_a_failure(tmp_path, monkeypatch):
    import kagglehub

    def fail(handle):
        raise ConnectionError("Max retries exceeded")

    def download(handle):
        assert handle == "paultimothymooney/chest-xray-pneumonia/versions/2"
        cache = tmp_path / "chest_xray/.partial"
        assert kagglehub.config.get_cache_folder() == str(cache)
        zipfile.ZipFile(pack(tmp_path / "a.zip", KAGGLE)).extractall(cache / "versions/2")
        return str(cache / "versions/2")

    monkeypatch.delenv("COVIDXR_MIRROR", raising=False)
    monkeypatch.setattr(kagglehub, "dataset_download", fail)
    with pytest.raises(CovidxrError, match="kagglehub could not fetch it .ConnectionError: Max retries.*--from FILE.zip"):
        fetch("kaggle-chest-xray", tmp_path)
    monkeypatch.setattr(kagglehub, "dataset_download", download)
    assert len(fetch("kaggle-chest-xray", tmp_path).new) == 6
    assert len(SOURCES["kaggle-chest-xray"](tmp_path)) == 6 and not (tmp_path / "chest_xray/.partial").exists()


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "member",
    ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "..\\evil.png", "C:\\evil.png", link("images/a.png")],
    ids=["up", "down and up", "absolute", "backslash", "drive", "symlink"],
)
def test_an_archive_that_climbs_out_is_refused_whole(tmp_path, member):
    archive = pack(tmp_path / "a.zip", {"top/metadata.csv": b"a", "top/images/b.png": PNG, member: PNG})
    with pytest.raises(CovidxrError, match="a.zip: refused, since its member .* (would be written outside|is a symbolic link)"):
        fetch("figure1", tmp_path / "data", archive=archive)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_archive, "MAX_FILE_BYTES", 1000)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("top/images/b.png", bytes(1001))
    with pytest.raises(CovidxrError, match="refused, since it unpacks to 1,001 bytes"):
        fetch("figure1", tmp_path / "data", archive=archive)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a whole zip archive"), (None, "no such file"), (pack, "holds no films of figure1")],
    ids=["empty", "absent", "of something else"],
)
def test_an_archive_that_is_none_is_named(tmp_path, content, message):
    archive = tmp_path / "a.zip"
    if content is pack:
        pack(archive, {"README.md": b"films? none"})
    elif content is not None:
        archive.write_bytes(content)
    with pytest.raises(CovidxrError, match=f"a.zip:? {message}"):
        fetch("figure1", tmp_path / "data", archive=archive)


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
    assert len(_known.frozen("covid-chestxray")) == 1 + 267 and len(_known.frozen("figure1")) == 1 + 55


@pytest.mark.realdata
@pytest.mark.parametrize(("source", "films", "absent"), [("covid-chestxray", 267, 9), ("figure1", 40, 0)])
def test_the_real_tables_bring_the_films_that_there_are(shared, server, get, tmp_path, source, films, absent):
    folder = shared / "data" / ORIGINS[source].folder
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    server.serve_source(source, {name: path.read_bytes() for name, path in files.items()})
    done = get(source)
    assert len(done.new) == 1 + films - absent and len(done.absent) == absent
    rows = SOURCES[source](tmp_path)
    assert rows.drop(columns="path").equals(SOURCES[source](shared / "data").drop(columns="path"))
