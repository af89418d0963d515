"""Is a heatmap about the model? A map that stays as it was when the weights are scrambled is about the image alone.

Adebayo et al. ask it twice: the weights are randomised, from the top layer down, and the labels are. The maps before
and after are compared by rank correlation and by SSIM, a measure of how alike two pictures look.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from covidxr import _graph
from covidxr._tensorflow import keras
from covidxr.errors import CovidxrError
from covidxr.gradcam import GradCAM
from covidxr.intervals import bootstrap_interval
from covidxr.probe import features, fit_head

WINDOW = 7  # side in pixels of the patches that SSIM compares, scikit-image's default
MEASURES = ("rank_correlation", "ssim")


def compare_maps(maps, others, groups=None) -> dict:
    """How alike two sets of heatmaps of the same images are.

    Parameters
    ----------
    maps, others : numpy.ndarray
        Heat in [0, 1], shape (N, H, W), at least 7 pixels a side. A pair is left out where either map is blank.
    groups : array_like, optional
        The patient of each image, for the bootstrap; by default each image is its own.

    Returns
    -------
    dict
        ``n`` pairs counted; the means over them of Spearman's ``rank_correlation`` of the pixels and of ``ssim``, each 1
        for equal maps and about 0 for unrelated ones, and their intervals under the same names with ``_interval``. With no
        pair to count, ``n`` alone.

    Raises
    ------
    CovidxrError
        When the shapes differ or the maps are too small.

    References
    ----------
    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018. SSIM: Wang et al., IEEE Transactions on Image
    Processing 13, 2004, by `skimage.metrics.structural_similarity`.

    Examples
    --------
    >>> maps = np.random.default_rng(0).random((3, 8, 8))
    >>> found = compare_maps(maps, maps)
    >>> found["n"], round(found["rank_correlation"], 6), round(found["ssim"], 6)
    (3, 1.0, 1.0)
    """
    maps, others = np.asarray(maps), np.asarray(others)
    if maps.shape != others.shape or maps.ndim != 3 or min(maps.shape[1:]) < WINDOW:
        raise CovidxrError(
            f"heatmaps to compare must be two arrays of one shape (N, H, W), at least {WINDOW} pixels a "
            f"side; found {maps.shape} and {others.shape}"
        )
    known = (np.ptp(maps, (1, 2)) > 0) & (np.ptp(others, (1, 2)) > 0)
    groups = np.arange(len(maps)) if groups is None else np.asarray(groups)
    found = {"n": int(known.sum())}
    if found["n"]:
        pairs = list(zip(maps[known], others[known], strict=True))
        found |= _mean("rank_correlation", [spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs], groups[known])
        found |= _mean("ssim", [structural_similarity(a, b, data_range=1.0) for a, b in pairs], groups[known])
    return found


def _mean(name, values, groups):
    values = np.array(values, float)
    interval = bootstrap_interval(lambda rows: values[rows].mean(), groups)
    return {name: float(values.mean()), f"{name}_interval": list(interval)}


def cascade(model, images, layer="block5_conv3", style="keras-vis", seed=0, groups=None) -> pd.DataFrame:
    """Randomise a model's weights layer by layer from the top, and compare its heatmaps with the original ones.

    The values within each of a layer's arrays are shuffled. Drawing new ones would let the signal of a deep plain
    network die out, and a seeded initialiser might draw the very values that training started from. All maps explain
    the class that the model predicted before. The model itself is not touched.

    Parameters
    ----------
    model : keras.Model
        As for `covidxr.gradcam.GradCAM`.
    images : numpy.ndarray
        float32 (N, H, W, channels) in [0, 1], of the model's input size.
    layer, style : str
        As for `covidxr.gradcam.GradCAM`.
    seed : int
        Seed of the shuffles.
    groups : array_like, optional
        The patient of each image, for the bootstrap; by default each image is its own.

    Returns
    -------
    pandas.DataFrame
        One row a stage, indexed by ``layer``, the one randomised last: all above it are, too. ``n`` maps compared, blank
        ones being left out; ``rank_correlation`` and ``ssim`` with the original maps, and their 95 % intervals as
        ``…_low`` and ``…_high``.

    Raises
    ------
    CovidxrError
        If the model, the layer or the images do not suit Grad-CAM.

    References
    ----------
    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3.

    Examples
    --------
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv"), keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(2, name="scores")])
    >>> images = np.random.default_rng(0).random((3, 8, 8, 3), dtype=np.float32)
    >>> cascade(model, images, layer="conv").index.tolist()
    ['scores', 'conv']
    """
    rng, copy = np.random.default_rng(seed), _copied(model)
    gradcam = GradCAM(copy, layer, style)  # compiled once; it sees the weights as they change
    original = gradcam.explain(images)
    rows = {}
    for top in _layers_from_top(copy):
        top.set_weights([rng.permuted(array) for array in top.get_weights()])
        maps = gradcam.explain(images, original.classes).maps
        rows[top.name] = _flat(compare_maps(original.maps, maps, groups))
    columns = ["n"] + [name + end for name in MEASURES for end in ("", "_low", "_high")]
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns).rename_axis("layer")


def _copied(model):
    _graph.input_shape(model)  # says what is wrong with a model that cannot be explained, before it is copied
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _layers_from_top(model):
    for tensor in reversed(_graph.layer_tensors(model).values()):
        layer, _ = _graph.source(tensor)
        if isinstance(layer, keras.Model):
            yield from _layers_from_top(layer)
        elif layer.weights:
            yield layer


def _flat(found):
    ends = {
        f"{name}_{end}": found[f"{name}_interval"][place]
        for name in MEASURES
        if name in found
        for place, end in enumerate(("low", "high"))
    }
    return {name: value for name, value in found.items() if not name.endswith("_interval")} | ends


def refit_on_shuffled_labels(model, films, labels, epochs=100, seed=0, from_layer="flatten") -> tuple:
    """Copy a model and fit its head anew, on labels that say nothing.

    Only the layers behind `from_layer` start afresh and are fitted, so that it takes seconds. The convolutions stay as
    they were, so this asks less than the original test, which trains the whole network on shuffled labels.

    Parameters
    ----------
    model : keras.Model
        A chain such as `covidxr.model.build_vgg16` builds.
    films : numpy.ndarray
        Training films, ``uint8``, shape (N, H, W).
    labels : numpy.ndarray
        Their classes as numbers, shape (N,); shuffled here.
    epochs : int
        Passes over the films.
    seed : int
        Seed of the shuffle and of the fit.
    from_layer : str
        The last layer to keep.

    Returns
    -------
    model : keras.Model
        The copy.
    accuracy : float
        Share of the shuffled labels that it has learnt by heart, dropout being on.

    References
    ----------
    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 4.

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> films, labels = np.zeros((6, 9, 9), np.uint8), np.arange(6) % 3
    >>> copy, accuracy = refit_on_shuffled_labels(build_baseline(9), films, labels, epochs=2)
    >>> copy.name, 0 <= accuracy <= 1
    ('baseline', True)
    """
    copy = keras.models.clone_model(model)
    kept = model.layers.index(model.get_layer(from_layer)) + 1
    for layer, original in zip(copy.layers[:kept], model.layers[:kept], strict=True):
        layer.set_weights(original.get_weights())
    shuffled = np.random.default_rng(seed).permutation(labels)
    history = fit_head(copy, features(copy, films, from_layer), shuffled, epochs, seed=seed, from_layer=from_layer)
    return copy, float(history.accuracy.iloc[-1])
