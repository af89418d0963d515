"""Devices, threads and precision."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from dask.system import CPU_COUNT
from stand_ins import dataset_of, striped

from covidxr.data.dataset import build_dataset, load_embeddings, save_embeddings
from covidxr.evaluation.metrics import predict
from covidxr.model.networks import build_baseline, embed, load_model, transfer_weights
from covidxr.training import hardware
from covidxr.training.fit import TrainingConfig, fit, initialise
from covidxr.training.hardware import choose_precision, configure_hardware, distribution_strategy, set_precision
from covidxr.utils import CovidxrError

needs_bfloat16 = pytest.mark.skipif(
    choose_precision("auto") != "mixed_bfloat16", reason="this processor has no instructions for bfloat16"
)

SCRIPT = """
import json
from covidxr.training.hardware import configure_hardware
from covidxr._keras import tf
print(json.dumps([configure_hardware(), configure_hardware(threads=1), tf.config.threading.get_intra_op_parallelism_threads()]))
tf.constant(1.0) + 1
print(json.dumps(configure_hardware(threads=7)))
"""


def test_threads_are_the_machines_until_tensorflow_computes():
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=root, check=True)
    (all_cores, one, found), late = map(json.loads, done.stdout.splitlines())
    assert all_cores["threads"] == CPU_COUNT and one["threads"] == found == 1
    assert late["threads"] == 1  # as it was, not 7
    assert all_cores["devices"] == (["CPU"] if not tf.config.list_physical_devices("GPU") else all_cores["devices"])


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "mixed_float16"), ((6, 1), "float32")])
def test_half_precision_where_a_gpu_has_units_for_it(monkeypatch, capability, precision):
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    details = {"device_name": "A GPU", "compute_capability": capability}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    chosen = configure_hardware()
    assert chosen["devices"] == ["A GPU"] and chosen["precision"] == precision


def processor(monkeypatch, path, text):
    """A machine without GPU whose processor describes itself so."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setattr(hardware, "_CPU_INFO", path)
    if text is not None:
        path.write_text(text)


PROCESSORS = {
    "avx512": ("flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni\n", "mixed_bfloat16"),
    "amx": ("processor\t: 0\nflags\t\t: fpu amx_bf16\nbugs\t\t: none\n", "mixed_bfloat16"),
    "avx512 without bfloat16": ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: avx512_bf16\n", "float32"),
    "avx2": ("flags\t\t: fpu avx2\n", "float32"),
    "arm": ("Features\t: fp asimd bf16\n", "float32"),
    "not listed": (None, "float32"),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_bfloat16_where_a_processor_has_instructions_for_it(monkeypatch, tmp_path, name):
    text, precision = PROCESSORS[name]
    processor(monkeypatch, tmp_path / "cpuinfo", text)
    assert choose_precision("auto") == configure_hardware()["precision"] == precision
    assert choose_precision("mixed_float16") == configure_hardware("mixed_float16")["precision"] == "mixed_float16"
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow's own kernels are slow in bfloat16
    assert choose_precision("auto") == "float32"


def test_another_precision_is_refused():
    with pytest.raises(CovidxrError, match="unknown precision 'bfloat16'; available: auto, float32, mixed_bfloat16"):
        choose_precision("bfloat16")


@needs_bfloat16
def test_a_precision_changes_the_arithmetic_and_neither_variables_nor_softmax():
    model, images = build_baseline(9), np.random.default_rng(0).random((4, 9, 9, 3), np.float32)
    exact = model.predict_on_batch(images)
    set_precision(model, "mixed_bfloat16")
    model.compile()
    rounded = model.predict_on_batch(images)
    assert model.get_layer("dense_1").compute_dtype == "bfloat16" != model.get_layer("dense_2").compute_dtype
    assert {str(variable.dtype) for variable in model.weights} == {"float32"} and rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.01
    np.testing.assert_allclose(rounded.sum(1), 1, rtol=1e-6)
    set_precision(model, "float32")
    model.compile()
    np.testing.assert_array_equal(model.predict_on_batch(images), exact)


def test_onednn_is_reported_as_the_environment_has_it(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert not configure_hardware()["onednn"]


@pytest.mark.parametrize("precision", [pytest.param("mixed_bfloat16", marks=needs_bfloat16), "mixed_float16"])
def test_training_works_in_half_precision_and_leaves_single(tmp_path, precision):
    settings = {"epochs": 5, "learning_rate": 1e-2, "schedule": "one-cycle", "batch_size": 8, "policy": "none"}
    dataset = dataset_of(striped(), striped())
    config = TrainingConfig(**settings, precision=precision)
    models = [build_baseline(9, dropout=0.0) for _ in range(2)]
    histories = [fit(model, dataset, config, tmp_path) for model in models]
    assert histories[0].val_loss.iloc[-1] < 0.9 * histories[0].val_loss[0]
    assert histories[0].learning_rate.iloc[-1] < 1e-3
    pd.testing.assert_frame_equal(*histories)  # the same seed, the same numbers
    exact = fit(build_baseline(9, dropout=0.0), dataset, replace(config, precision="float32"), tmp_path / "exact")
    assert (exact.loss != histories[0].loss).any()
    np.testing.assert_allclose(histories[0].loss, exact.loss, rtol=0.05)
    read = load_model(tmp_path)
    assert {layer.compute_dtype for model in (read, models[0]) for layer in model.layers} == {"float32"}
    np.testing.assert_array_equal(*(predict(model, striped().images) for model in (read, models[0])))


@needs_bfloat16
def test_a_whole_training_in_bfloat16_stores_single_precision(tmp_path):
    dataset = build_dataset(per_class=4, image_size=32, work_dir=tmp_path)
    dataset.manifest["split"] = np.resize(["train", "validation"], 12)
    starts = {}
    for precision in ("auto", "float32"):
        config = TrainingConfig(weights="random", epochs=1, precision=precision)
        model, _, record = initialise(config, dataset)
        starts[precision] = model.get_weights()
    for one, other in zip(*starts.values(), strict=True):
        np.testing.assert_array_equal(one, other)  # initial weights are computed in float32
    model, build, record = initialise(replace(config, precision="auto"), dataset)
    larger = build(64)
    transfer_weights(model, larger)
    assert model.get_layer("block1_conv1").compute_dtype == larger.get_layer("block1_conv1").compute_dtype == "bfloat16"
    save_embeddings(tmp_path, dataset.manifest, embed(model, dataset.images))
    stored = load_embeddings(tmp_path, dataset.manifest)
    model.compile()
    set_precision(model, "float32")
    exact = embed(model, dataset.images)
    assert stored.dtype == exact.dtype == np.float32
    assert 0 < np.abs(stored - exact).max() < 0.05 * np.abs(exact).max()


DATA_PARALLEL = """
import json, sys, tempfile
from dataclasses import replace
import numpy as np
sys.path.insert(0, "tests")
from stand_ins import LabelledImages, dataset_of, striped
from covidxr._keras import tf
from covidxr.model.networks import build_baseline
from covidxr.utils import CovidxrError
from covidxr.data.images import preprocess
from covidxr.training.fit import TrainingConfig, fit
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
mirrored, began = tf.distribute.MirroredStrategy, []
tf.distribute.MirroredStrategy = lambda: began.append(1) or mirrored(["CPU:0", "CPU:1"])
images = striped()
held_out = LabelledImages(images.images[:15].copy(), images.labels[:15])  # an odd number
dataset, losses = dataset_of(images, held_out), {}
for devices, dropout in (("one", 0.0), ("all", 0.0), ("all", 0.5)):
    model = build_baseline(9, dropout=dropout)
    config = TrainingConfig(
        epochs=3, learning_rate=1e-2, warmup_epochs=1, policy="none", batch_size=8, precision="float32", devices=devices
    )
    history = fit(model, dataset, config, tempfile.mkdtemp())
    truth = np.eye(3)[held_out.labels]
    losses[f"{devices} {dropout}"] = [*history.val_loss, float(model.evaluate(preprocess(held_out.images), truth, verbose=0)[0])]
errors = []
for changes in ({"batch_size": 9}, {"balance": True}):
    try:
        fit(model, dataset, replace(config, **changes), tempfile.mkdtemp())
    except CovidxrError as error:
        errors.append(str(error))
print(json.dumps([losses, len(began), *errors]))
"""


def test_data_parallel_training_ends_as_on_one_device():
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", DATA_PARALLEL], capture_output=True, text=True, cwd=root, check=True)
    losses, mirrored, indivisible, balance = json.loads(done.stdout.splitlines()[-1])
    assert mirrored == 4
    assert indivisible == "a batch of 9 images cannot be divided among 2 devices; make batch_size a multiple"
    assert balance == "balance needs a single device; set balance to False or devices to 'one'"
    np.testing.assert_allclose(losses["all 0.0"], losses["one 0.0"], rtol=1e-4)
    assert losses["one 0.0"][3] == pytest.approx(min(losses["one 0.0"][:3]), rel=1e-4)  # the kept epoch's weights
    assert losses["all 0.5"][2] < losses["all 0.5"][0]


def test_other_devices_are_refused():
    with pytest.raises(CovidxrError, match="unknown devices 'two'; available: one, all"):
        distribution_strategy("two")
