"""One image file to one grey ``uint8`` array, whatever it is; what cannot be read is rejected with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from covidxr.errors import CovidxrError

MAX_PIXELS = 100_000_000  # the largest detector films have about 20 million; more is a mistake or a decompression bomb
DICOM_SUFFIXES = (".dcm", ".dicom")
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", *DICOM_SUFFIXES)
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
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
    from their own minimum to their maximum, what is not a number counting as the minimum; EXIF rotation is applied. DICOM
    files are rescaled, windowed and stretched, MONOCHROME1 turned into bright on dark. Large JPEG files are decoded at a
    reduced scale.

    Parameters
    ----------
    path : str or pathlib.Path
        Any file that Pillow reads, or a DICOM file with one image.
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
        contrast; when a DICOM file holds no image or several.

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
    try:
        _check_file(path)
        grey = _read(path, image_size)
    except DecodeError:
        raise
    except (PermissionError, FileNotFoundError) as error:
        raise DecodeError(path, f"cannot be opened ({error.strerror})") from error
    except UnidentifiedImageError as error:
        raise DecodeError(path, "not an image that can be read") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, met before ours
        raise DecodeError(path, f"more than {MAX_PIXELS:,} pixels are refused") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, … on broken files
        raise DecodeError(path, f"broken image file ({error})") from error
    if grey.min() == grey.max():
        raise DecodeError(path, f"no contrast, every pixel is {grey.min()}")
    return grey


def _check_file(path):
    if not os.path.isfile(path):  # unlike Path.is_file it also takes names that no file can have
        raise DecodeError(path, "a folder, not a file" if os.path.isdir(path) else "no such file")
    if path.stat().st_size == 0:
        raise DecodeError(path, "the file is empty")


def _read(path, image_size):
    with open(path, "rb") as file:  # by name, Pillow 13 scrambles rotated raw TIFFs
        marked = file.read(132)[128:] == b"DICM"
        file.seek(0)
        try:
            with Image.open(file) as image:
                return _grey(image, path, image_size)
        except UnidentifiedImageError:
            if not (marked or path.suffix.lower() in DICOM_SUFFIXES):
                raise
    return _grey_dicom(path, image_size)


def _grey_dicom(path, image_size):
    from covidxr._dicom import Refused, read_dicom  # pydicom takes a second to import, and few data sets need it

    try:
        values = read_dicom(path, MAX_PIXELS)
    except Refused as error:
        raise DecodeError(path, str(error)) from error
    image = Image.fromarray(values).convert("L") if values.ndim == 3 else Image.fromarray(_stretched(values))
    return np.asarray(_scaled(image, image_size))


def _grey(image, path, image_size):
    if image.width * image.height > MAX_PIXELS:
        raise DecodeError(path, f"more than {MAX_PIXELS:,} pixels are refused, it has {image.width}×{image.height}")
    if image_size is not None:
        image.draft(None, (2 * image_size, 2 * image_size))  # JPEG only; never below twice the size asked for
    return np.asarray(_scaled(ImageOps.exif_transpose(_eight_bit(image)), image_size))


def _scaled(image, size):
    return image if size is None else image.resize((size, size), Image.Resampling.BILINEAR)


def _eight_bit(image):
    if image.mode in _DEEP_MODES:
        return _stretch(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("L")
    return (
        image.convert("RGB").convert("L") if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV") else image.convert("L")
    )


def _stretch(image):
    grey = Image.fromarray(_stretched(np.asarray(image, dtype=np.float64)))
    grey.info, grey.getexif = image.info, image.getexif  # so that a rotation noted in the file is still found
    return grey


def _stretched(values):
    finite = np.isfinite(values)
    values = np.where(finite, values, values.min(where=finite, initial=np.inf) if finite.any() else 0)
    span = values.max() - values.min()
    return ((values - values.min()) / (span or 1) * 255).round().astype(np.uint8)


def looks_inverted(film) -> bool:
    """Tell whether a film of a chest seems to be shown with black and white exchanged.

    The film, shrunk to 8×8 pixels, is compared with the mean of 450 phantoms; one whose correlation with it is below
    -0.2 looks inverted. Measured on 1,998 films of the four real sources, none of which is inverted: no false positive
    (so at most 0.2 %, with 95 % confidence), the lowest correlation being -0.02; of the same films inverted, 99.9 % found.
    It is reported rather than undone, since it is a guess.

    Parameters
    ----------
    film : numpy.ndarray
        ``uint8``, shape (H, W), frontal. Of one smaller than 32 pixels nothing is said.

    Returns
    -------
    bool

    Examples
    --------
    >>> from covidxr.sources.phantom import make_phantom
    >>> film = make_phantom("Normal", np.random.default_rng(0), size=64).image
    >>> looks_inverted(film), looks_inverted(255 - film)
    (False, True)
    """
    if min(film.shape) < 32:
        return False
    small = np.asarray(Image.fromarray(film).resize((8, 8), Image.Resampling.BOX), dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):  # a film without contrast correlates with nothing
        return bool(np.corrcoef(small.ravel(), np.ravel(_USUAL_CHEST))[0, 1] < -0.2)
