"""Held-out groups expose a shortcut that does not generalise, and not a real sign."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from planted import noise
from sklearn.base import clone

from covidxr.audit.generalization import (
    ERM,
    LDA,
    METHODS,
    HeldOutGroups,
    Variant,
    acquisition_sites,
    auc_changes,
    change_sentences,
    compare_mitigations,
    comparison_run_predictions,
    folds_within_source,
    held_out_metrics,
    held_out_predictions,
    hold_out_jointly,
    joint_groups,
    leave_one_site_out,
    leave_one_source_out,
    mitigation_sentences,
    mitigation_variants,
    sites_with_both_classes,
    split_by_comparison,
)
from covidxr.audit.probes import AuditData, grouped_predictions, memorisation
from covidxr.data.manifest import manifest_rows
from covidxr.evaluation.linear_probe import LogisticProbe, SourceBalancedLDA
from covidxr.utils import CovidxrError


def sample_images(cells, seed=0):
    """Rows of (label, source, count), and two features: a weak true sign of COVID-19, and the source's own grey."""
    rng = np.random.default_rng(seed)
    kinds = [(label, source) for label, source, count in cells for _ in range(count)]
    rows = manifest_rows(
        {"image_id": i, "patient_id": i, "label": label, "source": source} for i, (label, source) in enumerate(kinds)
    )
    positive = (rows.label == "COVID-19").to_numpy()
    grey = rows.source.map({"a": 3.0, "b": -3.0, "c": -3.0, "d": 3.0}).to_numpy()
    return rows, np.c_[positive + rng.normal(0, 0.25, len(rows)), grey + rng.normal(0, 0.1, len(rows))]


def random_features(rows):
    return np.random.default_rng(0).normal(size=(len(rows), 1))


CONFOUNDED = [("COVID-19", "a", 80), ("Normal", "b", 80), ("COVID-19", "c", 30), ("Normal", "d", 30)]


def test_a_held_out_source_exposes_the_shortcut_and_spares_the_sign():
    rows, features = sample_images(CONFOUNDED)
    shortcut, sign = (leave_one_source_out(features[:, [column]], rows).table for column in (1, 0))
    assert shortcut.loc["d", "specificity"] < 0.1 and shortcut.loc["d", "specificity_high"] < 0.3
    assert sign.loc["d", "specificity"] > 0.9 and sign.loc["c", "sensitivity"] > 0.7
    assert shortcut.loc["c"].n_positive == 30 and np.isnan(shortcut.loc["c", "specificity"])


def test_the_splitter_holds_groups_out_with_their_patients_and_duplicates():
    rows = manifest_rows({"image_id": i, "patient_id": i, "source": "aabb"[i % 4]} for i in range(24))
    rows = rows.assign(patient_id=rows.patient_id.where(rows.index != 4, "0"), duplicate_group="")
    rows.loc[[8, 2], "duplicate_group"] = "same picture"
    y, groups = np.arange(24) % 2 == 0, np.where(np.isin(np.arange(24), [0, 8]), "g", "")
    splitter = HeldOutGroups(rows)
    [(train, test)] = splitter.split(None, y, groups)
    assert test.tolist() == [0, 8] and set(range(24)) - {*train, *test} == {2, 4}
    assert splitter.get_n_splits(None, y, rows.source) == 2 and splitter.get_n_splits(None, y > 2, groups) == 0
    assert splitter.get_n_splits(None, y, np.full(24, "")) == 0


def correct(predictions):
    return predictions.predicted == predictions.positive


def test_copies_in_another_source_do_not_give_an_image_away():
    rows, _ = sample_images([("COVID-19", "a", 30), ("Normal", "a", 30), ("COVID-19", "b", 30), ("Normal", "b", 30)])
    unique = np.random.default_rng(0).normal(size=(60, 400))  # nothing but what identifies one image among all others
    features, copied = (
        np.concatenate([unique, unique]),
        rows.assign(duplicate_group=np.tile(np.arange(60).astype(str), 2)),
    )

    def predictions(manifest):
        groups = joint_groups(manifest, ["b"])
        return held_out_predictions(features, manifest, groups, methods={LDA: SourceBalancedLDA()})

    assert correct(predictions(rows)).mean() > 0.95
    assert len(predictions(copied)) == 0  # without the copies, nothing is left for training
    half = copied.assign(duplicate_group=copied.duplicate_group.where(copied.duplicate_group.astype(int) % 2 == 0, ""))
    found = predictions(half)
    duplicate = half.duplicate_group[found.index] != ""
    assert correct(found)[~duplicate].mean() > 0.95 and correct(found)[duplicate].mean() < 0.75


def test_the_auc_is_within_one_source_with_its_interval():
    rows, features = sample_images([*CONFOUNDED, ("Normal", "c", 30)])
    found = leave_one_source_out(features[:, :1], rows).table.loc["c"]
    assert found.auc > 0.9 and found.auc_low <= found.auc <= found.auc_high <= 1
    by_chance = leave_one_source_out(random_features(rows), rows, estimator=LogisticProbe()).table.loc["c"]
    assert by_chance.auc_low < 0.5 < by_chance.auc_high


def test_sentences_follow_from_the_numbers():
    rows, features = sample_images(CONFOUNDED)
    shortcut, sign = (leave_one_source_out(features[:, [column]], rows).sentences() for column in (1, 0))
    assert shortcut != sign and len(sign) == 4
    assert any(
        s.startswith("d: specificity 0.0") and s.endswith("; 0 positive and 30 negative images.") for s in shortcut
    )
    assert any(s.startswith(("d: specificity 0.9", "d: specificity 1.0")) for s in sign)


def test_what_cannot_be_held_out_is_named():
    rows, features = sample_images([("COVID-19", "a", 5), ("Normal", "b", 5)])
    report = leave_one_source_out(features, rows)
    assert not report and report.table.empty and report.to_dict() == {}
    assert report.sentences() == [report.reason] and report.reason.startswith("No source can be held out: fewer than")
    assert not leave_one_source_out(None, rows) and "no features.npz" in leave_one_site_out(None, rows).reason
    assert "No sources are named" in hold_out_jointly(features, rows, []).reason
    assert leave_one_source_out(features, rows, positive=None).table.empty
    with pytest.raises(CovidxrError, match="9 rows of features for 10"):
        leave_one_source_out(features[:9], rows)
    rows, features = sample_images([("COVID-19", "a", 20), ("Normal", "a", 20), ("COVID-19", "b", 20)])
    found = leave_one_source_out(features, rows).table
    assert found.index.tolist() == ["b"]
    assert (
        leave_one_source_out(features, rows).sentences()[1].startswith("a cannot be held out: fewer than two patients")
    )


CELLS = [("COVID-19", "a", 80), ("Normal", "a", 40), ("Normal", "b", 80), ("COVID-19", "c", 40), ("Normal", "d", 60)]


def joint_predictions(features, rows, sources=("c", "d")):
    return split_by_comparison(held_out_predictions(features, rows, joint_groups(rows, sources)))


def joint_metrics(features, rows):
    return held_out_metrics(joint_predictions(features, rows))


def test_sources_held_out_jointly_have_no_part_in_each_others_training():
    rows, features = sample_images([*CONFOUNDED, ("Normal", "c", 30)])
    changed = features.copy()
    changed[(rows.source == "d").to_numpy()] = 1e3
    one, other = (held_out_predictions(x, rows, joint_groups(rows, ["c", "d"])) for x in (features, changed))
    assert set(one.source) == {"c", "d"} and set(one.method) == {ERM, LDA}
    assert np.allclose(one.score[one.source == "c"], other.score[other.source == "c"])


def test_a_sign_generalises_and_a_shortcut_does_not():
    rows, features = sample_images(CELLS)
    sign, shortcut = (joint_metrics(features[:, [column]], rows) for column in (0, 1))
    careful = sign.loc[("COVID-19 vs. Normal", LDA)]
    assert careful.auc_low > 0.9 and (careful.n_positive, careful.n_negative) == (40, 60)
    assert shortcut.loc[("COVID-19 vs. Normal", ERM), "auc"] < 0.1  # c looks like b, where all are negative


def test_mitigation_helps_where_both_sign_and_shortcut_are_present():
    rows, features = sample_images(CELLS, seed=2)
    auc = joint_metrics(features, rows).auc["COVID-19 vs. Normal"]
    assert auc[LDA] > auc[ERM] + 0.1
    [change] = auc_changes(joint_predictions(features, rows)).itertuples()
    assert change.change == pytest.approx(auc[LDA] - auc[ERM]) and change.change_low > 0


def test_each_other_label_is_a_comparison_of_its_own():
    rows, features = sample_images([*CELLS, ("Pneumonia", "d", 20)])
    counts = joint_metrics(features[:, [0]], rows).xs(LDA, level="method").n_negative
    assert counts.to_dict() == {"COVID-19 vs. Normal": 60, "COVID-19 vs. Pneumonia": 20}


def test_sources_that_cannot_be_held_out_jointly():
    rows, features = sample_images(CELLS)
    with pytest.raises(CovidxrError, match="unknown source to hold out 'e'; available: a, b, c, d"):
        joint_groups(rows, ["e"])
    assert joint_predictions(features, rows, ["a", "c"]).empty
    assert held_out_metrics(joint_predictions(features, rows, ["a", "c"])).empty


def test_another_runs_scores_are_those_of_its_predictions(tmp_path):
    pd.DataFrame({
        "source": ["c", "d", "d", "inside"], "patient_id": ["1", "2", "3", "4"], "label": ["COVID-19", "Normal", "Normal", "Normal"],
        "predicted": ["COVID-19", "COVID-19", "Normal", "Normal"], "p_COVID-19": [0.9, 0.95, 0.1, 0.0],
    }).to_csv(tmp_path / "external_predictions.csv", index=False)  # fmt: skip
    found = held_out_metrics(split_by_comparison(comparison_run_predictions(tmp_path, ["c", "d"])))
    found = found.loc[("COVID-19 vs. Normal", tmp_path.name)]
    assert (found.auc, found.sensitivity, found.specificity) == (0.5, 1.0, 0.5)
    assert np.isfinite([found.auc_low, found.auc_high]).all()
    with pytest.raises(CovidxrError, match="available: c, d, inside"):
        comparison_run_predictions(tmp_path, ["figure1"])


def test_another_run_of_other_classes_is_refused(tmp_path):
    (tmp_path / "external_predictions.csv").write_text(
        "source,patient_id,label,predicted,p_Healthy,p_TB\nnorth,1,TB,TB,0.1,0.9\n"
    )
    with pytest.raises(CovidxrError, match="unknown class of .*'COVID-19'; available: Healthy, TB"):
        comparison_run_predictions(tmp_path, ["north"])


CELLS_SITES = [
    ("COVID-19", "a", 80),
    ("Normal", "a", 40),
    ("Normal", "b", 80),
    ("COVID-19", "c", 40),
    ("Normal", "c", 40),
]


def collected(seed=0):
    """Source a is collected from two hosts, of which only the first has both classes."""
    rows, features = sample_images(CELLS_SITES, seed=seed)
    second = (rows.source == "a") & (rows.label == "COVID-19") & (np.arange(len(rows)) % 2 == 0)
    hosts = np.select([second, rows.source == "a"], ["https://two.org/x", "https://www.one.org/y"], "https://other.org")
    return rows.assign(url=hosts), features


def site_predictions(features, rows):
    return held_out_predictions(features, rows, sites_with_both_classes(rows))


def test_a_site_is_a_host_where_a_source_has_several():
    rows, _ = collected()
    assert sorted(set(acquisition_sites(rows))) == ["a, one.org", "a, two.org", "b", "c"]
    assert set(acquisition_sites(rows.assign(url=""))) == {"a", "b", "c"}
    assert set(acquisition_sites(rows.assign(url=None))) == {"a", "b", "c"}


def test_only_sites_with_both_classes_are_held_out():
    rows, _ = collected()
    assert set(sites_with_both_classes(rows)) == {"a, one.org", "c", ""}
    assert set(sites_with_both_classes(rows.assign(label="COVID-19"))) == {""}


def test_a_sign_is_found_at_held_out_sites_and_noise_is_not():
    rows, features = collected()
    sign, by_chance = (held_out_metrics(site_predictions(x, rows)) for x in (features[:, [0]], random_features(rows)))
    assert (sign.auc_low > 0.8).all() and (abs(by_chance.auc - 0.5) < 0.2).all() and len(sign) == 4


def test_patients_of_a_held_out_site_are_not_trained_on_at_another():
    rows, _ = collected()
    site = acquisition_sites(rows) == "a, one.org"
    known = rows.assign(
        patient_id=np.where(rows.source == "a", np.arange(len(rows)) % 40, np.arange(len(rows))).astype(str)
    )
    shared = known.patient_id.where(known.source == "a").isin(known.patient_id[site])
    revealing = np.where(shared & ~site, 5.0 * (rows.label == "COVID-19"), 0)[:, None]
    found = site_predictions(revealing, known)
    found = found[(found.method == ERM) & (found.group == "a, one.org")]
    assert found.score.nunique() == 1 and len(found) == site.sum()


def test_changes_are_concluded_on_by_their_intervals():
    rows, features = collected()
    found = site_predictions(features[:, [0]], rows).query("group == 'c'")
    baseline, mitigated = (found[found.method == method] for method in (ERM, LDA))

    def sentence(before, after):
        return change_sentences(auc_changes(pd.concat([before.assign(method=ERM), after.assign(method=LDA)])))[0]

    assert sentence(baseline, baseline) == (
        "c: change of AUC +0.00 (95 % CI +0.00 to +0.00) compared with ERM baseline: no significant change."
    )
    assert sentence(baseline.assign(score=0.5), mitigated).endswith(": improvement.")
    assert sentence(baseline, baseline.assign(score=-baseline.score)).endswith(": deterioration.")


def test_tables_are_recorded_as_estimates():
    rows, features = collected()
    report = leave_one_site_out(features, rows)
    records = report.to_dict()
    assert report and sum("change of AUC" in sentence for sentence in report.sentences()) == 2
    assert set(records[f"c, {LDA}"]) == {"n_positive", "n_negative", "sensitivity", "specificity", "auc"}
    assert set(records[f"c, {LDA}"]["auc"]) == {"value", "low", "high"}
    assert leave_one_source_out(features, rows).to_dict()["b"]["auc"] is None


CELLS_VARIANTS = [*CONFOUNDED, ("Normal", "c", 30)]


def test_variants_are_compared_on_held_out_sources():
    rows, features = sample_images(CELLS_VARIANTS)
    shortcut, sign = (features[:, [column]] for column in (1, 0))
    variants = {
        "shortcut": Variant(shortcut, LogisticProbe(balanced=True)),
        "sign": Variant(sign, SourceBalancedLDA(), "shortcut"),
        "again": Variant(sign, SourceBalancedLDA(), "sign"),
        "noise": Variant(random_features(rows), SourceBalancedLDA(), "sign"),
    }
    table = compare_mitigations(variants, rows)
    assert table.accuracy["shortcut"] < 0.4 < 0.9 < table.accuracy["sign"]
    assert table.change_low["sign"] > 0 and table.change_high["noise"] < 0 and table.change["again"] == 0
    assert table.within_source_auc["sign"] > 0.9
    assert table.within_source_auc_low["noise"] < 0.5 < table.within_source_auc_high["noise"]
    sentences = mitigation_sentences(table)
    assert len(sentences) == 7 and sentences[0].endswith("chance 0.50.") and sentences[4].endswith(": improvement.")
    assert sentences[5].endswith(": no significant change.") and sentences[6].endswith(": deterioration.")


def test_mitigation_helps_where_source_and_class_are_confounded():
    rows, features = sample_images(CELLS_VARIANTS, seed=3)
    variants = {"ERM": Variant(features, LogisticProbe()), "LDA": Variant(features, SourceBalancedLDA(), "ERM")}
    assert compare_mitigations(variants, rows).change_low["LDA"] > 0


def test_the_auc_within_a_source_needs_a_source_with_ten_patients_of_both_classes():
    rows, features = sample_images(
        [("COVID-19", "a", 40), ("Normal", "a", 40), ("Normal", "b", 40), ("COVID-19", "c", 40)]
    )
    variants = {"all": Variant(features, SourceBalancedLDA())}
    assert compare_mitigations(variants, rows).within_source_auc["all"] > 0.9
    few_patients = rows.assign(patient_id=(np.arange(len(rows)) // 10).astype(str))  # four of each class in a
    table = compare_mitigations(variants, few_patients)
    assert np.isnan(table.within_source_auc["all"])
    assert "no source has 10 patients with and without" in mitigation_sentences(table)[-1]
    assert set(folds_within_source(few_patients)) == {""}
    assert sorted(set(folds_within_source(rows))) == ["", *(f"fold {number}" for number in range(5))]


def test_without_a_source_that_can_be_held_out_no_mitigation_is_compared():
    rows, features = sample_images([("COVID-19", "a", 20), ("Normal", "a", 20)])
    table = compare_mitigations({"one": Variant(features, SourceBalancedLDA())}, rows)
    assert mitigation_sentences(table) == ["No mitigation can be compared: no source can be held out."]


def test_each_variant_changes_one_thing():
    images = np.random.default_rng(0).integers(0, 255, (30, 32, 32), np.uint8)
    variants = mitigation_variants(images, weights="random")
    assert list(variants) == ["full VGG16", "truncated VGG16", "sources balanced", LDA]
    assert variants["truncated VGG16"].features is variants[LDA].features
    assert variants["full VGG16"].method.get_params() == variants["truncated VGG16"].method.get_params()


def few_images(seed, most=14):
    """Some images of a few patients, sources and labels at random."""
    rng = np.random.default_rng(seed)
    n, people = rng.integers(1, most), rng.integers(1, 8)
    who = rng.integers(people, size=n)
    rows = manifest_rows(
        {
            "image_id": i, "patient_id": who[i], "source": "ab"[who[i] % 2] if seed % 2 else "abc"[rng.integers(3)],
            "label": ["COVID-19", "Normal", "Bacteria"][rng.integers(2 + seed % 2)],
        }
        for i in range(n)
    )  # fmt: skip
    return rows, rng.normal(size=(n, 5))


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.parametrize("seed", range(16))
def test_however_few_images_there_are_the_result_is_a_table_or_a_sentence(seed):
    rows, features = few_images(seed)
    patients = rows.source + rows.patient_id
    variants = {"one": Variant(features, SourceBalancedLDA()), "two": Variant(features, LogisticProbe(), "one")}
    tasks = {
        "LDA": lambda: SourceBalancedLDA().fit(features, rows.label, rows.source, patients),
        "ERM": lambda: LogisticProbe().fit(features, rows.label, rows.source, patients),
        "sources": lambda: leave_one_source_out(features, rows).sentences(),
        "mitigations": lambda: mitigation_sentences(compare_mitigations(variants, rows)),
        "sites": lambda: change_sentences(auc_changes(site_predictions(features, rows))),
        "jointly": lambda: joint_metrics(features, rows.assign(source=rows.source.replace({"a": "c", "b": "d"}))),
        "folds": lambda: grouped_predictions(features, rows.label, patients),
        "memorisation": lambda: memorisation(AuditData(rows, noise(n=len(rows)))),
    }
    for name, task in tasks.items():
        try:
            assert task() is not None
        except CovidxrError as error:
            assert len(str(error)) > 20, name


@pytest.mark.parametrize(
    ("labels", "patients", "error"),
    [
        (["a"] * 5 + ["b"] * 5, ["one"] * 10, "needs two patients, .* there are 1 patients with 10 images of a, b"),
        (
            ["a", "b"],
            ["1", "2"],
            "needs .* two images of one class; there are 2 patients with 2 images of a, b: add images",
        ),
    ],
)
def test_what_a_probe_cannot_be_fitted_on_is_a_sentence(labels, patients, error):
    x = np.random.default_rng(0).normal(size=(len(labels), 3))
    with pytest.raises(CovidxrError, match=error):
        SourceBalancedLDA().fit(x, labels, ["x"] * len(labels), patients)


@pytest.mark.parametrize("method", METHODS)
def test_groups_smaller_than_the_folds_are_no_hindrance(method):
    labels, sources = np.tile(["a", "b"], 6), np.repeat(["x", "y", "z"], 4)  # two images in each group
    x = np.c_[labels == "a", np.random.default_rng(0).normal(size=12)].astype(float)
    assert (clone(METHODS[method]).fit(x, labels, sources).predict(x) == labels).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(wrong):
    rows, features = sample_images([("COVID-19", "a", 10), ("Normal", "a", 10)])
    features[3, 0] = wrong
    with pytest.raises(CovidxrError, match="features hold values that are not finite"):
        held_out_predictions(features, rows, np.where(np.arange(20) == 0, "first", ""))
