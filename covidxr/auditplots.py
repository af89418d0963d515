"""Figures of sureness and of scores: how often what is said is so, how right where it is surest, ROC curves with bands."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_curve

from covidxr.calibration import selective_accuracy
from covidxr.evaluate import reliability
from covidxr.intervals import auc_with_interval, drawn_patients
from covidxr.pictures import plain
from covidxr.plots import MUTED

FEWEST_IN_BIN = 5


def reliability_curves(groups, ax=None):
    """How often what was said with a probability is so, group by group: a point for each of the bins that the error is of.

    A point is as large as its films are many, and left out where they are fewer than `FEWEST_IN_BIN`.

    Parameters
    ----------
    groups : dict
        Name to (probabilities, whether it was so, patient), N of each.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> len(reliability_curves({"test": ([0.9, 0.6], [True, False], ["a", "b"])}).containers)
    1
    """
    ax = ax or plt.figure(figsize=(5, 3.6)).subplots()
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="perfectly calibrated")
    for number, (name, (stated, so, patients)) in enumerate(groups.items()):
        table, error = reliability(stated, so, patients=patients)
        table = table[table.n >= min(FEWEST_IN_BIN, table.n.max())]
        reach = np.clip([table.accuracy - table.low, table.high - table.accuracy], 0, None)
        label = f"{plain(name)} (error {error:.2f})"
        hue = {"color": f"C{number}", "alpha": 0.8}
        ax.errorbar(table.confidence, table.accuracy, reach, fmt="none", capsize=2, elinewidth=1, **hue)
        ax.scatter(table.confidence, table.accuracy, 12 + 4 * np.sqrt(table.n), label=label, **hue)
    ax.set(xlabel="stated probability", ylabel="share that is so", xlim=(0, 1.02), ylim=(-0.02, 1.05))
    return _finished(ax)


def selective_curves(groups, ax=None):
    """Accuracy on the films that a network is surest of, for each share of them from the tenth film on.

    Parameters
    ----------
    groups : dict
        Name to (confidences, whether it was right), N of each.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> selective_curves({"test": ([0.9, 0.6], [True, False])}).get_xlabel()
    'share of films answered, the surest first'
    """
    ax = ax or plt.figure(figsize=(5, 3.6)).subplots()
    for name, (confidence, right) in groups.items():
        curve = selective_accuracy(confidence, right)
        curve = curve[min(9, len(curve) - 1) :]
        ax.plot(
            curve.coverage, curve.accuracy, linewidth=1.4, label=f"{plain(name)} (all: {curve.accuracy.iloc[-1]:.2f})"
        )
    ax.set(
        xlabel="share of films answered, the surest first",
        ylabel="accuracy on them",
        xlim=(0, 1.02),
        ylim=(-0.02, 1.05),
    )
    return _finished(ax)


def roc_curves(groups, ax=None, draws=200):
    """ROC curves with bands that hold 95 % of the curves of drawn patients, point by point, and areas with their intervals.

    Parameters
    ----------
    groups : dict
        Name to (whether it was so, score, patient), N of each, with both kinds.
    ax : matplotlib.axes.Axes, optional
        Where to draw.
    draws : int
        Bootstrap samples for the bands.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> ax = roc_curves({"a reader": ([True, True, False, False], [0.9, 0.4, 0.6, 0.1], list("abcd"))})
    >>> ax.get_legend_handles_labels()[1][1][:15]
    'a reader (0.75,'
    """
    ax = ax or plt.figure(figsize=(5, 4.4)).subplots()
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="chance (0.50)")
    for number, (name, (so, score, patients)) in enumerate(groups.items()):
        so, score = np.asarray(so, dtype=bool), np.asarray(score, dtype=float)
        area, (low, high) = auc_with_interval(so, score, patients)
        false, true, _ = roc_curve(so, score)
        ax.plot(false, true, color=f"C{number}", label=f"{plain(name)} ({area:.2f}, {low:.2f} to {high:.2f})")
        ax.fill_between(_GRID, *_band(so, score, patients, draws), color=f"C{number}", alpha=0.15, linewidth=0)
    ax.set(xlabel="share of the others called so (1 - specificity)", ylabel="share found (sensitivity)")
    return _finished(ax)


_GRID = np.linspace(0, 1, 51)


def _band(so, score, patients, draws):
    """Lowest and highest sensitivity at each point of the grid, for the middle 95 % of draws."""
    drawn = [rows for rows in drawn_patients(patients, draws) if 0 < so[rows].sum() < len(rows)]
    curves = [np.interp(_GRID, *roc_curve(so[rows], score[rows])[:2]) for rows in drawn]
    return np.quantile(curves, [0.025, 0.975], axis=0)


def _finished(ax):
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.spines[["top", "right"]].set_visible(False)
    return ax
