"""Where each source is fetched from: addresses pinned at a commit or version, and which of its files are wanted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from covidxr.decode import IMAGE_SUFFIXES
from covidxr.sources import covid_chestxray, darkcovidnet, figure1, kaggle_chest_xray
from covidxr.sources._known import Known, frozen, read_listing

KAGGLE_HANDLE = "paultimothymooney/chest-xray-pneumonia"
KAGGLE_ARCHIVE = "chest-xray-pneumonia.zip"
_LISTING = "listing.json"


@dataclass(frozen=True)
class Origin:
    """Where a source is fetched from.

    Parameters
    ----------
    name, folder : str
        The source, and its folder within the data folder, as its reader expects it.
    version : str
        The commit or version fetched.
    members : str
        Regular expression for its films in a zip archive; the group ``path`` is the path within `folder`.
    by_hand : str
        Where a person downloads all of it as one zip archive.
    repository : str
        Owner and name on GitHub, if it is there.
    index : str
        The file that tells which others are wanted; fetched first.
    wanted : callable, optional
        From the folder with the index to the files wanted, path to `Known`.

    Examples
    --------
    >>> ORIGINS["covid-chestxray"].url("images/a b.png")
    'https://raw.githubusercontent.com/ieee8023/covid-chestxray-dataset/65b61b403b86a4cebff1fc4451a220feb24ccb33/images/a%20b.png'
    """

    name: str
    folder: str
    version: str
    members: str
    by_hand: str
    repository: str = ""
    index: str = ""
    wanted: Callable | None = None

    def url(self, path: str) -> str:
        """str: The address of one of its files."""
        if path == _LISTING:
            return f"https://api.github.com/repos/{self.repository}/git/trees/{self.version}?recursive=1"
        return f"https://raw.githubusercontent.com/{self.repository}/{self.version}/{quote(path)}"


def is_film_or_table(path: str) -> bool:
    """Tell whether a path is that of an image or of ``metadata.csv``; hidden files and names no file can have are neither.

    Parameters
    ----------
    path : str
        Within a source's folder.

    Returns
    -------
    bool

    Examples
    --------
    >>> [is_film_or_table(path) for path in ("images/a.PNG", "metadata.csv", "images/._a.png", "run.sh", "..")]
    [True, True, False, False, False]
    """
    name = PurePosixPath(path)
    if re.search(r"[\x00-\x1f\\\ud800-\udfff]", path):
        return False
    return (name.suffix.lower() in IMAGE_SUFFIXES or path == "metadata.csv") and not name.name.startswith(".")


def _on_github(name, folder, repository, commit, members, index, wanted):
    by_hand = f"https://github.com/{repository}/archive/{commit}.zip"
    return Origin(name, folder, commit, rf"(?:[^/]+/)?(?P<path>{members})", by_hand, repository, index, wanted)


def _covid_chestxray(folder):
    names = [Path(path).name for path in covid_chestxray.read(folder).path]
    return {f"images/{name}": Known() for name in names if is_film_or_table(name)}


def _figure1(folder):
    by_stem = {Path(path).stem: path for path in frozen("figure1")}  # metadata.csv does not give the suffix
    names = [Path(path).stem for path in figure1.read(folder).path]
    paths = [by_stem.get(name, f"images/{name}.jpg") for name in names]
    return {path: Known() for path in paths if is_film_or_table(path)}


def _darkcovidnet(folder):
    known = read_listing(folder / _LISTING)
    fits = re.compile(_DARKCOVIDNET_FILMS).fullmatch
    return {path: known[path] for path in known if fits(path) and is_film_or_table(path)}


_METADATA_AND_IMAGES = r"metadata\.csv|images/[^/]+"
_DARKCOVIDNET_FILMS = r"X-Ray Image DataSet/(?:No_findings|Pneumonia)/[^/]+"

ORIGINS = {
    origin.name: origin
    for origin in (
        _on_github(
            "covid-chestxray",
            "covid-chestxray-dataset",
            "ieee8023/covid-chestxray-dataset",
            covid_chestxray.VERSION,
            _METADATA_AND_IMAGES,
            "metadata.csv",
            _covid_chestxray,
        ),
        _on_github(
            "figure1",
            "figure1",
            "agchung/Figure1-COVID-chestxray-dataset",
            figure1.VERSION,
            _METADATA_AND_IMAGES,
            "metadata.csv",
            _figure1,
        ),
        _on_github(
            "darkcovidnet",
            "darkcovidnet",
            "muhammedtalo/COVID-19",
            darkcovidnet.VERSION,
            _DARKCOVIDNET_FILMS,
            _LISTING,
            _darkcovidnet,
        ),
        Origin(
            "kaggle-chest-xray",
            "chest_xray",
            kaggle_chest_xray.VERSION,
            r"(?:[^/]+/)*?(?P<path>(?:train|test|val)/(?:NORMAL|PNEUMONIA)/[^/]+)",
            f"https://www.kaggle.com/api/v1/datasets/download/{KAGGLE_HANDLE}?datasetVersionNumber=2",
        ),
    )
}
