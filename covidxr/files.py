"""Files written whole or not at all: to a temporary name beside the target, then moved into place."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import uuid
import zlib
from pathlib import Path

import psutil

from covidxr.errors import CovidxrError

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # a process's number says nothing on another machine
_TEMPORARY = re.compile(rf"\.covidxr-{_HOST}-(\d+)-[0-9a-f]{{32}}(\..*)?")
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
    temporary = path.with_name(f".covidxr-{_HOST}-{os.getpid()}-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep_leftovers(folder) -> None:
    """Remove the temporary files, at any depth of `folder`, of processes of this machine that were killed.

    Parameters
    ----------
    folder : str or pathlib.Path
        It need not exist.

    Examples
    --------
    >>> sweep_leftovers("no/such/folder")
    """
    for path in Path(folder).rglob(".covidxr-*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not psutil.pid_exists(int(match[1])):
            with contextlib.suppress(OSError):  # gone by now, or not ours to remove
                path.unlink()


def write_json(path, value) -> None:
    """Write `value` as indented JSON, atomically.

    Parameters
    ----------
    path : str or pathlib.Path
        Target file.
    value : object
        Anything that `json` takes; NumPy scalars and arrays become Python numbers and lists, other objects text.

    Raises
    ------
    CovidxrError
        When it holds NaN or infinity, which JSON cannot say; the old file stays.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_json(target, {"n": 3})
    >>> json.loads(target.read_text())
    {'n': 3}
    """
    plain = json.loads(json.dumps(value, default=_plain))
    if found := _no_number(plain):
        raise CovidxrError(
            f"{path}: {found[0]} is {found[1]}, which JSON cannot say; give a number, or None and the reason"
        )
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plain, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _no_number(value, key=""):
    """The key and the value of the first NaN or infinity; None where there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return key or "the value", value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next(filter(None, (_no_number(inner, f"{key}.{name}".strip(".")) for name, inner in pairs)), None)


def read_json(path, checked=True) -> dict:
    """Read a JSON file, or return an empty dictionary where there is none.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    checked : bool
        Whether to refuse what is no dictionary of finite numbers; without it whatever the file holds is returned.

    Returns
    -------
    dict

    Raises
    ------
    CovidxrError
        When the file is not JSON, or, checked, holds NaN, infinity or something other than a dictionary.

    Examples
    --------
    >>> read_json("no/such/file.json")
    {}
    """
    path = Path(path)
    try:
        if not path.exists():
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
        if checked and not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not a dictionary")
        if checked and (wrong := _no_number(found)):
            raise ValueError(f"{wrong[0]} is {wrong[1]}, which JSON cannot say")
    except OSError as error:  # a folder of that name, or no right to read it
        raise CovidxrError(f"{path} cannot be read ({error.strerror}); move it away and run again") from error
    except (ValueError, RecursionError) as error:  # not JSON, not even text, or nested without end
        raise CovidxrError(f"{path}: not a JSON file ({error}); delete it and run the notebooks again") from error
    return found


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
