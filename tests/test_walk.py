"""The whole walk, small: all seven notebooks on a few phantoms, then again with nothing changed; and a user's mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidxr.data.dataset import load_dataset
from covidxr.data.phantom import make_phantom
from covidxr.run.plan import read_notebooks

ROOT = Path(__file__).parents[1]
SMALL = {
    "per_class": 16, "epochs": 1, "head_epochs": 5, "lr_range_test_steps": 3, "baseline_epochs": 2, "warmup_epochs": 1,
    "weights": "random", "image_size": 48, "n_compared": 1, "n_sanity": 4, "n_curves": 2, "n_untrained": 1,
    "n_shuffled": 20, "score_channels": 4,
}  # fmt: skip


# Notes each file that a kernel opens: Python runs a module of this name at its start.
NOTES = """import os, sys
if "ipykernel_launcher" in " ".join(sys.orig_argv):
    log = os.open(os.environ["OPENED_FILES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    def note(event, arguments):
        if event == "open" and isinstance(arguments[0], str):
            os.write(log, f"{os.getpid()}\\t{arguments[1]}\\t{os.path.abspath(arguments[0])}\\n".encode())
    sys.addaudithook(note)"""


def walk(run_dir, profile="demo", *more, environment=None, **parameters):
    """Run the command line as a user does."""
    typed = [word for name, value in parameters.items() for word in ("-p", name, json.dumps(value))]
    command = [sys.executable, "-m", "covidxr.run", profile, "--run-dir", str(run_dir), *more, *typed]
    environment = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1200, env=environment)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run folder of a small demo."""
    place = tmp_path_factory.mktemp("walk")
    (place / "sitecustomize.py").write_text(NOTES, encoding="utf-8")
    run_dir, before = place / "run", os.environ.get("PYTHONPATH", "")
    noting = {"PYTHONPATH": os.pathsep.join([str(place), before]), "OPENED_FILES": str(place / "opened.txt")}
    done = walk(run_dir, environment=noting, **SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return run_dir


def test_leaves_everything_behind(finished):
    files = {path.name for path in finished.iterdir()}
    assert {"manifest.csv", "pixels.npz", "model.keras", "history.csv", "predictions.csv", "metrics.json"} <= files
    assert {"index.html", "run.json", "external_predictions.csv"} <= files
    assert len(list((finished / "notebooks").glob("*.html"))) == 7
    assert len(list((finished / "figures").glob("*.png"))) >= 15
    test_images = (pd.read_csv(finished / "predictions.csv").split == "test").sum()
    assert len(list((finished / "gallery").glob("*.jpg"))) == test_images
    assert (finished / "index.html").read_text(encoding="utf-8").count("<li data-label=") == test_images


def test_metrics_hold_every_chapter_with_its_yardstick(finished):
    metrics = json.loads((finished / "metrics.json").read_text(encoding="utf-8"))
    accuracy = metrics["test"]["accuracy"]
    assert metrics["version"] == 2 and accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert metrics["test"]["n"] == (pd.read_csv(finished / "predictions.csv").split == "test").sum()
    assert all({"value", "low", "high"} <= set(baseline) for baseline in metrics["baselines"].values())
    assert {"heat_in_lungs", "chance", "untrained"} <= set(metrics["grad_cam"])
    assert all({"value", "low", "high", "chance", "conclusion"} <= set(probe) for probe in metrics["audit"].values())
    assert metrics["external"]["phantom-county"]["n"] > 0
    assert metrics["model"]["weights"] == "random"


def test_notebooks_say_what_this_run_computed(finished):
    metrics = json.loads((finished / "metrics.json").read_text(encoding="utf-8"))
    cells = nbformat.read(finished / "notebooks" / "04_classification_report.ipynb", 4).cells
    said = " ".join(output.get("text", "") for cell in cells if cell.cell_type == "code" for output in cell.outputs)
    assert f"Test accuracy {metrics['test']['accuracy']['value']:.2f}" in said


def test_no_chatter_in_the_notebooks(finished):
    for path in (finished / "notebooks").glob("*.ipynb"):
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        errors = [o.text for cell in cells for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"]
        assert not re.search("cudart|oneDNN|Warning", " ".join(errors)), path.name


def test_again_with_nothing_changed_runs_nothing(finished):
    before = (finished / "model.keras").stat().st_mtime_ns
    again = walk(finished, **SMALL)
    assert again.returncode == 0 and again.stdout.count("unchanged") == 7
    assert (finished / "model.keras").stat().st_mtime_ns == before


def test_each_notebook_reads_what_it_declares_and_no_more(finished):
    """But for metrics.json, which every notebook reads to add to it, and the record, which the reports quote."""
    entries = json.loads((finished / "run.json").read_text(encoding="utf-8"))["notebooks"]
    lines = [line.split("\t") for line in (finished.parent / "opened.txt").read_text(encoding="utf-8").splitlines()]
    kernels = list(dict.fromkeys(kernel for kernel, _, _ in lines))
    assert len(kernels) == len(entries) == 7
    for step, kernel in zip(read_notebooks(), kernels, strict=False):
        opened = {Path(path) for number, mode, path in lines if number == kernel and not set("wxa+") & set(mode)}
        inside = {path.relative_to(finished).as_posix() for path in opened if path.is_relative_to(finished)}
        earlier = {name for stem, entry in entries.items() if stem < step.stem for name in entry["outputs"]}
        declared = [name.rstrip("?") for name in step.reads]
        needed = {name for name in step.reads if not name.endswith("?")}
        read = inside & earlier
        assert {name for name in read if not name.startswith(tuple(declared))} == set(), step.stem
        assert needed <= read, step.stem
        assert set(step.writes) <= set(entries[step.stem]["outputs"])


def test_damage_is_mended_by_the_same_command_and_ends_with_the_same_numbers(finished, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "model.keras").write_bytes(np.random.default_rng(0).bytes(10_000))
    (run_dir / "metrics.json").write_text('{"test":', encoding="utf-8")
    (run_dir / "predictions.csv").unlink()
    (run_dir / "notebooks" / "02_augmentation_preview.html").write_bytes(b"")
    again = walk(run_dir, **SMALL)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "metrics.json was damaged; its numbers were restored from run.json" in again.stdout
    for number, what in {"02": "html is damaged", "03": "model.keras is damaged", "04": "csv is missing"}.items():
        assert re.search(rf"{number}_\w+ … runs again: .*{what}", again.stdout)
    assert again.stdout.count("unchanged") == 4
    numbers = [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in (finished, run_dir)]
    assert numbers[0] == numbers[1]


def test_a_moved_folder_keeps_its_masks_and_runs_nothing(finished, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    assert load_dataset(moved).manifest.lung_mask.str.startswith(str(moved)).all()
    assert walk(moved, **SMALL).stdout.count("unchanged") == 7


def test_another_split_under_the_same_network_is_refused(finished, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    assert walk(run_dir, "demo", "--only", "01", **SMALL, seed=1).returncode == 0
    refused = walk(run_dir, "demo", "--only", "04", **SMALL, seed=1)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert re.search(
        "was made (from|with) .*; run notebook 03_fine_tuning first|or run notebook 03_fine_tuning first",
        refused.stderr,
    )


def test_a_notebook_before_its_time_names_the_one_to_run_first(tmp_path):
    assert "holds no manifest.csv; run notebook 01_dataset_assembly first" in mistake(
        tmp_path, ["demo", "--only", "05"]
    )


def test_a_network_of_ones_own_is_audited_without_notebook_03(finished, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("manifest.csv", "pixels.npz", "rejected.csv", "model.keras"):
        shutil.copy(finished / name, run_dir / name)
    shutil.copytree(finished / "phantoms", run_dir / "phantoms")
    done = walk(run_dir, "demo", "--only", "06", **SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    html = (run_dir / "notebooks" / "06_shortcut_audit.html").read_text(encoding="utf-8")
    assert "There is no features.npz of notebook 03" in html


def test_same_seed_gives_the_same_numbers(finished, tmp_path):
    second = tmp_path / "second"
    for number in ("01", "03", "04"):
        assert walk(second, "demo", "--only", number, **SMALL).returncode == 0
    first_history, again = pd.read_csv(finished / "history.csv"), pd.read_csv(second / "history.csv")
    pd.testing.assert_frame_equal(first_history, again)
    columns = ["image_id", "label", "split", "sha256"]
    manifests = [pd.read_csv(run / "manifest.csv")[columns] for run in (finished, second)]
    pd.testing.assert_frame_equal(*manifests)
    metrics = [json.loads((run / "metrics.json").read_text(encoding="utf-8")) for run in (finished, second)]
    assert metrics[0]["test"] == metrics[1]["test"] and metrics[0]["baselines"] == metrics[1]["baselines"]


def mistake(tmp_path, arguments, **parameters):
    done = walk(tmp_path / "run", *arguments, **{**SMALL, **parameters})
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "parameters", "said"),
    [
        (["dmeo"], {}, "unknown profile 'dmeo'"),
        (["demo"], {"epchs": 2}, "epochs"),
        (["article"], {}, "no data folder was named"),
        (["article", "--data-dir", "tests/data"], {}, "get the data from"),
        (["demo"], {"sources": ["kagle"]}, "unknown source 'kagle'; available: phantom"),
    ],
)
def test_mistakes_end_with_one_sentence(tmp_path, arguments, parameters, said):
    assert said in mistake(tmp_path, arguments, **parameters)


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no images" in mistake(tmp_path, ["demo"], sources=[str(tmp_path / "empty")])


def test_a_class_of_three_images_and_an_unreadable_one_are_counted(tmp_path):
    for label, count in {"Normal": 3, "COVID-19": 3, "Bacteria": 3}.items():
        (tmp_path / "few" / label).mkdir(parents=True)
        for number in range(count):
            image = make_phantom(label, np.random.default_rng([number, len(label)]), size=64).image
            Image.fromarray(image).save(tmp_path / "few" / label / f"{number}.png")
    (tmp_path / "few" / "Normal" / "broken.png").write_text("no image")
    said = mistake(tmp_path, ["demo"], sources=[str(tmp_path / "few")])
    assert "'Normal' has 3 readable images of 4 found, 16 are asked for" in said and "broken.png" in said


@pytest.mark.parametrize(
    ("number", "parameters", "said"),
    [
        ("05", {"layer": "block9_conv1"}, "block5_conv3"),
        ("03", {"weights": "no-such-file.h5"}, "no weights file"),
        ("07", {"external": ["no-such.csv"]}, "no such file"),
    ],
)
def test_a_failed_notebook_leaves_the_run_usable(finished, tmp_path, number, parameters, said):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    done = walk(run_dir, "demo", "--only", number, **{**SMALL, **parameters})
    assert done.returncode == 1 and said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    assert (run_dir / "model.keras").exists()


def test_an_ablation_on_top_of_a_run(finished, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    variants = {"reference": {}, "one-cycle": {"schedule": "one-cycle"}}
    done = walk(run_dir, "demo", "--only", "08", **SMALL, variants=variants, folds=2)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))["ablation"]
    assert set(found["variants"]) == set(variants) and found["variants"]["one-cycle"]["n"] == 48
    assert {"accuracy", "chance", "difference", "verdict"} <= set(found["variants"]["one-cycle"])
    assert {"value", "low", "high"} <= set(found["variants"]["one-cycle"]["accuracy"])
    assert len(list((run_dir / "ablation").glob("*/*/model.keras"))) == 4
    assert "08_ablation_study.png" in (run_dir / "index.html").read_text(encoding="utf-8")
    said = [
        o
        for cell in nbformat.read(run_dir / "notebooks" / "08_ablation_study.ipynb", 4).cells
        for o in cell.get("outputs", [])
    ]
    assert not any(o.output_type == "stream" and o.name == "stderr" for o in said)
    assert "significant" in str(said)
    before = [path.stat().st_mtime_ns for path in (run_dir / "ablation").rglob("task.json")]
    assert walk(run_dir, "demo", "--only", "08", **SMALL, variants=variants, folds=2).returncode == 0
    assert [path.stat().st_mtime_ns for path in (run_dir / "ablation").rglob("task.json")] == before


@pytest.mark.realdata
def test_the_article_walks_on_real_radiographs(shared, tmp_path):
    small = {
        **SMALL,
        "per_class": 30,
        "image_size": 48,
        "test_share": 0.3,
        "weights": str(shared / "weights" / "vgg16_notop.h5"),
    }
    small["lung_masks"] = str(shared / "data" / "lung-bounding-boxes" / "annotations.json")
    done = walk(tmp_path / "run", "article", "--data-dir", str(shared / "data"), **small)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["audit"]["source from 8×8 pixels"]["value"] > 0.8  # class and source are the same thing there
    assert set(metrics["external"]) == {"darkcovidnet", "figure1"}
    assert metrics["grad_cam"]["heat_in_lungs"]["n"] > 0


@pytest.mark.realdata
def test_mitigated_network_is_validated_externally_after_refitting_on_all_images(shared, tmp_path):
    run_dir, few = tmp_path / "run", {"per_class": 40, "image_size": 64, "external": ["figure1"]}
    few |= {"sources": ["covid-chestxray", "kaggle-chest-xray"], "lr_range_test_steps": 0}
    few["weights"] = str(shared / "weights" / "vgg16_notop.h5")
    for number in ("01", "03", "07"):
        done = walk(run_dir, "mitigated", "--only", number, "--data-dir", str(shared / "data"), **few)
        assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    before, after = metrics["external"]["figure1"], metrics["refitted"]["figure1"]
    assert after["n"] == before["n"] > 30 and "operating_point" not in after
    tables = [pd.read_csv(run_dir / f"{name}_predictions.csv") for name in ("external", "refitted")]
    images = tables[0][tables[0].source == "figure1"].reset_index(drop=True)
    assert images.image_id.equals(tables[1].image_id) and not np.allclose(images["p_COVID-19"], tables[1]["p_COVID-19"])
