"""Evaluation of heatmaps: localisation, deletion and insertion, the comparison of layers and methods, sanity checks.

Every summary is a table with a row for each measure and the columns ``value``, ``low``, ``high`` (95 % CI, images
clustered by patient), ``chance`` and ``n``, the number of images that could be evaluated; without any, the rest is NaN.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from covidxr._keras import keras
from covidxr.data.dataset import Dataset
from covidxr.data.images import load_masks, preprocess
from covidxr.evaluation.intervals import Estimate, bootstrap_interval, proportion_interval
from covidxr.gradcam._graph import checked_classes, checked_images, convolutions, input_shape, layer_tensors, source
from covidxr.gradcam.cam import CHUNK, STYLES, GradCAM, candidate_layers
from covidxr.model.networks import embed
from covidxr.training.head import fit_head
from covidxr.utils import CovidxrError

BLUR = 0.1  # standard deviation of the blur, as a share of the image's height

TOLERANCE = (
    0.03  # of the image's side, at which a pixel is near a lesion: 15 of 500 pixels in the pointing game's paper
)

HOT = 5  # the hottest of this many equal parts of an image is blurred, or spared, to compare explanations

PROPORTIONS = ("hits", "near_hits")  # measures that are true or false of an image

WINDOW = 7  # side in pixels of the patches that SSIM compares, scikit-image's default


def summarise(measures, patients) -> pd.DataFrame:
    """Table of means from {measure: (value of each image, NaN where not evaluable, and its chance)}."""
    rows = {name: _mean(*given, np.asarray(patients), name in PROPORTIONS) for name, given in measures.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _mean(values, chance, patients, proportion) -> dict:
    known = np.isfinite(values)
    values, patients, n = values[known], patients[known], int(known.sum())
    if not n:
        return {"value": np.nan, "low": np.nan, "high": np.nan, "chance": np.nan, "n": 0}
    low, high = bootstrap_interval(lambda rows: values[rows].mean(), patients)
    if (
        proportion
    ):  # where all images agree, resampling would have no width; several hottest pixels count as their majority
        wilson = proportion_interval(values >= 0.5, patients)
        low, high = (min(low, wilson[0]), max(high, wilson[1])) if (values % 1).any() else wilson
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


def localisation(maps, masks) -> dict:
    """Where the heat of each image lies, for `summarise`: its share ``inside`` the mask, ``hits``, ``near_hits`` and ``iou``.

    `pointing_hits` at no tolerance and at `TOLERANCE`, and `top_k_iou`. Chance is that of an even map, and of pixels drawn
    at random.
    """
    tolerance = round(TOLERANCE * masks.shape[1])
    share = masks.mean((1, 2))  # of k among n pixels, k drawn at random hit k²/n
    return {
        "inside": (relevance_mass(maps, masks), share),
        "hits": (pointing_hits(maps, masks), share),
        "near_hits": (pointing_hits(maps, masks, tolerance), _widened(masks, tolerance).mean((1, 2))),
        "iou": (top_k_iou(maps, masks), share / (2 - share)),
    }


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


def curve_areas(result) -> dict:
    """Areas under the curves of each image, for `summarise`, and their gains over chance.

    A small area is good for ``deletion``, a large one for ``insertion``; ``deletion_gain`` and ``insertion_gain`` are above
    zero where the map is better than chance.
    """
    measures = {}
    for name, better in (("deletion", -1), ("insertion", 1)):
        curves = getattr(result, name), getattr(result, f"random_{name}")
        area, chance = (np.trapezoid(curve, result.fractions, axis=1) for curve in curves)
        measures |= {name: (area, chance), f"{name}_gain": (better * (area - chance), np.zeros(len(area)))}
    return measures


def hottest_part_gains(model, images, maps, classes) -> dict:
    """What the hottest fifth of each image means to the network, for `summarise`; two points of the curves above.

    ``deletion_gain`` is by how much blurring it lowers the probability of the class more than blurring the fifth of the same
    map, shifted at random; ``insertion_gain`` by how much sparing it, with the rest blurred, raises it more.
    """
    rng, sigma = np.random.default_rng(0), BLUR * images.shape[1]
    blurred = ndimage.gaussian_filter(images, (0, sigma, sigma, 0))
    shifted = [np.roll(heat, rng.integers(heat.shape), (0, 1)) for heat in maps]
    hot, elsewhere = (_hottest_part(heats, rng).reshape(*maps.shape, 1) for heats in (maps, shifted))

    def probability(sharp):
        mixed, starts = np.where(sharp, images, blurred), range(0, len(images), CHUNK)
        scores = [model.predict_on_batch(mixed[start : start + CHUNK]) for start in starts]
        return np.concatenate([np.zeros((0, model.outputs[0].shape[-1])), *scores])[np.arange(len(images)), classes]

    known = np.where(np.ptp(maps, (1, 2)) > 0, 0, np.nan)
    deletion = probability(~elsewhere) - probability(~hot) + known
    insertion = probability(hot) - probability(elsewhere) + known
    return {"deletion_gain": (deletion, 0 * known), "insertion_gain": (insertion, 0 * known)}


def _hottest_part(maps, rng):
    return np.array([_step_of(heat, HOT, rng) == 0 for heat in maps], bool)


def compare_explanations(
    model: keras.Model,
    dataset: Dataset,
    layers: Sequence[str] | None = None,
    styles: Sequence[str] = tuple(STYLES),
    controls: Sequence[keras.Model] = (),
    lungs: np.ndarray | None = None,
    n_predicted: int = 20,
) -> pd.DataFrame:
    """Evaluate each layer and method on the same images, for the predicted classes.

    Parameters
    ----------
    model : keras.Model
        The network to explain.
    dataset : Dataset
        Images that the choice may depend on, such as those of the split ``validation``; lesions are those that the
        manifest names.
    layers : sequence of str, optional
        By default the last convolutions of the three smallest sizes of map.
    styles : sequence of str
        Keys of `covidxr.gradcam.cam.STYLES`.
    controls : sequence of keras.Model
        Untrained networks of the same architecture.
    lungs : numpy.ndarray, optional
        bool (N, H, W), by default the masks of the dataset.
    n_predicted : int
        Images for deletion and insertion, which take four predictions an image and explanation.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``layer``, ``style`` and ``measure``; ``value``, ``low`` and ``high`` (95 % CI, images clustered by
        patient), ``chance`` and ``n``; ``untrained``, ``untrained_low`` and ``untrained_high``, the same of the untrained
        networks together. The measures:

        - ``heat_in_lungs`` and ``heat_in_lesion``, the share of the heat,
        - ``hits`` and ``near_hits``, whether the hottest pixel lies in the lesion, or within 3 % of the image's side of it,
        - ``iou``, the overlap of the lesion and as many of the hottest pixels,
        - ``deletion_gain`` and ``insertion_gain`` of the hottest fifth over that of the map shifted at random,
        - ``cells``, rows of the map, and ``ms``, milliseconds for an image, the same for all styles of a layer.

    Raises
    ------
    CovidxrError
        If a layer or a style does not exist, or the network cannot be explained.

    References
    ----------
    Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 126, 2018 (the pointing game).

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.data import build_dataset
    >>> from covidxr.model import build_vgg16
    >>> dataset = build_dataset(per_class=2, image_size=32, work_dir=tempfile.mkdtemp())
    >>> table = compare_explanations(build_vgg16(32), dataset, ["block3_conv3"], ["paper", "layercam"])
    >>> table.loc["block3_conv3"].loc["layercam"].index.tolist()
    ['heat_in_lungs', 'heat_in_lesion', 'hits', 'near_hits', 'iou', 'deletion_gain', 'insertion_gain', 'cells', 'ms']
    """
    images, patients = preprocess(dataset.images), dataset.patients
    lungs = dataset.lung_masks() if lungs is None else lungs
    lesions = load_masks(dataset.manifest.lesion_mask, images.shape[1])
    rows = np.random.default_rng(0).permutation(len(images))[:n_predicted]
    layers = list(layers or candidate_layers(model))
    found = GradCAM(model, layers, styles).explain_each(images)
    classes = next(iter(found.values())).classes
    untrained = [GradCAM(control, layers, styles).explain_each(images, classes) for control in controls]

    def measures(maps, predicted):
        return _lesion_and_lung(maps, lesions, lungs) | _gains(model, images, maps, classes, predicted)

    cost = {layer: _layer_cost(model, layer, images, classes) for layer in layers}
    tables = {}
    for key, result in found.items():
        # Predictions are expensive: of the untrained networks, those of the first have to do.
        others = [measures(control[key].maps, [] if number else rows) for number, control in enumerate(untrained)]
        tables[key] = pd.concat([_beside(measures(result.maps, rows), others, patients), cost[key[0]]])
    return pd.concat(tables, names=["layer", "style", "measure"])


def _lesion_and_lung(maps, lesions, lungs) -> dict:
    lesion = localisation(maps, lesions)
    inside = {
        "heat_in_lungs": (relevance_mass(maps, lungs), lungs.mean((1, 2))),
        "heat_in_lesion": lesion.pop("inside"),
    }
    return inside | lesion


def _gains(model, images, maps, classes, rows) -> dict:
    """The gains of the images of `rows`, NaN for the others."""
    gains = hottest_part_gains(model, images[rows], maps[rows], classes[rows])
    measures = {name: (np.full(len(images), np.nan), np.zeros(len(images))) for name in gains}
    for name, (values, _) in measures.items():
        values[rows] = gains[name][0]
    return measures


def _beside(measures, others, patients) -> pd.DataFrame:
    """The summary of the measures, and that of all untrained networks together."""
    table = summarise(measures, patients)
    if others:
        pooled = {
            name: [np.concatenate(parts) for parts in zip(*(o[name] for o in others), strict=True)]
            for name in table.index
        }
        control = summarise(pooled, np.tile(patients, len(others)))
        table[["untrained", "untrained_low", "untrained_high"]] = control[["value", "low", "high"]]
    return table


def _layer_cost(model, layer, images, classes) -> pd.DataFrame:
    """Rows of a layer's map, and milliseconds for an image of a batch."""
    explainer, batch = GradCAM(model, layer, "paper"), (images[:CHUNK], classes[:CHUNK])
    explainer.explain(*batch)  # traced
    start = time.perf_counter()
    explainer.explain(*batch)
    milliseconds = 1000 * (time.perf_counter() - start) / max(1, len(batch[0]))
    return pd.DataFrame({"value": [float(convolutions(model)[layer][0]), milliseconds]}, index=["cells", "ms"])


def choose_explanation(table) -> tuple[str, str] | None:
    """Layer and style whose hottest pixel lies in the lesion most often, of equals those with the larger overlap."""
    values = table.value.unstack("measure")[["hits", "iou"]].dropna()
    return None if values.empty else values.sort_values(["hits", "iou"]).index[-1]


def explanation_records(table) -> list[dict]:
    """The table as ``metrics.json`` stores it, a record for each layer and style; times are not stored, as they vary."""
    records = []
    for (layer, style), rows in table.groupby(level=["layer", "style"], sort=False):
        measures = rows.droplevel(["layer", "style"])
        estimates = table_records(measures.drop(["cells", "ms"]).astype({"n": int}))
        records.append({"layer": layer, "style": style, "cells": int(measures.value["cells"]), **estimates})
    return records


def lung_section(rows) -> dict:
    """``heat_in_lungs``, ``untrained`` and ``chance`` for the run page, from a layer's and style's rows; null if not known."""
    row = rows.loc["heat_in_lungs"]
    if not row.n:
        return dict.fromkeys(("heat_in_lungs", "untrained", "chance"))
    section = {"heat_in_lungs": Estimate(row.value, row.low, row.high, int(row.n)).to_dict(), "chance": row.chance}
    untrained = Estimate(row.untrained, row.untrained_low, row.untrained_high) if "untrained" in row else None
    return section | {"untrained": untrained and untrained.to_dict()}


def verdict(rows, randomised=None, unrelated=None) -> str:
    """What maps show and what they do not, in one paragraph.

    `rows` are a layer's and style's rows of `compare_explanations`; the other two are the rank correlations with the maps
    of the network whose weights were randomised, and with another image's, as rows of `compare_maps`.
    """
    sentences = [_lesion_verdict(rows.loc["hits"])]
    if rows.n["heat_in_lungs"]:
        sentences.append(_lung_verdict(rows.loc["heat_in_lungs"]))
    if rows.n["deletion_gain"]:
        sentences.append(_deletion_verdict(rows.loc["deletion_gain"]))
    if randomised is not None and randomised.n and unrelated.n:
        sentences.append(_randomisation_verdict(randomised, unrelated))
    sentences.append("No map shows why a class was predicted: a shortcut inside a marked region looks the same.")
    return " ".join(sentences)


def _lesion_verdict(row) -> str:
    if not row.n:
        return "Without lesion masks, nothing here shows that the maps mark findings."
    hint = "the maps may be read as a hint of where a lesion lies, not of its outline"
    read = hint if _exceeds(row) else "the maps do not show where lesions lie"
    return f"The hottest pixel lies in the lesion in {_interval(row)} of the images{_against(row)}: {read}."


def _lung_verdict(row) -> str:
    edges = "more than edges and contrast alone explain"
    read = edges if _exceeds(row) else "no evidence that the network uses the lungs"
    return f"The share of heat in the lungs is {_interval(row)}{_against(row)}: {read}."


def _deletion_verdict(row) -> str:
    if row.low <= 0:
        read = "it is not shown that the network needs what the maps mark"
    elif not _exceeds(row):
        read = f"the network needs such regions, but untrained networks mark them, too ({row.untrained:.2f})"
    else:
        read = "the network needs what the maps mark"
    return (
        "Blurring the hottest fifth of the image lowers the probability of the class by "
        f"{_interval(row)} more than blurring another fifth: {read}."
    )


def _randomisation_verdict(row, unrelated) -> str:
    alike = row.low > unrelated.high
    how = "stay similar" if alike else "change"
    read = "part of each map comes from the image alone" if alike else "they depend on what the network has learnt"
    return (
        f"With all weights randomised, the maps {how}, with a rank correlation of {_interval(row)}, against "
        f"{unrelated.value:.2f} for another image: {read}."
    )


def _interval(row) -> str:
    return str(Estimate(row.value, row.low, row.high))


def _against(row) -> str:
    untrained = f" and {row.untrained:.2f} in untrained networks" if "untrained" in row else ""
    return f", against {row.chance:.2f} by chance{untrained}"


def _exceeds(row) -> bool:
    """Whether the interval lies above chance and above the untrained networks, as in the audit."""
    return bool(row.low > max(row.chance, row.get("untrained", 0.0)))


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
