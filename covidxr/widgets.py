"""Sliders and menus for live notebooks: augmentations, predictions, heatmaps. A headless run gets a figure instead."""

from __future__ import annotations

import ipywidgets
import numpy as np
from IPython import get_ipython

from covidxr.augmentation import build_policy
from covidxr.data.images import preprocess
from covidxr.gradcam.cam import GradCAM
from covidxr.plots import heat_figure, image_grid, overlay

SHOWN = 6  # images in the static grid

PER_PAGE = 12  # images on a page of predictions

AS_PREDICTED, WHOLE, ALL = "as predicted", "the whole policy", "all"


def is_live() -> bool:
    """Whether the notebook runs interactively."""
    request = getattr(get_ipython(), "get_parent", dict)()
    return bool(request.get("content", {}).get("allow_stdin"))


def browse_heatmaps(model, pixels, titles, layers, classes, style="keras-vis"):
    """Heatmaps by image, layer and class."""
    explainers = {layer: GradCAM(model, layer, style) for layer in layers}
    return (_sliders if is_live() else _grid)(explainers, pixels, titles, list(classes))


def _grid(explainers, pixels, titles, _):
    images, under = pixels[:SHOWN], list(titles[:SHOWN])
    rows = [overlay(images, explainer.explain(preprocess(images)).maps) for explainer in explainers.values()]
    names = [name for layer in list(explainers)[1:] for name in [layer, *[""] * (len(images) - 1)]]
    return image_grid(np.concatenate(rows), under + names, columns=len(images))


def _sliders(explainers, pixels, titles, classes):
    def show(image, layer, explained):
        number = None if explained == AS_PREDICTED else classes.index(explained)
        heat = explainers[layer].explain(preprocess(pixels[image : image + 1]), number).maps[0]
        heat_figure(pixels[image], heat, titles[image])

    slider = ipywidgets.IntSlider(min=0, max=len(pixels) - 1, continuous_update=False)
    return ipywidgets.interactive(show, image=slider, layer=list(explainers), explained=[AS_PREDICTED, *classes])


def browse_augmentations(images, policy, seed=0):
    """An image under a policy, or under each of its augmentations alone."""
    steps = {WHOLE: build_policy(policy)}
    steps |= {step.name: build_policy(policy, only=[step.name]) for step in steps[WHOLE].steps}

    def show(image, step, seed):
        changed = steps[step](np.repeat(images[[image]], SHOWN - 1, axis=0), seed)
        return image_grid(np.concatenate([images[[image]], changed]), ["original"] + [step] * (SHOWN - 1))

    if not is_live():
        return show(0, WHOLE, seed)
    image = ipywidgets.IntSlider(min=0, max=len(images) - 1, continuous_update=False)
    draw = ipywidgets.IntSlider(value=seed, min=seed, max=seed + 99, continuous_update=False)
    return ipywidgets.interactive(show, image=image, step=list(steps), seed=draw)


def browse_predictions(pixels, predictions):
    """Wrongly or correctly predicted images, the most confident first."""

    def show(outcome, label, source, page):
        found = _filtered(predictions, outcome, label, source)
        shown = found[PER_PAGE * (page - 1) : PER_PAGE * page]
        titles = [f"{row.label}\n→ {row.predicted} {row.confidence:.2f}" for row in shown.itertuples()]
        return image_grid(pixels[shown.index], titles) if titles else print("There is no such image.")

    if not is_live():
        return show("wrong", ALL, ALL, 1)
    choices = {"outcome": ["wrong", "correct"]}
    choices |= {name: [ALL, *predictions[name].unique()] for name in ("label", "source")}
    menus = {name: ipywidgets.Dropdown(options=options, description=name) for name, options in choices.items()}
    page = ipywidgets.IntSlider(value=1, min=1, max=1, continuous_update=False)

    def to_first_page(_=None):
        found = _filtered(predictions, **{name: menu.value for name, menu in menus.items()})
        page.value, page.max = 1, max(1, -(-len(found) // PER_PAGE))

    to_first_page()
    for menu in menus.values():  # before the figure is redrawn, so that it never asks for a page that no longer exists
        menu.observe(to_first_page, "value")
    return ipywidgets.interactive(show, **menus, page=page)


def _filtered(predictions, outcome, label, source):
    """The rows of this outcome, numbered by position, the most confident first."""
    found = predictions.reset_index(drop=True)[lambda table: table.correct == (outcome == "correct")]
    for column, value in (("label", label), ("source", source)):
        found = found if value == ALL else found[found[column] == value]
    return found.sort_values("confidence", ascending=False)
