"""Decoding: every kind of file becomes the same grey film, upright; every broken one a sentence."""

from __future__ import annotations

import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from covidxr.decode import DecodeError, decode, looks_inverted
from covidxr.errors import CovidxrError
from covidxr.pixels import decode_films
from covidxr.sources import SOURCES
from covidxr.sources.phantom import make_phantom

ROWS, COLUMNS = np.mgrid[:48, :64]
RAMP = (3 * COLUMNS + ROWS).astype(np.uint8)  # dark at the top left, brighter to the right than downwards
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
    "a film, of 'J.'.png": (grey, {}, RAMP, 0),
    "плівка 肺.png": (grey, {}, RAMP, 0),
    "two\nlines.png": (grey, {}, RAMP, 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_becomes_the_same_grey(name, tmp_path):
    make, options, expected, tolerance = KINDS[name]
    make().save(tmp_path / name, **options)
    film = decode(tmp_path / name)
    assert film.dtype == np.uint8 and film.shape == RAMP.shape
    assert np.abs(film.astype(float) - expected).max() <= tolerance


@pytest.mark.parametrize(("colour", "luma"), [("red", 76), ("lime", 150), ("blue", 29), ("white", 255)])
def test_colours_weigh_as_the_eye_sees_them(colour, luma, tmp_path):
    image = Image.new("RGB", (8, 8), "black")
    image.paste(colour, (0, 0, 4, 8))
    image.save(tmp_path / "a.png")
    assert decode(str(tmp_path / "a.png"))[0].tolist() == [luma] * 4 + [0] * 4


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["film.jpg", "film.png", "film.tif", "deep.png", "deep.tif"])
def test_rotation_noted_in_the_file_is_applied_once(name, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = RAMP * np.uint16(250) if name.startswith("deep") else RAMP
    Image.fromarray(stored).save(tmp_path / name, exif=exif, **({"quality": 95} if name.endswith("jpg") else {}))
    expected = UPRIGHT[orientation](STRETCHED if name.startswith("deep") else RAMP)
    film = decode(tmp_path / name)
    assert film.shape == expected.shape
    assert np.abs(film.astype(float) - expected).max() <= 3


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
@pytest.mark.parametrize("name", ["film.jpg", "film.png"])
def test_a_damaged_exif_block_does_not_cost_the_image(name, turned, exif, tmp_path):
    Image.fromarray(RAMP).save(tmp_path / name, exif=exif, **({"quality": 95} if name.endswith("jpg") else {}))
    film = decode(tmp_path / name)
    expected = UPRIGHT[6](RAMP) if turned else RAMP
    assert film.shape == expected.shape and np.abs(film.astype(float) - expected).max() <= 3


def test_an_outlier_is_clipped_only_where_the_rest_would_be_lost(tmp_path):
    for brightest, untouched in ((900, True), (5 * 708, False)):
        values = RAMP * np.uint16(3)  # up to 708
        values[9, 9] = brightest
        Image.fromarray(values).save(tmp_path / "film.png")
        plain = np.round(values / brightest * 255)
        assert (decode(tmp_path / "film.png") == plain).all() == untouched


@pytest.mark.parametrize("suffix", ["eps", "ppm", "fits", "psd"])
def test_formats_that_no_radiograph_has_are_not_tried(suffix, tmp_path):
    starts = {"eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "ppm": b"P2\n2 1\n255\n0 255\n",
              "fits": b"SIMPLE  =                    T", "psd": b"8BPS\0\x01"}  # fmt: skip
    (tmp_path / "film.png").write_bytes(starts[suffix])
    with pytest.raises(
        DecodeError, match="not an image that can be read; available: BMP, DIB, DICOM, GIF, JPEG, JPEG2000, PNG"
    ):
        decode(tmp_path / "film.png")


def test_scaling_ignores_the_aspect_ratio_and_keeps_the_ramp(tmp_path):
    grey().save(tmp_path / "film.png")
    film = decode(tmp_path / "film.png", 16)
    assert film.shape == (16, 16)
    expected = RAMP.reshape(16, 3, 16, 4).mean(axis=(1, 3))
    assert np.abs(film - expected)[1:-1, 1:-1].max() <= 1


def test_scaling_turns_first(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    grey().save(tmp_path / "film.jpg", exif=exif, quality=95)
    film = decode(tmp_path / "film.jpg", 16).astype(int)
    assert film[0, -1] < film[0, 0] < film[-1, 0]  # the dark corner is now at the top right


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
    "text": (lambda _: b"patient moved, no film taken\n", "not an image that can be read"),
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
def test_what_cannot_be_a_film_is_rejected_with_its_reason(name, image_size, tmp_path):
    content, reason = BROKEN[name]
    path = tmp_path / "film.png"
    path.write_bytes(content(tmp_path))
    with pytest.raises(DecodeError, match=reason) as caught:
        decode(path, image_size)
    assert str(caught.value) == f"{path}: {caught.value.reason}" and isinstance(caught.value, CovidxrError)


def test_missing_files_and_folders_are_told_apart(tmp_path):
    with pytest.raises(DecodeError, match="no such file"):
        decode(tmp_path / "film.png")
    with pytest.raises(DecodeError, match="a folder, not a file"):
        decode(tmp_path)


def test_a_link_is_followed(tmp_path):
    grey().save(tmp_path / "film.png")
    (tmp_path / "link.png").symlink_to("film.png")
    assert (decode(tmp_path / "link.png") == RAMP).all()


def test_links_that_lead_nowhere_are_rejected(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "dangling.png").symlink_to("gone.png")
    (tmp_path / "folder.png").symlink_to(tmp_path)
    for name, reason in (("loop.png", "no such file"), ("dangling.png", "no such file"), ("folder.png", "a folder")):
        with pytest.raises(DecodeError, match=reason):
            decode(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "nul\0.png", "\udcff.png", ""])
def test_names_that_no_film_can_have_are_rejected(name, tmp_path):
    with pytest.raises(DecodeError, match="no such file|a folder"):
        decode(str(tmp_path) + "/" + name)


def test_what_may_not_be_opened_is_a_sentence(tmp_path, monkeypatch):
    grey().save(tmp_path / "film.png")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("io.FileIO", refuse)
    with pytest.raises(DecodeError, match=r"film.png: cannot be opened \(Permission denied\)"):
        decode(tmp_path / "film.png")


@pytest.mark.parametrize("view", ["PA", "AP"])
@pytest.mark.parametrize("label", ["Normal", "COVID-19", "Bacteria"])
def test_inverted_films_are_told_from_others(label, view):
    films = [make_phantom(label, np.random.default_rng(n), size=64, view=view).image for n in range(8)]
    assert not any(map(looks_inverted, films)) and all(looks_inverted(255 - film) for film in films)


def test_what_is_no_chest_is_not_called_inverted():
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64), np.uint8)
    assert not any(map(looks_inverted, noise)) and not looks_inverted(np.full((64, 64), 7, np.uint8))
    # Too small.
    assert not looks_inverted(255 - make_phantom("Normal", np.random.default_rng(0), size=64).image[::4, ::4])


@pytest.mark.realdata
def test_no_real_film_is_called_inverted_and_their_negatives_are(shared):
    names = ("covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1")
    paths = [path for name in names for path in SOURCES[name](shared / "data").path]
    films = [film for film in decode_films(paths, 64) if isinstance(film, np.ndarray)]
    assert len(films) == 1998 and not any(map(looks_inverted, films))
    assert np.mean([looks_inverted(255 - film) for film in films]) > 0.995


def large_film(path, detail=0):
    y, x = np.mgrid[:1800, :2000] / 1800
    ribs = 60 * np.sin(25 * y + 4 * x) + 50 * np.cos(9 * x) + detail * np.sin(300 * x) * np.cos(240 * y)
    Image.fromarray((128 + ribs).astype(np.uint8)).convert("RGB").save(path, quality=90)
    return path


def slowly(path, size):
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize((size, size), Image.Resampling.BILINEAR))


def test_large_jpegs_are_decoded_faster_to_the_same_film(tmp_path):
    path, seconds = large_film(tmp_path / "film.jpg"), {slowly: [], decode: []}
    for _ in range(3):
        for way in (slowly, decode):
            start = time.process_time()
            way(path, 100)
            seconds[way].append(time.process_time() - start)
    full, quick = slowly(path, 100).astype(int), decode(path, 100).astype(int)
    assert np.ptp(full) > 150 and np.abs(full - quick).max() <= 5
    assert min(seconds[slowly]) > 1.2 * min(seconds[decode])


@pytest.mark.parametrize("size", [240, 450])
def test_a_reduced_decoding_keeps_the_detail_that_the_size_shows(size, tmp_path):
    path = large_film(tmp_path / "film.jpg", detail=15)
    full, quick = slowly(path, size).astype(int), decode(path, size).astype(int)
    assert np.abs(np.diff(full, axis=1)).mean() > 3 and np.abs(full - quick).max() <= 5
