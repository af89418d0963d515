"""Group weights, the worst group, and linear probes that discount the differences between sources."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import cross_val_score

from covidxr.data.dataset import Dataset
from covidxr.evaluation import linear_probe
from covidxr.evaluation.linear_probe import (
    CALIBRATION_REPEATS,
    PENALTY,
    LogisticProbe,
    SourceBalancedLDA,
    _calibrate,
    group_weights,
    worst_group_loss,
)
from covidxr.evaluation.metrics import predict
from covidxr.model.networks import build_baseline
from covidxr.training import TrainingConfig, fit
from covidxr.utils import CovidxrError


def test_sources_within_a_class_have_equal_weight():
    labels, sources = ["x"] * 90 + ["x"] * 10 + ["y"] * 50, ["a"] * 90 + ["b"] * 10 + ["a"] * 50
    weights = group_weights(labels, sources)
    assert weights.mean() == pytest.approx(1)
    assert weights[:90].sum() == pytest.approx(weights[90:100].sum())
    assert weights[:100].sum() == pytest.approx(weights[100:].sum())


def test_the_worst_group_is_not_the_one_with_most_mistakes():
    right = np.array([0.4] * 10 + [0.9] * 8 + [0.01])
    groups = ["large"] * 10 + ["small"] * 9
    assert worst_group_loss(np.c_[right, 1 - right], np.zeros(19, int), groups)[0] == "large"
    assert worst_group_loss(np.c_[right, 1 - right], np.zeros(19, int), ["a"] * 18 + ["b"]) == (
        "b",
        pytest.approx(-np.log(0.01)),
    )
    assert np.isfinite(worst_group_loss(np.array([[0.0, 1.0]]), np.array([0]), ["a"])[1])
    with pytest.raises(CovidxrError, match="2 images, but 2 predictions and 1 groups"):
        worst_group_loss(np.ones((2, 2)), np.zeros(2, int), ["a"])


def two_sources(n, rng, rare):
    """Two sources: in the common one a bright left is the sign, in the rare one a bright top is, and the left misleads."""
    source, label = (np.arange(n) % 20 < 20 * rare).astype(int), np.arange(n) // 20 % 2
    sample_images = rng.integers(0, 100, (n, 9, 9), np.uint8)
    for image, rare_source, positive in zip(sample_images, source, label, strict=True):
        image[:, :4] += np.uint8(40 * (positive ^ rare_source))
        image[:3] += np.uint8(100 * positive * rare_source)
    return sample_images, label, np.array(["common", "rare"])[source]


def fitted(balance, folder, epochs=12):
    rng = np.random.default_rng(0)
    parts = {"train": two_sources(400, rng, 0.05), "validation": two_sources(200, rng, 0.2)}
    images, labels, sources = (np.concatenate(arrays) for arrays in zip(*parts.values(), strict=True))
    table = {
        "label": np.array(["negative", "positive"])[labels],
        "source": sources,
        "split": np.repeat(list(parts), (400, 200)),
    }
    dataset = Dataset(pd.DataFrame(table), images)
    model = build_baseline(9, 2, dropout=0.0)
    options = {"learning_rate": 1e-2, "policy": "none", "batch_size": 32, "warmup_epochs": 1, "precision": "float32"}
    history = fit(model, dataset, TrainingConfig(epochs=epochs, balance=balance, **options), folder)
    held_out = dataset.split("validation")
    losses = {name: worst_group_loss(predict(model, held_out.images)[rows], held_out.labels[rows], [name] * rows.sum())[1]
              for name in ("common", "rare") for rows in [(held_out.manifest.source == name).to_numpy()]}  # fmt: skip
    return history, losses


def test_balanced_sampling_and_the_worst_source_help_the_rare_source(tmp_path):
    plain, losses = fitted(False, tmp_path / "plain")
    history, balanced = fitted(True, tmp_path / "balanced")
    assert losses["rare"] > 2 * losses["common"] and balanced["rare"] < 0.7 * losses["rare"]
    # The kept epoch is the worst source's best.
    assert history.val_loss.min() == pytest.approx(max(balanced.values()), rel=1e-4)
    assert (history.val_loss >= history.val_loss_of_all - 1e-6).all() and set(history.worst_source) <= {
        "common",
        "rare",
    }
    assert "worst_source" not in plain


GREYS = {"a": 3, "b": 0, "c": -1, "d": 1, "e": -2, "f": -3}


def sample_images(cells, seed=0, sign=1.0):
    """Labels and sources of (label, source, count), and 30 features: all with their source's grey, 5 with a sign of "disease"."""
    rng = np.random.default_rng(seed)
    labels, sources = (np.array([cell[i] for cell in cells for _ in range(cell[2])]) for i in (0, 1))
    features = rng.normal(size=(len(labels), 30)) + np.vectorize(GREYS.get)(sources)[:, None]
    features[labels == "disease", :5] += sign
    return features, labels, sources, np.arange(len(labels)).astype(str)


CONFOUNDED = [*(("disease", source, 40) for source in "abc"), *(("normal", source, 40) for source in "def")]
EXTERNAL = [("disease", "b", 200), ("normal", "b", 200)]


def balanced_accuracy(probe, x, labels):
    return balanced_accuracy_score(labels, probe.predict(x))


def shortcut_weight(probe):
    """The weight of the source's grey, relative to that of the sign."""
    sign, grey = np.r_[np.ones(5), np.zeros(25)], np.ones(30)
    contrast = probe.coef_[0] - probe.coef_[1]
    return (grey @ contrast) / (sign @ contrast)


PROBES = SourceBalancedLDA(), LogisticProbe(balanced=True)


def test_the_lda_discounts_what_differs_between_sources_of_a_class():
    lda, logistic = (probe.fit(*sample_images(CONFOUNDED)) for probe in PROBES)
    assert 0 < shortcut_weight(lda) < 0.6 * shortcut_weight(logistic)


@pytest.mark.parametrize("grey", [3, -3])
def test_the_lda_generalises_to_a_source_whose_grey_belongs_to_one_class(grey):
    x, labels, *_ = sample_images(EXTERNAL, seed=1)
    probes = [probe.fit(*sample_images(CONFOUNDED)) for probe in PROBES]
    lda, logistic = (roc_auc_score(labels == "disease", probe.predict_proba(x + grey)[:, 0]) for probe in probes)
    assert lda > 0.85 and lda > logistic + 0.03


def test_without_a_shortcut_the_lda_costs_nothing():
    x, labels, sources, patients = sample_images(EXTERNAL, seed=2)
    new_x, new_labels, *_ = sample_images(EXTERNAL, seed=3)
    lda, logistic = (balanced_accuracy(probe.fit(x, labels, sources, patients), new_x, new_labels) for probe in PROBES)
    assert lda > 0.8 and lda > logistic - 0.03


def test_where_there_is_no_sign_none_is_found():
    x, labels, *_ = sample_images(EXTERNAL, seed=4, sign=0)
    probe = SourceBalancedLDA().fit(*sample_images(CONFOUNDED, sign=0))
    assert abs(roc_auc_score(labels == "disease", probe.predict_proba(x)[:, 0]) - 0.5) < 0.1


def test_with_one_source_the_lda_is_scikit_learns():
    x, labels, sources, patients = sample_images([("disease", "a", 30), ("normal", "a", 30)])
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    textbook = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5, priors=[0.5, 0.5])
    plain = textbook.fit(scaled, labels).coef_[0] / x.std(axis=0)
    coef = SourceBalancedLDA().fit(x, labels, sources, patients).coef_
    assert np.corrcoef(coef[1] - coef[0], plain)[0, 1] > 0.995


def test_a_weight_of_two_is_the_same_as_two_images():
    x, labels, *_ = sample_images([("disease", "a", 20), ("normal", "b", 20)])
    counts, kernel_of = np.arange(40) % 3 + 1, SourceBalancedLDA().fit(x, labels)._kernel
    weighted = kernel_of(x, labels, counts.astype(float))
    repeated = kernel_of(x.repeat(counts, 0), labels.repeat(counts), np.ones(counts.sum()))
    assert weighted == pytest.approx(repeated)
    assert weighted != pytest.approx(kernel_of(x, labels, np.ones(40)))


def test_copies_of_a_patient_s_image_do_not_raise_the_confidence():
    once = sample_images([("disease", "a", 40), ("normal", "a", 40)], sign=0.6)
    new_x, *_ = sample_images([("disease", "a", 500), ("normal", "a", 500)], seed=1, sign=0.6)
    copied = (values.repeat(6, axis=0) for values in once)
    confidence = [SourceBalancedLDA().fit(*some).predict_proba(new_x).max(axis=1).mean() for some in (once, copied)]
    assert confidence[1] == pytest.approx(confidence[0], abs=0.05)


def test_more_features_than_images_give_the_solution_of_plain_logistic_regression():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(40, 300)), np.repeat(["a", "b"], 20)
    x[20:, 0] += 2
    coef = LogisticProbe(balanced=True).fit(x, labels).coef_
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    plain = LogisticRegression(C=PENALTY, tol=1e-6).fit(scaled, labels).coef_[0] / x.std(axis=0)
    assert np.corrcoef(coef[1] - coef[0], plain)[0, 1] > 0.999


def test_probabilities_are_calibrated():
    x, labels, sources, patients = sample_images([("disease", "a", 300), ("normal", "a", 300)], seed=3)
    new_x, new_labels, *_ = sample_images([("disease", "a", 1000), ("normal", "a", 1000)], seed=4)
    stated = SourceBalancedLDA().fit(x, labels, sources, patients).predict_proba(new_x)[:, 0]
    high = stated > 0.7
    assert high.sum() > 100 and (new_labels[high] == "disease").mean() == pytest.approx(stated[high].mean(), abs=0.07)


def test_repeated_folds_make_the_calibration_stable(monkeypatch):
    few = sample_images([(label, source, 12) for label, source, _ in CONFOUNDED], sign=0.5)

    def spread(repeats):
        monkeypatch.setattr(linear_probe, "CALIBRATION_REPEATS", repeats)
        return np.std([np.diff(SourceBalancedLDA(seed=10 * seed).fit(*few).intercept_) for seed in range(16)])

    assert CALIBRATION_REPEATS == 3 and 0 < spread(3) < 0.8 * spread(1)


def test_with_two_classes_the_calibration_is_platt_scaling():
    rng = np.random.default_rng(0)
    margins, truth = rng.normal(size=(200, 2)), rng.integers(0, 2, 200)
    margins[:, 1] += 0.3 * truth + 2  # a sign, and a bias to be taken back
    weights = np.where(truth, 2.0, 1.0)
    factor, shift = _calibrate(100 * margins, truth, weights)
    plain = LogisticRegression(C=1e9).fit(np.diff(margins), truth, sample_weight=weights)
    assert 100 * factor == pytest.approx(plain.coef_[0, 0], rel=0.01)
    assert shift[1] - shift[0] == pytest.approx(plain.intercept_[0], rel=0.01)


def test_on_noise_class_frequencies_do_not_shift_the_probabilities():
    x, labels, sources, patients = sample_images(
        [("disease", "a", 30), ("normal", "a", 90), ("another", "a", 180)], sign=0
    )
    new_x, *_ = sample_images([("disease", "a", 300)], seed=1, sign=0)
    stated = SourceBalancedLDA().fit(x, labels, sources, patients).predict_proba(new_x)
    assert stated.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.05) and stated.max() < 0.7


def test_balancing_gives_a_small_source_its_weight():
    cells = [("disease", "a", 40), ("normal", "a", 400), ("disease", "b", 40), ("normal", "b", 8)]
    x, labels, sources, patients = sample_images(cells, seed=5)
    x[:, -1] = (sources == "b") * (labels == "disease") * 2.0 + np.random.default_rng(5).normal(
        0, 1, len(x)
    )  # b's own sign
    shares = [
        abs(coef[0, -1] - coef[1, -1]) / abs(coef[0, 0] - coef[1, 0])
        for coef in (LogisticProbe(balanced).fit(x, labels, sources, patients).coef_ for balanced in (True, False))
    ]
    assert shares[0] > shares[1]


@pytest.mark.parametrize("probe", PROBES)
def test_a_class_of_one_patient_is_fitted_all_the_same(probe):
    x, labels, sources, patients = sample_images([("disease", "a", 20), ("normal", "a", 20), ("another", "a", 3)])
    patients[-3:] = "one"  # in the fold that holds it out, this class has no image to fit on
    probe.fit(x, labels, sources, patients)
    assert probe.classes_.tolist() == ["another", "disease", "normal"] and np.isfinite(probe.predict_proba(x)).all()


def test_one_class_is_refused():
    with pytest.raises(CovidxrError, match="two classes, all 10 images are disease"):
        SourceBalancedLDA().fit(*sample_images([("disease", "a", 10)]))


@pytest.mark.parametrize("probe", [SourceBalancedLDA(seed=3), LogisticProbe(balanced=True, seed=3)])
def test_the_probes_are_scikit_learn_estimators(probe):
    assert clone(probe).get_params() == probe.get_params() and probe.get_params()["seed"] == 3
    assert clone(probe.fit(*sample_images(CONFOUNDED))).set_params(seed=4).seed == 4
    x, labels, *_ = sample_images(EXTERNAL)
    assert cross_val_score(probe, x, labels, cv=3).mean() > 0.8
