"""Sources of images: the public collections, phantoms, and the user's own CSV file or folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from covidxr.checks import check_names
from covidxr.data.download import (
    LISTING_FILE,
    RECORD_FILE,
    Fetch,
    Origin,
    fetch_origin,
    is_image_or_table,
    known_files,
    read_listing,
    verification_error,
)
from covidxr.data.hospitals import HOSPITALS, PHANTOM_CLASSES
from covidxr.data.manifest import (
    COLUMNS,
    EXCLUDED_COLUMNS,
    MASK_COLUMNS,
    check_writable,
    excluded_rows,
    find_folder,
    find_images,
    listed_rows,
    manifest_rows,
    read_table,
    used_rows,
)
from covidxr.data.phantom import load_phantoms
from covidxr.utils import CovidxrError, read_json, unknown


def _version_of(folder, source: str, pinned: str) -> str:
    """Return the version of a source in a folder, or ``""`` if unknown."""
    recorded = read_json(folder / RECORD_FILE, checked=False)
    if isinstance(recorded, dict) and recorded.get("version") and isinstance(recorded["version"], str):
        return recorded["version"]
    table, known = folder / "metadata.csv", known_files(source).get("metadata.csv")
    return pinned if known and table.is_file() and not verification_error(table, table.name, known) else ""


COVID_CHESTXRAY_URL = "https://github.com/ieee8023/covid-chestxray-dataset"

COVID_CHESTXRAY_VERSION = "65b61b403b86a4cebff1fc4451a220feb24ccb33"  # 2020-04-17

_COVID_CHESTXRAY_COLUMNS = ("patientid", "finding", "view", "modality", "filename", "age", "sex", "license", "url")


def _load_covid_chestxray(data_dir):
    """List the images of covid-chestxray-dataset; frontal X-rays are used."""
    folder = find_folder(data_dir, "covid-chestxray-dataset", "metadata.csv", COVID_CHESTXRAY_URL)
    table = read_table(folder / "metadata.csv", _COVID_CHESTXRAY_COLUMNS, "cp1252")
    table["name"] = table.filename.map(lambda name: Path(name).name)  # never out of the folder, whatever the table says
    table["excluded"] = ""
    table.loc[~table.view.str.startswith(("PA", "AP")), "excluded"] = "not a frontal view"
    table.loc[table.modality != "X-ray", "excluded"] = "not an X-ray but " + table.modality.replace("", "not stated")
    table.loc[_repeated(table), "excluded"] = "a file named twice"
    if (table.excluded != "").all():
        raise CovidxrError(f"{folder / 'metadata.csv'}: no row is a frontal X-ray (modality X-ray, view PA or AP)")
    version = _version_of(folder, "covid-chestxray", COVID_CHESTXRAY_VERSION)
    return listed_rows(
        {
            "image_id": f"covid-chestxray/{row.name}",
            "path": str(folder / "images" / row.name),
            "label": "COVID-19" if "COVID-19" in row.finding else row.finding.replace("No Finding", "No finding"),
            "patient_id": row.patientid,
            "source": "covid-chestxray",
            "view": row.view,
            "age": row.age,
            "sex": row.sex,
            "license": row.license,
            "url": row.url or COVID_CHESTXRAY_URL,
            "version": version,
            "original_name": row.filename,
            "excluded": row.excluded,
        }
        for row in table.itertuples()
    )


def _repeated(table):
    """Which used rows have the ``name`` of an earlier used row."""
    used = table.excluded == ""
    return table.name.where(used).duplicated() & used


FIGURE1_URL = "https://github.com/agchung/Figure1-COVID-chestxray-dataset"

FIGURE1_VERSION = "95bb569e55f4110d3b734c0f355340e04e16989a"


def _load_figure1(data_dir):
    """List the images of the Figure 1 collection; those with a finding are used."""
    folder = find_folder(data_dir, "figure1", "metadata.csv", FIGURE1_URL)
    table = read_table(folder / "metadata.csv", ("patientid", "sex", "age", "finding", "view"), "cp1252")
    files = {file.stem: file for file in find_images(folder / "images", "*")}
    table["name"] = table.patientid.map(lambda name: Path(name).name)  # never out of the folder
    table["path"] = table.name.map(lambda name: files.get(name, folder / "images" / f"{name}.jpg")).astype(object)
    table["excluded"] = ""
    table.loc[table.finding == "", "excluded"] = "no finding stated"
    table.loc[_repeated(table), "excluded"] = "an image named twice"
    version = _version_of(folder, "figure1", FIGURE1_VERSION)
    return listed_rows(
        {
            "image_id": f"figure1/{row.name}",
            "path": str(row.path),
            "label": row.finding,
            "patient_id": row.name.rstrip("abcdefghijklmnopqrstuvwxyz"),
            "source": "figure1",
            "view": row.view,
            "age": row.age,
            "sex": row.sex,
            "license": "research use",
            "url": FIGURE1_URL,
            "version": version,
            "original_name": row.path.name,
            "excluded": row.excluded,
        }
        for row in table.itertuples()
    )


DARKCOVIDNET_URL = "https://github.com/muhammedtalo/COVID-19"

DARKCOVIDNET_VERSION = "ee3e2cffc0824711bed675275506b26f19be7198"

_DARKCOVIDNET_LABELS = {"No_findings": "No finding", "Pneumonia": "Pneumonia"}


def _load_darkcovidnet(data_dir):
    """List the images of the DarkCovidNet collection; its adults without COVID-19 are used."""
    folder = find_folder(data_dir, "darkcovidnet", "X-Ray Image DataSet", DARKCOVIDNET_URL)
    version = _version_of(folder, "darkcovidnet", DARKCOVIDNET_VERSION)
    reasons = {**dict.fromkeys(_DARKCOVIDNET_LABELS, ""), "Covid-19": "repeats covid-chestxray's images"}
    return listed_rows(
        {
            "image_id": f"darkcovidnet/{image.parent.name}/{image.name}",
            "path": str(image),
            "label": _DARKCOVIDNET_LABELS.get(image.parent.name, ""),
            "patient_id": image.stem.split("_")[0],
            "source": "darkcovidnet",
            "license": "NIH, free use with attribution",
            "url": DARKCOVIDNET_URL,
            "version": version,
            "original_name": f"{image.parent.name}/{image.name}",
            "excluded": reasons.get(image.parent.name, "an unknown folder"),
        }
        for image in find_images(folder / "X-Ray Image DataSet", "*/*")
    )


KAGGLE_CHEST_XRAY_URL = "https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia"

KAGGLE_CHEST_XRAY_VERSION = "versions/2"

_PNEUMONIA = re.compile(r"(?P<patient>person\d+)_(?P<kind>bacteria|virus)_", re.IGNORECASE)

_NORMAL = re.compile(r"(?P<patient>(?:NORMAL\d*-)?IM-\d+)", re.IGNORECASE)


def _load_kaggle_chest_xray(data_dir):
    """List the images of the Kaggle set; those whose name states patient and cause are used."""
    folder = find_folder(data_dir, "chest_xray", "train", KAGGLE_CHEST_XRAY_URL)
    version = _version_of(folder, "kaggle-chest-xray", KAGGLE_CHEST_XRAY_VERSION)
    return listed_rows(_kaggle_row(image, folder) | {"version": version} for image in find_images(folder, "*/*/*"))


def _kaggle_row(image, folder):
    part, kind, name = image.parent.parent.name, image.parent.name, image.relative_to(folder).as_posix()
    row = {"path": str(image), "source": "kaggle-chest-xray", "original_name": name}
    match = {"NORMAL": _NORMAL, "PNEUMONIA": _PNEUMONIA}.get(kind, re.compile("$^")).match(image.name)
    if match is None:
        return row | {"excluded": "its name tells no patient or cause"}
    return row | {
        "image_id": f"kaggle-chest-xray/{name}",
        "label": "Normal" if kind == "NORMAL" else match["kind"].capitalize(),
        "patient_id": f"{'train' if part == 'val' else part}-{match['patient']}",
        "view": "AP",
        "license": "CC BY 4.0",
        "url": KAGGLE_CHEST_XRAY_URL,
        "excluded": "",
    }


def _load_table(data_dir, name=None):
    """List the images of a CSV file, or of a folder with one sub-folder per class."""
    path = Path(data_dir)
    name = name or _ends(path)[0]
    if path.is_dir():
        return _load_folder(path, name)
    table = read_table(path, ("path", "label"))
    if table.empty:
        raise CovidxrError(f"{path}: the table has no rows")
    blank = (table.path == "") | (table.label == "")
    if blank.any():
        first = blank.to_numpy().argmax() + 1
        raise CovidxrError(f"{path}: {blank.sum()} of {len(table)} rows lack path or label, the first is row {first}")
    used = table[[column for column in table if column in (*COLUMNS, *MASK_COLUMNS)]]
    check_writable(used, "row", range(1, len(table) + 1), f"{path}: ")
    rows = manifest_rows(_table_row(path, name, row) for row in table.to_dict("records")).drop_duplicates(
        ignore_index=True
    )
    twice = rows.image_id[rows.image_id.duplicated()]
    if len(twice):
        raise CovidxrError(f"{path}: image {twice.iloc[0]!r} has two rows that differ; keep one")
    return rows


def source_names(paths, taken=()) -> list:
    """Give each path the shortest name, from its end, that no other path and nothing in `taken` can have."""
    ends = [_ends(path) for path in paths]
    others = [{*taken}.union(*ends[:number], *ends[number + 1 :]) for number in range(len(ends))]
    return [next(end for end in mine if end not in known) for mine, known in zip(ends, others, strict=True)]


def _ends(path):
    """Possible names of a path, shortest first, up to the whole path."""
    path = Path(os.path.abspath(path))  # "." has a name too
    *above, name = path.parts
    lasts = [name, f"{name}/"] if path.is_dir() else [path.stem, name]
    ends = ["/".join([*above[len(above) - count :], last]) for last in lasts for count in range(len(above))]
    return [*ends, path.as_posix()]


def _table_row(table_path, name, row):
    masks = {column: str(table_path.parent / row[column]) for column in MASK_COLUMNS if row.get(column)}
    return {
        "image_id": f"{name}/{row['path']}",
        "patient_id": row["path"],
        "source": name,
        "original_name": row["path"],
        **{column: value for column, value in row.items() if value},
        **masks,
        "path": str(table_path.parent / row["path"]),
    }


def _load_folder(folder, name):
    images = find_images(folder, "*/*")
    if not images:
        raise CovidxrError(
            f"{folder}: no images in its sub-folders; expected one sub-folder a class, with images inside"
        )
    return manifest_rows(
        {
            "image_id": f"{name}/{image.relative_to(folder).as_posix()}",
            "path": str(image),
            "label": image.parent.name,
            "patient_id": image.relative_to(folder).as_posix(),
            "source": name,
            "original_name": image.relative_to(folder).as_posix(),
        }
        for image in images
    )


def _covid_chestxray_files(folder):
    names = [Path(path).name for path in used_rows(_load_covid_chestxray(folder)).path]
    return {f"images/{name}": "" for name in names if is_image_or_table(name)}


def _figure1_files(folder):
    by_stem = {Path(path).stem: path for path in known_files("figure1")}  # metadata.csv does not give the suffix
    names = [Path(path).stem for path in used_rows(_load_figure1(folder)).path]
    paths = [by_stem.get(name, f"images/{name}.jpg") for name in names]
    return {path: "" for path in paths if is_image_or_table(path)}


def _darkcovidnet_files(folder):
    known = read_listing(folder / LISTING_FILE)
    fits = re.compile(_DARKCOVIDNET_IMAGES).fullmatch
    return {path: known[path] for path in known if fits(path) and is_image_or_table(path)}


_METADATA_AND_IMAGES = r"(?:[^/]+/)?(?P<path>metadata\.csv|images/[^/]+)"

_DARKCOVIDNET_IMAGES = r"X-Ray Image DataSet/(?:No_findings|Pneumonia)/[^/]+"


@dataclass(frozen=True)
class Source:
    """A collection of images that `build_dataset` knows by name.

    Parameters
    ----------
    name : str
        The name, also in the manifest's column ``source``.
    load : callable
        Takes the data folder and returns manifest rows, made by `covidxr.data.manifest.manifest_rows`. A further column
        ``excluded`` may give a reason for each row that is listed but not used.
    origin : Origin, optional
        Where its files are downloaded from; by default they cannot be.

    Examples
    --------
    >>> from covidxr.data.manifest import manifest_rows
    >>> SOURCES["clinic"] = Source("clinic", lambda data_dir: manifest_rows([{"image_id": "clinic/1", "source": "clinic"}]))
    >>> load_source("clinic").image_id.tolist()
    ['clinic/1']
    >>> _ = SOURCES.pop("clinic")
    """

    name: str
    load: Callable[..., pd.DataFrame]
    origin: Origin | None = None


PHANTOM_SOURCES = {"phantom": None} | {f"phantom-{hospital}": hospital for hospital in HOSPITALS}


def phantom_labels(source, label_map=None) -> dict[str, str]:
    """The classes that a source of phantoms sends, each with its label once renamed."""
    hospital = PHANTOM_SOURCES[source]
    sent = HOSPITALS[hospital].classes if hospital else PHANTOM_CLASSES
    return {label: (label_map or {}).get(label, label) for label in sent}


def draw_phantoms(entry, classes, folder, label_map=None, **options) -> pd.DataFrame:
    """Draw the phantoms of an entry of a list of sources that are of some classes, named as after `label_map`.

    `options` are those of `load_phantoms`.
    """
    source, wanted = source_entry(entry)
    labels = phantom_labels(source, label_map)
    _check_sent(source, wanted or (), labels.values())
    taken = [name for name in classes if wanted is None or name in wanted]
    drawn = [label for name in taken for label, renamed in labels.items() if renamed == name]
    if not drawn:
        raise CovidxrError(
            f"source {source!r} has no phantoms of {' or '.join(classes)}, only of {', '.join(labels.values())}; take it out of "
            "the list, or rename its labels with label_map"
        )
    return load_phantoms(folder, classes=drawn, hospital=PHANTOM_SOURCES[source], **options).assign(source=source)


def _draw_all(source, data_dir):
    return draw_phantoms(source, list(phantom_labels(source)), data_dir)


_SOURCES = (
    Source("phantom", load_phantoms),
    *(Source(name, partial(_draw_all, name)) for name, hospital in PHANTOM_SOURCES.items() if hospital),
    Source("covid-chestxray", _load_covid_chestxray, Origin(
        "covid-chestxray", "covid-chestxray-dataset", COVID_CHESTXRAY_VERSION, _METADATA_AND_IMAGES,
        repository="ieee8023/covid-chestxray-dataset", index="metadata.csv", wanted=_covid_chestxray_files,
    )),
    Source("kaggle-chest-xray", _load_kaggle_chest_xray, Origin(
        "kaggle-chest-xray", "chest_xray", KAGGLE_CHEST_XRAY_VERSION,
        r"(?:[^/]+/)*?(?P<path>(?:train|test|val)/(?:NORMAL|PNEUMONIA)/[^/]+)",
    )),
    Source("darkcovidnet", _load_darkcovidnet, Origin(
        "darkcovidnet", "darkcovidnet", DARKCOVIDNET_VERSION, rf"(?:[^/]+/)?(?P<path>{_DARKCOVIDNET_IMAGES})",
        repository="muhammedtalo/COVID-19", index=LISTING_FILE, wanted=_darkcovidnet_files,
    )),
    Source("figure1", _load_figure1, Origin(
        "figure1", "figure1", FIGURE1_VERSION, _METADATA_AND_IMAGES,
        repository="agchung/Figure1-COVID-chestxray-dataset", index="metadata.csv", wanted=_figure1_files,
    )),
    Source("table", _load_table),
)  # fmt: skip

SOURCES = {source.name: source for source in _SOURCES}


def fetch(source: str, data_dir, mirror: str | None = None, archive=None) -> Fetch:
    """Download a source into its folder in the data folder, continuing an interrupted download."""
    downloadable = [source.name for source in SOURCES.values() if source.origin]
    if source not in downloadable:
        raise unknown("source to fetch:", source, downloadable)
    return fetch_origin(SOURCES[source].origin, data_dir, mirror, archive)


def source_entry(entry) -> tuple[str | Path, list[str] | None]:
    """Split an entry of a list of sources into the source and the classes to take of it; None takes all.

    >>> source_entry("figure1"), source_entry({"figure1": ["COVID-19"]})
    (('figure1', None), ('figure1', ['COVID-19']))
    """
    if not isinstance(entry, dict):
        return entry, None
    if len(entry) != 1:
        raise CovidxrError(f"source {entry!r}: name one source with its classes, such as {{'figure1': ['COVID-19']}}")
    [(source, classes)] = entry.items()
    check_names(f"source {str(source)!r}", classes)
    return source, list(classes)


def _take_classes(rows, entry, label_map):
    """Rename the labels of a source, and select the classes that its entry names."""
    source, classes = source_entry(entry)
    rows = rows.assign(label=rows.label.replace(label_map or {}))
    if classes is None:
        return rows
    _check_sent(source, classes, sorted(set(rows.label)))
    return rows[rows.label.isin(classes)]


def _check_sent(source, classes, sent):
    for label in classes:
        if label not in sent:
            raise unknown(f"class of source {str(source)!r}:", label, sent)


def load_source(source: str | Path | dict[str, list[str]], data_dir: str | Path | None = None) -> pd.DataFrame:
    """List the images of one source.

    Parameters
    ----------
    source : str, pathlib.Path or dict
        A name in `covidxr.data.sources.SOURCES`, or the path of your own CSV file or folder, which is named after the
        file, without its suffix. ``{source: [classes]}`` takes only these classes of a source.
    data_dir : str or pathlib.Path, optional
        The folder that holds the public collections.

    Returns
    -------
    pandas.DataFrame
        Manifest rows of the images that are used; nothing is decoded yet.

    Raises
    ------
    CovidxrError
        When there is no such source or path, or the data folder does not contain it.

    Examples
    --------
    >>> load_source("kagle")
    Traceback (most recent call last):
        ...
    covidxr.utils.CovidxrError: unknown source 'kagle'; available: phantom, ..., or the path of a CSV file or a folder of images
    """
    return load_sources([source], data_dir)[0]


def load_sources(entries, data_dir, label_map=None, draw=None):
    """Load several sources, each under a name of its own; `draw` makes the phantoms of an entry."""
    sources = [source_entry(entry)[0] for entry in entries]
    paths = [_source_path(source, data_dir) for source in sources]
    own = [path for path in paths if path is not None]
    _check_named_once(sources, paths)
    names = iter(source_names(own, [name for name in SOURCES if name != "table"]))
    frames = []
    for entry, source, path in zip(entries, sources, paths, strict=True):
        if path is not None:
            rows = _load_table(path, next(names))
        elif draw and source in PHANTOM_SOURCES:
            rows = draw(entry)
        else:
            rows = used_rows(SOURCES[source].load(data_dir))
        frames.append(_take_classes(rows, entry, label_map))
    _check_distinct(sources, frames)
    return frames


def _source_path(source, data_dir):
    """Path of the user's own file or folder; None for a source known by name."""
    known = [*SOURCES, "or the path of a CSV file or a folder of images"]
    if not isinstance(source, (str, os.PathLike)):
        raise unknown("source", source, known)
    if source == "table" and data_dir is None:
        raise CovidxrError("source 'table' needs data_dir: a CSV file with the columns path and label")
    path = data_dir if source == "table" else source
    if source != "table" and source in SOURCES:
        return None
    if os.path.exists(path):
        return Path(path)
    if str(path).lower().endswith(".csv") or {"/", "\\"} & set(str(path)):
        raise CovidxrError(f"source {str(path)!r}: no such file or folder; available: {', '.join(known)}")
    raise unknown("source", str(path), known)


def _check_named_once(sources, paths):
    files = [source if path is None else path.stat()[1:3] for source, path in zip(sources, paths, strict=True)]
    for number, file in enumerate(files):
        if file in files[:number]:
            first = sources[files.index(file)]
            also = "" if first == sources[number] else f", also as {str(sources[number])!r}"
            raise CovidxrError(f"source {str(first)!r} is named twice{also}; name it once")


def _check_distinct(sources, frames):
    """A name in the column ``source`` of two tables may be one hospital or two; only the user knows."""
    first_with = {}
    for source, frame in zip(map(str, sources), frames, strict=True):
        for name in frame.source.unique():
            if name in first_with:
                raise CovidxrError(
                    f"{first_with[name]!r} and {source!r} both hold images of a source named {name!r}, whose patients would "
                    "become one another; put them into one table if it is one source, or name two in the column source"
                )
            first_with[name] = source


def excluded_images(sources, data_dir) -> pd.DataFrame:
    """List the records that sources exclude, and those whose file is missing, with the reason.

    Of a source in `sources` that is restricted to classes, all excluded records are listed.
    """
    named = [source for source, _ in map(source_entry, sources) if source in SOURCES]
    named = [source for source in named if source not in PHANTOM_SOURCES and source != "table"]
    tables = [excluded_rows(SOURCES[source].load(data_dir)) for source in named]
    return pd.concat([pd.DataFrame(columns=list(EXCLUDED_COLUMNS)), *tables], ignore_index=True)
