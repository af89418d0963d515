"""Images as arrays: decoding any file, masks, the cache of decoded images, and the one `preprocess`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import ExifTags, Image, UnidentifiedImageError

from covidxr.data._bounds import (
    MAX_BYTES,
    MAX_PIXELS,
    CountedFile,
    Refused,
    check_image,
    check_scans,
    check_tiff,
)
from covidxr.data._dicom import read_dicom
from covidxr.data._opencv import cv2
from covidxr.data.manifest import DICOM_SUFFIXES
from covidxr.utils import CovidxrError, atomic_path


def load_lung_boxes(manifest, coco, image_size, source="covid-chestxray") -> np.ndarray:
    """Masks from a COCO file of lung boxes, for the images of one source.

    Parameters
    ----------
    manifest : pandas.DataFrame
        N manifest rows.
    coco : str or pathlib.Path
        A COCO annotation file; its boxes are in the pixels of the width and height given there with each image, so they
        scale with the image. An image is found by its whole ``file_name``, folders and all: the path in the manifest ends
        with it.
    image_size : int
        Side of the masks in pixels.
    source : str
        Whose images the file is about. Those of other sources get no boxes, whatever their names.

    Returns
    -------
    numpy.ndarray
        ``bool``, shape (N, image_size, image_size); all False for images that the file does not have.

    Raises
    ------
    CovidxrError
        When the file is missing or not in COCO's form, names an image twice, has a box that is not of numbers, without area
        or outside its image, or one image for several images; when none of its images is among the images of the source.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> boxes = {"images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
    ...          "annotations": [{"image_id": 1, "bbox": [0, 0, 10, 10]}]}
    >>> path = Path(tempfile.mkdtemp()) / "boxes.json"; _ = path.write_text(json.dumps(boxes))
    >>> images = pd.DataFrame({"path": ["images/a.png", "others/a.png"], "source": ["covid-chestxray", "figure1"]})
    >>> load_lung_boxes(images, path, 8).mean((1, 2)).tolist()
    [0.5, 0.0]
    """
    boxes = _read_boxes(Path(coco))
    masks, taken = np.zeros((len(manifest), image_size, image_size), bool), {}
    for mask, path, own in zip(masks, manifest.path, manifest.source, strict=True):
        name = _name_in(boxes, path) if own == source else None
        if name is not None and taken.setdefault(name, path) != path:
            raise CovidxrError(f"{coco}: its image {name} may be {taken[name]} or {path}; name its folder in file_name")
        for box in np.round(np.array(boxes.get(name, ())) * image_size).astype(int):
            left, top = np.minimum(box[:2], image_size - 1)  # however small, it is there
            right, bottom = np.maximum(box[2:], (left + 1, top + 1))
            mask[top:bottom, left:right] = True
    if boxes and not taken:
        raise CovidxrError(
            f"{coco}: none of its {len(boxes)} images is among the images of {source}, and it is about no others; this manifest "
            f"has {', '.join(sorted(set(manifest.source)))}. Leave lung_masks empty, and name masks of your own in the column lung_mask"
        )
    return masks


def _name_in(boxes, path):
    """Find the longest file name among the boxes with which a path ends, whole folders compared."""
    parts = Path(path).parts
    return next((name for n in range(len(parts)) if (name := "/".join(parts[n:])) in boxes), None)


def _read_boxes(coco):
    """Read for each file name its boxes: left, top, right and bottom as shares of the image's sides."""
    if not coco.is_file():
        raise CovidxrError(f"{coco}: no such file of lung boxes; name a COCO annotation file or leave lung_masks empty")
    try:
        content = json.loads(coco.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        sizes = {Path(image["file_name"]).as_posix(): (image["width"], image["height"]) for image in content["images"]}
        boxes = {name: [] for name in sizes}
        for note in content["annotations"]:
            x, y, width, height = np.array(note["bbox"], float)
            name = Path(images[note["image_id"]]["file_name"]).as_posix()
            with np.errstate(divide="raise", invalid="raise"):
                boxes[name].append(np.array([x, y, x + width, y + height]) / np.array(sizes[name] * 2, float))
    except (ValueError, KeyError, TypeError, AttributeError, FloatingPointError, RecursionError) as error:
        raise CovidxrError(f"{coco}: not a COCO annotation file ({type(error).__name__}: {error})") from error
    if not len(boxes) == len(images) == len(content["images"]):
        raise CovidxrError(f"{coco}: an id or a file_name stands there for two images; each needs its own")
    for name, found in boxes.items():
        for box in found:
            left, top, right, bottom = np.clip(box, 0, 1)
            if not (np.isfinite(box).all() and left < right and top < bottom):
                raise CovidxrError(
                    f"{coco}: a box of {name} has no area within its {sizes[name][0]}×{sizes[name][1]} pixels, its left, top, right "
                    f"and bottom being {', '.join(f'{side:g}' for side in box)} of its sides; correct it or take it out"
                )
    return {name: np.clip(found, 0, 1) for name, found in boxes.items()}


def black_out(images, masks) -> np.ndarray:
    """Paint the inside of masks black."""
    return np.where(masks, np.uint8(0), images)


def blur_outside(images, masks) -> np.ndarray:
    """Blur what is outside of masks, so far that no letter or edge can be read."""
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), 0.08 * len(image)) for image in images])
    return np.where(masks, images, blurred)


_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")  # others start Ghostscript, or are slow

_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's orientation

_USUAL_CHEST = (
    (12, 22, 45, 69, 69, 46, 21, 7),
    (77, 113, 74, 78, 80, 71, 112, 76),
    (99, 129, 57, 91, 105, 53, 126, 101),
    (65, 108, 76, 130, 148, 73, 104, 66),
    (47, 105, 92, 155, 176, 118, 103, 48),
    (39, 86, 77, 144, 172, 141, 90, 40),
    (35, 108, 160, 186, 182, 146, 89, 35),
    (40, 118, 170, 188, 185, 153, 113, 37),
)  # mean grey values of 450 phantoms


class DecodeError(CovidxrError):
    """A file that cannot become a radiograph; the message names the file and the reason."""

    def __init__(self, path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def read_image(path: str | Path, image_size: int | None = None) -> np.ndarray:
    """Read an image file as a grey radiograph.

    Colour files become grey by ITU-R 601 luma. 16-bit and floating-point files are stretched from their minimum to their
    maximum; NaN counts as the minimum. EXIF rotation is applied. DICOM files are rescaled, windowed and stretched,
    MONOCHROME1 is inverted, and padding becomes black. A few outlying pixels, such as detector defects, are clipped if they
    would leave less than a quarter of the grey values to the others. Large JPEG files are decoded at a reduced scale. Of
    several images in a TIFF or GIF file, the first is read.

    Parameters
    ----------
    path : str or pathlib.Path
        A JPEG, JPEG 2000, PNG, TIFF, BMP, WebP or GIF file, or a DICOM file with one image; its name does not matter.
    image_size : int, optional
        Side in pixels of the square that the image is scaled to, without keeping its aspect ratio, as in the article.
        By default the image keeps its size.

    Returns
    -------
    numpy.ndarray
        ``uint8``, shape (H, W), 0 black to 255 white.

    Raises
    ------
    DecodeError
        When the file is missing, a folder, empty, truncated, not an image, larger than 40 million pixels or 200 MB, made so
        that it would take much memory or time, or has no contrast; when a DICOM file holds no image or several.

    Examples
    --------
    >>> import tempfile
    >>> image = Path(tempfile.mkdtemp()) / "image.png"
    >>> Image.linear_gradient("L").save(image)
    >>> pixels = read_image(image, image_size=64)
    >>> pixels.shape, pixels.dtype.name, bool(pixels[0].mean() < pixels[-1].mean())
    ((64, 64), 'uint8', True)
    """
    grey = _decode_any(path, image_size)
    if grey.min() == grey.max():
        raise DecodeError(path, f"no contrast, every pixel is {grey.min()}")
    return grey


def _decode_any(path, image_size: int | None = None) -> np.ndarray:
    """Read an image file as `read_image` does, but accept one without contrast, such as a mask."""
    path = Path(path)
    try:
        _check_file(path)
        return _decode(path, image_size)
    except DecodeError:
        raise
    except Refused as error:
        raise DecodeError(path, str(error)) from error
    except (PermissionError, FileNotFoundError) as error:
        raise DecodeError(path, f"cannot be opened ({error.strerror})") from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(sorted({*_FORMATS, "DICOM"}))
        raise DecodeError(path, f"not an image that can be read; available: {kinds}") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, met before ours
        raise DecodeError(path, f"more than {MAX_PIXELS:,} pixels are refused") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, … on broken files
        raise DecodeError(path, f"broken image file ({error})") from error


def _check_file(path):
    if not os.path.isfile(path):  # unlike Path.is_file it also takes names that no file can have
        raise DecodeError(path, "a folder, not a file" if os.path.isdir(path) else "no such file")
    size = path.stat().st_size
    if size == 0:
        raise DecodeError(path, "the file is empty")
    if size > MAX_BYTES:
        raise DecodeError(path, f"files of more than {MAX_BYTES:,} bytes are refused, it has {size:,}")


def _decode(path, image_size):
    with CountedFile(path) as file:  # by name, Pillow 13 scrambles rotated raw TIFFs
        marked = file.read(132)[128:] == b"DICM"
        file.seek(0)
        check_tiff(file)
        try:
            with Image.open(file, formats=_FORMATS) as image:
                return _grey(image, file, image_size)
        except UnidentifiedImageError:
            if not (marked or path.suffix.lower() in DICOM_SUFFIXES):
                raise
        return _grey_dicom(file, image_size)


def _grey_dicom(file, image_size):
    values = read_dicom(file)
    image = Image.fromarray(values).convert("L") if values.ndim == 3 else Image.fromarray(_stretched(values))
    return np.asarray(_resize(image, image_size))


def _grey(image, file, image_size):
    check_image(image)
    if image.format in ("JPEG", "MPO"):
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:  # not read into memory
            check_scans(content)
    if image_size is not None:
        image.draft(None, (2 * image_size, 2 * image_size))  # JPEG only; never below twice the size asked for
    return np.asarray(_resize(_upright(image), image_size))


def _upright(image):
    """Make an image grey, and turn it as its EXIF block says; a damaged block says nothing, and leaves the pixels whole."""
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # struct.error, SyntaxError, ValueError, …
        orientation = None
    grey = _eight_bit(image)
    return grey.transpose(_TURNS[orientation]) if orientation in _TURNS else grey


def _resize(image, size):
    return image if size is None else image.resize((size, size), Image.Resampling.BILINEAR)


def _eight_bit(image):
    if image.mode in _DEEP_MODES:
        values = np.array(image, dtype=np.float64)
        if getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero
            np.negative(values, out=values)  # Pillow does so with eight bits alone
        return Image.fromarray(_stretched(values))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("L")
    return (
        image.convert("RGB").convert("L") if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV") else image.convert("L")
    )


def _stretched(values):
    """Stretch floats, which are overwritten, to 0 to 255."""
    finite = np.isfinite(values)
    values[~finite] = values.min(where=finite, initial=np.inf) if finite.any() else 0
    _clip_strays(values)
    lowest = values.min()
    values -= lowest
    values /= values.max() or 1
    values *= 255
    return values.round(out=values).astype(np.uint8)


def _clip_strays(values):
    """Clip the few pixels without which the others would have four times as many grey values, or more."""
    lowest, highest = values.min(), values.max()
    low, high = np.quantile(values.ravel()[:: values.size // 1_000_000 | 1], (0.01, 0.99))
    if highest - lowest <= 4 * (high - low):
        return
    usual = (values >= 2 * low - high) & (values <= 2 * high - low)
    low, high = values.min(where=usual, initial=np.inf), values.max(where=usual, initial=-np.inf)
    if 0 < 4 * (high - low) < highest - lowest:
        np.clip(values, low, high, out=values)


def scaled(image: np.ndarray, size: int) -> np.ndarray:
    """A decoded image at another size, as `read_image` scales it."""
    return np.asarray(_resize(Image.fromarray(image), size))


def looks_inverted(image) -> bool:
    """Whether a chest radiograph seems to be inverted, by its correlation with an average chest."""
    if min(image.shape) < 32:
        return False
    small = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BOX), dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):  # an image without contrast correlates with nothing
        return bool(np.corrcoef(small.ravel(), np.ravel(_USUAL_CHEST))[0, 1] < -0.2)


def read_images(paths, image_size) -> list:
    """Decode many files, in parallel."""

    def attempt(path):
        try:
            return read_image(path, image_size)
        except DecodeError as error:
            return error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(attempt, paths))


def preprocess(images: np.ndarray) -> np.ndarray:
    """Convert decoded images to network input: histogram equalisation, scaling to [0, 1], three channels.

    Training, evaluation, Grad-CAM and the audit all use this function; nothing else scales pixels.

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
            f"preprocess takes grey uint8 images of shape (N, H, W), not {images.dtype} of shape {images.shape}"
        )
    scaled = np.empty((*images.shape, 3), np.float32)
    for image, target in zip(images, scaled, strict=True):
        cv2.cvtColor(np.divide(cv2.equalizeHist(image), np.float32(255)), cv2.COLOR_GRAY2RGB, dst=target)
    return scaled


def images_at_size(run_dir, manifest, pixels, image_size) -> np.ndarray:
    """A run's images at another size: decoded once by the same code, and kept in the run folder."""
    if pixels.shape[1] == image_size:
        return pixels
    cache = Path(run_dir) / f"pixels-{image_size}.npz"
    names = (manifest.image_id + " " + manifest.sha256 + " " + _decoder()).tolist()
    with contextlib.suppress(CovidxrError):  # a cache is only a cache: the images are decoded again
        known, images = read_image_cache(cache)
        if known == names:
            return images
    decoded = read_images(manifest.path, image_size)
    for image in decoded:
        if isinstance(image, DecodeError):
            raise image
    write_image_cache(cache, names, np.stack(decoded))
    return np.stack(decoded)


@functools.cache
def _decoder():
    code = [(Path(__file__).parent / name).read_bytes() for name in ("images.py", "_dicom.py")]
    return hashlib.sha256(b"".join(code) + PIL.__version__.encode()).hexdigest()


def write_image_cache(cache, image_ids, pixels) -> None:
    """Write decoded images to a file that `read_image_cache` reads."""
    with atomic_path(cache) as temporary, open(temporary, "wb") as file:  # to a name without .npz, NumPy would add it
        np.savez(file, image_id=np.asarray(image_ids, dtype=str), pixels=pixels)


def read_image_cache(cache) -> tuple[list, np.ndarray]:
    """Read what `write_image_cache` wrote."""
    try:
        with np.load(cache) as stored:
            return stored["image_id"].tolist(), stored["pixels"]
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds on a damaged file
        raise CovidxrError(f"{cache} is missing or damaged; run notebook 01_dataset_assembly again") from error


def load_masks(paths: Sequence[str], image_size: int) -> np.ndarray:
    """Read masks, scaled like the images they belong to.

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
        mask = _decode_any(path)
    except DecodeError as error:
        raise DecodeError(path, f"no mask that can be read: {error.reason}") from error
    if 0 < mask.max() <= 127:
        raise DecodeError(path, f"its brightest value is {mask.max()}; the inside of a mask is white, 255")
    return mask
