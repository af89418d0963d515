"""Two younger relatives of Grad-CAM to compare with, as tf-keras-vis computes them: Grad-CAM++ and Score-CAM.

They take far longer than `covidxr.gradcam`. Both are given the model without its softmax, as for Grad-CAM; Score-CAM
weighs each channel of a layer by the probability that is left when the film is seen through that channel alone.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO

import numpy as np

from covidxr import _graph, checks
from covidxr._tensorflow import keras, tf
from covidxr.errors import CovidxrError

CHUNK = 32  # films computed at once


def grad_cam_plus_plus(model, images, classes, layer="block5_conv3") -> np.ndarray:
    """Grad-CAM++: gradients weighed place by place, so that several small findings all count.

    Parameters
    ----------
    model : keras.Model
        A Functional or Sequential model, not nested, that ends in a Dense layer.
    images : numpy.ndarray
        float32 (N, H, W, channels) in [0, 1], of the model's input size.
    classes : int or array of int (N,)
        The class to explain, one for all images or one for each.
    layer : str, default "block5_conv3"
        The layer whose activations are weighed.

    Returns
    -------
    numpy.ndarray
        Heat, float32 (N, H, W) in [0, 1], each map stretched from 0 to 1; all zero where it is blank.

    Raises
    ------
    CovidxrError
        If tf-keras-vis cannot be imported, or the model, the layer, the images or the classes do not suit it.

    References
    ----------
    Chattopadhyay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks", WACV 2018.
    Kubota, tf-keras-vis 0.8.7, https://github.com/keisen/tf-keras-vis

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="conv"),
    ...                           keras.layers.Flatten(), keras.layers.Dense(3)])
    >>> grad_cam_plus_plus(model, np.ones((2, 8, 8, 3), np.float32), 1, layer="conv").shape
    (2, 8, 8)
    """
    images, classes = _checked(model, images, classes, layer)
    explain = _explainer("gradcam_plus_plus", "GradcamPlusPlus", model)

    def maps(start):
        chosen = classes[start : start + CHUNK]
        return explain(lambda scores: _shifted(scores, chosen), images[start : start + CHUNK], penultimate_layer=layer)

    return _joined(maps, range(0, len(images), CHUNK), images, model)


def _shifted(scores, classes):
    # The library takes the exponential of the score, which can overflow. Shifted to 0 the score has the same gradient,
    # and the factor that is lost is undone by the stretching of the map.
    chosen = tf.gather(scores, classes, batch_dims=1)
    return chosen - tf.stop_gradient(chosen)


def score_cam(model, images, classes, layer="block5_conv3", channels=64) -> np.ndarray:
    """Score-CAM: a layer's channels, each weighed by the class's probability when only what it shows is left.

    Parameters
    ----------
    model : keras.Model
        As for `grad_cam_plus_plus`.
    images : numpy.ndarray
        float32 (N, H, W, channels) in [0, 1], of the model's input size.
    classes : int or array of int (N,)
        The class to explain, one for all images or one for each.
    layer : str, default "block5_conv3"
        The layer whose channels are weighed.
    channels : int
        So many channels of the layer, those that vary most over the film; a prediction is made for each.

    Returns
    -------
    numpy.ndarray
        Heat, float32 (N, H, W) in [0, 1], each map stretched from 0 to 1; all zero where it is blank.

    Raises
    ------
    CovidxrError
        If tf-keras-vis cannot be imported, or the model, the layer, the images or the classes do not suit it, or
        `channels` is below 1.

    References
    ----------
    Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR Workshops 2020;
    the choice of channels is "Faster Score-CAM", https://github.com/tabayashi0117/Score-CAM
    Kubota, tf-keras-vis 0.8.7, https://github.com/keisen/tf-keras-vis

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="conv"),
    ...                           keras.layers.Flatten(), keras.layers.Dense(3)])
    >>> score_cam(model, np.ones((2, 8, 8, 3), np.float32), 1, layer="conv").shape
    (2, 8, 8)
    """
    images, classes = _checked(model, images, classes, layer)
    if channels < 1:
        raise CovidxrError(f"channels is {channels}; Score-CAM needs 1 or more")
    channels = min(channels, _graph.layer_tensors(model)[layer].shape[-1])
    explain = _explainer("scorecam", "Scorecam", model)

    def maps(number):  # one film at a time, as the library picks its channels from all films of a batch together
        with redirect_stdout(StringIO()):  # it predicts with a progress bar
            return explain(
                lambda scores: scores[:, classes[number]],
                images[number : number + 1],
                penultimate_layer=layer,
                max_N=channels,
            )

    return _joined(maps, range(len(images)), images, model)


def _checked(model, images, classes, layer):
    checks.finite_weights(model)
    images = _graph.checked_images(images, _graph.input_shape(model))
    classes = _graph.checked_classes(np.asarray(classes), len(images), model.outputs[0].shape[-1])
    _graph.take_apart(model, layer)  # says what is wrong with the layer or the model's end, if anything is
    if layer not in _graph.layer_tensors(model) or not isinstance(
        _graph.source(model.outputs[0])[0], keras.layers.Dense
    ):
        raise CovidxrError(
            f"tf-keras-vis is only given models that end in a Dense layer and are not nested; in "
            f"{model.name!r} layer {layer!r} lies inside another model, or the last layer is no Dense"
        )
    return images, classes


def _explainer(module, name, model):
    try:
        explainer = getattr(import_module(f"tf_keras_vis.{module}"), name)
    except ImportError as error:
        raise CovidxrError(
            f"Grad-CAM++ and Score-CAM need tf-keras-vis, which cannot be imported here: {error}"
        ) from error
    # Not by the library's own ReplaceToLinear, which fails on a Sequential of Keras 3.
    copy = keras.models.clone_model(keras.Model(model.inputs, model.outputs[0]))
    copy.set_weights(model.get_weights())
    copy.layers[-1].activation = keras.activations.linear
    return explainer(copy)


def _joined(maps, starts, images, model):
    parts = [np.asarray(maps(start), np.float32) for start in starts]
    found = np.concatenate([np.zeros((0, *images.shape[1:3]), np.float32), *parts])
    _graph.check_maps(found, model)
    return found
