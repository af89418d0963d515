"""One's own films: a CSV file or a folder, and everything that can be wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from covidxr.dataset import read_source
from covidxr.decode import decode
from covidxr.errors import CovidxrError
from covidxr.sources import table
from covidxr.sources._rows import left_out_rows, read_table


def films(folder, text):
    path = folder / "ours.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "not a table of comma-separated values"),
        ("path,label\n'a.png,Normal\n\"b.png,Normal\n", "not a table of comma-separated values"),
        ("path,label\na.png,Normal\nb,c.png,Normal\n", "not a table of comma-separated values"),
        ("path,label\nb,c.png,Normal\n", "not a table of comma-separated values .*; quote fields that hold a comma"),
        (
            "path;label\na.png;Normal, old\n",
            "its columns are separated by ';', not by commas; save it as comma-separated",
        ),
        ("path\tlabel\na.png\tNormal\n", r"its columns are separated by '\\t', not by commas; save it as"),
        ("path|label\ra.png|Normal\r", r"its columns are separated by '\|', not by commas; save it as"),
        (
            "path,label, label\na.png,Normal,COVID-19\n",
            "two columns are named 'label'; its columns are path, label, label",
        ),
        ("path,label" + 1500 * ",x" + "\n", "its header has 1502 columns, 1000 are the most"),
        ("path,label\na.png,Nor\0mal\n", "not text in UTF-8, it holds NUL bytes; save it as"),
    ],
)
def test_a_broken_table_is_a_sentence(text, error, tmp_path):
    (tmp_path / "films.csv").write_text(text)
    with pytest.raises(CovidxrError, match=rf"films\.csv: .*{error}"):
        read_table(tmp_path / "films.csv", ("path", "label"))
    with pytest.raises(CovidxrError, match="none.csv: no such file"):
        read_table(tmp_path / "none.csv", ())


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_is_read_in_every_encoding_that_says_so(encoding, line_end, tmp_path):
    text = line_end.join(["path,label", "Málaga 肺.png,Normal", ""])
    (tmp_path / "films.csv").write_bytes(text.encode(encoding))
    assert read_table(tmp_path / "films.csv", ("path", "label")).values.tolist() == [["Málaga 肺.png", "Normal"]]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("path,label\né.png,Normal\n".encode("latin-1"), "not text in UTF-8, see byte 0xe9 in line 2; save it as"),
        ("path,label\n肺.png,Normal\n".encode("shift-jis"), "not text in UTF-8, see byte 0x94 in line 2; save it as"),
        ("path,label\na.png,Normal\n".encode("utf-16-le"), "not text in UTF-8, it holds NUL bytes; save it as"),
        ("path,label\na.png,Normal\n".encode("utf-16")[:-1], "not text in UTF-8, see byte 0x0a in line .*; save it as"),
        ("path,label\na.png,Normal\n".encode("utf-32"), "not text in UTF-8, it holds NUL bytes; save it as"),
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xf3\xa3", "not text in UTF-8, .*in Excel: 'CSV UTF-8'"),
        (b"path,label\n" + 64_000_000 * b"\n", "has 64,000,011 bytes, a table of images at most 64,000,000"),
    ],
    ids=["latin-1", "shift-jis", "no mark", "half a letter", "utf-32", "Excel", "too large"],
)
def test_a_table_in_another_encoding_is_a_sentence(content, error, tmp_path):
    (tmp_path / "films.csv").write_bytes(content)
    with pytest.raises(CovidxrError, match=rf"films\.csv: {error}"):
        read_table(tmp_path / "films.csv", ("path", "label"))


def test_a_folder_in_place_of_a_table_is_a_sentence(tmp_path):
    with pytest.raises(CovidxrError, match="cannot be read"):
        read_table(tmp_path, ("path", "label"))


@pytest.mark.parametrize("text", ["a\rb", "\x0b", "a\x1fb", "a\x07", "a\x7fb"], ids=repr)
@pytest.mark.parametrize("column", ["label", "url", "lung_mask"])
def test_what_a_manifest_cannot_keep_is_named_with_row_and_column(text, column, tmp_path):
    cells = {"path": "b.png", "label": "Normal", "url": "", "lung_mask": ""} | {column: f"_{text}_"}
    quoted = ",".join(f'"{cell}"' for cell in cells.values())
    path = tmp_path / "ours.csv"
    path.write_bytes(f"{','.join(cells)}\na.png,Normal,,\n{quoted}\n".encode())
    with pytest.raises(CovidxrError, match=rf"ours\.csv: row 2, {column} '_.*_': '.*' cannot be kept in a table"):
        table.read(path)


@pytest.mark.parametrize("name", [b"Normal/a\xff.png", b"N\xff/a.png", b"Normal/a\rb.png", b"Normal /a.png"], ids=repr)
def test_a_file_name_that_a_manifest_cannot_keep_is_a_sentence(name, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path))
    open(path, "wb").close()
    with pytest.raises(CovidxrError, match="image '.*cannot be kept in a table; .*rename it, in UTF-8") as caught:
        table.read(tmp_path)
    str(caught.value).encode()  # the sentence itself can be printed


def test_a_name_left_out_can_be_written_in_any_encoding(tmp_path):
    name = os.fsdecode(b"a\xff.png")
    (tmp_path / name).touch()
    rows = left_out_rows("ours", [(tmp_path / name, name, "a lateral view")])
    assert rows.original_name.tolist() == ["a\\udcff.png"] and rows.present.all()
    rows.to_csv(tmp_path / "left_out.csv")


def test_a_table_is_read_as_text_without_blanks_around_it(tmp_path):
    (tmp_path / "a.csv").write_text(' path , label,id\na.png , Normal,007\n"two\nlines.png",NA\n')
    read = read_table(tmp_path / "a.csv", ("path", "label"))
    assert read.values.tolist() == [["a.png", "Normal", "007"], ["two\nlines.png", "NA", ""]]


def test_a_row_takes_over_every_manifest_column(tmp_path):
    header = "path,label,patient_id,source,view,age,sex,license,url,lung_mask,lesion_mask,hospital"
    path = films(tmp_path, f"{header}\nfilms/a.png,COVID-19,p 1,north,AP,61,F,CC0,http://a,masks/a.png,,Málaga\n")
    row = table.read(path).iloc[0].to_dict()
    assert row["path"] == str(tmp_path / "films/a.png") and row["lung_mask"] == str(tmp_path / "masks/a.png")
    assert row["image_id"] == "ours/films/a.png" and row["age"] == 61 and row["lesion_mask"] == "" == row["split"]
    assert [row[name] for name in header.split(",")[1:5]] == [
        "COVID-19",
        "p 1",
        "north",
        "AP",
    ] and "hospital" not in row


def test_what_a_row_does_not_say_has_a_default(tmp_path):
    rows = table.read(films(tmp_path, "label,path,patient_id,source,age\nNormal,a.png,,,\nNormal,b.png,p,,adult\n"))
    assert rows.patient_id.tolist() == ["a.png", "p"] and rows.source.tolist() == ["ours", "ours"]
    assert rows.age.isna().all()


def test_paths_are_the_users_own_choice(tmp_path, film):
    film(tmp_path / "elsewhere" / "a.png", seed=1)
    film(tmp_path / "b.png", seed=2)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link.png").symlink_to(tmp_path / "b.png")
    path = films(
        tmp_path / "here", f"path,label\n{tmp_path}/elsewhere/a.png,Normal\n../b.png,Normal\nlink.png,Normal\n"
    )
    a, b, link = (decode(path) for path in table.read(path).path)
    assert (a != b).any() and (b == link).all()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("path,label\n", "the table has no rows"),
        ("path,label\n\n\n", "the table has no rows"),
        ("path,age\na.png,61\n", "no column label; its columns are path, age"),
        ("file,class\na.png,Normal\n", "no column path, label; its columns are file, class"),
        ("path,label\na.png,Normal\nb.png,\n,Normal\n", "2 of 3 rows lack path or label, the first is row 2"),
        ("path,label\na.png,Normal\na.png,COVID-19\n", "film 'ours/a.png' has two rows that differ; keep one"),
    ],
)
def test_a_table_without_films_or_labels_is_a_sentence(text, error, tmp_path):
    with pytest.raises(CovidxrError, match=rf"ours\.csv: {error}"):
        read_source(str(films(tmp_path, text)))


def test_repeated_rows_count_once(tmp_path):
    rows = table.read(films(tmp_path, "path,label\na.png,Normal\na.png,Normal\nb.png,Normal\n"))
    assert rows.image_id.tolist() == ["ours/a.png", "ours/b.png"] and rows.index.tolist() == [0, 1]


def test_a_folder_has_one_sub_folder_a_class(tmp_path, film, monkeypatch):
    for name in (
        "COVID-19/b.png",
        "COVID-19/a 肺.JPG",
        "Normal/a.png",
        "Normal/._a.png",
        "loose.png",
        "Normal/deep/c.png",
    ):
        film(tmp_path / "ours" / name)
    (tmp_path / "ours" / "Normal" / "Thumbs.db").touch()
    monkeypatch.chdir(tmp_path / "ours")
    for place in (tmp_path / "ours", Path("."), "../ours"):
        rows = read_source(str(place))
        assert rows.image_id.tolist() == ["ours/COVID-19/a 肺.JPG", "ours/COVID-19/b.png", "ours/Normal/a.png"]
        assert rows.label.tolist() == ["COVID-19", "COVID-19", "Normal"] and (rows.source == "ours").all()
        assert rows.patient_id.is_unique and all(os.path.exists(path) for path in rows.path)


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["a/films.csv", "b/other.csv"], ["films", "other"]),
        (["a/films.csv", "b/films.csv"], ["a/films", "b/films"]),
        (["a/films.csv", "b/films.csv", "a/other.csv"], ["a/films", "b/films", "other"]),
        (["a/films.csv", "b/films"], ["a/films", "b/films"]),
        (["a/films.csv", "a/films"], ["films.csv", "films/"]),
        (["a/films.csv", "a/films", "b/films.csv"], ["a/films.csv", "films/", "b/films"]),
        (["x/a/films.csv", "y/a/films.csv"], ["x/a/films", "y/a/films"]),
        (["a.csv.csv", "a.csv", "a"], ["a.csv.csv", None, "a/"]),
        (["a/phantom.csv"], ["a/phantom"]),
    ],
)
def test_places_have_one_name_each(places, names, tmp_path):
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch() if place.endswith(".csv") else (tmp_path / place).mkdir()
    found = table.source_names([tmp_path / place for place in places], ["phantom"])
    assert len(set(found)) == len(places)
    assert all(name == expected for name, expected in zip(found, names, strict=True) if expected)
    turned = table.source_names([tmp_path / place for place in places[::-1]], ["phantom"])
    assert turned[::-1] == found


@pytest.mark.parametrize("name", ["empty/readme.txt", "empty/film.png"])
def test_a_folder_without_images_is_a_sentence(name, tmp_path, film):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
    with pytest.raises(CovidxrError, match="empty: no images in its sub-folders; expected one sub-folder a class"):
        table.read(tmp_path / "empty")


def test_the_named_source_needs_a_place(tmp_path):
    with pytest.raises(CovidxrError, match="source 'table' needs data_dir"):
        read_source("table")
    assert len(read_source("table", films(tmp_path, "path,label\na.png,Normal\n"))) == 1
