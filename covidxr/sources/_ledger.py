"""The record beside a source's files, ``fetched.json``, and the report of one fetch.

The record says which file came from where, with size and SHA-256 sum. What the package's frozen list does not know is
recorded when a file first arrives, and checked from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from covidxr.errors import CovidxrError
from covidxr.files import read_json, write_json
from covidxr.sources._known import Known, frozen, is_plausible, measure, unfit

LEDGER = "fetched.json"
MAX_FILES = 20_000  # of a source; the Kaggle set has 5,856


class Ledger:
    """The record of a source's folder: which files came from where, with size and checksum.

    Parameters
    ----------
    folder : str or pathlib.Path
        The source's folder; it need not exist yet.
    source, version : str
        Written into the record.

    Raises
    ------
    CovidxrError
        When the folder's ``fetched.json`` is not such a record.

    Examples
    --------
    >>> import tempfile
    >>> ledger = Ledger(tempfile.mkdtemp(), "figure1", "95bb569")
    >>> ledger.record("images/a.png", Known(3, "ab"), "https://example.org/a.png")
    >>> ledger.save()
    >>> Ledger(ledger.folder, "figure1", "95bb569").known("images/a.png")
    Known(size=3, sha256='ab', git_sha1='')
    """

    def __init__(self, folder, source: str, version: str):
        self.folder, self.source, self.version = Path(folder), source, version
        self._frozen = frozen(source)
        try:
            files = read_json(self.folder / LEDGER, checked=False).get("files", {})
            self._known = {path: Known(entry["size"], entry["sha256"]) for path, entry in files.items()}
            plausible = all(map(is_plausible, self._known, self._known.values()))
        except (AttributeError, KeyError, TypeError):
            plausible = False
        if not plausible:
            raise CovidxrError(f"{self.folder / LEDGER}: not a record of fetched files; delete it")
        self.files = files
        self._saved = dict(files)

    def known(self, path: str) -> Known:
        """Known: What the frozen list and the record say of a file."""
        return self._frozen.get(path, Known()).filled(self._known.get(path, Known()))

    def record(self, path: str, known: Known, url: str) -> None:
        """Note a file with its size, checksum and where it came from."""
        self._known[path] = known
        self.files[path] = {"size": known.size, "sha256": known.sha256, "url": url}

    def sort_out(self, wanted: dict[str, Known]) -> tuple[list[str], list[str], list[str]]:
        """Sort wanted files into those that are there, those changed since they were fetched, and those missing.

        A file found without a record is recorded as it is.

        Raises
        ------
        CovidxrError
            When files lie there that this record does not know and that are not the source's: they are not overwritten.
            When there are more than any source has.
        """
        if len(wanted) > MAX_FILES:
            raise CovidxrError(
                f"{self.source}: refused, since it has {len(wanted):,} files; the limit is {MAX_FILES:,}"
            )
        kept, changed, missing, foreign, why = [], [], [], [], ""
        for path, known in wanted.items():
            target = self.folder / path
            if not target.is_file():
                missing.append(path)
            elif not (reason := unfit(target, path, known.filled(self.known(path)))):
                kept.append(path)
            elif path in self.files:
                changed.append(path)
            else:
                foreign.append(path)
                why = why or reason
        if foreign:
            raise CovidxrError(
                f"{self.folder}: {shorten(foreign)} there already, but not as in version {self.version} of {self.source} "
                f"({why}), and not fetched by this command; name another data folder or move it away"
            )
        for path in kept:
            if path not in self.files:
                self.record(path, measure(self.folder / path), "found in place")
        return kept, changed, missing

    def save(self) -> None:
        """Write the record, if anything in it is new."""
        if self.files != self._saved:
            files = dict(sorted(self.files.items()))
            write_json(self.folder / LEDGER, {"source": self.source, "version": self.version, "files": files})
            self._saved = files


def shorten(names, shown: int = 3) -> str:
    """Name the first few of many files.

    Parameters
    ----------
    names : sequence of str
        The files.
    shown : int
        How many are named.

    Returns
    -------
    str

    Examples
    --------
    >>> shorten(["images/a.png", "b.png", "c.png", "d.png"])
    '4 files (a.png, b.png, c.png and 1 more)'
    >>> shorten(["a.png"])
    '1 file (a.png)'
    """
    first = ", ".join(Path(name).name for name in names[:shown])
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return f"{len(names):,} file{'s' * (len(names) != 1)}" + (f" ({first}{more})" if names else "")


@dataclass
class Fetched:
    """What a fetch did; as text, the summary for a person.

    Parameters
    ----------
    source : str
        The source's name.
    folder : pathlib.Path
        Where its files lie.
    new, kept, changed, absent : list of str
        Paths within the folder: those that arrived; those that were there; of the new ones, those that had been there but
        were no longer what had been fetched; and those that the server does not have.
    bytes : int
        Size of the new ones.

    Examples
    --------
    >>> done = Fetched("figure1", Path("data/figure1"), kept=["metadata.csv"])
    >>> done.note("images/a.png", Known(5_000_000))
    >>> print(done)
    figure1: 2 files in data/figure1, 1 of them fetched now (5.0 MB)
    """

    source: str
    folder: Path
    new: list = field(default_factory=list)
    kept: list = field(default_factory=list)
    changed: list = field(default_factory=list)
    absent: list = field(default_factory=list)
    bytes: int = 0

    def note(self, path: str, known: Known) -> None:
        """Count a file that has arrived."""
        self.new.append(path)
        self.bytes += known.size

    def __str__(self) -> str:
        total = len(self.new) + len(self.kept)
        fetched = f"{len(self.new):,} of them fetched now ({self.bytes / 1e6:.1f} MB)"
        text = f"{self.source}: {total:,} file{'s' * (total != 1)} in {self.folder}, {fetched}"
        if self.changed:
            text += f"\n  changed since they were fetched, so fetched again: {shorten(self.changed)}"
        if self.absent:
            text += f"\n  the server does not have {shorten(self.absent)}; their rows will be rejected"
        return text


def incomplete(origin, done: Fetched, lost, reason: str) -> CovidxrError:
    """Build the error for files that could not be had: how many, the first names, why, and how to get them.

    Parameters
    ----------
    origin : covidxr.sources._origins.Origin
        The source.
    done : Fetched
        What has been done so far.
    lost : list of str
        What is missing.
    reason : str
        Why the first of them is.

    Returns
    -------
    CovidxrError
        To be raised by the caller.

    Examples
    --------
    >>> from covidxr.sources._origins import ORIGINS
    >>> print(incomplete(ORIGINS["figure1"], Fetched("figure1", Path("data/figure1")), ["a.png"], "example.org stalled"))
    figure1: still missing 1 file (a.png): example.org stalled. 0 files are in data/figure1 and kept; the same command goes on. ...
    """
    return CovidxrError(
        f"{origin.name}: still missing {shorten(lost)}: {reason}. {len(done.new) + len(done.kept):,} files are in "
        f"{done.folder} and kept; the same command goes on. Behind a proxy set HTTPS_PROXY; for a mirror give --mirror or "
        f"set COVIDXR_MIRROR; without a network get {origin.by_hand} elsewhere and give it with --from FILE.zip"
    )
