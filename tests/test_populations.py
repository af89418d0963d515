"""Who is on the films: the table adds up, the score is planted, and the sentence changes with the films."""

from __future__ import annotations

import numpy as np
import pytest

from covidxr.dataset import assemble
from covidxr.populations import (
    ATTRIBUTES,
    describe_films,
    population_picture,
    population_table,
    told_apart,
    what_follows,
)
from covidxr.sources._rows import manifest_rows


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


def test_films_are_described_in_few_words():
    rows = selection((1, "a", "kaggle-chest-xray", None, "", ""), (1, "a", "kaggle-chest-xray", 40, "AP erect", "F"),
                     (1, "a", "s", 17.5, "lateral", "M"), (1, "a", "s", 18, "PA", ""), (1, "a", "s", None, "PA", ""))  # fmt: skip
    assert describe_films(rows).drop(columns=["label", "source"]).values.tolist() == [
        ["children", "not given", "not given"],
        ["adults under 60", "AP", "F"],
        ["children", "not given", "M"],
        ["adults under 60", "PA", "not given"],
        ["not given", "PA", "not given"],
    ]


def test_nothing_known_at_all_is_not_given():
    films = describe_films(selection((2, "a", "s", None, "", "")))
    assert (films[["age group", "view", "sex"]] == "not given").all(axis=None)


def test_the_table_adds_up():
    table = population_table(ARTICLE)
    assert table.index.tolist() == ["Normal", "Bacteria", "COVID-19"] and table.films.tolist() == [20, 20, 20]
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


def test_the_score_is_half_without_a_tell_and_one_with_a_perfect_one():
    assert np.allclose(told_apart(MIXED), 0.5)
    scores = told_apart(ARTICLE)
    assert scores.loc["COVID-19", "source"] == 1 and scores.loc["COVID-19", "view"] == pytest.approx(0.875)
    assert scores.loc["Normal", "source"] == pytest.approx(0.75) and list(scores.columns) == list(ATTRIBUTES)


def test_the_sentence_names_what_the_article_overlooked():
    text = what_follows(ARTICLE)
    assert "every COVID-19 film comes from covid-chestxray and no other film does" in text
    assert "every Normal film comes from kaggle-chest-xray, as do 50 % of the others" in text
    assert (
        "For COVID-19 (source 1.00, age group 1.00, sex 1.00) class and population are as good as the same thing"
        in text
    )
    assert "for Normal" not in text


def test_the_sentence_changes_with_the_films():
    text = what_follows(MIXED)
    assert text.startswith("Every class has several sources. No class is told") and "0.50 (0.5 by chance)" in text
    one_source = what_follows(selection((5, "a", "s", 30, "PA", "F"), (5, "b", "s", 30, "PA", "M")))
    assert one_source.startswith("All films come from s. For a (sex 1.00), for b (sex 1.00) class and population")
    swapped = ARTICLE.assign(label=ARTICLE.label.replace({"COVID-19": "Normal", "Normal": "COVID-19"}))
    assert "every Normal film comes from covid-chestxray and no other film does" in what_follows(swapped)
    assert what_follows(selection((4, "a", "s", 30, "PA", "F")))  # a single class has nothing to be told from


def test_the_picture_shows_every_attribute():
    figure = population_picture(ARTICLE).figure
    assert [ax.get_title() for ax in figure.axes] == [f"{name} by class" for name in ATTRIBUTES]
    legend = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert set(legend) == {"children", "60 and older", "not given"}


def test_phantoms_do_not_tell_their_class(tmp_path):
    rows = assemble(per_class=15, image_size=32, work_dir=tmp_path).manifest
    assert "No class is told by its source, age group, view or sex alone" in what_follows(rows)


@pytest.mark.realdata
def test_the_articles_selection_is_told_by_source_and_age(shared):
    rows = assemble(["covid-chestxray", "kaggle-chest-xray"], shared / "data", per_class=100, image_size=8).manifest
    text = what_follows(rows)
    assert "every COVID-19 film comes from covid-chestxray and no other film does" in text
    assert (
        told_apart(rows).loc["COVID-19", ["source", "age group"]].min() > 0.98
        and "For COVID-19 (source 1.00, age group" in text
    )
