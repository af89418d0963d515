"""What training costs beyond the network itself: ``python tests/benchmarks/bench_training.py``.

1. A step of the article's VGG16 at 100 px with augmentation, as training does it, against a bare ``train_on_batch`` on
   fixed arrays, in turns; at most 1.05 times as long. And the share of the machine's matrix-multiply rate that it reaches.
   Both in processor seconds of this process, all its threads together, which say the same on a busy machine.
2. The forward pass and the training step in half precision, where this machine has instructions for it, against float32, in
   turns: processor milliseconds an image.
3. Seconds an epoch and peak memory at 500, 5,000 and 20,000 images, each in a process of its own, with a network so small
   that the data path is what is measured. Time must be linear, memory flat beyond the images themselves.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covidxr.training import callbacks
from covidxr.utils import quiet_environment

quiet_environment()

import numpy as np  # noqa: E402
from stand_ins import LabelledImages, dataset_of  # noqa: E402

from covidxr._keras import keras, tf  # noqa: E402
from covidxr.augmentation import AugmentedBatches, PlainBatches, build_policy  # noqa: E402
from covidxr.model.networks import build_vgg16  # noqa: E402
from covidxr.training.callbacks import Schedule, TrainingMonitor, TrainingState, _compile  # noqa: E402
from covidxr.training.fit import TrainingConfig, fit  # noqa: E402
from covidxr.training.hardware import choose_precision, configure_hardware, set_precision  # noqa: E402

SIZE, BATCH, STEPS, TURNS = 100, 16, 6, 5
COUNTS = (500, 5_000, 20_000)


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch's training by a clock, without its validation."""

    def __init__(self, now=time.process_time):
        super().__init__()
        self.now, self.seconds = now, []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = self.now()

    def on_train_batch_end(self, batch, logs=None):
        self.end = self.now()

    def on_test_begin(self, logs=None):
        self.seconds.append(self.end - self.start)


def random_images(n) -> LabelledImages:
    """Draw images of noise."""
    return LabelledImages(np.random.default_rng(0).integers(0, 255, (n, SIZE, SIZE), np.uint8), np.arange(n) % 3)


def operations(model) -> int:
    """Count the multiplications and additions of one training step: forward, to the inputs, and to trained kernels."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            product = int(np.prod(layer.output.shape[1:])) * int(np.prod(layer.kernel.shape[:-1]))
            passes = 1 + (layer.name != "block1_conv1") + layer.trainable
            total += 2 * product * passes * BATCH
    return total


def matmul_rate(side=2048) -> float:
    """Operations a processor second of a large matrix product."""
    a = tf.random.normal((side, side))
    multiply = tf.function(lambda: tf.reduce_sum(a @ a))
    multiply()
    return 2 * side**3 / float(np.median([timed(multiply) for _ in range(7)]))


def timed(call) -> float:
    """Return the processor seconds of one call."""
    start = time.process_time()
    np.asarray(call())
    return time.process_time() - start


def compare_steps() -> None:
    """Print what a step costs, bare and in training, and fail where augmentation costs more than a twentieth."""
    model, images = build_vgg16(SIZE), random_images(BATCH * STEPS)
    adam = _compile(model, STEPS)
    x, y = AugmentedBatches(*images, 3, build_policy("none"), batch_size=BATCH).batch(0, 0)
    turns, rates = {"bare": []}, []
    clocks = {policy: Clock() for policy in ("none", "article", "anatomical")}
    for _ in range(TURNS + 1):
        turns["bare"].append(timed(lambda: [model.train_on_batch(x, y) for _ in range(STEPS)]) / STEPS)
        for policy, clock in clocks.items():
            batches = AugmentedBatches(*images, 3, build_policy(policy), batch_size=BATCH)
            schedule = Schedule("plateau", 1e-4, STEPS, 1)
            monitor = TrainingMonitor(TrainingState(0), schedule, batches, adam, lambda model, state: None)
            held_out = PlainBatches(images.images[:1], images.labels[:1], 3)
            model.fit(batches, validation_data=held_out, shuffle=False, verbose=0, callbacks=[monitor, clock])
        rates.append(matmul_rate())
    turns |= {policy: [seconds / STEPS for seconds in clock.seconds] for policy, clock in clocks.items()}
    bare = np.array(turns["bare"][1:])
    for name, seconds in turns.items():
        cost = float(np.median(np.array(seconds[1:]) / bare))
        print(f"step of {BATCH}, {name:10} {1000 * np.median(seconds[1:]):7.0f} ms {cost:6.3f} × bare", flush=True)
        assert name == "bare" or cost <= 1.05, f"augmentation {name!r} costs {cost:.2f} of a bare step"
    share = operations(model) / np.median(bare) / np.median(rates[1:])
    print(
        f"matrix products: {np.median(rates[1:]) / 1e9:.0f} GFLOP a processor second; a step reaches {share:.2f} of that"
    )


def compare_precisions() -> None:
    """Print what a forward pass and a training step cost an image, in float32 and in this machine's own precision."""
    if choose_precision("auto") == "float32":
        print("this machine is fastest in float32")
        return
    x, y = AugmentedBatches(*random_images(BATCH), 3, build_policy("none"), batch_size=BATCH).batch(0, 0)
    calls = {}
    for precision in ("float32", choose_precision("auto")):
        model = build_vgg16(SIZE)
        set_precision(model, precision)
        _compile(model, STEPS)
        calls["forward", precision] = partial(model.predict_on_batch, x)
        calls["training step", precision] = partial(model.train_on_batch, x, y)
    for call in calls.values():
        call()  # compiles
    turns = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            turns[name].append(timed(lambda call=call: [call() for _ in range(STEPS)]) / STEPS / BATCH)
    for what in ("forward", "training step"):
        full, half = (np.array(seconds) for (name, _), seconds in turns.items() if name == what)
        print(
            f"{what} at {SIZE} px: float32 {1000 * np.median(full):.0f} ms an image, {choose_precision('auto')} "
            f"{1000 * np.median(half):.0f} ms, {np.median(half / full):.2f} ×",
            flush=True,
        )


def tiny() -> keras.Model:
    """Build a network that costs next to nothing."""
    layers = keras.layers
    shrink, pool = layers.AveragePooling2D(10), layers.GlobalAveragePooling2D()
    return keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), shrink, layers.Conv2D(4, 3), pool, layers.Dense(3, "softmax")]
    )


def one_size(n) -> dict:
    """Train for two epochs on n images; the second is timed."""
    images, clock = random_images(n), Clock(time.perf_counter)
    held_out = LabelledImages(images.images[: n // 10], images.labels[: n // 10])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    callbacks.TqdmCallback = lambda **options: clock
    config = TrainingConfig(epochs=2, policy="article", batch_size=32, warmup_epochs=1)
    fit(tiny(), dataset_of(images, held_out), config, tempfile.mkdtemp())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"images": n, "seconds": clock.seconds[-1], "with_images_mb": before / 1024, "peak_mb": peak / 1024}


def grow() -> None:
    """Print seconds and memory by the number of images."""
    for n in COUNTS:
        done = subprocess.run([sys.executable, __file__, str(n)], capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        pixels = n * SIZE * SIZE / 2**20
        print(
            f"{n:6,} images: {row['seconds']:6.1f} s an epoch, {1000 * row['seconds'] / n:.2f} ms an image; "
            f"peak {row['peak_mb']:.0f} MB, {row['peak_mb'] - pixels:.0f} MB beside the {pixels:.0f} MB of images"
        )


if __name__ == "__main__":
    machine = configure_hardware()
    if len(sys.argv) > 1:
        print(json.dumps(one_size(int(sys.argv[1]))))
    else:
        print(machine)
        compare_steps()
        compare_precisions()
        grow()
