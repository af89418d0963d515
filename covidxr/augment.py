"""Random changes to training films: imgaug policies, and the batches that Keras trains on.

The policies are imgaug's (Jung et al. 2020). Each batch is seeded from (seed, epoch, batch) alone, so the same three
numbers give the same pixels, in any order and from any worker.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from covidxr._imgaug import iaa
from covidxr._tensorflow import keras
from covidxr.errors import CovidxrError, unknown
from covidxr.pixels import preprocess


class Step(NamedTuple):
    """One augmentation of a policy: its ``name``, ``why`` it is there, and ``make``, which builds imgaug's augmenter."""

    name: str
    why: str
    make: object


_FLIP = Step("flip left-right", "Doubles the films, but puts the heart on the wrong side.", lambda: iaa.Fliplr(0.5))

POLICIES = {
    "none": (),
    "article": (
        Step("quarter turns", "The network must not rely on which side is up.", lambda: iaa.Rot90((0, 3))),
        _FLIP,
        Step("flip up-down", "Another way to lay down a film.", lambda: iaa.Flipud(0.5)),
        Step("gamma", "Exposure must not give the class away.", lambda: iaa.GammaContrast((0.5, 2.0))),
        Step("perspective", "Tube and plate are never quite square.", lambda: iaa.PerspectiveTransform((0.01, 0.15))),
        Step("scaling", "Bodies and distances differ.", lambda: iaa.Affine(scale=(0.8, 1.2))),
        Step("coarse dropout", "No single patch may decide.", lambda: iaa.CoarseDropout(0.03, size_percent=0.05)),
    ),
    "anatomical": (
        Step("rotation", "Patients lean by a few degrees.", lambda: iaa.Affine(rotate=(-7, 7), mode="edge")),
        Step("scaling", "Bodies and distances differ.", lambda: iaa.Affine(scale=(0.92, 1.1), mode="edge")),
        Step(
            "shift",
            "The plate is not always centred.",
            lambda: iaa.Affine(translate_percent={"x": (-0.05, 0.05), "y": (-0.05, 0.05)}, mode="edge"),
        ),
        Step("crop", "Collimation and borders must not give the hospital away.", lambda: iaa.Crop(percent=(0, 0.06))),
        Step("gamma", "Exposure must not give the class away.", lambda: iaa.GammaContrast((0.6, 1.7))),
        Step("noise", "Dose and detector differ.", lambda: iaa.AdditiveGaussianNoise(scale=(0, 8))),
        Step("blur", "Scanners and scaling differ in sharpness.", lambda: iaa.GaussianBlur((0, 0.8))),
    ),
}


def _every_step(augmenters, films, rng):
    for augmenter in augmenters:
        films = _changed(augmenter, films, rng)
    return films


def _changed(augmenter, films, rng):
    augmenter.seed_(int(rng.integers(2**31)))
    return augmenter(images=films)


def _as_the_article(augmenters, films, rng):
    """One of six ways to lay the film down, and for every second film up to two of the other steps, as in its notebook."""
    films, ways = films.copy(), rng.choice(6, len(films), p=_CHANCES)
    for way in range(1, 6):
        if not isinstance(augmenters[max(0, way - 3)], iaa.Identity):  # this step is left out
            films[ways == way] = _laid_down(films[ways == way], way)
    counts = rng.integers(3, size=len(films)) * (rng.random(len(films)) < 0.5)
    ranks = rng.random((len(films), len(augmenters) - 3)).argsort(axis=1)
    for augmenter, rank in zip(augmenters[3:], ranks.T, strict=True):
        if len(chosen := np.flatnonzero(rank < counts)):
            films[chosen] = _changed(augmenter, films[chosen], rng)
    return films


def _laid_down(films, way):
    return np.rot90(films, way, axes=(1, 2)) if way < 4 else np.flip(films, way - 3)


# As it is, three turns, two flips: the article's flips leave every second film.
_CHANCES = np.array([4, 2, 2, 2, 1, 1]) / 12


class Policy:
    """An augmentation policy; made by `build_policy`, which says what each is.

    It pickles as its recipe, so that a worker process builds its own augmenters.

    Attributes
    ----------
    steps : tuple of Step
        The augmentations in their order.

    Examples
    --------
    >>> [step.name for step in build_policy("anatomical").steps][:3]
    ['rotation', 'scaling', 'shift']
    """

    def __init__(self, steps, recipe, apply):
        self.steps, self.recipe, self._apply = steps, recipe, apply
        self._mine = threading.local()  # imgaug's augmenters hold random state: one set a thread

    def __reduce__(self):
        return build_policy, self.recipe

    def __call__(self, images, seed) -> np.ndarray:
        """Augment films.

        Parameters
        ----------
        images : numpy.ndarray
            ``uint8``, shape (N, H, W), grey.
        seed : int or sequence of int
            The same seed and films give the same result.

        Returns
        -------
        numpy.ndarray
            ``uint8``, shape (N, H, W).

        Examples
        --------
        >>> films = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
        >>> policy = build_policy("article")
        >>> bool((policy(films, (0, 1, 2)) == policy(films, (0, 1, 2))).all())
        True
        """
        if images.dtype != np.uint8 or images.ndim != 3:
            raise CovidxrError(f"a policy takes uint8 films (N, H, W), not {images.dtype} of shape {images.shape}")
        if not self.steps:
            return images
        if not hasattr(self._mine, "augmenters"):
            self._mine.augmenters = [step.make() for step in self.steps]
        # imgaug's own Sequential, OneOf and SomeOf would take as long as all the augmenters in them
        return self._apply(self._mine.augmenters, images, np.random.default_rng(seed))


def build_policy(name="article", flip=False, only=None) -> Policy:
    """Build an augmentation policy by name.

    Parameters
    ----------
    name : {"article", "anatomical", "none"}
        ``article`` is the article's: a quarter turn or a flip, and for every second film up to two of gamma,
        perspective, scaling and coarse dropout. ``anatomical`` is what can happen to an upright chest film, all of it
        to every film: small rotations, scaling, shifts, crops, gamma, noise, blur. ``"article without gamma"`` leaves
        that step's films as they are; all other steps draw as they would with it.
    flip : bool
        Whether to add left-right flips to a policy without them.
    only : sequence of str, optional
        Names of steps to apply, each to every film; by default the whole policy.

    Returns
    -------
    Policy
        Called with films and a seed, it gives changed films.

    Raises
    ------
    CovidxrError
        When there is no such policy or step.

    Examples
    --------
    >>> build_policy("artcle")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: unknown augmentation policy 'artcle'; available: none, article, anatomical
    """
    recipe, (name, _, off) = (name, flip, only), name.partition(" without ")
    if name not in POLICIES:
        raise unknown("augmentation policy", name, POLICIES)
    steps = POLICIES[name] + ((_FLIP,) if flip and _FLIP not in POLICIES[name] else ())
    names = [step.name for step in steps]
    for wanted in [*(only or ()), *([off] if off else [])]:
        if wanted not in names:
            raise unknown(f"step of policy {name!r}", wanted, names)
    steps = [step._replace(name=f"no {off}", make=iaa.Identity) if step.name == off else step for step in steps]
    apply = _as_the_article if name == "article" and only is None else _every_step
    return Policy(tuple(step for step in steps if only is None or step.name in only), recipe, apply)


class AugmentedBatches(keras.utils.PyDataset):
    """Batches of augmented, preprocessed films, shuffled anew each epoch.

    Parameters
    ----------
    images : numpy.ndarray
        ``uint8``, shape (N, H, W), grey.
    labels : numpy.ndarray
        Integer classes, shape (N,), from 0 to `n_classes` - 1.
    n_classes : int
        How many classes there are.
    policy : Policy
        From `build_policy`.
    batch_size : int
        Films a batch; the last batch of an epoch may be smaller.
    seed : int
        With epoch and batch it fixes order and augmentation.
    weights : numpy.ndarray, optional
        Shape (N,): how often each film is drawn, such as `covidxr.groups.cell_weights`. An epoch then has N draws, some films
        more than once; by default each once.
    **workers
        Passed to `keras.utils.PyDataset`: ``workers``, ``use_multiprocessing``, ``max_queue_size``.

    Examples
    --------
    >>> films = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8)
    >>> batches = AugmentedBatches(films, np.array([0, 1, 2, 0, 1, 2]), 3, build_policy("none"), batch_size=4)
    >>> x, y = batches[1]
    >>> len(batches), x.shape, y.shape
    (2, (2, 8, 8, 3), (2, 3))
    """

    def __init__(self, images, labels, n_classes, policy, batch_size=32, seed=0, weights=None, **workers):
        super().__init__(**workers)
        if len(images) != len(labels):
            raise CovidxrError(f"{len(images)} films but {len(labels)} labels")
        if weights is not None and len(weights) != len(images):
            raise CovidxrError(f"{len(images)} films but {len(weights)} weights")
        self.shares = None if weights is None else np.asarray(weights) / np.sum(weights)
        self.images, self.labels, self.n_classes = images, np.asarray(labels), n_classes
        self.policy, self.batch_size, self.seed, self.epoch = policy, batch_size, seed, 0

    def __len__(self):
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, batch):
        return self.batch(self.epoch, batch)

    def on_epoch_end(self):
        """Go on to the next epoch; Keras calls it."""
        self.epoch += 1

    def batch(self, epoch, batch) -> tuple[np.ndarray, np.ndarray]:
        """Make one batch, which depends on nothing but the seed and the two numbers.

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
        >>> films = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
        >>> batches = AugmentedBatches(films, np.arange(4) % 2, 2, build_policy("article"))
        >>> bool((batches.batch(5, 0)[0] == batches.batch(5, 0)[0]).all())
        True
        """
        rng, films = np.random.default_rng((self.seed, epoch)), len(self.images)
        order = rng.permutation(films) if self.shares is None else rng.choice(films, films, p=self.shares)
        rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        films = self.policy(self.images[rows], (self.seed, epoch, batch))
        return preprocess(films), _one_hot(self.labels[rows], self.n_classes)


class PlainBatches(keras.utils.PyDataset):
    """Batches of films as they are, preprocessed, always in the same order: for validation.

    Preprocessed films take twelve times the memory of decoded ones, so they are made batch by batch here too.

    Parameters
    ----------
    images, labels, n_classes, batch_size
        As for `AugmentedBatches`.

    Examples
    --------
    >>> batches = PlainBatches(np.zeros((5, 8, 8), np.uint8), np.arange(5) % 2, 2, batch_size=3)
    >>> len(batches), batches[1][0].shape, batches[1][1].tolist()
    (2, (2, 8, 8, 3), [[0.0, 1.0], [1.0, 0.0]])
    """

    def __init__(self, images, labels, n_classes, batch_size=32):
        super().__init__()
        self.images, self.labels, self.n_classes, self.batch_size = images, np.asarray(labels), n_classes, batch_size

    def __len__(self):
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, batch):
        rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
        return preprocess(self.images[rows]), _one_hot(self.labels[rows], self.n_classes)


def _one_hot(labels, n_classes):
    """A row a label, without the square matrix that would hold a row for each class."""
    return (labels[:, None] == np.arange(n_classes)).astype(np.float32)
