"""Synthetic chest radiographs: the embedded default source.

What: films drawn from a small physical model of the chest (bodies, poses, disease, X-rays, film), nobody's data.
Counts: as many as asked for. Classes: Normal, COVID-19, Bacteria, Virus; age 18 to 90, PA and AP, two sexes.
Licence: CC0-1.0. Known truth: masks of lungs and lesions, and shortcuts only where they are planted.
A phantom is for teaching and testing; it says nothing about how a model reads real films.
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

from covidxr._opencv import cv2
from covidxr.checks import MOST_SIDE, check_names, check_seed, check_whole
from covidxr.errors import CovidxrError, unknown
from covidxr.files import atomic_path
from covidxr.sources._anatomy import draw_body, draw_pose
from covidxr.sources._chest import LUNG, SOFT, draw_chest
from covidxr.sources._film import SHORTCUTS, draw_habits, finish, place, planted, take
from covidxr.sources._lesions import draw_lesion
from covidxr.sources._rows import manifest_rows

CLASSES = ("Normal", "COVID-19", "Bacteria", "Virus")
SMALLEST = 32
_MOST_OF_A_CLASS = 100_000  # some hours of drawing
# Raise it when the drawing changes, so that films of an older drawing are not taken for new ones.
_DRAWING = 2


class Phantom(NamedTuple):
    """One film and its truth.

    Attributes
    ----------
    image : numpy.ndarray
        uint8, (size, size), bone and dense tissue bright.
    lesion_mask, lung_mask : numpy.ndarray
        bool, (size, size); lesions lie within the lungs.

    Examples
    --------
    >>> film = make_phantom("Normal", np.random.default_rng(0), size=64)
    >>> film.image.dtype, bool(film.lesion_mask.any())
    (dtype('uint8'), False)
    """

    image: np.ndarray
    lesion_mask: np.ndarray
    lung_mask: np.ndarray


def make_phantom(label, rng, size=200, *, age=None, sex=None, view=None, body=None, shortcut=None) -> Phantom:
    """Draw one film.

    Parameters
    ----------
    label : {"Normal", "COVID-19", "Bacteria", "Virus"}
        The disease.
    rng : numpy.random.Generator
        The source of chance. Equal generators give equal films, but for what `label` and `shortcut` change.
    size : int
        Side in pixels, 32 to 2,048.
    age, sex : float in [18, 90], {"F", "M"}, optional
        Of the body; drawn when None, unused where `body` is given.
    view : {"PA", "AP"}, optional
        Drawn when None. AP, as in bed, widens the heart and lays the shoulder blades over the lungs.
    body : Body, optional
        Anatomy that several films of one person share, from `draw_body`; drawn when None.
    shortcut : dict of str to float, optional
        Planted shortcuts: ``marker`` (a letter in a corner), ``exposure``, ``body_size`` (where the body is drawn
        here), ``border`` (black collimation). With a probability of the strength, in [0, 1], the value is one that
        goes with the class; otherwise, and by default, it is drawn without regard to the class.

    Returns
    -------
    Phantom

    Raises
    ------
    CovidxrError
        When the label, view, sex or shortcut is unknown, or a size, age or strength is out of range.

    References
    ----------
    The idea of planting known shortcuts: Geirhos et al. (2020), shortcut learning in deep neural networks.

    Examples
    --------
    >>> film = make_phantom("COVID-19", np.random.default_rng(1), size=64, shortcut={"marker": 1.0})
    >>> film.image.shape, bool((film.lesion_mask & ~film.lung_mask).any())
    ((64, 64), False)
    """
    _check(label, size, shortcut, age, sex, view)
    shortcut, rank = shortcut or {}, CLASSES.index(label)
    lesions, grain, people = (np.random.default_rng(seed) for seed in rng.integers(2**63, size=3))
    body = body or _draw_person(people, rank, shortcut, age, sex)
    habits = draw_habits(rng, rank, shortcut)
    any_view = str(rng.choice(("PA", "AP")))
    film = max(size, 128)  # small films are large ones shrunk, so that thin ribs stay thin
    chest = draw_chest(body, draw_pose(rng, view or any_view), rng, round(1.15 * film))
    share = draw_lesion(label, chest, lesions)
    disease = (SOFT - LUNG) * share * 0.8 * chest.air
    layers = place(np.dstack([chest.attenuation, disease, chest.lungs, share]).astype(np.float32), rng, film)
    image = finish(take(*layers[:3], habits, grain), habits)
    image, lungs, share = (cv2.resize(a, (size, size), interpolation=cv2.INTER_AREA) for a in (image, *layers[2:]))
    return Phantom(np.round(255 * image).astype(np.uint8), (share > 0.12) & (lungs > 0.5), lungs > 0.5)


def read(
    data_dir, classes=("Normal", "COVID-19", "Bacteria"), per_class=120, seed=0, size=200, shortcut=None
) -> pd.DataFrame:
    """Draw a data set into a folder and return its manifest.

    About a third of the people have two or three films. A film depends on the seed, its class, its person and its
    number only, not on how many are asked for; those that the folder already holds are not drawn again.

    Parameters
    ----------
    data_dir : str or pathlib.Path
        Where the films go, in a folder named after the parameters.
    classes : sequence of str
        Some of ``Normal``, ``COVID-19``, ``Bacteria``, ``Virus``.
    per_class : int
        Films of each class, 1 to 100,000.
    seed : int
        0 to 4,294,967,295.
    size : int
        Side of the films in pixels, 32 to 2,048.
    shortcut : dict of str to float, optional
        See `make_phantom`; ``body_size`` is planted by person, the others by film.

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
    >>> rows = read(tempfile.mkdtemp(), per_class=2, size=32)
    >>> rows["label"].tolist()
    ['Normal', 'Normal', 'COVID-19', 'COVID-19', 'Bacteria', 'Bacteria']
    """
    if data_dir is None:
        raise CovidxrError("phantoms are drawn into a folder, and none was named; give it as data_dir")
    check_names("classes", classes)
    for label in classes:
        _check(label, size, shortcut)
    check_whole("per_class", per_class, 1, _MOST_OF_A_CLASS)
    check_seed(seed)
    folder = Path(data_dir) / f"phantom-{_name(seed, size, shortcut)}"
    films = [film for label in classes for film in _plan(CLASSES.index(label), per_class, seed, shortcut or {})]
    return manifest_rows(_film(folder, film, size, shortcut, seed) for film in films)


def _plan(rank, per_class, seed, shortcut):
    """Who is filmed: (file name, rank, person's number, body, the film's generator), film by film."""
    person, films = 0, []
    while len(films) < per_class:
        rng = np.random.default_rng([seed, rank, person, 0])
        count = 1 if rng.random() < 2 / 3 else int(rng.integers(2, 4))
        body = _draw_person(rng, rank, shortcut)
        for take_number in range(1, count + 1):
            name = f"phantom-{rank}{len(films):04d}"
            films.append((name, rank, person, body, np.random.default_rng([seed, rank, person, take_number])))
        person += 1
    return films[:per_class]


def _film(folder, film, size, shortcut, seed):
    """Draw one film of the plan unless it is there, and return its row.

    The ids start alike within a data set, so that their order, on which draws depend, is that of rank and number.
    """
    name, rank, person, body, rng = film
    view = str(rng.choice(("PA", "AP")))
    image, lungs, lesion = (folder / f"{name}{end}.png" for end in ("", ".lungs", ".lesion"))
    if not (image.exists() and lungs.exists() and lesion.exists()):
        phantom = make_phantom(CLASSES[rank], rng, size, view=view, body=body, shortcut=shortcut)
        for path, pixels in zip((image, lesion, lungs), phantom, strict=True):
            with atomic_path(path) as temporary:
                Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels * np.uint8(255)).save(temporary)
    return {
        "image_id": name.replace("phantom", folder.name), "path": str(image), "label": CLASSES[rank],
        "patient_id": f"phantom-{seed}-{rank}p{person:04d}",
        "source": "phantom", "view": view, "age": body.age, "sex": body.sex, "license": "CC0-1.0", "url": "",
        "sha256": hashlib.sha256(image.read_bytes()).hexdigest(), "split": "", "lung_mask": str(lungs),
        "lesion_mask": str(lesion), "version": f"drawing {_DRAWING}", "original_name": image.name,
    }  # fmt: skip


def _draw_person(rng, rank, shortcut, age=None, sex=None):
    return draw_body(rng, age, sex, planted("body_size", rank, shortcut, rng))


def _name(seed, size, shortcut):
    """Short name of a folder whose films are drawn alike."""
    strengths = {name: float((shortcut or {}).get(name, 0)) for name in SHORTCUTS}
    return hashlib.sha256(json.dumps([_DRAWING, int(seed), int(size), strengths]).encode()).hexdigest()[:8]


def _check(label, size, shortcut, age=None, sex=None, view=None):
    if label not in CLASSES:
        raise unknown("phantom class", label, CLASSES)
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
