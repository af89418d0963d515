"""Heatmaps to leaf through in a live notebook: a slider over films, menus of layers and classes."""

from __future__ import annotations

import ipywidgets
import numpy as np
from IPython import get_ipython

from covidxr.gradcam import GradCAM
from covidxr.heatplots import heat_figure
from covidxr.pictures import film_grid, overlay
from covidxr.pixels import preprocess

SHOWN = 6  # films in the static grid
AS_PREDICTED = "as predicted"


def is_live() -> bool:
    """Whether somebody sits before the notebook.

    A front end for people can ask its user a question, and tells the kernel so with every cell (``allow_stdin``);
    papermill and nbconvert cannot.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_live()
    False
    """
    request = getattr(get_ipython(), "get_parent", dict)()
    return bool(request.get("content", {}).get("allow_stdin"))


def browse(model, pixels, titles, layers, classes, style="keras-vis"):
    """Leaf through heatmaps.

    Parameters
    ----------
    model : keras.Model
        As for `covidxr.gradcam.GradCAM`.
    pixels : numpy.ndarray
        ``uint8``, square, shape (N, H, H), 1 film or more.
    titles : sequence of str
        N titles, such as from `covidxr.heatplots.heat_title`.
    layers : sequence of str
        The model's layers to choose from.
    classes : sequence of str
        The classes to choose from, in the order of the model's outputs.
    style : str
        As for `covidxr.gradcam.GradCAM`.

    Returns
    -------
    ipywidgets.Widget or matplotlib.axes.Axes
        In a live notebook a film with a slider and two menus. Without anybody to move them, the first films over one
        another's layers, a row a layer, for the predicted class.

    Raises
    ------
    CovidxrError
        If a layer does not exist, or the model cannot be explained.

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv"), keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(2, activation="softmax")])
    >>> ax = browse(model, np.zeros((2, 8, 8), np.uint8), ["a", "b"], ["conv"], ["Normal", "COVID-19"])
    >>> [text.get_text() for text in ax.texts]
    ['a', 'b']
    """
    explainers = {layer: GradCAM(model, layer, style) for layer in layers}
    return (_sliders if is_live() else _grid)(explainers, pixels, titles, list(classes))


def _grid(explainers, pixels, titles, _):
    films, under = pixels[:SHOWN], list(titles[:SHOWN])
    rows = [overlay(films, explainer.explain(preprocess(films)).maps) for explainer in explainers.values()]
    names = [name for layer in list(explainers)[1:] for name in [layer, *[""] * (len(films) - 1)]]
    return film_grid(np.concatenate(rows), under + names, columns=len(films))


def _sliders(explainers, pixels, titles, classes):
    def show(film, layer, explained):
        number = None if explained == AS_PREDICTED else classes.index(explained)
        heat = explainers[layer].explain(preprocess(pixels[film : film + 1]), number).maps[0]
        heat_figure(pixels[film], heat, titles[film])

    slider = ipywidgets.IntSlider(min=0, max=len(pixels) - 1, continuous_update=False)
    return ipywidgets.interactive(show, film=slider, layer=list(explainers), explained=[AS_PREDICTED, *classes])
