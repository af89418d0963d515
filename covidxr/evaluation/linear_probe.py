"""Linear probes of embeddings: logistic regression and source-balanced LDA, and group-balanced weights."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from scipy.linalg import solve, svd
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from covidxr.utils import CovidxrError


def group_weights(labels, sources) -> np.ndarray:
    """Weights under which classes, and the sources within each class, contribute equally."""
    cells = pd.DataFrame({"label": np.asarray(labels), "source": np.asarray(sources)})
    images = cells.groupby(["label", "source"]).label.transform("size")
    weights = 1 / (images * cells.groupby("label").source.transform("nunique"))
    return (weights / weights.mean()).to_numpy()


def worst_group_loss(probabilities, labels, groups) -> tuple[str, float]:
    """Find the group of images with the largest loss."""
    if not len(probabilities) == len(labels) == len(groups):
        raise CovidxrError(f"{len(labels)} images, but {len(probabilities)} predictions and {len(groups)} groups")
    of_truth = np.asarray(probabilities, dtype=float)[np.arange(len(labels)), labels]
    losses = pd.Series(-np.log(of_truth.clip(1e-7))).groupby(np.asarray(groups)).mean()
    return losses.idxmax(), float(losses.max())


PENALTY = 1e-3  # scikit-learn's C on standardised features: images are few, features thousands

CALIBRATION_REPEATS = 3  # the folds' seed moves external sensitivity by 0.04 with one repeat, by 0.01 with three

_RIDGE = 1.0  # added to the features' variances, which are 1 over all classes: a shrinkage of one half


class _CalibratedProbe(ClassifierMixin, BaseEstimator):
    """A linear classifier whose probabilities are calibrated on patients held out from its own training data."""

    balanced = True

    def fit(self, X, y, sources=None, groups=None):
        """Fit embeddings (N, …) to labels; `sources` are balanced and `groups`, the patients, are kept in one fold."""
        x, labels, (sources, groups) = (
            np.reshape(X, (len(X), -1)),
            np.asarray(y, dtype=str),
            _texts(len(X), sources, groups),
        )
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise CovidxrError(f"a linear probe needs two classes, all {len(labels)} images are {self.classes_[0]}")
        if not np.isfinite(x).all():
            raise CovidxrError(
                "features hold values that are not finite; check the images and weights they are made from"
            )
        weights = group_weights(labels, sources if self.balanced else np.full(len(labels), ""))
        means, scales = np.average(x, axis=0, weights=weights), x.std(axis=0) + 1e-6
        left, size, axes = svd((x - means) / scales, full_matrices=False)
        rotated = left * size  # no more features than images, and the same solution
        held_out = np.empty((CALIBRATION_REPEATS, len(x), len(self.classes_)))
        for number, margins in enumerate(held_out):
            for train, test in _folds(labels, sources, groups, self.seed + number):
                margins[test] = rotated[test] @ self._kernel(rotated[train], labels[train], weights[train])
        kernel = (axes.T / scales[:, None]) @ self._kernel(rotated, labels, weights)
        truth = np.tile(np.searchsorted(self.classes_, labels), CALIBRATION_REPEATS)
        factor, shift = _calibrate(held_out.reshape(len(truth), -1), truth, np.tile(weights, CALIBRATION_REPEATS))
        self.coef_, self.intercept_ = (factor * kernel).T, shift - factor * means @ kernel
        return self

    def predict_proba(self, X) -> np.ndarray:
        """Class probabilities, shape (N, classes), in the order of ``classes_``."""
        return softmax(np.reshape(X, (len(X), -1)) @ self.coef_.T + self.intercept_, axis=1)

    def predict(self, X) -> np.ndarray:
        """The most probable class of each row."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class SourceBalancedLDA(_CalibratedProbe):
    """Linear discriminant analysis in which between-source variation within a class is noise.

    Classes, and the sources within each class, have equal weight. The covariance is shrunk half way to the identity.

    Parameters
    ----------
    seed : int
        Seed of the folds for calibration.

    Attributes
    ----------
    classes_ : numpy.ndarray of str
    coef_ : numpy.ndarray
        Shape (classes, features).
    intercept_ : numpy.ndarray
        Shape (classes,).

    Raises
    ------
    CovidxrError
        From ``fit``: with fewer than two classes or patients, or features that are not finite.

    Examples
    --------
    >>> rng, y = np.random.default_rng(0), np.tile(["a", "b"], 30)
    >>> probe = SourceBalancedLDA().fit(rng.normal(size=(60, 5)) + 3 * (y == "b")[:, None], y, sources=["x"] * 60)
    >>> probe.predict(np.array([[0.0] * 5, [3.0] * 5])).tolist()
    ['a', 'b']
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def _kernel(self, x, labels, weights):
        """Fisher's discriminant, one column a class; zeros for a class without images."""
        present = np.isin(self.classes_, labels)
        classes = self.classes_[present]
        means = np.stack([np.average(x[labels == one], axis=0, weights=weights[labels == one]) for one in classes])
        residuals = (x - means[np.searchsorted(classes, labels)]) * np.sqrt(weights / weights.sum())[:, None]
        kernel = np.zeros((x.shape[1], len(present)))
        covariance = residuals.T @ residuals + _RIDGE * np.eye(x.shape[1])
        kernel[:, present] = solve(covariance, (means - means.mean(axis=0)).T, assume_a="pos")
        return kernel


class LogisticProbe(_CalibratedProbe):
    """Logistic regression on standardised features; unbalanced, it is the ERM baseline.

    Parameters
    ----------
    balanced : bool
        Whether sources within a class have equal weight; classes always have.
    seed : int
        Seed of the folds for calibration.

    Attributes
    ----------
    classes_, coef_, intercept_
        As in `SourceBalancedLDA`.

    Raises
    ------
    CovidxrError
        As `SourceBalancedLDA`.

    Examples
    --------
    >>> y = np.tile(["a", "b"], 30)
    >>> float(LogisticProbe().fit((y == "b")[:, None] + np.zeros((60, 1)), y).score([[0.0], [1.0]], ["a", "b"]))
    1.0
    """

    def __init__(self, balanced: bool = False, seed: int = 0):
        self.balanced = balanced
        self.seed = seed

    def _kernel(self, x, labels, weights):
        """scikit-learn has one row of coefficients for two classes, none for absent ones; here, one column a class."""
        kernel = np.zeros((x.shape[1], len(self.classes_)))
        if len(np.unique(labels)) < 2:
            return kernel
        found = LogisticRegression(C=PENALTY, max_iter=1000, tol=0.01).fit(x, labels, sample_weight=weights)
        columns = np.concatenate([-found.coef_, found.coef_]) / 2 if len(found.classes_) == 2 else found.coef_
        kernel[:, np.searchsorted(self.classes_, found.classes_)] = columns.T
        return kernel


def _texts(n, sources, groups):
    """Sources and patients as text; by default one source, and a patient an image."""
    sources = np.full(n, "") if sources is None else np.asarray(sources, dtype=str)
    return sources, np.arange(n).astype(str) if groups is None else np.asarray(groups, dtype=str)


def _folds(labels, sources, patients, seed):
    cells = np.char.add(np.char.add(labels, "/"), sources)
    if np.unique(cells, return_counts=True)[1].max() < 2:
        cells = labels
    n_folds = min(5, len(np.unique(patients)), np.unique(cells, return_counts=True)[1].max())
    if n_folds < 2:
        raise CovidxrError(
            f"a linear probe needs two patients, and two images of one class; there are {len(np.unique(patients))} patients "
            f"with {len(labels)} images of {', '.join(np.unique(labels))}: add images"
        )
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class and source with fewer images than folds cannot be in all of them
        return list(folds.split(labels, cells, patients))


def _calibrate(margins, truth, weights):
    """Maximum-likelihood scale of all margins and bias of each class, on held-out images."""

    def loss(parameters):
        log_p = log_softmax(np.exp(parameters[0]) * margins + parameters[1:], axis=1)
        return -np.average(log_p[np.arange(len(truth)), truth], weights=weights)

    start = np.append(-np.log(margins.std() + 1e-12), np.zeros(margins.shape[1]))
    found = minimize(loss, start).x
    return np.exp(found[0]), found[1:]
