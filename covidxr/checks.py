"""Validation of parameters and arrays at the package's boundary."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import pandas as pd

from covidxr.utils import CovidxrError, unknown

_MOST_SEED = 2**32 - 1  # NumPy's older generators and Keras take no larger ones

MOST_SIDE = 2048  # pixels; a thousand images of that size are 4 GB

ROUNDING = 1e-6  # a sum of single-precision numbers may miss its bound by so much


def same_length(**arrays) -> int:
    """Return the common length of the named arrays, ignoring None, or raise."""
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise CovidxrError(f"one value an image is needed of each, but there are {found}")
    return next(iter(lengths.values()))


def at_least_one(name, values) -> None:
    """Refuse an empty array."""
    if not len(values):
        raise CovidxrError(f"{name} holds no image, so there is nothing to measure")


def numbers(name, values, low=-np.inf, high=np.inf) -> np.ndarray:
    """Return the values as finite floats from `low` to `high`, or raise with the first invalid one."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise CovidxrError(f"{name} must hold numbers: {error}") from error
    wrong = ~(np.isfinite(array) & (array >= low - ROUNDING) & (array <= high + ROUNDING))
    if wrong.any():
        place = np.unravel_index(wrong.argmax(), wrong.shape)
        where = f" at place {', '.join(map(str, place))}" if place else ""
        allowed = "a finite number" if np.isinf([low, high]).all() else f"a number from {low:g} to {high:g}"
        raise CovidxrError(
            f"{name} holds {array[place]:g}{where} ({wrong.sum()} such of {wrong.size}), where {allowed} is needed"
        )
    return array


def flags(name, values) -> np.ndarray:
    """Return the values as booleans; 0 and 1 are accepted, missing values (True to NumPy) are not."""
    array = np.asarray(values)
    if array.dtype != bool:
        try:
            known = np.isin(array.astype(float), (0, 1))
        except (TypeError, ValueError):
            known = np.array([isinstance(value, (bool, int, float)) and value in (0, 1) for value in array.tolist()])
        if not known.all():
            raise CovidxrError(f"{name} must be true or false for every image, which {array[~known][0]} is not")
    return array.astype(bool)


def patients_of(patients, n) -> np.ndarray:
    """Return one patient per image: as given, or each image its own patient if None."""
    if patients is None:
        return np.arange(n)
    if gaps := int(pd.isna(np.asarray(patients, dtype=object)).sum()):  # as text a gap would be a patient named nan
        raise CovidxrError(f"the patient of {gaps} of {len(patients)} images is missing; give each one of its own")
    return np.asarray(patients)


def probability_rows(probabilities, n_classes=None) -> np.ndarray:
    """Return probabilities of shape (N, classes), in [0, 1], rows summing to 1, or raise."""
    array = numbers("probabilities", probabilities, 0, 1)
    if array.ndim != 2 or (n_classes is not None and array.shape[1] != n_classes):
        raise CovidxrError(f"probabilities have shape {array.shape}, expected a row an image, a column a class")
    wrong = np.flatnonzero(np.abs(array.sum(axis=1) - 1) > 0.01)
    if len(wrong):
        raise CovidxrError(f"the probabilities of image {wrong[0]} sum to {array[wrong[0]].sum():.3g}, not to 1")
    return array


def known_labels(kind, labels, classes) -> None:
    """Refuse labels that are not among the classes; counting would silently drop them."""
    strange = [label for label in pd.unique(np.asarray(labels, dtype=object)) if label not in list(classes)]
    if strange:
        raise unknown(kind, strange[0], classes)


def level(confidence) -> None:
    """Refuse a confidence level that is not between 0 and 1."""
    if not 0 < confidence < 1:
        raise CovidxrError(f"confidence is {confidence}; give a level between 0 and 1, such as 0.95")


def finite_weights(model) -> None:
    """Refuse a model with NaN or infinite weights, which an activation can hide."""
    for weight in getattr(model, "weights", ()):
        value = np.asarray(weight)
        if bad := int((~np.isfinite(value)).sum()):
            raise CovidxrError(
                f"{bad} of {value.size} values of {weight.path} in model {model.name!r} are NaN or infinite; "
                "its training or its file is damaged, so train it again"
            )


def check_whole(name: str, value, least: int, most: int | None = None) -> None:
    """Refuse what is not an integer in a range; True and 3.0 are refused too."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least or (most and value > most):
        limits = f"from {least} to {most}" if most else f"of {least} or more"
        raise CovidxrError(f"{name} is {value!r}; give a whole number {limits}")


def check_seed(seed) -> None:
    """Refuse what is not a valid seed for every random number generator."""
    check_whole("seed", seed, 0, _MOST_SEED)


def check_names(name: str, values) -> None:
    """Refuse what is not a list of different names."""
    if isinstance(values, (str, bytes, dict, set)) or not hasattr(values, "__len__"):
        raise CovidxrError(f"{name} is {values!r}; give a list of names")
    values = list(values)
    if not values:
        raise CovidxrError(f"{name} is empty; name at least one")
    for number, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise CovidxrError(f"{name} holds {value!r}, which is not a name; in YAML, put words like 'no' in quotes")
        if value in values[:number]:
            raise CovidxrError(f"{name} holds {value!r} twice; name it once")
