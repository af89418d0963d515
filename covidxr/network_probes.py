"""The audit's probes of a trained network: without lungs, within one source, and its heat."""

from __future__ import annotations

import numpy as np
import pandas as pd

from covidxr.errors import CovidxrError, unknown
from covidxr.evaluate import predict, prediction_table
from covidxr.heat import black_out, blur_out
from covidxr.intervals import auc_with_interval
from covidxr.probes import FEWEST
from covidxr.splits import patient_keys
from covidxr.verdicts import HEAT, LUNGS, NOT_TOLD, PLACE, Probe, accuracy_probe, gained

POSITIVE = "COVID-19"
HEALTHY = ("normal", "no finding", "healthy")  # however they are capitalised


def positive_class(classes, positive=None) -> str | None:
    """The class to ask about against all others: `positive`, else COVID-19 where it is a class, else None.

    Parameters
    ----------
    classes : sequence of str
        The run's classes.
    positive : str, optional
        The one that is wanted.

    Returns
    -------
    str or None

    Raises
    ------
    CovidxrError
        When `positive` is none of the classes.

    Examples
    --------
    >>> positive_class(["Normal", "COVID-19"]), positive_class(["Healthy", "TB"], "TB"), positive_class(["Healthy", "TB"])
    ('COVID-19', 'TB', None)
    """
    if positive is None:
        return POSITIVE if POSITIVE in classes else None
    if positive not in classes:
        raise unknown("class as `positive`:", positive, classes)
    return positive


def positive_sentences(classes, positive) -> list:
    """Say which class is asked about, or what is left out where none is.

    Examples
    --------
    >>> positive_sentences(["Healthy", "TB"], "TB")
    ['The positive class is TB, against Healthy.']
    >>> positive_sentences(["Healthy", "TB"], None)[1]
    'The parameter `positive` names one of its classes: Healthy, TB.'
    """
    if positive:
        return [f"The positive class is {positive}, against {', '.join(one for one in classes if one != positive)}."]
    return [
        f"The run has no class {POSITIVE} and no other was named, so whatever asks for one class against the others is left out: "
        "sensitivity, specificity and AUC, thresholds and calibration in other sets, sources left out, steps of care, unseen "
        "places, and in the audit disease within one source and sureness in unseen sources.",
        f"The parameter `positive` names one of its classes: {', '.join(classes)}.",
    ]


def is_healthy(labels) -> pd.Series:
    """Which labels say that nothing was found, whatever the network's classes are called."""
    return pd.Series(labels).astype(str).str.casefold().str.replace("_", " ").isin(HEALTHY)


def counted(labels, classes, positive=POSITIVE) -> np.ndarray:
    """Which images are known to be of the positive class, or known not to be.

    A label that is no class of the network is another disease, or the positive class spelt otherwise. Where a set labels
    images with the positive class, its other labels are other diseases; where it does not, nobody can tell, and such images
    count for nothing.

    Parameters
    ----------
    labels : array_like of str
        Of the N images of one set.
    classes : sequence of str
        The network's classes.
    positive : str
        One of them.

    Returns
    -------
    numpy.ndarray
        ``bool``, shape (N,).

    Examples
    --------
    >>> counted(["COVID-19", "SARS", "Normal"], ["Normal", "COVID-19"]).tolist()
    [True, True, True]
    >>> counted(["covid", "No finding", "Normal"], ["Normal", "COVID-19"]).tolist()
    [False, True, True]
    """
    labels = pd.Series(np.asarray(labels, dtype=str))
    return (labels.isin(list(classes)) | is_healthy(labels) | (labels == positive).any()).to_numpy(dtype=bool)


def scores_of(tables, classes, positive) -> dict:
    """What each set's images were called, as far as it is known of them whether they are of the positive class.

    Parameters
    ----------
    tables : dict
        Name to predictions, as of `covidxr.evaluate.prediction_table`.
    classes : sequence of str
        The network's classes.
    positive : str or None
        One of them.

    Returns
    -------
    dict
        Name to a frame with ``ill``, ``score``, ``called`` and ``patient``, as `covidxr.never_seen.score_summary` takes it; without
        sets of which nothing is `counted`, and empty where there is no positive class.

    Examples
    --------
    >>> rows = pd.DataFrame({"label": ["TB"], "predicted": "TB", "p_TB": 0.9, "source": "x", "patient_id": "7"})
    >>> scores_of({"north": rows}, ["Healthy", "TB"], "TB")["north"].values.tolist()
    [[True, 0.9, True, 'x/7']]
    """
    found = {}
    for name, rows in tables.items() if positive else ():
        rows = rows[counted(rows.label, classes, positive)]
        about = {"ill": rows.label == positive, "score": rows[f"p_{positive}"], "called": rows.predicted == positive}
        if len(rows):
            found[name] = pd.DataFrame({**about, "patient": patient_keys(rows)})
    return found


def without_lungs(model, manifest, pixels, lungs, classes) -> list:
    """What a network makes of films whose lungs, or whose surroundings, are gone.

    Parameters
    ----------
    model : keras.Model
        The network.
    manifest : pandas.DataFrame
        N rows of films that it was not trained on.
    pixels, lungs : numpy.ndarray
        ``uint8`` and ``bool``, shape (N, H, W); films without a mask are left out.
    classes : sequence of str
        The network's classes in the order of its outputs.

    Returns
    -------
    list of Probe
        None where no film has a mask.

    References
    ----------
    Maguolo G., Nanni L., A Critic Evaluation of Methods for COVID-19 Automatic Detection from X-Ray Images, Information
    Fusion 76, 2021.

    Examples
    --------
    >>> without_lungs(None, None, np.zeros((2, 9, 9), np.uint8), np.zeros((2, 9, 9), bool), ["a", "b"])
    []
    """
    rows = np.flatnonzero(lungs.any((1, 2)))
    views = {
        "lungs in view": lambda films, masks: films,
        "lungs blacked out": black_out,
        "nothing but lungs": lambda films, masks: black_out(films, ~masks),
        "all but the lungs blurred": blur_out,
    }
    found, names = [], np.asarray(classes, dtype=str)
    for view, changed in views.items() if len(rows) else ():
        films = manifest.iloc[rows]
        predicted = names[predict(model, changed(pixels[rows], lungs[rows])).argmax(1)]
        about = f"the network, {view}", LUNGS, "class", predicted, films.label.to_numpy(dtype=str), patient_keys(films)
        # Lungs may be known for one class alone, so chance is naming one of the network's classes blindly.
        found.append(accuracy_probe(*about, wanted=view != "lungs blacked out", chance=1 / len(names)))
    if len(rows) and manifest.label.iloc[rows].nunique() == 1:
        return [p._replace(verdict=f"{p.verdict}, on films of {manifest.label.iloc[rows[0]]} alone") for p in found]
    return found


def same_place(predictions, positive=POSITIVE) -> list:
    """The positive class against other disease within each source, where knowing the source helps nobody.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `covidxr.evaluate.prediction_table`, of films that the network was not trained on.
    positive : str
        The class against the others.

    Returns
    -------
    list of Probe
        The area under the ROC curve for each source with ten patients of either kind; films without findings are left out.

    Examples
    --------
    >>> rows = pd.DataFrame({"source": "s", "patient_id": [str(i) for i in range(40)], "label": ["COVID-19", "SARS"] * 20})
    >>> [found] = same_place(rows.assign(**{"p_COVID-19": [0.9, 0.2] * 20}))
    >>> found.probe, found.value, found.verdict
    ('COVID-19 against other disease within s', 1.0, 'well above chance')
    """
    found = []
    for source, rows in predictions[~is_healthy(predictions.label)].groupby("source"):
        ill, score = (rows.label == positive).to_numpy(), rows[f"p_{positive}"].to_numpy()
        patients = patient_keys(rows).to_numpy(dtype=str)
        if min(len(set(patients[ill])), len(set(patients[~ill]))) < FEWEST:
            continue
        value, (low, high) = auc_with_interval(ill, score, patients)
        verdict = NOT_TOLD if low <= 0.5 else "well above chance" if gained(value, 0.5) > 0.5 else "above chance"
        verdict = "worse than chance" if high < 0.5 else verdict
        name, ideal = f"{positive} against other disease within {source}", "well above chance"
        missed = verdict != ideal
        found.append(Probe(name, PLACE, value, low, high, 0.5, ideal, len(rows), verdict, missed_ideal=missed))
    return found


def heat_probe(heat) -> list:
    """Heat inside the lungs, as notebook 05 measured it, against chance and untrained networks.

    Parameters
    ----------
    heat : dict
        The section ``grad_cam`` of ``metrics.json``; may be empty.

    Returns
    -------
    list of Probe

    Examples
    --------
    >>> heat = {"n": 9, "heat_in_lungs": 0.6, "heat_in_lungs_interval": [0.55, 0.65], "chance": 0.3, "untrained": 0.62}
    >>> heat_probe(heat)[0].verdict
    'above chance, but not above untrained networks'
    """
    if "heat_in_lungs" not in heat:
        return []
    low, high = heat["heat_in_lungs_interval"]
    yardsticks = {"chance": heat["chance"], "untrained networks": heat.get("untrained", heat["chance"])}
    above = [name for name, level in yardsticks.items() if low > level]
    verdict = f"above {' and '.join(above)}" if above else "no higher than chance or untrained networks"
    if len(above) == 1:
        verdict += f", but not above {next(name for name in yardsticks if name not in above)}"
    ideal = f"above chance and above untrained networks ({yardsticks['untrained networks']:.2f})"
    name, value = "heat inside the lungs", heat["heat_in_lungs"]
    return [Probe(name, HEAT, value, low, high, heat["chance"], ideal, heat["n"], verdict, missed_ideal=len(above) < 2)]


def probabilities_table(model, manifest, pixels, classes) -> pd.DataFrame:
    """Predict films, and say so in one sentence where the model does not fit.

    Parameters
    ----------
    model : keras.Model
        The network.
    manifest : pandas.DataFrame
        N manifest rows.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W).
    classes : sequence of str
        Its classes.

    Returns
    -------
    pandas.DataFrame
        From `covidxr.evaluate.prediction_table`.

    Raises
    ------
    CovidxrError
        When the model has another number of outputs.

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> rows = pd.DataFrame({k: ["a"] for k in ("image_id", "patient_id", "source", "split", "label")})
    >>> probabilities_table(build_baseline(9), rows, np.zeros((1, 9, 9), np.uint8), ["a", "b"])
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: the model has 3 outputs, but there are 2 classes: a, b
    """
    probabilities = predict(model, pixels)
    if probabilities.shape[1] != len(classes):
        known = f"{len(classes)} classes: {', '.join(classes)}"
        raise CovidxrError(f"the model has {probabilities.shape[1]} outputs, but there are {known}")
    return prediction_table(manifest, probabilities, classes)
