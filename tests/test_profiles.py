"""Each profile's own selection, on a miniature of its sources and on the real ones: no patient, no twin on two sides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covidxr._profile import read_profile
from covidxr.dataset import assemble, split_manifest, straddling_patients, straddling_twins
from covidxr.duplicates import find_twins
from covidxr.sources.phantom import make_phantom

PROFILES = sorted((Path(__file__).parents[1] / "notebooks" / "profiles").glob("*.yaml"))
HEADER = "patientid,sex,age,finding,view,modality,filename,url,license"
PLANTED = 3  # pairs of twins among the COVID-19 films, each of two patients


def save(path, seed, quality=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(make_phantom("COVID-19", np.random.default_rng(seed), size=96).image)
    image.save(path, quality=quality)


def plant_covid_chestxray(folder):
    """Plant 30 films of 10 patients, of which three are, recompressed, also another's."""
    rows = [HEADER]
    for n in range(30):
        twin_of = n - 27 if n >= 30 - PLANTED else n
        save(folder / "images" / f"{n}.jpg", twin_of, 50 if twin_of != n else 90)
        rows.append(f"{n % 10},F,50,COVID-19,PA,X-ray,{n}.jpg,,")
    (folder / "metadata.csv").write_text("\n".join(rows))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Miniatures of the real sources, with patients of several films and with twins."""
    root = tmp_path_factory.mktemp("data")
    plant_covid_chestxray(root / "covid-chestxray-dataset")
    for n in range(30):
        save(root / "chest_xray" / "train" / "NORMAL" / f"IM-{n // 2:04d}-{n:04d}.jpeg", 100 + n)
        save(root / "chest_xray" / "train" / "PNEUMONIA" / f"person{n // 3}_bacteria_{n}.jpeg", 200 + n)
        save(root / "chest_xray" / "train" / "PNEUMONIA" / f"person{100 + n // 3}_virus_{n}.jpeg", 500 + n)
        again = 100 + n if n < 10 else 300 + n  # ten films of the Kaggle set, once more
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
    chosen = {name: options[name] for name in ("classes", "label_map", "drop_twins") if name in options}
    found = assemble(options["sources"], data_dir, per_class=per_class, image_size=64, work_dir=work_dir, **chosen)
    shares = options["test_share"], options["validation_share"]
    return found, split_manifest(found.manifest, options["split"], *shares), options["split"]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_no_two_splits_share_a_patient_or_a_twin(profile, planted, tmp_path):
    found, divided, by = select(profile, planted, tmp_path, 30)
    pairs = find_twins(found.pixels)
    splits = divided.split.to_numpy()
    across = int((splits[pairs["first"]] != splits[pairs.second]).sum())
    if by == "image":
        assert straddling_patients(divided) > 0 and straddling_twins(divided) > 0 and across > 0
    else:
        assert straddling_patients(divided) == straddling_twins(divided) == across == 0
    assert ("phantom" in set(divided.source)) == pairs.empty


def of_real_films(profile):
    return read_profile(profile)[1]["01_dataset_assembly"]["sources"] != ["phantom"]


@pytest.mark.realdata
@pytest.mark.parametrize("profile", [p for p in PROFILES if of_real_films(p)], ids=lambda path: path.stem)
def test_no_two_splits_of_real_films_share_a_patient_or_a_twin(profile, shared, tmp_path):
    found, divided, by = select(profile, shared / "data", tmp_path, 170)
    assert by == "image" or straddling_patients(divided) == straddling_twins(divided) == 0
    assert (found.manifest.twins != "").any()
    assert Counter(divided.label).most_common()[-1][1] == 170


def test_the_copied_covid_folder_is_recognised(planted):
    dark = planted / "darkcovidnet" / "X-Ray Image DataSet"
    found = assemble(["covid-chestxray", str(dark)], planted, classes=["COVID-19"], per_class=None, image_size=64,
                     label_map={"Covid-19": "COVID-19"})  # fmt: skip
    copies = found.manifest[found.manifest.image_id.str.contains("Covid-19/")]
    originals = found.manifest[found.manifest.source == "covid-chestxray"]
    assert len(copies) == 27 and copies.twins.isin(originals.twins[originals.twins != ""]).all()
    none = assemble(["covid-chestxray", str(dark)], planted, classes=["COVID-19"], per_class=None, image_size=64,
                    label_map={"Covid-19": "COVID-19"}, drop_twins=True)  # fmt: skip
    assert len(none.manifest) == 27 and len(none.rejected) == 30
