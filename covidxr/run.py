"""Run a profile's notebooks in order, render them, and write the run's record and index page.

``python -m covidxr.run demo`` executes the notebooks through papermill into ``runs/demo``. What is unchanged since the
last run there is not executed again, so that the same command goes on after a failure.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from covidxr._lock import held
from covidxr._profile import NOTEBOOKS, parse_yaml, read_profile
from covidxr._record import finish, open_record, save
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

The same command goes on where it stopped: a notebook is executed again when its code, its parameters, what it reads or
what it left is not as recorded, and a line says why.
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
        Before anything runs: when the profile, a section, a parameter or a notebook is not what it should be, another run
        is at work in the folder, or `only` would go on from what was made from other data than those at hand.
    NotebookFailed
        At the first notebook that fails, or when nothing more can be written; those after it are not run.

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
    with held(run_dir):
        copies = {path.name for path in run_dir.glob("notebooks/*.ipynb")}
        listed = [step for step in steps if step.wanted or step in chosen or step.path.name in copies]
        try:
            return _run_all(name, listed, chosen, run_dir, forced=only is not None)
        except OSError as error:  # most often a full disk
            raise NotebookFailed(
                f"{error.strerror or error}: {error.filename or run_dir}; the same command goes on"
            ) from error


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
    before = signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C
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
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _interrupt(number, frame):
    raise KeyboardInterrupt


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
    from covidxr._state import State, tidy

    tidy(run_dir)
    state = State(open_record(name, steps, run_dir), steps, run_dir)
    if said := state.restore_metrics():
        print(said)
    for step in chosen:
        if forced and (wrong := state.refusal(step)):
            raise CovidxrError(wrong)
        reason = state.why(step)
        if reason and not forced:
            print(f"{step.stem} … runs again: {reason}")
        if forced or reason is not None:
            _run_one(state, step)
        else:
            state.entries[step.stem]["status"] = "done"
            print(f"{step.stem} … unchanged")
    state.refresh()
    save(state.record, run_dir)
    for stem, found in state.damage.items():
        print(f"{stem}: {next(iter(found.values()))}; the command without --only, or with --only {stem[:2]}, mends it")
    print(f"open {_page(state)}")
    return state.record


def _page(state):
    try:
        return write_page(state.run_dir)
    except Exception as error:
        if not state.damage:
            raise
        raise CovidxrError(
            f"index.html cannot be written from damaged files ({error}); give the command without --only"
        ) from error


def _run_one(state, step):
    from covidxr._execute import execute  # papermill and nbconvert, not needed when all is unchanged
    from covidxr._state import tidy

    record, run_dir = state.record, state.run_dir
    entry = state.begin(step)
    _save(state)
    beginning = f"{step.stem} … "
    print(beginning, end="", flush=True)
    beginning = f"\r{beginning}" if sys.stdout.isatty() else ""  # a terminal shows the seconds as they pass
    tick = partial(_print_seconds, beginning) if beginning else lambda seconds: None
    try:
        outcome = execute(step.path, run_dir / "notebooks" / step.path.name, step.parameters, tick)
    except BaseException:  # Ctrl-C, or nothing can be written any more
        entry["status"] = "interrupted"
        tidy(run_dir)
        state.finish(step, ended=False)
        _save(state)
        raise
    finish(entry, outcome)
    state.finish(step, ended=not outcome.error)
    _save(state)
    _print_seconds(beginning, outcome.seconds, end="\n")
    if outcome.error:
        raise NotebookFailed(_failure_text(record, step, outcome, run_dir))


def _save(state):
    """Write the record, and the page unless it would show what is damaged."""
    save(state.record, state.run_dir)
    if not state.damage:
        write_page(state.run_dir)


def _print_seconds(beginning, seconds, end=""):
    print(f"{beginning}{seconds:.0f} s", end=end, flush=True)


def _failure_text(record, step, outcome, run_dir):
    done = [stem for stem, entry in record["notebooks"].items() if entry["status"] == "done"]
    return (
        f"{step.stem} failed in {outcome.error}\n"
        f"its copy up to there: {run_dir / 'notebooks' / step.stem}.failed.ipynb\n"
        f"done: {', '.join(done) or 'nothing yet'}; the same command goes on from {step.stem}"
    )


if __name__ == "__main__":
    sys.exit(main())
