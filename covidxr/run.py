"""Run a profile's notebooks in order, render them, and write the run's record and index page.

``python -m covidxr.run demo`` executes the notebooks through papermill into ``runs/demo``. What is unchanged since the
last run there is not executed again, so that the same command goes on after a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from functools import partial
from pathlib import Path

import psutil

from covidxr._profile import NOTEBOOKS, parse_yaml, read_profile
from covidxr._record import begin, finish, is_done, open_record, save
from covidxr.compare import compare_runs
from covidxr.errors import CovidxrError
from covidxr.page import write_page

_EPILOG = """examples:
  python -m covidxr.run demo
  python -m covidxr.run article --data-dir data
  python -m covidxr.run article --run-dir runs/short -p epochs 2 -p seed 7
  python -m covidxr.run article --only 05
  python -m covidxr.run my_profile.yaml
  python -m covidxr.run --compare demo short          # finished runs side by side

The same command goes on where it stopped: unchanged notebooks are not executed again.
exit codes: 0 all done, 1 a notebook failed, 2 wrong usage, 130 interrupted
"""


class NotebookFailed(Exception):
    """A notebook raised an error; the message says which, where, why, and how to go on.

    Examples
    --------
    >>> raise NotebookFailed("03_fine_tuning failed in cell In [5]: fit(model)")
    Traceback (most recent call last):
        ...
    covidxr.run.NotebookFailed: 03_fine_tuning failed in cell In [5]: fit(model)
    """


def run_profile(profile, run_dir=None, data_dir=None, only=None, parameters=None, notebooks=NOTEBOOKS) -> dict:
    """Run the notebooks of a profile in order, skipping those that are done and unchanged.

    Parameters
    ----------
    profile : str or pathlib.Path
        Name of a file in ``notebooks/profiles``, or path of a YAML file with one section of parameters a notebook;
        its section ``all`` is for every notebook that declares the parameter.
    run_dir : str or pathlib.Path, optional
        Where everything is written; ``runs/<profile>`` by default.
    data_dir : str or pathlib.Path, optional
        Given to every notebook that declares ``data_dir``.
    only : str, optional
        Run just the notebook whose name begins so, such as ``"03"``, and run it even when unchanged.
    parameters : dict, optional
        Values that go before the profile's, in every notebook that declares them.
    notebooks : str or pathlib.Path, optional
        Folder with ``NN_*.ipynb`` and ``profiles/``.

    Returns
    -------
    dict
        The content of ``run.json``.

    Raises
    ------
    CovidxrError
        Before anything runs: when the profile, a section, a parameter or a notebook is not what it should be, or
        another run is at work in the folder.
    NotebookFailed
        At the first notebook that fails; those after it are not run.

    Examples
    --------
    >>> run_profile("artcle")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: unknown profile 'artcle'; available: ...
    """
    from covidxr._plan import choose, plan  # nbformat takes a moment, and --help should not

    name, sections = read_profile(profile, notebooks)
    run_dir = Path(run_dir or Path("runs", name))
    injected = {"run_dir": str(run_dir.absolute())}
    if data_dir is not None:
        injected["data_dir"] = str(Path(data_dir).absolute())
    steps = plan(sections, parameters or {}, injected, notebooks)
    chosen = choose(steps, only)
    with _lock(run_dir):
        copies = {path.name for path in run_dir.glob("notebooks/*.ipynb")}
        listed = [step for step in steps if step.wanted or step in chosen or step.path.name in copies]
        return _run_all(name, listed, chosen, run_dir, forced=only is not None)


def main(arguments=None) -> int:
    """Run from the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the command line by default.

    Returns
    -------
    int
        Exit code: 0 all done, 1 a notebook failed, 2 wrong usage, 130 interrupted.

    Examples
    --------
    >>> main(["artcle"])
    2
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.profile) == bool(options.compare):
        parser.error("give a PROFILE to run, or --compare with the runs to compare")
    try:
        if options.compare:
            return _compare(options.compare)
        typed = {name: parse_yaml(value, f"-p {name}") for name, value in options.parameters}
        run_profile(options.profile, options.run_dir, options.data_dir, options.only, typed)
    except CovidxrError as error:
        return _complain(f"error: {error}", 2)
    except NotebookFailed as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("\nInterrupted. The same command goes on with the notebook that was running.", 130)
    return 0


def _compare(runs):
    page, table = compare_runs(runs)
    print(f"{table}\nopen {page}")
    return 0


def _complain(message, code):
    print(message, file=sys.stderr)
    return code


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m covidxr.run",
        description="Run a profile's notebooks in order; write executed copies, figures and an index page.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(path.stem for path in sorted(NOTEBOOKS.glob("profiles/*.yaml")))
    parser.add_argument(
        "profile", metavar="PROFILE", nargs="?", help=f"{names or 'a name in notebooks/profiles'}; or a YAML file"
    )
    parser.add_argument("--run-dir", metavar="DIR", help="where everything is written (default: runs/PROFILE)")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data are, or are downloaded to")
    parser.add_argument("--only", metavar="03", help="run just this notebook, even when it is unchanged")
    parser.add_argument("--compare", metavar="RUN", nargs="+", help="put runs side by side: folders, or names in runs/")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter in every notebook that has it; may be repeated",
    )
    return parser


def _run_all(name, steps, chosen, run_dir, forced):
    record = open_record(name, steps, run_dir)
    for step in chosen:
        if forced or not is_done(record, step, run_dir):
            _run_one(record, step, steps, run_dir)
        else:
            print(f"{step.stem} … unchanged")
    print(f"open {write_page(run_dir)}")
    return record


def _run_one(record, step, steps, run_dir):
    from covidxr._execute import execute  # papermill and nbconvert, not needed when all is unchanged

    entry = begin(record, step, steps)
    save(record, run_dir)
    beginning = f"{step.stem} … "
    print(beginning, end="", flush=True)
    beginning = f"\r{beginning}" if sys.stdout.isatty() else ""  # a terminal shows the seconds as they pass
    tick = partial(_print_seconds, beginning) if beginning else lambda seconds: None
    try:
        outcome = execute(step.path, run_dir / "notebooks" / step.path.name, step.parameters, tick)
    except KeyboardInterrupt:
        entry["status"] = "interrupted"
        save(record, run_dir)
        raise
    finish(entry, outcome, step.key)
    save(record, run_dir)
    _print_seconds(beginning, outcome.seconds, end="\n")
    if outcome.error:
        raise NotebookFailed(_failure_text(record, step, outcome, run_dir))


def _print_seconds(beginning, seconds, end=""):
    print(f"{beginning}{seconds:.0f} s", end=end, flush=True)


def _failure_text(record, step, outcome, run_dir):
    done = [stem for stem, entry in record["notebooks"].items() if entry["status"] == "done"]
    return (
        f"{step.stem} failed in {outcome.error}\n"
        f"its copy up to there: {run_dir / 'notebooks' / step.stem}.failed.ipynb\n"
        f"done: {', '.join(done) or 'nothing yet'}; the same command goes on from {step.stem}"
    )


@contextlib.contextmanager
def _lock(run_dir):
    """Keep a second run out of the folder; the lock of a process that is gone does not count."""
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "run.lock"
    holder = path.read_text(encoding="utf-8") if path.exists() else ""
    if holder.isdigit() and not psutil.pid_exists(int(holder)):
        path.unlink()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        raise CovidxrError(
            f"another run (process {holder}) is at work in {run_dir}; wait for it, give another --run-dir, "
            f"or delete {path} if there is none"
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
