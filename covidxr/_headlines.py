"""What a run's page opens with: the number inside, the number outside, and what the audit says, at the same size."""

from __future__ import annotations

from covidxr._html import chance_of, is_number, measure, number
from covidxr._runfiles import Synthetic, is_synthetic

_BLIND = "class from "  # the audit's readers that are shown no lungs
_RADIOGRAPHS = Synthetic("none", [])


def headlines(metrics: dict, synthetic: Synthetic = _RADIOGRAPHS) -> list[dict]:
    """The three headlines of a run, however much of it there is.

    Parameters
    ----------
    metrics : dict
        The content of ``metrics.json``, as `covidxr._runfiles.read_records` gives it.
    synthetic : covidxr._runfiles.Synthetic
        Which images are drawn by a program.

    Returns
    -------
    list of dict
        ``title``; ``row``, as `covidxr._html.measure` gives it, or None where nothing was measured; ``lines`` to stand
        below it, a word and a text each; ``missing``, which notebook measures it.

    Examples
    --------
    >>> inside, outside, blind = headlines({"test": {"n": 9, "accuracy": 0.9}})
    >>> inside["row"]["value"], outside["row"], outside["missing"]
    ('0.900', None, 'Notebook 07 measures it.')
    """
    external = metrics.get("external") or _left_out(metrics)
    drawn = external and all(map(is_synthetic, external))
    on = f", {synthetic.tag}" if synthetic.tag else ""
    parts = [
        (
            f"In the same collections{on}" if synthetic.run != "all" else "On synthetic test images",
            _inside(metrics),
            "04",
        ),
        ("On new synthetic images" if drawn else "In other hospitals", _outside(external), "07"),
        (f"Without the lungs{on}", _blind(metrics.get("audit") or {}), "06"),
    ]
    return [
        {"title": title, "row": row, "lines": lines, "missing": f"Notebook {notebook} measures it."}
        for title, (row, lines), notebook in parts
    ]


def _inside(metrics):
    """Test accuracy, and the best baseline below it."""
    test = metrics.get("test") or {}
    if not is_number(test.get("accuracy")):
        return None, []
    chance = chance_of(test)
    row = measure(f"accuracy on {_films(test)}", test["accuracy"], test.get("accuracy_interval"), chance)
    baselines = [(name, found.get("accuracy")) for name, found in (metrics.get("baselines") or {}).items()]
    baselines = sorted(((name, value) for name, value in baselines if is_number(value)), key=lambda item: -item[1])
    return row, [(name, number(value)) for name, value in baselines]


def _films(found, kind="test "):
    return f"{found['n']} {kind}films" if is_number(found.get("n")) else f"an unknown number of {kind}films"


def _outside(external):
    """The surest failure of all external numbers: that whose interval ends lowest. The others stand below it.

    Where there are real hospitals, no number of synthetic images stands for them.
    """
    rows = [
        (is_synthetic(name), (values.get(f"{key}_interval") or [0, values[key]])[1], key, name, values)
        for name, values in external.items()
        for key in ("sensitivity", "specificity")
        if is_number(values.get(key))
    ]
    if not rows:
        return None, []
    (drawn, _, key, name, values), *others = sorted(rows, key=lambda row: row[:2])
    lowest = " (the lowest here)" if any(row[0] == drawn for row in others) else ""
    label = f"{key}{lowest}, {_named(name)}, {_films(values, '')}"
    row = measure(label, values[key], values.get(f"{key}_interval"))
    return row, [(f"{key}, {_named(name)}", number(values[key])) for *_, key, name, values in others]


def _named(name):
    return _RADIOGRAPHS.named(name)


def _left_out(metrics):
    """Where no set is external: what notebook 06's reader makes of each source when it is left out."""
    return {
        f"{source}, left out": {
            "n": int(sum(row[key] for key in ("n_positive", "n_negative") if is_number(row.get(key)))),
            **{key: row.get(key) for key in ("sensitivity", "specificity")},
            **{f"{key}_interval": _ends(row, f"{key}_") for key in ("sensitivity", "specificity")},
        }
        for source, row in (metrics.get("left_out") or {}).items()
    }


def _ends(row, prefix=""):
    """Low and high of a row, or None where it has no such interval."""
    ends = row.get(f"{prefix}low"), row.get(f"{prefix}high")
    return list(ends) if all(map(is_number, ends)) else None


def _blind(audit):
    """Of the readers that are shown no lungs the one furthest beyond chance; then what the whole audit counts."""
    readers = {name: probe for name, probe in audit.items() if name.startswith(_BLIND)} or audit
    readers = {name: probe for name, probe in readers.items() if is_number(probe.get("value"))}
    if not readers:
        return None, []
    best, probe = max(readers.items(), key=lambda item: _beyond_chance(item[1]))
    label = f"{best}: {probe['verdict']}" if probe.get("verdict") else best
    row = measure(label, probe["value"], interval_of(probe), probe.get("chance"))
    if not any("shortcut" in probe for probe in audit.values()):
        return row, _by_verdict(audit)
    found, missed = audit_counts(audit)
    told = (f"{len(found)} of {len(audit)} probes", "found something other than disease" + (":" if found else ""))
    lines = [told, *_by_verdict({name: audit[name] for name in found})]
    if not any("missed_ideal" in probe for probe in audit.values()):
        return row, [*lines, ("Not recorded", "how many miss their own ideal; notebook 06 counts them")]
    others = "of the others miss" if found else "miss"
    return row, [*lines, (f"{len(missed)} {others} their own ideal", "; ".join(missed))]


def audit_counts(audit) -> tuple[list, list]:
    """The probes that found a shortcut, and those of the others that miss their own ideal.

    Parameters
    ----------
    audit : dict
        The section ``audit`` of ``metrics.json``.

    Returns
    -------
    found, missed : list of str
        Names.

    Examples
    --------
    >>> audit_counts({"the corners": {"shortcut": True, "missed_ideal": True}, "nothing but lungs": {"missed_ideal": True}})
    (['the corners'], ['nothing but lungs'])
    """
    found = [name for name, probe in audit.items() if probe.get("shortcut")]
    return found, [name for name, probe in audit.items() if name not in found and probe.get("missed_ideal")]


def interval_of(probe):
    """The interval of a row of the audit, in whichever way it is kept."""
    return probe.get("interval") or _ends(probe)


def _beyond_chance(probe):
    """How far a probe comes from chance to perfect; what is 0.8 by chance is not much with 0.8."""
    chance = probe["chance"] if is_number(probe.get("chance")) else 0
    return (probe["value"] - chance) / (1 - chance) if chance < 1 else 0


def _by_verdict(probes):
    """Every verdict, with the probes that it was passed on."""
    verdicts = {}
    for name, probe in probes.items():
        verdicts.setdefault(probe.get("verdict") or "no verdict", []).append(name)
    return [(verdict, ", ".join(names)) for verdict, names in verdicts.items()]
