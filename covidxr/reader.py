"""A linear reader of features for which what differs between sources is noise: a shrunk discriminant, films weighed by source."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve, svd
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from covidxr.errors import CovidxrError
from covidxr.groups import cell_weights

PENALTY = 1e-3  # scikit-learn's C on standardised features: films are few, features thousands
FOLDINGS = 3  # of one, chance moves sensitivity elsewhere by 0.04 (which films are held out together), of three by 0.01
RIDGE = 1.0  # added to the features' variances, which are 1 before classes are told apart: shrunk half way


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


def fit_reader(x, labels, sources, patients, balanced=True, discriminant=True, seed=0) -> Reader:
    """Fit a linear reader for which what tells the sources of a class apart is noise.

    Where a class comes from one source and its opposite from another, whatever tells the sources apart seems to tell the
    classes apart. Fisher's discriminant weighs a difference between classes against the spread within each of them; with the
    sources of a class counting alike, their differences are part of that spread, and a feature that follows them is heard
    less. The classes' margins are made into probabilities on films of patients that the margins were not fitted on.

    Parameters
    ----------
    x : array_like of float
        Features, shape (N, …), of a network that has not seen the labels.
    labels, sources, patients : array_like of str
        N of each; a patient's name is unique over all sources.
    balanced : bool
        Whether sources count alike within a class, and classes alike (`covidxr.groups.cell_weights`); else only classes do.
    discriminant : bool
        Whether to fit the discriminant, its covariance shrunk half way to the identity; else logistic regression.
    seed : int
        Seed of the first of the `FOLDINGS` divisions into folds.

    Returns
    -------
    Reader
        Of the classes in the order of their names.

    Raises
    ------
    CovidxrError
        When there is but one class, or one patient, or each class has one film, or a feature is not finite.

    References
    ----------
    The discriminant, shrunk: Friedman J. H., Regularized Discriminant Analysis, JASA 84, 1989. From margins to probabilities:
    Alexandari A. et al., Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation, ICML 2020.

    Examples
    --------
    >>> rng, place = np.random.default_rng(0), np.arange(120) % 6
    >>> ill, grey = place < 3, np.array([3, 0, -1, 1, -2, -3])[place]  # films of the ill are brighter, but not everywhere
    >>> films = rng.normal(size=(120, 20)) + grey[:, None]
    >>> films[ill, :5] += 1.5  # and have a sign
    >>> reader = fit_reader(films, np.where(ill, "ill", "well"), place.astype(str), np.arange(120).astype(str))
    >>> with_sign, bright = reader.probabilities([[1.5] * 5 + [0.0] * 15, [1.0] * 20])[:, 0]
    >>> bool(with_sign > bright > 0.5)
    True
    """
    x, labels, sources = np.reshape(x, (len(x), -1)), np.asarray(labels, dtype=str), np.asarray(sources, dtype=str)
    classes = np.unique(labels)
    if len(classes) < 2:
        raise CovidxrError(f"a reader needs films of two classes, all {len(labels)} are {', '.join(classes)}")
    if not np.isfinite(x).all():
        raise CovidxrError(
            "features hold values that are not finite; check the images and weights that they are made from"
        )
    weights = cell_weights(labels, sources if balanced else np.full(len(labels), ""))
    means, scales = np.average(x, axis=0, weights=weights), x.std(axis=0) + 1e-6
    left, size, axes = svd((x - means) / scales, full_matrices=False)
    rotated = left * size  # no more features than films, and the same solution
    fit = _fit_discriminant if discriminant else _fit_logistic
    held_out = np.empty((FOLDINGS, len(x), len(classes)))
    for number, margins in enumerate(held_out):
        for inside, outside in _folds(labels, sources, patients, seed + number):
            margins[outside] = rotated[outside] @ fit(rotated[inside], labels[inside], weights[inside], classes)
    kernel = (axes.T / scales[:, None]) @ fit(rotated, labels, weights, classes)
    truth = np.tile(np.searchsorted(classes, labels), FOLDINGS)
    factor, shift = _calibration(held_out.reshape(len(truth), -1), truth, np.tile(weights, FOLDINGS))
    return Reader(factor * kernel, shift - factor * means @ kernel, classes.tolist())


def _folds(labels, sources, patients, seed):
    cells = np.char.add(np.char.add(labels, "/"), sources)
    if np.unique(cells, return_counts=True)[1].max() < 2:
        cells = labels
    fewest = min(5, len(np.unique(patients)), np.unique(cells, return_counts=True)[1].max())
    if fewest < 2:
        raise CovidxrError(
            f"a reader needs two patients, and two films of one class; there are {len(np.unique(patients))} patients with "
            f"{len(labels)} films of {', '.join(np.unique(labels))}: add films"
        )
    folds = StratifiedGroupKFold(fewest, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cell with fewer films than folds cannot be in all of them
        return list(folds.split(labels, cells, patients))


def _fit_discriminant(x, labels, weights, classes):
    """What each feature adds to each class, by Fisher's discriminant; a class without films gets nothing."""
    present = np.isin(classes, labels)
    means = np.stack([np.average(x[labels == one], axis=0, weights=weights[labels == one]) for one in classes[present]])
    around = (x - means[np.searchsorted(classes[present], labels)]) * np.sqrt(weights / weights.sum())[:, None]
    kernel = np.zeros((x.shape[1], len(classes)))
    covariance = around.T @ around + RIDGE * np.eye(x.shape[1])
    kernel[:, present] = solve(covariance, (means - means.mean(axis=0)).T, assume_a="pos")
    return kernel


def _fit_logistic(x, labels, weights, classes):
    """The same by logistic regression; scikit-learn has one column for two classes together, none for absent ones."""
    kernel = np.zeros((x.shape[1], len(classes)))
    if len(np.unique(labels)) < 2:
        return kernel
    found = LogisticRegression(C=PENALTY, max_iter=1000, tol=0.01).fit(x, labels, sample_weight=weights)
    kernel[:, np.searchsorted(classes, found.classes_)] = (
        np.stack([-found.coef_[0] / 2, found.coef_[0] / 2], axis=1) if len(found.classes_) == 2 else found.coef_.T
    )
    return kernel


def _calibration(margins, truth, weights):
    """One factor for all margins and a bias for each class: the likeliest for the films held out."""

    def loss(parameters):
        chances = log_softmax(np.exp(parameters[0]) * margins + parameters[1:], axis=1)
        return -np.average(chances[np.arange(len(truth)), truth], weights=weights)

    start = np.append(-np.log(margins.std() + 1e-12), np.zeros(margins.shape[1]))
    found = minimize(loss, start).x
    return np.exp(found[0]), found[1:]
