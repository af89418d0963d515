"""The early network has a grid of early features, and a softmax that its reader fills in."""

from __future__ import annotations

import numpy as np
import pytest

from covidxr.early import build_early, fit_softmax, refitted
from covidxr.errors import CovidxrError
from covidxr.evaluate import predict
from covidxr.model import build_vgg16
from covidxr.probe import features
from covidxr.reader import fit_reader
from covidxr.sources._rows import manifest_rows


def planted(n, seed=0):
    """Striped films: upright stripes in ill ones; a bright corner in those of source a, where most are ill."""
    rng = np.random.default_rng(seed)
    ill, here = rng.random(n) < 0.5, rng.random(n) < 0.5
    stripes = np.where(np.arange(32) // 4 % 2, 190, 60)
    images = np.where(ill[:, None, None], stripes[None, None, :], stripes[None, :, None]) + rng.normal(
        0, 15, (n, 32, 32)
    )
    labels = np.where(ill, "COVID-19", "Normal")
    rows = manifest_rows(
        {"image_id": i, "patient_id": i, "label": label, "source": "ab"[int(place)]}
        for i, (label, place) in enumerate(zip(labels, here, strict=True))
    )
    return images.clip(0, 255).astype(np.uint8), rows


def test_it_shares_the_first_three_blocks_and_trains_only_its_softmax():
    early, whole = build_early(64, seed=1), build_vgg16(64, seed=1)
    names = [layer.name for layer in early.layers]
    assert names[-4:] == ["block3_pool", "grid", "flatten", "dense"] and early.get_layer("grid").output.shape[1:3] == (
        4,
        4,
    )
    assert [weight.path for weight in early.trainable_weights] == ["dense/kernel", "dense/bias"]
    for name in ("block1_conv1", "block3_conv3"):
        assert (early.get_layer(name).get_weights()[0] == whole.get_layer(name).get_weights()[0]).all()


def test_the_network_says_what_its_reader_says():
    images, rows = planted(80)
    model, classes = build_early(32, 2), ["Normal", "COVID-19"]
    fit_softmax(model, images, rows, classes)
    x = features(model, images)
    reader = fit_reader(x, rows.label, rows.source, ("b/" + rows.patient_id).to_numpy(dtype=str))
    stated = predict(model, images)
    assert reader.classes == ["COVID-19", "Normal"]
    assert np.corrcoef(stated[:, 1], reader.probabilities(x)[:, 0])[0, 1] > 0.99
    new_images, new_rows = planted(40, seed=1)
    assert (np.take(classes, predict(model, new_images).argmax(1)) == new_rows.label).mean() > 0.9


def test_fitted_again_it_is_as_if_fitted_on_those_films_first_and_the_old_one_stays():
    images, rows = planted(80)
    classes, few = ["Normal", "COVID-19"], np.arange(80) < 20
    model, whole = build_early(32, 2), build_early(32, 2)
    fit_softmax(model, images[few], rows[few], classes)
    fit_softmax(whole, images, rows, classes)
    old, new, wanted = (
        one.get_layer("dense").get_weights()[0] for one in (model, refitted(model, images, rows, classes), whole)
    )
    assert np.allclose(new, wanted, rtol=1e-3, atol=1e-6) and not np.allclose(old, wanted, rtol=0.1)
    assert (model.get_layer("dense").get_weights()[0] == old).all()


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(CovidxrError, match="multiple of 32 pixels a side, not 100"):
        build_early(100)
