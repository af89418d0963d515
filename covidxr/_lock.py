"""One run at a time in a folder: a lock of the operating system, which ends with the process that holds it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from covidxr.errors import CovidxrError

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

_FAR = 1 << 30  # the byte that is locked on Windows, where nobody could read a locked one


@contextlib.contextmanager
def held(run_dir):
    """Make a run folder and keep a second run out of it for the length of the block.

    Raises
    ------
    CovidxrError
        When another run is at work in the folder, or it cannot be a folder to write to.

    Examples
    --------
    >>> import tempfile
    >>> with held(tempfile.mkdtemp()) as path:
    ...     path.read_text() == str(os.getpid())
    True
    """
    path = Path(run_dir) / "run.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _take(path)
    except OSError as error:
        reason = f"{run_dir} cannot be a run folder ({error.strerror or error})"
        raise CovidxrError(f"{reason}; give another --run-dir, a folder that can be written to") from None
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            path.unlink()
        file.close()


def _take(path):
    """Open and lock the file; again where it is not, or no longer, the file of that name, as its last holder removed it."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (held as long as the run)
        try:
            _lock(file)
            if _is_still(path, file):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                return file
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "just started"
            file.close()
            raise CovidxrError(
                f"another run (process {holder}) is at work in {path.parent}; wait for it, or give another --run-dir"
            ) from None
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file):
    if os.name == "posix":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    file.seek(_FAR)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        raise BlockingIOError from error


def _is_still(path, file):
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
