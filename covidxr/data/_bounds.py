"""Limits that keep any image file, however it is made, below 1 GB of memory and 10 s."""

from __future__ import annotations

import io
import os
import re
import struct

import numpy as np

MAX_PIXELS = 40_000_000  # the largest detectors have about 20 million

MAX_SIDE = 65_535

MAX_BYTES = 200_000_000

MAX_READS = 500_000  # from one file: every chunk, tag and element costs at least one

MAX_VALUES = 200_000  # of one TIFF tag, such as where the strips are; a strip a row is usual, for each band its own

MAX_EXIF = 1_000_000  # bytes; in JPEG files it has at most 65,533

MAX_SCANS = 100  # of a JPEG stream; each goes through the whole image, and ten are usual


class Refused(Exception):
    """Why a file cannot become a radiograph."""


class CountedFile(io.BufferedReader):
    """A file that is not read forever, or many times over, as parts that overlap or come by the million would have it."""

    def __init__(self, path):
        super().__init__(io.FileIO(path))
        self._reads, self._bytes = MAX_READS, 3 * os.path.getsize(path) + 1_000_000

    def read(self, size=-1):
        """Read as usual, or refuse."""
        found = super().read(size)
        self._reads, self._bytes = self._reads - 1, self._bytes - len(found)
        if self._reads < 0 or self._bytes < 0:
            raise Refused("more parts, or parts that overlap more, than a radiograph has")
        return found


def check_size(width, height, cost=1):
    """Refuse an image whose pixels would take too much memory or time, each costing as much as `cost` plain ones."""
    if width * height * cost > MAX_PIXELS:
        kind = "" if cost == 1 else " in colour or JPEG 2000"
        raise Refused(f"more than {MAX_PIXELS // cost:,} pixels{kind} are refused, it has {width}×{height}")
    if max(width, height) > MAX_SIDE:
        raise Refused(f"sides of more than {MAX_SIDE:,} pixels are refused, it has {width}×{height}")


def check_tiff(file):
    """Refuse a TIFF file with millions of strips or other numbers: Pillow makes objects of each before it can be asked."""
    head = file.read(16)
    order, big = {b"II": "<", b"MM": ">"}.get(head[:2]), b"+" in head[2:4]
    if order and (big or b"*" in head[2:4]):
        [start] = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
        file.seek(start)
        [count] = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
        number = order + ("u8" if big else "u4")
        entry = np.dtype([("tag", order + "u2"), ("type", order + "u2"), ("count", number), ("value", number)])
        content = file.read(min(count, 65_535) * entry.itemsize)
        entries = np.frombuffer(content, entry, len(content) // entry.itemsize)
        numbers = ~np.isin(entries["type"], (1, 2, 7))  # bytes and text stay what they are
        values = entries["count"][numbers].max(initial=0)
        if values > MAX_VALUES:
            raise Refused(
                f"a TIFF tag, such as where its strips are, of {values:,} values; more than {MAX_VALUES:,} are refused"
            )
    file.seek(0)


def check_image(image):
    """Refuse an opened image that is too large, or of which Pillow would decode a part too large or many times over."""
    check_size(image.width, image.height, 2 * len(image.getbands()) if image.format == "JPEG2000" else 1)
    if len(image.info.get("exif", b"")) > MAX_EXIF:
        raise Refused(f"an EXIF block of {len(image.info['exif']):,} bytes; more than {MAX_EXIF:,} are refused")
    tags = getattr(image, "tag_v2", {})
    check_size(tags.get(322, 1), tags.get(323, 1))  # a tile's width and length
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in (tile[1] for tile in image.tile))
    if covered > 6 * image.width * image.height:  # each band may have strips of its own
        raise Refused("strips or tiles that cover the image many times over")


def check_scans(content):
    """Refuse a JPEG stream that goes through its image hundreds of times."""
    scans = sum(1 for _ in re.finditer(b"\xff\xda", content))
    if scans > MAX_SCANS:
        raise Refused(f"more than {MAX_SCANS} JPEG scans are refused, it has {scans:,}")
