"""How fast Grad-CAM is on the article's VGG16 at 100 px: ``python tests/benchmarks/bench_gradcam.py``.

Next to it: a bare prediction, three layers with all methods in one pass, tf-keras-vis 0.8.7, and the real keras-vis in
its process. The competitors take turns and
medians are printed, so that a noisy machine slows all alike. Then 500 calls in a row: time and memory must not grow.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covidxr.utils import quiet_environment

quiet_environment()

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import tensorflow as tf  # noqa: E402
from tf_keras_vis.gradcam import Gradcam  # noqa: E402
from tf_keras_vis.utils.model_modifiers import ReplaceToLinear  # noqa: E402
from tf_keras_vis.utils.scores import CategoricalScore  # noqa: E402

from covidxr.gradcam.cam import STYLES, GradCAM, candidate_layers, default_layer  # noqa: E402
from covidxr.gradcam.reference import keras_vis_maps  # noqa: E402
from covidxr.model.networks import build_vgg16  # noqa: E402

LAYER = "block5_conv3"
ROUNDS = {1: 30, 32: 7}  # turns at each batch size
CALLS = 500


def competitors(model) -> dict:
    """Name each way to explain images as class 1, and the prediction that every one of them contains."""
    forward = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec((None, 100, 100, 3))])
    layers, other = candidate_layers(model), Gradcam(model, model_modifier=ReplaceToLinear(), clone=True)
    ours = {"covidxr": LAYER, "covidxr, default": default_layer(model), "covidxr, block3": layers[-1]}
    ours = {name: GradCAM(model, layer) for name, layer in ours.items()}
    ours |= {"covidxr, 3 layers": GradCAM(model, layers), "3 layers, all styles": GradCAM(model, layers, list(STYLES))}
    return {
        "forward pass": lambda x: forward(x).numpy(),
        **{name: lambda x, explainer=explainer: explainer.explain_each(x, 1) for name, explainer in ours.items()},
        "tf-keras-vis 0.8.7": lambda x: other(CategoricalScore([1] * len(x)), x, penultimate_layer=LAYER),
    }


def timed(call, images) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call(images)
    return time.perf_counter() - start


def medians(calls, images, rounds) -> dict:
    """Let the calls take turns, after one each to warm up, and return the median seconds of each."""
    for call in calls.values():
        call(images)
    seconds = [{name: timed(call, images) for name, call in calls.items()} for _ in range(rounds)]
    return {name: float(np.median([turn[name] for turn in seconds])) for name in calls}


def print_row(name, batch, seconds, forward) -> None:
    """Print maps a second and the cost against a forward pass of the same batch."""
    print(f"{name:20} {batch:5d} {1000 * seconds:9.1f} {batch / seconds:9.1f} {seconds / forward:14.2f}")


def compare(model, images) -> None:
    """Print the table of all competitors at all batch sizes."""
    calls = competitors(model)
    print(f"{'':20} {'batch':>5} {'ms/call':>9} {'maps/s':>9} {'× forward pass':>14}")
    for batch, rounds in ROUNDS.items():
        found = medians(calls, images[:batch], rounds)
        for name, seconds in found.items():
            print_row(name, batch, seconds, found["forward pass"])
        print(f"  tf-keras-vis takes {found['tf-keras-vis 0.8.7'] / found['covidxr']:.1f} times as long as covidxr")
    real = keras_vis_maps(model, images[:8], 1, LAYER).seconds
    print(f"keras-vis 0.4.1: {np.median(real):.2f} s a map ({real[0]:.2f} the first, {real[-1]:.2f} the eighth)")


def repeat(model, images) -> None:
    """Print how time and memory change over many calls of one image."""
    gradcam, process = GradCAM(model, LAYER), psutil.Process()
    gradcam.explain(images[:1])
    before = process.memory_info().rss
    seconds = [timed(gradcam.explain, images[:1]) for _ in range(CALLS)]
    growth = (process.memory_info().rss - before) / 2**20
    first, last = np.median(seconds[:100]), np.median(seconds[-100:])
    print(
        f"{CALLS} calls: median {1000 * first:.1f} ms in the first 100, {1000 * last:.1f} ms in the last 100; "
        f"memory grew by {growth:.1f} MB"
    )


if __name__ == "__main__":
    vgg16 = build_vgg16()  # random weights: how fast it is does not depend on them
    noise = np.random.default_rng(0).random((32, 100, 100, 3), dtype=np.float32)
    compare(vgg16, noise)
    repeat(vgg16, noise)
