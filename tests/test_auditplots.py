"""Figures of sureness: drawn where told, on what they were given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from covidxr.auditplots import reliability_curves, roc_curves, selective_curves
from covidxr.calibration import calibration_error
from covidxr.evaluate import BINS, reliability


def test_points_stand_where_the_shares_are_and_bins_of_few_films_are_left_out():
    stated = np.r_[np.full(40, 0.9), np.full(20, 0.1), np.full(3, 0.5)]
    so = np.r_[np.arange(40) < 10, np.arange(20) < 2, [True] * 3]
    ax = plt.figure().subplots()
    assert reliability_curves({"north": (stated, so, np.arange(len(so)))}, ax) is ax
    [points] = ax.collections[1:] if len(ax.collections) > 1 else ax.collections
    assert points.get_offsets().data.tolist() == pytest.approx(np.array([[0.1, 0.1], [0.9, 0.25]]))
    sizes = points.get_sizes()
    assert sizes[1] > sizes[0]
    both = reliability_curves({"north": (stated, so, np.arange(len(so))), "south": (stated, ~so, np.arange(len(so)))})
    assert len({tuple(drawn.get_facecolor()[0]) for drawn in both.collections if len(drawn.get_offsets()) == 2}) == 2
    assert "north (error" in ax.get_legend().texts[-1].get_text()


def test_a_curve_starts_at_the_tenth_film_and_ends_at_all():
    right = np.arange(100) < 60
    ax = selective_curves({"a": (np.linspace(1, 0.5, 100), right), "tiny": ([0.9], [True])})
    x, y = ax.lines[0].get_data()
    assert (x[0], y[0], x[-1], y[-1]) == (0.1, 1.0, 1.0, 0.6) and len(ax.lines[1].get_xdata()) == 1
    assert [text.get_text() for text in ax.get_legend().texts] == ["a (all: 0.60)", "tiny (all: 1.00)"]


def test_roc_bands_hold_the_curve_and_narrow_with_more_patients():
    rng, widths = np.random.default_rng(0), {}
    for n in (60, 1200):
        so = np.arange(n) % 2 == 1
        ax = roc_curves({"reader": (so, so + rng.normal(0, 1, n), np.arange(n).astype(str))})
        curve, band = ax.lines[1].get_xydata(), ax.collections[0].get_paths()[0].vertices
        low, high = (pick(band[np.isclose(band[:, 0], 0.4), 1]) for pick in (np.min, np.max))
        assert low <= np.interp(0.4, curve[:, 0], curve[:, 1]) <= high
        widths[n] = high - low
    assert widths[1200] < widths[60] / 2


def test_roc_of_noise_is_said_to_be_chance():
    so = np.arange(400) % 2 == 1
    ax = roc_curves({"noise": (so, np.random.default_rng(1).random(400), np.arange(400).astype(str))})
    low, high = (float(part) for part in ax.get_legend_handles_labels()[1][1].split(", ")[1][:-1].split(" to "))
    assert low < 0.5 < high


def test_the_error_that_is_named_is_that_of_the_points_that_are_drawn():
    rng = np.random.default_rng(0)
    stated = rng.random(3000)
    so = rng.random(3000) < stated**2
    ax = reliability_curves({"north": (stated, so, np.arange(3000))})
    points = ax.collections[-1]
    said, share = points.get_offsets().data.T
    assert len(said) == BINS
    films = np.bincount((stated * BINS).astype(int), minlength=BINS)
    error = (films * np.abs(said - share)).sum() / 3000
    assert f"north (error {error:.2f})" == ax.get_legend().texts[-1].get_text()
    assert error == pytest.approx(calibration_error(stated, so, draws=2)["error"])
    assert error == pytest.approx(reliability(stated, so)[1])
