"""The one place that keeps TensorFlow's start-up chatter off the user's screen."""

from __future__ import annotations

import os

SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # no CUDA search, no CPU feature notes
    "GRPC_VERBOSITY": "ERROR",
}


def quiet_environment() -> dict:
    """Set the quiet defaults in this process' environment, where the user set nothing, and return them.

    Returns
    -------
    dict
        Environment variables and their values, as they now stand.

    Examples
    --------
    >>> "TF_CPP_MIN_LOG_LEVEL" in quiet_environment()
    True
    """
    return {name: os.environ.setdefault(name, value) for name, value in SETTINGS.items()}
