"""One image file to one grey ``uint8`` array, whatever it is; what cannot be read is rejected with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from covidxr._bounds import MAX_BYTES, MAX_PIXELS, CountedFile, Refused, check_image, check_scans, check_tiff, mapped
from covidxr.errors import CovidxrError

DICOM_SUFFIXES = (".dcm", ".dicom")
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", *DICOM_SUFFIXES)
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
    from their own minimum to their maximum, what is not a number counting as the minimum; EXIF rotation is applied, unless
    the EXIF block is damaged. DICOM files are rescaled, windowed and stretched, MONOCHROME1 turned into bright on dark and
    padding into black. Where a few pixels far from all others, such as a detector's defects, would leave less than a quarter
    of the grey values for the rest, they are clipped. Large JPEG files are decoded at a reduced scale. Of a TIFF or GIF file
    with several images the first is read.

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
    >>> film = Path(tempfile.mkdtemp()) / "film.png"
    >>> Image.linear_gradient("L").save(film)
    >>> pixels = decode(film, image_size=64)
    >>> pixels.shape, pixels.dtype.name, bool(pixels[0].mean() < pixels[-1].mean())
    ((64, 64), 'uint8', True)
    """
    grey = decode_any(path, image_size)
    if grey.min() == grey.max():
        raise DecodeError(path, f"no contrast, every pixel is {grey.min()}")
    return grey


def decode_any(path, image_size: int | None = None) -> np.ndarray:
    """Read an image file as `decode` does, also one without contrast, as a mask may be."""
    path = Path(path)
    try:
        _check_file(path)
        return _read(path, image_size)
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


def _read(path, image_size):
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
    from covidxr._dicom import read_dicom  # pydicom takes a second to import, and few data sets need it

    values = read_dicom(file)
    image = Image.fromarray(values).convert("L") if values.ndim == 3 else Image.fromarray(_stretched(values))
    return np.asarray(_scaled(image, image_size))


def _grey(image, file, image_size):
    check_image(image)
    if image.format in ("JPEG", "MPO"):
        with mapped(file) as content:
            check_scans(content)
    if image_size is not None:
        image.draft(None, (2 * image_size, 2 * image_size))  # JPEG only; never below twice the size asked for
    return np.asarray(_scaled(_upright(image), image_size))


def _upright(image):
    """Make an image grey, and turn it as its EXIF block says; a damaged block says nothing, and leaves the pixels whole."""
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # struct.error, SyntaxError, ValueError, …
        orientation = None
    grey = _eight_bit(image)
    return grey.transpose(_TURNS[orientation]) if orientation in _TURNS else grey


def _scaled(image, size):
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
