"""Shapes that the phantom is drawn from: formulas over a grid in centimetres, smooth at any resolution."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator

from covidxr._opencv import cv2


def through(at, *knots):
    """Smooth curve through points, level beyond the first and the last.

    Parameters
    ----------
    at : numpy.ndarray
        Where to evaluate.
    *knots : (float, float)
        Position and value, positions rising.

    Returns
    -------
    numpy.ndarray
        float32, like `at`.

    References
    ----------
    Fritsch and Butland (1984), a method for constructing local monotone piecewise cubic interpolants.

    Examples
    --------
    >>> through(np.array([-1, 0.5, 9]), (0, 2), (1, 4)).tolist()
    [2.0, 3.0, 4.0]
    """
    positions, values = zip(*knots, strict=True)
    return PchipInterpolator(positions, values)(np.clip(at, positions[0], positions[-1])).astype(np.float32)


def edge(distance, width=0.3):
    """Soft step: 0 outside (negative distance), 1 inside, a ramp of `width` centimetres between.

    Parameters
    ----------
    distance : numpy.ndarray
        Signed distance to the border in centimetres.
    width : float
        Width of the ramp, above 0.

    Returns
    -------
    numpy.ndarray

    Examples
    --------
    >>> edge(np.array([-1.0, 0.0, 1.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.clip(0.5 + distance / width, 0, 1)


def ball(x, y, centre, radii, tilt=0.0):
    """Share of an ellipsoid's depth that a ray crosses: 1 in its middle, 0 outside.

    Parameters
    ----------
    x, y : numpy.ndarray
        Grid, broadcast against each other.
    centre, radii : (float, float)
        Centimetres.
    tilt : float
        Turn of the first radius from x towards y, in radians.

    Returns
    -------
    numpy.ndarray

    Examples
    --------
    >>> ball(np.array([0.0, 2.0]), 0.0, (0, 0), (1, 1)).tolist()
    [1.0, 0.0]
    """
    c, s = float(np.cos(tilt)), float(np.sin(tilt))
    dx, dy = x - centre[0], y - centre[1]
    u, v = dx * (c / radii[0]) + dy * (s / radii[0]), dy * (c / radii[1]) - dx * (s / radii[1])
    return np.sqrt(np.maximum(1 - u * u - v * v, 0))


def rod(x, y, start, end):
    """Distance to the line segment from `start` to `end`.

    Parameters
    ----------
    x, y : numpy.ndarray
        Grid, broadcast against each other.
    start, end : (float, float)
        Centimetres.

    Returns
    -------
    numpy.ndarray

    Examples
    --------
    >>> rod(np.array([5.0, 13.0]), np.array([2.0, 4.0]), (0, 0), (10, 0)).tolist()
    [2.0, 5.0]
    """
    dx, dy = end[0] - start[0], end[1] - start[1]
    x, y = x - start[0], y - start[1]
    along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
    return np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2)


def tube(distance, radius, marrow=0.0):
    """Path length through a round bone or airway.

    Parameters
    ----------
    distance : numpy.ndarray
        Distance to its axis in centimetres.
    radius : float or numpy.ndarray
        Outer radius.
    marrow : float
        Share of the radius, in [0, 1), inside which it is spongy and counts a quarter.

    Returns
    -------
    numpy.ndarray

    Examples
    --------
    >>> tube(np.array([0.0, 1.0, 3.0]), 1.0).tolist(), tube(np.array([0.0]), 1.0, 0.5).tolist()
    ([2.0, 0.0, 0.0], [1.25])
    """
    squared = distance * distance
    full = 2 * np.sqrt(np.maximum(radius * radius - squared, 0))
    return full - 1.5 * np.sqrt(np.maximum((marrow * radius) ** 2 - squared, 0)) if marrow else full


def noise(rng, n, cells, octaves=3):
    """Smooth random field of about unit spread, coarse to fine.

    Parameters
    ----------
    rng : numpy.random.Generator
        The source of chance.
    n : int
        Side of the field in pixels.
    cells : int
        Random values along a side of the coarsest octave; each further octave doubles them and halves their weight.
    octaves : int
        How many are summed.

    Returns
    -------
    numpy.ndarray
        float32, (n, n).

    References
    ----------
    Perlin (1985), an image synthesizer: sums of octaves of smooth noise.

    Examples
    --------
    >>> noise(np.random.default_rng(0), 64, 8).shape
    (64, 64)
    """
    total = np.zeros((n, n), np.float32)
    for octave in range(octaves):
        side = cells * 2**octave
        coarse = rng.standard_normal((side, side), dtype=np.float32)
        total += cv2.resize(coarse, (n, n), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total
