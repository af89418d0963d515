"""Sliders and menus for live notebooks: augmentations, predictions, heatmaps. A headless run gets a figure instead."""

from __future__ import annotations

import ipywidgets
import numpy as np
from IPython import get_ipython

from covidxr.augmentation import build_policy
from covidxr.data.images import preprocess
from covidxr.gradcam.cam import GradCAM
from covidxr.plots import heat_figure, heat_grid, image_grid

SHOWN = 6  # images in the static grid

PER_PAGE = 12  # images on a page of predictions

AS_PREDICTED, WHOLE, ALL = "as predicted", "the whole policy", "all"


def is_live() -> bool:
    """Whether the notebook runs interactively."""
    request = getattr(get_ipython(), "get_parent", dict)()
    return bool(request.get("content", {}).get("allow_stdin"))


def browse_heatmaps(model, pixels, titles, classes, layers, styles, outlines):
    """Heatmaps by image, layer, method and class; `outlines` are masks as in `covidxr.plots.image_grid`."""
    explainer = GradCAM(model, layers, styles)
    return (_sliders if is_live() else _grid)(explainer, pixels, titles, list(classes), outlines)


def _grid(explainer, pixels, titles, _, outlines):
    images, under = pixels[:SHOWN], list(titles[:SHOWN])
    found = explainer.explain_each(preprocess(images))
    maps = [found[layer, explainer.styles[0]].maps for layer in explainer.layers]
    names = [name for layer in explainer.layers[1:] for name in [layer, *[""] * (len(images) - 1)]]
    masks = {name: np.concatenate([drawn[:SHOWN]] * len(maps)) for name, drawn in outlines.items()}
    repeated = np.concatenate([images] * len(maps))
    return heat_grid(repeated, np.concatenate(maps), under + names, len(images), masks)


def _sliders(explainer, pixels, titles, classes, outlines):
    def show(image, layer, style, explained, outlined):
        number = None if explained == AS_PREDICTED else classes.index(explained)
        found = explainer.explain_each(preprocess(pixels[image : image + 1]), number)
        masks = {name: drawn[image] for name, drawn in outlines.items()} if outlined else {}
        heat_figure(pixels[image], found[layer, style].maps[0], titles[image], **masks)

    slider = ipywidgets.IntSlider(min=0, max=len(pixels) - 1, continuous_update=False)
    menus = {"layer": explainer.layers, "style": explainer.styles, "explained": [AS_PREDICTED, *classes]}
    return ipywidgets.interactive(show, image=slider, **menus, outlined=True)


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
