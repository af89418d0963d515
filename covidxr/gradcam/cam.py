"""Grad-CAM and its relatives: the regions of an image that raise a network's score of a class.

The maps of keras-vis 0.4.1, which the article used, of the Grad-CAM paper, and of three later methods, computed for
whole batches in one compiled function. Only the part of the network behind the first of the chosen layers is
differentiated, so a map costs little more than a prediction. A method is a class with one short function, its weights;
`STYLES` lists them, and takes others. `covidxr.gradcam.reference` runs the original keras-vis for comparison.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from covidxr._keras import keras, tf
from covidxr.checks import finite_weights
from covidxr.gradcam._graph import (
    PREDICTED,
    check_maps,
    checked_classes,
    checked_images,
    convolutions,
    input_shape,
    take_apart,
)
from covidxr.utils import CovidxrError, unknown

CHUNK = 32  # images computed at once, which bounds the memory

EPSILON = 1e-7  # what keras-vis adds to its divisors

CELLS = 8  # rows and columns of a map below which it is too coarse to point at anything


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
    """Heatmaps of one or several layers of a Keras model.

    A softmax at the end is skipped, as in the article. The model itself is not changed, and its weights are shared:
    after further training the maps are those of the trained model.

    Parameters
    ----------
    model : keras.Model
        A Functional or Sequential model, nested or flat, with one image input of fixed size and one output, which is
        linear or a softmax.
    layer : str or sequence of str, optional
        The layer whose activations are weighted; of several layers, the maps are averaged. By default the last
        convolution whose map has at least 8 rows and columns or, where none has, the last convolution.
    style : str or sequence of str, default "keras-vis"
        The method, a key of `STYLES`: ``"keras-vis"``, ``"paper"``, ``"grad-cam++"``, ``"hirescam"`` or ``"layercam"``;
        the maps of several are averaged. Their formulas and references are in the classes that `STYLES` names.

    Raises
    ------
    CovidxrError
        If a style or a layer does not exist, a layer's output has a single cell, the model cannot be explained, or a weight
        is NaN or infinite.

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
    >>> maps = GradCAM(model)(images, classes=1)
    >>> maps.shape, maps.dtype, bool(maps.min() >= 0 and maps.max() <= 1)
    ((5, 8, 8), dtype('float32'), True)
    """

    def __init__(
        self, model: keras.Model, layer: str | Sequence[str] | None = None, style: str | Sequence[str] = "keras-vis"
    ) -> None:
        self.layers = _names("layer", layer or default_layer(model))
        self.styles = _names("style", style)
        for name in self.styles:
            if name not in STYLES:
                raise unknown("style of Grad-CAM", name, STYLES)
        self._model = model
        self._shape = input_shape(model)
        self._n_classes = model.outputs[0].shape[-1]
        self._run = _compiled(model, self.layers, [STYLES[name] for name in self.styles])

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
            _problem_text("empty", result.empty, f"nothing in {', '.join(self.layers)} supports the class"),
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
            Maps, classes, scores, and which maps are empty or sign-flipped. Maps of several layers or styles are averaged
            and divided by their maximum; such a map is empty where all are, and sign-flipped where one is.

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
        return average_maps(list(self.explain_each(images, classes).values()))

    def explain_each(
        self, images: np.ndarray, classes: ArrayLike | None = None
    ) -> dict[tuple[str, str], GradCAMResult]:
        """Return the result of each layer and style by itself, all from one pass through the network.

        Parameters
        ----------
        images : numpy.ndarray
            float32 (N, H, W, channels) in [0, 1], of the model's input size.
        classes : None, int or array of int (N,), optional
            The class to explain, one for all images or one for each; by default the predicted class.

        Returns
        -------
        dict
            A `GradCAMResult` for each (layer, style).

        Raises
        ------
        CovidxrError
            If the images or the classes do not fit the model, or a weight, an image or a map is NaN or infinite.

        Examples
        --------
        >>> import keras
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, name="a"), keras.layers.Conv2D(2, 3, name="b"),
        ...     keras.layers.Flatten(), keras.layers.Dense(3)])
        >>> each = GradCAM(model, ["a", "b"], ["paper", "layercam"]).explain_each(np.ones((2, 8, 8, 1), np.float32), 0)
        >>> list(each), each["a", "paper"].maps.shape
        ([('a', 'paper'), ('a', 'layercam'), ('b', 'paper'), ('b', 'layercam')], (2, 8, 8))
        """
        finite_weights(self._model)
        images = checked_images(images, self._shape)
        classes = checked_classes(classes, len(images), self._n_classes)
        keys = [(layer, style) for layer in self.layers for style in self.styles]
        starts = range(0, len(images), CHUNK)
        chunks = [self._run(images[i : i + CHUNK], classes[i : i + CHUNK]) for i in starts] or [self._no_images()]
        maps, empty, flipped, classes, scores = (
            np.concatenate(list(map(np.asarray, parts))) for parts in zip(*chunks, strict=True)
        )
        for number in range(len(keys)):
            check_maps(maps[:, number], self._model)
        return {
            key: GradCAMResult(maps[:, i], classes, scores, empty[:, i], flipped[:, i]) for i, key in enumerate(keys)
        }

    def _no_images(self):
        # Not computed by the network, as TensorFlow's convolutions fail on some batches of no images.
        flags = np.zeros((0, len(self.layers) * len(self.styles)), bool)
        maps = np.zeros((*flags.shape, *self._shape[:2]), np.float32)
        return maps, flags, flags, np.zeros(0, np.int32), np.zeros((0, self._n_classes), np.float32)


def _names(what, given) -> list[str]:
    names = [given] if isinstance(given, str) else list(given)
    if not names or len(set(names)) < len(names):
        raise CovidxrError(f"{what} is {given!r}; give one name, or several different ones")
    return names


def default_layer(model) -> str:
    """The last convolution whose map has at least 8 rows and columns; where none has, the last convolution."""
    sizes = convolutions(model)
    fine = [name for name, size in sizes.items() if min(size) >= CELLS]
    return (fine or list(sizes))[-1]


def candidate_layers(model) -> list[str]:
    """The last convolution of each size of map, the three smallest sizes, coarse to fine."""
    last = {size: name for name, size in convolutions(model).items()}
    return list(last.values())[::-1][:3]


def average_maps(results) -> GradCAMResult:
    """The mean of the maps of several results for the same images and classes, divided by its maximum."""
    maps, classes, scores, empty, flipped = results[0]
    if len(results) > 1:
        maps = np.mean([result.maps for result in results], axis=0)
        maps = maps / np.maximum(maps.max((1, 2), keepdims=True), EPSILON)
        empty = np.all([result.empty for result in results], axis=0)
        flipped = np.any([result.flipped for result in results], axis=0)
    return GradCAMResult(maps, classes, scores, empty, flipped)


def _problem_text(what, flags, why) -> str:
    if not flags.any():
        return ""
    some = ", ".join(map(str, np.flatnonzero(flags)[:5])) + (", …" if flags.sum() > 5 else "")
    return f"{what} maps: {flags.sum()} of {len(flags)} (images {some}), as {why}"


def _compiled(model, layers, methods):
    """Compile (images, classes) -> maps, empty, flipped, classes, scores; traced once, for batches of every size."""
    shape = input_shape(model)
    forward, activate, sizes = take_apart(model, layers)
    enlarge = [[_enlarging(size, shape, method.resample) for method in methods] for size in sizes]

    @tf.function(input_signature=[tf.TensorSpec((None, *shape)), tf.TensorSpec((None,), tf.int32)])
    def run(images, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            activations, logits = forward(images)
            classes = tf.where(classes == PREDICTED, tf.argmax(logits, axis=1, output_type=tf.int32), classes)
            score = tf.gather(logits, classes, batch_dims=1)
        # TensorFlow prunes what this does not need: everything before the first layer goes forward only.
        gradients = tape.gradient(score, activations, unconnected_gradients="zero")
        found = [
            _map(method, tf.cast(activation, tf.float32), tf.cast(gradient, tf.float32), matrices)
            for activation, gradient, of_layer in zip(activations, gradients, enlarge, strict=True)
            for method, matrices in zip(methods, of_layer, strict=True)
        ]
        return *(tf.stack(parts, axis=1) for parts in zip(*found, strict=True)), classes, activate(logits)

    return run


def _map(method, activation, gradient, matrices):
    """Maps (N, H, W) of activations and gradients (N, h, w, K), and which are empty and sign-flipped."""
    rows, columns = matrices
    heat = tf.nn.relu(method.weighted_sum(activation, gradient))
    # A constant map leaves rounding errors only, which scaling would blow up into a pattern.
    empty = _value_range(heat)[:, 0, 0] <= 1e-6 * tf.reduce_max(heat, (1, 2))
    maps = method.scale(rows @ heat @ tf.transpose(columns))
    return tf.where(empty[:, None, None], 0.0, maps), empty, method.flipped(gradient) & ~empty


def _value_range(maps):
    return tf.reduce_max(maps, (1, 2), keepdims=True) - tf.reduce_min(maps, (1, 2), keepdims=True)


def _enlarging(size, shape, resample):
    return [tf.constant(enlarging_matrix(small, large, resample)) for small, large in zip(size, shape[:2], strict=True)]


def enlarging_matrix(size, target, resample) -> np.ndarray:
    """The matrix that enlarges an axis; both axes: rows @ map @ columnsᵀ, as enlarging is linear and separable."""
    return np.asarray(Image.fromarray(np.eye(size, dtype=np.float32)).resize((size, target), resample))


class Paper:
    """Grad-CAM: L = ReLU(Σₖ αₖ Aₖ) with αₖ the mean of ∂y/∂Aₖ over the map, enlarged bilinearly, divided by its maximum.

    A is the layer's activation, y the score of the class. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep
    Networks via Gradient-based Localization", ICCV 2017, equations 1 and 2. The other methods override `weights`.
    """

    resample = Image.Resampling.BILINEAR

    @classmethod
    def weights(cls, activation, gradient):
        """Weights of the channels (N, 1, 1, K), or of their cells (N, h, w, K), from what is (N, h, w, K) both."""
        return tf.reduce_mean(gradient, (1, 2), keepdims=True)

    @classmethod
    def weighted_sum(cls, activation, gradient):
        """The map before the ReLU, (N, h, w)."""
        return tf.reduce_sum(cls.weights(activation, gradient) * activation, axis=-1)

    @classmethod
    def flipped(cls, gradient):
        """Which maps show what speaks against the class, bool (N,)."""
        return tf.zeros_like(gradient[:, 0, 0, 0], tf.bool)

    @classmethod
    def scale(cls, maps):
        """Enlarged maps (N, H, W) in [0, 1]."""
        return tf.math.divide_no_nan(maps, tf.reduce_max(maps, (1, 2), keepdims=True))


class KerasVis(Paper):
    """keras-vis 0.4.1: gradients are divided by their signed maximum, enlarging is bicubic, scaling from the minimum on.

    αₖ is the mean of G / (max G + 1e-7), with G = ∂y/∂A and the maximum over all cells and channels: where all gradients
    are negative, the map is sign-flipped. Kotikalapudi 2017, https://github.com/raghakot/keras-vis
    """

    resample = Image.Resampling.BICUBIC

    @classmethod
    def weights(cls, activation, gradient):
        """As in the paper, of the divided gradients."""
        return tf.reduce_mean(gradient / cls._peak(gradient), (1, 2), keepdims=True)

    @classmethod
    def _peak(cls, gradient):
        return tf.reduce_max(gradient, (1, 2, 3), keepdims=True) + EPSILON

    @classmethod
    def flipped(cls, gradient):
        """Where the largest gradient is negative."""
        return cls._peak(gradient)[:, 0, 0, 0] < 0

    @classmethod
    def scale(cls, maps):
        """Enlarged maps (N, H, W) in [0, 1]."""
        return (maps - tf.reduce_min(maps, (1, 2), keepdims=True)) / (_value_range(maps) + EPSILON)


class GradCAMPlusPlus(Paper):
    """Grad-CAM++: wₖ = Σ αₖ ReLU(Gₖ) over the cells, with αₖ = Gₖ² / (2 Gₖ² + Gₖ³ ΣAₖ), so that several small findings all count.

    α is the paper's for the exponential of the score, which cancels. Chattopadhay et al., "Grad-CAM++: Generalized
    Gradient-based Visual Explanations for Deep Convolutional Networks", WACV 2018, equations 6 and 19. Some
    implementations, such as tf-keras-vis, also divide αₖ by its sum over the cells.
    """

    @classmethod
    def weights(cls, activation, gradient):
        """Sums of the positive gradients, weighted cell by cell."""
        return tf.reduce_sum(cls.alpha(activation, gradient) * tf.nn.relu(gradient), (1, 2), keepdims=True)

    @classmethod
    def alpha(cls, activation, gradient):
        """Weights of the cells (N, h, w, K); in single precision small gradients must not be squared."""
        total = tf.reduce_sum(activation, (1, 2), keepdims=True)
        return tf.math.divide_no_nan(tf.abs(tf.sign(gradient)), 2 + total * gradient)


class HiResCAM(Paper):
    """HiResCAM: L = ReLU(Σₖ Gₖ ⊙ Aₖ), so that no gradient is blurred over the map.

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks",
    arXiv:2011.08891, 2020.
    """

    @classmethod
    def weights(cls, activation, gradient):
        """The gradient of each cell."""
        return gradient


class LayerCAM(Paper):
    """LayerCAM: L = ReLU(Σₖ ReLU(Gₖ) ⊙ Aₖ), made for layers with fine maps.

    Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 30, 2021.
    """

    @classmethod
    def weights(cls, activation, gradient):
        """The positive gradient of each cell."""
        return tf.nn.relu(gradient)


STYLES = {
    "keras-vis": KerasVis,
    "paper": Paper,
    "grad-cam++": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
}
