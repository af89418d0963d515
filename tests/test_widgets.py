"""The slider in a live notebook, and the grid that stands in for it where nobody can move it."""

from __future__ import annotations

from pathlib import Path

import ipywidgets
import keras
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from jupyter_client.manager import start_new_kernel  # noqa: E402
from keras import layers  # noqa: E402

from covidxr import widgets  # noqa: E402
from covidxr.errors import CovidxrError  # noqa: E402

CLASSES = ["Normal", "COVID-19"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((16, 16, 3)), layers.Conv2D(4, 3, name="first"), layers.Conv2D(4, 3, name="second"),
        layers.GlobalAveragePooling2D(), layers.Dense(2, activation="softmax"),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def films():
    return np.random.default_rng(0).integers(0, 256, (9, 16, 16), np.uint8)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_headless_it_is_a_grid_of_films_by_layers(model, films):
    ax = widgets.browse(model, films, [f"film {i}" for i in range(9)], ["first", "second"], CLASSES)
    texts = [text.get_text() for text in ax.texts]
    assert texts[:6] == [f"film {i}" for i in range(6)] and texts[6] == "second"
    height, width = ax.images[0].get_array().shape[:2]
    assert height >= 2 * 16 and width >= 6 * 16
    few = widgets.browse(model, films[:2], ["a", "b"], ["first"], CLASSES)
    assert [text.get_text() for text in few.texts] == ["a", "b"]


def test_live_it_has_a_slider_and_two_menus_that_draw(model, films, monkeypatch):
    drawn = []
    monkeypatch.setattr(widgets, "is_live", lambda: True)
    monkeypatch.setattr(widgets, "heat_figure", lambda film, heat, title: drawn.append((film, heat, title)))
    found = widgets.browse(model, films, [f"film {i}" for i in range(9)], ["first", "second"], CLASSES)
    slider, layer, explained = found.children[:3]
    assert isinstance(found, ipywidgets.Widget) and slider.max == 8
    assert layer.options == ("first", "second") and explained.options == ("as predicted", *CLASSES)
    found.update()
    del drawn[:-1]
    for change in ((slider, 8), (layer, "second"), (explained, CLASSES[0]), (explained, CLASSES[1])):
        change[0].value = change[1]
    assert [title for _, _, title in drawn] == ["film 0"] + ["film 8"] * 4
    assert (drawn[1][0] == films[8]).all() and not np.allclose(drawn[1][1], drawn[2][1])
    assert not np.allclose(drawn[3][1], drawn[4][1])  # the classes differ
    assert any(np.allclose(drawn[2][1], heat) for _, heat, _ in drawn[3:])  # and one of them is the predicted one


def test_an_unknown_layer_is_named_at_once(model, films):
    with pytest.raises(CovidxrError, match="'third' not found.*first, second"):
        widgets.browse(model, films, [""] * 9, ["first", "third"], CLASSES)


def test_a_kernel_knows_whether_anybody_can_answer():
    manager, client = start_new_kernel(cwd=str(Path(__file__).parents[1]))
    answers = []
    try:
        for allow_stdin in (False, True):  # as papermill asks, and as a front end for people does
            client.execute_interactive(
                "from covidxr.widgets import is_live; print(is_live())", timeout=120, allow_stdin=allow_stdin,
                output_hook=lambda message: answers.append(message["content"].get("text", "").strip()),
            )  # fmt: skip
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert [answer for answer in answers if answer] == ["False", "True"]
