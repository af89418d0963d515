"""Figures of sureness: drawn where told, on what they were given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from covidxr.auditplots import reliability_curves, selective_curves


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_points_stand_where_the_shares_are_and_bins_of_few_films_are_left_out():
    stated = np.r_[np.full(40, 0.9), np.full(20, 0.1), np.full(3, 0.5)]
    so = np.r_[np.arange(40) < 10, np.arange(20) < 2, [True] * 3]
    ax = plt.figure().subplots()
    assert reliability_curves({"north": (stated, so)}, ax) is ax
    [points] = ax.collections[1:] if len(ax.collections) > 1 else ax.collections
    assert points.get_offsets().data.tolist() == pytest.approx(np.array([[0.1, 0.1], [0.9, 0.25]]))
    sizes = points.get_sizes()
    assert sizes[1] > sizes[0]
    both = reliability_curves({"north": (stated, so), "south": (stated, ~so)})
    assert len({tuple(drawn.get_facecolor()[0]) for drawn in both.collections if len(drawn.get_offsets()) == 2}) == 2
    assert "north (error" in ax.get_legend().texts[-1].get_text()


def test_a_curve_starts_at_the_tenth_film_and_ends_at_all():
    right = np.arange(100) < 60
    ax = selective_curves({"a": (np.linspace(1, 0.5, 100), right), "tiny": ([0.9], [True])})
    x, y = ax.lines[0].get_data()
    assert (x[0], y[0], x[-1], y[-1]) == (0.1, 1.0, 1.0, 0.6) and len(ax.lines[1].get_xdata()) == 1
    assert [text.get_text() for text in ax.get_legend().texts] == ["a (all: 0.60)", "tiny (all: 1.00)"]
