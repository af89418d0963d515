"""Profiles: YAML files with the parameters of a run, one section a notebook."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import covidxr
from covidxr.errors import CovidxrError, unknown

_INSTALLED = Path(covidxr.__file__).parent / "_notebooks"  # where a wheel puts what stands at the top of a checkout
NOTEBOOKS = _INSTALLED if _INSTALLED.is_dir() else Path(covidxr.__file__).parent.parent / "notebooks"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes ``1e-3`` for text; people who type it mean the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, where: str):
    """Parse YAML, with ``1e-3`` a number.

    Parameters
    ----------
    text : str
        YAML.
    where : str
        What the error message calls it.

    Returns
    -------
    object

    Raises
    ------
    CovidxrError
        When it is not YAML.

    Examples
    --------
    >>> parse_yaml("1e-3", "-p rate"), parse_yaml("[1, b]", "-p sizes")
    (0.001, [1, 'b'])
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise CovidxrError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def read_profile(profile, notebooks: Path = NOTEBOOKS) -> tuple[str, dict]:
    """Find and read a profile.

    Parameters
    ----------
    profile : str or pathlib.Path
        A name in ``notebooks/profiles`` or the path of a YAML file.
    notebooks : pathlib.Path
        Folder of the notebooks.

    Returns
    -------
    tuple
        Its name, and its sections: ``{notebook: {parameter: value}}``.

    Raises
    ------
    CovidxrError
        When there is no such profile or it is not a mapping of mappings.

    Examples
    --------
    >>> read_profile("artcle")
    Traceback (most recent call last):
        ...
    covidxr.errors.CovidxrError: unknown profile 'artcle'; available: ...
    """
    known = {path.stem: path for path in sorted(Path(notebooks, "profiles").glob("*.yaml"))}
    path = known.get(str(profile), Path(profile))
    if not path.is_file():
        raise unknown("profile", str(profile), [*known, "the path of a YAML file"])
    sections = parse_yaml(path.read_text(encoding="utf-8"), f"profile {path}") or {}
    if not isinstance(sections, dict):
        raise CovidxrError(f"profile {path}: expected one section a notebook, found {type(sections).__name__}")
    for name, section in sections.items():
        if not isinstance(section, (dict, type(None))):
            raise CovidxrError(f"profile {path}: section {name} must hold 'parameter: value' lines, found {section!r}")
    return path.stem, {name: section or {} for name, section in sections.items()}
