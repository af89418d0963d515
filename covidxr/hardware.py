"""The machine, used as it is: threads, mixed precision and oneDNN, chosen in this one place."""

from __future__ import annotations

import os
import platform

from dask.system import CPU_COUNT

from covidxr._tensorflow import keras, tf
from covidxr.errors import unknown


def use_hardware(threads=None) -> dict:
    """Fit TensorFlow to the machine, and say what was chosen; to be called before anything is computed.

    As many threads as the process may use cores (a container's share or an affinity counts, not the machine's whole
    number). On a GPU that computes it faster, half precision with single-precision weights. oneDNN's kernels are
    TensorFlow's default on x86; whether they are used is only reported, the environment variable
    ``TF_ENABLE_ONEDNN_OPTS`` decides.

    Parameters
    ----------
    threads : int, optional
        For a worker among several on one machine; by default all cores.

    Returns
    -------
    dict
        ``devices``, ``threads``, ``precision``, ``onednn``; for the run's record.

    Examples
    --------
    >>> sorted(use_hardware())
    ['devices', 'onednn', 'precision', 'threads']
    """
    threads = threads or CPU_COUNT
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:  # TensorFlow has begun to compute, in this process or notebook: its threads stay
        threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
    gpus = tf.config.list_physical_devices("GPU")
    keras.config.set_dtype_policy("mixed_float16" if gpus and all(map(_has_half_precision_units, gpus)) else "float32")
    return {
        "devices": [_details(gpu).get("device_name", gpu.name) for gpu in gpus] or ["CPU"],
        "threads": threads,
        "precision": keras.config.dtype_policy().name,
        "onednn": platform.machine() in ("x86_64", "AMD64") and os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0",
    }


def share_out(devices):
    """Say how a training is shared out among devices.

    Parameters
    ----------
    devices : {"one", "all"}
        ``all`` keeps a copy of the network on each GPU of the machine, gives each its part of every batch, and adds up their
        gradients: each step is that of one device, but for rounding, dropout, and the few films of an epoch's last batch.

    Returns
    -------
    tf.distribute.Strategy
        Without a GPU, or with one, there is nothing to share out.

    Raises
    ------
    CovidxrError
        When `devices` is neither.

    References
    ----------
    TensorFlow's ``tf.distribute.MirroredStrategy``.

    Examples
    --------
    >>> share_out("one").num_replicas_in_sync
    1
    """
    ways = {"one": tf.distribute.get_strategy, "all": tf.distribute.MirroredStrategy}
    if devices not in ways:
        raise unknown("devices", devices, ways)
    return ways[devices]()


def _details(gpu):
    return tf.config.experimental.get_device_details(gpu)


def _has_half_precision_units(gpu):
    return _details(gpu).get("compute_capability", (0, 0)) >= (7, 0)
