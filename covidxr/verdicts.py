"""What a probe of the audit found: a number, its interval, what chance gives, what it would be if all were well, a verdict."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr.intervals import bootstrap_interval, share_interval

TOPICS = LUNGS, WHOSE, MEMORY, PLACE, HEAT, SURE = (
    "Less than a lung", "Whose film is it", "Memory", "Same place, other disease", "Where it looks",
    "Does it know when it does not know",
)  # fmt: skip
NEVER_BETTER, NOT_TOLD = "no better than chance", "not told from chance"


class Probe(NamedTuple):
    """One line of the audit.

    Attributes
    ----------
    probe, topic : str
        Its name, and the question that it belongs to.
    value, low, high : float
        The number and its 95 % interval.
    chance : float
        What chance alone gives; NaN where that means nothing.
    ideal : str
        What the value would be if all were well.
    n : int
        Films that were asked about.
    verdict : str
        In words.
    shortcut : bool
        Whether the verdict is that something other than disease is, or can be, read.
    missed_ideal : bool
        Whether the value is not shown to be what it would be if all were well; it may still be no shortcut.

    Examples
    --------
    >>> Probe("class from the corners", LUNGS, 0.9, 0.8, 1.0, 0.5, "0.50", 40, "tells the class", True).topic
    'Less than a lung'
    """

    probe: str
    topic: str
    value: float
    low: float
    high: float
    chance: float
    ideal: str
    n: int
    verdict: str
    shortcut: bool = False
    missed_ideal: bool = False


def accuracy_probe(name, topic, asked, predicted, truth, patients, *, wanted=False, widen=1.0, chance=None) -> Probe:
    """Judge answers that are right or wrong.

    Parameters
    ----------
    name, topic : str
        As in `Probe`.
    asked : str
        What the answers are about, such as ``"class"``; the verdict names it.
    predicted, truth, patients : array_like of str
        Answer, truth and patient of each film.
    wanted : bool
        Whether right answers are good news; if not, they are a shortcut.
    widen : float
        Factor on the interval's width, 1 or more, for answers that are not independent.
    chance : float, optional
        By default the share of the commonest truth.

    Returns
    -------
    Probe

    Examples
    --------
    >>> truth = ["a", "b"] * 20
    >>> accuracy_probe("x", LUNGS, "class", truth, truth, range(40)).verdict
    'tells the class'
    >>> accuracy_probe("x", LUNGS, "class", ["a"] * 40, truth, range(40)).verdict
    'not told from chance'
    """
    correct = np.asarray(predicted) == np.asarray(truth)
    chance = chance or float(pd.Series(truth).value_counts(normalize=True).max())
    value, (low, high) = float(correct.mean()), drawn_share(correct, patients)
    low, high = max(0.0, value - widen * (value - low)), min(1.0, value + widen * (high - value))
    ideal = "well above chance" if wanted else f"{chance:.2f}"
    found = Probe(name, topic, value, low, high, chance, ideal, len(correct), "")
    verdict, told = _above_chance(found, asked, wanted), not wanted and low > chance
    return found._replace(verdict=verdict, shortcut=told, missed_ideal=told or (wanted and verdict != ideal))


def drawn_share(correct, patients) -> tuple[float, float]:
    """Interval of a share, films drawn patient by patient; `share_interval` where a bootstrap of equal values has no width.

    Parameters
    ----------
    correct : array_like of bool
        One value a film.
    patients : array_like of str
        The patient of each film.

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> low, high = drawn_share([True] * 20, range(20))
    >>> round(low, 2), round(high, 2)
    (0.84, 1.0)
    """
    correct = np.asarray(correct, dtype=bool)
    if correct.all() or not correct.any():
        return share_interval(correct, patients)
    return bootstrap_interval(lambda rows: correct[rows].mean(), patients, draws=500)


def gained(value, chance) -> float:
    """How far a value is on the way from chance to perfect.

    Parameters
    ----------
    value, chance : float
        Between 0 and 1.

    Returns
    -------
    float
        1 is perfect, 0 chance; 0 where chance is perfect already.

    Examples
    --------
    >>> gained(0.75, 0.5)
    0.5
    """
    return float((value - chance) / (1 - chance)) if chance < 1 else 0.0


def in_words(found) -> str:
    """A probe as one sentence.

    Parameters
    ----------
    found : Probe
        The probe, or a row of `covidxr.audit.AuditReport.table` with its name as ``probe``.

    Returns
    -------
    str

    Examples
    --------
    >>> in_words(Probe("class from the corners", LUNGS, 0.9, 0.8, 1.0, 0.5, "0.50", 40, "tells the class", True))
    'class from the corners: 0.90 (0.80 to 1.00), chance 0.50 (if all were well: 0.50): tells the class.'
    """
    chance = f", chance {found.chance:.2f}" if np.isfinite(found.chance) else ""
    number = f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
    return f"{found.probe}: {number}{chance} (if all were well: {found.ideal}): {found.verdict}."


def _above_chance(found, asked, wanted):
    if found.high < found.chance:
        return NEVER_BETTER
    if found.low <= found.chance:
        return NOT_TOLD
    share = gained(found.value, found.chance)
    if wanted:
        return "well above chance" if share > 0.5 else "above chance"
    return f"{'tells' if share > 0.5 else 'a hint of' if share > 0.15 else 'a trace of'} the {asked}"
