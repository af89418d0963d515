"""Figures are drawn on the axes given, never shown, and agree with the numbers."""

from __future__ import annotations

import inspect
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from covidxr import plots
from covidxr.evaluation.calibration import BINS, calibration_error, reliability_table
from covidxr.gradcam.metrics import CurveResult
from covidxr.plots import (
    ablation_figure,
    curves_plot,
    heat_figure,
    heat_title,
    reliability_curves,
    roc_curves,
    sanity_plot,
    selective_curves,
)

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
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 14, 14), np.uint8)
GIVEN = ([0.9, 0.6], [True, False], ["a", "b"])
FALLING = np.array([[1.0, 0.2, 0.0], [0.8, 0.0, 0.0]])
CURVES = CurveResult(np.array([0.0, 0.5, 1.0]), FALLING, FALLING[:, ::-1], FALLING + 0.1, FALLING[:, ::-1] - 0.1)
STAGES = pd.DataFrame(
    {"value": [0.9, 0.8, 0.2, 0.1, np.nan, np.nan], "low": [0.8, 0.7, 0.1, 0.0, np.nan, np.nan]},
    pd.MultiIndex.from_product(
        [["dense_2", "dense_1", "block5_conv3"], ["rank_correlation", "ssim"]], names=["layer", "measure"]
    ),
).assign(high=lambda table: table.value + 0.1)

CALLS = {
    plots.counts_by: (MANIFEST, "sex"),
    plots.grey_values: ({"a": IMAGES, "b": IMAGES[:2]},),
    plots.training_curves: (HISTORY,),
    plots.learning_rate_curve: (SWEEP, 1e-3),
    plots.confusion_plot: (CONFUSION,),
    plots.forest: (PROBES,),
    plots.image_grid: (IMAGES, list("abcde")),
    plots.sanity_plot: (STAGES, {"another image": 0.4}),
    plots.curves_plot: (CURVES,),
    plots.heat_figure: (IMAGES[0], IMAGES[0] / 255, "title"),
    plots.reliability_curves: ({"a": GIVEN},),
    plots.selective_curves: ({"a": GIVEN[:2]},),
    plots.roc_curves: ({"a": (GIVEN[1], *GIVEN[::2])},),
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
    own = {name: plot for name, plot in vars(plots).items() if getattr(plot, "__module__", "") == plots.__name__}
    takes_ax = {name for name, plot in own.items() if "ax=None" in str(inspect.signature(plot))}
    assert {plot.__name__ for plot in CALLS} == takes_ax


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
ROW = {
    "accuracy": 0.9,
    "accuracy_low": 0.8,
    "accuracy_high": 0.95,
    "difference": 0.0,
    "difference_low": -0.1,
    "difference_high": 0.1,
    "verdict": "",
}
WITH_MONEY = {
    "image_grid": lambda: plots.image_grid(IMAGES, [MONEY] * 5),
    "counts_by": lambda: plots.counts_by(pd.DataFrame({"label": [MONEY, "b"], MONEY: [MONEY, "y"]}), MONEY),
    "grey_values": lambda: plots.grey_values({MONEY: IMAGES}),
    "confusion_plot": lambda: plots.confusion_plot(CONFUSION.set_axis([MONEY, "b"]).set_axis([MONEY, "b"], axis=1)),
    "forest": lambda: plots.forest(PROBES.set_axis([MONEY, "frame"]), xlabel=MONEY),
    "ablation_figure": lambda: ablation_figure(pd.DataFrame([ROW, ROW], index=[MONEY, "b"])),
    "reliability_curves": lambda: plots.reliability_curves({MONEY: GIVEN}),
    "selective_curves": lambda: plots.selective_curves({MONEY: GIVEN[:2]}),
    "roc_curves": lambda: plots.roc_curves({MONEY: (GIVEN[1], *GIVEN[::2])}),
    "heat_figure": lambda: plots.heat_figure(IMAGES[0], IMAGES[0] / 255, MONEY),
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


def test_a_forest_has_a_line_a_row_its_value_and_chance_where_there_is_one():
    ax = plots.forest(PROBES, xlabel="share")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["corners", "frame"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1] and ax.get_xlabel() == "share"  # the first row on top
    assert [text.get_text() for text in ax.texts] == ["0.80 (0.70–0.90)", "0.40 (0.30–0.50)"]
    np.testing.assert_array_equal(ax.collections[-1].get_offsets()[:, 0].filled(np.nan), [0.5, np.nan])
    ax.figure.canvas.draw()
    without = plots.forest(PROBES.drop(columns="chance"))
    assert [text.get_text() for text in without.get_legend().get_texts()] == ["value (95 % CI)"]


def test_an_audit_is_drawn_by_category_shortcuts_orange_and_missed_expectations_hollow():
    marks = {"category": ["frames", "network"], "shortcut": [True, False], "missed_expectation": [False, True]}
    ax = plots.forest(PROBES.assign(**marks))
    assert [text.get_text().strip() for text in ax.texts if text.get_weight() == "bold"] == ["frames", "network"]
    points = [(container.lines[0].get_color(), container.lines[0].get_markerfacecolor()) for container in ax.containers]
    assert points == [(plots.ACCENT, plots.ACCENT), (plots.INK, "white")]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["value (95 % CI)", "shortcut", "not as expected", "chance"]
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    boxes += [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])


def test_a_forest_accepts_a_limit_that_misses_its_value_by_rounding():
    table = pd.DataFrame({"value": [1.0], "low": [0.9], "high": [1 - 1e-12]}, index=["all"])
    plots.forest(table).figure.canvas.draw()


def drawn(ax) -> np.ndarray:
    return ax.images[0].get_array()


@pytest.mark.parametrize("columns", [1, 2, 5, 9])
def test_a_grid_holds_every_image_once_in_order(columns):
    ax = plots.image_grid(IMAGES, columns=columns)
    canvas, found = drawn(ax), []
    for top in range(canvas.shape[0] - 13):
        for left in range(canvas.shape[1] - 13):
            block = canvas[top : top + 14, left : left + 14]
            found += [number for number, image in enumerate(IMAGES) if (block == image).all()]
    assert found == [0, 1, 2, 3, 4]
    assert not ax.texts


def test_a_grid_takes_colour():
    colour = np.stack([IMAGES, IMAGES // 2, IMAGES // 3], axis=-1)
    canvas = drawn(plots.image_grid(colour, columns=5))
    assert canvas.ndim == 3 and (canvas[-14:, :14] == colour[0]).all()


def test_titles_of_two_lines_have_room_above_their_image():
    ax = plots.image_grid(np.zeros((4, 64, 64), np.uint8), ["one\ntwo"] * 4, columns=2)
    ax.figure.canvas.draw()
    title = ax.texts[2].get_window_extent().transformed(ax.transData.inverted())
    black = np.flatnonzero((drawn(ax)[:, :64] == 0).all(1))
    first_image_ends, second_image_begins = black[63], black[64]
    assert first_image_ends < min(title.ymin, title.ymax) and max(title.ymin, title.ymax) <= second_image_begins


def test_outlines_lie_on_their_region_and_the_right_way_up():
    masks = np.zeros((3, 14, 14), bool)
    masks[1, 1:4, 6:13] = True  # top right of the second image
    ax = plots.image_grid(IMAGES[:3], columns=3, outlines={"lungs": masks})
    top = drawn(ax).shape[0] - 14
    left = 14 + 2
    assert len(ax.collections) == 1
    corners = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
    assert left + 5 <= corners[:, 0].min() <= left + 6 and left + 12 <= corners[:, 0].max() <= left + 13
    assert top + 0 <= corners[:, 1].min() <= top + 1 and top + 3 <= corners[:, 1].max() <= top + 4


def test_heat_is_laid_over_images_and_only_where_there_is_enough():
    maps = np.zeros((5, 14, 14))
    maps[:, 4:8, 4:8] = 1
    over = plots.overlay(IMAGES, maps)
    assert over.shape == (5, 14, 14, 3) and over.dtype == np.uint8
    np.testing.assert_array_equal(over[maps == 0], np.repeat(IMAGES[maps == 0][:, None], 3, axis=1))
    assert (over[maps == 1] != np.repeat(IMAGES[maps == 1][:, None], 3, axis=1)).any(1).all()
    np.testing.assert_array_equal(plots.overlay(IMAGES, maps / 3), np.repeat(IMAGES[..., None], 3, axis=-1))
    np.testing.assert_array_equal(plots.overlay(IMAGES, maps, opacity=0)[..., 0], IMAGES)
    hottest = plots.overlay(IMAGES, maps, opacity=1)[maps == 1]
    assert len(np.unique(hottest, axis=0)) == 1


def test_opacity_grows_linearly_with_heat():
    black, heat = np.zeros((1, 1, 4), np.uint8), np.array([[[1 / 3, 0.5, 2 / 3, 1.0]]])
    colour = plots.colormaps[plots.HEAT](heat)[..., :3] * 255
    np.testing.assert_allclose(plots.overlay(black, heat), colour * [[[[0], [0.1875], [0.375], [0.75]]]], atol=0.51)


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
def test_titles_of_images_side_by_side_do_not_overprint_each_other(title):
    ax = plots.image_grid(np.zeros((12, 64, 64), np.uint8), [title] * 12)
    boxes = [text.get_window_extent(ax.figure.canvas.get_renderer()) for text in ax.texts]
    assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])
    assert "".join(ax.texts[0].get_text().split()) == "".join(title.split())


IMAGE = np.arange(64, dtype=np.uint8).reshape(8, 8)


def test_sanity_curves_hold_the_table_and_the_reference_levels():
    ax = sanity_plot(STAGES, {"another image's map": 0.4, "shuffled labels": 0.6})
    assert [label.get_text() for label in ax.get_xticklabels()] == ["dense_2", "dense_1", "block5_conv3"]
    rank, ssim = (container.lines[0].get_ydata() for container in ax.containers)
    assert rank[:2].tolist() == [0.9, 0.2] and ssim[:2].tolist() == [0.8, 0.1]
    levels = [
        line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert levels == [0.4, 0.6]


def test_deletion_and_insertion_are_drawn_with_chance():
    lines = {line.get_label(): line.get_ydata() for line in curves_plot(CURVES).lines}
    assert len(lines) == 4
    np.testing.assert_allclose(lines["deletion, hottest pixels first"], [0.9, 0.1, 0])
    np.testing.assert_allclose(lines["deletion, map shifted (chance)"], [1.0, 0.2, 0.1])


def test_the_panels_are_image_heatmap_and_overlay(monkeypatch):
    given, draw = [], plots.image_grid
    monkeypatch.setattr(
        plots, "image_grid", lambda panels, *rest, **more: given.append(panels) or draw(panels, *rest, **more)
    )
    ax = heat_figure(IMAGE, np.zeros((8, 8)), "title")
    image, heat, both = given[0]
    assert (image == IMAGE[..., None]).all() and (both == image).all()  # no heat leaves the image as it is
    assert np.ptp(heat, axis=(0, 1)).max() == 0 and heat.max() < 10  # and is the darkest colour
    assert [bar.get_ylabel() for bar in ax.child_axes] == ["heat"]


def test_known_lungs_are_outlined():
    with_lungs, without = heat_figure(IMAGE, IMAGE / 64, lungs=IMAGE > 30), heat_figure(IMAGE, IMAGE / 64)
    assert len(with_lungs.collections) == 3 and not without.collections


def test_a_lesion_has_another_colour_and_the_legend_names_both():
    ax = heat_figure(IMAGE, IMAGE / 64, lungs=IMAGE > 30, lesion=IMAGE > 50)
    colours = {tuple(lines.get_edgecolor()[0]) for lines in ax.collections}
    assert len(colours) == 2 and [text.get_text() for text in ax.get_legend().get_texts()] == ["lungs", "lesion"]


def test_a_grid_of_heat_has_one_colour_bar_and_shows_the_same_range_for_every_map():
    images, maps = np.full((4, 8, 8), 90, np.uint8), np.zeros((4, 8, 8))
    maps[1], maps[3] = 1, 0.5
    ax = plots.heat_grid(images, maps, ["a", "b", "c", "d"], columns=2, outlines={"lungs": maps > 2})
    assert [bar.get_ylabel() for bar in ax.child_axes] == ["heat"] and ax.get_legend() is None
    canvas = drawn(ax)
    tile = {number: plots.overlay(images[[number]], maps[[number]])[0, 0, 0] for number in range(4)}
    assert (tile[0] == 90).all() and all((canvas == colour).all(-1).sum() >= 64 for colour in tile.values())


def explanations(n):
    index = pd.MultiIndex.from_product(
        [["coarse", "fine"], ["paper", "layercam"], ["hits", "heat_in_lungs", "deletion_gain"]],
        names=["layer", "style", "measure"],
    )
    table = pd.DataFrame({"value": 0.3, "low": 0.2, "high": 0.4, "chance": 0.1, "untrained": 0.15, "n": 20}, index)
    table.loc[table.index.get_level_values("measure") != "deletion_gain", "n"] = n
    return table


def test_explanations_are_drawn_by_layer_with_chance_and_untrained_networks():
    ax = plots.explanation_figure(explanations(20))
    assert [one.get_xlabel() for one in ax.figure.axes] == [
        "hottest pixel in the lesion", "share of heat in the lungs",
    ]  # fmt: skip
    assert [label.get_text() for label in ax.get_yticklabels()] == ["paper", "layercam"] * 2
    assert {"coarse", "fine"} <= {text.get_text().strip() for text in ax.texts}
    assert [text.get_text() for text in ax.get_legend().get_texts()][-2:] == ["chance", "untrained"]
    assert len(plots.explanation_figure(explanations(0)).figure.axes) == 1  # without masks


def test_titles_say_correct_or_wrong():
    assert heat_title("Normal", "Normal", 0.5).endswith("(0.50), correct")
    assert heat_title("Normal", "COVID-19", 0.999) == "true: Normal; predicted: COVID-19 (1.00), wrong"


def test_correct_and_wrong_images_are_drawn_across_classes():
    labels = np.repeat(["Normal", "COVID-19", "Bacteria"], 20)
    predicted = np.where(np.arange(60) % 4 == 0, "Virus", labels)
    shown = plots.correct_and_wrong(labels, predicted)
    assert (
        labels[shown].tolist()
        == ["Normal"] * 2 + ["COVID-19"] * 2 + ["Bacteria"] * 2 + ["Normal"] * 2 + ["COVID-19"] * 2 + ["Bacteria"] * 2
    )
    assert (predicted[shown] == labels[shown]).tolist() == [True] * 6 + [False] * 6
    assert len(set(shown)) == 12 and set(plots.correct_and_wrong(labels, predicted, seed=1)) != set(shown)


@pytest.mark.parametrize(("wrong", "correct_n", "wrong_n"), [([], 6, 0), (range(9), 0, 6), ([0], 6, 1), ([7, 8], 6, 2)])
def test_correct_and_wrong_take_what_there_is(wrong, correct_n, wrong_n):
    labels, predicted = np.repeat(["a", "b"], [8, 1]), np.repeat(["a", "b"], [8, 1])
    predicted[list(wrong)] = "c"
    shown = plots.correct_and_wrong(labels, predicted)
    assert (predicted[shown] == labels[shown]).tolist() == [True] * correct_n + [False] * wrong_n
    if 8 not in wrong:
        assert 8 in shown  # the rare class has its turn


def test_correct_and_wrong_of_no_images_are_none():
    assert len(plots.correct_and_wrong([], [])) == 0


def test_points_lie_at_the_observed_frequencies_and_bins_of_few_images_are_excluded():
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


def test_a_curve_starts_at_the_tenth_image_and_ends_at_all():
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


def test_the_auc_of_noise_is_at_chance():
    so = np.arange(400) % 2 == 1
    ax = roc_curves({"noise": (so, np.random.default_rng(1).random(400), np.arange(400).astype(str))})
    low, high = map(float, re.search("CI (.*)–(.*)\\)", ax.get_legend_handles_labels()[1][1]).groups())
    assert low < 0.5 < high


def test_the_calibration_error_is_that_of_the_points_drawn():
    rng = np.random.default_rng(0)
    stated = rng.random(3000)
    so = rng.random(3000) < stated**2
    ax = reliability_curves({"north": (stated, so, np.arange(3000))})
    points = ax.collections[-1]
    said, share = points.get_offsets().data.T
    assert len(said) == BINS
    images = np.bincount((stated * BINS).astype(int), minlength=BINS)
    error = (images * np.abs(said - share)).sum() / 3000
    assert f"north (error {error:.2f})" == ax.get_legend().texts[-1].get_text()
    assert error == pytest.approx(calibration_error(stated, so, draws=2)[0].value)
    assert error == pytest.approx(reliability_table(stated, so)[1])


def test_an_ablation_has_variants_from_the_top_differences_marked_and_zero_in_the_middle():
    summary = pd.DataFrame(
        {
            "accuracy": [0.9, 0.5, 0.88], "accuracy_low": [0.85, 0.4, 0.8], "accuracy_high": [0.95, 0.6, 0.95],
            "chance": [0.33] * 3, "difference": [0, -0.4, -0.02], "difference_low": [-0.1, -0.5, -0.1], "difference_high": [0.1, -0.3, 0.06],
            "verdict": ["", "differs", "not significant"],
        },
        index=["reference", "random start", "without gamma"],
    )  # fmt: skip
    right = ablation_figure(summary)
    left = right.figure.axes[0]
    assert [label.get_text() for label in left.get_yticklabels()] == list(summary.index)
    assert left.yaxis_inverted() and right.yaxis_inverted()
    low, high = right.get_xlim()
    assert low == -high and high > 0.5
    marked = next(c for c in right.collections if c.get_label() == "differs").get_offsets()
    np.testing.assert_allclose(marked, [[-0.4, 1]])
    legend = [text.get_text() for text in right.figure.legends[0].get_texts()]
    assert legend == ["value (95 % CI)", "chance", "differs"]


def test_rows_of_a_category_stand_together_with_their_own_values():
    mixed = pd.DataFrame({"value": [0.1, 0.2, 0.3], "low": 0.0, "high": 0.5, "category": list("aba")}, ["x", "y", "z"])
    ax = plots.forest(mixed)
    drawn = {round(line.get_xdata()[0], 1): line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 1}
    labels = dict(zip(ax.get_yticks(), (text.get_text() for text in ax.get_yticklabels()), strict=True))
    assert {labels[drawn[value]]: value for value in (0.1, 0.2, 0.3)} == {"x": 0.1, "y": 0.2, "z": 0.3}
