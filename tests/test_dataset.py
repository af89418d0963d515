"""Assembling a run's data: balanced, readable, the same for the same seed, and the same when read back."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidxr.data import dataset
from covidxr.data.dataset import CLASSES, Dataset, build_dataset, load_dataset, save_dataset
from covidxr.data.images import DecodeError, read_image, read_images
from covidxr.data.manifest import patient_keys
from covidxr.data.sources import load_source
from covidxr.data.splits import split_manifest
from covidxr.utils import CovidxrError

COUNTS = {"Normal": 9, "COVID-19": 7, "Bacteria": 3}


@pytest.fixture
def ours(tmp_path, image):
    """Plant a folder with `COUNTS` images in each class."""
    for rank, (label, count) in enumerate(COUNTS.items()):
        for n in range(count):
            image(tmp_path / "ours" / label / f"{n}.png", seed=100 * rank + n)
    return str(tmp_path / "ours")


def take(folder, per_class=3, image_size=8, **options) -> Dataset:
    return build_dataset([folder], per_class=per_class, image_size=image_size, **options)


def test_classes_are_balanced_and_images_decoded(ours):
    manifest, pixels, rejected = take(ours)
    assert manifest.label.tolist() == [label for label in CLASSES for _ in range(3)]
    assert pixels.shape == (9, 8, 8) and pixels.dtype == np.uint8 and rejected.empty and (manifest.split == "").all()
    for row, image in zip(manifest.itertuples(), pixels, strict=True):
        np.testing.assert_array_equal(image, read_image(row.path, 8))
        assert row.sha256 == hashlib.sha256(Path(row.path).read_bytes()).hexdigest()
    assert manifest.groupby("label", sort=False).image_id.apply(lambda ids: ids.is_monotonic_increasing).all()


@pytest.mark.parametrize(("classes", "expected"), [(CLASSES, 3), (("COVID-19", "Normal"), 7), (("Normal",), 9)])
def test_without_a_number_the_smallest_class_sets_it(classes, expected, ours):
    manifest, pixels, _ = take(ours, per_class=None, classes=classes)
    assert Counter(manifest.label) == dict.fromkeys(classes, expected) and len(pixels) == len(manifest)


def test_unequal_classes_have_every_image_there_is(ours):
    manifest, pixels, _ = take(ours, per_class=None, equal_classes=False, classes=CLASSES)
    assert sorted(Counter(manifest.label).values()) == [3, 7, 9]
    for label in CLASSES:  # each image stands beside its own pixels
        one = take(ours, per_class=None, classes=[label])
        assert (pixels[manifest.label == label] == one.images).all()
    assert sorted(Counter(take(ours, per_class=5, equal_classes=False).manifest.label).values()) == [3, 5, 5]


def test_broken_images_are_reported_and_replaced(ours):
    broken = {
        "Normal/1.png": (b"", "the file is empty"),
        "Normal/5.png": (b"no image", "not an image that can be read"),
    }
    for name, (content, _) in broken.items():
        (Path(ours) / name).write_bytes(content)
    manifest, pixels, rejected = take(ours, per_class=7, classes=["Normal", "COVID-19"])
    assert Counter(manifest.label) == {"Normal": 7, "COVID-19": 7} and len(pixels) == 14
    reported = set(zip(rejected.image_id, rejected.reason, strict=True))
    assert reported and reported <= {(f"ours/{name}", reason) for name, (_, reason) in broken.items()}
    assert not manifest.image_id.isin(rejected.image_id).any()
    everything = take(ours, per_class=None, classes=["Normal", "COVID-19"])
    assert Counter(everything.manifest.label) == {"Normal": 7, "COVID-19": 7} and len(everything.rejected) == 2


def test_a_class_that_is_too_small_is_a_sentence(ours):
    (Path(ours) / "Bacteria" / "1.png").write_bytes(b"")
    with pytest.raises(
        CovidxrError, match="class 'Bacteria' has 2 readable images of 3 found, 5 are asked for; lower per_class"
    ) as caught:
        take(ours, per_class=5)
    assert "first rejected" in str(caught.value) and "1.png: the file is empty" in str(caught.value)


@pytest.mark.parametrize(
    ("sources", "options", "error"),
    [
        (
            ["kagle"],
            {},
            "unknown source 'kagle'; available: phantom, phantom-.*, covid-chestxray, .*or the path of a CSV file",
        ),
        ([], {}, "no source is given; available: phantom"),
        ([None], {}, "unknown source None; available: phantom"),
        ([["phantom"]], {}, r"unknown source \['phantom'\]; available: phantom"),
        (None, {"classes": ["Normal", "Covid"]}, "unknown class 'Covid'; available: Bacteria, COVID-19, Normal"),
        (
            None,
            {"label_map": {"Bacteria": "Pneumonia"}},
            "unknown class 'Bacteria'; available: COVID-19, Normal, Pneumonia",
        ),
    ],
)
def test_unknown_names_are_a_sentence(sources, options, error, ours):
    with pytest.raises(CovidxrError, match=error):
        build_dataset([ours] if sources is None else sources, image_size=8, **options)


@pytest.mark.parametrize("way", ["as it is", "by another path", "by a link", "as 'table'"])
def test_the_same_source_twice_is_a_sentence(way, ours, tmp_path):
    (tmp_path / "link").symlink_to(ours)
    other = {"as it is": ours, "by another path": f"{ours}/../ours", "by a link": str(tmp_path / "link")}
    with pytest.raises(CovidxrError, match=r"source '.*ours' is named twice(, also as '.*')?; name it once"):
        build_dataset([ours, other.get(way, "table")], ours, per_class=2)
    with pytest.raises(CovidxrError, match="source 'phantom' is named twice; name it once"):
        build_dataset(["phantom", "phantom"], per_class=2, work_dir=tmp_path)


def two_sites(root, image, name, extra="", places=("siteA", "siteB")):
    """Plant two tables, or folders, of one name, each with four patients of the same ids."""
    for site, place in enumerate(places):
        for n in range(4):
            image(root / place / ("images" if name == "images" else "") / "Normal" / f"{n}.png", seed=10 * site + n)
        if name != "images":
            lines = [f"Normal/{n}.png,Normal,{n}{extra}" for n in range(4)]
            (root / place / name).write_text("\n".join(["path,label,patient_id" + ",source" * bool(extra), *lines]))
    return [str(root / place / name) for place in places]


@pytest.mark.parametrize("name", ["images.csv", "images"])
@pytest.mark.parametrize("places", [("siteA", "siteB"), ("one/site", "two/site")])
def test_two_sources_of_one_name_stay_two(name, places, tmp_path, image):
    sites = two_sites(tmp_path, image, name, places=places)
    for order in (sites, sites[::-1]):
        manifest = build_dataset(order, classes=["Normal"], per_class=8, image_size=8).manifest
        assert set(manifest.source) == {f"{place}/images" for place in places}
        assert manifest.image_id.is_unique and patient_keys(manifest).nunique() == 8
    assert set(build_dataset(sites[:1], classes=["Normal"], per_class=4, image_size=8).manifest.source) == {"images"}


def test_two_tables_that_name_one_source_are_a_sentence(tmp_path, image):
    sites = two_sites(tmp_path, image, "images.csv", extra=",north")
    with pytest.raises(
        CovidxrError, match="siteA/images.csv' and '.*siteB/images.csv' both hold images of a source named 'north'"
    ):
        build_dataset(sites, classes=["Normal"], per_class=8, image_size=8)


def test_a_table_named_like_a_known_source_is_not_taken_for_it(tmp_path, image):
    image(tmp_path / "figure1" / "Normal" / "0.png")
    assert load_source(str(tmp_path / "figure1")).source.unique().tolist() == [f"{tmp_path.name}/figure1"]


@pytest.mark.parametrize("source", ["images.csv", "FILMS.CSV", "no/images", "no\\images", Path("none.csv"), "a\0/b"])
def test_a_path_without_a_file_is_called_so(source):
    with pytest.raises(CovidxrError, match="no such file or folder; available: phantom, .* path of a CSV file"):
        load_source(source)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sources": {"phantom": ["Normal"]}}, r"sources is {.*}; give a list of sources, such as \[{'phantom': "),
        ({"sources": "phantom"}, r"sources is 'phantom'; give a list of sources, such as \['phantom'\]"),
        ({"classes": []}, "classes is empty; name at least one"),
        ({"classes": None}, "classes is None; give a list of names"),
        ({"classes": "Normal"}, "classes is 'Normal'; give a list of names"),
        ({"classes": ["Normal", "Normal"]}, "classes holds 'Normal' twice; name it once"),
        ({"classes": ["Normal", False]}, "classes holds False, which is not a name; in YAML, put words like 'no' in quotes"),
        ({"classes": ["Normal", ""]}, "classes holds '', which is not a name"),
        ({"label_map": ["Virus"]}, r"label_map is \['Virus'\]; give new names by label"),
        ({"label_map": {"Virus": 1}}, "label_map is {'Virus': 1}; give new names by label"),
        *[({"per_class": n}, f"per_class is {n!r}; give a whole number of 1 or more")
          for n in (0, -1, 2.5, float("nan"), "3", True)],
        *[({"image_size": n}, f"image_size is {n!r}; give a whole number from 8 to 2048")
          for n in (0, -8, 7, 64.0, 10**9, None, "64", float("inf"))],
        *[({"seed": n}, f"seed is {n!r}; give a whole number from 0 to 4294967295") for n in (-1, 1.5, 2**32, None)],
    ],
    ids=str,
)  # fmt: skip
def test_an_impossible_parameter_is_a_sentence_before_anything_is_read(options, error, monkeypatch, tmp_path):
    monkeypatch.setattr(dataset, "load_sources", lambda *_: pytest.fail("a source was read"))
    with pytest.raises(CovidxrError, match=error):
        build_dataset(**{"work_dir": tmp_path, **options})


def test_sources_may_be_restricted_to_classes_named_as_after_renaming(ours, tmp_path, image):
    image(tmp_path / "other" / "Normal" / "0.png")
    image(tmp_path / "other" / "No finding" / "1.png")
    image(tmp_path / "other" / "Virus" / "2.png")
    renamed = {"No finding": "Normal", "Virus": "COVID-19"}
    both = build_dataset(
        [ours, {tmp_path / "other": ["Normal"]}], classes=["Normal", "COVID-19"], label_map=renamed, image_size=8,
        per_class=None, equal_classes=False,
    ).manifest  # fmt: skip
    assert both[both.source == "other"].label.tolist() == ["Normal", "Normal"]
    assert set(both[both.source != "other"].label) == {"Normal", "COVID-19"}


def test_phantom_hospitals_are_sources_of_their_own(tmp_path):
    sources = ["phantom-childrens", {"phantom-city": ["COVID-19"]}]
    manifest = build_dataset(sources, per_class=3, image_size=32, work_dir=tmp_path).manifest
    assert manifest.groupby("label").source.unique().map(list).to_dict() == {
        "Bacteria": ["phantom-childrens"],
        "COVID-19": ["phantom-city"],
        "Normal": ["phantom-childrens"],
    }
    with pytest.raises(CovidxrError, match="unknown class 'Flu'; available: Bacteria, COVID-19, Normal"):
        build_dataset(["phantom"], classes=["Normal", "Flu"], per_class=1, work_dir=tmp_path)
    with pytest.raises(CovidxrError, match="source 'phantom-city' is named twice"):
        build_dataset([{"phantom-city": ["Normal"]}, "phantom-city"], work_dir=tmp_path)


def test_labels_are_renamed_before_the_draw(ours):
    manifest = take(ours, 4, label_map={"Bacteria": "Other", "Normal": "Other"}, classes=["Other", "COVID-19"]).manifest
    assert Counter(manifest.label) == {"Other": 4, "COVID-19": 4}
    assert set(manifest[manifest.label == "Other"].path.map(lambda path: Path(path).parent.name)) <= {
        "Normal",
        "Bacteria",
    }


@pytest.mark.parametrize(("per_class", "expected"), [(2, [1, 1]), (6, [3, 3]), (10, [7, 3])])
def test_sources_take_turns_within_a_class(per_class, expected, tmp_path, image):
    for n in range(20):
        image(tmp_path / "large" / "Normal" / f"{n}.png", seed=n)
    for n in range(3):
        image(tmp_path / "small" / "Normal" / f"{n}.png", seed=50 + n)
    places = [str(tmp_path / "large"), str(tmp_path / "small")]
    manifest = build_dataset(places, classes=["Normal"], per_class=per_class, image_size=8).manifest
    assert [sum(manifest.source == name) for name in ("large", "small")] == expected


def test_the_seed_decides_and_the_file_system_does_not(ours, monkeypatch):
    first = take(ours, seed=1)
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: reversed(list(listed(self, pattern))))
    again = take(ours, seed=1)
    pd.testing.assert_frame_equal(first.manifest, again.manifest)
    np.testing.assert_array_equal(first.images, again.images)
    other = take(ours, seed=2)
    assert set(first.manifest.image_id) != set(other.manifest.image_id)


def test_the_order_of_a_tables_rows_does_not_matter(ours):
    rows = load_source(ours)
    tables = Path(ours).with_name("one.csv"), Path(ours).with_name("two") / "one.csv"
    tables[1].parent.mkdir()
    rows.to_csv(tables[0], index=False)
    rows[::-1].to_csv(tables[1], index=False)
    one, two = (take(str(path), seed=3).manifest for path in tables)
    pd.testing.assert_frame_equal(one, two)


@pytest.fixture
def made(tmp_path, image):
    """Assemble images whose rows hold whatever makes tables come back changed."""
    texts = ["", "NA", "007", "1e5", "a, b", 'say "aah"', "two\nlines", "肺 é"]
    rows = [{"path": str(image(tmp_path / f"{n}.png", n)), "label": label, "patient_id": f"0{n}", "url": text, "sex": text, "age": age}
            for n, (label, text, age) in enumerate(zip(["Normal", "COVID-19"] * 4, texts, [61.37, None, 0.1 + 0.2, 5] * 2, strict=True))]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "images.csv", index=False)
    (tmp_path / "bad.csv").write_text("path,label\nnone.png,Normal\n")
    assembly = build_dataset(
        [str(tmp_path / "images.csv"), str(tmp_path / "bad.csv")],
        classes=["Normal", "COVID-19"],
        per_class=4,
        image_size=8,
    )
    return assembly._replace(manifest=split_manifest(assembly.manifest, test=0.25, validation=0.25))


def test_a_run_comes_back_as_it_was_saved(made, tmp_path):
    save_dataset(tmp_path / "run", made)
    back = load_dataset(str(tmp_path / "run"))
    pd.testing.assert_frame_equal(back.manifest, made.manifest)
    np.testing.assert_array_equal(back.images, made.images)
    assert back.images.dtype == np.uint8 and back.manifest.age.dtype == float and back.manifest.age.isna().sum() == 2
    text = back.manifest.drop(columns="age")
    assert all(isinstance(value, str) for value in text.to_numpy().ravel()) and (back.manifest.lung_mask == "").all()
    assert back.rejected.values.tolist() == made.rejected.values.tolist() and len(back.rejected) == 1
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["manifest.csv", "pixels.npz", "rejected.csv"]


def test_a_reason_that_quotes_a_broken_file_comes_back_too(ours, tmp_path, monkeypatch):
    decode_all = read_images

    def odd_reason(paths, size):
        return [
            DecodeError(path, "bad \r\0 \x1b bytes") if "/1.png" in path else image
            for path, image in zip(paths, decode_all(paths, size), strict=True)
        ]

    monkeypatch.setattr(dataset, "read_images", odd_reason)
    save_dataset(tmp_path / "run", take(ours, per_class=None, equal_classes=False))
    assert [" ".join(reason.split()) for reason in load_dataset(tmp_path / "run").rejected.reason] == 3 * ["bad bytes"]


def test_nothing_rejected_comes_back_too(ours, tmp_path):
    save_dataset(tmp_path / "run", take(ours))
    rejected = load_dataset(tmp_path / "run").rejected
    assert rejected.empty and list(rejected.columns) == ["image_id", "path", "reason"]


def spoil_pixels(run):
    (run / "pixels.npz").write_bytes((run / "pixels.npz").read_bytes()[:200])


def drop_images(run):
    rows = pd.read_csv(run / "manifest.csv")
    rows[:-1].to_csv(run / "manifest.csv", index=False)


SPOILT = {
    "empty": (
        lambda run: [file.unlink() for file in run.iterdir()],
        "holds no manifest.csv; run notebook 01_dataset_assembly first",
    ),
    "no pixels": (lambda run: (run / "pixels.npz").unlink(), "pixels.npz is missing or damaged; run notebook 01"),
    "half the pixels": (spoil_pixels, "pixels.npz is missing or damaged; run notebook 01"),
    "other images": (drop_images, "pixels.npz is not of manifest.csv; run notebook 01"),
    "no column": (lambda run: (run / "manifest.csv").write_text("path\na\n"), "no column image_id, label"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_run_folder_that_is_not_whole_is_a_sentence(name, ours, tmp_path):
    save_dataset(tmp_path / "run", take(ours))
    spoil, error = SPOILT[name]
    spoil(tmp_path / "run")
    with pytest.raises(CovidxrError, match=error):
        load_dataset(tmp_path / "run")


def test_a_split_has_its_rows_and_the_classes_of_the_whole(made):
    whole = made._replace(manifest=made.manifest.assign(split=["train"] * 4 + ["test"] * 3 + ["train"]))
    test = whole.split("test")
    assert whole.classes == test.classes == ["Normal", "COVID-19"] and whole.split("train").labels.tolist() == 4 * [
        0
    ] + [1]
    assert test.labels.tolist() == [1, 1, 1] and test.manifest.index.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(test.images, whole.images[4:7])
    assert test.patients.tolist() == patient_keys(whole.manifest)[4:7].tolist()
    assert len(whole.split("validation").images) == 0
    with pytest.raises(CovidxrError, match="unknown split 'tset'; available: train, validation, test"):
        whole.split("tset")


def test_lung_masks_are_drawn_ones_before_boxes(tmp_path):
    made = build_dataset(per_class=1, image_size=32, work_dir=tmp_path)
    lungs = made.lung_masks()
    assert lungs.dtype == bool and lungs.shape == made.images.shape and (lungs.mean((1, 2)) > 0.05).all()
    boxes = {
        "images": [{"id": 1, "file_name": Path(made.manifest.path[0]).name, "width": 2, "height": 2}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 2]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    other = made.manifest.assign(source="covid-chestxray")
    np.testing.assert_array_equal(made._replace(manifest=other).lung_masks(tmp_path / "boxes.json"), lungs)
    other.loc[0, "lung_mask"] = ""
    boxed = made._replace(manifest=other).lung_masks(tmp_path / "boxes.json")
    assert boxed[0].mean() == 0.5 and (boxed[1:] == lungs[1:]).all()


def test_a_moved_run_folder_still_finds_what_lies_in_it(ours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    phantoms = build_dataset(per_class=2, image_size=32, work_dir="run")
    rejected = pd.DataFrame({"image_id": ["a"], "path": [str(Path("run", "a.png"))], "reason": ["why"]})
    save_dataset("run", phantoms._replace(rejected=rejected))
    moved = Path("run").rename("moved")
    found = load_dataset(moved)
    for column in ("path", "lung_mask", "lesion_mask"):
        assert all(Path(path).is_file() for path in found.manifest[column])
    assert found.rejected.path.tolist() == [str(Path("moved", "a.png"))]
    save_dataset("other", take("ours"))
    assert load_dataset("other").manifest.path.tolist() == [
        str(Path(path).absolute()) for path in take("ours").manifest.path
    ]


@pytest.mark.realdata
def test_the_articles_images_are_found(shared):
    manifest, pixels, rejected = build_dataset(
        ["covid-chestxray", "kaggle-chest-xray"], shared / "data", per_class=179, image_size=32
    )
    assert Counter(manifest.label) == dict.fromkeys(CLASSES, 179) and pixels.shape == (537, 32, 32)
    assert (manifest.groupby("label").source.agg(set).map(len) == 1).all()
    assert 0 < len(rejected) <= 5 and set(rejected.reason) == {"no such file"}
    with pytest.raises(CovidxrError, match="class 'COVID-19' has 206 readable images of 211 found, 211 are asked for"):
        build_dataset(["covid-chestxray", "kaggle-chest-xray"], shared / "data", per_class=211, image_size=8)


def test_a_dataset_has_an_image_for_each_row():
    with pytest.raises(CovidxrError, match="has 6 rows, but there are 5 images"):
        Dataset(pd.DataFrame({"label": list("ababab")}), np.zeros((5, 4, 4), np.uint8))
