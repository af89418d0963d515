"""covidxr: COVID-19 chest X-ray classification with Keras, and its potential problem, measured.

The notebooks in ``notebooks/`` are the product; this package is the thin library that they call.
Research and teaching only: nothing here diagnoses anybody.

The names that notebooks use most stand here as well, and are imported from their modules when first asked for:

>>> import covidxr
>>> covidxr.wilson_interval(9, 10)[0] > 0.59
True
>>> "GradCAM" in dir(covidxr) and "gradcam" in dir(covidxr)
True
"""

from __future__ import annotations

import importlib
import pkgutil

from covidxr.utils import quiet_environment

__version__ = "0.1.0"
_NAMES = {
    "data": ("build_dataset", "make_phantom", "preprocess"),
    "augmentation": ("AugmentedBatches", "build_policy"),
    "model": ("build_baseline", "build_vgg16"),
    "training": ("fit",),
    "evaluation": ("classification_table", "evaluate_external", "wilson_interval"),
    "gradcam": ("GradCAM",),
    "audit": ("shortcut_audit",),
    "report": ("compare_runs",),
    "run.runner": ("run_profile",),
    "utils": ("CovidxrError",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

quiet_environment()  # before TensorFlow is first imported, or it is too late


def __getattr__(name):
    """Import a module, or a name from its module, when it is first asked for (PEP 562)."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"covidxr.{_MODULE_OF[name]}"), name)
    if name in _modules():
        return importlib.import_module(f"covidxr.{name}")
    raise AttributeError(f"module 'covidxr' has no attribute {name!r}; it has {', '.join(__dir__())}")


def __dir__():
    return sorted([*_MODULE_OF, *_modules(), "__version__"])


def _modules():
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
