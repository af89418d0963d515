"""Places with both kinds, never seen: a sign is found there, a shortcut is not, and the sentences follow."""

from __future__ import annotations

import numpy as np
from test_leave_out import films

from covidxr.never_seen import score_sentences, score_summary
from covidxr.places import care_sentences, film_places, unseen_place_scores

CELLS = [("COVID-19", "a", 80), ("Normal", "a", 40), ("Normal", "b", 80), ("COVID-19", "c", 40), ("Normal", "c", 40)]


def gathered(seed=0):
    """Source a is gathered from two hosts, of which only the first has both kinds."""
    rows, features = films(CELLS, seed=seed)
    second = (rows.source == "a") & (rows.label == "COVID-19") & (np.arange(len(rows)) % 2 == 0)
    hosts = np.select(
        [second, rows.source == "a"], ["https://two.org/x", "https://www.one.org/y"], "https://elsewhere.org"
    )
    return rows.assign(url=hosts), features


def test_a_place_is_a_host_where_a_source_has_several():
    rows, _ = gathered()
    assert sorted(set(film_places(rows))) == ["a, one.org", "a, two.org", "b", "c"]
    assert set(film_places(rows.assign(url=""))) == {"a", "b", "c"}
    assert set(film_places(rows.assign(url=None))) == {"a", "b", "c"}


def test_only_places_with_both_kinds_are_asked_about():
    rows, features = gathered()
    assert {name.partition(", in ")[2] for name in unseen_place_scores(features, rows)} == {"a, one.org", "c"}
    assert unseen_place_scores(features, rows.assign(label="COVID-19")) == {}


def test_a_sign_is_found_there_and_noise_is_not():
    rows, features = gathered()
    sign = score_summary(unseen_place_scores(features[:, [0]], rows))
    noise = score_summary(unseen_place_scores(np.random.default_rng(0).normal(size=(len(rows), 1)), rows))
    assert all(found["auc_interval"][0] > 0.8 for found in sign.values())
    assert all(abs(found["auc"] - 0.5) < 0.2 for found in noise.values())


def test_patients_of_the_place_are_not_fitted_on_elsewhere():
    rows, _ = gathered()
    place = film_places(rows) == "a, one.org"
    known = rows.assign(
        patient_id=np.where(rows.source == "a", np.arange(len(rows)) % 40, np.arange(len(rows))).astype(str)
    )
    shared = known.patient_id.where(known.source == "a").isin(known.patient_id[place])
    tell = np.where(shared & ~place, 5.0 * (rows.label == "COVID-19"), 0)[:, None] + np.zeros((len(rows), 1))
    scores = unseen_place_scores(tell, known)["without care, in a, one.org"]
    assert scores.score.nunique() == 1 and len(scores) == place.sum()


def test_the_sentences_follow_the_numbers():
    rows, features = gathered()
    curves = unseen_place_scores(features[:, [0]], rows)
    careful, plain = (f"{name}, in c" for name in ("with care", "without care"))
    same = care_sentences({plain: curves[plain], careful: curves[plain]})
    better = care_sentences({plain: curves[plain].assign(score=0.5), careful: curves[careful]})
    worse = care_sentences({plain: curves[plain], careful: curves[plain].assign(score=-curves[plain].score)})
    assert same == ["In c care for sources changes the area by +0.00 (+0.00 to +0.00): not told from no change."]
    assert better[0].endswith("a gain.") and worse[0].endswith("a loss.")
    assert "of 40 ill films found" in score_sentences(score_summary(curves))[0]
