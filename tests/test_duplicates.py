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

from covidxr.dataset import assemble
from covidxr.duplicates import BITS, THRESHOLD, distances, film_hashes, find_twins, mark_twins, twins_of
from covidxr.pixels import decode_films
from covidxr.sources import SOURCES
from covidxr.sources._rows import manifest_rows
from covidxr.sources.phantom import make_phantom
from covidxr.splits import kept_together, split_manifest, straddling_patients, straddling_twins


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
    """Films of 30 different people."""
    return [Image.fromarray(make_phantom("Normal", np.random.default_rng(n)).image) for n in range(30)]


@pytest.mark.parametrize("size", [32, 64, 100, 224])
@pytest.mark.parametrize("name", COPIES)
def test_a_planted_twin_is_found_and_nothing_else(name, size, people):
    change, kind = COPIES[name]
    pixels = np.stack([scaled(image, size) for image in [*people, change(people[7])]])
    pairs = find_twins(pixels)
    assert pairs[["first", "second", "kind"]].values.tolist() == [[7, 30, kind]]
    assert pairs.distance[0] <= THRESHOLD and (kind == "near" or pairs.distance[0] == 0)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    return SOURCES["phantom"](tmp_path_factory.mktemp("crowd"), per_class=100, seed=11, size=128)


@pytest.mark.parametrize("size", [32, 64, 100])
def test_films_of_different_people_are_not_called_twins(size, crowd):
    rows = crowd
    pixels = np.stack(decode_films(rows.path, size))
    pairs = find_twins(pixels)
    assert pairs.empty and pixels[pairs["first"]].shape == (0, size, size)  # still positions
    assert (mark_twins(rows, pixels).twins == "").all()


def test_distances_count_bits_and_see_through_inversion():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (50, BITS // 64), np.uint64)
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    apart = (bits[0] != bits).sum(axis=1)
    np.testing.assert_array_equal(distances(hashes[0], hashes), np.minimum(apart, BITS - apart))


def test_chains_of_twins_are_one_group_named_after_its_first():
    rng = np.random.default_rng(1)
    film, other = rng.integers(0, 256, (2, 64, 64), np.uint8)
    rows = pd.DataFrame({"image_id": list("abcdef")}, index=[9, 8, 7, 6, 5, 4])
    marked = mark_twins(rows, np.stack([other, film, film.T, film, other, 255 - film]))
    assert marked.twins.tolist() == ["a", "b", "", "b", "a", "b"] and marked.index.tolist() == rows.index.tolist()
    assert "twins" not in rows


def test_twenty_thousand_films_take_seconds(monkeypatch):
    hashes = np.random.default_rng(0).integers(0, 2**63, (20_000, BITS // 64), np.uint64)
    hashes[15_000] = hashes[3]
    monkeypatch.setattr("covidxr.duplicates.film_hashes", lambda pixels: hashes)
    start = time.process_time()
    pairs = find_twins(np.zeros((20_000, 1, 1), np.uint8))
    assert pairs[["first", "second"]].values.tolist() == [[3, 15_000]] and time.process_time() - start < 30


def test_hashes_do_not_depend_on_the_company(people):
    pixels = np.stack([scaled(image) for image in people[:5]])
    np.testing.assert_array_equal(film_hashes(pixels)[2], film_hashes(pixels[2:3])[0])


# groups of films: patient number and name of the twin group ("" for none)
films = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["", "", "x", "y", "z"])), max_size=30)


def manifest(pairs):
    singles = [(100 + n, "") for n in range(18)]
    return manifest_rows(
        {"image_id": f"{n:03d}", "label": "ab"[n % 2], "patient_id": str(patient), "source": "s", "twins": twins}
        for n, (patient, twins) in enumerate([*pairs, *singles])
    )


@settings(max_examples=60, deadline=None)
@given(films=films, seed=st.integers(0, 10**6))
def test_neither_patients_nor_twins_are_on_two_sides(films, seed):
    rows = manifest(films)
    divided = split_manifest(rows, seed=seed)
    assert straddling_patients(divided) == 0 and straddling_twins(divided) == 0
    together = kept_together(rows)
    for key in ("patient_id", "twins"):
        named = rows[rows[key] != ""]
        assert (together[named.index].groupby(named[key]).nunique() == 1).all()


def test_people_without_twins_are_not_joined():
    rows = manifest([(1, ""), (1, ""), (2, "x"), (3, "x"), (4, "")])
    assert kept_together(rows)[:5].tolist() == ["s/1", "s/1", "s/2", "s/2", "s/4"]
    assert kept_together(rows).nunique() == rows.patient_id.nunique() - 1


def test_a_planted_straddling_patient_and_twin_are_counted():
    rows = manifest([(1, ""), (1, ""), (2, "x"), (3, "x")]).assign(split="train")
    assert (straddling_patients(rows), straddling_twins(rows)) == (0, 0)
    rows.loc[[1, 3], "split"] = "test"
    assert (straddling_patients(rows), straddling_twins(rows)) == (1, 1)


@pytest.fixture
def hospitals(tmp_path, people):
    """Two folders of films; the second repeats three of the first, recompressed and brightened."""
    for n, image in enumerate(people[:12]):
        path = tmp_path / "north" / ("Normal" if n < 6 else "COVID-19") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    for n, image in enumerate([*people[12:15], people[0], people[1], people[7]]):
        path = tmp_path / "south" / ("COVID-19" if n == 5 else "Normal") / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.point(lambda value: 255 * (value / 255) ** 0.8).save(path, quality=60)
    return [str(tmp_path / "north"), str(tmp_path / "south")]


def test_twins_across_sources_are_marked_and_kept_together(hospitals):
    found = assemble(hospitals, classes=["Normal", "COVID-19"], per_class=7, image_size=64)
    twins = found.manifest[found.manifest.twins != ""]
    assert Counter(twins.twins).most_common(1)[0][1] == 2 and twins.groupby("twins").source.nunique().eq(2).all()
    for seed in range(5):
        divided = split_manifest(found.manifest, test=0.3, validation=0.2, seed=seed)
        assert straddling_twins(divided) == 0


def test_twins_are_dropped_on_demand_and_others_taken(hospitals):
    kept = assemble(hospitals, classes=["Normal", "COVID-19"], per_class=None, image_size=64, drop_twins=True)
    assert (kept.manifest.twins == "").all() and Counter(kept.manifest.label) == {"Normal": 6, "COVID-19": 6}
    assert 0 < len(kept.rejected) <= 3 and kept.rejected.reason.str.fullmatch(r"twin of (north|south)/.*").all()
    for seed in range(3):
        few = assemble(hospitals, classes=["Normal"], per_class=9, image_size=64, seed=seed, drop_twins=True)
        assert len(few.manifest) == 9 and find_twins(few.pixels).empty


def test_no_film_is_dropped_as_the_twin_of_one_that_is_not_used(tmp_path, people):
    for n, image in enumerate(people[:12]):
        (tmp_path / "north" / "Normal").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "north" / "Normal" / f"{n}.png")
    for n, image in enumerate([*people[:5], *people[12:15]]):  # five of eight are also called normal
        (tmp_path / "north" / "COVID-19").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "north" / "COVID-19" / f"{n}.png")
    for seed in range(4):
        kept = assemble(
            [str(tmp_path / "north")],
            classes=["Normal", "COVID-19"],
            per_class=None,
            image_size=64,
            drop_twins=True,
            seed=seed,
        )
        counts = Counter(kept.manifest.label)
        assert counts["Normal"] == counts["COVID-19"] >= 3 and (kept.manifest.twins == "").all()
        assert set(kept.rejected.reason.astype(str).str.removeprefix("twin of ")) <= set(kept.manifest.image_id)


def test_an_inverted_film_is_reported_and_not_used(hospitals, tmp_path, people):
    ImageOps.invert(people[20]).save(tmp_path / "north" / "Normal" / "negative.png")
    found = assemble(hospitals, classes=["Normal"], per_class=None, image_size=64)
    assert found.rejected.reason.tolist() == ["looks inverted, black for white; turn it and read it again"]
    assert "negative.png" in found.rejected.path[0] and not found.manifest.path.str.contains("negative").any()


@pytest.mark.realdata
def test_the_twins_of_the_real_sources_are_those_seen_by_eye(shared):
    names = ("covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1")
    rows = pd.concat([SOURCES[name](shared / "data") for name in names], ignore_index=True)
    films = decode_films(rows.path, 64)
    good = [isinstance(film, np.ndarray) for film in films]
    rows, pixels = rows[good].reset_index(drop=True), np.stack([f for f, ok in zip(films, good, strict=True) if ok])
    pairs = find_twins(pixels, 48)
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
    films = np.stack([scaled(image, 64) for image in people[:3]])
    rows = pd.DataFrame({"image_id": [f"{n:04d}" for n in range(3000)]})
    marked = mark_twins(rows, films[np.arange(3000) % 3])
    assert marked.twins.value_counts().to_dict() == dict.fromkeys(["0000", "0001", "0002"], 1000)


@pytest.mark.parametrize("name", COPIES)
def test_films_of_a_run_are_recognised_elsewhere(name, people):
    change, _ = COPIES[name]
    known = np.stack([scaled(image, 100) for image in people[:10]])
    others = np.stack([scaled(image, 64) for image in [people[20], change(people[4]), people[21]]])
    assert twins_of(others, known).tolist() == [False, True, False]
    assert not twins_of(others, known[:0]).any() and twins_of(others[:0], known).shape == (0,)
