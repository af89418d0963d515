"""The audit: each injected shortcut is found by the probe made for it, and nothing is found where nothing was injected."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from planted import CORNER, LUNGS, SIDE, B, BrightnessModel, N, audit, noise, rows
from threadpoolctl import threadpool_limits

from covidxr.audit.probes import (
    NO_LUNGS,
    PROBES,
    AuditData,
    ProbeResult,
    accuracy_result,
    attributes,
    band_features,
    grouped_predictions,
    judge_performance,
    judge_signal,
    low_information_inputs,
    low_level_statistics,
    pixel_features,
)
from covidxr.audit.report import AuditReport, shortcut_audit
from covidxr.data._opencv import cv2
from covidxr.data.dataset import Dataset, build_dataset
from covidxr.data.images import load_masks, read_images
from covidxr.data.phantom import load_phantoms
from covidxr.evaluation.external import ExternalSet
from covidxr.utils import CovidxrError, write_json

NOTHING = {"not distinguishable from chance", "below chance"}


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices are processed faster by one thread than by many that wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def without_pixel_probes(monkeypatch):
    for name in ("low_information_inputs", "low_level_statistics"):
        monkeypatch.delitem(PROBES, name)


def conclusions(report) -> dict:
    return report.table.conclusion.to_dict()


def class_from(report) -> dict:
    start = "class from "
    return {probe.removeprefix(start): said for probe, said in conclusions(report).items() if probe.startswith(start)}


def sort_block(images, rows_, columns) -> None:
    """Order the grey values of one block: upwards in class a, downwards in b, so that its mean and histogram stay."""
    block = images[:, rows_, columns]
    flat = np.sort(block.reshape(len(images), -1), axis=1)
    flat[B] = flat[B, ::-1]
    images[:, rows_, columns] = flat.reshape(block.shape)


def test_a_corner_marker_is_found_where_it_can_be_seen_and_nowhere_else():
    images = noise()
    sort_block(images, slice(0, 5), slice(0, 5))  # within one of the 8×8 pixels, which therefore cannot see it
    found = class_from(audit(rows(), images))
    assert found["the corners"] == found["the border"] == "strong class signal"
    assert {found["4×4 pixels"], found["8×8 pixels"], found["the grey histogram"]} <= NOTHING


def test_a_bright_border_is_found_by_the_border_and_not_by_the_corners():
    images = noise()
    edge, middle = images[:, :4, 10:30].reshape(N, -1), images[:, 18:22, 10:30].reshape(N, -1)
    both = np.sort(np.concatenate([middle, edge], axis=1), axis=1)  # the same grey values, the brightest at the edge
    images[B, :4, 10:30] = both[B, 80:].reshape(-1, 4, 20)
    images[B, 18:22, 10:30] = both[B, :80].reshape(-1, 4, 20)
    found = class_from(audit(rows(), images))
    assert found["the border"] == "strong class signal"
    assert {found["the corners"], found["the grey histogram"]} <= NOTHING


def test_an_exposure_shift_is_found_in_raw_pixels_alone():
    images = noise()
    images[B] += 40  # equalisation takes it out of the shrunk images, as out of all that the network sees
    found = class_from(audit(rows(), images))
    raw = {"the grey histogram", "the border", "the corners"}
    assert {found.pop(name) for name in raw} == {"strong class signal"}
    assert len(found) == 3 and set(found.values()) <= NOTHING


def test_what_is_in_the_middle_does_not_leak_into_border_and_corners():
    images = noise()
    images[B, 12:28, 12:28] //= 2  # equalised first, this would change every pixel of the image
    found = class_from(audit(rows(), images))
    assert {found["the border"], found["the corners"]} <= NOTHING
    assert found["8×8 pixels"] == found["the grey histogram"] == "above chance, possibly disease"
    middle = np.zeros(images.shape, bool)
    middle[:, 12:28, 12:28] = True
    report = audit(rows(), images, lungs=middle)
    assert (
        set(class_from(report).values()) <= NOTHING and report.table.index[0] == "class from 4×4 pixels, lungs masked"
    )
    middle[0] = False  # a mask that some images lack gives them away, so none is used
    assert "class from 4×4 pixels" in audit(rows(), images, lungs=middle).table.index


def test_a_faint_gradient_over_the_whole_image_is_found_in_4_by_4_pixels():
    images = noise()
    images[B] += np.linspace(0, 25, SIDE).astype(np.uint8)
    report = audit(rows(), images)
    row = report.table.loc["class from 4×4 pixels"]
    assert row.low > row.chance and row.value > 0.9
    assert row.low <= row.value <= row.high and (row.chance, row.expected, row.n) == (0.5, "0.50", N)


def test_where_nothing_is_injected_nothing_is_found():
    rng = np.random.default_rng(3)
    more = {"source": rng.choice(["x", "y"], N), "sex": rng.choice(["F", "M", ""], N), "age": rng.integers(20, 60, N)}
    found = conclusions(audit(rows(**more), noise(3)))
    assert len(found) == 6 + 4 and set(found.values()) <= NOTHING


def blurred(images):
    return np.stack([cv2.GaussianBlur(image, (0, 0), 0.7) for image in images])


DEVICES = {
    "sharpness": lambda images: blurred(images),
    "noise": lambda images: np.clip(images + np.random.default_rng(9).normal(0, 25, images.shape), 0, 255).astype(
        np.uint8
    ),
    "contrast": lambda images: (128 + 0.7 * (images.astype(float) - 128)).astype(np.uint8),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("device", [None, *DEVICES])
def test_a_device_shows_in_sharpness_noise_and_contrast_and_a_finding_inside_the_lungs_does_not(device, seed):
    lungs, images = np.zeros((N, SIDE, SIDE), bool), noise(seed)
    lungs[:, LUNGS[0], LUNGS[1]] = True
    images[B, LUNGS[0], LUNGS[1]] = blurred(images)[B, LUNGS[0], LUNGS[1]]  # a finding
    if device:
        images[B] = DEVICES[device](images[B])
    outside, inside = low_level_statistics(AuditData(rows(), images, lungs))
    assert inside.value > 0.9 and inside.shortcut == (device is not None)
    assert inside.conclusion == ("strong class signal" if device else "above chance, possibly disease")
    assert outside.conclusion == "strong class signal" if device else outside.conclusion in NOTHING
    whole = low_level_statistics(AuditData(rows(), images))
    assert whole.value > 0.8 and whole.conclusion == "above chance, possibly disease" and not whole.shortcut


def test_an_exposure_shift_does_not_show_in_sharpness_noise_and_contrast():
    images = noise()
    region = np.ones(images.shape, bool)
    assert np.allclose(band_features(images, region), band_features(images + np.uint8(40), region), atol=1e-4)


def test_a_source_that_is_the_class_gives_it_away(without_pixel_probes):
    images = noise()
    images[B, :20] //= 2
    found = conclusions(audit(rows(source=np.where(B, "hospital", "clinic")), images))
    assert list(found) == ["source from 8×8 pixels", "class from the source's name alone"]
    assert list(found.values()) == ["strong source signal", "confounded with the class"]


def test_sources_that_show_but_are_balanced_do_not_give_the_class_away(without_pixel_probes):
    images, of_clinic = noise(), np.arange(N) % 4 < 2
    images[of_clinic, :20] //= 2
    report = audit(rows(source=np.where(of_clinic, "clinic", "hospital")), images)
    assert report.table.value["source from 8×8 pixels"] > 0.95
    said = conclusions(report)
    assert said["source from 8×8 pixels"] == "strong source signal, not associated with the class"
    assert said["class from the source's name alone"] in NOTHING and report.ranked().empty


def test_sources_of_few_patients_are_skipped():
    few = np.random.default_rng(0).permutation(N) // 3
    assert attributes(AuditData(rows(source=few), noise())) == []


def test_view_sex_and_age_are_predicted_where_enough_patients_are_known(without_pixel_probes):
    images, columns = noise(), np.arange(N) % 4
    images[columns == 0, :20] //= 2
    view = np.where(columns == 0, "AP", "PA")
    view[:10] = ""
    age = np.where(columns < 2, 30.0, 70.0)
    age[10:15], age[100:110] = 5.0, np.nan  # five children are too few
    sex, patients = np.where(columns == 0, "F", "M"), np.where(columns == 0, "one", np.arange(N).astype(str))
    table = audit(rows(view=view, age=age), images).table
    assert table.conclusion["view from 8×8 pixels"].startswith("strong view signal")
    leakage = table[table.index.str.endswith("from 8×8 pixels")]
    assert leakage.n.to_dict() == {"age group from 8×8 pixels": 105, "view from 8×8 pixels": 110}
    one_woman = audit(rows(sex=sex, patient_id=patients, age=age), images).table
    assert not one_woman.index.str.contains("sex").any()


def test_an_age_that_goes_with_the_class_is_confounded_and_a_source_of_children_needs_none_written(
    without_pixel_probes,
):
    images = noise()
    images[B, :20] //= 2
    table = audit(rows(source=np.where(B, "kaggle-chest-xray", "s"), age=np.where(B, np.nan, 50.0)), images).table
    assert table.conclusion["age group from 8×8 pixels"] == "strong age group signal"
    assert table.conclusion["class from the age group alone"] == "confounded with the class"


@pytest.fixture
def network_probes(without_pixel_probes):
    def probe(part, **options):
        images, masks = noise(), np.zeros((N, SIDE, SIDE), bool)
        images[B, part[0], part[1]] = 255  # the class shows in that part
        masks[:-10, LUNGS[0], LUNGS[1]] = True
        table = audit(rows(**options), images, BrightnessModel(part), lungs=masks).table
        return table[table.index.str.startswith("the network, ")].rename(lambda name: name.split(", ")[1])

    return probe


@pytest.mark.parametrize(
    ("part", "occluded", "only_lungs"),
    [
        (CORNER, "strong class signal", "not distinguishable from chance"),
        (LUNGS, "not distinguishable from chance", "well above chance"),
    ],
)
def test_a_network_needs_what_it_uses(part, occluded, only_lungs, network_probes):
    table = network_probes(part)
    assert table.index.tolist() == [
        "original images",
        "lungs occluded",
        "lungs only",
        "background blurred",
    ]
    # a bright corner stays bright when it is blurred, and the lungs stay as they are
    assert table.conclusion.tolist() == ["well above chance", occluded, only_lungs, "well above chance"]
    assert table.expected.tolist() == ["well above chance", "0.50", "well above chance", "well above chance"]
    assert table.shortcut.tolist() == [False, part is CORNER, False, False]
    assert (table.n == N - 10).all() and set(table.value[:3]) == {0.5, 1.0}
    assert (network_probes(part, split=np.where(np.arange(N) < 30, "test", "train")).n == 30).all()


def test_occlusion_needs_known_lungs(without_pixel_probes):
    for masks in (None, np.zeros((N, SIDE, SIDE), bool)):
        report = audit(rows(source=B.astype(str)), noise(), BrightnessModel(CORNER), lungs=masks)
        assert not report.table.index.str.contains("the network").any()


def judge_view(result):
    return judge_signal(result, "view")


@pytest.mark.parametrize(
    ("skill", "judge", "conclusion"),
    [
        (0.6, judge_view, "strong view signal"),
        (0.3, judge_view, "moderate view signal"),
        (0.1, judge_view, "weak view signal"),
        (-0.1, judge_view, "below chance"),
        (0.6, judge_performance, "well above chance"),
        (0.3, judge_performance, "above chance"),
    ],
)
def test_conclusions_follow_the_chance_corrected_score(skill, judge, conclusion):
    n = 20_000
    right = np.arange(n) < n * (0.5 + 0.5 * skill)
    truth = np.where(np.arange(n) % 2, "AP", "PA")
    predicted = np.where(right, truth, "?")
    assert judge(accuracy_result("", predicted, truth, np.arange(n) // 20)).conclusion == conclusion


def test_a_recognisable_patient_helps_only_where_patients_are_on_both_sides():
    rng = np.random.default_rng(0)
    patients, labels = np.repeat(np.arange(30), 4), np.repeat(np.array(["a", "b"])[np.arange(30) % 2], 4)
    x = rng.normal(size=(30, 40))[patients] + 0.05 * rng.normal(size=(120, 40))
    assert (grouped_predictions(x, labels, np.arange(120)) == labels).mean() > 0.95
    by_patient = grouped_predictions(x, labels, patients)
    assert (by_patient == labels).mean() < 0.7
    np.testing.assert_array_equal(grouped_predictions(x, labels, patients), by_patient)


def test_logistic_regression_learns_what_was_planted_and_not_noise():
    rng = np.random.default_rng(0)
    x, labels, patients = rng.normal(size=(300, 36)), np.array(list("abc"))[np.arange(300) % 3], np.arange(300)
    assert 0.2 < (grouped_predictions(x, labels, patients) == labels).mean() < 0.47
    x[labels == "b", 0] += 3
    x[labels == "c", 35] += 3
    x[:, 21] = 7  # a constant feature
    for scale in (1, 1e6):
        assert (grouped_predictions(x * scale, labels, patients) == labels).mean() > 0.85
    x[1, 0] = np.nan
    with pytest.raises(CovidxrError, match="features holds nan at place 1, 0"):
        grouped_predictions(x, labels, patients)


def test_a_class_of_few_patients_gets_fewer_folds_and_of_one_is_refused():
    x, labels = np.repeat([0.0, 1.0], 20)[:, None].repeat(9, 1), np.repeat(["a", "b"], 20)
    assert (grouped_predictions(x, labels, np.r_[np.arange(20), np.repeat([20, 21], 10)]) == labels).all()
    with pytest.raises(CovidxrError, match="'b' has one patient only"):
        grouped_predictions(x, labels, np.r_[np.arange(20), np.full(20, 20)])


def test_what_lies_in_the_middle_is_no_feature_of_edges_and_histogram():
    images, inner = noise(n=3), noise(n=3)
    inner[:, 8:32, 8:32] = np.sort(inner[:, 8:32, 8:32].reshape(3, -1)).reshape(3, 24, 24)
    found, expected = pixel_features(inner), pixel_features(images)
    assert [x.shape[1:] for x in found.values()] == [(4, 4), (8, 8), (16,), (40**2 - 36**2,), (4 * 8 * 8,)]
    changed = [name for name in found if (found[name] != expected[name]).any()]
    assert changed == ["4×4 pixels", "8×8 pixels"]


def test_the_report_goes_into_json(tmp_path, without_pixel_probes):
    report = audit(rows(source=np.where(B, "x", "y")), noise())
    write_json(tmp_path / "audit.json", report.to_dict())
    stored = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    alone = stored["class from the source's name alone"]
    low, high = alone.pop("low"), alone.pop("high")
    assert alone == {
        "category": "Attribute leakage", "value": 1.0, "chance": 0.5, "expected": "0.50", "n": N,
        "conclusion": "confounded with the class", "shortcut": True, "missed_expectation": True,
    }  # fmt: skip
    assert 0.9 < low < 1 == high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given | {"images": noise(n=7)}, "has 120 rows, but there are 7 images"),
        (lambda given: given | {"manifest": rows()[::2], "images": noise(n=60)}, "needs two classes, .* only 'a'"),
        (lambda given: given | {"manifest": rows().drop(columns="sex")}, "no column sex"),
        (lambda given: given | {"lungs": np.ones((N, 8, 8), bool)}, r"masks of shape \(120, 8, 8\) do not belong"),
        (
            lambda given: given | {"model": BrightnessModel(CORNER, outputs=3)},
            "model has 3 outputs, but there are 2 classes: a, b",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, message, without_pixel_probes):
    given = change({"manifest": rows(), "images": noise(), "model": BrightnessModel(CORNER), "lungs": noise() > 0})
    with pytest.raises(CovidxrError, match=message):
        audit(**given)


def probe(name, value, low, high, chance=0.5, n=40, shortcut=False, missed=False):
    return ProbeResult(name, value, low, high, n, chance, NO_LUNGS, f"{chance:.2f}", "", shortcut, missed)


def summary(*probes):
    return AuditReport(pd.DataFrame(probes).set_index("probe")).summary()


def test_without_a_class_signal_the_summary_gives_the_largest_that_is_not_excluded():
    shrunk = probe("class from 8×8 pixels", 0.78, 0.47, 1.0)
    *_, few = summary(shrunk, probe("class from the corners", 0.5, 0.4, 0.6))
    assert few == (
        "No class signal without lung content is shown, but with 40 images a chance-corrected score of up to 1.00 is not "
        "excluded: class from 8×8 pixels, accuracy 0.78 (95 % CI 0.47–1.00), chance 0.50."
    )
    *_, many = summary(probe("class from 8×8 pixels", 0.5, 0.48, 0.52, n=4000))
    assert "of up to 0.04 is" in many and "4000 images" in many
    *_, disease = summary(probe("class from 8×8 pixels", 0.7, 0.6, 0.8, missed=True))
    assert disease.startswith("The class signal may come from disease (class from 8×8 pixels), but with 40 images")
    assert (
        summary(probe("heat inside the lungs", 0.5, 0.4, 0.6))[-1]
        == "No probe predicted the class without lung content."
    )


def test_the_summary_counts_shortcuts_and_other_missed_expectations():
    fine, missed = (
        probe("class from the corners", 0.5, 0.4, 0.6),
        probe("heat inside the lungs", 0.2, 0.1, 0.3, missed=True),
    )
    found = probe("class from 8×8 pixels", 0.9, 0.8, 1.0, shortcut=True, missed=True)
    assert summary(fine, missed)[0] == (
        "0 of 2 probes found a shortcut; not as expected: 1 of the others (heat inside the lungs)."
    )
    assert summary(fine, missed, found)[0].startswith(
        "1 of 3 probes found a shortcut; not as expected: 1 of the others"
    )
    assert "every other probe is as expected" in summary(fine, found)[0]


@pytest.mark.parametrize(
    ("occluded", "only", "conclusion"),
    [
        ((0.3, 0.2, 0.4), (0.41, 0.3, 0.52), ": not distinguishable from chance, so the use of lungs is not shown."),
        ((0.3, 0.2, 0.4), (0.95, 0.9, 1.0), ": well above chance."),
        ((0.3, 0.2, 0.4), (0.5, 0.45, 0.55), ": above chance."),
        ((0.8, 0.7, 0.9), (0.95, 0.9, 1.0), ": strong class signal, so lungs are not needed."),
    ],
)
def test_the_summary_compares_occluded_lungs_with_lungs_only(occluded, only, conclusion):
    names = "the network, lungs occluded", "the network, lungs only"
    _, network, _ = summary(
        judge_signal(probe(names[0], *occluded, 1 / 3), "class"), judge_performance(probe(names[1], *only, 1 / 3))
    )
    assert f"{occluded[0]:.2f} (95 % CI" in network and f"{only[0]:.2f} (95 % CI" in network and conclusion in network
    assert ("lungs are not needed" in network) == (occluded[1] > 1 / 3)


def test_accuracy_above_chance_is_no_shortcut_where_lungs_are_visible(
    network_probes,
):
    table = network_probes(LUNGS)
    assert table.low["original images"] > table.chance["original images"] and not table.shortcut["original images"]
    assert not table.missed_expectation.any()
    assert network_probes(CORNER).missed_expectation.tolist() == [False, True, True, False]


def test_every_judgement_says_whether_it_misses_its_expectation():
    truth = ["a", "b"] * 20
    wrong = judge_performance(accuracy_result("", ["a"] * 40, truth, range(40)))
    right = judge_performance(accuracy_result("", truth, truth, range(40)))
    signal = judge_signal(accuracy_result("", truth, truth, range(40)), "class")
    assert (wrong.missed_expectation, right.missed_expectation, signal.missed_expectation) == (True, False, True)


def test_two_external_sets_of_one_name_are_refused(without_pixel_probes):
    twice = [ExternalSet("north", rows(n=20), noise(n=20), {})] * 2
    with pytest.raises(CovidxrError, match="two sets of images have one name, of test images, north, north"):
        audit(rows(), noise(), BrightnessModel(CORNER), external_sets=twice)


def test_any_class_may_be_the_positive_one_and_one_that_is_not_there_is_refused(without_pixel_probes):
    manifest = rows(classes=["Healthy", "TB"])
    external = [ExternalSet("north", rows(n=40, classes=["Healthy", "TB"], source=["n"] * 40), noise(n=40), {})]
    table = audit(manifest, noise(), BrightnessModel(CORNER), external_sets=external, positive="TB").table
    assert "confidence about TB in n (external)" in table.index and not table.index.str.contains("against other").any()
    assert (
        not audit(manifest, noise(), BrightnessModel(CORNER), external_sets=external)
        .table.index.str.contains("TB")
        .any()
    )
    with pytest.raises(CovidxrError, match="unknown class as `positive`: 'COVID'; available: Healthy, TB"):
        audit(manifest, noise(), positive="COVID")


PER_CLASS = 60
MADE_FOR = {
    "marker": "the corners", "exposure": "the grey histogram", "body_size": "8×8 pixels", "border": "the border",
}  # fmt: skip


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """The report on phantoms with a shortcut of the given strength; each is drawn once."""
    folder, known = tmp_path_factory.mktemp("phantoms"), {}

    def look(name, strength, masks=True):
        shortcut = {name: strength} if strength else {}
        key = (*shortcut.items(), masks)
        if key not in known:
            rows = load_phantoms(folder, per_class=PER_CLASS, size=64, shortcut=shortcut)
            rows = rows if masks else rows.assign(lung_mask="")
            with threadpool_limits(1):  # small matrices are processed faster by one thread than by many that wait
                known[key] = audit(rows, np.stack(read_images(rows.path, 64)))
        return known[key]

    return look


def test_where_nothing_is_injected_every_probe_says_so(audited):
    report = audited("", 0)
    assert report.ranked().empty
    assert report.sentences()[-1].startswith("No class signal without lung content is shown, but with 180 images ")
    assert report.summary()[0].startswith(f"0 of {len(report.table)} probes found a shortcut; ")
    inputs = report.table[report.table.index.str.startswith("class from")]
    assert len(inputs) == 9 and set(inputs.conclusion) <= NOTHING
    leakage = report.table[report.table.index.str.endswith("from 8×8 pixels")].conclusion
    assert all(
        one == "not distinguishable from chance" or one.endswith("not associated with the class") for one in leakage
    )


@pytest.mark.parametrize("name", MADE_FOR)
def test_an_injected_shortcut_is_found_by_the_probe_made_for_it_and_ranked_by_its_strength(name, audited):
    probe = f"class from {MADE_FOR[name]}, lungs masked"
    none, half, full = (audited(name, strength).table.loc[probe] for strength in (0, 0.5, 1))
    assert full.conclusion == "strong class signal" and full.shortcut and full.value > 0.8
    assert none.high < full.low and half.conclusion != "strong class signal"
    assert none.value < half.value < full.value and half.value > half.chance + 0.08
    by_value = audited(name, 0.5).table.value.filter(like="lungs masked").sort_values(ascending=False)
    assert probe in by_value.index[:3]
    assert probe in audited(name, 1.0).ranked().index[:3]


@pytest.mark.parametrize("seed", range(1, 4))
def test_planted_cues_are_found_by_name_over_seeds_and_none_where_none_is_planted(seed, tmp_path):
    """Each cue by the probe that is made for it."""
    found = {}
    for shortcut in ({}, {"marker": 1.0}, {"border": 1.0}, {"exposure": 1.0}):
        manifest = load_phantoms(tmp_path, per_class=40, size=48, seed=seed, shortcut=shortcut)
        data = AuditData(manifest, np.stack(read_images(manifest.path, 48)), load_masks(manifest.lung_mask, 48))
        results = [*low_information_inputs(data), low_level_statistics(data)[0]]
        found[next(iter(shortcut), "")] = {one.probe.removeprefix("class from "): one for one in results}
    assert not any(one.shortcut for one in found[""].values())
    for cue in ("marker", "border", "exposure"):
        assert found[cue][f"{MADE_FOR[cue]}, lungs masked"].conclusion == "strong class signal"
    assert not found["marker"]["the grey histogram, lungs masked"].shortcut


def test_without_masks_visible_disease_is_no_shortcut_unless_the_frame_has_a_signal_as_well(audited):
    none, marked = (audited("marker", strength, masks=False).table for strength in (0, 1.0))
    assert not none.shortcut.any()
    shrunk = none.loc["class from 8×8 pixels"]
    assert shrunk.low > shrunk.chance and shrunk.conclusion == "above chance, possibly disease"
    assert shrunk.missed_expectation
    assert (
        marked.conclusion["class from the corners"]
        == marked.conclusion["class from 8×8 pixels"]
        == "strong class signal"
    )


@pytest.mark.realdata
def test_the_article_s_selection_shows_source_and_age_confounded_with_the_class(shared):
    chosen = build_dataset(["covid-chestxray", "kaggle-chest-xray"], shared / "data", per_class=179, image_size=64)
    with threadpool_limits(1):
        table = audit(chosen.manifest, chosen[1]).table
    for probe in ("source", "age group"):
        assert table.shortcut[f"{probe} from 8×8 pixels"], table.value
    for probe in ("the source's name alone", "the age group alone"):
        assert table.conclusion[f"class from {probe}"] == "confounded with the class"
    assert table.value["source from 8×8 pixels"] > 0.9 and table.value["class from 4×4 pixels"] > 0.8
    # Two classes share a source.
    assert table.value["class from the source's name alone"] == pytest.approx(2 / 3, abs=0.03)


def test_a_named_lung_mask_that_is_missing_is_not_taken_for_none(tmp_path):
    manifest = rows().assign(lung_mask=str(tmp_path / "no-such-mask.png"))
    with pytest.raises(CovidxrError, match="no-such-mask.png"):
        shortcut_audit(Dataset(manifest, noise()))
