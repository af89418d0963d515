"""What a run's page opens with: the number inside, the number outside, and what the audit says, at the same size."""

from __future__ import annotations

from covidxr._html import chance_of, is_number, measure, number

_BLIND = "class from "  # the audit's readers that are shown no lungs


def headlines(metrics: dict) -> list[dict]:
    """The three headlines of a run, however much of it there is.

    Parameters
    ----------
    metrics : dict
        The content of ``metrics.json``.

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
    parts = [
        ("In the same collections", _inside(metrics), "04"),
        ("In other hospitals", _outside(metrics.get("external") or _left_out(metrics)), "07"),
        ("Without the lungs", _blind(metrics.get("audit") or {}), "06"),
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
    row = measure(
        f"accuracy on {test.get('n', '?')} test films", test["accuracy"], test.get("accuracy_interval"), chance
    )
    baselines = [(name, found["accuracy"]) for name, found in (metrics.get("baselines") or {}).items()]
    return row, [(name, number(value)) for name, value in sorted(baselines, key=lambda item: -item[1])]


def _outside(external):
    """The surest failure of all external numbers: that whose interval ends lowest. The others stand below it."""
    rows = [
        (values.get(f"{key}_interval") or [0, values[key]], key, name, values)
        for name, values in external.items()
        for key in ("sensitivity", "specificity")
        if is_number(values.get(key))
    ]
    if not rows:
        return None, []
    (interval, key, name, values), *others = sorted(rows, key=lambda row: row[0][1])
    lowest = " (the lowest here)" if others else ""
    row = measure(f"{key}{lowest}, {name}, {values.get('n', '?')} films", values[key], interval)
    return row, [(f"{key}, {name}", number(values[key])) for _, key, name, values in others]


def _left_out(metrics):
    """Where no set is external: what notebook 06's reader makes of each source when it is left out."""
    return {
        f"{source}, left out": {
            "n": int(row["n_positive"] + row["n_negative"]),
            **{key: row[key] for key in ("sensitivity", "specificity")},
            **{f"{key}_interval": [row[f"{key}_low"], row[f"{key}_high"]] for key in ("sensitivity", "specificity")},
        }
        for source, row in (metrics.get("left_out") or {}).items()
    }


def _blind(audit):
    """Of the readers that are shown no lungs the one furthest beyond chance; then the verdicts."""
    readers = {name: probe for name, probe in audit.items() if name.startswith(_BLIND)} or audit
    readers = {name: probe for name, probe in readers.items() if is_number(probe.get("value"))}
    if not readers:
        return None, []
    best, probe = max(readers.items(), key=lambda item: _beyond_chance(item[1]))
    row = measure(f"{best}: {probe.get('verdict', '')}", probe["value"], probe.get("interval"), probe.get("chance"))
    found = [name for name, probe in audit.items() if probe.get("shortcut")]
    if not any("shortcut" in probe for probe in audit.values()):
        return row, _by_verdict(audit)
    told = (f"{len(found)} of {len(audit)} probes", "found something other than disease" + (":" if found else ""))
    return row, [told, *_by_verdict({name: audit[name] for name in found})]


def _beyond_chance(probe):
    """How far a probe comes from chance to perfect; what is 0.8 by chance is not much with 0.8."""
    chance = probe.get("chance") or 0
    return (probe["value"] - chance) / (1 - chance) if chance < 1 else 0


def _by_verdict(probes):
    """Every verdict, with the probes that it was passed on."""
    verdicts = {}
    for name, probe in probes.items():
        verdicts.setdefault(probe.get("verdict") or "no verdict", []).append(name)
    return [(verdict, ", ".join(names)) for verdict, names in verdicts.items()]
