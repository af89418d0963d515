"""A wheel built from this checkout, installed elsewhere, run in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

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
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    run(*pip, "--wheel-dir", target, source, cwd=target)
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
        if path.suffix in (".py", ".csv", ".j2")
    ]
    notebooks = [path for pattern in ("*.ipynb", "profiles/*.yaml") for path in (ROOT / "notebooks").glob(pattern)]
    wanted += ["covidxr/_notebooks/" + path.relative_to(ROOT / "notebooks").as_posix() for path in notebooks]
    assert len(notebooks) == 12 and set(wanted) <= names
    assert not [name for name in names if name.startswith(("tests/", "notebooks/"))]


def test_a_demo_begins_in_an_empty_folder(python, tmp_path):
    tiny = ["-p", "per_class", 16, "-p", "image_size", 32]
    said = run(python, "-m", "covidxr.run", "demo", "--only", "01", *tiny, cwd=tmp_path)
    assert "01_dataset_assembly" in said and str(Path("runs", "demo", "index.html")) in said
    assert {"manifest.csv", "index.html", "run.json"} <= {path.name for path in (tmp_path / "runs" / "demo").iterdir()}
    where = run(python, "-c", "import covidxr; print(covidxr.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])


def test_the_commands_help_themselves(python, tmp_path):
    assert "article, demo, honest" in run(python, "-m", "covidxr.run", "--help", cwd=tmp_path)
    assert "usage" in run(python, "-m", "covidxr.data", "--help", cwd=tmp_path)
