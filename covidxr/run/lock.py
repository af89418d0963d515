"""The lock of a run folder: one run works in it at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from covidxr.utils import CovidxrError

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt


_LOCKED_BYTE = 1 << 30  # on Windows, where a locked byte cannot be read; past the end of the file


@contextlib.contextmanager
def locked(run_dir):
    """Make a run folder and lock it for the length of the block; the system ends the lock of a process that is killed."""
    path = Path(run_dir) / "run.lock"  # it stays: once removed, it could be locked by one run and made anew by the next
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "a+", encoding="utf-8"))
            _lock(file)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "just started"
            raise CovidxrError(
                f"another run (process {holder}) is working in {path.parent}; wait for it, or give another --run-dir"
            ) from None
        except OSError as error:
            reason = f"{run_dir} cannot be a run folder ({error.strerror or error})"
            raise CovidxrError(f"{reason}; give another --run-dir, a folder that can be written to") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield path


def _lock(file):
    if os.name == "posix":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    file.seek(_LOCKED_BYTE)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        raise BlockingIOError from error
