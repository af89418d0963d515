"""A wheel built from this checkout, installed and run in an empty folder; the lock, and the Makefile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def run(*command, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))  # nbconvert's templates are no modules
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without a network from a copy, since setuptools writes beside its sources."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("covidxr", "notebooks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", target]
    run(sys.executable, "-m", "pip", "wheel", *options, source, cwd=target)
    return next(target.glob("covidxr-*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python that has the wheel and sees the other packages of this one, though not this checkout."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    installed = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(run(installed, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Folders named in a .pth are searched, but the .pth files in them, such as an editable install's, are not read
    (site / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return installed


def test_the_wheel_holds_what_a_run_reads(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "covidxr").rglob("*")
        if path.suffix in (".py", ".csv", ".j2", ".npz", ".typed")
    ]
    notebooks = [path for pattern in ("*.ipynb", "profiles/*.yaml") for path in (ROOT / "notebooks").glob(pattern)]
    wanted += ["covidxr/_notebooks/" + path.relative_to(ROOT / "notebooks").as_posix() for path in notebooks]
    assert len(notebooks) == 14 and set(wanted) <= names
    assert not [name for name in names if name.startswith(("tests/", "notebooks/"))]


def test_a_demo_begins_in_an_empty_folder(python, tmp_path):
    tiny = ["-p", "per_class", 16, "-p", "image_size", 32]
    said = run(python, "-m", "covidxr.run", "demo", "--only", "01", *tiny, cwd=tmp_path)
    assert "01_dataset_assembly" in said and str(Path("runs", "demo", "index.html")) in said
    assert {"manifest.csv", "index.html", "run.json"} <= {path.name for path in (tmp_path / "runs" / "demo").iterdir()}
    where = run(python, "-c", "import covidxr; print(covidxr.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])


def test_the_command_shows_the_installed_profiles(python, tmp_path):
    assert "ablation, article, clean, demo" in run(python, "-m", "covidxr.run", "--help", cwd=tmp_path)


def test_the_wheel_brings_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "covidxr = covidxr.run.cli:main" in archive.read(entry_points).decode()


# The lock and the Makefile

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


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(("target", "removed"), [("clean", False), ("clean-runs", True)])
def test_cleaning_leaves_the_runs_alone_unless_asked(target, removed):
    command = subprocess.run(["make", "-n", target], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert (" runs" in command) == removed
