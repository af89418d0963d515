"""The audit's probes of how sure a network is: on test films, where it is surer than elsewhere, on sources never seen."""

from __future__ import annotations

import numpy as np

from covidxr import checks
from covidxr.calibration import calibration_error, selective_accuracy
from covidxr.intervals import bootstrap_interval
from covidxr.network_probes import POSITIVE
from covidxr.splits import patient_keys
from covidxr.verdicts import SURE, Probe, drawn_share


def sureness(predictions) -> list:
    """Is the network right as often as it says, and more often where it is surer?

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `covidxr.evaluate.prediction_table`, of films that it was not trained on.

    Returns
    -------
    list of Probe

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"source": "s", "patient_id": [str(i) for i in range(60)], "confidence": 0.99})
    >>> [probe.verdict for probe in sureness(rows.assign(correct=[True, False] * 30))]
    ['surer than right', 'its sureness tells nothing']
    """
    patients, correct = patient_keys(predictions), checks.flags("correct", predictions.correct)
    sure = checks.numbers("confidence", predictions.confidence, 0, 1)
    found = calibration_error(sure, correct, patients)
    verdict = "as right as it is sure, as far as so few films can show"
    if found["interval"][0] > found["chance"]:
        verdict = "surer than right" if sure.mean() > correct.mean() else "less sure than right"
    about = SURE, found["error"], *found["interval"], found["chance"], "no more than chance", len(sure), verdict
    missed = found["interval"][0] > found["chance"]
    return [Probe("expected calibration error", *about, missed_ideal=missed), _surer_half(sure, correct, patients)]


def _surer_half(sure, correct, patients):
    patients = np.asarray(patients, dtype=str)

    def half(rows):
        return selective_accuracy(sure[rows], correct[rows]).accuracy.iloc[(len(rows) - 1) // 2]

    value, accuracy = float(half(np.arange(len(sure)))), float(correct.mean())
    low, high = bootstrap_interval(lambda rows: half(rows) - correct[rows].mean(), patients, draws=200)
    verdict = "righter where it is surer" if low > 0 else "its sureness tells nothing"
    verdict = "always right" if correct.all() else verdict
    ideal, ends = f"above {accuracy:.2f}, its accuracy on all", (max(0.0, accuracy + low), min(1.0, accuracy + high))
    about = value, *ends, accuracy, ideal, len(sure), verdict
    missed = low <= 0 and not correct.all()
    return Probe("accuracy on the half it is surest of", SURE, *about, missed_ideal=missed)


def sureness_elsewhere(predictions, positive=POSITIVE) -> list:
    """How sure the network is of the positive class, or of its absence, on sources that it never saw, beside how often it is right.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `covidxr.evaluate.prediction_table`, of films of other sources, whatever their labels.
    positive : str
        The class against the others.

    Returns
    -------
    list of Probe

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"source": "s", "patient_id": [str(i) for i in range(40)], "label": "No finding"})
    >>> [found] = sureness_elsewhere(rows.assign(predicted="COVID-19", **{"p_COVID-19": 0.9}))
    >>> found.value, found.ideal, found.verdict
    (0.9, 'as often as it is right there, 0.00', 'sure and wrong')
    """
    found = []
    for source, rows in predictions.groupby("source"):
        called = rows.predicted == positive
        right = ((rows.label == positive) == called).to_numpy()
        stated = checks.numbers(f"p_{positive}", rows[f"p_{positive}"], 0, 1)
        sure = np.where(called, stated, 1 - stated)
        patients = patient_keys(rows)
        low, high = bootstrap_interval(lambda picked, sure=sure: sure[picked].mean(), patients, draws=500)
        worst, best = drawn_share(right, patients)
        verdict = "as sure as it is right"
        if low > best:
            verdict = "sure and wrong" if right.mean() < 0.5 else "surer than right"
        elif high < worst:
            verdict = "less sure than right"
        ideal = f"as often as it is right there, {right.mean():.2f}"
        name, missed = f"sureness about {positive} in {source}, never seen", low > best or high < worst
        found.append(
            Probe(name, SURE, float(sure.mean()), low, high, np.nan, ideal, len(rows), verdict, missed_ideal=missed)
        )
    return found
