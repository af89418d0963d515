"""Memory: patients that are recognised, and patients and twins on both sides of a split."""

from __future__ import annotations

import numpy as np
from planted import B, N, noise, rows

from covidxr.memory import memory


def films_of_patients(alike):
    """Two films a patient, of which the second repeats the first so far, and neither shows the class."""
    first = noise(1)[::2].repeat(2, axis=0).astype(float)
    films = alike * first + (1 - alike) * noise(2)
    patients = np.arange(N) // 2
    return rows(classes="aabb", patient_id=patients), films.astype(np.uint8)


def test_a_patient_known_by_sight_is_memory_and_one_that_is_not_is_none():
    [known], [unknown] = memory(*films_of_patients(0.9)), memory(*films_of_patients(0.0))
    assert known.verdict == "patients are recognised, so split by patient" and known.value > 0.3 and known.low > 0
    assert unknown.verdict == "not told from chance" and unknown.low <= 0 <= unknown.high


def test_a_class_that_shows_needs_no_memory():
    manifest, films = films_of_patients(0.9)
    films[(manifest.label == "b").to_numpy(), :20] //= 3
    assert abs(memory(manifest, films)[0].value) < 0.05


def test_with_one_film_a_patient_and_no_split_there_is_nothing_to_ask():
    assert memory(rows(), noise()) == []


def test_patients_and_twins_across_the_split_are_counted():
    films, patients = noise(), np.arange(N)
    split = np.where(np.arange(N) < 40, "test", np.where(B, "train", "validation"))
    patients[[3, 4]] = 100, 101  # two test films of patients seen in training or validation
    films[7] = films[90]
    films[8] = films[9]  # twins on the same side do not count
    seen, twins = memory(rows(patient_id=patients, split=split), films)
    assert (seen.value, seen.verdict, seen.shortcut) == (2 / 40, "2 of 40", True)
    assert (twins.value, twins.verdict, twins.n) == (1 / 40, "1 of 40", 40)
    clean = memory(rows(split=split), noise())
    assert [probe.verdict for probe in clean] == ["none", "none"] and not any(probe.shortcut for probe in clean)
