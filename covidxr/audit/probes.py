"""The probes of the shortcut audit, and the registry to which users add their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from covidxr.checks import flags, numbers
from covidxr.data._opencv import cv2
from covidxr.data.cohort import age_groups
from covidxr.data.duplicates import find_duplicates
from covidxr.data.images import black_out, blur_outside, preprocess
from covidxr.data.manifest import patient_keys
from covidxr.evaluation.calibration import calibration_error, selective_accuracy
from covidxr.evaluation.intervals import (
    Estimate,
    bootstrap_interval,
    estimate_auc,
    estimate_proportion,
    estimate_statistic,
)
from covidxr.evaluation.metrics import POSITIVE, counted, is_healthy, predict
from covidxr.utils import CovidxrError

CATEGORIES = NO_LUNGS, LOW_LEVEL, ATTRIBUTES, MEMORISATION, WITHIN_SOURCE, SALIENCY, CALIBRATION = (
    "Inputs without lung content", "Low-level statistics", "Attribute leakage", "Patient memorisation", "Within-source discrimination",
    "Saliency localisation", "Calibration and selective prediction",
)  # fmt: skip

ABOVE, WELL_ABOVE = "above chance", "well above chance"

BELOW_CHANCE, NOT_DISTINGUISHABLE = "below chance", "not distinguishable from chance"

TEST = "test images"


class ProbeResult(NamedTuple):
    """One row of the audit.

    Attributes
    ----------
    probe : str
        Its name, unique in the audit.
    value, low, high : float
        The value and the limits of its 95 % CI.
    n : int
        How many images it is computed from.
    chance : float
        The value expected by chance; NaN where there is none.
    category : str
        One of `covidxr.audit.probes.CATEGORIES`, or another.
    expected, conclusion : str
        What is expected of data and a network without shortcuts, and what was found.
    shortcut : bool
        Whether something other than disease is, or can be, used for the classification.
    missed_expectation : bool
        Whether the value is not shown to be as expected, shortcut or not.

    Examples
    --------
    >>> ProbeResult("mean brightness of class a", 0.4, 0.3, 0.5, 20).category
    'User-defined'
    """

    probe: str
    value: float
    low: float
    high: float
    n: int
    chance: float = np.nan
    category: str = "User-defined"
    expected: str = ""
    conclusion: str = ""
    shortcut: bool = False
    missed_expectation: bool = False

    @classmethod
    def of(cls, probe: str, estimate: Estimate, **columns) -> ProbeResult:
        """The result of an estimate, with the other columns by name.

        Parameters
        ----------
        probe : str
            The name of the result.
        estimate : covidxr.evaluation.Estimate
            Its value, interval and number of images.
        **columns
            Any of ``chance`` to ``missed_expectation``.

        Returns
        -------
        ProbeResult
        """
        return cls(probe, estimate.value, estimate.low, estimate.high, estimate.n, **columns)


@dataclass(frozen=True)
class AuditData:
    """What a probe is given; probes return nothing where what they need is missing.

    Attributes
    ----------
    manifest : pandas.DataFrame
        N manifest rows.
    images : numpy.ndarray
        ``uint8``, shape (N, H, W).
    lungs : numpy.ndarray, optional
        ``bool``, shape (N, H, W); all False for images without a mask.
    model : keras.Model, optional
        The network, whose outputs are `classes`.
    predictions : dict
        With a model, its prediction tables: of the ``test images``, and of each external set by its name.
    saliency : dict, optional
        The section ``grad_cam`` of ``metrics.json``.
    positive : str, optional
        The class that is evaluated against all others.
    seed : int
        Seed of the folds.

    Examples
    --------
    >>> from covidxr.data.manifest import manifest_rows
    >>> rows = manifest_rows({"image_id": i, "patient_id": i, "label": "ab"[i % 2], "source": "s"} for i in range(40))
    >>> data = AuditData(rows, np.zeros((40, 8, 8), np.uint8))
    >>> data.classify("class from its number", np.arange(40) % 2).conclusion
    'strong class signal'
    """

    manifest: pd.DataFrame
    images: np.ndarray
    lungs: np.ndarray | None = None
    model: object = None
    predictions: dict[str, pd.DataFrame] = field(default_factory=dict)
    saliency: dict | None = None
    positive: str | None = None
    seed: int = 0

    @property
    def classes(self) -> list[str]:
        """The labels in the order of their first appearance."""
        return list(self.manifest.label.unique())

    @property
    def patients(self) -> np.ndarray:
        """The unique key of each image's patient."""
        return patient_keys(self.manifest).to_numpy(dtype=str)

    @property
    def evaluated(self) -> np.ndarray:
        """Which images are test images; all where none is."""
        test = (self.manifest.split == "test").to_numpy()
        return test if test.any() else np.ones(len(test), dtype=bool)

    def classify(self, name: str, features: np.ndarray) -> ProbeResult:
        """Predict the class from features (N, …) by logistic regression, cross-validated with patients kept apart."""
        labels = self.manifest.label.to_numpy(dtype=str)
        return _cross_validated_accuracy("class", name, features, labels, self.patients, self.seed)

    def unseen_predictions(self) -> pd.DataFrame:
        """Predictions for images of patients that the network was not trained on, whose outcome is known."""
        if not self.positive or not self.predictions:
            return pd.DataFrame()
        known = [rows[counted(rows.label, self.classes, self.positive)] for rows in self.predictions.values()]
        rows = pd.concat(known, ignore_index=True)
        return rows[~patient_keys(rows).isin(set(self.patients[~self.evaluated]))]


PROBES: dict[str, Callable] = {}


def register_probe(function: Callable) -> Callable:
    """Add a probe to every audit from now on; to be used as a decorator.

    Parameters
    ----------
    function : callable
        Takes an `AuditData`, and returns a `ProbeResult`, a list of them, or None where it does not apply. A function of the
        name of a registered one replaces it.

    Returns
    -------
    callable
        The function itself.

    Examples
    --------
    >>> @register_probe
    ... def mean_brightness(data):
    ...     return data.classify("class from the mean brightness", data.images.mean(axis=(1, 2)))
    >>> PROBES.pop("mean_brightness") is mean_brightness
    True
    """
    PROBES[function.__name__] = function
    return function


def run_probes(data) -> pd.DataFrame:
    """Run every registered probe: one row a result, sorted by category."""
    results = []
    for function in PROBES.values():
        found = function(data)
        results += [found] if isinstance(found, ProbeResult) else list(found or ())
    names = [result.probe for result in results]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CovidxrError(f"two results have the name {twice!r}; name each result of a registered probe differently")
    order = [*CATEGORIES, *(result.category for result in results)]
    results.sort(key=lambda result: order.index(result.category))
    return pd.DataFrame(results, columns=ProbeResult._fields).set_index("probe")


def accuracy_result(name, predicted, truth, patients, widen=1.0, chance=None) -> ProbeResult:
    """Accuracy of predictions, with its interval widened by a factor; chance is by default the share of the largest class."""
    correct = np.asarray(predicted) == np.asarray(truth)
    chance = chance or float(pd.Series(truth).value_counts(normalize=True).max())
    narrow = _bootstrap_proportion(correct, patients)
    low = max(0.0, narrow.value - widen * (narrow.value - narrow.low))
    high = min(1.0, narrow.value + widen * (narrow.high - narrow.value))
    return ProbeResult.of(name, replace(narrow, low=low, high=high), chance=chance)


def judge_signal(result, target) -> ProbeResult:
    """Conclude on a result that should be at chance."""
    above, skill = result.low > result.chance, skill_score(result.value, result.chance)
    strength = "strong" if skill > 0.5 else "moderate" if skill > 0.15 else "weak"
    conclusion = f"{strength} {target} signal" if above else _not_above(result)
    expected = f"{result.chance:.2f}"
    return result._replace(expected=expected, conclusion=conclusion, shortcut=above, missed_expectation=above)


def judge_performance(result) -> ProbeResult:
    """Conclude on a result that should be well above chance."""
    well = skill_score(result.value, result.chance) > 0.5
    conclusion = (WELL_ABOVE if well else ABOVE) if result.low > result.chance else _not_above(result)
    return result._replace(expected=WELL_ABOVE, conclusion=conclusion, missed_expectation=conclusion != WELL_ABOVE)


def _not_above(result):
    return BELOW_CHANCE if result.high < result.chance else NOT_DISTINGUISHABLE


def _bootstrap_proportion(correct, patients) -> Estimate:
    """A proportion with its patient-level bootstrap interval; Wilson's where all values are equal."""
    correct = np.asarray(correct, dtype=bool)
    if correct.all() or not correct.any():
        return estimate_proportion(correct, patients)
    return estimate_statistic(lambda rows: correct[rows].mean(), patients, draws=500)


def skill_score(value, chance) -> float:
    """The chance-corrected score: 0 at chance, 1 for a perfect value."""
    return float((value - chance) / (1 - chance)) if chance < 1 else 0.0


def positive_sentences(classes, positive) -> list:
    """Name the positive class, or what is skipped without one."""
    if positive:
        return [f"The positive class is {positive}, against {', '.join(one for one in classes if one != positive)}."]
    return [
        f"The run has no class {POSITIVE} and no other was named, so everything that needs a positive class is skipped: "
        "sensitivity, specificity and AUC, operating points and calibration on external sets, held-out sources and sites, the "
        "mitigation ablation, and in the audit within-source discrimination and confidence on external sets.",
        f"The parameter `positive` names one of its classes: {', '.join(classes)}.",
    ]


MIN_PATIENTS = 10  # patients that a group needs to be evaluated

# Intervals of cross-validated accuracies are widened: folds share training images (Nadeau and Bengio: √(1 + 5 folds / 4) = 1.5),
# and there are seven probes (Bonferroni: the interval of each is of 99.3 %, which is 1.4 times as wide).
_CROSS_VALIDATED = 2.1

BORDER, CORNERS, BANDS = "the border", "the corners", "sharpness, noise and contrast"

_BORDER_WIDTH, _CORNER_WIDTH = 0.04, 0.2  # of the image's side: collimation, and side markers

_MAX_SIDE = 40  # pixels; border and corners of larger images are shrunk, which keeps markers and saves most of the time


def grouped_predictions(x, labels, groups, seed=0) -> np.ndarray:
    """Logistic regression, cross-validated by patient in five folds, or fewer where a class has fewer patients."""
    labels, groups = np.asarray(labels, dtype=str), np.asarray(groups, dtype=str)
    patients = pd.Series(groups).groupby(labels).nunique()
    if patients.min() < 2:
        raise CovidxrError(
            f"{patients.idxmin()!r} has one patient only and cannot be cross-validated by patient; add images"
        )
    x, predicted = numbers("features", x).reshape(len(labels), -1), np.empty(len(labels), dtype=labels.dtype)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    folds = StratifiedGroupKFold(int(min(5, patients.min())), shuffle=True, random_state=seed)
    for train, test in folds.split(x, labels, groups):
        known = np.unique(labels[train])
        if len(test):  # none where a few patients have most of the images
            predicted[test] = known[0] if len(known) < 2 else classifier.fit(x[train], labels[train]).predict(x[test])
    return predicted


def _cross_validated_accuracy(target, name, x, truth, patients, seed, category=NO_LUNGS):
    predicted = grouped_predictions(x, truth, patients, seed)
    result = accuracy_result(name, predicted, truth, patients, _CROSS_VALIDATED)
    return judge_signal(result._replace(category=category), target)


def pixel_features(images, lungs=None) -> dict:
    """What remains of images without lung content: few pixels, grey values, the border, the corners."""
    masks = np.zeros(images.shape, bool) if lungs is None else _dilated(lungs)
    images = np.stack([_masked_out(image, mask) for image, mask in zip(images, masks, strict=True)])
    equalised, raw = preprocess(images)[..., 0], _shrink(images.astype(np.float32), min(images.shape[1], _MAX_SIDE))
    edge = np.minimum(np.arange(raw.shape[1]), np.arange(raw.shape[1])[::-1])
    near, far = (edge < max(1, round(width * len(edge))) for width in (_BORDER_WIDTH, _CORNER_WIDTH))
    return {
        "4×4 pixels": _shrink(equalised, 4),
        "8×8 pixels": _shrink(equalised, 8),
        "the grey histogram": np.stack([_histogram(image[~mask]) for image, mask in zip(images, masks, strict=True)]),
        BORDER: raw[:, near[:, None] | near[None, :]],
        CORNERS: raw[:, far[:, None] & far[None, :]],
    }


def _shrink(images, side) -> np.ndarray:
    """Shrink images to a square of `side` pixels, each the mean of its area."""
    return np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images])


def _dilated(lungs):
    width = 2 * max(1, round(0.04 * lungs.shape[1])) + 1
    return np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((width, width), np.uint8)) > 0 for mask in lungs])


def _masked_out(image, mask):
    return np.where(mask, np.uint8(np.median(image[~mask])), image) if mask.any() and not mask.all() else image


def _histogram(greys):
    return np.histogram(greys, 16, (0, 256))[0] / max(1, len(greys))


def band_features(images, regions) -> np.ndarray:
    """Low-level statistics of a region of each image, on a logarithmic scale, shape (N, 8).

    Contrast is the standard deviation of the grey values, in the whole and in five Gaussian bands (Philipsen R. H. H. M. et al.,
    IEEE TMI 34, 2015); sharpness is the energy of the Laplacian; noise is estimated after Immerkær J., CVIU 64, 1996.
    """
    rows = []
    for image, region in zip(images.astype(np.float32), regions, strict=True):
        blurred = [image, *(cv2.GaussianBlur(image, (0, 0), sigma) for sigma in _SIGMAS)]
        bands = [fine - coarse for fine, coarse in pairwise(blurred)]
        noise = np.abs(cv2.filter2D(image, -1, _NOISE_FILTER)[region]).mean()
        rows.append([*(layer[region].std() for layer in (image, *bands, cv2.Laplacian(image, -1))), noise])
    return np.log1p(rows)


_SIGMAS = (1, 2, 4, 8, 16)  # pixels

_NOISE_FILTER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # blind to linear grey ramps and edges


@register_probe
def low_information_inputs(data):
    """The class from inputs without lung content, with the lungs masked where all masks are known."""
    masked, results = _all_lungs_known(data), {}
    for name, features in pixel_features(data.images, data.lungs if masked else None).items():
        probe = f"class from {name}{', lungs masked' if masked else ''}"
        results[name] = data.classify(probe, features)._replace(category=NO_LUNGS)
    if masked or any(results[name].shortcut for name in (BORDER, CORNERS)):
        return list(results.values())
    return [result if name in (BORDER, CORNERS) else _possibly_disease(result) for name, result in results.items()]


@register_probe
def low_level_statistics(data):
    """The class from sharpness, noise and contrast by frequency band: outside and inside the lungs where all masks are known."""

    def result(name, images, regions):
        return data.classify(name, band_features(images, regions))._replace(category=LOW_LEVEL)

    if not _all_lungs_known(data):
        whole = result(f"class from {BANDS}", data.images, np.ones(data.images.shape, bool))
        return _possibly_disease(whole)
    around = _dilated(data.lungs)
    filled = np.stack([_masked_out(image, mask) for image, mask in zip(data.images, around, strict=True)])
    outside = result(f"class from {BANDS}, lungs masked", filled, ~around)
    inside = result(f"class inside the lungs from {BANDS}", data.images, data.lungs)
    return [outside, inside if outside.shortcut else _possibly_disease(inside)]


def _all_lungs_known(data):
    return data.lungs is not None and bool(data.lungs.any((1, 2)).all())


def _possibly_disease(result):
    """Where nothing outside the lungs has a signal, what shows the lungs may have one from disease."""
    return result._replace(conclusion="above chance, possibly disease", shortcut=False) if result.shortcut else result


@register_probe
def occluded_inputs(data):
    """The network's accuracy with the lungs, or everything but the lungs, occluded."""
    if data.model is None or data.lungs is None:
        return []
    rows = np.flatnonzero(data.evaluated & data.lungs.any((1, 2)))
    if not len(rows):
        return []
    views = {
        "original images": lambda images, masks: images,
        "lungs occluded": black_out,
        "lungs only": lambda images, masks: black_out(images, ~masks),
        "background blurred": blur_outside,
    }
    results, names = [], np.asarray(data.classes, dtype=str)
    truth, only = data.manifest.label.to_numpy(dtype=str)[rows], ""
    if len(set(truth)) == 1:
        only = f", on images of {truth[0]} only"
    for view, changed in views.items():
        predicted = names[predict(data.model, changed(data.images[rows], data.lungs[rows])).argmax(1)]
        # Masks may exist for one class alone, so chance is a random one of the network's classes.
        result = accuracy_result(f"the network, {view}", predicted, truth, data.patients[rows], chance=1 / len(names))
        result = judge_signal(result, "class") if view == "lungs occluded" else judge_performance(result)
        results.append(result._replace(category=NO_LUNGS, conclusion=result.conclusion + only))
    return results


@register_probe
def attributes(data):
    """Source, age group, sex and view from 8×8 pixels, and the class from each attribute alone."""
    x, patients = _shrink(preprocess(data.images)[..., 0], 8), data.patients
    manifest, results = data.manifest, []
    columns = {
        "source": manifest.source,
        "age group": age_groups(manifest),
        "sex": manifest.sex,
        "view": manifest["view"],
    }
    for name, values in columns.items():
        counts = pd.Series(patients)[values != ""].groupby(values).nunique()
        rows = np.flatnonzero(values.isin(counts.index[counts >= MIN_PATIENTS]))
        if values.iloc[rows].nunique() > 1:
            truth, labels = values.to_numpy(dtype=str)[rows], manifest.label.to_numpy(dtype=str)[rows]
            results += _attribute_and_class(name, x[rows], truth, labels, patients[rows], data.seed)
    return results


def _attribute_and_class(name, x, truth, labels, patients, seed):
    leakage = _cross_validated_accuracy(name, f"{name} from 8×8 pixels", x, truth, patients, seed, ATTRIBUTES)
    confounding = []
    if pd.Series(patients).groupby(labels).nunique().min() > 1 < len(np.unique(labels)):
        given = "the source's name alone" if name == "source" else f"the {name} alone"
        one_hot = pd.get_dummies(pd.Series(truth)).to_numpy(float)
        result = _cross_validated_accuracy("class", f"class from {given}", one_hot, labels, patients, seed, ATTRIBUTES)
        confounding = [result._replace(conclusion="confounded with the class") if result.shortcut else result]
    if leakage.shortcut and not any(result.shortcut for result in confounding):
        harmless = "not associated with the class" if confounding else "within one class"
        leakage = leakage._replace(conclusion=f"{leakage.conclusion}, {harmless}", shortcut=False)
    return [leakage, *confounding]


_MEMORISATION_SEEDS = 5


@register_probe
def memorisation(data):
    """What a nearest-neighbour classifier gains when patients are on both sides, and the leakage of the run's own split."""
    patients, labels = data.patients, data.manifest.label.to_numpy(dtype=str)
    several = np.unique(patients, return_counts=True)[1] > 1
    enough = several.sum() >= MIN_PATIENTS and pd.Series(patients).groupby(labels).nunique().min() > 1
    results = [_memorisation_gain(labels, data.images, patients, data.seed)] if enough else []
    return results + (_split_leakage(data) if (data.manifest.split == "test").any() else [])


def _memorisation_gain(labels, images, patients, seed):
    """How much accuracy rises when the most similar image may be of the same patient."""
    x = _shrink(preprocess(images)[..., 0], 16).reshape(len(images), -1)
    seeds = range(seed, seed + _MEMORISATION_SEEDS)
    by_image = np.mean([_nearest(x, labels, StratifiedKFold, None, seed) for seed in seeds], axis=0)
    by_patient = np.mean([_nearest(x, labels, StratifiedGroupKFold, patients, seed) for seed in seeds], axis=0)
    difference = by_image - by_patient
    gain = estimate_statistic(lambda rows: difference[rows].mean(), patients, draws=500)
    memorised = gain.low > 0
    return ProbeResult.of(
        "accuracy gain from splitting by image", gain, chance=0.0, category=MEMORISATION, expected="0.00",
        conclusion="patients are memorised: split by patient" if memorised else NOT_DISTINGUISHABLE,
        missed_expectation=memorised,
    )  # fmt: skip


def _nearest(x, labels, folding, groups, seed):
    """Which images have the class of their nearest neighbour in the other folds."""
    fewest = np.unique(labels, return_counts=True)[1].min()
    correct = np.zeros(len(x), dtype=bool)
    for train, test in folding(int(min(5, fewest)), shuffle=True, random_state=seed).split(x, labels, groups):
        nearest = KNeighborsClassifier(1).fit(x[train], labels[train])
        correct[test] = nearest.predict(x[test]) == labels[test] if len(test) else []
    return correct


def _split_leakage(data):
    """Test images whose patient or near-duplicate is among the images of training and validation."""
    test, patients = data.evaluated, data.patients
    pairs = find_duplicates(data.images)
    pairs = pairs[test[pairs["first"]] != test[pairs["second"]]]
    duplicates = np.zeros(len(test), dtype=bool)
    duplicates[np.concatenate([pairs["first"], pairs["second"]]).astype(int)] = True
    leaks = {
        "of patients seen in training": np.isin(patients, patients[~test]),
        "with a near-duplicate seen in training": duplicates,
    }
    return [_leak(f"test images {name}", hits[test], patients[test]) for name, hits in leaks.items()]


def _leak(name, hits, patients):
    return ProbeResult.of(
        name, estimate_proportion(hits, patients), category=MEMORISATION, expected="0.00",
        conclusion=f"{hits.sum()} of {len(hits)}" if hits.any() else "none",
        shortcut=bool(hits.any()), missed_expectation=bool(hits.any()),
    )  # fmt: skip


@register_probe
def within_source_discrimination(data):
    """AUC of the positive class against other disease within each source, where the source carries no information."""
    predictions, results = data.unseen_predictions(), []
    if predictions.empty:
        return []
    for source, rows in predictions[~is_healthy(predictions.label)].groupby("source"):
        positive, score = (rows.label == data.positive).to_numpy(), rows[f"p_{data.positive}"].to_numpy()
        patients = patient_keys(rows).to_numpy(dtype=str)
        if min(len(set(patients[positive])), len(set(patients[~positive]))) >= MIN_PATIENTS:
            name = f"{data.positive} against other disease within {source}"
            auc = estimate_auc(positive, score, patients)
            results.append(judge_performance(ProbeResult.of(name, auc, chance=0.5, category=WITHIN_SOURCE)))
    return results


@register_probe
def saliency(data):
    """The share of Grad-CAM relevance inside the lungs, against chance and untrained networks."""
    found = data.saliency or {}
    if not (inside := found.get("heat_in_lungs")):
        return None
    untrained = (found.get("untrained") or {}).get("value", found["chance"])
    levels = {"chance": found["chance"], "untrained networks": untrained}
    above = [name for name, level in levels.items() if inside["low"] > level]
    conclusion = f"above {' and '.join(above)}" if above else "not above chance or untrained networks"
    if len(above) == 1:
        conclusion += f", but not above {next(name for name in levels if name not in above)}"
    expected = f"above chance and above untrained networks ({untrained:.2f})"
    n = inside.get("n", found.get("n", 0))
    return ProbeResult(
        "relevance inside the lungs", inside["value"], inside["low"], inside["high"], n, found["chance"], SALIENCY,
        expected, conclusion, missed_expectation=len(above) < 2,
    )  # fmt: skip


@register_probe
def external_confidence(data):
    """Mean confidence in the outcome on external sources, against the accuracy there."""
    predictions, results = data.unseen_predictions(), []
    if predictions.empty:
        return []
    for source, rows in predictions[~predictions.source.isin(set(data.manifest.source))].groupby("source"):
        predicted = rows.predicted == data.positive
        correct = ((rows.label == data.positive) == predicted).to_numpy()
        score = numbers(f"p_{data.positive}", rows[f"p_{data.positive}"], 0, 1)
        confidence, patients = np.where(predicted, score, 1 - score), patient_keys(rows)
        mean = estimate_statistic(lambda drawn, of=confidence: of[drawn].mean(), patients, draws=500)
        accuracy = _bootstrap_proportion(correct, patients)
        conclusion = "confidence matches accuracy"
        if mean.low > accuracy.high:
            conclusion = "confidently wrong" if accuracy.value < 0.5 else "overconfident"
        elif mean.high < accuracy.low:
            conclusion = "underconfident"
        results.append(ProbeResult.of(
            f"confidence about {data.positive} in {source} (external)", mean, category=CALIBRATION,
            expected=f"its accuracy there, {accuracy.value:.2f}", conclusion=conclusion,
            missed_expectation=conclusion != "confidence matches accuracy",
        ))  # fmt: skip
    return results


@register_probe
def calibration(data):
    """Expected calibration error on the test images, and accuracy on the more confident half."""
    if TEST not in data.predictions:
        return []
    predictions = data.predictions[TEST]
    patients, correct = patient_keys(predictions).to_numpy(dtype=str), flags("correct", predictions.correct)
    confidence = numbers("confidence", predictions.confidence, 0, 1)
    error, chance = calibration_error(confidence, correct, patients)
    missed, conclusion = error.low > chance, "consistent with perfect calibration"
    if missed:
        conclusion = "overconfident" if confidence.mean() > correct.mean() else "underconfident"
    result = ProbeResult.of(
        "expected calibration error", error, chance=chance, category=CALIBRATION, expected="no more than chance",
        conclusion=conclusion, missed_expectation=missed,
    )  # fmt: skip
    return [result, _selective_accuracy(confidence, correct, patients)]


def _selective_accuracy(confidence, correct, patients):
    def half(rows):
        return selective_accuracy(confidence[rows], correct[rows]).accuracy.iloc[(len(rows) - 1) // 2]

    value, accuracy = float(half(np.arange(len(correct)))), float(correct.mean())
    low, high = bootstrap_interval(lambda rows: half(rows) - correct[rows].mean(), patients, draws=200)
    conclusion = "more accurate when more confident" if low > 0 else "confidence is uninformative"
    conclusion = "always correct" if correct.all() else conclusion
    limits = max(0.0, accuracy + low), min(1.0, accuracy + high)
    return ProbeResult(
        "selective accuracy at 50 % coverage", value, *limits, len(correct), accuracy, CALIBRATION,
        f"above {accuracy:.2f}, the accuracy on all", conclusion, missed_expectation=low <= 0 and not correct.all(),
    )  # fmt: skip
