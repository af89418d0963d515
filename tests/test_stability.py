"""How single trainings ended: one that collapsed and one that is worse are found, and where none did, none is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_ablation import predictions

from covidxr.ablation import SIMPLE
from covidxr.errors import CovidxrError
from covidxr.stability import ending_sentences, endings


def sweep(**skills):
    table = predictions({"reference": 3.0, **skills, SIMPLE: 1.0}, np.random.default_rng(0), repeats=2)
    return table.assign(predicted=np.where(table.correct, table.label, "Other"))


def test_a_training_that_is_worse_and_one_that_collapsed_are_named():
    table = sweep(worse=-2.0)
    collapsed = (table.cell == "reference") & (table.repeat == 1) & (table.fold == 2)
    table.loc[collapsed, "predicted"] = "Normal"
    table["correct"] = table.predicted == table.label
    found = endings(table)
    assert len(found) == 12 and set(found.cell) == {"reference", "worse"}
    constant, below = ending_sentences(found)
    assert constant == "1 of 12 trainings gave every film the same answer: reference (1)."
    assert below == "7 of 12 ended below the simple model on the same films: reference (1), worse (6)."
    row = found[(found.cell == "reference") & (found.repeat == 1) & (found.fold == 2)].iloc[0]
    own = table[collapsed]
    assert row.value == (own.label == "Normal").mean() and row.answers == 1


def test_where_nothing_is_wrong_nothing_is_named():
    assert ending_sentences(endings(sweep(also=3.0))) == [
        "0 of 12 trainings gave every film the same answer.",
        "0 of 12 ended below the simple model on the same films.",
    ]


def test_more_classes_are_compared_on_the_films_of_both():
    table = sweep()
    more = table[table.cell == "reference"].assign(cell="four classes")
    virus = more.assign(image_id="v" + more.image_id, label="Virus", correct=False)
    found = endings(pd.concat([table, more, virus])).set_index("cell")
    assert found.loc["four classes", "value"].tolist() == found.loc["reference", "value"].tolist()


def test_without_the_simple_model_it_says_so():
    table = sweep()
    assert ending_sentences(endings(table[table.cell != SIMPLE])) == [
        "There is no cell 'the simple model' to hold the trainings against."
    ]


def test_an_answer_that_is_missing_is_not_averaged_over():
    table = sweep()
    with pytest.raises(CovidxrError, match="correct must be true or false for every image, which nan is not"):
        endings(table.assign(correct=table.correct.astype(float).where(table.index > 3)))
