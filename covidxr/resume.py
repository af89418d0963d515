"""What a training needs to go on after a break: one checkpoint an epoch, written whole or not at all.

Keras' own ``BackupAndRestore`` brings back weights, optimizer and epoch, but not what callbacks remember (the best
loss, how long a plateau lasted) nor the history, and a kill while it writes can leave the weights of one epoch with
the number of another. Here everything lies in one file, which is moved into place.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from covidxr.files import atomic_path

CHECKPOINT = "checkpoint.npz"


@dataclass
class Progress:
    """How far a training has come, beside the variables of model and optimizer.

    Parameters
    ----------
    seed : int
        Seed of this try.
    rows : list of dict
        The history, one row an epoch.
    collapsed : list of dict
        ``seed`` and ``epoch`` of earlier tries that collapsed.
    best : list of numpy.ndarray or None
        The weights of the epoch of least validation loss, as `keras.Model.get_weights` gives them.
    lost : bool
        Whether this try has collapsed; such an epoch is never saved.

    Examples
    --------
    >>> Progress(seed=0, rows=[{"val_loss": 0.7}]).losses
    [0.7]
    """

    seed: int
    rows: list = field(default_factory=list)
    collapsed: list = field(default_factory=list)
    best: list | None = None
    lost: bool = False

    @property
    def losses(self) -> list:
        """Validation losses of the epochs so far."""
        return [row["val_loss"] for row in self.rows]


def identity(model, films, settings) -> dict:
    """Describe a training, so that a checkpoint of another one is never gone on with.

    Parameters
    ----------
    model : keras.Model
        With the weights that training starts from.
    films : sequence of covidxr.train.Films
        All that it sees.
    settings : dict
        Everything else that changes the outcome; text and numbers.

    Returns
    -------
    dict
        The settings, and SHA-256 sums ``films`` and ``start``.

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> first, second = (identity(build_baseline(9, seed=seed), [], {"epochs": 2}) for seed in (0, 1))
    >>> sorted(name for name in first if first[name] != second[name])
    ['start']
    """
    arrays = [array for part in films for array in part]
    weights = [variable.numpy() for variable in model.variables]
    frozen = [layer.trainable for layer in model.layers]
    return {**settings, "films": _sum(arrays), "start": _sum([*weights, np.array(frozen)])}


def _sum(arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def save(folder, described, model, progress) -> None:
    """Write the checkpoint.

    Parameters
    ----------
    folder : str or pathlib.Path
        Where it goes, over the last one.
    described : dict
        From `identity`.
    model : keras.Model
        Compiled; its optimizer is kept too.
    progress : Progress
        The rest.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.model import build_baseline
    >>> folder, model = tempfile.mkdtemp(), build_baseline(9)
    >>> model.compile("adam", "mse")
    >>> save(folder, {"epochs": 2}, model, Progress(seed=3))
    >>> read(folder, {"epochs": 2})[0].seed
    3
    """
    kept = {**vars(progress), "best": progress.best is not None}
    groups = {"model": model.variables, "optimizer": model.optimizer.variables, "best": progress.best or []}
    arrays = {f"{name}/{i}": np.asarray(value) for name, group in groups.items() for i, value in enumerate(group)}
    with atomic_path(Path(folder) / CHECKPOINT) as temporary:
        texts = {"progress": json.dumps(kept), "identity": json.dumps(described, default=_plain)}
        np.savez(temporary, **texts, **arrays)


def read(folder, described) -> tuple[Progress, list, list] | str:
    """Read the checkpoint of a training.

    Parameters
    ----------
    folder : str or pathlib.Path
        Where `save` wrote it.
    described : dict
        From `identity`, for the training that wants to go on.

    Returns
    -------
    tuple of (Progress, list of numpy.ndarray, list of numpy.ndarray), or str
        With the variables of the model and of its optimizer; or why there is nothing to go on from: ``""`` where there
        is no checkpoint.

    Examples
    --------
    >>> read("no/such/folder", {})
    ''
    """
    path = Path(folder) / CHECKPOINT
    if not path.exists():
        return ""
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen kinds on a damaged file
        return f"{path} is damaged ({error})"
    other = json.loads(str(arrays["identity"]))
    if differs := sorted(name for name in {*described, *other} if described.get(name) != other.get(name)):
        return f"{path} is of another training ({', '.join(differs)} differ)"
    progress = Progress(**json.loads(str(arrays["progress"])))
    model, optimizer, best = ([arrays[f"{group}/{i}"] for i in range(_count(arrays, group))] for group in _GROUPS)
    progress.best = best if progress.best else None
    return progress, model, optimizer


def _plain(number):
    return number.item()  # NumPy's


_GROUPS = ("model", "optimizer", "best")


def _count(arrays, group):
    return sum(name.startswith(f"{group}/") for name in arrays)


def assign(variables, values) -> None:
    """Give variables their values.

    Parameters
    ----------
    variables : sequence of keras.Variable
        Of a model or an optimizer, with dropout's state and all.
    values : sequence of numpy.ndarray
        As many, of the same shapes.

    Examples
    --------
    >>> import keras
    >>> variable = keras.Variable([1.0, 2.0])
    >>> assign([variable], [np.array([3.0, 4.0])])
    >>> variable.numpy().tolist()
    [3.0, 4.0]
    """
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
