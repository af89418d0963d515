"""Every recipe of docs/helpers.md and the README's example, run as they stand; every link between documents."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from covidxr.augmentation import POLICIES
from covidxr.data.dataset import build_dataset, save_dataset
from covidxr.data.sources import SOURCES
from covidxr.data.splits import split_manifest
from covidxr.model.networks import build_vgg16

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
HELPERS = (ROOT / "docs" / "helpers.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (\d+)\. .*?```python\n(.*?)```", HELPERS, re.DOTALL | re.MULTILINE))
RECIPES["README"] = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]


@pytest.fixture
def run_recipe(tmp_path, monkeypatch):
    """Run a recipe in an empty folder and return the names it defines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matplotlib.pyplot, "show", lambda: pytest.fail("a recipe needs no show()"))

    def run(name):
        names = {}
        exec(compile(RECIPES[name], f"recipe {name}", "exec"), names)
        return names

    yield run
    matplotlib.pyplot.close("all")
    SOURCES.pop("clinic", None)
    POLICIES.pop("portable", None)


def test_recipes_are_numbered_and_short():
    assert list(RECIPES) == [*(str(number) for number in range(1, 12)), "README"]
    assert all(len([line for line in code.splitlines() if line.strip()]) <= 22 for code in RECIPES.values())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_resolve(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (document.parent / link).exists()]
    assert not missing


def test_readme_has_at_most_900_words():
    assert len(README.split()) <= 900


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_documents_say_that_the_images_of_the_demo_are_synthetic(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "drawn by a program, of no patient and from no hospital" in text


def test_readme_example(run_recipe, tmp_path, capsys):
    run = tmp_path / "runs" / "demo"
    dataset = build_dataset(per_class=12, image_size=64, work_dir=run)
    save_dataset(run, dataset._replace(manifest=split_manifest(dataset.manifest)))
    build_vgg16(image_size=64).save(run / "model.keras")
    names = run_recipe("README")
    assert "class from the corners" in capsys.readouterr().out
    assert names["heatmaps"].shape == (120, 64, 64) and names["heatmaps"].dtype == np.float32


def test_audit_of_own_images_reports_the_marker(run_recipe):
    names = run_recipe("1")
    assert len(names["dataset"].images) == 80 and names["dataset"].rejected.empty
    assert names["report"].table.loc["class from the corners, lungs masked", "shortcut"]


def test_external_validation_is_above_chance(run_recipe, capsys):
    names = run_recipe("2")
    assert names["metrics"]["n"] == 80 and names["metrics"]["auc"].low > 0.5
    assert "95 % CI" in capsys.readouterr().out


def test_own_model_is_explained_and_audited(run_recipe):
    names = run_recipe("3")
    assert names["heatmaps"].shape == (8, 64, 64) and names["heatmaps"].max() > 0
    table = names["shortcut_audit"](names["dataset"], names["model"]).table
    network = table[table.index.str.startswith("the network")]
    assert not network.empty and (network.low > network.chance).any()


def test_new_augmentation_policy(run_recipe):
    names = run_recipe("4")
    assert names["augmented"].shape == names["images"].shape and (names["augmented"] != names["images"]).any()


def test_new_source(run_recipe):
    manifest = run_recipe("5")["dataset"].manifest
    assert set(manifest.source) == {"clinic"} and set(manifest.license) == {"with permission of the clinic"}
    assert len(manifest) == 16 and manifest.patient_id.nunique() < 16


def test_four_classes_are_predicted_above_chance(run_recipe):
    names = run_recipe("6")
    assert names["model"].output_shape == (None, 4) and names["accuracy"] > 0.4
    assert (Path(names["run"]) / "model.keras").exists()


def test_new_backbone_learns(run_recipe):
    names = run_recipe("7")
    assert names["history"].val_accuracy.max() > 0.6
    assert (Path(names["run"]) / "manifest.csv").exists() and (Path(names["run"]) / "model.keras").exists()


def test_heatmap_for_a_paper(run_recipe, tmp_path):
    names = run_recipe("8")
    assert (tmp_path / "heatmap.pdf").read_bytes().startswith(b"%PDF") and "true: COVID-19" in names["title"]


def test_confidence_interval_for_any_classifier(run_recipe, capsys):
    names = run_recipe("9")
    assert names["accuracy"].low > 0.5
    assert re.match(r"accuracy 0\.\d\d \(95 % CI 0\.\d\d–[01]\.\d\d\)", capsys.readouterr().out)


def test_ablation_on_a_cluster(run_recipe):
    summary = run_recipe("10")["summary"]
    assert isinstance(summary, pd.DataFrame) and summary.index.tolist() == ["reference", "lower learning rate"]
    assert (summary.n == 160).all() and summary.accuracy_low["reference"] > 0.5


def test_own_probe_appears_in_the_audit(run_recipe):
    from covidxr.audit.probes import PROBES

    probe = run_recipe("11")["report"].table.loc["class from the mean brightness"]
    del PROBES["mean_brightness"]
    assert probe.low > probe.chance
