"""Reference implementations: keras-vis 0.4.1 in a process of its own, and Score-CAM by tf-keras-vis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covidxr._keras import keras
from covidxr.checks import finite_weights
from covidxr.gradcam._graph import (
    check_maps,
    checked_classes,
    checked_images,
    input_shape,
    layer_tensors,
    source,
    take_apart,
)
from covidxr.utils import CovidxrError

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
    """Maps of N images by keras-vis: coloured, uint8 (N, H, W, 3); plain, float32 (N, H, W); and seconds a map (N,)."""

    jet: np.ndarray
    maps: np.ndarray
    seconds: np.ndarray


def keras_vis_problem() -> str | None:
    """Why keras-vis cannot run here, or None if it can."""
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
    """Explain images by keras-vis 0.4.1 in its own process, softmax replaced by linear; some tenths of a second a map."""
    if problem := keras_vis_problem():
        raise CovidxrError(problem)
    images, classes = _checked_inputs(model, images, classes, layer)
    with tempfile.TemporaryDirectory(prefix="keras-vis-") as folder:
        _write_model(model, Path(folder))
        np.savez(Path(folder) / "images.npz", images=images, classes=classes, layer=layer)
        _run_worker(folder)
        with np.load(Path(folder) / "maps.npz") as found:
            maps = KerasVisMaps(*(found[name] for name in KerasVisMaps._fields))
    check_maps(maps.maps, model)
    return maps


def _checked_inputs(model, images, classes, layer):
    finite_weights(model)
    images = checked_images(images, input_shape(model))
    classes = checked_classes(np.asarray(classes), len(images), model.outputs[0].shape[-1])
    take_apart(model, [layer])  # raises if the layer or the model's end is unsuitable
    return images, classes


def _write_model(model, folder) -> None:
    chain = _chain(model)
    layers = [_layer_config(layer) for layer in chain]
    if layers[-1][1].get("activation") == "softmax":
        layers[-1][1]["activation"] = "linear"
    layers.insert(0, ("InputLayer", {"input_shape": input_shape(model)}))
    (folder / "layers.json").write_text(json.dumps(layers), encoding="utf-8")
    weights = [array for layer in chain for array in layer.get_weights()]
    np.savez(folder / "weights.npz", **{str(i): array for i, array in enumerate(weights)})


def _chain(model) -> list:
    """List the layers from input to output, where each takes nothing but what the one before it puts out."""
    (layer, inputs), chain = source(model.outputs[0]), []
    while inputs:
        if len(inputs) > 1:
            raise CovidxrError(
                f"layer {layer.name!r} has {len(inputs)} inputs; for keras-vis a model must be a plain chain of layers"
            )
        chain.insert(0, layer)
        layer, inputs = source(inputs[0])
    return chain


def _layer_config(layer) -> tuple[str, dict]:
    kind, config = type(layer).__name__, layer.get_config()
    if kind not in ARGUMENTS:
        raise CovidxrError(
            f"layer {layer.name!r} is a {kind}, which is not supported for keras-vis; supported: {', '.join(ARGUMENTS)}"
        )
    arguments = {"name": layer.name} | {name: config[name] for name in ARGUMENTS[kind]}
    if not isinstance(arguments.get("activation", ""), str):
        raise CovidxrError(
            f"layer {layer.name!r} has a custom activation; for keras-vis it must be one of Keras, by name"
        )
    return kind, arguments


def _run_worker(folder) -> None:
    # On the CPU, as a second process would find the memory of a GPU taken by the first.
    settings = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")])
        ),
    }
    run = subprocess.run(
        [sys.executable, "-m", "covidxr.gradcam._keras_vis_worker", folder],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | settings,
    )
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        raise CovidxrError(f"keras-vis failed in its own process: {last}")


def score_cam(model, images, classes, layer, channels=64) -> np.ndarray:
    """Score-CAM: each channel of a layer weighted by the class's score when the image is masked with that channel.

    Slow: one prediction a channel. Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
    Networks", CVPR Workshops 2020, by tf-keras-vis.
    """
    images, classes = _checked_inputs(model, images, classes, layer)
    if layer not in layer_tensors(model) or not isinstance(source(model.outputs[0])[0], keras.layers.Dense):
        raise CovidxrError(
            f"for tf-keras-vis a model must end in a Dense layer and not be nested; in "
            f"{model.name!r} layer {layer!r} lies inside another model, or the last layer is no Dense"
        )
    if channels < 1:
        raise CovidxrError(f"channels is {channels}; Score-CAM needs 1 or more")
    channels = min(channels, layer_tensors(model)[layer].shape[-1])
    explain = _score_cam_of(model)

    def heat(number):  # one image at a time, as the library picks its channels from all images of a batch together
        with redirect_stdout(StringIO()):  # it predicts with a progress bar
            return explain(
                lambda scores: scores[:, classes[number]],
                images[number : number + 1],
                penultimate_layer=layer,
                max_N=channels,
            )[0]

    maps = np.zeros(images.shape[:3], np.float32)
    for number in range(len(images)):
        maps[number] = heat(number)
    check_maps(maps, model)
    return maps


def _score_cam_of(model):
    try:
        from tf_keras_vis.scorecam import Scorecam
    except ImportError as error:
        raise CovidxrError(f"Score-CAM needs tf-keras-vis, which cannot be imported here: {error}") from error
    # Not by the library's own ReplaceToLinear, which fails on a Sequential of Keras 3.
    copy = keras.models.clone_model(keras.Model(model.inputs, model.outputs[0]))
    copy.set_weights(model.get_weights())
    copy.layers[-1].activation = keras.activations.linear
    return Scorecam(copy)
