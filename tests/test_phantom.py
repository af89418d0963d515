"""The phantom: what is planted is there, where it was planted, and nowhere else."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from covidxr.data import phantom
from covidxr.data._phantom_anatomy import draw_body
from covidxr.data.phantom import _DRAWING, PHANTOM_CLASSES, Phantom, load_phantoms, make_phantom
from covidxr.utils import CovidxrError

THREE = PHANTOM_CLASSES[:3]


@cache
def sample_images(per_class=40, size=64, **shortcut):
    """Images of three classes: images, labels, lesion masks, lung masks."""
    drawn = [
        make_phantom(label, np.random.default_rng([rank, k]), size, shortcut=shortcut)
        for rank, label in enumerate(THREE)
        for k in range(per_class)
    ]
    images, lesions, lungs = (np.stack(layer) for layer in zip(*drawn, strict=True))
    return images, np.repeat(np.arange(3), per_class), lesions, lungs


def accuracy(features, labels, model=None):
    """Share of right calls in five-fold cross-validation."""
    model = model or LogisticRegression(max_iter=500, C=0.1)
    features = np.reshape(features, (len(features), -1)).astype(float)
    with threadpool_limits(1):  # on problems this small, threads wait for one another
        return cross_val_score(make_pipeline(StandardScaler(), model), features, labels, cv=5).mean()


def shrunk(images, side):
    return np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images])


def outer(images, share):
    """The frame that is `share` of the side wide."""
    side = images.shape[1]
    inside = slice(round(share * side), side - round(share * side))
    frame = np.ones((side, side), bool)
    frame[inside, inside] = False
    return images[:, frame]


def corners(images, k=12):
    return np.stack([images[:, a, b] for a in (slice(k), slice(-k, None)) for b in (slice(k), slice(-k, None))], 1)


def edges(images):
    """Mean grey of each of the outermost rows."""
    return np.concatenate([images[:, :5].mean(2), images[:, -5:].mean(2)], 1)


def brightness(images):
    return images[:, 8:-8, 8:-8].mean((1, 2))


def test_an_image_is_grey_8_bit_with_boolean_masks():
    image = make_phantom("COVID-19", np.random.default_rng(0), size=80)
    assert isinstance(image, Phantom)
    assert image.image.shape == image.lesion_mask.shape == image.lung_mask.shape == (80, 80)
    assert (image.image.dtype, image.lesion_mask.dtype, image.lung_mask.dtype) == (np.uint8, bool, bool)
    assert image.image.min() < 20 and image.image.max() > 160


def test_bone_and_dense_tissue_are_bright_and_lungs_and_air_dark():
    for k in range(5):
        image = make_phantom("Normal", np.random.default_rng(k), size=100)
        spine, belly = image.image[30:80, 48:53].mean(), image.image[88:94, 35:65].mean()
        assert image.image[image.lung_mask].mean() < 0.8 * min(spine, belly)
        assert image.image[5:12, 6:12].mean() < 0.9 * belly


def test_the_heart_takes_room_from_the_lung_on_the_right_of_the_image():
    lungs = sample_images()[3]
    lower = lungs[:, 32:52]
    assert lower[:, :, 32:].sum() < 0.9 * lower[:, :, :32].sum()


def test_lungs_cover_a_fifth_to_a_half_of_the_image():
    cover = sample_images()[3].mean((1, 2))
    assert 0.22 < cover.mean() < 0.4
    assert cover.min() > 0.17 and cover.max() < 0.5


@pytest.mark.parametrize("label", PHANTOM_CLASSES)
def test_lesions_lie_in_the_lungs_and_only_disease_has_them(label):
    drawn = [make_phantom(label, np.random.default_rng([9, k]), 64) for k in range(12)]
    assert not any((image.lesion_mask & ~image.lung_mask).any() for image in drawn)
    sick = [image.lesion_mask.sum() > 0.01 * image.lung_mask.sum() for image in drawn]
    assert not any(sick) if label == "Normal" else all(sick)


def shares(lesions, lungs):
    """Share of each image's lesions in the image's left half, and the diseased share of each zone of the lungs."""
    left = lesions[:, :, : lesions.shape[2] // 2].sum((1, 2)) / lesions.sum((1, 2))
    zones = {"upper": [], "lower": [], "inner": [], "outer": []}
    for lesion, lung in zip(lesions, lungs, strict=True):
        y, x = np.nonzero(lung)
        off = np.abs(x - lung.shape[1] / 2)
        for name, zone in (("upper", y < np.median(y)), ("outer", off > np.median(off))):
            other = {"upper": "lower", "outer": "inner"}[name]
            zones[name].append(lesion[y, x][zone].mean())
            zones[other].append(lesion[y, x][~zone].mean())
    return left, {name: np.mean(values) for name, values in zones.items()}


def test_covid_is_in_both_lungs_low_and_towards_the_ribs():
    _, labels, lesions, lungs = sample_images()
    left, zone = shares(lesions[labels == 1], lungs[labels == 1])
    assert np.mean((left > 0.1) & (left < 0.9)) > 0.9
    assert zone["lower"] > 1.3 * zone["upper"] and zone["outer"] > 1.3 * zone["inner"]


def test_bacteria_are_in_one_lung_and_viruses_in_both():
    _, labels, lesions, _ = sample_images()
    left = lesions[labels == 2][:, :, :32].sum((1, 2)) / lesions[labels == 2].sum((1, 2))
    assert np.all(np.maximum(left, 1 - left) > 0.9) and 0.2 < np.mean(left > 0.5) < 0.8
    virus = np.stack([make_phantom("Virus", np.random.default_rng([5, k]), 64).lesion_mask for k in range(15)])
    assert np.all(np.abs(virus[:, :, :32].sum((1, 2)) / virus.sum((1, 2)) - 0.5) < 0.35)


def test_a_lesion_brightens_the_lung_where_it_lies_and_the_rest_hardly():
    for label in PHANTOM_CLASSES[1:]:
        sick, well = (make_phantom(name, np.random.default_rng(3), 100) for name in (label, "Normal"))
        change = sick.image.astype(float) - well.image
        assert change[sick.lesion_mask].mean() > 8
        assert abs(change[~sick.lung_mask].mean()) < 4


@pytest.mark.parametrize(
    "model", [LogisticRegression(), DecisionTreeClassifier(max_depth=4, random_state=0), KNeighborsClassifier(15)]
)
def test_mean_grey_does_not_tell_the_classes(model):
    images, labels, _, _ = sample_images(per_class=150, size=96)
    assert abs(accuracy(images.mean((1, 2)), labels, model) - 1 / 3) < 0.08


def test_disease_is_in_the_lungs_and_not_in_the_frame():
    images, labels, _, _ = sample_images(per_class=150, size=96)
    # 450 images: an interval of ±0.045 around chance
    assert accuracy(outer(shrunk(images, 48), 0.15), labels, LogisticRegression(C=0.01, max_iter=300)) < 0.42
    assert 0.55 < accuracy(shrunk(images, 16), labels, LogisticRegression(C=0.01, max_iter=300)) < 0.9


@pytest.mark.parametrize(
    "name, features", [("marker", corners), ("exposure", brightness), ("border", edges), ("body_size", None)]
)
def test_a_planted_shortcut_is_found_and_none_where_none_is_planted(name, features):
    features = features or (lambda images: shrunk(images, 8))
    drawn = sample_images(), sample_images(**{name: 0.5}), sample_images(**{name: 1.0})
    without, half, full = (accuracy(features(images), labels) for images, labels, _, _ in drawn)
    assert full > 0.9
    assert without + 0.03 < half < full - 0.03
    assert without < (0.46 if name != "body_size" else 0.65)  # coarse pixels see some of the disease itself


def test_zero_strength_is_no_shortcut_and_a_shortcut_leaves_the_anatomy_alone():
    strengths = None, {"marker": 0.0}, {"marker": 1.0}
    plain, zero, marked = (make_phantom("Bacteria", np.random.default_rng(4), 64, shortcut=s) for s in strengths)
    assert np.array_equal(plain.image, zero.image)
    assert np.array_equal(plain.lung_mask, marked.lung_mask)


@pytest.mark.parametrize(
    "label, options, words",
    [
        ("Flu", {}, "Normal, COVID-19, Bacteria, Virus"),
        ("Normal", {"shortcut": {"mark": 1}}, "marker, exposure, body_size, border"),
        ("Normal", {"shortcut": {"marker": 1.5}}, "'marker' has strength 1.5"),
        ("Normal", {"size": 8}, "size is 8"),
        ("Normal", {"age": 0}, "1 to 90"),
        ("Normal", {"sex": "X"}, "F, M"),
        ("Normal", {"view": "lateral"}, "PA, AP"),
    ],
)
def test_errors_name_what_there_is(label, options, words):
    with pytest.raises(CovidxrError, match=words):
        make_phantom(label, np.random.default_rng(0), **options)


def test_equal_generators_give_equal_images():
    one, two, other = (make_phantom("Virus", np.random.default_rng(seed), 64).image for seed in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_images_of_one_person_are_more_alike_than_images_of_two():
    def lungs(body, seed):
        return make_phantom("Normal", np.random.default_rng(seed), 64, body=body, view="PA").lung_mask.mean()

    people = [draw_body(np.random.default_rng(k)) for k in range(12)]
    pairs = np.array([[lungs(body, 2 * k), lungs(body, 2 * k + 1)] for k, body in enumerate(people)])
    within = np.abs(pairs[:, 0] - pairs[:, 1]).mean()
    assert within < 0.7 * np.abs(pairs[:, 0] - np.roll(pairs[:, 1], 1)).mean()


def sums(rows):
    return dict(zip(rows.image_id, rows.sha256, strict=True))


def test_read_writes_images_masks_and_a_manifest(tmp_path):
    rows = load_phantoms(tmp_path, classes=PHANTOM_CLASSES, per_class=9, size=48)
    assert list(rows.columns) == [
        "image_id", "path", "label", "patient_id", "source", "view", "age", "sex", "license", "url", "sha256", "split",
        "version", "original_name", "duplicate_group", "lung_mask", "lesion_mask",
    ]  # fmt: skip
    assert rows.label.value_counts().to_dict() == dict.fromkeys(PHANTOM_CLASSES, 9)
    assert rows.image_id.is_unique and rows.patient_id.nunique() < len(rows)
    assert rows.groupby("patient_id")[["label", "age", "sex"]].nunique().max().max() == 1
    assert rows.age.between(18, 90).all() and set(rows.sex) == {"F", "M"} and set(rows.view) == {"AP", "PA"}
    assert set(rows.source) == {"phantom"} and set(rows.license) == {"CC0-1.0"}
    assert set(rows.split) == set(rows.url) == {""}
    for row in rows.itertuples():
        image, lungs, lesion = (Image.open(path) for path in (row.path, row.lung_mask, row.lesion_mask))
        assert image.mode == lungs.mode == lesion.mode == "L" and image.size == lungs.size == lesion.size == (48, 48)
        assert row.sha256 == hashlib.sha256(Path(row.path).read_bytes()).hexdigest()
        assert set(np.unique(lungs)) == {0, 255} and np.any(lesion) == (row.label != "Normal")


def test_read_is_reproducible_and_growing_it_keeps_the_earlier_images(tmp_path):
    few = load_phantoms(tmp_path / "a", classes=["COVID-19"], per_class=3, size=32, seed=7)
    many = load_phantoms(tmp_path / "b", classes=["Normal", "COVID-19"], per_class=5, size=32, seed=7)
    other = load_phantoms(tmp_path / "c", classes=["COVID-19"], per_class=3, size=32, seed=8)
    assert sums(few).items() <= sums(many).items()
    assert not set(few.sha256) & set(other.sha256)


@pytest.mark.parametrize("other", [{"seed": 1}, {"size": 48}, {"shortcut": {"marker": 0.5}}, {"drawing": 99}], ids=str)
def test_what_is_drawn_otherwise_has_other_ids(other, tmp_path, monkeypatch):
    rows = load_phantoms(tmp_path, per_class=3, size=32)
    monkeypatch.setattr(phantom, "_DRAWING", other.pop("drawing", _DRAWING))
    others = load_phantoms(tmp_path, **{"per_class": 3, "size": 32, **other})
    assert not set(rows.image_id) & set(others.image_id)
    assert bool(set(rows.patient_id) & set(others.patient_id)) == ("seed" not in other)
    ranks = rows.groupby("label", sort=False).image_id
    assert ranks.apply(lambda ids: ids.is_monotonic_increasing).all() and rows.image_id.is_monotonic_increasing


def test_a_half_done_folder_is_resumed_and_whole_images_are_not_redrawn(tmp_path):
    first = load_phantoms(tmp_path, per_class=2, size=32)
    kept, lost = Path(first.path[0]), Path(first.lesion_mask[3])
    before, text = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    again = load_phantoms(tmp_path, per_class=2, size=32)
    assert kept.stat().st_mtime_ns == before and lost.read_bytes() == text
    assert first.equals(again)
    assert Path(load_phantoms(tmp_path, per_class=2, size=32, shortcut={"marker": 1}).path[0]).parent != kept.parent


def test_a_persons_planted_size_is_the_same_on_each_image(tmp_path):
    rows = load_phantoms(tmp_path, classes=["Normal"], per_class=12, size=48, shortcut={"body_size": 0.5})
    lungs = np.array([np.mean(np.asarray(Image.open(path)) > 0) for path in rows.lung_mask])
    spread = rows.assign(lungs=lungs).groupby("patient_id").lungs.agg(np.ptp)
    assert spread.max() < np.ptp(lungs)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"classes": ["Flu"]}, "Virus"),
        ({"per_class": 0}, "per_class is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"data_dir": None}, "folder"),
        ({"classes": []}, "classes is empty; name at least one"),
        ({"classes": ["Normal", "Normal"]}, "classes holds 'Normal' twice"),
        ({"classes": "Normal"}, "classes is 'Normal'; give a list"),
        ({"per_class": 2.5}, "per_class is 2.5"),
        ({"per_class": 10**9}, "per_class is 1000000000; give a whole number from 1 to 100000"),
        ({"seed": float("nan")}, "seed is nan"),
        ({"size": 31}, "phantom size is 31; give a whole number from 32 to 2048"),
        ({"size": 10**6}, "phantom size is 1000000"),
        ({"size": "64"}, "phantom size is '64'"),
        ({"shortcut": ["marker"]}, r"shortcut is \['marker'\]; give strengths by name"),
        ({"shortcut": {"marker": float("nan")}}, "shortcut 'marker' has strength nan"),
        ({"shortcut": {"marker": "all"}}, "shortcut 'marker' has strength 'all'"),
    ],
)
def test_read_refuses_what_it_cannot_draw(tmp_path, options, words):
    with pytest.raises(CovidxrError, match=words):
        load_phantoms(**{"data_dir": tmp_path, **options})
    assert not list(tmp_path.iterdir())


def test_without_a_hospital_the_drawing_and_its_ids_stay_as_they_were(tmp_path):
    digest = hashlib.sha256()
    for label in PHANTOM_CLASSES:
        for seed, shortcut in ((1, None), (2, {"marker": 1.0})):
            for layer in make_phantom(label, np.random.default_rng(seed), 64, shortcut=shortcut):
                digest.update(np.ascontiguousarray(layer).tobytes())
    assert digest.hexdigest()[:16] == "82e2b4d51d328d50"
    assert load_phantoms(tmp_path, ["Normal"], per_class=1, size=32).image_id[0] == "phantom-1a5f7945-00000"
