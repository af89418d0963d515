"""Small images and manifests into which the tests inject what is to be found."""

from __future__ import annotations

import numpy as np

from covidxr.audit.report import shortcut_audit
from covidxr.data.dataset import Dataset
from covidxr.data.manifest import manifest_rows
from covidxr.data.phantom import make_phantom

N, SIDE = 120, 40
B = np.arange(N) % 2 == 1  # images of class b
CORNER, LUNGS = (slice(0, 6), slice(0, 6)), (slice(12, 28), slice(10, 30))


def noise(seed=0, n=N) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 190, (n, SIDE, SIDE), np.uint8)


def rows(n=N, classes="ab", **columns):
    """Manifest rows of the classes in turn, one image a patient."""
    columns = {"patient_id": range(n), "source": ["s"] * n} | columns
    plain = ({"image_id": i, "label": classes[i % len(classes)]} for i in range(n))
    return manifest_rows(row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(plain))


def audit(manifest, images, model=None, **options):
    return shortcut_audit(Dataset(manifest, images, manifest[:0]), model, **options)


class BrightnessModel:
    """Stands in for a network of two classes: it predicts the second where a part of the image is bright."""

    def __init__(self, part, outputs=2):
        self.part, self.outputs = part, outputs

    def predict_on_batch(self, x):
        bright = (x[:, self.part[0], self.part[1], 0].mean((1, 2)) > 0.75).astype(int)
        return np.eye(self.outputs)[bright]


def hospital_images(hospital, label="Normal", n=40, size=64, seed=0, cues=None) -> np.ndarray:
    """Phantoms of one class as a hospital draws them, one a patient."""
    generators = (np.random.default_rng([seed, k]) for k in range(n))
    return np.stack([make_phantom(label, rng, size, hospital=hospital, cues=cues).image for rng in generators])
