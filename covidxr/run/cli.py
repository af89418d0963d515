"""The command line: ``covidxr run``, ``covidxr data`` and ``covidxr compare``.

Nothing heavy is imported before a command has been parsed, so that ``--help`` is instant.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from covidxr.run.profile import NOTEBOOKS, parse_yaml, read_profile
from covidxr.utils import CovidxrError, unknown

_FETCHABLE = ("covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1")

_EXAMPLES = {
    "covidxr": """examples:
  covidxr run demo                          # all notebooks, into runs/demo
  covidxr data article --data-dir data      # download the images of a profile
  covidxr compare demo article              # finished runs side by side

Each command has its own --help. Without the installed script, write python -m covidxr.
""",
    "run": """examples:
  covidxr run demo
  covidxr run article --data-dir data
  covidxr run article --run-dir runs/short -p epochs 2 -p seed 7
  covidxr run article --only 05
  covidxr run my_profile.yaml

The same command resumes where it stopped: a notebook is executed again when its code, its parameters, its inputs or its
outputs are not as recorded, and a line says why. python -m covidxr.run PROFILE is the same command.
exit codes: 0 all done, 1 a notebook failed, 2 wrong usage, 130 interrupted
""",
    "data": f"""sources: {", ".join(_FETCHABLE)}

examples:
  covidxr data article --data-dir data
  covidxr data covid-chestxray figure1 --data-dir data
  covidxr data mitigated --data-dir data --mirror https://mirror.example.org/images
  covidxr data kaggle-chest-xray --data-dir data --from archive.zip

The same command resumes where it stopped; files that are there and unchanged are not downloaded again. Proxies are taken
from HTTPS_PROXY and NO_PROXY, a mirror also from COVIDXR_MIRROR. A mirror's user name and password, as in
https://user:password@mirror.example.org, are sent to it, and neither recorded nor shown.
exit codes: 0 all there that the servers have, 1 something could not be downloaded, 2 wrong usage, 130 interrupted
""",
    "compare": """examples:
  covidxr compare demo article
  covidxr compare runs/demo /data/runs/other

The page is written next to the first run. python -m covidxr.run --compare RUN RUN is the same command.
""",
}


def main(arguments=None) -> int:
    """Parse and execute a command; return the exit code."""
    options = _parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        return options.command(options)
    except CovidxrError as error:
        return _fail(f"error: {error}", 2)
    except KeyboardInterrupt:
        return _fail("\nInterrupted. The same command resumes where it stopped.", 130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _needed_sources(names) -> list[str]:
    """List the downloadable sources among the names and in the profiles of these names."""
    sources = [source for name in names for source in ([name] if name in _FETCHABLE else _profile_sources(name))]
    return list(dict.fromkeys(sources))


def _profile_sources(name):
    from covidxr.data.sources import source_entry

    if name not in _profiles() and not Path(name).is_file():
        raise unknown("source or profile", name, [*_FETCHABLE, *_profiles(), "the path of a YAML file"])
    lists = [
        section.get(key) or []
        for section in read_profile(name)[1].values()
        for key in ("sources", "external", "mitigated_sources")
    ]
    named = [source_entry(entry)[0] for sources in lists for entry in sources]
    return [source for source in named if source in _FETCHABLE]


def _profiles():
    return [path.stem for path in sorted(NOTEBOOKS.glob("profiles/*.yaml"))]


def _run(options):
    from covidxr.run.runner import NotebookFailed, run_profile

    typed = {name: parse_yaml(value, f"-p {name}") for name, value in options.parameters}
    try:
        run_profile(options.profile, options.run_dir, options.data_dir, options.only, typed)
    except NotebookFailed as error:
        return _fail(error, 1)
    return 0


def _data(options):
    sources = _needed_sources(options.names)
    if options.archive and len(sources) != 1:
        raise CovidxrError(f"--from names the archive of one source, but {', '.join(sources) or 'none'} were named")
    if not sources:
        print(f"nothing to download for {', '.join(options.names)}")
    return max([_fetch(source, options) for source in sources], default=0)


def _fetch(source, options):
    from covidxr.data.sources import fetch

    try:
        print(fetch(source, options.data_dir, options.mirror, options.archive), flush=True)
    except CovidxrError as error:  # the next source may still be had
        return _fail(f"error: {error}", 1)
    return 0


def _compare(options):
    from covidxr.report.compare import compare_runs

    page, table = compare_runs(options.runs)
    print(f"{table}\nopen {page}")
    return 0


def _fail(message, code):
    print(message, file=sys.stderr)
    return code


def _parser():
    raw = argparse.RawDescriptionHelpFormatter
    about = "COVID-19 chest X-ray classification: run its notebooks, download its images, compare runs."
    parser = argparse.ArgumentParser("covidxr", description=about, epilog=_EXAMPLES["covidxr"], formatter_class=raw)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, function, text):
        made = commands.add_parser(
            name, help=text[0].lower() + text[1:], description=f"{text}.", epilog=_EXAMPLES[name], formatter_class=raw
        )
        made.set_defaults(command=function)
        return made

    profiles = ", ".join(_profiles()) or "a name in notebooks/profiles"
    run = command("run", _run, "Run a profile's notebooks in order; write executed copies, figures and an index page")
    run.add_argument("profile", metavar="PROFILE", help=f"{profiles}; or a YAML file")
    run.add_argument("--run-dir", metavar="DIR", help="where everything is written (default: runs/PROFILE)")
    run.add_argument("--data-dir", metavar="DIR", help="where the data are, or are downloaded to")
    run.add_argument("--only", metavar="03", help="run just this notebook, even when it is unchanged")
    set_parameter = run.add_argument("-p", dest="parameters", nargs=2, action="append", default=[])
    set_parameter.metavar = ("NAME", "VALUE")
    set_parameter.help = "set a parameter in every notebook that has it; may be repeated"

    data = command("data", _data, "Download the images of a profile or a source into the folders that notebooks expect")
    data.add_argument("names", metavar="PROFILE|SOURCE", nargs="+", help=f"{profiles}; or sources, as below")
    data.add_argument("--data-dir", metavar="DIR", default="data", help="where the images go (default: data)")
    data.add_argument("--mirror", metavar="URL", help="an address that serves the same paths as GitHub and Kaggle")
    data.add_argument("--from", dest="archive", metavar="FILE.zip", help="a source's zip archive, downloaded by hand")

    compare = command("compare", _compare, "Compare finished runs side by side, as a table and a page")
    compare.add_argument("runs", metavar="RUN", nargs="+", help="run folders, or names in runs/")
    return parser
