"""A network's file that is missing, damaged, hostile or another run's: one sentence, no code run, no machine filled."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas as pd
import pytest

from covidxr.early import build_early
from covidxr.errors import CovidxrError
from covidxr.model import build_baseline, build_vgg16
from covidxr.train import read_model

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
RUN = Path(tempfile.gettempdir(), f"covidxr-lambda-{os.getpid()}")
MOST_MEMORY, MOST_SECONDS = 1_000, 10  # megabytes above those of the libraries, for a file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound file: its members' bytes by name."""
    path = tmp_path_factory.mktemp("whole") / "model.keras"
    build_baseline(9).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def with_config(change):
    def make(whole):
        config = json.loads(whole[CONFIG])
        change(config["config"]["layers"])
        return packed(whole | {CONFIG: json.dumps(config)})

    return make


def with_weights(change):
    def make(whole):
        content = io.BytesIO(whole[WEIGHTS])
        with h5py.File(content, "r+") as file:
            change(file)
        return packed(whole | {WEIGHTS: content.getvalue()})

    return make


def saved(model):
    def make(whole):
        with tempfile.TemporaryDirectory() as folder:
            model().save(path := Path(folder, "model.keras"))
            return path.read_bytes()

    return make


def layer(name, **settings):
    entry = {"module": "keras.layers", "class_name": name, "registered_name": None, "name": "evil", "inbound_nodes": []}
    return entry | {"config": {"name": "evil", **settings}}


def ends_with_a_lambda():
    inputs = keras.Input((9, 9, 3))
    x = keras.layers.Lambda(lambda x, run=str(RUN): os.makedirs(run, exist_ok=True) or x)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def two_inputs():
    ends = keras.Input((9, 9, 3)), keras.Input((9, 9, 3))
    return keras.Model(ends, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Add()(ends))))


def grey():
    return keras.Sequential([keras.Input((9, 9, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])


def huge_array(file):
    file.create_dataset("vast", (200_000, 200_000), "f4", compression="gzip", chunks=(1000, 1000), fillvalue=1.0)


def elsewhere(file):
    del file["layers/dense_1/vars/0"]
    file["layers/dense_1/vars/0"] = h5py.ExternalLink("/tmp/other.h5", "secret")


def outside(file):
    del file["layers/dense_1/vars/0"]
    file["layers/dense_1/vars"].create_dataset("0", (64, 3), "f4", external=[("/tmp/other", 0, 64 * 3 * 4)])


def spoilt(value):
    def change(file):
        file["layers/dense_1/vars/0"][3, 2] = value

    return with_weights(change)


HOSTILE = {
    "empty": (lambda whole: b"", "not a zip file"),
    "text": (lambda whole: b"a network" * 1000, "not a zip file"),
    "halved": (lambda whole: packed(whole)[: len(packed(whole)) // 2], "not a zip file"),
    "an HDF5 file": (lambda whole: whole[WEIGHTS], "not a zip file"),
    "flipped bytes": (lambda whole: packed(whole).replace(whole[WEIGHTS][:1], b"\xff"), ""),
    "an empty zip": (lambda whole: packed({}), "holds nothing instead of"),
    "no configuration": (
        lambda whole: packed({n: d for n, d in whole.items() if n != CONFIG}),
        "instead of config.json",
    ),
    "no weights": (lambda whole: packed({n: d for n, d in whole.items() if n != WEIGHTS}), "instead of config.json"),
    "more members": (lambda whole: packed(whole | {"assets/../../x": b""}), "instead of config.json"),
    "a configuration that is none": (lambda whole: packed(whole | {CONFIG: b"{"}), "Expecting"),
    "a configuration of a list": (lambda whole: packed(whole | {CONFIG: b"[]"}), ""),
    "a configuration without end": (lambda whole: packed(whole | {CONFIG: b"[" * 100_000}), "recursion"),
    "a configuration of spaces": (lambda whole: packed(whole | {CONFIG: b" " * 10**9}), "unpacks to 1,00"),
    "weights of zeros": (lambda whole: packed(whole | {WEIGHTS: bytes(10**9)}), "unpacks to 1,00"),
    "weights that are none": (lambda whole: packed(whole | {WEIGHTS: b"no HDF5"}), ""),
    "weights cut off": (lambda whole: packed(whole | {WEIGHTS: whole[WEIGHTS][:9000]}), ""),
    "a missing array": (with_weights(lambda file: file.__delitem__("layers/dense_1/vars/0")), ""),
    "an array of another shape": (
        with_weights(
            lambda file: (
                file.__delitem__("layers/dense_1/vars/0"),
                file.create_dataset("layers/dense_1/vars/0", (3, 4)),
            )
        ),
        "",
    ),
    "a vast array": (with_weights(huge_array), "its weights have 160,0"),
    "a link to another file": (with_weights(elsewhere), "points elsewhere"),
    "an array of another file": (with_weights(outside), "points elsewhere"),
    "NaN": (spoilt(np.nan), "1 of 192 values of dense_2/kernel .* are NaN or infinite"),
    "infinity": (spoilt(-np.inf), "NaN or infinite"),
    "a Lambda": (saved(ends_with_a_lambda), "keras.layers.Lambda, which is no part of this package's networks"),
    "a layer of another module": (
        with_config(lambda layers: layers.append(layer("Dense") | {"module": "antigravity"})),
        "antigravity.Dense, which is no part",
    ),
    "a layer that downloads": (with_config(lambda layers: layers.append(layer("TextVectorization"))), "no part"),
    "an operating system's function": (
        with_config(
            lambda layers: layers[-1]["config"].update(activation={"class_name": "function", "config": "os.system"})
        ),
        "function, which is no part",
    ),
    "more units than fit": (
        with_config(lambda layers: layers[-1]["config"].update(units=10**9)),
        "its layers are to hold 64,000,0",
    ),
    "a vast first shape": (
        with_config(lambda layers: layers[3]["build_config"].update(input_shape=[None, 10**9])),
        "its layers are to hold 64,000,0",
    ),
    "a layer that hides its size": (with_config(lambda layers: layers[-1].pop("build_config")), "build_config"),
    "a vast image": (
        with_config(lambda layers: layers[0]["config"].update(batch_shape=[None, 10**6, 10**6, 3])),
        "",
    ),
    "units that are words": (with_config(lambda layers: layers[-1]["config"].update(units="many")), ""),
    "two inputs": (saved(two_inputs), "one image of three channels and one score a class fit"),
    "grey images": (saved(grey), "one image of three channels"),
    "maps for an answer": (
        saved(lambda: keras.Sequential([keras.Input((9, 9, 3)), keras.layers.Conv2D(3, 3)])),
        "one image of three channels",
    ),
}
READS = """
import json, resource, sys, time
from pathlib import Path
from covidxr.errors import CovidxrError
from covidxr.train import read_model

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

read_model(sys.argv[1])
found = {}
for folder in sys.argv[2:]:
    before, start, said = peak(), time.perf_counter(), "read"
    try:
        read_model(folder)
    except CovidxrError as error:
        said = str(error)
    found[Path(folder).name] = said, peak() - before, time.perf_counter() - start
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def read(whole, tmp_path_factory):
    """What reading each of the files said, and what it took, measured in a process of their own."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (make, _) in {"sound": (packed, ""), **HOSTILE}.items():
        (folder / name).mkdir()
        (folder / name / "model.keras").write_bytes(make(whole))
    RUN.rmdir()  # the Lambda left it when the file was made
    places = [folder / name for name in ("sound", *HOSTILE)]
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", READS, *places], capture_output=True, text=True, cwd=root, timeout=300)
    assert not done.returncode, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_the_file_is_reading_it_ends_in_one_sentence(name, read):
    said, memory, seconds = read[name]
    assert "model.keras cannot be used as the run's network: " in said and "\n" not in said
    assert said.endswith("; delete it and run notebook 03_fine_tuning again")
    assert re.search(HOSTILE[name][1], said)
    assert memory < MOST_MEMORY and seconds < MOST_SECONDS


def test_no_code_of_a_file_is_run(read):
    assert not RUN.exists()


@pytest.mark.parametrize("build", [build_vgg16, build_early, build_baseline])
def test_a_sound_file_gives_the_network_back(build, tmp_path):
    model = build(64, 3)
    model.save(tmp_path / "model.keras")
    again = read_model(tmp_path)
    assert (again.name, again.input_shape, again.output_shape) == (model.name, model.input_shape, model.output_shape)
    frozen = [[layer.name for layer in one.layers if not layer.trainable and layer.weights] for one in (model, again)]
    assert frozen[0] == frozen[1]
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_network_of_other_classes_than_the_run_s_is_refused(tmp_path):
    build_baseline(9, 2).save(tmp_path / "model.keras")
    pd.DataFrame({"label": ["Normal", "COVID-19", "Bacteria"]}).to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(CovidxrError, match=r"has 2 outputs, the run has 3 classes \(Normal, COVID-19, Bacteria\)"):
        read_model(tmp_path)


def test_a_folder_in_the_file_s_place_is_a_sentence(tmp_path):
    (tmp_path / "model.keras").mkdir()
    with pytest.raises(CovidxrError, match="it is no file; delete it and run notebook 03_fine_tuning again"):
        read_model(tmp_path)
