"""Groups of films: weights that keep big sources from drowning small ones, and the group that fares worst."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from covidxr.errors import CovidxrError


def cell_weights(labels, sources) -> np.ndarray:
    """Weigh films so that classes count alike, and the sources within each class do.

    Parameters
    ----------
    labels, sources : array_like of str
        N of each.

    Returns
    -------
    numpy.ndarray
        ``float64``, shape (N,), positive, with mean 1.

    References
    ----------
    Sagawa S. et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020, whose groups are such cells; Idrissi
    B. Y. et al., Simple data balancing achieves competitive worst-group-accuracy, CLeaR 2022, which fixes their weights.

    Examples
    --------
    >>> cell_weights(["a", "a", "a", "b"], ["x", "x", "y", "y"]).round(2).tolist()
    [0.5, 0.5, 1.0, 2.0]
    """
    cells = pd.DataFrame({"label": np.asarray(labels), "source": np.asarray(sources)})
    films = cells.groupby(["label", "source"]).label.transform("size")
    weights = 1 / (films * cells.groupby("label").source.transform("nunique"))
    return (weights / weights.mean()).to_numpy()


class Balance(NamedTuple):
    """What a training needs to treat sources alike: ``weights`` of the training films, ``groups`` of the validation films."""

    weights: np.ndarray
    groups: np.ndarray


def balance_sources(manifest) -> Balance:
    """Weigh training films by class and source, and group validation films by source.

    Parameters
    ----------
    manifest : pandas.DataFrame
        With ``split`` filled.

    Returns
    -------
    Balance
        For `covidxr.train.fit`.

    Examples
    --------
    >>> rows = {"label": list("aabb"), "source": list("xyxy"), "split": ["train", "validation"] * 2}
    >>> balance_sources(pd.DataFrame(rows)).groups.tolist()
    ['y', 'y']
    """
    train, validation = manifest[manifest.split == "train"], manifest[manifest.split == "validation"]
    return Balance(cell_weights(train.label, train.source), validation.source.to_numpy(dtype=str))


def worst_group(probabilities, labels, groups) -> tuple[str, float]:
    """Find the group of films with the largest loss.

    Parameters
    ----------
    probabilities : numpy.ndarray
        Shape (N, classes).
    labels : numpy.ndarray
        True classes as numbers, shape (N,).
    groups : array_like of str
        N of them.

    Returns
    -------
    tuple of (str, float)
        Its name, and its mean cross-entropy.

    Raises
    ------
    CovidxrError
        When there are not as many groups as films.

    References
    ----------
    Sagawa S. et al., ICLR 2020, who stop training by the worst group.

    Examples
    --------
    >>> name, loss = worst_group(np.array([[0.9, 0.1], [0.5, 0.5]]), np.array([0, 0]), ["x", "y"])
    >>> name, round(loss, 2)
    ('y', 0.69)
    """
    if not len(probabilities) == len(labels) == len(groups):
        raise CovidxrError(f"{len(labels)} films, but {len(probabilities)} answers and {len(groups)} groups")
    right = np.asarray(probabilities, dtype=float)[np.arange(len(labels)), labels]
    losses = pd.Series(-np.log(right.clip(1e-7))).groupby(np.asarray(groups)).mean()
    return losses.idxmax(), float(losses.max())
