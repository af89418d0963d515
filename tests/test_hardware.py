"""What is chosen for the machine: in a fresh process, in one that has begun to compute, on a GPU that is pretended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from dask.system import CPU_COUNT

from covidxr.errors import CovidxrError
from covidxr.hardware import share_out, use_hardware
from covidxr.model import build_baseline
from covidxr.train import Films, fit

SCRIPT = """
import json
from covidxr.hardware import use_hardware
from covidxr._tensorflow import tf
print(json.dumps([use_hardware(), use_hardware(1), tf.config.threading.get_intra_op_parallelism_threads()]))
tf.constant(1.0) + 1
print(json.dumps(use_hardware(7)))
"""


@pytest.fixture(autouse=True)
def single_precision():
    yield
    keras.config.set_dtype_policy("float32")


def test_threads_are_the_machines_until_tensorflow_has_begun():
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=root, check=True)
    (all_cores, one, found), late = map(json.loads, done.stdout.splitlines())
    assert all_cores["threads"] == CPU_COUNT and one["threads"] == found == 1
    assert late["threads"] == 1  # as it was, not as asked for
    assert all_cores["devices"] == (["CPU"] if not tf.config.list_physical_devices("GPU") else all_cores["devices"])


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "mixed_float16"), ((6, 1), "float32")])
def test_half_precision_where_a_gpu_has_units_for_it(monkeypatch, capability, precision):
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    details = {"device_name": "A GPU", "compute_capability": capability}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    chosen = use_hardware()
    assert chosen["devices"] == ["A GPU"] and chosen["precision"] == precision == keras.config.dtype_policy().name


def test_onednn_is_reported_as_the_environment_has_it(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert not use_hardware()["onednn"]


def test_training_works_in_half_precision(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    films = Films(np.random.default_rng(0).integers(0, 120, (24, 9, 9), np.uint8), np.arange(24) % 3)
    for film, label in zip(*films, strict=True):
        film[:, 3 * label : 3 * label + 3] += 90
    options = {"epochs": 5, "learning_rate": 1e-2, "policy": "none", "schedule": "one-cycle", "batch_size": 8}
    history = fit(build_baseline(9), films, films, 3, tmp_path, **options)
    assert history.val_loss.iloc[-1] < 0.9 * history.val_loss[0]
    assert history.learning_rate.iloc[-1] < 1e-3


SHARED_OUT = """
import json, tempfile
import numpy as np
from covidxr._tensorflow import tf
from covidxr.model import build_baseline
from covidxr.errors import CovidxrError
from covidxr.groups import Balance
from covidxr.pixels import preprocess
from covidxr.train import Films, fit
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
mirrored, began = tf.distribute.MirroredStrategy, []
tf.distribute.MirroredStrategy = lambda: began.append(1) or mirrored(["CPU:0", "CPU:1"])
films = Films(np.random.default_rng(0).integers(0, 120, (24, 9, 9), np.uint8), np.arange(24) % 3)
held_out = Films(films.images[:15], films.labels[:15])  # an odd number
for film, label in zip(*films):
    film[:, 3 * label : 3 * label + 3] += 90
losses = {}
for devices, dropout in (("one", 0.0), ("all", 0.0), ("all", 0.5)):
    model = build_baseline(9, dropout=dropout)
    options = {"epochs": 3, "learning_rate": 1e-2, "policy": "none", "batch_size": 8, "devices": devices}
    history = fit(model, films, held_out, 3, tempfile.mkdtemp(), **options)
    losses[f"{devices} {dropout}"] = [*history.val_loss, float(model.evaluate(preprocess(held_out.images), np.eye(3)[held_out.labels], verbose=0)[0])]
try:
    fit(model, films, held_out, 3, tempfile.mkdtemp(), **{**options, "batch_size": 9})
except CovidxrError as error:
    said = [len(began), str(error)]
try:
    fit(model, films, held_out, 3, tempfile.mkdtemp(), **options, balance=Balance(np.ones(24), np.full(15, "x")))
except CovidxrError as error:
    print(json.dumps([losses, *said, str(error)]))
"""


def test_a_training_shared_out_among_two_devices_ends_as_on_one():
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", SHARED_OUT], capture_output=True, text=True, cwd=root, check=True)
    losses, shared_out, refused, balance = json.loads(done.stdout.splitlines()[-1])
    assert (
        shared_out == 3 and refused == "9 films a step cannot be shared out among 2 devices; make batch_size a multiple"
    )
    assert "on one device only; leave balance or devices out" in balance
    np.testing.assert_allclose(losses["all 0.0"], losses["one 0.0"], rtol=1e-4)
    assert losses["one 0.0"][3] == pytest.approx(min(losses["one 0.0"][:3]), rel=1e-4)  # the kept epoch's weights
    assert losses["all 0.5"][2] < losses["all 0.5"][0]


def test_other_devices_are_refused():
    with pytest.raises(CovidxrError, match="unknown devices 'two'; available: one, all"):
        share_out("two")
