"""Films as arrays: decoding many, the cache of decoded films, masks, and the one `preprocess`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from covidxr._opencv import cv2
from covidxr.decode import DecodeError, decode
from covidxr.errors import CovidxrError
from covidxr.files import atomic_path


def decode_films(paths, image_size) -> list:
    """Decode many files, in parallel.

    Parameters
    ----------
    paths : sequence of str
        The files.
    image_size : int
        Side in pixels that they are scaled to.

    Returns
    -------
    list
        For each path its ``uint8`` (image_size, image_size) array, or the `DecodeError` that says why not.

    Examples
    --------
    >>> decode_films(["no-such-film.png"], 32)
    [DecodeError('no-such-film.png: no such file')]
    """

    def attempt(path):
        try:
            return decode(path, image_size)
        except DecodeError as error:
            return error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(attempt, paths))


def preprocess(images) -> np.ndarray:
    """Make decoded films into the network's input: histogram equalisation, scaling, three channels.

    The same function serves training, validation, test, Grad-CAM and the audit; nothing else scales pixels.

    Parameters
    ----------
    images : numpy.ndarray
        ``uint8``, shape (N, H, W), grey.

    Returns
    -------
    numpy.ndarray
        ``float32``, shape (N, H, W, 3), values in [0, 1].

    Raises
    ------
    CovidxrError
        When the array has another type or shape.

    Examples
    --------
    >>> ramp = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    >>> batch = preprocess(ramp)
    >>> batch.shape, batch.dtype.name, float(batch.min()), float(batch.max())
    ((1, 4, 4, 3), 'float32', 0.0, 1.0)
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 3:
        raise CovidxrError(
            f"preprocess takes grey uint8 films of shape (N, H, W), not {images.dtype} of shape {images.shape}"
        )
    scaled = np.empty((*images.shape, 3), np.float32)
    for film, target in zip(images, scaled, strict=True):
        cv2.cvtColor(np.divide(cv2.equalizeHist(film), np.float32(255)), cv2.COLOR_GRAY2RGB, dst=target)
    return scaled


def load_pixels(manifest, image_size=100, cache=None) -> np.ndarray:
    """Decode the films of a manifest, once.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``image_id`` and ``path``.
    image_size : int
        Side in pixels.
    cache : str or pathlib.Path, optional
        An ``.npz`` file; films of this size in it are not decoded again, and new ones are added to it. A damaged one, or
        one of another size, is written anew.

    Returns
    -------
    numpy.ndarray
        ``uint8``, shape (N, image_size, image_size), in the order of the manifest.

    Raises
    ------
    DecodeError
        When a film cannot be read.
    CovidxrError
        When the manifest has no rows.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.dataset import assemble
    >>> made = assemble(per_class=1, image_size=32, work_dir=tempfile.mkdtemp())
    >>> bool((load_pixels(made.manifest, 32) == made.pixels).all())
    True
    """
    if manifest.empty:
        raise CovidxrError("the manifest has no rows: there are no films to load")
    known = _read_cache(cache, image_size)
    todo = manifest[~manifest.image_id.isin(list(known))]
    for image_id, film in zip(todo.image_id, decode_films(todo.path, image_size), strict=True):
        if isinstance(film, DecodeError):
            raise film
        known[image_id] = film
    if cache is not None and len(todo):
        save_pixels(cache, list(known), np.stack(list(known.values())))
    return np.stack([known[image_id] for image_id in manifest.image_id])


def pixels_of_size(run_dir, manifest, pixels, image_size) -> np.ndarray:
    """A run's films at another size: decoded once, and kept in the run folder.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The run folder.
    manifest : pandas.DataFrame
        Its N rows.
    pixels : numpy.ndarray
        Its films; given back where they have the size.
    image_size : int
        Side in pixels.

    Returns
    -------
    numpy.ndarray
        ``uint8``, shape (N, image_size, image_size).

    Examples
    --------
    >>> pixels_of_size("runs/demo", None, np.zeros((1, 8, 8), np.uint8), 8).shape
    (1, 8, 8)
    """
    if pixels.shape[1] == image_size:
        return pixels
    return load_pixels(manifest, image_size, Path(run_dir) / f"pixels-{image_size}.npz")


def save_pixels(cache, image_ids, pixels) -> None:
    """Write decoded films to a cache file that `load_pixels` reads.

    Parameters
    ----------
    cache : str or pathlib.Path
        The ``.npz`` file.
    image_ids : sequence of str
        N names.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W).

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> cache = Path(tempfile.mkdtemp()) / "pixels.npz"
    >>> save_pixels(cache, ["a"], np.zeros((1, 8, 8), np.uint8))
    >>> load_pixels(pd.DataFrame({"image_id": ["a"], "path": ["gone.png"]}), 8, cache).shape
    (1, 8, 8)
    """
    with atomic_path(cache) as temporary, open(temporary, "wb") as file:  # to a name without .npz, NumPy would add it
        np.savez(file, image_id=np.asarray(image_ids, dtype=str), pixels=pixels)


def read_pixels(cache) -> tuple[list, np.ndarray]:
    """Read what `save_pixels` wrote.

    Parameters
    ----------
    cache : str or pathlib.Path
        The ``.npz`` file.

    Returns
    -------
    image_ids : list of str
        N names.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W).

    Raises
    ------
    CovidxrError
        When the file is missing or damaged.

    Examples
    --------
    >>> read_pixels("runs/none/pixels.npz")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: runs/none/pixels.npz is missing or damaged; run notebook 01_dataset_assembly again
    """
    try:
        with np.load(cache) as stored:
            return stored["image_id"].tolist(), stored["pixels"]
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds on a damaged file
        raise CovidxrError(f"{cache} is missing or damaged; run notebook 01_dataset_assembly again") from error


def _read_cache(cache, image_size):
    if cache is None or not Path(cache).exists():
        return {}
    try:
        image_ids, pixels = read_pixels(cache)
    except CovidxrError:  # a cache is only a cache: the films are decoded again
        return {}
    return dict(zip(image_ids, pixels, strict=True)) if pixels.shape[1:] == (image_size, image_size) else {}


def load_masks(paths, image_size) -> np.ndarray:
    """Read masks, scaled like the films they belong to.

    Parameters
    ----------
    paths : sequence of str
        Image files, white inside; ``""`` where there is none.
    image_size : int
        Side in pixels.

    Returns
    -------
    numpy.ndarray
        ``bool``, shape (N, image_size, image_size); all False where there is no mask.

    Raises
    ------
    DecodeError
        When a mask is named that cannot be read.

    Examples
    --------
    >>> load_masks([""], 4).any()
    np.False_
    """
    masks = np.zeros((len(paths), image_size, image_size), bool)
    for mask, path in zip(masks, paths, strict=True):
        if path:
            mask[:] = cv2.resize(_read_mask(path), (image_size, image_size), interpolation=cv2.INTER_AREA) > 127
    return masks


def _read_mask(path):
    try:
        mask = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)
    except (OSError, cv2.error):
        mask = None
    if mask is None:
        raise DecodeError(path, "no mask that can be read")
    return mask
