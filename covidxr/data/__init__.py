"""Images and their manifest: sources, datasets, splits, duplicates, cohorts, lungs, phantoms."""

from covidxr.data.cohort import attribute_leakage, cohort_table, licence_table
from covidxr.data.dataset import CLASSES, Dataset, build_dataset, load_dataset, save_dataset
from covidxr.data.duplicates import find_duplicates
from covidxr.data.images import load_masks, preprocess, read_image
from covidxr.data.lungs import lung_masks, segment_lungs
from covidxr.data.manifest import patient_keys
from covidxr.data.phantom import make_phantom
from covidxr.data.sources import SOURCES, Source, load_source
from covidxr.data.splits import split_manifest

__all__ = [
    "CLASSES",
    "Dataset",
    "SOURCES",
    "Source",
    "attribute_leakage",
    "build_dataset",
    "cohort_table",
    "find_duplicates",
    "licence_table",
    "load_dataset",
    "load_masks",
    "load_source",
    "lung_masks",
    "make_phantom",
    "patient_keys",
    "preprocess",
    "read_image",
    "save_dataset",
    "segment_lungs",
    "split_manifest",
]
