"""The phantom's people: their bodies, how they stand before the film, and the rib cage on the drawing grid.

The canvas is `SPAN` cm wide and high. x runs to the image's right, which is the patient's left; y runs down; both
are 0 in the middle of the chest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from covidxr.sources._shapes import through

SPAN = 43.0


@dataclass(frozen=True)
class Body:
    """One person's anatomy, the same on each of that person's films; lengths are in centimetres.

    Attributes
    ----------
    age, sex : float, str
        Years, and ``"F"`` or ``"M"``.
    size : float
        Habitus in [-1, 1], from small and slim to large and heavy.
    width, depth, height : float
        Half width and half depth of the rib cage, and from the lungs' tips to the diaphragm.
    wall, breast : float
        Thickness of fat and muscle outside the ribs, and of a breast (0 for men).
    heart, aorta, bone : float
        Size of heart and aortic arch, and mineral density of bone, relative to the average.
    rib_pitch, rib_fall, bend : float
        Distance between ribs, fall of a rib from spine to breastbone, sideways bend of the spine.
    seed : int
        What the vessels grow from.

    Examples
    --------
    >>> body = draw_body(np.random.default_rng(0), age=40, sex="M")
    >>> body.sex, body.breast
    ('M', 0.0)
    """

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


class Pose(NamedTuple):
    """How a person stands or lies on one film: the view, and centimetres; see `draw_pose`."""

    view: str
    breath: float
    turn: float
    shrug: float
    spread: float
    elbow: float
    gas: float


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
    """Draw a person at random.

    Parameters
    ----------
    rng : numpy.random.Generator
        The source of chance. The same draws are made whatever else is given.
    age : float, optional
        Years; uniform in 18 to 90 when None. Age widens aorta and heart and thins the bones.
    sex : {"F", "M"}, optional
        Either, with equal chance, when None.
    size : float, optional
        Habitus in [-1, 1]; uniform when None.

    Returns
    -------
    Body

    Examples
    --------
    >>> draw_body(np.random.default_rng(1), age=60).age
    60.0
    """
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
    return Body(age, sex, size, *(t * v for t, v in zip(typical, vary, strict=True)), bend, seed)


def draw_pose(rng, view) -> Pose:
    """Draw how a person stands (PA) or lies (AP: breathing in less, shoulders up, blades over the lungs).

    Parameters
    ----------
    rng : numpy.random.Generator
        The source of chance.
    view : {"PA", "AP"}
        Direction of the beam.

    Returns
    -------
    Pose

    Examples
    --------
    >>> draw_pose(np.random.default_rng(0), "AP").view
    'AP'
    """
    breath, turn, shrug, spread = (rng.standard_normal(4) * (0.6, 0.5, 0.4, 0.5)).tolist()
    lying = view == "AP"
    gas = max(0.0, rng.normal(0.4, 0.5))
    return Pose(view, breath - 0.4 * lying, turn, shrug - 0.6 * lying, spread, rng.uniform(1, 6), gas)


def draw_cage(body, pose, n) -> Cage:
    """Lay the grid and the rib cage.

    Parameters
    ----------
    body : Body
        Whose.
    pose : Pose
        A deeper breath lowers the diaphragm.
    n : int
        Side of the canvas in pixels.

    Returns
    -------
    Cage

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> draw_cage(draw_body(rng), draw_pose(rng, "PA"), 64).roundness.shape
    (64, 64)
    """
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
