"""Anybody's own films: a CSV file with ``path`` and ``label``, and whatever other manifest columns it has."""

from __future__ import annotations

from pathlib import Path

from covidxr.errors import CovidxrError
from covidxr.sources._rows import MASK_COLUMNS, find_images, manifest_rows, read_table


def read(data_dir):
    """List the films named in a CSV file, or lying in a folder with one sub-folder a class.

    Parameters
    ----------
    data_dir : str or pathlib.Path
        A CSV file with the columns ``path`` and ``label``; paths are relative to the CSV file. Any other manifest column
        is taken over; without ``patient_id`` every film counts as a patient of its own; repeated rows count once. Or a
        folder whose sub-folders are named like the classes and hold the films.

    Returns
    -------
    pandas.DataFrame
        Manifest rows; ``source`` is the file's or folder's name where the table has no such column.

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
    if place.is_dir():
        return _read_folder(place)
    table = read_table(place, ("path", "label"))
    if table.empty:
        raise CovidxrError(f"{place}: the table has no rows")
    blank = (table.path == "") | (table.label == "")
    if blank.any():
        first = blank.to_numpy().argmax() + 1
        raise CovidxrError(f"{place}: {blank.sum()} of {len(table)} rows lack path or label, the first is row {first}")
    rows = manifest_rows(_row(place, row) for row in table.to_dict("records")).drop_duplicates(ignore_index=True)
    twice = rows.image_id[rows.image_id.duplicated()]
    if len(twice):
        raise CovidxrError(f"{place}: film {twice.iloc[0]!r} has two rows that differ; keep one")
    return rows


def _row(table_path, row):
    masks = {name: str(table_path.parent / row[name]) for name in MASK_COLUMNS if row.get(name)}
    return {
        "image_id": f"{table_path.stem}/{row['path']}",
        "patient_id": row["path"],
        "source": table_path.stem,
        "original_name": row["path"],
        **{column: value for column, value in row.items() if value},
        **masks,
        "path": str(table_path.parent / row["path"]),
    }


def _read_folder(folder):
    films, name = find_images(folder, "*/*"), folder.resolve().name  # "." has a name too
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
