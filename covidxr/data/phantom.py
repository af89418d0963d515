"""Synthetic chest radiographs: the embedded default source.

What: images drawn from a small physical model of the chest (bodies, poses, disease, X-rays, image), nobody's data.
Counts: as many as asked for. Classes: Normal, COVID-19, Bacteria, Virus; age 18 to 90, PA and AP, two sexes.
Licence: CC0-1.0. Known truth: masks of lungs and lesions, and shortcuts only where they are planted.
A phantom is for teaching and testing; it says nothing about how a model reads real images.
"""

from __future__ import annotations

import hashlib
import json
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from covidxr.checks import MOST_SIDE, check_names, check_seed, check_whole
from covidxr.data._opencv import cv2
from covidxr.data._phantom_anatomy import LUNG, SOFT, SPAN, Body, draw_body, draw_chest, draw_pose, noise
from covidxr.data.manifest import manifest_rows
from covidxr.utils import CovidxrError, atomic_path, unknown


def draw_lesion(label, chest, rng):
    """Draw one image's disease."""
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


FIELD = 34.0  # cm that an image covers

SHORTCUTS = ("marker", "exposure", "body_size", "border")


class Acquisition(NamedTuple):
    """What a hospital does to its images, none of which is disease; see `draw_habits`."""

    marker: int  # corner of the side letter: 0 to 3 clockwise from the top left, 4 for none
    exposure: float  # -1 dark to 1 bright
    border: float  # width of the black collimation border, as a share of the image
    contrast: float


def injected_value(name, rank, shortcut, rng):
    """Toss whether a shortcut holds on this image, and return the value that goes with the class if so."""
    if rng.random() >= shortcut.get(name, 0.0):
        return None
    level = (-1.0, -0.33, 0.33, 1.0)[rank]
    return {"marker": rank, "exposure": level, "body_size": level, "border": 0.02 * rank}[name]


def draw_acquisition(rng, rank, shortcut) -> Acquisition:
    """Draw marker, exposure, border and contrast, by chance or as planted."""
    chance = {
        "marker": int(rng.integers(5)), "exposure": rng.uniform(-1, 1), "border": max(0.0, rng.uniform(-0.06, 0.06)),
    }  # fmt: skip
    fixed = {name: injected_value(name, rank, shortcut, rng) for name in chance}
    values = {name: chance[name] if fixed[name] is None else fixed[name] for name in chance}
    return Acquisition(**values, contrast=rng.uniform(0.85, 1.15))


def place(layers, rng, size):
    """Lay the canvas on the image, a little shifted, tilted, nearer or farther."""
    nearness, tilt, *shift = np.clip(rng.standard_normal(4), -2.5, 2.5) * (0.02, 1.6, 0.5, 0.5)
    pixels = layers.shape[0] / SPAN  # to the centimetre
    matrix = cv2.getRotationMatrix2D((0, 0), tilt, size / (FIELD * (1 + nearness) * pixels))
    centre = layers.shape[0] / 2 + np.add(shift, (0, 0.4)) * pixels
    matrix[:, 2] = size / 2 - matrix[:, :2] @ centre
    return cv2.split(cv2.warpAffine(layers, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE))


def expose(healthy, disease, lungs, habits, rng):
    """Expose and develop an image."""
    beam = np.exp(-(healthy + disease))
    beam += 0.35 * _blur(beam, 0.08)
    photons = 10 ** rng.uniform(4.6, 5.4)
    signal = -np.log((rng.poisson(beam * photons) + 1) / photons).astype(np.float32)
    signal -= 0.45 * _blur(signal, 0.13)
    clean = healthy - 0.45 * _blur(healthy, 0.13)
    low, high = np.percentile(clean[lungs > 0.5], 3), np.percentile(clean[len(clean) // 5 :], 97)
    grey = np.tanh(1.6 * habits.contrast * ((signal - low) / (high - low) - 0.5))
    return np.clip(grey / 1.48 + 0.5, 0, 1) ** (2 ** (-1.05 * habits.exposure))


def develop(image, habits):
    """Add the side letter, and black out the border."""
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


PHANTOM_CLASSES = ("Normal", "COVID-19", "Bacteria", "Virus")


class Hospital(NamedTuple):
    """A hospital that phantoms come from; `classes` are those that it sends."""

    classes: tuple = PHANTOM_CLASSES


HOSPITALS = {
    "childrens": Hospital(("Normal", "Bacteria", "Virus")),
    "city": Hospital(),
    "university": Hospital(),
    "county": Hospital(),
}

SMALLEST = 32

_MOST_OF_A_CLASS = 100_000  # some hours of drawing

# Raise it when the drawing changes, so that images of an older drawing are not taken for new ones.
_DRAWING = 2


class Phantom(NamedTuple):
    """One image and its truth."""

    image: np.ndarray
    lesion_mask: np.ndarray
    lung_mask: np.ndarray


def make_phantom(
    label: str,
    rng: np.random.Generator,
    size: int = 200,
    *,
    age: float | None = None,
    sex: str | None = None,
    view: str | None = None,
    body: Body | None = None,
    shortcut: dict[str, float] | None = None,
) -> Phantom:
    """Draw a synthetic chest radiograph with its lung and lesion masks.

    Parameters
    ----------
    label : {"Normal", "COVID-19", "Bacteria", "Virus"}
        The disease.
    rng : numpy.random.Generator
        Equal generators give equal images, except for what `label` and `shortcut` change.
    size : int
        Side in pixels, 32 to 2,048.
    age, sex : float in [18, 90], {"F", "M"}, optional
        Of the body; drawn when None, unused where `body` is given.
    view : {"PA", "AP"}, optional
        Drawn when None. AP, as in bed, widens the heart and lays the shoulder blades over the lungs.
    body : Body, optional
        Anatomy that several images of one person share, from `draw_body`; drawn when None.
    shortcut : dict of str to float, optional
        Planted shortcuts: ``marker`` (a letter in a corner), ``exposure``, ``body_size`` (where the body is drawn
        here), ``border`` (black collimation). With a probability of the strength, in [0, 1], the value is one that
        goes with the class; otherwise, and by default, it is drawn without regard to the class.

    Returns
    -------
    Phantom
        ``image`` (``uint8``), ``lesion_mask`` and ``lung_mask`` (``bool``), each of shape (size, size).

    Raises
    ------
    CovidxrError
        When the label, view, sex or shortcut is unknown, or a size, age or strength is out of range.

    References
    ----------
    The idea of planting known shortcuts: Geirhos et al. (2020), shortcut learning in deep neural networks.

    Examples
    --------
    >>> image = make_phantom("COVID-19", np.random.default_rng(1), size=64, shortcut={"marker": 1.0})
    >>> image.image.shape, bool((image.lesion_mask & ~image.lung_mask).any())
    ((64, 64), False)
    """
    _check_phantom(label, size, shortcut, age, sex, view)
    shortcut, rank = shortcut or {}, PHANTOM_CLASSES.index(label)
    lesions, grain, people = (np.random.default_rng(seed) for seed in rng.integers(2**63, size=3))
    body = body or _draw_person(people, rank, shortcut, age, sex)
    habits = draw_acquisition(rng, rank, shortcut)
    any_view = str(rng.choice(("PA", "AP")))
    side = max(size, 128)  # small images are large ones shrunk, so that thin ribs stay thin
    chest = draw_chest(body, draw_pose(rng, view or any_view), rng, round(1.15 * side))
    share = draw_lesion(label, chest, lesions)
    disease = (SOFT - LUNG) * share * 0.8 * chest.air
    layers = place(np.dstack([chest.attenuation, disease, chest.lungs, share]).astype(np.float32), rng, side)
    image = develop(expose(*layers[:3], habits, grain), habits)
    image, lungs, share = (cv2.resize(a, (size, size), interpolation=cv2.INTER_AREA) for a in (image, *layers[2:]))
    return Phantom(np.round(255 * image).astype(np.uint8), (share > 0.12) & (lungs > 0.5), lungs > 0.5)


def load_phantoms(
    data_dir, classes=("Normal", "COVID-19", "Bacteria"), per_class=120, seed=0, size=200, shortcut=None, hospital=None
) -> pd.DataFrame:
    """Draw a data set into a folder and return its manifest.

    About a third of the people have two or three images. An image depends on the seed, its class, its person and its
    number only, not on how many are asked for; those that the folder already holds are not drawn again.

    Parameters
    ----------
    data_dir : str or pathlib.Path
        Where the images go, in a folder named after the parameters.
    classes : sequence of str
        Some of ``Normal``, ``COVID-19``, ``Bacteria``, ``Virus``.
    per_class : int
        Images of each class, 1 to 100,000.
    seed : int
        0 to 4,294,967,295.
    size : int
        Side of the images in pixels, 32 to 2,048.
    shortcut : dict of str to float, optional
        See `make_phantom`; ``body_size`` is planted by person, the others by image.
    hospital : str, optional
        A key of `HOSPITALS`.

    Returns
    -------
    pandas.DataFrame
        Manifest rows, ``lung_mask`` and ``lesion_mask`` being paths of masks that are 255 inside. An ``image_id`` names what
        was drawn: two images that differ in seed, size, shortcuts or drawing never share one. A ``patient_id`` names the
        person: the same one at every size, another with every seed.

    Raises
    ------
    CovidxrError
        When a parameter is unknown or out of range; the message lists what there is.

    Examples
    --------
    >>> import tempfile
    >>> rows = load_phantoms(tempfile.mkdtemp(), per_class=2, size=32)
    >>> rows["label"].tolist()
    ['Normal', 'Normal', 'COVID-19', 'COVID-19', 'Bacteria', 'Bacteria']
    """
    if data_dir is None:
        raise CovidxrError("phantoms are drawn into a folder, and none was named; give it as data_dir")
    check_names("classes", classes)
    for label in classes:
        _check_phantom(label, size, shortcut)
    check_whole("per_class", per_class, 1, _MOST_OF_A_CLASS)
    check_seed(seed)
    source = f"phantom-{hospital}" if hospital else "phantom"
    folder = Path(data_dir) / f"{source}-{_folder_name(seed, size, shortcut)}"
    images = [
        image
        for label in classes
        for image in _plan_images(PHANTOM_CLASSES.index(label), per_class, seed, shortcut or {})
    ]
    return manifest_rows(_draw_image(folder, image, size, shortcut, seed) | {"source": source} for image in images)


def _plan_images(rank, per_class, seed, shortcut):
    """Plan the images: (file name, rank, person's number, body, the image's generator) of each."""
    person, images = 0, []
    while len(images) < per_class:
        rng = np.random.default_rng([seed, rank, person, 0])
        count = 1 if rng.random() < 2 / 3 else int(rng.integers(2, 4))
        body = _draw_person(rng, rank, shortcut)
        for take_number in range(1, count + 1):
            name = f"phantom-{rank}{len(images):04d}"
            images.append((name, rank, person, body, np.random.default_rng([seed, rank, person, take_number])))
        person += 1
    return images[:per_class]


def _draw_image(folder, planned, size, shortcut, seed):
    """Draw one image of the plan unless it is there, and return its row."""
    name, rank, person, body, rng = planned
    view = str(rng.choice(("PA", "AP")))
    image, lungs, lesion = (folder / f"{name}{end}.png" for end in ("", ".lungs", ".lesion"))
    if not (image.exists() and lungs.exists() and lesion.exists()):
        phantom = make_phantom(PHANTOM_CLASSES[rank], rng, size, view=view, body=body, shortcut=shortcut)
        for path, pixels in zip((image, lesion, lungs), phantom, strict=True):
            with atomic_path(path) as temporary:
                Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels * np.uint8(255)).save(temporary)
    return {
        "image_id": name.replace("phantom", folder.name), "path": str(image), "label": PHANTOM_CLASSES[rank],
        "patient_id": f"phantom-{seed}-{rank}p{person:04d}",
        "source": "phantom", "view": view, "age": body.age, "sex": body.sex, "license": "CC0-1.0", "url": "",
        "sha256": hashlib.sha256(image.read_bytes()).hexdigest(), "split": "", "lung_mask": str(lungs),
        "lesion_mask": str(lesion), "version": f"drawing {_DRAWING}", "original_name": image.name,
    }  # fmt: skip


def _draw_person(rng, rank, shortcut, age=None, sex=None):
    return draw_body(rng, age, sex, injected_value("body_size", rank, shortcut, rng))


def _folder_name(seed, size, shortcut):
    """Short name of a folder whose images are drawn alike."""
    strengths = {name: float((shortcut or {}).get(name, 0)) for name in SHORTCUTS}
    return hashlib.sha256(json.dumps([_DRAWING, int(seed), int(size), strengths]).encode()).hexdigest()[:8]


def _check_phantom(label, size, shortcut, age=None, sex=None, view=None):
    if label not in PHANTOM_CLASSES:
        raise unknown("phantom class", label, PHANTOM_CLASSES)
    check_whole("phantom size", size, SMALLEST, MOST_SIDE)
    if not isinstance(shortcut or {}, dict):
        raise CovidxrError(f"shortcut is {shortcut!r}; give strengths by name, such as {{'marker': 0.5}}")
    for name, strength in (shortcut or {}).items():
        if name not in SHORTCUTS:
            raise unknown("shortcut", name, SHORTCUTS)
        if not isinstance(strength, Real) or not 0 <= strength <= 1:
            raise CovidxrError(f"shortcut {name!r} has strength {strength!r}; give 0 (none) to 1 (always)")
    if age is not None and not (isinstance(age, Real) and 18 <= age <= 90):
        raise CovidxrError(f"phantom age is {age!r} years; the model is of adults from 18 to 90")
    for kind, value, known in (("sex", sex, ("F", "M")), ("view", view, ("PA", "AP"))):
        if value not in (None, *known):
            raise unknown(kind, value, known)
