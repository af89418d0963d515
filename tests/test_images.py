"""Decoding: every kind of file becomes the same grey image, upright; every broken one a sentence."""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

from covidxr.data import _bounds, images
from covidxr.data._bounds import MAX_BYTES
from covidxr.data.dataset import build_dataset, load_dataset, save_dataset
from covidxr.data.images import (
    DecodeError,
    images_at_size,
    load_masks,
    looks_inverted,
    preprocess,
    read_image,
    read_image_cache,
    read_images,
    write_image_cache,
)
from covidxr.data.manifest import COLUMNS, manifest_rows, read_table
from covidxr.data.phantom import make_phantom
from covidxr.data.sources import _load_table, excluded_images, load_source
from covidxr.utils import CovidxrError, write_csv

ROWS, COLUMNS_DECODE = np.mgrid[:48, :64]
RAMP = (3 * COLUMNS_DECODE + ROWS).astype(np.uint8)  # dark at the top left, brighter to the right than downwards
STRETCHED = np.round(RAMP / RAMP.max() * 255)
HOLE = RAMP == 100
INVERTED = [255 - value for value in range(256) for _ in "rgb"]

# what a viewer must do with the stored rows for each value of EXIF's orientation
UPRIGHT = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
           6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90}  # fmt: skip


def grey():
    return Image.fromarray(RAMP)


def palette():
    image = grey().copy()
    image.putpalette(INVERTED)
    return image


def see_through():
    image = grey().convert("RGBA")
    image.putalpha(128)
    return image


def measured():
    values = RAMP * np.float32(7) - 2000
    values[HOLE] = np.nan
    values[0, 0] = -np.inf
    return Image.fromarray(values)


def white_is_zero(image):
    """Save a TIFF file's values with the tag that turns their meaning over."""
    return lambda: image, {"format": "TIFF", "tiffinfo": {262: 0}}


def hot():
    """Plant one pixel that is out of all proportion."""
    values = RAMP * np.uint16(16)
    values[9, 9] = 65535
    return values


KINDS = {
    "grey.png": (grey, {}, RAMP, 0),
    "grey.bmp": (grey, {}, RAMP, 0),
    "grey.jpg": (grey, {"quality": 95}, RAMP, 3),
    "rgb.png": (lambda: grey().convert("RGB"), {}, RAMP, 0),
    "rgb.jpg": (lambda: grey().convert("RGB"), {"quality": 95}, RAMP, 3),
    "rgba.png": (lambda: grey().convert("RGBA"), {}, RAMP, 0),
    "half-transparent.png": (see_through, {}, RAMP / 2, 1),
    "grey-with-alpha.png": (lambda: grey().convert("LA"), {}, RAMP, 0),
    "grey-with-hole.png": (grey, {"transparency": 100}, np.where(HOLE, 0, RAMP), 0),
    "palette.png": (palette, {}, 255.0 - RAMP, 0),
    "palette.gif": (palette, {}, 255.0 - RAMP, 0),
    "palette-with-hole.png": (palette, {"transparency": 100}, np.where(HOLE, 0, 255.0 - RAMP), 0),
    "cmyk.tif": (lambda: grey().convert("RGB").convert("CMYK"), {}, RAMP, 1),
    "cmyk.jpg": (lambda: grey().convert("RGB").convert("CMYK"), {"quality": 95}, RAMP, 4),
    "one-bit.png": (lambda: Image.fromarray(RAMP > 100), {}, 255 * (RAMP > 100), 0),
    "sixteen-bit.png": (lambda: Image.fromarray(RAMP * np.uint16(250)), {}, STRETCHED, 0),
    "sixteen-bit.tif": (lambda: Image.fromarray(RAMP * np.uint16(250) + np.uint16(900)), {}, STRETCHED, 0),
    "thirty-two-bit.tif": (lambda: Image.fromarray(RAMP * np.int32(5000) - 70000), {}, STRETCHED, 0),
    "float.tif": (measured, {}, np.where(HOLE, 0, STRETCHED), 1),
    "white-is-zero.tif": (*white_is_zero(grey()), RAMP, 0),
    "white-is-zero-16.tif": (*white_is_zero(Image.fromarray(np.uint16(60000) - RAMP * np.uint16(250))), STRETCHED, 0),
    "white-is-zero-float.tif": (
        *white_is_zero(Image.fromarray(-np.asarray(measured()))),
        np.where(HOLE, 0, STRETCHED),
        1,
    ),
    "hot-pixel.png": (lambda: Image.fromarray(hot()), {}, np.where(hot() == 65535, 255, STRETCHED), 0),
    "hot-pixel.tif": (
        lambda: Image.fromarray(hot().astype(np.float32)),
        {},
        np.where(hot() == 65535, 255, STRETCHED),
        0,
    ),
    "dead-pixel.tif": (lambda: Image.fromarray(65535 - hot()), {}, np.where(hot() == 65535, 0, 255 - STRETCHED), 1),
    "two-levels.png": (
        lambda: Image.fromarray(np.where(HOLE, 40000, 7).astype(np.uint16)),
        {},
        np.where(HOLE, 255, 0),
        0,
    ),
    "webp-in-truth.png": (grey, {"format": "WEBP", "lossless": True}, RAMP, 0),
    "an image, of 'J.'.png": (grey, {}, RAMP, 0),
    "плівка 肺.png": (grey, {}, RAMP, 0),
    "two\nlines.png": (grey, {}, RAMP, 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_becomes_the_same_grey(name, tmp_path):
    make, options, expected, tolerance = KINDS[name]
    make().save(tmp_path / name, **options)
    image = read_image(tmp_path / name)
    assert image.dtype == np.uint8 and image.shape == RAMP.shape
    assert np.abs(image.astype(float) - expected).max() <= tolerance


@pytest.mark.parametrize(("colour", "luma"), [("red", 76), ("lime", 150), ("blue", 29), ("white", 255)])
def test_colours_weigh_as_the_eye_sees_them(colour, luma, tmp_path):
    image = Image.new("RGB", (8, 8), "black")
    image.paste(colour, (0, 0, 4, 8))
    image.save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png"))[0].tolist() == [luma] * 4 + [0] * 4


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["image.jpg", "image.png", "image.tif", "deep.png", "deep.tif"])
def test_rotation_noted_in_the_file_is_applied_once(name, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = RAMP * np.uint16(250) if name.startswith("deep") else RAMP
    Image.fromarray(stored).save(tmp_path / name, exif=exif, **({"quality": 95} if name.endswith("jpg") else {}))
    expected = UPRIGHT[orientation](STRETCHED if name.startswith("deep") else RAMP)
    image = read_image(tmp_path / name)
    assert image.shape == expected.shape
    assert np.abs(image.astype(float) - expected).max() <= 3


@pytest.mark.parametrize(
    ("turned", "exif"),
    [
        (False, b"Exif\0\0nothing of the kind"),
        (False, b"Exif\0\0II*\0"),
        (False, b"Exif\0\0MM\0*\0\0\xff\xff"),
        (False, b"Exif\0\0"),
        # The rotation stands before the damage.
        (True, b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHII", 0x0112, 3, 1, 6) + b"\x1a\x01\x05\0\x01\0"),
        (
            True,
            b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHII", 0x0112, 3, 1, 6, 0x011A, 5, 1, 9999) + bytes(4),
        ),
    ],
)
@pytest.mark.parametrize("name", ["image.jpg", "image.png"])
def test_a_damaged_exif_block_does_not_cost_the_image(name, turned, exif, tmp_path):
    Image.fromarray(RAMP).save(tmp_path / name, exif=exif, **({"quality": 95} if name.endswith("jpg") else {}))
    image = read_image(tmp_path / name)
    expected = UPRIGHT[6](RAMP) if turned else RAMP
    assert image.shape == expected.shape and np.abs(image.astype(float) - expected).max() <= 3


def test_an_outlier_is_clipped_only_where_the_rest_would_be_lost(tmp_path):
    for brightest, untouched in ((900, True), (5 * 708, False)):
        values = RAMP * np.uint16(3)  # up to 708
        values[9, 9] = brightest
        Image.fromarray(values).save(tmp_path / "image.png")
        plain = np.round(values / brightest * 255)
        assert (read_image(tmp_path / "image.png") == plain).all() == untouched


@pytest.mark.parametrize("suffix", ["eps", "ppm", "fits", "psd"])
def test_formats_that_no_radiograph_has_are_not_tried(suffix, tmp_path):
    starts = {"eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "ppm": b"P2\n2 1\n255\n0 255\n",
              "fits": b"SIMPLE  =                    T", "psd": b"8BPS\0\x01"}  # fmt: skip
    (tmp_path / "image.png").write_bytes(starts[suffix])
    with pytest.raises(
        DecodeError, match="not an image that can be read; available: BMP, DIB, DICOM, GIF, JPEG, JPEG2000, PNG"
    ):
        read_image(tmp_path / "image.png")


def test_scaling_ignores_the_aspect_ratio_and_keeps_the_ramp(tmp_path):
    grey().save(tmp_path / "image.png")
    image = read_image(tmp_path / "image.png", 16)
    assert image.shape == (16, 16)
    expected = RAMP.reshape(16, 3, 16, 4).mean(axis=(1, 3))
    assert np.abs(image - expected)[1:-1, 1:-1].max() <= 1


def test_scaling_turns_first(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    grey().save(tmp_path / "image.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "image.jpg", 16).astype(int)
    assert image[0, -1] < image[0, 0] < image[-1, 0]  # the dark corner is now at the top right


def png(width, height, bits=8):
    """Build a PNG whose header promises more than it holds."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 9)),
        (b"IEND", b""),
    )
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def saved(tmp_path, kind, image=None, keep=1.0):
    (image or grey().resize((400, 300))).save(tmp_path / "whole", kind)
    whole = (tmp_path / "whole").read_bytes()
    return whole[: int(keep * len(whole))]


BROKEN = {
    "empty": (lambda _: b"", "the file is empty"),
    "text": (lambda _: b"patient moved, no image taken\n", "not an image that can be read"),
    "half a png": (lambda folder: saved(folder, "PNG", keep=0.5), "broken image file"),
    "half a jpeg": (lambda folder: saved(folder, "JPEG", keep=0.5), "broken image file"),
    "half a tiff": (lambda folder: saved(folder, "TIFF", keep=0.5), "broken image file|not an image"),
    "a png's beginning": (lambda folder: saved(folder, "PNG")[:20], "broken image file|not an image"),
    "all grey": (lambda folder: saved(folder, "PNG", Image.new("L", (9, 9), 77)), "no contrast, every pixel is 77"),
    "not a number": (lambda folder: saved(folder, "TIFF", Image.new("F", (9, 9), np.nan)), "no contrast"),
    "a bomb": (lambda _: png(50_000, 50_000), "more than 40,000,000 pixels are refused"),
    "a small bomb": (
        lambda _: png(10_000, 10_001, bits=1),
        "more than 40,000,000 pixels are refused, it has 10000×10001",
    ),
    "header only": (lambda _: png(64, 64), "broken image file"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("image_size", [None, 32])
@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_an_image_is_rejected_with_its_reason(name, image_size, tmp_path):
    content, reason = BROKEN[name]
    path = tmp_path / "image.png"
    path.write_bytes(content(tmp_path))
    with pytest.raises(DecodeError, match=reason) as caught:
        read_image(path, image_size)
    assert str(caught.value) == f"{path}: {caught.value.reason}" and isinstance(caught.value, CovidxrError)


def test_missing_files_and_folders_are_told_apart(tmp_path):
    with pytest.raises(DecodeError, match="no such file"):
        read_image(tmp_path / "image.png")
    with pytest.raises(DecodeError, match="a folder, not a file"):
        read_image(tmp_path)


def test_a_link_is_followed(tmp_path):
    grey().save(tmp_path / "image.png")
    (tmp_path / "link.png").symlink_to("image.png")
    assert (read_image(tmp_path / "link.png") == RAMP).all()


def test_links_that_lead_nowhere_are_rejected(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "dangling.png").symlink_to("gone.png")
    (tmp_path / "folder.png").symlink_to(tmp_path)
    for name, reason in (("loop.png", "no such file"), ("dangling.png", "no such file"), ("folder.png", "a folder")):
        with pytest.raises(DecodeError, match=reason):
            read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "nul\0.png", "\udcff.png", ""])
def test_names_that_no_image_can_have_are_rejected(name, tmp_path):
    with pytest.raises(DecodeError, match="no such file|a folder"):
        read_image(str(tmp_path) + "/" + name)


def test_what_may_not_be_opened_is_a_sentence(tmp_path, monkeypatch):
    grey().save(tmp_path / "image.png")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("io.FileIO", refuse)
    with pytest.raises(DecodeError, match=r"image.png: cannot be opened \(Permission denied\)"):
        read_image(tmp_path / "image.png")


@pytest.mark.parametrize("view", ["PA", "AP"])
@pytest.mark.parametrize("label", ["Normal", "COVID-19", "Bacteria"])
def test_inverted_images_are_told_from_others(label, view):
    images = [make_phantom(label, np.random.default_rng(n), size=64, view=view).image for n in range(8)]
    assert not any(map(looks_inverted, images)) and all(looks_inverted(255 - image) for image in images)


def test_what_is_no_chest_is_not_called_inverted():
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64), np.uint8)
    assert not any(map(looks_inverted, noise)) and not looks_inverted(np.full((64, 64), 7, np.uint8))
    # Too small.
    assert not looks_inverted(255 - make_phantom("Normal", np.random.default_rng(0), size=64).image[::4, ::4])


@pytest.mark.realdata
def test_no_real_image_is_called_inverted_and_their_negatives_are(shared):
    names = ("covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1")
    paths = [path for name in names for path in load_source(name, shared / "data").path]
    images = [image for image in read_images(paths, 64) if isinstance(image, np.ndarray)]
    assert len(images) == 1998 and not any(map(looks_inverted, images))
    assert np.mean([looks_inverted(255 - image) for image in images]) > 0.995


def large_image(path, detail=0):
    y, x = np.mgrid[:1800, :2000] / 1800
    ribs = 60 * np.sin(25 * y + 4 * x) + 50 * np.cos(9 * x) + detail * np.sin(300 * x) * np.cos(240 * y)
    Image.fromarray((128 + ribs).astype(np.uint8)).convert("RGB").save(path, quality=90)
    return path


def slowly(path, size):
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize((size, size), Image.Resampling.BILINEAR))


def test_large_jpegs_are_decoded_faster_to_the_same_image(tmp_path):
    path, seconds = large_image(tmp_path / "image.jpg"), {slowly: [], read_image: []}
    for _ in range(3):
        for way in (slowly, read_image):
            start = time.process_time()
            way(path, 100)
            seconds[way].append(time.process_time() - start)
    full, quick = slowly(path, 100).astype(int), read_image(path, 100).astype(int)
    assert np.ptp(full) > 150 and np.abs(full - quick).max() <= 5
    assert min(seconds[slowly]) > 1.2 * min(seconds[read_image])


@pytest.mark.parametrize("size", [240, 450])
def test_a_reduced_decoding_keeps_the_detail_that_the_size_shows(size, tmp_path):
    path = large_image(tmp_path / "image.jpg", detail=15)
    full, quick = slowly(path, size).astype(int), read_image(path, size).astype(int)
    assert np.abs(np.diff(full, axis=1)).mean() > 3 and np.abs(full - quick).max() <= 5


ROWS_DICOM, COLUMNS_DICOM = np.mgrid[:48, :64]
RAMP_DICOM = (3 * COLUMNS_DICOM + ROWS_DICOM).astype(np.uint16)  # 0 to 236
GREY = np.round(RAMP_DICOM / RAMP_DICOM.max() * 255)


def dicom(pixels=RAMP_DICOM, **elements):
    """Build a DICOM image; elements named None are left out."""
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
IN_WINDOW = np.clip((RAMP_DICOM - 75.0) / 50, 0, 1) * 255

COLOUR = np.stack([RAMP_DICOM, RAMP_DICOM // 2, 255 - RAMP_DICOM], axis=2).astype(np.uint8)
IN_PADDING = np.where(COLUMNS_DICOM == 63, 0, np.round((RAMP_DICOM - 0.0) / RAMP_DICOM[:, :63].max() * 255))


def padded(value, values=RAMP_DICOM):
    """Fill the last column with what is no measurement."""
    values = values.copy()
    values[:, 63] = value
    return values


def hot_dicom():
    values = RAMP_DICOM.copy()
    values[9, 9] = 65535
    return values


def palette_dicom():
    """Colour the values by a table that turns them over."""
    dataset = dicom(RAMP_DICOM.astype(np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(
            dataset, f"{colour}PaletteColorLookupTableData", (np.arange(255, -1, -1).astype(np.uint16) * 257).tobytes()
        )
    return dataset


IMAGES = {
    "plain": (dicom, {}, GREY, 0),
    "eight bits": (lambda: dicom(RAMP_DICOM.astype(np.uint8)), {}, GREY, 0),
    "signed": (lambda: dicom(RAMP_DICOM.astype(np.int16) - 500), {}, GREY, 0),
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
    "colour": (lambda: dicom(np.repeat(RAMP_DICOM.astype(np.uint8)[..., None], 3, axis=2)), {}, RAMP_DICOM, 0),
    "run-length encoded": (lambda: compressed(dicom()), {}, GREY, 0),
    "run-length encoded, eight bits": (lambda: compressed(dicom(RAMP_DICOM.astype(np.uint8))), {}, GREY, 0),
    "run-length encoded, signed": (lambda: compressed(dicom(RAMP_DICOM.astype(np.int16) - 500)), {}, GREY, 0),
    "run-length encoded, colour": (lambda: compressed(dicom(COLOUR)), {}, np.asarray(Image.fromarray(COLOUR).convert("L")), 0),
    "palette_dicom": (lambda: palette_dicom(), {}, 255 - RAMP_DICOM, 0),
    "no slope in the element": (lambda: dicom(RescaleSlope="", RescaleIntercept=""), {}, GREY, 0),
    "intercept without a slope": (
        lambda: dicom(RescaleSlope="", RescaleIntercept=-1024, WindowCenter=100.5 - 1024, WindowWidth=51), {}, IN_WINDOW, 3,
    ),
    "slope without an intercept": (lambda: dicom(RescaleSlope=-1), {}, 255 - GREY, 1),
    "no window in the element": (lambda: dicom(WindowCenter="", WindowWidth="", VOILUTSequence=[]), {}, GREY, 0),
    "padding": (lambda: dicom(padded(65535), PixelPaddingValue=65535), {}, IN_PADDING, 0),
    "padding, white is zero": (
        lambda: dicom(padded(65535, 236 - RAMP_DICOM), PixelPaddingValue=65535, PhotometricInterpretation="MONOCHROME1"),
        {}, IN_PADDING, 1,
    ),
    "padding below all": (
        lambda: dicom(padded(-2000, RAMP_DICOM.astype(np.int16)), PixelPaddingValue=-2000), {}, IN_PADDING, 0,
    ),
    "padding of several values": (
        lambda: dicom(padded(np.arange(5000, 5048)), PixelPaddingValue=5000, PixelPaddingRangeLimit=5047), {}, IN_PADDING, 0,
    ),
    "padding without its value": (lambda: dicom(PixelPaddingValue=None), {}, GREY, 0),
    "one hot pixel": (lambda: dicom(hot_dicom()), {}, np.where(hot_dicom() == 65535, 255, GREY), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_every_dicom_becomes_the_grey_it_is_meant_to_show(name, tmp_path):
    make, _, expected, tolerance = IMAGES[name]
    make().save_as(tmp_path / "image.dcm", enforce_file_format=True)
    image = read_image(tmp_path / "image.dcm")
    assert image.dtype == np.uint8 and image.shape == RAMP_DICOM.shape
    assert np.abs(image.astype(float) - expected).max() <= tolerance
    assert read_image(tmp_path / "image.dcm", 16).shape == (16, 16)


def test_a_dicom_is_known_by_its_mark_or_else_by_its_name(tmp_path):
    dicom().save_as(tmp_path / "image.png", enforce_file_format=True)
    assert (read_image(tmp_path / "image.png") == GREY).all()
    (tmp_path / "old.dcm").write_bytes((tmp_path / "image.png").read_bytes()[132:])
    assert (read_image(tmp_path / "old.dcm") == GREY).all()
    Image.fromarray(RAMP_DICOM.astype(np.uint8)).save(tmp_path / "misnamed.dcm", "PNG")
    assert (read_image(tmp_path / "misnamed.dcm") == RAMP_DICOM).all()


def undecodable():
    dataset = dicom(PixelData=encapsulate([b"\xff\xd8\xff\xd9"]))
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return dataset


def deflated():
    dataset = dicom()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return dataset


BROKEN_DICOM = {
    "no image": (lambda: dicom(PixelData=None), "a DICOM file without an image"),
    "no size": (lambda: dicom(Rows=None), "a DICOM file without an image"),
    "frames": (lambda: dicom(NumberOfFrames=12), "12 frames, a radiograph has one"),
    "bomb": (lambda: dicom(Rows=60000, Columns=60000), "more than 40,000,000 pixels are refused, it has 60000×60000"),
    "cut off": (lambda: dicom(PixelData=RAMP_DICOM.tobytes()[:400]), "broken image file"),
    "deflated": (deflated, "a deflated DICOM file; convert it"),
    "no contrast": (lambda: dicom(np.full((9, 9), 7, np.uint16)), "no contrast, every pixel is 0"),
    "without its decoder": (undecodable, "its compression, JPEG Lossless.*needs a decoder; pip install 'pylibjpeg"),
}


@pytest.mark.parametrize("name", BROKEN_DICOM)
def test_what_is_no_image_is_rejected_with_its_reason(name, tmp_path):
    make, reason = BROKEN_DICOM[name]
    make().save_as(tmp_path / "image.dcm", enforce_file_format=True)
    with pytest.raises(DecodeError, match=reason):
        read_image(tmp_path / "image.dcm", 16)


@pytest.mark.parametrize(
    "content", [b"DICM", b"not an image, whatever it is called", b"\0" * 128 + b"DICM", b"\0" * 4000]
)
def test_what_only_claims_to_be_dicom_is_rejected(content, tmp_path):
    (tmp_path / "image.dcm").write_bytes(content)
    with pytest.raises(DecodeError, match="DICOM file|broken image file"):
        read_image(tmp_path / "image.dcm")


def test_the_same_limit_holds_for_both_readers(monkeypatch, tmp_path):
    dicom().save_as(tmp_path / "image.dcm", enforce_file_format=True)
    monkeypatch.setattr(_bounds, "MAX_PIXELS", RAMP_DICOM.size - 1)
    with pytest.raises(DecodeError, match="pixels are refused, it has 64×48"):
        read_image(tmp_path / "image.dcm")


def test_a_folder_of_dicom_images_is_assembled(tmp_path):
    for label, colour in (("Normal", "MONOCHROME1"), ("COVID-19", "MONOCHROME2")):
        for n in range(2):
            (tmp_path / "ours" / label).mkdir(parents=True, exist_ok=True)
            image = dicom(np.roll(RAMP_DICOM, 5 * n + 1, axis=0), PhotometricInterpretation=colour)
            image.save_as(tmp_path / "ours" / label / f"{n}.dcm", enforce_file_format=True)
    dicom(PixelData=None).save_as(tmp_path / "ours" / "Normal" / "report.dcm", enforce_file_format=True)
    found = build_dataset([str(tmp_path / "ours")], classes=["Normal", "COVID-19"], per_class=None, image_size=16)
    assert found.manifest.label.tolist() == ["Normal"] * 2 + ["COVID-19"] * 2
    assert found.rejected.reason.tolist() == ["a DICOM file without an image"]


def test_reading_dicom_leaves_pydicom_as_it_was():
    assert callable(pydicom.config.disable_value_validation)
    with pydicom.config.disable_value_validation():
        pass


def dark_images(count=2, size=100):
    return (255 * np.random.default_rng(3).random((count, size, size)) ** 2).astype(np.uint8)


def unevenness(image):
    """Find the largest distance between the grey values' distribution and an even one."""
    return np.abs(np.sort(image.ravel()) - np.linspace(0, 1, image.size)).max()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 28), (0, 9, 9)])
def test_preprocess_keeps_its_contract(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = images.copy()
    batch = preprocess(images)
    assert batch.shape == (*shape, 3) and batch.dtype == np.float32
    assert (batch[..., 0] == batch[..., 1]).all() and (batch[..., 0] == batch[..., 2]).all()
    assert (images == before).all()
    assert not batch.size or (batch.min() == 0 and batch.max() == 1)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((2, 8, 8), np.float32), r"float32 of shape \(2, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"uint8 of shape \(2, 8, 8, 3\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 of shape \(8, 8\)"),
        ([], r"float64 of shape \(0,\)"),
    ],
)
def test_preprocess_names_what_it_found_and_what_it_takes(images, found):
    with pytest.raises(CovidxrError, match=rf"takes grey uint8 images of shape \(N, H, W\), not {found}"):
        preprocess(images)


def test_equalisation_makes_the_histogram_nearly_flat():
    images = dark_images()
    for radiograph, image in zip(images, preprocess(images), strict=True):
        assert unevenness(radiograph / 255) > 0.2
        assert unevenness(image[..., 0]) < 0.08  # one pixel in sixteen is black, and stays so


@pytest.mark.parametrize("gamma", [0.6, 0.8, 1.25, 1.6])
def test_equalisation_undoes_a_change_of_brightness(gamma):
    images = np.random.default_rng(5).integers(40, 220, (1, 64, 64)).astype(np.uint8)
    changed = np.round((images / 255) ** gamma * 255).astype(np.uint8)
    assert np.abs(images / 255 - changed / 255).mean() > 0.05
    assert np.abs(preprocess(images) - preprocess(changed)).mean() < 0.01


def test_equalisation_forgets_any_scale_that_keeps_the_order():
    images = np.random.default_rng(6).integers(0, 50, (1, 32, 32)).astype(np.uint8)
    scale = np.sort(np.random.default_rng(7).permutation(256)[:50]).astype(np.uint8)
    np.testing.assert_array_equal(preprocess(scale[images]), preprocess(images))


def test_views_are_taken_as_they_look():
    images = dark_images()[:, ::-1, ::-3]
    np.testing.assert_array_equal(preprocess(images), preprocess(images.copy()))


@pytest.fixture
def manifest(tmp_path, image):
    paths = [str(image(tmp_path / f"image {n}.png", seed=n)) for n in range(5)]
    return pd.DataFrame({"image_id": [f"id-{n}" for n in range(5)], "path": paths, "sha256": list("abcde")})


@pytest.fixture
def decoded(monkeypatch):
    """Note the names of the images that are decoded from here on."""
    seen = []

    def listen(paths, image_size):
        seen.extend(paths)
        return read_images(paths, image_size)

    monkeypatch.setattr(images, "read_images", listen)
    return seen


def test_many_images_are_decoded_in_order_and_broken_ones_named(manifest, tmp_path):
    (tmp_path / "image 2.png").write_text("no image")
    images = read_images(manifest.path, 8)
    assert isinstance(images[2], DecodeError) and "image 2.png" in str(images[2])
    for n in (0, 1, 3, 4):
        np.testing.assert_array_equal(images[n], read_image(manifest.path[n], 8))
    with pytest.raises(DecodeError, match="image 2.png"):
        at_size(tmp_path, manifest)


def at_size(folder, manifest, size=8):
    return images_at_size(folder, manifest, np.zeros((5, 4, 4), np.uint8), size)


def test_images_at_the_size_of_a_run_are_its_own(manifest, tmp_path, decoded):
    own = np.zeros((5, 8, 8), np.uint8)
    assert images_at_size(tmp_path, manifest, own, 8) is own and not decoded


def test_images_at_another_size_are_decoded_once(manifest, tmp_path, decoded):
    images = at_size(tmp_path / "new folder", manifest)
    assert images.shape == (5, 8, 8) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[3], read_image(manifest.path[3], 8))
    np.testing.assert_array_equal(at_size(tmp_path / "new folder", manifest), images)
    assert len(decoded) == 5
    assert at_size(tmp_path / "new folder", manifest, 9).shape == (5, 9, 9) and len(decoded) == 10


@pytest.mark.parametrize("column", ["image_id", "sha256"])
def test_other_images_are_not_taken_for_those_in_the_cache(column, manifest, tmp_path, decoded, image):
    before = at_size(tmp_path, manifest)
    image(manifest.path[2], seed=99)
    after = at_size(tmp_path, manifest.assign(**{column: manifest[column] + "x"}))
    assert (after[2] != before[2]).any() and len(decoded) == 10


def test_images_decoded_by_other_code_are_decoded_again(manifest, tmp_path, decoded, monkeypatch):
    at_size(tmp_path, manifest)
    monkeypatch.setattr(images, "_decoder", lambda: "other code")
    at_size(tmp_path, manifest)
    assert len(decoded) == 10


def foreign(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros((5, 8, 8), np.uint8))


def pickled(path):
    np.savez(path, image_id=np.array([{}], dtype=object), pixels=np.zeros((1, 8, 8), np.uint8))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"not an archive"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bits turned": lambda path: path.write_bytes(path.read_bytes().replace(b"id", b"xx")),
    "other names": lambda path: np.savez(path, images=np.zeros((5, 8, 8), np.uint8)),
    "one array": foreign,
    "objects": pickled,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_a_sentence_and_is_built_anew(damage, manifest, tmp_path, decoded):
    cache = tmp_path / "pixels-8.npz"
    images = at_size(tmp_path, manifest)
    DAMAGES[damage](cache)
    with pytest.raises(CovidxrError, match="pixels-8.npz is missing or damaged; run notebook 01"):
        read_image_cache(cache)
    np.testing.assert_array_equal(at_size(tmp_path, manifest), images)
    assert len(decoded) == 10 and len(read_image_cache(cache)[0]) == 5


def test_a_save_that_fails_leaves_the_old_cache(manifest, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    write_image_cache(folder / "pixels.npz", ["a", "b"], np.zeros((2, 8, 8), np.uint8))
    before = (folder / "pixels.npz").read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_image_cache(folder / "pixels.npz", ["a"], np.zeros((1, 8, 8), np.uint8))
    assert [file.name for file in folder.iterdir()] == ["pixels.npz"]
    assert (folder / "pixels.npz").read_bytes() == before


def test_masks_are_scaled_like_images(tmp_path):
    mask = np.zeros((80, 40), np.uint8)
    mask[43:, :17] = 255  # five eighths of a row of cells, one quarter of a column
    Image.fromarray(mask).save(tmp_path / "mask ä.png")
    masks = load_masks([str(tmp_path / "mask ä.png"), ""], 10)
    assert masks.shape == (2, 10, 10) and masks.dtype == bool
    assert masks[0, 5:, :4].all() and masks[0].sum() == 20 and not masks[1].any()


def test_masks_of_any_depth_are_white_inside(tmp_path):
    mask = np.zeros((20, 20), np.uint8)
    mask[:10] = 255
    for n, image in enumerate(
        (Image.fromarray(mask > 0), Image.fromarray(mask // np.uint16(255)), Image.fromarray(mask).convert("RGBA"))
    ):
        image.save(tmp_path / f"{n}.png")
        assert load_masks([str(tmp_path / f"{n}.png")], 20)[0].sum() == 200
    Image.fromarray(np.zeros_like(mask)).save(tmp_path / "none.png")
    assert not load_masks([str(tmp_path / "none.png")], 20).any()


def test_a_mask_of_zeros_and_ones_is_not_taken_for_an_empty_one(tmp_path):
    Image.fromarray(np.eye(20, dtype=np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(DecodeError, match="mask.png: its brightest value is 1; the inside of a mask is white, 255"):
        load_masks([str(tmp_path / "mask.png")], 20)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_mask_is_as_bounded_as_an_image(tmp_path):
    Image.new("1", (12_000, 12_000)).save(tmp_path / "mask.png")
    with pytest.raises(DecodeError, match="no mask that can be read: more than 40,000,000 pixels are refused"):
        load_masks([str(tmp_path / "mask.png")], 20)


@pytest.mark.parametrize("content", [None, b"", b"no mask"])
def test_a_mask_that_cannot_be_read_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(DecodeError, match=r"mask.png: no mask that can be read"):
        load_masks([str(tmp_path / "mask.png")], 8)


def test_a_run_folder_with_the_images_of_another_seed_is_refused(tmp_path):
    for seed in (0, 1):
        save_dataset(
            tmp_path / f"run {seed}",
            build_dataset(per_class=2, image_size=32, seed=seed, work_dir=tmp_path / str(seed)),
        )
    shutil.copy(tmp_path / "run 1" / "pixels.npz", tmp_path / "run 0" / "pixels.npz")
    with pytest.raises(CovidxrError, match="pixels.npz is not of manifest.csv; run notebook 01_dataset_assembly again"):
        load_dataset(tmp_path / "run 0")


pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # Pillow and pydicom warn of what they then refuse
fuzz_settings = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def fuzz(test):
    return pytest.mark.usefixtures("small_limit")(fuzz_settings(test))


IMAGE = Image.fromarray(np.add.outer(3 * np.arange(40), 2 * np.arange(40)).astype(np.uint8))
SUFFIXES = (".png", ".jpeg", ".tif", ".dcm", ".webp", "")


@pytest.fixture
def small_limit():
    """So that a header which lies about its size costs no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_bounds, "MAX_PIXELS", 250_000)
        yield


def encoded(kind, mode="L", **options):
    file = io.BytesIO()
    IMAGE.convert(mode).save(file, kind, **options)
    return file.getvalue()


def as_dicom():
    file = io.BytesIO()
    dicom(
        np.asarray(IMAGE).astype(np.uint16), WindowCenter=60, WindowWidth=90, RescaleSlope=2, RescaleIntercept=0
    ).save_as(file, enforce_file_format=True)
    return file.getvalue()


WHOLE = [
    encoded("PNG"), encoded("PNG", "P"), encoded("PNG", "RGBA"), encoded("JPEG"), encoded("JPEG", "CMYK"),
    encoded("TIFF"), encoded("TIFF", "F"), encoded("TIFF", "I", compression="tiff_lzw"), encoded("WEBP"), encoded("GIF"),
    encoded("BMP"), as_dicom(),
]  # fmt: skip
STARTS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"II*\0\x08\0\0\0",
    b"RIFF\x10\0\0\0WEBP",
    b"\0" * 128 + b"DICM",
    b"BM",
]
changes = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=12)


def check(content, suffix, folder):
    path = Path(folder) / f"image{suffix}"
    path.write_bytes(content)
    for size in (None, 16):
        try:
            image = read_image(path, size)
        except DecodeError as error:
            assert str(path) in str(error) and error.reason
        else:
            assert image.dtype == np.uint8 and image.ndim == 2 and image.min() < image.max()
            assert size is None or image.shape == (16, 16)
    assert os.listdir(folder) == [path.name]
    path.unlink()


@fuzz
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=400), suffix=st.sampled_from(SUFFIXES))
def test_random_bytes_are_an_image_or_an_error(start, rest, suffix, tmp_path_factory):
    check(start + rest, suffix, tmp_path_factory.mktemp("fuzz"))


@fuzz
@given(
    whole=st.sampled_from(WHOLE),
    changes=changes,
    keep=st.floats(0.02, 1),
    twice=st.booleans(),
    suffix=st.sampled_from(SUFFIXES),
)
def test_damaged_images_are_an_image_or_an_error(whole, changes, keep, twice, suffix, tmp_path_factory):
    content = bytearray(whole * (1 + twice))
    for position, value in changes:
        content[position % min(len(content), 600)] = value  # headers break in more ways than pixels
    check(bytes(content[: max(1, int(keep * len(content)))]), suffix, tmp_path_factory.mktemp("fuzz"))


cells = st.one_of(
    st.sampled_from([
        "", "COVID-19", "X-ray", "CT", "PA", "AP", "a.png", "../a.png", "../../secret.png", "/etc/passwd", "..", ".", "~",
        "a\0b.png", "x" * 300, "images/../../secret.png", "C:\\a.png", "file:///etc/passwd", "NaN", "1e999", "-5", "é", "肺",
        "two\nlines", "\ufeff", "\ud7ff", "=1+1", " ",
    ]),
    st.text(max_size=8),
)  # fmt: skip
columns = {
    "covid-chestxray-dataset": ["patientid", "finding", "view", "modality", "filename", "age", "sex", "license", "url"],
    "figure1": ["patientid", "sex", "age", "finding", "view"],
    "ours": ["path", "label", "patient_id", "age", "lung_mask"],
}


@st.composite
def tables(draw, names):
    header = draw(
        st.one_of(st.just(names), st.just(names), st.lists(st.sampled_from([*names, "", "other"]), max_size=10))
    )
    rows = draw(st.lists(st.lists(cells, min_size=len(header), max_size=len(header)), max_size=5))
    good = ["COVID-19" if name in ("finding", "label") else draw(cells) for name in header]
    good = [{"modality": "X-ray", "view": "PA"}.get(name, cell) for name, cell in zip(header, good, strict=True)]
    quote = draw(st.sampled_from(['"{}"', "{}"]))
    text = "\n".join(",".join(quote.format(cell) for cell in row) for row in [header, good, *rows])
    return text.encode(draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig"])), errors="replace")


def tree(folder):
    return sorted((str(path), path.stat().st_size) for path in Path(folder).rglob("*"))


@pytest.mark.parametrize(("source", "folder"), [("covid-chestxray", "covid-chestxray-dataset"), ("figure1", "figure1")])
@fuzz
@given(data=st.data())
def test_random_metadata_is_rows_within_the_images_or_an_error(source, folder, data, tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    (root / folder).mkdir()
    (root / folder / "metadata.csv").write_bytes(data.draw(tables(columns[folder])))
    IMAGE.save(root / "secret.png")
    before = tree(root)
    for read in (functools.partial(load_source, source), functools.partial(excluded_images, [source])):
        try:
            rows = read(root)
        except CovidxrError:
            continue
        for path in rows.get("path", []):
            assert Path(os.path.normpath(path)).is_relative_to(root / folder)
        assert "path" not in rows or all(isinstance(image, DecodeError) for image in read_images(rows.path, 16))
    assert tree(root) == before


@fuzz
@given(texts=st.lists(st.text(st.characters(exclude_categories=()), max_size=6), min_size=4, max_size=4))
def test_any_text_is_read_back_from_the_manifest_or_refused_before_it_is_written(texts, tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    names = ("image_id", "path", "label", "patient_id", "source", "url", "original_name")
    try:
        rows = manifest_rows([dict(zip(names, texts, strict=False)), dict(zip(names, texts[::-1], strict=False))])
    except CovidxrError:
        return
    write_csv(root / "manifest.csv", rows)
    back = manifest_rows(read_table(root / "manifest.csv", COLUMNS).to_dict("records"))
    assert back.equals(rows)


@fuzz
@given(content=st.one_of(tables(columns["ours"]), st.binary(max_size=300)))
def test_random_tables_are_rows_or_an_error(content, tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    (root / "ours.csv").write_bytes(content)
    before = tree(root)
    for attempt in (
        lambda: _load_table(root / "ours.csv"),
        lambda: build_dataset([str(root / "ours.csv")], per_class=1, image_size=16),
    ):
        try:
            attempt()
        except CovidxrError as error:
            assert str(error)
    assert tree(root) == before


PACKAGE = Path(__file__).parents[1] / "covidxr"


@pytest.mark.parametrize("missing", ["cv2", "libGL.so.1"])
def test_a_machine_without_a_screen_is_told_the_remedy(monkeypatch, tmp_path, missing):
    broken = 'raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")'
    (tmp_path / "cv2.py").write_text(broken, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    if missing == "cv2":
        monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "covidxr.data._opencv", raising=False)
    with pytest.raises(ImportError, match=rf"{re.escape(missing)}.*pip install 'opencv-contrib-python-headless<5'"):
        importlib.import_module("covidxr.data._opencv")


def test_nobody_imports_opencv_without_the_remedy():
    bare = [path.name for path in PACKAGE.rglob("*.py") if re.search(r"^import cv2", path.read_text("utf-8"), re.M)]
    assert bare == [], "from covidxr.data._opencv import cv2"


GIGABYTE, SECONDS = 1_000_000, 10  # in kB, as getrusage counts
SIDE = 6320  # its square is just allowed
MEASURE = """
import json, os, resource, sys, time
import pydicom.pixels, covidxr.data._dicom
from covidxr.data.images import DecodeError, read_image
for line in sys.stdin:
    path = line.strip()
    if os.fork():
        os.wait()
        continue
    start = time.monotonic()
    try:
        found = "x".join(map(str, read_image(path, 100 if "-to-100" in path else None).shape))
    except DecodeError as error:
        found = error.reason
    print(json.dumps([found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic() - start]), flush=True)
    os._exit(0)
"""


def uneven(*shape, dtype=np.uint16):
    """Grey values in large steps, which compress well."""
    return np.broadcast_to((np.arange(shape[0]) // 100 % 200).astype(dtype).reshape(-1, *[1] * (len(shape) - 1)), shape)


def as_dicom_bounds(dataset):
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def of_syntax(dataset, syntax, frame, fragments=1):
    """Put a compressed stream into a DICOM file."""
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame], fragments_per_frame=fragments)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return as_dicom_bounds(dataset)


def element(tag, vr, content):
    return (
        struct.pack("<HH2s", *tag, vr)
        + (struct.pack("<HI", 0, len(content)) if vr in (b"OB", b"SQ", b"OW") else struct.pack("<H", len(content)))
        + content
    )


def deflated_bounds(preamble=b"\0" * 128 + b"DICM"):
    """Write 600 kB that inflate to 600 MB, the transfer syntax behind a long instance name."""
    return preamble + _inflatable()


@functools.cache
def _inflatable():
    meta = element((2, 3), b"UI", b"1" * 4000) + element((2, 0x10), b"UI", b"1.2.840.10008.1.2.1.99")
    packer = zlib.compressobj(9, wbits=-15)
    zeros = bytes(10_000_000)
    body = packer.compress(struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 600_000_000))
    return meta + body + b"".join(packer.compress(zeros) for _ in range(60)) + packer.flush()


def run_length(rows, columns, segment):
    """Write a 16-bit image of two equal segments."""
    frame = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13) + 2 * segment
    return of_syntax(dicom(np.zeros((1, 1), np.uint16), Rows=rows, Columns=columns), RLELossless, frame)


def runs(size):
    """Pack `size` pixels as runs of 128, every second one grey."""
    return (b"\x81\x05\x81\x20" * (size // 256 + 1))[: 2 * -(-size // 128)]


def size_again():
    """Announce 64×48 pixels, and 60,000×60,000 after them."""
    return (
        as_dicom_bounds(dicom()) + element((0x28, 0x10), b"US", b"\x60\xea") + element((0x28, 0x11), b"US", b"\x60\xea")
    )


def large_table():
    """Hide millions of elements in the sequence of a lookup table."""
    item = b"".join(struct.pack("<HH2sH", 0x11 + 2 * (n >> 16), n & 0xFFFF, b"LO", 0) for n in range(1_000_000))
    sequence = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    whole = as_dicom_bounds(dicom())
    return whole.replace(
        struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"),
        element((0x28, 0x3010), b"SQ", sequence) + struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"),
    )


def many_elements():
    """Write 32 MB of elements without content."""
    tags = np.zeros(4_000_000, [("group", "<u2"), ("element", "<u2"), ("vr", "S2"), ("length", "<u2")])
    number = np.arange(len(tags))
    tags["group"], tags["element"], tags["vr"] = 0x31 + 2 * (number >> 16), number, b"LO"
    return as_dicom_bounds(dicom(PixelData=None)) + tags.tobytes()


@functools.cache
def large_cmyk():
    return jpeg(large("CMYK"), progressive=True)


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def endless_scans():
    """Go through a large image a thousand times, with scans of a few bytes that change nothing."""
    whole = jpeg(Image.fromarray(np.tile(uneven(SIDE // 4, dtype=np.uint8)[:, None], (1, SIDE // 4))), progressive=True)
    start = whole.rindex(b"\xff\xda")
    last = whole[start:-2]
    return whole[:-2] + (last * (150_000_000 // len(last)))[: len(last) * 1000] + whole[-2:]


def scans_in_tiff():
    stream = endless_scans()
    tags = {259: (3, 1, 7), 273: (4, 1, 200), 279: (4, 1, len(stream))}
    return tiff(plain(SIDE // 4, SIDE // 4, more=tags), bytes(200 - 122) + stream)


def saved_bounds(kind, image, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_bounds(*chunks, header=(64, 64, 8, 0)):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width, height, bits, colour = header
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    rows = zlib.compress(b"".join(b"\0" + bytes([y % 256] * 64) for y in range(64)))
    pixels = chunk(b"IDAT", rows)
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunk(*c) for c in chunks) + pixels + chunk(b"IEND", b"")


def many_chunks():
    return png_bounds().replace(
        b"\0\0\0\0IEND", (b"\0\0\0\0prVt" + struct.pack(">I", zlib.crc32(b"prVt"))) * 10_000_000 + b"\0\0\0\0IEND"
    )


def tiff(tags, tail=b"", start=8):
    """Write a TIFF file of one directory; a tag is (number, type, count, value)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return struct.pack("<2sHI", b"II", 42, start) + struct.pack("<H", len(tags)) + entries + bytes(4) + tail


def plain(width, height, strips=1, offset=8, more=None):
    """List the tags of a grey 8-bit image without compression."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, strips, offset),
            277: (3, 1, 1), 278: (4, 1, height), 279: (4, strips, offset)}  # fmt: skip
    return [(tag, *rest) for tag, rest in {**tags, **(more or {})}.items()]


def overlapping_tags():
    """Let 4,000 tags share 4 MB."""
    mass = 4_000_000
    own = plain(1000, 1000)
    return tiff([*own, *((tag, 1, mass, 100_000) for tag in range(1000, 5000))], bytes(mass + 200_000))


def many_strips():
    return tiff(plain(1000, 1000, strips=20_000_000, offset=1000), np.full(21_000_000, 1000, "<u4").tobytes())


def repeated_strips():
    """Decode each half of the image 75,000 times."""
    tags = {278: (4, 1, 500)}
    return tiff(
        plain(1000, 1000, strips=150_000, offset=1002, more=tags),
        np.full(151_000, 1002, "<u4").tobytes() + bytes(1_000_000),
    )


def huge_tile():
    """Store 10×10 pixels in a tile of 30,000×30,000."""
    tile = zlib.compress(bytes(30_000_000))
    tags = [(256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
            (322, 4, 1, 30_000), (323, 4, 1, 30_000), (324, 4, 1, 200), (325, 4, 1, len(tile))]  # fmt: skip
    return tiff(tags, bytes(200) + tile)


def many_pages():
    """Chain four million pages of one tag each."""
    pages = np.zeros(
        4_000_000, [("count", "<u2"), ("tag", "<u2"), ("type", "<u2"), ("n", "<u4"), ("value", "<u4"), ("next", "<u4")]
    )
    first = tiff(plain(64, 64), bytes(range(256)) * 40)
    pages["count"], pages["tag"], pages["type"], pages["n"] = 1, 256, 3, 1
    pages["next"] = len(first) + 18 * (np.arange(len(pages)) + 1)
    end = 10 + 12 * 9
    return first[:end] + struct.pack("<I", len(first)) + first[end + 4 :] + pages.tobytes()


def bmp_jump(width, height):
    """Skip 255 rows in one command, again and again."""
    head = struct.pack("<2sIII", b"BM", 0, 0, 14 + 40 + 1024) + struct.pack(
        "<IiiHHIIIIII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0
    )
    return head + bytes(range(256)) * 4 + b"\0\x02\xff\xff" * 100_000 + b"\0\x01"


def webp(width, height):
    whole = saved_bounds("WEBP", Image.new("L", (64, 64), 9), lossless=True)
    at = whole.index(b"VP8L") + 9
    [bits] = struct.unpack_from("<I", whole, at)
    return whole[:at] + struct.pack("<I", bits >> 28 << 28 | (height - 1) << 14 | width - 1) + whole[at + 4 :]


def large(mode, side=SIDE):
    y = uneven(side, side, dtype={"I": np.int32, "F": np.float32, "I;16": np.uint16}.get(mode, np.uint8))
    image = Image.fromarray(np.ascontiguousarray(y))
    return image if image.mode == mode else image.convert(mode)


WINDOW_BOUNDS = {
    "WindowCenter": 100,
    "WindowWidth": 150,
    "RescaleSlope": 2,
    "RescaleIntercept": -7,
    "PixelPaddingValue": 3,
}
ALLOWED = f"{SIDE}x{SIDE}"
FILES = {
    "deflated.dcm": (deflated_bounds, "a deflated DICOM file"),
    "deflated-without-preamble.dcm": (lambda: deflated_bounds(b""), "a deflated DICOM file"),
    "run-length-100-million.dcm": (lambda: run_length(10_000, 10_000, runs(100_000_000)), "more than 40,000,000 pixels"),
    "run-length-bomb.dcm": (lambda: run_length(48, 64, b"\x81\x05" * 20_000_000), "no contrast"),
    "run-length-empty-runs.dcm": (lambda: run_length(48, 64, b"\x80" * 60_000_000), "broken"),
    "run-length.dcm": (lambda: run_length(SIDE, SIDE, runs(SIDE**2)), ALLOWED),
    "size-again.dcm": (size_again, "more than 40,000,000 pixels"),
    "large.dcm": (lambda: as_dicom_bounds(dicom(uneven(SIDE, SIDE), PhotometricInterpretation="MONOCHROME1", **WINDOW_BOUNDS)), ALLOWED),
    "large-table.dcm": (large_table, "a DICOM file with a lookup table"),
    "many-elements.dcm": (many_elements, "more parts"),
    "many-fragments.dcm": (lambda: of_syntax(dicom(), RLELossless, bytes(8_000_000), 1_000_000), "more parts"),
    "colour.dcm": (lambda: as_dicom_bounds(dicom(uneven(3640, 3640, 3, dtype=np.uint8), PhotometricInterpretation="YBR_FULL")), "3640x3640"),
    "large-colour.dcm": (lambda: as_dicom_bounds(dicom(uneven(3700, 3700, 3, dtype=np.uint8))), "more than 13,333,333 pixels"),
    "jpeg-larger-than-said.dcm": (lambda: of_syntax(dicom(np.zeros((8, 8), np.uint8)), JPEGBaseline8Bit, jpeg(Image.new("L", (12_000, 12_000)))), "12000×12000 pixels where 8×8"),
    "jpeg-scans.dcm": (lambda: of_syntax(dicom(np.zeros((1580, 1580), np.uint8)), JPEGBaseline8Bit, endless_scans()), "JPEG scans"),
    "jpeg-2000.dcm": (lambda: of_syntax(dicom(uneven(4470, 4470)), JPEG2000Lossless, saved_bounds("JPEG2000", large("I;16", 4470), no_jp2=True)), "4470x4470"),
    "bomb.tif": (lambda: saved_bounds("TIFF", Image.new("1", (12_000, 12_000)), compression="tiff_adobe_deflate"), "more than 40,000,000 pixels"),
    "float.tif": (lambda: saved_bounds("TIFF", large("F"), compression="tiff_adobe_deflate"), ALLOWED),
    "whole-numbers.tif": (lambda: saved_bounds("TIFF", large("I")), ALLOWED),
    "cmyk.tif": (lambda: saved_bounds("TIFF", large("CMYK"), compression="tiff_adobe_deflate"), ALLOWED),
    "many-pages.tif": (many_pages, "64x64"),
    "many-strips.tif": (many_strips, "20,000,000"),
    "repeated-strips.tif": (repeated_strips, "many times over"),
    "overlapping-tags.tif": (overlapping_tags, "1000x1000|more parts"),
    "huge-tile.tif": (huge_tile, "more than 40,000,000 pixels"),
    "bomb.png": (lambda: png_bounds(header=(60_000, 60_000, 8, 0)), "more than 40,000,000 pixels"),
    "long.png": (lambda: png_bounds(header=(30_000_000, 1, 8, 0)), "sides of more than"),
    "rgba.png": (lambda: saved_bounds("PNG", large("RGBA"), compress_level=1), ALLOWED),
    "deep.png": (lambda: saved_bounds("PNG", large("I;16"), compress_level=1), ALLOWED),
    "many-chunks.png": (many_chunks, "more parts"),
    "text.png": (lambda: png_bounds((b"zTXt", b"a\0\0" + zlib.compress(bytes(800_000_000), 1))), "broken"),
    "texts.png": (lambda: png_bounds(*[(b"tEXt", b"%d\0" % n + bytes(900_000)) for n in range(150)]), "broken"),
    "profile.png": (lambda: png_bounds((b"iCCP", b"a\0\0" + zlib.compress(bytes(800_000_000), 1))), "64x64|broken"),
    "exif.png": (lambda: png_bounds((b"eXIf", tiff([(0x0112, 3, 40_000_000, 30)], bytes(80_000_000)))), "an EXIF block of 80,"),
    "bits.tif": (lambda: tiff([(258, 3, 40_000_000, 200), *plain(64, 64)[:2], *plain(64, 64)[3:]], bytes(80_000_200)), "40,000,000 values"),
    "scans.tif": (scans_in_tiff, "x|broken"),
    "jumps.bmp": (lambda: bmp_jump(65_000, 610), "no contrast|broken|610x65000"),
    "scans.jpg": (endless_scans, "JPEG scans"),
    "cmyk.jpg": (large_cmyk, ALLOWED),
    "cmyk-to-100.jpg": (large_cmyk, "100x100"),
    "exif.jpg": (lambda: jpeg(Image.fromarray(uneven(640, 640, dtype=np.uint8)), exif=tiff([(tag, 1, 30_000, 100) for tag in range(2500)], bytes(32_000))), "640x640"),
    "profile.jpg": (lambda: jpeg(Image.fromarray(uneven(640, 640, dtype=np.uint8)), icc_profile=bytes(16_000_000)), "640x640"),
    "jump.bmp": (lambda: bmp_jump(39_000_000, 1), "sides of more than"),
    "large.gif": (lambda: saved_bounds("GIF", large("L")), ALLOWED),
    "bomb.webp": (lambda: webp(16_383, 16_383), "more than 40,000,000 pixels"),
    "jpeg-2000.jp2": (lambda: saved_bounds("JPEG2000", large("RGB", 2580)), "2580x2580"),
    "large-jpeg-2000.jp2": (lambda: saved_bounds("JPEG2000", large("RGB", 2590)), "more than 6,666,666 pixels in colour or JPEG 2000"),
}  # fmt: skip


@pytest.fixture(scope="module")
def measure():
    """Decode a file in a fork of one process that has everything imported."""
    command = [sys.executable, "-W", "ignore", "-c", MEASURE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(path):
            print(path, file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.mark.parametrize("name", FILES)
def test_no_file_costs_more_than_a_gigabyte_or_ten_seconds(name, measure, tmp_path):
    make, expected = FILES[name]
    (tmp_path / name).write_bytes(make())
    answer, peak, seconds = measure(tmp_path / name)
    (tmp_path / name).unlink()  # some have 160 MB
    assert re.search(expected, answer), answer
    assert peak < GIGABYTE and seconds < SECONDS, f"{peak / 1000:.0f} MB, {seconds:.1f} s: {answer}"


def test_a_file_of_many_megabytes_is_not_even_opened(tmp_path):
    with open(tmp_path / "image.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DecodeError, match="files of more than 200,000,000 bytes are refused, it has 200,000,001"):
        read_image(tmp_path / "image.png")
