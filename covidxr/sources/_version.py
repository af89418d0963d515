"""Which version of a source lies in a folder, as far as its files tell."""

from __future__ import annotations

from covidxr.files import read_json
from covidxr.sources._known import frozen, mismatch
from covidxr.sources._ledger import LEDGER


def version_of(folder, source: str, pinned: str) -> str:
    """Tell which version of a source lies in a folder.

    Parameters
    ----------
    folder : pathlib.Path
        The source's folder.
    source : str
        Its name.
    pinned : str
        The version that the package fetches.

    Returns
    -------
    str
        What the record of the fetch says; without one `pinned`, where ``metadata.csv`` is, byte for byte, the one of that
        version; otherwise ``""``, as nothing tells.

    Examples
    --------
    >>> from pathlib import Path
    >>> version_of(Path("nowhere"), "figure1", "95bb569")
    ''
    """
    recorded = read_json(folder / LEDGER, checked=False)
    if isinstance(recorded, dict) and recorded.get("version") and isinstance(recorded["version"], str):
        return recorded["version"]
    table, known = folder / "metadata.csv", frozen(source).get("metadata.csv")
    return pinned if known and table.is_file() and not mismatch(table, known) else ""
