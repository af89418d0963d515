"""TensorFlow, Keras and what imports them, without their notes on CUDA and CPU features.

TensorFlow 2.21 writes those notes straight to the process' standard error while it is imported, whatever its log level,
so the file descriptor is turned away for just that long. A real failure still raises ImportError.
"""

from __future__ import annotations

import os
from contextlib import contextmanager


@contextmanager
def _muted_stderr():
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


with _muted_stderr():
    import keras
    import tensorflow as tf
    from tqdm.keras import TqdmCallback

tf.get_logger().setLevel("ERROR")  # its advice on retracing is not the user's to follow

__all__ = ["TqdmCallback", "keras", "tf"]
