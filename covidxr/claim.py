"""The CLAIM checklist: 42 items that a report on artificial intelligence in medical imaging answers, and where a run does.

Mongan J., Moy L., Kahn C. E., Checklist for Artificial Intelligence in Medical Imaging (CLAIM): A Guide for Authors and
Reviewers, Radiology: Artificial Intelligence 2, 2020, e200029.
"""

from __future__ import annotations

from typing import NamedTuple


class Item(NamedTuple):
    """One item: its ``number``, ``section`` and ``question``, ``where`` a run answers it (or "no" and why), and what the run
    must hold for that: files, or sections of ``metrics.json`` and ``run.json``."""

    number: int
    section: str
    question: str
    where: str
    needs: tuple = ()


def _items():
    section, number = "", 0
    for line in _TEXT.strip().splitlines():
        if line.startswith("# "):
            section = line[2:]
            continue
        question, where, *needs = (part.strip() for part in line.split("|"))
        number += 1
        yield Item(number, section, question, where, tuple(needs[0].split()) if needs else ())


_TEXT = """
# Title and abstract
Study of AI methodology, with the category of technology | Yes: notebook 03, fine-tuning of the deep convolutional network VGG16 | metrics:model
Structured summary of design, methods, results and conclusions | `index.html` and `MODEL_CARD.md`, the numbers side by side | metrics:test
# Introduction
Scientific and clinical background, intended use and clinical role | README and `MODEL_CARD.md`: a published article rebuilt to measure its potential problem; no clinical role
Study objectives and hypotheses | The question that each notebook opens with; the hypothesis is that the network reads collections, not lungs
# Methods: study design
Prospective or retrospective | Not prospective. {images}
Study goal | Methodological: reproduction of an article, and an audit of its shortcuts
# Methods: data
Data sources | `manifest.csv`, columns `source`, `url`, `license`; a datasheet a source in `docs/DATA.md`. {images} | manifest.csv
Eligibility criteria: how, where and when | In part: which films of each collection are read is in `docs/DATA.md`; how the collections chose their patients is for the most part not known
Data preprocessing | Notebook 01 (decoding, scaling) and `covidxr.pixels.preprocess` (equalisation, one for all) | pixels.npz
Selection of data subsets | Notebook 01: seeded draw of so many films a class; `manifest.csv` lists them, `rejected.csv` the others that were tried | manifest.csv rejected.csv
Definitions of data elements | The manifest's columns, in `docs/DATA.md`; no common data elements are referred to
De-identification | Done by the collections; films are read as published
Missing data | Ages, sexes and views that are not known stay empty and are left out of what asks for them; unreadable films are in `rejected.csv` | rejected.csv
# Methods: ground truth
Definition of the reference standard | The collections' own labels, `label` in `manifest.csv`; not verified here | manifest.csv
Rationale for the reference standard | The article used it; there is no other for these films
Source of the annotations, qualifications of the annotators | no: the collections do not say for each film
Annotation tools | no: not known for the labels; lung boxes or masks as named in notebook 05
Inter- and intrarater variability | no: one label a film
# Methods: data partitions
Intended sample size and how it was determined | Parameter `per_class` in `run.json`: the article's number or the demo's, not a power calculation | run:parameters
Assignment to partitions, with proportions | Notebook 01, parameters `split`, `test_share`, `validation_share`; `manifest.csv`, column `split` | manifest.csv run:parameters
Level at which partitions are disjoint | {disjoint} | metrics:data
# Methods: model
Detailed description of the model | Notebook 03 prints every layer; `model.keras` holds them | model.keras
Software libraries and packages | `run.json`, versions; `requirements.lock` of the repository | run:versions
Initialization of parameters | Notebook 03 and `metrics.json`, section `model`: {weights} | metrics:model
# Methods: training
Training approach, augmentation, hyperparameters, number of models | Notebooks 02 and 03, their parameters in `run.json`, `history.csv` epoch by epoch | history.csv run:parameters
Method of selecting the final model | Notebook 03: by the validation films alone | history.csv
Ensembling | None: one network
# Methods: evaluation
Metrics of performance | Notebooks 04 and 07: accuracy, precision, recall, F1; sensitivity, specificity, AUC; calibration error and Brier score | metrics:test
Statistical measures of uncertainty | 95 % intervals that heed patients with several films: Wilson's of their effective number for shares, a bootstrap over patients otherwise | metrics:test
Robustness or sensitivity analysis | Notebook 06, the shortcut audit | metrics:audit
Methods for explainability, and how they were validated | Notebook 05: Grad-CAM beside chance, untrained networks, sanity checks | metrics:grad_cam
Validation on external data | Notebook 07: {external} | metrics:external
# Results: data
Flow of participants or cases, with a diagram | In part: counts in notebook 01 and `rejected.csv`; no diagram | manifest.csv rejected.csv
Demographic and clinical characteristics in each partition | In part: notebook 01 and `MODEL_CARD.md`, age, sex, view and source where known, by class and source but not by partition | manifest.csv
# Results: model performance
Performance of the optimal model on all partitions | `predictions.csv`, every film of every partition; notebook 04 reports the test films | predictions.csv
Diagnostic accuracy with its precision | Notebooks 04 and 07, `metrics.json`, with 95 % intervals | metrics:test metrics:internal
Failure analysis of incorrectly classified cases | Notebook 04, section Mistakes; `predictions.csv`, `external_predictions.csv` | predictions.csv external_predictions.csv
# Discussion
Limitations: bias, uncertainty, generalizability | `MODEL_CARD.md`; `docs/LIMITATIONS.md` of the repository; notebooks 06 and 07 | metrics:audit
Implications for practice | None: research and teaching only, not for diagnosis
# Other information
Registration number and registry | no: not registered
Where the full protocol can be accessed | The notebooks themselves, at the commit in `run.json`: {commit} | run:git_commit
Sources of funding and role of funders | no: none is stated
"""
ITEMS = tuple(_items())
"""The 42 items."""


def answers(found, facts) -> list:
    """Answer every item for one run.

    Parameters
    ----------
    found : collection of str
        What the run holds: names of its files, ``metrics:`` and ``run:`` with the name of a section.
    facts : dict
        What fills the braces in `ITEMS`: ``disjoint``, ``weights``, ``external``, ``commit``, ``images``;
        in Markdown.

    Returns
    -------
    list of tuple
        Item and answer; "no" where the run does not hold what it needs.

    Examples
    --------
    >>> facts = {"disjoint": "patient", "weights": "random", "external": "north", "commit": "abc", "images": "phantoms"}
    >>> len(answers([], facts)), answers([], facts)[0][1]
    (42, 'no: this run holds no metrics:model')
    """
    said = []
    for item in ITEMS:
        lacking = [need for need in item.needs if need not in found]
        said.append((item, f"no: this run holds no {', '.join(lacking)}" if lacking else item.where.format(**facts)))
    return said
