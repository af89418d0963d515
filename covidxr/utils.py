"""Errors for users, atomic files, JSON and CSV."""

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


class CovidxrError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what to do."""


def unknown(kind: str, name: object, available) -> CovidxrError:
    """Build the error for a name that does not exist, listing those that do."""
    return CovidxrError(f"unknown {kind} {name!r}; available: {', '.join(map(str, available))}")


_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # a process's number says nothing on another machine

_TEMPORARY = re.compile(rf"\.covidxr-{_HOST}-(\d+)-[0-9a-f]{{32}}(\..*)?")

SECTIONS = ".sections"  # file in a run folder; while it exists, sections written to metrics.json are noted in it


METRICS_VERSION = 2  # of the layout of ``metrics.json``


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path that replaces `path` if the block succeeds and is removed otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".covidxr-{_HOST}-{os.getpid()}-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep_leftovers(folder) -> None:
    """Remove temporary files that killed processes of this machine left anywhere in `folder`."""
    for path in Path(folder).rglob(".covidxr-*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not psutil.pid_exists(int(match[1])):
            with contextlib.suppress(OSError):  # gone by now, or not ours to remove
                path.unlink()


def write_json(path, value) -> None:
    """Write `value` as indented JSON, atomically."""
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
    """Read a JSON file, or return an empty dictionary where there is none."""
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


def estimate_text(value, low, high) -> str:
    """The one form in which a value is printed with its confidence interval."""
    return f"{value:.2f} (95 % CI {low:.2f}–{high:.2f})"


def difference_text(value, low, high) -> str:
    """The one form in which a difference is printed with its confidence interval."""
    return f"{value:+.2f} (95 % CI {low:+.2f} to {high:+.2f})"


def duration_text(seconds) -> str:
    """A duration in seconds, minutes or hours."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def write_csv(path, frame) -> None:
    """Write a pandas frame as CSV without its index, atomically."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def _plain(value):
    convert = getattr(value, "tolist", None) or getattr(value, "to_dict", None) or value.__str__
    return convert()


_SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # no CUDA search, no CPU feature notes
    "GRPC_VERBOSITY": "ERROR",
}


def quiet_environment() -> dict:
    """Set environment variables that silence TensorFlow, unless the user set them, and return them."""
    return {name: os.environ.setdefault(name, value) for name, value in _SETTINGS.items()}
