"""Films as arrays: decoding many, the cache of decoded films, masks, and the one `preprocess`."""

from __future__ import annotations

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL

from covidxr._opencv import cv2
from covidxr.decode import DecodeError, decode, decode_any
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
        With ``path``.
    image_size : int
        Side in pixels.
    cache : str or pathlib.Path, optional
        An ``.npz`` file; what it holds is known by the content of the files, whatever they are called. Files whose content
        is in it at this size, decoded by the same code, are not decoded again; where others are, it is written anew, as it
        is when it is damaged.

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
    paths = manifest.path.to_numpy()
    keys = [_content_key(path) for path in paths] if cache is not None else paths
    todo = {key: path for key, path in zip(keys, paths, strict=True) if key not in known}
    for key, film in zip(todo, decode_films(todo.values(), image_size), strict=True):
        if isinstance(film, DecodeError):
            raise film
        known[key] = film
    if cache is not None and todo:
        used = dict.fromkeys(keys)
        save_pixels(cache, list(used), np.stack([known[key] for key in used]))
    return np.stack([known[key] for key in keys])


def _content_key(path):
    """Name what a file is decoded to: a digest of its content and of the code that decodes it."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(_decoder())
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError):  # decoding it says what is wrong
        return str(path)
    return digest.hexdigest()


@functools.cache
def _decoder():
    code = [(Path(__file__).parent / name).read_bytes() for name in ("decode.py", "_dicom.py")]
    return hashlib.sha256(b"".join(code) + PIL.__version__.encode()).digest()


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
    """Write decoded films to a file that `read_pixels` reads.

    Parameters
    ----------
    cache : str or pathlib.Path
        The ``.npz`` file.
    image_ids : sequence of str
        N names, best such as tell one content from another.
    pixels : numpy.ndarray
        ``uint8``, shape (N, H, W).

    Examples
    --------
    >>> import tempfile
    >>> cache = Path(tempfile.mkdtemp()) / "pixels.npz"
    >>> save_pixels(cache, ["a"], np.zeros((1, 8, 8), np.uint8))
    >>> read_pixels(cache)[0]
    ['a']
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
    fits = pixels.dtype == np.uint8 and pixels.shape == (len(image_ids), image_size, image_size)
    return dict(zip(image_ids, pixels, strict=True)) if fits else {}


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
        When a mask is named that cannot be read, or whose brightest value is neither black nor white.

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
        mask = decode_any(path)
    except DecodeError as error:
        raise DecodeError(path, f"no mask that can be read: {error.reason}") from error
    if 0 < mask.max() <= 127:
        raise DecodeError(path, f"its brightest value is {mask.max()}; the inside of a mask is white, 255")
    return mask
