"""The phantom's healthy chest: path lengths through flesh, lung and bone, added up to an attenuation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from covidxr._opencv import cv2
from covidxr.sources._anatomy import SPAN, draw_cage
from covidxr.sources._bones import draw_bones
from covidxr.sources._shapes import ball, edge, noise, rod, through, tube

# Attenuation in 1/cm, between the values at 60 and 80 keV in NIST's tables (Hubbell and Seltzer, NISTIR 5632): soft
# tissue, air-filled lung, and what bone adds to soft tissue.
SOFT, LUNG, BONE = 0.20, 0.045, 0.33


class Chest(NamedTuple):
    """A healthy chest on the canvas; see `draw_chest`. All but `x` and `y` are float32, (n, n)."""

    x: np.ndarray
    y: np.ndarray
    across: np.ndarray  # 0 in the middle, 1 at the ribs
    down: np.ndarray  # 0 at the lungs' tips, 1 at the diaphragm
    lungs: np.ndarray  # 1 in the visible lungs, soft edges
    air: np.ndarray  # path length in lung, cm
    vessels: np.ndarray  # 0 to 1
    attenuation: np.ndarray  # line integral


def draw_chest(body, pose, rng, n) -> Chest:
    """Draw a healthy chest as X-rays from the front meet it.

    Parameters
    ----------
    body : covidxr.sources._anatomy.Body
        Whose.
    pose : covidxr.sources._anatomy.Pose
        On which film.
    rng : numpy.random.Generator
        The source of chance for the unevenness of the tissue.
    n : int
        Side of the canvas in pixels.

    Returns
    -------
    Chest

    Examples
    --------
    >>> from covidxr.sources._anatomy import draw_body, draw_pose
    >>> rng = np.random.default_rng(0)
    >>> chest = draw_chest(draw_body(rng), draw_pose(rng, "PA"), rng, 64)
    >>> in_lungs, elsewhere = chest.attenuation[chest.lungs > 0.5], chest.attenuation[45:, 20:44]
    >>> bool(in_lungs.mean() < elsewhere.mean())
    True
    """
    cage = draw_cage(body, pose, n)
    solid, within = _solid(body, pose, cage), 2 * (body.depth - 2.6) * cage.roundness
    below = 0.3 * np.exp(-np.maximum(cage.y - cage.dome, 0) / 1.6)
    above = edge(cage.dome - cage.y, 0.35)
    lungs = above * edge(cage.half - np.abs(cage.x) - 0.25) * edge(5.0 - solid, 1.5)
    vessels = _vessels(body, n)
    air = np.maximum(within * np.maximum(above, below) - solid, 0)
    air = np.maximum(air - _wet(pose, cage, vessels, lungs) * np.minimum(air / 5, 1), 0)
    flesh = _flesh(body, pose, cage) * np.exp(0.03 * noise(rng, n, 10))
    gas = _gas(pose, cage)
    bones = draw_bones(body, pose, cage) * np.clip(flesh / 5 - 0.4, 0, 1)  # none where the body ends
    attenuation = SOFT * np.maximum(flesh - air - gas, 0) + LUNG * air + BONE * bones
    across, down = np.abs(cage.x) / cage.half, (cage.y - cage.tip) / (cage.dome - cage.tip)
    return Chest(cage.x, cage.y, across, down, lungs, air, vessels, attenuation)


def _solid(body, pose, cage):
    """Depth of the heart, and of what fills the middle: great vessels, gullet, spine."""
    k, floor = body.heart * (1.09 if pose.view == "AP" else 1.0), cage.floor - 4.0
    left = ball(cage.x, cage.y, (pose.turn + 2.5 * k, floor + 0.7), (6.6 * k, 4.7 * k), 0.62)
    right = ball(cage.x, cage.y, (pose.turn - 0.6 * k, floor + 0.3), (3.5 * k, 4.7 * k))
    top = ball(cage.x, cage.y, (pose.turn + 0.8, floor - 4.0), (3.6 * k, 5.5 * k), -0.2)
    heart = 10 * k * np.maximum(np.maximum(left, right), 0.8 * top)
    return np.maximum(heart, 1.5 * body.depth * 0.75 * _middle(body, pose, cage))


def _middle(body, pose, cage):
    """1 between the lungs, 0 outside; on the left the aortic arch and the pulmonary trunk bulge."""
    tip, knob, scale = cage.tip, 1.1 * (body.aorta - 1), body.width / 13
    both = (tip, 4.2), (tip + 0.8, 3.3), (tip + 3, 2.4)
    right = through(cage.y, *both, (-5, 2.4), (-2, 2.8), (1, 2.9), (9, 2.4))
    bulges = (-6.8, 2.5 + knob), (-5, 3.3 + 2 * knob), (-3.2, 3.0 + knob), (-1.2, 3.6), (1.5, 3.4), (9, 2.4)
    left, x = through(cage.y, *both, *bulges), cage.x - 0.5 * pose.turn
    return edge(scale * right + x, 0.5) * edge(scale * left - x, 0.5)


def _vessels(body, n):
    """The lungs' vessels, fanning out from both hila and branching three times."""
    rng, fine, k = np.random.default_rng(body.seed), 430, body.width / 13
    layer = np.zeros((fine, fine), np.uint8)
    angle = np.tile(np.linspace(-1.3, 1.45, 8), 2) + rng.normal(0, 0.12, 16)
    side = np.repeat((-1, 1), 8)
    heading, start = np.where(side > 0, angle, np.pi - angle), np.stack([side * 3.2 * k, -1.2 + 1.6 * angle], 1)
    for length, width, bright in ((6.0, 5, 255), (4.2, 3, 170), (3.0, 1, 130), (1.9, 1, 70)):
        turns = heading[:, None] + np.cumsum(rng.normal(0, 0.12, (len(heading), 8)), 1)
        steps = np.stack([np.cos(turns), np.sin(turns)], -1) * (length * k / 8)
        points = np.concatenate([start[:, None], start[:, None] + np.cumsum(steps, 1)], 1)
        pixels = np.round((points / SPAN + 0.5) * fine * 16).astype(np.int32)
        cv2.polylines(layer, list(pixels), False, bright, width, cv2.LINE_AA, 4)
        fan = rng.uniform(0.25, 0.8, (len(turns), 3)) * rng.choice((-1, 1), (len(turns), 3))
        start, heading = points[:, [3, 5, 7]].reshape(-1, 2), (turns[:, [2, 4, 6]] + fan).ravel()
    layer = cv2.resize(cv2.GaussianBlur(layer, (0, 0), 1.0), (n, n), interpolation=cv2.INTER_AREA)
    return layer.astype(np.float32) / 255


def _wet(pose, cage, vessels, lungs):
    """Depth of vessels and hila, which fade towards the ribs."""
    x = np.abs(cage.x)
    fade = np.exp(-((x - 3) ** 2 + cage.y**2) / 150)
    hila = np.exp(-(((np.abs(cage.x - 0.5 * pose.turn) - 3.3) / 1.5) ** 2) - ((cage.y + 0.5) / 2.3) ** 2)
    return 3.4 * vessels * fade * (0.3 + 0.7 * lungs) + 3.0 * hila


def _gas(pose, cage):
    """Depth of air in windpipe, main bronchi and stomach."""
    x, y, fork = cage.x, cage.y, (0.6 * pose.turn, -3.2)
    windpipe = tube(rod(x, y, (0.4 * pose.turn, -26), fork), 1.05)
    for end in ((-3.9, -0.6), (4.5, 0.4)):
        windpipe = np.maximum(windpipe, tube(rod(x, y, fork, end), 0.62))
    bubble = ball(x, y, (6.3 + 0.4 * pose.turn, cage.floor + 5.2), (3.0, 1.9), 0.15)
    return windpipe + 4.5 * pose.gas * bubble * edge(y - cage.floor - 3.3, 0.8)


def _flesh(body, pose, cage):
    """Depth of the whole body: trunk, neck, shoulders, arms, breasts."""
    x, y, tip, k, wall = np.abs(cage.x), cage.y, cage.tip, body.width / 13, body.wall
    trunk, deep = body.width + wall, body.depth
    outline = (
        (-9, 5.4 * k), (-5.5, 5.6 * k + 0.2 * wall), (-3, 8.5 * k + 0.3 * wall), (-1.2, 14 * k + 0.3 * wall),
        (1, 18.2 * k + 0.4 * wall), (4, 19.5 * k + 0.5 * wall), (8, trunk + 2.4), (13, trunk + 0.4), (22, trunk - 0.2),
        (36, trunk + 0.6),
    )  # fmt: skip
    depths = (-9, 6.0), (-2, 6.3), (5, deep - 0.6), (15, deep + 0.25 * wall), (36, deep + 0.5 * wall)
    half = through(y - tip, *outline)
    depth = 2 * through(y - tip, *depths) * np.sqrt(np.maximum(1 - (x / half) ** 2.6, 0))
    joint = 17.0 * k + pose.spread, tip + 4.6
    arm = rod(x, y, joint, (joint[0] + pose.elbow, joint[1] + 16))
    low = tip + 17.5 + 0.8 * body.size
    breasts = ball(x, y, (7.3 * k, low - 2), (6.3 * k, 5.5 * k)) * edge(low + 2.2 - y, 3.5)
    return np.maximum(depth, tube(arm, 3.6 * k + 0.45 * wall)) + 1.1 * body.breast * breasts
