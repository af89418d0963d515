"""The audit: each planted shortcut is found by the probe made for it, and nothing is found where nothing was planted."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from planted import CORNER, LUNGS, SIDE, B, N, Reader, noise, rows
from threadpoolctl import threadpool_limits

from covidxr import audit
from covidxr.audit import AuditReport, grouped_predictions, pixel_features, shortcut_audit
from covidxr.errors import CovidxrError
from covidxr.external import ExternalSet
from covidxr.files import write_json
from covidxr.probes import whose_film
from covidxr.verdicts import LUNGS as LUNGS_TOPIC
from covidxr.verdicts import Probe, accuracy_probe

NOTHING = {"not told from chance", "no better than chance"}


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices are read faster by one thread than by many that wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def without_pixel_probes(monkeypatch):
    monkeypatch.setattr(audit, "less_than_a_lung", lambda *args: [])


def verdicts(report) -> dict:
    return report.table.verdict.to_dict()


def class_from(report) -> dict:
    start = "class from "
    return {probe.removeprefix(start): said for probe, said in verdicts(report).items() if probe.startswith(start)}


def sort_block(films, rows_, columns) -> None:
    """Order the grey values of one block: upwards in class a, downwards in b, so that its mean and histogram stay."""
    block = films[:, rows_, columns]
    flat = np.sort(block.reshape(len(films), -1), axis=1)
    flat[B] = flat[B, ::-1]
    films[:, rows_, columns] = flat.reshape(block.shape)


def test_a_corner_marker_is_found_where_it_can_be_seen_and_nowhere_else():
    films = noise()
    sort_block(films, slice(0, 5), slice(0, 5))  # within one of the 8×8 pixels, which therefore cannot see it
    found = class_from(shortcut_audit(rows(), films))
    assert found["the corners"] == found["the outer frame"] == "tells the class"
    assert {found["4×4 pixels"], found["8×8 pixels"], found["the grey histogram"]} <= NOTHING


def test_a_bright_frame_is_found_by_the_frame_and_not_by_the_corners():
    films = noise()
    edge, middle = films[:, :4, 10:30].reshape(N, -1), films[:, 18:22, 10:30].reshape(N, -1)
    both = np.sort(np.concatenate([middle, edge], axis=1), axis=1)  # the same grey values, the brightest at the edge
    films[B, :4, 10:30] = both[B, 80:].reshape(-1, 4, 20)
    films[B, 18:22, 10:30] = both[B, :80].reshape(-1, 4, 20)
    found = class_from(shortcut_audit(rows(), films))
    assert found["the outer frame"] == "tells the class"
    assert {found["the corners"], found["the grey histogram"]} <= NOTHING


def test_an_exposure_shift_is_found_in_raw_pixels_alone():
    films = noise()
    films[B] += 40  # equalisation takes it out of the shrunk films, as out of all that the network sees
    found = class_from(shortcut_audit(rows(), films))
    raw = {"the grey histogram", "the outer frame", "the corners"}
    assert {found.pop(name) for name in raw} == {"tells the class"}
    assert len(found) == 2 and set(found.values()) <= NOTHING


def test_what_is_in_the_middle_does_not_leak_into_frame_and_corners():
    films = noise()
    films[B, 12:28, 12:28] //= 2  # equalised first, this would change every pixel of the film
    found = class_from(shortcut_audit(rows(), films))
    assert {found["the outer frame"], found["the corners"]} <= NOTHING
    assert found["8×8 pixels"] == found["the grey histogram"] == "above chance, as disease alone can be"
    middle = np.zeros(films.shape, bool)
    middle[:, 12:28, 12:28] = True
    report = shortcut_audit(rows(), films, lungs=middle)
    assert (
        set(class_from(report).values()) <= NOTHING
        and report.table.index[0] == "class from 4×4 pixels, lungs painted out"
    )
    middle[0] = False  # a mask that some films lack gives them away, so none is used
    assert "class from 4×4 pixels" in shortcut_audit(rows(), films, lungs=middle).table.index


def test_a_faint_gradient_over_the_whole_film_is_found_in_4_by_4_pixels():
    films = noise()
    films[B] += np.linspace(0, 25, SIDE).astype(np.uint8)
    report = shortcut_audit(rows(), films)
    row = report.table.loc["class from 4×4 pixels"]
    assert row.low > row.chance and row.value > 0.9
    assert row.low <= row.value <= row.high and (row.chance, row.ideal, row.n) == (0.5, "0.50", N)


def test_where_nothing_is_planted_nothing_is_found():
    rng = np.random.default_rng(3)
    more = {"source": rng.choice(["x", "y"], N), "sex": rng.choice(["F", "M", ""], N), "age": rng.integers(20, 60, N)}
    found = verdicts(shortcut_audit(rows(**more), noise(3)))
    assert len(found) == 5 + 4 and set(found.values()) <= NOTHING


def test_a_source_that_is_the_class_gives_it_away(without_pixel_probes):
    films = noise()
    films[B, :20] //= 2
    found = verdicts(shortcut_audit(rows(source=np.where(B, "hospital", "clinic")), films))
    assert list(found) == ["source from 8×8 pixels", "class from the source's name alone"]
    assert list(found.values()) == ["tells the source", "confounded with the class"]


def test_sources_that_show_but_are_balanced_do_not_give_the_class_away(without_pixel_probes):
    films, of_clinic = noise(), np.arange(N) % 4 < 2
    films[of_clinic, :20] //= 2
    report = shortcut_audit(rows(source=np.where(of_clinic, "clinic", "hospital")), films)
    assert report.table.value["source from 8×8 pixels"] > 0.95
    said = verdicts(report)
    assert said["source from 8×8 pixels"] == "tells the source, which does not go with the class"
    assert said["class from the source's name alone"] in NOTHING and report.ranked().empty


def test_no_source_of_few_patients_is_asked_for():
    few = np.random.default_rng(0).permutation(N) // 3
    assert whose_film(rows(source=few), noise()) == []


def test_view_sex_and_age_are_asked_for_where_enough_patients_are_known(without_pixel_probes):
    films, columns = noise(), np.arange(N) % 4
    films[columns == 0, :20] //= 2
    view = np.where(columns == 0, "AP", "PA")
    view[:10] = ""
    age = np.where(columns < 2, 30.0, 70.0)
    age[10:15], age[100:110] = 5.0, np.nan  # five children are too few to ask for
    sex, patients = np.where(columns == 0, "F", "M"), np.where(columns == 0, "one", np.arange(N).astype(str))
    table = shortcut_audit(rows(view=view, age=age), films).table
    assert table.verdict["view from 8×8 pixels"].startswith("tells the view")
    told = table[table.index.str.endswith("from 8×8 pixels")]
    assert told.n.to_dict() == {"age group from 8×8 pixels": 105, "view from 8×8 pixels": 110}
    one_woman = shortcut_audit(rows(sex=sex, patient_id=patients, age=age), films).table
    assert not one_woman.index.str.contains("sex").any()


def test_an_age_that_goes_with_the_class_is_confounded_and_a_source_of_children_needs_none_written(
    without_pixel_probes,
):
    films = noise()
    films[B, :20] //= 2
    table = shortcut_audit(
        rows(source=np.where(B, "kaggle-chest-xray", "s"), age=np.where(B, np.nan, 50.0)), films
    ).table
    assert table.verdict["age group from 8×8 pixels"] == "tells the age group"
    assert table.verdict["class from the age group alone"] == "confounded with the class"


@pytest.fixture
def network_probes(without_pixel_probes):
    def probe(part, **options):
        films, masks = noise(), np.zeros((N, SIDE, SIDE), bool)
        films[B, part[0], part[1]] = 255  # the class shows in that part
        masks[:-10, LUNGS[0], LUNGS[1]] = True
        table = shortcut_audit(rows(**options), films, Reader(part), masks).table
        return table[table.index.str.startswith("the network, ")].rename(lambda name: name.split(", ")[1])

    return probe


@pytest.mark.parametrize(
    ("part", "blacked_out", "only_lungs"),
    [(CORNER, "tells the class", "not told from chance"), (LUNGS, "not told from chance", "well above chance")],
)
def test_a_network_needs_what_it_reads(part, blacked_out, only_lungs, network_probes):
    table = network_probes(part)
    assert table.index.tolist() == [
        "lungs in view",
        "lungs blacked out",
        "nothing but lungs",
        "all but the lungs blurred",
    ]
    # a bright corner stays bright when it is blurred, and the lungs stay as they are
    assert table.verdict.tolist() == ["well above chance", blacked_out, only_lungs, "well above chance"]
    assert table.ideal.tolist() == ["well above chance", "0.50", "well above chance", "well above chance"]
    assert table.shortcut.tolist() == [False, part is CORNER, False, False]
    assert (table.n == N - 10).all() and set(table.value[:3]) == {0.5, 1.0}
    assert (network_probes(part, split=np.where(np.arange(N) < 30, "test", "train")).n == 30).all()


def test_a_network_is_tried_only_where_lungs_are_known(without_pixel_probes):
    for masks in (None, np.zeros((N, SIDE, SIDE), bool)):
        report = shortcut_audit(rows(source=B.astype(str)), noise(), Reader(CORNER), masks)
        assert not report.table.index.str.contains("the network").any()


@pytest.mark.parametrize(
    ("gained", "wanted", "said"),
    [
        *((0.6, False, "tells the view"), (0.3, False, "a hint of the view"), (0.1, False, "a trace of the view")),
        *((0.6, True, "well above chance"), (0.3, True, "above chance"), (-0.1, False, "no better than chance")),
    ],
)
def test_verdicts_in_words_grow_with_the_share_of_the_way_to_perfect(gained, wanted, said):
    n = 20_000
    right = np.arange(n) < n * (0.5 + 0.5 * gained)
    truth = np.where(np.arange(n) % 2, "AP", "PA")
    predicted = np.where(right, truth, "?")
    assert accuracy_probe("", LUNGS_TOPIC, "view", predicted, truth, np.arange(n) // 20, wanted=wanted).verdict == said


def test_a_patient_known_by_sight_helps_only_where_patients_straddle_folds():
    rng = np.random.default_rng(0)
    patients, labels = np.repeat(np.arange(30), 4), np.repeat(np.array(["a", "b"])[np.arange(30) % 2], 4)
    x = rng.normal(size=(30, 40))[patients] + 0.05 * rng.normal(size=(120, 40))
    assert (grouped_predictions(x, labels, np.arange(120)) == labels).mean() > 0.95
    by_patient = grouped_predictions(x, labels, patients)
    assert (by_patient == labels).mean() < 0.7
    np.testing.assert_array_equal(grouped_predictions(x, labels, patients), by_patient)


def test_a_class_of_few_patients_gets_fewer_folds_and_of_one_is_refused():
    x, labels = np.repeat([0.0, 1.0], 20)[:, None].repeat(9, 1), np.repeat(["a", "b"], 20)
    assert (grouped_predictions(x, labels, np.r_[np.arange(20), np.repeat([20, 21], 10)]) == labels).all()
    with pytest.raises(CovidxrError, match="'b' has one patient only"):
        grouped_predictions(x, labels, np.r_[np.arange(20), np.full(20, 20)])


def test_what_lies_in_the_middle_is_no_feature_of_edges_and_histogram():
    films, inner = noise(n=3), noise(n=3)
    inner[:, 8:32, 8:32] = np.sort(inner[:, 8:32, 8:32].reshape(3, -1)).reshape(3, 24, 24)
    found, expected = pixel_features(inner), pixel_features(films)
    assert [x.shape[1:] for x in found.values()] == [(4, 4), (8, 8), (16,), (40**2 - 32**2,), (4 * 8 * 8,)]
    changed = [name for name in found if (found[name] != expected[name]).any()]
    assert changed == ["4×4 pixels", "8×8 pixels"]


def test_the_report_goes_into_json(tmp_path, without_pixel_probes):
    report = shortcut_audit(rows(source=np.where(B, "x", "y")), noise())
    write_json(tmp_path / "audit.json", report.to_dict())
    stored = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    alone = stored["class from the source's name alone"]
    low, high = alone.pop("interval")
    assert alone == {
        "topic": "Whose film is it", "value": 1.0, "chance": 0.5, "ideal": "0.50", "n": N,
        "verdict": "confounded with the class", "shortcut": True, "missed_ideal": True,
    }  # fmt: skip
    assert 0.9 < low < 1 == high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given | {"pixels": noise(n=7)}, "has 120 rows, but there are 7 films"),
        (lambda given: given | {"manifest": rows()[::2], "pixels": noise(n=60)}, "needs two classes, .* only 'a'"),
        (lambda given: given | {"manifest": rows().drop(columns="sex")}, "no column sex"),
        (lambda given: given | {"lungs": np.ones((N, 8, 8), bool)}, r"masks of shape \(120, 8, 8\) do not belong"),
        (
            lambda given: given | {"model": Reader(CORNER, outputs=3)},
            "model has 3 outputs, but there are 2 classes: a, b",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, message, without_pixel_probes):
    given = change({"manifest": rows(), "pixels": noise(), "model": Reader(CORNER), "lungs": noise() > 0})
    with pytest.raises(CovidxrError, match=message):
        shortcut_audit(**given)


def probe(name, value, low, high, chance=0.5, n=40, shortcut=False, missed=False):
    return Probe(name, LUNGS_TOPIC, value, low, high, chance, f"{chance:.2f}", n, "as it is", shortcut, missed)


def in_short(*probes):
    return AuditReport(pd.DataFrame(probes).set_index("probe")).in_short()


def test_where_no_reader_tells_the_class_it_is_said_how_much_could_have_gone_unseen():
    shrunk = probe("class from 8×8 pixels", 0.78, 0.47, 1.0)
    *_, few = in_short(shrunk, probe("class from the corners", 0.5, 0.4, 0.6))
    assert few == (
        "No reader without lungs is shown to tell the class of these 40 images, but 100% of the way from chance to perfect "
        "could have gone unseen: the class from 8×8 pixels is told in 0.78 of them (95 % CI 0.47–1.00), chance 0.50."
    )
    *_, many = in_short(probe("class from 8×8 pixels", 0.5, 0.48, 0.52, n=4000))
    assert "but 4% of the way" in many and "4000 images" in many
    *_, disease = in_short(probe("class from 8×8 pixels", 0.7, 0.6, 0.8, missed=True))
    assert disease.startswith("What is told of the class of these 40 images (class from 8×8 pixels) may be disease")
    assert (
        in_short(probe("heat inside the lungs", 0.5, 0.4, 0.6))[-1]
        == "No reader without lungs was asked for the class."
    )


def test_probes_that_miss_their_ideal_are_counted_beside_those_that_find_a_shortcut():
    fine, missed = (
        probe("class from the corners", 0.5, 0.4, 0.6),
        probe("heat inside the lungs", 0.2, 0.1, 0.3, missed=True),
    )
    found = probe("class from 8×8 pixels", 0.9, 0.8, 1.0, shortcut=True, missed=True)
    assert in_short(fine, missed)[0] == (
        "0 of 2 probes found a shortcut; 1 of the others is not shown to be as if all were well: heat inside the lungs."
    )
    assert in_short(fine, missed, found)[0].startswith("1 of 3 probes found a shortcut; 1 of the others")
    assert "none of the others" in in_short(fine, found)[0]


@pytest.mark.parametrize(
    ("gone", "alone", "said"),
    [
        ((0.3, 0.2, 0.4), (0.41, 0.3, 0.52), "not told from chance, so it is not shown to read lungs"),
        ((0.3, 0.2, 0.4), (0.95, 0.9, 1.0), "well above chance"),
        ((0.3, 0.2, 0.4), (0.5, 0.45, 0.55), "above chance"),
        ((0.8, 0.7, 0.9), (0.95, 0.9, 1.0), "above chance (0.33), so it does not need them"),
    ],
)
def test_lungs_alone_are_told_beside_what_is_lost_without_them(gone, alone, said):
    missed = alone[0] < 0.9
    names = "the network, lungs blacked out", "the network, nothing but lungs"
    _, network, _ = in_short(probe(names[0], *gone, 1 / 3), probe(names[1], *alone, 1 / 3, missed=missed))
    assert f"{gone[0]:.2f} (95 % CI" in network and f"{alone[0]:.2f} (95 % CI" in network and said in network
    assert ("as much as 0.40 could have gone unseen" in network) == (gone[1] < 1 / 3)


def test_a_right_answer_above_chance_is_no_shortcut_where_lungs_are_in_view_or_nothing_goes_with_the_class(
    network_probes,
):
    table = network_probes(LUNGS)
    assert table.low["lungs in view"] > table.chance["lungs in view"] and not table.shortcut["lungs in view"]
    assert not table.missed_ideal.any()
    assert network_probes(CORNER).missed_ideal.tolist() == [False, True, True, False]


def test_every_kind_of_probe_says_whether_it_misses_its_ideal():
    said = ["a", "b"] * 20
    wrong = accuracy_probe("", LUNGS_TOPIC, "class", ["a"] * 40, said, range(40), wanted=True)
    right = accuracy_probe("", LUNGS_TOPIC, "class", said, said, range(40), wanted=True)
    told = accuracy_probe("", LUNGS_TOPIC, "class", said, said, range(40))
    assert (wrong.missed_ideal, right.missed_ideal, told.missed_ideal) == (True, False, True)


def test_two_unseen_sets_of_one_name_are_refused(without_pixel_probes):
    twice = [ExternalSet("north", rows(n=20), noise(n=20), 0, 0)] * 2
    with pytest.raises(CovidxrError, match="two sets of images have one name, of test films, north, north"):
        shortcut_audit(rows(), noise(), Reader(CORNER), unseen=twice)


def test_any_class_may_be_the_positive_one_and_one_that_is_not_there_is_refused(without_pixel_probes):
    manifest = rows(classes=["Healthy", "TB"])
    unseen = [ExternalSet("north", rows(n=40, classes=["Healthy", "TB"], source=["n"] * 40), noise(n=40), 0, 0)]
    table = shortcut_audit(manifest, noise(), Reader(CORNER), unseen=unseen, positive="TB").table
    assert "sureness about TB in n, never seen" in table.index and not table.index.str.contains("against other").any()
    assert not shortcut_audit(manifest, noise(), Reader(CORNER), unseen=unseen).table.index.str.contains("TB").any()
    with pytest.raises(CovidxrError, match="unknown class as `positive`: 'COVID'; available: Healthy, TB"):
        shortcut_audit(manifest, noise(), positive="COVID")
