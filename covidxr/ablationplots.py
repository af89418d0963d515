"""The figure of an ablation: each cell's accuracy, and how far it is from the reference's on the same films."""

from __future__ import annotations

import matplotlib.pyplot as plt

from covidxr import plots
from covidxr.pictures import plain


def ablation_figure(summary):
    """Draw accuracies on the left and differences from the reference on the right; those that differ stand out.

    Parameters
    ----------
    summary : pandas.DataFrame
        From `covidxr.ablation.summarise`.

    Returns
    -------
    matplotlib.axes.Axes
        The right one.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"value": 0.9, "low": 0.8, "high": 0.95, "chance": 0.5, "difference": 0.0}
    >>> row |= {"difference_low": -0.1, "difference_high": 0.1, "verdict": ""}
    >>> ablation_figure(pd.DataFrame([row], index=["reference"])).get_title()
    'difference from reference'
    """
    figure = plt.figure(figsize=(11, 0.36 * len(summary) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    plots.forest(summary, ax=left)
    left.set_title("accuracy")
    left.get_legend().remove()
    ends = summary[["difference", "difference_low", "difference_high"]].astype(float)
    plots.forest(ends.set_axis(["value", "low", "high"], axis=1), ax=right, xlabel="accuracy minus the reference's")
    right.get_legend().remove()
    right.set(title=plain(f"difference from {summary.index[0]}"), xlim=_reach(ends.iloc[1:]))
    right.invert_yaxis()  # twice for the shared axis
    right.axvline(0, color=plots.MUTED, linestyle=":")
    differing = [line for line, verdict in enumerate(summary.verdict) if verdict == "differs"]
    right.scatter(ends.difference.iloc[differing], differing, s=70, color=plots.ACCENT, zorder=3, label="differs")
    figure.legend(*_entries(left, right), loc="outside lower center", ncols=3, frameon=False)
    return right


def _reach(ends):
    """Both sides of zero alike, so that no side looks the likelier; what leaves the scale is cut."""
    far = min(1.0, max([0.05, *ends.abs().max()]) * 1.05)
    return -far, far


def _entries(*axes):
    pairs = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    names = {label: handle for handle, label in pairs}
    return list(names.values()), list(names)
