"""Every figure: each function takes ``ax=None``, draws on it, returns it, and never calls ``show()``."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay

from covidxr.files import atomic_path
from covidxr.pictures import INK, film_grid, overlay, plain

__all__ = [
    "confusion_plot",
    "counts_by",
    "film_grid",
    "forest",
    "grey_values",
    "learning_rate_curve",
    "overlay",
    "save_figure",
    "training_curves",
]

ACCENT, MUTED = "#c2571a", "#8a97a3"


def save_figure(ax, path, caption="") -> None:
    """Write the figure that `ax` belongs to as PNG, with a caption beside it for the run's page.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Any of the figure's axes.
    path : str or pathlib.Path
        Ends in ``.png``; the caption goes to the same name with ``.txt``.
    caption : str
        What is seen, in words.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "figures" / "empty.png"
    >>> save_figure(plt.figure().subplots(), target, "Nothing.")
    >>> target.with_suffix(".txt").read_text()
    'Nothing.'
    """
    with atomic_path(path) as temporary:
        ax.figure.savefig(temporary, dpi=110, bbox_inches="tight")
    with atomic_path(Path(path).with_suffix(".txt")) as temporary:
        temporary.write_text(caption, encoding="utf-8")


def counts_by(manifest, column, ax=None):
    """How the films of each class divide over the values of a column.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.
    column : str
        Such as ``source`` or ``split``; empty values are shown as "not given".
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import pandas as pd
    >>> ax = counts_by(pd.DataFrame({"label": ["a", "b"], "sex": ["F", ""]}), "sex")
    >>> ax.get_xlabel()
    'films'
    """
    values = manifest[column].replace("", "not given")
    table = manifest.groupby(["label", values], sort=False, observed=True).size().unstack(fill_value=0)
    table = table.rename(index=plain, columns=plain)
    ax = ax or plt.figure(figsize=(7, 0.5 * len(table) + 1.2)).subplots()
    table.plot.barh(stacked=True, ax=ax, width=0.7, colormap="cividis")
    ax.invert_yaxis()
    ax.set(xlabel="films", ylabel="", title=plain(f"{column} by class"))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def grey_values(groups, ax=None):
    """Distributions of the films' mean grey values.

    Parameters
    ----------
    groups : dict
        Name to ``uint8`` films (N, H, W).
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> grey_values({"a": np.zeros((3, 2, 2), np.uint8)}).get_ylabel()
    'films'
    """
    ax = ax or plt.figure(figsize=(6, 3)).subplots()
    means = [films.mean((1, 2)) for films in groups.values()]
    ax.hist(means, np.arange(0, 261, 10), label=[plain(name) for name in groups], histtype="step", linewidth=1.6)
    ax.set(xlabel="mean grey value of a film (0 to 255)", ylabel="films")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def training_curves(history, metric="accuracy", ax=None):
    """A metric on training and validation films, epoch by epoch.

    Parameters
    ----------
    history : pandas.DataFrame
        From `covidxr.train.fit`.
    metric : str
        ``accuracy`` or ``loss``.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import pandas as pd
    >>> history = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5], "val_loss": [1.1, 0.7]})
    >>> len(training_curves(history, "loss").lines)
    3
    """
    ax = ax or plt.figure(figsize=(5, 3)).subplots()
    ax.plot(history.epoch, history[metric], color=INK, marker="o", markersize=3, label="training (augmented)")
    ax.plot(history.epoch, history[f"val_{metric}"], color=ACCENT, marker="o", markersize=3, label="validation")
    last = history if "stage" not in history else history[history.stage == history.stage.iloc[-1]]
    kept = history.epoch[last.val_loss.idxmin()]
    ax.axvline(kept, color=MUTED, linestyle=":", label=f"kept: epoch {kept}")
    ax.set(xlabel="epoch", ylabel=metric)
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def learning_rate_curve(sweep, suggestion, ax=None):
    """Loss against learning rate in a sweep.

    Parameters
    ----------
    sweep : pandas.DataFrame
        From `covidxr.train.find_learning_rate`.
    suggestion : float or None
        The rate to mark; None where the loss does not fall, which the legend then says.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import pandas as pd
    >>> sweep = pd.DataFrame({"learning_rate": [1e-4, 1e-3], "loss": [1.0, 0.5], "smoothed": [1.0, 0.7]})
    >>> learning_rate_curve(sweep, 1e-3).get_xscale()
    'log'
    """
    ax = ax or plt.figure(figsize=(5, 3)).subplots()
    ax.plot(sweep.learning_rate, sweep.loss, color=MUTED, linewidth=0.8, label="loss")
    ax.plot(sweep.learning_rate, sweep.smoothed, color=INK, label="smoothed")
    if suggestion is None:
        ax.plot([], [], " ", label="no descent found")
    else:
        ax.axvline(suggestion, color=ACCENT, linestyle=":", label=f"steepest: {suggestion:.1e}")
    ax.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    ax.set_ylim(top=min(sweep.loss.max(), 2.5 * sweep.loss.iloc[0]) * 1.05)
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def confusion_plot(table, ax=None):
    """A confusion matrix.

    Parameters
    ----------
    table : pandas.DataFrame
        From `covidxr.evaluate.confusion`.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import pandas as pd
    >>> confusion_plot(pd.DataFrame([[2, 1], [0, 3]], index=["a", "b"], columns=["a", "b"])).get_xlabel()
    'predicted'
    """
    ax = ax or plt.figure(figsize=(4, 3.4)).subplots()
    display = ConfusionMatrixDisplay(table.to_numpy(), display_labels=[plain(label) for label in table.columns])
    display.plot(ax=ax, cmap="Blues", colorbar=False)
    ax.set(xlabel="predicted", ylabel="true")
    return ax


def forest(table, ax=None, xlabel="accuracy"):
    """Values with their intervals, one a line, each beside its chance level.

    Parameters
    ----------
    table : pandas.DataFrame
        Indexed by name; columns ``value``, ``low``, ``high`` and, where there is one, ``chance``.
    ax : matplotlib.axes.Axes, optional
        Where to draw.
    xlabel : str
        What is measured.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"value": [0.8], "low": [0.7], "high": [0.9], "chance": [0.5]}, index=["corners"])
    >>> [label.get_text() for label in forest(table).get_yticklabels()]
    ['corners']
    """
    ax = ax or plt.figure(figsize=(6.5, 0.36 * len(table) + 1)).subplots()
    lines = np.arange(len(table))
    value, low, high = (table[column].astype(float) for column in ("value", "low", "high"))
    reach = np.clip([value - low, high - value], 0, None)  # a bound may miss its value by rounding
    ax.errorbar(value, lines, xerr=reach, fmt="o", color=INK, capsize=3, label="value, 95 % interval")
    if "chance" in table:
        ax.scatter(table.chance.astype(float), lines, marker="|", s=160, color=ACCENT, label="chance")
    ax.set(yticks=lines, yticklabels=[plain(name) for name in table.index], xlim=(-0.02, 1.02), xlabel=plain(xlabel))
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    ax.spines[["top", "right"]].set_visible(False)
    return ax
