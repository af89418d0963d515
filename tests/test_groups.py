"""Cells weigh alike, the worst group is found, and a training that goes by both serves the group that others drown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from covidxr.errors import CovidxrError
from covidxr.evaluate import predict
from covidxr.groups import Balance, balance_sources, cell_weights, worst_group
from covidxr.model import build_baseline
from covidxr.train import Films, fit


def test_cells_of_a_class_count_alike():
    labels, sources = ["x"] * 90 + ["x"] * 10 + ["y"] * 50, ["a"] * 90 + ["b"] * 10 + ["a"] * 50
    weights = cell_weights(labels, sources)
    assert weights.mean() == pytest.approx(1)
    assert weights[:90].sum() == pytest.approx(weights[90:100].sum())
    assert weights[:100].sum() == pytest.approx(weights[100:].sum())


def test_balance_takes_the_rows_of_its_splits():
    rows = pd.DataFrame({
        "label": ["x", "x", "x", "y", "x", "y"], "source": list("aabaab"),
        "split": ["train"] * 4 + ["validation", "test"],
    })  # fmt: skip
    balance = balance_sources(rows)
    assert balance.groups.tolist() == ["a"]
    np.testing.assert_allclose(balance.weights, cell_weights(rows.label[:4], rows.source[:4]))


def test_the_worst_group_is_not_the_one_with_most_mistakes():
    right = np.array([0.4] * 10 + [0.9] * 8 + [0.01])
    groups = ["large"] * 10 + ["small"] * 9
    assert worst_group(np.c_[right, 1 - right], np.zeros(19, int), groups)[0] == "large"
    assert worst_group(np.c_[right, 1 - right], np.zeros(19, int), ["a"] * 18 + ["b"]) == (
        "b",
        pytest.approx(-np.log(0.01)),
    )
    assert np.isfinite(worst_group(np.array([[0.0, 1.0]]), np.array([0]), ["a"])[1])
    with pytest.raises(CovidxrError, match="2 films, but 2 answers and 1 groups"):
        worst_group(np.ones((2, 2)), np.zeros(2, int), ["a"])


def drowned(n, rng, rare):
    """Two places: in the common one a bright left tells the class, in the rare one a bright top does, and the left misleads."""
    place, label = (np.arange(n) % 20 < 20 * rare).astype(int), np.arange(n) // 20 % 2
    films = rng.integers(0, 100, (n, 9, 9), np.uint8)
    for film, here, ill in zip(films, place, label, strict=True):
        film[:, :4] += np.uint8(40 * (ill ^ here))
        film[:3] += np.uint8(100 * ill * here)
    return Films(films, label), np.array(["common", "rare"])[place]


def fitted(balance, folder, epochs=12):
    rng = np.random.default_rng(0)
    (train, places), (held_out, held_places) = drowned(400, rng, 0.05), drowned(200, rng, 0.2)
    chosen = Balance(cell_weights(train.labels, places), held_places) if balance else None
    model = build_baseline(9, 2, dropout=0.0)
    history = fit(model, train, held_out, 2, folder, epochs=epochs, learning_rate=1e-2, policy="none", balance=chosen)
    losses = {name: worst_group(predict(model, held_out.images)[rows], held_out.labels[rows], held_places[rows])[1]
              for name in ("common", "rare") for rows in [held_places == name]}  # fmt: skip
    return history, losses


def test_balanced_draws_and_the_worst_source_serve_the_rare_place(tmp_path):
    plain, losses = fitted(False, tmp_path / "plain")
    history, balanced = fitted(True, tmp_path / "balanced")
    assert losses["rare"] > 2 * losses["common"] and balanced["rare"] < 0.7 * losses["rare"]
    # The kept epoch is the worst source's best.
    assert history.val_loss.min() == pytest.approx(max(balanced.values()), rel=1e-4)
    assert (history.val_loss >= history.val_loss_of_all - 1e-6).all() and set(history.worst_source) <= {
        "common",
        "rare",
    }
    assert "worst_source" not in plain
