"""Numbers of other hospitals beside those of the run's own films: tables for the eye, and sentences that follow from them."""

from __future__ import annotations

import pandas as pd

from covidxr.network_probes import POSITIVE, is_healthy

MEASURES = {"sensitivity": "sensitivity", "specificity": "specificity", "auc": "AUC"}


def side_by_side(results) -> pd.DataFrame:
    """One row a set: the network's own calls, those at the threshold fixed on validation films, and calibration.

    Parameters
    ----------
    results : dict
        Name to metrics from `covidxr.external.evaluate_external`; the run's own test films first.

    Returns
    -------
    pandas.DataFrame
        NaN where a set has no such films.

    Examples
    --------
    >>> at = {"threshold": 0.4, "rule": "Youden's", "sensitivity": 0.8, "specificity": None}
    >>> one = {"n": 9, "sensitivity": 0.9, "specificity": None, "auc": None, "calibration_error": 0.1, "brier": 0.2}
    >>> float(side_by_side({"test": one | {"at_threshold": at, "tempered": {"calibration_error": 0.05}}}).sensitivity.iloc[0])
    0.9
    """
    rows = {
        name: {
            "n": found["n"],
            **{key: found[key] for key in MEASURES},
            "sensitivity at threshold": found.get("at_threshold", {}).get("sensitivity"),
            "specificity at threshold": found.get("at_threshold", {}).get("specificity"),
            **{key: found[key] for key in ("calibration_error", "brier")},
            "calibration_error after temperature": found.get("tempered", {}).get("calibration_error"),
        }
        for name, found in results.items()
    }
    return pd.DataFrame(rows, dtype=float).T.astype({"n": int})


def with_intervals(results) -> pd.DataFrame:
    """One row a number, with its interval, as `covidxr.plots.forest` takes it.

    Parameters
    ----------
    results : dict
        As for `side_by_side`.

    Returns
    -------
    pandas.DataFrame
        Index ``"measure, set"``; columns ``value``, ``low``, ``high`` and ``chance`` (0.5 for areas under the ROC curve).

    Examples
    --------
    >>> found = {"sensitivity": 0.9, "sensitivity_interval": [0.8, 1.0], "specificity": None, "auc": None}
    >>> with_intervals({"test": found | {"at_threshold": {"sensitivity": None, "specificity": None}}}).index.tolist()
    ['sensitivity, test']
    """
    rows = {}
    for key, word in MEASURES.items():
        for name, found in results.items():
            rows[f"{word}, {name}"] = _row(found, key)
        for name, found in results.items() if key != "auc" else ():
            rows[f"{word} at threshold, {name}"] = _row(found.get("at_threshold", {}), key)
    measured = {name: row for name, row in rows.items() if row}
    table = pd.DataFrame.from_dict(measured, orient="index", columns=["value", "low", "high"])
    return table.assign(chance=[0.5 if name.startswith("AUC") else float("nan") for name in table.index])


def comparison(results, positive=POSITIVE) -> list:
    """What the numbers come to, in words: every set, its strange labels, and whether it falls short of the run's own test films.

    Parameters
    ----------
    results : dict
        As for `side_by_side`; the first is what the others are compared with.
    positive : str or None
        The class that was asked about.

    Returns
    -------
    list of str

    Examples
    --------
    >>> inside = {"n": 60, "specificity": 0.98, "specificity_interval": [0.95, 1.0], "sensitivity": None, "auc": None}
    >>> outside = inside | {"specificity": 0.02, "specificity_interval": [0.01, 0.04]}
    >>> at = {"at_threshold": {"threshold": 0.5, "rule": "Youden's", "sensitivity": None, "specificity": None}}
    >>> for sentence in comparison({"test films": inside | at, "north": outside | at}):
    ...     print(sentence)
    test films, 60 films: specificity 0.98 (0.95 to 1.00).
    north, 60 films: specificity 0.02 (0.01 to 0.04).
    In north the specificity is 0.02, inside it is 0.98: the fall is larger than both intervals.
    In north 98 of 100 films without COVID-19 are called COVID-19.
    """
    (_, inside), *others = results.items()
    said = number_sentences(results)
    for name, found in others:
        said += _strange_labels(name, found, positive)
        said += [_against(name, key, found, inside) for key in MEASURES if _row(found, key) and _row(inside, key)]
        if found["specificity"] is not None and found["specificity"] < 0.5:
            said.append(
                f"In {name} {100 * (1 - found['specificity']):.0f} of 100 films without {positive} are called {positive}."
            )
    return said


def number_sentences(results) -> list:
    """Every number of each set, in words.

    Parameters
    ----------
    results : dict
        Name to metrics from `covidxr.external.evaluate_external`, with settings or without.

    Returns
    -------
    list of str
        One a set; where there is none, that.

    Examples
    --------
    >>> number_sentences({"north": {"n": 60, "sensitivity": None, "specificity": 0.9, "specificity_interval": [0.8, 0.95]}})
    ['north, 60 films: specificity 0.90 (0.80 to 0.95).']
    >>> number_sentences({})
    ['No set was asked.']
    """
    return [_all_numbers(name, found) for name, found in results.items()] or ["No set was asked."]


def _row(found, key):
    return None if found.get(key) is None else (found[key], *found[f"{key}_interval"])


def _all_numbers(name, found):
    at = found.get("at_threshold", {})
    said = [f"{word} {_number(_row(found, key))}" for key, word in MEASURES.items() if _row(found, key)]
    fixed = [f"{MEASURES[key]} {_number(_row(at, key))}" for key in ("sensitivity", "specificity") if _row(at, key)]
    if fixed:
        said.append(
            f"at the threshold of {at['threshold']:.2f} fixed on validation films ({at['rule']}) " + ", ".join(fixed)
        )
    elif at and at["threshold"] is None:
        said.append(f"threshold {at['rule']}")
    if found.get("calibration_error") is not None:
        error = _number((found["calibration_error"], *found["calibration_error_interval"]))
        said.append(f"calibration error {error}, by chance {found['calibration_chance']:.2f}")
    if not said and found.get("accuracy") is not None:
        said = [f"accuracy {_number(_row(found, 'accuracy'))}, on films whose label is a class of the network"]
    return f"{name}, {found['n']} films: {'; '.join(said) or 'no number, as no label there is a class of the network'}."


def _number(row):
    return "{:.2f} ({:.2f} to {:.2f})".format(*row)


def _strange_labels(name, found, positive):
    """Labels that are no class of the network: as it should be for other diseases, not for a class spelt otherwise."""
    said = []
    for label, answers in found.get("called", {}).items():
        if label in answers:
            continue
        counts = f"they count as films without {positive}" if positive else "they count in no number"
        if found.get("uncounted") and not is_healthy([label]).any():
            counts = f"no film there is labelled {positive}, so these may be it, and they count in no number"
        n, classes = sum(answers.values()), ", ".join(answers)
        about = f"In {name} {n} films are labelled {label}, which is no class of the network ({classes})"
        said.append(f"{about}: {counts}. `label_map` renames labels.")
    return said


def _against(name, key, found, inside):
    (value, low, high), (own, own_low, own_high) = _row(found, key), _row(inside, key)
    verdict = "the intervals overlap, so no fall is shown"
    if high < own_low:
        verdict = "the fall is larger than both intervals"
    elif low > own_high:
        verdict = "better than inside, beyond both intervals"
    return f"In {name} the {MEASURES[key]} is {value:.2f}, inside it is {own:.2f}: {verdict}."
