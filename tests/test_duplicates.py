"""Twins: planted ones are found however they were changed, none is found where none is, and splits keep them together."""

from __future__ import annotations

import io
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from covidxr.data.dataset import build_dataset
from covidxr.data.duplicates import (
    BITS,
    THRESHOLD,
    _hash_distances,
    _image_hashes,
    duplicates_of,
    find_duplicates,
    mark_duplicates,
)
from covidxr.data.images import read_images
from covidxr.data.manifest import manifest_rows
from covidxr.data.phantom import load_phantoms, make_phantom
from covidxr.data.sources import load_source
from covidxr.data.splits import duplicates_across_splits, patients_across_splits, split_groups, split_manifest


def scaled(image, size=100):
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def as_jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file)


COPIES = {
    "itself": (lambda image: image, "exact"),
    "smaller": (lambda image: image.resize((120, 120)), "near"),
    "compressed": (as_jpeg, "near"),
    "brighter": (lambda image: image.point(lambda value: 255 * (value / 255) ** 0.6), "near"),
    "darker": (lambda image: image.point(lambda value: 255 * (value / 255) ** 1.6), "near"),
    "equalised": (ImageOps.equalize, "near"),
    "cropped": (lambda image: image.crop((2, 2, 198, 198)), "near"),
    "inverted": (ImageOps.invert, "near"),
}


@pytest.fixture(scope="module")
def people():
    """Images of 30 different people."""
    return [Image.fromarray(make_phantom("Normal", np.random.default_rng(n)).image) for n in range(30)]


@pytest.mark.parametrize("size", [32, 64, 100, 224])
@pytest.mark.parametrize("name", COPIES)
def test_a_planted_duplicate_is_found_and_nothing_else(name, size, people):
    change, kind = COPIES[name]
    pixels = np.stack([scaled(image, size) for image in [*people, change(people[7])]])
    pairs = find_duplicates(pixels)
    assert pairs[["first", "second", "kind"]].values.tolist() == [[7, 30, kind]]
    assert pairs.distance[0] <= THRESHOLD and (kind == "near" or pairs.distance[0] == 0)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    return load_phantoms(tmp_path_factory.mktemp("crowd"), per_class=100, seed=11, size=128)


@pytest.mark.parametrize("size", [32, 64, 100])
def test_images_of_different_people_are_not_called_duplicates(size, crowd):
    rows = crowd
    pixels = np.stack(read_images(rows.path, size))
    pairs = find_duplicates(pixels)
    assert pairs.empty and pixels[pairs["first"]].shape == (0, size, size)  # still positions
    assert (mark_duplicates(rows, pixels).duplicate_group == "").all()


def test_distances_count_bits_and_see_through_inversion():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (50, BITS // 64), np.uint64)
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    apart = (bits[0] != bits).sum(axis=1)
    np.testing.assert_array_equal(_hash_distances(hashes[0], hashes), np.minimum(apart, BITS - apart))


def test_chains_of_duplicates_are_one_group_named_after_its_first():
    rng = np.random.default_rng(1)
    image, other = rng.integers(0, 256, (2, 64, 64), np.uint8)
    rows = pd.DataFrame({"image_id": list("abcdef")}, index=[9, 8, 7, 6, 5, 4])
    marked = mark_duplicates(rows, np.stack([other, image, image.T, image, other, 255 - image]))
    assert (
        marked.duplicate_group.tolist() == ["a", "b", "", "b", "a", "b"]
        and marked.index.tolist() == rows.index.tolist()
    )
    assert "duplicate_group" not in rows


def test_twenty_thousand_images_take_seconds(monkeypatch):
    hashes = np.random.default_rng(0).integers(0, 2**63, (20_000, BITS // 64), np.uint64)
    hashes[15_000] = hashes[3]
    monkeypatch.setattr("covidxr.data.duplicates._image_hashes", lambda pixels: hashes)
    start = time.process_time()
    pairs = find_duplicates(np.zeros((20_000, 1, 1), np.uint8))
    assert pairs[["first", "second"]].values.tolist() == [[3, 15_000]] and time.process_time() - start < 30


def test_hashes_do_not_depend_on_the_company(people):
    pixels = np.stack([scaled(image) for image in people[:5]])
    np.testing.assert_array_equal(_image_hashes(pixels)[2], _image_hashes(pixels[2:3])[0])


# groups of images: patient number and name of the duplicate group ("" for none)
images = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["", "", "x", "y", "z"])), max_size=30)


def manifest(pairs):
    singles = [(100 + n, "") for n in range(18)]
    return manifest_rows(
        {
            "image_id": f"{n:03d}",
            "label": "ab"[n % 2],
            "patient_id": str(patient),
            "source": "s",
            "duplicate_group": group,
        }
        for n, (patient, group) in enumerate([*pairs, *singles])
    )


@settings(max_examples=60, deadline=None)
@given(images=images, seed=st.integers(0, 10**6))
def test_neither_patients_nor_duplicates_are_in_two_splits(images, seed):
    rows = manifest(images)
    divided = split_manifest(rows, seed=seed)
    assert patients_across_splits(divided) == 0 and duplicates_across_splits(divided) == 0
    together = split_groups(rows)
    for key in ("patient_id", "duplicate_group"):
        named = rows[rows[key] != ""]
        assert (together[named.index].groupby(named[key]).nunique() == 1).all()


def test_people_without_duplicates_are_not_joined():
    rows = manifest([(1, ""), (1, ""), (2, "x"), (3, "x"), (4, "")])
    assert split_groups(rows)[:5].tolist() == ["s/1", "s/1", "s/2", "s/2", "s/4"]
    assert split_groups(rows).nunique() == rows.patient_id.nunique() - 1


def test_a_planted_straddling_patient_and_duplicate_are_counted():
    rows = manifest([(1, ""), (1, ""), (2, "x"), (3, "x")]).assign(split="train")
    assert (patients_across_splits(rows), duplicates_across_splits(rows)) == (0, 0)
    rows.loc[[1, 3], "split"] = "test"
    assert (patients_across_splits(rows), duplicates_across_splits(rows)) == (1, 1)


@pytest.fixture
def hospitals(tmp_path, people):
    """Two folders of images; the second repeats three of the first, recompressed and brightened."""
    for n, image in enumerate(people[:12]):
        path = tmp_path / "north" / ("Normal" if n < 6 else "COVID-19") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    for n, image in enumerate([*people[12:15], people[0], people[1], people[7]]):
        path = tmp_path / "south" / ("COVID-19" if n == 5 else "Normal") / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.point(lambda value: 255 * (value / 255) ** 0.8).save(path, quality=60)
    return [str(tmp_path / "north"), str(tmp_path / "south")]


def test_duplicates_across_sources_are_marked_and_kept_together(hospitals):
    found = build_dataset(hospitals, classes=["Normal", "COVID-19"], per_class=7, image_size=64)
    copies = found.manifest[found.manifest.duplicate_group != ""]
    assert (
        Counter(copies.duplicate_group).most_common(1)[0][1] == 2
        and copies.groupby("duplicate_group").source.nunique().eq(2).all()
    )
    for seed in range(5):
        divided = split_manifest(found.manifest, test=0.3, validation=0.2, seed=seed)
        assert duplicates_across_splits(divided) == 0


def test_duplicates_are_dropped_on_request_and_replaced(hospitals):
    kept = build_dataset(hospitals, classes=["Normal", "COVID-19"], per_class=None, image_size=64, drop_duplicates=True)
    assert (kept.manifest.duplicate_group == "").all() and Counter(kept.manifest.label) == {"Normal": 6, "COVID-19": 6}
    assert (
        0 < len(kept.rejected) <= 3 and kept.rejected.reason.str.fullmatch(r"near-duplicate of (north|south)/.*").all()
    )
    for seed in range(3):
        few = build_dataset(hospitals, classes=["Normal"], per_class=9, image_size=64, seed=seed, drop_duplicates=True)
        assert len(few.manifest) == 9 and find_duplicates(few.images).empty


def test_no_image_is_dropped_as_the_duplicate_of_one_that_is_not_used(tmp_path, people):
    for n, image in enumerate(people[:12]):
        (tmp_path / "north" / "Normal").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "north" / "Normal" / f"{n}.png")
    for n, image in enumerate([*people[:5], *people[12:15]]):  # five of eight are also called normal
        (tmp_path / "north" / "COVID-19").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "north" / "COVID-19" / f"{n}.png")
    for seed in range(4):
        kept = build_dataset(
            [str(tmp_path / "north")],
            classes=["Normal", "COVID-19"],
            per_class=None,
            image_size=64,
            drop_duplicates=True,
            seed=seed,
        )
        counts = Counter(kept.manifest.label)
        assert counts["Normal"] == counts["COVID-19"] >= 3 and (kept.manifest.duplicate_group == "").all()
        assert set(kept.rejected.reason.astype(str).str.removeprefix("near-duplicate of ")) <= set(
            kept.manifest.image_id
        )


def test_an_inverted_image_is_reported_and_not_used(hospitals, tmp_path, people):
    ImageOps.invert(people[20]).save(tmp_path / "north" / "Normal" / "negative.png")
    found = build_dataset(hospitals, classes=["Normal"], per_class=None, image_size=64)
    assert found.rejected.reason.tolist() == ["looks inverted, black for white; turn it and read it again"]
    assert "negative.png" in found.rejected.path[0] and not found.manifest.path.str.contains("negative").any()


@pytest.mark.realdata
def test_the_duplicates_of_the_real_sources_are_those_seen_by_eye(shared):
    names = ("covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1")
    rows = pd.concat([load_source(name, shared / "data") for name in names], ignore_index=True)
    images = read_images(rows.path, 64)
    good = [isinstance(image, np.ndarray) for image in images]
    rows, pixels = rows[good].reset_index(drop=True), np.stack([f for f, ok in zip(images, good, strict=True) if ok])
    pairs = find_duplicates(pixels, 48)
    assert len(rows) == 1998 and len(pairs) == 10 and pairs.distance.max() <= THRESHOLD
    both = {frozenset(rows.patient_id[[row["first"], row.second]]) for _, row in pairs.iterrows()}
    assert both == {
        frozenset(group)
        for group in (
            ("train-person1261",), ("train-person30",), ("97", "178"), ("COVID-00033", "COVID-00037"),
            ("train-person1004", "COVID-00020"), ("36", "COVID-00022"), ("51",),
        )
    }  # fmt: skip


def test_thousands_of_copies_are_one_group(people):
    images = np.stack([scaled(image, 64) for image in people[:3]])
    rows = pd.DataFrame({"image_id": [f"{n:04d}" for n in range(3000)]})
    marked = mark_duplicates(rows, images[np.arange(3000) % 3])
    assert marked.duplicate_group.value_counts().to_dict() == dict.fromkeys(["0000", "0001", "0002"], 1000)


@pytest.mark.parametrize("name", COPIES)
def test_images_of_a_run_are_recognised_elsewhere(name, people):
    change, _ = COPIES[name]
    known = np.stack([scaled(image, 100) for image in people[:10]])
    others = np.stack([scaled(image, 64) for image in [people[20], change(people[4]), people[21]]])
    assert duplicates_of(others, known).tolist() == [False, True, False]
    assert not duplicates_of(others, known[:0]).any() and duplicates_of(others[:0], known).shape == (0,)
