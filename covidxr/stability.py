"""Stability: how the single trainings of a sweep ended, beside a model too simple to collapse, on the same films."""

from __future__ import annotations

import pandas as pd

from covidxr import checks
from covidxr.ablation import SIMPLE

_PLACE = ["repeat", "fold"]


def endings(predictions, simple=SIMPLE) -> pd.DataFrame:
    """Measure each training of a sweep on its own test films, and the simple model's of the same fold on the same.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `covidxr.sweep.run_sweep`.
    simple : str
        The cell to hold the others against.

    Returns
    -------
    pandas.DataFrame
        A row for each training of the other cells: ``cell, repeat, fold``, ``value`` (accuracy), ``beside`` (the simple
        model's), ``answers`` (how many different ones it gave); where a cell has more classes, on the films of both.

    Examples
    --------
    >>> films = {"image_id": [1, 2], "repeat": 0, "fold": 0}
    >>> rows = [pd.DataFrame({**films, "cell": "reference", "predicted": ["a", "a"], "correct": [True, False]}),
    ...         pd.DataFrame({**films, "cell": SIMPLE, "predicted": ["a", "b"], "correct": [True, True]})]
    >>> endings(pd.concat(rows))[["value", "beside", "answers"]].values.tolist()
    [[0.5, 1.0, 1.0]]
    """
    predictions = predictions.assign(correct=checks.flags("correct", predictions.correct))
    held = predictions[predictions.cell == simple]
    beside = held.groupby(_PLACE).correct.mean().rename("beside")
    shared = predictions[predictions.cell != simple].merge(held[[*_PLACE, "image_id"]], on=[*_PLACE, "image_id"])
    trainings = shared.groupby(["cell", *_PLACE], sort=False)
    table = trainings.agg(value=("correct", "mean"), answers=("predicted", "nunique")).reset_index()
    return table.merge(beside, on=_PLACE)


def ending_sentences(table, simple=SIMPLE) -> list:
    """Say in words how many trainings collapsed into one answer, and how many a simple model beats.

    Parameters
    ----------
    table : pandas.DataFrame
        From `endings`.
    simple : str
        What the others were held against.

    Returns
    -------
    list of str

    Examples
    --------
    >>> table = pd.DataFrame({"cell": ["reference", "no warm-up"], "value": [0.9, 0.3], "beside": 0.8, "answers": [3, 1]})
    >>> print(*ending_sentences(table), sep="\\n")
    1 of 2 trainings gave every film the same answer: no warm-up (1).
    1 of 2 ended below the simple model on the same films: no warm-up (1).
    """
    if table.empty:
        return [f"There is no cell {simple!r} to hold the trainings against."]
    constant, below = table[table.answers == 1], table[table.value < table.beside]
    return [
        f"{len(constant)} of {len(table)} trainings gave every film the same answer{_which(constant)}.",
        f"{len(below)} of {len(table)} ended below {simple} on the same films{_which(below)}.",
    ]


def _which(rows):
    counts = rows.cell.value_counts(sort=False)
    return ": " + ", ".join(f"{cell} ({count})" for cell, count in counts.items()) if len(rows) else ""
