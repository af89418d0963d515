"""The package's training in two steps that notebook 03 and sweeps share: where a network starts, and its head first."""

from __future__ import annotations

from functools import partial

from covidxr.augment import AugmentedBatches, build_policy
from covidxr.collapse import redraw_head
from covidxr.dataset import preprocess
from covidxr.errors import unknown
from covidxr.model import build_baseline, build_vgg16
from covidxr.probe import start_head
from covidxr.random_start import data_dependent_start, looks_linear_start
from covidxr.train import fit, set_seed
from covidxr.weights import load_weights

GIVEN_WEIGHTS = {"epochs": 10, "learning_rate": 1e-4, "warmup_epochs": 2, "batch_size": 16}
RANDOM_START = {"epochs": 14, "learning_rate": 3e-5, "warmup_epochs": 0.25, "batch_size": 8}  # more and smaller steps


def start_network(build, image_size, weights, images) -> tuple:
    """Build a VGG16 and give it its first weights; random ones are mirrored and scaled to the films, and all are trained.

    Parameters
    ----------
    build : callable
        `covidxr.model.build_vgg16` with everything but the image size.
    image_size : int
        Side of the films in pixels.
    weights : str or path
        As for `covidxr.weights.load_weights`.
    images : numpy.ndarray
        Training films, ``uint8``, shape (N, image_size, image_size); the first 64 are looked at, by a random start only.

    Returns
    -------
    model : keras.Model
    build : callable
        What builds the same network for another size.
    record : covidxr.weights.WeightsRecord
        Where the weights came from.

    Examples
    --------
    >>> import numpy as np
    >>> films = np.random.default_rng(0).integers(0, 255, (4, 32, 32), np.uint8)
    >>> model, build, record = start_network(build_vgg16, 32, "random", films)
    >>> record.kind, model.get_layer("block5_conv3").trainable
    ('random', True)
    """
    model = build(image_size)
    record = load_weights(model, weights)
    if record.kind == "random":  # a block frozen at random would stay noise
        build = partial(build, freeze="none", dropout=0.2)
        model = build(image_size)
        looks_linear_start(model)
        data_dependent_start(model, preprocess(images[:64]))
    return model, build, record


def filled_in(kind, **chosen) -> dict:
    """Fill in what was not chosen of a training's numbers: few, larger steps on given weights, more and smaller on random ones.

    Parameters
    ----------
    kind : str
        Of the `covidxr.weights.WeightsRecord`.
    **chosen
        ``epochs``, ``learning_rate``, ``warmup_epochs``, ``batch_size``; None for the default.

    Returns
    -------
    dict

    Examples
    --------
    >>> filled_in("random", epochs=3, learning_rate=None)
    {'epochs': 3, 'learning_rate': 3e-05}
    """
    defaults = RANDOM_START if kind == "random" else GIVEN_WEIGHTS
    return {name: defaults[name] if value is None else value for name, value in chosen.items()}


def head_first(model, kind, batches, seed, epochs=40, passes=2):
    """Fit the head on the frozen base's features of augmented films; on random weights there is nothing yet to protect.

    Parameters
    ----------
    model : keras.Model
        Its head is changed in place.
    kind : str
        Of the `covidxr.weights.WeightsRecord`.
    batches : covidxr.augment.AugmentedBatches
        Training batches.
    seed, epochs, passes : int
        See `covidxr.probe.start_head`; 0 epochs leave the head as it is.

    Returns
    -------
    callable
        The new start that `covidxr.train.fit` takes after a collapse.

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> head_first(build_baseline(9), "random", None, seed=0) is redraw_head
    True
    """
    if not epochs or kind == "random":
        return redraw_head
    new_start = partial(start_head, batches=batches, epochs=epochs, passes=passes)
    new_start(model, seed)
    return new_start


def train_network(films, n_classes, settings, folder):
    """Train a network in one call: VGG16 as notebook 03 does, or the article's simple model as notebook 04 does.

    Parameters
    ----------
    films : dict
        As `covidxr.train.films_by_split` gives it.
    n_classes : int
        How many classes there are.
    settings : dict
        Those of `covidxr.ablation.REFERENCE`.
    folder : str or pathlib.Path
        Where ``model.keras`` and ``history.csv`` go, and the checkpoint.

    Returns
    -------
    keras.Model
        The epoch of least validation loss.

    Raises
    ------
    CovidxrError
        When ``network`` is neither ``vgg16`` nor ``simple``.

    Examples
    --------
    >>> train_network(films, 3, {**REFERENCE, "weights": "imagenet"}, "runs/demo/sweep/one")  # doctest: +SKIP
    """
    starts = {"vgg16": _vgg16, "simple": _simple}
    if settings["network"] not in starts:
        raise unknown("network", settings["network"], starts)
    set_seed(settings["seed"])
    model, numbers, new_start = starts[settings["network"]](films["train"], n_classes, settings)
    same = {name: settings[name] for name in ("policy", "schedule", "patience", "seed")}
    fit(model, films["train"], films["validation"], n_classes, folder, new_start=new_start, **numbers, **same)
    return model


def _vgg16(train, n_classes, settings):
    seed = settings["seed"]
    build = partial(build_vgg16, n_classes=n_classes, freeze=settings["freeze"], seed=seed)
    model, _, record = start_network(build, train.images.shape[1], settings["weights"], train.images)
    numbers = filled_in(record.kind, **{name: settings[name] for name in GIVEN_WEIGHTS})
    policy = build_policy(settings["policy"])
    batches = AugmentedBatches(*train, n_classes, policy, batch_size=numbers["batch_size"], seed=seed + 1)
    new_start = head_first(model, record.kind, batches, seed, settings["probe_epochs"], settings["probe_passes"])
    return model, numbers, new_start


def _simple(train, n_classes, settings):
    model = build_baseline(train.images.shape[1], n_classes, seed=settings["seed"])
    return model, {name: settings[name] for name in GIVEN_WEIGHTS}, redraw_head
