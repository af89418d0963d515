"""The phantom's skeleton: path lengths through ribs, spine, collar bones, shoulder blades and upper arms."""

from __future__ import annotations

import numpy as np

from covidxr._opencv import cv2
from covidxr.sources._shapes import ball, edge, rod, tube

# Corners of a shoulder blade, cm from the midline and below the lungs' tips.
_BLADE = ((9.4, 1.2), (11.5, 0.2), (15.3, 3.2), (15.6, 5.0), (14.2, 7.6), (12.3, 14.6), (11.2, 14.0), (9.6, 7.0))


def draw_bones(body, pose, cage):
    """Path length through bone, in centimetres of average mineral density.

    Parameters
    ----------
    body : covidxr.sources._anatomy.Body
        Whose bones.
    pose : covidxr.sources._anatomy.Pose
        How the person stands on this film.
    cage : covidxr.sources._anatomy.Cage
        The grid and the rib cage on it.

    Returns
    -------
    numpy.ndarray
        float32, (n, n).

    Examples
    --------
    >>> from covidxr.sources._anatomy import draw_body, draw_cage, draw_pose
    >>> rng = np.random.default_rng(0)
    >>> body, pose = draw_body(rng), draw_pose(rng, "PA")
    >>> bones = draw_bones(body, pose, draw_cage(body, pose, 64))
    >>> bones.shape, bool(bones[20:40, 31:33].mean() > bones[20:40, 18:22].mean())
    ((64, 64), True)
    """
    total = 0.95 * _ribs(body, cage) + 0.6 * _spine(body, cage.x, cage.y)
    total = total + 2.2 * _collar(body, pose, cage.x, cage.y, cage.tip)
    return body.bone * (total + 1.6 * _shoulder(body, pose, cage.x, cage.y, cage.tip))


def _ribs(body, cage):
    """All ribs at once: one family of curves falls from the spine outwards, the other goes on towards the front.

    A rib is a tilted hoop on an elliptic cylinder. Its height is linear in the cosine of the angle around the
    cylinder, and that cosine is the roundness. Solved for the rib's number, this tells each pixel its nearest rib.
    """
    x, half, fall = np.abs(cage.x), cage.half, body.rib_fall / 2
    steep = np.minimum(fall * x / half**2 / np.maximum(cage.roundness, 1e-3), 1.6)
    upright = body.rib_pitch / np.sqrt(1 + steep * steep)
    total = 0.0
    for front, radius, weight in ((-1, 0.55, 1.0), (1, 0.66, 0.8)):
        number = (cage.y - fall * (1 + front * cage.roundness) - cage.tip + 0.4) / body.rib_pitch + 1
        bone = tube(np.abs(number - np.round(number)) * upright, radius, 0.72)
        cartilage = edge(x / half - 0.36 - 0.045 * number, 0.16) * edge(7.6 - number, 1)
        ends = cartilage if front > 0 else edge(x - 1.6)
        total = total + weight * bone * ends * edge(number - 0.9, 0.8) * edge(10.5 - number, 4)
    return total * edge(half - x, 0.5) / np.maximum(cage.roundness, 0.5)


def _spine(body, x, y):
    pitch, w = 1.12 * body.rib_pitch, 1.65 + 0.02 * y
    x = np.abs(x - body.bend * np.sin(y / 7))
    level = y / pitch + 0.3
    off = (level - np.round(level)) * pitch
    waist = 0.15 * np.cos(off * (2 * np.pi / pitch))
    block = edge(w - x - waist, 0.25) * edge(0.45 * pitch - np.abs(off), 0.25)
    rim = block * (1 - edge(0.37 * pitch - np.abs(off), 0.3))
    pedicles = tube(np.abs(np.hypot((x - 0.72 * w) / 0.8, off + 0.25) - 0.42), 0.17)
    processes = ball(x, off, (0, 0.7), (0.32, 0.75)) + 0.5 * ball(x - w, off, (0.9, -0.3), (1.2, 0.42))
    return 1.5 * block + rim + 1.3 * pedicles + 1.1 * processes


def _collar(body, pose, x, y, tip):
    """Collar bones: s-shaped, thick at the breastbone, thinner outwards."""
    scale = body.width / 13
    u = np.clip((np.abs(x - pose.turn) / scale - 1.4) / 15.5, -0.1, 1.1)
    centre = tip + 4.2 + pose.shrug - 2.2 * u - 0.75 * np.sin(2 * np.pi * u)
    slope = (2.2 + 1.5 * np.pi * np.cos(2 * np.pi * u)) / (15.5 * scale)
    radius = 0.52 + 0.38 * np.exp(-((u / 0.12) ** 2)) + 0.1 * u
    bone = tube((y - centre) / np.sqrt(1 + slope * slope), radius, 0.55)
    return 0.9 * bone * edge(u, 0.05) * edge(1 - u, 0.1)


def _shoulder(body, pose, x, y, tip):
    """Shoulder blades and upper arms; the blades overlap the lungs where the arms are not turned in, as in bed."""
    scale = body.width / 13
    out = scale * (0.2 if pose.view == "AP" else 1.4) + pose.spread
    blade = _blade(np.array(_BLADE) * scale + (out, tip), len(y), float(y[1, 0] - y[0, 0]))
    x, jx, jy = np.abs(x), out + 17.2 * scale, tip + 3.6
    spine = tube(rod(x, y, (out + 9.8 * scale, tip + 5.0), (out + 16 * scale, tip + 0.6)), 0.55, 0.6)
    head = tube(np.hypot(x - jx, y - jy), 2.3 * scale, 0.8)
    shaft = tube(rod(x, y, (jx + 0.6, jy + 0.4), (jx + pose.elbow, jy + 16)), 1.15 * scale, 0.68)
    return 0.3 * blade + 1.4 * blade * (1 - blade) + 0.45 * spine + 0.5 * np.maximum(head, shaft)


def _blade(corners, n, pixel):
    """Both shoulder blades, filled and softened."""
    mask = np.zeros((n, n), np.float32)
    for side in (-1, 1):
        outline = corners * (side, 1) / pixel + n / 2
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(mask, (0, 0), 0.22 / pixel)
