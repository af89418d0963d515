"""Fetching, against a local server that cuts off, stalls, lies and refuses."""

from __future__ import annotations

import base64
import contextlib
import errno
import gzip
import hashlib
import io
import json
import stat
import struct
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import pytest
from local_server import Server, image_bytes
from PIL import Image

from covidxr.data import download
from covidxr.data.download import ATTEMPTS, WORKERS, Fetch, download_file, known_files
from covidxr.data.sources import SOURCES, fetch, load_source
from covidxr.run.cli import main
from covidxr.utils import CovidxrError

PNG = image_bytes(0)
NAMES = [f"image {n}.png" for n in range(12)]
COLUMNS = "patientid,finding,view,modality,filename,age,sex,license,url"


def serve(server, source, files):
    """Put a source's files where its addresses point."""
    for path, content in files.items():
        server.serve(SOURCES[source].origin.url(path), content)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("COVIDXR_MIRROR", raising=False)
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture
def planted(server, monkeypatch):
    """A small covid-chestxray-dataset of our own on the server, and no word of it in the frozen list."""
    monkeypatch.setattr(download, "known_files", lambda source: {})
    rows = [f"{n},COVID-19,PA,X-ray,{name},50,F,CC0," for n, name in enumerate(NAMES)]
    rows += ["90,COVID-19,L,X-ray,lateral.png,50,F,,", "91,COVID-19,Axial,CT,ct.png,50,F,,"]
    table = "\n".join([COLUMNS, *rows]).encode()
    images = {f"images/{name}": image_bytes(n) for n, name in enumerate(NAMES)}
    serve(server, "covid-chestxray", {"metadata.csv": table, **images})
    return server


@pytest.fixture
def get(server, tmp_path):
    """Fetch a source from the server into a temporary data folder."""
    return lambda source="covid-chestxray", **options: fetch(source, tmp_path, mirror=server.url, **options)


def arrived(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "fetched.json")


def assert_whole(planted, tmp_path):
    """Every image is there with the server's bytes, nothing else is, and the record says so."""
    folder = tmp_path / "covid-chestxray-dataset"
    assert arrived(folder) == sorted(["metadata.csv", *NAMES])
    record = json.loads((folder / "fetched.json").read_text())
    for url, content in planted.files.items():
        path = url.split(SOURCES["covid-chestxray"].origin.version + "/")[1]
        assert (folder / path).read_bytes() == content
        assert record["files"][path]["sha256"] == hashlib.sha256(content).hexdigest()
        assert record["files"][path]["url"] == planted.url + quote(url)


def test_a_full_fetch_brings_what_the_reader_needs_and_no_more(planted, get, tmp_path):
    done = get()
    assert_whole(planted, tmp_path)
    assert len(done.new) == 13 and done.bytes == sum(map(len, planted.files.values()))
    assert set(planted.asked.values()) == {1} and not planted.times("lateral.png") and not planted.times("ct.png")
    assert all(Path(path).read_bytes().startswith(PNG[:8]) for path in load_source("covid-chestxray", tmp_path).path)


def test_what_is_there_is_not_asked_for_again_and_needs_no_network(planted, get, tmp_path):
    get()
    done = fetch("covid-chestxray", tmp_path, mirror="http://127.0.0.1:9")
    assert (len(done.new), len(done.kept)) == (0, 13) and set(planted.asked.values()) == {1}


def test_a_fetch_cut_off_goes_on_without_fetching_finished_files_again(planted, get, tmp_path):
    planted.fault("image 7.png", *["cut"] * ATTEMPTS)
    with pytest.raises(CovidxrError, match=r"still missing 1 file \(image 7.png\): 127.0.0.1:\d+ broke off in the"):
        get()
    assert arrived(tmp_path) == sorted(["metadata.csv", *NAMES[:7], *NAMES[8:]])
    done = get()
    assert done.new == ["images/image 7.png"] and len(done.kept) == 12
    assert planted.times("image 7.png") == ATTEMPTS + 1 and planted.times("image 3.png") == 1
    assert_whole(planted, tmp_path)


def test_an_interrupted_fetch_goes_on_even_when_nothing_was_recorded(planted, get, tmp_path, monkeypatch):
    record = Fetch.add

    def interrupt(fetch, path, url):
        record(fetch, path, url)
        if len(fetch.files) == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Fetch, "add", interrupt)
        get()
    left = arrived(tmp_path)
    (tmp_path / "covid-chestxray-dataset/fetched.json").unlink()  # as after a loss of power
    assert 6 <= len(left) == len(get().kept)
    assert sum(planted.asked.values()) <= 13 + WORKERS  # those under way when the rest was given up


@pytest.mark.parametrize("fault", ["cut", 503, 429, b"<html>Please log in</html>"])
def test_what_passes_is_tried_again(planted, get, tmp_path, fault):
    planted.fault("image 5.png", fault, fault)
    planted.fault("metadata.csv", "cut")
    get()
    assert planted.times("image 5.png") == 3 and planted.times("metadata.csv") == 2
    assert_whole(planted, tmp_path)


def test_a_stall_is_cut_short_and_tried_again(planted, get, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    planted.fault("image 2.png", "stall")
    get()
    assert_whole(planted, tmp_path)
    planted.fault("image 4.png", *["stall"] * ATTEMPTS)
    (tmp_path / "covid-chestxray-dataset/images/image 4.png").unlink()
    with pytest.raises(CovidxrError, match=r"\(image 4.png\): 127.0.0.1:\d+ stalled: no byte in 0.3 s"):
        get()
    assert "image 4.png" not in arrived(tmp_path)
    get()
    assert_whole(planted, tmp_path)


def test_other_bytes_than_those_recorded_are_refused(planted, get, tmp_path):
    get()
    image = tmp_path / "covid-chestxray-dataset/images/image 1.png"
    image.unlink()
    planted.fault("image 1.png", *[image_bytes(1, size=20)] * ATTEMPTS)
    with pytest.raises(
        CovidxrError, match=r"\(image 1.png\): 127.\S+ sent wrong bytes: another sha256 checksum than the one known"
    ):
        get()
    assert not image.exists()
    planted.fault("image 1.png", bytes(len(image_bytes(1))))  # of the right size
    get()
    assert planted.times("image 1.png") == 1 + ATTEMPTS + 2
    assert_whole(planted, tmp_path)


def test_a_file_changed_here_is_reported_and_fetched_again(planted, get, tmp_path):
    get()
    (tmp_path / "covid-chestxray-dataset/images/image 9.png").write_bytes(PNG + b"painted over")
    done = get()
    assert done.changed == done.new == ["images/image 9.png"]
    assert "changed since they were fetched, so fetched again: 1 file (image 9.png)" in str(done)
    assert_whole(planted, tmp_path)


def test_files_that_the_server_does_not_have_are_named_and_stop_nothing(planted, get, tmp_path):
    for path in [path for path in planted.files if path.endswith(("image 3.png", "image 8.png"))]:
        del planted.files[path]
    done = get()
    assert done.absent == ["images/image 3.png", "images/image 8.png"] and len(done.new) == 11
    assert "the server does not have 2 files (image 3.png, image 8.png); their rows will be rejected" in str(done)
    assert planted.times("image 3.png") == 1


@pytest.mark.parametrize("left", [[], ["metadata.csv"]], ids=["nothing", "only the table"])
def test_a_server_without_any_image_is_an_error(planted, get, left):
    planted.files = {path: image for path, image in planted.files.items() if path.endswith(tuple(left) or "nothing")}
    with pytest.raises(CovidxrError, match="covid-chestxray: still missing .*the server has n"):
        get()


def test_a_host_out_of_reach_is_given_up_soon_and_what_is_missing_is_named(planted, get, tmp_path, monkeypatch):
    get()
    for name in NAMES[2:]:
        (tmp_path / "covid-chestxray-dataset/images" / name).unlink()
    tried = set()
    monkeypatch.setattr(download, "download_file", lambda job, stop: (tried.add(job.target), download_file(job, stop)))
    monkeypatch.setattr(download, "GIVE_UP_AFTER", 2)
    monkeypatch.setattr(download, "WORKERS", 1)
    with pytest.raises(CovidxrError) as caught:
        fetch("covid-chestxray", tmp_path, mirror="http://127.0.0.1:9")
    missing = "still missing 10 files (image 2.png, image 3.png, image 4.png and 7 more): 127.0.0.1:9 cannot be reached"
    assert missing in str(caught.value) and "3 files are in" in str(caught.value) and len(tried) <= 4
    assert all(way in str(caught.value) for way in ("HTTPS_PROXY", "--mirror", "COVIDXR_MIRROR", "--from FILE.zip"))


def test_offline_from_the_start_the_table_is_missing(server, tmp_path):
    with pytest.raises(CovidxrError, match=r"missing 1 file \(metadata.csv\): .*cannot be reached"):
        fetch("covid-chestxray", tmp_path, mirror="http://127.0.0.1:9")
    assert arrived(tmp_path) == []


def test_a_file_of_unknown_making_is_neither_believed_nor_overwritten(planted, get, tmp_path):
    image = tmp_path / "covid-chestxray-dataset/images/image 4.png"
    image.parent.mkdir(parents=True)
    image.write_text("a note to myself")
    with pytest.raises(CovidxrError, match="1 file .image 4.png. there already, but not as in version"):
        get()
    assert image.read_text() == "a note to myself"


def test_a_table_other_than_the_pinned_commits_is_refused(server, get, tmp_path):
    serve(server, "figure1", {"metadata.csv": b"patientid,sex,age,finding,view\nCOVID-00001,M,3,COVID-19,PA\n"})
    with pytest.raises(CovidxrError, match="figure1: .* sent wrong bytes: another sha256 checksum"):
        get("figure1")
    (tmp_path / "figure1/metadata.csv").write_text("mine")
    with pytest.raises(CovidxrError, match="1 file .metadata.csv. there already, but not as in version .* not fetched"):
        get("figure1")
    assert (tmp_path / "figure1/metadata.csv").read_text() == "mine"


def test_a_full_disk_is_named_and_leaves_no_half_file(planted, get, tmp_path, monkeypatch):
    def full(file, chunk):
        raise OSError(errno.ENOSPC, "No space left on device")

    get()
    for image in (tmp_path / "covid-chestxray-dataset/images").iterdir():
        image.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(download._LimitedFile, "write", full)
        with pytest.raises(CovidxrError, match="covid-chestxray-dataset: the disk is full; what has arrived is kept"):
            get()
    assert arrived(tmp_path) == ["metadata.csv"]
    get()
    assert_whole(planted, tmp_path)


def unannounced(cut=None, length=None):
    """A fault: the first bytes of a file, of which the server does not say, or says in nonsense, how many there are."""

    def answer(handler, content):
        handler.answer(**({"Content_Length": length} if length else {}))
        handler.wfile.write(content[:cut])

    return answer


@pytest.mark.parametrize("cut", [300, -1, -20], ids=["in half", "by a byte", "behind its pixels"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_cut_short_is_never_recorded_as_whole(planted, get, tmp_path, kind, cut):
    path = next(path for path in planted.files if path.endswith("image 7.png"))
    planted.files[path] = image_bytes(7, kind)
    planted.fault("image 7.png", *[unannounced(cut)] * ATTEMPTS)
    with pytest.raises(CovidxrError, match=r"\(image 7.png\): 127.0.0.1:\d+ sent wrong bytes: not a whole image: "):
        get()
    planted.fault("image 7.png", unannounced(cut), unannounced())
    get()
    assert_whole(planted, tmp_path)


def test_an_image_cut_short_that_lies_there_is_not_taken_for_whole(planted, get, tmp_path):
    image = tmp_path / "covid-chestxray-dataset/images/image 4.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(image_bytes(4)[:300])
    with pytest.raises(CovidxrError, match=r"1 file .image 4.png. there already, .* .not a whole image: the end"):
        get()
    assert image.read_bytes() == image_bytes(4)[:300]


def test_an_image_without_contrast_is_whole(planted, get, tmp_path):
    blank = io.BytesIO()
    Image.new("L", (24, 24)).save(blank, "PNG")
    planted.files[next(path for path in planted.files if path.endswith("image 7.png"))] = blank.getvalue()
    get()
    assert_whole(planted, tmp_path)


@pytest.mark.parametrize("length", [None, "abc", "-5", "²", "9" * 5000])
def test_a_length_that_is_none_costs_nothing(planted, get, tmp_path, length):
    planted.fault("image 7.png", unannounced(length=length))
    with contextlib.suppress(CovidxrError):  # of the longest, which is refused
        get()
    get()
    assert_whole(planted, tmp_path)


@pytest.mark.parametrize(
    "asked", ["²", "soon", "-1", "9" * 5000, "Mon, 01 Jan 9999999 00:00:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"]
)
def test_a_pause_asked_for_in_nonsense_costs_nothing(planted, get, tmp_path, monkeypatch, asked):
    monkeypatch.setattr(download, "LONGEST_PAUSE", 0.1)
    planted.fault("image 7.png", lambda handler, content: handler.answer(503, Retry_After=asked))
    get()
    assert planted.times("image 7.png") == 2
    assert_whole(planted, tmp_path)


def test_a_pause_asked_for_is_kept_up_to_a_limit(planted, get, monkeypatch):
    monkeypatch.setattr(download, "LONGEST_PAUSE", 0.7)
    planted.fault("image 7.png", lambda handler, content: handler.answer(503, Retry_After="7"))
    start = time.monotonic()
    get()
    assert 0.7 < time.monotonic() - start < 6


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        *[(address, "what is no address") for address in ("http://[::1", "ftp://h/a", "http://h:x/")],
        (f"http://{'a' * 300}.example/", "redirects|cannot be reached"),
        ("\xff\xfe", "what is no address"),
        ("", "not an image|not a whole image"),
        ("http://", "redirects without end"),
        ("#again", "redirects without end"),
    ],
)
def test_redirects_that_lead_nowhere_are_one_sentence(planted, get, address, reason):
    planted.fault("image 7.png", *[lambda handler, content: handler.answer(302, Location=address)] * 200)
    with pytest.raises(CovidxrError, match=rf"\(image 7.png\): .*({reason})"):
        get()


@pytest.mark.parametrize(
    "answer",
    [
        b"\0\xff what?\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 7\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot packed",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: " + b"gzip, " * 50 + b"gzip\r\n\r\n" + gzip.compress(b"a"),
        b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff;;=\r\nContent-Type: \xff\r\n\r\n",
        b"HTTP/1.1 999 \x1b[31mred\r\n\r\n",
        b"",
    ],
    ids=lambda answer: repr(answer[:40]),
)
def test_an_answer_that_is_none_is_one_sentence_of_our_own_words(planted, get, answer):
    planted.fault("image 7.png", *[lambda handler, content: handler.wfile.write(answer)] * ATTEMPTS)
    with pytest.raises(CovidxrError, match=r"missing 1 file \(image 7.png\): 127.0.0.1:\d+ [^\x1b]+\. 12 files are in"):
        get()


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("127.0.0.1:9", "is behind a proxy that cannot be reached"),
        ("[127.0.0.1", "the proxy set here"),
        ("h:x", "the proxy"),
    ],
)
def test_the_password_of_a_proxy_is_not_shown(tmp_path, monkeypatch, proxy, reason):
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("HTTP_PROXY", f"http://reader:secret@{proxy}")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(CovidxrError, match=reason) as caught:
        fetch("covid-chestxray", tmp_path, mirror="http://images.example")
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def drip(handler, send):
    """A byte every now and then, until nobody listens any more."""
    while not handler.server.released.wait(0.02):
        send(b"1" * 20)


def slow_body(handler, content):
    handler.answer(Content_Length="60000")
    drip(handler, handler.wfile.write)


def slow_body_of_unknown_length(handler, content):
    handler.answer()
    handler.wfile.write(content)
    drip(handler, handler.wfile.write)


@pytest.mark.parametrize(
    "fault",
    [slow_body, slow_body_of_unknown_length],
    ids=lambda f: f.__name__,
)
def test_a_server_that_never_ends_is_hung_up_on(planted, get, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(download, "GRACE_SECONDS", 1.5)
    monkeypatch.setattr(download, "SLOWEST", 200_000)
    planted.fault("image 7.png", fault)
    start = time.monotonic()
    with pytest.raises(CovidxrError, match=r"\(image 7.png\): .* sends less than 200,000 bytes a second, the limit"):
        get()
    assert time.monotonic() - start < 12
    get()
    assert_whole(planted, tmp_path)


def endless(handler, content):
    handler.answer()
    while True:
        handler.wfile.write(bytes(1 << 16))


def packed_bomb(handler, content):
    handler.answer(Content_Encoding="gzip")
    handler.wfile.write(gzip.compress(bytes(60_000_000)))


@pytest.mark.parametrize("fault", [endless, packed_bomb], ids=lambda fault: fault.__name__)
def test_a_server_that_sends_too_much_is_refused_once_and_for_all(planted, get, tmp_path, fault):
    planted.fault("image 7.png", *[fault] * ATTEMPTS)
    tracemalloc.start()
    with pytest.raises(CovidxrError, match=r"\(image 7.png\): .* sends more than 50,000,000 bytes, the limit for this"):
        get()
    assert tracemalloc.get_traced_memory()[1] < 200_000_000  # of them 60 are the server's own
    tracemalloc.stop()
    assert planted.times("image 7.png") == 1 and "image 7.png" not in arrived(tmp_path)
    planted.faults.clear()
    get()
    assert_whole(planted, tmp_path)


def test_the_body_of_a_redirect_is_not_read(planted, get, tmp_path):
    def redirect(handler, content):
        handler.send_response(302)
        handler.send_header("Location", handler.path)
        endless(handler, content)

    planted.fault("image 7.png", redirect)
    get()
    assert planted.times("image 7.png") == 2
    assert_whole(planted, tmp_path)


@pytest.mark.parametrize(
    ("limit", "most", "message"),
    [
        ("MAX_TOTAL_BYTES", 3000, "more than 3,000 bytes"),
        ("MAX_FILES", 10, "12 files; the limit is 10"),
    ],
)
def test_a_source_has_limits_too(planted, get, monkeypatch, limit, most, message):
    monkeypatch.setattr(download, limit, most)
    with pytest.raises(CovidxrError, match=f"covid-chestxray: refused, since it has {message}"):
        get()


def test_a_mirrors_password_is_sent_and_neither_kept_nor_shown(planted, tmp_path, capsys):
    mirror = planted.url.replace("//", "//reader:s%40cret@")
    planted.fault("image 3.png", *[503] * ATTEMPTS)
    assert main(["data", "covid-chestxray", "--data-dir", str(tmp_path), "--mirror", mirror]) == 1
    assert main(["data", "covid-chestxray", "--data-dir", str(tmp_path), "--mirror", mirror]) == 0
    assert set(planted.logins) == {"Basic " + base64.b64encode(b"reader:s@cret").decode()}
    assert_whole(planted, tmp_path)
    record = (tmp_path / "covid-chestxray-dataset/fetched.json").read_text()
    shown = "".join([record, *capsys.readouterr()])
    assert "image 3.png" in shown and not any(secret in shown for secret in ("s%40cret", "s@cret", "reader"))


def test_a_password_shows_in_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))
    mirror = "http://reader:secret@127.0.0.1:9"
    with pytest.raises(CovidxrError) as caught:
        fetch("covid-chestxray", tmp_path, mirror=mirror)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_password_is_not_handed_on_to_another_host(planted, get, tmp_path):
    with Server() as other:
        threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
        other.files = planted.files
        for path in planted.files:
            planted.fault(path, lambda handler, content: handler.answer(302, Location=other.url + handler.path))
        fetch("covid-chestxray", tmp_path, mirror=planted.url.replace("//", "//reader:secret@"))
        other.shutdown()
    assert set(other.logins) == {None} and None not in planted.logins


@pytest.mark.parametrize(
    "mirror",
    [
        "ftp://reader:secret@host",
        "http://reader:secret@host:port",
        "http://reader:sec/secret@host",
        "reader:secret@host",
    ]
    + ["http://[reader:secret@host", "http://reader:80/secret@host", "http://reader:secret@host?a=b", "http://"],
)
def test_a_mirror_that_is_no_address_is_named_without_its_password(tmp_path, mirror):
    with pytest.raises(CovidxrError, match="mirror '[^']*' must be an address that begins with http") as caught:
        fetch("figure1", tmp_path, mirror=mirror)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "listing",
    [
        "[]",
        "{}",
        "5",
        '{"tree": 5}',
        '{"tree": [5]}',
        '{"tree": ["a"]}',
        '{"tree": [{"path": 5, "sha": "a"}]}',
        "[" * 9999,
    ]
    + ['{"tree": [{"path": "a", "sha": 5}]}', "null", "", "\xff"]
    + ['{"tree": [{"path": [], "sha": "a"}]}', '{"tree": [], "truncated": true}', '{"tree": [{"path": "a"}]}'],
)
def test_a_list_of_files_that_is_none_is_refused(server, get, tmp_path, listing):
    serve(server, "darkcovidnet", {"listing.json": listing.encode("latin-1")})
    with pytest.raises(
        CovidxrError, match="missing 1 file .listing.json.: .* wrong bytes: (not GitHub's whole list|an empty)"
    ):
        get("darkcovidnet")
    (tmp_path / "darkcovidnet").mkdir(exist_ok=True)
    (tmp_path / "darkcovidnet/listing.json").write_text(listing, encoding="latin-1")
    with pytest.raises(CovidxrError, match="listing.json. there already, but not as in version"):
        get("darkcovidnet")


@pytest.mark.parametrize("name", ["a\ud800.png", "a\0.png", "..\\..\\a.png", ".a.png", "a\n.png"])
def test_names_that_no_image_can_have_are_left_out(server, get, tmp_path, name):
    paths = [f"X-Ray Image DataSet/Pneumonia/{one}" for one in (name, "b.png")]
    tree = [{"path": path, "size": len(PNG), "sha": ""} for path in paths]
    serve(server, "darkcovidnet", {"listing.json": json.dumps({"tree": tree}).encode(), paths[1]: PNG})
    get("darkcovidnet")
    assert arrived(tmp_path) == ["b.png", "listing.json"]


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        "5",
        "null",
        '{"files": []}',
        '{"files": {"a": 5}}',
        "[" * 9999,
    ]
    + [
        '{"files": {"a": {"size": 9, "sha256": 5}}}',
        '{"files": null}',
        "{",
    ],
)
def test_a_record_of_wrong_types_is_named(tmp_path, record):
    (tmp_path / "figure1").mkdir()
    (tmp_path / "figure1/fetched.json").write_text(record)
    with pytest.raises(CovidxrError, match="fetched.json: not a (record of fetched files|JSON file).*; delete it"):
        fetch("figure1", tmp_path)


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "figure1/fetched.json").mkdir(parents=True)
    with pytest.raises(CovidxrError, match="fetched.json cannot be read"):
        fetch("figure1", tmp_path)


def test_what_a_killed_fetch_left_is_swept(planted, get, tmp_path):
    image = tmp_path / "covid-chestxray-dataset/images/image 1.png"
    script = (
        "import os, signal, sys\nfrom covidxr.utils import atomic_path\nwith atomic_path(sys.argv[1]) as half:\n"
        "    half.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(image)], check=False)
    assert len(arrived(tmp_path)) == 1
    get()
    assert_whole(planted, tmp_path)


def test_the_list_of_darkcovidnets_commit_brings_its_images_with_gits_own_checksums(server, get, tmp_path):
    root = "X-Ray Image DataSet"
    names = [f"{root}/{folder}/0{n}_000.png" for folder in ("No_findings", "Pneumonia") for n in range(3)]
    images = {name: image_bytes(n) for n, name in enumerate(names)}
    others = [f"{root}/Covid-19/a.png", "../escape.png", f"{root}/Pneumonia/../../../up.png", "README.md"]
    blobs = {**images, **dict.fromkeys(others, PNG)}
    sums = {path: hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest() for path, blob in blobs.items()}
    tree = [{"path": path, "size": len(blob), "sha": sums[path]} for path, blob in blobs.items()]
    listing = json.dumps({"tree": tree, "truncated": False}).encode()
    serve(server, "darkcovidnet", {"listing.json": listing, **images})
    server.fault("Pneumonia/01_000.png", images[names[4]][:-1] + b"?")  # the right size, and an image
    done = get("darkcovidnet")
    assert sorted(done.new) == sorted(["listing.json", *images]) and server.times("Pneumonia/01_000.png") == 2
    assert load_source("darkcovidnet", tmp_path).label.tolist() == ["No finding"] * 3 + ["Pneumonia"] * 3
    assert not (tmp_path.parent / "escape.png").exists()


def test_the_kaggle_set_comes_from_a_mirror_even_when_the_first_archive_is_broken(server, get, tmp_path):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as packed:
        for name in ("train/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person1_virus_1.jpeg"):
            packed.writestr(f"chest_xray/{name}", image_bytes(len(name), "JPEG"))
    whole, url = (tmp_path / "whole.zip").read_bytes(), SOURCES["kaggle-chest-xray"].origin.by_hand
    server.serve(url, whole)
    at = whole.index(b"\xff\xd9")  # the end of the first image
    server.fault(urlsplit(url).path, whole[: at - 9] + bytes(3) + whole[at - 6 :])
    with pytest.raises(CovidxrError, match="1 file .* in it cannot be used .Bad CRC-32"):
        get("kaggle-chest-xray")
    done = get("kaggle-chest-xray")
    assert len(done.new) + len(done.kept) == 2 == len(load_source("kaggle-chest-xray", tmp_path))
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
    assert list(known_files("covid-chestxray")) == ["metadata.csv"] and len(known_files("figure1")) == 1 + 40


@pytest.mark.realdata
@pytest.mark.parametrize(("source", "images", "absent"), [("covid-chestxray", 267, 9), ("figure1", 40, 0)])
def test_the_real_tables_bring_the_images_that_there_are(shared, server, get, tmp_path, source, images, absent):
    folder = shared / "data" / SOURCES[source].origin.folder
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    serve(server, source, {name: path.read_bytes() for name, path in files.items()})
    done = get(source)
    assert len(done.new) == 1 + images - absent and len(done.absent) == absent
    rows = load_source(source, tmp_path)
    assert rows.drop(columns="path").equals(load_source(source, shared / "data").drop(columns="path"))


PNG_ARCHIVE = image_bytes(0)


def arrived_archive(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "fetched.json")


def pack(path, members):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


KAGGLE = {
    f"chest_xray/{again}{part}/{kind}.jpeg": image_bytes(len(part + kind), "JPEG")
    for again in ("__MACOSX/", "chest_xray/", "")
    for part in ("train", "test", "val")
    for kind in ("NORMAL/IM-0001-0001", "PNEUMONIA/person1_bacteria_1")
}


def test_the_kaggle_set_comes_out_of_an_archive_got_by_hand(tmp_path):
    archive = pack(tmp_path / "archive.zip", {**KAGGLE, "chest_xray/train/NORMAL/.DS_Store": b"", "evil.sh": b"rm"})
    done = fetch("kaggle-chest-xray", tmp_path / "data", archive=archive)
    assert len(done.new) == 6 and len(arrived_archive(tmp_path / "data")) == 6
    rows = load_source("kaggle-chest-xray", tmp_path / "data")
    assert rows.label.value_counts().to_dict() == {"Normal": 3, "Bacteria": 3}
    assert len(fetch("kaggle-chest-xray", tmp_path / "data").kept) == 6  # and asks nobody


@pytest.mark.parametrize("source", ["covid-chestxray", "darkcovidnet"])
def test_the_archive_of_a_commit_holds_what_the_reader_needs(tmp_path, source, monkeypatch):
    monkeypatch.setattr(download, "known_files", lambda source: {})
    folder = {"covid-chestxray": "images", "darkcovidnet": "X-Ray Image DataSet/Pneumonia"}[source]
    members = {
        f"top/{folder}/a.png": PNG_ARCHIVE,
        "top/README.md": b"-",
        "top/X-Ray Image DataSet/Covid-19/a.png": PNG_ARCHIVE,
    }
    members["top/metadata.csv"] = (
        b"patientid,finding,view,modality,filename,age,sex,license,url\n1,COVID-19,PA,X-ray,a.png,50,F,,\n"
    )
    done = fetch(source, tmp_path / "data", archive=pack(tmp_path / "a.zip", members))
    assert load_source(source, tmp_path / "data").path.tolist() == [str(done.folder / folder / "a.png")]
    assert "README.md" not in arrived_archive(tmp_path / "data")


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
    with pytest.raises(
        CovidxrError, match="kagglehub could not fetch it .ConnectionError: Max retries.*--from FILE.zip"
    ):
        fetch("kaggle-chest-xray", tmp_path)
    monkeypatch.setattr(kagglehub, "dataset_download", download)
    assert len(fetch("kaggle-chest-xray", tmp_path).new) == 6
    assert len(load_source("kaggle-chest-xray", tmp_path)) == 6 and not (tmp_path / "chest_xray/.partial").exists()


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
    archive = pack(tmp_path / "a.zip", {"top/metadata.csv": b"a", "top/images/b.png": PNG_ARCHIVE, member: PNG_ARCHIVE})
    with pytest.raises(
        CovidxrError, match="a.zip: refused, since its member .* (would be written outside|is a symbolic link)"
    ):
        fetch("figure1", tmp_path / "data", archive=archive)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_unpacks_without_bounds_is_refused(tmp_path, method):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", method) as packed:
        packed.writestr("top/images/b.png", PNG_ARCHIVE)
    with pytest.raises(CovidxrError, match=r"a.zip: refused, since its member 'top/images/b.png' is packed in another"):
        fetch("figure1", tmp_path / "data", archive=archive)


@pytest.mark.parametrize(
    ("limit", "most", "message"),
    [
        ("MAX_DIRECTORY_BYTES", 1000, "its list of files has more than 1,000 bytes, the limit"),
        ("MAX_FILES", 20, "has 50 files; the limit is 20"),
        ("MAX_TOTAL_BYTES", 500, "unpacks to 1,000 bytes, .* the limits are 500"),
    ],
)
def test_an_archive_of_too_much_is_refused_before_anything_is_written(tmp_path, monkeypatch, limit, most, message):
    monkeypatch.setattr(download, limit, most)
    archive = pack(tmp_path / "a.zip", {f"top/images/{n:02}.png": bytes(20) for n in range(50)})
    with pytest.raises(CovidxrError, match=message):
        fetch("figure1", tmp_path / "data", archive=archive)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def rewritten(archive, old, new):
    archive.write_bytes(archive.read_bytes().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda archive: rewritten(archive, PNG_ARCHIVE[:200], PNG_ARCHIVE[:199] + b"?"), "Bad CRC-32"),
        (
            lambda archive: rewritten(
                archive, struct.pack("<L", len(PNG_ARCHIVE)), struct.pack("<L", len(PNG_ARCHIVE) - 40)
            ),
            "Bad CRC-32",
        ),
        (
            lambda archive: pack(archive, {"top/images/a.png": PNG_ARCHIVE[:300], "top/images/b.png": PNG_ARCHIVE}),
            "not a whole image",
        ),
        (
            lambda archive: pack(archive, {"top/images/a.png": b"<html>", "top/images/b.png": PNG_ARCHIVE}),
            "not an image",
        ),
    ],
    ids=["other bytes", "another size", "packed in half", "not an image"],
)
def test_a_member_that_is_not_whole_is_named_and_not_stored(tmp_path, damage, reason):
    archive = pack(tmp_path / "a.zip", {"top/images/a.png": PNG_ARCHIVE, "top/images/b.png": image_bytes(1, size=20)})
    damage(archive)
    with pytest.raises(CovidxrError, match=rf"1 file .a.png. in it cannot be used .*{reason}"):
        fetch("figure1", tmp_path / "data", archive=archive)
    assert arrived_archive(tmp_path / "data") == ["b.png"]


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 1000)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("top/images/b.png", bytes(1001))
    with pytest.raises(CovidxrError, match="refused, since it unpacks to 1,001 bytes"):
        fetch("figure1", tmp_path / "data", archive=archive)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a whole zip archive"), (None, "no such file"), (pack, "holds no images of figure1")],
    ids=["empty", "absent", "of something else"],
)
def test_an_archive_that_is_none_is_named(tmp_path, content, message):
    archive = tmp_path / "a.zip"
    if content is pack:
        pack(archive, {"README.md": b"images? none"})
    elif content is not None:
        archive.write_bytes(content)
    with pytest.raises(CovidxrError, match=f"a.zip:? {message}"):
        fetch("figure1", tmp_path / "data", archive=archive)
