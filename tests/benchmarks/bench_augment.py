"""How fast the training batches are made: ``python tests/benchmarks/bench_augment.py``.

For comparison, in turns, the article's generator with the same augmentations: for each image a new ``iaa.Sequential``, colour
images, three equalisations, double precision. Batches of 32 images of 100 px; medians of ten turns of ten batches.
The article's policy must be made at least four times as fast.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covidxr.utils import quiet_environment

quiet_environment()

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from covidxr.augmentation import POLICIES, AugmentedBatches, build_policy, iaa  # noqa: E402

IMAGES, SIZE, BATCH, TURNS = 320, 100, 32, 10


def article_sequence() -> iaa.Sequential:
    """Build the article's augmenters, as it does for every single image."""
    lay_down = [*(iaa.Rot90(turns) for turns in range(4)), iaa.Fliplr(0.5), iaa.Flipud(0.5)]
    change = [
        iaa.GammaContrast((0.5, 2.0)),
        iaa.PerspectiveTransform((0.01, 0.15)),
        iaa.Affine(scale=(0.8, 1.2)),
        iaa.CoarseDropout(0.03, size_percent=0.05),
    ]
    return iaa.Sequential([iaa.OneOf(lay_down), iaa.Sometimes(0.5, iaa.SomeOf((0, 2), change))])


def article_batch(colour, labels) -> tuple[np.ndarray, np.ndarray]:
    """Make a batch as the article's generator does, image by image."""
    changed = [article_sequence().augment_image(image) for image in colour]
    equalised = [cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)]) for image in changed]
    return np.array(equalised, dtype=np.float64) / 255.0, np.eye(3)[labels]


def generators() -> dict:
    """Name each way to make a batch of a given number."""
    images = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, IMAGES), np.uint8), (9, 9), 0)
    images, labels = np.ascontiguousarray(images.transpose(2, 0, 1)), np.arange(IMAGES) % 3
    colour = np.repeat(images[..., None], 3, axis=-1)

    def article(number):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        return article_batch(colour[rows], labels[rows])

    def ours(policy):
        batches = AugmentedBatches(images, labels, 3, build_policy(policy), batch_size=BATCH)
        return lambda number: batches.batch(0, number)

    return {"the article's generator": article} | {f"covidxr, policy {name!r}": ours(name) for name in POLICIES}


def timed(call) -> float:
    """Return the processor seconds of an epoch, which say the same on a busy machine."""
    start = time.process_time()
    for number in range(IMAGES // BATCH):
        call(number)
    return time.process_time() - start


def main() -> None:
    """Let the generators take turns, print the table, and fail where ours is not four times as fast."""
    calls = generators()
    seconds = [{name: timed(call) for name, call in calls.items()} for _ in range(TURNS + 1)][1:]
    medians = {name: float(np.median([turn[name] for turn in seconds])) for name in calls}
    slowest = medians["the article's generator"]
    for name, found in medians.items():
        print(
            f"{name:32} {1000 * found * BATCH / IMAGES:7.1f} ms a batch {IMAGES / found:8.0f} images/s {slowest / found:6.1f} ×"
        )
    assert slowest >= 4 * medians["covidxr, policy 'article'"], (
        "less than four times as fast as the article's generator"
    )


if __name__ == "__main__":
    main()
