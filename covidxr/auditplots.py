"""Figures of sureness: how often what a network says is so, and how right it is where it is surest."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from covidxr.calibration import selective_accuracy
from covidxr.evaluate import reliability
from covidxr.plots import MUTED

FEWEST_IN_BIN = 5


def reliability_curves(groups, ax=None):
    """How often what was said with a probability is so, group by group: a point for each fifth of the scale.

    A point is as large as its films are many, and left out where they are fewer than `FEWEST_IN_BIN`.

    Parameters
    ----------
    groups : dict
        Name to (probabilities, whether it was so), N of each.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> len(reliability_curves({"test": ([0.9, 0.6], [True, False])}).containers)
    1
    """
    ax = ax or plt.figure(figsize=(5, 3.6)).subplots()
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="perfectly calibrated")
    for number, (name, (stated, so)) in enumerate(groups.items()):
        table = reliability(stated, so, bins=5)[0]
        table = table[table.n >= min(FEWEST_IN_BIN, table.n.max())]
        reach = np.clip([table.accuracy - table.low, table.high - table.accuracy], 0, None)
        label = f"{name} (error {reliability(stated, so)[1]:.2f})"
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
        ax.plot(curve.coverage, curve.accuracy, linewidth=1.4, label=f"{name} (all: {curve.accuracy.iloc[-1]:.2f})")
    ax.set(xlabel="share of films answered, the surest first", ylabel="accuracy on them", xlim=(0, 1.02), ylim=(-0.02, 1.05))
    return _finished(ax)


def _finished(ax):
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.spines[["top", "right"]].set_visible(False)
    return ax
