"""What disease adds to the phantom's lungs: how much of the air each lesion replaces, as a field from 0 to 1.

The looks follow radiology's plain descriptions: COVID-19, hazy patches in both lungs towards the ribs and the base;
bacterial pneumonia, one dense focus or lobe in which open bronchi stay dark; viral pneumonia, a net of strands and
haze around both hila.
"""

from __future__ import annotations

import numpy as np

from covidxr.sources._shapes import noise


def draw_lesion(label, chest, rng):
    """Draw one film's disease.

    Parameters
    ----------
    label : str
        A class; ``"Normal"`` has no lesion.
    chest : covidxr.sources._chest.Chest
        Where.
    rng : numpy.random.Generator
        The source of chance.

    Returns
    -------
    numpy.ndarray
        float32, (n, n), the share of air that is replaced, in [0, 1].

    References
    ----------
    Wong et al. (2020), frequency and distribution of chest radiographic findings in patients positive for COVID-19;
    Franquet (2001), imaging of pneumonia: trends and algorithms.

    Examples
    --------
    >>> from covidxr.sources._anatomy import draw_body, draw_pose
    >>> from covidxr.sources._chest import draw_chest
    >>> rng = np.random.default_rng(0)
    >>> chest = draw_chest(draw_body(rng), draw_pose(rng, "PA"), rng, 64)
    >>> bool(draw_lesion("Bacteria", chest, rng).max() > 0.3), float(draw_lesion("Normal", chest, rng).max())
    (True, 0.0)
    """
    if label == "Normal":
        return np.zeros(chest.lungs.shape, np.float32)
    draw = {"COVID-19": _ground_glass, "Bacteria": _consolidation, "Virus": _interstitial}[label]
    return np.clip(draw(chest, rng), 0, 1).astype(np.float32)


def _spot(chest, side, centre, radii):
    """Soft spot in one lung's own coordinates, so that it follows the ribs and the diaphragm."""
    squares = ((chest.across - centre[0]) / radii[0]) ** 2 + ((chest.down - centre[1]) / radii[1]) ** 2
    return np.exp(-squares) * (chest.x * side > 0)


def _ramp(field, low, high):
    t = np.clip((field - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _ground_glass(chest, rng):
    n, field = len(chest.y), 0.0
    for side in (-1, 1):
        for _ in range(rng.integers(2, 5)):
            centre = 0.48 + 0.34 * rng.beta(3, 1.5), 0.25 + 0.67 * rng.beta(3, 1.6)
            field = np.maximum(field, _spot(chest, side, centre, (rng.uniform(0.14, 0.25), rng.uniform(0.12, 0.24))))
    field = field * (1 + 0.3 * noise(rng, n, 9))
    mottled = np.clip(0.8 + 0.22 * noise(rng, n, 40, 2), 0.3, 1.3)
    return rng.uniform(0.5, 0.9) * _ramp(field, 0.15, 0.6) * mottled


def _consolidation(chest, rng):
    n, side, big = len(chest.y), rng.choice((-1, 1)), rng.uniform(0.95, 1.45)
    centre = rng.uniform(0.45, 0.75), rng.uniform(0.22, 0.85)
    field = _spot(chest, side, centre, (0.36 * big * rng.uniform(0.8, 1.3), 0.19 * big))
    field = field * np.maximum(1 + 0.35 * noise(rng, n, 8), 0.6)
    if rng.random() < 0.4:
        fissure = centre[1] + rng.uniform(0.02, 0.1) + rng.normal(0, 0.1) * (chest.across - centre[0])
        field = field * np.clip(4.5 + 40 * (fissure - chest.down), 0, 1)
    bronchi = 1 - 0.6 * chest.vessels * _ramp(chest.vessels, 0.2, 0.7)
    return rng.uniform(0.8, 1.0) * _ramp(field, 0.28, 0.58) * bronchi


def _interstitial(chest, rng):
    n, reach, height = len(chest.y), rng.uniform(6, 10), rng.uniform(-2, 3)
    near = np.exp(-((np.abs(chest.x) - 4) ** 2 + (0.8 * (chest.y - height)) ** 2) / reach**2)
    strands = np.exp(-((noise(rng, n, 40, 2) / 0.5) ** 2))
    patchy = np.clip(1 + 0.35 * noise(rng, n, 7, 2), 0.3, 2)
    return rng.uniform(0.45, 0.85) * near * patchy * (0.45 + 0.35 * strands + 0.4 * chest.vessels)
