"""External validation: excluded images, and metrics of a network that reads one planted pixel."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from planted import CORNER, BrightnessModel, N, audit, noise, rows
from test_notebooks import ROOT

from covidxr.audit.generalization import METHODS
from covidxr.audit.probes import PROBES
from covidxr.data.dataset import CLASSES, Dataset, build_dataset, save_dataset, save_embeddings
from covidxr.data.manifest import manifest_rows, patient_keys
from covidxr.data.phantom import load_phantoms
from covidxr.data.sources import load_source
from covidxr.data.splits import split_manifest
from covidxr.evaluation.calibration import choose_threshold
from covidxr.evaluation.external import (
    INTERNAL,
    ExternalSet,
    OperatingPoint,
    choose_operating_point,
    evaluate_external,
    evaluate_sets,
    external_estimates,
    external_overview,
    external_sentences,
    load_external,
)
from covidxr.evaluation.intervals import Estimate, wilson_interval
from covidxr.evaluation.metrics import counted, prediction_table
from covidxr.model.networks import build_truncated_vgg16, embed
from covidxr.training.head import fit_linear_head
from covidxr.utils import CovidxrError, read_json, write_json


class CornerReader:
    """A network that predicts COVID-19 when the first pixel is white, and keeps its inputs."""

    def __init__(self):
        self.batches = []

    def predict_on_batch(self, batch):
        self.batches.append(batch)
        white = batch[:, 0, 0, 0]
        return np.stack([0.7 * (1 - white), white, 0.3 * (1 - white)], axis=1)


def planted(label, white):
    """Draw an image of noise whose first pixel is white or black."""
    image = np.random.default_rng(7).integers(50, 200, (9, 9)).astype(np.uint8)
    image[0, 0] = 255 * white
    return label, image


def external_set(images):
    rows = manifest_rows(
        {"image_id": f"north/{n}", "path": f"{n}.png", "label": label, "patient_id": f"p{n}", "source": "north"}
        for n, (label, _) in enumerate(images)
    )
    return ExternalSet("north", rows, np.stack([image for _, image in images]), {})


MIXED = [planted("COVID-19", n < 3) for n in range(4)] + [
    planted(label, n < 1) for label in ("No finding", "Pneumonia", "Normal") for n in range(2)
]


def test_what_a_pixel_says_is_what_the_metrics_say():
    model = CornerReader()
    metrics, predictions = evaluate_external(model, external_set(MIXED), CLASSES)
    assert metrics["n"] == 10
    assert metrics["sensitivity"] == Estimate(3 / 4, *wilson_interval(3, 4), 4)
    assert metrics["specificity"] == Estimate(3 / 6, *wilson_interval(3, 6), 6)
    auc = metrics["auc"]
    assert auc.value == pytest.approx(3 / 4 * 3 / 6 + 0.5 * (3 / 4 * 3 / 6 + 1 / 4 * 3 / 6))
    assert 0 <= auc.low < auc.value < auc.high <= 1
    assert metrics["confusion"] == {
        "COVID-19": {"Normal": 1, "COVID-19": 3, "Bacteria": 0},
        **{label: {"Normal": 1, "COVID-19": 1, "Bacteria": 0} for label in ("No finding", "Pneumonia", "Normal")},
    }
    assert predictions.predicted.tolist().count("COVID-19") == 6 and len(predictions) == 10
    assert list(predictions.columns) == list(
        prediction_table(external_set(MIXED).manifest, np.full((10, 3), 1 / 3), CLASSES).columns
    )
    batch = np.concatenate(model.batches)
    assert batch.shape == (10, 9, 9, 3) and batch.dtype == np.float32 and batch.min() == 0 and batch.max() == 1


def test_the_internal_test_split_is_evaluated_as_the_external_sets_are_and_comes_first():
    _, rows, images, _ = north = external_set(MIXED)
    half = np.arange(10) < 5
    run = Dataset(rows.assign(split=np.where(half, "test", "train"), label=np.resize(CLASSES, 10)), images)
    results, tables = evaluate_sets(CornerReader(), run, [north])
    assert list(results) == list(tables) == [INTERNAL, "north"]
    expected, predictions = evaluate_external(CornerReader(), north, CLASSES)
    assert results["north"] == expected and tables["north"].equals(predictions)
    assert results[INTERNAL]["n"] == 5 and tables[INTERNAL].image_id.tolist() == rows.image_id[half].tolist()


def test_copies_of_a_patient_s_images_are_no_further_evidence():
    kinds = [planted("COVID-19", i % 4 > 0) for i in range(12)] + [planted("Normal", i % 4 == 0) for i in range(12)]
    copied = external_set(kinds * 4)
    of_one = copied._replace(manifest=copied.manifest.assign(patient_id=[str(i % 24) for i in range(96)]))
    once, alone, together = (
        evaluate_external(CornerReader(), images, CLASSES)[0] for images in (external_set(kinds), copied, of_one)
    )
    for key in ("sensitivity", "specificity", "auc", "brier"):
        width = [metrics[key].high - metrics[key].low for metrics in (once, alone, together)]
        assert width[1] < 0.65 * width[0] and width[2] > 0.9 * width[0], key


@pytest.mark.parametrize(
    ("labels", "sensitivity", "specificity"),
    [(["COVID-19"], 1.0, None), (["Normal"], None, 0.0), (["Pneumonia", "No finding"], None, 0.0)],
)
def test_without_positives_or_negatives_there_is_no_estimate(labels, sensitivity, specificity, tmp_path):
    images = external_set([planted(label, True) for label in labels])
    metrics, _ = evaluate_external(CornerReader(), images, CLASSES)
    found = [metrics[key] and metrics[key].value for key in ("sensitivity", "specificity", "auc")]
    assert found == [sensitivity, specificity, None]
    assert metrics["confusion"] == {label: {"Normal": 0, "COVID-19": 1, "Bacteria": 0} for label in labels}
    write_json(tmp_path / "metrics.json", metrics)
    stored = read_json(tmp_path / "metrics.json")
    assert stored["auc"] is None and stored["brier"] == metrics["brier"].to_dict()


def test_the_threshold_and_the_temperature_are_those_of_validation_images_and_change_no_argmax():
    images = external_set([planted("COVID-19", True), planted("Normal", False)] * 10)
    _, validation = evaluate_external(CornerReader(), images, CLASSES)
    settings = choose_operating_point(validation, CLASSES)
    assert 0 < settings.threshold < 1 and settings.rule == "Youden's index" and settings.temperature < 1
    assert choose_operating_point(validation, CLASSES, 0.9).rule == "sensitivity 0.90"
    plain, _ = evaluate_external(CornerReader(), external_set(MIXED), CLASSES)
    for threshold, sensitivity, specificity in ((0.5, 3 / 4, 3 / 6), (0.0, 1.0, 0.0), (1.1, 0.0, 1.0)):
        fixed, _ = evaluate_external(
            CornerReader(), external_set(MIXED), CLASSES, OperatingPoint(threshold, "mine", 2.0)
        )
        at = fixed.pop("operating_point")
        assert (at["threshold"], at["rule"]) == (threshold, "mine")
        assert at["sensitivity"] == Estimate(sensitivity, *wilson_interval(sensitivity * 4, 4), 4)
        assert at["specificity"].value == specificity
        assert fixed.pop("temperature_scaled")["temperature"] == 2.0 and fixed == plain


def hospitals(images, seed=0):
    """Predictions for (source, label, count, mean score) images."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        [(source, label) for source, label, count, _ in images for _ in range(count)], columns=["source", "label"]
    )
    score = np.concatenate([np.clip(rng.normal(mean, 0.15, count), 0.01, 0.99) for *_, count, mean in images])
    return rows.assign(**{"p_COVID-19": score, "p_Normal": 0.6 * (1 - score), "p_Bacteria": 0.4 * (1 - score)})


def test_the_threshold_is_not_set_by_the_source_with_the_most_images():
    hard = [("both", "COVID-19", 1009, 0.7), ("both", "Bacteria", 509, 0.5)]
    easy = hospitals([*hard, ("far", "Normal", 20000, 0.1)])
    careful = choose_operating_point(easy, CLASSES).threshold
    plain = choose_threshold(easy["p_COVID-19"], easy.label == "COVID-19")
    external = hospitals([("north", label, 500, mean) for _, label, _, mean in hard], seed=1)
    shares = {cut: (external["p_COVID-19"] >= cut).groupby(external.label).mean() for cut in (careful, plain)}
    gains = {cut: share["COVID-19"] - share["Bacteria"] for cut, share in shares.items()}
    assert careful > plain + 0.05 and gains[careful] > gains[plain] + 0.1
    alone = hospitals(hard)
    assert choose_operating_point(alone, CLASSES).threshold == choose_threshold(
        alone["p_COVID-19"], alone.label == "COVID-19"
    )


def test_calibration_is_of_the_probability_of_covid():
    metrics, _ = evaluate_external(CornerReader(), external_set(MIXED), CLASSES)
    brier = metrics["brier"]
    assert brier.value == pytest.approx(4 / 10)  # one false negative and three false positives, all with probability 1
    assert metrics["calibration_error"].value == pytest.approx(4 / 10 - 0.0, abs=0.1)
    assert 0 <= brier.low < 0.4 < brier.high <= 1 and metrics["calibration_chance"] == pytest.approx(0)


def test_a_network_without_the_positive_class_is_refused():
    with pytest.raises(CovidxrError, match="COVID-19.*Normal, Virus, Bacteria"):
        evaluate_external(CornerReader(), external_set(MIXED), ["Normal", "Virus", "Bacteria"])


@pytest.fixture
def north(tmp_path, image):
    """Plant a table of eight images of another hospital; one of them is broken."""
    labels = ["COVID-19", "No finding"] * 4
    lines = [f"{image(tmp_path / f'{n}.png', n).name},{label},p{n},north" for n, label in enumerate(labels)]
    (tmp_path / "7.png").write_text("no image")
    (tmp_path / "north.csv").write_text("\n".join(["path,label,patient_id,source", *lines]) + "\n")
    return str(tmp_path / "north.csv")


def trained_on(*patients, size=64, images=None):
    """A run of the patients of sources, by default with images that are in no external set."""
    manifest = manifest_rows(
        {"image_id": str(n), "path": "", "label": "COVID-19", "patient_id": patient, "source": source}
        for n, (source, patient) in enumerate(patients)
    )
    if images is None:
        images = np.random.default_rng(99).integers(0, 256, (len(patients), size, size), np.uint8)
    return Dataset(manifest, images, None)


def load(source, run, **options):
    [one] = load_external([source], run, **options)
    return one


def test_patients_of_the_run_are_left_out_and_broken_images_counted(north, tmp_path):
    run = trained_on(("north", "p0"), ("north", "p1"), ("south", "p2"), ("north", "p99"), size=16)
    external = load(north, run, label_map={"No finding": "Normal"})
    excluded = {"known to the run": 2, "unreadable": 1, "duplicates": 0, "duplicates with different labels": 0}
    assert external.name == "north" and external.excluded == excluded
    assert external.manifest.patient_id.tolist() == ["p2", "p3", "p4", "p5", "p6"]
    assert external.manifest.label.tolist() == ["COVID-19", "Normal", "COVID-19", "Normal", "COVID-19"]
    assert external.manifest.index.tolist() == list(range(5)) and external.images.dtype == np.uint8
    for row, image in zip(external.manifest.itertuples(), external.images, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(row.path)))


def test_images_of_the_run_under_another_name_are_excluded(north):
    whole = load(north, trained_on(("south", "p0")))
    inverted = 255 - whole.images[[1, 4]]  # as some public collections have
    found = load(north, trained_on(("south", "p0"), ("south", "p1"), images=inverted))
    assert found.excluded["known to the run"] == 2 and found.excluded["unreadable"] == 1
    assert found.manifest.patient_id.tolist() == ["p0", "p2", "p3", "p5", "p6"]
    np.testing.assert_array_equal(found.images, whole.images[[0, 2, 3, 5, 6]])
    run = trained_on(*(("south", f"p{n}") for n in range(7)), images=whole.images)
    with pytest.raises(CovidxrError, match="0 are of patients of the run, 7 are duplicates of its images, 1 cannot be"):
        load(north, run)


def test_labels_are_kept_where_none_is_renamed(north):
    external = load(north, trained_on(("south", "p0"), size=8))
    assert external.excluded["known to the run"] == 0 and external.images.shape == (7, 8, 8)
    assert external.manifest.label.tolist() == load_source(north).label.tolist()[:7]


@pytest.mark.parametrize(
    ("patients", "error"),
    [
        (
            range(8),
            "no image is left of 8; 8 are of patients of the run, 0 are duplicates of its images, 0 cannot be read$",
        ),
        (
            range(7),
            "no image is left of 8; 7 are of patients of the run, 0 are duplicates .* 1 cannot be read, the first: .*7.png",
        ),
    ],
)
def test_a_set_without_a_new_image_is_refused(patients, error, north):
    with pytest.raises(CovidxrError, match=error):
        load(north, trained_on(*(("north", f"p{n}") for n in patients), size=8))


def test_an_unknown_set_is_refused(tmp_path):
    with pytest.raises(CovidxrError, match="source '.*none.csv': no such file or folder; available: phantom"):
        load(str(tmp_path / "none.csv"), trained_on(("south", "p0"), size=8))


@pytest.mark.realdata
def test_the_second_source_of_covid_images_is_read(shared):
    run = trained_on(("figure1", "COVID-00001"), size=16)
    external = load("figure1", run, data_dir=shared / "data", label_map={"No finding": "Normal"})
    assert external.excluded["known to the run"] == 1 and external.excluded["unreadable"] == 0
    assert len(external.images) == 38 and external.excluded["duplicates"] == 1  # COVID-00037 is a copy of COVID-00033
    assert external.manifest.label.value_counts().to_dict() == {"COVID-19": 33, "Normal": 3, "Pneumonia": 2}


def table_of(folder, images, columns="path,label,patient_id"):
    """A table of (seed of its noise, label, patient) images."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (seed, label, *more) in enumerate(images):
        noise = np.random.default_rng(seed).integers(0, 256, (64, 64), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        lines.append(",".join([f"{number}.png", label, *more]))
    (folder / "images.csv").write_text("\n".join([columns, *lines]) + "\n")
    return str(folder / "images.csv")


def test_a_picture_that_a_set_has_twice_counts_once_and_patients_who_share_one_are_one(tmp_path):
    images = [(0, "Normal", "p0"), (1, "Normal", "p1"), (0, "Normal", "p2"), (2, "Normal", "p2"), (3, "COVID-19", "p3")]
    found = load(table_of(tmp_path, images), trained_on(("south", "p0")))
    assert found.excluded["duplicates"] == 1 and found.excluded["duplicates with different labels"] == 0
    assert found.manifest.patient_id.tolist() == ["p0", "p1", "p0", "p3"] and len(found.images) == 4  # p2 is p0


def test_copies_change_no_interval(tmp_path):
    images = [(seed, ["Normal", "COVID-19"][seed % 2], f"p{seed}") for seed in range(12)]
    copies = [(seed, label, f"again {patient}") for seed, label, patient in images]
    run = trained_on(("south", "p0"))
    once, twice = (
        load(table_of(tmp_path / name, rows), run)
        for name, rows in (("once", images), ("twice", images + copies + copies))
    )
    assert twice.excluded["duplicates"] == 24
    first, second = (evaluate_external(CornerReader(), one, CLASSES)[0] for one in (once, twice))
    assert first == second


def test_copies_that_are_labelled_differently_are_left_out_and_counted(tmp_path):
    images = [(0, "Normal", "p0"), (1, "Normal", "p1"), (1, "COVID-19", "p2"), (2, "COVID-19", "p3")]
    found = load(table_of(tmp_path, images), trained_on(("south", "p0")))
    assert found.excluded["duplicates"] == 0 and found.excluded["duplicates with different labels"] == 2
    assert found.manifest.patient_id.tolist() == ["p0", "p3"]
    with pytest.raises(CovidxrError, match="no image is left, since all 2 are duplicates of each other with different"):
        load(table_of(tmp_path / "none", images[1:3]), trained_on(("south", "p0")))


def test_phantoms_of_different_people_are_no_copies(tmp_path):
    for size in (32, 64):
        run = trained_on(("s", 0), ("s", 1), ("s", 2), size=size)
        run = run._replace(manifest=run.manifest.assign(label=CLASSES))
        assert load("phantom", run, work_dir=tmp_path).excluded["duplicates"] == 0


def test_two_tables_of_one_name_are_two_sets(tmp_path):
    tables = [
        table_of(tmp_path / site, [(seed, "Normal", "p0"), (seed + 1, "COVID-19", "p1")])
        for site, seed in (("siteA", 0), ("siteB", 10))
    ]
    sets = load_external([*tables, "phantom"], trained_on(("south", "p0")), work_dir=tmp_path)
    assert [one.name for one in sets] == ["siteA/images", "siteB/images", "phantom"]
    assert [set(one.manifest.source) for one in sets[:2]] == [{"siteA/images"}, {"siteB/images"}]
    assert not set(sets[0].manifest.source + sets[0].manifest.patient_id) & set(
        sets[1].manifest.source + sets[1].manifest.patient_id
    )
    alone = load(tables[0], trained_on(("south", "p0")))
    assert alone.name == "images" and set(alone.manifest.source) == {"images"}
    with pytest.raises(CovidxrError, match="external set .*siteA/images.csv' is named twice; name each once"):
        load_external([tables[0], str(tmp_path / "siteB" / ".." / "siteA" / "images.csv")], trained_on(("south", "p0")))


@pytest.mark.parametrize(
    ("columns", "site", "left"),
    [
        ("path,label,patient_id", "siteB", ["p0", "p1"]),  # another table, so other patients
        ("path,label,patient_id,source", "siteB", ["p1"]),  # the same hospital, as both tables say
        ("path,label,patient_id", "siteA", ["p1"]),  # the run's own table
    ],
)
def test_a_table_called_like_one_of_the_run_s_is_another_source_unless_it_says_so_or_is_the_same(
    columns, site, left, tmp_path
):
    source = ["images"] if columns.endswith("source") else []
    images = [(0, "Normal", "p0", *source), (1, "COVID-19", "p1", *source)]
    manifest = load_source(table_of(tmp_path / "siteA", images, columns)).iloc[:1]
    run = Dataset(manifest, trained_on(("south", "p0"))[1], None)
    table = table_of(tmp_path / site, [(seed + 5, *rest) for seed, *rest in images], columns)
    found = load(table, run)
    assert found.manifest.patient_id.tolist() == left and found.excluded["known to the run"] == 2 - len(left)


@pytest.mark.parametrize(
    ("labels", "counts"),
    [
        (["COVID-19", "SARS", "Normal"], [True, True, True]),
        (["covid", "healthy", "Normal"], [False, True, True]),
        (["covid", "well"], [False, False]),
        (["no_finding", "Bacteria"], [True, True]),
    ],
)
def test_a_label_that_is_no_class_counts_only_where_it_cannot_be_the_positive_one(labels, counts):
    metrics, predictions = evaluate_external(
        CornerReader(),
        external_set([planted(label, False) for label in labels]),
        CLASSES,
        OperatingPoint(0.5, "mine", 1.0),
    )
    assert counted(labels, CLASSES).tolist() == counts and len(predictions) == metrics["n"] == len(labels)
    assert metrics["uncounted"] == counts.count(False)
    assert set(metrics["unknown_labels"]) == set(labels) - set(CLASSES)
    assert (metrics["specificity"] is None) == (True not in counts)
    assert (metrics["brier"] is None) == (metrics["temperature_scaled"]["brier"] is None) == (True not in counts)
    assert len(external_sentences({"internal": metrics, "north": metrics})) >= len(metrics["unknown_labels"])


def test_without_a_positive_class_only_the_classes_own_accuracy_is_measured():
    found, _ = evaluate_external(CornerReader(), external_set(MIXED), CLASSES, positive=None)
    assert found["sensitivity"] is found["specificity"] is found["auc"] is found["brier"] is None
    assert found["accuracy"].value == pytest.approx(4 / 6) and found["unknown_labels"] == {
        "No finding": 2,
        "Pneumonia": 2,
    }
    assert choose_operating_point(None, CLASSES, positive=None) is None


def test_without_a_threshold_that_beats_chance_there_is_none_and_the_reason_stands_in_its_place(tmp_path):
    images = pd.DataFrame({"label": ["COVID-19", "Normal"] * 10, "source": "x", "p_COVID-19": [0.2, 0.8] * 10})
    settings = choose_operating_point(images.assign(p_Normal=1 - images["p_COVID-19"], p_Bacteria=0.0), CLASSES)
    assert settings.threshold is None and "no threshold is better than chance" in settings.rule
    metrics, _ = evaluate_external(CornerReader(), external_set(MIXED), CLASSES, settings)
    at = metrics["operating_point"]
    assert at["threshold"] is at["sensitivity"] is at["specificity"] is None and at["rule"] == settings.rule
    assert not any("at threshold" in line for line in external_estimates({"test": metrics}).index)
    write_json(tmp_path / "metrics.json", {"external": metrics, "operating_point": settings._asdict()})
    assert read_json(tmp_path / "metrics.json")["operating_point"]["threshold"] is None


NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TWO = ["Normal", "COVID-19"]


def a_set(name, false_positives, n=40):
    """Half normal, half COVID-19; the reader predicts COVID-19 where the corner is white."""
    images = noise(n=n)
    manifest = rows(n, classes=TWO, source=[name] * n)
    white = (manifest.label == "COVID-19").to_numpy() | (np.arange(n) < 2 * false_positives)
    images[white, CORNER[0], CORNER[1]] = 255
    return ExternalSet(name, manifest, images, {})


def evaluate(*sets):
    """Evaluate sets at the operating point of an internal set without errors, which is first."""
    internal = a_set("internal", 0)
    point = choose_operating_point(evaluate_external(BrightnessModel(CORNER), internal, TWO)[1], TWO)
    return {one.name: evaluate_external(BrightnessModel(CORNER), one, TWO, point)[0] for one in (internal, *sets)}


PERFECT = "1.00 (95 % CI 0.84–1.00)"


def test_the_sentences_change_with_the_data():
    same, worse = (external_sentences(evaluate(a_set("north", count))) for count in (0, 19))
    overlap = "the intervals overlap, so no difference is shown"
    assert f"north: specificity {PERFECT}, on the internal test split {PERFECT}: {overlap}." in same
    assert not any("predicted as" in sentence for sentence in same)
    low = "0.05 (95 % CI 0.01–0.24)"
    assert f"north: specificity {low}, on the internal test split {PERFECT}: significantly lower." in worse
    assert "north: 95 % of the images without COVID-19 are predicted as COVID-19." in worse
    higher = external_sentences(dict(reversed(evaluate(a_set("north", 19)).items())))
    assert f"internal: specificity {PERFECT}, on the internal test split {low}: significantly higher." in higher


def test_unknown_labels_are_named_and_count_in_no_estimate_where_they_may_be_positive():
    images = a_set("north", 0)
    assert not any("not a class" in sentence for sentence in external_sentences(evaluate(images)))
    renamed = images.manifest.label.replace("COVID-19", "covid")
    results = evaluate(images._replace(manifest=images.manifest.assign(label=renamed)))
    [sentence] = [one for one in external_sentences(results) if "not a class" in one]
    assert sentence == (
        "north: 20 images are labelled covid, which is not a class of the network (Normal, COVID-19); no image of the set is "
        "labelled COVID-19, so these may be it, and they count in no estimate. `label_map` renames labels."
    )
    assert results["north"]["specificity"].value == 1.0 and results["north"]["uncounted"] == 20


def test_the_table_holds_what_was_measured():
    results = evaluate(a_set("north", 5))
    table = external_estimates(results)
    for measure in ("specificity", "specificity at threshold"):
        assert table.loc[[f"{measure}, internal", f"{measure}, north"], "value"].tolist() == [1.0, 0.75]
    north = results["north"]
    assert Estimate(*table.loc["specificity, north", ["value", "low", "high", "n"]]) == north["specificity"]
    assert table.chance["AUC, north"] == 0.5 and np.isnan(table.chance["sensitivity, north"])
    assert table.chance["calibration error, north"] == north["calibration_chance"]
    assert (table.low <= table.value).all() and (table.value <= table.high).all()


def test_a_set_without_positives_has_no_sensitivity():
    images = a_set("north", 3)
    normal = (images.manifest.label == "Normal").to_numpy()
    results = evaluate(ExternalSet("north", images.manifest[normal].reset_index(drop=True), images.images[normal], {}))
    names = {name for name in external_estimates(results).index if name.endswith("north")}
    assert {"specificity, north", "specificity at threshold, north"} <= names
    assert not {"sensitivity, north", "AUC, north"} & names
    assert not any("north: sensitivity" in sentence for sentence in external_sentences(results))


def test_a_set_without_any_known_label_says_why_nothing_is_measured():
    images = a_set("north", 0)
    results = evaluate(images._replace(manifest=images.manifest.assign(label="flu")))
    sentences = external_sentences(results)
    assert sentences[0] == "north: nothing can be measured on its 40 images, as no label is a class of the network."
    assert not any("north" in name for name in external_estimates(results).index)


def test_the_audit_s_sentences_change_with_the_data(monkeypatch):
    monkeypatch.delitem(PROBES, "attributes")
    images = noise()
    nothing = audit(rows(), images).sentences()
    images[1::2, :8, :8] = 255
    marked = audit(rows(), images).sentences()
    assert nothing[-1].startswith("No class signal without lung content is shown, but with 120 images ")
    assert re.fullmatch(
        r"The strongest class signal without lung content: class from .*, accuracy 1.00 .* chance-corrected 1.00.",
        marked[-1],
    )
    assert any(s.startswith("class from the corners: 1.00 (") and s.endswith(": strong class signal.") for s in marked)
    assert not any("signal" in sentence for sentence in nothing[:-1])
    numbers = [re.match(r"class from the corners: (\d\.\d\d)", s) for s in nothing]
    assert [found[1] for found in numbers if found] != ["1.00"] and len(nothing) == len(marked)
    assert N == 120


@pytest.mark.parametrize("name", ["06_shortcut_audit", "07_external_validation"])
def test_notebooks_print_nothing_but_what_the_library_says_of_numbers(name):
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells
    calls = [
        call
        for cell in cells
        if cell.cell_type == "code"
        for call in ast.walk(ast.parse(cell.source))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "print"
    ]
    assert calls
    for call in calls:
        said = [node for argument in call.args for node in ast.walk(argument)]
        assert not any(isinstance(node, (ast.JoinedStr, ast.Constant)) for node in call.args), ast.unparse(call)
        called = {ast.unparse(node.func).split(".")[-1] for node in said if isinstance(node, ast.Call)}
        assert called and all(name.endswith("sentences") or name in ("summary", "comparison") for name in called)


def test_the_overview_counts_images_labels_and_exclusions():
    images = pd.DataFrame({"label": ["Normal", "covid", "covid"]})
    table = external_overview([ExternalSet("north", images, None, {"unreadable": 3}), a_set("south", 0)], TWO)
    assert table.loc["north", ["images", "label covid", "label COVID-19", "excluded: unreadable"]].tolist() == [
        3,
        2,
        0,
        3,
    ]
    assert table["labels that are no class"].to_dict() == {"north": "covid", "south": ""}
    assert external_overview([], TWO).empty


OWN_CLASSES = ["Healthy", "TB"]


def phantom_table(folder, name, labels, per_class, seed):
    """A CSV of phantoms under other labels, from three hospitals."""
    rows = load_phantoms(folder / name, classes=["Normal", "Bacteria"], per_class=per_class, size=32, seed=seed)
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
    made = build_dataset([ours], classes=OWN_CLASSES, per_class=None, image_size=32, work_dir=folder)
    manifest = split_manifest(made.manifest, test=0.3, validation=0.2)
    save_dataset(folder / "run", made._replace(manifest=manifest))
    model = build_truncated_vgg16(32, 2)
    train = (manifest.split == "train").to_numpy()
    fit_linear_head(model, made.images[train], manifest[train], OWN_CLASSES)
    model.save(folder / "run" / "model.keras")
    save_embeddings(folder / "run", manifest, embed(model, made.images))
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
    run_notebook("06", **given, external_sets=sets, positive="TB", jointly_held_out=["ours a"])
    run_notebook("07", **given, external=sets, positive="TB")
    said, metrics = capsys.readouterr().out, read_json(f"{given['run_dir']}/metrics.json")
    assert "COVID" not in said
    assert "COVID" not in json.dumps(metrics) and metrics["positive"] == "TB"
    assert len(metrics["held_out_sources"]) == 3 and len(metrics["mitigation_ablation"]) == 4
    assert metrics["operating_point"]["threshold"] > 0
    assert "confidence about TB in north a (external)" in metrics["audit"]
    assert set(metrics["jointly_held_out"]) == {f"TB vs. Healthy, {method}" for method in METHODS}
    assert metrics["external"]["north"]["n"] == 24 and metrics["external"]["north"]["sensitivity"] is not None
    assert {
        "06_reliability",
        "06_selective",
        "06_mitigation_ablation",
        "07_reliability",
        "07_external_validation",
    } <= figures(given)


def test_labels_that_the_network_does_not_have_give_no_number_and_are_named(run, capsys):
    given, sets = run
    run_notebook("07", **given, external=sets, positive="TB")
    said, south = capsys.readouterr().out, read_json(f"{given['run_dir']}/metrics.json")["external"]["south"]
    assert "south: 12 images are labelled tuberculosis, which is not a class of the network (Healthy, TB)" in said
    assert "so these may be it, and they count in no estimate" in said
    assert south["sensitivity"] is south["specificity"] is south["auc"] is south["calibration_error"] is None
    assert south["unknown_labels"] == {"well": 12, "tuberculosis": 12} and south["uncounted"] == 24
    run_notebook("07", **given, external=sets, positive="TB", label_map={"well": "Healthy", "tuberculosis": "TB"})
    south = read_json(f"{given['run_dir']}/metrics.json")["external"]["south"]
    assert south["specificity"] is not None and south["unknown_labels"] == {} and south["uncounted"] == 0


def test_a_run_without_a_positive_class_ends_and_says_what_it_left_out(run, capsys):
    given, sets = run
    run_notebook("06", **given, external_sets=sets, jointly_held_out=["ours a"])
    run_notebook("07", **given, external=sets)
    said, metrics = capsys.readouterr().out, read_json(f"{given['run_dir']}/metrics.json")
    assert metrics["positive"] is None
    assert metrics["held_out_sources"] == metrics["mitigation_ablation"] == metrics["operating_point"] == {}
    assert metrics["audit"] and metrics["external"]["north"]["sensitivity"] is None
    assert (
        0 <= metrics["external"]["north"]["accuracy"]["value"] <= 1 and metrics["external"]["south"]["accuracy"] is None
    )
    assert "south: nothing can be measured on its 24 images" in said
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
    monkeypatch.setattr("covidxr.model.networks.load_model", lambda *args: pytest.fail("computed first"))
    with pytest.raises(CovidxrError, match="unknown class as `positive`: 'COVID-19'; available: Healthy, TB"):
        run_notebook(name, **given, positive="COVID-19")


@pytest.mark.parametrize(("name", "parameter"), [("06", "external_sets"), ("07", "external")])
def test_phantoms_that_cannot_be_drawn_of_the_run_s_classes_are_a_sentence(name, parameter, run):
    given, _ = run
    with pytest.raises(CovidxrError, match="source 'phantom' has no phantoms of Healthy or TB, only of Normal"):
        run_notebook(name, **given, positive="TB", **{parameter: ["phantom"]})


def test_an_external_phantom_hospital_shares_no_patient_with_the_run(tmp_path):
    run = build_dataset(["phantom-city"], per_class=2, image_size=32, work_dir=tmp_path)
    sets = load_external(["phantom-city", {"phantom-county": ["COVID-19"]}], run, work_dir=tmp_path)
    assert [one.name for one in sets] == ["phantom-city", "phantom-county"]
    assert [set(one.manifest.source) for one in sets] == [{"phantom-city"}, {"phantom-county"}]
    assert set(sets[1].manifest.label) == {"COVID-19"} and len(sets[0].images) == 120
    assert not set(patient_keys(sets[0].manifest)) & set(run.patients) and sets[0].excluded["known to the run"] == 0
    with pytest.raises(CovidxrError, match="external set 'phantom-city' is named twice"):
        load_external(["phantom-city", {"phantom-city": ["Normal"]}], run, work_dir=tmp_path)
