"""One image file to one grey ``uint8`` array, whatever it is; what cannot be read is rejected with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from covidxr.errors import CovidxrError

MAX_PIXELS = 100_000_000  # the largest detector films have about 20 million; more is a mistake or a decompression bomb
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


class DecodeError(CovidxrError):
    """A file that cannot become a radiograph; the message names the file and the reason.

    Examples
    --------
    >>> decode("no-such-film.png")
    Traceback (most recent call last):
        ...
    covidxr.decode.DecodeError: no-such-film.png: no such file
    """

    def __init__(self, path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def decode(path, image_size: int | None = None) -> np.ndarray:
    """Read an image file as a grey radiograph.

    Grey, RGB, RGBA, palette and CMYK files become grey by ITU-R 601 luma; 16-bit and floating-point files are stretched
    from their own minimum to their maximum, what is not a number counting as the minimum; EXIF rotation is applied. Large
    JPEG files are decoded at a reduced scale.

    Parameters
    ----------
    path : str or pathlib.Path
        Any file that Pillow reads.
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
        When the file is missing, a folder, empty, truncated, not an image, larger than 100 million pixels, or has no
        contrast.

    Examples
    --------
    >>> import tempfile
    >>> film = Path(tempfile.mkdtemp()) / "film.png"
    >>> Image.linear_gradient("L").save(film)
    >>> pixels = decode(film, image_size=64)
    >>> pixels.shape, pixels.dtype.name, bool(pixels[0].mean() < pixels[-1].mean())
    ((64, 64), 'uint8', True)
    """
    path = Path(path)
    if not path.is_file():
        raise DecodeError(path, "a folder, not a file" if path.is_dir() else "no such file")
    if path.stat().st_size == 0:
        raise DecodeError(path, "the file is empty")
    try:
        with open(path, "rb") as file, Image.open(file) as image:  # by name, Pillow 13 scrambles rotated raw TIFFs
            grey = _grey(image, path, image_size)
    except DecodeError:
        raise
    except UnidentifiedImageError as error:
        raise DecodeError(path, "not an image that can be read") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, met before ours
        raise DecodeError(path, f"more than {MAX_PIXELS:,} pixels are refused") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, … on broken files
        raise DecodeError(path, f"broken image file ({error})") from error
    if grey.min() == grey.max():
        raise DecodeError(path, f"no contrast, every pixel is {grey.min()}")
    return grey


def _grey(image, path, image_size):
    if image.width * image.height > MAX_PIXELS:
        raise DecodeError(path, f"more than {MAX_PIXELS:,} pixels are refused, it has {image.width}×{image.height}")
    if image_size is not None:
        image.draft(None, (2 * image_size, 2 * image_size))  # JPEG only; never below twice the size asked for
    image = ImageOps.exif_transpose(_eight_bit(image))
    if image_size is not None:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _eight_bit(image):
    if image.mode in _DEEP_MODES:
        return _stretch(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("L")
    return image.convert("RGB").convert("L") if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV") else image.convert("L")


def _stretch(image):
    values = np.asarray(image, dtype=np.float64)
    finite = np.isfinite(values)
    values = np.where(finite, values, values.min(where=finite, initial=np.inf) if finite.any() else 0)
    span = values.max() - values.min()
    grey = Image.fromarray(((values - values.min()) / (span or 1) * 255).round().astype(np.uint8))
    grey.info, grey.getexif = image.info, image.getexif  # so that a rotation noted in the file is still found
    return grey
