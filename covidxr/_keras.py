"""TensorFlow and Keras, imported without their messages about CUDA and CPU features."""

from __future__ import annotations

import os
from contextlib import contextmanager


def set_seed(seed) -> None:
    """Seed Python, NumPy and TensorFlow, and make TensorFlow's operations deterministic."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


@contextmanager
def _muted_stderr():
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


with _muted_stderr():
    import keras
    import tensorflow as tf
    from tqdm.keras import TqdmCallback


tf.get_logger().setLevel("ERROR")  # users cannot act on its advice about retracing


__all__ = ["TqdmCallback", "keras", "tf"]
