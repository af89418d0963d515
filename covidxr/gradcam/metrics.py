"""Evaluation of heatmaps: lung and lesion localisation, deletion and insertion, sanity checks.

Every summary is a table with a row for each measure and the columns ``value``, ``low``, ``high`` (95 % CI, images
clustered by patient), ``chance`` and ``n``, the number of images that could be evaluated; without any, the rest is NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from covidxr._keras import keras
from covidxr.evaluation.intervals import bootstrap_interval, proportion_interval
from covidxr.gradcam._graph import checked_classes, checked_images, input_shape, layer_tensors, source
from covidxr.gradcam.cam import GradCAM
from covidxr.model.networks import embed
from covidxr.training.head import fit_head
from covidxr.utils import CovidxrError

BLUR = 0.1  # standard deviation of the blur, as a share of the image's height

WINDOW = 7  # side in pixels of the patches that SSIM compares, scikit-image's default


def summarise(measures, patients, proportions=()) -> pd.DataFrame:
    """Table of means from {measure: (value of each image, NaN where not evaluable, and its chance)}."""
    rows = {name: _mean(*given, np.asarray(patients), name in proportions) for name, given in measures.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _mean(values, chance, patients, proportion) -> dict:
    known = np.isfinite(values)
    values, patients, n = values[known], patients[known], int(known.sum())
    if not n:
        return {"value": np.nan, "low": np.nan, "high": np.nan, "chance": np.nan, "n": 0}
    if proportion and np.isin(values, (0, 1)).all():  # not so where several pixels of a map are the hottest
        low, high = proportion_interval(values, patients)
    else:
        low, high = bootstrap_interval(lambda rows: values[rows].mean(), patients)
    chance = np.broadcast_to(chance, known.shape)[known].mean()
    return {"value": float(values.mean()), "low": low, "high": high, "chance": float(chance), "n": n}


def table_records(table) -> dict:
    """The rows as ``metrics.json`` stores them: {measure: {"value", "low", "high", "chance", "n"}}, null without images."""
    rows = zip(table.index, table.to_dict("records"), strict=True)
    return {name: {key: x for key, x in row.items() if x == x} if row["n"] else None for name, row in rows}


def evaluable(maps, masks) -> np.ndarray:
    """Which images have both a map that is not constant and a mask, bool (N,)."""
    if maps.shape != masks.shape:
        raise CovidxrError(f"heatmaps of shape {maps.shape} and masks of shape {masks.shape} do not belong together")
    return (np.ptp(maps, (1, 2)) > 0) & masks.any((1, 2))


def relevance_mass(maps, masks) -> np.ndarray:
    """Share of each heatmap's heat that lies inside its mask, NaN where not evaluable."""
    known = evaluable(maps, masks)
    return np.where(known, (maps * masks).sum((1, 2)) / np.where(known, maps.sum((1, 2)), 1), np.nan)


def lung_localisation(maps, masks, patients) -> pd.DataFrame:
    """``heat_in_lungs``: mean share of heat inside the masks; chance is the masks' share of the image."""
    return summarise({"heat_in_lungs": (relevance_mass(maps, masks), masks.mean((1, 2)))}, patients)


def pointing_hits(maps, masks, tolerance=0) -> np.ndarray:
    """Whether the hottest pixel of each map lies in its mask or within `tolerance` pixels of it, NaN where not evaluable."""
    known, near = evaluable(maps, masks), _widened(masks, tolerance)
    hottest = maps == maps.max((1, 2), keepdims=True)  # of several hottest pixels, the share that hits
    return np.where(known, (hottest & near).sum((1, 2)) / hottest.sum((1, 2)), np.nan)


def top_k_iou(maps, masks) -> np.ndarray:
    """Intersection over union of each mask and as many of the map's hottest pixels, NaN where not evaluable."""
    images = zip(maps, masks, evaluable(maps, masks), strict=True)
    return np.array([_top_k_overlap(heat, mask) if known else np.nan for heat, mask, known in images], float)


def _top_k_overlap(heat, mask):
    hot = heat >= np.sort(heat, axis=None)[-mask.sum()]
    return (hot & mask).sum() / (hot | mask).sum()


def lesion_localisation(maps, masks, patients, tolerance=0) -> pd.DataFrame:
    """``hits`` of the pointing game and ``iou`` of the hottest pixels; chance is that of pixels drawn at random."""
    share = masks.mean((1, 2))  # of k among n pixels, k drawn at random hit k²/n
    return summarise(
        {
            "hits": (pointing_hits(maps, masks, tolerance), _widened(masks, tolerance).mean((1, 2))),
            "iou": (top_k_iou(maps, masks), share / (2 - share)),
        },
        patients,
        proportions=["hits"],
    )


def _widened(masks, tolerance):
    if tolerance < 0:
        raise CovidxrError(f"tolerance is {tolerance} pixels; give 0 or more")
    return np.array([ndimage.distance_transform_edt(~mask) <= tolerance for mask in masks]).reshape(masks.shape)


class CurveResult(NamedTuple):
    """Probability of each image's class after each exchange of pixels: ``fractions`` (S + 1,), else (N, S + 1)."""

    fractions: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random_deletion: np.ndarray
    random_insertion: np.ndarray


def deletion_insertion(model, images, maps, classes, steps=20, seed=0, draws=3) -> CurveResult:
    """Follow the probability of a class while pixels are deleted from the images, or inserted, the hottest first.

    Deleted pixels are blurred, not blackened, as black patches would be a finding of their own. Chance is the mean of
    `draws` curves of the same map shifted by a random distance, wrapped round the edges: its patches are as large, whereas
    single pixels drawn at random would disturb the network by their sharp edges alone. Ties are in random order.
    Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.
    """
    images = checked_images(images, input_shape(model))
    classes = checked_classes(np.asarray(classes), len(images), model.outputs[0].shape[-1])
    if np.shape(maps) != images.shape[:3]:
        raise CovidxrError(
            f"heatmaps of shape {np.shape(maps)} and images of shape {images.shape} do not belong together"
        )
    if min(steps, draws) < 1:
        raise CovidxrError(f"steps is {steps} and draws is {draws}; both must be 1 or more")
    rng = np.random.default_rng(seed)
    rows = zip(images, maps, classes, strict=True)
    curves = [_curves(model, image, heat, number, steps, draws, rng) for image, heat, number in rows]
    curves = np.array(curves, np.float32).reshape(-1, 4, steps + 1)
    return CurveResult(np.linspace(0, 1, steps + 1), *curves.transpose(1, 0, 2))


def _curves(model, image, heat, number, steps, draws, rng):
    """Curves of one image: deletion, insertion, and both by chance, (4, steps + 1)."""
    blur = BLUR * len(image)
    blurred = ndimage.gaussian_filter(image, (blur, blur, 0))

    def both(heat):
        exchanged = (_step_of(heat, steps, rng) < np.arange(steps + 1)[:, None, None])[..., None]
        changed = np.where(exchanged, blurred, image), np.where(exchanged, image, blurred)
        return [model.predict_on_batch(images)[:, number] for images in changed]

    shifted = [np.roll(heat, rng.integers(heat.shape), (0, 1)) for _ in range(draws)]
    return [*both(heat), *np.mean([both(other) for other in shifted], axis=0)]


def _step_of(heat, steps, rng):
    """The step at which each pixel is exchanged, 0 to steps - 1, (H, W)."""
    shuffled = rng.permutation(heat.size)  # so that sorting leaves ties in random order
    order = shuffled[np.argsort(-heat.ravel()[shuffled], kind="stable")]
    step_of = np.empty(heat.size, int)
    step_of[order] = np.arange(heat.size) * steps // heat.size
    return step_of.reshape(heat.shape)


def curve_summary(result, patients=None) -> pd.DataFrame:
    """Areas under the curves: a small one is good for ``deletion``, a large one for ``insertion``; ``…_gain`` over chance."""
    measures = {}
    for name, better in (("deletion", -1), ("insertion", 1)):
        curves = getattr(result, name), getattr(result, f"random_{name}")
        area, chance = (np.trapezoid(curve, result.fractions, axis=1) for curve in curves)
        measures |= {name: (area, chance), f"{name}_gain": (better * (area - chance), 0.0)}
    return summarise(measures, np.arange(len(result.deletion)) if patients is None else patients)


def compare_maps(maps, others, patients=None) -> pd.DataFrame:
    """``rank_correlation`` and ``ssim`` of two sets of heatmaps of the same images; pairs with a constant map do not count."""
    maps, others = np.asarray(maps), np.asarray(others)
    if maps.shape != others.shape or maps.ndim != 3 or min(maps.shape[1:]) < WINDOW:
        raise CovidxrError(
            f"heatmaps to compare must be two arrays of one shape (N, H, W), at least {WINDOW} pixels a "
            f"side; found {maps.shape} and {others.shape}"
        )
    known = (np.ptp(maps, (1, 2)) > 0) & (np.ptp(others, (1, 2)) > 0)
    correlation, ssim = np.full((2, len(maps)), np.nan)
    for i in np.flatnonzero(known):
        correlation[i] = spearmanr(maps[i].ravel(), others[i].ravel()).statistic
        ssim[i] = structural_similarity(maps[i], others[i], data_range=1.0)
    patients = np.arange(len(maps)) if patients is None else patients
    return summarise({"rank_correlation": (correlation, np.nan), "ssim": (ssim, np.nan)}, patients)


def cascading_randomisation(model, images, layer=None, style="keras-vis", seed=0, patients=None) -> pd.DataFrame:
    """Similarity to the original heatmaps while the weights are randomised layer by layer from the top.

    Rows are indexed by ``layer``, the last one randomised, and by ``measure``, as in `compare_maps`. The values within each
    of a layer's arrays are shuffled: drawing new ones would let the signal of a deep plain network die out, and a seeded
    initialiser might draw the very values that training began with. All maps explain the class that was predicted
    before. The model itself is not changed. Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3.
    """
    rng, copy = np.random.default_rng(seed), _model_copy(model)
    gradcam = GradCAM(copy, layer, style)  # compiled once; it follows the weights
    original, stages = gradcam.explain(images), {}
    for top in _layers_from_top(copy):
        top.set_weights([rng.permuted(array) for array in top.get_weights()])
        maps = gradcam.explain(images, original.classes).maps
        stages[top.name] = compare_maps(original.maps, maps, patients)
    return pd.concat(stages, names=["layer", "measure"])


def _model_copy(model):
    input_shape(model)  # raises if the model cannot be explained, before it is copied
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _layers_from_top(model):
    for tensor in reversed(layer_tensors(model).values()):
        layer, _ = source(tensor)
        if isinstance(layer, keras.Model):
            yield from _layers_from_top(layer)
        elif layer.weights:
            yield layer


def refit_on_shuffled_labels(model, images, labels, epochs=100, seed=0, from_layer="flatten") -> tuple:
    """A copy of the model with its head refitted on shuffled labels, and the training accuracy of that head."""
    copy = keras.models.clone_model(model)
    kept = model.layers.index(model.get_layer(from_layer)) + 1
    for layer, original in zip(copy.layers[:kept], model.layers[:kept], strict=True):
        layer.set_weights(original.get_weights())
    shuffled = np.random.default_rng(seed).permutation(labels)
    history = fit_head(copy, embed(copy, images, from_layer), shuffled, epochs, seed=seed, from_layer=from_layer)
    return copy, float(history.accuracy.iloc[-1])
