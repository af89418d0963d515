"""Progressive resizing: train on small films first, then carry the weights over to larger ones.

The convolutions do not care about the films' size. The head does, where the map before it grows: its first kernel is
carried over so that the new head gives what the old one would give on the map averaged down to the old grid. (VGG16's
head pools 64 px and 100 px to one position, 224 px to four: there each position gets a quarter of the kernel.)
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from covidxr import resume
from covidxr.errors import CovidxrError, unknown
from covidxr.files import read_json, write_csv, write_json
from covidxr.pixels import pixels_of_size
from covidxr.train import films_by_split, fit, read_model

OPTIONS = ("image_size", "epochs", "learning_rate", "policy", "batch_size", "patience", "warmup_epochs", "schedule")


def plan_stages(stages, image_size, epochs) -> list:
    """Check a list of stages; without any there is one, of the films' own size.

    Parameters
    ----------
    stages : sequence of dict
        Each with ``image_size`` and ``epochs``, and any of the options of `covidxr.train.fit` that shall differ.
    image_size : int
        Size of the run's films, at which the model is used: that of the last stage.
    epochs : int
        For a training without stages.

    Returns
    -------
    list of dict

    Raises
    ------
    CovidxrError
        When a stage lacks something or has an unknown option, or the last is of another size.

    Examples
    --------
    >>> plan_stages([], 100, 15)
    [{'image_size': 100, 'epochs': 15}]
    >>> plan_stages([{"image_size": 64, "epochs": 5}], 100, 15)
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: the last stage has films of 64 pixels, the run of 100; the notebooks after this one use the run's, so add a stage of that size
    """
    stages = [dict(stage) for stage in stages] or [{"image_size": image_size, "epochs": epochs}]
    for number, stage in enumerate(stages, 1):
        if strange := [name for name in stage if name not in OPTIONS]:
            raise unknown(f"option of stage {number}", strange[0], OPTIONS)
        if lacks := [name for name in OPTIONS[:2] if name not in stage]:
            raise CovidxrError(f"stage {number} lacks {lacks[0]}; it has {', '.join(stage) or 'nothing'}")
    if (last := stages[-1]["image_size"]) != image_size:
        raise CovidxrError(
            f"the last stage has films of {last} pixels, the run of {image_size}; the notebooks after this one use the "
            "run's, so add a stage of that size"
        )
    return stages


def films_of_size(run_dir, run, classes, image_size) -> dict:
    """Films of a run by split, at another size: decoded once, and kept in the run folder.

    Parameters
    ----------
    run_dir : str or pathlib.Path
        The run folder.
    run : covidxr.dataset.Assembly
        What `covidxr.dataset.read_run` read there; films of its own size are taken from it.
    classes : sequence of str
        The labels.
    image_size : int
        Side in pixels.

    Returns
    -------
    dict
        As `covidxr.train.films_by_split` gives it.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.dataset import assemble
    >>> folder = tempfile.mkdtemp()
    >>> run = assemble(per_class=1, image_size=32, work_dir=folder)
    >>> run.manifest["split"] = "train"
    >>> films_of_size(folder, run, ["Normal", "COVID-19", "Bacteria"], 48)["train"].images.shape
    (3, 48, 48)
    """
    return films_by_split(run.manifest, pixels_of_size(run_dir, run.manifest, run.pixels, image_size), classes)


def carry_weights(old, new) -> None:
    """Give a network for one film size the weights of one for another, and what of them is trained, in place.

    Parameters
    ----------
    old, new : keras.Model
        Chains of the same layers, such as `covidxr.model` builds for two sizes.

    Raises
    ------
    CovidxrError
        When they differ by more than the size of the map before the head; it names the first layer that does not fit.

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> small, large = build_baseline(9), build_baseline(18)
    >>> carry_weights(small, large)
    >>> film = np.random.default_rng(0).random((1, 9, 9, 3), "float32")
    >>> enlarged = film.repeat(2, 1).repeat(2, 2)
    >>> bool(np.allclose(small(film), large(enlarged), atol=1e-6))
    True
    """
    if len(old.layers) != len(new.layers):
        raise CovidxrError(f"a network of {len(old.layers)} layers gives none to one of {len(new.layers)}")
    grids = None
    for source, target in zip(old.layers, new.layers, strict=True):
        weights, shapes = source.get_weights(), [array.shape for array in target.get_weights()]
        if "flatten" in source.name and len(source.input.shape) == 4:
            grids = source.input.shape[1:3], target.input.shape[1:3]
        elif grids and weights:
            kernel, *rest = weights
            weights, grids = [_resampled(kernel, *grids), *rest], None
        if [array.shape for array in weights] != shapes:
            raise CovidxrError(
                f"layer {target.name!r} has arrays of shapes {shapes}, those to carry over have "
                f"{[array.shape for array in source.get_weights()]}"
            )
        target.set_weights(weights)
        target.trainable = source.trainable


def _resampled(kernel, old, new):
    """The kernel for a map of another grid: that for the old grid, behind averaging over the cells that overlap."""
    rows, columns = (_averaging(before, after) for before, after in zip(old, new, strict=True))
    grid = kernel.reshape(*old, -1, kernel.shape[1])
    return np.einsum("yxcu,yh,xw->hwcu", grid, rows, columns).reshape(-1, kernel.shape[1])


def _averaging(old, new):
    """Shares (old, new) by which each of `old` cells of an axis is the mean of the `new` ones that it overlaps."""
    starts, ends = np.arange(old)[:, None] / old, np.arange(new) / new
    return np.clip(np.minimum(starts + 1 / old, ends + 1 / new) - np.maximum(starts, ends), 0, None) * old


def fit_stages(model, stages, build, films_at, n_classes, run_dir, **options) -> tuple[object, pd.DataFrame]:
    """Train stage after stage, each from the weights of the one before.

    A break loses nothing: stages that are done are read again, and the one that was not goes on (see `fit`).

    Parameters
    ----------
    model : keras.Model
        For the first stage's size, with the weights to start from.
    stages : sequence of dict
        From `plan_stages`.
    build : callable
        Called with an image size, gives the network for it.
    films_at : callable
        Called with an image size, gives the films by split, such as `films_of_size`.
    n_classes : int
        How many classes there are.
    run_dir : str or pathlib.Path
        The run folder; the last stage's model goes there.
    **options
        For `covidxr.train.fit`, where a stage has no other. After a collapse, `new_start` serves the first stage; later
        ones start again from the weights that were carried over.

    Returns
    -------
    model : keras.Model
        The last stage's.
    history : pandas.DataFrame
        As of `fit`, for all stages, with ``epoch`` counted on; also written as ``history.csv``.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.model import build_baseline
    >>> from covidxr.train import Films
    >>> def films_at(size):
    ...     films = Films(np.random.default_rng(0).integers(0, 255, (6, size, size), np.uint8), np.arange(6) % 3)
    ...     return {"train": films, "validation": films}
    >>> stages = [{"image_size": 9, "epochs": 1}, {"image_size": 18, "epochs": 1}]
    >>> model, history = fit_stages(build_baseline(9), stages, build_baseline, films_at, 3, tempfile.mkdtemp())
    >>> history.stage.tolist(), model.input_shape
    (['1: 9 px', '2: 18 px'], (None, 18, 18, 3))
    """
    histories, collapsed, run_dir = [], [], Path(run_dir)
    for number, stage in enumerate(stages, 1):
        size = stage["image_size"]
        if number > 1:
            previous, model = model, build(size)
            carry_weights(previous, model)
            options["new_start"] = _as_carried_over
        films, chosen = films_at(size), {**options, **stage}
        del chosen["image_size"]
        task = model, films["train"], films["validation"], n_classes
        if number < len(stages):
            model, history = _earlier_stage(*task, run_dir / "stages" / f"{number}-{size}px", **chosen)
        else:
            history = fit(*task, run_dir, **chosen)
        histories.append(history.assign(stage=f"{number}: {size} px") if len(stages) > 1 else history)
        collapsed += [{"stage": number, **lost} for lost in history.attrs["collapsed"]]
    history = pd.concat(histories, ignore_index=True)
    history["epoch"] = (history.epoch > 0).cumsum()  # counted on from stage to stage; 0 is a model as it was
    history.attrs["collapsed"] = collapsed
    write_csv(run_dir / "history.csv", history)
    shutil.rmtree(run_dir / "stages", ignore_errors=True)
    return model, history


def _as_carried_over(model, seed):
    pass


def _earlier_stage(model, train, validation, n_classes, folder, **options):
    """Train a stage that is not the last, or read what it left in its folder."""
    settings = {name: value for name, value in options.items() if name not in ("new_start", "balance")}
    key = resume.identity(model, (train, validation, options.get("balance") or ()), settings)
    if (done := read_json(folder / "stage.json")).get("training") == key:
        try:
            history = pd.read_csv(folder / "history.csv")
            history.attrs["collapsed"] = done["collapsed"]
            return read_model(folder), history
        except (ValueError, OSError) as error:
            print(f"The stage in {folder} is trained again, since what it left cannot be read: {error}")
    history = fit(model, train, validation, n_classes, folder, **options)
    write_json(folder / "stage.json", {"training": key, "collapsed": history.attrs["collapsed"]})
    return model, history
