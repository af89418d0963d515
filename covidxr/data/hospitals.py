"""Phantom hospitals: who comes, how they are imaged, and which classes each hospital sends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr.data._opencv import cv2
from covidxr.utils import CovidxrError, unknown

PHANTOM_CLASSES = ("Normal", "COVID-19", "Bacteria", "Virus")

YOUNGEST, OLDEST = 1, 90

MILDEST = 0.1  # severity below which lesions are hardly visible


class Habit(NamedTuple):
    """Mean and standard deviation over a hospital's healthy, and what the mean of its sick lies above that."""

    mean: float
    spread: float
    sick: float = 0.0


class Marker(NamedTuple):
    """A side marker: its text, height, place (all shares of the image's side, from the top left) and share of images."""

    text: str
    height: float
    across: float
    down: float
    share: float


class Border(NamedTuple):
    """A black collimation border: mean and spread of its width, a share of the side, and the share of images with one."""

    mean: float
    spread: float
    share: float


@dataclass(frozen=True)
class Hospital:
    """A phantom hospital: its patients, its equipment and its habits, none of which is disease.

    Where `Habit.sick` is not zero, the hospital images its sick otherwise, in bed or on another machine, as real ones do.

    Attributes
    ----------
    name : str
        Of small letters, digits and ``_``; part of the ids of its images.
    description : str
        One sentence for people.
    classes : tuple of str
        The classes that it sends.
    ages : (float, float)
        Youngest and oldest, 1 to 90 years.
    ap : float
        Share of views AP; the others are PA.
    raised_arms : (float, float)
        Share of the healthy, and share of the sick, under six who hold their arms up.
    field : Habit
        Extent that an image covers, 1 for an adult's chest from the neck to the diaphragm.
    exposure : Habit
        -1 dark to 1 bright.
    contrast : Habit
        Slope of the grey-value curve, 1 for today's detectors.
    fog : Habit
        Grey of what should be black, 0 to 1.
    sharpness : Habit
        Standard deviation of the blur, as a share of the side.
    photons : Habit
        Decimal logarithm of the number of photons to a pixel: the fewer, the more noise.
    border : Border
        Black collimation border.
    marker : Marker
        Side marker.
    cables : (float, float)
        Share of the healthy, and share of the sick, with cables and electrodes on the chest.
    severity : Habit
        Extent and density of lesions, 0.1 to 1.

    Examples
    --------
    >>> HOSPITALS["city"].with_cues({"marker": "county"}).marker == HOSPITALS["county"].marker
    True
    """

    name: str
    description: str
    classes: tuple[str, ...] = PHANTOM_CLASSES
    ages: tuple[float, float] = (18, 90)
    ap: float = 0.5
    raised_arms: tuple[float, float] = (0.0, 0.0)
    field: Habit = Habit(1.0, 0.03)
    exposure: Habit = Habit(0.0, 0.35)
    contrast: Habit = Habit(1.0, 0.1)
    fog: Habit = Habit(0.03, 0.02)
    sharpness: Habit = Habit(0.002, 0.0005)
    photons: Habit = Habit(5.0, 0.2)
    border: Border = Border(0.015, 0.006, 0.2)
    marker: Marker = Marker("L", 0.04, 0.9, 0.1, 0.6)
    cables: tuple[float, float] = (0.05, 0.2)
    severity: Habit = Habit(0.8, 0.2)

    def __post_init__(self):
        if not re.fullmatch("[a-z0-9_]+", self.name):
            raise CovidxrError(f"the hospital's name is {self.name!r}; use small letters, digits and _")
        for label in self.classes:
            if label not in PHANTOM_CLASSES:
                raise unknown(f"class of the hospital {self.name!r}", label, PHANTOM_CLASSES)
        if not YOUNGEST <= self.ages[0] <= self.ages[1] <= OLDEST:
            raise CovidxrError(
                f"the hospital {self.name!r} has ages {self.ages}; give the youngest and the oldest, {YOUNGEST} to {OLDEST}"
            )

    def with_cues(self, cues: Mapping[str, str | Hospital]) -> Hospital:
        """Take single cues from other hospitals, by cue; name, classes and severity stay."""
        changed = {}
        for cue, other in cues.items():
            if cue not in _FIELDS:
                raise unknown("cue", cue, CUES)
            changed |= {field: getattr(find_hospital(other), field) for field in _FIELDS[cue]}
        return replace(self, **changed)


_FIELDS = {
    "population": ("ages", "ap", "raised_arms", "field"),
    "marker": ("marker",),
    "border": ("border",),
    "exposure": ("exposure",),
    "contrast": ("contrast", "fog"),
    "sharpness": ("sharpness",),
    "noise": ("photons",),
    "cables": ("cables",),
}

CUES = tuple(_FIELDS)

HOSPITALS = {
    hospital.name: hospital
    for hospital in (
        Hospital(
            "childrens",
            "Children of one to five, AP; the sick in bed, collimated closely.",
            classes=("Normal", "Bacteria", "Virus"),
            ages=(1, 5),
            ap=1.0,
            raised_arms=(0.85, 0.25),
            field=Habit(1.13, 0.03, sick=-0.15),
            exposure=Habit(0.6, 0.3, sick=0.05),
            contrast=Habit(0.95, 0.1, sick=-0.08),
            fog=Habit(0.015, 0.015, sick=0.02),
            sharpness=Habit(0.0025, 0.0006),
            photons=Habit(4.9, 0.2),
            border=Border(0.012, 0.006, 0.12),
            marker=Marker("R", 0.04, 0.08, 0.3, 0.7),
            cables=(0.02, 0.1),
        ),
        Hospital(
            "city",
            "Adults, mostly AP in bed, with cables on the sick; digitised images.",
            ages=(30, 85),
            ap=0.75,
            field=Habit(1.0, 0.04),
            exposure=Habit(0.2, 0.35),
            contrast=Habit(0.88, 0.12),
            fog=Habit(0.06, 0.03),
            sharpness=Habit(0.004, 0.001),
            photons=Habit(4.7, 0.2),
            border=Border(0.02, 0.008, 0.25),
            marker=Marker("L", 0.05, 0.9, 0.12, 0.6),
            cables=(0.1, 0.45),
        ),
        Hospital(
            "university",
            "Adults, mostly PA and upright, on sharp detectors of low noise.",
            ages=(20, 80),
            ap=0.2,
            field=Habit(0.98, 0.03),
            exposure=Habit(0.3, 0.3),
            contrast=Habit(1.05, 0.1),
            fog=Habit(0.02, 0.015),
            sharpness=Habit(0.001, 0.0003),
            photons=Habit(5.3, 0.15),
            border=Border(0.012, 0.005, 0.2),
            marker=Marker("L", 0.035, 0.92, 0.08, 0.85),
            cables=(0.02, 0.15),
        ),
        Hospital(
            "county",
            "The outside hospital: adults, AP and PA, all classes in equal parts.",
            ages=(18, 85),
            ap=0.5,
            field=Habit(1.0, 0.04),
            exposure=Habit(0.35, 0.35),
            contrast=Habit(0.97, 0.12),
            fog=Habit(0.04, 0.02),
            sharpness=Habit(0.0025, 0.0008),
            photons=Habit(5.0, 0.2),
            border=Border(0.016, 0.007, 0.2),
            marker=Marker("R", 0.045, 0.08, 0.1, 0.65),
            cables=(0.08, 0.2),
        ),
    )
}


def find_hospital(hospital: str | Hospital) -> Hospital:
    """Look up a hospital by its name; one's own is returned as it is."""
    if isinstance(hospital, Hospital):
        return hospital
    if hospital not in list(HOSPITALS):
        raise unknown("hospital", hospital, HOSPITALS)
    return HOSPITALS[hospital]


def describe_cue(cue: str, *hospitals: str | Hospital) -> str:
    """What a cue is at each of some hospitals, such as "city: marker L on 60%; county: marker R on 65%"."""
    found = {hospital.name: _DESCRIPTIONS[cue](hospital) for hospital in map(find_hospital, hospitals)}
    return "; ".join(f"{name}: {text}" for name, text in found.items())


_DESCRIPTIONS = {
    "population": lambda at: f"ages {at.ages[0]} to {at.ages[1]}, {at.ap:.0%} AP",
    "marker": lambda at: f"{at.marker.text} on {at.marker.share:.0%}",
    "border": lambda at: f"on {at.border.share:.0%}",
    "exposure": lambda at: f"mean {at.exposure.mean:+.2f}",
    "contrast": lambda at: f"mean {at.contrast.mean:.2f}",
    "sharpness": lambda at: f"blur of {at.sharpness.mean:.2%} of the side",
    "noise": lambda at: f"{10**at.photons.mean:,.0f} photons a pixel",
    "cables": lambda at: f"on {at.cables[1]:.0%} of the sick",
}


def describe_hospitals(manifest: pd.DataFrame) -> pd.DataFrame:
    """One row a phantom hospital of a manifest: the classes taken from it, its patients, and how they are imaged."""
    names = [name for name in HOSPITALS if f"phantom-{name}" in set(manifest.source)]
    rows = {}
    for name in names:
        hospital, images = HOSPITALS[name], manifest[manifest.source == f"phantom-{name}"]
        rows[name] = {
            "classes in this run": ", ".join(images.label.unique()),
            "description": hospital.description,
            **{cue: _DESCRIPTIONS[cue](hospital) for cue in ("marker", "border", "exposure", "contrast")},
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("hospital")


class Acquisition(NamedTuple):
    """How one image is taken at a hospital; see `draw_acquisition`."""

    exposure: float
    contrast: float
    fog: float
    blur: float
    photons: float
    severity: float
    borders: np.ndarray  # width of the border above, below, left and right, as shares of the side
    marker: Marker | None
    cables: bool
    layout: int  # seed of the cables' course and the marker's place


def draw_habit(habit, score, sick) -> float:
    """Value of a habit on an image that lies `score` standard deviations from the mean."""
    return habit.mean + habit.spread * score + habit.sick * sick


def draw_acquisition(rng, hospital, sick) -> Acquisition:
    """Draw an acquisition; the same numbers are drawn for every hospital, so that each cue can be changed alone."""
    scores, chances = np.clip(rng.standard_normal(7), -2.2, 2.2), rng.random(3)
    sides, layout = rng.uniform(0, 2, 4), int(rng.integers(2**31))
    habits = hospital.exposure, hospital.contrast, hospital.fog, hospital.sharpness, hospital.photons, hospital.severity
    values = [draw_habit(habit, score, sick) for habit, score in zip(habits, scores[:6], strict=True)]
    exposure, contrast, fog, blur, photons, severity = values
    width = max(hospital.border.mean + hospital.border.spread * scores[6], 0.0)
    return Acquisition(
        exposure, contrast, max(fog, 0.0), max(blur, 0.0), 10**photons, float(np.clip(severity, min(MILDEST, hospital.severity.mean), 1)),
        width * sides * (chances[0] < hospital.border.share),
        hospital.marker if chances[1] < hospital.marker.share else None,
        bool(chances[2] < hospital.cables[sick]), layout,
    )  # fmt: skip


def develop_at(image, acquisition):
    """Turn an exposed image into the hospital's: fog, blur, cables, side marker and border."""
    n, layout = len(image), np.random.default_rng(acquisition.layout)
    shift, tilt = layout.normal(0, 0.012, 2), layout.normal(0, 4)
    image = acquisition.fog + (1 - acquisition.fog) * image
    if acquisition.blur * n > 0.1:
        image = cv2.GaussianBlur(image, (0, 0), acquisition.blur * n)
    if acquisition.cables:
        image = image + 0.4 * _draw_cables(layout, n) * (1 - image)
    if acquisition.marker:
        image = image + _draw_marker(acquisition.marker, shift, tilt, n) * np.maximum(0.9 - image, 0)
    top, bottom, left, right = np.round(acquisition.borders * n).astype(int)
    image[:top] = image[n - bottom :] = image[:, :left] = image[:, n - right :] = 0
    return image


_FINER = 2  # thin lines are drawn on a finer grid and averaged

_FONT = cv2.FONT_HERSHEY_SIMPLEX, 2.0  # its capitals are 42 pixels high


def _draw_marker(marker, shift, tilt, n):
    """Opacity of the marker's letters, 0 to 1."""
    (width, height), below = cv2.getTextSize(marker.text, *_FONT, 6)
    letters = np.zeros((height + 2 * below, width + 2 * below), np.uint8)
    cv2.putText(letters, marker.text, (below, height + below), *_FONT, 255, 6, cv2.LINE_AA)
    middle, scale = np.array(letters.shape[::-1]) / 2, marker.height * _FINER * n / height
    matrix = cv2.getRotationMatrix2D(middle.tolist(), tilt, scale)
    matrix[:, 2] += np.add((marker.across, marker.down), shift) * _FINER * n - middle
    return _averaged(cv2.warpAffine(letters, matrix, (_FINER * n, _FINER * n)), n)


def _draw_cables(rng, n):
    """Opacity of electrodes on the chest and of the cables that lead from them off the image, 0 to 1."""
    side = _FINER * n
    layer, t = np.zeros((side, side), np.uint8), np.linspace(0, 1, 24)[:, None]
    for across, down in ((0.3, 0.28), (0.7, 0.26), (0.74, 0.7)):
        start, bend = np.add((across, down), rng.normal(0, 0.04, 2)), rng.normal(0, 0.15, 2)
        exit_at = rng.choice((0.08, 0.92, 0.08 if across < 0.5 else 0.92))  # mostly on the electrode's own side
        end = np.array([exit_at + rng.normal(0, 0.12), 1.02])
        points = (1 - t) ** 2 * start + 2 * t * (1 - t) * ((start + end) / 2 + bend) + t**2 * end
        line = np.round(points * side * 16).astype(np.int32)
        cv2.polylines(layer, [line], False, 190, max(1, round(side / 170)), cv2.LINE_AA, 4)
        centre = np.round(start * side).astype(int).tolist()
        cv2.circle(layer, centre, side // 50, 120, -1, cv2.LINE_AA)
        cv2.circle(layer, centre, side // 110, 255, -1, cv2.LINE_AA)
    return _averaged(layer, n)


def _averaged(layer, n):
    return cv2.resize(layer, (n, n), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
