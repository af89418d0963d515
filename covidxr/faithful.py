"""Does the network need what a heatmap marks? Deletion and insertion curves.

Deletion blurs a film's hottest places first, and the probability of its class should fall at once; insertion begins
with the blurred film and brings the hottest places back, and it should rise at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from covidxr import _graph
from covidxr.errors import CovidxrError
from covidxr.intervals import bootstrap_interval

BLUR = 0.1  # standard deviation of the blur, as a share of the film's height


class CurveResult(NamedTuple):
    """Probability of each film's class while its places are exchanged, for N films and S steps.

    Parameters
    ----------
    fractions : numpy.ndarray
        Share of the pixels exchanged, float64 (S + 1,), from 0 to 1.
    deletion, insertion : numpy.ndarray
        Probabilities, float32 (N, S + 1), the hottest pixels first.
    random_deletion, random_insertion : numpy.ndarray
        The same by chance: the film's map moved to random places.

    Examples
    --------
    >>> CurveResult._fields
    ('fractions', 'deletion', 'insertion', 'random_deletion', 'random_insertion')
    """

    fractions: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random_deletion: np.ndarray
    random_insertion: np.ndarray


def deletion_insertion(model, images, maps, classes, steps=20, seed=0, draws=3) -> CurveResult:
    """Follow the probability of a class while heatmaps say what to take from the films, or to give back.

    What is taken away is blurred, not blackened, as black patches would be a finding of their own. Chance is the same
    map moved by a random distance, wrapped round the edges: its patches are as large, whereas single pixels strewn at
    random would upset the network by their sharp edges alone. Pixels of equal heat come in random order.

    Parameters
    ----------
    model : keras.Model
        A model from one image to one probability a class.
    images : numpy.ndarray
        float32 (N, H, W, channels) in [0, 1], of the model's input size.
    maps : numpy.ndarray
        Heat, shape (N, H, W).
    classes : int or array of int (N,)
        The class to follow, one for all films or one for each.
    steps : int
        Equal parts that the pixels are exchanged in, 1 or more; as many films and one are in memory at a time.
    seed : int
        Seed of the random moves and of the order of equals.
    draws : int
        Random moves that chance is the mean of, 1 or more.

    Returns
    -------
    CurveResult

    Raises
    ------
    CovidxrError
        If the images, the maps or the classes do not fit the model or each other, or `steps` or `draws` is below 1.

    References
    ----------
    Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    >>> rng = np.random.default_rng(0)
    >>> found = deletion_insertion(model, rng.random((3, 8, 8, 3), np.float32), rng.random((3, 8, 8)), 0, steps=4)
    >>> found.fractions.tolist(), found.deletion.shape
    ([0.0, 0.25, 0.5, 0.75, 1.0], (3, 5))
    """
    images = _graph.checked_images(images, _graph.input_shape(model))
    classes = _graph.checked_classes(np.asarray(classes), len(images), model.outputs[0].shape[-1])
    if np.shape(maps) != images.shape[:3]:
        raise CovidxrError(
            f"heatmaps of shape {np.shape(maps)} and images of shape {images.shape} do not belong together"
        )
    if min(steps, draws) < 1:
        raise CovidxrError(f"steps is {steps} and draws is {draws}; both must be 1 or more")
    rng = np.random.default_rng(seed)
    films = zip(images, maps, classes, strict=True)
    curves = [_curves(model, image, heat, number, steps, draws, rng) for image, heat, number in films]
    curves = np.array(curves, np.float32).reshape(-1, 4, steps + 1)
    return CurveResult(np.linspace(0, 1, steps + 1), *curves.transpose(1, 0, 2))


def _curves(model, image, heat, number, steps, draws, rng):
    """Follow one film: deletion, insertion, and both by chance, (4, steps + 1)."""
    blur = BLUR * len(image)
    blurred = ndimage.gaussian_filter(image, (blur, blur, 0))

    def both(heat):
        exchanged = (_turns(heat, steps, rng) < np.arange(steps + 1)[:, None, None])[..., None]
        ways = np.where(exchanged, blurred, image), np.where(exchanged, image, blurred)
        return [model.predict_on_batch(films)[:, number] for films in ways]

    moved = [np.roll(heat, rng.integers(heat.shape), (0, 1)) for _ in range(draws)]
    return [*both(heat), *np.mean([both(other) for other in moved], axis=0)]


def _turns(heat, steps, rng):
    """Give the step at which each pixel is exchanged, 0 to steps - 1, as (H, W)."""
    shuffled = rng.permutation(heat.size)  # so that sorting leaves equals in random order
    order = shuffled[np.argsort(-heat.ravel()[shuffled], kind="stable")]
    turns = np.empty(heat.size, int)
    turns[order] = np.arange(heat.size) * steps // heat.size
    return turns.reshape(heat.shape)


def curve_summary(result, groups=None) -> dict:
    """Mean areas under the curves, 0 to 1: small is good for deletion, large for insertion.

    Parameters
    ----------
    result : CurveResult
        From `deletion_insertion`.
    groups : array_like, optional
        The patient of each film, for the bootstrap; by default each film is its own.

    Returns
    -------
    dict
        ``n`` films; ``deletion`` and ``insertion``, each with its 95 % interval, its chance level (``…_chance``) and, as
        ``…_gain``, by how much it is better than chance, with that difference's interval. Empty when there are no films.

    Examples
    --------
    >>> falls, stays = np.array([[1.0, 0.0, 0.0]]), np.array([[1.0, 1.0, 0.0]])
    >>> found = curve_summary(CurveResult(np.array([0, 0.5, 1]), falls, stays, stays, falls))
    >>> found["deletion"], found["deletion_chance"], found["deletion_gain"]
    (0.25, 0.75, 0.5)
    """
    if not len(result.deletion):
        return {}
    groups = np.arange(len(result.deletion)) if groups is None else groups
    found = {"n": len(result.deletion)}
    for name, better in (("deletion", -1), ("insertion", 1)):
        curves = getattr(result, name), getattr(result, f"random_{name}")
        area, chance = (np.trapezoid(curve, result.fractions, axis=1) for curve in curves)
        found |= _mean(name, area, groups) | {f"{name}_chance": float(chance.mean())}
        found |= _mean(f"{name}_gain", better * (area - chance), groups)
    return found


def _mean(name, values, groups):
    interval = bootstrap_interval(lambda rows: values[rows].mean(), groups)
    return {name: float(values.mean()), f"{name}_interval": list(interval)}
