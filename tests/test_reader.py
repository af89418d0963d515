"""A reader with an intercept for each source learns the sign, not the place; one without learns the place."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from covidxr import reader as module
from covidxr.errors import CovidxrError
from covidxr.reader import fit_reader


def films(cells, seed=0, noise=1.0):
    """Labels and sources of (label, source, count), and two features: a noisy sign of "ill", and the source's own grey."""
    rng = np.random.default_rng(seed)
    labels, sources = (np.array([cell[i] for cell in cells for _ in range(cell[2])]) for i in (0, 1))
    grey = np.select([sources == "a", sources == "b"], [2.0, -2.0])
    features = np.c_[(labels == "ill") + rng.normal(0, noise, len(labels)), grey + rng.normal(0, 0.5, len(labels))]
    return features, labels, sources, np.arange(len(labels)).astype(str)


MIXED = [("ill", "a", 190), ("well", "a", 30), ("well", "b", 200)]  # grey goes with the class, but not within a


def test_intercepts_leave_nothing_to_learn_from_the_place():
    without, within = (fit_reader(*films(MIXED), intercepts=choice).kernel for choice in (False, True))
    contrast = lambda kernel: np.abs(kernel[:, 0] - kernel[:, 1])  # noqa: E731
    assert contrast(without)[1] > 0.5 * contrast(without)[0]
    assert contrast(within)[1] < 0.1 * contrast(within)[0]


def test_it_does_right_elsewhere_where_one_without_intercepts_does_not():
    x, labels, sources, patients = films([("ill", "c", 200), ("well", "c", 200)], seed=1)
    x[:, 1] += 5  # the new place looks like a, even more so
    right = {}
    for choice in (False, True):
        reader = fit_reader(*films(MIXED), intercepts=choice)
        called = np.take(reader.classes, reader.probabilities(x).argmax(axis=1))
        right[choice] = np.mean([(called == labels)[labels == label].mean() for label in ("ill", "well")])
    assert right[True] > right[False] + 0.05 and right[True] > 0.6


def test_without_a_shortcut_intercepts_cost_little():
    unconfounded = [("ill", "a", 100), ("well", "a", 100), ("ill", "b", 100), ("well", "b", 100)]
    x, labels, sources, patients = films(unconfounded, seed=2, noise=0.5)
    right = [
        (np.take(one.classes, one.probabilities(x).argmax(axis=1)) == labels).mean()
        for one in (fit_reader(x, labels, sources, patients, intercepts=choice) for choice in (False, True))
    ]
    assert right[0] > 0.75 and abs(right[1] - right[0]) < 0.03


def test_more_features_than_films_give_the_solution_of_plain_logistic_regression():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(40, 300)), np.repeat(["a", "b"], 20)
    x[20:, 0] += 2
    margins = fit_reader(x, labels, np.full(40, "one"), np.arange(40).astype(str), intercepts=False).kernel
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    plain = LogisticRegression(C=module.PENALTY, tol=1e-6).fit(scaled, labels).coef_[0] / x.std(axis=0)
    assert np.corrcoef(margins[:, 1] - margins[:, 0], plain)[0, 1] > 0.999


def test_probabilities_are_right_as_often_as_they_say():
    x, labels, sources, patients = films([("ill", "a", 300), ("well", "a", 300)], seed=3)
    new_x, new_labels, *_ = films([("ill", "a", 1000), ("well", "a", 1000)], seed=4)
    stated = fit_reader(x, labels, sources, patients).probabilities(new_x)[:, 0]
    sure = stated > 0.7
    assert sure.sum() > 100 and (new_labels[sure] == "ill").mean() == pytest.approx(stated[sure].mean(), abs=0.07)


def test_balance_keeps_a_small_source_from_drowning():
    cells = [("ill", "a", 40), ("well", "a", 400), ("ill", "b", 40), ("well", "b", 8)]
    rng = np.random.default_rng(5)
    x, labels, sources, patients = films(cells, seed=5)
    x[:, 1] = np.where(sources == "b", (labels == "ill") * 2.0, 0) + rng.normal(0, 1, len(x))  # b has a sign of its own
    heard = {choice: fit_reader(x, labels, sources, patients, balanced=choice).kernel for choice in (False, True)}
    share = {
        choice: abs(kernel[1, 0] - kernel[1, 1]) / abs(kernel[0, 0] - kernel[0, 1]) for choice, kernel in heard.items()
    }
    assert share[True] > share[False]


def test_one_class_is_nothing_to_read():
    x, labels, sources, patients = films([("ill", "a", 10)])
    with pytest.raises(CovidxrError, match="two classes, all 10 are ill"):
        fit_reader(x, labels, sources, patients)
