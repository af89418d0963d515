"""Fetch the films of a profile or a source: ``python -m covidxr.data article --data-dir data``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from covidxr._profile import NOTEBOOKS, read_profile
from covidxr.errors import CovidxrError, unknown

_FETCHED = ("covid-chestxray", "kaggle-chest-xray", "darkcovidnet", "figure1")
_EPILOG = f"""sources: {", ".join(_FETCHED)}

examples:
  python -m covidxr.data article --data-dir data
  python -m covidxr.data covid-chestxray figure1 --data-dir data
  python -m covidxr.data honest --data-dir data --mirror https://mirror.example.org/films
  python -m covidxr.data kaggle-chest-xray --data-dir data --from archive.zip

The same command goes on where it stopped; what is there and unchanged is not fetched again. Proxies are taken from
HTTPS_PROXY and NO_PROXY, a mirror also from COVIDXR_MIRROR. A mirror's user name and password, as in
https://user:password@mirror.example.org, are sent to it, and neither recorded nor shown.
exit codes: 0 all there that the servers have, 1 something could not be fetched, 2 wrong usage, 130 interrupted
"""


def needed_sources(names) -> list[str]:
    """List the sources that profiles need, as far as they can be fetched.

    Parameters
    ----------
    names : sequence of str
        Sources, names of profiles, or paths of profiles.

    Returns
    -------
    list of str
        Each once, in the order named. Phantoms and the user's own files are not among them.

    Raises
    ------
    CovidxrError
        When a name is neither a source nor a profile.

    Examples
    --------
    >>> needed_sources(["figure1", "article"])
    ['figure1', 'covid-chestxray', 'kaggle-chest-xray', 'darkcovidnet']
    >>> needed_sources(["demo"])
    []
    """
    sources = []
    for name in names:
        sources += [name] if name in _FETCHED else _of_profile(name)
    return list(dict.fromkeys(sources))


def _of_profile(name):
    profiles = _profiles()
    if name not in profiles and not Path(name).is_file():
        raise unknown("source or profile", name, [*_FETCHED, *profiles, "the path of a YAML file"])
    sections = read_profile(name)[1].values()
    named = [section.get(key) or [] for section in sections for key in ("sources", "external")]
    return [source for sources in named for source in sources if source in _FETCHED]


def _profiles():
    return [path.stem for path in sorted(NOTEBOOKS.glob("profiles/*.yaml"))]


def main(arguments=None) -> int:
    """Run from the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the command line by default.

    Returns
    -------
    int
        Exit code: 0 all there that the servers have, 1 something could not be fetched, 2 wrong usage, 130 interrupted.

    Examples
    --------
    >>> main(["demo"])
    nothing to fetch for demo
    0
    """
    options = _parser().parse_args(arguments)
    try:
        sources = needed_sources(options.names)
        if options.archive and len(sources) != 1:
            raise CovidxrError(f"--from gives the archive of one source; named were {', '.join(sources) or 'none'}")
    except CovidxrError as error:
        return _complain(f"error: {error}", 2)
    if not sources:
        print(f"nothing to fetch for {', '.join(options.names)}")
    try:
        return max([_fetch(source, options) for source in sources], default=0)
    except KeyboardInterrupt:
        return _complain("\nInterrupted. The same command goes on; what has arrived is kept.", 130)


def _fetch(source, options):
    from covidxr.sources.fetch import fetch  # pandas and requests, which --help can do without

    try:
        print(fetch(source, options.data_dir, options.mirror, options.archive), flush=True)
    except CovidxrError as error:
        return _complain(f"error: {error}", 1)
    return 0


def _complain(message, code):
    print(message, file=sys.stderr)
    return code


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m covidxr.data",
        description="Fetch the films of a profile or a source into the folders that the notebooks expect.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(_profiles()) or "a profile"
    parser.add_argument("names", metavar="PROFILE|SOURCE", nargs="+", help=f"{names}; or sources, as below")
    parser.add_argument("--data-dir", metavar="DIR", default="data", help="where the films go (default: data)")
    parser.add_argument("--mirror", metavar="URL", help="an address that serves the same paths as GitHub and Kaggle")
    parser.add_argument("--from", dest="archive", metavar="FILE.zip", help="a source's zip archive got by hand")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended like Ctrl-C does it, with nothing half left
    sys.exit(main())
