"""A linear reader of features that learns within sources: each source has an intercept of its own while it is fitted."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from scipy.linalg import svd
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from covidxr.errors import CovidxrError
from covidxr.groups import cell_weights

PENALTY = 1e-3  # scikit-learn's C on standardised features: films are few, features thousands
FREE = 100.0  # an intercept's scale; its penalty is this squared times weaker than a feature's


class Reader(NamedTuple):
    """A fitted reader: ``kernel`` (features, classes), ``bias`` (classes,) and ``classes``.

    Examples
    --------
    >>> Reader(np.array([[0.0, 2.0]]), np.zeros(2), ["a", "b"]).probabilities([[0.0]]).tolist()
    [[0.5, 0.5]]
    """

    kernel: np.ndarray
    bias: np.ndarray
    classes: list

    def probabilities(self, x) -> np.ndarray:
        """Each class's probability for N rows of features, shape (N, classes)."""
        return softmax(np.reshape(x, (len(x), -1)) @ self.kernel + self.bias, axis=1)


def fit_reader(x, labels, sources, patients, balanced=True, intercepts=True, seed=0) -> Reader:
    """Fit softmax regression so that telling sources apart does not help it.

    Where a class comes from one source and its opposite from another, whatever tells the sources apart seems to tell the
    classes apart. With an intercept for each source, almost unpenalised and forgotten afterwards, that is explained before any
    feature is looked at: only differences between classes *within* a source are left to learn from. A film of an unknown
    source has no such intercept. So the classes' margins are then made into probabilities without them, on films of
    patients that the margins were not fitted on.

    Parameters
    ----------
    x : array_like of float
        Features, shape (N, …), of a network that has not seen the labels.
    labels, sources, patients : array_like of str
        N of each; a patient's name is unique over all sources.
    balanced : bool
        Whether sources count alike within a class, and classes alike (`covidxr.groups.cell_weights`); else only classes do.
    intercepts : bool
        Whether each source has one.
    seed : int
        Seed of the folds.

    Returns
    -------
    Reader
        Of the classes in the order of their names.

    Raises
    ------
    CovidxrError
        When there is but one class.

    References
    ----------
    Intercepts of groups: Mundlak Y., On the Pooling of Time Series and Cross Section Data, Econometrica 46, 1978. From margins
    to probabilities: Kull M. et al., Beyond temperature scaling, NeurIPS 2019.

    Examples
    --------
    >>> rng, ill, place = np.random.default_rng(0), np.arange(80) % 2, np.arange(80) // 40
    >>> sign = ill + rng.normal(0, 0.3, 80)
    >>> reader = fit_reader(np.c_[sign, place], ill.astype(str), place.astype(str), np.arange(80).astype(str))
    >>> bool(abs(reader.kernel[0]).min() > 10 * abs(reader.kernel[1]).max())
    True
    """
    x, labels, sources = np.reshape(x, (len(x), -1)), np.asarray(labels, dtype=str), np.asarray(sources, dtype=str)
    classes, names = np.unique(labels), np.unique(sources)
    if len(classes) < 2:
        raise CovidxrError(f"a reader needs films of two classes, all {len(labels)} are {', '.join(classes)}")
    weights = cell_weights(labels, sources if balanced else np.full(len(labels), ""))
    means, scales = np.average(x, axis=0, weights=weights), x.std(axis=0) + 1e-6
    left, size, axes = svd((x - means) / scales, full_matrices=False)
    rotated = left * size  # no more features than films, and the same solution
    places = FREE * (sources[:, None] == names) if intercepts else np.zeros((len(x), 0))
    held_out = np.empty((len(x), len(classes)))
    for inside, outside in _folds(labels, sources, patients, seed):
        kernel = _fit_margins(rotated[inside], places[inside], labels[inside], weights[inside], classes)
        held_out[outside] = rotated[outside] @ kernel
    kernel = (axes.T / scales[:, None]) @ _fit_margins(rotated, places, labels, weights, classes)
    spread = held_out.std() + 1e-12
    calibration = LogisticRegression(max_iter=1000).fit(held_out / spread, labels, sample_weight=weights)
    mapping, shift = _softmax_form(calibration, classes)
    kernel = kernel @ mapping / spread
    return Reader(kernel, shift - means @ kernel, classes.tolist())


def _folds(labels, sources, patients, seed):
    cells = np.char.add(np.char.add(labels, "/"), sources)
    folds = StratifiedGroupKFold(min(5, len(np.unique(patients))), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cell with fewer films than folds cannot be in all of them
        return list(folds.split(labels, cells, patients))


def _fit_margins(x, places, labels, weights, classes):
    """What each feature adds to each class, sources' intercepts forgotten."""
    regression = LogisticRegression(C=PENALTY, max_iter=1000, tol=0.01)
    regression.fit(np.hstack([x, places]), labels, sample_weight=weights)
    return _softmax_form(regression, classes)[0][: x.shape[1]]


def _softmax_form(regression, classes):
    """Kernel and bias with a column for each of the classes; scikit-learn has one for two classes together, none for absent ones."""
    coefficients, intercepts = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:
        coefficients, intercepts = (np.stack([-one[0] / 2, one[0] / 2]) for one in (coefficients, intercepts))
    columns = np.searchsorted(classes, regression.classes_)
    kernel, bias = np.zeros((coefficients.shape[1], len(classes))), np.zeros(len(classes))
    kernel[:, columns], bias[columns] = coefficients.T, intercepts
    return kernel, bias
