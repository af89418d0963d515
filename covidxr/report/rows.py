"""Rows of results that the page, the comparison and the cards share: an estimate as text, and its marks on a scale."""

from __future__ import annotations

from covidxr.report._html import is_number, number
from covidxr.utils import difference_text, estimate_text

_EXTERNAL = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "specificity_healthy": "Specificity for the healthy",
    "auc": "AUC",
}

_GRAD_CAM = {"heat_in_lungs": "Heat inside the lungs", "untrained": "The same, untrained network"}


def is_measured(estimate) -> bool:
    """Whether a stored estimate has a value."""
    return bool(estimate) and is_number(estimate.get("value"))


def chance_of(test) -> float | None:
    """The accuracy of always predicting the largest class of the test split."""
    support = [row.get("support") for row in (test.get("per_class") or {}).values()]
    known = support and all(is_number(n) and n >= 0 for n in support) and any(support)
    return max(support) / sum(support) if known else None


def text_of(estimate, as_text=estimate_text) -> str:
    """A stored estimate as text; a dash where nothing was measured."""
    numbers = [(estimate or {}).get(key) for key in ("value", "low", "high")]
    return as_text(*numbers) if all(map(is_number, numbers)) else number(numbers[0])


def measure_row(label, estimate, chance=None, note=None) -> dict:
    """A stored estimate as text, and the positions of its marks on a scale from 0 to 1 in percent."""
    value, *limits = [(estimate or {}).get(key) for key in ("value", "low", "high")]
    chance = chance if is_number(value) and is_number(chance) else None
    text = text_of(estimate)
    limits = limits if all(map(is_number, limits)) else []
    marks = [value, *(min(max(limit, 0), 1) for limit in limits)]  # an interval may extend beyond the scale
    return {
        "label": label,
        "text": text,
        "value": text.partition(" ")[0],
        "interval": text.partition(" ")[2],
        "chance": None if chance is None else number(chance),
        "with_chance": text if chance is None else f"{text}, chance {number(chance)}",
        "note": note,
        "marks": [round(100 * mark, 2) for mark in marks] if is_number(value) and 0 <= value <= 1 else [],
        "chance_mark": round(100 * chance, 2) if chance is not None and 0 <= chance <= 1 else None,
    }


def accuracy_rows(metrics, label) -> list[dict]:
    """The network's accuracy on the test split under this label, then the baselines'."""
    test = metrics.get("test") or {}
    return _measured({label: test.get("accuracy"), **(metrics.get("baselines") or {})}, chance_of(test))


def heat_rows(metrics) -> list[dict]:
    """The share of the heat inside the lungs, of the network and of an untrained one."""
    heat = metrics.get("grad_cam") or {}
    return _measured({label: heat.get(key) for key, label in _GRAD_CAM.items()}, heat.get("chance"))


def _measured(estimates, chance):
    return [measure_row(label, estimate, chance) for label, estimate in estimates.items() if is_measured(estimate)]


def audit_rows(metrics) -> list[dict]:
    """The probes of the shortcut audit, with what was expected and what was found."""
    audit = metrics.get("audit") or {}
    return [measure_row(name, probe, probe.get("chance"), _conclusion(probe)) for name, probe in audit.items()]


def _conclusion(probe):
    parts = [("Expected without a shortcut", probe.get("expected")), ("Found", probe.get("conclusion"))]
    return " ".join(f"{name}: {text}." for name, text in parts if text)


def external_rows(found, positive) -> list[dict]:
    """The estimates of one external set; without a positive class there is only its accuracy."""
    measures = {"accuracy": "Accuracy"} if positive is None else _EXTERNAL
    chances = {"auc": 0.5}
    return [measure_row(label, found[key], chances.get(key)) for key, label in measures.items() if key in found]


def planted_rows(metrics) -> list[dict]:
    """The cues planted into drawn images, each with its name, and what the audit and the network made of it as text."""
    return [
        {**cue, "name": name, "found": _yes_or_no(cue.get("found")), "used": text_of(cue.get("used"))}
        for name, cue in (metrics.get("planted") or {}).items()
    ]


def _yes_or_no(value):
    return "yes" if value is True else "no" if value is False else "–"


def mitigation_rows(compared, positive) -> list[dict]:
    """The estimates of one external set with the network and with the mitigated one, and their difference."""
    by_network = {key: compared.get(key) or {} for key in ("network", "mitigated", "change")}
    measures = {"accuracy": "Accuracy"} if positive is None else _EXTERNAL
    return [
        {
            "label": label,
            "network": text_of(by_network["network"].get(key)),
            "mitigated": text_of(by_network["mitigated"].get(key)),
            "change": text_of(by_network["change"].get(key), difference_text),
        }
        for key, label in measures.items()
        if any(is_measured(found.get(key)) for found in by_network.values())
    ]
