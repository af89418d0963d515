"""Files written whole or not at all: to a temporary name beside the target, then moved into place."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path

from covidxr.errors import CovidxrError

SECTIONS = (
    ".sections"  # a file in a run folder: while it is there, the sections written into metrics.json are noted in it
)


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path that becomes `path` when the block ends well, and vanishes otherwise.

    Parameters
    ----------
    path : str or pathlib.Path
        The final name. Its folder is made when missing.

    Yields
    ------
    pathlib.Path
        A name in the same folder with the same suffix, for the caller to write to.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "deep" / "note.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value) -> None:
    """Write `value` as indented JSON, atomically.

    Parameters
    ----------
    path : str or pathlib.Path
        Target file.
    value : object
        Anything that `json` takes; NumPy scalars and arrays become Python numbers and lists, other objects text.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_json(target, {"n": 3})
    >>> json.loads(target.read_text())
    {'n': 3}
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=_plain) + "\n", encoding="utf-8")


def read_json(path) -> dict:
    """Read a JSON file, or return an empty dictionary where there is none.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    dict

    Raises
    ------
    CovidxrError
        When the file is not JSON.

    Examples
    --------
    >>> read_json("no/such/file.json")
    {}
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:  # not JSON, or not even text
        raise CovidxrError(f"{path}: not a JSON file ({error}); delete it and run the notebooks again") from error


def write_csv(path, frame) -> None:
    """Write a pandas frame as CSV without its index, atomically.

    Parameters
    ----------
    path : str or pathlib.Path
        Target file.
    frame : pandas.DataFrame
        What to write.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.csv"
    >>> write_csv(target, pd.DataFrame({"n": [1, 2]}))
    >>> target.read_text().split()
    ['n', '1', '2']
    """
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def _plain(value):
    return value.tolist() if hasattr(value, "tolist") else str(value)
