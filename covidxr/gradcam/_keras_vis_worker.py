"""The process that keras-vis 0.4.1 runs in: ``python -m covidxr.gradcam._keras_vis_worker FOLDER``.

keras-vis was written for Keras 2 on TensorFlow 1. It is left as it was released; here the names that it imports are
defined before it is imported, which is why it needs a process of its own. `covidxr.gradcam.reference` writes
``layers.json``, ``weights.npz`` and ``images.npz`` to FOLDER and finds ``maps.npz`` there.
"""

from __future__ import annotations

import collections
import collections.abc
import json
import sys
import time
import types
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow as tf
import tf_keras
from matplotlib import cm
from PIL import Image


def imresize(array, size, interp, mode):
    """Do what `scipy.misc.imresize`, gone since SciPy 1.3, did in keras-vis' one call of it."""
    if (interp, mode) != ("bicubic", "F"):
        raise NotImplementedError(f"imresize with interp={interp!r}, mode={mode!r}")
    image = Image.fromarray(np.asarray(array, np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def prepare_imports() -> None:
    """Define what keras-vis imports: Keras 2 under the name of Keras, and three names that no longer exist."""
    layers = tf_keras.layers
    collections.Iterable = collections.abc.Iterable
    sys.modules.update(
        {
            "keras": tf_keras,
            "keras.backend": tf_keras.backend,
            "keras.models": tf_keras.models,
            "keras.layers": layers,
            "keras.layers.convolutional": _module(_Conv=layers.Conv2D.__base__),
            "keras.layers.pooling": _module(
                _Pooling1D=layers.MaxPooling1D.__base__,
                _Pooling2D=layers.MaxPooling2D.__base__,
                _Pooling3D=layers.MaxPooling3D.__base__,
            ),
            "scipy.misc": _module(imresize=imresize),
        }
    )


def _module(**names):
    module = types.ModuleType("stand_in")
    module.__dict__.update(names)
    return module


def rebuild(folder):
    """Build the model again in Keras 2 from ``layers.json`` and ``weights.npz``."""
    chain = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
    model = tf_keras.Sequential([getattr(tf_keras.layers, kind)(**arguments) for kind, arguments in chain])
    with np.load(folder / "weights.npz") as weights:
        model.set_weights([weights[str(i)] for i in range(len(weights.files))])
    return model


def explain(model, images, classes, layer):
    """Return keras-vis' jet images, the maps that it coloured, and the seconds that each took."""
    from vis.utils.utils import find_layer_idx
    from vis.visualization import visualize_cam

    index, jets, maps, seconds = find_layer_idx(model, layer), [], [], []
    for image, number in zip(images, classes, strict=True):
        start = time.perf_counter()
        # keras-vis hands back colours only; the map is what it gives to the colour map.
        with mock.patch.object(cm, "jet", wraps=cm.jet) as jet:
            jets.append(visualize_cam(model, -1, int(number), image, penultimate_layer_idx=index))
        seconds.append(time.perf_counter() - start)
        maps.append(jet.call_args.args[0])
    return {"jet": jets, "maps": np.asarray(maps, np.float32), "seconds": seconds}


def main(folder) -> None:
    """Read the inputs in `folder`, explain them, and write ``maps.npz`` there."""
    tf.compat.v1.disable_eager_execution()
    prepare_imports()
    with np.load(folder / "images.npz") as inputs:
        result = explain(rebuild(folder), inputs["images"], inputs["classes"], str(inputs["layer"]))
    np.savez(folder / "maps.npz", **result)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
