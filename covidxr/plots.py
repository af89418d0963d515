"""Every figure of the notebooks and the run page.

A plot draws on the axes it is given, or on a figure of its own, returns the axes and never shows them.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay, roc_curve

from covidxr.data.cohort import ATTRIBUTES, image_attributes
from covidxr.evaluation.calibration import reliability_table, selective_accuracy
from covidxr.evaluation.intervals import estimate_auc, patient_bootstrap
from covidxr.utils import atomic_path

INK, ACCENT, MUTED = "#1f3b57", "#c2571a", "#8a97a3"

HEAT = "inferno"

COLD = 1 / 3  # heat that `overlay` leaves out, so that lungs stay grey

OUTLINES = {"lungs": "white", "lesion": "deepskyblue"}  # colours of outlined regions, on images and on heat

_MIN_IN_BIN = 5  # images that a bin of a reliability curve needs


def save_figure(ax, path, caption="") -> None:
    """Write the figure of `ax` as PNG, and its caption as a text file for the run page."""
    with atomic_path(path) as temporary:
        ax.figure.savefig(temporary, dpi=110, bbox_inches="tight")
    with atomic_path(Path(path).with_suffix(".txt")) as temporary:
        temporary.write_text(caption, encoding="utf-8")


def plain(text) -> str:
    """Escape dollar signs, so that matplotlib shows a label as it is and does not take it for a formula."""
    return str(text).replace("$", r"\$")


def _axes(ax, width, height):
    return ax or plt.figure(figsize=(width, height)).subplots()


def _finish(ax, outside=False, **legend):
    ax.spines[["top", "right"]].set_visible(False)
    position = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if outside else {}
    ax.legend(frameon=False, **position, **legend)
    return ax


def image_grid(images, titles=None, columns=6, ax=None, outlines=None):
    """Images in rows of `columns`, each below its title; `outlines` are masks (N, H, W) by the names in `OUTLINES`."""
    titles = [] if titles is None else [_wrapped(plain(title)) for title in titles]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    side, gap = images.shape[1], max(2, images.shape[1] // 7)
    head = gap * (1 + max((title.count("\n") for title in titles), default=0))
    height, width = rows * (side + head), columns * (side + gap) - gap // 2
    canvas = np.full((height, width, *images.shape[3:]), 255, np.uint8)
    if ax is None:
        ax = plt.figure(figsize=(1.7 * columns, 1.7 * columns * height / width)).add_axes((0, 0, 1, 1))
    for number, image in enumerate(images):
        top, left = number // columns * (side + head) + head, number % columns * (side + gap)
        canvas[top : top + side, left : left + side] = image
        if titles:
            ax.text(left, top - 0.2 * gap, titles[number], fontsize=8, color=INK, va="bottom")
        edges = (left - 0.5, left + side - 0.5, top - 0.5, top + side - 0.5)
        for name, masks in (outlines or {}).items():
            if masks[number].any():
                # "lower" puts the first row at the least y, which imshow's turned axis shows on top
                ax.contour(masks[number], [0.5], colors=OUTLINES[name], linewidths=0.9, extent=edges, origin="lower")
    ax.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_axis_off()
    if shown := [name for name, masks in (outlines or {}).items() if masks.any()]:
        lines = [Line2D([], [], color=OUTLINES[name], label=name) for name in shown]
        style = {"facecolor": "dimgray", "labelcolor": "white", "fontsize": 8, "framealpha": 1, "borderaxespad": 0}
        ax.legend(handles=lines, loc="upper left", bbox_to_anchor=(0, -0.02), ncols=2, **style)
    return ax


_FITS = 22  # characters above an image


def _wrapped(title):
    """Wrap a title that would run into the next image's."""
    whole = str(title).replace(r"\$", "\0")  # a dollar sign and what keeps it from being a formula stay together
    parts = [part for line in whole.split("\n") for part in textwrap.wrap(line, _FITS) or [""]]
    return "\n".join(parts).replace("\0", r"\$")


def overlay(images, maps, opacity=0.75) -> np.ndarray:
    """Heat in colour over images: opacity is zero up to a third of the full heat and grows linearly from there."""
    weight = opacity * np.clip((maps - COLD) / (1 - COLD), 0, 1)[..., None]
    colour = colormaps[HEAT](maps)[..., :3] * 255
    return (images[..., None] * (1 - weight) + colour * weight).round().astype(np.uint8)


def heat_grid(images, maps, titles=None, columns=6, outlines=None):
    """Overlays of heat in rows, each below its title, with one colour bar; an image whose map is zero stays as it is."""
    ax = image_grid(overlay(images, maps), titles, columns, outlines=outlines)
    return _colour_bar(ax, overlay(np.full((1, 1, 256), 128, np.uint8), np.linspace(0, 1, 256)[None, None])[0, 0])


def _colour_bar(ax, colours):
    """A bar to the right, at most as high as an image; `colours` are uint8 (256, 3)."""
    width, height = ax.figure.get_size_inches()
    position = (1 + 0.1 / width, 0, 0.12 / width, min(1, 1.4 / height))
    bar = ScalarMappable(cmap=ListedColormap(colours / 255))
    ax.figure.colorbar(bar, cax=ax.inset_axes(position), label="heat", ticks=[0, COLD, 1], format="%.1g")
    return ax


def heat_figure(image, heatmap, title="", lungs=None, lesion=None, ax=None):
    """An image, its heatmap and their overlay, with a colour bar; lungs and lesion are outlined where they are given."""
    ax = _axes(ax, 7.6, 2.8)
    colours = (colormaps[HEAT](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
    heat = colours[(255 * heatmap).round().astype(int)]
    panels = np.stack([np.repeat(image[..., None], 3, -1), heat, overlay(image[None], heatmap[None])[0]])
    outlines = {name: np.stack([mask] * 3) for name, mask in (("lungs", lungs), ("lesion", lesion)) if mask is not None}
    image_grid(panels, ["image", "heatmap", "overlay"], columns=3, ax=ax, outlines=outlines)
    ax.set_title(plain(title), loc="left", fontsize=10, color=INK)
    return _colour_bar(ax, colours)


def explanation_figure(table):
    """Lesion hits and heat in the lungs of each layer and method; without lesions, or lungs, the deletion gain as well."""
    names = {
        "hits": "hottest pixel in the lesion",
        "heat_in_lungs": "share of heat in the lungs",
        "deletion_gain": "deletion gain",
    }
    tables = {name: table.xs(name, level="measure").reset_index("layer") for name in names}
    known = [name for name, rows in tables.items() if rows.n.any()][:2]
    tables = {name: tables[name].rename(columns={"layer": "category"}) for name in known}
    lines = len(next(iter(tables.values()))) + table.index.unique("layer").size
    figure = plt.figure(figsize=(7.5 * len(tables), 0.3 * lines + 1), layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False)[0]
    for ax, (name, rows) in zip(axes, tables.items(), strict=True):
        forest(rows, ax=ax, xlabel=names[name])
        if "untrained" in rows:
            crosses = ax.scatter(rows.untrained, ax.get_yticks(), marker="x", color=ACCENT, zorder=3, label="untrained")
            entries = [*ax.get_legend().legend_handles, crosses]
            _finish(ax, handles=entries, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.2)
        ends = rows.filter(["low", "high", "chance", "untrained"])
        ax.set_xlim(min(0, 1.1 * np.nanmin(ends)), min(1.02, 1.1 * np.nanmax(ends)))
    return axes[0]


def heat_title(label, predicted, probability) -> str:
    """The true and the predicted class of an image."""
    verdict = "correct" if label == predicted else "wrong"
    return f"true: {label}; predicted: {predicted} ({probability:.2f}), {verdict}"


def correct_and_wrong(labels, predicted, n=6, seed=0) -> np.ndarray:
    """Rows of up to `n` correctly and `n` wrongly predicted images, drawn at random, the true classes in turn."""
    table = pd.DataFrame({"label": pd.factorize(np.asarray(labels))[0]})
    table["wrong"] = np.asarray(predicted) != np.asarray(labels)
    table = table.sample(frac=1, random_state=seed)
    table["turn"] = table.groupby(["wrong", "label"]).cumcount()
    drawn = table.sort_values(["wrong", "turn", "label"]).groupby("wrong").head(n)
    return drawn.sort_values(["wrong", "label", "turn"]).index.to_numpy()


def counts_by(manifest, column, ax=None):
    """Images of each class by the values of a column."""
    values = manifest[column].replace("", "not given")
    table = manifest.groupby(["label", values], sort=False, observed=True).size().unstack(fill_value=0)
    table = table.rename(index=plain, columns=plain)
    ax = _axes(ax, 7, 0.5 * len(table) + 1.2)
    table.plot.barh(stacked=True, ax=ax, width=0.7, colormap="cividis")
    ax.invert_yaxis()
    ax.set(xlabel="images", ylabel="", title=plain(f"{column} by class"))
    return _finish(ax, outside=True)


def cohort_figure(manifest):
    """Each class by source, age group, view and sex."""
    images = image_attributes(manifest)
    height = 0.55 * images.label.nunique() + 1.2
    axes = plt.figure(figsize=(12, 2 * height), layout="constrained").subplots(2, 2)
    for ax, name in zip(axes.flat, ATTRIBUTES, strict=True):
        counts_by(images, name, ax=ax)
    return axes[0, 0]


def grey_values(groups, ax=None):
    """Distribution of the images' mean grey values in each group."""
    ax = _axes(ax, 6, 3)
    means = [images.mean((1, 2)) for images in groups.values()]
    ax.hist(means, np.arange(0, 261, 10), label=[plain(name) for name in groups], histtype="step", linewidth=1.6)
    ax.set(xlabel="mean grey value of an image (0 to 255)", ylabel="images")
    return _finish(ax)


def training_curves(history, metric="accuracy", ax=None):
    """A metric on training and validation images by epoch, and the epoch that was kept."""
    ax = _axes(ax, 5, 3)
    ax.plot(history.epoch, history[metric], color=INK, marker="o", markersize=3, label="training (augmented)")
    ax.plot(history.epoch, history[f"val_{metric}"], color=ACCENT, marker="o", markersize=3, label="validation")
    last = history if "stage" not in history else history[history.stage == history.stage.iloc[-1]]
    kept = history.epoch[last.val_loss.idxmin()]
    ax.axvline(kept, color=MUTED, linestyle=":", label=f"kept: epoch {kept}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel=metric)
    return _finish(ax)


def learning_rate_curve(sweep, suggestion, ax=None):
    """Training loss against learning rate in a learning-rate range test."""
    ax = _axes(ax, 5, 3)
    ax.plot(sweep.learning_rate, sweep.loss, color=MUTED, linewidth=0.8, label="loss")
    ax.plot(sweep.learning_rate, sweep.smoothed, color=INK, label="smoothed")
    if suggestion is None:
        ax.plot([], [], " ", label="no descent found")
    else:
        ax.axvline(suggestion, color=ACCENT, linestyle=":", label=f"steepest: {suggestion:.1e}")
    ax.set(xscale="log", xlabel="learning rate", ylabel="training loss")
    ax.set_ylim(top=min(sweep.loss.max(), 2.5 * sweep.loss.iloc[0]) * 1.05)
    return _finish(ax)


def confusion_plot(table, ax=None):
    """A confusion matrix."""
    ax = _axes(ax, 4, 3.4)
    display = ConfusionMatrixDisplay(table.to_numpy(), display_labels=[plain(label) for label in table.columns])
    display.plot(ax=ax, cmap="Blues", colorbar=False)
    ax.set_xticks(range(len(table)), display.display_labels, rotation=30, ha="right")
    ax.set(xlabel="predicted", ylabel="true")
    return ax


def forest(table, ax=None, xlabel="accuracy", measure=""):
    """``value``, ``low`` and ``high`` of each row, or a `measure` with its limits, with chance; an audit's table by category."""
    ax = _axes(ax, 7.5, 0.32 * (len(table) + (table.category.nunique() if "category" in table else 0)) + 1)
    if "category" in table:  # rows of a category stand together
        table = table.iloc[np.argsort(pd.factorize(table.category)[0], kind="stable")]
    lines, ticks = _lines(ax, table)
    columns = [measure, f"{measure}_low", f"{measure}_high"] if measure else ["value", "low", "high"]
    ends = table[columns].astype(float)
    shortcut, missed = (np.asarray(table.get(name, [False] * len(table)), bool) for name in _CONCLUSIONS)
    for line, (value, low, high), is_shortcut, is_missed in zip(lines, ends.to_numpy(), shortcut, missed, strict=True):
        style = {"color": ACCENT if is_shortcut else INK, "markerfacecolor": "white" if is_missed else None}
        ax.errorbar(value, line, xerr=_reach(value, low, high), fmt="o", capsize=3, **style)
        if np.isfinite(value):
            text = f"{value:.2f} ({low:.2f}{'–' if low >= 0 else ' to '}{high:.2f})"
            ax.text(1.02, line, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9, color=style["color"])
    entries = [_marker("value (95 % CI)", INK, INK)]
    entries += [_marker("shortcut", ACCENT, ACCENT)] if shortcut.any() else []
    entries += [_marker("not as expected", INK, "white")] if missed.any() else []
    if "chance" in table:
        chance = ax.scatter(
            table.chance.astype(float), lines, marker="|", s=150, color="black", zorder=3, label="chance"
        )
        entries.append(chance)
    ax.set(
        yticks=lines,
        yticklabels=ticks,
        xlim=(-0.02, 1.02),
        ylim=(max(lines, default=0) + 0.6, -0.6),
        xlabel=plain(xlabel),
    )
    return _finish(ax, handles=entries, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.2)


_CONCLUSIONS = ("shortcut", "missed_expectation")


def _lines(ax, table):
    """The vertical positions and labels of the rows, below the headings of their categories."""
    categories = table.get("category", pd.Series("", table.index))
    lines, labels, line = [], [], 0
    for category, rows in table.groupby(categories.to_numpy(), sort=False):
        if category:
            ax.text(
                0,
                line,
                f"{plain(category)} ",
                transform=ax.get_yaxis_transform(),
                ha="right",
                va="center",
                weight="bold",
            )
            line += 1
        lines += range(line, line + len(rows))
        labels += map(plain, rows.index)
        line += len(rows)
    return lines, labels


def _reach(value, low, high):
    """Lengths of an error bar; a limit may miss its value by rounding."""
    return np.clip(np.array([value - low, high - value], float).reshape(2, -1), 0, None)


def _marker(label, colour, face):
    return Line2D([], [], marker="o", linestyle="", color=colour, markerfacecolor=face, label=label)


def ablation_figure(summary):
    """Accuracy of each variant, and its difference from the reference; significant differences are marked."""
    figure = plt.figure(figsize=(13, 0.36 * len(summary) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    forest(summary, ax=left, measure="accuracy")
    ends = summary[["difference", "difference_low", "difference_high"]].astype(float)
    forest(ends, ax=right, xlabel="accuracy minus the reference's", measure="difference")
    right.set(title=plain(f"difference from {summary.index[0]}"), xlim=_half_width(ends.iloc[1:]))
    left.set_title("accuracy")
    right.axvline(0, color=MUTED, linestyle=":")
    rows = np.flatnonzero(summary.verdict == "differs")
    marked = right.scatter(ends.difference.iloc[rows], rows, s=70, color=ACCENT, zorder=3, label="differs")
    entries = [*left.get_legend().legend_handles, marked]
    for ax in (left, right):
        ax.get_legend().remove()
    figure.legend(handles=entries, loc="outside lower center", ncols=3, frameon=False)
    return right


def _half_width(ends):
    """Limits symmetrical about zero, so that neither side looks the likelier."""
    limit = min(1.0, max([0.05, *ends.abs().max()]) * 1.05)
    return -limit, limit


def sanity_plot(table, references=None, ax=None):
    """Similarity to the original heatmaps while weights are randomised from the top, with reference levels."""
    stages = table.index.unique("layer")
    ax, positions = _axes(ax, 0.45 * len(stages) + 2, 3.2), np.arange(len(stages))
    for name, colour, shift in (("rank_correlation", INK, -0.06), ("ssim", ACCENT, 0.06)):
        rows = table.xs(name, level="measure")
        label = {"rank_correlation": "rank correlation", "ssim": "SSIM"}[name] + " (95 % CI)"
        style = {"color": colour, "marker": "o", "markersize": 4, "capsize": 2, "label": label}
        ax.errorbar(positions + shift, rows.value, _reach(rows.value, rows.low, rows.high), **style)
    for (name, level), dashes in zip((references or {}).items(), (":", "--", "-.", "-"), strict=False):
        ax.axhline(level, color=MUTED, linestyle=dashes, label=f"{plain(name)} (rank correlation)")
    ax.set_xticks(positions, stages, rotation=60, ha="right", fontsize=8)
    ax.set(xlabel="weights randomised down to", ylabel="similarity to the original map")
    ax.set_ylim(min(-0.3, ax.get_ylim()[0]), 1.05)
    return _finish(ax, outside=True, fontsize=8)


def curves_plot(result, ax=None):
    """Mean deletion and insertion curves, with chance."""
    ax = _axes(ax, 5, 3.2)
    for name, colour in (("deletion", ACCENT), ("insertion", INK)):
        ax.plot(result.fractions, getattr(result, name).mean(0), color=colour, label=f"{name}, hottest pixels first")
        chance = getattr(result, f"random_{name}").mean(0)
        ax.plot(result.fractions, chance, color=colour, linestyle=":", label=f"{name}, map shifted (chance)")
    ax.set(xlabel="share of pixels exchanged", ylabel="probability of the class", ylim=(0, 1.02), xlim=(0, 1))
    return _finish(ax, outside=True, fontsize=8)


def reliability_curves(groups, ax=None):
    """Observed frequency against predicted probability in each group, for the bins that the calibration error is of."""
    ax = _axes(ax, 5, 3.6)
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="perfectly calibrated")
    for number, (name, (probability, outcome, patients)) in enumerate(groups.items()):
        table, error = reliability_table(probability, outcome, patients=patients)
        table = table[table.n >= min(_MIN_IN_BIN, table.n.max())]
        hue = {"color": f"C{number}", "alpha": 0.8}
        reach = _reach(table.accuracy, table.low, table.high)
        ax.errorbar(table.confidence, table.accuracy, reach, fmt="none", capsize=2, elinewidth=1, **hue)
        label = f"{plain(name)} (error {error:.2f})"
        ax.scatter(table.confidence, table.accuracy, 12 + 4 * np.sqrt(table.n), label=label, **hue)
    ax.set(xlabel="predicted probability", ylabel="observed frequency", xlim=(0, 1.02), ylim=(-0.02, 1.05))
    return _finish(ax, outside=True)


def selective_curves(groups, ax=None):
    """Selective accuracy by coverage, from the ten most confident images on."""
    ax = _axes(ax, 5, 3.6)
    for name, (confidence, correct) in groups.items():
        curve = selective_accuracy(confidence, correct)
        curve = curve[min(9, len(curve) - 1) :]
        label = f"{plain(name)} (all: {curve.accuracy.iloc[-1]:.2f})"
        ax.plot(curve.coverage, curve.accuracy, linewidth=1.4, label=label)
    ax.set(xlabel="coverage, most confident first", ylabel="selective accuracy", xlim=(0, 1.02), ylim=(-0.02, 1.05))
    return _finish(ax, outside=True)


def roc_curves(groups, ax=None, draws=200):
    """ROC curves with pointwise 95 % bands of a patient-level bootstrap, and the AUCs."""
    ax = _axes(ax, 5, 4.4)
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="chance (0.50)")
    for number, (name, (so, score, patients)) in enumerate(groups.items()):
        so, score = np.asarray(so, dtype=bool), np.asarray(score, dtype=float)
        auc = estimate_auc(so, score, patients)
        false, true, _ = roc_curve(so, score)
        ax.plot(false, true, color=f"C{number}", label=f"{plain(name)}: {auc}")
        ax.fill_between(_FPR_GRID, *_band(so, score, patients, draws), color=f"C{number}", alpha=0.15, linewidth=0)
    ax.set(xlabel="1 - specificity", ylabel="sensitivity")
    return _finish(ax, outside=True)


_FPR_GRID = np.linspace(0, 1, 51)


def _band(so, score, patients, draws):
    """Limits of the sensitivity at each point of the grid, of the middle 95 % of draws."""
    drawn = [rows for rows in patient_bootstrap(patients, draws) if 0 < so[rows].sum() < len(rows)]
    curves = [np.interp(_FPR_GRID, *roc_curve(so[rows], score[rows])[:2]) for rows in drawn]
    return np.quantile(curves, [0.025, 0.975], axis=0)
