"""The discriminant hears the sign before the place; where sources do not differ, it is as good as logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from covidxr import reader as module
from covidxr.errors import CovidxrError
from covidxr.reader import fit_reader

GREYS = {"a": 3, "b": 0, "c": -1, "d": 1, "e": -2, "f": -3}


def films(cells, seed=0, sign=1.0):
    """Labels and sources of (label, source, count), and 30 features: all with their source's grey, 5 with a sign of "ill"."""
    rng = np.random.default_rng(seed)
    labels, sources = (np.array([cell[i] for cell in cells for _ in range(cell[2])]) for i in (0, 1))
    features = rng.normal(size=(len(labels), 30)) + np.vectorize(GREYS.get)(sources)[:, None]
    features[labels == "ill", :5] += sign
    return features, labels, sources, np.arange(len(labels)).astype(str)


CONFOUNDED = [*(("ill", place, 40) for place in "abc"), *(("well", place, 40) for place in "def")]
ELSEWHERE = [("ill", "b", 200), ("well", "b", 200)]


def right(reader, x, labels):
    called = np.take(reader.classes, reader.probabilities(x).argmax(axis=1))
    return np.mean([(called == labels)[labels == label].mean() for label in np.unique(labels)])


def heard(reader):
    """How much a bright film speaks for a class, to how much one with the sign does."""
    sign, grey = np.r_[np.ones(5), np.zeros(25)], np.ones(30)
    contrast = reader.kernel[:, 0] - reader.kernel[:, 1]
    return (grey @ contrast) / (sign @ contrast)


def test_what_differs_between_sources_of_a_class_is_heard_less():
    discriminant, logistic = (fit_reader(*films(CONFOUNDED), discriminant=choice) for choice in (True, False))
    assert 0 < heard(discriminant) < 0.6 * heard(logistic)


@pytest.mark.parametrize("grey", [3, -3])
def test_it_does_right_in_a_place_whose_grey_is_of_one_class(grey):
    x, labels, *_ = films(ELSEWHERE, seed=1)
    readers = [fit_reader(*films(CONFOUNDED), discriminant=choice) for choice in (True, False)]
    careful, plain = (roc_auc_score(labels == "ill", one.probabilities(x + grey)[:, 0]) for one in readers)
    assert careful > 0.85 and careful > plain + 0.03


def test_without_a_shortcut_the_discriminant_costs_nothing():
    x, labels, sources, patients = films(ELSEWHERE, seed=2)
    new_x, new_labels, *_ = films(ELSEWHERE, seed=3)
    careful, plain = (
        right(fit_reader(x, labels, sources, patients, discriminant=one), new_x, new_labels) for one in (True, False)
    )
    assert careful > 0.8 and careful > plain - 0.03


def test_where_there_is_no_sign_none_is_found():
    x, labels, *_ = films(ELSEWHERE, seed=4, sign=0)
    reader = fit_reader(*films(CONFOUNDED, sign=0))
    assert abs(roc_auc_score(labels == "ill", reader.probabilities(x)[:, 0]) - 0.5) < 0.1


def test_the_discriminant_is_the_textbooks():
    x, labels, sources, patients = films([("ill", "a", 30), ("well", "a", 30)])
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    textbook = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5, priors=[0.5, 0.5])
    plain = textbook.fit(scaled, labels).coef_[0] / x.std(axis=0)
    kernel = fit_reader(x, labels, sources, patients).kernel
    assert np.corrcoef(kernel[:, 1] - kernel[:, 0], plain)[0, 1] > 0.995


def test_a_film_that_counts_twice_is_heard_like_two():
    x, labels, *_ = films([("ill", "a", 20), ("well", "b", 20)])
    counts, classes = np.arange(40) % 3 + 1, np.array(["ill", "well"])
    weighed = module._fit_discriminant(x, labels, counts.astype(float), classes)
    repeated = module._fit_discriminant(x.repeat(counts, 0), labels.repeat(counts), np.ones(counts.sum()), classes)
    assert weighed == pytest.approx(repeated)
    assert weighed != pytest.approx(module._fit_discriminant(x, labels, np.ones(40), classes))


def test_copies_of_a_patient_s_film_make_it_no_surer():
    once = films([("ill", "a", 40), ("well", "a", 40)], sign=0.6)
    new_x, *_ = films([("ill", "a", 500), ("well", "a", 500)], seed=1, sign=0.6)
    copied = (values.repeat(6, axis=0) for values in once)
    sureness = [fit_reader(*some).probabilities(new_x).max(axis=1).mean() for some in (once, copied)]
    assert sureness[1] == pytest.approx(sureness[0], abs=0.05)


def test_more_features_than_films_give_the_solution_of_plain_logistic_regression():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(40, 300)), np.repeat(["a", "b"], 20)
    x[20:, 0] += 2
    margins = fit_reader(x, labels, np.full(40, "one"), np.arange(40).astype(str), discriminant=False).kernel
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    plain = LogisticRegression(C=module.PENALTY, tol=1e-6).fit(scaled, labels).coef_[0] / x.std(axis=0)
    assert np.corrcoef(margins[:, 1] - margins[:, 0], plain)[0, 1] > 0.999


def test_probabilities_are_right_as_often_as_they_say():
    x, labels, sources, patients = films([("ill", "a", 300), ("well", "a", 300)], seed=3)
    new_x, new_labels, *_ = films([("ill", "a", 1000), ("well", "a", 1000)], seed=4)
    stated = fit_reader(x, labels, sources, patients).probabilities(new_x)[:, 0]
    sure = stated > 0.7
    assert sure.sum() > 100 and (new_labels[sure] == "ill").mean() == pytest.approx(stated[sure].mean(), abs=0.07)


def test_which_films_are_held_out_together_hardly_matters(monkeypatch):
    few = films([(label, place, 12) for label, place, _ in CONFOUNDED], sign=0.5)

    def spread(foldings):
        monkeypatch.setattr(module, "FOLDINGS", foldings)
        return np.std([np.diff(fit_reader(*few, seed=10 * seed).bias) for seed in range(16)])

    assert module.FOLDINGS == 3 and 0 < spread(3) < 0.8 * spread(1)


def test_with_two_classes_the_calibration_is_platts():
    rng = np.random.default_rng(0)
    margins, truth = rng.normal(size=(200, 2)), rng.integers(0, 2, 200)
    margins[:, 1] += 0.3 * truth + 2  # a sign, and a bias to be taken back
    weights = np.where(truth, 2.0, 1.0)
    factor, shift = module._calibration(100 * margins, truth, weights)
    plain = LogisticRegression(C=1e9).fit(np.diff(margins), truth, sample_weight=weights)
    assert 100 * factor == pytest.approx(plain.coef_[0, 0], rel=0.01)
    assert shift[1] - shift[0] == pytest.approx(plain.intercept_[0], rel=0.01)


def test_of_noise_no_class_is_thought_likelier_however_many_films_it_has():
    x, labels, sources, patients = films([("ill", "a", 30), ("well", "a", 90), ("else", "a", 180)], sign=0)
    new_x, *_ = films([("ill", "a", 300)], seed=1, sign=0)
    stated = fit_reader(x, labels, sources, patients).probabilities(new_x)
    assert stated.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.05) and stated.max() < 0.7


def test_balance_keeps_a_small_source_from_drowning():
    cells = [("ill", "a", 40), ("well", "a", 400), ("ill", "b", 40), ("well", "b", 8)]
    x, labels, sources, patients = films(cells, seed=5)
    x[:, -1] = (sources == "b") * (labels == "ill") * 2.0 + np.random.default_rng(5).normal(
        0, 1, len(x)
    )  # b's own sign
    shares = [
        abs(kernel[-1, 0] - kernel[-1, 1]) / abs(kernel[0, 0] - kernel[0, 1])
        for kernel in (fit_reader(x, labels, sources, patients, balanced=choice).kernel for choice in (True, False))
    ]
    assert shares[0] > shares[1]


@pytest.mark.parametrize("discriminant", [True, False])
def test_a_class_of_one_patient_is_read_all_the_same(discriminant):
    x, labels, sources, patients = films([("ill", "a", 20), ("well", "a", 20), ("else", "a", 3)])
    patients[-3:] = "one"  # in the fold that holds it out, this class has no film to fit on
    reader = fit_reader(x, labels, sources, patients, discriminant=discriminant)
    assert reader.classes == ["else", "ill", "well"] and np.isfinite(reader.probabilities(x)).all()


def test_one_class_is_nothing_to_read():
    x, labels, sources, patients = films([("ill", "a", 10)])
    with pytest.raises(CovidxrError, match="two classes, all 10 are ill"):
        fit_reader(x, labels, sources, patients)
