"""What a training runs on: devices, threads, and the precision of its arithmetic."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from dask.system import CPU_COUNT

from covidxr._keras import tf
from covidxr.utils import unknown

_PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")

_CPU_INFO = Path("/proc/cpuinfo")  # of Linux

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}  # without these instructions, bfloat16 is slower than float32


def configure_hardware(precision="auto", threads=None) -> dict:
    """Configure threads for this machine, and return the choice; call it before TensorFlow computes anything."""
    threads = threads or CPU_COUNT
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:  # TensorFlow has computed something in this process: its threads are fixed
        threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
    return {
        "devices": [_details(gpu).get("device_name", gpu.name) for gpu in _gpus()] or ["CPU"],
        "threads": threads,
        "precision": choose_precision(precision),
        "onednn": _has_onednn(),
    }


def choose_precision(precision) -> str:
    """Return a precision as it is, or for "auto" the one that is fastest on this machine."""
    if precision not in _PRECISIONS:
        raise unknown("precision", precision, _PRECISIONS)
    if precision != "auto":
        return precision
    if gpus := _gpus():
        return "mixed_float16" if all(map(_has_half_precision_units, gpus)) else "float32"
    return "mixed_bfloat16" if _has_onednn() and _BFLOAT16_FLAGS & _cpu_flags() else "float32"


def set_precision(model, precision) -> None:
    """Let a model compute in another precision; call it before `compile`.

    Variables stay in float32, and so does the last layer, the softmax.
    """
    policy = choose_precision(precision)
    for layer in model.layers[:-1]:
        layer.dtype_policy = policy
    model.dtype_policy = policy  # by which Keras decides whether the loss is scaled


def distribution_strategy(devices):
    """The distribution strategy for one device, or for all of the machine's GPUs."""
    strategies = {"one": tf.distribute.get_strategy, "all": tf.distribute.MirroredStrategy}
    if devices not in strategies:
        raise unknown("devices", devices, strategies)
    return strategies[devices]()


def _gpus():
    return tf.config.list_physical_devices("GPU")


def _details(gpu):
    return tf.config.experimental.get_device_details(gpu)


def _has_half_precision_units(gpu):
    return _details(gpu).get("compute_capability", (0, 0)) >= (7, 0)


def _has_onednn():
    return platform.machine() in ("x86_64", "AMD64") and os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"


def _cpu_flags():
    """Names of the processor's instruction sets, where the system lists them."""
    if not _CPU_INFO.exists():
        return set()
    flags = re.search(r"^flags\s*:(.*)$", _CPU_INFO.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return set(flags[1].split()) if flags else set()
