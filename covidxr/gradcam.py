"""Grad-CAM: where in an image a network finds what speaks for a class.

The maps are those of keras-vis 0.4.1, which the article used, or those of the paper; they are computed for whole
batches in one compiled function. Only the part of the network behind the chosen layer is differentiated, so a map
costs little more than a prediction. `covidxr.keras_vis` runs the real keras-vis to compare with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from covidxr import _graph, checks
from covidxr._tensorflow import tf
from covidxr.errors import unknown

CHUNK = 32  # images computed at once: bounds the memory, whatever the number asked for
EPSILON = 1e-7  # what keras-vis adds to its divisors


class GradCAMResult(NamedTuple):
    """What `GradCAM.explain` returns, for N images of H×W pixels and C classes.

    Parameters
    ----------
    maps : numpy.ndarray
        Heat, float32 (N, H, W) in [0, 1].
    classes : numpy.ndarray
        The class each map explains, int32 (N,).
    scores : numpy.ndarray
        The model's own output, float32 (N, C): probabilities where it ends in a softmax.
    blank : numpy.ndarray
        bool (N,): the map is zero everywhere, because nothing in the layer speaks for the class, or every place
        does so alike.
    flipped : numpy.ndarray
        bool (N,): every gradient is negative, and dividing by their signed maximum, as keras-vis does, has turned the
        map over: it shows what speaks *against* the class. Never so in the style ``"paper"``.

    Examples
    --------
    >>> GradCAMResult._fields
    ('maps', 'classes', 'scores', 'blank', 'flipped')
    """

    maps: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    blank: np.ndarray
    flipped: np.ndarray


class GradCAM:
    """Grad-CAM maps of one layer of a Keras model.

    The softmax at the end is left out, as the article did; the model itself is not touched, and its weights are
    shared: after further training the maps are those of the trained model.

    Parameters
    ----------
    model : keras.Model
        A Functional or Sequential model, nested or flat, with one image input of fixed size and one output, which is
        linear or a softmax.
    layer : str, default "block5_conv3"
        The layer whose activations are weighed.
    style : {"keras-vis", "keras-vis-master", "paper"}, default "keras-vis"
        ``"keras-vis"`` is the released 0.4.1; ``"keras-vis-master"`` differs in how a map is enlarged (spline, not
        Pillow's bicubic). Both divide the gradients by their signed maximum and scale each map to its own minimum and
        maximum. ``"paper"`` does as the article of 2017 says: weights are mean gradients, the map is enlarged
        bilinearly and divided by its maximum.

    Raises
    ------
    CovidxrError
        If the style or the layer does not exist, the layer has no places to tell apart, the model cannot be explained, or
        a weight is NaN or infinite.

    References
    ----------
    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
    Kotikalapudi, keras-vis 0.4.1, 2017, https://github.com/raghakot/keras-vis

    Examples
    --------
    >>> import keras
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv"), keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(2, activation="softmax")])
    >>> images = np.random.default_rng(0).random((5, 8, 8, 3), dtype=np.float32)
    >>> maps = GradCAM(model, layer="conv")(images, classes=1)
    >>> maps.shape, maps.dtype, bool(maps.min() >= 0 and maps.max() <= 1)
    ((5, 8, 8), dtype('float32'), True)
    """

    def __init__(self, model, layer="block5_conv3", style="keras-vis"):
        if style not in STYLES:
            raise unknown("style of Grad-CAM", style, STYLES)
        self._layer, self._model = layer, model
        self._shape = _graph.input_shape(model)
        self._n_classes = model.outputs[0].shape[-1]
        self._run = _compiled(model, layer, STYLES[style])

    def __call__(self, images, classes=None) -> np.ndarray:
        """Return the maps alone, warning once if some are blank or turned over.

        Parameters
        ----------
        images : numpy.ndarray
            float32 (N, H, W, channels) in [0, 1], of the model's input size.
        classes : None, int or array of int (N,), optional
            The class to explain, one for all images or one for each; by default the one that the model predicts.

        Returns
        -------
        numpy.ndarray
            Heat, float32 (N, H, W) in [0, 1].

        Raises
        ------
        CovidxrError
            If the images or the classes do not fit the model, or a weight, an image or a map is NaN or infinite.

        Examples
        --------
        See `GradCAM`.
        """
        result = self.explain(images, classes)
        problems = [
            _tell("blank", result.blank, f"nothing in {self._layer} speaks for the class"),
            _tell("turned-over", result.flipped, "every gradient is negative and they show what is against it"),
        ]
        if any(problems):
            warnings.warn("Grad-CAM: " + "; ".join(filter(None, problems)), stacklevel=2)
        return result.maps

    def explain(self, images, classes=None) -> GradCAMResult:
        """Return the maps with what is needed to read them; does not warn.

        Parameters
        ----------
        images : numpy.ndarray
            float32 (N, H, W, channels) in [0, 1], of the model's input size.
        classes : None, int or array of int (N,), optional
            The class to explain, one for all images or one for each; by default the one that the model predicts.

        Returns
        -------
        GradCAMResult
            Maps, classes, scores, and which maps are blank or turned over.

        Raises
        ------
        CovidxrError
            If the images or the classes do not fit the model, or a weight, an image or a map is NaN or infinite.

        Examples
        --------
        >>> import keras
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, name="conv", bias_initializer="zeros"),
        ...     keras.layers.Flatten(), keras.layers.Dense(3)])
        >>> GradCAM(model, layer="conv").explain(np.zeros((2, 8, 8, 1), np.float32), [0, 2]).blank
        array([ True,  True])
        """
        checks.finite_weights(self._model)
        images = _graph.checked_images(images, self._shape)
        classes = _graph.checked_classes(classes, len(images), self._n_classes)
        starts = range(0, len(images), CHUNK)
        chunks = [self._run(images[i : i + CHUNK], classes[i : i + CHUNK]) for i in starts] or [self._nothing()]
        found = GradCAMResult(*(np.concatenate(list(map(np.asarray, parts))) for parts in zip(*chunks, strict=True)))
        _graph.check_maps(found.maps, self._model)
        return found

    def _nothing(self):
        # Asked of separately, as TensorFlow's convolutions fail on some batches of no images.
        empty = np.zeros(0, np.int32)
        maps, scores = np.zeros((0, *self._shape[:2]), np.float32), np.zeros((0, self._n_classes), np.float32)
        return GradCAMResult(maps, empty, scores, empty.astype(bool), empty.astype(bool))


def _tell(what, flags, why) -> str:
    if not flags.any():
        return ""
    some = ", ".join(map(str, np.flatnonzero(flags)[:5])) + (", …" if flags.sum() > 5 else "")
    return f"{what} maps: {flags.sum()} of {len(flags)} (images {some}), as {why}"


def _compiled(model, layer, style):
    """Compile (images, classes) -> the fields of a `GradCAMResult`; traced once, for batches of every size."""
    shape = _graph.input_shape(model)
    forward, activate, size = _graph.take_apart(model, layer)
    rows, columns = (tf.constant(style.enlarge(a, b), tf.float32) for a, b in zip(size, shape[:2], strict=True))

    @tf.function(input_signature=[tf.TensorSpec((None, *shape)), tf.TensorSpec((None,), tf.int32)])
    def run(images, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            activation, logits = forward(images)
            classes = tf.where(classes == _graph.PREDICTED, tf.argmax(logits, axis=1, output_type=tf.int32), classes)
            score = tf.gather(logits, classes, batch_dims=1)
        # TensorFlow prunes what this does not need: everything before the layer goes forward only.
        gradient = tape.gradient(score, activation, unconnected_gradients="zero")
        heat, flipped = _heat(tf.cast(activation, tf.float32), tf.cast(gradient, tf.float32), style)
        blank = _range(heat)[:, 0, 0] <= 1e-6 * tf.reduce_max(heat, (1, 2))
        maps = style.scale(rows @ heat @ tf.transpose(columns))
        # The same heat everywhere leaves rounding errors only, which scaling would blow up into a pattern.
        return tf.where(blank[:, None, None], 0.0, maps), classes, activate(logits), blank, flipped & ~blank

    return run


def _heat(activation, gradient, style):
    weights, flipped = style.weigh(gradient)
    return tf.nn.relu(tf.einsum("nhwk,nk->nhw", activation, weights)), flipped


def _range(maps):
    return tf.reduce_max(maps, (1, 2), keepdims=True) - tf.reduce_min(maps, (1, 2), keepdims=True)


def _weigh_keras_vis(gradient):
    peak = tf.reduce_max(gradient, (1, 2, 3), keepdims=True) + EPSILON
    return tf.reduce_mean(gradient / peak, (1, 2)), peak[:, 0, 0, 0] < 0


def _weigh_paper(gradient):
    weights = tf.reduce_mean(gradient, (1, 2))
    return weights, tf.zeros_like(weights[:, 0], tf.bool)


def _scale_keras_vis(maps):
    return (maps - tf.reduce_min(maps, (1, 2), keepdims=True)) / (_range(maps) + EPSILON)


def _scale_paper(maps):
    return tf.math.divide_no_nan(maps, tf.reduce_max(maps, (1, 2), keepdims=True))


# Enlarging is linear and works along each axis by itself, so that enlarging the columns of an identity matrix gives
# the matrix which does it: map = rows @ heat @ columnsᵀ.


def _bicubic(size, target):
    return _resize(size, target, Image.Resampling.BICUBIC)


def _bilinear(size, target):
    return _resize(size, target, Image.Resampling.BILINEAR)


def _resize(size, target, resample):
    return np.asarray(Image.fromarray(np.eye(size, dtype=np.float32)).resize((size, target), resample))


def _spline(size, target):
    return ndimage.zoom(np.eye(size), (target / size, 1), order=3)


class _Style(NamedTuple):
    weigh: Callable  # gradients (N, h, w, K) -> weights (N, K), flipped (N,)
    enlarge: Callable  # h, H -> matrix (H, h)
    scale: Callable  # enlarged maps (N, H, W) -> maps in [0, 1]


STYLES = {
    "keras-vis": _Style(_weigh_keras_vis, _bicubic, _scale_keras_vis),
    "keras-vis-master": _Style(_weigh_keras_vis, _spline, _scale_keras_vis),
    "paper": _Style(_weigh_paper, _bilinear, _scale_paper),
}
