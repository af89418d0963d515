"""How fast images are assembled, and in how much memory: ``python tests/benchmarks/bench_assembly.py``.

Beside it, in turns and on the same files, a plain Pillow loop that decodes each image in full. Then the peak memory of a
process of its own that assembles 1,000, 10,000 and 20,000 images of 224 pixels to 100. The files are drawn into a temporary
folder: few distinct ones, under many names.
"""

from __future__ import annotations

import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covidxr.data.dataset import build_dataset  # noqa: E402
from covidxr.data.images import read_images  # noqa: E402
from covidxr.data.phantom import make_phantom  # noqa: E402

SIZE, ROUNDS, DISTINCT = 100, 5, 20
SPEED = {"224×224": ((224, 224), 400), "2000×1800": ((2000, 1800), 40)}  # (width, height) and number of files
MEMORY = (1_000, 10_000, 20_000)


def draw_images(folder, size) -> list:
    """Draw the distinct images as JPEG files, with an image's grain."""
    rng, paths = np.random.default_rng(0), []
    folder.mkdir()
    for number in range(DISTINCT):
        image = Image.fromarray(make_phantom("Normal", rng, size=256).image).resize(size, Image.Resampling.BICUBIC)
        grain = rng.normal(0, 3, image.size[::-1])
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)).convert("RGB").save(
            paths[-1], quality=90
        )
    return paths


def name_images(images, folder, count) -> Path:
    """Give the images many names, of two classes, and return the table that lists them."""
    folder.mkdir()
    table = folder / "images.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for number in range(count):
            os.link(images[number % len(images)], folder / f"{number}.jpg")
            rows.writerow([f"{number}.jpg", ("Normal", "COVID-19")[number % 2]])
    return table


def pillow_loop(paths) -> np.ndarray:
    """Decode as most notebooks do."""
    return np.stack([np.asarray(Image.open(path).convert("L").resize((SIZE, SIZE))) for path in paths])


def assembled(table):
    """Assemble all images of a table."""
    return build_dataset([str(table)], classes=["Normal", "COVID-19"], per_class=None, image_size=SIZE)


def timed(call) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(root) -> None:
    """Print images a second of each way, the median of some rounds in turns."""
    for name, (size, count) in SPEED.items():
        table = name_images(draw_images(root / f"distinct {name}", size), root / name, count)
        paths = [str(table.parent / f"{number}.jpg") for number in range(count)]
        ways = {
            "plain Pillow loop": lambda paths=paths: pillow_loop(paths),
            "decode_images": lambda paths=paths: read_images(paths, SIZE),
            "assemble (with checksums and twins)": lambda table=table: assembled(table),
        }
        seconds = [{way: timed(call) for way, call in ways.items()} for _ in range(ROUNDS)]
        medians = {way: float(np.median([turn[way] for turn in seconds])) for way in ways}
        for way, median in medians.items():
            factor = medians["plain Pillow loop"] / median
            print(f"{name:>10} JPEG to {SIZE}: {way:36} {count / median:8.0f} images/s  ({factor:.1f} × Pillow)")


def peak_memory(table) -> tuple[float, float]:
    """Assemble in a new process; return its peak memory in MB, and its seconds."""
    done = subprocess.run([sys.executable, __file__, str(table)], capture_output=True, text=True, check=True)
    return tuple(float(number) for number in done.stdout.split())


def measure_memory(root) -> None:
    """Print peak memory and time by number of images."""
    images = draw_images(root / "distinct", (224, 224))
    for count in MEMORY:
        peak, seconds = peak_memory(name_images(images, root / str(count), count))
        print(f"{count:6,} images at {SIZE} px: peak memory {peak:6.0f} MB, {seconds:5.1f} s")


def child(table) -> None:
    """Be the process whose memory is measured."""
    seconds = timed(lambda: assembled(table))
    scale = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux kilobytes
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, seconds)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder))
            measure_memory(Path(folder))
