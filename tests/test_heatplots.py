"""Figures draw where they are told to, what they are told to, and show nothing by themselves."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from covidxr import heatplots
from covidxr.faithful import CurveResult
from covidxr.heatplots import curves_plot, heat_figure, heat_title, sanity_plot

FILM = np.arange(64, dtype=np.uint8).reshape(8, 8)
STAGES = ["dense_2", "dense_1", "block5_conv3"]


def table():
    rows = {"n": [4, 4, 0], "rank_correlation": [0.9, 0.2, np.nan], "ssim": [0.8, 0.1, np.nan]}
    for name in ("rank_correlation", "ssim"):
        rows |= {f"{name}_low": np.subtract(rows[name], 0.1), f"{name}_high": np.add(rows[name], 0.1)}
    return pd.DataFrame(rows, index=STAGES)


def curves():
    falls = np.array([[1.0, 0.2, 0.0], [0.8, 0.0, 0.0]])
    return CurveResult(np.array([0.0, 0.5, 1.0]), falls, falls[:, ::-1], falls + 0.1, falls[:, ::-1] - 0.1)


FIGURES = {
    "sanity": lambda ax: sanity_plot(table(), ax=ax),
    "curves": lambda ax: curves_plot(curves(), ax=ax),
    "heat": lambda ax: heat_figure(FILM, FILM / 64, "title", FILM > 30, ax=ax),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_draws_on_the_axes_given_or_on_its_own(draw, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("a figure was shown"))
    given = plt.figure().subplots()
    assert draw(given) is given and len(plt.get_fignums()) == 1
    assert draw(None).figure is not given.figure
    given.figure.canvas.draw()


def test_sanity_curves_hold_the_table_and_the_yardsticks():
    ax = sanity_plot(table(), {"another film's map": 0.4, "shuffled labels": 0.6})
    assert [label.get_text() for label in ax.get_xticklabels()] == STAGES
    rank, ssim = (container.lines[0].get_ydata() for container in ax.containers)
    assert rank[:2].tolist() == [0.9, 0.2] and ssim[:2].tolist() == [0.8, 0.1]
    levels = [
        line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert levels == [0.4, 0.6]


def test_deletion_and_insertion_are_drawn_beside_their_chance():
    lines = {line.get_label(): line.get_ydata() for line in curves_plot(curves()).lines}
    assert len(lines) == 4
    np.testing.assert_allclose(lines["deletion, hottest first"], [0.9, 0.1, 0])
    np.testing.assert_allclose(lines["deletion, map at random places"], [1.0, 0.2, 0.1])


def test_the_panels_are_the_film_the_heat_and_both(monkeypatch):
    given, draw = [], heatplots.film_grid
    monkeypatch.setattr(
        heatplots, "film_grid", lambda panels, *rest, **more: given.append(panels) or draw(panels, *rest, **more)
    )
    ax = heat_figure(FILM, np.zeros((8, 8)), "title")
    film, heat, both = given[0]
    assert (film == FILM[..., None]).all() and (both == film).all()  # no heat leaves the film as it is
    assert np.ptp(heat, axis=(0, 1)).max() == 0 and heat.max() < 10  # and is the darkest colour
    assert [bar.get_ylabel() for bar in ax.child_axes] == ["heat"]


def test_lungs_are_outlined_where_they_are_known():
    with_lungs, without = heat_figure(FILM, FILM / 64, lungs=FILM > 30), heat_figure(FILM, FILM / 64)
    assert len(with_lungs.collections) == 3 and not without.collections


def test_titles_say_right_or_wrong():
    assert heat_title("Normal", "Normal", 0.5).endswith("(0.50), right")
    assert heat_title("Normal", "COVID-19", 0.999) == "true: Normal; predicted: COVID-19 (1.00), wrong"


def test_right_and_wrong_images_are_drawn_across_classes():
    labels = np.repeat(["Normal", "COVID-19", "Bacteria"], 20)
    predicted = np.where(np.arange(60) % 4 == 0, "Virus", labels)
    shown = heatplots.right_and_wrong(labels, predicted)
    assert (
        labels[shown].tolist()
        == ["Normal"] * 2 + ["COVID-19"] * 2 + ["Bacteria"] * 2 + ["Normal"] * 2 + ["COVID-19"] * 2 + ["Bacteria"] * 2
    )
    assert (predicted[shown] == labels[shown]).tolist() == [True] * 6 + [False] * 6
    assert len(set(shown)) == 12 and set(heatplots.right_and_wrong(labels, predicted, seed=1)) != set(shown)


@pytest.mark.parametrize(("wrong", "right_n", "wrong_n"), [([], 6, 0), (range(9), 0, 6), ([0], 6, 1), ([7, 8], 6, 2)])
def test_right_and_wrong_take_what_there_is(wrong, right_n, wrong_n):
    labels, predicted = np.repeat(["a", "b"], [8, 1]), np.repeat(["a", "b"], [8, 1])
    predicted[list(wrong)] = "c"
    shown = heatplots.right_and_wrong(labels, predicted)
    assert (predicted[shown] == labels[shown]).tolist() == [True] * right_n + [False] * wrong_n
    if 8 not in wrong:
        assert 8 in shown  # the rare class has its turn


def test_right_and_wrong_of_nothing_is_nothing():
    assert len(heatplots.right_and_wrong([], [])) == 0
