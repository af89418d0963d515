"""What matters: the cells of an ablation, and what the predictions of a sweep over them allow to be said."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import t as student

from covidxr.errors import CovidxrError, unknown
from covidxr.intervals import bootstrap_interval
from covidxr.splits import patient_keys

REFERENCE = {
    "network": "vgg16",  # or simple, the article's model without convolutions
    "weights": "auto",
    "freeze": "last-block",
    "policy": "anatomical",
    "schedule": "plateau",
    "probe_epochs": 40,
    "probe_passes": 2,
    "image_size": None,  # the run's own
    "classes": None,  # the run's own
    "epochs": None,  # this and the next three: by the kind of the weights, see covidxr.recipe
    "learning_rate": None,
    "warmup_epochs": None,
    "batch_size": None,
    "patience": 10,
    "seed": 0,
}
"""The settings of a training, as notebook 03 has them; a cell of an ablation changes some."""
SIMPLE = "the simple model"
_BY_START = ("learning_rate", "warmup_epochs", "batch_size")
_SIMPLE = {
    "network": "simple",
    "policy": "none",
    "epochs": 60,
    "learning_rate": 1e-3,
    "warmup_epochs": 1,
    "batch_size": 32,
}
_TRAINED = {"first blocks": "last-block", "last blocks": "first-blocks", "all blocks": "none", "the head alone": "base"}


def cell_settings(cells, **chosen) -> dict:
    """Fill in the settings of each cell.

    Parameters
    ----------
    cells : dict of dict
        For each cell's name the settings in which it differs; the first is the reference that others are compared with.
    **chosen
        Settings that all cells share, where they do not say otherwise.

    Returns
    -------
    dict of dict
        For each cell all of its settings.

    Raises
    ------
    CovidxrError
        When there is no cell, or a setting does not exist.

    Examples
    --------
    >>> cells = cell_settings({"reference": {}, "longer": {"epochs": 20}}, epochs=5)
    >>> cells["reference"]["epochs"], cells["longer"]["epochs"], cells["longer"]["schedule"]
    (5, 20, 'plateau')
    """
    if not cells:
        raise CovidxrError("an ablation needs cells; the first is the reference that the others are compared with")
    for name, changes in {"all cells": chosen, **cells}.items():
        if strange := sorted(set(changes) - set(REFERENCE)):
            raise unknown(f"setting of {name}:", strange[0], REFERENCE)
    return {name: {**REFERENCE, **chosen, **changes} for name, changes in cells.items()}


def standard_cells(settings, labels=(), image_sizes=()) -> dict:
    """List one change at a time to a training: its start, what is trained, each augmentation, the schedule and so on.

    Parameters
    ----------
    settings : dict
        The reference's, as `cell_settings` fills them in.
    labels : sequence of str
        Labels of the run's films; more than the reference's classes make a cell of their own.
    image_sizes : sequence of int
        Sides in pixels to try.

    Returns
    -------
    dict of dict
        As `cell_settings` takes them, beginning with ``reference`` and ``another seed``, which shows what chance does.

    Examples
    --------
    >>> cells = standard_cells({**REFERENCE, "policy": "article"}, image_sizes=[64])
    >>> cells["without gamma"], cells["64 px"], cells["one-cycle schedule"]
    ({'policy': 'article without gamma'}, {'image_size': 64}, {'schedule': 'one-cycle'})
    """
    from covidxr.augment import build_policy  # needs TensorFlow, which nothing else here does

    policy = settings["policy"]
    steps = [step.name for step in build_policy(policy).steps]
    start = "imagenet" if settings["weights"] == "random" else "random"
    schedule = "plateau" if settings["schedule"] == "one-cycle" else "one-cycle"
    cells = {
        "reference": {},
        "another seed": {"seed": settings["seed"] + 10_000},
        f"{start} start": {"weights": start, **dict.fromkeys(_BY_START)},
        **{
            f"{words} trained": {"freeze": freeze} for words, freeze in _TRAINED.items() if freeze != settings["freeze"]
        },
        **{f"without {step}": {"policy": f"{policy} without {step}"} for step in steps},
        **({"no augmentation": {"policy": "none"}} if steps else {}),
        f"{schedule} schedule": {"schedule": schedule},
        "no head first": {"probe_epochs": 0},
        f"{schedule} schedule, no head first": {"schedule": schedule, "probe_epochs": 0},
        "neither head first nor warm-up": {"probe_epochs": 0, "warmup_epochs": 0},
        SIMPLE: _SIMPLE,
        **{f"{size} px": {"image_size": size} for size in image_sizes},
    }
    if set(labels) - set(settings["classes"] or labels):
        cells[f"{len(labels)} classes"] = {"classes": list(labels)}
    return cells


def summarise(predictions, draws=1000) -> pd.DataFrame:
    """Accuracy of each cell, and its difference from the first one's on the same films, with intervals.

    A film that is tested in several repeats counts with the mean of its answers. The accuracy's interval is a bootstrap
    over patients. The difference's is the wider of two, as either alone claims too much: the same bootstrap knows nothing
    of the lottery of training, by which two seeds of one recipe differ; and Student's interval over the trainings (an
    analysis of variance, cells against folds, its error shared by all cells) does not know that repeats test the same films.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `covidxr.sweep.run_sweep`.
    draws : int
        Bootstrap samples.

    Returns
    -------
    pandas.DataFrame
        Indexed by cell; ``n`` films, ``value`` (accuracy), ``low``, ``high``, ``chance`` (to name the largest class), and
        against the first cell ``shared`` films, ``difference``, ``difference_low``, ``difference_high`` and ``verdict``.

    References
    ----------
    Fisher R. A., The Design of Experiments, 1935, on randomised blocks, which folds are here; for the bootstrap see
    `covidxr.intervals`.

    Examples
    --------
    >>> rows = [{"cell": c, "repeat": 0, "fold": i % 3, "image_id": i, "source": "s", "patient_id": str(i), "label": "a",
    ...          "correct": c == "good" or i % 4 == 0} for c in ("good", "bad") for i in range(60)]
    >>> summarise(pd.DataFrame(rows))[["value", "difference", "verdict"]].values.tolist()
    [[1.0, 0.0, ''], [0.25, -0.75, 'differs']]
    """
    first = predictions.cell.iloc[0]
    shared = predictions[predictions.image_id.isin(predictions.image_id[predictions.cell == first])]
    margin = _training_margin(shared)
    rows = {}
    for cell, own in predictions.groupby("cell", sort=False):
        films = _per_film(own)
        low, high = _interval(films.correct, films.patient, draws)
        chance = films.label.value_counts(normalize=True).max()
        rows[cell] = {"n": len(films), "value": films.correct.mean(), "low": low, "high": high, "chance": chance}
        paired = _per_film(shared[shared.cell == cell])
        rows[cell] |= _difference(paired, _per_film(shared[shared.cell == first]), margin, draws)
    summary = pd.DataFrame.from_dict(rows, orient="index").rename_axis("cell")
    summary.loc[first, ["difference_low", "difference_high", "verdict"]] = 0.0, 0.0, ""
    return summary


def _per_film(predictions):
    films = predictions.assign(patient=patient_keys(predictions)).groupby("image_id")
    return films.agg(correct=("correct", "mean"), label=("label", "first"), patient=("patient", "first"))


def _interval(values, patients, draws):
    values = values.to_numpy()
    return bootstrap_interval(lambda rows: values[rows].mean(), patients, draws=draws)


def _training_margin(predictions):
    """Half the width of Student's interval of a difference between two cells' means over all trainings."""
    table = predictions.groupby(["repeat", "fold", "cell"]).correct.mean().unstack()
    trainings, cells = table.shape
    rest = table.sub(table.mean(axis=1), axis=0).sub(table.mean(axis=0), axis=1) + table.to_numpy().mean()
    freedom = (trainings - 1) * (cells - 1)
    if not freedom:
        return np.inf
    return student.ppf(0.975, freedom) * np.sqrt(2 / trainings * (rest**2).to_numpy().sum() / freedom)


def _difference(films, reference, margin, draws):
    apart = (films.correct - reference.correct).dropna()
    value, (low, high) = apart.mean(), _interval(apart, films.patient[apart.index], draws)
    low, high = max((low, high), (value - margin, value + margin), key=lambda ends: ends[1] - ends[0])
    verdict = "differs" if low > 0 or high < 0 else "cannot be told apart"
    found = {"shared": len(apart), "difference": value, "difference_low": low, "difference_high": high}
    return {**found, "verdict": verdict}


def ablation_sentences(summary) -> list:
    """Say in words what the intervals of an ablation allow to be said, and how much of it chance alone would say.

    Parameters
    ----------
    summary : pandas.DataFrame
        From `summarise`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> row = {"n": 60, "value": 0.9, "low": 0.8, "high": 0.95, "chance": 0.5, "shared": 60, "difference": 0.0}
    >>> other = {**row, "difference": -0.2, "difference_low": -0.3, "difference_high": -0.1, "verdict": "differs"}
    >>> ablation_sentences(pd.DataFrame.from_dict({"reference": row, "random start": other}, orient="index"))[1]
    'random start: 0.90 (0.80 to 0.95), chance 0.50; 0.20 lower than reference (-0.30 to -0.10): it differs.'
    """
    first, *others = summary.index
    told = [_accuracy(summary.loc[cell]) for cell in summary.index]
    lines = [f"{first}: {told[0]}."]
    for cell, text in zip(others, told[1:], strict=True):
        lines.append(f"{cell}: {text}; {_comparison(summary.loc[cell], first)}.")
    claims = (summary.verdict == "differs").sum()
    if others:
        lines.append(
            f"{claims} of {len(others)} differ from {first}; if none did, intervals of 95 % would still claim it of "
            f"{0.05 * len(others):.1f} of them on average."
        )
    return lines


def _accuracy(row):
    return f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f}), chance {row.chance:.2f}"


def _comparison(row, first):
    direction = "higher" if row.difference > 0 else "lower"
    interval = f"({row.difference_low:+.2f} to {row.difference_high:+.2f})"
    films = f" on the {row.shared:.0f} films that both were tested on" if row.shared != row.n else ""
    if row.verdict == "differs":
        return f"{abs(row.difference):.2f} {direction} than {first}{films} {interval}: it differs"
    return f"it cannot be told apart from {first}{films} {interval}"
