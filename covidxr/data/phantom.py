"""Synthetic chest radiographs: the embedded default source.

What: images drawn from a small physical model of the chest (bodies, poses, disease, X-rays, image), nobody's data.
Counts: as many as asked for. Classes: Normal, COVID-19, Bacteria, Virus; age 1 to 90, PA and AP, two sexes.
Licence: CC0-1.0. Known truth: masks of lungs and lesions, and shortcuts only where they are planted.
A phantom is for teaching and testing; it says nothing about how a model reads real images.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from covidxr.checks import MOST_SIDE, check_names, check_seed, check_whole
from covidxr.data._opencv import cv2
from covidxr.data._phantom_anatomy import LUNG, SOFT, SPAN, Body, draw_body, draw_chest, draw_pose, noise
from covidxr.data.hospitals import (
    HOSPITALS,
    MILDEST,
    OLDEST,
    PHANTOM_CLASSES,
    YOUNGEST,
    Habit,
    Hospital,
    develop_at,
    draw_acquisition,
    draw_habit,
    find_hospital,
)
from covidxr.data.manifest import manifest_rows
from covidxr.utils import CovidxrError, atomic_path, unknown


def draw_lesion(label, chest, rng, severity=1.0):
    """Draw one image's disease: the less severe, the smaller and the less dense."""
    if label == "Normal" or severity == 0:
        return np.zeros(chest.lungs.shape, np.float32)
    draw = {"COVID-19": _ground_glass, "Bacteria": _consolidation, "Virus": _interstitial}[label]
    density = 1 - 0.7 * (1 - severity)
    return np.clip(density * draw(chest, rng, 1 - severity), 0, 1).astype(np.float32)


def _spot(chest, side, centre, radii):
    """Soft spot in one lung's own coordinates, so that it follows the ribs and the diaphragm."""
    squares = ((chest.across - centre[0]) / radii[0]) ** 2 + ((chest.down - centre[1]) / radii[1]) ** 2
    return np.exp(-squares) * (chest.x * side > 0)


def _ramp(field, low, high):
    t = np.clip((field - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _ground_glass(chest, rng, mildness):
    n, field = len(chest.y), 0.0
    for side in (-1, 1):
        for _ in range(rng.integers(2, 5)):
            centre = 0.48 + 0.34 * rng.beta(3, 1.5), 0.25 + 0.67 * rng.beta(3, 1.6)
            field = np.maximum(field, _spot(chest, side, centre, (rng.uniform(0.14, 0.25), rng.uniform(0.12, 0.24))))
    field = field * (1 + 0.3 * noise(rng, n, 9))
    mottled = np.clip(0.8 + 0.22 * noise(rng, n, 40, 2), 0.3, 1.3)
    return rng.uniform(0.5, 0.9) * _ramp(field, 0.15 + 0.4 * mildness, 0.6 + 0.4 * mildness) * mottled


def _consolidation(chest, rng, mildness):
    n, side, big = len(chest.y), rng.choice((-1, 1)), rng.uniform(0.95, 1.45)
    centre = rng.uniform(0.45, 0.75), rng.uniform(0.22, 0.85)
    field = _spot(chest, side, centre, (0.36 * big * rng.uniform(0.8, 1.3), 0.19 * big))
    field = field * np.maximum(1 + 0.35 * noise(rng, n, 8), 0.6)
    if rng.random() < 0.4:
        fissure = centre[1] + rng.uniform(0.02, 0.1) + rng.normal(0, 0.1) * (chest.across - centre[0])
        field = field * np.clip(4.5 + 40 * (fissure - chest.down), 0, 1)
    bronchi = 1 - 0.6 * chest.vessels * _ramp(chest.vessels, 0.2, 0.7)
    return rng.uniform(0.8, 1.0) * _ramp(field, 0.28 + 0.4 * mildness, 0.58 + 0.4 * mildness) * bronchi


def _interstitial(chest, rng, mildness):
    n, reach, height = len(chest.y), rng.uniform(6, 10), rng.uniform(-2, 3)
    near = np.exp(-((np.abs(chest.x) - 4) ** 2 + (0.8 * (chest.y - height)) ** 2) / (reach * (1 - 0.4 * mildness)) ** 2)
    strands = np.exp(-((noise(rng, n, 40, 2) / 0.5) ** 2))
    patchy = np.clip(1 + 0.35 * noise(rng, n, 7, 2), 0.3, 2)
    return rng.uniform(0.45, 0.85) * near * patchy * (0.45 + 0.35 * strands + 0.4 * chest.vessels)


FIELD = 34.0  # cm that an image covers

SHORTCUTS = ("marker", "exposure", "body_size", "border")


class PlainAcquisition(NamedTuple):
    """How one image is taken where no hospital is named; see `draw_plain`."""

    marker: int  # corner of the side letter: 0 to 3 clockwise from the top left, 4 for none
    exposure: float  # -1 dark to 1 bright
    border: float  # width of the black collimation border, as a share of the image
    contrast: float
    photons: float  # to a pixel


def injected_value(name, rank, shortcut, rng):
    """Toss whether a shortcut holds on this image, and return the value that goes with the class if so."""
    if rng.random() >= shortcut.get(name, 0.0):
        return None
    level = (-1.0, -0.33, 0.33, 1.0)[rank]
    return {"marker": rank, "exposure": level, "body_size": level, "border": 0.02 * rank}[name]


def draw_plain(rng, rank, shortcut, photons) -> PlainAcquisition:
    """Draw marker, exposure, border and contrast, by chance or as planted."""
    chance = {
        "marker": int(rng.integers(5)), "exposure": rng.uniform(-1, 1), "border": max(0.0, rng.uniform(-0.06, 0.06)),
    }  # fmt: skip
    fixed = {name: injected_value(name, rank, shortcut, rng) for name in chance}
    values = {name: chance[name] if fixed[name] is None else fixed[name] for name in chance}
    return PlainAcquisition(**values, contrast=rng.uniform(0.85, 1.15), photons=photons)


def place(layers, rng, size, field=1.0, loose=1.0):
    """Lay the canvas on the image, a little shifted, tilted, nearer or farther."""
    nearness, tilt, *shift = np.clip(rng.standard_normal(4), -2.5, 2.5) * loose * (0.02, 1.6, 0.5, 0.5)
    pixels = layers.shape[0] / SPAN  # to the centimetre
    matrix = cv2.getRotationMatrix2D((0, 0), tilt, size / (FIELD * field * (1 + nearness) * pixels))
    centre = layers.shape[0] / 2 + np.add(shift, (0, 0.4)) * pixels
    matrix[:, 2] = size / 2 - matrix[:, :2] @ centre
    return cv2.split(cv2.warpAffine(layers, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE))


def expose(healthy, disease, lungs, taken, rng):
    """Expose and develop an image."""
    beam = np.exp(-(healthy + disease))
    beam += 0.35 * _blur(beam, 0.08)
    signal = -np.log((rng.poisson(beam * taken.photons) + 1) / taken.photons).astype(np.float32)
    signal -= 0.45 * _blur(signal, 0.13)
    clean = healthy - 0.45 * _blur(healthy, 0.13)
    low, high = np.percentile(clean[lungs > 0.5], 3), np.percentile(clean[len(clean) // 5 :], 97)
    grey = np.tanh(1.6 * taken.contrast * ((signal - low) / (high - low) - 0.5))
    return np.clip(grey / 1.48 + 0.5, 0, 1) ** (2 ** (-1.05 * taken.exposure))


def develop(image, taken):
    """Add the side letter, and black out the border."""
    n, edge = len(image), round(taken.border * len(image))
    if taken.marker < 4:
        left, top = taken.marker in (0, 3), taken.marker < 2
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


SMALLEST = 32

STORED_SIDE = 200  # pixels of the images that `load_phantoms` writes by default

_MOST_OF_A_CLASS = 100_000  # some hours of drawing

# Raise it when the drawing changes, so that images of an older drawing are not taken for new ones.
_DRAWING = 2


class Phantom(NamedTuple):
    """One image and its truth."""

    image: np.ndarray
    lesion_mask: np.ndarray
    lung_mask: np.ndarray


_LOOSE = {"PA": 1.2, "AP": 1.5}  # how much less exactly people are placed than where no hospital is named


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
    hospital: str | Hospital | None = None,
    severity: float | None = None,
    cues: Mapping[str, str | Hospital] | None = None,
) -> Phantom:
    """Draw a synthetic chest radiograph with its lung and lesion masks.

    Parameters
    ----------
    label : {"Normal", "COVID-19", "Bacteria", "Virus"}
        The disease.
    rng : numpy.random.Generator
        Equal generators give equal images, except for what `label`, `shortcut` or `cues` change.
    size : int
        Side in pixels, 32 to 2,048.
    age, sex : float in [1, 90], {"F", "M"}, optional
        Of the body; drawn when None, unused where `body` is given.
    view : {"PA", "AP"}, optional
        Drawn when None. AP, as in bed, widens the heart and lays the shoulder blades over the lungs.
    body : Body, optional
        Anatomy that several images of one person share, from `draw_body`; drawn when None.
    shortcut : dict of str to float, optional
        Planted shortcuts, where no hospital is named: ``marker`` (a letter in a corner), ``exposure``, ``body_size``
        (where the body is drawn here), ``border`` (black collimation). With a probability of the strength, in [0, 1], the
        value is one that goes with the class; otherwise, and by default, it is drawn without regard to the class.
    hospital : str or Hospital, optional
        Draws patients and acquisition as there: a name in `HOSPITALS`, or one's own. Adults of any hospital when None.
    severity : float in [0.1, 1], or 0, optional
        Extent and density of the lesions, none with 0; when None, drawn as in the hospital, or 1 where none is named.
    cues : mapping of str to str or Hospital, optional
        Single cues of `covidxr.data.hospitals.CUES` that are taken from another hospital, all else equal: by cue.

    Returns
    -------
    Phantom
        ``image`` (``uint8``), ``lesion_mask`` and ``lung_mask`` (``bool``), each of shape (size, size).

    Raises
    ------
    CovidxrError
        When the label, view, sex, shortcut, hospital or cue is unknown, the hospital does not send the class, or a size,
        age, strength or severity is out of range.

    References
    ----------
    The idea of planting known shortcuts: Geirhos et al. (2020), shortcut learning in deep neural networks.

    Examples
    --------
    >>> image = make_phantom("COVID-19", np.random.default_rng(1), size=64, hospital="city")
    >>> image.image.shape, bool((image.lesion_mask & ~image.lung_mask).any())
    ((64, 64), False)
    """
    _check_phantom(label, size, shortcut, age, sex, view)
    if severity is not None and not (isinstance(severity, Real) and (severity == 0 or MILDEST <= severity <= 1)):
        raise CovidxrError(f"severity is {severity!r}; give a number from {MILDEST} to 1, or 0 for none")
    at = _hospital_with_cues(label, shortcut, hospital, cues)
    lesions, grain, people = (np.random.default_rng(seed) for seed in rng.integers(2**63, size=3))
    if at:
        at = at if severity is None else replace(at, severity=Habit(severity, 0))
        body, view = body or _draw_patient(people, at, age, sex), view or _draw_view(rng, at)
        return _draw_at(at, label, rng, size, (lesions, grain), body, view)
    shortcut, rank = shortcut or {}, PHANTOM_CLASSES.index(label)
    body = body or _draw_person(people, rank, shortcut, age, sex)
    taken = draw_plain(rng, rank, shortcut, photons=10 ** grain.uniform(4.6, 5.4))
    any_view = str(rng.choice(("PA", "AP")))
    side = max(size, 128)  # small images are large ones shrunk, so that thin ribs stay thin
    chest = draw_chest(body, draw_pose(rng, view or any_view), rng, round(1.15 * side))
    layers = place(_layers(label, chest, lesions, 1.0 if severity is None else severity), rng, side)
    image = develop(expose(*layers[:3], taken, grain), taken)
    return _shrink(image, layers, size)


def _draw_at(hospital, label, rng, size, generators, body, view):
    """Draw one image as the hospital takes it."""
    lesions, grain = generators
    sick = label != "Normal"
    taken = draw_acquisition(np.random.default_rng(rng.integers(2**63)), hospital, sick)
    side = max(size, 128)
    field = draw_habit(hospital.field, np.clip(rng.standard_normal(), -2, 2), sick)
    raised = rng.random() < hospital.raised_arms[sick] and body.age < 6
    pose = draw_pose(rng, view)._replace(raised=raised)
    chest = draw_chest(body, pose, rng, round(1.15 * side))
    layers = place(_layers(label, chest, lesions, taken.severity), rng, side, field, _LOOSE[view])
    return _shrink(develop_at(expose(*layers[:3], taken, grain), taken), layers, size)


def _layers(label, chest, lesions, severity):
    """Stack what is placed together: attenuation, what disease adds, lungs, the diseased share."""
    share = draw_lesion(label, chest, lesions, severity)
    disease = (SOFT - LUNG) * share * 0.8 * chest.air
    return np.dstack([chest.attenuation, disease, chest.lungs, share]).astype(np.float32)


def _shrink(image, layers, size):
    image, lungs, share = (cv2.resize(a, (size, size), interpolation=cv2.INTER_AREA) for a in (image, *layers[2:]))
    return Phantom(np.round(255 * image).astype(np.uint8), (share > 0.12) & (lungs > 0.5), lungs > 0.5)


def load_phantoms(
    data_dir,
    classes=("Normal", "COVID-19", "Bacteria"),
    per_class=120,
    seed=0,
    size=STORED_SIDE,
    shortcut=None,
    hospital=None,
) -> pd.DataFrame:
    """Draw a data set into a folder and return its manifest.

    About a third of the people have two or three images. An image depends on the seed, its hospital, class, person and
    number only, not on how many are asked for; those that the folder already holds are not drawn again.

    Parameters
    ----------
    data_dir : str or pathlib.Path
        Where the images go, in a folder named after the parameters.
    classes : sequence of str
        Some of ``Normal``, ``COVID-19``, ``Bacteria``, ``Virus``, which the hospital sends.
    per_class : int
        Images of each class, 1 to 100,000.
    seed : int
        0 to 4,294,967,295.
    size : int
        Side of the images in pixels, 32 to 2,048.
    shortcut : dict of str to float, optional
        See `make_phantom`; ``body_size`` is planted by person, the others by image.
    hospital : str or Hospital, optional
        See `make_phantom`.

    Returns
    -------
    pandas.DataFrame
        Manifest rows, ``lung_mask`` and ``lesion_mask`` being paths of masks that are 255 inside; ``source`` is ``phantom``
        or ``phantom-`` and the hospital's name. An ``image_id`` names what was drawn: two images that differ in seed, size,
        shortcuts, hospital or drawing never share one. A ``patient_id`` names the person: the same one at every size,
        another with every seed and hospital.

    Raises
    ------
    CovidxrError
        When a parameter is unknown or out of range; the message lists what there is.

    Examples
    --------
    >>> import tempfile
    >>> rows = load_phantoms(tempfile.mkdtemp(), ["COVID-19"], per_class=2, size=32, hospital="city")
    >>> rows[["label", "source"]].values.tolist()
    [['COVID-19', 'phantom-city'], ['COVID-19', 'phantom-city']]
    """
    if data_dir is None:
        raise CovidxrError("phantoms are drawn into a folder, and none was named; give it as data_dir")
    check_names("classes", classes)
    for label in classes:
        _check_phantom(label, size, shortcut)
        hospital = _hospital_with_cues(label, shortcut, hospital, None)
    check_whole("per_class", per_class, 1, _MOST_OF_A_CLASS)
    check_seed(seed)
    folder = Path(data_dir) / _folder_name(seed, size, shortcut, hospital)
    images = [
        image
        for label in classes
        for image in _plan_images(PHANTOM_CLASSES.index(label), per_class, seed, shortcut or {}, hospital)
    ]
    return manifest_rows(_save_image(folder, image, size, shortcut, seed, hospital) for image in images)


def redraw(
    rows: pd.DataFrame,
    size: int = STORED_SIDE,
    cues: Mapping[str, str | Hospital] | None = None,
    hospitals=HOSPITALS,
    severity: float | None = None,
) -> np.ndarray:
    """Draw phantoms of a manifest again, with single cues taken from another hospital, all else equal.

    Parameters
    ----------
    rows : pandas.DataFrame
        Rows of `load_phantoms` that were drawn for a hospital; ``patient_id`` and ``original_name`` are used.
    size : int
        Side in pixels; at the size of the stored images, and without cues, the images are equal to those.
    cues : mapping of str to str or Hospital, optional
        See `make_phantom`.
    hospitals : mapping of str to Hospital
        Where the hospitals of the rows are found by name.
    severity : float, optional
        Extent and density of the lesions, as in `make_phantom`, in place of what was drawn.

    Returns
    -------
    numpy.ndarray
        Of ``uint8``, shape (n, size, size), row by row.

    Raises
    ------
    CovidxrError
        When a row is not of a hospital's phantom, or a hospital or a cue is unknown.

    Examples
    --------
    >>> import tempfile
    >>> rows = load_phantoms(tempfile.mkdtemp(), ["COVID-19"], per_class=2, size=32, hospital="city")
    >>> here, there = redraw(rows, 32), redraw(rows, 32, cues={"exposure": "county"})
    >>> here.shape, bool((here != there).any())
    ((2, 32, 32), True)
    """
    keys = [_identify(patient, file) for patient, file in zip(rows.patient_id, rows.original_name, strict=True)]
    plans = {}
    for group in {key[:3] for key in keys}:
        name, seed, rank = group
        if name not in hospitals:
            raise unknown("hospital", name, hospitals)
        hospital = hospitals[name].with_cues(cues or {})
        count = 1 + max(key[3] for key in keys if key[:3] == group)
        plans[group] = _plan_images(rank, count, seed, {}, hospital), hospital
    images = np.empty((len(keys), size, size), np.uint8)
    for image, (*group, number) in zip(images, keys, strict=True):
        planned, hospital = plans[tuple(group)]
        image[:] = _draw_planned(planned[number], size, None, hospital, severity).image
    return images


def _identify(patient, file):
    """Read hospital, seed, class and number of an image from its ids."""
    person, image = re.fullmatch(r"phantom-(\w+)-(\d+)-(\d)p\d+", patient), re.fullmatch(r"phantom-\d(\d+)\.png", file)
    if not person or not image:
        raise CovidxrError(f"the image {file!r} of {patient!r} is not a hospital's phantom; it cannot be drawn again")
    return person[1], int(person[2]), int(person[3]), int(image[1])


class _Planned(NamedTuple):
    """One image before it is drawn."""

    name: str
    rank: int
    person: int
    body: Body
    key: list  # seed of its generator


def _plan_images(rank, per_class, seed, shortcut, hospital):
    """Plan one class's images."""
    person, images = 0, []
    # Patients of two hospitals are not alike, so the hospital's name is part of the seed.
    salt = [zlib.crc32(hospital.name.encode())] if hospital else []
    while len(images) < per_class:
        rng = np.random.default_rng([seed, rank, person, 0, *salt])
        count = 1 if rng.random() < 2 / 3 else int(rng.integers(2, 4))
        body = _draw_patient(rng, hospital) if hospital else _draw_person(rng, rank, shortcut)
        for take_number in range(1, count + 1):
            name = f"phantom-{rank}{len(images):04d}"
            images.append(_Planned(name, rank, person, body, [seed, rank, person, take_number, *salt]))
        person += 1
    return images[:per_class]


def _draw_planned(planned, size, shortcut, hospital, severity=None):
    rng = np.random.default_rng(planned.key)
    view, label = _draw_view(rng, hospital), PHANTOM_CLASSES[planned.rank]
    how = {"view": view, "body": planned.body, "shortcut": shortcut, "hospital": hospital, "severity": severity}
    return make_phantom(label, rng, size, **how)


def _save_image(folder, planned, size, shortcut, seed, hospital):
    """Draw one image of the plan unless it is there, and return its row."""
    name, rank, person, body, key = planned
    view = _draw_view(np.random.default_rng(key), hospital)
    image, lungs, lesion = (folder / f"{name}{end}.png" for end in ("", ".lungs", ".lesion"))
    if not (image.exists() and lungs.exists() and lesion.exists()):
        for path, pixels in zip((image, lesion, lungs), _draw_planned(planned, size, shortcut, hospital), strict=True):
            with atomic_path(path) as temporary:
                Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels * np.uint8(255)).save(temporary)
    source = _source(hospital)
    return {
        "image_id": name.replace("phantom", folder.name), "path": str(image), "label": PHANTOM_CLASSES[rank],
        "patient_id": f"{source}-{seed}-{rank}p{person:04d}",
        "source": source, "view": view, "age": body.age, "sex": body.sex, "license": "CC0-1.0", "url": "",
        "sha256": hashlib.sha256(image.read_bytes()).hexdigest(), "split": "", "lung_mask": str(lungs),
        "lesion_mask": str(lesion), "version": f"drawing {_DRAWING}", "original_name": image.name,
    }  # fmt: skip


def _source(hospital):
    return f"phantom-{hospital.name}" if hospital else "phantom"


def _draw_person(rng, rank, shortcut, age=None, sex=None):
    return draw_body(rng, age, sex, injected_value("body_size", rank, shortcut, rng))


def _draw_patient(rng, hospital, age=None, sex=None):
    any_age = rng.uniform(*hospital.ages)
    return draw_body(rng, any_age if age is None else age, sex)


def _draw_view(rng, hospital):
    if hospital is None:
        return str(rng.choice(("PA", "AP")))
    return "AP" if rng.random() < hospital.ap else "PA"


def _folder_name(seed, size, shortcut, hospital):
    """Short name of a folder whose images are drawn alike."""
    strengths = {name: float((shortcut or {}).get(name, 0)) for name in SHORTCUTS}
    drawn = [_DRAWING, int(seed), int(size), strengths, *([asdict(hospital)] if hospital else [])]
    return f"{_source(hospital)}-{hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:8]}"


def _hospital_with_cues(label, shortcut, hospital, cues):
    """Look up the hospital, if one is named, check that it sends the class, and change its cues."""
    if hospital is None:
        if cues:
            raise CovidxrError("cues change what a hospital does, and no hospital is named; give it as hospital")
        return None
    if shortcut:
        raise CovidxrError("a shortcut cannot be planted at a hospital; change the hospital's habits, or name none")
    hospital = find_hospital(hospital)
    if label not in hospital.classes:
        raise unknown(f"class of the hospital {hospital.name!r}", label, hospital.classes)
    return hospital.with_cues(cues or {})


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
    if age is not None and not (isinstance(age, Real) and YOUNGEST <= age <= OLDEST):
        raise CovidxrError(f"phantom age is {age!r} years; the model is of {YOUNGEST} to {OLDEST}")
    for kind, value, known in (("sex", sex, ("F", "M")), ("view", view, ("PA", "AP"))):
        if value not in (None, *known):
            raise unknown(kind, value, known)
