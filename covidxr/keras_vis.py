"""The real keras-vis 0.4.1, which the article used, run unmodified in a process of its own to compare with.

It is slow, and slower with each map, because every one adds to its graph: `covidxr.gradcam` is for use, this for
checking it. What makes it run on today's Python stands in ``_keras_vis_worker.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covidxr import _graph, checks
from covidxr.errors import CovidxrError

NEEDED = ("keras-vis", "tf-keras", "tensorflow", "scikit-image", "matplotlib", "six", "h5py", "pillow")
ARGUMENTS = {  # what of a layer's configuration shapes its output; Keras 2 and 3 spell it alike
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "dilation_rate", "groups", "activation", "use_bias"),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "AveragePooling2D": ("pool_size", "strides", "padding"),
    "GlobalAveragePooling2D": ("keepdims",),
    "Flatten": (),
    "Dense": ("units", "activation", "use_bias"),
    "Dropout": ("rate",),
    "Activation": ("activation",),
}


class KerasVisMaps(NamedTuple):
    """What keras-vis made of N images of H×W pixels.

    Parameters
    ----------
    jet : numpy.ndarray
        What its `visualize_cam` returned: jet colours, uint8 (N, H, W, 3).
    maps : numpy.ndarray
        The same before it was coloured, float32 (N, H, W) in [0, 1].
    seconds : numpy.ndarray
        How long each call took, float64 (N,).

    Examples
    --------
    >>> KerasVisMaps._fields
    ('jet', 'maps', 'seconds')
    """

    jet: np.ndarray
    maps: np.ndarray
    seconds: np.ndarray


def keras_vis_problem() -> str | None:
    """Say why keras-vis cannot run here.

    Returns
    -------
    str or None
        The reason, in one sentence; None where nothing stands in the way.

    Examples
    --------
    >>> keras_vis_problem() is None or "keras-vis" in keras_vis_problem()
    True
    """
    try:
        versions = {name: metadata.version(name) for name in NEEDED}
    except metadata.PackageNotFoundError as error:
        return f"keras-vis 0.4.1 needs the package {error.name}, which is not installed"
    if versions["keras-vis"] != "0.4.1":
        return f"keras-vis must be 0.4.1, the release that the article used; found {versions['keras-vis']}"
    if versions["tf-keras"].split(".")[:2] != versions["tensorflow"].split(".")[:2]:
        return (
            "keras-vis runs on tf-keras, which must have the minor version of TensorFlow; found tf-keras "
            f"{versions['tf-keras']} and TensorFlow {versions['tensorflow']}"
        )
    return None


def keras_vis_maps(model, images, classes, layer="block5_conv3") -> KerasVisMaps:
    """Have keras-vis 0.4.1 explain images, its softmax swapped for linear as the article did.

    Takes a few seconds to start, and then some tenths of a second a map.

    Parameters
    ----------
    model : keras.Model
        A flat Functional or Sequential model, one layer after another, of the layers in `ARGUMENTS`.
    images : numpy.ndarray
        float32 (N, H, W, channels) in [0, 1], of the model's input size.
    classes : int or array of int (N,)
        The class to explain, one for all images or one for each.
    layer : str, default "block5_conv3"
        The layer whose activations are weighed.

    Returns
    -------
    KerasVisMaps
        The coloured and the plain maps, and the seconds that each took.

    Raises
    ------
    CovidxrError
        If keras-vis cannot run here or fails, or the model, the layer, the images or the classes do not suit it.

    References
    ----------
    Kotikalapudi, keras-vis 0.4.1, 2017, https://github.com/raghakot/keras-vis

    Examples
    --------
    The worker is not started for nothing:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="conv"),
    ...                           keras.layers.Flatten(), keras.layers.Dense(3)])
    >>> keras_vis_maps(model, np.zeros((1, 8, 8, 3), np.float32), classes=3, layer="conv")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: classes must lie in 0 to 2, as the model has 3 outputs; found 3 to 3
    """
    if problem := keras_vis_problem():
        raise CovidxrError(problem)
    checks.finite_weights(model)
    images = _graph.checked_images(images, _graph.input_shape(model))
    classes = _graph.checked_classes(np.asarray(classes), len(images), model.outputs[0].shape[-1])
    _graph.take_apart(model, layer)  # says what is wrong with the layer or the model's end, if anything is
    with tempfile.TemporaryDirectory(prefix="keras-vis-") as folder:
        _write_model(model, Path(folder))
        np.savez(Path(folder) / "images.npz", images=images, classes=classes, layer=layer)
        _run_worker(folder)
        with np.load(Path(folder) / "maps.npz") as found:
            maps = KerasVisMaps(*(found[name] for name in KerasVisMaps._fields))
    _graph.check_maps(maps.maps, model)
    return maps


def _write_model(model, folder) -> None:
    chain = _chain(model)
    layers = [_described(layer) for layer in chain]
    if layers[-1][1].get("activation") == "softmax":
        layers[-1][1]["activation"] = "linear"
    layers.insert(0, ("InputLayer", {"input_shape": _graph.input_shape(model)}))
    (folder / "layers.json").write_text(json.dumps(layers), encoding="utf-8")
    weights = [array for layer in chain for array in layer.get_weights()]
    np.savez(folder / "weights.npz", **{str(i): array for i, array in enumerate(weights)})


def _chain(model) -> list:
    """List the layers from input to output, where each takes nothing but what the one before it puts out."""
    (layer, inputs), chain = _graph.source(model.outputs[0]), []
    while inputs:
        if len(inputs) > 1:
            raise CovidxrError(
                f"layer {layer.name!r} has {len(inputs)} inputs; keras-vis is only given models of one "
                "layer after another"
            )
        chain.insert(0, layer)
        layer, inputs = _graph.source(inputs[0])
    return chain


def _described(layer) -> tuple[str, dict]:
    kind, config = type(layer).__name__, layer.get_config()
    if kind not in ARGUMENTS:
        raise CovidxrError(
            f"layer {layer.name!r} is a {kind}, which keras-vis is not given; it is given: {', '.join(ARGUMENTS)}"
        )
    arguments = {"name": layer.name} | {name: config[name] for name in ARGUMENTS[kind]}
    if not isinstance(arguments.get("activation", ""), str):
        raise CovidxrError(f"layer {layer.name!r} has an activation of its own; keras-vis is only given Keras' own")
    return kind, arguments


def _run_worker(folder) -> None:
    # On the CPU, as a second process would find the memory of a GPU taken by the first.
    settings = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")])
        ),
    }
    run = subprocess.run(
        [sys.executable, "-m", "covidxr._keras_vis_worker", folder],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | settings,
    )
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        raise CovidxrError(f"keras-vis failed in its own process: {last}")
