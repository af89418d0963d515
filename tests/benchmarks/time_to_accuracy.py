"""Image passes until 0.95 validation accuracy on the article's selection of real films: ours against its schedule.

``python tests/benchmarks/time_to_accuracy.py [--seeds 3] [--max-epochs 46] [--only ours] [--keep DIR]``

Same films, same split (image by image, as the article's), same machine, ImageNet weights, 100 px. The article's schedule:
a random head, no probe, no warm-up, plateau at 1e-4, batches of 32. Ours: the head fitted on frozen features first, its
passes counted too, then the default schedule. A pass is one film through the network in training or for features;
validation is not counted. Medians over the seeds; a run that never gets there counts as infinite. It takes hours,
so it is not one of those that ``make bench`` runs, and with ``--keep`` the same command goes on after a break.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from covidxr._quiet import quiet_environment  # noqa: E402

quiet_environment()

import numpy as np  # noqa: E402

from covidxr import tries  # noqa: E402
from covidxr._tensorflow import keras  # noqa: E402
from covidxr.augment import AugmentedBatches, build_policy  # noqa: E402
from covidxr.dataset import CLASSES, assemble, split_manifest  # noqa: E402
from covidxr.evaluate import predict  # noqa: E402
from covidxr.files import read_json, write_json  # noqa: E402
from covidxr.hardware import use_hardware  # noqa: E402
from covidxr.model import build_vgg16  # noqa: E402
from covidxr.probe import start_head  # noqa: E402
from covidxr.train import films_by_split, fit  # noqa: E402
from covidxr.weights import load_weights  # noqa: E402

SHARED = ROOT.parent / "shared"
WANTED, PROBE_PASSES = 0.95, 2
SCHEDULES = {
    "the article's": {"learning_rate": 1e-4, "warmup_epochs": 0, "batch_size": 32, "patience": 46},
    "ours": {"learning_rate": 1e-4, "warmup_epochs": 2, "batch_size": 16, "patience": 46},
}


class StopThere(keras.callbacks.Callback):
    """End training at the wanted validation accuracy; the rest is not needed."""

    def on_epoch_end(self, epoch, logs=None):
        print(f"    epoch {epoch + 1}: validation accuracy {logs['val_accuracy']:.3f}", flush=True)
        self.model.stop_training |= logs["val_accuracy"] >= WANTED


def films(seed) -> dict:
    """The article's selection, 179 films a class, split with a seed."""
    sources = ["covid-chestxray", "kaggle-chest-xray"]
    assembly = assemble(sources, SHARED / "data", per_class=179, image_size=100, seed=seed, work_dir=tempfile.mkdtemp())
    manifest = split_manifest(assembly.manifest, "image", test=0.335, validation=0.1, seed=seed)
    return films_by_split(manifest, assembly.pixels, CLASSES)


def run(name, parts, seed, max_epochs, folder) -> tuple[float, float]:
    """Train with one schedule; return passes and seconds until the wanted accuracy."""
    start, options, train, passes = time.perf_counter(), SCHEDULES[name], parts["train"], 0
    model = build_vgg16(100, seed=seed)
    load_weights(model, SHARED / "weights" / "vgg16_notop.h5")
    if name == "ours":
        batches = AugmentedBatches(*train, 3, build_policy("article"), batch_size=options["batch_size"], seed=seed + 1)
        start_head(model, seed, batches, passes=PROBE_PASSES)
        passes = PROBE_PASSES * len(train.images)
        alone = (predict(model, parts["validation"].images).argmax(1) == parts["validation"].labels).mean()
        print(
            f"    the head alone: validation accuracy {alone:.3f} after {time.perf_counter() - start:.0f} s", flush=True
        )
        if alone >= WANTED:
            return passes, time.perf_counter() - start
    history = fit(model, train, parts["validation"], 3, folder, epochs=max_epochs, seed=seed, **options)
    reached = history.val_accuracy.iloc[-1] >= WANTED
    lost = sum(one["epoch"] for one in history.attrs["collapsed"])
    passes += (len(history) + lost) * len(train.images) if reached else np.inf
    return passes, time.perf_counter() - start


def run_once(name, parts, seed, max_epochs, folder) -> tuple[float, float]:
    """Run, or read what an earlier call left in the folder; the seconds are those of the call that ended it."""
    path = folder / "result.json"
    if not path.exists():
        passes, seconds = run(name, parts, seed, max_epochs, folder)
        write_json(path, {"passes": passes if np.isfinite(passes) else None, "seconds": seconds})
    found = read_json(path)
    return found["passes"] or np.inf, found["seconds"]


def main() -> None:
    """Run every schedule with every seed and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-epochs", type=int, default=46)
    parser.add_argument("--only", choices=SCHEDULES, help="run just this schedule")
    parser.add_argument(
        "--keep", type=Path, default=Path(tempfile.mkdtemp()), help="folder to go on from after a break"
    )
    options = parser.parse_args()
    if not SHARED.exists():
        sys.exit(print(f"Left out: there are no real films in {SHARED}."))
    print(use_hardware())
    tries.TqdmCallback = lambda **_: StopThere()
    found = {name: [] for name in SCHEDULES if options.only in (None, name)}
    for seed in range(options.seeds):
        parts = films(seed)
        for name, results in found.items():
            print(f"  seed {seed}, {name} schedule, {len(parts['train'].images)} training films", flush=True)
            folder = options.keep / f"seed-{seed}-{name.replace(' ', '-')}"
            results.append(run_once(name, parts, seed, options.max_epochs, folder))
    for name, results in found.items():
        passes, seconds = np.median(results, axis=0)
        print(f"{name:14} {passes:8.0f} passes, {seconds:6.0f} s to {WANTED} (median of {len(results)} seeds)")
    if len(found) == 2:
        articles, ours = (np.median(results, axis=0)[0] for results in found.values())
        print(
            f"ours needs {ours / articles:.3f} of the article's passes, {ours / (46 * 350):.3f} of its 46 epochs of 350 films"
        )


if __name__ == "__main__":
    main()
