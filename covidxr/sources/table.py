"""Anybody's own films: a CSV file with ``path`` and ``label``, and whatever other manifest columns it has."""

from __future__ import annotations

import os
from pathlib import Path

from covidxr.errors import CovidxrError
from covidxr.sources._rows import COLUMNS, MASK_COLUMNS, check_writable, find_images, manifest_rows, read_table


def read(data_dir, name=None):
    """List the films named in a CSV file, or lying in a folder with one sub-folder a class.

    Parameters
    ----------
    data_dir : str or pathlib.Path
        A CSV file with the columns ``path`` and ``label``; paths are relative to the CSV file. Any other manifest column
        is taken over; without ``patient_id`` every film counts as a patient of its own; repeated rows count once. Or a
        folder whose sub-folders are named like the classes and hold the films.
    name : str, optional
        What the source is called where the table has no column ``source``, and how its image ids begin; by default the name
        of the file without its suffix, or of the folder. `source_names` tells several apart.

    Returns
    -------
    pandas.DataFrame
        Manifest rows.

    Raises
    ------
    CovidxrError
        When the file is missing or lacks a column, a row lacks its path or label, a film has two different rows, or the
        folder holds no images.

    Examples
    --------
    >>> import tempfile
    >>> table = Path(tempfile.mkdtemp()) / "ours.csv"
    >>> _ = table.write_text("path,label,age\\nfilms/a.png,COVID-19,61\\n")
    >>> read(table)[["image_id", "label", "age", "source"]].values.tolist()
    [['ours/films/a.png', 'COVID-19', 61.0, 'ours']]
    """
    place = Path(data_dir)
    name = name or _ends(place)[0]
    if place.is_dir():
        return _read_folder(place, name)
    table = read_table(place, ("path", "label"))
    if table.empty:
        raise CovidxrError(f"{place}: the table has no rows")
    blank = (table.path == "") | (table.label == "")
    if blank.any():
        first = blank.to_numpy().argmax() + 1
        raise CovidxrError(f"{place}: {blank.sum()} of {len(table)} rows lack path or label, the first is row {first}")
    used = table[[column for column in table if column in (*COLUMNS, *MASK_COLUMNS)]]
    check_writable(used, "row", range(1, len(table) + 1), f"{place}: ")
    rows = manifest_rows(_row(place, name, row) for row in table.to_dict("records")).drop_duplicates(ignore_index=True)
    twice = rows.image_id[rows.image_id.duplicated()]
    if len(twice):
        raise CovidxrError(f"{place}: film {twice.iloc[0]!r} has two rows that differ; keep one")
    return rows


def source_names(places, taken=()) -> list:
    """Name tables and folders so that no two have one name.

    Each is called by its name without suffix. Where another place, or a source in `taken`, may be called so too, the folders
    above it are put in front, as few as tell it from all others; a file and a folder that share even those keep the suffix,
    which is a slash for a folder. So the names do not depend on the order of the places, nor, as long as they tell the places
    apart, on where the data lie.

    Parameters
    ----------
    places : sequence of str or pathlib.Path
        CSV files and folders, each once.
    taken : iterable of str
        Names that others have.

    Returns
    -------
    list of str

    Examples
    --------
    >>> source_names(["ours.csv", "a/films.csv", "b/films.csv", "c/figure1.csv"], taken=["figure1"])
    ['ours', 'a/films', 'b/films', 'c/figure1']
    """
    ends = [_ends(place) for place in places]
    others = [{*taken}.union(*ends[:number], *ends[number + 1 :]) for number in range(len(ends))]
    return [next(end for end in mine if end not in known) for mine, known in zip(ends, others, strict=True)]


def _ends(place):
    """What a place may be called, shortest first, up to its whole path."""
    path = Path(os.path.abspath(place))  # "." has a name too
    *above, name = path.parts
    lasts = [name, f"{name}/"] if path.is_dir() else [path.stem, name]
    ends = ["/".join([*above[len(above) - count :], last]) for last in lasts for count in range(len(above))]
    return [*ends, path.as_posix()]


def _row(table_path, name, row):
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


def _read_folder(folder, name):
    films = find_images(folder, "*/*")
    if not films:
        raise CovidxrError(
            f"{folder}: no images in its sub-folders; expected one sub-folder a class, with films inside"
        )
    return manifest_rows(
        {
            "image_id": f"{name}/{film.relative_to(folder).as_posix()}",
            "path": str(film),
            "label": film.parent.name,
            "patient_id": film.relative_to(folder).as_posix(),
            "source": name,
            "original_name": film.relative_to(folder).as_posix(),
        }
        for film in films
    )
