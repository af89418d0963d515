"""What to look at in a live notebook, with sliders and menus: augmentations, answers, heatmaps.

Where nobody is there to move them, each gives a picture instead.
"""

from __future__ import annotations

import ipywidgets
import numpy as np
from IPython import get_ipython

from covidxr.augment import build_policy
from covidxr.gradcam import GradCAM
from covidxr.heatplots import heat_figure
from covidxr.pictures import film_grid, overlay
from covidxr.pixels import preprocess

SHOWN = 6  # films in the static grid
AT_ONCE = 12  # films on a page of answers
AS_PREDICTED, WHOLE, ALL = "as predicted", "the whole policy", "all"


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


def browse_augmentations(films, policy, seed=0):
    """Look at what a policy makes of films.

    Parameters
    ----------
    films : numpy.ndarray
        ``uint8``, square, shape (N, H, H), 1 film or more.
    policy : str
        As for `covidxr.augment.build_policy`.
    seed : int
        Seed of the changes; each film shown gets its own.

    Returns
    -------
    ipywidgets.Widget or matplotlib.axes.Axes
        In a live notebook a film and five changes of it, with sliders for film and seed and a menu of the policy's steps.
        Otherwise the first film and five changes of it by the whole policy.

    Raises
    ------
    CovidxrError
        If there is no such policy.

    Examples
    --------
    >>> ax = browse_augmentations(np.zeros((2, 8, 8), np.uint8), "anatomical")
    >>> [text.get_text() for text in ax.texts][:2]
    ['as it is', 'the whole policy']
    """
    steps = {WHOLE: build_policy(policy)}
    steps |= {step.name: build_policy(policy, only=[step.name]) for step in steps[WHOLE].steps}

    def show(film, step, seed):
        changed = steps[step](np.repeat(films[[film]], SHOWN - 1, axis=0), seed)
        return film_grid(np.concatenate([films[[film]], changed]), ["as it is"] + [step] * (SHOWN - 1))

    if not is_live():
        return show(0, WHOLE, seed)
    film = ipywidgets.IntSlider(min=0, max=len(films) - 1, continuous_update=False)
    draw = ipywidgets.IntSlider(value=seed, min=seed, max=seed + 99, continuous_update=False)
    return ipywidgets.interactive(show, film=film, step=list(steps), seed=draw)


def browse_answers(pixels, predictions):
    """Leaf through a network's answers, the mistakes first, the surest on top.

    Parameters
    ----------
    pixels : numpy.ndarray
        ``uint8``, square, shape (N, H, H).
    predictions : pandas.DataFrame
        N rows in the same order, as `covidxr.evaluate.prediction_table` returns them.

    Returns
    -------
    ipywidgets.Widget or matplotlib.axes.Axes or None
        In a live notebook twelve films at a time, with menus of answer, class and source. Otherwise the surest mistakes;
        None where there is no mistake.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"label": "Normal", "predicted": "COVID-19", "correct": False, "confidence": 0.91, "source": "ours"}
    >>> ax = browse_answers(np.zeros((1, 8, 8), np.uint8), pd.DataFrame([row]))
    >>> ax.texts[0].get_text()
    'Normal\\n→ COVID-19 0.91'
    """

    def show(answer, label, source, page):
        found = _answers(predictions, answer, label, source)
        shown = found[AT_ONCE * (page - 1) : AT_ONCE * page]
        titles = [f"{row.label}\n→ {row.predicted} {row.confidence:.2f}" for row in shown.itertuples()]
        return film_grid(pixels[shown.index], titles) if titles else print("There is no such film.")

    if not is_live():
        return show("wrong", ALL, ALL, 1)
    choices = {"answer": ["wrong", "right"]}
    choices |= {name: [ALL, *predictions[name].unique()] for name in ("label", "source")}
    menus = {name: ipywidgets.Dropdown(options=options, description=name) for name, options in choices.items()}
    page = ipywidgets.IntSlider(value=1, min=1, max=1, continuous_update=False)

    def to_first_page(_=None):
        found = _answers(predictions, **{name: menu.value for name, menu in menus.items()})
        page.value, page.max = 1, max(1, -(-len(found) // AT_ONCE))

    to_first_page()
    for menu in menus.values():  # before the picture hears of it, so that no page is asked for that no longer exists
        menu.observe(to_first_page, "value")
    return ipywidgets.interactive(show, **menus, page=page)


def _answers(predictions, answer, label, source):
    """Give the rows of these answers, numbered as in the table, the surest first."""
    wanted = predictions.reset_index(drop=True)[lambda table: table.correct == (answer == "right")]
    for column, value in (("label", label), ("source", source)):
        wanted = wanted if value == ALL else wanted[wanted[column] == value]
    return wanted.sort_values("confidence", ascending=False)
