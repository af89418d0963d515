"""The same film twice: exact repeats, and copies scaled, recompressed, equalised or inverted, across sources and splits.

Two films are twins when their perceptual hashes differ in at most `THRESHOLD` of 256 bits. Measured on the 1,998 films of
the four real sources (almost two million pairs): ten pairs differ in 0 to 14 bits, and seen side by side all ten are one
film twice; no other pair differs in fewer than 50. Of 300 of those films, all of their copies at half the size, with gamma
0.6 or 1.6, equalised, or with a stretched contrast are found, 99 % of their JPEG copies of quality 30, 95 % of those cropped
by one hundredth on each side, two thirds of those turned by one degree. Copies that were mirrored, cropped by three
hundredths or written on in large letters are not found. Phantoms of different people differ in 36 bits and more.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from imagehash import phash
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from covidxr._opencv import cv2

THRESHOLD = 24
BITS = 256
_PAIR_COLUMNS = ("first", "second", "distance")


def film_hashes(pixels) -> np.ndarray:
    """Hash films by what they show: ImageHash's perceptual hash of the equalised film.

    Equalisation first, so that copies with another contrast or brightness stay close.

    Parameters
    ----------
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W).

    Returns
    -------
    numpy.ndarray
        ``uint64``, shape (N, 4): 256 bits a film, of which an inverted copy has nearly all turned.

    References
    ----------
    Zauner C., Implementation and benchmarking of perceptual image hash functions, 2010; the package
    ImageHash, Johannes Buchner.

    Examples
    --------
    >>> film_hashes(np.zeros((2, 64, 64), np.uint8)).shape
    (2, 4)
    """
    hashes = np.empty((len(pixels), BITS // 64), np.uint64)
    for film, target in zip(pixels, hashes, strict=True):
        target[:] = np.packbits(phash(Image.fromarray(cv2.equalizeHist(film)), hash_size=16).hash).view(np.uint64)
    return hashes


def distances(one, others) -> np.ndarray:
    """Count the bits in which hashes differ; for an inverted copy, the bits in which they agree.

    Parameters
    ----------
    one : numpy.ndarray
        ``uint64``, shape (4,).
    others : numpy.ndarray
        ``uint64``, shape (N, 4).

    Returns
    -------
    numpy.ndarray
        N whole numbers from 0 to 128.

    Examples
    --------
    >>> ones = np.full((1, 4), 2**64 - 1, np.uint64)
    >>> distances(np.uint64([0, 0, 0, 7]), np.concatenate([np.zeros_like(ones), ones])).tolist()
    [3, 3]
    """
    turned = np.bitwise_count(others ^ one).sum(axis=1, dtype=np.int64)
    return np.minimum(turned, BITS - turned)


def find_twins(pixels, threshold=THRESHOLD) -> pd.DataFrame:
    """Find all pairs of films that show the same picture.

    Parameters
    ----------
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W); 20,000 films take some seconds and no memory to speak of.
    threshold : int
        Most bits, of 256, that the hashes of twins differ in.

    Returns
    -------
    pandas.DataFrame
        A row a pair, closest first: positions ``first`` < ``second``, ``distance`` in bits, and ``kind``: ``exact`` when
        all pixels are the same, else ``near``.

    Examples
    --------
    >>> from covidxr.sources.phantom import make_phantom
    >>> film = make_phantom("Normal", np.random.default_rng(0), size=64).image
    >>> other = make_phantom("Normal", np.random.default_rng(1), size=64).image
    >>> find_twins(np.stack([film, other, film, 255 - film]))[["first", "second", "kind"]].values.tolist()
    [[0, 2, 'exact'], [0, 3, 'near'], [2, 3, 'near']]
    """
    pairs = _close_pairs(film_hashes(pixels), threshold)
    same = [np.array_equal(pixels[one], pixels[other]) for one, other in zip(pairs["first"], pairs.second, strict=True)]
    pairs["kind"] = np.where(same, "exact", "near")
    return pairs.sort_values(["kind", "distance", "first", "second"], ignore_index=True)


def _close_pairs(hashes, threshold):
    found = [np.empty((3, 0), int)]
    for first in range(len(hashes) - 1):
        apart = distances(hashes[first], hashes[first + 1 :])
        close = np.flatnonzero(apart <= threshold)
        found.append(np.stack([np.full(len(close), first), first + 1 + close, apart[close]]))
    return pd.DataFrame(dict(zip(_PAIR_COLUMNS, np.concatenate(found, axis=1), strict=True)))


def mark_twins(manifest, pixels) -> pd.DataFrame:
    """Give all films that are twins of one another the same name in ``twins``.

    Parameters
    ----------
    manifest : pandas.DataFrame
        Manifest rows.
    pixels : numpy.ndarray
        Their films, ``uint8``, shape (N, H, W).

    Returns
    -------
    pandas.DataFrame
        A copy; ``twins`` is the ``image_id`` of the group's first film, ``""`` for a film without a twin.

    Examples
    --------
    >>> film = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    >>> rows = pd.DataFrame({"image_id": ["a", "b", "c"]})
    >>> mark_twins(rows, np.stack([film, film.T, film])).twins.tolist()
    ['a', '', 'a']
    """
    distinct, which = np.unique(film_hashes(pixels), axis=0, return_inverse=True)  # or many copies make too many pairs
    pairs = _close_pairs(distinct, THRESHOLD)
    names = manifest.image_id.reset_index(drop=True).groupby(
        joined(len(distinct), (pairs["first"], pairs.second))[which.ravel()]
    )
    return manifest.assign(twins=np.where(names.transform("size") > 1, names.transform("first"), ""))


def twins_of(pixels, known) -> np.ndarray:
    """Tell which films show the same picture as one of those known already, such as a run's own.

    Parameters
    ----------
    pixels : numpy.ndarray
        The films asked about, ``uint8``, shape (N, H, W).
    known : numpy.ndarray
        The films known already, ``uint8``, shape (M, h, w); the sizes may differ.

    Returns
    -------
    numpy.ndarray
        ``bool``, shape (N,).

    Examples
    --------
    >>> films = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    >>> twins_of(films, films[1:2]).tolist()
    [False, True, False]
    """
    hashes = film_hashes(known)
    closest = [distances(film_hash, hashes).min(initial=BITS) for film_hash in film_hashes(pixels)]
    return np.array(closest, dtype=int) <= THRESHOLD


def joined(count: int, links) -> np.ndarray:
    """Number the groups that links make of things.

    Parameters
    ----------
    count : int
        How many things.
    links : tuple of two int sequences
        Positions of things that belong together.

    Returns
    -------
    numpy.ndarray
        The number of each thing's group.

    Examples
    --------
    >>> joined(4, ([0, 1], [2, 0])).tolist()
    [0, 0, 0, 1]
    """
    one, other = (np.asarray(ends, dtype=int) for ends in links)
    return connected_components(coo_matrix((np.ones(len(one)), (one, other)), (count, count)), directed=False)[1]


class TwinGuard:
    """Remembers films and tells whether a further one is a twin of one of them.

    Examples
    --------
    >>> guard = TwinGuard()
    >>> film = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    >>> guard.twin_of("a", film), guard.twin_of("b", film)
    ('', 'a')
    """

    def __init__(self):
        self._names, self._hashes = [], np.empty((1024, BITS // 64), np.uint64)

    def twin_of(self, name: str, film) -> str:
        """str: The remembered film that `film` is a twin of; without one ``""``, and `film` is remembered as `name`."""
        [film_hash] = film_hashes(film[None])
        apart = distances(film_hash, self._hashes[: len(self._names)])
        if len(apart) and apart.min() <= THRESHOLD:
            return self._names[apart.argmin()]
        if len(self._names) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[len(self._names)] = film_hash
        self._names.append(name)
        return ""
