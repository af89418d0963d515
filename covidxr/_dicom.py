"""DICOM files as grey values: bright is dense, whatever the file says about how it is to be shown."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder, pixel_array

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # hospitals' files are often not to the letter
pydicom.config.disable_value_validation = True

_DEFLATED = b"1.2.840.10008.1.2.1.99"  # a file in this transfer syntax is inflated before anything can be checked


class Refused(Exception):
    """Why a DICOM file cannot become a radiograph."""


def read_dicom(path, max_pixels: int) -> np.ndarray:
    """Read the one image of a DICOM file, rescaled, windowed and with MONOCHROME1 turned into bright on dark.

    Returns
    -------
    numpy.ndarray
        ``float64`` (H, W), or (H, W, 3) ``uint8``.

    Raises
    ------
    Refused
        With the reason.
    """
    with open(path, "rb") as file:
        if _DEFLATED in file.read(1024):
            raise Refused("a deflated DICOM file; convert it to an uncompressed one")
    _check(pydicom.dcmread(path, force=True, stop_before_pixels=True), max_pixels)
    dataset = pydicom.dcmread(path, force=True)
    if "PixelData" not in dataset:
        raise Refused("a DICOM file without an image")
    values = pixel_array(dataset)  # in colour, if it is, as RGB
    if values.ndim == 3:
        return _eight_bits(values, dataset)
    values = apply_voi_lut(apply_modality_lut(values, dataset), dataset).astype(np.float64)
    return -values if dataset.PhotometricInterpretation == "MONOCHROME1" else values


def _check(dataset, max_pixels):
    """Refuse what is no radiograph or would not fit into memory, before its pixels are touched."""
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise Refused("a DICOM file without an image")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise Refused(f"{dataset.NumberOfFrames} frames, a radiograph has one")
    if dataset.Rows * dataset.Columns > max_pixels:
        raise Refused(f"more than {max_pixels:,} pixels are refused, it has {dataset.Columns}×{dataset.Rows}")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise Refused("a DICOM file that does not say how its image is stored (no transfer syntax)")
    if syntax.is_encapsulated and not get_decoder(syntax).is_available:
        raise Refused(f"its compression, {syntax.name}, needs a decoder; pip install 'pylibjpeg[all]' or convert it")


def _eight_bits(values, dataset):
    return (values >> max(dataset.BitsStored - 8, 0)).astype(np.uint8)
