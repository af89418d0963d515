"""A Keras model split at one layer, and the checks of its images and classes.

Nothing here adds a layer, a weight or a call to the user's model; the functions returned share its weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from covidxr._keras import keras
from covidxr.utils import CovidxrError

PREDICTED = -1  # stands for "the class that the model predicts", which is known only once it has run


def input_shape(model) -> tuple[int, ...]:
    """(height, width, channels) of a model with one image input and one score a class."""
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise CovidxrError(
            f"model {model.name!r} has no graph of layers (it is subclassed, or not built yet); "
            "Grad-CAM needs a built Functional or Sequential model"
        )
    if len(inputs) != 1 or len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise CovidxrError(
            f"model {model.name!r} has inputs {[x.shape for x in inputs]} and outputs "
            f"{[x.shape for x in outputs]}; Grad-CAM needs one image in and one score a class out"
        )
    shape = inputs[0].shape[1:]
    if len(shape) != 3 or None in shape:
        raise CovidxrError(
            f"model {model.name!r} takes inputs of shape {shape}; Grad-CAM needs images of a fixed "
            "size (height, width, channels)"
        )
    return shape


def checked_images(images, shape) -> np.ndarray:
    """The images as an array, checked to be what `preprocess` makes for this input shape."""
    images = np.asarray(images)
    expected = f"images must be float32 of shape (N, {', '.join(map(str, shape))}) in [0, 1], as preprocess makes them"
    if images.shape[1:] != shape:
        raise CovidxrError(f"{expected}; found shape {images.shape}")
    if images.dtype != np.float32:
        raise CovidxrError(f"{expected}; found {images.dtype}")
    if not np.isfinite(images).all():
        raise CovidxrError(f"{expected}; found NaN or infinity")
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise CovidxrError(f"{expected}; found values from {images.min():g} to {images.max():g}")
    return images


def checked_classes(classes, n, n_classes) -> np.ndarray:
    """One class an image, int32 (n,); None stands for the predicted one."""
    if classes is None:
        return np.full(n, PREDICTED, np.int32)
    classes = np.asarray(classes)
    if classes.dtype.kind not in "iu" or classes.shape not in {(), (n,)}:
        raise CovidxrError(
            f"classes must be None, one integer or {n} of them, one an image; "
            f"found {classes.dtype} of shape {classes.shape}"
        )
    if classes.size and not (classes.min() >= 0 and classes.max() < n_classes):
        raise CovidxrError(
            f"classes must lie in 0 to {n_classes - 1}, as the model has {n_classes} outputs; "
            f"found {classes.min()} to {classes.max()}"
        )
    return np.broadcast_to(classes.astype(np.int32), n)


def check_maps(maps, model) -> None:
    """Refuse maps with NaN, which finite weights give where their sums grow too large for single precision."""
    if bad := int((~np.isfinite(maps).all(axis=(1, 2))).sum()):
        raise CovidxrError(f"{bad} of {len(maps)} maps of model {model.name!r} are NaN: its weights are too large")


def source(tensor):
    """The layer that made a symbolic tensor, and the layer's input tensors."""
    # `layer.output` would not do: it is the tensor of the layer's first call, which can belong to another model, or
    # to a Sequential as it was before its last `add`.
    layer, node, _ = tensor._keras_history
    return layer, layer._inbound_nodes[node].input_tensors


def layer_tensors(model) -> dict:
    """Output tensors by layer name, of the layers that a model's output depends on, input first."""
    found, queue = {}, list(getattr(model, "outputs", []))  # a subclassed model has no graph
    while queue:
        tensor = queue.pop()
        layer, inputs = source(tensor)
        if layer.name not in found:
            found[layer.name] = tensor
            queue.extend(inputs)
    return dict(reversed(found.items()))


def take_apart(model, layers) -> tuple:
    """Split a model at layers: images to (their activations, logits), logits to the output, and the maps' sizes."""
    spatial = ", ".join(_spatial(model))
    features, logits_of, activate = _without_softmax(model)
    for layer in layers:
        _check_layer(model, layer, spatial)
    tap, sizes = _tap_and_sizes(model, layers, features)
    if (1, 1) in sizes:
        raise CovidxrError(
            f"layer {layers[sizes.index((1, 1))]!r} puts out a single cell (1×1), which gives a constant map; take "
            f"another of the model's convolutional layers: {spatial}"
        )

    def forward(images):
        *activations, value = tap(images)
        return activations, logits_of(value)

    return forward, activate, sizes


def convolutions(model) -> dict:
    """Rows and columns of the maps of a model's convolutions by layer name, first to last; those of one cell are excluded."""
    tensors = _all_tensors(model)
    names = [name for name, tensor in tensors.items() if isinstance(source(tensor)[0], keras.layers.Conv2D)]
    if not names:
        raise CovidxrError(
            f"model {model.name!r} has no convolution to make a map of; its layers: {', '.join(tensors)}"
        )
    features = _without_softmax(model)[0]
    sizes = {name: _tap_and_sizes(model, [name], features)[1][0] for name in names}
    return {name: size for name, size in sizes.items() if size != (1, 1)}


def _tap_and_sizes(model, layers, end):
    try:
        tap = _tap(model, layers, end)
    except ValueError as error:  # Keras 3.12, the last for Python 3.10, on some nested models
        raise CovidxrError(
            f"this Keras cannot take the model apart at {', '.join(layers)} ({error}); build it flat"
        ) from error
    activations = tap(keras.KerasTensor((1, *input_shape(model))))[:-1]
    return tap, [activation.shape[1:3] for activation in activations]


def _spatial(model):
    return [name for name, tensor in _all_tensors(model).items() if len(tensor.shape) == 4 and source(tensor)[1]]


def _check_layer(model, layer, spatial) -> None:
    tensors = _all_tensors(model)
    if layer not in tensors:
        raise CovidxrError(f"layer {layer!r} not found; convolutional layers of model {model.name!r}: {spatial}")
    if len(tensors[layer].shape) != 4:
        raise CovidxrError(
            f"layer {layer!r} puts out {tensors[layer].shape}, which has no height and width to make "
            f"a map of; convolutional layers: {spatial}"
        )


def _without_softmax(model):
    # The tensor before the last layer, the function from it to logits, and the one from these to the output.
    layer, inputs = source(model.outputs[0])
    activation = getattr(layer, "activation", keras.activations.softmax)
    if activation in {keras.activations.softmax, keras.activations.linear}:
        if isinstance(layer, keras.layers.Dense):
            return inputs[0], lambda x: _dense(layer, x), activation
        if isinstance(layer, (keras.layers.Activation, keras.layers.Softmax)):
            return inputs[0], lambda x: x, activation
    raise CovidxrError(
        f"model {model.name!r} ends in layer {layer.name!r} ({type(layer).__name__}, activation "
        f"{getattr(getattr(layer, 'activation', None), '__name__', None)}), which leaves no score a "
        "class to explain; end it in Dense(classes) with activation 'softmax' or 'linear'"
    )


def _dense(layer, x):
    logits = keras.ops.matmul(keras.ops.cast(x, "float32"), layer.kernel)
    return logits if layer.bias is None else logits + layer.bias


def _tap(model, layers, end) -> Callable:
    # The function from images to [activation of each layer, …, value of the tensor `end`].
    tensors = layer_tensors(model)
    if all(layer in tensors for layer in layers):
        whole = keras.Model(model.inputs[0], [*(tensors[layer] for layer in layers), end])
        return lambda x: whole(x, training=False)
    for tensor in tensors.values():
        if all(layer in _inner_tensors(tensor) for layer in layers):
            return _nested_tap(model, tensor, layers, end)
    raise CovidxrError(
        f"layers {', '.join(layers)} do not all lie in one of the models that {model.name!r} is nested of; explain them "
        "one by one"
    )


def _nested_tap(model, outside, layers, end):
    nested, inputs = source(outside)
    before, after = keras.Model(model.inputs[0], inputs[0]), keras.Function(outside, end)
    inside = _tap(nested, layers, nested.outputs[0])

    def call(x):
        *activations, value = inside(before(x, training=False))
        return [*activations, after(value)]

    return call


def _all_tensors(model) -> dict:
    found = {}
    for name, tensor in layer_tensors(model).items():
        found.update(_inner_tensors(tensor))
        found[name] = tensor
    return found


def _inner_tensors(tensor) -> dict:
    layer, _ = source(tensor)
    return _all_tensors(layer) if isinstance(layer, keras.Model) else {}
