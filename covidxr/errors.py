"""The one exception for mistakes that a user can mend: its message is a whole, plain sentence."""

from __future__ import annotations


class CovidxrError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what to do.

    Examples
    --------
    >>> raise CovidxrError("class 'Virus' has 3 images, 10 are needed; lower per_class")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: class 'Virus' has 3 images, 10 are needed; lower per_class
    """


def unknown(kind: str, name: object, available) -> CovidxrError:
    """Build the error for a name that does not exist, listing those that do.

    Parameters
    ----------
    kind : str
        What was looked up, such as ``"source"``.
    name : object
        The name that was given.
    available : iterable of str
        The names that exist.

    Returns
    -------
    CovidxrError
        To be raised by the caller.

    Examples
    --------
    >>> print(unknown("source", "kagle", ["kaggle-chest-xray", "phantom"]))
    unknown source 'kagle'; available: kaggle-chest-xray, phantom
    """
    return CovidxrError(f"unknown {kind} {name!r}; available: {', '.join(map(str, available))}")
