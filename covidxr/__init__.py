"""covidxr: COVID-19 chest X-ray classification with Keras, and its potential problem, measured.

The notebooks in ``notebooks/`` are the product; this package is the thin library that they call.
Research and teaching only: nothing here diagnoses anybody.
"""

from covidxr._quiet import quiet_environment

__version__ = "0.1.0"

quiet_environment()  # before TensorFlow is first imported, or it is too late
