"""The phantom's film: where the chest falls on it, what the detector counts, and how the counts become grey."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from covidxr._opencv import cv2
from covidxr.sources._anatomy import SPAN

FIELD = 34.0  # cm that a film covers
SHORTCUTS = ("marker", "exposure", "body_size", "border")


class Habits(NamedTuple):
    """What a hospital does to its films, none of which is disease; see `draw_habits`."""

    marker: int  # corner of the side letter: 0 to 3 clockwise from the top left, 4 for none
    exposure: float  # -1 dark to 1 bright
    border: float  # width of the black collimation border, as a share of the film
    contrast: float


def planted(name, rank, shortcut, rng):
    """Toss whether a shortcut holds on this film, and return the value that goes with the class if so.

    Parameters
    ----------
    name : {"marker", "exposure", "body_size", "border"}
        The shortcut.
    rank : int
        Position of the film's class among the four.
    shortcut : dict of str to float
        Strength by name, in [0, 1]; names that are absent are 0.
    rng : numpy.random.Generator
        One number is drawn from it.

    Returns
    -------
    float or int or None
        None where the value is to be drawn without regard to the class.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> planted("marker", 2, {"marker": 1.0}, rng), planted("marker", 2, {}, rng)
    (2, None)
    """
    if rng.random() >= shortcut.get(name, 0.0):
        return None
    level = (-1.0, -0.33, 0.33, 1.0)[rank]
    return {"marker": rank, "exposure": level, "body_size": level, "border": 0.02 * rank}[name]


def draw_habits(rng, rank, shortcut) -> Habits:
    """Draw marker, exposure, border and contrast, by chance or as planted.

    Parameters
    ----------
    rng : numpy.random.Generator
        The source of chance. The same draws are made whatever is planted.
    rank : int
        Position of the film's class among the four.
    shortcut : dict of str to float
        See `planted`.

    Returns
    -------
    Habits

    Examples
    --------
    >>> draw_habits(np.random.default_rng(0), 3, {"marker": 1.0, "border": 1.0})[::2]
    (3, 0.06)
    """
    chance = {
        "marker": int(rng.integers(5)), "exposure": rng.uniform(-1, 1), "border": max(0.0, rng.uniform(-0.06, 0.06)),
    }  # fmt: skip
    fixed = {name: planted(name, rank, shortcut, rng) for name in chance}
    values = {name: chance[name] if fixed[name] is None else fixed[name] for name in chance}
    return Habits(**values, contrast=rng.uniform(0.85, 1.15))


def place(layers, rng, size):
    """Lay the canvas on the film, a little shifted, tilted, nearer or farther.

    Parameters
    ----------
    layers : numpy.ndarray
        float32, (n, n, k) with at most four layers.
    rng : numpy.random.Generator
        The source of chance.
    size : int
        Side of the film in pixels.

    Returns
    -------
    tuple of numpy.ndarray
        k layers, float32, (size, size).

    Examples
    --------
    >>> layers = np.ones((50, 50, 2), np.float32)
    >>> [layer.shape for layer in place(layers, np.random.default_rng(0), 40)]
    [(40, 40), (40, 40)]
    """
    nearness, tilt, *shift = np.clip(rng.standard_normal(4), -2.5, 2.5) * (0.02, 1.6, 0.5, 0.5)
    pixels = layers.shape[0] / SPAN  # to the centimetre
    matrix = cv2.getRotationMatrix2D((0, 0), tilt, size / (FIELD * (1 + nearness) * pixels))
    centre = layers.shape[0] / 2 + np.add(shift, (0, 0.4)) * pixels
    matrix[:, 2] = size / 2 - matrix[:, :2] @ centre
    return cv2.split(cv2.warpAffine(layers, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE))


def take(healthy, disease, lungs, habits, rng):
    """Expose and develop a film.

    The beam weakens as Beer and Lambert say, scatters, and is counted with Poisson's noise; the grey follows the
    logarithm of the count. Local means are subtracted in part and the window is set on the healthy chest, so that a
    lesion changes the grey where it is and next to nothing elsewhere.

    Parameters
    ----------
    healthy, disease : numpy.ndarray
        Line integrals of attenuation, float32, (n, n); they add up.
    lungs : numpy.ndarray
        1 inside the lungs, (n, n).
    habits : Habits
        Exposure and contrast.
    rng : numpy.random.Generator
        The source of the noise.

    Returns
    -------
    numpy.ndarray
        float32, (n, n), in [0, 1], bone and dense tissue bright.

    Examples
    --------
    >>> healthy = np.linspace(1, 5, 64 * 64, dtype=np.float32).reshape(64, 64)
    >>> film = take(healthy, 0 * healthy, healthy < 3, Habits(4, 0.0, 0.0, 1.0), np.random.default_rng(0))
    >>> bool(film[0].mean() < film[-1].mean())
    True
    """
    beam = np.exp(-(healthy + disease))
    beam += 0.35 * _blur(beam, 0.08)
    photons = 10 ** rng.uniform(4.6, 5.4)
    signal = -np.log((rng.poisson(beam * photons) + 1) / photons).astype(np.float32)
    signal -= 0.45 * _blur(signal, 0.13)
    clean = healthy - 0.45 * _blur(healthy, 0.13)
    low, high = np.percentile(clean[lungs > 0.5], 3), np.percentile(clean[len(clean) // 5 :], 97)
    grey = np.tanh(1.6 * habits.contrast * ((signal - low) / (high - low) - 0.5))
    return np.clip(grey / 1.48 + 0.5, 0, 1) ** (2 ** (-1.05 * habits.exposure))


def finish(image, habits):
    """Add the side letter, and black out the border.

    Parameters
    ----------
    image : numpy.ndarray
        float32, (n, n), in [0, 1]; changed in place.
    habits : Habits
        Marker and border.

    Returns
    -------
    numpy.ndarray
        `image`.

    Examples
    --------
    >>> film = finish(np.full((200, 200), 0.2, np.float32), Habits(0, 0.0, 0.02, 1.0))
    >>> float(film[0].max()), float(film[:50, :50].max()), round(float(film[100:].max()), 1)
    (0.0, 1.0, 0.2)
    """
    n, edge = len(image), round(habits.border * len(image))
    if habits.marker < 4:
        left, top = habits.marker in (0, 3), habits.marker < 2
        corner = round(n * (0.075 if left else 0.865)), round(n * (0.155 if top else 0.935))
        style = cv2.FONT_HERSHEY_SIMPLEX, n / 350, 1, round(n / 75), cv2.LINE_8
        # OpenCV 5 writes on bytes only.
        letter = cv2.putText(np.zeros((n, n), np.uint8), "R" if left else "L", corner, *style)
        image[letter > 0] = 1
    if edge:
        image[:edge] = image[-edge:] = image[:, :edge] = image[:, -edge:] = 0
    return image


def _blur(field, sigma):
    """Wide blur by way of a small copy, which is as smooth and much cheaper."""
    small = cv2.resize(field, (48, 48), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma * 48, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, field.shape[::-1], interpolation=cv2.INTER_CUBIC)
