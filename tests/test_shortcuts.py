"""Ground truth for the audit: shortcuts planted in phantoms, none of them, and each at half and at full strength."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_limits

from covidxr import audit
from covidxr.dataset import assemble, load_pixels
from covidxr.sources import SOURCES

PER_CLASS = 60
MADE_FOR = {
    "marker": "the corners", "exposure": "the grey histogram", "body_size": "8×8 pixels", "border": "the outer frame",
}  # fmt: skip


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """The report on phantoms with a shortcut planted so strongly; each is drawn once."""
    folder, known = tmp_path_factory.mktemp("phantoms"), {}

    def look(name, strength, masks=True):
        shortcut = {name: strength} if strength else {}
        key = (*shortcut.items(), masks)
        if key not in known:
            rows = SOURCES["phantom"](folder, per_class=PER_CLASS, size=64, shortcut=shortcut)
            rows = rows if masks else rows.assign(lung_mask="")
            with threadpool_limits(1):  # small matrices are read faster by one thread than by many that wait
                known[key] = audit.shortcut_audit(rows, load_pixels(rows, 64))
        return known[key]

    return look


def test_where_nothing_is_planted_every_probe_says_so(audited):
    report = audited("", 0)
    assert report.ranked().empty
    assert report.sentences()[-1].startswith(
        "No reader without lungs is shown to tell the class of these 180 images, but "
    )
    assert report.in_short()[0].startswith(f"0 of {len(report.table)} probes found a shortcut; ")
    readers = report.table[report.table.index.str.startswith("class from")]
    assert len(readers) == 8 and set(readers.verdict) <= {"not told from chance", "no better than chance"}
    told = report.table[report.table.index.str.endswith("from 8×8 pixels")].verdict
    assert all(said == "not told from chance" or said.endswith("which does not go with the class") for said in told)


@pytest.mark.parametrize("name", MADE_FOR)
def test_what_is_planted_is_found_by_the_probe_made_for_it_and_ranked_by_its_strength(name, audited):
    probe = f"class from {MADE_FOR[name]}, lungs painted out"
    none, half, full = (audited(name, strength).table.loc[probe] for strength in (0, 0.5, 1))
    assert full.verdict == "tells the class" and full.shortcut and full.value > 0.8
    assert none.high < full.low and half.verdict != "tells the class"
    assert none.value < half.value < full.value and half.value > half.chance + 0.08
    by_value = audited(name, 0.5).table.value.filter(like="lungs painted out").sort_values(ascending=False)
    assert probe in by_value.index[:3]
    assert probe in audited(name, 1.0).ranked().index[:3]


def test_without_masks_disease_that_shows_is_not_called_a_shortcut_until_the_frame_tells_as_well(audited):
    none, marked = (audited("marker", strength, masks=False).table for strength in (0, 1.0))
    assert not none.shortcut.any()
    shrunk = none.loc["class from 8×8 pixels"]
    assert shrunk.low > shrunk.chance and shrunk.verdict == "above chance, as disease alone can be"
    assert shrunk.missed_ideal
    assert marked.verdict["class from the corners"] == marked.verdict["class from 8×8 pixels"] == "tells the class"


@pytest.mark.realdata
def test_the_article_s_selection_shows_source_and_age_confounded_with_the_class(shared):
    chosen = assemble(["covid-chestxray", "kaggle-chest-xray"], shared / "data", per_class=179, image_size=64)
    with threadpool_limits(1):
        table = audit.shortcut_audit(chosen.manifest, chosen.pixels).table
    for probe in ("source", "age group"):
        assert table.shortcut[f"{probe} from 8×8 pixels"], table.value
    for probe in ("the source's name alone", "the age group alone"):
        assert table.verdict[f"class from {probe}"] == "confounded with the class"
    assert table.value["source from 8×8 pixels"] > 0.9 and table.value["class from 4×4 pixels"] > 0.8
    # Two classes share a source.
    assert table.value["class from the source's name alone"] == pytest.approx(2 / 3, abs=0.03)
