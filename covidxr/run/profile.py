"""Profiles: YAML files with the parameters of a run, one section a notebook."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import yaml

import covidxr
from covidxr.utils import CovidxrError, unknown

_INSTALLED = Path(covidxr.__file__).parent / "_notebooks"  # where a wheel has the notebooks

NOTEBOOKS = _INSTALLED if _INSTALLED.is_dir() else Path(covidxr.__file__).parent.parent / "notebooks"


_MOST_BYTES = 100_000  # of a profile; the parser takes about a second for so many


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number, and names given twice and aliases are errors."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):  # a few lines of them can expand to gigabytes, or to themselves
            alias = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"aliases (*{alias.anchor}) are not read, write the value out", problem_mark=alias.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        names = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise yaml.MarkedYAMLError(problem=f"{twice[0][1]!r} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, where: str):
    """Parse YAML, with ``1e-3`` a number."""
    if len(text) > _MOST_BYTES:
        raise CovidxrError(f"{where} has {len(text):,} characters; the limit is {_MOST_BYTES:,}")
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise CovidxrError(f"{where} is not valid YAML: too many nested brackets") from None
    except Exception as error:  # PyYAML lets through what its constructors of dates and numbers raise
        raise CovidxrError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def read_profile(profile, notebooks: Path = NOTEBOOKS) -> tuple[str, dict]:
    """Find and read a profile."""
    known = {path.stem: path for path in sorted(Path(notebooks, "profiles").glob("*.yaml"))}
    path = known.get(str(profile), Path(profile))
    if not path.is_file():
        raise unknown("profile", str(profile), [*known, "the path of a YAML file"])
    sections = parse_yaml(_text_of(path), f"profile {path}") or {}
    if not isinstance(sections, dict):
        raise CovidxrError(f"profile {path}: expected one section a notebook, found {type(sections).__name__}")
    for name, section in sections.items():
        if not isinstance(section, (dict, type(None))):
            raise CovidxrError(f"profile {path}: section {name} must hold 'parameter: value' lines, found {section!r}")
    return path.stem, {name: section or {} for name, section in sections.items()}


def _text_of(path):
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read(_MOST_BYTES + 1)
    except UnicodeDecodeError as error:
        raise CovidxrError(f"profile {path} is not text in UTF-8; save it in that encoding") from error
    except OSError as error:
        raise CovidxrError(f"profile {path} cannot be read ({error.strerror})") from error
