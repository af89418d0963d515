"""Who is on the images: the table adds up, the score is planted, and the sentence changes with the images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidxr.data.cohort import (
    ATTRIBUTES,
    TERMS,
    attribute_leakage,
    cohort_summary,
    cohort_table,
    image_attributes,
    licence_summary,
    licence_table,
)
from covidxr.data.dataset import build_dataset
from covidxr.data.manifest import manifest_rows
from covidxr.data.sources import (
    COVID_CHESTXRAY_URL,
    COVID_CHESTXRAY_VERSION,
    excluded_images,
    load_source,
)
from covidxr.plots import cohort_figure
from covidxr.utils import CovidxrError


def selection(*groups):
    """Make rows of (count, label, source, age, view, sex)."""
    names = ("label", "source", "age", "view", "sex")
    rows = [dict(zip(names, group, strict=True)) for count, *group in groups for _ in range(count)]
    return manifest_rows({"image_id": str(n), "patient_id": str(n // 2), **row} for n, row in enumerate(rows))


ARTICLE = selection(
    (20, "Normal", "kaggle-chest-xray", None, "AP", ""),
    (20, "Bacteria", "kaggle-chest-xray", None, "AP", ""),
    (15, "COVID-19", "covid-chestxray", 60, "PA", "M"),
    (5, "COVID-19", "covid-chestxray", None, "AP Supine", "F"),
)
MIXED = selection(*((10, label, source, age, "PA", sex) for label in ("Normal", "COVID-19") for source in "ab"
                    for age in (10, 60) for sex in "FM"))  # fmt: skip


def test_images_are_described_in_few_words():
    rows = selection((1, "a", "kaggle-chest-xray", None, "", ""), (1, "a", "kaggle-chest-xray", 40, "AP erect", "F"),
                     (1, "a", "s", 17.5, "lateral", "M"), (1, "a", "s", 18, "PA", ""), (1, "a", "s", None, "PA", ""))  # fmt: skip
    assert image_attributes(rows).drop(columns=["label", "source"]).values.tolist() == [
        ["children", "not given", "not given"],
        ["adults under 60", "AP", "F"],
        ["children", "not given", "M"],
        ["adults under 60", "PA", "not given"],
        ["not given", "PA", "not given"],
    ]


def test_nothing_known_at_all_is_not_given():
    sample_images = image_attributes(selection((2, "a", "s", None, "", "")))
    assert (sample_images[["age group", "view", "sex"]] == "not given").all(axis=None)


def test_the_table_adds_up():
    table = cohort_table(ARTICLE)
    assert table.index.tolist() == ["Normal", "Bacteria", "COVID-19"] and table.images.tolist() == [20, 20, 20]
    row = table.loc["COVID-19"]
    assert row[["patients", "age known", "mean age", "sex known", "female", "PA"]].tolist() == [
        10,
        0.75,
        60,
        1,
        0.25,
        0.75,
    ]
    assert table.children.tolist() == [1, 1, 0] and np.isnan(table.loc["Normal", "mean age"])


def test_the_score_is_half_without_an_association_and_one_with_a_perfect_one():
    assert np.allclose(attribute_leakage(MIXED), 0.5)
    scores = attribute_leakage(ARTICLE)
    assert scores.loc["COVID-19", "source"] == 1 and scores.loc["COVID-19", "view"] == pytest.approx(0.875)
    assert scores.loc["Normal", "source"] == pytest.approx(0.75) and list(scores.columns) == list(ATTRIBUTES)


def test_the_sentence_names_what_the_article_overlooked():
    text = cohort_summary(ARTICLE)
    assert "every COVID-19 image comes from covid-chestxray and no other image does" in text
    assert "every Normal image comes from kaggle-chest-xray, as do 50 % of the others" in text
    assert (
        "Metadata alone practically determine the class for COVID-19 (source 1.00, age group 1.00, sex 1.00): balanced"
        in text
    )
    assert "Normal (" not in text


def test_the_sentence_changes_with_the_images():
    text = cohort_summary(MIXED)
    assert (
        text.startswith("Every class has several sources. Source, age group, view and sex do not")
        and "0.50 (0.5 by chance)" in text
    )
    one_source = cohort_summary(selection((5, "a", "s", 30, "PA", "F"), (5, "b", "s", 30, "PA", "M")))
    assert one_source.startswith(
        "All images come from s. Metadata alone practically determine the class for a (sex 1.00), b"
    )
    swapped = ARTICLE.assign(label=ARTICLE.label.replace({"COVID-19": "Normal", "Normal": "COVID-19"}))
    assert "every Normal image comes from covid-chestxray and no other image does" in cohort_summary(swapped)
    assert cohort_summary(selection((4, "a", "s", 30, "PA", "F")))  # a single class has nothing to be told from


def test_the_picture_shows_every_attribute():
    figure = cohort_figure(ARTICLE).figure
    assert [ax.get_title() for ax in figure.axes] == [f"{name} by class" for name in ATTRIBUTES]
    legend = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert set(legend) == {"children", "60 and older", "not given"}


def test_phantoms_are_not_confounded(tmp_path):
    rows = build_dataset(per_class=15, image_size=32, work_dir=tmp_path).manifest
    assert "Source, age group, view and sex do not determine any class" in cohort_summary(rows)


@pytest.mark.realdata
def test_the_articles_selection_is_confounded_with_source_and_age(shared):
    rows = build_dataset(
        ["covid-chestxray", "kaggle-chest-xray"], shared / "data", per_class=100, image_size=8
    ).manifest
    text = cohort_summary(rows)
    assert "every COVID-19 image comes from covid-chestxray and no other image does" in text
    assert (
        attribute_leakage(rows).loc["COVID-19", ["source", "age group"]].min() > 0.98
        and "determine the class for COVID-19 (source 1.00, age group" in text
    )


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


def test_every_exclusion_from_covid_chestxray_has_its_reason(cohen):
    found = excluded_images(["phantom", "covid-chestxray"], cohen.parent)
    assert found.values.tolist() == [
        ["covid-chestxray", "a.png", "a file named twice", True],
        ["covid-chestxray", "b.png", "not a frontal view", True],
        ["covid-chestxray", "c.png", "not an X-ray but CT", False],
        ["covid-chestxray", "gone.png", "no such file", False],
        ["covid-chestxray", "gone too.png", "not a frontal view", False],
        ["covid-chestxray", "d.png", "not an X-ray but not stated", False],
    ]
    rows = load_source("covid-chestxray", cohen)
    assert rows.original_name.tolist() == ["a.png", "gone.png"] and rows.url.tolist() == [
        "http://a",
        COVID_CHESTXRAY_URL,
    ]


def test_every_exclusion_from_the_other_sources_has_its_reason(tmp_path):
    plant(tmp_path, "chest_xray/train/PNEUMONIA/odd.jpeg", "chest_xray/train/NORMAL/IM-0001-0001.jpeg")
    plant(
        tmp_path,
        *(f"darkcovidnet/X-Ray Image DataSet/{name}" for name in ("Covid-19/1.png", "New/2.png", "Pneumonia/3.png")),
    )
    (tmp_path / "figure1").mkdir()
    rows = ["patientid,sex,age,finding,view", "C-1,,,,PA", "C-2,,,COVID-19,PA", "C-2,,,COVID-19,PA"]
    (tmp_path / "figure1" / "metadata.csv").write_text("\n".join(rows))
    found = excluded_images(["kaggle-chest-xray", "darkcovidnet", "figure1"], tmp_path)
    assert dict(zip(found.original_name + " " + found.present.astype(str), found.reason, strict=True)) == {
        "train/PNEUMONIA/odd.jpeg True": "its name tells no patient or cause",
        "Covid-19/1.png True": "repeats covid-chestxray's images",
        "New/2.png True": "an unknown folder",
        "C-1.jpg False": "no finding stated",
        "C-2.jpg False": "an image named twice",
    }
    with pytest.raises(CovidxrError, match="get the data from"):
        excluded_images(["covid-chestxray"], tmp_path)


def test_a_version_is_only_claimed_where_something_tells_it(cohen):
    plant(cohen.parent, "chest_xray/train/NORMAL/IM-0001-0001.jpeg")
    assert load_source("covid-chestxray", cohen).version.unique() == [""]
    (cohen / "fetched.json").write_text(json.dumps({"version": "abc", "files": {}}))
    assert load_source("covid-chestxray", cohen).version.unique() == ["abc"]
    assert load_source("kaggle-chest-xray", cohen.parent).version.tolist() == [""]


def test_a_table_of_ones_own_keeps_its_names_and_may_state_a_version(tmp_path):
    (tmp_path / "ours.csv").write_text("path,label,version\nimages/a.png,Normal,2024\nb.png,Normal,\n")
    rows = load_source("table", tmp_path / "ours.csv")
    assert rows.original_name.tolist() == ["images/a.png", "b.png"] and rows.version.tolist() == ["2024", ""]


def sample_images(**licences):
    names = [
        (source, licence) for source, counts in licences.items() for licence, n in counts.items() for _ in range(n)
    ]
    return pd.DataFrame(names, columns=["source", "license"])


def test_the_ledger_counts_images_and_says_what_their_terms_allow():
    ledger = licence_table(sample_images(a={"CC BY": 2, "": 3, "CC BY-NC-ND": 1}, b={"by agreement": 4}))
    assert ledger[["source", "license", "images", "redistribute", "change"]].values.tolist() == [
        ["a", "not stated", 3, "no", "no"],
        ["a", "CC BY", 2, "yes", "yes"],
        ["a", "CC BY-NC-ND", 1, "yes, not for sale", "no"],
        ["b", "by agreement", 4, "ask", "ask"],
    ]


def test_the_sentence_adds_up():
    text = licence_summary(sample_images(a={"CC BY": 2, "": 3, "CC BY-NC-ND": 1}, b={"by agreement": 4}))
    assert text == ("Of 10 images, 3 may be redistributed (1 of them non-commercially only), 4 require permission, and for "
                    "3 no licence is stated.")  # fmt: skip
    assert licence_summary(sample_images(a={"CC0": 1})).startswith("Of 1 images, 1 may be redistributed (0 of them")


@pytest.mark.realdata
def test_everything_in_the_real_sources_is_accounted_for(shared):
    data = shared / "data"
    found = excluded_images(REAL, data)
    chest = found[found.source == "covid-chestxray"]
    scans = chest.reason == "not an X-ray but CT"
    assert (scans.sum(), (chest.reason == "not a frontal view").sum()) == (44, 27)
    assert (~chest.present & ~scans).sum() == 12
    assert found[found.source == "figure1"].reason.tolist() == ["no finding stated"] * 15
    rows = {name: load_source(name, data) for name in REAL}
    kept = rows["covid-chestxray"]
    assert len(kept) + len(chest[chest.reason != "no such file"]) == 338 and len(rows["figure1"]) + 15 == 55
    assert set(kept.version) == {COVID_CHESTXRAY_VERSION} and set(rows["darkcovidnet"].version) == {""}
    for name, frame in rows.items():
        assert (frame.original_name != "").all() and (frame.url != "").all() and set(frame.license) <= set(TERMS)
        assert all(
            Path(path).name == Path(original).name
            for path, original in zip(frame.path, frame.original_name, strict=True)
        ), name
