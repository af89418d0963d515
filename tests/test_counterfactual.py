"""Counterfactuals on phantom hospitals: a cue that the network uses is found, and none where it uses none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from covidxr.audit.counterfactual import ALL_CUES, NO_LESIONS, planted_cues, planted_sentences
from covidxr.data.dataset import Dataset
from covidxr.data.hospitals import CUES
from covidxr.data.images import read_images
from covidxr.data.phantom import load_phantoms

CLASSES = ["Normal", "COVID-19"]


class Stub:
    """A network of two classes that sees one thing only: `measure` of the images."""

    def __init__(self, measure):
        self.measure = measure

    def predict_on_batch(self, x):
        return np.eye(2)[np.asarray(self.measure(x[..., 0]), dtype=int)]


def marker_on_the_right(x):
    """The letter of the hospitals of adults is in the upper right corner, and the brightest thing there."""
    return x[:, 4:16, 52:64].max((1, 2)) > x[:, 16:24, 2:10].max((1, 2)) + 0.1


@pytest.fixture(scope="module")
def confounded(tmp_path_factory):
    """Healthy children of one hospital, adults with COVID-19 of another."""
    parts = {"Normal": "childrens", "COVID-19": "city"}
    folder = tmp_path_factory.mktemp("phantoms")
    rows = [load_phantoms(folder, [label], per_class=24, hospital=name) for label, name in parts.items()]
    manifest = pd.concat(rows, ignore_index=True)
    return Dataset(manifest, np.stack(read_images(manifest.path, 64)))


PROBES = pd.DataFrame(
    {"value": [0.9, 0.5], "low": [0.8, 0.4], "high": [1.0, 0.6], "shortcut": [True, False]},
    index=["class from the corners", "class from the outer frame"],
)


def test_a_network_that_reads_the_marker_is_found_out(confounded):
    table = planted_cues(Stub(marker_on_the_right), confounded, PROBES)
    assert list(table.index) == [*CUES, ALL_CUES, NO_LESIONS]
    assert table.loc["marker", "conclusion"] == "found, used"
    assert table.loc["border", "found"] is False
    assert table.loc["sharpness", "found"] is None
    others = table.drop(["marker", "population", ALL_CUES])
    assert (others.changed < table.loc["marker", "changed"] / 2).all()
    assert table.loc[ALL_CUES, "low"] > 0.05
    assert "marker" in planted_sentences(table)[1]


def test_a_network_that_uses_nothing_uses_no_cue(confounded):
    table = planted_cues(Stub(lambda x: np.zeros(len(x))), confounded, PROBES)
    assert (table.changed == 0).all()
    assert not table.conclusion.str.endswith(", used").any()


def test_a_network_that_reads_disease_changes_with_the_lesions(confounded):
    lungs = confounded.lung_masks()

    def opacity(x):
        return x.reshape(len(x), -1).mean(1) > 2  # never

    assert planted_cues(Stub(opacity), confounded, PROBES).loc[NO_LESIONS, "n"] == 24
    assert lungs.any()


def test_nothing_is_planted_where_each_hospital_sends_every_class(tmp_path):
    manifest = load_phantoms(tmp_path, CLASSES, per_class=2, size=64, hospital="city")
    dataset = Dataset(manifest, np.stack(read_images(manifest.path, 64)))
    assert planted_cues(Stub(marker_on_the_right), dataset, PROBES).empty
    assert planted_sentences(pd.DataFrame()) == []
