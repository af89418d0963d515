"""Counterfactuals on phantom hospitals: a cue that the network uses is found, and none where it uses none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from covidxr.audit.counterfactual import ALL_CUES, NO_LESIONS, planted_cues, planted_records, planted_sentences
from covidxr.data.dataset import Dataset
from covidxr.data.hospitals import CUES, HOSPITALS, Border, Habit, Hospital, Marker
from covidxr.data.images import preprocess, read_images, scaled
from covidxr.data.phantom import load_phantoms, redraw

CLASSES = ["Normal", "COVID-19"]
NO_BORDER = Border(0.0, 0.0, 0.0)


class Stub:
    """A network of two classes that sees one thing only: `measure` of the images."""

    def __init__(self, measure):
        self.measure = measure

    def predict_on_batch(self, x):
        return np.eye(2)[np.asarray(self.measure(x[..., 0]), dtype=int)]


def bright_corner(x):
    """Whether the marker of the hospital `marked` is there: nothing else is white so far up."""
    return x[:, 2:12, 2:12].max((1, 2)) > 0.88


@pytest.fixture(scope="module")
def confounded(tmp_path_factory):
    """Two hospitals that differ in their marker alone; one sends the healthy, the other the sick."""
    folder, patch = tmp_path_factory.mktemp("phantoms"), pytest.MonkeyPatch()
    for name, share in {"plain": 0.0, "marked": 1.0}.items():
        marker = Marker("R", 0.12, 0.1, 0.1, share)
        patch.setitem(
            HOSPITALS, name, Hospital(name, "Adults.", exposure=Habit(0.0, 0.1), marker=marker, border=NO_BORDER)
        )
    parts = {"Normal": "plain", "COVID-19": "marked"}
    rows = [load_phantoms(folder, [label], per_class=12, hospital=name) for label, name in parts.items()]
    manifest = pd.concat(rows, ignore_index=True)
    yield Dataset(manifest, np.stack(read_images(manifest.path, 64)))
    patch.undo()


PROBES = pd.DataFrame(
    {"value": [0.9, 0.5], "low": [0.8, 0.4], "high": [1.0, 0.6], "shortcut": [True, False]},
    index=["class from the corners", "class from the border"],
)


def test_a_network_that_reads_the_marker_is_found_out(confounded):
    table = planted_cues(Stub(bright_corner), confounded, PROBES)
    assert list(table.index) == [*CUES, ALL_CUES, NO_LESIONS]
    assert table.changed.drop(["marker", ALL_CUES]).max() == 0
    assert table.changed[["marker", ALL_CUES]].min() > 0.9
    assert table.loc["marker", "conclusion"] == "found, used"
    assert table.loc["border", "conclusion"] == "not found, not shown to be used"
    assert table.loc["sharpness", "found"] is None
    assert "uses marker:" in planted_sentences(table)[1]
    assert planted_records(table)["marker"]["found"] is True
    assert planted_records(table)["marker"]["planted"] == "marked: R on 100%; plain: R on 0%"


def test_a_network_that_uses_nothing_uses_no_cue(confounded):
    table = planted_cues(Stub(lambda x: np.zeros(len(x))), confounded, PROBES)
    assert (table.changed == 0).all()
    assert not table.conclusion.str.endswith(", used").any()


def test_a_network_that_reads_disease_changes_with_the_lesions_alone(confounded):
    without = preprocess(np.stack([scaled(image, 64) for image in redraw(confounded.manifest, severity=0)]))[..., 0]

    def diseased(x):
        middle = np.s_[:, 16:56, 8:56]
        return [np.abs(one - without[middle]).mean((1, 2)).min() > 0.01 for one in x[middle]]

    table = planted_cues(Stub(diseased), confounded, PROBES)
    assert table.changed[NO_LESIONS] > 0.5
    assert table.n[NO_LESIONS] == 12
    assert table.changed.drop(NO_LESIONS).max() < 0.2


def test_nothing_is_planted_where_each_hospital_sends_every_class(tmp_path):
    manifest = load_phantoms(tmp_path, CLASSES, per_class=2, size=64, hospital="city")
    dataset = Dataset(manifest, np.stack(read_images(manifest.path, 64)))
    assert planted_cues(Stub(bright_corner), dataset, PROBES).empty
    assert planted_sentences(pd.DataFrame()) == []
