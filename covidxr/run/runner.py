"""Run a profile's notebooks in order, render them, and write the run's record and index page.

What is unchanged since the last run in the same folder is not executed again, so that the same command resumes after a
failure.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

from covidxr.report.page import write_page
from covidxr.run.lock import locked
from covidxr.run.plan import plan, select
from covidxr.run.profile import NOTEBOOKS, read_profile
from covidxr.run.state import State
from covidxr.utils import CovidxrError, duration_text

_CLEAR = "\r\x1b[K"  # back to the beginning of the terminal's line, which is emptied


class NotebookFailed(Exception):
    """A notebook raised an error; the message says which one, where, why, and how to resume."""


def run_profile(
    profile: str | Path,
    run_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    only: str | None = None,
    parameters: dict | None = None,
    notebooks: Path = NOTEBOOKS,
) -> dict:
    """Run the notebooks of a profile in order, skipping those that are done and unchanged.

    Parameters
    ----------
    profile : str or Path
        Name of a file in ``notebooks/profiles``, without suffix, or the path of a YAML file.
    run_dir : str or Path, optional
        Where everything is written, by default ``runs/`` and the profile's name.
    data_dir : str or Path, optional
        Where the downloaded images are.
    only : str, optional
        Beginning of the name of the one notebook to run, such as ``"03"``; it runs even when it is unchanged.
    parameters : dict, optional
        Values for every notebook that has a parameter of that name; they override the profile.
    notebooks : Path, optional
        Folder of the notebooks and their profiles.

    Returns
    -------
    dict
        The record of the run, as in its ``run.json``.

    Raises
    ------
    CovidxrError
        If the profile, a parameter or the run folder cannot be used, or another run is working in it.
    NotebookFailed
        If a notebook raises an error, or the disk is full.

    Examples
    --------
    >>> record = run_profile("demo", "runs/mine", parameters={"epochs": 3})  # doctest: +SKIP
    >>> run_profile("no-such-profile")
    Traceback (most recent call last):
    covidxr.utils.CovidxrError: unknown profile 'no-such-profile'; available: ablation, article, clean, ...
    """
    name, sections = read_profile(profile, notebooks)
    run_dir = Path(run_dir or Path("runs", name))
    injected = {"run_dir": str(run_dir.absolute())}
    if data_dir is not None:
        injected["data_dir"] = str(Path(data_dir).absolute())
    steps = plan(sections, parameters or {}, injected, notebooks)
    chosen = select(steps, only)
    with locked(run_dir):
        copies = {path.name for path in run_dir.glob("notebooks/*.ipynb")}
        listed = [step for step in steps if step.wanted or step in chosen or step.path.name in copies]
        try:
            return _run_all(name, listed, chosen, run_dir, forced=only is not None)
        except OSError as error:  # most often a full disk
            raise NotebookFailed(
                f"{error.strerror or error}: {error.filename or run_dir}; the same command resumes"
            ) from error


def _run_all(name, steps, chosen, run_dir, forced):
    state = State(name, steps, run_dir)
    if message := state.restore_metrics():
        print(message)
    if sys.stdout.isatty():
        print(f"results as they come: {run_dir / 'index.html'}")
    for step in chosen:
        if forced and (wrong := state.refusal(step)):
            raise CovidxrError(wrong)
        reason = state.why(step)
        if reason and not forced:
            print(f"{step.stem} … runs again: {reason}")
        if forced or reason is not None:
            _run_one(state, step, chosen)
        else:
            state.entries[step.stem]["status"] = "done"
            print(f"{step.stem} … unchanged")
    state.refresh()
    _save(state)
    for stem, found in state.damage.items():
        print(
            f"{stem}: {next(iter(found.values()))}; the command without --only, or with --only {stem[:2]}, repairs it"
        )
    print("index.html is as before the damage" if state.damage else f"open {run_dir / 'index.html'}")
    return state.record


def _run_one(state, step, chosen):
    from covidxr.run.execute import execute  # papermill: not loaded where nothing is to be executed

    target = state.run_dir / "notebooks" / step.path.name
    live = sys.stdout.isatty()  # only a terminal shows what passes
    state.begin(step)
    _save(state)
    print(f"{step.stem} … ", end="", flush=True)
    tick = partial(_show_progress, step.stem, state.expected_seconds(step, chosen)) if live else lambda *_: None
    try:
        outcome = execute(step.path, target, step.parameters, tick)
    except BaseException:  # Ctrl-C, or a full disk
        state.finish(step)
        _save(state)
        raise
    state.finish(step, outcome)
    _save(state)
    print(f"{_CLEAR}{step.stem} … " if live else "", f"{outcome.seconds:.0f} s", sep="", flush=True)
    if outcome.error:
        raise NotebookFailed(_failure_text(state, step, outcome))


def _save(state):
    """Write the record, and the page unless it would show what is damaged."""
    state.save()
    if not state.damage:
        write_page(state.run_dir)


def _show_progress(stem, expected, seconds, doing):
    """Write over the terminal's line: the time passed, the time left of the run if that is known, what the notebook does."""
    left = expected and max(expected[0] - seconds, 0) + expected[1]
    parts = [f"{stem} … {seconds:.0f} s", f"about {duration_text(left)} left" if left else "", doing]
    line = "".join(filter(str.isprintable, " · ".join(filter(None, parts))))
    print(f"{_CLEAR}{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)


def _failure_text(state, step, outcome):
    done = [stem for stem, entry in state.entries.items() if entry["status"] == "done"]
    return (
        f"{step.stem} failed in {outcome.error}\n"
        f"its copy up to there: {state.run_dir / 'notebooks' / step.stem}.failed.ipynb\n"
        f"done: {', '.join(done) or 'nothing yet'}; the same command resumes at {step.stem}"
    )
