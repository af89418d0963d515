"""The steps of care that notebook 06 compares, made ready: frozen features of films, of cropped films, of augmented copies."""

from __future__ import annotations

import numpy as np

from covidxr.augment import AugmentedBatches, build_policy
from covidxr.early import early_of
from covidxr.leave_out import PLAIN
from covidxr.lungs import FEWEST_PATIENTS, crop, find_lungs
from covidxr.model import build_vgg16
from covidxr.probe import augmented_features, features
from covidxr.splits import patient_keys
from covidxr.steps import Step
from covidxr.weights import load_weights

COPIES = 2


def care_steps(manifest, pixels, lungs=None, weights="auto", policy="anatomical", seed=0) -> dict:
    """Compute what each step of care looks at; nothing here has seen a label.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W), H a multiple of 32.
    lungs : numpy.ndarray, optional
        ``bool``, shape (N, H, W), empty where unknown; without those of 10 patients the step of cropped lungs is left out.
    weights : str
        As for `covidxr.weights.load_weights`.
    policy : str
        Of the augmented copies, two a film.
    seed : int
        Of the augmentation, and of weights where they are random.

    Returns
    -------
    dict
        Name to `covidxr.steps.Step`: the whole of VGG16; its first three blocks; sources balanced; a discriminant; augmented
        copies; lungs cropped. The last two are both held against the one before them.

    Examples
    --------
    >>> from covidxr.sources._rows import manifest_rows
    >>> films = np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8)
    >>> steps = care_steps(manifest_rows({"image_id": i} for i in range(3)), films, weights="random")
    >>> [step.against for step in steps.values()]
    [None, 'all of VGG16', 'three blocks', 'sources balanced', 'discriminant']
    """
    whole = build_vgg16(pixels.shape[1], seed=seed)
    load_weights(whole, weights)
    early = early_of(whole)
    seen = features(early, pixels)
    steps = {
        "all of VGG16": Step(features(whole, pixels), PLAIN),
        "three blocks": Step(seen, PLAIN, "all of VGG16"),
        "sources balanced": Step(seen, {"discriminant": False}, "three blocks"),
        "discriminant": Step(seen, {}, "sources balanced"),
        "augmented copies": Step([seen, *_augmented(early, pixels, policy, seed)], {}, "discriminant"),
    }
    patients = patient_keys(manifest)
    if lungs is not None and patients[lungs.any(axis=(1, 2))].nunique() >= FEWEST_PATIENTS:
        cropped = crop(pixels, find_lungs(seen, lungs, patients))
        steps["lungs cropped"] = Step(features(early, cropped), {}, "discriminant")
    return steps


def _augmented(model, pixels, policy, seed):
    """Features of augmented copies, each an array in the order of the films: here the label is the film's number."""
    batches = AugmentedBatches(pixels, np.arange(len(pixels)), len(pixels), build_policy(policy), seed=seed)
    values, numbers = augmented_features(model, batches, COPIES)
    passes = np.split(values, COPIES), np.split(numbers, COPIES)
    return [values[np.argsort(numbers)] for values, numbers in zip(*passes, strict=True)]
