"""Training: configuration, initialisation, head warm-up, fine-tuning with restarts, progressive resizing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from covidxr._keras import keras, set_seed
from covidxr.augmentation import PlainBatches
from covidxr.data.dataset import Dataset
from covidxr.data.images import images_at_size, preprocess
from covidxr.model.networks import (
    build_baseline,
    build_truncated_vgg16,
    build_vgg16,
    data_dependent_init,
    load_model,
    looks_linear_init,
    transfer_weights,
    truncate_vgg16,
)
from covidxr.model.weights import WeightsRecord, load_weights
from covidxr.training.callbacks import (
    Schedule,
    TrainingState,
    TrainingTask,
    assign_variables,
    config_fingerprint,
    load_checkpoint,
    next_attempt,
    reinitialise_head,
    run_attempt,
    training_batches,
)
from covidxr.training.hardware import distribution_strategy, set_precision
from covidxr.training.head import reinitialise_and_fit_head
from covidxr.utils import CovidxrError, read_json, unknown, write_csv, write_json

_PRETRAINED_DEFAULTS = {"epochs": 10, "learning_rate": 1e-4, "warmup_epochs": 2, "batch_size": 16}

_RANDOM_DEFAULTS = {"epochs": 14, "learning_rate": 3e-5, "warmup_epochs": 0.25, "batch_size": 8}

_NETWORKS = ("full", "truncated", "baseline")


@dataclass(frozen=True)
class TrainingConfig:
    """All settings of a training.

    Parameters
    ----------
    network : {"full", "truncated", "baseline"}
        VGG16, VGG16 truncated after its third block, or the article's model without convolutions.
    weights : {"auto", "imagenet", "random"} or path
        Initial weights, see `covidxr.model.weights.load_weights`.
    freeze : {"last-block", "first-blocks", "base", "none"}
        Layers that are not trained, see `covidxr.model.networks.build_vgg16`. Randomly initialised networks train all.
    head_epochs : int
        Epochs of the head warm-up on embeddings of the frozen base; 0 for none. There is none on random weights.
    head_augmented_passes : int
        Passes over the augmented training images from which these embeddings are computed.
    epochs : int, optional
        Maximum number of passes over the training images; 0 evaluates the network and trains nothing.
    learning_rate : float, optional
        Adam's highest learning rate.
    warmup_epochs : float, optional
        Epochs in which the rate rises to it on the plateau schedule.
    batch_size : int, optional
        Images in a batch.
    policy : str
        Augmentation policy, see `covidxr.augmentation.build_policy`.
    schedule : {"plateau", "one-cycle"}
        Learning-rate schedule.
    patience : int
        Epochs without improvement after which training stops on the plateau schedule; a third of it halves the rate.
    balance : bool
        Whether training images are drawn so that classes, and the sources within each class, weigh equally, and the
        validation loss is that of the source with the largest loss.
    precision : {"auto", "float32", "mixed_bfloat16", "mixed_float16"}
        Arithmetic of the training; ``auto`` is half precision on processors and GPUs that have instructions for it. Weights,
        softmax, loss and the trained model are ``float32`` in any case.
    devices : {"one", "all"}
        One device, or data-parallel training on all GPUs of the machine.
    seed : int
        Seed of initialisation, order and augmentation.

    Examples
    --------
    >>> TrainingConfig(epochs=3).for_weights("random").batch_size
    8
    """

    network: str = "full"
    weights: str = "auto"
    freeze: str = "last-block"
    head_epochs: int = 40
    head_augmented_passes: int = 2
    epochs: int | None = None
    learning_rate: float | None = None
    warmup_epochs: float | None = None
    batch_size: int | None = None
    policy: str = "anatomical"
    schedule: str = "plateau"
    patience: int = 10
    balance: bool = False
    precision: str = "auto"
    devices: str = "one"
    seed: int = 0

    def for_weights(self, kind: str) -> TrainingConfig:
        """Fill in the settings that are None by the kind of initial weights.

        Parameters
        ----------
        kind : str
            ``"random"``, which takes more and smaller steps, or any other kind, such as ``"pretrained"``.

        Returns
        -------
        TrainingConfig

        Examples
        --------
        >>> TrainingConfig(batch_size=4).for_weights("pretrained").learning_rate
        0.0001
        """
        defaults = _RANDOM_DEFAULTS if kind == "random" else _PRETRAINED_DEFAULTS
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})


def fit(
    model: keras.Model,
    dataset: Dataset,
    config: TrainingConfig,
    run_dir: str | Path,
    reinitialise: Callable | None = reinitialise_head,
) -> pd.DataFrame:
    """Train a network with Adam and cross-entropy, and keep the epoch with the least validation loss.

    Three things differ from the article. The validated and kept weights are a running mean over about one epoch (Polyak
    and Juditsky 1992), since with few images the weights of a single step are noisy. The learning rate warms up: without
    that, some seeds collapse to a constant prediction within an epoch. If a training collapses all the same, a warning
    says so, and it restarts with another seed, at most twice.

    Each epoch leaves a checkpoint in the run folder's ``training``. The same call, with the same images, weights and
    settings, resumes from it after an interruption, with the same history and weights as an uninterrupted one. At the end
    ``model.keras`` and ``history.csv`` are written, and the checkpoint is removed.

    Parameters
    ----------
    model : keras.Model
        From `covidxr.model`, already initialised; trained in place. It ends with the kept weights.
    dataset : covidxr.data.Dataset
        Its splits ``train`` and ``validation`` are used; only training images are augmented.
    config : TrainingConfig
        Settings; those that are None are filled in as for pretrained weights. ``network``, ``weights``, ``freeze`` and the
        head's belong to `initialise` and `warm_up_head`, and change nothing here.
    run_dir : str or pathlib.Path
        The run folder.
    reinitialise : callable, optional
        Called with the model, back at its initial weights, and a new seed after a collapse; draws the head anew by default.
        With None, the initial weights are used again.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: ``epoch, accuracy, loss, val_accuracy, val_loss, learning_rate, stage`` (the image size) and
        ``seed`` (that of the attempt); with ``balance`` also ``worst_source`` and ``val_loss_of_all``.
        ``attrs["collapsed"]`` lists seed and epoch of the attempts that collapsed.

    Raises
    ------
    CovidxrError
        When the validation loss was never finite, a batch cannot be divided among the devices, or ``balance`` is combined
        with several devices; the run folder's old files stay as they were.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from covidxr.data.dataset import build_dataset
    >>> from covidxr.model.networks import build_baseline
    >>> folder = tempfile.mkdtemp()
    >>> dataset = build_dataset(per_class=4, image_size=32, work_dir=folder)
    >>> dataset.manifest["split"] = np.resize(["train", "validation"], 12)
    >>> history = fit(build_baseline(32), dataset, TrainingConfig(epochs=2), folder)
    >>> history.epoch.tolist(), history.stage.tolist()
    ([1, 2], ['32 px', '32 px'])
    """
    config, folder = config.for_weights("pretrained"), Path(run_dir) / "training"
    train, validation = dataset.split("train"), dataset.split("validation")
    set_precision(model, config.precision)
    if not config.epochs:
        history = _evaluate(model, train, validation, config.seed)
        _save_result(run_dir, folder, model, history)
        return history
    steps = -(-len(train.images) // config.batch_size)
    schedule = Schedule(
        config.schedule, config.learning_rate, steps, config.epochs, config.warmup_epochs, config.patience
    )
    fingerprint = config_fingerprint(model, train, validation, config)
    task = TrainingTask(train, validation, config, schedule, fingerprint, folder)
    state = _train(model, task, reinitialise)
    if state.best is None:
        shutil.rmtree(folder, ignore_errors=True)
        raise CovidxrError(
            f"no finite validation loss in {config.epochs} epochs at learning rate {config.learning_rate:g}; "
            "lower learning_rate"
        )
    model.set_weights(state.best)
    history = pd.DataFrame(state.rows).assign(stage=f"{train.images.shape[1]} px", seed=state.seed)
    history.attrs["collapsed"] = state.abandoned
    _save_result(run_dir, folder, model, history)
    return history


def _train(model, task, reinitialise) -> TrainingState:
    """Attempt after attempt, until one does not collapse."""
    initial = [variable.numpy() for variable in model.variables]
    state, *variables = load_checkpoint(task.folder, task.fingerprint) or (TrainingState(task.config.seed),)
    strategy = distribution_strategy(task.config.devices)
    while True:
        set_seed(state.seed)
        _attempt(strategy, model, task, state, variables)
        if not state.collapsed:
            return state
        state, variables = next_attempt(state), ()
        assign_variables(model.variables, initial)
        if reinitialise:
            reinitialise(model, state.seed)


def _attempt(strategy, model, task, state, variables):
    """One attempt, on one device or on a copy of the network on each of several."""
    replicas, size = strategy.num_replicas_in_sync, task.config.batch_size
    if replicas == 1:
        return run_attempt(model, task, state, variables)
    if size % replicas:
        raise CovidxrError(
            f"a batch of {size} images cannot be divided among {replicas} devices; make batch_size a multiple"
        )
    if task.config.balance:  # predictions of several devices come back once for each
        raise CovidxrError("balance needs a single device; set balance to False or devices to 'one'")
    with strategy.scope():
        copy = keras.models.clone_model(model)
        set_precision(copy, task.config.precision)
        assign_variables(copy.variables, [variable.numpy() for variable in model.variables])
        return run_attempt(copy, task, state, variables)


def _evaluate(model, train, validation, seed):
    """A history of no epoch: loss and accuracy of the untrained model."""
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    row = {"epoch": 0, "learning_rate": 0.0, "stage": f"{train.images.shape[1]} px", "seed": seed}
    for prefix, images in (("", train), ("val_", validation)):
        batches = PlainBatches(images.images, images.labels, len(train.classes))
        measured = model.evaluate(batches, verbose=0, return_dict=True)
        row |= {f"{prefix}{name}": value for name, value in measured.items()}
    history = pd.DataFrame([row])
    history.attrs["collapsed"] = []
    return history


def _save_result(run_dir, folder, model, history):
    """Write model and history, and remove the checkpoint with whatever an interrupted training left there."""
    set_precision(model, "float32")
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])  # lets go of Adam's moments
    folder.mkdir(parents=True, exist_ok=True)
    keras.Model(model.inputs, model.outputs, name=model.name).save(folder / "model.keras")  # and this saves none
    os.replace(folder / "model.keras", Path(run_dir) / "model.keras")
    write_csv(Path(run_dir) / "history.csv", history)
    shutil.rmtree(folder, ignore_errors=True)


def initialise(config: TrainingConfig, dataset: Dataset) -> tuple[keras.Model, Callable, WeightsRecord]:
    """Build the configured network for a dataset and give it its initial weights.

    A plain VGG16 does not learn from random weights. So its kernels are mirrored, which makes the stack nearly linear at
    first (Balduzzi et al. 2017), and scaled to the images (Krähenbühl et al. 2016); all its layers are trained.

    Parameters
    ----------
    config : TrainingConfig
        ``network``, ``weights``, ``freeze``, ``precision`` and ``seed`` are used.
    dataset : covidxr.data.Dataset
        Gives image size and classes; random weights are scaled to its first 64 training images.

    Returns
    -------
    model : keras.Model
    build : callable
        Builds the same network, uninitialised, for another image size.
    record : covidxr.model.weights.WeightsRecord
        Where the weights came from.

    Raises
    ------
    CovidxrError
        When the network is unknown, or its weights cannot be had.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.data.dataset import build_dataset
    >>> dataset = build_dataset(per_class=2, image_size=32, work_dir=tempfile.mkdtemp())
    >>> model, build, record = initialise(TrainingConfig(network="baseline"), dataset)
    >>> model.output_shape, build(48).input_shape, record.kind
    ((None, 3), (None, 48, 48, 3), 'random')
    """
    size, shape = dataset.images.shape[1], {"n_classes": len(dataset.classes), "seed": config.seed}
    if config.network not in _NETWORKS:
        raise unknown("network", config.network, _NETWORKS)
    if config.network == "baseline":
        build = partial(build_baseline, **shape)
        model = build(size)
        record = load_weights(model, "random")
    else:
        build = partial(build_vgg16, freeze=config.freeze, **shape)
        model = build(size)
        record = load_weights(model, config.weights)
        if record.kind == "random":  # a block frozen at random would stay noise
            build = partial(build, freeze="none", dropout=0.2)
            model = build(size)
            looks_linear_init(model)
            data_dependent_init(model, preprocess(dataset.split("train").images[:64]))
    if config.network == "truncated":
        model, build = truncate_vgg16(model, config.seed), partial(build_truncated_vgg16, **shape)
    set_precision(model, config.precision)  # only now: initial weights are computed in float32
    return model, build, record


def warm_up_head(
    model: keras.Model, dataset: Dataset, config: TrainingConfig, record: WeightsRecord
) -> Callable[[keras.Model, int], None]:
    """Fit the head on the frozen base's embeddings of augmented images, before fine-tuning.

    A fresh head sends large random gradients into the pretrained layers; a fitted one does not (Kumar et al. 2022). On
    random weights nothing is done, since there is nothing to protect.

    Parameters
    ----------
    model : keras.Model
        From `initialise`; its head is changed in place.
    dataset : covidxr.data.Dataset
        Its split ``train`` is used.
    config : TrainingConfig
        ``head_epochs``, ``head_augmented_passes``, ``batch_size``, ``policy``, ``balance`` and ``seed`` are used.
    record : covidxr.model.weights.WeightsRecord
        From `initialise`.

    Returns
    -------
    callable
        What `fit` calls after a collapse: takes the model and a seed.

    References
    ----------
    Kumar A. et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, ICLR 2022.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.data.dataset import build_dataset
    >>> dataset = build_dataset(per_class=2, image_size=32, work_dir=tempfile.mkdtemp())
    >>> config = TrainingConfig(network="baseline")
    >>> model, _, record = initialise(config, dataset)
    >>> warm_up_head(model, dataset, config, record).__name__
    'reinitialise_head'
    """
    if not config.head_epochs or record.kind == "random":
        return reinitialise_head
    batches = training_batches(dataset.split("train"), config.for_weights(record.kind), config.seed + 1)
    reinitialise = partial(
        reinitialise_and_fit_head, batches=batches, epochs=config.head_epochs, passes=config.head_augmented_passes
    )
    reinitialise(model, config.seed)
    return reinitialise


def train_network(dataset: Dataset, config: TrainingConfig, run_dir: str | os.PathLike) -> keras.Model:
    """Initialise a network, warm up its head, and train it, as notebook 03 does.

    Parameters
    ----------
    dataset : covidxr.data.Dataset
        Its splits ``train`` and ``validation`` are used.
    config : TrainingConfig
        All settings.
    run_dir : str or os.PathLike
        Where ``model.keras`` and ``history.csv`` are written.

    Returns
    -------
    keras.Model
        With the weights of the epoch of least validation loss.

    Raises
    ------
    CovidxrError
        As `initialise` and `fit`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from covidxr.data.dataset import build_dataset
    >>> folder = tempfile.mkdtemp()
    >>> dataset = build_dataset(per_class=4, image_size=32, work_dir=folder)
    >>> dataset.manifest["split"] = np.resize(["train", "validation"], 12)
    >>> train_network(dataset, TrainingConfig(network="baseline", epochs=1), folder).output_shape
    (None, 3)
    """
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    set_seed(config.seed)
    model, _, record = initialise(config, dataset)
    config = config.for_weights(record.kind)
    fit(model, dataset, config, run_dir, warm_up_head(model, dataset, config, record))
    return model


_STAGE_NEEDS = ("image_size", "epochs")

_STAGE_MAY_HAVE = ("learning_rate", "policy", "batch_size", "patience", "warmup_epochs", "schedule")


def plan_resizing(stages, image_size, epochs) -> list:
    """Check the stages of progressive resizing; by default there is one, of the images' own size."""
    stages = [dict(stage) for stage in stages] or [{"image_size": image_size, "epochs": epochs}]
    for number, stage in enumerate(stages, 1):
        if strange := [name for name in stage if name not in (*_STAGE_NEEDS, *_STAGE_MAY_HAVE)]:
            raise unknown(f"setting of stage {number}", strange[0], (*_STAGE_NEEDS, *_STAGE_MAY_HAVE))
        if lacks := [name for name in _STAGE_NEEDS if name not in stage]:
            raise CovidxrError(f"stage {number} lacks {lacks[0]}; it has {', '.join(stage) or 'nothing'}")
    if (last := stages[-1]["image_size"]) != image_size:
        raise CovidxrError(
            f"the last stage has images of {last} pixels, the run of {image_size}; the notebooks after this one use the "
            "run's, so add a stage of that size"
        )
    return stages


def dataset_at_size(run_dir, dataset, image_size) -> Dataset:
    """A run's dataset with images of another size: decoded once, and kept in the run folder."""
    images = images_at_size(run_dir, dataset.manifest, dataset.images, image_size)
    return Dataset(dataset.manifest, images, dataset.rejected)


def fit_progressively(
    initialised, stages, dataset_at, config, run_dir, reinitialise=reinitialise_head
) -> tuple[keras.Model, pd.DataFrame]:
    """Train a network, given as (model, build), stage by stage, each initialised with the weights of the one before."""
    (model, build), histories, run_dir = initialised, [], Path(run_dir)
    for number, stage in enumerate(stages, 1):
        size = stage["image_size"]
        if number > 1:
            previous, model, reinitialise = model, build(size), None
            transfer_weights(previous, model)
        dataset = dataset_at(size)
        settings = replace(config, **{name: value for name, value in stage.items() if name != "image_size"})
        if number < len(stages):
            folder = run_dir / "stages" / f"{number}-{size}px"
            model, history = _earlier_stage(model, dataset, settings, folder, reinitialise)
        else:
            history = fit(model, dataset, settings, run_dir, reinitialise)
        if len(stages) > 1:
            history["stage"] = f"{number}: {size} px"
        history.attrs["collapsed"] = [{"stage": number, **attempt} for attempt in history.attrs["collapsed"]]
        histories.append(history)
    history = pd.concat(histories, ignore_index=True)
    history["epoch"] = (history.epoch > 0).cumsum()  # counted across stages; 0 is a model that was not trained
    history.attrs["collapsed"] = [attempt for one in histories for attempt in one.attrs["collapsed"]]
    write_csv(run_dir / "history.csv", history)
    shutil.rmtree(run_dir / "stages", ignore_errors=True)
    return model, history


def _earlier_stage(model, dataset, config, folder, reinitialise):
    """Train a stage that is not the last, or read what it left in its folder."""
    key = config_fingerprint(model, dataset.split("train"), dataset.split("validation"), config)
    if (done := read_json(folder / "stage.json")).get("training") == key:
        try:
            history = pd.read_csv(folder / "history.csv")
            history.attrs["collapsed"] = done["collapsed"]
            return load_model(folder), history
        except (ValueError, OSError) as error:
            print(f"The stage in {folder} is trained again, since its files cannot be read: {error}")
    history = fit(model, dataset, config, folder, reinitialise)
    write_json(folder / "stage.json", {"training": key, "collapsed": history.attrs["collapsed"]})
    return model, history
