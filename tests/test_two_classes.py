"""Notebooks 06 and 07 on classes of one's own: they end, with a positive class or without, and say what they left out."""

from __future__ import annotations

import json
import shutil

import nbformat
import pytest
from test_notebooks import ROOT

from covidxr.dataset import assemble, save_run, split_manifest
from covidxr.early import build_early, fit_softmax
from covidxr.errors import CovidxrError
from covidxr.files import read_json
from covidxr.frozen import save_features
from covidxr.probe import features
from covidxr.sources import SOURCES

CLASSES = ["Healthy", "TB"]


def phantom_table(folder, name, labels, per_class, seed):
    """A CSV of phantoms under other labels, from three hospitals."""
    rows = SOURCES["phantom"](folder / name, classes=["Normal", "Bacteria"], per_class=per_class, size=32, seed=seed)
    rows = rows.assign(label=rows.label.map(labels), source=[f"{name} {'abc'[i % 3]}" for i in range(len(rows))])
    rows[["path", "label", "patient_id", "source"]].to_csv(folder / f"{name}.csv", index=False)
    return str(folder / f"{name}.csv")


def run_notebook(name, **parameters):
    """Run a notebook's cells in this process, and return what they leave and print."""
    [path] = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    space = {}
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, space)
            space |= parameters if "parameters" in cell.metadata.get("tags", []) else {}
    return space


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two classes as the notebooks before 06 leave it, and two external sets, one with labels spelt otherwise."""
    folder = tmp_path_factory.mktemp("tb")
    ours = phantom_table(folder, "ours", {"Normal": "Healthy", "Bacteria": "TB"}, 30, 0)
    made = assemble([ours], classes=CLASSES, per_class=None, image_size=32, work_dir=folder)
    manifest = split_manifest(made.manifest, test=0.3, validation=0.2)
    save_run(folder / "run", made._replace(manifest=manifest))
    model = build_early(32, 2)
    train = (manifest.split == "train").to_numpy()
    fit_softmax(model, made.pixels[train], manifest[train], CLASSES)
    model.save(folder / "run" / "model.keras")
    save_features(folder / "run", manifest, features(model, made.pixels))
    north = phantom_table(folder, "north", {"Normal": "Healthy", "Bacteria": "TB"}, 12, 1)
    south = phantom_table(folder, "south", {"Normal": "well", "Bacteria": "tuberculosis"}, 12, 2)
    return folder / "run", [north, south]


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, so that no test sees what another one left."""
    shutil.copytree(finished[0], tmp_path / "run")
    return {"run_dir": str(tmp_path / "run"), "weights": "random"}, finished[1]


def figures(given):
    return {path.stem for path in (ROOT / given["run_dir"] / "figures").glob("*.png")}


def test_a_run_on_classes_of_its_own_ends_with_the_positive_class_that_is_named(run, capsys):
    given, sets = run
    run_notebook("06", **given, unseen=sets, positive="TB")
    run_notebook("07", **given, external=sets, positive="TB")
    said, metrics = capsys.readouterr().out, read_json(f"{given['run_dir']}/metrics.json")
    assert said.count("The positive class is TB, against Healthy.") == 2 and "COVID" not in said
    assert "COVID" not in json.dumps(metrics) and metrics["positive"] == "TB"
    assert len(metrics["left_out"]) == 3 and len(metrics["steps"]) >= 5 and metrics["settings"]["threshold"] > 0
    assert "sureness about TB in north a, never seen" in metrics["audit"]
    assert metrics["external"]["north"]["n"] == 24 and metrics["external"]["north"]["sensitivity"] is not None
    assert {"06_reliability", "06_selective", "06_steps", "07_reliability", "07_other_hospitals"} <= figures(given)


def test_labels_that_the_network_does_not_have_give_no_number_and_are_named(run, capsys):
    given, sets = run
    run_notebook("07", **given, external=sets, positive="TB")
    said, south = capsys.readouterr().out, read_json(f"{given['run_dir']}/metrics.json")["external"]["south"]
    assert "Labels that are no class of the network: well (12), tuberculosis (12); `label_map` renames labels." in said
    assert "so these may be it, and they count in no number" in said
    assert south["sensitivity"] is south["specificity"] is south["auc"] is south["calibration_error"] is None
    assert south["unknown_labels"] == {"well": 12, "tuberculosis": 12} and south["uncounted"] == 24
    run_notebook("07", **given, external=sets, positive="TB", label_map={"well": "Healthy", "tuberculosis": "TB"})
    south = read_json(f"{given['run_dir']}/metrics.json")["external"]["south"]
    assert south["specificity"] is not None and south["unknown_labels"] == {} and south["uncounted"] == 0


def test_a_run_without_a_positive_class_ends_and_says_what_it_left_out(run, capsys):
    given, sets = run
    run_notebook("06", **given, unseen=sets, together=["ours a"])
    run_notebook("07", **given, external=sets)
    said, metrics = capsys.readouterr().out, read_json(f"{given['run_dir']}/metrics.json")
    assert said.count("The run has no class COVID-19 and no other was named") == 2
    assert said.count("`positive` names one of its classes: Healthy, TB.") == 2
    assert metrics["positive"] is None and metrics["left_out"] == metrics["steps"] == metrics["settings"] == {}
    assert metrics["audit"] and metrics["external"]["north"]["sensitivity"] is None
    assert 0 <= metrics["external"]["north"]["accuracy"] <= 1 and "south, 24 films: no number" in said
    assert "06_audit" in figures(given) and "07_reliability" not in figures(given)


@pytest.mark.parametrize("positive", [None, "TB"])
def test_without_an_external_set_there_is_nothing_that_fails(positive, run):
    given, _ = run
    run_notebook("07", **given, external=[], positive=positive)
    metrics = read_json(f"{given['run_dir']}/metrics.json")
    assert metrics["external"] == {} and (metrics["internal"]["sensitivity"] is None) == (positive is None)


@pytest.mark.parametrize("name", ["06", "07"])
def test_a_positive_class_that_is_none_of_the_run_s_is_a_sentence_before_anything_is_computed(name, run, monkeypatch):
    given, _ = run
    monkeypatch.setattr("covidxr.train.read_model", lambda *args: pytest.fail("computed first"))
    with pytest.raises(CovidxrError, match="unknown class as `positive`: 'COVID-19'; available: Healthy, TB"):
        run_notebook(name, **given, positive="COVID-19")


@pytest.mark.parametrize(("name", "parameter"), [("06", "unseen"), ("07", "external")])
def test_phantoms_that_cannot_be_drawn_of_the_run_s_classes_are_a_sentence(name, parameter, run):
    given, _ = run
    with pytest.raises(CovidxrError, match=f"no phantoms are drawn of the run's class 'Healthy'.*`{parameter}`"):
        run_notebook(name, **given, positive="TB", **{parameter: ["phantom"]})
