"""Figures on heatmaps, in the manner of `covidxr.plots`: each takes ``ax=None``, draws, returns it, never shows."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable

from covidxr.pictures import INK, film_grid, overlay, plain
from covidxr.plots import ACCENT, MUTED

HEAT = "inferno"  # the colours that `overlay` uses


def sanity_plot(table, yardsticks=None, ax=None):
    """How alike heatmaps stay while the network's weights are randomised from the top.

    Parameters
    ----------
    table : pandas.DataFrame
        From `covidxr.sanity.cascade`.
    yardsticks : dict, optional
        Names and rank correlations to compare with, drawn as lines.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import pandas as pd
    >>> columns = ["n"] + [a + b for a in ("rank_correlation", "ssim") for b in ("", "_low", "_high")]
    >>> table = pd.DataFrame([[9, 0.5, 0.4, 0.6, 0.3, 0.2, 0.4]], index=["dense_2"], columns=columns)
    >>> [label.get_text() for label in sanity_plot(table).get_xticklabels()]
    ['dense_2']
    """
    ax = ax or plt.figure(figsize=(0.45 * len(table) + 2, 3.2)).subplots()
    stages = np.arange(len(table))
    for name, colour, shift in (("rank_correlation", INK, -0.06), ("ssim", ACCENT, 0.06)):
        value, low, high = (table[name + end] for end in ("", "_low", "_high"))
        reach = np.clip([value - low, high - value], 0, None)  # a bound may miss its value by rounding
        label = {"rank_correlation": "rank correlation", "ssim": "SSIM"}[name] + ", 95 % interval"
        ax.errorbar(stages + shift, value, reach, color=colour, marker="o", markersize=4, capsize=2, label=label)
    for (name, level), dashes in zip((yardsticks or {}).items(), (":", "--", "-.", "-"), strict=False):
        ax.axhline(level, color=MUTED, linestyle=dashes, label=f"{name} (rank correlation)")
    ax.set_xticks(stages, table.index, rotation=60, ha="right", fontsize=8)
    ax.set(
        ylabel="likeness to the original map",
        xlabel="weights randomised down to",
        ylim=(min(-0.3, ax.get_ylim()[0]), 1.05),
    )
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def curves_plot(result, ax=None):
    """Mean deletion and insertion curves, each beside its chance.

    Parameters
    ----------
    result : covidxr.faithful.CurveResult
        From `covidxr.faithful.deletion_insertion`.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from covidxr.faithful import CurveResult
    >>> falls, rises = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    >>> len(curves_plot(CurveResult(np.array([0.0, 1.0]), falls, rises, falls, rises)).lines)
    4
    """
    ax = ax or plt.figure(figsize=(5, 3.2)).subplots()
    for name, colour in (("deletion", ACCENT), ("insertion", INK)):
        ax.plot(result.fractions, getattr(result, name).mean(0), color=colour, label=f"{name}, hottest first")
        chance = getattr(result, f"random_{name}").mean(0)
        ax.plot(result.fractions, chance, color=colour, linestyle=":", label=f"{name}, map at random places")
    ax.set(xlabel="share of the film exchanged", ylabel="probability of the class", ylim=(0, 1.02), xlim=(0, 1))
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def heat_figure(film, heatmap, title="", lungs=None, ax=None):
    """One film, its heatmap, and the two laid over each other, with a colour bar.

    Parameters
    ----------
    film : numpy.ndarray
        ``uint8``, square, shape (H, H).
    heatmap : numpy.ndarray
        Heat in [0, 1], shape (H, H).
    title : str
        Such as the one from `heat_title`.
    lungs : numpy.ndarray, optional
        ``bool``, shape (H, H): drawn as an outline.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> ax = heat_figure(np.zeros((8, 8), np.uint8), np.eye(8), "true: Normal")
    >>> ax.get_title(loc="left"), [text.get_text() for text in ax.texts]
    ('true: Normal', ['film', 'heat', 'heat over film'])
    """
    ax = ax or plt.figure(figsize=(7.6, 2.8)).subplots()
    heat = (colormaps[HEAT](heatmap)[..., :3] * 255).round().astype(np.uint8)
    panels = np.stack([np.repeat(film[..., None], 3, -1), heat, overlay(film[None], heatmap[None])[0]])
    outlines = None if lungs is None else np.stack([lungs] * 3)
    film_grid(panels, ["film", "heat", "heat over film"], columns=3, ax=ax, outlines=outlines)
    ax.figure.colorbar(ScalarMappable(cmap=HEAT), cax=ax.inset_axes((1.02, 0, 0.02, 0.88)), label="heat")
    ax.set_title(plain(title), loc="left", fontsize=10, color=INK)
    return ax


def right_and_wrong(labels, predicted, n=6, seed=0) -> np.ndarray:
    """Draw images that were called right, then images that were called wrong, the true classes taking turns.

    Parameters
    ----------
    labels, predicted : array_like of str
        N true classes and the network's.
    n : int
        How many of each at most.
    seed : int
        Seed of the draw.

    Returns
    -------
    numpy.ndarray
        Their positions, class by class within the right ones and within the wrong ones.

    Examples
    --------
    >>> right_and_wrong(["a", "a", "b", "b"], ["a", "a", "b", "a"], n=2).tolist()
    [1, 2, 3]
    """
    answers = pd.DataFrame({"label": pd.factorize(np.asarray(labels))[0]})
    answers["wrong"] = np.asarray(predicted) != np.asarray(labels)
    answers = answers.sample(frac=1, random_state=seed)
    answers["turn"] = answers.groupby(["wrong", "label"]).cumcount()
    chosen = answers.sort_values(["wrong", "turn", "label"]).groupby("wrong").head(n)
    return chosen.sort_values(["wrong", "label", "turn"]).index.to_numpy()


def heat_title(label, predicted, probability) -> str:
    """Say what a film is and what the network makes of it.

    Parameters
    ----------
    label, predicted : str
        The true class and the network's.
    probability : float
        Of the latter.

    Returns
    -------
    str

    Examples
    --------
    >>> heat_title("Normal", "COVID-19", 0.914)
    'true: Normal; predicted: COVID-19 (0.91), wrong'
    """
    return f"true: {label}; predicted: {predicted} ({probability:.2f}), {'right' if label == predicted else 'wrong'}"
