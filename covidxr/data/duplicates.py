"""Near-duplicates: exact repeats, and copies that are scaled, recompressed, equalised or inverted.

Two images are near-duplicates if their perceptual hashes differ in at most `THRESHOLD` of 256 bits. Among the 1,998 images
of the four public sources (almost two million pairs), ten pairs differ in 0 to 14 bits; by visual inspection all ten show
one image twice. No other pair differs in fewer than 50 bits. For 300 of these images, the hash finds all copies at half the
size, with gamma 0.6 or 1.6, equalised or with stretched contrast, 99 % of the JPEG copies of quality 30, 95 % of those
cropped by 1 % on each side and two thirds of those rotated by one degree. It misses copies that are mirrored, cropped by
3 % or overwritten with large letters. Phantoms of different people differ in 36 bits or more.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from imagehash import phash
from PIL import Image

from covidxr.data._opencv import cv2
from covidxr.data.splits import connected_groups

THRESHOLD = 24

BITS = 256

_PAIR_COLUMNS = ("first", "second", "distance")


def _image_hashes(images) -> np.ndarray:
    """Compute the perceptual hash (ImageHash) of each equalised image."""
    hashes = np.empty((len(images), BITS // 64), np.uint64)
    for image, target in zip(images, hashes, strict=True):
        target[:] = np.packbits(phash(Image.fromarray(cv2.equalizeHist(image)), hash_size=16).hash).view(np.uint64)
    return hashes


def _hash_distances(one, others) -> np.ndarray:
    """Count the bits in which hashes differ or, for an inverted copy, agree."""
    differing = np.bitwise_count(others ^ one).sum(axis=1, dtype=np.int64)
    return np.minimum(differing, BITS - differing)


def find_duplicates(images: np.ndarray, threshold: int = THRESHOLD) -> pd.DataFrame:
    """Find all pairs of near-duplicate images.

    Parameters
    ----------
    images : numpy.ndarray
        ``uint8``, shape (N, H, W); 20,000 images take some seconds and little memory.
    threshold : int
        Largest number of bits, of 256, in which the hashes of near-duplicates differ.

    Returns
    -------
    pandas.DataFrame
        One row per pair, closest first: positions ``first`` < ``second``, ``distance`` in bits, and ``kind``: ``exact``
        if all pixels are equal, otherwise ``near``.

    Examples
    --------
    >>> from covidxr.data.phantom import make_phantom
    >>> image = make_phantom("Normal", np.random.default_rng(0), size=64).image
    >>> other = make_phantom("Normal", np.random.default_rng(1), size=64).image
    >>> find_duplicates(np.stack([image, other, image, 255 - image]))[["first", "second", "kind"]].values.tolist()
    [[0, 2, 'exact'], [0, 3, 'near'], [2, 3, 'near']]
    """
    pairs = _close_pairs(_image_hashes(images), threshold)
    same = [np.array_equal(images[one], images[other]) for one, other in zip(pairs["first"], pairs.second, strict=True)]
    pairs["kind"] = np.where(same, "exact", "near")
    return pairs.sort_values(["kind", "distance", "first", "second"], ignore_index=True)


def _close_pairs(hashes, threshold):
    found = [np.empty((3, 0), int)]
    for first in range(len(hashes) - 1):
        distances = _hash_distances(hashes[first], hashes[first + 1 :])
        close = np.flatnonzero(distances <= threshold)
        found.append(np.stack([np.full(len(close), first), first + 1 + close, distances[close]]))
    return pd.DataFrame(dict(zip(_PAIR_COLUMNS, np.concatenate(found, axis=1), strict=True)))


def mark_duplicates(manifest, images) -> pd.DataFrame:
    """Fill ``duplicate_group``: near-duplicates of one another share the name of the first; others have none."""
    distinct, which = np.unique(
        _image_hashes(images), axis=0, return_inverse=True
    )  # or many copies make too many pairs
    pairs = _close_pairs(distinct, THRESHOLD)
    names = manifest.image_id.reset_index(drop=True).groupby(
        connected_groups(len(distinct), (pairs["first"], pairs.second))[which.ravel()]
    )
    return manifest.assign(duplicate_group=np.where(names.transform("size") > 1, names.transform("first"), ""))


def duplicates_of(images, known) -> np.ndarray:
    """Which images are near-duplicates of one of the `known` images, such as a run's own."""
    hashes = _image_hashes(known)
    closest = [_hash_distances(image_hash, hashes).min(initial=BITS) for image_hash in _image_hashes(images)]
    return np.array(closest, dtype=int) <= THRESHOLD


class DuplicateFilter:
    """Remembers images and finds those that are near-duplicates of an earlier one."""

    def __init__(self):
        self._names, self._hashes = [], np.empty((1024, BITS // 64), np.uint64)

    def duplicate_of(self, name: str, image) -> str:
        """Return the name of the earlier image that `image` repeats; otherwise remember it as `name` and return ``""``."""
        [image_hash] = _image_hashes(image[None])
        distances = _hash_distances(image_hash, self._hashes[: len(self._names)])
        if len(distances) and distances.min() <= THRESHOLD:
            return self._names[distances.argmin()]
        if len(self._names) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[len(self._names)] = image_hash
        self._names.append(name)
        return ""
