"""DICOM files as grey values: bright is dense, whatever the file says about how it is to be shown."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise

import numpy as np
import pydicom
from PIL import Image, UnidentifiedImageError
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, get_decoder, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from covidxr.data._bounds import Refused, check_scans, check_size

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # hospitals' files are often not to the letter


_IMAGE_GROUP = 0x0028

_ROWS_AT_ONCE = 256  # so that pydicom's intermediate results stay small

_LARGEST_TABLE = 1_000_000  # bytes; a lookup table has at most 65,536 entries of two


def read_dicom(file) -> np.ndarray:
    """Read the one image of a DICOM file, rescaled, windowed and with MONOCHROME1 turned into bright on dark."""
    file.seek(0)
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:  # inflated before anything can be checked
        raise Refused("a deflated DICOM file; convert it to an uncompressed one")
    file.seek(0)
    dataset = pydicom.dcmread(file, force=True)
    _check(dataset)
    _mend(dataset)
    values = _decoded(dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        return (values >> 8 * (values.itemsize - 1)).astype(np.uint8)
    return _eight_bits(values, dataset) if values.ndim == 3 else _shown(values, dataset)


def _check(dataset):
    """Refuse what is no radiograph or would not fit into memory, before its pixels are touched."""
    tables = [dataset.get_item(tag) for tag in list(dataset.keys()) if tag.group == _IMAGE_GROUP]
    if any(getattr(table, "length", 0) > _LARGEST_TABLE for table in tables):
        raise Refused("a DICOM file with a lookup table of more than 65,536 entries")
    if "PixelData" not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
        raise Refused("a DICOM file without an image")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise Refused(f"{dataset.NumberOfFrames} frames, a radiograph has one")
    check_size(dataset.Columns, dataset.Rows, dataset.get("SamplesPerPixel") or 1)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise Refused("a DICOM file that does not say how its image is stored (no transfer syntax)")
    if syntax.is_encapsulated:
        if not get_decoder(syntax).is_available:
            raise Refused(
                f"its compression, {syntax.name}, needs a decoder; pip install 'pylibjpeg[all]' or convert it"
            )
        _check_stream(dataset, syntax)


def _check_stream(dataset, syntax):
    """Refuse a compressed image that is larger than the file says, or stored in a way that takes long."""
    if syntax == RLELossless:
        return
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if stream.startswith(b"\xff\xd8"):
        check_scans(stream)
    try:
        with Image.open(BytesIO(stream), formats=("JPEG", "JPEG2000")) as image:
            size, cost = image.size, 2 if image.format == "JPEG2000" else 1
    except UnidentifiedImageError:
        return  # of a kind that Pillow does not know, and another decoder does
    if size != (dataset.Columns, dataset.Rows):
        raise Refused(f"an image of {size[0]}×{size[1]} pixels where {dataset.Columns}×{dataset.Rows} are announced")
    check_size(*size, cost * dataset.SamplesPerPixel)


def _mend(dataset):
    """Take an empty element as none, and a missing half of a rescaling as the one that changes nothing."""
    for element in dataset.group_dataset(_IMAGE_GROUP):
        if element.is_empty:
            del dataset[element.tag]
    if "RescaleSlope" in dataset or "RescaleIntercept" in dataset:
        dataset.setdefault("RescaleSlope", 1)
        dataset.setdefault("RescaleIntercept", 0)


def _decoded(dataset):
    """Decode the stored values: grey, or in colour as RGB."""
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        _unpack(dataset)
    return pixel_array(dataset, raw=dataset.PhotometricInterpretation == "PALETTE COLOR")


def _unpack(dataset):
    """Unpack a run-length encoded image with Pillow, which stops where the image is full; pydicom's decoder does not."""
    frame, size = get_frame(dataset.PixelData, 0, number_of_frames=1), dataset.Rows * dataset.Columns
    samples, width = dataset.SamplesPerPixel, dataset.BitsAllocated // 8
    count, *starts = np.frombuffer(frame[:64], "<u4").tolist()
    if count != samples * width:
        raise Refused(f"{count} run-length encoded segments, not {samples * width}")
    planes = np.empty((samples, size, width), np.uint8)
    for n, (start, end) in enumerate(pairwise([*starts[:count], len(frame)])):
        segment = Image.frombytes("L", (size, 1), frame[start:end], "packbits", "L")
        planes[n // width, :, width - 1 - n % width] = np.asarray(segment)[0]  # the highest byte comes first
    dataset.PixelData, dataset.PlanarConfiguration = planes.tobytes(), 1
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _shown(values, dataset):
    """Turn stored values into those to be shown, a few rows at a time."""
    shown = np.empty(values.shape, np.float64)
    for start in range(0, len(values), _ROWS_AT_ONCE):
        stored, target = values[start : start + _ROWS_AT_ONCE], shown[start : start + _ROWS_AT_ONCE]
        target[:] = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            np.negative(target, out=target)
        target[_padding(stored, dataset)] = np.nan
    return shown


def _padding(stored, dataset):
    """Find what fills the image up to a rectangle, and is no measurement."""
    if "PixelPaddingValue" not in dataset:
        return np.zeros(stored.shape, bool)
    ends = [dataset.PixelPaddingValue, dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue)]
    low, high = np.sort(np.array(ends).astype(stored.dtype))  # a signed value is often written as an unsigned one
    return (stored >= low) & (stored <= high)


def _eight_bits(values, dataset):
    return (values >> max(dataset.BitsStored - 8, 0)).astype(np.uint8)
