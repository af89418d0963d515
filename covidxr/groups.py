"""Groups of films: weights that keep big sources from drowning small ones."""

from __future__ import annotations

import numpy as np
import pandas as pd


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
