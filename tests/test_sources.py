"""The readers of real data, each on a planted miniature of its source's layout, and on the real thing where it is."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from covidxr.data.images import DecodeError, read_image
from covidxr.data.manifest import COLUMNS, MASK_COLUMNS, read_table
from covidxr.data.phantom import HOSPITALS
from covidxr.data.sources import (
    PHANTOM_SOURCES,
    SOURCES,
    _load_table,
    draw_phantoms,
    excluded_images,
    load_source,
    source_entry,
    source_names,
)
from covidxr.utils import CovidxrError

COHEN = "patientid,sex,age,finding,view,modality,filename,url,license,"  # the real header, too, ends with a comma
FIGURE1 = "patientid,sex,age,finding,view"
JUNK = (".DS_Store", "._image.png", "._IM-0001-0001.jpeg", "Thumbs.db", "person1_bacteria_1.txt", "desktop.ini")


def plant(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write_table(path, header, *rows, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]), encoding=encoding)
    return path


def cohen(folder, *rows, header=COHEN, encoding="utf-8"):
    write_table(folder / "covid-chestxray-dataset" / "metadata.csv", header, *rows, encoding=encoding)
    return folder


def labels(rows):
    return dict(zip(rows.path.map(os.path.basename), rows.label, strict=True))


def patients(rows):
    return dict(zip(rows.image_id.str.split("/", n=1).str[1], rows.patient_id, strict=True))


@pytest.mark.parametrize("source", ["covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1"])
def test_a_missing_folder_says_where_to_get_the_data(source, tmp_path):
    for place in (tmp_path, tmp_path / "none", None):
        with pytest.raises(
            CovidxrError, match=r"covidxr data, or get the data from https://\S+ and name its folder with DATA_DIR"
        ):
            load_source(source, place)


@pytest.mark.parametrize("text", ["Müller", "肺"])
def test_rows_have_the_manifests_columns_and_types(text, tmp_path):
    rows = load_source("covid-chestxray", cohen(tmp_path, f"7,F,64,COVID-19,PA,X-ray,{text}.jpg,http://a,CC0,"))
    assert tuple(rows.columns) == COLUMNS + MASK_COLUMNS
    row = rows.iloc[0].to_dict()
    assert row.pop("age") == 64.0 and rows.age.dtype == float and all(isinstance(value, str) for value in row.values())
    assert row["path"] == str(tmp_path / "covid-chestxray-dataset" / "images" / f"{text}.jpg")
    assert (row["sex"], row["license"], row["url"], row["split"], row["sha256"]) == ("F", "CC0", "http://a", "", "")


def test_covid_chestxray_keeps_frontal_x_rays_and_their_findings(tmp_path):
    kinds = ["COVID-19,PA,X-ray", "COVID-19,AP Supine,X-ray", '"COVID-19, ARDS",AP semi erect,X-ray', "No Finding,PA,X-ray",
             "SARS,AP,X-ray", "Pneumonia/Viral/COVID-19,PA,X-ray", "COVID-19,L,X-ray", "COVID-19,Axial,CT", "COVID-19,PA,CT"]  # fmt: skip
    data = cohen(tmp_path, *(f"{n},M,,{kind},{n}.png,,," for n, kind in enumerate(kinds)))
    expected = ["COVID-19"] * 3 + ["No finding", "SARS", "COVID-19"]
    for place in (data, data / "covid-chestxray-dataset"):
        rows = load_source("covid-chestxray", place)
        assert labels(rows) == {f"{n}.png": label for n, label in enumerate(expected)}
        assert rows.patient_id.tolist() == [str(n) for n in range(6)] and rows.age.isna().all()


@pytest.mark.parametrize(
    ("encoding", "name"), [("latin-1", "Málaga.png"), ("utf-8-sig", "Málaga.png"), ("utf-8", "肺.png")]
)
def test_metadata_is_read_in_its_encoding(encoding, name, tmp_path):
    rows = load_source("covid-chestxray", cohen(tmp_path, f" 7 ,F,64,COVID-19,PA,X-ray,{name},,,", encoding=encoding))
    assert labels(rows) == {name: "COVID-19"} and rows.patient_id.tolist() == ["7"]


def test_no_frontal_image_at_all_is_a_sentence(tmp_path):
    with pytest.raises(CovidxrError, match="metadata.csv: no row is a frontal X-ray"):
        load_source("covid-chestxray", cohen(tmp_path, "7,F,64,COVID-19,L,X-ray,a.png,,,"))


@pytest.mark.parametrize("column", ["patientid", "finding", "view", "modality", "filename"])
def test_a_renamed_column_is_named_with_those_there_are(column, tmp_path):
    with pytest.raises(CovidxrError, match=rf"metadata\.csv: no column {column}; its columns are .*changed"):
        load_source("covid-chestxray", cohen(tmp_path, "1,,,,,,,,,", header=COHEN.replace(column, "changed")))


@pytest.mark.parametrize("name", ["../../secret.png", "{root}/secret.png", "../images/../../../secret.png", "..", "."])
def test_a_file_name_does_not_lead_out_of_the_images(name, tmp_path, image):
    image(tmp_path / "secret.png")
    name = name.format(root=tmp_path)
    chest = load_source("covid-chestxray", cohen(tmp_path, f"1,,,COVID-19,PA,X-ray,{name},,,"))
    write_table(tmp_path / "figure1" / "metadata.csv", FIGURE1, f"{name.removesuffix('.png')},,,COVID-19,PA")
    for rows, folder in ((chest, "covid-chestxray-dataset"), (load_source("figure1", tmp_path), "figure1")):
        path = Path(os.path.normpath(rows.path[0]))
        assert path.is_relative_to(tmp_path / folder)
        with pytest.raises(DecodeError, match="no such file|a folder"):
            read_image(rows.path[0])


def test_a_file_named_twice_counts_once(tmp_path):
    row = "1,F,64,COVID-19,PA,X-ray,a.png,,,"
    chest = load_source(
        "covid-chestxray", cohen(tmp_path, row, row, row.replace("64", "65"), row.replace("a.png", "b.png"))
    )
    write_table(
        tmp_path / "figure1" / "metadata.csv",
        FIGURE1,
        "C-1a,,33,COVID-19,PA",
        "C-1a,,,COVID-19,PA",
        "C-1b,,,COVID-19,PA",
    )
    for rows, age in ((chest, 64), (load_source("figure1", tmp_path), 33)):
        assert len(rows) == 2 and rows.image_id.is_unique and rows.index.tolist() == [0, 1]
        assert rows.age[0] == age  # the first row is the one that is kept


KAGGLE = {
    "train/NORMAL/IM-0115-0001.jpeg": ("Normal", "train-IM-0115"),
    "train/NORMAL/NORMAL2-IM-0301-0001.jpeg": ("Normal", "train-NORMAL2-IM-0301"),
    "train/NORMAL/IM-0453-0001-0001.jpeg": ("Normal", "train-IM-0453"),
    "train/NORMAL/IM-0453-0001-0002.jpeg": ("Normal", "train-IM-0453"),
    "train/PNEUMONIA/person1_bacteria_1.jpeg": ("Bacteria", "train-person1"),
    "train/PNEUMONIA/person1_virus_7.JPG": ("Virus", "train-person1"),
    "train/PNEUMONIA/person10_virus_8.jpeg": ("Virus", "train-person10"),
    "test/PNEUMONIA/person1_virus_6.jpeg": ("Virus", "test-person1"),
    "test/NORMAL/IM-0115-0001.jpeg": ("Normal", "test-IM-0115"),
    "val/PNEUMONIA/person1_bacteria_2.jpeg": ("Bacteria", "train-person1"),  # val was taken out of train
}


def test_kaggle_tells_patients_apart_and_ignores_junk(tmp_path):
    plant(
        tmp_path / "chest_xray", *KAGGLE, *(f"train/{kind}/{junk}" for kind in ("NORMAL", "PNEUMONIA") for junk in JUNK)
    )
    plant(tmp_path / "chest_xray", "__MACOSX/train/NORMAL/._IM-0115-0001.jpeg", "train/OTHER/IM-0001-0001.jpeg")
    for place in (tmp_path, tmp_path / "chest_xray"):
        rows = load_source("kaggle-chest-xray", place)
        assert patients(rows) == {name: patient for name, (_, patient) in KAGGLE.items()}
        assert dict(zip(rows.path, rows.label, strict=True)) == {
            str(tmp_path / "chest_xray" / name): label for name, (label, _) in KAGGLE.items()
        }


def test_darkcovidnet_reads_two_folders_and_ignores_junk(tmp_path):
    sample_images = ("No_findings/00000005_000.png", "No_findings/00000005_001.png", "Pneumonia/00000005_000.png")
    plant(
        tmp_path / "darkcovidnet" / "X-Ray Image DataSet",
        *sample_images,
        *(f"{kind}/{junk}" for kind in ("Pneumonia", "Covid-19") for junk in JUNK),
    )
    plant(tmp_path / "darkcovidnet" / "X-Ray Image DataSet", "Covid-19/01.jpeg")
    rows = load_source("darkcovidnet", tmp_path)
    assert patients(rows) == dict.fromkeys(sample_images, "00000005")
    assert rows.label.tolist() == ["No finding", "No finding", "Pneumonia"]


def test_figure1_finds_its_images_and_leaves_out_what_is_not_stated(tmp_path):
    rows = [
        "COVID-00003a,M,28,COVID-19,AP erect",
        "COVID-00003b,M,50+,Pneumonia,PA",
        "COVID-00004,F,,,AP",
        "COVID-00005,F,,No finding,AP",
    ]
    write_table(tmp_path / "figure1" / "metadata.csv", FIGURE1, *rows)
    plant(
        tmp_path / "figure1" / "images", "COVID-00003a.png", "COVID-00003b.JPG", "._COVID-00005.jpg", "COVID-00004.jpg"
    )
    rows = load_source("figure1", tmp_path)
    assert labels(rows) == {
        "COVID-00003a.png": "COVID-19",
        "COVID-00003b.JPG": "Pneumonia",
        "COVID-00005.jpg": "No finding",
    }
    assert rows.patient_id.tolist() == ["COVID-00003", "COVID-00003", "COVID-00005"]
    assert rows.age.fillna(-1).tolist() == [28, -1, -1]


@pytest.mark.realdata
def test_the_real_data_are_as_their_readme_says(shared):
    rows = {
        name: load_source(name, shared / "data")
        for name in ("covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1")
    }
    found = {name: Counter(frame.label) for name, frame in rows.items()}
    ill = rows["covid-chestxray"].query("label == 'COVID-19'")
    assert (len(rows["covid-chestxray"]), len(ill), sum(not Path(path).exists() for path in ill.path)) == (267, 211, 5)
    assert found["kaggle-chest-xray"] == {"Normal": 420, "Bacteria": 420, "Virus": 420}
    assert found["darkcovidnet"] == {"No finding": 220, "Pneumonia": 220}
    assert found["figure1"] == {"COVID-19": 35, "No finding": 3, "Pneumonia": 2}
    for name, frame in rows.items():
        assert frame.image_id.is_unique and (frame.source == name).all() and (frame.patient_id != "").all()
        assert name == "covid-chestxray" or all(Path(path).is_file() for path in frame.path)


def sample_images(folder, text):
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
    (tmp_path / "images.csv").write_text(text)
    with pytest.raises(CovidxrError, match=rf"images\.csv: .*{error}"):
        read_table(tmp_path / "images.csv", ("path", "label"))
    with pytest.raises(CovidxrError, match="none.csv: no such file"):
        read_table(tmp_path / "none.csv", ())


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_is_read_in_every_encoding_that_says_so(encoding, line_end, tmp_path):
    text = line_end.join(["path,label", "Málaga 肺.png,Normal", ""])
    (tmp_path / "images.csv").write_bytes(text.encode(encoding))
    assert read_table(tmp_path / "images.csv", ("path", "label")).values.tolist() == [["Málaga 肺.png", "Normal"]]


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
    (tmp_path / "images.csv").write_bytes(content)
    with pytest.raises(CovidxrError, match=rf"images\.csv: {error}"):
        read_table(tmp_path / "images.csv", ("path", "label"))


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
        _load_table(path)


@pytest.mark.parametrize("name", [b"Normal/a\xff.png", b"N\xff/a.png", b"Normal/a\rb.png", b"Normal /a.png"], ids=repr)
def test_a_file_name_that_a_manifest_cannot_keep_is_a_sentence(name, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path))
    open(path, "wb").close()
    with pytest.raises(CovidxrError, match="image '.*cannot be kept in a table; .*rename it, in UTF-8") as caught:
        _load_table(tmp_path)
    str(caught.value).encode()  # the sentence itself can be printed


def test_an_excluded_name_can_be_written_in_any_encoding(tmp_path):
    name = os.fsdecode(b"a\xff.png")
    folder = tmp_path / "darkcovidnet" / "X-Ray Image DataSet" / "Covid-19"
    folder.mkdir(parents=True)
    (folder / name).touch()
    rows = excluded_images(["darkcovidnet"], tmp_path)
    assert rows.original_name.tolist() == ["Covid-19/a\\udcff.png"] and rows.present.all()
    rows.to_csv(tmp_path / "excluded.csv")


def test_a_table_is_read_as_text_without_blanks_around_it(tmp_path):
    (tmp_path / "a.csv").write_text(' path , label,id\na.png , Normal,007\n"two\nlines.png",NA\n')
    read = read_table(tmp_path / "a.csv", ("path", "label"))
    assert read.values.tolist() == [["a.png", "Normal", "007"], ["two\nlines.png", "NA", ""]]


def test_a_row_takes_over_every_manifest_column(tmp_path):
    header = "path,label,patient_id,source,view,age,sex,license,url,lung_mask,lesion_mask,hospital"
    path = sample_images(
        tmp_path, f"{header}\nimages/a.png,COVID-19,p 1,north,AP,61,F,CC0,http://a,masks/a.png,,Málaga\n"
    )
    row = _load_table(path).iloc[0].to_dict()
    assert row["path"] == str(tmp_path / "images/a.png") and row["lung_mask"] == str(tmp_path / "masks/a.png")
    assert row["image_id"] == "ours/images/a.png" and row["age"] == 61 and row["lesion_mask"] == "" == row["split"]
    assert [row[name] for name in header.split(",")[1:5]] == [
        "COVID-19",
        "p 1",
        "north",
        "AP",
    ] and "hospital" not in row


def test_what_a_row_does_not_say_has_a_default(tmp_path):
    rows = _load_table(
        sample_images(tmp_path, "label,path,patient_id,source,age\nNormal,a.png,,,\nNormal,b.png,p,,adult\n")
    )
    assert rows.patient_id.tolist() == ["a.png", "p"] and rows.source.tolist() == ["ours", "ours"]
    assert rows.age.isna().all()


def test_paths_are_the_users_own_choice(tmp_path, image):
    image(tmp_path / "elsewhere" / "a.png", seed=1)
    image(tmp_path / "b.png", seed=2)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link.png").symlink_to(tmp_path / "b.png")
    path = sample_images(
        tmp_path / "here", f"path,label\n{tmp_path}/elsewhere/a.png,Normal\n../b.png,Normal\nlink.png,Normal\n"
    )
    a, b, link = (read_image(path) for path in _load_table(path).path)
    assert (a != b).any() and (b == link).all()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("path,label\n", "the table has no rows"),
        ("path,label\n\n\n", "the table has no rows"),
        ("path,age\na.png,61\n", "no column label; its columns are path, age"),
        ("file,class\na.png,Normal\n", "no column path, label; its columns are file, class"),
        ("path,label\na.png,Normal\nb.png,\n,Normal\n", "2 of 3 rows lack path or label, the first is row 2"),
        ("path,label\na.png,Normal\na.png,COVID-19\n", "image 'ours/a.png' has two rows that differ; keep one"),
    ],
)
def test_a_table_without_images_or_labels_is_a_sentence(text, error, tmp_path):
    with pytest.raises(CovidxrError, match=rf"ours\.csv: {error}"):
        load_source(str(sample_images(tmp_path, text)))


def test_repeated_rows_count_once(tmp_path):
    rows = _load_table(sample_images(tmp_path, "path,label\na.png,Normal\na.png,Normal\nb.png,Normal\n"))
    assert rows.image_id.tolist() == ["ours/a.png", "ours/b.png"] and rows.index.tolist() == [0, 1]


def test_a_folder_has_one_sub_folder_a_class(tmp_path, image, monkeypatch):
    for name in (
        "COVID-19/b.png",
        "COVID-19/a 肺.JPG",
        "Normal/a.png",
        "Normal/._a.png",
        "loose.png",
        "Normal/deep/c.png",
    ):
        image(tmp_path / "ours" / name)
    (tmp_path / "ours" / "Normal" / "Thumbs.db").touch()
    monkeypatch.chdir(tmp_path / "ours")
    for place in (tmp_path / "ours", Path("."), "../ours"):
        rows = load_source(str(place))
        assert rows.image_id.tolist() == ["ours/COVID-19/a 肺.JPG", "ours/COVID-19/b.png", "ours/Normal/a.png"]
        assert rows.label.tolist() == ["COVID-19", "COVID-19", "Normal"] and (rows.source == "ours").all()
        assert rows.patient_id.is_unique and all(os.path.exists(path) for path in rows.path)


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["a/images.csv", "b/other.csv"], ["images", "other"]),
        (["a/images.csv", "b/images.csv"], ["a/images", "b/images"]),
        (["a/images.csv", "b/images.csv", "a/other.csv"], ["a/images", "b/images", "other"]),
        (["a/images.csv", "b/images"], ["a/images", "b/images"]),
        (["a/images.csv", "a/images"], ["images.csv", "images/"]),
        (["a/images.csv", "a/images", "b/images.csv"], ["a/images.csv", "images/", "b/images"]),
        (["x/a/images.csv", "y/a/images.csv"], ["x/a/images", "y/a/images"]),
        (["a.csv.csv", "a.csv", "a"], ["a.csv.csv", None, "a/"]),
        (["a/phantom.csv"], ["a/phantom"]),
    ],
)
def test_places_have_one_name_each(places, names, tmp_path):
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch() if place.endswith(".csv") else (tmp_path / place).mkdir()
    found = source_names([tmp_path / place for place in places], ["phantom"])
    assert len(set(found)) == len(places)
    assert all(name == expected for name, expected in zip(found, names, strict=True) if expected)
    turned = source_names([tmp_path / place for place in places[::-1]], ["phantom"])
    assert turned[::-1] == found


@pytest.mark.parametrize("name", ["empty/readme.txt", "empty/image.png"])
def test_a_folder_without_images_is_a_sentence(name, tmp_path, image):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
    with pytest.raises(CovidxrError, match="empty: no images in its sub-folders; expected one sub-folder a class"):
        _load_table(tmp_path / "empty")


def test_the_named_source_needs_a_place(tmp_path):
    with pytest.raises(CovidxrError, match="source 'table' needs data_dir"):
        load_source("table")
    assert len(load_source("table", sample_images(tmp_path, "path,label\na.png,Normal\n"))) == 1


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ("figure1", ("figure1", None)),
        (Path("ours.csv"), (Path("ours.csv"), None)),
        ({"figure1": ["COVID-19"]}, ("figure1", ["COVID-19"])),
        ({Path("ours.csv"): ("a", "b")}, (Path("ours.csv"), ["a", "b"])),
    ],
)
def test_an_entry_is_a_source_and_perhaps_its_classes(entry, parts):
    assert source_entry(entry) == parts


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({}, r"source {}: name one source with its classes, such as {'figure1': \['COVID-19'\]}"),
        ({"figure1": ["COVID-19"], "phantom": ["Normal"]}, "source {.*}: name one source with its classes"),
        ({"figure1": "COVID-19"}, "source 'figure1' is 'COVID-19'; give a list of names"),
        ({"figure1": None}, "source 'figure1' is None; give a list of names"),
        ({"figure1": []}, "source 'figure1' is empty; name at least one"),
        ({"figure1": [3]}, "source 'figure1' holds 3, which is not a name"),
        ({"figure1": ["COVID-19", "COVID-19"]}, "source 'figure1' holds 'COVID-19' twice"),
    ],
)
def test_a_malformed_entry_is_a_sentence(entry, error):
    with pytest.raises(CovidxrError, match=error):
        source_entry(entry)


def test_only_the_classes_of_an_entry_are_loaded(tmp_path):
    for name in ("Normal/a.png", "Normal/b.png", "Virus/c.png"):
        plant(tmp_path / "ours", name)
    assert load_source({tmp_path / "ours": ["Normal"]}).label.tolist() == ["Normal", "Normal"]
    with pytest.raises(CovidxrError, match=r"unknown class of source '.*ours': 'Covid'; available: Normal, Virus"):
        load_source({tmp_path / "ours": ["Normal", "Covid"]})


def test_each_phantom_hospital_is_a_source(tmp_path):
    assert set(PHANTOM_SOURCES) == {"phantom", *(f"phantom-{name}" for name in HOSPITALS)} <= set(SOURCES)
    assert excluded_images([{"phantom-city": ["COVID-19"]}, *PHANTOM_SOURCES], tmp_path).empty
    for name, hospital in HOSPITALS.items():
        rows = draw_phantoms(f"phantom-{name}", hospital.classes, tmp_path, per_class=1, size=32)
        assert rows.label.tolist() == list(hospital.classes) and set(rows.source) == {f"phantom-{name}"}


def test_phantoms_are_drawn_of_the_wanted_classes_that_their_hospital_sends(tmp_path):
    def drawn(entry, *classes, label_map=None):
        return draw_phantoms(entry, classes, tmp_path, label_map, per_class=1, size=32).label.tolist()

    assert drawn("phantom-childrens", "COVID-19", "Bacteria") == ["Bacteria"]
    assert drawn({"phantom-city": ["COVID-19"]}, "Normal", "COVID-19") == ["COVID-19"]
    assert drawn("phantom", "Pneumonia", label_map={"Virus": "Pneumonia", "Bacteria": "Pneumonia"}) == [
        "Bacteria",
        "Virus",
    ]
    with pytest.raises(CovidxrError, match="unknown class of source 'phantom-city': 'Flu'; available: Normal"):
        drawn({"phantom-city": ["COVID-19", "Flu"]}, "COVID-19")
    with pytest.raises(CovidxrError, match="'phantom-childrens' has no phantoms of COVID-19, only of Normal"):
        drawn("phantom-childrens", "COVID-19")
