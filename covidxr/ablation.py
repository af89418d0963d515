"""Ablation study: variants that change one setting at a time, cross-validated with Dask, and a paired summary."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import re
import threading
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import dask
import numpy as np
import pandas as pd
from dask.distributed import Client, KilledWorker, LocalCluster, as_completed, get_worker
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT
from scipy.stats import t as student
from tqdm.auto import tqdm

from covidxr._keras import keras
from covidxr.augmentation import build_policy
from covidxr.checks import flags
from covidxr.data.dataset import Dataset, load_dataset
from covidxr.data.manifest import patient_keys
from covidxr.data.splits import fold_splits
from covidxr.evaluation.intervals import estimate_columns, estimate_of, estimate_statistic
from covidxr.evaluation.metrics import predict, prediction_table
from covidxr.fingerprint import comparable, content, inputs_of, modules_of
from covidxr.training.baselines import SIMPLE_MODEL
from covidxr.training.fit import TrainingConfig, dataset_at_size, train_network
from covidxr.training.hardware import configure_hardware
from covidxr.utils import CovidxrError, read_json, unknown, write_csv, write_json

BASELINE = "baseline model"

_BY_WEIGHTS = ("learning_rate", "warmup_epochs", "batch_size")

_TRAINED = {"first blocks": "last-block", "last blocks": "first-blocks", "all blocks": "none", "head only": "base"}


@dataclass(frozen=True)
class Variant(TrainingConfig):
    """Settings of a variant's trainings; ``image_size`` and ``classes`` None are the run's own."""

    image_size: int | None = None
    classes: list | None = None


def make_variants(variants, reference=None) -> dict[str, Variant]:
    """Complete variants, given by name as the settings in which each differs from the reference."""
    if not variants:
        raise CovidxrError("an ablation needs variants; the first is the reference that the others are compared with")
    names = [field.name for field in fields(Variant)]
    for name, changes in variants.items():
        if strange := sorted(set(changes) - set(names)):
            raise unknown(f"setting of {name}:", strange[0], names)
    return {name: replace(reference or Variant(), **changes) for name, changes in variants.items()}


def default_variants(reference, labels=(), image_sizes=()) -> dict:
    """List one change at a time: initialisation, trained layers, each augmentation, schedule, head warm-up and so on."""
    policy = reference.policy
    transforms = [transform.name for transform in build_policy(policy).steps]
    weights = "imagenet" if reference.weights == "random" else "random"
    schedule = "plateau" if reference.schedule == "one-cycle" else "one-cycle"
    variants = {
        "reference": {},
        "another seed": {"seed": reference.seed + 10_000},
        f"{weights} weights": {"weights": weights, **dict.fromkeys(_BY_WEIGHTS)},
        **{f"{name} trained": {"freeze": freeze} for name, freeze in _TRAINED.items() if freeze != reference.freeze},
        **{f"without {name}": {"policy": f"{policy} without {name}"} for name in transforms},
        **({"no augmentation": {"policy": "none"}} if transforms else {}),
        f"{schedule} schedule": {"schedule": schedule},
        "no head warm-up": {"head_epochs": 0},
        f"{schedule} schedule, no head warm-up": {"schedule": schedule, "head_epochs": 0},
        "no head or rate warm-up": {"head_epochs": 0, "warmup_epochs": 0},
        BASELINE: {**SIMPLE_MODEL, "epochs": 60},
        **{f"{size} px": {"image_size": size} for size in image_sizes},
    }
    own = reference.classes or labels
    if set(labels) - set(own):
        variants[f"{len(labels)} classes"] = {"classes": list(labels)}
    return variants


def summarise_ablation(predictions, draws=1000) -> pd.DataFrame:
    """Accuracy of each variant, and its difference from the first one's on the same images, with intervals."""
    first = predictions.variant.iloc[0]
    shared = predictions[predictions.image_id.isin(predictions.image_id[predictions.variant == first])]
    margin, reference = _training_margin(shared), _per_image(shared[shared.variant == first])
    rows = {}
    for variant, own in predictions.groupby("variant", sort=False):
        images = _per_image(own)
        paired = _per_image(shared[shared.variant == variant]).assign(reference=reference.correct).dropna()
        difference = _difference(paired, margin, draws)
        rows[variant] = {
            "n": len(images),
            **estimate_columns(accuracy=_mean(images.correct, images.patient, draws)),
            "chance": images.label.value_counts(normalize=True).max(),
            "shared": len(paired),
            **estimate_columns(difference=difference),
            "verdict": "differs" if difference.low > 0 or difference.high < 0 else "not significant",
        }
    summary = pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")
    summary.loc[first, ["difference_low", "difference_high", "verdict"]] = 0.0, 0.0, ""
    return summary


def _per_image(predictions):
    images = predictions.assign(patient=patient_keys(predictions)).groupby("image_id")
    return images.agg(correct=("correct", "mean"), label=("label", "first"), patient=("patient", "first"))


def _mean(values, patients, draws):
    values = values.to_numpy()
    return estimate_statistic(lambda rows: values[rows].mean(), patients, draws=draws)


def _training_margin(predictions):
    """Half the width of Student's interval of a difference between two variants' means over all trainings."""
    table = predictions.groupby(["repeat", "fold", "variant"]).correct.mean().unstack()
    trainings, variants = table.shape
    residuals = table.sub(table.mean(axis=1), axis=0).sub(table.mean(axis=0), axis=1) + table.to_numpy().mean()
    freedom = (trainings - 1) * (variants - 1)
    if not freedom:
        return np.inf
    return student.ppf(0.975, freedom) * np.sqrt(2 / trainings * (residuals**2).to_numpy().sum() / freedom)


def _difference(paired, margin, draws):
    """The paired difference, with the wider of its interval over patients and its interval over trainings."""
    bootstrap = _mean(paired.correct - paired.reference, paired.patient, draws)
    over_trainings = replace(bootstrap, low=bootstrap.value - margin, high=bootstrap.value + margin)
    return max(bootstrap, over_trainings, key=lambda estimate: estimate.high - estimate.low)


def ablation_sentences(summary) -> list:
    """Accuracy and difference of each variant as a sentence, and how many differences chance alone would give."""
    first, *others = summary.index
    lines = []
    for variant, row in summary.iterrows():
        accuracy = f"{variant}: {estimate_of(row, 'accuracy')}, chance {row.chance:.2f}"
        lines.append(f"{accuracy}; {_difference_text(row, first)}." if variant != first else f"{accuracy}.")
    if others:
        lines.append(
            f"{(summary.verdict == 'differs').sum()} of {len(others)} differ significantly from {first}; if none differed, "
            f"95 % confidence intervals would still show {0.05 * len(others):.1f} on average."
        )
    return lines


def _difference_text(row, first):
    images = f" on the {row.shared:.0f} images tested by both" if row.shared != row.n else ""
    significance = "significant" if row.verdict == "differs" else "not significant"
    return f"difference from {first}{images} {estimate_of(row, 'difference').signed()}, {significance}"


# Seeds and TensorFlow are the whole process', whatever threads a cluster's worker has.
_ONE_AT_A_TIME = threading.Lock()


class FoldPlan(NamedTuple):
    """How images are divided: folds, repeats, the share of validation images, and the seed of the division."""

    folds: int = 3
    repeats: int = 1
    validation: float = 0.15
    seed: int = 0


class AblationTask(NamedTuple):
    """One training: its variant, repeat and fold, its ``config``, the ``splits`` of the run's images, and its folders."""

    variant: str
    repeat: int
    fold: int
    config: Variant
    splits: list
    run_dir: str
    folder: str
    key: str

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.variant}, repeat {self.repeat}, fold {self.fold}"

    @property
    def is_done(self) -> bool:
        """Whether its results are there and unchanged."""
        folder = Path(self.folder)
        try:
            done = read_json(folder / "task.json")
        except CovidxrError:  # damaged: the training is done again
            return False
        predictions = content(folder / "predictions.csv")
        return done.get("key") == self.key and predictions is not None and done.get("predictions") == predictions


def plan_ablation(run_dir, variants, plan, train=None) -> list[AblationTask]:
    """List the trainings of an ablation: each variant on each fold, all on the same folds."""
    dataset = load_dataset(run_dir)
    manifest = dataset.manifest
    for name, config in variants.items():
        if strange := sorted(set(config.classes or ()) - set(manifest.label)):
            raise unknown(f"class of {name}:", strange[0], sorted(set(manifest.label)))
    names = "\n".join(manifest.image_id + manifest.label)
    given = [hashlib.sha256(dataset.images.tobytes() + names.encode()).hexdigest(), _trainer(train)]
    return [
        _make_task(Path(run_dir).absolute(), (variant, repeat, fold), config, divided.split.tolist(), given)
        for variant, config in variants.items()
        for repeat, row in enumerate(fold_splits(manifest, *plan))
        for fold, divided in enumerate(row)
    ]


def _make_task(run_dir, position, config, splits, given):
    variant, repeat, fold = position
    config = replace(config, seed=config.seed + 100 * repeat + fold)
    weights = inputs_of({"weights": config.weights}, {}).get("weights")
    described = [comparable(asdict(config)), weights, splits, given]
    key = hashlib.sha256(json.dumps(described, default=str).encode()).hexdigest()
    words = re.sub(r"\W+", "-", variant).strip("-")
    folder = run_dir / "ablation" / words / f"repeat-{repeat}-fold-{fold}-{key[:8]}"
    return AblationTask(*position, config, splits, str(run_dir), str(folder), key)


def _trainer(train):
    """The training function's name and the package's code behind it: when that is edited, all trainings are done again."""
    name = f"{train.__module__}.{train.__qualname__}" if train else "covidxr.training.fit.train_network"
    return [name, modules_of("covidxr.training.fit", name)]


def run_task(task, threads=None, train=None) -> None:
    """Do one training, in whatever process this is, and leave its results in its folder."""
    output = io.StringIO()  # progress bars of several trainings at once are unreadable
    with _ONE_AT_A_TIME, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        hardware = configure_hardware(task.config.precision, threads or get_worker().state.nthreads)
        dataset = _task_dataset(task)
        Path(task.folder).mkdir(parents=True, exist_ok=True)
        model = (train or train_network)(dataset, task.config, task.folder)
        test = dataset.split("test")
        table = prediction_table(test.manifest, predict(model, test.images), dataset.classes)
        keras.utils.clear_session()
    position = {"variant": task.variant, "repeat": task.repeat, "fold": task.fold}
    write_csv(Path(task.folder) / "predictions.csv", table.assign(**position)[[*position, *table.columns]])
    sums = {"key": task.key, "predictions": content(Path(task.folder) / "predictions.csv")}
    facts = {**position, **sums, "settings": asdict(task.config), "hardware": hardware}
    write_json(Path(task.folder) / "task.json", facts)


def _task_dataset(task):
    """The images of the task's classes, at its size, in its splits."""
    run = load_dataset(task.run_dir)
    run = dataset_at_size(task.run_dir, run, task.config.image_size or run.images.shape[1])
    wanted = run.manifest.label.isin(task.config.classes or run.classes).to_numpy()
    return Dataset(run.manifest.assign(split=task.splits)[wanted], run.images[wanted], run.rejected)


_WORKER_BYTES = 2.5e9  # what a training takes at 100 pixels, with room

_SCHEDULER_TIMEOUT = 20  # seconds for a scheduler to answer

_DEATHS = 3  # of its worker that a task is allowed; then it is the task's fault

_CONFIG = {
    "distributed.scheduler.allowed-failures": _DEATHS - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # no task waits on a busy worker, to be blamed for its death
    "distributed.worker.memory.target": False,  # TensorFlow's memory cannot be spilled to disk, so pausing would be for ever
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "logging.distributed": "critical",
}


def run_ablation(run_dir, variants, plan, scheduler=None, train=None) -> pd.DataFrame:
    """Train each variant on each fold, several at once, and gather the predictions on the held-out images."""
    tasks = plan_ablation(run_dir, variants, plan, train)
    left = [task for task in tasks if not task.is_done]
    if left:
        _decode_sizes(run_dir, {task.config.image_size for task in left})
        with _client(scheduler, len(left)) as (client, threads):
            failures = _run_tasks(client, tasks, left, threads, train)
        if failures:
            name, reason = next((task.name, failures[task.name]) for task in left if task.name in failures)
            raise CovidxrError(
                f"{len(failures)} of {len(left)} trainings failed, the first is {name}: {reason}; "
                "the others are kept, and the same call repeats only these"
            )
    return _gather(tasks)


def _decode_sizes(run_dir, sizes):
    """Decode images of other sizes once, before several workers would do it at the same time."""
    dataset = load_dataset(run_dir)
    for size in sorted(sizes - {None}):
        dataset_at_size(run_dir, dataset, size)


@contextlib.contextmanager
def _client(scheduler, tasks):
    """A client of the cluster named, or of one on this machine; and the threads that each of its workers has."""
    if scheduler:
        try:
            client = Client(scheduler, timeout=_SCHEDULER_TIMEOUT)
        except OSError as error:
            raise CovidxrError(f"no Dask scheduler answers at {scheduler}: {error}") from None
        with client:
            yield client, None
        return
    workers = int(max(1, min(tasks, CPU_COUNT, MEMORY_LIMIT // _WORKER_BYTES)))
    options = {"dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with (
        dask.config.set(_CONFIG),
        LocalCluster(
            workers, threads_per_worker=1, processes=True, memory_limit=MEMORY_LIMIT // workers, **options
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client, CPU_COUNT // workers


def _run_tasks(client, tasks, left, threads, train):
    """Submit what is left; return what went wrong, by task."""
    futures = {
        client.submit(run_task, task, threads, train, key=f"{task.name} {uuid.uuid4().hex}"): task for task in left
    }
    failures = {}
    with tqdm(total=len(tasks), initial=len(tasks) - len(left), desc="trainings") as bar:
        for future in as_completed(futures):
            if reason := _failure_reason(future):
                failures[futures[future].name] = reason
            bar.update()
    return failures


def _failure_reason(future):
    error = future.exception()
    if isinstance(error, KilledWorker):
        return "every worker that ran it died, most often for lack of memory"
    return error and (str(error) if isinstance(error, CovidxrError) else f"{type(error).__name__}: {error}")


def _gather(tasks):
    names = dict.fromkeys(("variant", "image_id", "patient_id", "source", "label", "predicted"), str)
    try:
        tables = [
            pd.read_csv(Path(task.folder) / "predictions.csv", dtype=names, keep_default_na=False) for task in tasks
        ]
    except FileNotFoundError as error:
        raise CovidxrError(
            f"{error.filename} is missing though its training is done; a cluster's workers must see the run folder "
            "under the same path as this process"
        ) from None
    return pd.concat(tables, ignore_index=True)


_FOLD_KEYS = ["repeat", "fold"]


def final_accuracies(predictions) -> pd.DataFrame:
    """Test accuracy of each training, and the baseline model's on the same images of the same fold."""
    predictions = predictions.assign(correct=flags("correct", predictions.correct))
    of_baseline = predictions.variant == BASELINE
    baseline = predictions[of_baseline]
    shared = predictions[~of_baseline].merge(baseline[[*_FOLD_KEYS, "image_id"]], on=[*_FOLD_KEYS, "image_id"])
    trainings = shared.groupby(["variant", *_FOLD_KEYS], sort=False)
    table = trainings.agg(value=("correct", "mean"), predicted_classes=("predicted", "nunique")).reset_index()
    return table.merge(baseline.groupby(_FOLD_KEYS).correct.mean().rename("baseline"), on=_FOLD_KEYS)


def stability_sentences(table) -> list:
    """How many trainings collapsed to a constant prediction, and how many the baseline model exceeds."""
    if table.empty:
        return [f"There is no variant {BASELINE!r} to compare the trainings with."]
    constant, below = table[table.predicted_classes == 1], table[table.value < table.baseline]
    return [
        f"{len(constant)} of {len(table)} trainings collapsed to a constant prediction{_variant_counts(constant)}.",
        f"{len(below)} of {len(table)} are less accurate than the {BASELINE} on the same images{_variant_counts(below)}.",
    ]


def _variant_counts(rows):
    counts = rows.variant.value_counts(sort=False)
    return ": " + ", ".join(f"{variant} ({count})" for variant, count in counts.items()) if len(rows) else ""
