"""Parameters checked before anything is read: whole numbers, shares and lists of names."""

from __future__ import annotations

from numbers import Integral, Real

from covidxr.errors import CovidxrError

MOST_SEED = 2**32 - 1  # NumPy's older generators and Keras take no larger ones
MOST_SIDE = 2048  # pixels; a thousand images of that size are 4 GB


def check_whole(name: str, value, least: int, most: int | None = None) -> None:
    """Refuse what is not a whole number in a range; True and 3.0 are none."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least or (most and value > most):
        limits = f"from {least} to {most}" if most else f"of {least} or more"
        raise CovidxrError(f"{name} is {value!r}; give a whole number {limits}")


def check_seed(seed) -> None:
    """Refuse what is no seed for every generator of random numbers."""
    check_whole("seed", seed, 0, MOST_SEED)


def check_share(name: str, value) -> None:
    """Refuse what is not strictly between 0 and 1, such as NaN."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < 1:
        raise CovidxrError(f"{name} is {value!r}; give a share between 0 and 1, such as 0.3")


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
