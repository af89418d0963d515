"""The anatomy of phantoms: shapes, bodies, ribs, lungs and vessels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from covidxr.data._opencv import cv2


def through(at, *knots):
    """Smooth curve through points, level beyond the first and the last."""
    positions, values = zip(*knots, strict=True)
    return PchipInterpolator(positions, values)(np.clip(at, positions[0], positions[-1])).astype(np.float32)


def edge(distance, width=0.3):
    """Soft step: 0 outside (negative distance), 1 inside, a ramp of `width` centimetres between."""
    return np.clip(0.5 + distance / width, 0, 1)


def ball(x, y, centre, radii, tilt=0.0):
    """Share of an ellipsoid's depth that a ray crosses: 1 in its middle, 0 outside."""
    c, s = float(np.cos(tilt)), float(np.sin(tilt))
    dx, dy = x - centre[0], y - centre[1]
    u, v = dx * (c / radii[0]) + dy * (s / radii[0]), dy * (c / radii[1]) - dx * (s / radii[1])
    return np.sqrt(np.maximum(1 - u * u - v * v, 0))


def rod(x, y, start, end):
    """Distance to the line segment from `start` to `end`."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    x, y = x - start[0], y - start[1]
    along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
    return np.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2)


def tube(distance, radius, marrow=0.0):
    """Path length through a round bone or airway."""
    squared = distance * distance
    full = 2 * np.sqrt(np.maximum(radius * radius - squared, 0))
    return full - 1.5 * np.sqrt(np.maximum((marrow * radius) ** 2 - squared, 0)) if marrow else full


def noise(rng, n, cells, octaves=3):
    """Smooth random field of about unit spread, coarse to fine."""
    total = np.zeros((n, n), np.float32)
    for octave in range(octaves):
        side = cells * 2**octave
        coarse = rng.standard_normal((side, side), dtype=np.float32)
        total += cv2.resize(coarse, (n, n), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total


SPAN = 43.0

_GROWN = 16  # years


@dataclass(frozen=True)
class Body:
    """One person's anatomy, the same on each of that person's images; lengths are in centimetres."""

    age: float
    sex: str
    size: float
    width: float
    depth: float
    height: float
    wall: float
    breast: float
    heart: float
    aorta: float
    bone: float
    rib_pitch: float
    rib_fall: float
    bend: float
    seed: int
    thymus: float = 0.0  # how far it widens the middle
    short: float = 1.0  # length of the chest, as a share of an adult's of its width


class Pose(NamedTuple):
    """How a person stands or lies on one image: the view, and centimetres; see `draw_pose`."""

    view: str
    breath: float
    turn: float
    shrug: float
    spread: float
    elbow: float
    gas: float
    raised: bool = False


class Cage(NamedTuple):
    """The grid and the rib cage on it; see `draw_cage`."""

    x: np.ndarray  # (1, n)
    y: np.ndarray  # (n, 1)
    tip: float  # height of the lungs' tips
    floor: float  # height of the right diaphragm
    half: np.ndarray  # half width by height, (n, 1)
    roundness: np.ndarray  # 1 in the middle, 0 at the ribs and outside, (n, n)
    dome: np.ndarray  # height of the diaphragm by column, (1, n)


def draw_body(rng, age=None, sex=None, size=None) -> Body:
    """Draw a person at random."""
    any_age, any_size, female = rng.uniform(18, 90), rng.uniform(-1, 1), rng.random() < 0.5
    spread = (0.02, 0.03, 0.03, 0.08, 0.08, 0.07, 0.1, 0.08, 0.03, 0.12)
    vary = (1 + np.clip(rng.standard_normal(10), -2, 2) * spread).tolist()
    bend, seed = rng.normal(0, 0.35), int(rng.integers(2**31))
    age, sex = round(float(any_age if age is None else age), 1), sex or ("F" if female else "M")
    size, old = float(any_size if size is None else size), (age - 50) / 40
    tall = (1 + 0.05 * size) * (0.97 if sex == "F" else 1.02)
    typical = (
        13 * tall, 10.6 + 1.6 * size, 21.8 * tall, 2.9 + 1.8 * size, (2.3 + size) * (sex == "F"),
        tall * (1 + 0.05 * old), 1 + 0.25 * old, 1 - 0.15 * old, 2.25 * tall, 8.5 * tall,
    )  # fmt: skip
    body = Body(age, sex, size, *(t * v for t, v in zip(typical, vary, strict=True)), bend, seed)
    return _shrink_to_child(body) if age < _GROWN else body


def _shrink_to_child(body):
    """Give a body the proportions of a child, whose chest is drawn as wide as an adult's: the image covers less of it."""
    young = (_GROWN - body.age) / _GROWN

    def part(adult, child):
        return 1 + young * (child / adult - 1)

    return replace(
        body, depth=body.depth * part(10.6, 11.5), height=body.height * part(21.8, 17.0), wall=body.wall * part(2.9, 1.3),
        breast=body.breast * max(0.0, 1 - 2 * young), heart=body.heart * part(1, 1.12), bone=body.bone * part(1, 0.8),
        rib_pitch=body.rib_pitch * part(2.25, 1.75), rib_fall=body.rib_fall * part(8.5, 4.0), bend=0.5 * body.bend,
        thymus=max(0.0, 1.6 - 0.4 * body.age),
        short=part(21.8, 17.0),
    )  # fmt: skip


def draw_pose(rng, view) -> Pose:
    """Draw how a person stands (PA) or lies (AP: breathing in less, shoulders up, blades over the lungs)."""
    breath, turn, shrug, spread = (rng.standard_normal(4) * (0.6, 0.5, 0.4, 0.5)).tolist()
    lying = view == "AP"
    gas = max(0.0, rng.normal(0.4, 0.5))
    return Pose(view, breath - 0.4 * lying, turn, shrug - 0.6 * lying, spread, rng.uniform(1, 6), gas)


def draw_cage(body, pose, n) -> Cage:
    """Lay the grid and the rib cage."""
    grid = ((np.arange(n, dtype=np.float32) + 0.5) / n - 0.5) * SPAN
    x, y = grid[None, :], grid[:, None]
    tip, waist, scale = -0.57 * body.height, 0.36 * body.height, body.width / 13
    rise = np.clip((waist - y) / (waist - tip), 0, 1)
    half = np.maximum(body.width * (1 - rise**4.5) ** 0.6, 1e-3)
    floor = tip + body.height + pose.breath
    falls = (
        (-14, 4.2), (-12.3, 2.3), (-9.5, 0.5), (-6, -0.1), (-2, 0.9),
        (2, 1.8), (6.5, 1.3), (9.5, 1.8), (12.3, 3.5), (14, 5.4),
    )  # fmt: skip
    dome = floor + through(x / scale, *falls)
    return Cage(x, y, tip, floor, half, np.sqrt(np.maximum(1 - (x / half) ** 2, 0)), dome)


# Corners of a shoulder blade, cm from the midline and below the lungs' tips.
_BLADE = ((9.4, 1.2), (11.5, 0.2), (15.3, 3.2), (15.6, 5.0), (14.2, 7.6), (12.3, 14.6), (11.2, 14.0), (9.6, 7.0))


def draw_bones(body, pose, cage):
    """Path length through bone, in centimetres of average mineral density."""
    total = 0.95 * _ribs(body, cage) + 0.6 * _spine(body, cage.x, cage.y)
    total = total + 2.2 * _collar(body, pose, cage.x, cage.y, cage.tip)
    return body.bone * (total + 1.6 * _shoulder(body, pose, cage.x, cage.y, cage.tip))


def _ribs(body, cage):
    """All ribs at once: one family of curves falls from the spine outwards, the other goes on towards the front."""
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
    shaft = tube(rod(x, y, (jx + 0.6, jy + 0.4), _elbow(pose, jx, jy)), 1.15 * scale, 0.68)
    return 0.3 * blade + 1.4 * blade * (1 - blade) + 0.45 * spine + 0.5 * np.maximum(head, shaft)


def _elbow(pose, x, y):
    """Place of the elbow, of a joint at x and y: below it, or above the head."""
    return (x - 0.6 * pose.elbow, y - 16) if pose.raised else (x + pose.elbow, y + 16)


def _blade(corners, n, pixel):
    """Both shoulder blades, filled and softened."""
    mask = np.zeros((n, n), np.float32)
    for side in (-1, 1):
        outline = corners * (side, 1) / pixel + n / 2
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(mask, (0, 0), 0.22 / pixel)


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
    """Draw a healthy chest as X-rays from the front meet it."""
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
    """1 between the lungs, 0 outside; on the left bulge the aortic arch and the pulmonary trunk, on both a child's thymus."""
    tip, knob, sail, scale = cage.tip, 1.1 * (body.aorta - 1), body.thymus, body.width / 13
    top = (tip, 4.2), (tip + 0.8, 3.3), (tip + 3 * body.short, 2.4)
    right = (-5, 2.4 + sail), (-2, 2.8 + sail), (1, 2.9), (9, 2.4)
    arch = (-6.8, 2.5 + knob), (-5, 3.3 + 2 * knob + 0.4 * sail), (-3.2, 3.0 + knob + sail)
    left = *arch, (-1.2, 3.6 + 0.5 * sail), (1.5, 3.4), (9, 2.4)
    right, left = (through(cage.y, *top, *((y * body.short, half) for y, half in side)) for side in (right, left))
    x = cage.x - 0.5 * pose.turn
    return edge(scale * right + x, 0.5) * edge(scale * left - x, 0.5)


@lru_cache(maxsize=4)  # several images of one person are drawn in a row
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
    arm = rod(x, y, joint, _elbow(pose, *joint))
    low = tip + 17.5 + 0.8 * body.size
    breasts = ball(x, y, (7.3 * k, low - 2), (6.3 * k, 5.5 * k)) * edge(low + 2.2 - y, 3.5)
    flesh = np.maximum(depth, tube(arm, 3.6 * k + 0.45 * wall)) + 1.1 * body.breast * breasts
    if body.short < 1:  # a child's chin comes down onto the image
        flesh = flesh + 7 * ball(x, y, (0, tip - 12.5 - 2.5 * pose.shrug), (4.8, 4.6))
    return flesh
