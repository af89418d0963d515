"""Films as pictures: side by side, and with heat laid over them."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps

INK = "#1f3b57"


def plain(text) -> str:
    r"""Escape dollar signs, so that matplotlib shows a label as it is and does not take it for a formula.

    Examples
    --------
    >>> plain("paid in $ or in US$")
    'paid in \\$ or in US\\$'
    """
    return str(text).replace("$", r"\$")


def film_grid(films, titles=None, columns=6, ax=None, outlines=None):
    """Films side by side, each under its title.

    Parameters
    ----------
    films : numpy.ndarray
        ``uint8``, square, shape (N, H, H) grey or (N, H, H, 3) in colour.
    titles : sequence of str, optional
        N titles, of one line or more; lines wider than a film are broken.
    columns : int
        Films a row.
    ax : matplotlib.axes.Axes, optional
        Where to draw.
    outlines : numpy.ndarray, optional
        ``bool``, shape (N, H, H): regions to draw the outline of.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> ax = film_grid(np.zeros((3, 8, 8), np.uint8), ["a", "b", "c"], columns=2)
    >>> [text.get_text() for text in ax.texts]
    ['a', 'b', 'c']
    """
    titles = [] if titles is None else [plain(title) for title in titles]
    columns = min(columns, len(films))
    rows = -(-len(films) // columns)
    titles = list(map(_broken, titles))
    side, gap = films.shape[1], max(2, films.shape[1] // 7)
    head = gap * (1 + max((title.count("\n") for title in titles), default=0))
    height, width = rows * (side + head), columns * (side + gap) - gap // 2
    canvas = np.full((height, width, *films.shape[3:]), 255, np.uint8)
    if ax is None:
        ax = plt.figure(figsize=(1.7 * columns, 1.7 * columns * height / width)).add_axes((0, 0, 1, 1))
    for number, film in enumerate(films):
        top, left = number // columns * (side + head) + head, number % columns * (side + gap)
        canvas[top : top + side, left : left + side] = film
        if titles:
            ax.text(left, top - 0.2 * gap, titles[number], fontsize=8, color=INK, va="bottom")
        if outlines is not None and outlines[number].any():
            edges = (left - 0.5, left + side - 0.5, top - 0.5, top + side - 0.5)
            # "lower" puts the first row at the least y, which imshow's turned axis shows on top
            ax.contour(outlines[number], [0.5], colors="white", linewidths=0.7, extent=edges, origin="lower")
    ax.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_axis_off()
    return ax


_FITS = 22  # characters over a film


def _broken(title):
    """Break lines that would run into the next film's title."""
    whole = str(title).replace(r"\$", "\0")  # a dollar sign and what keeps it from being a formula stay together
    parts = [part for line in whole.split("\n") for part in textwrap.wrap(line, _FITS) or [""]]
    return "\n".join(parts).replace("\0", r"\$")


def overlay(films, maps, opacity=0.45) -> np.ndarray:
    """Lay heat in colour over films.

    Parameters
    ----------
    films : numpy.ndarray
        ``uint8``, shape (N, H, W).
    maps : numpy.ndarray
        Heat in [0, 1], shape (N, H, W).
    opacity : float
        Of the heat where it is 1; where there is none the film stays as it is.

    Returns
    -------
    numpy.ndarray
        ``uint8``, shape (N, H, W, 3).

    Examples
    --------
    >>> overlay(np.full((1, 2, 2), 100, np.uint8), np.zeros((1, 2, 2)))[0, 0, 0].tolist()
    [100, 100, 100]
    """
    weight = opacity * np.sqrt(maps)[..., None]
    colour = colormaps["inferno"](maps)[..., :3] * 255
    return (films[..., None] * (1 - weight) + colour * weight).round().astype(np.uint8)
