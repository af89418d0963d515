"""Cells weigh alike."""

from __future__ import annotations

import pytest

from covidxr.groups import cell_weights


def test_cells_of_a_class_count_alike():
    labels, sources = ["x"] * 90 + ["x"] * 10 + ["y"] * 50, ["a"] * 90 + ["b"] * 10 + ["a"] * 50
    weights = cell_weights(labels, sources)
    assert weights.mean() == pytest.approx(1)
    assert weights[:90].sum() == pytest.approx(weights[90:100].sum())
    assert weights[:100].sum() == pytest.approx(weights[100:].sum())
