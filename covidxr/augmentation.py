"""Augmentation of training images by imgaug policies, and the batches that Keras trains on.

Each batch is seeded from (seed, epoch, batch) alone, so the same three numbers give the same pixels, in any order and
from any worker. imgaug: Jung et al. 2020, https://github.com/aleju/imgaug
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

import covidxr.data._opencv  # noqa: F401  (imgaug imports OpenCV too, without a remedy)
from covidxr._keras import keras
from covidxr.data.images import preprocess
from covidxr.utils import CovidxrError, unknown

if not hasattr(np, "sctypes"):  # gone since NumPy 2, and imgaug asks for it on import
    np.sctypes = {
        "int": [np.int8, np.int16, np.int32, np.int64],
        "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
        "float": [np.float16, np.float32, np.float64],
        "complex": [np.complex64, np.complex128],
        "others": [bool, object, bytes, str, np.void],
    }


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # imgaug's own deprecated calls, which its user cannot change
    from imgaug import augmenters as iaa


class Transform(NamedTuple):
    """One augmentation of a policy: its name, the reason for it, and what builds imgaug's augmenter."""

    name: str
    why: str
    make: Callable[[], Any]


_FLIP = Transform("flip left-right", "Doubles the data, but mirrors the heart.", lambda: iaa.Fliplr(0.5))


POLICIES = {
    "none": (),
    "article": (
        Transform("quarter turns", "The network must not rely on the orientation.", lambda: iaa.Rot90((0, 3))),
        _FLIP,
        Transform("flip up-down", "Another orientation of the plate.", lambda: iaa.Flipud(0.5)),
        Transform("gamma", "Exposure must not reveal the class.", lambda: iaa.GammaContrast((0.5, 2.0))),
        Transform(
            "perspective", "Tube and plate are never quite parallel.", lambda: iaa.PerspectiveTransform((0.01, 0.15))
        ),
        Transform("scaling", "Body sizes and distances differ.", lambda: iaa.Affine(scale=(0.8, 1.2))),
        Transform("coarse dropout", "No single patch may decide.", lambda: iaa.CoarseDropout(0.03, size_percent=0.05)),
    ),
    "anatomical": (
        Transform("rotation", "Patients lean by a few degrees.", lambda: iaa.Affine(rotate=(-7, 7), mode="edge")),
        Transform("scaling", "Body sizes and distances differ.", lambda: iaa.Affine(scale=(0.92, 1.1), mode="edge")),
        Transform(
            "shift",
            "The plate is not always centred.",
            lambda: iaa.Affine(translate_percent={"x": (-0.05, 0.05), "y": (-0.05, 0.05)}, mode="edge"),
        ),
        Transform("crop", "Borders must not reveal the hospital.", lambda: iaa.Crop(percent=(0, 0.06))),
        Transform("gamma", "Exposure must not reveal the class.", lambda: iaa.GammaContrast((0.6, 1.7))),
        Transform("noise", "Dose and detector differ.", lambda: iaa.AdditiveGaussianNoise(scale=(0, 8))),
        Transform("blur", "Scanners and scaling differ in sharpness.", lambda: iaa.GaussianBlur((0, 0.8))),
    ),
}


def _all_transforms(augmenters, images, rng):
    for augmenter in augmenters:
        images = _changed(augmenter, images, rng)
    return images


def _changed(augmenter, images, rng):
    augmenter.seed_(int(rng.integers(2**31)))
    return augmenter(images=images)


def _article_policy(augmenters, images, rng):
    """One of six orientations, and for every second image up to two of the other steps, as in the article's notebook."""
    images, drawn = images.copy(), rng.choice(6, len(images), p=_ORIENTATIONS)
    for number in range(1, 6):
        if not isinstance(augmenters[max(0, number - 3)], iaa.Identity):  # a step that the policy is "without"
            images[drawn == number] = _oriented(images[drawn == number], number)
    counts = rng.integers(3, size=len(images)) * (rng.random(len(images)) < 0.5)
    ranks = rng.random((len(images), len(augmenters) - 3)).argsort(axis=1)
    for augmenter, rank in zip(augmenters[3:], ranks.T, strict=True):
        if len(chosen := np.flatnonzero(rank < counts)):
            images[chosen] = _changed(augmenter, images[chosen], rng)
    return images


def _oriented(images, number):
    return np.rot90(images, number, axes=(1, 2)) if number < 4 else np.flip(images, number - 3)


# Unchanged, three quarter turns, two flips; the article's flips change only every second image.
_ORIENTATIONS = np.array([4, 2, 2, 2, 1, 1]) / 12


class Policy:
    """An augmentation policy, built by `build_policy`.

    It pickles as the arguments of `build_policy`, so that a worker process builds its own augmenters.

    Attributes
    ----------
    steps : tuple of Transform
        The augmentations in their order.

    Examples
    --------
    >>> [step.name for step in build_policy("anatomical").steps][:3]
    ['rotation', 'scaling', 'shift']
    """

    def __init__(self, steps: tuple[Transform, ...], recipe: tuple, apply: Callable) -> None:
        self.steps, self.recipe, self._apply = steps, recipe, apply
        self._thread = threading.local()  # imgaug's augmenters hold random state: one set a thread

    def __reduce__(self):
        return build_policy, self.recipe

    def __call__(self, images: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
        """Augment images.

        Parameters
        ----------
        images : numpy.ndarray
            ``uint8``, shape (N, H, W), grey.
        seed : int or sequence of int
            The same seed and images give the same result.

        Returns
        -------
        numpy.ndarray
            ``uint8``, shape (N, H, W).

        Raises
        ------
        CovidxrError
            If the images are not ``uint8`` of shape (N, H, W).

        Examples
        --------
        >>> images = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
        >>> policy = build_policy("article")
        >>> bool((policy(images, (0, 1, 2)) == policy(images, (0, 1, 2))).all())
        True
        """
        if images.dtype != np.uint8 or images.ndim != 3:
            raise CovidxrError(f"a policy takes uint8 images (N, H, W), not {images.dtype} of shape {images.shape}")
        if not self.steps:
            return images
        if not hasattr(self._thread, "augmenters"):
            self._thread.augmenters = [step.make() for step in self.steps]
        # imgaug's own Sequential, OneOf and SomeOf would take as long as all the augmenters in them
        return self._apply(self._thread.augmenters, images, np.random.default_rng(seed))


def build_policy(name: str = "article", flip: bool = False, only: Sequence[str] | None = None) -> Policy:
    """Build an augmentation policy by name.

    Parameters
    ----------
    name : {"article", "anatomical", "none"}
        ``article`` is the article's: a quarter turn or a flip, and for every second image up to two of gamma,
        perspective, scaling and coarse dropout. ``anatomical`` applies to every image what can vary in an upright chest
        radiograph: small rotations, scaling, shifts, crops, gamma, noise, blur. ``"article without gamma"``, and the same
        with any other step, switches that step off and leaves the random draws of all others unchanged.
    flip : bool
        Whether to add left-right flips to a policy without them.
    only : sequence of str, optional
        Names of steps to apply, each to every image; by default the whole policy.

    Returns
    -------
    Policy
        A callable from uint8 images (N, H, W) and a seed to augmented images.

    Raises
    ------
    CovidxrError
        If there is no such policy or step.

    Examples
    --------
    >>> build_policy("artcle")
    Traceback (most recent call last):
        ...
    covidxr.utils.CovidxrError: unknown augmentation policy 'artcle'; available: none, article, anatomical
    """
    arguments, (name, _, off) = (name, flip, only), name.partition(" without ")
    if name not in POLICIES:
        raise unknown("augmentation policy", name, POLICIES)
    steps = POLICIES[name] + ((_FLIP,) if flip and _FLIP not in POLICIES[name] else ())
    names = [step.name for step in steps]
    for step in [*(only or ()), *([off] if off else [])]:
        if step not in names:
            raise unknown(f"step of policy {name!r}", step, names)
    steps = [step._replace(name=f"no {off}", make=iaa.Identity) if step.name == off else step for step in steps]
    apply = _article_policy if name == "article" and only is None else _all_transforms
    return Policy(tuple(step for step in steps if only is None or step.name in only), arguments, apply)


class AugmentedBatches(keras.utils.PyDataset):
    """Batches of augmented, preprocessed images, shuffled again in each epoch.

    Parameters
    ----------
    images : numpy.ndarray
        ``uint8``, shape (N, H, W), grey.
    labels : numpy.ndarray
        Integer classes, shape (N,), from 0 to `n_classes` - 1.
    n_classes : int
        Number of classes.
    policy : Policy
        From `build_policy`.
    batch_size : int
        Images a batch; the last batch of an epoch may be smaller.
    seed : int
        Seed of the order and of the augmentation of all epochs.
    weights : numpy.ndarray, optional
        Shape (N,), sampling weights such as those of `covidxr.evaluation.linear_probe.group_weights`. An epoch then is N
        draws with replacement; by default each image comes once.
    **workers
        Passed to `keras.utils.PyDataset`: ``workers``, ``use_multiprocessing``, ``max_queue_size``.

    Raises
    ------
    CovidxrError
        If the numbers of images, labels and weights differ.

    Examples
    --------
    >>> images = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8)
    >>> batches = AugmentedBatches(images, np.array([0, 1, 2, 0, 1, 2]), 3, build_policy("none"), batch_size=4)
    >>> x, y = batches[1]
    >>> len(batches), x.shape, y.shape
    (2, (2, 8, 8, 3), (2, 3))
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: ArrayLike,
        n_classes: int,
        policy: Policy,
        batch_size: int = 32,
        seed: int = 0,
        weights: ArrayLike | None = None,
        **workers: Any,
    ) -> None:
        super().__init__(**workers)
        if len(images) != len(labels):
            raise CovidxrError(f"{len(images)} images but {len(labels)} labels")
        if weights is not None and len(weights) != len(images):
            raise CovidxrError(f"{len(images)} images but {len(weights)} weights")
        self.probabilities = None if weights is None else np.asarray(weights) / np.sum(weights)
        self.images, self.labels, self.n_classes = images, np.asarray(labels), n_classes
        self.policy, self.batch_size, self.seed, self.epoch = policy, batch_size, seed, 0

    def __len__(self):
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, batch):
        return self.batch(self.epoch, batch)

    def on_epoch_end(self) -> None:
        """Advance to the next epoch; called by Keras."""
        self.epoch += 1

    def batch(self, epoch: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Make one batch, which depends only on the seed and the two numbers.

        Parameters
        ----------
        epoch, batch : int
            Both from 0.

        Returns
        -------
        x : numpy.ndarray
            ``float32``, shape (n, H, W, 3), values in [0, 1].
        y : numpy.ndarray
            ``float32``, shape (n, n_classes), one-hot.

        Examples
        --------
        >>> images = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
        >>> batches = AugmentedBatches(images, np.arange(4) % 2, 2, build_policy("article"))
        >>> bool((batches.batch(5, 0)[0] == batches.batch(5, 0)[0]).all())
        True
        """
        rng, images = np.random.default_rng((self.seed, epoch)), len(self.images)
        order = (
            rng.permutation(images) if self.probabilities is None else rng.choice(images, images, p=self.probabilities)
        )
        rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        images = self.policy(self.images[rows], (self.seed, epoch, batch))
        return preprocess(images), _one_hot(self.labels[rows], self.n_classes)


class PlainBatches(keras.utils.PyDataset):
    """Batches of preprocessed images without augmentation, always in the same order, for validation."""

    def __init__(self, images, labels, n_classes, batch_size=32):
        super().__init__()
        self.images, self.labels, self.n_classes, self.batch_size = images, np.asarray(labels), n_classes, batch_size

    def __len__(self):
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, batch):
        rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
        return preprocess(self.images[rows]), _one_hot(self.labels[rows], self.n_classes)


def _one_hot(labels, n_classes):
    """One row a label, float32."""
    return (labels[:, None] == np.arange(n_classes)).astype(np.float32)
