"""imgaug 0.4.0, its last release, made importable on NumPy 2.

imgaug reads ``numpy.sctypes``, which NumPy 2 removed; the name is restored before the import and left in place, since
imgaug also reads it later. Nothing else of ours imports imgaug, so that the shim always comes first.
"""

from __future__ import annotations

import warnings

import numpy as np

import covidxr._opencv  # noqa: F401  (imgaug imports OpenCV too, without a remedy)

if not hasattr(np, "sctypes"):
    np.sctypes = {
        "int": [np.int8, np.int16, np.int32, np.int64],
        "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
        "float": [np.float16, np.float32, np.float64],
        "complex": [np.complex64, np.complex128],
        "others": [bool, object, bytes, str, np.void],
    }

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # imgaug's own deprecated calls are nothing its user can mend
    from imgaug import augmenters as iaa

__all__ = ["iaa"]
