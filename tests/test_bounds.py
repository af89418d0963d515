"""No image file costs more than 1 GB of memory or 10 s, whatever it is made of: measured, each in a process of its own."""

from __future__ import annotations

import functools
import io
import json
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from test_dicom import dicom

from covidxr._bounds import MAX_BYTES
from covidxr.decode import DecodeError, decode

GIGABYTE, SECONDS = 1_000_000, 10  # in kB, as getrusage counts
SIDE = 6320  # its square is just allowed
MEASURE = """
import json, os, resource, sys, time
import pydicom.pixels, covidxr._dicom
from covidxr.decode import DecodeError, decode
for line in sys.stdin:
    path = line.strip()
    if os.fork():
        os.wait()
        continue
    start = time.monotonic()
    try:
        found = "x".join(map(str, decode(path, 100 if "-to-100" in path else None).shape))
    except DecodeError as error:
        found = error.reason
    print(json.dumps([found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic() - start]), flush=True)
    os._exit(0)
"""


def uneven(*shape, dtype=np.uint16):
    """Grey values in large steps, which compress well."""
    return np.broadcast_to((np.arange(shape[0]) // 100 % 200).astype(dtype).reshape(-1, *[1] * (len(shape) - 1)), shape)


def as_dicom(dataset):
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def of_syntax(dataset, syntax, frame, fragments=1):
    """Put a compressed stream into a DICOM file."""
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame], fragments_per_frame=fragments)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return as_dicom(dataset)


def element(tag, vr, content):
    return (
        struct.pack("<HH2s", *tag, vr)
        + (struct.pack("<HI", 0, len(content)) if vr in (b"OB", b"SQ", b"OW") else struct.pack("<H", len(content)))
        + content
    )


def deflated(preamble=b"\0" * 128 + b"DICM"):
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
    return as_dicom(dicom()) + element((0x28, 0x10), b"US", b"\x60\xea") + element((0x28, 0x11), b"US", b"\x60\xea")


def large_table():
    """Hide millions of elements in the sequence of a lookup table."""
    item = b"".join(struct.pack("<HH2sH", 0x11 + 2 * (n >> 16), n & 0xFFFF, b"LO", 0) for n in range(1_000_000))
    sequence = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    whole = as_dicom(dicom())
    return whole.replace(
        struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"),
        element((0x28, 0x3010), b"SQ", sequence) + struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"),
    )


def many_elements():
    """Write 32 MB of elements without content."""
    tags = np.zeros(4_000_000, [("group", "<u2"), ("element", "<u2"), ("vr", "S2"), ("length", "<u2")])
    number = np.arange(len(tags))
    tags["group"], tags["element"], tags["vr"] = 0x31 + 2 * (number >> 16), number, b"LO"
    return as_dicom(dicom(PixelData=None)) + tags.tobytes()


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


def saved(kind, image, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(*chunks, header=(64, 64, 8, 0)):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width, height, bits, colour = header
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    rows = zlib.compress(b"".join(b"\0" + bytes([y % 256] * 64) for y in range(64)))
    pixels = chunk(b"IDAT", rows)
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunk(*c) for c in chunks) + pixels + chunk(b"IEND", b"")


def many_chunks():
    return png().replace(
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
    whole = saved("WEBP", Image.new("L", (64, 64), 9), lossless=True)
    at = whole.index(b"VP8L") + 9
    [bits] = struct.unpack_from("<I", whole, at)
    return whole[:at] + struct.pack("<I", bits >> 28 << 28 | (height - 1) << 14 | width - 1) + whole[at + 4 :]


def large(mode, side=SIDE):
    y = uneven(side, side, dtype={"I": np.int32, "F": np.float32, "I;16": np.uint16}.get(mode, np.uint8))
    image = Image.fromarray(np.ascontiguousarray(y))
    return image if image.mode == mode else image.convert(mode)


WINDOW = {"WindowCenter": 100, "WindowWidth": 150, "RescaleSlope": 2, "RescaleIntercept": -7, "PixelPaddingValue": 3}
ALLOWED = f"{SIDE}x{SIDE}"
FILES = {
    "deflated.dcm": (deflated, "a deflated DICOM file"),
    "deflated-without-preamble.dcm": (lambda: deflated(b""), "a deflated DICOM file"),
    "run-length-100-million.dcm": (lambda: run_length(10_000, 10_000, runs(100_000_000)), "more than 40,000,000 pixels"),
    "run-length-bomb.dcm": (lambda: run_length(48, 64, b"\x81\x05" * 20_000_000), "no contrast"),
    "run-length-empty-runs.dcm": (lambda: run_length(48, 64, b"\x80" * 60_000_000), "broken"),
    "run-length.dcm": (lambda: run_length(SIDE, SIDE, runs(SIDE**2)), ALLOWED),
    "size-again.dcm": (size_again, "more than 40,000,000 pixels"),
    "large.dcm": (lambda: as_dicom(dicom(uneven(SIDE, SIDE), PhotometricInterpretation="MONOCHROME1", **WINDOW)), ALLOWED),
    "large-table.dcm": (large_table, "a DICOM file with a lookup table"),
    "many-elements.dcm": (many_elements, "more parts"),
    "many-fragments.dcm": (lambda: of_syntax(dicom(), RLELossless, bytes(8_000_000), 1_000_000), "more parts"),
    "colour.dcm": (lambda: as_dicom(dicom(uneven(3640, 3640, 3, dtype=np.uint8), PhotometricInterpretation="YBR_FULL")), "3640x3640"),
    "large-colour.dcm": (lambda: as_dicom(dicom(uneven(3700, 3700, 3, dtype=np.uint8))), "more than 13,333,333 pixels"),
    "jpeg-larger-than-said.dcm": (lambda: of_syntax(dicom(np.zeros((8, 8), np.uint8)), JPEGBaseline8Bit, jpeg(Image.new("L", (12_000, 12_000)))), "12000×12000 pixels where 8×8"),
    "jpeg-scans.dcm": (lambda: of_syntax(dicom(np.zeros((1580, 1580), np.uint8)), JPEGBaseline8Bit, endless_scans()), "JPEG scans"),
    "jpeg-2000.dcm": (lambda: of_syntax(dicom(uneven(4470, 4470)), JPEG2000Lossless, saved("JPEG2000", large("I;16", 4470), no_jp2=True)), "4470x4470"),
    "bomb.tif": (lambda: saved("TIFF", Image.new("1", (12_000, 12_000)), compression="tiff_adobe_deflate"), "more than 40,000,000 pixels"),
    "float.tif": (lambda: saved("TIFF", large("F"), compression="tiff_adobe_deflate"), ALLOWED),
    "whole-numbers.tif": (lambda: saved("TIFF", large("I")), ALLOWED),
    "cmyk.tif": (lambda: saved("TIFF", large("CMYK"), compression="tiff_adobe_deflate"), ALLOWED),
    "many-pages.tif": (many_pages, "64x64"),
    "many-strips.tif": (many_strips, "20,000,000"),
    "repeated-strips.tif": (repeated_strips, "many times over"),
    "overlapping-tags.tif": (overlapping_tags, "1000x1000|more parts"),
    "huge-tile.tif": (huge_tile, "more than 40,000,000 pixels"),
    "bomb.png": (lambda: png(header=(60_000, 60_000, 8, 0)), "more than 40,000,000 pixels"),
    "long.png": (lambda: png(header=(30_000_000, 1, 8, 0)), "sides of more than"),
    "rgba.png": (lambda: saved("PNG", large("RGBA"), compress_level=1), ALLOWED),
    "deep.png": (lambda: saved("PNG", large("I;16"), compress_level=1), ALLOWED),
    "many-chunks.png": (many_chunks, "more parts"),
    "text.png": (lambda: png((b"zTXt", b"a\0\0" + zlib.compress(bytes(800_000_000), 1))), "broken"),
    "texts.png": (lambda: png(*[(b"tEXt", b"%d\0" % n + bytes(900_000)) for n in range(150)]), "broken"),
    "profile.png": (lambda: png((b"iCCP", b"a\0\0" + zlib.compress(bytes(800_000_000), 1))), "64x64|broken"),
    "exif.png": (lambda: png((b"eXIf", tiff([(0x0112, 3, 40_000_000, 30)], bytes(80_000_000)))), "an EXIF block of 80,"),
    "bits.tif": (lambda: tiff([(258, 3, 40_000_000, 200), *plain(64, 64)[:2], *plain(64, 64)[3:]], bytes(80_000_200)), "40,000,000 values"),
    "scans.tif": (scans_in_tiff, "x|broken"),
    "jumps.bmp": (lambda: bmp_jump(65_000, 610), "no contrast|broken|610x65000"),
    "scans.jpg": (endless_scans, "JPEG scans"),
    "cmyk.jpg": (large_cmyk, ALLOWED),
    "cmyk-to-100.jpg": (large_cmyk, "100x100"),
    "exif.jpg": (lambda: jpeg(Image.fromarray(uneven(640, 640, dtype=np.uint8)), exif=tiff([(tag, 1, 30_000, 100) for tag in range(2500)], bytes(32_000))), "640x640"),
    "profile.jpg": (lambda: jpeg(Image.fromarray(uneven(640, 640, dtype=np.uint8)), icc_profile=bytes(16_000_000)), "640x640"),
    "jump.bmp": (lambda: bmp_jump(39_000_000, 1), "sides of more than"),
    "large.gif": (lambda: saved("GIF", large("L")), ALLOWED),
    "bomb.webp": (lambda: webp(16_383, 16_383), "more than 40,000,000 pixels"),
    "jpeg-2000.jp2": (lambda: saved("JPEG2000", large("RGB", 2580)), "2580x2580"),
    "large-jpeg-2000.jp2": (lambda: saved("JPEG2000", large("RGB", 2590)), "more than 6,666,666 pixels in colour or JPEG 2000"),
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
    with open(tmp_path / "film.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DecodeError, match="files of more than 200,000,000 bytes are refused, it has 200,000,001"):
        decode(tmp_path / "film.png")
