"""Phantom hospitals: each draws, cues change only what they name, and a probe finds a cue that is planted."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image
from planted import hospital_images
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from covidxr.data.hospitals import CUES, HOSPITALS, Border, Habit, Hospital, Marker
from covidxr.data.phantom import PHANTOM_CLASSES, load_phantoms, make_phantom, redraw
from covidxr.utils import CovidxrError

SIZE = 64
COUNTY = HOSPITALS["county"]


def draw(seed=0, label="COVID-19", size=SIZE, **options):
    return make_phantom(label, np.random.default_rng(seed), size, **{"hospital": "county", **options})


def accuracy(features, truth):
    """Share of correct predictions of a linear probe in five-fold cross-validation."""
    features = np.reshape(features, (len(features), -1)).astype(float)
    with threadpool_limits(1):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, C=0.1))
        return cross_val_score(probe, features, truth, cv=5).mean()


def shrunk(images, side=8):
    return np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images])


def histogram(images):
    return np.stack([np.histogram(image, 16, (0, 256))[0] for image in images])


def outermost(images):
    return np.concatenate([images[:, :2].mean(2), images[:, -2:].mean(2)], 1)


def corner(images):
    return images[:, :28, :28]


def roughness(images):
    """Fine structure by cell of a grid: blur and noise change it everywhere, cables where they lie."""
    fine = [np.abs(image - cv2.GaussianBlur(image, (0, 0), 1.5)) for image in images.astype(np.float32)]
    return np.log1p(shrunk(fine, 4))


def ridges(images):
    """Brightest thin line of each of the lower rows, in order of brightness."""
    lower = [cv2.GaussianBlur(image[len(image) // 2 : -4], (0, 0), 0.7) for image in images]
    thin = [cv2.morphologyEx(image, cv2.MORPH_TOPHAT, np.ones((1, 5), np.uint8)).max(1) for image in lower]
    return np.sort(thin, 1)


@pytest.mark.parametrize("name", HOSPITALS)
def test_a_hospital_draws_the_people_and_the_classes_that_it_has(tmp_path, name):
    hospital = HOSPITALS[name]
    rows = load_phantoms(tmp_path, hospital.classes, per_class=10, size=32, hospital=name)
    assert set(rows.source) == {f"phantom-{name}"} and rows.image_id.is_unique
    assert rows.age.between(*hospital.ages).all() and set(rows.sex) == {"F", "M"}
    assert abs((rows["view"] == "AP").mean() - hospital.ap) < 0.25
    assert rows.groupby("patient_id")[["label", "age", "sex"]].nunique().max().max() == 1
    stored = np.stack([np.asarray(Image.open(path)) for path in rows.path])
    shuffled = rows.sample(frac=1, random_state=0)
    assert np.array_equal(redraw(shuffled, 32), stored[shuffled.index])
    assert (redraw(rows, 32, {"exposure": replace(hospital, exposure=Habit(1.0, 0))}) != stored).any((1, 2)).all()


def test_hospitals_share_neither_patients_nor_images(tmp_path):
    hospitals = *HOSPITALS, None, replace(COUNTY, exposure=Habit(0, 0))
    frames = [load_phantoms(tmp_path, ["Normal"], per_class=3, size=32, hospital=hospital) for hospital in hospitals]
    ids = [image for frame in frames for image in frame.image_id]
    assert len(set(ids)) == 3 * len(hospitals) == len({frame.sha256[k] for frame in frames for k in range(3)})
    assert len({patient for frame in frames[:5] for patient in frame.patient_id}) == sum(
        frame.patient_id.nunique() for frame in frames[:5]
    )


def test_the_childrens_hospital_draws_children_and_its_sick_otherwise():
    healthy, sick = (hospital_images("childrens", label, 30) for label in ("Normal", "Bacteria"))
    adults = hospital_images("county", "Normal", 30)
    lungs = [
        np.mean([draw(k, "Normal", hospital=name).lung_mask.mean() for k in range(20)])
        for name in ("childrens", "county")
    ]
    assert lungs[0] < 0.8 * lungs[1]
    assert accuracy(shrunk(np.concatenate([healthy, adults]), 4), np.repeat([0, 1], 30)) > 0.9
    assert accuracy(shrunk(np.concatenate([healthy, sick]), 4), np.repeat([0, 1], 30)) > 0.75


def test_in_one_hospital_of_adults_four_by_four_pixels_hardly_see_disease():
    images = np.concatenate([hospital_images("county", label, 60) for label in PHANTOM_CLASSES[:3]])
    assert accuracy(shrunk(images, 4), np.repeat([0, 1, 2], 60)) < 0.55
    assert accuracy(outermost(images), np.repeat([0, 1, 2], 60)) < 0.45


@pytest.mark.parametrize("label", PHANTOM_CLASSES[1:])
def test_severe_disease_is_larger_and_denser_than_mild(label):
    mild, severe = ([draw(k, label, severity=severity) for k in range(12)] for severity in (0.2, 0.9))
    extent = [[image.lesion_mask.sum() for image in drawn] for drawn in (mild, severe)]
    assert all(few < many for few, many in zip(*extent, strict=True)) and min(extent[1]) > 0
    assert np.mean([image.image[image.lung_mask].mean() for image in severe]) > np.mean(
        [image.image[image.lung_mask].mean() for image in mild]
    )
    assert not draw(0, label, severity=0).lesion_mask.any()
    drawn = np.array([draw(k, label).lesion_mask.sum() for k in range(30)])
    assert np.quantile(drawn, 0.9) > 2 * np.quantile(drawn, 0.1) > 0


PLAIN = Hospital(
    "plain",
    "Adults, imaged alike: no marker, border, cables or noise.",
    ages=(50, 80),
    exposure=Habit(-0.3, 0.3),
    contrast=Habit(0.8, 0.1),
    sharpness=Habit(0.001, 0),
    photons=Habit(5.5, 0.1),
    border=Border(0, 0, 0),
    marker=COUNTY.marker._replace(share=0),
    cables=(0, 0),
)

# One cue at full strength, and the features in which a probe finds it.
PLANTED = {
    "population": ({"ages": (1, 4), "field": Habit(1.1, 0.03)}, shrunk),
    "marker": ({"marker": Marker("R", 0.06, 0.1, 0.1, 1.0)}, corner),
    "border": ({"border": Border(0.05, 0.01, 1.0)}, outermost),
    "exposure": ({"exposure": Habit(1.0, 0.3)}, histogram),
    "contrast": ({"contrast": Habit(1.5, 0.1)}, histogram),
    "sharpness": ({"sharpness": Habit(0.015, 0.001)}, roughness),
    "noise": ({"photons": Habit(2.7, 0.1)}, roughness),
    "cables": ({"cables": (1.0, 1.0)}, ridges),
}


@cache
def plain_images(seed):
    return hospital_images(PLAIN, n=40, size=128, seed=seed)


def test_every_cue_is_planted():
    assert set(PLANTED) == set(CUES)


@pytest.mark.parametrize("cue", CUES)
def test_a_probe_finds_a_planted_cue_and_none_where_none_is_planted(cue):
    fields, features = PLANTED[cue]
    plain, others = features(plain_images(0)), features(plain_images(1))
    planted = features(hospital_images(PLAIN, n=40, size=128, seed=2, cues={cue: replace(PLAIN, **fields)}))
    found, none = (accuracy(np.concatenate([plain, x]), np.repeat([0, 1], 40)) for x in (planted, others))
    assert found > 0.9
    assert none < 0.7  # 80 images: an interval of ±0.11 around 0.5, and a little for the many probes


@pytest.mark.parametrize("cue", CUES)
def test_a_changed_cue_changes_nothing_else(cue):
    other = replace(PLAIN, **PLANTED[cue][0])
    before, after = (draw(5, hospital=PLAIN, cues=cues) for cues in ({}, {cue: other}))
    changed = before.image != after.image
    assert changed.any()
    if cue != "population":
        assert np.array_equal(before.lung_mask, after.lung_mask)
        assert np.array_equal(before.lesion_mask, after.lesion_mask)
    if cue == "marker":
        assert not changed[16:].any() and not changed[:, 16:].any()
    if cue == "border":
        assert not changed[8:-8, 8:-8].any() and (after.image[changed] < before.image[changed]).all()
    if cue == "cables":
        assert changed.mean() < 0.2 and (after.image[changed] > before.image[changed]).all()
    if cue in ("exposure", "contrast", "sharpness"):
        assert np.corrcoef(before.image.ravel(), after.image.ravel())[0, 1] > 0.9


def test_a_cue_can_be_taken_from_every_hospital_by_name():
    for name in HOSPITALS:
        assert COUNTY.with_cues(dict.fromkeys(CUES, name)) == replace(
            HOSPITALS[name], name="county", description=COUNTY.description, classes=COUNTY.classes
        )
    same = draw(3, cues=dict.fromkeys(CUES, "county"))
    assert np.array_equal(same.image, draw(3).image)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"hospital": "town"}, "unknown hospital 'town'; available: childrens, city, university, county"),
        (
            {"hospital": "childrens"},
            "unknown class of the hospital 'childrens' 'COVID-19'; available: Normal, Bacteria",
        ),
        ({"cues": {"mark": "city"}}, "unknown cue 'mark'; available: population, marker, border"),
        ({"cues": {"marker": "town"}}, "unknown hospital 'town'"),
        ({"hospital": None, "cues": {"marker": "city"}}, "no hospital is named"),
        ({"shortcut": {"marker": 1.0}}, "cannot be planted at a hospital"),
        ({"severity": 0.05}, "severity is 0.05; give a number from 0.1 to 1"),
        ({"severity": "mild"}, "severity is 'mild'"),
    ],
)
def test_errors_name_what_there_is(options, words):
    with pytest.raises(CovidxrError, match=words):
        draw(**options)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"name": "St. Mary"}, "the hospital's name is 'St. Mary'"),
        ({"classes": ("Flu",)}, "unknown class of the hospital 'own' 'Flu'; available: Normal, COVID-19"),
        ({"ages": (0, 5)}, "1 to 90"),
        ({"ages": (50, 20)}, "give the youngest and the oldest"),
    ],
)
def test_an_own_hospital_is_checked(fields, words):
    with pytest.raises(CovidxrError, match=words):
        Hospital(**{"name": "own", "description": "One's own.", **fields})


def test_what_is_no_hospitals_phantom_is_not_drawn_again(tmp_path):
    plain = load_phantoms(tmp_path, ["Normal"], per_class=1, size=32)
    with pytest.raises(CovidxrError, match="not a hospital's phantom"):
        redraw(plain)
    own = replace(COUNTY, name="own")
    rows = load_phantoms(tmp_path, ["Normal"], per_class=1, size=32, hospital=own)
    with pytest.raises(CovidxrError, match="unknown hospital 'own'"):
        redraw(rows)
    assert np.array_equal(redraw(rows, 32, hospitals={"own": own})[0], np.asarray(Image.open(rows.path[0])))
