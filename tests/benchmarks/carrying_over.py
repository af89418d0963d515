"""What a reader carries over to places left out: ``python tests/benchmarks/carrying_over.py runs/honest``.

Asked of each place with ten patients of both kinds, and of the two sources that the honest profile leaves out together: how
the area grows with the share of the other patients that is fitted on, and which rule for calling a film ill holds there, the
most probable class or a threshold fixed on validation films. Means over draws of patients; the run is only read.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covidxr._quiet import quiet_environment

quiet_environment()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402

from covidxr.calibration import choose_threshold  # noqa: E402
from covidxr.dataset import read_run  # noqa: E402
from covidxr.external import POSITIVE, fix_on_validation  # noqa: E402
from covidxr.leave_out import to_fit_on  # noqa: E402
from covidxr.places import film_places  # noqa: E402
from covidxr.probe import features  # noqa: E402
from covidxr.probes import FEWEST  # noqa: E402
from covidxr.reader import fit_reader  # noqa: E402
from covidxr.splits import patient_keys  # noqa: E402
from covidxr.train import read_model  # noqa: E402

SHARES, DRAWS, VALIDATION = (0.4, 0.55, 0.7, 0.85, 1.0), 8, 0.15
TOGETHER = ("darkcovidnet", "figure1")  # left out at once; asked about healthy people and the ill


def questions(films) -> dict:
    """Name to the films to ask about, and those that may be fitted on."""
    both = films.groupby(["place", "ill"]).patient.nunique().unstack(fill_value=0).min(axis=1)
    places = {place: (films.place == place).to_numpy() for place in both.index[both >= FEWEST]}
    asked = {place: (there, to_fit_on(films, there)) for place, there in places.items()}
    together = films.source.isin(TOGETHER).to_numpy()
    if together.any():
        told = (films.ill | (films.label == "Normal")).to_numpy()
        asked[" and ".join(TOGETHER)] = together & told, to_fit_on(films, together)
    return asked


def drawn(films, inside, share, seed) -> np.ndarray:
    """Choose the films of a share of the patients that are inside."""
    patients = np.unique(films.patient[inside])
    some = np.random.default_rng(seed).choice(patients, round(share * len(patients)), replace=False)
    return inside & films.patient.isin(some).to_numpy()


def stated(x, films, fitted, scored) -> pd.DataFrame:
    """What a reader fitted on some films says of others."""
    rows = films[fitted]
    reader = fit_reader(x[fitted], rows.label, rows.source, rows.patient)
    chances = pd.DataFrame(reader.probabilities(x[scored]), columns=[f"p_{one}" for one in reader.classes])
    return films[scored].reset_index(drop=True).join(chances)


def learning_curve(x, films, there, inside) -> dict:
    """Mean area under the ROC curve for each share of patients fitted on."""
    areas = {}
    for share in SHARES:
        seeds = range(DRAWS if share < 1 else 1)
        said = [stated(x, films, drawn(films, inside, share, seed), there) for seed in seeds]
        areas[f"{share:.0%}"] = np.mean([roc_auc_score(rows.ill, rows[f"p_{POSITIVE}"]) for rows in said])
    return areas


def rules(x, films, there, inside) -> pd.DataFrame:
    """Mean sensitivity and specificity by rule; thresholds come from validation patients of the places fitted on."""
    found = []
    for seed in range(DRAWS):
        validation = drawn(films, inside, VALIDATION, seed)
        fitted = inside & ~validation
        own, other = (stated(x, films, fitted, scored) for scored in (validation, there))
        columns = [name for name in other if name.startswith("p_")]
        score, chances = other[f"p_{POSITIVE}"], other[columns]
        careful = fix_on_validation(own, [name[2:] for name in columns]).threshold
        called = {
            "most probable class": chances.idxmax(axis=1) == f"p_{POSITIVE}",
            "threshold, sources alike": score >= careful,
            "threshold, films alike": score >= choose_threshold(own[f"p_{POSITIVE}"], own.ill),
        }
        found += [{"rule": rule, "sensitivity": calls[other.ill].mean(), "specificity": (~calls[~other.ill]).mean()}
                  for rule, calls in called.items()]  # fmt: skip
    return pd.DataFrame(found).groupby("rule", sort=False).agg(["mean", "std"]).round(2)


def main(run_dir) -> None:
    """Print both for each question."""
    manifest, pixels, _ = read_run(run_dir)
    x = features(read_model(run_dir), pixels)
    films = manifest.reset_index(drop=True).assign(
        ill=lambda rows: rows.label == POSITIVE,
        place=film_places(manifest),
        patient=patient_keys(manifest).to_numpy(str),
    )
    for name, (there, inside) in questions(films).items():
        print(f"\n{name}, left out: {films.ill[there].sum()} ill, {(~films.ill[there]).sum()} others")
        print(
            "area by share of patients fitted on:",
            pd.Series(learning_curve(x, films, there, inside)).round(3).to_dict(),
        )
        print(rules(x, films, there, inside).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
