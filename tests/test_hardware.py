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

from covidxr.hardware import use_hardware
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
