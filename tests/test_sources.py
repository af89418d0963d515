"""The readers of real data, each on a planted miniature of its source's layout, and on the real thing where it is."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from covidxr.decode import DecodeError, decode
from covidxr.errors import CovidxrError
from covidxr.sources import SOURCES, covid_chestxray, darkcovidnet, figure1, kaggle_chest_xray
from covidxr.sources._rows import COLUMNS, MASK_COLUMNS

COHEN = "patientid,sex,age,finding,view,modality,filename,url,license,"  # the real header, too, ends with a comma
FIGURE1 = "patientid,sex,age,finding,view"
JUNK = (".DS_Store", "._film.png", "._IM-0001-0001.jpeg", "Thumbs.db", "person1_bacteria_1.txt", "desktop.ini")


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
            CovidxrError, match=r"covidxr.data, or get the data from https://\S+ and name its folder with DATA_DIR"
        ):
            SOURCES[source](place)


@pytest.mark.parametrize("text", ["Müller", "肺"])
def test_rows_have_the_manifests_columns_and_types(text, tmp_path):
    rows = covid_chestxray.read(cohen(tmp_path, f"7,F,64,COVID-19,PA,X-ray,{text}.jpg,http://a,CC0,"))
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
        rows = covid_chestxray.read(place)
        assert labels(rows) == {f"{n}.png": label for n, label in enumerate(expected)}
        assert rows.patient_id.tolist() == [str(n) for n in range(6)] and rows.age.isna().all()


@pytest.mark.parametrize(
    ("encoding", "name"), [("latin-1", "Málaga.png"), ("utf-8-sig", "Málaga.png"), ("utf-8", "肺.png")]
)
def test_metadata_is_read_in_its_encoding(encoding, name, tmp_path):
    rows = covid_chestxray.read(cohen(tmp_path, f" 7 ,F,64,COVID-19,PA,X-ray,{name},,,", encoding=encoding))
    assert labels(rows) == {name: "COVID-19"} and rows.patient_id.tolist() == ["7"]


def test_no_frontal_film_at_all_is_a_sentence(tmp_path):
    with pytest.raises(CovidxrError, match="metadata.csv: no row is a frontal X-ray"):
        covid_chestxray.read(cohen(tmp_path, "7,F,64,COVID-19,L,X-ray,a.png,,,"))


@pytest.mark.parametrize("column", ["patientid", "finding", "view", "modality", "filename"])
def test_a_renamed_column_is_named_with_those_there_are(column, tmp_path):
    with pytest.raises(CovidxrError, match=rf"metadata\.csv: no column {column}; its columns are .*changed"):
        covid_chestxray.read(cohen(tmp_path, "1,,,,,,,,,", header=COHEN.replace(column, "changed")))


@pytest.mark.parametrize("name", ["../../secret.png", "{root}/secret.png", "../images/../../../secret.png", "..", "."])
def test_a_file_name_does_not_lead_out_of_the_images(name, tmp_path, film):
    film(tmp_path / "secret.png")
    name = name.format(root=tmp_path)
    chest = covid_chestxray.read(cohen(tmp_path, f"1,,,COVID-19,PA,X-ray,{name},,,"))
    write_table(tmp_path / "figure1" / "metadata.csv", FIGURE1, f"{name.removesuffix('.png')},,,COVID-19,PA")
    for rows, folder in ((chest, "covid-chestxray-dataset"), (figure1.read(tmp_path), "figure1")):
        path = Path(os.path.normpath(rows.path[0]))
        assert path.is_relative_to(tmp_path / folder)
        with pytest.raises(DecodeError, match="no such file|a folder"):
            decode(rows.path[0])


def test_a_file_named_twice_counts_once(tmp_path):
    row = "1,F,64,COVID-19,PA,X-ray,a.png,,,"
    chest = covid_chestxray.read(cohen(tmp_path, row, row, row.replace("64", "65"), row.replace("a.png", "b.png")))
    write_table(
        tmp_path / "figure1" / "metadata.csv",
        FIGURE1,
        "C-1a,,33,COVID-19,PA",
        "C-1a,,,COVID-19,PA",
        "C-1b,,,COVID-19,PA",
    )
    for rows, age in ((chest, 64), (figure1.read(tmp_path), 33)):
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
        rows = kaggle_chest_xray.read(place)
        assert patients(rows) == {name: patient for name, (_, patient) in KAGGLE.items()}
        assert dict(zip(rows.path, rows.label, strict=True)) == {
            str(tmp_path / "chest_xray" / name): label for name, (label, _) in KAGGLE.items()
        }


def test_darkcovidnet_reads_two_folders_and_ignores_junk(tmp_path):
    films = ("No_findings/00000005_000.png", "No_findings/00000005_001.png", "Pneumonia/00000005_000.png")
    plant(
        tmp_path / "darkcovidnet" / "X-Ray Image DataSet",
        *films,
        *(f"{kind}/{junk}" for kind in ("Pneumonia", "Covid-19") for junk in JUNK),
    )
    plant(tmp_path / "darkcovidnet" / "X-Ray Image DataSet", "Covid-19/01.jpeg")
    rows = darkcovidnet.read(tmp_path)
    assert patients(rows) == dict.fromkeys(films, "00000005")
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
    rows = figure1.read(tmp_path)
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
        name: SOURCES[name](shared / "data")
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
