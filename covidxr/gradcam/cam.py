"""Grad-CAM: the regions of an image that raise a network's score of a class.

The maps are those of keras-vis 0.4.1, which the article used, or those of the Grad-CAM paper, computed for whole
batches in one compiled function. Only the part of the network behind the chosen layer is differentiated, so a map
costs little more than a prediction. `covidxr.gradcam.reference` runs the original keras-vis for comparison.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from covidxr._keras import keras, tf
from covidxr.checks import finite_weights
from covidxr.gradcam._graph import PREDICTED, check_maps, checked_classes, checked_images, input_shape, take_apart
from covidxr.utils import unknown

CHUNK = 32  # images computed at once, which bounds the memory

EPSILON = 1e-7  # what keras-vis adds to its divisors


class GradCAMResult(NamedTuple):
    """What `GradCAM.explain` returns, for N images of H×W pixels and C classes.

    Attributes
    ----------
    maps : numpy.ndarray
        float32 (N, H, W) in [0, 1].
    classes : numpy.ndarray
        int32 (N,), the classes explained.
    scores : numpy.ndarray
        float32 (N, C), the model's output.
    empty : numpy.ndarray
        bool (N,), the maps that are zero everywhere, as nothing in the layer supports the class.
    flipped : numpy.ndarray
        bool (N,), the sign-flipped maps of style ``"keras-vis"``, which divides by the largest gradient: where all
        gradients are negative, the map shows what speaks against the class.
    """

    maps: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    empty: np.ndarray
    flipped: np.ndarray


class GradCAM:
    """Grad-CAM maps of one layer of a Keras model.

    A softmax at the end is skipped, as in the article. The model itself is not changed, and its weights are shared:
    after further training the maps are those of the trained model.

    Parameters
    ----------
    model : keras.Model
        A Functional or Sequential model, nested or flat, with one image input of fixed size and one output, which is
        linear or a softmax.
    layer : str, default "block5_conv3"
        The layer whose activations are weighted.
    style : {"keras-vis", "paper"}, default "keras-vis"
        ``"keras-vis"`` is release 0.4.1: gradients are divided by their signed maximum, the map is enlarged bicubically
        and scaled from its minimum to its maximum. ``"paper"`` is the paper of 2017: weights are mean gradients, the map
        is enlarged bilinearly and divided by its maximum.

    Raises
    ------
    CovidxrError
        If the style or the layer does not exist, the layer's output has a single cell, the model cannot be explained, or
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

    def __init__(self, model: keras.Model, layer: str = "block5_conv3", style: str = "keras-vis") -> None:
        if style not in STYLES:
            raise unknown("style of Grad-CAM", style, STYLES)
        self._layer, self._model = layer, model
        self._shape = input_shape(model)
        self._n_classes = model.outputs[0].shape[-1]
        self._run = _compiled(model, layer, STYLES[style])

    def __call__(self, images: np.ndarray, classes: ArrayLike | None = None) -> np.ndarray:
        """Return the maps alone, with a warning if some are empty or sign-flipped.

        Parameters
        ----------
        images : numpy.ndarray
            float32 (N, H, W, channels) in [0, 1], of the model's input size.
        classes : None, int or array of int (N,), optional
            The class to explain, one for all images or one for each; by default the predicted class.

        Returns
        -------
        numpy.ndarray
            float32 (N, H, W) in [0, 1].

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
            _problem_text("empty", result.empty, f"nothing in {self._layer} supports the class"),
            _problem_text(
                "sign-flipped", result.flipped, "every gradient is negative and they show what is against it"
            ),
        ]
        if any(problems):
            warnings.warn("Grad-CAM: " + "; ".join(filter(None, problems)), stacklevel=2)
        return result.maps

    def explain(self, images: np.ndarray, classes: ArrayLike | None = None) -> GradCAMResult:
        """Return the maps with the classes explained, the model's output and the flags of each map; never warns.

        Parameters
        ----------
        images : numpy.ndarray
            float32 (N, H, W, channels) in [0, 1], of the model's input size.
        classes : None, int or array of int (N,), optional
            The class to explain, one for all images or one for each; by default the predicted class.

        Returns
        -------
        GradCAMResult
            Maps, classes, scores, and which maps are empty or sign-flipped.

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
        >>> GradCAM(model, layer="conv").explain(np.zeros((2, 8, 8, 1), np.float32), [0, 2]).empty
        array([ True,  True])
        """
        finite_weights(self._model)
        images = checked_images(images, self._shape)
        classes = checked_classes(classes, len(images), self._n_classes)
        starts = range(0, len(images), CHUNK)
        chunks = [self._run(images[i : i + CHUNK], classes[i : i + CHUNK]) for i in starts] or [self._no_images()]
        found = GradCAMResult(*(np.concatenate(list(map(np.asarray, parts))) for parts in zip(*chunks, strict=True)))
        check_maps(found.maps, self._model)
        return found

    def _no_images(self):
        # Not computed by the network, as TensorFlow's convolutions fail on some batches of no images.
        none = np.zeros(0, np.int32)
        maps, scores = np.zeros((0, *self._shape[:2]), np.float32), np.zeros((0, self._n_classes), np.float32)
        return GradCAMResult(maps, none, scores, none.astype(bool), none.astype(bool))


def _problem_text(what, flags, why) -> str:
    if not flags.any():
        return ""
    some = ", ".join(map(str, np.flatnonzero(flags)[:5])) + (", …" if flags.sum() > 5 else "")
    return f"{what} maps: {flags.sum()} of {len(flags)} (images {some}), as {why}"


def _compiled(model, layer, style):
    """Compile (images, classes) -> the fields of a `GradCAMResult`; traced once, for batches of every size."""
    shape = input_shape(model)
    forward, activate, size = take_apart(model, layer)
    rows, columns = (tf.constant(enlarging_matrix(a, b, style.resample)) for a, b in zip(size, shape[:2], strict=True))

    @tf.function(input_signature=[tf.TensorSpec((None, *shape)), tf.TensorSpec((None,), tf.int32)])
    def run(images, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            activation, logits = forward(images)
            classes = tf.where(classes == PREDICTED, tf.argmax(logits, axis=1, output_type=tf.int32), classes)
            score = tf.gather(logits, classes, batch_dims=1)
        # TensorFlow prunes what this does not need: everything before the layer goes forward only.
        gradient = tape.gradient(score, activation, unconnected_gradients="zero")
        weights, flipped = style.weights(tf.cast(gradient, tf.float32))
        heat = tf.nn.relu(tf.einsum("nhwk,nk->nhw", tf.cast(activation, tf.float32), weights))
        # A constant map leaves rounding errors only, which scaling would blow up into a pattern.
        empty = _value_range(heat)[:, 0, 0] <= 1e-6 * tf.reduce_max(heat, (1, 2))
        maps = style.scale(rows @ heat @ tf.transpose(columns))
        return tf.where(empty[:, None, None], 0.0, maps), classes, activate(logits), empty, flipped & ~empty

    return run


def _value_range(maps):
    return tf.reduce_max(maps, (1, 2), keepdims=True) - tf.reduce_min(maps, (1, 2), keepdims=True)


def enlarging_matrix(size, target, resample) -> np.ndarray:
    """The matrix that enlarges an axis; both axes: rows @ map @ columnsᵀ, as enlarging is linear and separable."""
    return np.asarray(Image.fromarray(np.eye(size, dtype=np.float32)).resize((size, target), resample))


class KerasVis:
    """keras-vis 0.4.1."""

    resample = Image.Resampling.BICUBIC

    @staticmethod
    def weights(gradient):
        """Weights (N, K) of the channels from gradients (N, h, w, K), and which are sign-flipped (N,)."""
        peak = tf.reduce_max(gradient, (1, 2, 3), keepdims=True) + EPSILON
        return tf.reduce_mean(gradient / peak, (1, 2)), peak[:, 0, 0, 0] < 0

    @staticmethod
    def scale(maps):
        """Enlarged maps (N, H, W) in [0, 1]."""
        return (maps - tf.reduce_min(maps, (1, 2), keepdims=True)) / (_value_range(maps) + EPSILON)


class Paper:
    """Selvaraju et al. 2017."""

    resample = Image.Resampling.BILINEAR

    @staticmethod
    def weights(gradient):
        """Weights (N, K) of the channels from gradients (N, h, w, K); none is sign-flipped."""
        weights = tf.reduce_mean(gradient, (1, 2))
        return weights, tf.zeros_like(weights[:, 0], tf.bool)

    @staticmethod
    def scale(maps):
        """Enlarged maps (N, H, W) in [0, 1]."""
        return tf.math.divide_no_nan(maps, tf.reduce_max(maps, (1, 2), keepdims=True))


STYLES = {"keras-vis": KerasVis, "paper": Paper}
