"""Films as arrays: what `preprocess` promises, and a cache that is never believed without cause."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidxr import pixels
from covidxr.dataset import assemble, read_run, save_run
from covidxr.decode import DecodeError, decode
from covidxr.errors import CovidxrError
from covidxr.pixels import decode_films, load_masks, load_pixels, preprocess, read_pixels, save_pixels


def dark_films(count=2, size=100):
    return (255 * np.random.default_rng(3).random((count, size, size)) ** 2).astype(np.uint8)


def unevenness(image):
    """Find the largest distance between the grey values' distribution and an even one."""
    return np.abs(np.sort(image.ravel()) - np.linspace(0, 1, image.size)).max()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 28), (0, 9, 9)])
def test_preprocess_keeps_its_contract(shape):
    films = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = films.copy()
    batch = preprocess(films)
    assert batch.shape == (*shape, 3) and batch.dtype == np.float32
    assert (batch[..., 0] == batch[..., 1]).all() and (batch[..., 0] == batch[..., 2]).all()
    assert (films == before).all()
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
    with pytest.raises(CovidxrError, match=rf"takes grey uint8 films of shape \(N, H, W\), not {found}"):
        preprocess(images)


def test_equalisation_makes_the_histogram_nearly_flat():
    films = dark_films()
    for film, image in zip(films, preprocess(films), strict=True):
        assert unevenness(film / 255) > 0.2
        assert unevenness(image[..., 0]) < 0.08  # one pixel in sixteen is black, and stays so


@pytest.mark.parametrize("gamma", [0.6, 0.8, 1.25, 1.6])
def test_equalisation_undoes_a_change_of_brightness(gamma):
    films = np.random.default_rng(5).integers(40, 220, (1, 64, 64)).astype(np.uint8)
    changed = np.round((films / 255) ** gamma * 255).astype(np.uint8)
    assert np.abs(films / 255 - changed / 255).mean() > 0.05
    assert np.abs(preprocess(films) - preprocess(changed)).mean() < 0.01


def test_equalisation_forgets_any_scale_that_keeps_the_order():
    films = np.random.default_rng(6).integers(0, 50, (1, 32, 32)).astype(np.uint8)
    scale = np.sort(np.random.default_rng(7).permutation(256)[:50]).astype(np.uint8)
    np.testing.assert_array_equal(preprocess(scale[films]), preprocess(films))


def test_views_are_taken_as_they_look():
    films = dark_films()[:, ::-1, ::-3]
    np.testing.assert_array_equal(preprocess(films), preprocess(films.copy()))


@pytest.fixture
def manifest(tmp_path, film):
    paths = [str(film(tmp_path / f"film {n}.png", seed=n)) for n in range(5)]
    return pd.DataFrame({"image_id": [f"id-{n}" for n in range(5)], "path": paths})


@pytest.fixture
def decoded(monkeypatch):
    """Note the names of the films that are decoded from here on."""
    seen = []

    def listen(paths, image_size):
        seen.extend(paths)
        return decode_films(paths, image_size)

    monkeypatch.setattr(pixels, "decode_films", listen)
    return seen


def test_many_films_are_decoded_in_order_and_broken_ones_named(manifest, tmp_path):
    (tmp_path / "film 2.png").write_text("no film")
    films = decode_films(manifest.path, 8)
    assert isinstance(films[2], DecodeError) and "film 2.png" in str(films[2])
    for n in (0, 1, 3, 4):
        np.testing.assert_array_equal(films[n], decode(manifest.path[n], 8))
    with pytest.raises(DecodeError, match="film 2.png"):
        load_pixels(manifest, 8)


def test_the_cache_spares_decoding(manifest, tmp_path, decoded):
    cache = tmp_path / "new folder" / "pixels.npz"
    films = load_pixels(manifest[:3], 8, cache)
    assert len(decoded) == 3 and films.shape == (3, 8, 8) and films.dtype == np.uint8
    more = load_pixels(manifest[::-1], 8, cache)  # three known films among five, in another order
    assert decoded[3:] == manifest.path[[4, 3]].tolist()
    np.testing.assert_array_equal(more[::-1][:3], films)
    np.testing.assert_array_equal(load_pixels(manifest, 8, cache), more[::-1])
    assert len(decoded) == 5


def test_a_cache_of_another_size_is_not_used(manifest, tmp_path, decoded):
    cache = tmp_path / "pixels.npz"
    load_pixels(manifest, 8, cache)
    assert load_pixels(manifest, 9, cache).shape == (5, 9, 9) and len(decoded) == 10
    assert load_pixels(manifest, 9, cache).shape == (5, 9, 9) and len(decoded) == 10


def test_the_cache_knows_films_by_content_and_not_by_name(manifest, tmp_path, decoded, film):
    cache = tmp_path / "pixels.npz"
    before = load_pixels(manifest, 8, cache)
    film(manifest.path[2], seed=99)  # another film under the old name and path
    after = load_pixels(manifest, 8, cache)
    np.testing.assert_array_equal(after[2], decode(manifest.path[2], 8))
    assert (after[2] != before[2]).any() and decoded[5:] == [manifest.path[2]]
    # The same films under other names, in another folder.
    (tmp_path / "moved").mkdir()
    moved = [shutil.move(path, tmp_path / "moved" / f"{n}.png") for n, path in enumerate(manifest.path)]
    renamed = pd.DataFrame({"image_id": list("edcba"), "path": list(map(str, moved))})
    np.testing.assert_array_equal(load_pixels(renamed, 8, cache), after)
    assert len(decoded) == 6
    assert len(read_pixels(cache)[0]) == 5  # what no film of the manifest needs is not kept


def test_the_cache_does_not_replace_a_film_that_is_gone(manifest, tmp_path):
    load_pixels(manifest, 8, tmp_path / "pixels.npz")
    Path(manifest.path[1]).unlink()
    with pytest.raises(DecodeError, match="film 1.png: no such file"):
        load_pixels(manifest, 8, tmp_path / "pixels.npz")


def test_films_decoded_by_other_code_are_decoded_again(manifest, tmp_path, decoded, monkeypatch):
    load_pixels(manifest, 8, tmp_path / "pixels.npz")
    monkeypatch.setattr(pixels, "_decoder", lambda: b"other code")
    load_pixels(manifest, 8, tmp_path / "pixels.npz")
    assert len(decoded) == 10


def test_the_same_content_twice_is_decoded_once(manifest, tmp_path, decoded):
    twice = pd.concat([manifest, manifest.assign(image_id="again")])
    films = load_pixels(twice, 8, tmp_path / "pixels.npz")
    assert films.shape == (10, 8, 8) and (films[:5] == films[5:]).all() and len(decoded) == 5


@pytest.mark.parametrize("seeds", [(0, 1)])
def test_phantoms_of_another_seed_are_not_taken_for_those_of_this_one(seeds, tmp_path):
    for seed in seeds:
        made = assemble(per_class=2, image_size=32, seed=seed, work_dir=tmp_path / str(seed))
        assert (load_pixels(made.manifest, 32, tmp_path / "pixels.npz") == made.pixels).all()


@pytest.mark.parametrize("name", ["pixels.npz", "pixels", "pixels.old.cache"])
def test_the_cache_may_have_any_name(name, manifest, tmp_path, decoded):
    films = load_pixels(manifest, 8, tmp_path / name)
    np.testing.assert_array_equal(load_pixels(manifest, 8, str(tmp_path / name)), films)
    assert len(decoded) == 5


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
    "other names": lambda path: np.savez(path, films=np.zeros((5, 8, 8), np.uint8)),
    "one array": foreign,
    "objects": pickled,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_a_sentence_and_is_built_anew(damage, manifest, tmp_path, decoded):
    cache = tmp_path / "pixels.npz"
    films = load_pixels(manifest, 8, cache)
    DAMAGES[damage](cache)
    with pytest.raises(CovidxrError, match="pixels.npz is missing or damaged; run notebook 01"):
        read_pixels(cache)
    np.testing.assert_array_equal(load_pixels(manifest, 8, cache), films)
    assert len(decoded) == 10 and len(read_pixels(cache)[0]) == 5


def test_a_save_that_fails_leaves_the_old_cache(manifest, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    load_pixels(manifest[:2], 8, folder / "pixels.npz")
    before = (folder / "pixels.npz").read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_pixels(folder / "pixels.npz", ["a"], np.zeros((1, 8, 8), np.uint8))
    assert [file.name for file in folder.iterdir()] == ["pixels.npz"]
    assert (folder / "pixels.npz").read_bytes() == before


def test_no_films_is_a_sentence(manifest):
    with pytest.raises(CovidxrError, match="the manifest has no rows"):
        load_pixels(manifest[:0], 8)


def test_masks_are_scaled_like_films(tmp_path):
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
def test_a_mask_is_as_bounded_as_a_film(tmp_path):
    Image.new("1", (12_000, 12_000)).save(tmp_path / "mask.png")
    with pytest.raises(DecodeError, match="no mask that can be read: more than 40,000,000 pixels are refused"):
        load_masks([str(tmp_path / "mask.png")], 20)


@pytest.mark.parametrize("content", [None, b"", b"no mask"])
def test_a_mask_that_cannot_be_read_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(DecodeError, match=r"mask.png: no mask that can be read"):
        load_masks([str(tmp_path / "mask.png")], 8)


def test_a_run_folder_with_the_films_of_another_seed_is_refused(tmp_path):
    for seed in (0, 1):
        save_run(
            tmp_path / f"run {seed}", assemble(per_class=2, image_size=32, seed=seed, work_dir=tmp_path / str(seed))
        )
    shutil.copy(tmp_path / "run 1" / "pixels.npz", tmp_path / "run 0" / "pixels.npz")
    with pytest.raises(CovidxrError, match="pixels.npz is not of manifest.csv; run notebook 01_dataset_assembly again"):
        read_run(tmp_path / "run 0")
