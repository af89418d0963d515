"""Lungs where nobody has drawn them: boxes read off frozen features, and films cropped to them."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from covidxr._opencv import cv2
from covidxr.errors import CovidxrError

FEWEST_PATIENTS = 10  # to learn from; the folds need five


def bounding_boxes(masks) -> np.ndarray:
    """The smallest upright box around each mask.

    Parameters
    ----------
    masks : numpy.ndarray
        ``bool``, shape (N, H, W).

    Returns
    -------
    numpy.ndarray
        Shape (N, 4): top, bottom, left and right as shares of the film's sides, in [0, 1]; NaN for an empty mask.

    Examples
    --------
    >>> masks = np.zeros((2, 4, 4), bool)
    >>> masks[0, 1:3, :2] = True
    >>> bounding_boxes(masks).tolist()
    [[0.25, 0.75, 0.0, 0.5], [nan, nan, nan, nan]]
    """
    ends = []
    for axis, side in ((2, masks.shape[1]), (1, masks.shape[2])):
        there = masks.any(axis=axis)
        ends += [there.argmax(axis=1) / side, 1 - there[:, ::-1].argmax(axis=1) / side]
    return np.where(masks.any(axis=(1, 2))[:, None], np.stack(ends, axis=1), np.nan)


def find_lungs(features, lungs, patients) -> np.ndarray:
    """Predict the box around both lungs of every film, learning from those whose lungs are known.

    Every box is predicted, also where the lungs are known, there by a fit that has not seen the patient: otherwise the quality
    of the box would tell which source a film is of.

    Parameters
    ----------
    features : array_like of float
        Shape (N, …), of a frozen network.
    lungs : numpy.ndarray
        ``bool``, shape (N, H, W); empty masks for films whose lungs are not known.
    patients : array_like of str
        N of them.

    Returns
    -------
    numpy.ndarray
        Shape (N, 4), as `bounding_boxes` gives them.

    Raises
    ------
    CovidxrError
        When the lungs of fewer than 10 patients are known.

    Examples
    --------
    >>> tops = np.random.default_rng(0).integers(0, 6, 60)
    >>> lungs = np.stack([np.arange(16)[:, None] >= top for top in tops]) & np.ones(16, bool)
    >>> lungs[40:] = False
    >>> found = find_lungs(np.c_[tops, tops**2], lungs, np.arange(60))
    >>> bool(abs(found[:, 0] - tops / 16).max() < 0.03)
    True
    """
    x, wanted, patients = np.reshape(features, (len(lungs), -1)), bounding_boxes(lungs), np.asarray(patients, dtype=str)
    known = np.isfinite(wanted[:, 0])
    if (count := len(np.unique(patients[known]))) < FEWEST_PATIENTS:
        raise CovidxrError(
            f"lungs of {count} patients are known, {FEWEST_PATIENTS} are needed to find those of the others"
        )
    finder, folds = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 6))), GroupKFold(5)
    boxes = np.empty_like(wanted)
    boxes[known] = cross_val_predict(finder, x[known], wanted[known], groups=patients[known], cv=folds)
    if not known.all():
        boxes[~known] = finder.fit(x[known], wanted[known]).predict(x[~known])
    return boxes.clip(0, 1)


def overlap(boxes, others) -> np.ndarray:
    """Intersection over union of boxes, one by one.

    Parameters
    ----------
    boxes, others : numpy.ndarray
        Shape (N, 4), as `bounding_boxes` gives them.

    Returns
    -------
    numpy.ndarray
        Shape (N,), in [0, 1]; NaN where one of the two is.

    Examples
    --------
    >>> overlap(np.array([[0, 1, 0, 1.0]]), np.array([[0, 0.5, 0, 1.0]])).tolist()
    [0.5]
    """
    low, high = np.maximum(boxes[:, ::2], others[:, ::2]), np.minimum(boxes[:, 1::2], others[:, 1::2])
    both = np.clip(high - low, 0, None).prod(axis=1)
    areas = [(one[:, 1::2] - one[:, ::2]).prod(axis=1) for one in (boxes, others)]
    return both / (areas[0] + areas[1] - both)


def crop(images, boxes) -> np.ndarray:
    """Cut boxes out of films, and bring them back to the films' size.

    Parameters
    ----------
    images : numpy.ndarray
        ``uint8``, shape (N, H, W).
    boxes : numpy.ndarray
        Shape (N, 4), as `bounding_boxes` gives them; a box of less than a quarter of a side is widened to that.

    Returns
    -------
    numpy.ndarray
        ``uint8``, shape (N, H, W).

    Examples
    --------
    >>> film = np.repeat([[0] * 4 + [200] * 4], 8, axis=0).astype(np.uint8)
    >>> crop(film[None], np.array([[0, 1, 0.5, 1.0]])).min()
    np.uint8(200)
    """
    height, width = images.shape[1:]
    films = []
    for film, (top, bottom, left, right) in zip(images, boxes, strict=True):
        rows, columns = _span(top, bottom, height), _span(left, right, width)
        films.append(cv2.resize(film[rows, columns], (width, height), interpolation=cv2.INTER_LINEAR))
    return np.stack(films)


def _span(start, end, side):
    length = max(end - start, 0.25)
    start = np.clip((start + end - length) / 2, 0, 1 - length)
    return slice(round(start * side), round((start + length) * side))
