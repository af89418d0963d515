"""Every recipe of docs/helpers.md, run as it stands there, on a few small films and for a single epoch."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidxr import assemble, evaluate, prediction_table, save_run, split_manifest
from covidxr.augment import POLICIES
from covidxr.files import write_csv
from covidxr.sources import SOURCES, make_phantom

TEXT = (Path(__file__).parents[1] / "docs" / "helpers.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (\d+)\. .*?```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE))
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
RECIPES["README"] = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1].replace("64", "32")
SIDE, CLASSES = 32, ["Normal", "COVID-19", "Bacteria"]


def small_network(layer):
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((SIDE, SIDE, 3)), keras.layers.Conv2D(4, 3, name=layer, activation="relu"),
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax"),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the recipes read: a finished run, films by class, a hospital's table, a model."""
    place = tmp_path_factory.mktemp("recipes")
    run = place / "runs" / "demo"
    made = assemble(per_class=16, image_size=SIDE, work_dir=run)
    made = made._replace(manifest=split_manifest(made.manifest))
    save_run(run, made)
    model = small_network("block5_conv3")
    model.save(run / "model.keras")
    write_csv(run / "predictions.csv", prediction_table(made.manifest, evaluate.predict(model, made.pixels), CLASSES))
    small_network("last_conv").save(place / "my_model.keras")
    rng, rows = np.random.default_rng(0), []
    for label in CLASSES[:2]:
        (place / "films" / label).mkdir(parents=True)
        for number in range(6):
            path = f"films/{label}/{label[0]}{number:04d}.png"
            Image.fromarray(make_phantom(label, rng, 64).image).save(place / path)
            rows.append({"path": path, "label": label, "patient_id": f"p{number}", "age": 40 + number})
    for name in ("hospital.csv", "films.csv"):
        write_csv(place / name, pd.DataFrame(rows))
    return place


@pytest.fixture
def cook(place, monkeypatch):
    """Run a recipe and return the names it leaves."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(matplotlib.pyplot, "show", lambda: pytest.fail("a recipe needs no show()"))
    for table in (SOURCES, POLICIES):
        for key, value in list(table.items()):
            monkeypatch.setitem(table, key, value)

    def cooking(number):
        left = {}
        exec(compile(RECIPES[number].replace("epochs=10", "epochs=1"), f"recipe {number}", "exec"), left)
        return left

    yield cooking
    matplotlib.pyplot.close("all")
    SOURCES.pop("clinic", None)
    POLICIES.pop("portable", None)


def test_they_are_numbered_and_of_under_fifteen_lines():
    assert list(RECIPES) == [*(str(number) for number in range(1, 11)), "README"]
    assert all(len([line for line in code.splitlines() if line.strip()]) < 15 for code in RECIPES.values())


def test_what_the_readme_shows(cook, capsys):
    left = cook("README")
    assert "class from the corners" in left["report"].table.index
    assert left["maps"].shape == (6, SIDE, SIDE)


def test_own_images_in_a_folder(cook, capsys):
    left = cook("1")
    assert left["films"].pixels.shape == (12, 100, 100) and left["films"].rejected.empty
    assert "class from 4×4 pixels" in left["report"].table.index


def test_a_hospitals_table_as_external_test(cook, capsys):
    left = cook("2")
    assert left["numbers"]["n"] == 12 and set(left["numbers"]["called"]) == {"Normal", "COVID-19"}
    assert "12 films, sensitivity" in capsys.readouterr().out


def test_own_model_explained_and_audited(cook):
    left = cook("3")
    assert left["maps"].shape == (8, SIDE, SIDE) and left["maps"].max() > 0
    assert left["report"].table.index.str.startswith("the network").any()


def test_a_new_augmentation_policy(cook):
    left = cook("4")
    assert left["changed"].shape == left["films"].shape and (left["changed"] != left["films"]).any()


def test_a_new_source(cook):
    manifest = cook("5")["films"].manifest
    assert set(manifest.source) == {"clinic"} and set(manifest.license) == {"with permission of the clinic"}
    assert len(manifest) == 12 and manifest.patient_id.str.startswith(("N", "C")).all()


def test_four_classes(cook, place):
    left = cook("6")
    assert left["model"].output_shape == (None, 4) and len(left["history"]) == 1
    assert (place / "four" / "model.keras").exists()


def test_a_new_backbone(cook, place):
    left = cook("7")
    assert np.isfinite(left["history"].val_loss).all()
    assert keras.saving.load_model(place / "runs" / "small" / "model.keras").output_shape == (None, 3)
    assert (place / "runs" / "small" / "manifest.csv").exists()


def test_a_heatmap_for_a_paper(cook, place):
    left = cook("8")
    assert (place / "heatmap.pdf").read_bytes().startswith(b"%PDF")
    assert left["lungs"].any() and left["title"].startswith("true: ")


def test_a_runs_predictions(cook, capsys):
    left = cook("9")
    assert re.match(r"phantom: [01]\.\d\d \([01]\.\d\d to [01]\.\d\d\) of \d+ films", capsys.readouterr().out)
    assert not left["test"].empty


def test_a_sweep_on_a_cluster(cook, place):
    left = cook("10")
    assert left["summary"].index.tolist() == ["reference", "all blocks"] and (left["summary"].n == 48).all()
    assert len(list((place / "runs" / "demo" / "sweep").glob("*/*/task.json"))) == 4
