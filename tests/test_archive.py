"""Sources out of archives: by hand, through kagglehub, and from archives that are not what they say."""

from __future__ import annotations

import stat
import struct
import zipfile

import pytest
from local_server import image_bytes

from covidxr.errors import CovidxrError
from covidxr.sources import SOURCES, _archive, _ledger
from covidxr.sources.fetch import fetch

PNG = image_bytes(0)


def arrived(folder):
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
    assert len(done.new) == 6 and len(arrived(tmp_path / "data")) == 6
    rows = SOURCES["kaggle-chest-xray"](tmp_path / "data")
    assert rows.label.value_counts().to_dict() == {"Normal": 3, "Bacteria": 3}
    assert len(fetch("kaggle-chest-xray", tmp_path / "data").kept) == 6  # and asks nobody


@pytest.mark.parametrize("source", ["covid-chestxray", "darkcovidnet"])
def test_the_archive_of_a_commit_holds_what_the_reader_needs(tmp_path, source, monkeypatch):
    monkeypatch.setattr(_ledger, "frozen", lambda source: {})
    folder = {"covid-chestxray": "images", "darkcovidnet": "X-Ray Image DataSet/Pneumonia"}[source]
    members = {f"top/{folder}/a.png": PNG, "top/README.md": b"-", "top/X-Ray Image DataSet/Covid-19/a.png": PNG}
    members["top/metadata.csv"] = (
        b"patientid,finding,view,modality,filename,age,sex,license,url\n1,COVID-19,PA,X-ray,a.png,50,F,,\n"
    )
    done = fetch(source, tmp_path / "data", archive=pack(tmp_path / "a.zip", members))
    assert SOURCES[source](tmp_path / "data").path.tolist() == [str(done.folder / folder / "a.png")]
    assert "README.md" not in arrived(tmp_path / "data")


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
    with pytest.raises(
        CovidxrError, match="a.zip: refused, since its member .* (would be written outside|is a symbolic link)"
    ):
        fetch("figure1", tmp_path / "data", archive=archive)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_unpacks_without_bounds_is_refused(tmp_path, method):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", method) as packed:
        packed.writestr("top/images/b.png", PNG)
    with pytest.raises(CovidxrError, match=r"a.zip: refused, since its member 'top/images/b.png' is packed in another"):
        fetch("figure1", tmp_path / "data", archive=archive)


@pytest.mark.parametrize(
    ("limit", "most", "message"),
    [
        ("_archive.MAX_DIRECTORY_BYTES", 1000, "its list of files has more than 1,000 bytes, the limit"),
        ("_ledger.MAX_FILES", 20, "has 50 files; the limit is 20"),
        ("_archive.MAX_TOTAL_BYTES", 500, "unpacks to 1,000 bytes, .* the limits are 500"),
    ],
)
def test_an_archive_of_too_much_is_refused_before_anything_is_written(tmp_path, monkeypatch, limit, most, message):
    monkeypatch.setattr(f"covidxr.sources.{limit}", most)
    archive = pack(tmp_path / "a.zip", {f"top/images/{n:02}.png": bytes(20) for n in range(50)})
    with pytest.raises(CovidxrError, match=message):
        fetch("figure1", tmp_path / "data", archive=archive)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def rewritten(archive, old, new):
    archive.write_bytes(archive.read_bytes().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda archive: rewritten(archive, PNG[:200], PNG[:199] + b"?"), "Bad CRC-32"),
        (
            lambda archive: rewritten(archive, struct.pack("<L", len(PNG)), struct.pack("<L", len(PNG) - 40)),
            "Bad CRC-32",
        ),
        (lambda archive: pack(archive, {"top/images/a.png": PNG[:300], "top/images/b.png": PNG}), "not a whole image"),
        (lambda archive: pack(archive, {"top/images/a.png": b"<html>", "top/images/b.png": PNG}), "not an image"),
    ],
    ids=["other bytes", "another size", "packed in half", "not an image"],
)
def test_a_member_that_is_not_whole_is_named_and_not_stored(tmp_path, damage, reason):
    archive = pack(tmp_path / "a.zip", {"top/images/a.png": PNG, "top/images/b.png": image_bytes(1, size=20)})
    damage(archive)
    with pytest.raises(CovidxrError, match=rf"1 file .a.png. in it cannot be used .*{reason}"):
        fetch("figure1", tmp_path / "data", archive=archive)
    assert arrived(tmp_path / "data") == ["b.png"]


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
