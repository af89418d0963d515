"""The ablation's figure: a line a cell from the top, the differing marked, both sides of zero alike."""

from __future__ import annotations

import numpy as np
import pandas as pd

from covidxr.ablationplots import ablation_figure


def test_cells_from_the_top_differences_marked_and_zero_in_the_middle():
    summary = pd.DataFrame(
        {
            "value": [0.9, 0.5, 0.88], "low": [0.85, 0.4, 0.8], "high": [0.95, 0.6, 0.95], "chance": [0.33] * 3,
            "difference": [0, -0.4, -0.02], "difference_low": [-0.1, -0.5, -0.1], "difference_high": [0.1, -0.3, 0.06],
            "verdict": ["", "differs", "cannot be told apart"],
        },
        index=["reference", "random start", "without gamma"],
    )  # fmt: skip
    right = ablation_figure(summary)
    left = right.figure.axes[0]
    assert [label.get_text() for label in left.get_yticklabels()] == list(summary.index)
    assert left.yaxis_inverted() and right.yaxis_inverted()
    low, high = right.get_xlim()
    assert low == -high and high > 0.5
    marked = next(c for c in right.collections if c.get_label() == "differs").get_offsets()
    np.testing.assert_allclose(marked, [[-0.4, 1]])
    assert [text.get_text() for text in right.figure.legends[0].get_texts()] == [
        "chance",
        "value, 95 % interval",
        "differs",
    ]
