"""Where OpenCV cannot be loaded, the error says what to do."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "covidxr"


@pytest.mark.parametrize("missing", ["cv2", "libGL.so.1"])
def test_a_machine_without_a_screen_is_told_the_remedy(monkeypatch, tmp_path, missing):
    broken = 'raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")'
    (tmp_path / "cv2.py").write_text(broken, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    if missing == "cv2":
        monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "covidxr._opencv", raising=False)
    with pytest.raises(ImportError, match=rf"{re.escape(missing)}.*pip install 'opencv-contrib-python-headless<5'"):
        importlib.import_module("covidxr._opencv")


def test_nobody_imports_opencv_without_the_remedy():
    bare = [path.name for path in PACKAGE.rglob("*.py") if re.search(r"^import cv2", path.read_text("utf-8"), re.M)]
    assert bare == [], "from covidxr._opencv import cv2"
