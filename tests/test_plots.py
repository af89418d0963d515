"""Figures: they are drawn where asked, never shown, and say what the numbers say."""

from __future__ import annotations

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from covidxr import auditplots, heatplots, pictures, plots
from covidxr.ablationplots import ablation_figure

MANIFEST = pd.DataFrame({"label": list("abcabc"), "sex": ["F", "", "M", "M", "M", ""], "source": list("xyxyxy")})
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "loss": [1.0, 0.6, 0.4],
        "val_loss": [1.1, 0.7, 0.9],
        "accuracy": [0.3, 0.6, 0.8],
        "val_accuracy": [0.3, 0.7, 0.6],
    }
)
SWEEP = pd.DataFrame({"learning_rate": [1e-4, 1e-3, 1e-2], "loss": [1.0, 0.5, 30.0], "smoothed": [1.0, 0.7, 8.0]})
CONFUSION = pd.DataFrame([[2, 1], [0, 3]], index=["a", "b"], columns=["a", "b"])
PROBES = pd.DataFrame(
    {"value": [0.8, 0.4], "low": [0.7, 0.3], "high": [0.9, 0.5], "chance": [0.5, np.nan]}, index=["corners", "frame"]
)
FILMS = np.random.default_rng(0).integers(0, 256, (5, 14, 14), np.uint8)

CALLS = {
    plots.counts_by: (MANIFEST, "sex"),
    plots.grey_values: ({"a": FILMS, "b": FILMS[:2]},),
    plots.training_curves: (HISTORY,),
    plots.learning_rate_curve: (SWEEP, 1e-3),
    plots.confusion_plot: (CONFUSION,),
    plots.forest: (PROBES,),
    plots.film_grid: (FILMS, list("abcde")),
}
each_plot = pytest.mark.parametrize("plot", CALLS, ids=lambda plot: plot.__name__)


@pytest.fixture(autouse=True)
def never_shown(monkeypatch):
    """Fail on any show, and leave no figure open."""

    def show(*args, **options):
        raise AssertionError("a plot was shown")

    monkeypatch.setattr(plt, "show", show)
    monkeypatch.setattr(Figure, "show", show)


def test_every_plot_is_tested():
    takes_ax = {name for name in plots.__all__ if "ax" in inspect.signature(getattr(plots, name)).parameters}
    assert {plot.__name__ for plot in CALLS} == takes_ax - {"save_figure"}


@each_plot
def test_without_axes_a_plot_makes_one_figure_that_can_be_drawn(plot):
    ax = plot(*CALLS[plot])
    assert isinstance(ax, plt.Axes)
    assert plt.get_fignums() == [ax.figure.number]
    ax.figure.canvas.draw()
    plt.close(ax.figure)
    assert plt.get_fignums() == []


@each_plot
def test_with_axes_a_plot_draws_there_and_leaves_the_rest_alone(plot):
    figure, (other, ax) = plt.subplots(1, 2, figsize=(9, 4))
    assert plot(*CALLS[plot], ax=ax) is ax
    assert ax.has_data() and not other.has_data()
    assert plt.get_fignums() == [figure.number]
    assert figure.get_size_inches().tolist() == [9, 4]
    figure.canvas.draw()


MONEY = "0 $ or $\\x_{2}$"  # a formula to matplotlib, and one that it cannot read
GIVEN = ([0.9, 0.6], [True, False], ["a", "b"])
ROW = {
    "value": 0.9,
    "low": 0.8,
    "high": 0.95,
    "difference": 0.0,
    "difference_low": -0.1,
    "difference_high": 0.1,
    "verdict": "",
}
WITH_MONEY = {
    "film_grid": lambda: plots.film_grid(FILMS, [MONEY] * 5),
    "counts_by": lambda: plots.counts_by(pd.DataFrame({"label": [MONEY, "b"], MONEY: [MONEY, "y"]}), MONEY),
    "grey_values": lambda: plots.grey_values({MONEY: FILMS}),
    "confusion_plot": lambda: plots.confusion_plot(CONFUSION.set_axis([MONEY, "b"]).set_axis([MONEY, "b"], axis=1)),
    "forest": lambda: plots.forest(PROBES.set_axis([MONEY, "frame"]), xlabel=MONEY),
    "ablation_figure": lambda: ablation_figure(pd.DataFrame([ROW, ROW], index=[MONEY, "b"])),
    "reliability_curves": lambda: auditplots.reliability_curves({MONEY: GIVEN}),
    "selective_curves": lambda: auditplots.selective_curves({MONEY: GIVEN[:2]}),
    "roc_curves": lambda: auditplots.roc_curves({MONEY: (GIVEN[1], *GIVEN[::2])}),
    "heat_figure": lambda: heatplots.heat_figure(FILMS[0], FILMS[0] / 255, MONEY),
}


@pytest.mark.parametrize("name", WITH_MONEY)
def test_a_label_with_dollar_signs_is_shown_as_it_is(name):
    ax = WITH_MONEY[name]()
    ax.figure.canvas.draw()
    shown = [text for text in ax.figure.findobj(Text) if "x_{2}" in text.get_text()]
    assert shown
    for text in shown:
        letters, formula = text._preprocess_math(text.get_text())
        assert not formula and MONEY in letters


def test_counts_name_what_is_not_given():
    ax = plots.counts_by(MANIFEST, "sex")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["F", "not given", "M"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    assert sum(patch.get_width() for patch in ax.patches) == len(MANIFEST)


def test_the_kept_epoch_is_marked_and_both_curves_are_there():
    ax = plots.training_curves(HISTORY, "accuracy")
    assert [line.get_label() for line in ax.lines] == ["training (augmented)", "validation", "kept: epoch 2"]
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), HISTORY.val_accuracy)
    assert list(ax.lines[2].get_xdata()) == [2, 2]


def test_an_exploding_loss_does_not_flatten_the_curve():
    ax = plots.learning_rate_curve(SWEEP, 1e-3)
    assert ax.get_ylim()[1] < 3
    assert list(ax.lines[2].get_xdata()) == [1e-3, 1e-3] and "1.0e-03" in ax.lines[2].get_label()


def test_the_forest_has_a_line_a_row_and_chance_where_there_is_one():
    ax = plots.forest(PROBES, xlabel="share")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["corners", "frame"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1] and ax.get_xlabel() == "share"  # the first row on top
    np.testing.assert_array_equal(ax.collections[-1].get_offsets()[:, 0].filled(np.nan), [0.5, np.nan])
    ax.figure.canvas.draw()
    without = plots.forest(PROBES.drop(columns="chance"))
    assert "chance" not in [text.get_text() for text in without.get_legend().get_texts()]


def test_the_forest_bears_a_bound_that_misses_its_value_by_rounding():
    table = pd.DataFrame({"value": [1.0], "low": [0.9], "high": [1 - 1e-12]}, index=["all"])
    plots.forest(table).figure.canvas.draw()


def drawn(ax) -> np.ndarray:
    return ax.images[0].get_array()


@pytest.mark.parametrize("columns", [1, 2, 5, 9])
def test_a_grid_holds_every_film_once_in_order(columns):
    ax = plots.film_grid(FILMS, columns=columns)
    canvas, found = drawn(ax), []
    for top in range(canvas.shape[0] - 13):
        for left in range(canvas.shape[1] - 13):
            block = canvas[top : top + 14, left : left + 14]
            found += [number for number, film in enumerate(FILMS) if (block == film).all()]
    assert found == [0, 1, 2, 3, 4]
    assert not ax.texts


def test_a_grid_takes_colour():
    colour = np.stack([FILMS, FILMS // 2, FILMS // 3], axis=-1)
    canvas = drawn(plots.film_grid(colour, columns=5))
    assert canvas.ndim == 3 and (canvas[-14:, :14] == colour[0]).all()


def test_titles_of_two_lines_have_room_above_their_film():
    ax = plots.film_grid(np.zeros((4, 64, 64), np.uint8), ["one\ntwo"] * 4, columns=2)
    ax.figure.canvas.draw()
    title = ax.texts[2].get_window_extent().transformed(ax.transData.inverted())
    black = np.flatnonzero((drawn(ax)[:, :64] == 0).all(1))
    first_film_ends, second_film_begins = black[63], black[64]
    assert first_film_ends < min(title.ymin, title.ymax) and max(title.ymin, title.ymax) <= second_film_begins


def test_outlines_lie_on_their_region_and_the_right_way_up():
    masks = np.zeros((3, 14, 14), bool)
    masks[1, 1:4, 6:13] = True  # top right of the second film
    ax = plots.film_grid(FILMS[:3], columns=3, outlines=masks)
    top = drawn(ax).shape[0] - 14
    left = 14 + 2
    assert len(ax.collections) == 1
    corners = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
    assert left + 5 <= corners[:, 0].min() <= left + 6 and left + 12 <= corners[:, 0].max() <= left + 13
    assert top + 0 <= corners[:, 1].min() <= top + 1 and top + 3 <= corners[:, 1].max() <= top + 4


def test_heat_is_laid_over_films_and_only_where_there_is_some():
    maps = np.zeros((5, 14, 14))
    maps[:, 4:8, 4:8] = 1
    over = pictures.overlay(FILMS, maps)
    assert over.shape == (5, 14, 14, 3) and over.dtype == np.uint8
    np.testing.assert_array_equal(over[maps == 0], np.repeat(FILMS[maps == 0][:, None], 3, axis=1))
    assert (over[maps == 1] != np.repeat(FILMS[maps == 1][:, None], 3, axis=1)).any(1).all()
    np.testing.assert_array_equal(pictures.overlay(FILMS, maps, opacity=0)[..., 0], FILMS)
    hottest = pictures.overlay(FILMS, maps, opacity=1)[maps == 1]
    assert len(np.unique(hottest, axis=0)) == 1


def test_a_figure_is_saved_with_its_caption(tmp_path):
    path = tmp_path / "figures" / "05_heat.png"
    ax = plots.forest(PROBES)
    plots.save_figure(ax, path, "Wärme in der Lunge, 95 %")
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 300
    assert path.with_suffix(".txt").read_text(encoding="utf-8") == "Wärme in der Lunge, 95 %"
    assert sorted(found.name for found in path.parent.iterdir()) == ["05_heat.png", "05_heat.txt"]


def test_a_figure_that_fails_leaves_the_old_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "heat.png"
    plots.save_figure(plots.forest(PROBES), path, "old")
    before = path.read_bytes()

    def half(figure, target, **options):
        target.write_bytes(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plots.save_figure(plots.forest(PROBES), path, "new")
    assert path.read_bytes() == before and path.with_suffix(".txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "title", ["true: COVID-19; predicted: Bacteria (0.90), wrong", "TUBERCULOSIS SUSPECTED", "i" * 90, "a\nlong " * 9]
)
def test_titles_of_films_side_by_side_do_not_overprint_each_other(title):
    ax = plots.film_grid(np.zeros((12, 64, 64), np.uint8), [title] * 12)
    boxes = [text.get_window_extent(ax.figure.canvas.get_renderer()) for text in ax.texts]
    assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])
    assert "".join(ax.texts[0].get_text().split()) == "".join(title.split())
