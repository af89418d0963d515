"""Sliders and menus of a live notebook, and the figures of a headless run."""

from __future__ import annotations

from pathlib import Path

import ipywidgets
import keras
import numpy as np
import pandas as pd
import pytest
from jupyter_client.manager import start_new_kernel
from keras import layers

from covidxr import widgets
from covidxr.utils import CovidxrError

CLASSES = ["Normal", "COVID-19"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((16, 16, 3)), layers.Conv2D(4, 3, name="first"), layers.Conv2D(4, 3, name="second"),
        layers.GlobalAveragePooling2D(), layers.Dense(2, activation="softmax"),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def sample_images():
    return np.random.default_rng(0).integers(0, 256, (9, 16, 16), np.uint8)


def test_headless_it_is_a_grid_of_images_by_layers(model, sample_images):
    titles, lungs = [f"image {i}" for i in range(9)], {"lungs": sample_images > 127}
    ax = widgets.browse_heatmaps(model, sample_images, titles, CLASSES, ["first", "second"], ["paper"], lungs)
    texts = [text.get_text() for text in ax.texts]
    assert texts[:6] == [f"image {i}" for i in range(6)] and texts[6] == "second"
    height, width = ax.images[0].get_array().shape[:2]
    assert height >= 2 * 16 and width >= 6 * 16
    assert len(ax.collections) == 12 and ax.get_legend().get_texts()[0].get_text() == "lungs"
    few = widgets.browse_heatmaps(model, sample_images[:2], ["a", "b"], CLASSES, ["first"], ["paper"], {})
    assert [text.get_text() for text in few.texts] == ["a", "b"]


def test_live_it_has_a_slider_and_two_menus_that_draw(model, sample_images, monkeypatch):
    drawn = []
    monkeypatch.setattr(widgets, "is_live", lambda: True)
    masks = []
    monkeypatch.setattr(
        widgets,
        "heat_figure",
        lambda image, heat, title, **outlined: drawn.append((image, heat, title)) or masks.append(outlined),
    )
    titles, lungs = [f"image {i}" for i in range(9)], {"lungs": sample_images > 127}
    found = widgets.browse_heatmaps(
        model, sample_images, titles, CLASSES, ["first", "second"], ["paper", "layercam"], lungs
    )
    slider, layer, style, explained, outlined = found.children[:5]
    assert style.options == ("paper", "layercam")
    assert isinstance(found, ipywidgets.Widget) and slider.max == 8
    assert layer.options == ("first", "second") and explained.options == ("as predicted", *CLASSES)
    found.update()
    del drawn[:-1]
    for change in ((slider, 8), (layer, "second"), (explained, CLASSES[0]), (explained, CLASSES[1])):
        change[0].value = change[1]
    assert [title for _, _, title in drawn] == ["image 0"] + ["image 8"] * 4
    assert (drawn[1][0] == sample_images[8]).all() and not np.allclose(drawn[1][1], drawn[2][1])
    assert not np.allclose(drawn[3][1], drawn[4][1])  # the classes differ
    assert any(np.allclose(drawn[2][1], heat) for _, heat, _ in drawn[3:])  # and one of them is the predicted one
    assert (masks[-1]["lungs"] == (sample_images[8] > 127)).all()
    outlined.value = False
    assert masks[-1] == {}
    style.value = "layercam"
    assert not np.allclose(drawn[-1][1], drawn[-2][1])


def test_augmentations_headless_and_live(sample_images, monkeypatch):
    drawn = []
    ax = widgets.browse_augmentations(sample_images, "anatomical")
    assert [text.get_text() for text in ax.texts] == ["original"] + ["the whole policy"] * 5
    monkeypatch.setattr(widgets, "is_live", lambda: True)
    monkeypatch.setattr(widgets, "image_grid", lambda shown, titles: drawn.append((shown, titles)))
    found = widgets.browse_augmentations(sample_images, "anatomical", seed=3)
    image, step, seed = found.children[:3]
    assert image.max == 8 and seed.value == 3 and step.options[:2] == ("the whole policy", "rotation")
    for change in ((image, 8), (step, "gamma"), (seed, 4)):
        change[0].value = change[1]
    assert all((shown[0] == sample_images[8]).all() for shown, _ in drawn[-3:])
    assert drawn[-1][1] == ["original"] + ["gamma"] * 5
    assert (drawn[-1][0][1:] != drawn[-2][0][1:]).any()  # another seed, other changes


@pytest.fixture
def predictions():
    rows = [
        {"label": CLASSES[i % 2], "predicted": CLASSES[0], "confidence": 0.5 + i / 100, "source": "ab"[i % 3 == 0]}
        for i in range(30)
    ]
    table = pd.DataFrame(rows, index=range(100, 130))  # rows of a larger table keep their numbers
    return table.assign(correct=table.label == table.predicted)


def test_predictions_headless_are_the_most_confident_mistakes(predictions):
    sample_images = np.random.default_rng(0).integers(0, 256, (30, 16, 16), np.uint8)
    titles = [text.get_text() for text in widgets.browse_predictions(sample_images, predictions).texts]
    assert titles[:2] == ["COVID-19\n→ Normal 0.79", "COVID-19\n→ Normal 0.77"] and len(titles) == 12
    assert widgets.browse_predictions(sample_images[:1], predictions[:1]) is None


def test_predictions_live_are_filtered_and_paged(predictions, monkeypatch):
    drawn = []
    sample_images = np.random.default_rng(0).integers(0, 256, (30, 16, 16), np.uint8)
    monkeypatch.setattr(widgets, "is_live", lambda: True)
    monkeypatch.setattr(widgets, "image_grid", lambda shown, titles: drawn.append((shown, titles)))
    found = widgets.browse_predictions(sample_images, predictions)
    outcome, label, source, page = found.children[:4]
    assert label.options == ("all", *CLASSES) and source.options == ("all", "b", "a") and (page.min, page.max) == (1, 2)
    page.value = 2
    assert len(drawn[-1][0]) == 3  # 15 mistakes, 12 a page
    source.value = "b"
    assert (page.value, page.max) == (1, 1) and (drawn[-1][0][0] == sample_images[27]).all()
    outcome.value = "correct"
    assert all(title.startswith("Normal") for title in drawn[-1][1])
    before = len(drawn)
    label.value = CLASSES[1]
    assert len(drawn) == before and page.max == 1  # none predicted: no figure


def test_an_unknown_layer_is_named_at_once(model, sample_images):
    with pytest.raises(CovidxrError, match="'third' not found.*first, second"):
        widgets.browse_heatmaps(model, sample_images, [""] * 9, CLASSES, ["first", "third"], ["paper"], {})


def test_a_kernel_knows_whether_it_is_interactive():
    manager, client = start_new_kernel(cwd=str(Path(__file__).parents[1]))
    printed = []
    try:
        for allow_stdin in (False, True):  # as papermill asks, and as a front end for people does
            client.execute_interactive(
                "from covidxr.widgets import is_live; print(is_live())", timeout=120, allow_stdin=allow_stdin,
                output_hook=lambda message: printed.append(message["content"].get("text", "").strip()),
            )  # fmt: skip
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert [text for text in printed if text] == ["False", "True"]
