"""Notebooks of a few cells, without TensorFlow, and profiles: what the tests of the runner run."""

from __future__ import annotations

import nbformat
import numpy as np
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from covidxr.run.execute import Outcome

MAKE = """import os, sys
from pathlib import Path
facts = [sys.executable, os.getcwd(), os.environ["PYTHONHASHSEED"], os.environ["TF_CPP_MIN_LOG_LEVEL"]]
Path(run_dir, "made.txt").write_text("\\n".join([str(seed * size), data_dir, *facts]))"""
USE = """import os
from covidxr.utils import CovidxrError
if mode == "user": raise CovidxrError("class 'Virus' has 3 images")
if mode == "bug": {}["no such key"]
if mode == "die": os._exit(9)
ballast = bytearray(os.urandom(1)) * 150_000_000
import time; time.sleep(1)
print((open(os.path.join(run_dir, "made.txt")).readline().strip() + " ") * 2)"""


def write_notebook(path, parameters, code, tags=("parameters",), reads=None):
    cells = [
        new_markdown_cell("# A title"),
        new_code_cell(parameters, metadata={"tags": list(tags)}),
        new_code_cell(code),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {} if reads is None else {"covidxr": {"reads": list(reads)}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)


def make_notebooks(folder):
    """Two notebooks, of which the second reads what the first wrote, and a profile."""
    write_notebook(folder / "02_use.ipynb", "run_dir = '.'\nmode: str = 'fine'\nepochs = 3", USE, reads=["made.txt?"])
    write_notebook(
        folder / "01_make.ipynb", "run_dir, x = '.', 1\nrun_dir = '.'\nsize = 3\nseed = 0\ndata_dir = ''", MAKE
    )
    write_notebook(folder / "scratch.ipynb", "nothing = 1", "1 / 0")
    (folder / "profiles").mkdir()
    (folder / "profiles" / "tiny.yaml").write_text("all:\n  seed: 5\n01_make:\n  size: 2\n", encoding="utf-8")
    return folder


# A small run from beginning to end: images from a table, a network that is a sum, its predictions, and pictures of them.

SETUP = """from pathlib import Path
import hashlib, json, time, zipfile
import numpy as np, pandas as pd
from PIL import Image
from covidxr.data.dataset import Dataset, load_dataset, load_embeddings, save_dataset, save_embeddings
from covidxr.data.sources import load_source
from covidxr.evaluation.metrics import record_metrics
from covidxr.utils import atomic_path, read_json, write_csv
run_dir = Path(run_dir)
def number(*parts):
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 2**32
"""
IMAGES = """
rows = load_source(sources[0], data_dir).assign(split="train")
rng = np.random.default_rng(seed)
pixels = np.stack([np.array(Image.open(path)) for path in rows.path]) + rng.integers(0, 9, dtype=np.uint8)
lost = pd.DataFrame({"image_id": ["x"], "path": [str(run_dir / "x.png")], "reason": ["none"]})
save_dataset(run_dir, Dataset(rows, pixels, lost))
record_metrics(run_dir, data={"images": len(rows), "labels": sorted(rows.label), "sum": int(pixels.sum())});"""
FIT = """
manifest, images, _ = load_dataset(run_dir)
total = number(images.tobytes(), manifest.label.tolist(), epochs)
with atomic_path(run_dir / "model.keras") as temporary, zipfile.ZipFile(temporary, "w") as file:
    file.writestr("metadata.json", json.dumps({"keras_version": "3", "date_saved": time.time_ns()}))
    file.writestr("model.weights.h5", repr([total + i for i in range(200)]))
write_csv(run_dir / "history.csv", pd.DataFrame({"epoch": range(40), "loss": [total / (i + 1) for i in range(40)]}))
save_embeddings(run_dir, manifest, images.reshape(len(images), -1) * total)
record_metrics(run_dir, model={"loss": total});"""
REPORT = """
manifest = load_dataset(run_dir).manifest
embeddings = load_embeddings(run_dir, manifest)
with zipfile.ZipFile(run_dir / "model.keras") as file:
    weights = json.loads(file.read("model.weights.h5"))
write_csv(run_dir / "predictions.csv", manifest[["image_id", "label"]].assign(p=embeddings.sum(1) * sum(weights)))
record_metrics(run_dir, test={"accuracy": number(weights, manifest.label.tolist())});"""
LOOK = """
images, accuracy = load_dataset(run_dir)[1], read_json(run_dir / "metrics.json")["test"]["accuracy"]
for folder in ("gallery", "figures"):
    (run_dir / folder).mkdir(exist_ok=True)
    for name, image in zip("abcdef", images):
        with atomic_path(run_dir / folder / f"{name}.png") as temporary:
            Image.fromarray(image).save(temporary)
names = [f"gallery/{name}.png" for name in "abcdef"]
shown = pd.DataFrame({"image_id": names, "label": "Normal", "predicted": "Normal", "source": "s", "confidence": accuracy})
write_csv(run_dir / "gallery" / "images.csv", shown.assign(picture=names, patient_id="p", split="test"))
record_metrics(run_dir, heat={"share": accuracy / 2});"""
WALK = {
    "01_images": ("sources = ['ours.csv']\ndata_dir: str | None = None\nseed = 0", IMAGES, []),
    "02_fit": ("epochs: int | None = None", FIT, ["manifest.csv", "pixels.npz", "rejected.csv"]),
    "03_report": ("seed = 0", REPORT, ["manifest.csv", "pixels.npz", "rejected.csv", "model.keras", "features.npz"]),
    "04_look": ("lung_masks: str | None = None", LOOK, ["manifest.csv", "pixels.npz", "rejected.csv", "metrics.json#test"]),
}  # fmt: skip


def make_walk(folder):
    """Four notebooks, their profile ``walk``, and a table with six images: ``ours.csv`` in the folder's ``data``."""
    for stem, (parameters, code, reads) in WALK.items():
        write_notebook(
            folder / "notebooks" / f"{stem}.ipynb", f"run_dir = '.'\n{parameters}", SETUP + code, reads=reads
        )
    (folder / "notebooks" / "profiles").mkdir()
    (folder / "notebooks" / "profiles" / "walk.yaml").write_text("all:\n  seed: 0\n", encoding="utf-8")
    make_table(folder / "data")
    return folder


def make_table(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate("abcdef"):
        pixels = np.random.default_rng(number).integers(0, 200, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    labels = zip("abcdef", ["Normal", "COVID-19"] * 3, strict=True)
    lines = ["path,label", *(f"{name}.png,{label}" for name, label in labels)]
    (folder / "ours.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def execute_here(notebook, target, parameters, on_tick=None):
    """Stand in for `covidxr.run.execute.execute`: the cells are executed in this process, which takes no time."""
    content, scope, error = nbformat.read(notebook, as_version=4), {}, None
    try:
        for cell in content.cells:
            if cell.cell_type == "code":
                exec(cell.source, scope)
                scope.update(parameters if "parameters" in cell.metadata.get("tags", []) else {})
    except Exception as found:
        error = f"cell In [2]: x\n{type(found).__name__}: {found}"
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, target)
    target.with_suffix(".html").write_text(f"<h1>{target.stem}</h1>", encoding="utf-8")
    return Outcome(1.0, 100.0, error)
