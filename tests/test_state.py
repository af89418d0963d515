"""Damaged, changed or mismatched files of a run folder are detected, named and repaired."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_notebooks import execute_here, make_table, make_walk, write_notebook

from covidxr.fingerprint import content
from covidxr.run import execute
from covidxr.run.runner import NotebookFailed, run_profile
from covidxr.utils import CovidxrError

ALL = ["01_images", "02_fit", "03_report", "04_look"]
OUTPUTS = {
    "manifest.csv": "01_images", "pixels.npz": "01_images", "model.keras": "02_fit", "history.csv": "02_fit",
    "features.npz": "02_fit", "predictions.csv": "03_report", "metrics.json": None, "gallery": "04_look",
    "figures": "04_look", "notebooks/03_report.html": "03_report", "notebooks/03_report.ipynb": "03_report",
}  # fmt: skip


def deleted(path):
    path.unlink()


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def overwritten(path):
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


WAYS = (deleted, halved, emptied, overwritten)


def damage(run_dir, name, way):
    """Damage a file, or everything in a folder."""
    path = run_dir / name
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        way(file)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A walk that has ended: notebooks, data and run folder, not to be changed."""
    place = make_walk(tmp_path_factory.mktemp("walk"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "execute", execute_here)
        given = {"sources": [str(place / "data" / "ours.csv")]}
        run_profile("walk", place / "run", parameters=given, notebooks=place / "notebooks")
    return place


@pytest.fixture
def place(undisturbed, tmp_path):
    """A copy of it in another folder."""
    return Path(shutil.copytree(undisturbed, tmp_path / "place"))


@pytest.fixture
def go(place, monkeypatch):
    """Run there and return the notebooks that were executed."""
    calls = []

    def noted(notebook, *rest):
        calls.append(notebook.stem)
        return execute_here(notebook, *rest)

    monkeypatch.setattr(execute, "execute", noted)

    def going(only=None, run_dir=None, **parameters):
        calls.clear()
        given = {"sources": [str(place / "data" / "ours.csv")], **parameters}
        run_profile("walk", run_dir or place / "run", only=only, parameters=given, notebooks=place / "notebooks")
        return list(calls)

    return going


def metrics(place):
    return json.loads((place / "run" / "metrics.json").read_text(encoding="utf-8"))


def record(place):
    return json.loads((place / "run" / "run.json").read_text(encoding="utf-8"))["notebooks"]


# Outputs


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", OUTPUTS)
def test_damaged_output_is_detected_and_repaired_by_the_same_command(undisturbed, place, go, capsys, name, way):
    damage(place / "run", name, way)
    ran, said = go(), capsys.readouterr().out
    what = "missing" if way is deleted else "damaged"
    if name == "metrics.json":
        assert ran == [] and f"metrics.json was {what}; its numbers were restored from run.json" in said
    else:
        assert ran == [OUTPUTS[name]] and f"{OUTPUTS[name]} … runs again: {name}" in said and f"is {what}" in said
    assert metrics(place) == metrics(undisturbed)
    for entry in record(undisturbed).values():
        for file in entry["outputs"]:
            assert content(place / "run" / file) == content(undisturbed / "run" / file), file


def test_folder_replaced_by_a_file_is_repaired(place, go):
    shutil.rmtree(place / "run" / "gallery")
    (place / "run" / "gallery").write_text("no folder")
    assert go() == ["04_look"] and go() == []


def test_file_replaced_by_a_folder_is_repaired(place, go):
    (place / "run" / "model.keras").unlink()
    (place / "run" / "model.keras" / "inside").mkdir(parents=True)
    assert go() == ["02_fit"] and go() == []


def test_files_changed_by_hand_are_moved_aside(place, go):
    for name in ("predictions.csv", "metrics.json"):
        for text in ("mine", "mine again"):
            (place / "run" / name).write_text(text)
            go()
        assert (place / "run" / ".damaged" / name).read_text() == "mine again"


def test_outputs_of_a_failed_notebook_are_not_trusted_when_it_runs_again(place, go):
    path = place / "notebooks" / "04_look.ipynb"
    text = path.read_text()
    path.write_text(text.replace("record_metrics(run_dir, heat", "1 / 0; record_metrics(run_dir, heat"))
    with pytest.raises(NotebookFailed):
        go()
    overwritten(place / "run" / "figures" / "a.png")
    path.write_text(text)
    assert go() == ["04_look"]
    assert (place / "run" / ".damaged" / "figures" / "a.png").exists()


def test_numbers_changed_by_hand_are_restored(undisturbed, place, go, capsys):
    better = {**metrics(place), "test": {"accuracy": 1.0}, "mine": {"kept": True}}
    (place / "run" / "metrics.json").write_text(json.dumps(better))
    assert go() == [] and "restored" in capsys.readouterr().out
    assert metrics(place) == {**metrics(undisturbed), "mine": {"kept": True}}


def test_labels_changed_by_hand_are_restored(undisturbed, place, go):
    path = place / "run" / "manifest.csv"
    table = pd.read_csv(path)
    table.assign(label=table.label[::-1].tolist()).to_csv(path, index=False)
    assert go() == ["01_images"]
    assert content(path) == content(undisturbed / "run" / "manifest.csv")


def test_figure_that_is_no_longer_drawn_is_removed(place, go):
    path = place / "notebooks" / "04_look.ipynb"
    path.write_text(path.read_text().replace("abcdef", "abc"))
    assert go() == ["04_look"]
    assert sorted(file.name for file in (place / "run" / "figures").iterdir()) == ["a.png", "b.png", "c.png"]


def test_files_of_the_user_are_not_touched(place, go):
    notes = place / "run" / "notes.txt"
    notes.write_text("one")
    assert go(seed=3) == ALL
    notes.write_text("two")
    assert go(seed=3) == [] and notes.read_text() == "two"


# Inputs, by content


def test_corrected_label_reruns_what_depends_on_it(place, go, capsys):
    table = place / "data" / "ours.csv"
    table.write_text(table.read_text().replace("a.png,Normal", "a.png,COVID-19"))
    assert go() == ALL
    assert "01_images … runs again: sources: ours.csv changed" in capsys.readouterr().out


def test_other_image_under_the_same_name_reruns_what_depends_on_it(place, go):
    shutil.copy(place / "data" / "b.png", place / "data" / "a.png")
    assert go() == ALL


def test_unrelated_files_in_the_data_folder_rerun_nothing(place, go):
    (place / "data" / "notes.txt").write_text("by the way")
    assert go() == []


def test_other_lung_boxes_rerun_only_their_notebook(place, go, capsys):
    (place / "boxes.json").write_text("{}")
    assert go(lung_masks=str(place / "boxes.json")) == ["04_look"]
    (place / "boxes.json").write_text("[]")
    assert go(lung_masks=str(place / "boxes.json")) == ["04_look"]
    assert "04_look … runs again: lung_masks changed" in capsys.readouterr().out
    (place / "boxes.json").rename(place / "renamed.json")
    assert go(lung_masks=str(place / "renamed.json")) == []


def test_notebook_with_unchanged_results_reruns_none_after_it(place, go):
    path = place / "notebooks" / "01_images.ipynb"
    path.write_text(path.read_text().replace("rng.integers(0, 9", "rng.integers(*(0, 9)"))
    assert go() == ["01_images"]
    assert [entry["status"] for entry in record(place).values()] == ["done"] * 4


def test_changed_parameter_reruns_its_notebook_and_what_reads_its_results(place, go, capsys):
    assert go(epochs=3) == ["02_fit", "03_report", "04_look"]
    said = capsys.readouterr().out
    assert "02_fit … runs again: epochs is 3, and was null" in said
    assert "03_report … runs again: features.npz changed" in said
    assert "04_look … runs again: metrics.json#test changed" in said


# What does not change results


def test_moved_folders_rerun_nothing(place, go, tmp_path, monkeypatch):
    moved = place.rename(tmp_path / "moved")
    given = {"sources": [str(moved / "data" / "ours.csv")]}
    monkeypatch.setattr(execute, "execute", lambda *_: pytest.fail("nothing has changed"))
    run_profile("walk", moved / "run", parameters=given, notebooks=moved / "notebooks")
    assert Path(pd.read_csv(moved / "run" / "rejected.csv").path[0]) == Path("x.png")


def test_moved_data_are_found_again_and_rerun_nothing_else(place, go, capsys):
    """The manifest names images where they were; it is made anew, and is the same to those who read it."""
    assert go(run_dir=place / "own") == ALL
    moved = (place / "data").rename(place / "moved")
    assert go(run_dir=place / "own", sources=[str(moved / "ours.csv")]) == ["01_images"]
    assert "manifest.csv is damaged, or names images that were moved" in capsys.readouterr().out
    assert set(pd.read_csv(place / "own" / "manifest.csv").path) == {str(moved / f"{name}.png") for name in "abcdef"}


def test_prose_comments_and_layout_rerun_nothing(place, go):
    path = place / "notebooks" / "02_fit.ipynb"
    path.write_text(path.read_text().replace("# A title", "# Another").replace("epochs)\\n", "epochs)  # by hand\\n"))
    assert go() == []


# One notebook by itself


@pytest.mark.parametrize(
    ("earlier", "only", "parameters", "said"),
    [
        ({"only": "01", "seed": 1}, "03", {"seed": 1}, "was made from another pixels.npz; run notebook 02_fit first"),
        ({}, "03", {"seed": 1}, "manifest.csv was made with seed 0, not 1; give -p seed 0, or run notebook 01_images first"),
        ({}, "04", {"epochs": 2}, "was made with epochs null, not 2; give -p epochs null, or run notebook 02_fit first"),
    ],
)  # fmt: skip
def test_results_of_other_data_are_refused(place, go, earlier, only, parameters, said):
    if earlier:
        go(**earlier)
    before = record(place)
    with pytest.raises(CovidxrError) as refused:
        go(only=only, **parameters)
    assert said in str(refused.value)
    assert record(place) == before


def test_error_names_the_notebook_to_run_first(place, go):
    go(only="01", seed=1)
    with pytest.raises(
        CovidxrError, match="^03_report cannot run: .* was made from another .*; run notebook 02_fit first$"
    ):
        go(only="03", seed=1)
    assert go(only="02", seed=1) == ["02_fit"]
    assert go(only="03", seed=1) == ["03_report"]


def test_labels_permuted_by_hand_are_refused(place, go):
    path = place / "run" / "manifest.csv"
    table = pd.read_csv(path)
    table.assign(label=table.label[::-1].tolist()).to_csv(path, index=False)
    with pytest.raises(CovidxrError, match="manifest.csv is not as 01_images wrote it; run notebook 01_images first"):
        go(only="03")


def test_results_from_before_a_correction_are_refused(place, go):
    table = place / "data" / "ours.csv"
    table.write_text(table.read_text().replace("a.png,Normal", "a.png,COVID-19"))
    with pytest.raises(CovidxrError, match="was made from another sources: ours.csv; run notebook 01_images first"):
        go(only="04")


@pytest.mark.parametrize("only", ["02", "03", "04"])
def test_changed_code_is_no_reason_to_refuse(place, go, only):
    for path in (place / "notebooks").glob("*.ipynb"):
        path.write_text(path.read_text().replace("run_dir = Path(run_dir)", "run_dir = Path(str(run_dir))"))
    assert go(only=only) == [next(stem for stem in ALL if stem.startswith(only))]


def test_outputs_of_a_failed_notebook_are_refused(place, go):
    with pytest.raises(NotebookFailed):
        path = place / "notebooks" / "02_fit.ipynb"
        path.write_text(
            path.read_text().replace("record_metrics(run_dir, model", "1 / 0; record_metrics(run_dir, model")
        )
        go()
    with pytest.raises(CovidxrError, match="is of 02_fit, which did not finish; run notebook 02_fit first"):
        go(only="03")


def test_missing_input_is_named(place, go, tmp_path):
    with pytest.raises(CovidxrError, match="holds no manifest.csv; run notebook 01_images .*first"):
        go(only="02", run_dir=tmp_path / "new")


def test_input_from_the_user_is_accepted(place, go, tmp_path):
    for name in ("manifest.csv", "pixels.npz", "rejected.csv"):
        (tmp_path / "own").mkdir(exist_ok=True)
        shutil.copy(place / "run" / name, tmp_path / "own" / name)
    assert go(only="02", run_dir=tmp_path / "own") == ["02_fit"]


def test_damage_of_other_notebooks_is_reported_and_not_repaired(place, go, capsys):
    overwritten(place / "run" / "gallery" / "images.csv")
    before = (place / "run" / "gallery" / "images.csv").read_bytes()
    assert go(only="02") == ["02_fit"]
    said = capsys.readouterr().out
    assert "04_look: gallery/images.csv is damaged; the command without --only" in said
    assert said.endswith("index.html is as before the damage\n")
    assert (place / "run" / "gallery" / "images.csv").read_bytes() == before


# The record


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "3",
        '{"notebooks": []}',
        '{"notebooks": {"01_images": 3}}',
        '{"notebooks": {"01_images": {}}}',
        '{"parameters": "none"}',
        '{"notebooks": {"01_images": {"status": "done", "code": "x", "inputs": []}}}',
        '{"notebooks": {"01_images": {"status": "running"}}}',
        '{"notebooks": {"01_images": {"status": "done", "seconds": "long"}}}',
        "{half",
        "\udcff",
    ],
)
def test_invalid_record_is_refused_in_one_sentence(place, go, text):
    (place / "run" / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CovidxrError, match=r"run.json.*delete it"):
        go()


def test_without_a_record_everything_runs_again_and_is_recorded_again(undisturbed, place, go):
    (place / "run" / "run.json").unlink()
    assert go() == ALL and go() == []
    assert metrics(place) == metrics(undisturbed)
    emptied(place / "run" / "model.keras")
    assert go() == ["02_fit"]


def test_record_of_an_older_version_is_not_trusted(place, go, capsys):
    path = place / "run" / "run.json"
    old = json.loads(path.read_text())
    old["notebooks"] = {stem: {"status": "done", "key": "c0ffee"} for stem in old["notebooks"]}
    path.write_text(json.dumps(old))
    assert go() == ALL
    assert "01_images … runs again: its record is of an older version" in capsys.readouterr().out


def test_killed_run_is_recorded_as_interrupted_and_its_files_are_not_trusted(place, go):
    path = place / "run" / "run.json"
    killed = json.loads(path.read_text())
    killed["notebooks"]["02_fit"]["status"] = "running"
    path.write_text(json.dumps(killed))
    (place / "run" / f".covidxr-{'0' * 8}-1-{'0' * 32}.npz").touch()
    (place / "run" / "notebooks" / "02_fit.running.ipynb").touch()
    with pytest.raises(CovidxrError, match="02_fit, which did not finish"):
        go(only="03")
    assert go(only="01") == ["01_images"]
    assert record(place)["02_fit"]["status"] == "interrupted"
    assert not list((place / "run").rglob(".*")) and not list((place / "run").rglob("*.running.ipynb"))
    assert go() == ["02_fit"]


# Contents


def test_keras_file_counts_without_dates_and_addresses(tmp_path):
    def write(name, moment, weights):
        config = {"layers": [{"name": "a", "shared_object_id": moment}], "depth": 1}
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("metadata.json", json.dumps({"keras_version": "3", "date_saved": moment}))
            file.writestr("config.json", json.dumps(config))
            file.writestr("model.weights.h5", weights)
        return content(tmp_path / name)

    one, later, other = write("a.keras", 1, "w"), write("b.keras", 2, "w"), write("c.keras", 1, "v")
    assert one == later != other
    raw = (tmp_path / "a.keras").read_bytes()
    for place in range(0, len(raw), 7):
        (tmp_path / "a.keras").write_bytes(raw[:place] + bytes([raw[place] ^ 255]) + raw[place + 1 :])
        changed = content(tmp_path / "a.keras")
        assert changed != one or zipfile.ZipFile(tmp_path / "a.keras").testzip() is None


def test_table_counts_with_the_content_of_its_masks_and_without_their_folder(tmp_path):
    for folder in ("a", "b"):
        make_table(tmp_path / folder)
        (tmp_path / folder / "mask.png").write_bytes(b"white")
        lines = (
            f"image_id,path,label,lung_mask\n1,{tmp_path / folder / 'a.png'},Normal,{tmp_path / folder / 'mask.png'}\n"
        )
        (tmp_path / folder / "manifest.csv").write_text(lines)
    first, second = (content(tmp_path / folder / "manifest.csv") for folder in ("a", "b"))
    assert first == second
    (tmp_path / "b" / "mask.png").write_bytes(b"black")
    assert content(tmp_path / "b" / "manifest.csv") != first


def test_a_notebook_without_a_declaration_depends_on_all_before_it(place, go):
    write_notebook(place / "notebooks" / "05_more.ipynb", "run_dir = '.'", "1")
    assert go() == ["05_more"]
    assert go(epochs=3) == ["02_fit", "03_report", "04_look", "05_more"]
