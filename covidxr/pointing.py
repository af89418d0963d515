"""Does a heatmap find the lesion? The pointing game, and the overlap of the hottest pixels with the lesion."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from covidxr.errors import CovidxrError
from covidxr.intervals import bootstrap_interval, share_interval


def pointing_hits(maps, masks, tolerance=0) -> np.ndarray:
    """Whether the hottest pixel of each map lies in its mask.

    Parameters
    ----------
    maps : numpy.ndarray
        Heat, shape (N, H, W).
    masks : numpy.ndarray
        ``bool``, shape (N, H, W), such as lesions.
    tolerance : float
        Distance from the mask in pixels that still counts as a hit.

    Returns
    -------
    numpy.ndarray
        Shape (N,): 1 for a hit, 0 for a miss, NaN where the map is blank or the mask empty. Where several pixels are
        equally hot, as on the plateaus of bilinear maps, the share of them that hits.

    Raises
    ------
    CovidxrError
        When the shapes differ or the tolerance is negative.

    References
    ----------
    Zhang et al., "Top-Down Neural Attention by Excitation Backprop", International Journal of Computer Vision 126, 2018,
    with a tolerance of 15 pixels on films several times as large.

    Examples
    --------
    >>> heat = np.array([[[0.2, 1.0, 0.0]], [[1.0, 0.2, 0.0]], [[0.0, 0.0, 0.0]]])
    >>> pointing_hits(heat, np.array([[[False, True, False]]] * 3)).tolist()
    [1.0, 0.0, nan]
    """
    known, near = _known(maps, masks), _widened(masks, tolerance)
    hottest = maps == maps.max((1, 2), keepdims=True)
    return np.where(known, (hottest & near).sum((1, 2)) / hottest.sum((1, 2)), np.nan)


def heat_iou(maps, masks) -> np.ndarray:
    """Intersection over union of each mask and as many of the map's hottest pixels.

    Parameters
    ----------
    maps : numpy.ndarray
        Heat, shape (N, H, W).
    masks : numpy.ndarray
        ``bool``, shape (N, H, W).

    Returns
    -------
    numpy.ndarray
        Shape (N,), in [0, 1]; NaN where the map is blank or the mask empty. Pixels as hot as the last one taken are all
        taken.

    Raises
    ------
    CovidxrError
        When the shapes differ.

    Examples
    --------
    >>> heat = np.array([[[4.0, 3.0, 2.0, 1.0]]])
    >>> heat_iou(heat, np.array([[[False, True, True, False]]])).round(3).tolist()
    [0.333]
    """
    known = _known(maps, masks)
    films = zip(maps, masks, known, strict=True)
    return np.array([_overlap(heat, mask) if able else np.nan for heat, mask, able in films], float)


def _overlap(heat, mask):
    hot = heat >= np.sort(heat, axis=None)[-mask.sum()]
    return (hot & mask).sum() / (hot | mask).sum()


def pointing_summary(maps, masks, patients, tolerance=0) -> dict:
    """Share of hits and mean overlap, with intervals and chance.

    Parameters
    ----------
    maps, masks : numpy.ndarray
        As for `pointing_hits`.
    patients : array_like
        The patient of each film, for the bootstrap.
    tolerance : float
        As for `pointing_hits`.

    Returns
    -------
    dict
        ``n`` films counted; ``hits``, their share, with its interval, and ``hits_chance``, the mask's share of the
        film (tolerance included); ``iou``, with a bootstrap interval, and ``iou_chance``, that of as many pixels taken at
        random. Empty when no film has both heat and a mask.

    Raises
    ------
    CovidxrError
        When the shapes differ or the tolerance is negative.

    Examples
    --------
    >>> masks = np.zeros((4, 2, 2), bool); masks[:, 0, 0] = True
    >>> found = pointing_summary(masks.astype(float), masks, ["a", "a", "b", "c"])
    >>> found["hits"], found["hits_chance"], found["iou"], round(found["iou_chance"], 3)
    (1.0, 0.25, 1.0, 0.143)
    """
    hits, iou = pointing_hits(maps, masks, tolerance), heat_iou(maps, masks)
    known = np.isfinite(hits)
    if not known.any():
        return {}
    hits, iou, patients = hits[known], iou[known], np.asarray(patients, dtype=str)[known]
    share = masks[known].mean((1, 2))  # of k among n pixels, k drawn at random hit k²/n
    return {
        "n": len(hits),
        "hits": float(hits.mean()),
        "hits_interval": list(share_interval(hits, patients)),
        "hits_chance": float(_widened(masks[known], tolerance).mean()),
        "iou": float(iou.mean()),
        "iou_interval": list(bootstrap_interval(lambda rows: iou[rows].mean(), patients)),
        "iou_chance": float((share / (2 - share)).mean()),
    }


def _known(maps, masks):
    if maps.shape != masks.shape:
        raise CovidxrError(f"heatmaps of shape {maps.shape} and masks of shape {masks.shape} do not belong together")
    return (np.ptp(maps, (1, 2)) > 0) & masks.any((1, 2))


def _widened(masks, tolerance):
    if tolerance < 0:
        raise CovidxrError(f"tolerance is {tolerance} pixels; give 0 or more")
    return np.array([ndimage.distance_transform_edt(~mask) <= tolerance for mask in masks]).reshape(masks.shape)
