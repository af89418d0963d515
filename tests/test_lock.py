"""requirements.lock, pyproject.toml and environment.yml say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def pins():
    lines = re.findall(r"^([A-Za-z0-9][^ \n]*==[^\n\\]*)", LOCK, re.MULTILINE)
    return [Requirement(line.strip()) for line in lines]


def wanted():
    strings = re.findall(r'^\s+"([A-Za-z][^"]*)",', PROJECT.split("[project.optional-dependencies]")[0], re.MULTILINE)
    dev = re.search(r"^dev = \[(.*)\]", PROJECT, re.MULTILINE)[1]
    return [Requirement(text) for text in [*strings, *re.findall(r'"([^"]+)"', dev)] if "::" not in text]


def test_every_pin_has_a_hash():
    blocks = re.split(r"\n(?=[A-Za-z0-9])", LOCK)
    assert all("--hash=sha256:" in block for block in blocks if "==" in block.splitlines()[0])


@pytest.mark.parametrize("requirement", wanted(), ids=lambda requirement: requirement.name)
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_lock_meets_the_project_on_every_python(requirement, python):
    environment = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    name = canonicalize_name(requirement.name)
    here = [p for p in pins() if canonicalize_name(p.name) == name and (not p.marker or p.marker.evaluate(environment))]
    assert len(here) == 1
    assert requirement.specifier.contains(str(here[0].specifier).removeprefix("=="))


def test_the_second_opencv_stays_away():
    opencv = next(pin for pin in pins() if pin.name == "opencv-python")
    assert not opencv.marker.evaluate({"sys_platform": "linux"}) and not opencv.marker.evaluate(
        {"sys_platform": "darwin"}
    )


def test_without_the_lock_the_headless_opencv_comes_last():
    """pip installs what is alike in depth by name, from the end of the alphabet; of one module the last build stays."""
    headless = next(requirement.name for requirement in wanted() if "opencv" in requirement.name)
    assert headless.endswith("headless") and headless < "opencv-python"


def test_conda_takes_the_very_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python = next(line for line in environment["dependencies"] if str(line).startswith("python="))
    assert python.removeprefix("python=") in {"3.10", "3.11", "3.12", "3.13"}
    assert {"pip": ["-r requirements.lock"]} in environment["dependencies"]


def test_no_index_is_named():
    for name in ("requirements.lock", "pyproject.toml", "environment.yml", "Makefile"):
        assert "index-url" not in (ROOT / name).read_text(encoding="utf-8").replace("--no-emit-index-url", "")
