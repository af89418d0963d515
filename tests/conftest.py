"""What several test files share: the real radiographs, where they lie beside the checkout, and small images to plant."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

SHARED = Path(__file__).parents[2] / "shared"


def pytest_runtest_setup(item):
    """Skip what needs real radiographs where there are none."""
    if item.get_closest_marker("realdata") and not (SHARED / "data").exists():
        pytest.skip("no real radiographs here")


@pytest.fixture(autouse=True)
def closed_figures():
    """Open figures are global: which files ran before in this process is no test's business."""
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture
def shared():
    """Folder with real data, for tests marked ``realdata``."""
    return SHARED


@pytest.fixture
def image():
    """Write a small grey image of noise, its seed telling it from others, and return its path."""

    def write(path, seed=0, size=16):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)).save(path)
        return path

    return write
