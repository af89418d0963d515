"""DICOM files: every way to store and show a film ends in the same grey; what is no film is rejected with its reason."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

from covidxr import _bounds
from covidxr.dataset import assemble
from covidxr.decode import DecodeError, decode

ROWS, COLUMNS = np.mgrid[:48, :64]
RAMP = (3 * COLUMNS + ROWS).astype(np.uint16)  # 0 to 236
GREY = np.round(RAMP / RAMP.max() * 255)


def dicom(pixels=RAMP, **elements):
    """Build a DICOM film; elements named None are left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        DigitalXRayImageStorageForPresentation,
        generate_uid(),
    )
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    colour, bits = pixels.ndim == 3, 8 * pixels.dtype.itemsize
    plain = {
        "Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2", "PlanarConfiguration": 0 if colour else None,
        "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"), "PixelData": pixels.tobytes(),
    }  # fmt: skip
    for name, value in {**plain, **elements}.items():
        if value is not None:
            setattr(dataset, name, value)
    return dataset


def lookup(values, first=0):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [len(values), first, 16], np.asarray(values, np.uint16).tobytes()
    return [table]


def compressed(dataset):
    dataset.compress(RLELossless)
    return dataset


WINDOW = {"WindowCenter": 100.5, "WindowWidth": 51}  # shows 75 to 125 alone
IN_WINDOW = np.clip((RAMP - 75.0) / 50, 0, 1) * 255

COLOUR = np.stack([RAMP, RAMP // 2, 255 - RAMP], axis=2).astype(np.uint8)
IN_PADDING = np.where(COLUMNS == 63, 0, np.round((RAMP - 0.0) / RAMP[:, :63].max() * 255))


def padded(value, values=RAMP):
    """Fill the last column with what is no measurement."""
    values = values.copy()
    values[:, 63] = value
    return values


def hot():
    values = RAMP.copy()
    values[9, 9] = 65535
    return values


def palette():
    """Colour the values by a table that turns them over."""
    dataset = dicom(RAMP.astype(np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(
            dataset, f"{colour}PaletteColorLookupTableData", (np.arange(255, -1, -1).astype(np.uint16) * 257).tobytes()
        )
    return dataset


FILMS = {
    "plain": (dicom, {}, GREY, 0),
    "eight bits": (lambda: dicom(RAMP.astype(np.uint8)), {}, GREY, 0),
    "signed": (lambda: dicom(RAMP.astype(np.int16) - 500), {}, GREY, 0),
    "white is zero": (lambda: dicom(PhotometricInterpretation="MONOCHROME1"), {}, 255 - GREY, 1),
    "rescaled": (lambda: dicom(RescaleSlope=3, RescaleIntercept=-1024), {}, GREY, 1),
    "rescaled downwards": (lambda: dicom(RescaleSlope=-1, RescaleIntercept=0), {}, 255 - GREY, 1),
    "window": (lambda: dicom(**WINDOW), {}, IN_WINDOW, 3),
    "window after rescaling": (
        lambda: dicom(RescaleSlope=2, RescaleIntercept=10, WindowCenter=211, WindowWidth=101), {}, IN_WINDOW, 3,
    ),
    "window, white is zero": (lambda: dicom(PhotometricInterpretation="MONOCHROME1", **WINDOW), {}, 255 - IN_WINDOW, 3),
    "two windows": (lambda: dicom(WindowCenter=[100.5, 9], WindowWidth=[51, 3]), {}, IN_WINDOW, 3),
    "table of values of interest": (lambda: dicom(VOILUTSequence=lookup(2 * np.arange(256)[::-1])), {}, 255 - GREY, 1),
    "modality table": (lambda: dicom(ModalityLUTSequence=lookup(np.arange(256) * 7)), {}, GREY, 1),
    "colour": (lambda: dicom(np.repeat(RAMP.astype(np.uint8)[..., None], 3, axis=2)), {}, RAMP, 0),
    "run-length encoded": (lambda: compressed(dicom()), {}, GREY, 0),
    "run-length encoded, eight bits": (lambda: compressed(dicom(RAMP.astype(np.uint8))), {}, GREY, 0),
    "run-length encoded, signed": (lambda: compressed(dicom(RAMP.astype(np.int16) - 500)), {}, GREY, 0),
    "run-length encoded, colour": (lambda: compressed(dicom(COLOUR)), {}, np.asarray(Image.fromarray(COLOUR).convert("L")), 0),
    "palette": (lambda: palette(), {}, 255 - RAMP, 0),
    "no slope in the element": (lambda: dicom(RescaleSlope="", RescaleIntercept=""), {}, GREY, 0),
    "intercept without a slope": (
        lambda: dicom(RescaleSlope="", RescaleIntercept=-1024, WindowCenter=100.5 - 1024, WindowWidth=51), {}, IN_WINDOW, 3,
    ),
    "slope without an intercept": (lambda: dicom(RescaleSlope=-1), {}, 255 - GREY, 1),
    "no window in the element": (lambda: dicom(WindowCenter="", WindowWidth="", VOILUTSequence=[]), {}, GREY, 0),
    "padding": (lambda: dicom(padded(65535), PixelPaddingValue=65535), {}, IN_PADDING, 0),
    "padding, white is zero": (
        lambda: dicom(padded(65535, 236 - RAMP), PixelPaddingValue=65535, PhotometricInterpretation="MONOCHROME1"),
        {}, IN_PADDING, 1,
    ),
    "padding below all": (
        lambda: dicom(padded(-2000, RAMP.astype(np.int16)), PixelPaddingValue=-2000), {}, IN_PADDING, 0,
    ),
    "padding of several values": (
        lambda: dicom(padded(np.arange(5000, 5048)), PixelPaddingValue=5000, PixelPaddingRangeLimit=5047), {}, IN_PADDING, 0,
    ),
    "padding without its value": (lambda: dicom(PixelPaddingValue=None), {}, GREY, 0),
    "one hot pixel": (lambda: dicom(hot()), {}, np.where(hot() == 65535, 255, GREY), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", FILMS)
def test_every_dicom_becomes_the_grey_it_is_meant_to_show(name, tmp_path):
    make, _, expected, tolerance = FILMS[name]
    make().save_as(tmp_path / "film.dcm", enforce_file_format=True)
    film = decode(tmp_path / "film.dcm")
    assert film.dtype == np.uint8 and film.shape == RAMP.shape
    assert np.abs(film.astype(float) - expected).max() <= tolerance
    assert decode(tmp_path / "film.dcm", 16).shape == (16, 16)


def test_a_dicom_is_known_by_its_mark_or_else_by_its_name(tmp_path):
    dicom().save_as(tmp_path / "film.png", enforce_file_format=True)
    assert (decode(tmp_path / "film.png") == GREY).all()
    (tmp_path / "old.dcm").write_bytes((tmp_path / "film.png").read_bytes()[132:])
    assert (decode(tmp_path / "old.dcm") == GREY).all()
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "misnamed.dcm", "PNG")
    assert (decode(tmp_path / "misnamed.dcm") == RAMP).all()


def undecodable():
    dataset = dicom(PixelData=encapsulate([b"\xff\xd8\xff\xd9"]))
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return dataset


def deflated():
    dataset = dicom()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return dataset


BROKEN = {
    "no image": (lambda: dicom(PixelData=None), "a DICOM file without an image"),
    "no size": (lambda: dicom(Rows=None), "a DICOM file without an image"),
    "frames": (lambda: dicom(NumberOfFrames=12), "12 frames, a radiograph has one"),
    "bomb": (lambda: dicom(Rows=60000, Columns=60000), "more than 40,000,000 pixels are refused, it has 60000×60000"),
    "cut off": (lambda: dicom(PixelData=RAMP.tobytes()[:400]), "broken image file"),
    "deflated": (deflated, "a deflated DICOM file; convert it"),
    "no contrast": (lambda: dicom(np.full((9, 9), 7, np.uint16)), "no contrast, every pixel is 0"),
    "without its decoder": (undecodable, "its compression, JPEG Lossless.*needs a decoder; pip install 'pylibjpeg"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_film_is_rejected_with_its_reason(name, tmp_path):
    make, reason = BROKEN[name]
    make().save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with pytest.raises(DecodeError, match=reason):
        decode(tmp_path / "film.dcm", 16)


@pytest.mark.parametrize(
    "content", [b"DICM", b"not a film, whatever it is called", b"\0" * 128 + b"DICM", b"\0" * 4000]
)
def test_what_only_claims_to_be_dicom_is_rejected(content, tmp_path):
    (tmp_path / "film.dcm").write_bytes(content)
    with pytest.raises(DecodeError, match="DICOM file|broken image file"):
        decode(tmp_path / "film.dcm")


def test_the_same_limit_holds_for_both_readers(monkeypatch, tmp_path):
    dicom().save_as(tmp_path / "film.dcm", enforce_file_format=True)
    monkeypatch.setattr(_bounds, "MAX_PIXELS", RAMP.size - 1)
    with pytest.raises(DecodeError, match="pixels are refused, it has 64×48"):
        decode(tmp_path / "film.dcm")


def test_a_folder_of_dicom_films_is_assembled(tmp_path):
    for label, colour in (("Normal", "MONOCHROME1"), ("COVID-19", "MONOCHROME2")):
        for n in range(2):
            (tmp_path / "ours" / label).mkdir(parents=True, exist_ok=True)
            film = dicom(np.roll(RAMP, 5 * n + 1, axis=0), PhotometricInterpretation=colour)
            film.save_as(tmp_path / "ours" / label / f"{n}.dcm", enforce_file_format=True)
    dicom(PixelData=None).save_as(tmp_path / "ours" / "Normal" / "report.dcm", enforce_file_format=True)
    found = assemble([str(tmp_path / "ours")], classes=["Normal", "COVID-19"], per_class=None, image_size=16)
    assert found.manifest.label.tolist() == ["Normal"] * 2 + ["COVID-19"] * 2
    assert found.rejected.reason.tolist() == ["a DICOM file without an image"]


def test_reading_dicom_leaves_pydicom_as_it_was():
    assert callable(pydicom.config.disable_value_validation)
    with pydicom.config.disable_value_validation():
        pass
