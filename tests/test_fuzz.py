"""Whatever is thrown at the readers: a film, a table, or one plain error; nothing outside is read, nothing is written."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_dicom import dicom

from covidxr import _bounds
from covidxr.dataset import assemble
from covidxr.decode import DecodeError, decode
from covidxr.errors import CovidxrError
from covidxr.files import write_csv
from covidxr.pixels import decode_films
from covidxr.sources import SOURCES, covid_chestxray, figure1, table
from covidxr.sources._rows import COLUMNS, manifest_rows, read_table

pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # Pillow and pydicom warn of what they then refuse
fuzz = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))

FILM = Image.fromarray(np.add.outer(3 * np.arange(40), 2 * np.arange(40)).astype(np.uint8))
SUFFIXES = (".png", ".jpeg", ".tif", ".dcm", ".webp", "")


@pytest.fixture(scope="module", autouse=True)
def small_limit():
    """So that a header which lies about its size costs no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_bounds, "MAX_PIXELS", 250_000)
        yield


def encoded(kind, mode="L", **options):
    file = io.BytesIO()
    FILM.convert(mode).save(file, kind, **options)
    return file.getvalue()


def as_dicom():
    file = io.BytesIO()
    dicom(
        np.asarray(FILM).astype(np.uint16), WindowCenter=60, WindowWidth=90, RescaleSlope=2, RescaleIntercept=0
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
    path = Path(folder) / f"film{suffix}"
    path.write_bytes(content)
    for size in (None, 16):
        try:
            film = decode(path, size)
        except DecodeError as error:
            assert str(path) in str(error) and error.reason
        else:
            assert film.dtype == np.uint8 and film.ndim == 2 and film.min() < film.max()
            assert size is None or film.shape == (16, 16)
    assert os.listdir(folder) == [path.name]
    path.unlink()


@fuzz
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=400), suffix=st.sampled_from(SUFFIXES))
def test_random_bytes_are_a_film_or_an_error(start, rest, suffix, tmp_path_factory):
    check(start + rest, suffix, tmp_path_factory.mktemp("fuzz"))


@fuzz
@given(
    whole=st.sampled_from(WHOLE),
    changes=changes,
    keep=st.floats(0.02, 1),
    twice=st.booleans(),
    suffix=st.sampled_from(SUFFIXES),
)
def test_damaged_films_are_a_film_or_an_error(whole, changes, keep, twice, suffix, tmp_path_factory):
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


@pytest.mark.parametrize(
    ("source", "reader", "folder"),
    [("covid-chestxray", covid_chestxray, "covid-chestxray-dataset"), ("figure1", figure1, "figure1")],
)
@fuzz
@given(data=st.data())
def test_random_metadata_is_rows_within_the_images_or_an_error(source, reader, folder, data, tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    (root / folder).mkdir()
    (root / folder / "metadata.csv").write_bytes(data.draw(tables(columns[folder])))
    FILM.save(root / "secret.png")
    before = tree(root)
    for read in (SOURCES[source], reader.left_out):
        try:
            rows = read(root)
        except CovidxrError:
            continue
        for path in rows.get("path", []):
            assert Path(os.path.normpath(path)).is_relative_to(root / folder)
        assert "path" not in rows or all(isinstance(film, DecodeError) for film in decode_films(rows.path, 16))
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
        lambda: table.read(root / "ours.csv"),
        lambda: assemble([str(root / "ours.csv")], per_class=1, image_size=16),
    ):
        try:
            attempt()
        except CovidxrError as error:
            assert str(error)
    assert tree(root) == before
