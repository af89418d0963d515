"""Each profile's own selection, on a miniature of its sources and on the real ones: no patient and no near-duplicate in two splits."""

from __future__ import annotations

import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from covidxr.data.dataset import build_dataset
from covidxr.data.duplicates import find_duplicates
from covidxr.data.manifest import is_phantom
from covidxr.data.phantom import make_phantom
from covidxr.data.sources import source_entry
from covidxr.data.splits import duplicates_across_splits, patients_across_splits, split_manifest
from covidxr.run.profile import parse_yaml, read_profile
from covidxr.utils import CovidxrError

PROFILES = [
    path for path in sorted((Path(__file__).parents[1] / "notebooks" / "profiles").glob("*.yaml")) if path.stem != "own"
]
HEADER = "patientid,sex,age,finding,view,modality,filename,url,license"
PLANTED = 3  # pairs of near-duplicates among the COVID-19 images, each of two patients


def save(path, seed, quality=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(make_phantom("COVID-19", np.random.default_rng(seed), size=96).image)
    image.save(path, quality=quality)


def plant_covid_chestxray(folder):
    """Plant 30 images of 10 patients, of which three are, recompressed, also another's."""
    rows = [HEADER]
    for n in range(30):
        copy_of = n - 27 if n >= 30 - PLANTED else n
        save(folder / "images" / f"{n}.jpg", copy_of, 50 if copy_of != n else 90)
        rows.append(f"{n % 10},F,50,COVID-19,PA,X-ray,{n}.jpg,,")
    (folder / "metadata.csv").write_text("\n".join(rows))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Miniatures of the real sources, with patients of several images and with near-duplicates."""
    root = tmp_path_factory.mktemp("data")
    plant_covid_chestxray(root / "covid-chestxray-dataset")
    for n in range(30):
        save(root / "chest_xray" / "train" / "NORMAL" / f"IM-{n // 2:04d}-{n:04d}.jpeg", 100 + n)
        save(root / "chest_xray" / "train" / "PNEUMONIA" / f"person{n // 3}_bacteria_{n}.jpeg", 200 + n)
        save(root / "chest_xray" / "train" / "PNEUMONIA" / f"person{100 + n // 3}_virus_{n}.jpeg", 500 + n)
        again = 100 + n if n < 10 else 300 + n  # ten images of the Kaggle set, once more
        save(root / "darkcovidnet" / "X-Ray Image DataSet" / "No_findings" / f"{n // 2:08d}_{n:03d}.png", again)
        save(root / "darkcovidnet" / "X-Ray Image DataSet" / "Pneumonia" / f"{n:08d}_000.png", 400 + n)
    rows = ["patientid,sex,age,finding,view"]
    for n in range(20):
        name = f"COVID-{n // 2:05d}{'ab'[n % 2]}"
        save(root / "figure1" / "images" / f"{name}.jpg", 600 + n)
        rows.append(f"{name},M,50,COVID-19,AP")
    (root / "figure1" / "metadata.csv").write_text("\n".join(rows))
    for n in range(27):
        save(root / "darkcovidnet" / "X-Ray Image DataSet" / "Covid-19" / f"{n:02d}.jpeg", n, 60)
    return root


def select(profile, data_dir, work_dir, per_class):
    """Assemble and split as notebook 01 does, and return the manifest and how it was split."""
    options = read_profile(profile)[1]["01_dataset_assembly"]
    chosen = {name: options[name] for name in ("classes", "label_map", "drop_duplicates") if name in options}
    found = build_dataset(options["sources"], data_dir, per_class=per_class, image_size=64, work_dir=work_dir, **chosen)
    shares = options["test_share"], options["validation_share"]
    return found, split_manifest(found.manifest, options["split"], *shares), options["split"]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_no_two_splits_share_a_patient_or_a_near_duplicate(profile, planted, tmp_path):
    found, divided, by = select(profile, planted, tmp_path, 30)
    pairs = find_duplicates(found.images)
    splits = divided.split.to_numpy()
    across = int((splits[pairs["first"]] != splits[pairs.second]).sum())
    if by == "image":
        assert patients_across_splits(divided) > 0 and duplicates_across_splits(divided) > 0 and across > 0
    else:
        assert patients_across_splits(divided) == duplicates_across_splits(divided) == across == 0
    assert all(map(is_phantom, divided.source)) == pairs.empty


def of_real_images(profile):
    sources = read_profile(profile)[1]["01_dataset_assembly"]["sources"]
    return not all(is_phantom(source_entry(entry)[0]) for entry in sources)


@pytest.mark.realdata
@pytest.mark.parametrize("profile", [p for p in PROFILES if of_real_images(p)], ids=lambda path: path.stem)
def test_no_two_splits_of_real_images_share_a_patient_or_a_near_duplicate(profile, shared, tmp_path):
    found, divided, by = select(profile, shared / "data", tmp_path, 170)
    assert by == "image" or patients_across_splits(divided) == duplicates_across_splits(divided) == 0
    assert (found.manifest.duplicate_group != "").any()
    assert Counter(divided.label).most_common()[-1][1] == 170


def test_the_copied_covid_folder_is_recognised(planted):
    dark = planted / "darkcovidnet" / "X-Ray Image DataSet"
    found = build_dataset(["covid-chestxray", str(dark)], planted, classes=["COVID-19"], per_class=None, image_size=64,
                     label_map={"Covid-19": "COVID-19"})  # fmt: skip
    copies = found.manifest[found.manifest.image_id.str.contains("Covid-19/")]
    originals = found.manifest[found.manifest.source == "covid-chestxray"]
    assert (
        len(copies) == 27
        and copies.duplicate_group.isin(originals.duplicate_group[originals.duplicate_group != ""]).all()
    )
    none = build_dataset(["covid-chestxray", str(dark)], planted, classes=["COVID-19"], per_class=None, image_size=64,
                    label_map={"Covid-19": "COVID-19"}, drop_duplicates=True)  # fmt: skip
    assert len(none.manifest) == 27 and len(none.rejected) == 30


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join(10 * [f'*a{n - 1}'])}]\n" for n in range(1, 9)
)
HOSTILE = {
    "Latin-1": ("all:\n  classes: [Gesünder]\n".encode("latin-1"), "is not text in UTF-8; save it in that encoding"),
    "UTF-16": ("all:\n  seed: 1\n".encode("utf-16"), "is not text in UTF-8"),
    "binary": (bytes(range(256)), "is not text in UTF-8"),
    "NUL": (b"all:\0\n", "is not valid YAML"),
    "circular": (b"all: &a\n  seed: *a\n", r"is not valid YAML: aliases \(\*a\) are not read, write the value out"),
    "circular list": (b"all: {classes: &a [*a]}\n", "is not valid YAML: aliases .* are not read"),
    "alias bomb": (BOMB.encode(), "is not valid YAML: aliases .* are not read"),
    "merged bomb": (b"a: &a {x: 1}\nb: {<<: [*a, *a]}\n", "is not valid YAML: aliases .* are not read"),
    "deep": (b"all: " + 40_000 * b"[", "is not valid YAML: too many nested brackets"),
    "deep mapping": (b"all: " + 20_000 * b"{a: ", "is not valid YAML: too many nested brackets"),
    "large": (b"all:\n" + 30_000_000 * b"# 345\n", "has 100,001 characters; the limit is 100,000"),
    "no date": (b"all:\n  seed: 2020-99-99\n", "is not valid YAML: month must be in 1..12"),
    "no number": (b"all:\n  seed: 1" + 9_000 * b"0" + b"\n", "is not valid YAML: .*integer string conversion"),
    "tag": (b"all: !!python/object/apply:os.system [exit]\n", "is not valid YAML: could not determine a constructor"),
    "empty tag": (b"all: !!int ''\n", "is not valid YAML"),
    "unhashable": (b"? [a]\n: b\n", "is not valid YAML"),
    "a section twice": (b"all:\n  seed: 1\nall:\n  seed: 2\n", "is not valid YAML: 'all' is given twice"),
    "a parameter twice": (b"all:\n  seed: 1\n  seed: 2\n", "is not valid YAML: 'seed' is given twice .*line 2"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_profile_is_refused_in_one_sentence_with_little_time_and_memory(name, tmp_path):
    content, error = HOSTILE[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    del content
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(CovidxrError, match=f"mine.yaml {error}") as caught:
        read_profile(path)
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_profile_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "mine.yaml").write_text("all:\n  classes: [Málaga]\n", encoding="utf-8-sig")
    assert read_profile(tmp_path / "mine.yaml") == ("mine", {"all": {"classes": ["Málaga"]}})


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=30), st.text("[]{}:&*!?-,\n 0a'\"<|>#%@", max_size=30)))
def test_any_text_is_parsed_or_refused_in_one_sentence(text):
    try:
        parse_yaml(text, "-p seed")
    except CovidxrError as error:
        assert str(error).startswith("-p seed ")
