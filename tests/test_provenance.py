"""Where films come from: versions, original names, licences, and what was left out."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from covidxr.errors import CovidxrError
from covidxr.provenance import TERMS, left_out, licence_ledger, licence_sentence
from covidxr.sources import SOURCES, covid_chestxray, kaggle_chest_xray
from covidxr.sources._origins import ORIGINS

HEADER = "patientid,sex,age,finding,view,modality,filename,url,license"
REAL = ("covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1")


def plant(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def cohen(tmp_path):
    folder = tmp_path / "covid-chestxray-dataset"
    rows = [
        "1,F,64,COVID-19,PA,X-ray,a.png,http://a,CC BY",
        "1,F,64,COVID-19,PA,X-ray,a.png,,",
        "2,F,64,COVID-19,L,X-ray,b.png,,",
        "3,F,64,COVID-19,Axial,CT,c.png,,",
        "4,F,64,COVID-19,AP,X-ray,gone.png,,",
        "5,F,64,COVID-19,L,X-ray,gone too.png,,",
        "6,F,64,COVID-19,PA,,d.png,,",
    ]
    plant(folder, "images/a.png", "images/b.png")
    (folder / "metadata.csv").write_text("\n".join([HEADER, *rows]))
    return folder


def test_everything_left_out_of_covid_chestxray_has_its_reason(cohen):
    found = left_out(["phantom", "covid-chestxray"], cohen.parent)
    assert found.values.tolist() == [
        ["covid-chestxray", "a.png", "a file named twice", True],
        ["covid-chestxray", "b.png", "not a frontal view", True],
        ["covid-chestxray", "c.png", "not an X-ray but CT", False],
        ["covid-chestxray", "gone.png", "no such file", False],
        ["covid-chestxray", "gone too.png", "not a frontal view", False],
        ["covid-chestxray", "d.png", "not an X-ray but not stated", False],
    ]
    rows = covid_chestxray.read(cohen)
    assert rows.original_name.tolist() == ["a.png", "gone.png"] and rows.url.tolist() == [
        "http://a",
        covid_chestxray.URL,
    ]


def test_everything_left_out_elsewhere_has_its_reason(tmp_path):
    plant(tmp_path, "chest_xray/train/PNEUMONIA/odd.jpeg", "chest_xray/train/NORMAL/IM-0001-0001.jpeg")
    plant(
        tmp_path,
        *(f"darkcovidnet/X-Ray Image DataSet/{name}" for name in ("Covid-19/1.png", "New/2.png", "Pneumonia/3.png")),
    )
    (tmp_path / "figure1").mkdir()
    rows = ["patientid,sex,age,finding,view", "C-1,,,,PA", "C-2,,,COVID-19,PA", "C-2,,,COVID-19,PA"]
    (tmp_path / "figure1" / "metadata.csv").write_text("\n".join(rows))
    found = left_out(["kaggle-chest-xray", "darkcovidnet", "figure1"], tmp_path)
    assert dict(zip(found.original_name + " " + found.present.astype(str), found.reason, strict=True)) == {
        "train/PNEUMONIA/odd.jpeg True": "its name tells no patient or cause",
        "Covid-19/1.png True": "repeats covid-chestxray's films",
        "New/2.png True": "an unknown folder",
        "C-1.jpg False": "no finding stated",
        "C-2.jpg False": "a film named twice",
    }
    with pytest.raises(CovidxrError, match="get the data from"):
        left_out(["covid-chestxray"], tmp_path)


def test_a_version_is_only_claimed_where_something_tells_it(cohen):
    plant(cohen.parent, "chest_xray/train/NORMAL/IM-0001-0001.jpeg")
    assert covid_chestxray.read(cohen).version.unique() == [""]
    (cohen / "fetched.json").write_text(json.dumps({"version": "abc", "files": {}}))
    assert covid_chestxray.read(cohen).version.unique() == ["abc"]
    assert kaggle_chest_xray.read(cohen.parent).version.tolist() == [""]


def test_what_is_fetched_is_what_the_readers_call_their_version():
    for name in REAL:
        assert (
            ORIGINS[name].version
            == vars(__import__(f"covidxr.sources.{name.replace('-', '_')}", fromlist="x"))["VERSION"]
        )


def test_a_table_of_ones_own_keeps_its_names_and_may_state_a_version(tmp_path):
    (tmp_path / "ours.csv").write_text("path,label,version\nfilms/a.png,Normal,2024\nb.png,Normal,\n")
    rows = SOURCES["table"](tmp_path / "ours.csv")
    assert rows.original_name.tolist() == ["films/a.png", "b.png"] and rows.version.tolist() == ["2024", ""]


def films(**licences):
    names = [
        (source, licence) for source, counts in licences.items() for licence, n in counts.items() for _ in range(n)
    ]
    return pd.DataFrame(names, columns=["source", "license"])


def test_the_ledger_counts_films_and_says_what_their_terms_allow():
    ledger = licence_ledger(films(a={"CC BY": 2, "": 3, "CC BY-NC-ND": 1}, b={"by agreement": 4}))
    assert ledger[["source", "license", "films", "redistribute", "change"]].values.tolist() == [
        ["a", "not stated", 3, "no", "no"],
        ["a", "CC BY", 2, "yes", "yes"],
        ["a", "CC BY-NC-ND", 1, "yes, not for sale", "no"],
        ["b", "by agreement", 4, "ask", "ask"],
    ]


def test_the_sentence_adds_up():
    text = licence_sentence(films(a={"CC BY": 2, "": 3, "CC BY-NC-ND": 1}, b={"by agreement": 4}))
    assert text == ("Of 10 films 3 may be redistributed (1 of them not for sale), 4 are under terms to be asked about, and for "
                    "3 no licence is stated.")  # fmt: skip
    assert licence_sentence(films(a={"CC0": 1})).startswith("Of 1 films 1 may be redistributed (0 of them")


@pytest.mark.realdata
def test_the_real_sources_are_told_whole(shared):
    data = shared / "data"
    found = left_out(REAL, data)
    chest = found[found.source == "covid-chestxray"]
    scans = chest.reason == "not an X-ray but CT"
    assert (scans.sum(), (chest.reason == "not a frontal view").sum()) == (44, 27)
    assert (~chest.present & ~scans).sum() == 12
    assert found[found.source == "figure1"].reason.tolist() == ["no finding stated"] * 15
    rows = {name: SOURCES[name](data) for name in REAL}
    kept = rows["covid-chestxray"]
    assert len(kept) + len(chest[chest.reason != "no such file"]) == 338 and len(rows["figure1"]) + 15 == 55
    assert set(kept.version) == {covid_chestxray.VERSION} and set(rows["darkcovidnet"].version) == {""}
    for name, frame in rows.items():
        assert (frame.original_name != "").all() and (frame.url != "").all() and set(frame.license) <= set(TERMS)
        assert all(
            Path(path).name == Path(original).name
            for path, original in zip(frame.path, frame.original_name, strict=True)
        ), name
