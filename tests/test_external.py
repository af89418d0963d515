"""Other hospitals: what is left out, and what a network that reads one planted pixel is said to do."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidxr.calibration import choose_threshold
from covidxr.dataset import CLASSES, read_source
from covidxr.elsewhere import comparison, with_intervals
from covidxr.errors import CovidxrError
from covidxr.evaluate import prediction_table
from covidxr.external import (
    ExternalSet,
    Settings,
    evaluate_external,
    fix_on_validation,
    read_external,
    read_externals,
)
from covidxr.files import read_json, write_json
from covidxr.intervals import wilson_interval
from covidxr.network_probes import counted
from covidxr.sources._rows import manifest_rows


class CornerReader:
    """A network that calls a film ill when its first pixel is white, and has seen what it was given."""

    def __init__(self):
        self.batches = []

    def predict_on_batch(self, batch):
        self.batches.append(batch)
        ill = batch[:, 0, 0, 0]
        return np.stack([0.7 * (1 - ill), ill, 0.3 * (1 - ill)], axis=1)


def planted(label, white):
    """Draw a film of noise whose first pixel is white or black."""
    film = np.random.default_rng(7).integers(50, 200, (9, 9)).astype(np.uint8)
    film[0, 0] = 255 * white
    return label, film


def external_set(films):
    rows = manifest_rows(
        {"image_id": f"north/{n}", "path": f"{n}.png", "label": label, "patient_id": f"p{n}", "source": "north"}
        for n, (label, _) in enumerate(films)
    )
    return ExternalSet("north", rows, np.stack([film for _, film in films]), 0, 0)


MIXED = [planted("COVID-19", n < 3) for n in range(4)] + [
    planted(label, n < 1) for label in ("No finding", "Pneumonia", "Normal") for n in range(2)
]


def test_what_a_pixel_says_is_what_the_metrics_say():
    model = CornerReader()
    metrics, predictions = evaluate_external(model, external_set(MIXED), CLASSES)
    assert metrics["n"] == 10 and metrics["sensitivity"] == 3 / 4 and metrics["specificity"] == 3 / 6
    assert metrics["sensitivity_interval"] == list(wilson_interval(3, 4))
    assert metrics["specificity_interval"] == list(wilson_interval(3, 6))
    assert metrics["auc"] == pytest.approx(3 / 4 * 3 / 6 + 0.5 * (3 / 4 * 3 / 6 + 1 / 4 * 3 / 6))
    low, high = metrics["auc_interval"]
    assert 0 <= low < metrics["auc"] < high <= 1
    assert metrics["called"] == {
        "COVID-19": {"Normal": 1, "COVID-19": 3, "Bacteria": 0},
        **{label: {"Normal": 1, "COVID-19": 1, "Bacteria": 0} for label in ("No finding", "Pneumonia", "Normal")},
    }
    assert predictions.predicted.tolist().count("COVID-19") == 6 and len(predictions) == 10
    assert list(predictions.columns) == list(
        prediction_table(external_set(MIXED).manifest, np.full((10, 3), 1 / 3), CLASSES).columns
    )
    batch = np.concatenate(model.batches)
    assert batch.shape == (10, 9, 9, 3) and batch.dtype == np.float32 and batch.min() == 0 and batch.max() == 1


def test_copies_of_a_patient_s_films_are_no_further_evidence():
    kinds = [planted("COVID-19", i % 4 > 0) for i in range(12)] + [planted("Normal", i % 4 == 0) for i in range(12)]
    copied = external_set(kinds * 4)
    of_one = copied._replace(manifest=copied.manifest.assign(patient_id=[str(i % 24) for i in range(96)]))
    once, alone, together = (
        evaluate_external(CornerReader(), films, CLASSES)[0] for films in (external_set(kinds), copied, of_one)
    )
    for key in ("sensitivity_interval", "specificity_interval", "auc_interval", "brier_interval"):
        width = [np.ptp(metrics[key]) for metrics in (once, alone, together)]
        assert width[1] < 0.65 * width[0] and width[2] > 0.9 * width[0], key


@pytest.mark.parametrize(
    ("labels", "sensitivity", "specificity"),
    [(["COVID-19"], 1.0, None), (["Normal"], None, 0.0), (["Pneumonia", "No finding"], None, 0.0)],
)
def test_a_side_without_films_has_no_number(labels, sensitivity, specificity, tmp_path):
    films = external_set([planted(label, True) for label in labels])
    metrics, _ = evaluate_external(CornerReader(), films, CLASSES)
    assert (metrics["sensitivity"], metrics["specificity"]) == (sensitivity, specificity)
    assert (metrics["sensitivity_interval"] is None) == (sensitivity is None)
    assert (metrics["specificity_interval"] is None) == (specificity is None)
    assert metrics["auc"] is None and metrics["auc_interval"] is None
    assert metrics["called"] == {label: {"Normal": 0, "COVID-19": 1, "Bacteria": 0} for label in labels}
    write_json(tmp_path / "metrics.json", metrics)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


def test_the_threshold_and_the_temperature_are_those_of_validation_films_and_change_no_argmax():
    films = external_set([planted("COVID-19", True), planted("Normal", False)] * 10)
    _, validation = evaluate_external(CornerReader(), films, CLASSES)
    settings = fix_on_validation(validation, CLASSES)
    assert 0 < settings.threshold < 1 and settings.rule == "Youden's" and settings.temperature < 1
    assert fix_on_validation(validation, CLASSES, 0.9).rule == "sensitivity 0.90"
    plain, _ = evaluate_external(CornerReader(), external_set(MIXED), CLASSES)
    for threshold, sensitivity, specificity in ((0.5, 3 / 4, 3 / 6), (0.0, 1.0, 0.0), (1.1, 0.0, 1.0)):
        fixed, _ = evaluate_external(CornerReader(), external_set(MIXED), CLASSES, Settings(threshold, "mine", 2.0))
        at = fixed.pop("at_threshold")
        assert (at["threshold"], at["rule"]) == (threshold, "mine")
        assert (at["sensitivity"], at["specificity"]) == (sensitivity, specificity)
        assert at["sensitivity_interval"] == list(wilson_interval(sensitivity * 4, 4))
        assert fixed.pop("tempered")["temperature"] == 2.0 and fixed == plain


def hospitals(films, seed=0):
    """What a network says of (source, label, count, mean score) films."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        [(source, label) for source, label, count, _ in films for _ in range(count)], columns=["source", "label"]
    )
    score = np.concatenate([np.clip(rng.normal(mean, 0.15, count), 0.01, 0.99) for *_, count, mean in films])
    return rows.assign(**{"p_COVID-19": score, "p_Normal": 0.6 * (1 - score), "p_Bacteria": 0.4 * (1 - score)})


def test_the_threshold_is_not_set_by_the_source_with_the_most_films():
    hard = [("both", "COVID-19", 1009, 0.7), ("both", "Bacteria", 509, 0.5)]
    easy = hospitals([*hard, ("far", "Normal", 20000, 0.1)])
    careful = fix_on_validation(easy, CLASSES).threshold
    plain = choose_threshold(easy["p_COVID-19"], easy.label == "COVID-19")
    elsewhere = hospitals([("north", label, 500, mean) for _, label, _, mean in hard], seed=1)
    shares = {cut: (elsewhere["p_COVID-19"] >= cut).groupby(elsewhere.label).mean() for cut in (careful, plain)}
    gains = {cut: share["COVID-19"] - share["Bacteria"] for cut, share in shares.items()}
    assert careful > plain + 0.05 and gains[careful] > gains[plain] + 0.1
    alone = hospitals(hard)
    assert fix_on_validation(alone, CLASSES).threshold == choose_threshold(
        alone["p_COVID-19"], alone.label == "COVID-19"
    )


def test_calibration_is_of_the_probability_of_covid():
    metrics, _ = evaluate_external(CornerReader(), external_set(MIXED), CLASSES)
    assert metrics["brier"] == pytest.approx(4 / 10)  # one ill film missed and three others called ill, all surely
    assert metrics["calibration_error"] == pytest.approx(4 / 10 - 0.0, abs=0.1)
    low, high = metrics["brier_interval"]
    assert 0 <= low < 0.4 < high <= 1 and metrics["calibration_chance"] == pytest.approx(0)


def test_a_network_without_covid_is_a_sentence():
    with pytest.raises(CovidxrError, match="COVID-19.*Normal, Virus, Bacteria"):
        evaluate_external(CornerReader(), external_set(MIXED), ["Normal", "Virus", "Bacteria"])


@pytest.fixture
def north(tmp_path, film):
    """Plant a table of eight films of another hospital; one of them is broken."""
    labels = ["COVID-19", "No finding"] * 4
    lines = [f"{film(tmp_path / f'{n}.png', n).name},{label},p{n},north" for n, label in enumerate(labels)]
    (tmp_path / "7.png").write_text("no film")
    (tmp_path / "north.csv").write_text("\n".join(["path,label,patient_id,source", *lines]) + "\n")
    return str(tmp_path / "north.csv")


def trained_on(*patients):
    return manifest_rows(
        {"image_id": str(n), "path": "", "label": "COVID-19", "patient_id": patient, "source": source}
        for n, (source, patient) in enumerate(patients)
    )


def test_patients_of_the_run_are_left_out_and_broken_films_counted(north, tmp_path):
    run = trained_on(("north", "p0"), ("north", "p1"), ("south", "p2"), ("north", "p99"))
    external = read_external(north, run, 16, label_map={"No finding": "Normal"})
    assert (external.name, external.known, external.unreadable) == ("north", 2, 1)
    assert external.manifest.patient_id.tolist() == ["p2", "p3", "p4", "p5", "p6"]
    assert external.manifest.label.tolist() == ["COVID-19", "Normal", "COVID-19", "Normal", "COVID-19"]
    assert external.manifest.index.tolist() == list(range(5)) and external.pixels.dtype == np.uint8
    for row, film in zip(external.manifest.itertuples(), external.pixels, strict=True):
        np.testing.assert_array_equal(film, np.asarray(Image.open(row.path)))


def test_films_of_the_run_under_another_name_are_left_out(north):
    run = trained_on(("south", "p0"))
    whole = read_external(north, run, 64)
    inverted = 255 - whole.pixels[[1, 4]]  # as public collections have some
    found = read_external(north, run, 64, seen=inverted)
    assert found.known == 2 and found.unreadable == 1
    assert found.manifest.patient_id.tolist() == ["p0", "p2", "p3", "p5", "p6"]
    np.testing.assert_array_equal(found.pixels, whole.pixels[[0, 2, 3, 5, 6]])
    with pytest.raises(
        CovidxrError, match="0 are of patients in the run already, 7 show films of it, 1 cannot be read"
    ):
        read_external(north, run, 64, seen=whole.pixels)


def test_labels_are_kept_where_none_is_renamed(north):
    external = read_external(north, trained_on(("south", "p0")), 8)
    assert (external.known, external.unreadable) == (0, 1) and external.pixels.shape == (7, 8, 8)
    assert external.manifest.label.tolist() == read_source(north).label.tolist()[:7]


@pytest.mark.parametrize(
    ("patients", "error"),
    [
        (range(8), "no film is left of 8; 8 are of patients in the run already, 0 show films of it, 0 cannot be read$"),
        (
            range(7),
            "no film is left of 8; 7 are of patients in the run already, 0 show films of it, 1 cannot be read, the first: .*7.png",
        ),
    ],
)
def test_no_film_left_is_a_sentence(patients, error, north):
    with pytest.raises(CovidxrError, match=error):
        read_external(north, trained_on(*(("north", f"p{n}") for n in patients)), 8)


def test_an_unknown_set_is_a_sentence(tmp_path):
    with pytest.raises(CovidxrError, match="source '.*none.csv': no such file or folder; available: phantom"):
        read_external(str(tmp_path / "none.csv"), trained_on(("south", "p0")), 8)


@pytest.mark.realdata
def test_the_second_source_of_covid_films_is_read(shared):
    external = read_external(
        "figure1", trained_on(("figure1", "COVID-00001")), 16, shared / "data", {"No finding": "Normal"}
    )
    assert external.known == 1 and external.unreadable == 0 and len(external.pixels) == 38
    assert external.copies == 1  # COVID-00037 is COVID-00033 once more
    assert external.manifest.label.value_counts().to_dict() == {"COVID-19": 33, "Normal": 3, "Pneumonia": 2}


def table_of(folder, films, columns="path,label,patient_id"):
    """A table of (seed of its noise, label, patient) images."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (seed, label, *more) in enumerate(films):
        noise = np.random.default_rng(seed).integers(0, 256, (64, 64), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        lines.append(",".join([f"{number}.png", label, *more]))
    (folder / "films.csv").write_text("\n".join([columns, *lines]) + "\n")
    return str(folder / "films.csv")


def test_a_picture_that_a_set_has_twice_counts_once_and_patients_who_share_one_are_one(tmp_path):
    films = [(0, "Normal", "p0"), (1, "Normal", "p1"), (0, "Normal", "p2"), (2, "Normal", "p2"), (3, "COVID-19", "p3")]
    found = read_external(table_of(tmp_path, films), trained_on(("south", "p0")), 64)
    assert (found.copies, found.disagreeing, len(found.pixels)) == (1, 0, 4)
    assert found.manifest.patient_id.tolist() == ["p0", "p1", "p0", "p3"]  # p2 is p0, who came twice
    assert "1 left out as copies of others" in found.summary()


def test_copies_change_no_interval(tmp_path):
    films = [(seed, ["Normal", "COVID-19"][seed % 2], f"p{seed}") for seed in range(12)]
    copies = [(seed, label, f"again {patient}") for seed, label, patient in films]
    run = trained_on(("south", "p0"))
    once, twice = (
        read_external(table_of(tmp_path / name, rows), run, 64)
        for name, rows in (("once", films), ("twice", films + copies + copies))
    )
    assert twice.copies == 24
    first, second = (evaluate_external(CornerReader(), one, CLASSES)[0] for one in (once, twice))
    assert first == second


def test_copies_that_are_labelled_differently_are_left_out_and_counted(tmp_path):
    films = [(0, "Normal", "p0"), (1, "Normal", "p1"), (1, "COVID-19", "p2"), (2, "COVID-19", "p3")]
    found = read_external(table_of(tmp_path, films), trained_on(("south", "p0")), 64)
    assert (found.copies, found.disagreeing) == (0, 2) and found.manifest.patient_id.tolist() == ["p0", "p3"]
    assert "2 left out as copies of each other with different labels" in found.summary()
    with pytest.raises(
        CovidxrError, match="no film is left, since all 2 are copies of each other with different labels"
    ):
        read_external(table_of(tmp_path / "none", films[1:3]), trained_on(("south", "p0")), 64)


def test_phantoms_of_different_people_are_no_copies(tmp_path):
    run = manifest_rows(
        {"image_id": n, "label": label, "patient_id": n, "source": "s"} for n, label in enumerate(CLASSES)
    )
    for size in (32, 64):
        assert read_external("phantom", run, size, work_dir=tmp_path).copies == 0


def test_two_tables_of_one_name_are_two_sets(tmp_path):
    tables = [
        table_of(tmp_path / site, [(seed, "Normal", "p0"), (seed + 1, "COVID-19", "p1")])
        for site, seed in (("siteA", 0), ("siteB", 10))
    ]
    sets = read_externals([*tables, "phantom"], trained_on(("south", "p0")), 64, work_dir=tmp_path)
    assert [one.name for one in sets] == ["siteA/films", "siteB/films", "phantom"]
    assert [set(one.manifest.source) for one in sets[:2]] == [{"siteA/films"}, {"siteB/films"}]
    assert not set(sets[0].manifest.source + sets[0].manifest.patient_id) & set(
        sets[1].manifest.source + sets[1].manifest.patient_id
    )
    [alone] = read_externals(tables[:1], trained_on(("south", "p0")), 64)
    assert alone.name == "films" and set(alone.manifest.source) == {"films"}
    with pytest.raises(CovidxrError, match="external set .*siteA/films.csv' is named twice; name each once"):
        read_externals(
            [tables[0], str(tmp_path / "siteB" / ".." / "siteA" / "films.csv")], trained_on(("south", "p0")), 64
        )


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
    source = ["films"] if columns.endswith("source") else []
    films = [(0, "Normal", "p0", *source), (1, "COVID-19", "p1", *source)]
    run = read_source(table_of(tmp_path / "siteA", films, columns)).iloc[:1]
    table = table_of(tmp_path / site, [(seed + 5, *rest) for seed, *rest in films], columns)
    found = read_external(table, run, 64)
    assert found.manifest.patient_id.tolist() == left and found.known == 2 - len(left)


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
        CornerReader(), external_set([planted(label, False) for label in labels]), CLASSES, Settings(0.5, "mine", 1.0)
    )
    assert counted(labels, CLASSES).tolist() == counts and len(predictions) == metrics["n"] == len(labels)
    assert metrics["uncounted"] == counts.count(False)
    assert set(metrics["unknown_labels"]) == set(labels) - set(CLASSES)
    assert (metrics["specificity"] is None) == (True not in counts)
    assert (metrics["brier"] is None) == (metrics["tempered"]["brier"] is None) == (True not in counts)
    assert len(comparison({"inside": metrics, "north": metrics})) >= 2 + len(metrics["unknown_labels"])


def test_without_a_positive_class_only_the_classes_own_accuracy_is_measured():
    found, _ = evaluate_external(CornerReader(), external_set(MIXED), CLASSES, positive=None)
    assert found["sensitivity"] is found["specificity"] is found["auc"] is found["brier"] is None
    assert found["accuracy"] == pytest.approx(4 / 6) and found["unknown_labels"] == {"No finding": 2, "Pneumonia": 2}
    assert fix_on_validation(None, CLASSES, positive=None) is None


def test_without_a_threshold_that_beats_chance_there_is_none_and_the_reason_stands_in_its_place(tmp_path):
    films = pd.DataFrame({"label": ["COVID-19", "Normal"] * 10, "source": "x", "p_COVID-19": [0.2, 0.8] * 10})
    settings = fix_on_validation(films.assign(p_Normal=1 - films["p_COVID-19"], p_Bacteria=0.0), CLASSES)
    assert settings.threshold is None and "no threshold beats chance" in settings.rule
    metrics, _ = evaluate_external(CornerReader(), external_set(MIXED), CLASSES, settings)
    at = metrics["at_threshold"]
    assert at["threshold"] is at["sensitivity"] is at["specificity_interval"] is None and at["rule"] == settings.rule
    assert "threshold none: no threshold beats chance" in comparison({"test": metrics})[0]
    assert set(with_intervals({"test": metrics}).index) == {"sensitivity, test", "specificity, test", "AUC, test"}
    write_json(tmp_path / "metrics.json", {"external": metrics, "settings": settings._asdict()})
    assert read_json(tmp_path / "metrics.json")["settings"]["threshold"] is None
