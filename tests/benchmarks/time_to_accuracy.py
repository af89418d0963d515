"""Image passes until 0.95 validation accuracy on the article's selection of real images: ours against its schedule.

``python tests/benchmarks/time_to_accuracy.py [--seeds 3] [--max-epochs 46] [--only ours] [--keep DIR]``

Same images, same split (image by image, as the article's), same machine, ImageNet weights, 100 px. The article's schedule:
a random head, no head warm-up, no rate warm-up, plateau at 1e-4, batches of 32. Ours: the head fitted on frozen embeddings first, its
passes counted too, then the default schedule. A pass is one image through the network in training or for features;
validation is not counted. Medians over the seeds; a run that never gets there counts as infinite. It takes hours,
so it is not one of those that ``make bench`` runs, and with ``--keep`` the same command resumes after an interruption.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from covidxr.utils import quiet_environment  # noqa: E402

quiet_environment()

import numpy as np  # noqa: E402

from covidxr._keras import keras  # noqa: E402
from covidxr.data.dataset import Dataset, build_dataset  # noqa: E402
from covidxr.data.splits import split_manifest  # noqa: E402
from covidxr.evaluation.metrics import predict  # noqa: E402
from covidxr.training import TrainingConfig, callbacks, fit, initialise, warm_up_head  # noqa: E402
from covidxr.training.hardware import configure_hardware  # noqa: E402
from covidxr.utils import read_json, write_json  # noqa: E402

SHARED = ROOT.parent / "shared"
WANTED = 0.95
SAME = {
    "weights": str(SHARED / "weights" / "vgg16_notop.h5"),
    "policy": "article",
    "learning_rate": 1e-4,
    "patience": 46,
}
SCHEDULES = {
    "the article's": TrainingConfig(head_epochs=0, warmup_epochs=0, batch_size=32, **SAME),
    "ours": TrainingConfig(warmup_epochs=2, batch_size=16, **SAME),
}


class StopThere(keras.callbacks.Callback):
    """End training at the wanted validation accuracy; the rest is not needed."""

    def on_epoch_end(self, epoch, logs=None):
        print(f"    epoch {epoch + 1}: validation accuracy {logs['val_accuracy']:.3f}", flush=True)
        self.model.stop_training |= logs["val_accuracy"] >= WANTED


def sample_images(seed) -> Dataset:
    """The article's selection, 179 images a class, split with a seed."""
    sources = ["covid-chestxray", "kaggle-chest-xray"]
    dataset = build_dataset(
        sources, SHARED / "data", per_class=179, image_size=100, seed=seed, work_dir=tempfile.mkdtemp()
    )
    manifest = split_manifest(dataset.manifest, "image", test=0.335, validation=0.1, seed=seed)
    return Dataset(manifest, dataset.images, dataset.rejected)


def run(name, dataset, seed, max_epochs, folder) -> tuple[float, float]:
    """Train with one schedule; return passes and seconds until the wanted accuracy."""
    start, config, passes = time.perf_counter(), replace(SCHEDULES[name], seed=seed, epochs=max_epochs), 0
    n_train, validation = len(dataset.split("train").images), dataset.split("validation")
    model, _, record = initialise(config, dataset)
    if config.head_epochs:
        warm_up_head(model, dataset, config, record)
        passes = config.head_augmented_passes * n_train
        alone = (predict(model, validation.images).argmax(1) == validation.labels).mean()
        print(f"    head only: validation accuracy {alone:.3f} after {time.perf_counter() - start:.0f} s", flush=True)
        if alone >= WANTED:
            return passes, time.perf_counter() - start
    history = fit(model, dataset, config, folder)
    reached = history.val_accuracy.iloc[-1] >= WANTED
    lost = sum(attempt["epoch"] for attempt in history.attrs["collapsed"])
    passes += (len(history) + lost) * n_train if reached else np.inf
    return passes, time.perf_counter() - start


def run_once(name, dataset, seed, max_epochs, folder) -> tuple[float, float]:
    """Run, or read what an earlier call left in the folder; the seconds are those of the call that ended it."""
    path = folder / "result.json"
    if not path.exists():
        passes, seconds = run(name, dataset, seed, max_epochs, folder)
        write_json(path, {"passes": passes if np.isfinite(passes) else None, "seconds": seconds})
    found = read_json(path)
    return found["passes"] or np.inf, found["seconds"]


def main() -> None:
    """Run every schedule with every seed and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-epochs", type=int, default=46)
    parser.add_argument("--only", choices=SCHEDULES, help="run just this schedule")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.mkdtemp()), help="folder to resume from")
    options = parser.parse_args()
    if not SHARED.exists():
        sys.exit(print(f"Skipped: there are no real images in {SHARED}."))
    print(configure_hardware())
    callbacks.TqdmCallback = lambda **_: StopThere()
    found = {name: [] for name in SCHEDULES if options.only in (None, name)}
    for seed in range(options.seeds):
        dataset = sample_images(seed)
        for name, results in found.items():
            print(f"  seed {seed}, {name} schedule, {len(dataset.split('train').images)} training images", flush=True)
            folder = options.keep / f"seed-{seed}-{name.replace(' ', '-')}"
            results.append(run_once(name, dataset, seed, options.max_epochs, folder))
    for name, results in found.items():
        passes, seconds = np.median(results, axis=0)
        print(f"{name:14} {passes:8.0f} passes, {seconds:6.0f} s to {WANTED} (median of {len(results)} seeds)")
    if len(found) == 2:
        articles, ours = (np.median(results, axis=0)[0] for results in found.values())
        print(
            f"ours needs {ours / articles:.3f} of the article's passes, {ours / (46 * 350):.3f} of its 46 epochs of 350 images"
        )


if __name__ == "__main__":
    main()
