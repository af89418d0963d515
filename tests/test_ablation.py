"""Ablations: variants, the summary's intervals for planted effects and for none, trainings on Dask, sentences."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
from dask.distributed import LocalCluster
from stand_ins import killed_once, plant_run, poisonous, small

from covidxr import ablation
from covidxr.ablation import (
    _CONFIG,
    BASELINE,
    FoldPlan,
    Variant,
    ablation_sentences,
    default_variants,
    final_accuracies,
    make_variants,
    plan_ablation,
    run_ablation,
    run_task,
    stability_sentences,
    summarise_ablation,
)
from covidxr.utils import CovidxrError

LABELS = ["Normal", "COVID-19", "Bacteria"]


def predictions(skills, rng, images=150, repeats=1, folds=3, lottery=0.0):
    """A sweep's table: images of varying difficulty, two a patient, and trainings that each come out a little different."""
    difficulty, rows = rng.normal(size=images), []
    for variant, skill in skills.items():
        for repeat in range(repeats):
            place = np.random.default_rng(repeat).permutation(images // 2) % folds  # the same for all variants
            ability = skill + lottery * rng.normal(size=folds)
            fold = place[np.arange(images) // 2]
            right = rng.random(images) < 1 / (1 + np.exp(difficulty - ability[fold]))
            rows.append(pd.DataFrame({
                "variant": variant, "repeat": repeat, "fold": fold, "image_id": [f"f{i}" for i in range(images)], "source": "s",
                "patient_id": [f"p{i // 2}" for i in range(images)], "label": np.resize(LABELS, images), "correct": right,
            }))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_planted_effect_is_found_and_its_size_is_in_the_interval(repeats):
    table = predictions({"reference": 2.0, "worse": 0.0, "same": 2.0}, np.random.default_rng(0), repeats=repeats)
    summary = summarise_ablation(table, draws=300)
    assert summary.verdict.tolist() == ["", "differs", "not significant"]
    assert summary.difference_high["worse"] < -0.05 and summary.difference_low["worse"] < -0.3
    assert ((summary.accuracy_low <= summary.accuracy) & (summary.accuracy <= summary.accuracy_high)).all()
    assert summary.n.tolist() == summary.shared.tolist() == [150] * 3 and summary.chance.round(2).eq(0.33).all()


@pytest.mark.parametrize("repeats", [1, 3])
def test_trainings_that_come_out_different_by_chance_are_seldom_claimed_to_differ(repeats):
    """Seven recipes that are the same, each training with luck of its own: 5 % of the claims may be false, not a fifth."""
    rng, claims = np.random.default_rng(1), []
    for _ in range(20):
        table = predictions(dict.fromkeys("abcdefg", 1.5), rng, repeats=repeats, lottery=0.5)
        claims += (summarise_ablation(table, draws=200).verdict[1:] == "differs").tolist()
    assert np.mean(claims) <= 0.08


def test_copies_of_a_patient_s_images_are_no_further_evidence():
    once = predictions({"reference": 1.0, "other": 0.5}, np.random.default_rng(0))
    copies = [once.assign(image_id=once.image_id + f"-{copy}") for copy in range(6)]
    one, six = (summarise_ablation(table, draws=400) for table in (once, pd.concat(copies)))
    assert ((six.accuracy_high - six.accuracy_low) > 0.85 * (one.accuracy_high - one.accuracy_low)).all() and (
        six.n == 6 * one.n
    ).all()


def test_images_of_another_class_are_excluded_from_the_comparison_and_predicting_it_is_wrong():
    table = predictions({"three": 9.0, "four": 9.0}, np.random.default_rng(0), images=90)
    table["correct"] = True
    virus = table[table.variant == "four"].assign(image_id=lambda rows: "v" + rows.image_id, label="Virus")
    table.loc[(table.variant == "four") & (table.label == "Bacteria"), "correct"] = False  # predicted as Virus, say
    summary = summarise_ablation(pd.concat([table, virus]), draws=200)
    assert summary.n["four"] == 180 and summary.shared["four"] == 90
    assert summary.difference["four"] == pytest.approx(-1 / 3) and summary.accuracy["four"] == pytest.approx(
        1 - 30 / 180
    )
    assert "difference from three on the 90 images tested by both -0.33 (95 % CI" in ablation_sentences(summary)[1]


def test_sentences_follow_from_the_numbers():
    skills = {"reference": 2.0, "worse": -1.0, "same": 2.0}
    summary = summarise_ablation(predictions(skills, np.random.default_rng(2)), draws=300)
    first, worse, same, last = ablation_sentences(summary)
    assert re.fullmatch(r"reference: 0\.\d\d \(95 % CI 0\.\d\d–0\.\d\d\), chance 0\.33\.", first)
    assert "difference from reference -" in worse and worse.endswith(", significant.")
    assert "difference from reference +0.0" in same.replace("-", "+") and same.endswith(", not significant.")
    assert last.startswith("1 of 2 differ significantly from reference; ") and "0.1 on average" in last
    summary.loc["worse", ["difference", "difference_low", "difference_high"]] = 0.2, 0.1, 0.3
    assert "difference from reference +0.20 (95 % CI +0.10 to +0.30), significant" in ablation_sentences(summary)[1]


def test_default_variants_change_one_setting_at_a_time():
    reference = Variant(policy="article", classes=LABELS)
    variants = default_variants(reference, [*LABELS, "Virus"], [64])
    changed = {
        name: [key for key, value in changes.items() if value != getattr(reference, key)]
        for name, changes in variants.items()
    }
    assert changed.pop("reference") == [] and variants[BASELINE]["network"] == "baseline" and changed.pop(BASELINE)
    assert changed.pop("one-cycle schedule, no head warm-up") == ["schedule", "head_epochs"]
    assert changed.pop("no head or rate warm-up") == ["head_epochs", "warmup_epochs"]
    assert all(len(keys) == 1 for keys in changed.values())
    assert {keys[0] for keys in changed.values()} == {
        "seed", "weights", "freeze", "policy", "schedule", "head_epochs", "image_size", "classes"
    }  # fmt: skip
    assert len([name for name in variants if name.startswith("without ")]) == 7
    assert "first blocks trained" not in variants
    assert "imagenet weights" in default_variants(replace(reference, weights="random"))
    assert set(make_variants(variants, reference)) == set(variants)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({}, "an ablation needs variants"),
        ({"reference": {}, "long": {"epchs": 3}}, "unknown setting of long: 'epchs'; available: network, weights"),
    ],
)
def test_mistakes_in_variants_are_reported(variants, message):
    with pytest.raises(CovidxrError, match=message):
        make_variants(variants)


FAST = Variant(
    epochs=6,
    learning_rate=2e-2,
    warmup_epochs=0,
    batch_size=8,
    policy="none",
    classes=["Normal", "COVID-19", "Bacteria"],
)
VARIANTS = make_variants(
    {
        "reference": {},
        "another seed": {"seed": 10_000},
        "learns nothing": {"learning_rate": 0.0},
        "four classes, larger": {"classes": ["Normal", "COVID-19", "Bacteria", "Virus"], "image_size": 48},
    },
    FAST,
)
ONE = {"reference": VARIANTS["reference"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A run folder with images of four classes, to be copied."""
    return plant_run(tmp_path_factory.mktemp("images"), classes=["Normal", "COVID-19", "Bacteria", "Virus"])


@pytest.fixture
def run_dir(images, tmp_path):
    shutil.copytree(images, tmp_path / "run", ignore=shutil.ignore_patterns("ablation", "began.txt"))
    return tmp_path / "run"


@pytest.fixture(scope="module")
def scheduler():
    """The address of a cluster of two processes that is there already, as a user's is."""
    config = {**_CONFIG, "distributed.scheduler.allowed-failures": 0}
    with (
        dask.config.set(config),
        LocalCluster(2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def undisturbed(images, scheduler):
    return run_ablation(images, VARIANTS, FoldPlan(), scheduler=scheduler, train=small)


def began(run_dir):
    path = run_dir / "began.txt"
    return path.read_text().split() if path.exists() else []


def test_a_planted_effect_is_found_and_another_seed_is_none(undisturbed):
    summary = summarise_ablation(undisturbed, draws=300)
    assert summary.verdict["learns nothing"] == "differs" and summary.difference_high["learns nothing"] < -0.1
    assert summary.verdict["another seed"] == "not significant"
    assert summary.accuracy["reference"] > 0.8 and summary.chance.round(2)["reference"] == 0.33
    assert summary.n["four classes, larger"] == 48 and summary.shared["four classes, larger"] == 36


def test_every_training_leaves_its_folder(undisturbed, images):
    tasks = plan_ablation(images, VARIANTS, FoldPlan(), train=small)
    assert len(tasks) == 12 and all(task.is_done for task in tasks)
    for task in tasks:
        assert {path.name for path in Path(task.folder).iterdir()} == {
            "model.keras",
            "history.csv",
            "predictions.csv",
            "task.json",
        }
    tested = undisturbed.image_id[undisturbed.variant == "reference"]
    assert tested.nunique() == len(tested) == 36
    twice = plan_ablation(images, VARIANTS, FoldPlan(repeats=2), train=small)
    assert len(twice) == len({task.folder for task in twice}) == 24 and len({task.config.seed for task in twice}) == 12
    facts = json.loads((Path(tasks[0].folder) / "task.json").read_text())
    assert facts["hardware"]["threads"] == 1 and facts["settings"]["epochs"] == 6


def test_a_worker_killed_mid_epoch_changes_nothing(undisturbed, run_dir, capfd):
    """Here the cluster is the sweep's own; one of its processes is killed for good, by SIGKILL, in an epoch's middle."""
    found = run_ablation(run_dir, ONE, FoldPlan(), train=killed_once)
    assert (run_dir / "killed.txt").exists()
    assert len(began(run_dir)) == 4 and len(set(began(run_dir))) == 3  # one training began twice
    same = undisturbed[undisturbed.variant.isin(ONE)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, same.drop(columns="p_Virus"))
    said = capfd.readouterr()
    assert said.out == "" and "trainings: 100%" in said.err
    assert not any(word in said.err for word in ("distributed", "Warning", "Traceback", "cuda", "1/6"))


def test_an_interrupted_ablation_resumes(undisturbed, run_dir, scheduler, monkeypatch):
    def interrupted(futures):
        for number, future in enumerate(original(futures)):
            if number == 1:
                client = future.client
                client.cancel(list(futures))
                raise KeyboardInterrupt
            yield future

    original = ablation.as_completed
    monkeypatch.setattr(ablation, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(run_dir, ONE, FoldPlan(), scheduler=scheduler, train=small)
    monkeypatch.undo()
    done = [task.folder for task in plan_ablation(run_dir, ONE, FoldPlan(), train=small) if task.is_done]
    before = began(run_dir)
    assert 1 <= len(done) < 3
    found = run_ablation(run_dir, ONE, FoldPlan(), scheduler=scheduler, train=small)
    assert not set(began(run_dir)[len(before) :]) & set(done) and set(began(run_dir)) > set(done)
    same = undisturbed[undisturbed.variant.isin(ONE)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, same.drop(columns="p_Virus"))


def test_done_is_done_until_settings_or_images_change(undisturbed, images):
    before = began(images)
    run_ablation(images, VARIANTS, FoldPlan(), scheduler="tcp://127.0.0.1:1", train=small)  # not contacted
    assert began(images) == before
    longer = make_variants({"reference": {}}, replace(FAST, epochs=7))
    assert not any(task.is_done for task in plan_ablation(images, longer, FoldPlan(), train=small))
    assert not any(task.is_done for task in plan_ablation(images, ONE, FoldPlan(2), train=small))


@pytest.mark.parametrize("name", ["predictions.csv", "task.json"])
@pytest.mark.parametrize("bytes_", [None, b"", b"cell,fold\n"])
def test_a_training_whose_results_are_lost_or_damaged_is_not_done(run_dir, name, bytes_):
    task = plan_ablation(run_dir, ONE, FoldPlan(), train=small)[0]
    run_task(task, threads=1, train=small)
    path = Path(task.folder) / name
    path.unlink() if bytes_ is None else path.write_bytes(bytes_)
    assert not task.is_done


def test_another_file_of_weights_under_the_old_name_is_another_training(run_dir, tmp_path):
    def keys(path):
        variants = make_variants({"reference": {}}, replace(FAST, weights=str(path)))
        return [task.key for task in plan_ablation(run_dir, variants, FoldPlan(2))]

    path = tmp_path / "weights.h5"
    path.write_bytes(b"one")
    before = keys(path)
    moved = path.rename(tmp_path / "moved.h5")
    assert keys(moved) == before
    path.write_bytes(b"other")
    assert keys(path) != before


def test_failing_trainings_are_named_and_the_others_kept(run_dir, scheduler):
    variants = {"fine": {}, "deadly": {"batch_size": 7}, "too big": {"batch_size": 5}}
    variants = make_variants(variants, FAST)
    with pytest.raises(CovidxrError) as error:
        run_ablation(run_dir, variants, FoldPlan(2), scheduler=scheduler, train=poisonous)
    assert "4 of 6 trainings failed, the first is deadly, repeat 0, fold 0: every worker that ran it died" in str(
        error.value
    )
    assert "the others are kept, and the same call repeats only these" in str(error.value)
    assert [task.is_done for task in plan_ablation(run_dir, variants, FoldPlan(2), train=poisonous)] == [True] * 2 + [
        False
    ] * 4
    with pytest.raises(
        CovidxrError, match="2 of 2 trainings failed, .* too big, repeat 0, fold 0: MemoryError: no room"
    ):
        run_ablation(run_dir, {"too big": variants["too big"]}, FoldPlan(2), scheduler=scheduler, train=poisonous)


def test_a_task_can_be_done_by_hand(run_dir):
    task = plan_ablation(run_dir, ONE, FoldPlan(), train=small)[0]
    run_task(task, threads=1, train=small)
    assert task.is_done


@pytest.mark.parametrize(
    ("variants", "options", "message"),
    [
        (ONE, {"scheduler": "tcp://127.0.0.1:1"}, "no Dask scheduler answers at tcp://127.0.0.1:1"),
        (make_variants({"a": {"classes": ["Flu"]}}), {}, "unknown class of a: 'Flu'; available: Bacteria, COVID-19"),
        (ONE, {"plan": FoldPlan(20)}, "class '.*' has 12 images; give 2 to so many folds"),
    ],
)
def test_mistakes_are_reported(run_dir, variants, options, message, monkeypatch):
    monkeypatch.setattr(ablation, "_SCHEDULER_TIMEOUT", 1)
    with pytest.raises(CovidxrError, match=message):
        run_ablation(run_dir, variants, **{"plan": FoldPlan(), "train": small, **options})


def test_workers_that_do_not_see_the_run_folder_are_reported(run_dir, monkeypatch):
    monkeypatch.setattr("covidxr.ablation.AblationTask.is_done", True)
    with pytest.raises(CovidxrError, match="is missing though its training is done; a cluster's workers must see"):
        run_ablation(run_dir, ONE, FoldPlan(), train=small)


def ablation_table(**skills):
    table = predictions({"reference": 3.0, **skills, BASELINE: 1.0}, np.random.default_rng(0), repeats=2)
    return table.assign(predicted=np.where(table.correct, table.label, "Other"))


def test_a_training_that_is_worse_and_one_that_collapsed_are_named():
    table = ablation_table(worse=-2.0)
    collapsed = (table.variant == "reference") & (table.repeat == 1) & (table.fold == 2)
    table.loc[collapsed, "predicted"] = "Normal"
    table["correct"] = table.predicted == table.label
    found = final_accuracies(table)
    assert len(found) == 12 and set(found.variant) == {"reference", "worse"}
    constant, below = stability_sentences(found)
    assert constant == "1 of 12 trainings collapsed to a constant prediction: reference (1)."
    assert below == ("7 of 12 are less accurate than the baseline model on the same images: reference (1), worse (6).")
    row = found[(found.variant == "reference") & (found.repeat == 1) & (found.fold == 2)].iloc[0]
    own = table[collapsed]
    assert row.value == (own.label == "Normal").mean() and row.predicted_classes == 1


def test_where_nothing_is_wrong_nothing_is_named():
    assert stability_sentences(final_accuracies(ablation_table(also=3.0))) == [
        "0 of 12 trainings collapsed to a constant prediction.",
        "0 of 12 are less accurate than the baseline model on the same images.",
    ]


def test_more_classes_are_compared_on_the_images_of_both():
    table = ablation_table()
    more = table[table.variant == "reference"].assign(variant="four classes")
    virus = more.assign(image_id="v" + more.image_id, label="Virus", correct=False)
    found = final_accuracies(pd.concat([table, more, virus])).set_index("variant")
    assert found.loc["four classes", "value"].tolist() == found.loc["reference", "value"].tolist()


def test_without_the_baseline_model_it_says_so():
    table = ablation_table()
    assert stability_sentences(final_accuracies(table[table.variant != BASELINE])) == [
        "There is no variant 'baseline model' to compare the trainings with."
    ]


def test_a_prediction_that_is_missing_is_not_averaged_over():
    table = ablation_table()
    with pytest.raises(CovidxrError, match="correct must be true or false for every image, which nan is not"):
        final_accuracies(table.assign(correct=table.correct.astype(float).where(table.index > 3)))
